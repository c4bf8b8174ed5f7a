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
    radii = [(2 * free, (True, False)), (1.001 * free, (True, False))]
    radii += [(short / 2, (False, True)), (0.999 * short, (False, True))]
    if free > 1.001 * short:  # one example: g is an eigenvector, and R does not grow
        radii += [(both, (True, True)) for both in (0.999 * free, (free + short) / 2, 1.001 * short)]
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


EIGENVECTORS = {
    "anisotropic": np.tile([[2.0, 1.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0]], (3, 1)),  # C = diag(4, 1, 0, 0)
    "isotropic": np.tile([[2.0, 2.0, 0.0, 0.0], [2.0, -2.0, 0.0, 0.0]], (3, 1)),  # C = diag(4, 4, 0, 0)
    "one example": np.array([[1.2, -1.6, 0.0, 0.0]]),  # C = ggᵀ, ‖g‖² = 4
    "one parameter": np.full((6, 1), 2.0),
}


@pytest.mark.parametrize("name", EIGENVECTORS)
def test_where_the_gradient_is_an_eigenvector_there_is_one_direction(name, dtype):
    """R = 4 at every ε: the shorter of the two lengths along -g, at the boundary itself too, to the last digit."""
    G, eps = jnp.asarray(EIGENVECTORS[name], dtype), oracles.unit(dtype)
    g, both = np.mean(np.asarray(G, float), axis=0), np.sqrt(BUDGET / 4)  # the radius at which both bind
    for radius in jnp.asarray(np.r_[both / 10, both * (1 + eps * np.arange(-6, 7)), both * 10], dtype):
        step = two_budgets(G, BUDGET, radius)
        assert oracles.relative(step.delta, -min(float(radius), both) * g / np.linalg.norm(g)) < 40 * eps
        assert step.budget_binds | step.radius_binds
        # Stationary in any case: 2(λ₁R + λ₂)‖Δ‖ = ‖g‖.
        pull = 2 * (4 * step.budget_multiplier + step.radius_multiplier) * step.length
        np.testing.assert_allclose(pull, np.linalg.norm(g), rtol=40 * eps)


@pytest.mark.parametrize("name", oracles.CANCELLING)
def test_no_gradient_no_step(name, dtype):
    step = two_budgets(jnp.asarray(oracles.CANCELLING[name], dtype), BUDGET, 0.1)
    for field, value in step._asdict().items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=field)
        assert value.dtype in (dtype, bool)
