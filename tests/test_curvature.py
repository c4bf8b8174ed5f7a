"""C and K: each against a loop, and against what it must mean."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

import efisher_teach as ef


@pytest.fixture(name="G", params=oracles.GRID)
def gradients(request, dtype):
    return jnp.asarray(oracles.GRID[request.param], dtype)


def rounding(G):
    """A sum of at most six products of numbers up to max|G|: twelve roundings, of the largest term."""
    return 12 * oracles.unit(G.dtype) * float(jnp.abs(G).max()) ** 2


def test_empirical_fisher_is_the_loop(G):
    C = ef.empirical_fisher(G)
    assert C.dtype == G.dtype
    np.testing.assert_allclose(C, oracles.empirical_fisher(G), rtol=0, atol=rounding(G))
    np.testing.assert_array_equal(C, C.T)


def test_gram_is_the_loop(G):
    K = ef.gram(G)
    assert K.dtype == G.dtype
    np.testing.assert_allclose(K, oracles.gram(G), rtol=0, atol=rounding(G))
    np.testing.assert_array_equal(K, K.T)


def test_quadratic_form_is_the_mean_squared_change(G):
    """ΔᵀCΔ = mean (gᵢᵀΔ)²."""
    step = np.random.default_rng(3).normal(size=G.shape[1])
    C, changes = np.asarray(ef.empirical_fisher(G), float), np.asarray(G, float) @ step
    np.testing.assert_allclose(
        step @ C @ step, np.mean(changes**2), rtol=0, atol=rounding(G) * (step @ step) * 4
    )


def test_same_spectrum(G):
    """C and K have the same non-zero eigenvalues; so the same ε damps both."""
    of_C = np.linalg.eigvalsh(np.asarray(ef.empirical_fisher(G), float))[::-1]
    of_K = np.linalg.eigvalsh(np.asarray(ef.gram(G), float))[::-1]
    r = min(G.shape)
    # Weyl: an eigenvalue moves no more than the matrix, here by at most 6 entries a row.
    np.testing.assert_allclose(of_C[:r], of_K[:r], rtol=0, atol=6 * rounding(G))
    np.testing.assert_allclose(np.r_[of_C[r:], of_K[r:]], 0, atol=6 * rounding(G))


def test_sum_of_gram_is_the_length_of_the_mean_gradient(G):
    """1ᵀK1 = n‖g‖²."""
    g = np.asarray(ef.mean_gradient(G), float)
    total, n = np.asarray(ef.gram(G), float).sum(), len(G)
    np.testing.assert_allclose(total, n * (g @ g), rtol=0, atol=n**2 * rounding(G))


def test_empirical_fisher_is_not_the_square_of_the_mean():
    """Two gradients that cancel: the mean is 0, a step along them costs."""
    G = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(ef.empirical_fisher(G), [[1, 0], [0, 0]])
    np.testing.assert_array_equal(ef.gram(G), [[0.5, -0.5], [-0.5, 0.5]])


def test_example_of_the_fact_sheet():
    G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    np.testing.assert_allclose(ef.empirical_fisher(G), [[5 / 3, 2 / 3], [2 / 3, 10 / 3]], rtol=1e-6)
    np.testing.assert_allclose(ef.mean_gradient(G), [1, 4 / 3], rtol=1e-6)


@given(seed=st.integers(0, 2**31), log_scale=st.floats(-8, 8))
def test_gradients_lie_in_the_range_and_nothing_costs_less_than_nothing(seed, log_scale):
    """C is positive semi-definite, and a step along its null space changes no loss (facts 1.2), at any scale."""
    G = np.random.default_rng(seed).normal(size=(3, 5)) * 10**log_scale
    C = np.asarray(ef.empirical_fisher(jnp.asarray(G, jnp.float32)), float)
    values, V = np.linalg.eigh(C)
    assert values[0] > -1e-5 * values[-1]  # 5 x 5 in float32: 40 roundings
    null = V[:, :2]
    # |Gv|² = n vᵀCv, and vᵀCv is nothing but the rounding of C.
    assert np.linalg.norm(G @ null) < np.sqrt(3 * 1e-5) * np.linalg.norm(G)
