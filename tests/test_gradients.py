"""Per-example losses and gradients against one example at a time. (Their weighted sums: test_gram.py.)"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import efisher_teach as ef

N = 12


def test_losses_and_gradients_are_those_of_single_examples():
    """Of a tanh network, so that params is a pytree."""
    problem = ef.digits((3,), side=4)
    loss_fn, *data = problem.loss_fn, problem.params, problem.x[:N], problem.y[:N]
    sizes = None, 5, N + 7  # 5 does not divide 12, and there are fewer than 19

    @jax.jit
    def found(*data):
        rows = [ef.per_example_gradients(loss_fn, *data, chunk_size=size) for size in sizes]
        return ef.per_example_losses(loss_fn, *data), rows

    losses, rows = found(*data)
    expected, G = oracles.singly(loss_fn, *data)
    # The same float32 operations in another order of summation: some units of rounding.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(rows, [G] * 3, rtol=1e-4, atol=1e-6)


def test_weights_are_held_constant():
    """Even where they depend on what is differentiated: d/dw is 0, and a loss that is linear has no second order."""
    problem = ef.linear_regression(N)

    def total(weights):
        return ef.weighted_gradient(problem.loss_fn, problem.params, problem.x, problem.y, weights).sum()

    assert total(2 * jnp.ones(N)) == 2 * total(jnp.ones(N)) != 0
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(N)), 0)
