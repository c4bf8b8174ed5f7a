"""The step of two budgets: where each binds, the conditions of optimality, and a solver that knows nothing of them."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.optimize import minimize

import efisher_teach as ef

BUDGET = 0.01
two_budgets = jax.jit(ef.two_budget_step)


def test_optimality(dtype):
    """g + 2λ₁CΔ + 2λ₂Δ = 0 with λ ≥ 0, both budgets kept, and a budget that does not bind has the multiplier 0."""
    for name in ("wide", "tall", "deficient", "duplicated", "one example"):
        G = jnp.asarray(oracles.GRID[name], dtype)
        g, C, undamped = oracles.mean_gradient(G), oracles.empirical_fisher(G), oracles.direction(G, 0.0)
        free = np.linalg.norm(undamped) * np.sqrt(BUDGET / (undamped @ C @ undamped))
        short = np.linalg.norm(g) * np.sqrt(BUDGET / (g @ C @ g))
        for radius, binding in [
            (2 * free, (True, False)),
            ((free + short) / 2, (True, True)),
            (short / 2, (False, True)),
        ]:
            if binding == (True, True) and free < 1.001 * short:
                continue  # one example: g is an eigenvector, and R does not grow
            step = two_budgets(G, BUDGET, radius)
            assert (bool(step.budget_binds), bool(step.radius_binds)) == binding
            delta = np.asarray(step.delta, float)
            first, second = float(step.budget_multiplier), float(step.radius_multiplier)
            left = g + 2 * first * C @ delta + 2 * second * delta
            assert np.linalg.norm(left) < 5000 * oracles.unit(dtype) * np.linalg.norm(g)
            assert min(first, second) >= 0
            assert (first > 0, second > 0) == binding
            close = 1 + 1000 * oracles.unit(dtype)
            assert delta @ C @ delta <= BUDGET * close
            assert np.linalg.norm(delta) <= radius * close
            np.testing.assert_allclose(step.budget_spent, delta @ C @ delta, rtol=close - 1)
            np.testing.assert_allclose(step.length, np.linalg.norm(delta), rtol=close - 1)
            np.testing.assert_allclose(
                step.predicted_changes, np.asarray(G, float) @ delta, rtol=0, atol=close - 1
            )
            if all(binding):
                np.testing.assert_allclose([step.budget_spent, step.length], [BUDGET, radius], rtol=close - 1)
                np.testing.assert_allclose(step.damping, second / first, rtol=close - 1)
                np.testing.assert_allclose(step.learning_rate, 1 / (2 * first), rtol=close - 1)
            else:
                assert step.damping == (0 if binding[0] else np.inf)


def test_a_solver_that_knows_nothing_finds_the_same_step(x64):
    """SLSQP on min gᵀΔ such that ΔᵀCΔ ≤ c and ‖Δ‖ ≤ r, both binding; and the damped step of ε = λ₂/λ₁ is the same."""
    G = np.asarray(oracles.GRID["tall"])
    damped = ef.empirical_fisher_step(jnp.asarray(G), damping=0.05, budget=BUDGET)
    radius = float(jnp.linalg.norm(damped.delta))
    step = two_budgets(jnp.asarray(G), BUDGET, radius)
    np.testing.assert_allclose(step.damping, 0.05, rtol=1e-9)
    np.testing.assert_allclose(step.delta, damped.delta, rtol=1e-9)
    C, g = oracles.empirical_fisher(G), oracles.mean_gradient(G)
    constraints = [
        {"type": "ineq", "fun": lambda d: 1 - d @ C @ d / BUDGET, "jac": lambda d: -2 * C @ d / BUDGET},
        {"type": "ineq", "fun": lambda d: 1 - d @ d / radius**2, "jac": lambda d: -2 * d / radius**2},
    ]
    options = {"ftol": 1e-11, "maxiter": 500}
    found = minimize(
        lambda d: 100 * g @ d,
        -0.01 * g,
        jac=lambda d: 100 * g,
        constraints=constraints,
        method="SLSQP",
        options=options,
    )
    assert found.success
    np.testing.assert_allclose(g @ found.x, g @ step.delta, rtol=1e-7)
    # A flat optimum: an objective good to 1e-8 pins the step to its square root.
    np.testing.assert_allclose(found.x, step.delta, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "G", [np.zeros((3, 2)), np.array([[1.0, 2.0], [-1.0, -2.0]])], ids=["nothing", "cancelling"]
)
def test_no_gradient_no_step(G, dtype):
    step = two_budgets(jnp.asarray(G, dtype), BUDGET, 0.1)
    assert not step.budget_binds | step.radius_binds
    for name, value in step._asdict().items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=name)
        assert value.dtype in (dtype, bool)
