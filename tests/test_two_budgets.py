"""The step of two budgets: where each binds, and the conditions that only the best step meets."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef

BUDGET = 0.01
two_budgets = jax.jit(ef.two_budget_step)


@pytest.mark.parametrize("name", ["wide", "tall", "deficient", "duplicated", "one example"])
def test_optimality(name, dtype):
    """g + 2λ₁CΔ + 2λ₂Δ = 0 with λ ≥ 0, both budgets kept, and a budget that does not bind has the multiplier 0.

    As the problem is convex, no other step than the best one meets them.
    """
    G, eps = jnp.asarray(oracles.GRID[name], dtype), oracles.unit(dtype)
    g, C, undamped = oracles.mean_gradient(G), oracles.empirical_fisher(G), oracles.direction(G, 0.0)
    free = np.linalg.norm(undamped) * np.sqrt(BUDGET / (undamped @ C @ undamped))
    short = np.linalg.norm(g) * np.sqrt(BUDGET / (g @ C @ g))
    radii = [(2 * free, (True, False)), (short / 2, (False, True))]
    if free > 1.001 * short:  # one example: g is an eigenvector, and R does not grow
        radii.append(((free + short) / 2, (True, True)))
    for radius, binding in radii:
        step, close = two_budgets(G, BUDGET, radius), 1000 * eps
        assert (step.budget_binds, step.radius_binds) == binding
        first, second = float(step.budget_multiplier), float(step.radius_multiplier)
        delta = np.asarray(step.delta, float)
        left = g + 2 * first * C @ delta + 2 * second * delta
        assert np.linalg.norm(left) < 5 * close * np.linalg.norm(g)
        assert (first > 0, second > 0) == binding
        assert min(first, second) >= 0
        np.testing.assert_allclose(step.budget_spent, delta @ C @ delta, rtol=close)
        np.testing.assert_allclose(step.length, np.linalg.norm(delta), rtol=close)
        np.testing.assert_allclose(step.predicted_changes, np.asarray(G, float) @ delta, rtol=0, atol=close)
        assert step.budget_spent <= BUDGET * (1 + close)
        assert step.length <= radius * (1 + close)
        damping = second / first if all(binding) else 0 if binding[0] else np.inf
        np.testing.assert_allclose(step.damping, damping, rtol=close)
        np.testing.assert_allclose(step.learning_rate, 1 / (2 * first) if first else np.inf, rtol=close)
        if all(binding):
            np.testing.assert_allclose([step.budget_spent, step.length], [BUDGET, radius], rtol=close)


@pytest.mark.parametrize(
    "G", [np.zeros((3, 2)), np.array([[1.0, 2.0], [-1.0, -2.0]])], ids=["nothing", "cancelling"]
)
def test_no_gradient_no_step(G, dtype):
    for name, value in two_budgets(jnp.asarray(G, dtype), BUDGET, 0.1)._asdict().items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=name)
        assert value.dtype in (dtype, bool)
