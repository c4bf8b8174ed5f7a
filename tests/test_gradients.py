"""Per-example losses and gradients, and their weighted sums, against one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import efisher_teach as ef

N = 12


def few(problem):
    """The first examples of a problem, as the arguments of every function here."""
    return problem.loss_fn, problem.params, problem.x[:N], problem.y[:N]


@pytest.fixture(scope="module")
def digits():
    """A tanh network: params is a pytree."""
    return few(ef.digits((3,)))


def test_losses_and_gradients_are_those_of_single_examples(digits):
    loss_fn, params, x, y = digits
    losses, G = ef.per_example_losses(*digits), ef.per_example_gradients(*digits)
    assert losses.shape == (N,)
    assert G.shape == (N, ravel_pytree(params)[0].size)
    # The same float32 operations in another order of summation: some units of rounding, 1e-6 with 64 inputs.
    np.testing.assert_allclose(losses, [loss_fn(params, x[i], y[i]) for i in range(N)], rtol=1e-5)
    np.testing.assert_allclose(G, oracles.gradients(*digits), rtol=1e-4, atol=1e-6)


def test_gradients_have_their_closed_forms(dtype):
    theta = jnp.asarray([0.3, -0.7])
    linear, logistic = ef.linear_regression(N), ef.logistic_regression(N)
    x, y = np.asarray(linear.x, float), np.asarray(linear.y, float)
    G = ef.per_example_gradients(linear.loss_fn, theta, linear.x, linear.y)
    assert G.dtype == dtype
    close = {
        "rtol": 20 * oracles.unit(dtype),
        "atol": 20 * oracles.unit(dtype),
    }  # a dozen operations on numbers ~ 1
    np.testing.assert_allclose(G, -(y - x @ theta)[:, None] * x, **close)
    x, y = np.asarray(logistic.x, float), np.asarray(logistic.y, float)
    G = ef.per_example_gradients(logistic.loss_fn, theta, logistic.x, logistic.y)
    np.testing.assert_allclose(G, (1 / (1 + np.exp(-x @ theta)) - y)[:, None] * x, **close)


@pytest.mark.usefixtures("x64")
def test_gradients_are_directional_derivatives():
    """Central differences in float64, h = 1e-5: wrong by h² ~ 1e-10 and rounding/h ~ 1e-11."""
    problem, h = ef.logistic_regression(N, 3), 1e-5
    v, theta = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.2, 0.1, -0.4])

    def losses(theta):
        return ef.per_example_losses(problem.loss_fn, theta, problem.x, problem.y)

    change = (losses(theta + h * v) - losses(theta - h * v)) / (2 * h)
    G = ef.per_example_gradients(problem.loss_fn, theta, problem.x, problem.y)
    np.testing.assert_allclose(G @ v, change, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ef.mean_gradient(G) @ v, change.mean(), rtol=1e-7, atol=1e-9)


def test_mean_gradient_is_the_gradient_of_the_mean_loss(digits):
    loss_fn, params, x, y = digits
    gradient = jax.grad(lambda params: jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(params, x, y)))(params)
    g = ef.mean_gradient(ef.per_example_gradients(*digits))
    assert (
        oracles.relative(g, ravel_pytree(gradient)[0]) < 1e-5
    )  # float32, sums of 12 terms that partly cancel


@pytest.mark.parametrize("name", oracles.GRID)
def test_mean_gradient_is_the_loop(name, dtype):
    G = jnp.asarray(oracles.GRID[name], dtype)
    g = ef.mean_gradient(G)
    assert g.dtype == dtype
    np.testing.assert_allclose(
        g, oracles.mean_gradient(G), rtol=0, atol=10 * oracles.unit(dtype) * abs(G).max()
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 11, N, N + 7])
def test_chunks_do_not_show(chunk_size):
    """1 and 2 divide n = 12, 5 and 11 do not, N + 7 is more than there are."""
    problem = few(ef.logistic_regression(N, 3))
    G = ef.per_example_gradients(*problem, chunk_size=chunk_size)
    # Batches of another size may sum in another order: rounding only.
    np.testing.assert_allclose(G, ef.per_example_gradients(*problem), rtol=1e-5, atol=1e-6)


def test_examples_may_be_pytrees():
    x = {"a": jnp.arange(3.0), "b": jnp.ones((3, 2))}
    G = ef.per_example_gradients(
        lambda theta, x, y: y * (theta[0] * x["a"] + theta[1] * x["b"].sum()),
        jnp.zeros(2),
        x,
        jnp.arange(3.0),
    )
    np.testing.assert_array_equal(G, [[0, 0], [1, 2], [4, 4]])


def test_weighted_gradient_is_the_weighted_sum_of_rows(digits):
    params = digits[1]
    weights = jnp.asarray(np.random.default_rng(1).normal(size=N), jnp.float32)
    found = ef.weighted_gradient(*digits, weights)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
    G = oracles.gradients(*digits)
    expected = sum(float(weights[i]) * G[i] for i in range(N))
    assert oracles.relative(ravel_pytree(found)[0], expected) < 1e-5  # float32, 12 terms of either sign


def test_weights_of_the_mean_give_the_mean_gradient(digits):
    found = ef.weighted_gradient(*digits, jnp.full(N, 1 / N))
    assert (
        oracles.relative(ravel_pytree(found)[0], ef.mean_gradient(ef.per_example_gradients(*digits))) < 1e-5
    )


def test_weights_are_held_constant():
    """Even where they depend on what is differentiated: d/dw is 0, and a loss that is linear has no second order."""
    problem = ef.linear_regression(N)

    def total(weights):
        return ef.weighted_gradient(problem.loss_fn, problem.params, problem.x, problem.y, weights).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(N)), 0)
    weights = jnp.ones(N)
    assert total(2 * weights) == 2 * total(weights) != 0
    by_theta = jax.grad(lambda a: total(a * weights))(1.0)
    assert by_theta == 0


def test_weighted_gradient_gives_the_dual_step(digits):
    """G is never formed: u = ∇ Σ wᵢℓᵢ with w = (K + εI)⁻¹1/n."""
    G = oracles.gradients(*digits)
    weights = np.linalg.solve(oracles.gram(G) + 0.1 * np.eye(N), np.ones(N)) / N
    found = ravel_pytree(ef.weighted_gradient(*digits, jnp.asarray(weights, jnp.float32)))[0]
    assert (
        oracles.relative(found, oracles.direction(G, 0.1)) < 1e-4
    )  # float32 times the condition of K + εI ~ 100
