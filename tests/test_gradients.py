"""Weighted sums of per-example gradients. (Gradients: test_matrices.py; some at a time: test_direction.py.)"""

import jax
import jax.numpy as jnp
import numpy as np

import efisher_teach as ef


def test_weights_are_held_constant():
    """Even where they depend on what is differentiated: d/dw is 0, and a loss that is linear has no second order."""
    problem = ef.linear_regression(12)

    def total(weights):
        return ef.weighted_gradient(problem.loss_fn, problem.params, problem.x, problem.y, weights).sum()

    assert total(2 * jnp.ones(12)) == 2 * total(jnp.ones(12)) != 0
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(12)), 0)
