"""(C + εI)u = g by each way: the residual first, then the values, the cut-offs, jit, vmap and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

import efisher_teach as ef
from efisher_teach.core.solve import solve_spectral, spectrum

WAYS = {
    "primal": lambda G, damping: ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), damping),
    "dual": ef.solve_dual,
    "spectral": lambda G, damping: solve_spectral(spectrum(G), damping),
}
JITTED = {way: jax.jit(solve) for way, solve in WAYS.items()}  # compiled once a shape, for any damping


def residual(way, G, u, damping):
    """‖(C + εI)u - g‖ in units of what rounding may leave, eps·size·((λmax + ε)‖u‖ + ‖g‖).

    The dual solves for the weights w of the examples to that accuracy, (λmax + ε)‖w‖, and multiplies them by Gᵀ.
    """
    values, u = oracles.eigenvalues(G), np.asarray(u, float)
    g, C, K = oracles.mean_gradient(G), oracles.empirical_fisher(G), oracles.gram(G)
    size = (values[0] + damping) * np.linalg.norm(u) + np.linalg.norm(g)
    if way == "dual":
        w = np.linalg.pinv(K + damping * np.eye(len(G)), rcond=1e-12, hermitian=True).sum(axis=1) / len(G)
        size += np.sqrt(len(G) * values[0]) * (values[0] + damping) * np.linalg.norm(w)
    left = np.linalg.norm(C @ u + damping * u - g)
    return left / (oracles.unit(G.dtype) * max(G.shape) * size)


def condition(way, G, damping):
    """By how much rounding is enlarged in u: (λmax + ε)/(λmin + ε).

    λmin is the smallest eigenvalue that is not zero, except where C + εI (primal) or K + εI (dual) owes its inverse
    to ε alone: rounding leaves the range of C or K, and is divided by ε.
    """
    values = oracles.eigenvalues(G)
    size = {"primal": G.shape[1], "dual": G.shape[0], "spectral": 0}[way]
    least = 0 if damping > 0 and len(values) < size else values[-1]
    return (values[0] + damping) / (least + damping)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damping", oracles.DAMPINGS)
@pytest.mark.parametrize("name", oracles.GRID)
def test_every_way_solves_the_system(name, damping, way, dtype):
    G = jnp.asarray(oracles.GRID[name], dtype)
    u = JITTED[way](G, damping)
    assert u.dtype == dtype
    assert residual(way, G, u, damping) < 2
    # u moves by eps·size·κ, the constants of eigh and svd are about 1; and the oracle itself is wrong by 1e-16 times
    # the squared condition of its augmented system, (λmax + ε)/ε, at most 2e7.
    close = 3 * oracles.unit(dtype) * max(G.shape) * condition(way, G, damping) + 3e-9
    assert oracles.relative(u, oracles.direction(G, damping)) < close


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", oracles.GRID)
def test_damping_zero_is_the_pseudo_inverse(name):
    """C⁺g by np.linalg.pinv, and also the shortest least-squares solution G⁺1 (I1)."""
    G = jnp.asarray(oracles.GRID[name])
    C, g = oracles.empirical_fisher(G), oracles.mean_gradient(G)
    for solve in JITTED.values():
        u = solve(G, 0.0)
        # float64, condition of C below 100: 14 digits are left; the cut-off of pinv is far from any eigenvalue.
        np.testing.assert_allclose(u, np.linalg.pinv(C, rcond=1e-12) @ g, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(u, np.linalg.pinv(G, rcond=1e-12).sum(axis=1), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", oracles.GRID)
def test_spectrum_factors_both_matrices(name, dtype):
    G = jnp.asarray(oracles.GRID[name], dtype)
    factors = spectrum(G)
    values, V, U = (np.asarray(field, float) for field in factors)
    assert [field.dtype for field in factors] == [dtype] * 3
    expected = oracles.eigenvalues(G)
    close = 10 * max(G.shape) * oracles.unit(dtype)  # an svd is backward stable
    np.testing.assert_allclose(values[: len(expected)], expected, rtol=0, atol=close * expected[0])
    np.testing.assert_array_equal(values[len(expected) :], 0)  # below the cut-off: exactly 0
    np.testing.assert_allclose((V * values) @ V.T, oracles.empirical_fisher(G), atol=close * expected[0])
    np.testing.assert_allclose((U * values) @ U.T, oracles.gram(G), atol=close * expected[0])
    np.testing.assert_allclose(V.T @ V, np.eye(len(values)), atol=close)


@pytest.mark.parametrize("shape", [(100, 4), (4, 100)])
def test_cut_off_of_singular_values(shape, dtype):
    """σ ≤ √max(n, p)·eps·σmax = 10 eps is 0, for the spectrum and, as no K sees it, for the dual; 30 eps is not."""
    eps, size = oracles.unit(dtype), np.sqrt(shape[0])
    for small, kept in [(3, 0), (9, 0), (11, 1), (30, 1)]:
        G = jnp.zeros(shape, dtype).at[0, 0].set(1).at[1, 1].set(small * eps)
        found = spectrum(size * G)
        np.testing.assert_array_equal(found.eigenvalues[1:] > 0, [kept, 0, 0])
        u = solve_spectral(spectrum(G), 0.0)
        np.testing.assert_allclose(u[:2], [1, kept / (small * eps)], rtol=1e-3)
        np.testing.assert_array_equal(u[2:], 0)
        if not kept:
            np.testing.assert_allclose(ef.solve_dual(G)[:2], [1, 0], rtol=10 * eps)


def test_cut_off_of_eigenvalues(dtype):
    """μ ≤ p·eps·μmax = 16 eps is 0 in a matrix that the user brings, for solve_primal and solve_gram."""
    eps = oracles.unit(dtype)
    for small, kept in [(8, 0), (15, 0), (17, 1), (100, 1)]:
        A = jnp.zeros((16, 16), dtype).at[0, 0].set(1).at[1, 1].set(small * eps)
        right = jnp.diag(A)
        np.testing.assert_allclose(ef.solve_primal(A, right)[:3], [1, kept, 0], rtol=1e-3)
        np.testing.assert_allclose(ef.solve_gram(A, 0.0, right)[:3], [1, kept, 0], rtol=1e-3)


@pytest.mark.parametrize(("share", "seen"), [(0.5, False), (2.0, True)])
def test_a_damping_lost_in_rounding_is_none(share, seen, dtype):
    """ε ≤ eps·tr C is lost beside C: u = g then, and else g/(1 + ε) with the rest of g divided by ε."""
    damping = share * oracles.unit(dtype)
    A, g = jnp.diag(jnp.asarray([1.0, 0.0], dtype)), jnp.asarray([1.0, damping], dtype)
    np.testing.assert_allclose(ef.solve_primal(A, g, damping), [1, 1 if seen else 0], rtol=1e-3)


@pytest.mark.parametrize("damping", [0.0, 1e-6, 0.1, 10.0])
@pytest.mark.parametrize("name", oracles.GRID)
def test_coefficients_from_the_gram_matrix(name, damping, dtype):
    """α = (K + εI)⁻¹t, t = 1/n or any; at ε = 0 the pseudo-inverse. Repeated rows leave no Cholesky factor."""
    G = jnp.asarray(oracles.GRID[name], dtype)
    n, K = len(G), oracles.gram(G)
    target = (
        np.arange(1.0, n + 1) if damping else K.sum(axis=1)
    )  # in the range of K, where there is nothing else
    eigenvalues = oracles.eigenvalues(G)
    close = 20 * n * oracles.unit(dtype) * (eigenvalues[0] + damping) / (damping or eigenvalues[-1])
    if close < 0.1:
        inverse = np.linalg.pinv(K + damping * np.eye(n), rcond=1e-12, hermitian=True)
        for given in (target, None) if damping else (target,):
            alpha = ef.solve_gram(ef.gram(G), damping, given if given is None else jnp.asarray(given, dtype))
            assert alpha.dtype == dtype
            assert oracles.relative(alpha, inverse @ (np.full(n, 1 / n) if given is None else given)) < close


def test_one_factorisation_serves_many_dampings(dtype):
    factors = spectrum(jnp.asarray(oracles.GRID["wide"], dtype))
    grid = solve_spectral(factors, jnp.asarray(oracles.DAMPINGS, dtype))
    assert grid.shape == (5, 6)
    assert grid.dtype == dtype
    for row, damping in zip(grid, oracles.DAMPINGS, strict=True):
        assert oracles.relative(row, solve_spectral(factors, damping)) < 20 * oracles.unit(dtype)


def test_primal_takes_another_sample():
    """C of one batch and g of another: with damping there is a solution, though no G gives it."""
    C = ef.empirical_fisher(jnp.array([[1.0, 0.0, 0.0]]))
    u = ef.solve_primal(C, jnp.array([1.0, 1.0, 0.0]), 0.1)
    np.testing.assert_allclose(u, [1 / 1.1, 10, 0], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_damping_is_accurate_in_float32_where_there_are_many_examples(way):
    """ε = 0.01 is far above the rounding of K and C (eps·λmax ~ 1e-7): the cut-off of ε = 0 must not show."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(size, 20)))[0] for size in (400, 20))
    # Eigenvalues 1 to 1e-6 of K; those below n·eps = 5e-5 still carry √λ/(λ + ε) ~ 0.5 of u.
    G = jnp.asarray(np.sqrt(400) * U * np.logspace(0, -3, 20) @ V.T, jnp.float32)
    # K + εI has condition 100, and 400 roundings of 1e-7 add up like √400: 2e-4 at the very most.
    assert oracles.relative(WAYS[way](G, 0.01), oracles.direction(G, 0.01)) < 2e-4


@given(seed=st.integers(0, 2**31), log_damping=st.floats(-4, 3), wide=st.booleans())
def test_primal_equals_dual_equals_regression(seed, log_damping, wide):
    """The push-through identity, in float64: 1e-16 times the condition, at most 1e5 here, times size."""
    G, damping = np.random.default_rng(seed).normal(size=(3, 5) if wide else (5, 3)), 10**log_damping
    with jax.enable_x64(True):
        G = jnp.asarray(G)
        expected = oracles.direction(G, damping)
        for solve in JITTED.values():
            assert oracles.relative(solve(G, damping), expected) < 1e-9


# jit, vmap, grad


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_jit_and_vmap_change_nothing(name, way, dtype):
    solve, G = WAYS[way], jnp.asarray(oracles.GRID[name], dtype)
    stack = jnp.stack([G, 2 * G, G[::-1]])
    for damping in (0.0, 0.1):
        close = 20 * max(G.shape) * oracles.unit(dtype) * condition(way, G, damping)
        eager = [solve(each, damping) for each in stack]
        assert oracles.relative(JITTED[way](G, damping), eager[0]) < close
        mapped = jax.vmap(JITTED[way], (0, None))(stack, damping)
        assert mapped.dtype == dtype
        assert oracles.relative(mapped, eager) < close


def test_derivative_by_the_damping(x64):
    """Right wherever G is held constant, also where the Gram matrix has no Cholesky factor."""
    for name in ("tall", "wide", "duplicated"):
        G = jnp.asarray(oracles.GRID[name])
        for way in ("primal", "dual", "spectral"):
            if (name, way) != (
                "tall",
                "dual",
            ):  # K is singular: what rounding leaves of its null space is divided by ε
                oracles.check_derivative(
                    lambda damping, G=G, way=way: JITTED[way](G, damping), jnp.asarray(0.1)
                )


def test_derivatives_that_do_not_exist_are_refused():
    """By G, through singular vectors; never a NaN without a word."""
    G = jnp.asarray(oracles.GRID["duplicated"], jnp.float32)
    calls = {way: lambda G, way=way: WAYS[way](G, 0.1) for way in WAYS}
    calls["gram"] = lambda G: ef.solve_gram(ef.gram(G), 0.1)
    for call in calls.values():
        for derivative in (jax.grad(lambda G, call=call: call(G).sum()), jax.jacfwd(call)):
            with pytest.raises(
                ValueError, match=r"`G` must be held constant: .* Pass jax.lax.stop_gradient\(G\)"
            ):
                derivative(G)
    assert not jax.grad(lambda G: ef.solve_dual(jax.lax.stop_gradient(G), 0.1).sum())(G).any()
