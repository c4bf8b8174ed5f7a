"""The matrices that people confuse, and what a model believes about its labels: by loops and by identities."""

import itertools
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

import efisher_teach as ef
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.likelihoods import bernoulli, categorical, gaussian


@pytest.fixture(name="G", params=oracles.GRID)
def gradients(request, dtype):
    return jnp.asarray(oracles.GRID[request.param], dtype)


def rounding(G):
    """A sum of at most six products of numbers up to max|G|: twelve roundings, of the largest term."""
    return 12 * oracles.unit(G.dtype) * float(jnp.abs(G).max()) ** 2


# C, K and the covariance Σ.


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


def test_covariance_does_not_see_a_gradient_that_all_share():
    """In float32 C - ggᵀ would lose eps·10⁶ ~ 0.1 here. An error e of the mean costs e², and e ≤ 6 eps·10³."""
    G = jnp.asarray(oracles.GRID["tall"] + 1000, jnp.float32)
    deviation = np.abs(np.asarray(G, float) - oracles.mean_gradient(G)).max()
    eps = oracles.unit(jnp.float32)
    close = (6 * eps * 1000) ** 2 + 48 * eps * deviation**2
    np.testing.assert_allclose(ef.gradient_covariance(G), covariance(G), rtol=0, atol=close)


# Likelihoods.


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


# The Fisher, the Gauss-Newton matrix and the Hessian of a network, for every likelihood.


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
        score = belief.mean(z).reshape(-1) - statistic(belief.likelihood, belief.shape, case.y[i])
        np.testing.assert_allclose(found.G[i], J.T @ score, rtol=1e-12, atol=1e-13)
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


def test_hessian_is_the_difference_of_gradients(case):
    """Central differences, h = 1e-5: wrong by h²f⁽⁴⁾ ~ 1e-10 and by rounding/h ~ 1e-11."""
    theta, unravel = ravel_pytree(case.params)

    def mean_loss(theta):
        return jnp.mean(jax.vmap(lambda x, y: case.loss_fn(unravel(theta), x, y))(case.x, case.y))

    h, H, gradient = 1e-5, exact(case).H, jax.jit(jax.grad(mean_loss))
    columns = [(gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h) for e in np.eye(theta.size)]
    np.testing.assert_allclose(H, columns, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(H, H.T)


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


# A loss that is no likelihood.


def logistic(params, x, y):
    return bernoulli.loss(x @ params, y)


def squared(params, x, y):
    return (x @ params - y) ** 2


def outputs(params, x):
    return x @ params


def logits(params, x):
    return x * params


def smoothed(params, x, y):
    log_p = jax.nn.log_softmax(logits(params, x))
    return -0.9 * log_p[y] - 0.1 * log_p.mean()


NO_LIKELIHOOD = {
    "weight decay": (
        lambda params, x, y: logistic(params, x, y) + 0.01 * params @ params,
        outputs,
        bernoulli,
    ),
    "class weights": (lambda params, x, y: (1 + y) * logistic(params, x, y), outputs, bernoulli),
    "label smoothing": (lambda params, x, y: logistic(params, x, 0.9 * y + 0.05), outputs, bernoulli),
    "another link": (lambda params, x, y: (jax.nn.sigmoid(x @ params) - y) ** 2, outputs, bernoulli),
    "a temperature": (lambda params, x, y: bernoulli.loss(x @ params / 2, y), outputs, bernoulli),
    "maximised": (lambda params, x, y: -logistic(params, x, y), outputs, bernoulli),
    "no ½": (squared, outputs, gaussian),
    "smoothed classes": (smoothed, logits, categorical),
    "the wrong likelihood": (logistic, outputs, gaussian),
}


@pytest.mark.parametrize("name", NO_LIKELIHOOD)
def test_a_loss_that_is_no_likelihood_has_no_fisher(name):
    """Nor has it one with sampled labels. Under jit no value is known, and there is no error."""
    loss_fn, output_fn, likelihood = NO_LIKELIHOOD[name]
    for options in ({}, {"sampled": 3, "key": jax.random.key(0)}):
        call = partial(ef.fisher, loss_fn, output_fn=output_fn, likelihood=likelihood, **options)
        match = f"of the {likelihood.name} likelihood, up to a constant; got gradients that differ from its by up to"
        with pytest.raises(ValueError, match=match):
            call(jnp.ones(2), jnp.ones((3, 2)))
    jax.jit(call)(jnp.ones(2), jnp.ones((3, 2)))


def test_a_constant_in_the_loss_is_free():
    F = ef.fisher(
        lambda *example: squared(*example) / 2 + 7,
        jnp.ones(2),
        jnp.ones((3, 2)),
        output_fn=outputs,
        likelihood=gaussian,
    )
    np.testing.assert_allclose(F, 1, rtol=1e-6)


# ΔᵀAΔ, and ratios of A to B.


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


# Measured changes of the losses.


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
