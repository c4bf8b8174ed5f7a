"""Other coordinates: charts by their formulas, a step in one by its definition, and what it keeps and loses there."""

import re
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import bare, jacobian

import efisher_teach as ef
from efisher_teach.core import coordinates as charts

# Four examples of logistic regression, and a θ that every chart can describe; and fewer examples than parameters.
X = np.array([[1.0, 0.5], [-0.5, 1.5], [1.5, -1.0], [0.5, 1.0]])
Y = np.array([0.0, 1.0, 0.0, 1.0])
THETA = np.array([0.7, 0.3])
GRADIENTS = (1 / (1 + np.exp(-X @ THETA)) - Y)[:, None] * X
WIDE = np.array([[1.0, 0.5, -0.3], [-0.4, 1.2, 0.8]])
RATE, BUDGET = 0.1, 0.01
# Exact in any precision.
A, SHIFT = np.array([[2.0, 1.0], [0.0, 0.5]]), np.array([0.125, -0.25])
THREE = np.array([[2.0, 1.0, 0.0], [0.0, 0.5, -1.0], [1.0, 0.0, 2.0]])


def weight_norm(psi):
    return psi[0] * psi[1:] / np.sqrt(np.sum(psi[1:] ** 2))


CHARTS = {  # each with its φ in NumPy, of real or complex numbers
    **{name: (getattr(charts, name), forward) for name, forward in oracles.CHARTS.items()},
    "affine": (charts.affine(jnp.asarray(A), SHIFT), lambda psi: A @ psi + SHIFT),
    "cube": (charts.elementwise("cube", lambda psi: psi**3, jnp.cbrt), lambda psi: psi**3),
    "weight norm": (charts.weight_norm, weight_norm),
}
WIDE_CHARTS = {
    "wide, affine": (charts.affine(jnp.asarray(THREE)), lambda psi: THREE @ psi),
    "wide, weight norm": (charts.weight_norm, weight_norm),
}


def here(name):
    """The chart, its φ, θ, G, ψ and J, in float64."""
    wide = name in WIDE_CHARTS
    chart, forward = (CHARTS | WIDE_CHARTS)[name]
    theta, G = (np.array([0.4, 0.7, 1.5]), WIDE) if wide else (THETA, GRADIENTS)
    with jax.enable_x64(True):
        psi = np.asarray(chart.inverse(jnp.asarray(theta)))
    return chart, forward, theta, G, psi, jacobian(forward, psi)


def direction(G, J, damping=0.0, form="full", curvature=None, metric=False):
    """u in ψ, by the definitions and in float64."""
    G, J = np.asarray(G, float), np.asarray(J, float)
    M = J.T @ (oracles.empirical_fisher(G) if curvature is None else curvature) @ J
    M += damping * (J.T @ J if metric else np.eye(J.shape[1]))
    return oracles.preconditioned(M, J.T @ oracles.mean_gradient(G), form)


def slack(G, J):
    """The rounding of a step by regression on GJ: eps·size·κ(GJ)², and κ(J) for the way back to θ.

    A least-squares solution that does not fit exactly feels the square of the condition. 20 for the sums in between.
    """
    G, J = np.asarray(G), np.asarray(J, float)
    kappa = [s[0] / s[s > 1e-10 * s[0]][-1] for s in (np.linalg.svd(M)[1] for M in (G.astype(float) @ J, J))]
    return 20 * oracles.unit(G.dtype) * max(*G.shape, *J.shape) * kappa[0] ** 2 * kappa[1]


def all_ways(chart, theta, G, damping, curvature, form):
    """A step of a given rate, of a given budget, and with the damping εJᵀJ."""
    step = partial(ef.step_in, chart, theta, G, damping=damping, curvature=curvature, form=form)
    return {
        "rate": step(learning_rate=RATE),
        "budget": step(budget=BUDGET),
        "metric": step(learning_rate=RATE, metric_damping=True),
    }


def assert_is(step, way, J, G, u, close):
    """Δψ = -ηu with the η that was given or that spends the budget in C, and JΔψ."""
    changes = np.asarray(G, float) @ J @ u
    rate = np.sqrt(BUDGET / np.mean(changes**2)) if way == "budget" else RATE
    np.testing.assert_allclose(step.learning_rate, rate, rtol=close)
    assert oracles.relative(step.chart_delta, -rate * u) < close
    assert oracles.relative(step.pushed, -rate * J @ u) < close


# Charts.


@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_its_formula(name, dtype):
    """There and back, also near the edges; and J, also where `inverse` never leads: a radius < 0, a v longer than 1."""
    chart, forward = CHARTS[name]
    jacobians, eps = jax.jit(partial(charts.jacobian, chart)), oracles.unit(dtype)
    for theta in (THETA, np.array([0.05, 0.95]), np.array([0.5, 0.001])):
        psi = chart.inverse(jnp.asarray(theta, dtype))
        assert psi.dtype == dtype
        if name == "weight norm":  # of all that lead to θ, the v of length 1
            length = np.linalg.norm(theta)
            np.testing.assert_allclose(psi, [length, *theta / length], rtol=4 * eps)
        # log 0.001 = -7: a ψ of 7, rounded, is 7 units in θ; the affine chart has condition 5.
        assert oracles.relative(forward(np.asarray(psi, float)), theta) < 20 * eps
        assert oracles.relative(chart.forward(psi), theta) < 20 * eps
    elsewhere = ([-1.25, 0.5, 2.5], [0.25, -0.125, 0.5]) if psi.size == 3 else ([-1.25, 0.5], [0.25, 2.5])
    for psi in (here(name)[4], *map(np.array, elsewhere)):
        J = jacobians(jnp.asarray(psi, dtype))
        assert J.dtype == dtype
        np.testing.assert_allclose(J, jacobian(forward, psi), rtol=0, atol=30 * eps)


# A step by its definition, which at ε = 0 or with εJᵀJ does not depend on the chart.


@pytest.mark.parametrize("name", CHARTS | WIDE_CHARTS)
def test_step_in_a_chart(name, dtype):
    """Also with more numbers than parameters, and with fewer examples: then G sees no difference, but θ does."""
    chart, forward, theta, G, psi, J = here(name)
    steps, close = jax.jit(partial(all_ways, chart, form="full")), slack(G.astype(dtype), J)
    for damping in (0.0, 0.05):
        found = steps(jnp.asarray(theta, dtype), jnp.asarray(G, dtype), damping, None)
        for way, step in found.items():
            assert [field.dtype for field in step] == [dtype] * 4
            assert_is(step, way, J, G, direction(G, J, damping, metric=way == "metric"), close)
            pushed = ef.push_forward(jnp.asarray(J, dtype), step.chart_delta)
            assert oracles.relative(pushed, step.pushed) < 20 * oracles.unit(dtype)
            # φ(ψ + Δψ) - φ(ψ) loses ‖θ‖/‖Δθ‖ besides.
            there = forward(psi + np.asarray(step.chart_delta, float)) - theta
            lost = 20 * oracles.unit(dtype) / np.linalg.norm(there)
            assert oracles.relative(step.delta, there) < close + lost
        direct, pushed = -RATE * direction(G, np.eye(len(theta)), damping), found["metric"].pushed
        assert oracles.relative(G @ pushed, G @ direct) < close
        away = oracles.relative(pushed, direct)
        assert away > 0.1 if name in WIDE_CHARTS and damping == 0 else away < close


# Every form. Which of them is invariant to what follows from the definitions.

TALL = np.asarray(oracles.GRID["tall"])
B = TALL[:4] @ TALL[:4].T + np.eye(4)
_left, _right = np.linalg.qr(np.random.default_rng(11).normal(size=(2, 4, 4)))[0]
GENERAL = _left @ np.diag(np.geomspace(1, 1 / 117, 4)) @ _right


@pytest.mark.parametrize("form", oracles.FORMS)
def test_every_form_is_its_definition(form, x64):
    """Of C, or of a matrix in its place."""
    G = jnp.asarray(TALL)
    steps = jax.jit(lambda J, *rest: all_ways(charts.affine(J), jnp.zeros(4), G, *rest, form))
    for J, damping, matrix in product((np.eye(4), GENERAL), (0.0, 0.1), (None, B)):
        found = steps(jnp.asarray(J), damping, None if matrix is None else jnp.asarray(matrix))
        for way, step in found.items():
            # A root divides by √λ and a full inverse by λ: at worst eps·κ(JᵀCJ), 1e-10, and again for JΔψ.
            assert_is(step, way, J, TALL, direction(TALL, J, damping, form, matrix, way == "metric"), 1e-8)


@pytest.mark.parametrize(
    ("name", "form", "curvature", "damping"),
    [
        ("polar", "full", None, 0.0),
        ("logit", "full", None, 0.05),
        ("polar", "diagonal", np.array([[2.0, 1.0], [1.0, 1.0]]), 0.05),
        ("wide, weight norm", "full", None, 0.0),
    ],
)
def test_invariance_gap_is_what_two_steps_differ_by(name, form, curvature, damping, x64):
    """Each field by the definition of the steps."""
    chart, forward, theta, G, psi, J = here(name)
    gap = jax.jit(partial(ef.invariance_gap, chart, form=form, damping=damping, learning_rate=RATE))
    found = gap(
        jnp.asarray(theta), jnp.asarray(G), curvature=None if curvature is None else jnp.asarray(curvature)
    )
    direct = -RATE * direction(G, np.eye(len(theta)), damping, form, curvature)
    there, carried = (-RATE * direction(G, J, damping, form, curvature, metric) for metric in (False, True))
    expected = [
        oracles.relative(J @ there, direct),
        oracles.relative(forward(psi + there) - theta, direct),
        oracles.relative(J @ carried, direct),
        oracles.relative(G @ J @ there, G @ direct),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=slack(G, J))
    assert found.finite > 0.01


# No gradient, no step; jit, vmap, precision, pytrees.


def test_no_gradient_no_step():
    """Nothing moves, and every gap is 0."""

    @jax.jit
    def everything(theta, G):
        here = charts.exponential, theta, G
        steps = [ef.step_in(*here, budget=BUDGET, form=form) for form in ("full", "root", "none")]
        damped = {"learning_rate": RATE, "damping": 0.1}
        return [ef.step_in(*here, **damped), *steps], ef.invariance_gap(*here, budget=BUDGET)

    theta = jnp.asarray(THETA)
    for G in map(jnp.asarray, oracles.CANCELLING.values()):
        steps, gaps = everything(theta, G)
        np.testing.assert_array_equal(np.array(gaps), 0)
        for *nothing, rate in (*steps, ef.step_in(charts.identity, theta, G, budget=BUDGET)):
            np.testing.assert_array_equal(np.array(nothing), 0)
            assert jnp.isfinite(rate)


def test_parameters_are_any_pytree_and_dampings_may_be_many(x64):
    """Ravelled in the order of `jax.tree`; what comes back is flat."""
    tree, G = {"a": jnp.asarray(THETA[0]), "b": [jnp.asarray(THETA[1:])]}, jnp.asarray(GRADIENTS)
    dampings, budgets = jnp.array([0.0, 0.1]), jnp.array([1e-4, 0.05])
    step = jax.jit(lambda theta, *pair: ef.step_in(charts.polar, theta, G, damping=pair[0], budget=pair[1]))
    many = jax.vmap(step, (None, 0, 0))(tree, dampings, budgets)
    for k in range(2):
        alone = step(jnp.asarray(THETA), dampings[k], budgets[k])
        for field, value in zip(many, alone, strict=True):
            assert oracles.relative(field[k], value) < 1e-11


def test_under_jit_the_result_says_that_it_is_not_finite():
    """Outside the chart, or with gradients that are not finite, it must not look like the step of a zero gradient."""
    outside, undefined = (-THETA, GRADIENTS), (THETA, GRADIENTS * np.nan)
    for options, here in product(({"budget": BUDGET}, {"learning_rate": RATE}), (outside, undefined)):
        step = jax.jit(partial(ef.step_in, charts.exponential, **options))(*map(jnp.float32, here))
        assert not jnp.isfinite(step.delta).any()
        assert not jnp.isfinite(step.pushed).any()


# Near the edges. What is said beyond them is in test_messages.py.

EDGES = {
    "identity": [[0, 0], [1e30, 1e-30]],
    "affine": [[0.125, -0.25], [1e6, -1e6]],
    "exponential": [[1e-30, 2e-30], [1e30, 1e30], [1e-30, 1e30]],
    "square": [[1e-30, 1e-30], [1e30, 1e30], [-0.0, 1]],
    "logit": [[1e-6, 1 - 1e-6], [1e-30, 1e-30]],
    "polar": [[-1, 0], [0, 1e-30], [1e30, 1e30], [1e-7, 0]],
    "weight norm": [[1e-30, 1e-30], [1e30, 1e30]],
}


@pytest.mark.parametrize("name", EDGES)
def test_never_a_silent_nan_or_nothing(name):
    """Finite input, finite output that is not 0, or an error that is the library's own."""
    rows = jnp.asarray(np.vstack([GRADIENTS, np.zeros((1, 2))]), jnp.float32)
    for theta in EDGES[name]:
        for scale, options in (
            (1.0, {"budget": 1e-30}),
            (1e-22, {"budget": BUDGET}),
            (1e20, {"budget": 1e30}),
            (1e20, {"learning_rate": 1e30}),
            (1e-20, {"learning_rate": 1e-30}),
        ):
            try:
                step = bare(ef.step_in)(CHARTS[name][0], jnp.float32(theta), scale * rows, **options)
            except ValueError as error:
                assert re.match(r"`\w+` must be ", str(error))  # noqa: PT017
            else:
                assert all(jnp.isfinite(value).all() for value in step), (theta, scale, options)
                assert step.chart_delta.any()
