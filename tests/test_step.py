"""The step, by what it promises. (That no other step does better: test_proof.py.)"""

import re
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.core.step import Step, step_along

BUDGET = 0.01


@jax.jit
def budget_step(G, damping, budget=BUDGET):
    return ef.empirical_fisher_step(G, damping=damping, budget=budget)


@jax.jit
def rate_step(G, damping, learning_rate=1.0):
    return ef.empirical_fisher_step(G, damping=damping, learning_rate=learning_rate)


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
    close = (
        5 * case.rounding * oracles.condition(case) + 3e-9
    )  # 3e-9 for the oracle in float64 (see test_solve)
    few, G, cost = 20 * oracles.unit(case.G.dtype), np.asarray(case.G, float), case.u @ case.C @ case.u
    for step, rate in ((budgeted, np.sqrt(BUDGET / cost)), (rated, 0.3)):
        delta, changes = np.asarray(step.delta, float), np.asarray(step.predicted_changes, float)
        assert step.residual < 5 * case.rounding * size
        assert oracles.relative(delta, -rate * case.u) < close
        np.testing.assert_allclose(step.learning_rate, rate, rtol=close)
        np.testing.assert_allclose(2 * step.multiplier * step.learning_rate, 1, rtol=case.rounding)
        left = case.g + 2 * float(step.multiplier) * (case.C @ delta + case.damping * delta)
        assert np.linalg.norm(left) < 10 * case.rounding * (size + 1) * np.linalg.norm(case.g)
        lost = np.linalg.norm(changes - G @ delta)
        assert lost < 40 * case.rounding * np.linalg.norm(G, 2) * np.linalg.norm(delta)
        np.testing.assert_allclose(step.budget_spent, np.mean(changes**2), rtol=few)
    # To rounding, whatever u is.
    np.testing.assert_allclose(budgeted.budget_spent, BUDGET, rtol=few)
    assert rated.learning_rate == np.asarray(0.3, case.G.dtype)


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


def assert_nothing(step, dtype, rate):
    for field, value in step._asdict().items():
        assert value.dtype == dtype
        assert jnp.isfinite(value).all(), field
        if field != "effective_rank":
            np.testing.assert_array_equal(value, rate if field == "learning_rate" else 0, err_msg=field)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_no_gradient_or_target_no_step(damping, dtype):
    """A budget that nothing spends has no rate; a rate is reported as it was given."""
    for rows in oracles.CANCELLING.values():
        G = jnp.asarray(rows, dtype)
        assert_nothing(budget_step(G, damping), dtype, 0)
        assert_nothing(rate_step(G, damping, 0.5), dtype, 0.5)
    # Nothing is asked for; or what no combination of the gradients can give, t ⟂ col(G).
    G = jnp.asarray([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], dtype)
    for target, budget in product(([0.0, 0.0, 0.0], [1.0, -1.0, 0.0]), (None, BUDGET)):
        step = ef.targeted_step(G, jnp.asarray(target, dtype), damping=damping, budget=budget)
        assert_nothing(step, dtype, 1 if budget is None else 0)


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


def test_the_scale_of_the_loss_does_not_matter_without_damping():
    """Loss times a: Δ times 1/a, in float32 too. (What is beyond, test_messages.py refuses.)"""
    one, *others = (
        scale * budget_step(jnp.asarray(scale * oracles.GRID["tall"], jnp.float32), 0.0).delta
        for scale in (1, 1e-12, 1e12)
    )
    assert max(oracles.relative(other, one) for other in others) < 1e-5


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
