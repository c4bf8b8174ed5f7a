"""The directions that people take in place of (A + εI)⁻¹g, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.core.precondition import precondition


@jax.jit
def directions(A, g, damping):
    """Every form at once, so that each shape is compiled once."""
    return {form: precondition(A, g, damping, form) for form in oracles.FORMS}


@pytest.mark.parametrize("name", oracles.GRID)
def test_every_form_is_what_numpy_makes_of_it(name, dtype):
    G = jnp.asarray(oracles.GRID[name], dtype)
    C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    A, b = np.asarray(C, float), np.asarray(g, float)
    for damping in (0.0, 1e-2, 1.0, 1e3):
        for form, u in directions(C, g, damping).items():
            assert u.dtype == dtype
            values = oracles.eigenvalues(G) if "diagonal" not in form else np.sort(np.diag(A))[::-1]
            # At ε > 0 rounding outside the range of C is divided by ε; at 0 it is cut off.
            least = values[-1] if damping == 0 or len(values) == len(A) else 0
            close = 10 * len(A) * oracles.unit(dtype) * (values[0] + damping) / (least + damping)
            # Any eigenvalue of the grid that is not 0 is above 1e-3 of the largest.
            expected = oracles.preconditioned(A + damping * np.eye(len(A)), b, form, cut=1e-6)
            assert oracles.relative(u, expected) < close, form


def test_no_matrix_and_no_gradient(dtype):
    """A = 0: u = g/ε, g/√ε or g. g = 0: u = 0."""
    zero, g = jnp.zeros((4, 4), dtype), jnp.asarray([1.0, 2.0, 3.0, 4.0], dtype)
    for form, scale in zip(oracles.FORMS, (4, 4, 2, 2, 1), strict=True):
        np.testing.assert_allclose(directions(zero, g, 0.25)[form], scale * g, rtol=4 * oracles.unit(dtype))
        for damping in (0.0, 0.25):
            np.testing.assert_array_equal(directions(zero, 0 * g, damping)[form], 0)


def test_the_full_form_takes_an_indefinite_matrix(x64):
    """Newton's step goes up where the loss curves down."""
    H, g = jnp.diag(jnp.array([2.0, -1.0])), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(precondition(H, g), [0.5, -1], rtol=1e-14)
    np.testing.assert_allclose(precondition(H, g, 9.0), [1 / 11, 1 / 8], rtol=1e-14)
