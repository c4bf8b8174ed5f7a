"""The step: digit by digit, and by what it promises. (That no other step does better: test_proof.py.)"""

import re
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.optimize import root

import efisher_teach as ef
from efisher_teach.core.step import Step, step_along

EXAMPLE = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
BUDGET = 0.01


@jax.jit
def budget_step(G, damping, budget=BUDGET):
    return ef.empirical_fisher_step(G, damping=damping, budget=budget)


@jax.jit
def rate_step(G, damping, learning_rate=1.0):
    return ef.empirical_fisher_step(G, damping=damping, learning_rate=learning_rate)


def test_example_by_hand(x64):
    step = ef.empirical_fisher_step(jnp.asarray(EXAMPLE), budget=BUDGET)
    np.testing.assert_allclose(step.agreement, 61 / 69, rtol=1e-14)
    np.testing.assert_allclose(step.delta, -np.sqrt(BUDGET * 69 / 61) * np.array([11, 7]) / 23, rtol=1e-14)
    np.testing.assert_allclose(step.predicted_changes, [-0.0509, -0.1341, -0.0971], atol=5e-5)
    np.testing.assert_allclose(step.multiplier, 4.701218, atol=5e-7)


def test_it_solves_the_problem_of_the_losses_themselves_to_first_order(x64):
    """min E[Δℓ] such that E[(Δℓ)²] = c, of logistic losses, by SciPy: relative to the step it is O(√c) away."""
    x, y = np.array([[1.0, 0.5], [-0.7, 1.2], [0.3, -1.5], [1.4, 0.9]]), np.array([1.0, 0.0, 1.0, 0.0])
    theta, away = np.array([0.4, -0.3]), []

    def losses_and_gradients(theta):
        z = x @ theta
        return np.logaddexp(0, z) - y * z, (1 / (1 + np.exp(-z)) - y)[:, None] * x

    before, G = losses_and_gradients(theta)
    for unit in (1e-2, 1e-3, 1e-4):  # √c, in which the unknowns are of order 1

        def conditions(unknown, unit=unit):
            after, slopes = losses_and_gradients(theta + unit * unknown[:2])
            change = (after - before) / unit
            return np.r_[
                np.mean((1 + 2 * unknown[2] * change)[:, None] * slopes, axis=0), np.mean(change**2) - 1
            ]

        step = budget_step(G, 0.0, unit**2)
        found = root(conditions, np.r_[step.delta / unit, step.multiplier * unit], tol=1e-14).x
        assert np.abs(conditions(found)).max() < 1e-10
        away.append(oracles.relative(unit * found[:2], step.delta))
    np.testing.assert_allclose(away[:-1], 10 * np.array(away[1:]), rtol=0.1)
    assert away[0] < 0.1


# What every step promises, over the grid. Rounding is enlarged by the condition κ = (λmax + ε)/(λmin + ε).


@pytest.fixture(params=product(oracles.GRID, oracles.DAMPINGS), ids=str)
def case(request, dtype):
    return oracles.case(*request.param, dtype)


def test_step_is_the_regression(case):
    """With a budget and with a learning rate; λ = 1/(2η), so that g + 2λ(C + εI)Δ = 0 has no ½."""
    budgeted, rated = budget_step(case.G, case.damping), rate_step(case.G, case.damping, 0.3)
    assert [field.dtype for field in budgeted] == [case.G.dtype] * len(budgeted)
    # Residual first: an svd leaves eps·size·(λmax + ε)‖u‖ (see test_solve); relative to ‖g‖ that is the condition.
    size = (case.eigenvalues[0] + case.damping) * np.linalg.norm(case.u) / np.linalg.norm(case.g) + 1
    close = 5 * case.rounding * case.condition() + 3e-9  # 3e-9 for the oracle in float64 (see test_solve)
    cost = case.u @ case.C @ case.u
    for step, rate in ((budgeted, np.sqrt(BUDGET / cost)), (rated, 0.3)):
        delta = np.asarray(step.delta, float)
        assert step.residual < 5 * case.rounding * size
        assert oracles.relative(delta, -rate * case.u) < close
        np.testing.assert_allclose(step.learning_rate, rate, rtol=close)
        np.testing.assert_allclose(2 * step.multiplier * step.learning_rate, 1, rtol=case.rounding)
        np.testing.assert_allclose(step.budget_spent, rate**2 * cost, rtol=10 * close)
        left = case.g + 2 * float(step.multiplier) * (case.C @ delta + case.damping * delta)
        assert np.linalg.norm(left) < 10 * case.rounding * (size + 1) * np.linalg.norm(case.g)
    assert rated.learning_rate == np.asarray(0.3, case.G.dtype)


def test_budget_is_met(case):
    """η = √(c/uᵀCu) spends c whatever u is; GΔ is rounded relative to ‖G‖‖Δ‖, not to √c, hence the √κ."""
    step = budget_step(case.G, case.damping)
    delta, changes = np.asarray(step.delta, float), np.asarray(step.predicted_changes, float)
    spent = 20 * case.rounding * (1 + np.sqrt(case.eigenvalues[0] / BUDGET) * np.linalg.norm(delta))
    np.testing.assert_allclose(step.budget_spent, BUDGET, rtol=20 * oracles.unit(case.G.dtype))
    np.testing.assert_allclose(np.mean(changes**2), BUDGET, rtol=20 * oracles.unit(case.G.dtype))
    np.testing.assert_allclose(delta @ case.C @ delta, BUDGET, rtol=spent)
    error = np.linalg.norm(changes - np.asarray(case.G, float) @ delta)
    assert error < np.sqrt(len(changes) * BUDGET) * spent


def test_what_else_a_step_says_of_itself(case):
    """ρ = gᵀC⁺g whatever ε, α = (K + εI)⁻¹1/n, effective rank tr C(C + εI)⁻¹, the fraction of losses that rise."""
    step, n = budget_step(case.G, case.damping), len(case.K)
    # Cosines of subspaces: an svd turns them by eps·size·σmax/σmin, at most 10 here.
    np.testing.assert_allclose(step.agreement, oracles.agreement(case.G), rtol=0, atol=100 * case.rounding)
    close = 20 * case.rounding * (case.eigenvalues[0] + case.damping) / (case.damping or case.eigenvalues[-1])
    if close < 0.1:
        expected = case.inverse.sum(axis=1) / n
        np.testing.assert_allclose(step.coefficients, expected, rtol=0, atol=close * np.abs(expected).max())
        np.testing.assert_allclose(step.effective_rank, np.trace(case.inverse @ case.K), rtol=close)
        np.testing.assert_allclose(step.worse, np.mean(n * case.K @ expected < -1e-6), rtol=1e-6)


def test_step_along_a_direction(dtype):
    """The step that costs c: √(c/uᵀCu) u; 0 along a direction that costs nothing."""
    G, u = oracles.GRID["tall"], np.array([1.0, -2.0, 0.5, 3.0])
    free = jnp.asarray(np.pad(G, ((0, 0), (0, 1))), dtype)  # the last parameter changes no loss
    expected = np.append(np.sqrt(BUDGET / (u @ oracles.empirical_fisher(G) @ u)) * u, 0)
    for direction, delta in [(np.append(u, 0), expected), (np.eye(5)[-1], np.zeros(5)), (np.zeros(5),) * 2]:
        moved = step_along(free, jnp.asarray(direction, dtype), BUDGET)
        assert moved.dtype == dtype
        np.testing.assert_allclose(moved, delta, rtol=200 * oracles.unit(dtype))


@pytest.mark.parametrize("damping", oracles.DAMPINGS)
@pytest.mark.parametrize("name", ["wide", "tall", "duplicated"])
def test_targeted_step_is_the_regression(name, damping, x64):
    """argmin E[(gᵢᵀΔ + tᵢ)²] + ε‖Δ‖², by lstsq; with a budget, the same direction at the cost c."""
    G = oracles.GRID[name]
    target = np.random.default_rng(5).normal(size=len(G))
    step = ef.targeted_step(jnp.asarray(G), jnp.asarray(target), damping=damping)
    assert step.learning_rate == 1
    assert oracles.relative(step.delta, -oracles.direction(G, damping, target)) < 1e-7
    spent = ef.targeted_step(jnp.asarray(G), jnp.asarray(target), damping=damping, budget=BUDGET)
    np.testing.assert_allclose(spent.delta, step.delta * np.sqrt(BUDGET / step.budget_spent), rtol=1e-9)
    projected = G @ oracles.direction(G, 0.0, target)
    np.testing.assert_allclose(step.agreement, projected @ projected / (target @ target), rtol=1e-9)
    # An equal target is a learning rate; what is said of the target is said in its unit.
    equal = ef.targeted_step(jnp.asarray(G), jnp.full(len(G), 0.3), damping=damping)
    rated = rate_step(G, damping, 0.3)
    for field in set(Step._fields) - {"residual", "learning_rate", "multiplier"}:
        wanted = getattr(rated, field) * (0.3 if field == "coefficients" else 1)
        np.testing.assert_allclose(getattr(equal, field), wanted, rtol=1e-9, atol=1e-12, err_msg=field)
    assert (equal.learning_rate, equal.multiplier) == (1, 0.5)


# No gradient, no step.


def assert_nothing(step, dtype):
    for field, value in zip(Step._fields, step, strict=True):
        assert value.dtype == dtype
        assert jnp.isfinite(value).all(), field
        if field not in ("learning_rate", "effective_rank"):
            np.testing.assert_array_equal(value, 0, err_msg=field)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("name", oracles.CANCELLING)
def test_no_gradient_no_step(name, damping, dtype):
    G = jnp.asarray(oracles.CANCELLING[name], dtype)
    # A budget that nothing spends has no rate; a rate is reported as it was given.
    for step, rate in ((budget_step(G, damping), 0), (rate_step(G, damping, 0.5), 0.5)):
        assert step.learning_rate == rate
        assert_nothing(step, dtype)


@pytest.mark.parametrize("budget", [None, BUDGET])
def test_no_target_no_step(budget, dtype):
    """Nothing is asked for; or what no combination of the gradients can give, t ⟂ col(G)."""
    G = jnp.asarray([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], dtype)
    for target, damping in product(([0.0, 0.0, 0.0], [1.0, -1.0, 0.0]), (0.0, 0.1)):
        step = ef.targeted_step(G, jnp.asarray(target, dtype), damping=damping, budget=budget)
        assert_nothing(step, dtype)


def test_who_does_not_move_is_not_worse(x64):
    """Half of the gradients are orthogonal to the step: ρ = ½ and none gets worse, whatever rounding makes of 0."""
    G = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for angle in np.arange(8.0):
        step = budget_step(G @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], 0.0)
        assert step.worse == 0
        np.testing.assert_allclose(step.agreement, 0.5, rtol=10 * oracles.unit("float64"))


def test_a_large_parameter_that_cancels_does_not_hide_a_small_one():
    """Rounding is judged parameter by parameter: the first column cancels, the second has a mean of 1."""
    step = ef.empirical_fisher_step(jnp.array([[3e6, 1.0], [-3e6, 1.0]], jnp.float32), budget=BUDGET)
    np.testing.assert_allclose(step.delta, [0, -0.1], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_loss_does_not_matter_without_damping(scale):
    """Loss times a: Δ times 1/a, in float32 too. (What is beyond, test_messages.py refuses.)"""
    one, other = (budget_step(jnp.asarray(a * EXAMPLE, jnp.float32), 0.0).delta for a in (1, scale))
    assert oracles.relative(other * scale, one) < 1e-5


# The path, jit, vmap, derivatives. (Precision: test_entrance.py.)


def assert_alike(found, expected):
    """Steps with a leading axis, and the same steps one by one."""
    for k, step in enumerate(expected):
        for field, along, value in zip(Step._fields, found, step, strict=True):
            assert along.shape == (len(expected), *value.shape), field
            assert along.dtype == value.dtype
            # The residual is rounding itself: only its size means something.
            atol = oracles.unit(value.dtype) * (1000 * np.abs(value).max() + 100 * (field == "residual"))
            np.testing.assert_allclose(along[k], value, rtol=0, atol=atol, err_msg=field)


@pytest.mark.parametrize("name", ["wide", "tall", "deficient"])
def test_path_and_vmap_are_made_of_single_steps(name, dtype):
    G, step = jnp.asarray(oracles.GRID[name], dtype), partial(ef.empirical_fisher_step, budget=BUDGET)
    path = ef.damping_path(G, jnp.asarray(oracles.DAMPINGS, dtype), BUDGET)
    assert_alike(path, [step(G, damping=damping) for damping in oracles.DAMPINGS])
    stack = jnp.stack([G, 2 * G, G[::-1]])
    assert_alike(jax.vmap(budget_step, (0, None))(stack, 0.1), [step(each, damping=0.1) for each in stack])


def test_path_factors_once():
    """One svd, of one matrix, for thirty dampings; and nothing else is factored."""
    G, dampings = jnp.asarray(oracles.GRID["wide"], jnp.float32), jnp.logspace(-3, 3, 30)
    text = str(jax.make_jaxpr(lambda G: ef.damping_path(G, dampings, BUDGET))(G))
    assert text.count("f32[4,6] = svd[") == text.count("= svd[") == 1
    assert not re.search("= (eigh|cholesky|lu|qr)", text)


@pytest.mark.parametrize("name", ["wide", "tall", "duplicated"])
def test_derivative_by_damping_budget_and_learning_rate(name, x64):
    """Right where G is held constant; the residual, which is rounding, is left out."""
    G = jnp.asarray(oracles.GRID[name])
    oracles.check_derivative(
        lambda *scalars: budget_step(G, *scalars)[:6], jnp.asarray(0.1), jnp.asarray(0.2)
    )
    oracles.check_derivative(lambda rate: rate_step(G, 0.1, rate).delta, jnp.asarray(0.3))
