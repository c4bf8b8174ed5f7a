"""The matrices that people confuse, what a model believes, and steps by any matrix: twice over, and every message."""

import itertools
import re
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from oracles import bare

import efisher_teach as ef
from efisher_teach.core import matrices as matrices_module
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.likelihoods import bernoulli, categorical, gaussian
from efisher_teach.core.precondition import precondition

NAN, INF = float("nan"), float("inf")
DAMPED = tuple(damping for damping in oracles.DAMPINGS if damping >= 1e-2)


@pytest.fixture(name="G", params=oracles.GRID)
def gradients(request, dtype):
    return jnp.asarray(oracles.GRID[request.param], dtype)


def rounding(G):
    """A sum of at most six products of numbers up to max|G|: twelve roundings, of the largest term."""
    return 12 * oracles.unit(G.dtype) * float(jnp.abs(G).max()) ** 2


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


# The covariance Σ.


def covariance(G):
    """Σ: the mean of (gᵢ - g)(gᵢ - g)ᵀ, row by row."""
    g = oracles.mean_gradient(G)
    return sum(np.outer(row - g, row - g) for row in np.asarray(G, float)) / len(G)


def test_covariance_is_the_loop(G):
    S = ef.gradient_covariance(G)
    assert S.dtype == G.dtype
    # A deviation from the mean is at most 2 max|G|: four times the rounding of C.
    np.testing.assert_allclose(S, covariance(G), rtol=0, atol=4 * rounding(G))
    np.testing.assert_array_equal(S, S.T)
    # Rank at most n - 1: the deviations add up to 0. Weyl: an eigenvalue moves by at most 6 entries a row.
    values = np.linalg.eigvalsh(np.asarray(S, float))
    np.testing.assert_allclose(values[: max(G.shape[1] - len(G) + 1, 0)], 0, atol=24 * rounding(G))
    assert values[0] > -24 * rounding(G)


def test_covariance_and_mean_make_the_empirical_fisher(G):
    """C = Σ + ggᵀ."""
    S, g = np.asarray(ef.gradient_covariance(G), float), np.asarray(ef.mean_gradient(G), float)
    C = np.asarray(ef.empirical_fisher(G), float)
    np.testing.assert_allclose(S + np.outer(g, g), C, rtol=0, atol=6 * rounding(G))


def test_covariance_does_not_see_a_gradient_that_all_share():
    """In float32 C - ggᵀ would lose eps·10⁶ ~ 0.1 here. An error e of the mean costs e², and e ≤ 6 eps·10³."""
    G = jnp.asarray(oracles.GRID["tall"] + 1000, jnp.float32)
    deviation = np.abs(np.asarray(G, float) - oracles.mean_gradient(G)).max()
    eps = oracles.unit(jnp.float32)
    close = (6 * eps * 1000) ** 2 + 48 * eps * deviation**2
    np.testing.assert_allclose(ef.gradient_covariance(G), covariance(G), rtol=0, atol=close)


def test_one_example_has_no_covariance(dtype):
    G = jnp.asarray(oracles.GRID["one example"], dtype)
    np.testing.assert_array_equal(ef.gradient_covariance(G), 0)


# The diagonal, and what Adam takes for it.


# What a model believes.


class Belief(NamedTuple):
    """A likelihood, the shape of its z, and what it means, in NumPy."""

    likelihood: Any
    shape: tuple
    log_density: Any
    mean: Any
    covariance: Any


def softmax(z):
    return np.exp(z - scipy.special.logsumexp(z))


def normal(shape):
    return Belief(
        gaussian,
        shape,
        lambda z, y: scipy.stats.norm.logpdf(y, z).sum(),
        lambda z: z,
        lambda z: np.eye(np.size(z)),
    )


BELIEFS = {
    "gaussian": normal(()),
    "gaussian vector": normal((2,)),
    "gaussian matrix": normal((2, 2)),
    "bernoulli": Belief(
        bernoulli,
        (),
        lambda z, y: scipy.stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-z))),
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


class Said(NamedTuple):
    """All that a likelihood says of one output and one label."""

    loss: Any
    score: Any
    curvature: Any
    mean: Any
    labels: Any
    weights: Any


@partial(jax.jit, static_argnums=0)
def say(name, z, y):
    likelihood = BELIEFS[name].likelihood
    loss, score = jax.value_and_grad(likelihood.loss)(z, y)
    curvature = jax.hessian(likelihood.loss)(z, y).reshape(z.size, z.size)
    return Said(loss, score.reshape(-1), curvature, likelihood.mean(z).reshape(-1), *likelihood.labels(z))


def statistic(likelihood, shape, y):
    """What the natural parameter multiplies: y itself, or the indicator of its class, ravelled."""
    if likelihood.name == "categorical":
        return np.eye(shape[0])[np.asarray(y)]
    return np.asarray(y, float).reshape(*np.shape(y)[: np.ndim(y) - len(shape)], -1)


def observed(belief, n, seed):
    """Labels that somebody might have seen."""
    rng = np.random.default_rng(seed)
    if belief.likelihood.name == "Gaussian":
        return rng.normal(size=(n, *belief.shape))
    return rng.integers(2 if belief.shape == () else belief.shape[0], size=n)


@pytest.mark.parametrize("name", BELIEFS)
def test_loss_and_its_derivatives_in_z(name, dtype):
    """-log p(y | z), up to a constant; mean minus label, as of every exponential family in z; its covariance."""
    belief, eps, rng = BELIEFS[name], oracles.unit(dtype), np.random.default_rng(1)
    # ½ log 2π for each Gaussian output.
    constant = np.log(2 * np.pi) / 2 * np.prod(belief.shape) if belief.likelihood is gaussian else 0
    for y in observed(belief, 3, 2):
        z = jnp.asarray(1.5 * rng.normal(size=belief.shape), dtype)
        said, at = say(name, z, jnp.asarray(y)), np.asarray(z, float)
        assert said.loss.dtype == dtype
        mean = belief.mean(at).reshape(-1)
        # A dozen operations on numbers below 10.
        np.testing.assert_allclose(said.loss, -belief.log_density(at, y) - constant, rtol=0, atol=120 * eps)
        np.testing.assert_allclose(said.mean, mean, rtol=0, atol=120 * eps)
        score = mean - statistic(belief.likelihood, belief.shape, y)
        np.testing.assert_allclose(said.score, score, rtol=0, atol=120 * eps)
        np.testing.assert_allclose(said.curvature, belief.covariance(at), rtol=0, atol=120 * eps)


@pytest.mark.parametrize("name", BELIEFS)
def test_labels_have_the_mean_and_the_covariance_of_the_model(name, dtype):
    """So Σ wₖ φ(yₖ) = E[φ(y)] for every quadratic φ."""
    belief, rng = BELIEFS[name], np.random.default_rng(1)
    for seen in observed(belief, 3, 2):
        z = jnp.asarray(1.5 * rng.normal(size=belief.shape), dtype)
        said, at = say(name, z, jnp.asarray(seen)), np.asarray(z, float)
        w, y = np.asarray(said.weights, float), statistic(belief.likelihood, belief.shape, said.labels)
        assert said.weights.dtype == dtype
        assert said.labels.shape[1:] == (() if name == "categorical" else belief.shape)
        assert np.all(w >= 0)
        # Labels are at most 6, so a few roundings of 36.
        close = 5 * 36 * oracles.unit(dtype)
        np.testing.assert_allclose(w.sum(), 1, rtol=0, atol=close)
        np.testing.assert_allclose(mean := w @ y, belief.mean(at).reshape(-1), rtol=0, atol=close)
        spread = (y.T * w) @ y - np.outer(mean, mean)
        np.testing.assert_allclose(spread, belief.covariance(at), rtol=0, atol=close)


@pytest.fixture(name="belief", params=BELIEFS)
def beliefs(request):
    return BELIEFS[request.param]


def test_samples_are_drawn_from_the_model(belief, x64):
    """20,000 labels: mean and covariance within five standard errors; the same key draws the same label."""
    z = jnp.asarray(1.5 * np.random.default_rng(1).normal(size=belief.shape))
    keys = jax.random.split(jax.random.key(0), 20_000)
    labels = jax.vmap(belief.likelihood.sample, (0, None))(keys, z)
    assert labels.shape[1:] == (() if belief.likelihood is categorical else belief.shape)
    if belief.likelihood is not categorical:
        assert labels.dtype == z.dtype
    y = statistic(belief.likelihood, belief.shape, labels)
    away = y - belief.mean(np.asarray(z)).reshape(-1)
    products = away[:, :, None] * away[:, None, :]
    for values, expected in [(away, 0), (products, belief.covariance(np.asarray(z)))]:
        error = np.abs(values.mean(axis=0) - expected)
        assert np.all(error <= 5 * values.std(axis=0) / np.sqrt(len(y)) + 1e-12)
    np.testing.assert_array_equal(belief.likelihood.sample(keys[3], z), labels[3])


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("name", BELIEFS)
def test_no_nan_however_sure_the_model_is(name, size):
    """Logits of ±10⁴ in float32: probabilities of 0 and 1, but no 0 · ∞."""
    belief = BELIEFS[name]
    z = jnp.asarray(size * np.resize([1.0, -1.0], belief.shape), jnp.float32)
    for y in observed(belief, 6, 2):
        said = say(name, z, jnp.asarray(y))
        for field, value in zip(Said._fields, said, strict=True):
            assert jnp.isfinite(value).all(), field
        np.testing.assert_allclose(said.weights.sum(), 1, rtol=1e-6)


# The Fisher and the Gauss-Newton matrix of a network, for every likelihood.

WIDTH = 3


class Case(NamedTuple):
    """A tanh network with one of the likelihoods, five examples and labels that were observed."""

    name: str
    belief: Belief
    output_fn: Any
    loss_fn: Any
    params: Any
    x: Any
    y: Any


def network(belief):
    """Made once: a jitted function knows a loss by its identity."""

    def output_fn(params, x):
        return (params["V"] @ jnp.tanh(params["W"] @ x + params["b"])).reshape(belief.shape)

    return output_fn, lambda params, x, y: belief.likelihood.loss(output_fn(params, x), y)


NETWORKS = {name: network(belief) for name, belief in BELIEFS.items()}


@cache
def make_case(name, dtype):
    belief, rng = BELIEFS[name], np.random.default_rng(5)
    shapes = {"W": (WIDTH, 2), "b": (WIDTH,), "V": (int(np.prod(belief.shape)), WIDTH)}
    params = {leaf: jnp.asarray(rng.normal(size=shape), dtype) for leaf, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(5, 2)), dtype)
    return Case(name, belief, *NETWORKS[name], params, x, jnp.asarray(observed(belief, 5, 6)))


@pytest.fixture(name="case", params=BELIEFS)
def cases(request, x64):
    return make_case(request.param, "float64")


def fisher(case, **options):
    likelihood = case.belief.likelihood
    return ef.fisher(
        case.loss_fn, case.params, case.x, output_fn=case.output_fn, likelihood=likelihood, **options
    )


class Matrices(NamedTuple):
    """Fisher, Gauss-Newton, Hessian, Jacobians and gradients."""

    F: Any
    B: Any
    H: Any
    J: Any
    G: Any


def matrices(output_fn, loss_fn, likelihood, params, x, y):
    return Matrices(
        ef.fisher(loss_fn, params, x, output_fn=output_fn, likelihood=likelihood),
        ef.gauss_newton(output_fn, likelihood.loss, params, x, y),
        ef.hessian(loss_fn, params, x, y),
        per_example_jacobians(output_fn, params, x),
        ef.per_example_gradients(loss_fn, params, x, y),
    )


@cache
def compiled(name):
    """The matrices of a case as one jitted function of the parameters, the inputs and the labels."""
    return jax.jit(partial(matrices, *NETWORKS[name], BELIEFS[name].likelihood))


def exact(case):
    """All matrices of a case, in float64."""
    return Matrices(*map(np.asarray, compiled(case.name)(case.params, case.x, case.y)))


def believed(belief, z):
    """Labels and weights that integrate polynomials of degree 5 in a Gaussian y, and every function of a class."""
    if belief.likelihood.name == "Gaussian":
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        for chosen in itertools.product(range(3), repeat=z.size):
            yield (
                z + nodes[list(chosen)].reshape(z.shape),
                np.prod(weights[list(chosen)] / np.sqrt(2 * np.pi)),
            )
    elif belief.likelihood.name == "Bernoulli":
        p = 1 / (1 + np.exp(-z))
        yield from [(0, 1 - p), (1, p)]
    else:
        yield from enumerate(softmax(z))


@cache
def fisher_loop(name):
    """F, with one call of `jax.grad` for each example and label; and V, such that E‖Fₘ - F‖² = V/m for m samples."""
    case = make_case(name, "float64")
    gradient = jax.jit(lambda params, x, y: ravel_pytree(jax.grad(case.loss_fn)(params, x, y))[0])
    n, F, V = len(case.x), 0, 0
    for x in case.x:
        mean, power = 0, 0
        for label, weight in believed(case.belief, np.asarray(case.output_fn(case.params, x))):
            g = np.asarray(gradient(case.params, x, jnp.asarray(label, case.y.dtype)))
            mean, power = mean + weight * np.outer(g, g), power + weight * (g @ g) ** 2
        F, V = F + mean / n, V + (power - np.sum(mean**2)) / n**2
    return F, V


def test_fisher_is_the_loop(case):
    F, (expected, _) = exact(case).F, fisher_loop(case.name)
    assert oracles.relative(F, F.T) < 1e-14
    # float64: some hundred additions of terms of the size of F.
    assert oracles.relative(F, expected) < 1e-13
    assert np.linalg.eigvalsh(F)[0] > -1e-13 * np.linalg.norm(F)


def test_without_jit_it_is_the_same(x64):
    """With every check on."""
    case = make_case("gaussian vector", "float64")
    loss, expected = case.belief.likelihood.loss, exact(case)
    assert oracles.relative(fisher(case), expected.F) < 1e-13  # the same sums in another order
    B = ef.gauss_newton(case.output_fn, loss, case.params, case.x, case.y)
    assert oracles.relative(B, expected.B) < 1e-13


def test_fisher_is_the_gauss_newton_matrix(case):
    """For an exponential family in its natural parameter (facts 5.1), whatever labels were observed."""
    for y in (case.y, case.y[::-1]):
        matrices = compiled(case.name)(case.params, case.x, y)
        assert oracles.relative(matrices.B, exact(case).F) < 1e-13
        # The labels that were observed are not those that are believed.
        assert oracles.relative(ef.empirical_fisher(matrices.G), matrices.F) > 0.1


def jacobians(case):
    """One an example, by forward mode."""
    flat, unravel = ravel_pytree(case.params)
    jacobian = jax.jit(jax.jacfwd(lambda theta, x: jnp.ravel(case.output_fn(unravel(theta), x))))
    return [np.asarray(jacobian(flat, x)) for x in case.x]


def test_gauss_newton_and_jacobians_are_the_loop(case):
    """With the curvature ∂²ℓ/∂z² in closed form; and the chain rule, gᵢ = Jᵢᵀ(mean - label)."""
    expected, belief, found = 0, case.belief, exact(case)
    assert found.J.shape == (5, int(np.prod(belief.shape)), ravel_pytree(case.params)[0].size)
    for i, J in enumerate(jacobians(case)):
        z = np.asarray(case.output_fn(case.params, case.x[i]))
        np.testing.assert_allclose(found.J[i], J, rtol=1e-13, atol=1e-14)
        pull = belief.mean(z).reshape(-1) - statistic(belief.likelihood, belief.shape, case.y[i])
        np.testing.assert_allclose(found.G[i], J.T @ pull, rtol=1e-12, atol=1e-13)
        expected = expected + J.T @ belief.covariance(z) @ J / len(case.x)
    assert oracles.relative(found.B, expected) < 1e-13
    assert oracles.relative(found.B, found.B.T) < 1e-14


@pytest.mark.parametrize("name", ["gaussian", "gaussian vector", "bernoulli", "categorical"])
def test_sampled_fisher_converges_as_one_over_the_root(name, x64):
    """E‖Fₘ - F‖² = V/m, over 200 keys and within five standard errors; and no bias. The same key, the same labels."""
    case, (F, V) = make_case(name, "float64"), fisher_loop(name)
    keys = jax.random.split(jax.random.key(1), 200)
    draw = jax.jit(jax.vmap(lambda key: [fisher(case, sampled=draws, key=key) for draws in (4, 32)]))
    for draws, drawn, again in zip((4, 32), draw(keys), draw(keys), strict=True):
        np.testing.assert_array_equal(drawn, again)
        errors = np.sum((np.asarray(drawn) - F) ** 2, axis=(1, 2)) * draws / V
        assert abs(errors.mean() - 1) < 5 * errors.std() / np.sqrt(len(errors))
        assert np.sum((np.mean(drawn, axis=0) - F) ** 2) < 25 * V / (draws * len(keys))
        assert np.linalg.eigvalsh(drawn[0])[0] > -1e-13 * np.linalg.norm(F)
    if name == "gaussian vector":  # with every check on
        assert oracles.relative(fisher(case, sampled=4, key=keys[0]), draw(keys)[0][0]) < 1e-13


def test_kullback_leibler_divergence_is_half_the_fisher_form(case):
    """KL(θ ‖ θ + hΔ) = h²ΔᵀFΔ/2 + O(h³): three bits for each halving of h, over six directions."""
    theta, unravel = ravel_pytree(case.params)
    F, steps = jnp.asarray(exact(case).F), jnp.asarray(np.random.default_rng(3).normal(size=(6, theta.size)))
    outputs = jax.jit(lambda theta: jax.vmap(lambda x: case.output_fn(unravel(theta), x))(case.x))

    def divergence(z, other):
        name = case.belief.likelihood.name
        if name == "Gaussian":
            return np.sum((z - other) ** 2) / 2
        p, q = (np.array([1 - 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(-t))]) for t in (z, other))
        if name == "categorical":
            p, q = softmax(z), softmax(other)
        return np.sum(p * np.log(p / q))

    def error(h):
        pairs = [(np.asarray(outputs(theta)), np.asarray(outputs(theta + h * step))) for step in steps]
        measured = [np.mean([divergence(*both) for both in zip(*pair, strict=True)]) for pair in pairs]
        return np.linalg.norm(measured - h**2 * np.asarray(ef.quadratic_form(F, steps)) / 2)

    # The order is 3 + O(h), with |Δ| about 4; rounding, 1e-16, is far below h³ ~ 1e-8.
    errors = [error(h) for h in (0.004, 0.002)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 3, atol=0.1)


@pytest.mark.parametrize("name", ["gaussian vector", "categorical"])
def test_float32_is_as_good(name):
    """float32 stays float32; against the same in float64, from the same float32 weights."""
    case, kind = make_case(name, "float32"), "int" if name == "categorical" else "float"
    single = compiled(name)(case.params, case.x, case.y.astype(kind + "32"))
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: leaf.astype("float64"), (case.params, case.x))
        double = compiled(name)(params, x, case.y.astype(kind + "32").astype(kind + "64"))
    for low, high in zip(single, double, strict=True):
        assert (low.dtype, high.dtype) == ("float32", "float64")
        assert oracles.relative(low, high) < 50 * oracles.unit("float32")  # some dozen operations


def closed(problem):
    return jax.jit(partial(matrices, problem.output_fn, problem.loss_fn, problem.likelihood))


def test_fisher_has_its_closed_forms(dtype):
    """XᵀX/n for least squares, E[p(1 - p)xxᵀ] for log-odds, and the same again as Gauss-Newton and as Hessian."""
    theta = jnp.asarray([0.3, -0.7], dtype)
    for make in (ef.linear_regression, ef.logistic_regression):
        problem = make(12)
        x = np.asarray(problem.x, float)
        curvature = np.ones(12)
        if problem.likelihood is bernoulli:
            p = 1 / (1 + np.exp(-x @ np.asarray(theta, float)))
            curvature = p * (1 - p)
        expected = sum(c * np.outer(row, row) for c, row in zip(curvature, x, strict=True)) / 12
        for matrix in closed(problem)(theta, problem.x, problem.y)[:3]:
            assert matrix.dtype == dtype
            assert oracles.relative(matrix, expected) < 30 * oracles.unit(dtype)


@pytest.mark.parametrize("logit", [10.0, 1e2, 1e4])
def test_fisher_of_a_model_that_is_sure_is_small_but_a_number(logit):
    theta, x = jnp.array([logit]), jnp.ones((3, 1))
    p = 1 / (1 + np.exp(-logit))
    problem = ef.logistic_regression(4)
    F = ef.fisher(problem.loss_fn, theta, x, output_fn=problem.output_fn, likelihood=bernoulli)
    # exp(-10) is relative to 1 in 1 - p, which the oracle has in float64 and float32 must not lose.
    np.testing.assert_allclose(F[0, 0], np.exp(-logit) * p**2, rtol=1e-4, atol=1e-37)


def test_inputs_may_be_a_pytree(x64):
    """Two leaves instead of two columns."""
    case = make_case("bernoulli", "float64")
    x = {"first": case.x[:, 0], "second": case.x[:, 1]}

    def output_fn(params, x):
        return case.output_fn(params, jnp.stack([x["first"], x["second"]]))

    def loss_fn(params, x, y):
        return bernoulli.loss(output_fn(params, x), y)

    found = jax.jit(partial(matrices, output_fn, loss_fn, bernoulli))(case.params, x, case.y)
    for value, expected in zip(found, exact(case), strict=True):
        assert oracles.relative(value, expected) < 1e-13


# Where a loss is split, and the Hessian.


def test_gauss_newton_of_a_loss_that_is_no_likelihood(x64):
    """ℓ = y₀z₀z₁ + z₁³: ∂²ℓ/∂z² is [[0, y₀], [y₀, 6z₁]], which is not even semi-definite."""
    case, expected = make_case("gaussian vector", "float64"), 0

    def output_loss(z, y):
        return y[0] * z[0] * z[1] + z[1] ** 3

    for x, y, J in zip(case.x, case.y, exact(case).J, strict=True):
        z = case.output_fn(case.params, x)
        expected = expected + J.T @ np.array([[0, y[0]], [y[0], 6 * z[1]]]) @ J / 5
    B = ef.gauss_newton(case.output_fn, output_loss, case.params, case.x, case.y)
    assert oracles.relative(B, expected) < 1e-13
    assert np.linalg.eigvalsh(expected)[0] < -0.1


def test_gauss_newton_depends_on_where_the_loss_is_split(x64):
    """Everything in the outer function: the Hessian. Everything in the inner one: 0."""
    case = make_case("categorical", "float64")
    _, unravel = ravel_pytree(case.params)

    @jax.jit
    def outer(params, x, y):
        def loss(theta, example):
            return case.loss_fn(unravel(theta), *example)

        return ef.gauss_newton(lambda params, x: ravel_pytree(params)[0], loss, params, x, (x, y))

    assert oracles.relative(outer(case.params, case.x, case.y), exact(case).H) < 1e-13
    inner = ef.gauss_newton(
        lambda params, example: case.loss_fn(params, *example),
        lambda z, y: z,
        case.params,
        (case.x, case.y),
        case.y,
    )
    np.testing.assert_array_equal(inner, 0)


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "categorical"])
def test_the_empirical_fisher_is_a_gauss_newton_matrix_too(name, x64):
    """Split ℓ = -log b, b = p(y | z): ∂²(-log b)/∂b² = 1/b², so E[∇b∇bᵀ/b²] = C (facts 5.1). No curvature is in it."""
    case = make_case(name, "float64")

    def density(params, example):
        return jnp.exp(-case.loss_fn(params, *example))

    B = ef.gauss_newton(density, lambda b, y: -jnp.log(b), case.params, (case.x, case.y), case.y)
    C = oracles.empirical_fisher(exact(case).G)
    # b may be small, exp(-6) here: 1/b² of it and ∇b² lose no digits, they only have to be multiplied.
    assert oracles.relative(B, C) < 1e-12


def test_hessian_is_gauss_newton_and_residuals(case):
    """H = B + E[Σ ∂ℓ/∂zₘ ∂²zₘ] (facts 5.1), and ‖H - B‖ is at most residual times smoothness (Kunstner, prop. 2)."""
    belief, found, rest, bound = case.belief, exact(case), 0, 0
    flat, unravel = ravel_pytree(case.params)
    second = jax.jit(jax.hessian(lambda theta, x: jnp.ravel(case.output_fn(unravel(theta), x))))
    bends = [np.asarray(second(flat, x)) for x in case.x]
    smoothness = max(np.linalg.norm(matrix, 2) for bend in bends for matrix in bend)
    for x, y, bend in zip(case.x, case.y, bends, strict=True):
        z = np.asarray(case.output_fn(case.params, x))
        pull = belief.mean(z).reshape(-1) - statistic(belief.likelihood, belief.shape, y)
        rest = rest + np.tensordot(pull, bend, axes=1) / 5
        bound = bound + np.abs(pull).sum() * smoothness / 5
    assert oracles.relative(found.H, found.B + rest) < 1e-13
    assert oracles.relative(found.H, found.B) > 0.1
    assert np.linalg.norm(found.H - found.B, 2) <= bound


def test_hessian_is_the_difference_of_gradients(case):
    """Central differences, h = 1e-5: wrong by h²f⁽⁴⁾ ~ 1e-10 and by rounding/h ~ 1e-11."""
    theta, unravel = ravel_pytree(case.params)

    def mean_loss(theta):
        return jnp.mean(jax.vmap(lambda x, y: case.loss_fn(unravel(theta), x, y))(case.x, case.y))

    h, H, gradient = 1e-5, exact(case).H, jax.jit(jax.grad(mean_loss))
    columns = [(gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h) for e in np.eye(theta.size)]
    np.testing.assert_allclose(H, columns, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(H, H.T)


def test_hessian_may_be_indefinite():
    """ℓ = θ₀θ₁, a saddle everywhere."""
    H = ef.hessian(lambda theta, x, y: theta[0] * theta[1], jnp.ones(2), jnp.ones(3), jnp.ones(3))
    np.testing.assert_array_equal(H, [[0, 1], [1, 0]])


# ΔᵀAΔ, and how much larger A is than B.


def test_quadratic_form_is_the_double_sum(G):
    A = ef.empirical_fisher(G)
    p = len(A)
    steps = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, p)), G.dtype)
    rows = np.asarray(steps, float)
    loop = np.zeros((2, 3))
    for j, k in itertools.product(range(p), repeat=2):
        loop += rows[..., j] * float(A[j, k]) * rows[..., k]
    cost = ef.quadratic_form(A, steps)
    assert cost.dtype == G.dtype
    # p² terms, twice summed, of at most max|A| max|Δ|².
    close = 2 * p**3 * oracles.unit(G.dtype) * float(jnp.abs(A).max()) * np.abs(rows).max() ** 2
    np.testing.assert_allclose(cost, loop, rtol=0, atol=close)
    np.testing.assert_allclose(ef.quadratic_form(A, steps[1, 2]), loop[1, 2], rtol=0, atol=close)
    # With A = C: the mean squared first-order change.
    changes = rows @ np.asarray(G, float).T
    np.testing.assert_allclose(cost, np.mean(changes**2, axis=-1), rtol=0, atol=2 * close)


def pair(seed, p=4):
    """A symmetric A, perhaps indefinite, and a B with eigenvalues from 1 to about 20."""
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(2, p, p))
    return A + A.T, B @ B.T + np.eye(p)


generalised = jax.jit(ef.generalised_eigenvalues)


@given(seed=st.integers(0, 2**31))
def test_generalised_eigenvalues_are_those_of_scipy_and_do_not_see_the_chart(seed):
    """Av = λBv, descending; the same for JᵀAJ and JᵀBJ; and they bound ΔᵀAΔ/ΔᵀBΔ."""
    A, B = pair(seed)
    rng = np.random.default_rng(seed + 1)
    left, right = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    J = left @ np.diag([0.3, 1, 2, 3]) @ right  # condition 10, so 100 for JᵀBJ: of 16 digits 11 are left
    with jax.enable_x64(True):
        values = np.asarray(generalised(jnp.asarray(A), jnp.asarray(B)))
        moved = np.asarray(generalised(jnp.asarray(J.T @ A @ J), jnp.asarray(J.T @ B @ J)))
        form = [np.asarray(ef.quadratic_form(jnp.asarray(M), jnp.asarray(left))) for M in (A, B)]
    expected, vectors = scipy.linalg.eigh(A, B)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(values, expected[::-1], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(moved, values, rtol=0, atol=1e-10 * scale)
    ratio = np.divide(*form)
    assert np.all((values[-1] - 1e-10 <= ratio) & (ratio <= values[0] + 1e-10))
    for value, v in zip(expected, vectors.T, strict=True):
        np.testing.assert_allclose(v @ A @ v, value, rtol=0, atol=1e-11 * scale)  # vᵀBv = 1: attained


def test_generalised_eigenvalues_by_hand(dtype):
    A, B = jnp.asarray([[2.0, 0.0], [0.0, -3.0]], dtype), jnp.asarray([[4.0, 0.0], [0.0, 0.5]], dtype)
    values, eps = ef.generalised_eigenvalues(A, B), oracles.unit(dtype)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, [0.5, -6], rtol=4 * eps)
    np.testing.assert_allclose(ef.generalised_eigenvalues(B, B), 1, rtol=4 * eps)
    S, P = (jnp.asarray(M, dtype) for M in pair(0))
    np.testing.assert_allclose(ef.generalised_eigenvalues(P, P), 1, rtol=0, atol=80 * eps)  # condition 20
    ordinary = np.linalg.eigvalsh(np.asarray(S, float))[::-1]
    values = ef.generalised_eigenvalues(S, jnp.eye(4, dtype=dtype))
    np.testing.assert_allclose(values, ordinary, rtol=0, atol=80 * eps)


# The running average.


def batches(count, dtype=float):
    return jnp.asarray(np.random.default_rng(8).normal(size=(count, 6, 4)), dtype)


# One row after the other.


# What people put in the place of the inverse.

FORMS = ("full", "diagonal", "root", "diagonal root", "none")


def reference(A, g, damping, form):
    """Each form by NumPy, with ε or, at 0, on what is not zero."""
    if form == "none":
        return g
    values, V = (np.diag(A), np.eye(len(A))) if "diagonal" in form else np.linalg.eigh(A)
    power = 0.5 if "root" in form else 1
    # Any eigenvalue of the grid that is not 0 is above 1e-3 of the largest.
    kept = (values > 1e-6 * values.max()) | (damping > 0)
    factor = np.where(kept, 1 / np.where(kept, values + damping, 1) ** power, 0)
    return V @ (factor * (V.T @ g))


BUDGET = 0.02


class Relatives(NamedTuple):
    """One form of a step: its direction, what it is for the budget, and for half of that learning rate."""

    u: Any
    spent: Any
    half: Any


@jax.jit
def relatives(A, g, damping):
    """Every form at once, so that each shape is compiled once."""

    def one(form):
        spent = oracles.preconditioned_step(A, g, damping=damping, budget=BUDGET, form=form)
        rate = jnp.where(spent.learning_rate > 0, spent.learning_rate / 2, 1)
        half = oracles.preconditioned_step(A, g, damping=damping, learning_rate=rate, form=form)
        return Relatives(precondition(A, g, damping, form), spent, half)

    return {form: one(form) for form in FORMS}


def test_every_form_is_what_numpy_makes_of_it(G):
    C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    A, b = np.asarray(C, float), np.asarray(g, float)
    for damping in (0.0, *DAMPED):
        for form, found in relatives(C, g, damping).items():
            assert found.u.dtype == G.dtype
            values = oracles.eigenvalues(G) if "diagonal" not in form else np.sort(np.diag(A))[::-1]
            # At ε > 0 rounding outside the range of C is divided by ε; at 0 it is cut off.
            least = values[-1] if damping == 0 or len(values) == len(A) else 0
            close = 10 * len(A) * oracles.unit(G.dtype) * (values[0] + damping) / (least + damping)
            assert oracles.relative(found.u, reference(A, b, damping, form)) < close, form


@pytest.mark.parametrize("name", ["tall", "wide", "deficient"])
def test_the_root_twice_is_the_inverse(name, x64):
    G = jnp.asarray(oracles.GRID[name])
    C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    for damping in (0.0, 0.1):
        first = relatives(C, g, damping)
        for once, twice in [("root", "full"), ("diagonal root", "diagonal")]:
            again = relatives(C, first[once].u, damping)[once].u
            # float64, condition below 1000.
            assert oracles.relative(again, first[twice].u) < 1e-11


def test_the_root_is_half_way_to_the_inverse(x64):
    """‖A^(-1/2)g‖² = gᵀA⁻¹g, and A^(-1/2) is symmetric."""
    G = jnp.asarray(oracles.GRID["tall"])
    A, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    found = relatives(A, g, 0.0)
    root = found["root"].u
    np.testing.assert_allclose(root @ root, g @ found["full"].u, rtol=1e-12)
    np.testing.assert_allclose(root @ root, oracles.agreement(G), rtol=1e-12)
    both = [relatives(A, e, 0.0)["root"].u for e in jnp.eye(4)]
    np.testing.assert_allclose(both, np.transpose(both), rtol=0, atol=1e-13)


def test_no_matrix_and_no_gradient(dtype):
    """A = 0: u = g/ε, g/√ε or g; g = 0: u = 0, and no step."""
    zero, g = jnp.zeros((4, 4), dtype), jnp.asarray([1.0, 2.0, 3.0, 4.0], dtype)
    found = relatives(zero, g, 0.25)
    for form, scale in zip(FORMS, (4, 4, 2, 2, 1), strict=True):
        np.testing.assert_allclose(found[form].u, scale * g, rtol=4 * oracles.unit(dtype))
    for A, damping in itertools.product((zero, jnp.eye(4, dtype=dtype)), (0.0, 0.25)):
        for found in relatives(A, 0 * g, damping).values():
            np.testing.assert_array_equal(found.u, 0)
            assert found.spent.learning_rate == 0
            for step in (found.spent, found.half):
                for value in (step.delta, step.budget_spent, step.predicted_change):
                    np.testing.assert_array_equal(value, 0)
    assert not oracles.preconditioned_step(zero, 0 * g, budget=0.1).delta.any()  # with every check


def test_preconditioned_step_spends_its_budget(G):
    """ΔᵀAΔ = c in the metric of A, whatever was inverted; Δ = -ηu; gᵀΔ is what it predicts."""
    C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    A, b, eps = np.asarray(C, float), np.asarray(g, float), oracles.unit(G.dtype)
    for damping in DAMPED:
        for form, (u, step, half) in relatives(C, g, damping).items():
            delta = np.asarray(step.delta, float)
            assert [field.dtype for field in step] == [G.dtype] * 4
            assert oracles.relative(delta, -float(step.learning_rate) * np.asarray(u, float)) < 10 * eps
            # A sum of p² terms up to λmax‖Δ‖², which may be larger than the budget.
            close = 5 * len(A) * eps * (1 + np.trace(A) * (delta @ delta) / BUDGET)
            np.testing.assert_allclose(step.budget_spent, BUDGET, rtol=close, err_msg=form)
            np.testing.assert_allclose(delta @ A @ delta, BUDGET, rtol=close, err_msg=form)
            size = 5 * len(A) * eps * np.linalg.norm(b) * np.linalg.norm(delta)
            np.testing.assert_allclose(step.predicted_change, b @ delta, rtol=0, atol=size, err_msg=form)
            assert oracles.relative(half.delta, delta / 2) < 10 * eps
            np.testing.assert_allclose(half.budget_spent, BUDGET / 4, rtol=close, err_msg=form)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("name", ["tall", "wide", "deficient"])
def test_by_the_empirical_fisher_it_is_the_empirical_fisher_step(name, damping, x64):
    """float64, condition below 1000 and squared: C is formed."""
    G = jnp.asarray(oracles.GRID[name])
    C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
    found = relatives(C, g, damping)["full"]
    rate = {"learning_rate": found.half.learning_rate}
    for step, option in [(found.spent, {"budget": BUDGET}), (found.half, rate)]:
        expected = ef.empirical_fisher_step(G, damping=damping, **option)
        assert oracles.relative(step.delta, expected.delta) < 1e-10
        np.testing.assert_allclose(step.budget_spent, expected.budget_spent, rtol=1e-10)
        np.testing.assert_allclose(step.learning_rate, expected.learning_rate, rtol=1e-10)
        np.testing.assert_allclose(step.predicted_change, jnp.mean(expected.predicted_changes), rtol=1e-10)


def test_no_step_of_the_same_cost_does_better(x64):
    """The full form minimises gᵀΔ over all Δ with ΔᵀFΔ = c; the other forms spend as much and gain less."""
    case = make_case("categorical", "float64")
    F = jnp.asarray(exact(case).F) + 0.01 * jnp.eye(18)
    g = ef.mean_gradient(jnp.asarray(exact(case).G))
    found = {form: float(one.spent.predicted_change) for form, one in relatives(F, g, 0.0).items()}
    best = found.pop("full")
    assert min(found.values()) > best
    steps = np.random.default_rng(0).normal(size=(300, 18))
    costs = np.asarray(ef.quadratic_form(F, jnp.asarray(steps)))
    assert np.all(steps @ g * np.sqrt(BUDGET / costs) > best)
    np.testing.assert_allclose(best, -np.sqrt(BUDGET * (g @ np.linalg.solve(F, g))), rtol=1e-11)


def test_indefinite_hessian(x64):
    """The full form takes it: Newton's step goes up where the loss curves down. A budget may have no meaning then."""
    H, g = jnp.diag(jnp.array([2.0, -1.0])), jnp.array([1.0, 1.0])
    step = oracles.preconditioned_step(H, g, learning_rate=1.0)
    np.testing.assert_allclose(step.delta, [-0.5, 1], rtol=1e-14)
    np.testing.assert_allclose(step.budget_spent, 2 * 0.25 - 1, rtol=1e-14)
    np.testing.assert_allclose(step.predicted_change, 0.5, rtol=1e-14)  # up
    damped = oracles.preconditioned_step(H, g, damping=9.0, budget=0.1)
    np.testing.assert_allclose(damped.delta[0] / damped.delta[1], 8 / 11, rtol=1e-14)
    assert damped.predicted_change < 0
    H = jnp.asarray(pair(3)[0])
    g = jnp.asarray(np.random.default_rng(4).normal(size=4))
    u = precondition(H, g, 0.3)
    np.testing.assert_allclose(u, np.linalg.solve(H + 0.3 * np.eye(4), g), rtol=1e-11)


# What a step really does.


def test_loss_changes_are_two_losses(case):
    theta, unravel = ravel_pytree(case.params)
    delta = jnp.asarray(0.1 * np.random.default_rng(3).normal(size=theta.size))
    change = jax.jit(partial(ef.loss_changes, case.loss_fn, case.params, case.x, case.y))
    changes, loss, moved = change(delta), jax.jit(case.loss_fn), unravel(theta + delta)
    expected = [loss(moved, x, y) - loss(case.params, x, y) for x, y in zip(case.x, case.y, strict=True)]
    # Losses below 20: sixteen digits, less the difference.
    np.testing.assert_allclose(changes, expected, rtol=0, atol=1e-13)
    # To first order GΔ, and the rest is of second order.
    G = exact(case).G
    errors = [np.linalg.norm(change(h * delta) - h * G @ delta) for h in (1e-2, 5e-3)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.1)


def test_mean_loss_change_has_its_second_order(x64):
    """E[Δℓ] = gᵀΔ + ΔᵀHΔ/2 + O(‖Δ‖³)."""
    case = make_case("categorical", "float64")
    delta = jnp.asarray(0.1 * np.random.default_rng(3).normal(size=ravel_pytree(case.params)[0].size))
    found, errors = exact(case), []
    H, g = jnp.asarray(found.H), found.G.mean(axis=0)
    for h in (0.02, 0.01):
        changes = ef.loss_changes(case.loss_fn, case.params, case.x, case.y, h * delta)
        errors.append(changes.mean() - h * g @ delta - ef.quadratic_form(H, h * delta) / 2)
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 3, atol=0.1)


def test_loss_changes_take_any_real_step(dtype):
    """Whole numbers too; the precision is that of the parameters."""
    changes = ef.loss_changes(
        lambda theta, x, y: (theta @ x - y) ** 2 / 2,
        jnp.zeros(2, dtype),
        jnp.asarray([[1.0, 0.0], [0.0, 2.0]], dtype),
        jnp.asarray([0.0, 1.0], dtype),
        jnp.array([1, 2]),
    )
    assert changes.dtype == dtype
    np.testing.assert_array_equal(changes, [0.5, 4])


# Derivatives.


def test_derivative_of_every_form(x64):
    """By the gradients and the damping, where eigenvalues differ."""
    oracles.check_derivative(
        jax.jit(lambda G, damping: relatives(ef.empirical_fisher(G), ef.mean_gradient(G), damping)),
        jnp.asarray(oracles.GRID["tall"]),
        0.1,
    )


def test_derivatives_of_what_is_made_of_a_network(x64):
    case = make_case("categorical", "float64")
    theta, unravel = ravel_pytree(case.params)

    @jax.jit
    def everything(theta, delta):
        params, likelihood = unravel(theta), case.belief.likelihood
        return (
            ef.fisher(case.loss_fn, params, case.x, output_fn=case.output_fn, likelihood=likelihood),
            ef.gauss_newton(case.output_fn, likelihood.loss, params, case.x, case.y),
            ef.loss_changes(case.loss_fn, params, case.x, case.y, delta),
        )

    oracles.check_derivative(everything, theta, 0.1 * theta)


# Every message.

THREE = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
C, g = ef.empirical_fisher(THREE), ef.mean_gradient(THREE)
X, Y, THETA = jnp.ones((3, 2)), jnp.ones(3), jnp.ones(2)


@pytest.fixture
def unhooked(monkeypatch):
    """Goes round jaxtyping's hook inside the modules too: what is wrong is said by the library itself."""
    for module, name in ((matrices_module, "empirical_fisher"),):
        monkeypatch.setattr(module, name, bare(getattr(module, name)))


TAKE_G = {
    "covariance": bare(ef.gradient_covariance),
}


@pytest.mark.parametrize("call", TAKE_G.values(), ids=TAKE_G)
def test_gradients(call, unhooked):
    with raises("`G` must be 2-D, one gradient a row (n, p); got shape (3,). Use per_example_gradients("):
        call(jnp.ones(3))
    for shape in [(0, 2), (3, 0)]:
        with raises(f"`G` must be non-empty; got shape {shape}. Give at least one example"):
            call(jnp.ones(shape))
    with raises("`G` must be finite; got NaN or infinity in 2 of 4 rows: 1, 3. Look at these examples"):
        call(jnp.ones((4, 2)).at[1, 0].set(NAN).at[3, 1].set(-INF))
    with raises("`G` must be real; got dtype complex64. Take its real part"):
        call(jnp.ones((2, 2), complex))
    with raises("`G` must be an array of real numbers; got str. Convert it with jnp.asarray."):
        call("G")


@pytest.mark.parametrize("value", [0, -2, 1.5, True])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("sampled", lambda m: logistic_fisher(sampled=m, key=jax.random.key(0))),
    ],
    ids=["sampled"],
)
def test_whole_numbers(argument, call, value):
    with raises(f"`{argument}` must be a whole number of at least 1; got {value!r}."):
        call(value)


def logistic(theta, x, y):
    return bernoulli.loss(x @ theta, y)


def logistic_fisher(loss=logistic, theta=THETA, x=X, output_fn=lambda theta, x: x @ theta, **options):
    options = {"likelihood": bernoulli, **options}
    return bare(ef.fisher)(loss, theta, x, output_fn=output_fn, **options)


def test_labels_need_a_key():
    with raises("`key` must be given where labels are sampled; got None. Use e.g. jax.random.key(0)."):
        logistic_fisher(sampled=3)


NO_LIKELIHOOD = {
    "weight decay": lambda theta, x, y: logistic(theta, x, y) + 0.01 * theta @ theta,
    "class weights": lambda theta, x, y: (1 + y) * logistic(theta, x, y),
    "label smoothing": lambda theta, x, y: logistic(theta, x, 0.9 * y + 0.05),
    "another link": lambda theta, x, y: (jax.nn.sigmoid(x @ theta) - y) ** 2,
    "a temperature": lambda theta, x, y: bernoulli.loss(x @ theta / 2, y),
    "maximised": lambda theta, x, y: -logistic(theta, x, y),
}


@pytest.mark.parametrize("loss", NO_LIKELIHOOD.values(), ids=NO_LIKELIHOOD)
def test_a_loss_that_is_no_likelihood_has_no_fisher(loss):
    message = (
        "`loss_fn` must be the negative log-likelihood -log p(y | x, θ) of the Bernoulli likelihood, up to a constant; "
        "got gradients that differ from its by up to "
    )
    with raises(message) as caught:
        logistic_fisher(loss)
    assert "leave weight decay, class weights and label smoothing out of the loss" in str(caught.value)
    assert "The empirical Fisher exists for any loss." in str(caught.value)
    if loss is NO_LIKELIHOOD["weight decay"]:
        with raises(message):
            logistic_fisher(loss, sampled=3, key=jax.random.key(0))
        jax.jit(lambda theta: logistic_fisher(loss, theta))(THETA)  # no value is known: no error


def test_the_half_and_the_classes_are_missed_too():
    def squared(theta, x, y):
        return (x @ theta - y) ** 2

    with raises(
        "of the Gaussian likelihood, up to a constant; got gradients that differ from its by up to 2 (they"
    ):
        logistic_fisher(squared, likelihood=gaussian)
    halved = logistic_fisher(
        lambda *example: squared(*example) / 2 + 7, likelihood=gaussian
    )  # constants are free
    np.testing.assert_allclose(halved, X.T @ X / 3, rtol=1e-6)

    def logits(theta, x):
        return x * theta

    def smoothed(theta, x, y):
        log_p = jax.nn.log_softmax(logits(theta, x))
        return -0.9 * log_p[y] - 0.1 * log_p.mean()

    with raises("of the categorical likelihood, up to a constant; got gradients"):
        logistic_fisher(smoothed, output_fn=logits, likelihood=categorical)
    with raises("of the Gaussian likelihood, up to a constant; got gradients"):
        logistic_fisher(likelihood=gaussian)  # the wrong one of the three


def test_models_that_overflow_or_have_no_derivative():
    x = jnp.array([[1.0], [0.0], [2.0]])
    theta = jnp.ones(1)

    def pole(theta, x):
        return theta[0] / x[0]

    def root(theta, x):  # √0 is 0, but has no derivative
        return jnp.sqrt(theta[0] * x[0])

    def power(z, y):  # |z|^1.5 has no second derivative at 0
        return jnp.sum(jnp.abs(z) ** 1.5)

    where = "must be finite; got NaN or infinity in 1 of 3 rows: 1. "
    with raises("`output_fn` " + where + "The model overflows at these examples."):
        logistic_fisher(lambda theta, x, y: bernoulli.loss(pole(theta, x), y), theta, x, pole)
    with raises("`loss_fn` " + where + "Its gradient overflows or is undefined at these examples."):
        logistic_fisher(lambda theta, x, y: bernoulli.loss(root(theta, x), y), theta, x, root)
    with raises("`output_fn` " + where + "Its derivative overflows or is undefined at these examples."):
        bare(per_example_jacobians)(root, theta, x)
    with raises("`output_fn` " + where):
        bare(ef.gauss_newton)(root, bernoulli.loss, theta, x, Y)
    with raises("`output_loss` " + where + "Its second derivative is undefined at these examples."):
        bare(ef.gauss_newton)(lambda theta, x: theta * x, power, theta, x, Y)
    with raises("`loss_fn` must be finite; got NaN or infinity in 1 of 1 rows: 0. Its second derivative is"):
        bare(ef.hessian)(lambda theta, x, y: power(theta * x, y), theta, x, Y)


TAKE_EXAMPLES = {
    "gauss_newton": lambda loss, *data: bare(ef.gauss_newton)(
        lambda theta, x: x * theta, lambda z, y: loss(z, y, y), *data
    ),
    "hessian": bare(ef.hessian),
    "loss_changes": lambda *arguments: bare(ef.loss_changes)(*arguments, jnp.ones(2)),
}


@pytest.mark.parametrize("call", TAKE_EXAMPLES.values(), ids=TAKE_EXAMPLES)
def test_examples(call):
    def loss(theta, x, y):
        return jnp.sum(theta * x) - y

    message = "`x and y` must be arrays with one example a row, as many in y as in x; got "
    with raises(message + "shape (3, 2) and shape (4,). For one example, use x[None] and y[None]."):
        call(loss, THETA, X, jnp.ones(4))
    with raises("`x and y` must be non-empty; got 0 examples."):
        call(loss, THETA, X[:0], Y[:0])
    message = "`loss_fn` must be a function that returns one number, the loss of one example; got "
    with raises(message + "shape (2,). It gets ONE example, without a batch axis"):
        call(lambda theta, x, y: theta * x, THETA, X, Y)


def test_inputs_without_labels():
    for call in (
        lambda x: logistic_fisher(x=x),
        lambda x: bare(per_example_jacobians)(lambda theta, x: theta * x, THETA, x),
    ):
        with raises("`x and y` must be non-empty; got 0 examples. Give at least one example."):
            call(X[:0])
        with raises("`x and y` must be arrays with one example a row"):
            call(jnp.ones(()))


def test_symmetric_matrices():
    form, generalised = bare(ef.quadratic_form), bare(ef.generalised_eigenvalues)
    for argument, call in [
        ("A", lambda A: form(A, THETA)),
        ("A", lambda A: generalised(A, C)),
        ("B", lambda B: generalised(C, B)),
    ]:
        for shape in [(3, 2), (3,), (0, 0)]:
            with raises(f"`{argument}` must be square (p, p); got shape {shape}. Use empirical_fisher(G)"):
                call(jnp.ones(shape))
        got = f"got |{argument} - {argument}ᵀ| up to 0.5. "
        with raises(f"`{argument}` must be symmetric; {got}Use empirical_fisher(G), or ({argument} + "):
            call(C.at[0, 1].add(0.5))
        with raises(f"`{argument}` must be finite; got NaN or infinity in 1 of 2 rows: 0. It was computed"):
            call(C.at[0, 0].set(NAN))
    for delta in (jnp.ones(3), jnp.ones((2, 1)), jnp.ones(())):
        with raises(
            f"`delta` must be of shape (…, 2), as A is (2, 2); got shape {delta.shape}. One step a row."
        ):
            form(C, delta)
    with raises("`delta` must be an array of real numbers; got str."):
        form(C, "step")
    with raises("`B` must be of the shape of A, (2, 2); got shape (3, 3). Use the same parameters."):
        generalised(C, jnp.eye(3))


@pytest.mark.parametrize("values", [(1.0, 0.0), (1.0, -2.0), (0.0, 0.0), (1.0, 1e-8)])
def test_nothing_is_compared_with_what_costs_nothing(values):
    with raises("`B` must be positive definite; got eigenvalues from ") as caught:
        bare(ef.generalised_eigenvalues)(C, jnp.diag(jnp.array(values)))
    assert "take more examples than parameters, or add damping" in str(caught.value)


def step(A=C, g=g, **options):
    return bare(oracles.preconditioned_step)(A, g, **({"learning_rate": 1.0} | options))


PRECONDITION = {
    "precondition": lambda A=C, g=g, **options: bare(precondition)(A, g, **options),
    "step": step,
}


@pytest.mark.parametrize("call", PRECONDITION.values(), ids=PRECONDITION)
def test_precondition(call, unhooked):
    with raises(
        "`form` must be one of 'full', 'diagonal', 'root', 'diagonal root', 'none'; got 'adam'. Choose one of these."
    ):
        call(form="adam")
    for damping in (-1.0, NAN, INF):
        with raises(f"`damping` must be finite and at least 0; got {damping}. Use 0 for the pseudo-inverse"):
            call(damping=damping)
    with raises("`damping` must be one number; got shape (2,)."):
        call(damping=jnp.ones(2))

    with pytest.raises(ValueError, match=r"^`A` must be square \(p, p\); got shape \(3, 2\)"):
        call(THREE)
    with pytest.raises(ValueError, match=r"^`A` must be symmetric; got \|A - Aᵀ\| up to 0.5"):
        call(C.at[0, 1].add(0.5))
    with pytest.raises(ValueError, match=r"^`g` must be of shape \(2,\), as A is \(2, 2\); got shape \(3,\)"):
        call(g=jnp.ones(3))
    with raises("`g` must be finite; got NaN or infinity in 1 of 2 rows: 1."):
        call(g=g.at[1].set(INF))


@pytest.mark.parametrize("form", FORMS[:-1])
@pytest.mark.parametrize("call", PRECONDITION.values(), ids=PRECONDITION)
def test_another_sample(call, form):
    """Without damping the loss could fall without limit at no cost; with damping there is a step."""
    lean = jnp.diag(jnp.array([1.0, 0.0]))
    for damping in (0.0, 1e-12):  # one that rounding cannot see is none
        with pytest.raises(
            ValueError, match=r"^`g` must lie in the range of `A` when `damping` is 0"
        ) as caught:
            call(lean, jnp.ones(2), damping=damping, form=form)
        assert "got a part g⊥ of length 1 (of 1.41) outside it" in str(caught.value)
        assert "come from different examples" in str(caught.value)
    call(lean, jnp.ones(2), damping=0.1, form=form)
    call(lean, jnp.array([1.0, 0.0]), form=form)
    call(lean, jnp.ones(2), form="none")


@pytest.mark.parametrize("form", ["diagonal", "root", "diagonal root"])
@pytest.mark.parametrize("call", PRECONDITION.values(), ids=PRECONDITION)
def test_indefinite(call, form):
    """Also where the damping would lift it above 0: a root is of a cost, and a cost is not negative."""
    H = jnp.diag(jnp.array([3.0, -2.0]))
    for damping in (0.0, 0.1, 5.0):
        with raises(
            "`A` must be positive semi-definite here; got -2 among its eigenvalues or on its diagonal. "
            "A Hessian may be neither: use the form 'full'."
        ):
            call(H, g, damping=damping, form=form)
    call(H, g, form="full")
    call(H, g, form="none")


def test_a_step_that_costs_nothing_spends_no_budget():
    message = "`A` must be positive along the step; got uᵀAu = "
    options = {"learning_rate": None, "budget": 0.1}
    with raises(
        message + "0 for the direction u. No length of this step spends a budget: give a learning_rate"
    ):
        step(jnp.zeros((2, 2)), damping=0.1, **options)
    with raises(message + "-2 for the direction u."):
        step(jnp.diag(jnp.array([1.0, -0.5])), jnp.array([0.0, 1.0]), **options)
    step(jnp.zeros((2, 2)), damping=0.1)
    traced = jax.jit(lambda A: step(A, damping=0.1, **options))(jnp.zeros((2, 2)))
    assert not jnp.isfinite(traced.delta).any()  # under jit the result says it


def test_exactly_one_of_budget_and_learning_rate():
    message = "Exactly one of `budget` and `learning_rate` must be given; got "
    with raises(message + "both. A budget c fixes"):
        step(budget=0.1)
    with raises(message + "none. A budget c fixes"):
        step(learning_rate=None)
    for value in (0.0, -0.5, NAN, INF):
        with raises(f"`learning_rate` must be finite and greater than 0; got {value}. "):
            step(learning_rate=value)
        with raises(f"`budget` must be finite and greater than 0; got {value}. "):
            step(learning_rate=None, budget=value)
    with raises("`budget` must be one number; got shape (2,)."):
        step(learning_rate=None, budget=jnp.ones(2))


def test_steps_that_do_not_fit_or_lead_too_far():
    def loss(theta, x, y):
        return jnp.exp(theta[0] * x[0]) - y

    change, x = bare(ef.loss_changes), jnp.array([[1.0], [0.0], [2.0]])
    for delta in (jnp.ones(2), jnp.ones(()), jnp.ones((1, 1))):
        with raises(
            f"`delta` must be of shape (1,), one number a parameter; got shape {delta.shape}. Use Step.delta."
        ):
            change(loss, jnp.ones(1), x, Y, delta)
    with raises(
        "`delta` must be finite; got NaN or infinity in 2 of 3 rows: 0, 2. It leads where these losses are infinite"
    ):
        change(loss, jnp.ones(1), x, Y, jnp.array([1000.0]))
    with raises("`delta` must be real; got dtype complex64."):
        change(loss, jnp.ones(1), x, Y, jnp.ones(1, complex))


# Numbers at the edge of what a precision holds.

HUGE = 1e30 * THREE  # finite in float32; its squares are not
SILENT = {
    "empirical_fisher": lambda: bare(ef.empirical_fisher)(HUGE),
    "gradient_covariance": lambda: bare(ef.gradient_covariance)(HUGE),
    "quadratic_form": lambda: bare(ef.quadratic_form)(1e30 * (2 * jnp.eye(2) - 1), 1e10 * THETA),
    "generalised_eigenvalues": lambda: bare(ef.generalised_eigenvalues)(1e38 * C, 1e-5 * jnp.eye(2)),
    "precondition": lambda: bare(precondition)(1e-30 * jnp.eye(2), 1e10 * g),
    "gauss_newton": lambda: bare(ef.gauss_newton)(lambda theta, x: 1e25 * theta, gaussian.loss, THETA, X, X),
}


@pytest.mark.parametrize("call", SILENT.values(), ids=SILENT)
def test_a_result_that_is_not_finite_is_an_error(call):
    """Never a silent NaN or infinity for finite input, in eager code."""
    with pytest.raises(ValueError, match="must be "):
        call()


def test_fisher_of_least_squares_does_not_depend_on_the_size_of_the_output():
    """F = XᵀX/n, whatever θ is."""
    problem = ef.linear_regression(4)
    F = ef.fisher(
        problem.loss_fn,
        jnp.array([1e9, 1e9]),
        problem.x,
        output_fn=problem.output_fn,
        likelihood=problem.likelihood,
    )
    assert oracles.relative(F, problem.x.T @ problem.x / 4) < 1e-3


@pytest.mark.parametrize("logit", [1e2, 1e3])
def test_derivative_of_the_fisher_of_a_model_that_is_sure(logit):
    """F is p(1 - p), and so flat out there that its derivative is 0 in float32."""
    problem = ef.logistic_regression(4)

    def total(theta):
        F = ef.fisher(
            problem.loss_fn, theta, jnp.ones((3, 1)), output_fn=problem.output_fn, likelihood=bernoulli
        )
        return F.sum()

    np.testing.assert_allclose(jax.grad(total)(jnp.array([logit])), 0, atol=1e-20)
