"""The matrices that people confuse, and what a model believes about its labels: by loops and by closed forms."""

import itertools
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy
from jax.flatten_util import ravel_pytree
from scipy.special import softmax

import efisher_teach as ef
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.likelihoods import bernoulli, categorical, gaussian

# C, K and the covariance Σ; and ΔᵀAΔ.


def covariance(G):
    """Σ: the mean of (gᵢ - g)(gᵢ - g)ᵀ, row by row."""
    return oracles.empirical_fisher(np.asarray(G, float) - oracles.mean_gradient(G))


@pytest.mark.parametrize("name", oracles.GRID)
def test_matrices_of_the_gradients_are_the_loops(name, dtype):
    G = jnp.asarray(oracles.GRID[name], dtype)
    # A sum of at most six products of numbers up to max|G|: twelve roundings, of the largest term.
    rounding = 12 * oracles.unit(dtype) * float(jnp.abs(G).max()) ** 2
    for found, expected, close in (
        (ef.mean_gradient(G), oracles.mean_gradient(G), rounding),
        (ef.empirical_fisher(G), oracles.empirical_fisher(G), rounding),
        (ef.gram(G), oracles.gram(G), rounding),
        (ef.gradient_covariance(G), covariance(G), 4 * rounding),  # a deviation is at most 2 max|G|
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=close)
        np.testing.assert_array_equal(found, found.T)


def test_covariance_does_not_see_a_gradient_that_all_share():
    """In float32 C - ggᵀ would lose eps·10⁶ ~ 0.1 here. An error e of the mean costs e², and e ≤ 6 eps·10³."""
    G = jnp.asarray(oracles.GRID["tall"] + 1000, jnp.float32)
    deviation = np.abs(np.asarray(G, float) - oracles.mean_gradient(G)).max()
    eps = oracles.unit(jnp.float32)
    close = (6 * eps * 1000) ** 2 + 48 * eps * deviation**2
    np.testing.assert_allclose(ef.gradient_covariance(G), covariance(G), rtol=0, atol=close)


def test_quadratic_form_is_the_double_sum(dtype):
    """For many steps at once."""
    G, steps = oracles.GRID["deficient"], np.random.default_rng(3).normal(size=(2, 3, 4))
    close = {"rtol": 0, "atol": 2000 * oracles.unit(dtype)}  # p² terms, twice summed, of up to 100
    for A in (np.add.outer(steps[0, 0], steps[0, 0]), G.T @ G / 6):
        cost = ef.quadratic_form(jnp.asarray(A, dtype), jnp.asarray(steps, dtype))
        assert cost.dtype == dtype
        np.testing.assert_allclose(cost, np.einsum("...j,jk,...k->...", steps, A, steps), **close)


def test_generalised_eigenvalues_are_those_of_scipy(dtype):
    """Av = κBv, descending, for an A that may be indefinite."""
    for seed in range(5):
        A, half = np.random.default_rng(seed).normal(size=(2, 4, 4))
        A, B = A + A.T, half @ half.T + np.eye(4)  # eigenvalues of B from 1 to about 20
        expected = scipy.linalg.eigh(A, B, eigvals_only=True)[::-1]
        values = jax.jit(ef.generalised_eigenvalues)(jnp.asarray(A, dtype), jnp.asarray(B, dtype))
        assert values.dtype == dtype
        close = 400 * oracles.unit(dtype) * np.abs(expected).max()
        np.testing.assert_allclose(values, expected, rtol=0, atol=close)


# Likelihoods.


class Belief(NamedTuple):
    """A likelihood, the shape of its z, and what it means, in NumPy."""

    likelihood: Any
    shape: tuple
    log_density: Any  # up to a constant
    mean: Any
    covariance: Any


def normal(shape):
    return Belief(gaussian, shape, lambda z, y: -((y - z) ** 2).sum() / 2, np.copy, lambda z: np.eye(z.size))


BELIEFS = {
    "gaussian": normal(()),
    "gaussian matrix": normal((2, 2)),
    "bernoulli": Belief(
        bernoulli,
        (),
        lambda z, y: -np.logaddexp(0, np.where(y, -z, z)),
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: np.array([[np.exp(-z) / (1 + np.exp(-z)) ** 2]]),
    ),
    "categorical": Belief(
        categorical,
        (3,),
        lambda z, y: np.log(softmax(z)[y]),
        softmax,
        lambda z: np.diag(softmax(z)) - np.outer(softmax(z), softmax(z)),
    ),
}


@partial(jax.jit, static_argnums=0)
def say(name, z, y):
    """All that a likelihood says of one output and one label."""
    likelihood = BELIEFS[name].likelihood
    loss, score = jax.value_and_grad(likelihood.loss)(z, y)
    curvature = jax.hessian(likelihood.loss)(z, y).reshape(z.size, z.size)
    said = loss, jnp.ravel(likelihood.mean(z)), jnp.ravel(score), curvature
    return said, *likelihood.labels(z)


def statistic(belief, y):
    """The factor of the natural parameter: y itself, or the indicator of its class, ravelled."""
    if belief.likelihood is categorical:
        return np.eye(3)[np.asarray(y)]
    return np.asarray(y, float).reshape(*np.shape(y)[: np.ndim(y) - len(belief.shape)], -1)


def observed(belief, n, seed):
    """Labels that somebody might have seen."""
    rng = np.random.default_rng(seed)
    if belief.likelihood is gaussian:
        return rng.normal(size=(n, *belief.shape))
    return rng.integers(2 if belief.shape == () else belief.shape[0], size=n)


@pytest.mark.parametrize("name", BELIEFS)
def test_likelihood_is_its_density(name, dtype):
    """-log p(y | z); mean minus label, as of every exponential family in z; its covariance. And labels that have both.

    So Σ wₖ φ(yₖ) = E[φ(y)] for every quadratic φ.
    """
    belief, eps, rng = BELIEFS[name], oracles.unit(dtype), np.random.default_rng(1)
    for y in observed(belief, 3, 2):
        z = jnp.asarray(1.5 * rng.normal(size=belief.shape), dtype)
        (said, labels, weights), at = say(name, z, jnp.asarray(y)), np.asarray(z, float)
        mean, spread = belief.mean(at).reshape(-1), belief.covariance(at)
        assert (said[0].dtype, weights.dtype) == (dtype, dtype)
        expected = -belief.log_density(at, y), mean, mean - statistic(belief, y), spread
        for value, by_numpy in zip(said, expected, strict=True):  # a dozen operations on numbers below 10
            np.testing.assert_allclose(value, by_numpy, rtol=0, atol=120 * eps)
        assert labels.shape[1:] == (() if name == "categorical" else belief.shape)
        w, labels = np.asarray(weights, float), statistic(belief, labels)
        assert np.all(w >= 0)
        close = {"rtol": 0, "atol": 180 * eps}  # labels are at most 6, so a few roundings of 36
        np.testing.assert_allclose(w.sum(), 1, **close)
        np.testing.assert_allclose(w @ labels, mean, **close)
        np.testing.assert_allclose((labels.T * w) @ labels - np.outer(mean, mean), spread, **close)


@pytest.mark.parametrize("name", BELIEFS)
def test_no_nan_however_sure_the_model_is(name):
    """Logits of ±10⁸ in float32: probabilities of 0 and 1, but no 0 · ∞; and what is small is not lost beside 1."""
    belief = BELIEFS[name]
    for size, y in itertools.product((1.0, 10.0, 1e2, 1e4, 1e8), observed(belief, 6, 2)):
        z = size * np.resize([1.0, -1.0], belief.shape)
        found = say(name, jnp.asarray(z, jnp.float32), jnp.asarray(y))
        assert all(jnp.isfinite(value).all() for value in jax.tree.leaves(found))
        _, labels, weights = found
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
        away, spread = statistic(belief, labels) - belief.mean(z).reshape(-1), belief.covariance(z)
        close = {"rtol": 1e-4, "atol": 1e-6 * spread.max() + 1e-37}
        np.testing.assert_allclose((away.T * np.asarray(weights)) @ away, spread, **close)


# The Fisher, the Gauss-Newton matrix and the Hessian of a network, for every likelihood.

MODELS = ("gaussian matrix", "bernoulli", "categorical")


@partial(jax.jit, static_argnums=(0, 1, 2))
def find(output_fn, loss_fn, likelihood, params, x, y, delta):
    """Everything that the library says of a model."""
    return {
        "F": ef.fisher(loss_fn, params, x, output_fn=output_fn, likelihood=likelihood),
        "B": ef.gauss_newton(output_fn, likelihood.loss, params, x, y),
        "H": ef.hessian(loss_fn, params, x, y),
        "J": per_example_jacobians(output_fn, params, x),
        "G": ef.per_example_gradients(loss_fn, params, x, y),
        "changes": ef.loss_changes(loss_fn, params, x, y, delta),
    }


@cache
def make_case(name):
    """A tanh network in float64, five examples whose inputs are a pytree too, and what is found. Compiled once."""
    belief, rng = BELIEFS[name], np.random.default_rng(5)

    def output_fn(params, x):
        z = params["V"] @ jnp.tanh(params["W"] @ jnp.stack([x["first"], x["second"]]) + params["b"])
        return z.reshape(belief.shape)

    def loss_fn(params, x, y):
        return belief.likelihood.loss(output_fn(params, x), y)

    shapes = {"W": (3, 2), "b": (3,), "V": (int(np.prod(belief.shape)), 3)}
    params = {leaf: jnp.asarray(rng.normal(size=shape)) for leaf, shape in shapes.items()}
    x = {leaf: jnp.asarray(rng.normal(size=5)) for leaf in ("first", "second")}
    model, here = (output_fn, loss_fn, belief.likelihood), (params, x, jnp.asarray(observed(belief, 5, 6)))
    theta, unravel = ravel_pytree(params)
    delta = 0.1 * jnp.asarray(rng.normal(size=theta.size))
    found = {key: np.asarray(value) for key, value in find(*model, *here, delta).items()}
    return SimpleNamespace(model=model, here=here, theta=theta, unravel=unravel, delta=delta, **found)


def examples(case):
    """Inputs, output and label, one example after the other."""
    params, inputs, labels = case.here
    for i, y in enumerate(labels):
        x = jax.tree.map(lambda leaf, i=i: leaf[i], inputs)
        yield x, np.asarray(case.model[0](params, x)), y


@pytest.mark.parametrize("name", MODELS)
def test_matrices_of_a_model_are_the_loop(name, x64):
    """E[Jᵀ cov(y) J], with J by forward mode; gᵢ = Jᵢᵀ(mean - label); and Δℓ is the difference of two losses."""
    case, belief, expected = make_case(name), BELIEFS[name], 0
    output_fn, loss_fn, _ = case.model
    jacobian = jax.jit(jax.jacfwd(lambda theta, x: jnp.ravel(output_fn(case.unravel(theta), x))))
    loss, moved = jax.jit(loss_fn), case.unravel(case.theta + case.delta)
    assert case.J.shape == (5, int(np.prod(belief.shape)), case.theta.size)
    for i, (x, z, y) in enumerate(examples(case)):
        J = np.asarray(jacobian(case.theta, x))
        np.testing.assert_allclose(case.J[i], J, rtol=1e-13, atol=1e-14)
        score = belief.mean(z).reshape(-1) - statistic(belief, y)
        np.testing.assert_allclose(case.G[i], J.T @ score, rtol=1e-12, atol=1e-13)
        change = loss(moved, x, y) - loss(case.here[0], x, y)
        # Losses below 20: sixteen digits, less the difference.
        np.testing.assert_allclose(case.changes[i], change, rtol=0, atol=1e-13)
        expected = expected + J.T @ belief.covariance(z) @ J / 5
    for matrix in (case.F, case.B):  # float64: some hundred additions of terms of the size of F
        assert oracles.relative(matrix, expected) < 1e-13
        assert oracles.relative(matrix, matrix.T) < 1e-14


@pytest.mark.parametrize("name", MODELS)
def test_hessian_is_the_difference_of_gradients(name, x64):
    """Central differences, h = 1e-5: wrong by h²f⁽⁴⁾ ~ 1e-10 and by rounding/h ~ 1e-11."""
    case, h = make_case(name), 1e-5
    losses = jax.vmap(case.model[1], (None, 0, 0))
    gradient = jax.jit(jax.grad(lambda theta: jnp.mean(losses(case.unravel(theta), *case.here[1:]))))
    steps = h * np.eye(case.theta.size)
    columns = [(gradient(case.theta + d) - gradient(case.theta - d)) / (2 * h) for d in steps]
    np.testing.assert_allclose(case.H, columns, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(case.H, case.H.T)


@pytest.mark.parametrize("name", MODELS)
def test_sampled_fisher_converges_as_one_over_the_root(name, x64):
    """E‖Fₘ - F‖² = V/m, over 200 keys and within five standard errors; and no bias. The same key, the same labels."""
    case, belief, V = make_case(name), BELIEFS[name], 0
    for (_, z, _), J in zip(examples(case), case.J, strict=True):
        S = J.T @ belief.covariance(z) @ J  # E[ggᵀ]
        if belief.likelihood is gaussian:  # E‖g‖⁴ = (tr S)² + 2 tr S²
            power = np.trace(S) ** 2 + 2 * np.sum(S**2)
        else:
            labels, weights = belief.likelihood.labels(z)
            power = weights @ np.sum(((belief.mean(z) - statistic(belief, labels)) @ J) ** 2, axis=1) ** 2
        V += (power - np.sum(S**2)) / 25
    keys = jax.random.split(jax.random.key(1), 200)
    output_fn, loss_fn, likelihood = case.model
    fisher = partial(ef.fisher, loss_fn, *case.here[:2], output_fn=output_fn, likelihood=likelihood)
    draw = jax.jit(jax.vmap(lambda key: [fisher(sampled=draws, key=key) for draws in (4, 32)]))
    for draws, drawn, again in zip((4, 32), draw(keys), draw(keys), strict=True):
        np.testing.assert_array_equal(drawn, again)
        errors = np.sum((np.asarray(drawn) - case.F) ** 2, axis=(1, 2)) * draws / V
        assert abs(errors.mean() - 1) < 5 * errors.std() / np.sqrt(len(errors))
        assert np.sum((np.mean(drawn, axis=0) - case.F) ** 2) < 25 * V / (draws * len(keys))


def test_gauss_newton_of_a_linear_model_is_the_hessian(x64):
    """Of a loss that is no likelihood: its curvature depends on the label, and is not even semi-definite."""
    W, x, y = (jnp.asarray(array) for array in np.random.default_rng(2).normal(size=(3, 4, 4)))
    output_loss = lambda z, y: y[0] * z[0] * z[1] + z[2] ** 3  # noqa: E731
    B = ef.gauss_newton(jnp.matmul, output_loss, W, x, y)
    H = ef.hessian(lambda W, x, y: output_loss(W @ x, y), W, x, y)
    assert oracles.relative(B, H) < 1e-13
    assert np.linalg.eigvalsh(H)[0] < -0.1


def test_a_constant_in_the_loss_is_free():
    """Outside jit, where a loss is compared with the likelihood."""
    loss_fn = lambda params, x, y: gaussian.loss(x @ params, y) + 7  # noqa: E731
    linear = {"output_fn": lambda params, x: x @ params, "likelihood": gaussian}
    np.testing.assert_allclose(ef.fisher(loss_fn, jnp.ones(2), jnp.ones((3, 2)), **linear), 1, rtol=1e-6)


def test_derivatives_of_what_is_found(x64):
    """F, B, H and the others, by the parameters."""
    case = make_case("categorical")
    of_params = lambda theta: find(*case.model, case.unravel(theta), *case.here[1:], case.delta)  # noqa: E731
    oracles.check_derivative(of_params, case.theta)
