"""Per-example losses and gradients against one example at a time. (Their weighted sums: test_gram.py.)"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import efisher_teach as ef

N = 12


def test_losses_and_gradients_are_those_of_single_examples():
    """Of a tanh network, so that params is a pytree."""
    problem = ef.digits((3,))
    digits = loss_fn, params, x, y = problem.loss_fn, problem.params, problem.x[:N], problem.y[:N]
    losses, G = ef.per_example_losses(*digits), ef.per_example_gradients(*digits)
    # The same float32 operations in another order of summation: some units of rounding, 1e-6 with 64 inputs.
    alone = jax.jit(loss_fn)
    np.testing.assert_allclose(losses, [alone(params, x[i], y[i]) for i in range(N)], rtol=1e-5)
    np.testing.assert_allclose(G, oracles.gradients(*digits), rtol=1e-4, atol=1e-6)
    for chunk_size in (5, N + 7):  # 5 does not divide 12, and there are fewer than 19
        chunked = ef.per_example_gradients(*digits, chunk_size=chunk_size)
        np.testing.assert_allclose(chunked, G, rtol=1e-5, atol=1e-6)


def test_weights_are_held_constant():
    """Even where they depend on what is differentiated: d/dw is 0, and a loss that is linear has no second order."""
    problem = ef.linear_regression(N)

    def total(weights):
        return ef.weighted_gradient(problem.loss_fn, problem.params, problem.x, problem.y, weights).sum()

    assert total(2 * jnp.ones(N)) == 2 * total(jnp.ones(N)) != 0
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(N)), 0)
