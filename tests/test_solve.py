"""(C + εI)u = g by each way: the residual first, then the values, the cut-offs, derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.core.precision import cholesky
from efisher_teach.core.solve import solve_spectral, spectrum

WAYS = {
    "primal": lambda G, damping: ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), damping),
    "dual": ef.solve_dual,
    "gram": lambda G, damping: G.T @ ef.solve_gram(ef.gram(G), damping),
    # One factorisation serves many dampings.
    "spectral": lambda G, damping: solve_spectral(spectrum(G), jnp.stack([jnp.asarray(damping), 1.0]))[0],
}
JITTED = {way: jax.jit(solve) for way, solve in WAYS.items()}  # compiled once a shape, for any damping


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damping", oracles.DAMPINGS)
@pytest.mark.parametrize("name", oracles.GRID)
def test_every_way_solves_the_system(name, damping, way, dtype):
    """At ε = 0 that is the shortest least-squares solution, C⁺g."""
    case = oracles.case(name, damping, dtype)
    solution = JITTED[way](case.G, damping)
    assert solution.dtype == dtype
    # Residual first: rounding may leave eps·size·((λmax + ε)‖u‖ + ‖g‖). The dual, and so K alone, solves for the
    # weights w of the examples to that accuracy, (λmax + ε)‖w‖, and multiplies them by Gᵀ.
    u, (n, p), largest = np.asarray(solution, float), case.G.shape, case.eigenvalues[0]
    size = (largest + damping) * np.linalg.norm(u) + np.linalg.norm(case.g)
    if way in ("dual", "gram"):
        size += np.sqrt(n * largest) * (largest + damping) * np.linalg.norm(case.inverse.sum(axis=1) / n)
    assert np.linalg.norm(case.C @ u + damping * u - case.g) < 2 * case.rounding * size
    # u moves by eps·size·κ, the constants of eigh and svd are about 1; and the oracle itself is wrong by 1e-16 times
    # the squared condition of its augmented system, (λmax + ε)/ε, at most 2e7.
    condition = oracles.condition(case, {"primal": p, "spectral": 0}.get(way, n))
    assert oracles.relative(u, case.u) < 3 * case.rounding * condition + 3e-9


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


def test_cut_off_of_eigenvalues_and_dampings(dtype):
    """μ ≤ p·eps·μmax = 16 eps is 0 in a matrix that the user brings, for solve_primal and solve_gram."""
    eps = oracles.unit(dtype)
    for small, kept in [(8, 0), (15, 0), (17, 1), (100, 1)]:
        A = jnp.zeros((16, 16), dtype).at[0, 0].set(1).at[1, 1].set(small * eps)
        right = jnp.diag(A)
        np.testing.assert_allclose(ef.solve_primal(A, right)[:3], [1, kept, 0], rtol=1e-3)
        np.testing.assert_allclose(ef.solve_gram(A, 0.0, right)[:3], [1, kept, 0], rtol=1e-3)
    # ε ≤ eps·tr A is lost beside A: u = g then, and else the rest of g is divided by it.
    for share, seen in [(0.5, 0), (2.0, 1)]:
        right = jnp.asarray([1.0, share * eps], dtype)
        u = ef.solve_primal(jnp.diag(jnp.asarray([1.0, 0.0], dtype)), right, share * eps)
        np.testing.assert_allclose(u, [1, seen], rtol=1e-3)


def test_a_factor_in_blocks(x64):
    """Of more rows than LAPACK gets at once, and not a multiple of them; and NaN where there is none."""
    A = np.random.default_rng(0).normal(size=(300, 300))
    K = A @ A.T / 300 + 0.1 * np.eye(300)
    np.testing.assert_allclose(cholesky(jnp.asarray(K)), np.linalg.cholesky(K), atol=1e-12)
    assert np.isnan(cholesky(jnp.asarray(K - 3 * np.eye(300)))).any()


def test_rounding_may_leave_no_cholesky_factor():
    """K of one example three times, indefinite by rounding, and an ε too small to mend that: by the eigenvalues."""
    K = 1 + 8e-7 * (1 - jnp.eye(3))
    np.testing.assert_allclose(ef.solve_gram(K, 5e-7), np.full(3, 1 / 9), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_damping_is_accurate_in_float32_where_there_are_many_examples(way):
    """ε = 0.01 is far above the rounding of K and C (eps·λmax ~ 1e-7): the cut-off of ε = 0 must not show."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(size, 20)))[0] for size in (400, 20))
    # Eigenvalues 1 to 1e-6 of K; those below n·eps = 5e-5 still carry √λ/(λ + ε) ~ 0.5 of u.
    G = jnp.asarray(np.sqrt(400) * U * np.logspace(0, -3, 20) @ V.T, jnp.float32)
    # K + εI has condition 100, and 400 roundings of 1e-7 add up like √400: 2e-4 at the very most.
    assert oracles.relative(WAYS[way](G, 0.01), oracles.direction(G, 0.01)) < 2e-4


@pytest.mark.parametrize("way", ["primal", "spectral", "dual"])
def test_derivative_by_the_damping(way, x64):
    """Right wherever G is held constant, also where the Gram matrix has no Cholesky factor."""
    # "tall" has no dual: K is singular, and what rounding leaves of its null space is divided by ε.
    for name in ("wide", "duplicated", "tall")[: 2 if way == "dual" else 3]:
        oracles.check_derivative(partial(JITTED[way], jnp.asarray(oracles.GRID[name])), jnp.asarray(0.1))


REFUSED = {way: lambda G, solve=solve: solve(G, 0.1) for way, solve in WAYS.items()} | {
    "step": lambda G: ef.empirical_fisher_step(G, damping=0.1, budget=0.01).delta,
    "path": lambda G: ef.damping_path(G, jnp.ones(2), 0.01).delta,
    "targeted": lambda G: ef.targeted_step(G, jnp.ones(len(G))).delta,
    "two budgets": lambda G: ef.two_budget_step(G, 0.01, 1.0).delta,
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_derivatives_that_do_not_exist_are_refused(call):
    """By G, through singular vectors, in either mode; never a NaN without a word. And the way out works."""
    G = jnp.asarray(oracles.GRID["duplicated"], jnp.float32)
    for derivative in (jax.jacrev(call), jax.jacfwd(call)):
        with pytest.raises(ValueError, match="`G` must be held constant"):
            derivative(G)
    slope = jax.grad(lambda G: (G[0, 0] * call(jax.lax.stop_gradient(G))).sum())(G)
    np.testing.assert_allclose(slope[0, 0], call(G).sum(), rtol=1e-6)
    assert not slope.at[0, 0].set(0).any()


def test_where_cholesky_fails_the_eigenvalues_are_damped_too():
    eigenvalues, damping = jnp.array([1.0, 1e-5, -2e-6], jnp.float32), 1.8e-6  # as rounding may leave K
    coefficients = ef.solve_gram(jnp.diag(eigenvalues), damping)
    np.testing.assert_allclose(coefficients, 1 / 3 / (eigenvalues + damping), rtol=1e-4)
