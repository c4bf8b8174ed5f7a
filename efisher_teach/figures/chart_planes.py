"""The planes of θ and ψ: their views, which hold the steps made in either, and paths that bend in the other."""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efisher_teach.core import coordinates
from efisher_teach.core.coordinates import Coordinates
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_charts import step_from
from efisher_teach.figures.plane import fit


@cache  # one object a name: its functions are what a compiled scene is known by
def named(name: str) -> Coordinates:
    """The chart of a name: "affine", with a stretch and a shear, "exp", "square", "polar" or "logit"."""
    if name == "affine":
        return coordinates.affine(jnp.array([[1.5, 0.9], [0.0, 0.4]]))
    return getattr(coordinates, "exponential" if name == "exp" else name)


@partial(jax.jit, static_argnames=("rate", "aspect"))
def views(
    problem: Problem, chart: Coordinates, psi: Float[Array, " 2"], rate: float, aspect: float
) -> list[Float[Array, "2 2"]]:
    """Lower left and upper right of a view of θ and of one of ψ, with room for the undamped steps at that rate."""
    found, eta = [], jnp.asarray(rate, float)
    for of, start in (coordinates.identity, problem.params), (chart, psi):
        step = partial(step_from, problem, of, start, eta, jnp.zeros_like(eta))
        ends = jnp.stack([start, start + step(descent=False), start + step(descent=True)])
        low, high = jnp.min(ends, axis=0), jnp.max(ends, axis=0)
        half = fit(0.68 * (high - low), aspect)
        found.append((low + high) / 2 + jnp.stack([-half, half]))
    return found


def bent(path: Float[Array, "m 2"], pieces: int) -> Float[Array, "_ 2"]:
    """A path for the plane of the other chart, where its first step is a curve: in so many pieces."""
    stretch = jnp.linspace(0, 1, pieces + 1)[:, None]
    return jnp.concatenate([path[0] + stretch * (path[1] - path[0]), path[2:]])
