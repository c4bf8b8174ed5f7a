"""The lessons alone, as a page has them: exercises, their checks, and nothing that needs JAX."""

from jax import REAL


def __getattr__(name):
    raise AttributeError(f"`ef.{name}` {REAL}")
