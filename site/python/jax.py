"""NumPy under the names of JAX that exercises use, for pages, where JAX does not run. `jnp` is NumPy, but for `linalg`.

Numbers have twice the digits. What a gradient is needed for is not here, and says so.
"""

import sys
from contextlib import nullcontext
from types import ModuleType

import numpy as np

REAL = "is not on this page: run it for real, by the links at its top."
Array = np.ndarray


class _Numpy(ModuleType):
    def __getattr__(self, name):
        return getattr(self._source, name)


def _module(name, source, **own):
    module = sys.modules[name] = _Numpy(name)
    vars(module).update(_source=source, **own)
    return module


def _or_nan(solver):
    """Give nan where a matrix is singular, as JAX does."""

    def solved(A, *right):
        try:
            return solver(A, *right)
        except np.linalg.LinAlgError:
            return np.full(np.shape(right[0] if right else A), np.nan)

    return solved


def _setting(*_value):
    return nullcontext()


debug_nans = debug_infs = numpy_dtype_promotion = numpy_rank_promotion = _setting
_solvers = {name: _or_nan(getattr(np.linalg, name)) for name in ("solve", "inv", "cholesky")}
numpy = _module("jax.numpy", np, linalg=_module("jax.numpy.linalg", np.linalg, **_solvers))


def __getattr__(name):
    raise AttributeError(f"`jax.{name}` {REAL}")
