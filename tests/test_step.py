"""The step: digit by digit, by what it promises, and by what no other step can do."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

import efisher_teach as ef
from efisher_teach.core.step import Step, step_along

EXAMPLE = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])  # facts 1.1
BUDGET = 0.01


@jax.jit
def budget_step(G, damping, budget=BUDGET):
    return ef.empirical_fisher_step(G, damping=damping, budget=budget)


@jax.jit
def rate_step(G, damping, learning_rate=1.0):
    return ef.empirical_fisher_step(G, damping=damping, learning_rate=learning_rate)


@pytest.fixture(name="G", params=oracles.GRID)
def gradients(request, dtype):
    return jnp.asarray(oracles.GRID[request.param], dtype)


def normal(seed, wide):
    """Gradients without structure, in one of two shapes."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(3, 5) if wide else (5, 3)))


# The fact sheet, digit by digit.


def test_example_of_the_fact_sheet(x64):
    step = ef.empirical_fisher_step(jnp.asarray(EXAMPLE), budget=BUDGET)
    g = np.array([1, 4 / 3])
    np.testing.assert_allclose(step.agreement, 61 / 69, rtol=1e-14)
    np.testing.assert_allclose(step.delta, -np.sqrt(BUDGET * 69 / 61) * np.array([11, 7]) / 23, rtol=1e-14)
    np.testing.assert_allclose(step.delta, [-0.050866, -0.032369], atol=5e-7)
    np.testing.assert_allclose(g @ step.delta, -0.0940243570, atol=5e-11)
    np.testing.assert_allclose(step.predicted_changes, [-0.0509, -0.1341, -0.0971], atol=5e-5)
    # facts 1.1 has μ = 9.402436 in front of (ΔᵀCΔ - c)/2; without the ½ it is half of that.
    np.testing.assert_allclose(step.multiplier, np.sqrt(61 / 69 / BUDGET) / 2, rtol=1e-14)
    np.testing.assert_allclose(step.multiplier, 9.402436 / 2, atol=5e-7)
    np.testing.assert_allclose(step.learning_rate, np.sqrt(BUDGET * 69 / 61), rtol=1e-14)


# What every step promises, over the grid.


@pytest.mark.parametrize("damping", oracles.DAMPINGS)
def test_step_is_the_regression_and_the_budget_is_met(G, damping):
    step = budget_step(G, damping)
    assert [field.dtype for field in step] == [G.dtype] * len(step)
    values, eps = oracles.eigenvalues(G), oracles.unit(G.dtype)
    # Residual first: an svd leaves eps·size·(λmax + ε)‖u‖ (see test_solve); relative to ‖g‖ that is the condition.
    u = oracles.direction(G, damping)
    size = (values[0] + damping) * np.linalg.norm(u) / np.linalg.norm(oracles.mean_gradient(G)) + 1
    assert step.residual < 5 * max(G.shape) * eps * size
    C = oracles.empirical_fisher(G)
    # Values: eps·size·(λmax + ε)/(λmin + ε); 3e-9 for the oracle in float64 (see test_solve).
    close = 5 * max(G.shape) * eps * (values[0] + damping) / (values[-1] + damping) + 3e-9
    assert oracles.relative(step.delta, -u * np.sqrt(BUDGET / (u @ C @ u))) < close
    # η = √(c/uᵀCu) spends c whatever u is; GΔ is rounded relative to ‖G‖‖Δ‖, not to √c, hence the √κ in this sum.
    delta = np.asarray(step.delta, float)
    spent = 20 * max(G.shape) * eps * (1 + np.sqrt(values[0] / BUDGET) * np.linalg.norm(delta))
    np.testing.assert_allclose(step.budget_spent, BUDGET, rtol=20 * eps)
    np.testing.assert_allclose(delta @ C @ delta, BUDGET, rtol=spent)
    np.testing.assert_allclose(np.mean(np.asarray(step.predicted_changes, float) ** 2), BUDGET, rtol=20 * eps)
    error = np.asarray(step.predicted_changes, float) - np.asarray(G, float) @ delta
    assert np.linalg.norm(error) < np.sqrt(len(G) * BUDGET) * spent


@pytest.mark.parametrize("damping", oracles.DAMPINGS)
def test_step_is_stationary(G, damping):
    """g + 2λ(C + εI)Δ = 0, without ½, with a budget or a learning rate; and λ = 1/(2η)."""
    g, C = oracles.mean_gradient(G), oracles.empirical_fisher(G)
    for step in (budget_step(G, damping), rate_step(G, damping, 0.3)):
        delta, multiplier = np.asarray(step.delta, float), float(step.multiplier)
        cost = 2 * multiplier * (C @ delta + damping * delta)
        size = 2 * multiplier * (np.trace(C) + damping) * np.linalg.norm(delta)
        assert np.linalg.norm(g + cost) < 10 * max(G.shape) * oracles.unit(G.dtype) * (
            size + np.linalg.norm(g)
        )
        np.testing.assert_allclose(2 * multiplier * step.learning_rate, 1, rtol=10 * oracles.unit(G.dtype))


def test_learning_rate_scales_the_step(G):
    one, half = rate_step(G, 0.1, 1.0), rate_step(G, 0.1, 0.5)
    assert one.learning_rate == 1
    assert oracles.relative(half.delta, one.delta / 2) < 10 * oracles.unit(G.dtype)
    u = oracles.direction(G, 0.1)
    spent = u @ oracles.empirical_fisher(G) @ u  # η²uᵀCu, facts 2.6
    condition = (oracles.eigenvalues(G)[0] + 0.1) / 0.1
    close = 50 * oracles.unit(G.dtype) * condition
    np.testing.assert_allclose(one.budget_spent, spent, rtol=close)
    np.testing.assert_allclose(half.budget_spent, spent / 4, rtol=close)


def test_agreement_is_that_of_the_undamped_problem(G):
    """ρ = gᵀC⁺g in [0, 1], whatever ε; 1 where every loss can fall alike."""
    eps, expected = oracles.unit(G.dtype), oracles.agreement(G)
    for damping in oracles.DAMPINGS:
        rho = float(budget_step(G, damping).agreement)
        # Cosines of subspaces: an svd turns them by eps·size·σmax/σmin, at most 10 here.
        np.testing.assert_allclose(rho, expected, rtol=0, atol=100 * max(G.shape) * eps)
        assert 0 <= rho <= 1 + 20 * eps
        if np.linalg.matrix_rank(oracles.gram(G), tol=1e-6) == len(G):
            np.testing.assert_allclose(rho, 1, rtol=20 * eps)


@pytest.mark.parametrize("damping", [0.0, 1e-2, 1.0])
def test_what_else_a_step_says_of_itself(G, damping):
    """α = (K + εI)⁻¹1/n with Δ = -ηGᵀα, effective rank tr C(C + εI)⁻¹, and the fraction of losses that rise."""
    step, n = budget_step(G, damping), len(G)
    C, K, values = oracles.empirical_fisher(G), oracles.gram(G), oracles.eigenvalues(G)
    close = 20 * max(G.shape) * oracles.unit(G.dtype) * (values[0] + damping) / (damping or values[-1])
    expected = np.linalg.pinv(K + damping * np.eye(n), rcond=1e-12, hermitian=True).sum(axis=1) / n
    np.testing.assert_allclose(step.coefficients, expected, rtol=0, atol=close * np.abs(expected).max())
    delta = -float(step.learning_rate) * np.asarray(G, float).T @ expected
    assert oracles.relative(step.delta, delta) < 10 * close
    rank = np.trace(np.linalg.pinv(C + damping * np.eye(len(C)), rcond=1e-12, hermitian=True) @ C)
    np.testing.assert_allclose(step.effective_rank, rank, rtol=close)
    np.testing.assert_allclose(step.worse, np.mean(np.asarray(G, float) @ delta > 1e-6), rtol=1e-6)


def test_step_along_a_direction(G):
    """The step that costs c: √(c/uᵀCu) u; 0 along a direction that costs nothing."""
    u = jnp.asarray(np.random.default_rng(2).normal(size=G.shape[1]), G.dtype)
    delta = np.asarray(step_along(G, u, BUDGET), float)
    np.testing.assert_allclose(
        delta @ oracles.empirical_fisher(G) @ delta, BUDGET, rtol=200 * oracles.unit(G.dtype)
    )
    np.testing.assert_allclose(
        delta / np.linalg.norm(delta), u / np.linalg.norm(u), rtol=20 * oracles.unit(G.dtype)
    )
    free = jnp.pad(G, ((0, 0), (0, 1)))  # the last parameter changes no loss
    for direction in (jnp.zeros(free.shape[1], G.dtype), jnp.zeros(free.shape[1], G.dtype).at[-1].set(1)):
        moved = step_along(free, direction, BUDGET)
        assert moved.dtype == G.dtype
        np.testing.assert_array_equal(moved, 0)


@pytest.mark.parametrize("damping", oracles.DAMPINGS)
@pytest.mark.parametrize("name", ["wide", "tall", "duplicated"])
def test_targeted_step_is_the_regression(name, damping, x64):
    """argmin E[(gᵢᵀΔ + tᵢ)²] + ε‖Δ‖², by lstsq; with a budget, the same direction at the cost c."""
    G, target = jnp.asarray(oracles.GRID[name]), np.random.default_rng(5).normal(size=len(oracles.GRID[name]))
    n, p = G.shape
    system = np.vstack([G, np.sqrt(n * damping) * np.eye(p)])
    expected = np.linalg.lstsq(system, np.r_[-target, np.zeros(p)], rcond=1e-12)[0]
    step = ef.targeted_step(G, jnp.asarray(target), damping=damping)
    assert step.learning_rate == 1
    assert oracles.relative(step.delta, expected) < 1e-7
    spent = ef.targeted_step(G, jnp.asarray(target), damping=damping, budget=BUDGET)
    np.testing.assert_allclose(spent.delta, step.delta * np.sqrt(BUDGET / step.budget_spent), rtol=1e-9)
    projected = np.asarray(G) @ np.linalg.lstsq(np.asarray(G), target, rcond=1e-12)[0]
    np.testing.assert_allclose(step.agreement, projected @ projected / (target @ target), rtol=1e-9)


@pytest.mark.parametrize("name", ["wide", "one example", "duplicated"])
def test_all_losses_fall_alike_where_they_can(name, dtype):
    """Wide and full rank, and also two equal rows (facts 3.1, 6.7): every predicted change is -√c."""
    step = budget_step(jnp.asarray(oracles.GRID[name], dtype), 0.0)
    np.testing.assert_allclose(step.predicted_changes, -np.sqrt(BUDGET), rtol=1000 * oracles.unit(dtype))
    np.testing.assert_allclose(step.agreement, 1, rtol=20 * oracles.unit(dtype))


def test_a_zero_gradient_changes_no_loss(dtype):
    step = budget_step(jnp.asarray(oracles.GRID["zero row"], dtype), 0.0)
    assert step.predicted_changes[0] == 0


# No gradient, no step.

CANCELLING = {
    "two rows": np.array([[1.0, 2.0], [-1.0, -2.0]] * 3),
    "nothing": np.zeros((6, 2)),
    # Rows that cancel exactly and whose two directions differ in size by 1000 and more.
    "two scales": np.array(
        [[3000.0, 1999.0], [1.0, 0.0], [512.0, 341.0], [-3000.0, -1999.0], [-1, 0], [-512, -341]]
    ),
}


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("name", CANCELLING)
def test_no_gradient_no_step(name, damping, dtype):
    G = jnp.asarray(CANCELLING[name], dtype)
    assert not ef.mean_gradient(G).any()
    for step in (budget_step(G, damping), rate_step(G, damping)):
        for field, value in zip(Step._fields, step, strict=True):
            assert jnp.isfinite(value).all(), field
        np.testing.assert_array_equal(step.delta, 0)
        np.testing.assert_array_equal(step.predicted_changes, 0)
        assert step.budget_spent == 0
        assert step.multiplier == 0
        assert step.agreement == 0
        np.testing.assert_array_equal(step.coefficients, 0)
    assert budget_step(G, damping).learning_rate == 0  # a budget that nothing spends
    assert rate_step(G, damping, 0.5).learning_rate == 0.5  # reported as it was given


@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e-22])
def test_the_scale_of_the_loss_does_not_matter_without_damping(scale):
    """Loss times a: Δ times 1/a (facts 4.5), in float32 too, or an error: never a silent nothing."""
    G, eager = jnp.asarray(EXAMPLE, jnp.float32), ef.empirical_fisher_step
    try:
        step = eager(scale * G, budget=BUDGET)
    except ValueError as error:
        assert "rescale the loss" in str(error)  # noqa: PT017
    else:
        assert oracles.relative(step.delta * scale, eager(G, budget=BUDGET).delta) < 1e-5


# Bounds.


@given(seed=st.integers(0, 2**31), log_damping=st.floats(-6, 3), wide=st.booleans())
def test_bound_on_the_length(seed, log_damping, wide):
    """‖Δ‖ ≤ η√ρ/(2√ε), whatever the spectrum (facts 2.7)."""
    with jax.enable_x64(True):
        step = rate_step(normal(seed, wide), 10**log_damping, 0.7)
    bound = 0.7 * np.sqrt(step.agreement) / (2 * np.sqrt(10**log_damping))
    assert np.linalg.norm(step.delta) <= bound * (1 + 1e-9)


@given(seed=st.integers(0, 2**31), wide=st.booleans())
def test_at_most_a_fraction_gets_worse(seed, wide):
    """1 - ρ (facts 1.7); the mean fall is √(cρ), the variance c(1 - ρ) (facts 1.6)."""
    with jax.enable_x64(True):
        step = budget_step(normal(seed, wide), 0.0)
    rho, changes = float(step.agreement), np.asarray(step.predicted_changes)
    assert changes.dtype == float
    assert 0 <= rho <= 1 + 1e-12
    assert np.mean(changes >= 0) <= 1 - rho + 1e-9
    # κ of 15 random numbers may reach 1e6: 1e-10 is left of 1e-16.
    np.testing.assert_allclose(changes.mean(), -np.sqrt(BUDGET * rho), rtol=1e-8)
    np.testing.assert_allclose(changes.var(), BUDGET * (1 - rho), rtol=1e-8, atol=1e-10)


# Optimality.


@given(seed=st.integers(0, 2**31), wide=st.booleans())
def test_no_feasible_step_does_better(seed, wide):
    """400 random steps that spend the same budget; at ε = 0.1 also none that is no longer (facts 2.1 b)."""
    with jax.enable_x64(True):
        G = normal(seed, wide)
        free, damped = budget_step(G, 0.0), budget_step(G, 0.1)
    G, free, damped = jax.tree.map(np.asarray, (G, free, damped))
    others = np.random.default_rng(seed + 1).normal(size=(400, G.shape[1]))
    costs, g = np.sqrt(np.mean((others @ G.T) ** 2, axis=1, keepdims=True)), G.mean(axis=0)
    best = g @ free.delta
    np.testing.assert_allclose(best, -np.sqrt(BUDGET * free.agreement), rtol=1e-8)
    assert (others / costs @ g * np.sqrt(BUDGET)).min() >= best - 1e-12
    lengths, radius = np.linalg.norm(others, axis=1, keepdims=True), np.linalg.norm(damped.delta)
    both = np.minimum(np.sqrt(BUDGET) / costs, radius / lengths)
    assert (others * both @ g).min() >= g @ damped.delta - 1e-12


# The path.


def test_path_is_monotone(x64):
    """Along ε at fixed budget (facts 2.5): shorter, closer to -g, a smaller decrease, a larger cost per length."""
    G = jnp.asarray(oracles.GRID["tall"])
    path = ef.damping_path(G, jnp.r_[0.0, jnp.logspace(-6, 4, 60)], BUDGET)
    delta, g = np.asarray(path.delta), oracles.mean_gradient(G)
    length, decrease = np.linalg.norm(delta, axis=1), -delta @ g
    assert np.all(np.diff(length) < 0)
    assert np.all(np.diff(decrease) < 0)
    assert np.all(np.diff(decrease / length) > 0)
    assert np.all(np.diff(BUDGET / length**2) > 0)
    np.testing.assert_allclose(decrease[0], np.sqrt(BUDGET * path.agreement[0]), rtol=1e-12)
    C = oracles.empirical_fisher(G)
    np.testing.assert_allclose(decrease[-1], np.sqrt(BUDGET) * (g @ g) / np.sqrt(g @ C @ g), rtol=1e-3)
    np.testing.assert_allclose(path.budget_spent, BUDGET, rtol=1e-13)
    fixed_rate = [np.linalg.norm(rate_step(G, damping).delta) for damping in (0.0, 1e-3, 0.1, 1.0, 100.0)]
    assert np.all(np.diff(fixed_rate) < 0)


@pytest.mark.parametrize("name", ["wide", "tall", "deficient"])
def test_path_is_made_of_single_steps(name, dtype):
    G, eps = jnp.asarray(oracles.GRID[name], dtype), oracles.unit(dtype)
    path = jax.jit(ef.damping_path)(G, jnp.asarray(oracles.DAMPINGS, dtype), BUDGET)
    for k, damping in enumerate(oracles.DAMPINGS):
        single = budget_step(G, damping)
        for field, along, alone in zip(Step._fields, path, single, strict=True):
            assert along.shape == (len(oracles.DAMPINGS), *alone.shape), field
            assert along.dtype == dtype
            # The residual is rounding itself: only its size means something.
            atol = 100 * eps if field == "residual" else 0
            scale = np.abs(alone).max()
            np.testing.assert_allclose(along[k], alone, rtol=0, atol=1000 * eps * scale + atol, err_msg=field)


def count(jaxpr, name):
    """The operands' shapes of every equation `name`, however deep."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            found.append(equation.invars[0].aval.shape)
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                found += count(getattr(inner, "jaxpr", inner), name)
    return found


def test_path_factors_once():
    """One svd, of one matrix, for thirty dampings; and nothing else is factored."""
    G, dampings = jnp.asarray(oracles.GRID["wide"], jnp.float32), jnp.logspace(-3, 3, 30)
    jaxpr = jax.make_jaxpr(lambda G: ef.damping_path(G, dampings, BUDGET))(G).jaxpr
    assert count(jaxpr, "svd") == [(4, 6)]
    assert not any(count(jaxpr, name) for name in ("eigh", "cholesky", "lu", "qr"))


# Another loss, other parameters.


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_scaling_the_loss(factor, x64):
    """Loss times a: Δ times 1/a without damping; with ε it takes a²ε (facts 4.5)."""
    G = jnp.asarray(oracles.GRID["tall"])
    for step in (budget_step, rate_step):
        np.testing.assert_allclose(step(factor * G, 0.0).delta, step(G, 0.0).delta / factor, rtol=1e-11)
        damped = step(factor * G, 0.1 * factor**2).delta
        np.testing.assert_allclose(damped, step(G, 0.1).delta / factor, rtol=1e-11)
        assert oracles.relative(step(factor * G, 0.1).delta, step(G, 0.1).delta / factor) > 0.1


# jit, vmap, derivatives, precision.


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_jit_and_vmap_change_nothing(name, damping, x64):
    G = jnp.asarray(oracles.GRID[name])
    stack = jnp.stack([G, 2 * G, G[::-1]])
    eager = [ef.empirical_fisher_step(each, damping=damping, budget=BUDGET) for each in stack]
    mapped = jax.vmap(budget_step, (0, None))(stack, damping)
    jitted = [budget_step(each, damping) for each in stack]
    values = oracles.eigenvalues(G)
    close = (
        50 * max(G.shape) * oracles.unit(G.dtype) * values[0] / values[-1]
    )  # the same sums in another order
    for k, each in enumerate(eager):
        for field in set(Step._fields) - {"residual", "worse"}:
            assert oracles.relative(getattr(jitted[k], field), getattr(each, field)) < close
            assert oracles.relative(getattr(mapped, field)[k], getattr(each, field)) < close
        assert max(each.residual, jitted[k].residual, mapped.residual[k]) < close
        assert each.worse == jitted[k].worse == mapped.worse[k]


@pytest.mark.parametrize("name", ["wide", "tall", "duplicated"])
def test_derivative_by_damping_budget_and_learning_rate(name, x64):
    """Right where G is held constant; the residual, which is rounding, is left out."""
    G = jnp.asarray(oracles.GRID[name])
    oracles.check_derivative(
        lambda *scalars: budget_step(G, *scalars)[:6], jnp.asarray(0.1), jnp.asarray(0.2)
    )
    oracles.check_derivative(lambda rate: rate_step(G, 0.1, rate).delta, jnp.asarray(0.3))


def test_derivative_by_the_gradients_is_refused():
    """By G, in either mode, for every kind of step; and the way out that the error names works."""
    G = jnp.asarray(EXAMPLE, jnp.float32)
    calls = {
        "step": lambda G: budget_step(G, 0.1).delta,
        "path": lambda G: ef.damping_path(G, jnp.ones(2), BUDGET).delta,
        "targeted": lambda G: ef.targeted_step(G, jnp.ones(3)).delta,
        "two budgets": lambda G: ef.two_budget_step(G, BUDGET, 1.0).delta,
    }
    for call in calls.values():
        for derivative in (jax.jacrev(call), jax.jacfwd(call)):
            with pytest.raises(
                ValueError, match=r"`G` must be held constant: .* Pass jax.lax.stop_gradient\(G\)"
            ):
                derivative(G)
    slope = jax.grad(lambda G: (G[0, 0] * budget_step(jax.lax.stop_gradient(G), 0.1).delta).sum())(G)
    np.testing.assert_allclose(slope[0, 0], budget_step(G, 0.1).delta.sum(), rtol=1e-6)
    assert not slope.at[0, 0].set(0).any()


def test_a_large_parameter_that_cancels_does_not_hide_a_small_one():
    """Rounding is judged parameter by parameter: the first column cancels, the second has a mean of 1."""
    step = ef.empirical_fisher_step(jnp.array([[3e6, 1.0], [-3e6, 1.0]], jnp.float32), budget=BUDGET)
    np.testing.assert_allclose(step.delta, [0, -0.1], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("options", [{"budget": BUDGET}, {"learning_rate": 0.1}])
def test_a_gradient_that_underflows_is_an_error(options):
    """Its squares are 0 in float32: not a silent step of 0, with a budget or without."""
    with pytest.raises(ValueError, match="rescale the loss"):
        ef.empirical_fisher_step(jnp.asarray(1e-25 * EXAMPLE, jnp.float32), **options)


def test_float32_stays_float32_where_64_bits_are_on(x64):
    """Whole numbers, NumPy numbers and float64 arrays for the scalars do not turn it into float64."""
    G = jnp.asarray(EXAMPLE, jnp.float32)
    for damping, budget in [
        (0, 1),
        (np.float64(0.1), np.float64(0.01)),
        (jnp.asarray(0.1), jnp.asarray(0.01)),
    ]:
        step = ef.empirical_fisher_step(G, damping=damping, budget=budget)
        assert [field.dtype for field in step] == [jnp.float32] * len(step)
    path = ef.damping_path(G, jnp.logspace(-3, 0, 3), BUDGET)
    assert [field.dtype for field in path] == [jnp.float32] * len(path)


@pytest.mark.parametrize("damping", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_float32_is_enough_on_a_network(damping, network):
    """Measured: at most 1.3e-6 relative to float64, at every damping. (K has condition 58 here.)"""
    G32, G64 = network
    delta = ef.empirical_fisher_step(G32, damping=damping, learning_rate=1.0).delta
    assert delta.dtype == jnp.float32
    K = G64 @ G64.T / 48
    assert (
        oracles.relative(delta, -G64.T @ np.linalg.solve(K + damping * np.eye(48), np.ones(48)) / 48) < 1e-4
    )


@pytest.fixture(scope="module")
def network():
    """48 digits, a tanh network of 2410 parameters: G in float32, and in float64 from the same weights and inputs."""
    loss_fn, params, x, y = (problem := ef.digits()).loss_fn, problem.params, problem.x[:48], problem.y[:48]
    G32 = ef.per_example_gradients(loss_fn, params, x, y)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        G64 = np.asarray(ef.per_example_gradients(loss_fn, params, x, y))
    return G32, G64
