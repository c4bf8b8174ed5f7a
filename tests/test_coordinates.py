"""Other coordinates: each chart by its formulas, and what a step keeps, and loses, when it is computed in another."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import bare
from scipy.integrate import solve_ivp

import efisher_teach as ef
from efisher_teach.core import chart_step
from efisher_teach.core import coordinates as charts
from efisher_teach.core.chart_step import ChartStep
from efisher_teach.core.likelihoods import bernoulli

# Four examples of logistic regression, and a θ that every chart can describe.
X = np.array([[1.0, 0.5], [-0.5, 1.5], [1.5, -1.0], [0.5, 1.0]])
Y = np.array([0.0, 1.0, 0.0, 1.0])
THETA = np.array([0.7, 0.3])
RATE, BUDGET = 0.1, 0.01
A, SHIFT = np.array([[2.0, 1.0], [0.0, 0.5]]), np.array([0.125, -0.25])  # exact in any precision

CHARTS = {
    "identity": charts.identity,
    "affine": charts.affine(jnp.asarray(A), SHIFT),
    "exponential": charts.exponential,
    "square": charts.square,
    "logit": charts.logit,
    "cube": charts.elementwise("cube", lambda psi: psi**3, jnp.cbrt),
    "polar": charts.polar,
    "weight norm": charts.weight_norm,
}
CURVED = [name for name in CHARTS if name not in ("identity", "affine")]
FORMS = ("full", "diagonal", "root", "diagonal root", "none")


def loss(theta, x, y):
    return jnp.logaddexp(0, x @ theta) - y * (x @ theta)


def gradients_at(theta):
    return (1 / (1 + np.exp(-X @ theta)) - Y)[:, None] * X


def fisher_at(theta):
    p = 1 / (1 + np.exp(-X @ theta))
    return (X.T * (p * (1 - p))) @ X / len(X)


def natural(theta):
    """F of the library, where `fisher_at` is the formula."""
    return ef.fisher(loss, theta, jnp.asarray(X), output_fn=lambda theta, x: x @ theta, likelihood=bernoulli)


def jacobian(name, psi):
    """J by hand."""
    first, *rest = psi = np.asarray(psi, float)
    if name == "polar":
        cos, sin = np.cos(rest[0]), np.sin(rest[0])
        return np.array([[cos, -first * sin], [sin, first * cos]])  # facts 4.6
    if name == "weight norm":
        length = np.linalg.norm(rest)
        v = np.array(rest) / length
        return np.column_stack([v, first / length * (np.eye(len(v)) - np.outer(v, v))])
    if name in ("identity", "affine"):
        return A if name == "affine" else np.eye(2)
    probability = 1 / (1 + np.exp(-psi))
    slopes = {
        "exponential": np.exp(psi),
        "square": 2 * psi,
        "logit": probability * (1 - probability),
        "cube": 3 * psi**2,
    }
    return np.diag(slopes[name])


def second(name, psi, d):
    """D²φ[d, d] by hand."""
    if name == "polar":
        outward, along = (
            np.array([np.cos(psi[1]), np.sin(psi[1])]),
            np.array([-np.sin(psi[1]), np.cos(psi[1])]),
        )
        return 2 * d[0] * d[1] * along - psi[0] * d[1] ** 2 * outward
    if name == "weight norm":  # for the d of a pseudo-inverse, which has no part along v
        length = np.linalg.norm(psi[1:])
        return 2 * d[0] * d[1:] / length - psi[0] * (d[1:] @ d[1:]) * psi[1:] / length**3
    probability = 1 / (1 + np.exp(-psi))
    bends = {
        "exponential": np.exp(psi),
        "square": 2.0,
        "logit": probability * (1 - probability) * (1 - 2 * probability),
        "cube": 6 * psi,
    }
    return bends[name] * d**2


def here(name, theta=THETA):
    """ψ and J at θ, by the chart's own inverse and the formulas above."""
    with jax.enable_x64(True):
        psi = np.asarray(CHARTS[name].inverse(jnp.asarray(theta, float)))
    return psi, jacobian(name, psi)


def direction(G, J, damping=0.0, form="full", curvature=None, metric=False):
    """u in ψ, by the definitions and in float64: eigenvalues that only rounding tells from 0 are not inverted."""
    G, J = np.asarray(G, float), np.asarray(J, float)
    M = J.T @ (oracles.empirical_fisher(G) if curvature is None else curvature) @ J
    M += damping * (J.T @ J if metric else np.eye(J.shape[1]))
    g = J.T @ oracles.mean_gradient(G)
    if form == "none":
        return g
    values, V = np.linalg.eigh(np.diag(np.diag(M)) if "diagonal" in form else M)
    kept = values > 1e-12 * values[-1]
    power = 0.5 if "root" in form else 1
    return V @ np.where(kept, V.T @ g / np.where(kept, values, 1) ** power, 0)


def slack(G, J):
    """What rounding may do to a step by regression on GJ: eps·size·κ(GJ)², and κ(J) for the way back to θ.

    A least-squares solution that does not fit exactly feels the square of the condition. 20 for the sums in between.
    """
    G, J = np.asarray(G), np.asarray(J, float)
    kappa = [s[0] / s[s > 1e-10 * s[0]][-1] for s in (np.linalg.svd(M)[1] for M in (G.astype(float) @ J, J))]
    return 20 * oracles.unit(G.dtype) * max(*G.shape, *J.shape) * kappa[0] ** 2 * kappa[1]


@cache
def _stepping(name, form, metric):
    return jax.jit(
        lambda theta, G, damping, rate, curvature: ef.step_in(
            CHARTS[name],
            theta,
            G,
            damping=damping,
            learning_rate=rate,
            form=form,
            curvature=curvature,
            metric_damping=metric,
        )
    )


def stepping(name, theta, G, damping=0.0, rate=RATE, curvature=None, *, form="full", metric=False):
    """`step_in`, compiled once a chart and form: any θ, damping and learning rate."""
    return _stepping(name, form, metric)(theta, G, float(damping), float(rate), curvature)


@cache
def _linear(form, metric):
    def steps(A, G, damping, curvature):
        theta, chart = jnp.zeros(len(A), A.dtype), charts.affine(A)
        options = {"damping": damping, "form": form, "metric_damping": metric, "curvature": curvature}
        return {
            name: ef.step_in(chart, theta, G, **options, **{name: scale})
            for name, scale in (("learning_rate", RATE), ("budget", BUDGET))
        }

    return jax.jit(steps)


def linear(J, G, damping=0.0, curvature=None, *, form="full", metric=False, given="learning_rate"):
    """The step in the chart θ = Jψ with η = 0.1 or c = 0.01, compiled once a form: any J and damping."""
    return _linear(form, metric)(jnp.asarray(J), jnp.asarray(G), float(damping), curvature)[given]


# Charts.


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("theta", [(0.7, 0.3), (0.05, 0.95), (0.5, 0.001)], ids=str)
def test_there_and_back(name, theta, dtype):
    chart = CHARTS[name]
    psi = chart.inverse(jnp.asarray(theta, dtype))
    assert psi.dtype == dtype
    assert psi.shape == ((3,) if name == "weight norm" else (2,))
    # log 0.001 = -7: a ψ of 7, rounded, is 7 units in θ; the affine chart has condition 5; and so on the way back.
    assert oracles.relative(chart.forward(psi), theta) < 20 * oracles.unit(dtype)
    np.testing.assert_allclose(chart.inverse(chart.forward(psi)), psi, rtol=0, atol=50 * oracles.unit(dtype))


@pytest.mark.parametrize("name", CHARTS)
def test_jacobian(name, dtype):
    psi, J = here(name)
    found = charts.jacobian(CHARTS[name], jnp.asarray(psi, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, J, rtol=0, atol=10 * oracles.unit(dtype))


@pytest.mark.parametrize("name", CHARTS)
def test_jacobian_by_differences(name, x64):
    """Anywhere, also where `inverse` never leads: a negative ψ or radius, a v that is not of length 1."""
    for psi in ([-1.3, 0.4], [0.2, 2.5]) if name != "weight norm" else ([-1.3, 0.4, 2.5], [0.2, -0.1, 0.3]):
        psi, h = jnp.array(psi), 1e-5
        forward = CHARTS[name].forward
        steps = h * jnp.eye(len(psi))
        differences = np.column_stack([(forward(psi + d) - forward(psi - d)) / (2 * h) for d in steps])
        # h²φ'''/6 ~ 1e-10 times derivatives below 1e2 (of v/‖v‖ at ‖v‖ = 0.3), and eps/h ~ 1e-11.
        np.testing.assert_allclose(charts.jacobian(CHARTS[name], psi), differences, rtol=0, atol=1e-8)
        np.testing.assert_allclose(jacobian(name, psi), differences, rtol=0, atol=1e-8)


def test_jacobian_of_whole_numbers():
    np.testing.assert_allclose(charts.jacobian(charts.square, jnp.array([1, 2])), [[2, 0], [0, 4]])


@pytest.mark.parametrize("name", CHARTS)
def test_pull_back_is_the_gradient_of_the_loss_in_the_chart(name, x64):
    """By `jax.grad` of ℓ∘φ, one example at a time, which knows nothing of J."""
    chart, x, y, psi = CHARTS[name], jnp.asarray(X), jnp.asarray(Y), jnp.asarray(here(name)[0])
    expected = oracles.gradients(lambda psi, x, y: loss(chart.forward(psi), x, y), psi, x, y)
    G = ef.per_example_gradients(loss, chart.forward(psi), x, y)
    pulled = ef.pull_back(G, charts.jacobian(chart, psi))
    assert oracles.relative(pulled, expected) < 20 * oracles.unit(float)
    assert oracles.relative(pulled, gradients_at(THETA) @ here(name)[1]) < 20 * oracles.unit(float)


@pytest.mark.parametrize("name", CHARTS)
def test_push_forward_is_the_derivative_of_the_chart(name, x64):
    chart, psi = CHARTS[name], jnp.asarray(here(name)[0])
    delta = jnp.linspace(0.3, -0.5, len(psi))
    pushed = ef.push_forward(charts.jacobian(chart, psi), delta)
    assert oracles.relative(pushed, jax.jvp(chart.forward, (psi,), (delta,))[1]) < 20 * oracles.unit(float)
    assert oracles.relative(pushed, here(name)[1] @ delta) < 20 * oracles.unit(float)


def test_precision_is_kept(dtype):
    G, J = jnp.asarray(gradients_at(THETA), dtype), jnp.asarray(A, dtype)
    for found, expected in ((ef.pull_back(G, J), G @ A), (ef.push_forward(J, J[0]), A @ A[0])):
        assert found.dtype == dtype
        assert oracles.relative(found, expected) < 10 * oracles.unit(dtype)


def test_weight_norm_says_v_more_than_once(x64):
    """q = p + 1: J has full row rank, and along v nothing happens (facts 4.6)."""
    psi = charts.weight_norm.inverse(jnp.array([0.6, -0.8, 2.4]))
    np.testing.assert_allclose(psi, [2.6, 0.6 / 2.6, -0.8 / 2.6, 2.4 / 2.6], rtol=1e-15)
    J = charts.jacobian(charts.weight_norm, psi)
    assert np.linalg.matrix_rank(J) == 3
    np.testing.assert_allclose(J @ jnp.r_[0, psi[1:]], 0, atol=1e-15)


# 4.1: what does not depend on the chart.


@pytest.mark.parametrize("name", CHARTS)
def test_step_does_not_depend_on_the_chart(name, dtype):
    """JΔψ = Δθ = -ηC⁻¹g at ε = 0, by the formula; also in a chart with more numbers than parameters."""
    G, (psi, J) = jnp.asarray(gradients_at(THETA), dtype), here(name)
    C, g = oracles.empirical_fisher(G), oracles.mean_gradient(G)
    for options in ({"learning_rate": RATE}, {"budget": BUDGET}):
        step = ef.step_in(CHARTS[name], jnp.asarray(THETA, dtype), G, **options)
        assert [field.dtype for field in step] == [dtype] * 4
        assert [field.shape for field in step] == [(2,), (2,), J.shape[1:], ()]
        # Residual first: C JΔψ + ηg.
        rate = float(step.learning_rate)
        left = C @ np.asarray(step.pushed, float) + rate * g
        assert np.linalg.norm(left) < slack(G, J) * rate * np.linalg.norm(g)
        assert oracles.relative(step.pushed, -rate * np.linalg.solve(C, g)) < slack(G, J)
        assert oracles.relative(J @ step.chart_delta, step.pushed) < slack(G, J)
        there = CHARTS[name].forward(jnp.asarray(psi, dtype) + step.chart_delta)
        assert oracles.relative(THETA + step.delta, there) < 10 * oracles.unit(dtype)
        if "learning_rate" in options:
            np.testing.assert_allclose(rate, RATE, rtol=oracles.unit(dtype))
        else:  # η = √(c/ρ), and ρ and c do not depend on the chart
            np.testing.assert_allclose(rate, np.sqrt(BUDGET / oracles.agreement(G)), rtol=slack(G, J))
            spent = np.mean((np.asarray(G, float) @ np.asarray(step.pushed, float)) ** 2)
            np.testing.assert_allclose(spent, BUDGET, rtol=slack(G, J))


@pytest.mark.parametrize("name", CHARTS)
def test_agreement_does_not_depend_on_the_chart(name, x64):
    """ρ looks at the columns of G, and GJ has the same span."""
    G, (_, J) = jnp.asarray(gradients_at(THETA)), here(name)
    step = ef.empirical_fisher_step(ef.pull_back(G, jnp.asarray(J)), budget=BUDGET)
    np.testing.assert_allclose(step.agreement, oracles.agreement(G), rtol=slack(G, J))
    changes = -np.sqrt(BUDGET / oracles.agreement(G)) * G @ np.linalg.pinv(G) @ np.ones(4)
    assert oracles.relative(step.predicted_changes, changes) < slack(G, J)


@pytest.mark.parametrize("name", CURVED)
def test_curved_charts_part_as_the_square_of_the_step(name, x64):
    """Slope 2.00 on a log-log grid (facts 4.1), and also how much: φ(ψ + Δψ) - θ - Δθ = D²φ[Δψ, Δψ]/2 + …"""
    theta, G, (psi, J) = jnp.asarray(THETA), jnp.asarray(gradients_at(THETA)), here(name)
    rates = np.logspace(-5, -4, 5)
    direct = -np.linalg.solve(oracles.empirical_fisher(G), oracles.mean_gradient(G))
    gaps = np.array([stepping(name, theta, G, 0.0, rate).delta - rate * direct for rate in rates])
    sizes = np.linalg.norm(gaps, axis=1)
    # The third order is a relative η times a few, here 1e-4 of a few; rounding is 1e-16 of 1e-10.
    np.testing.assert_allclose(np.polyfit(np.log(rates), np.log(sizes), 1)[0], 2, atol=0.005)
    bend = second(name, psi, np.linalg.pinv(J) @ direct) / 2
    assert np.linalg.norm(bend) > 0.05
    assert oracles.relative(gaps[0] / rates[0] ** 2, bend) < 1e-3


def test_straight_charts_do_not_part(x64):
    """θ = Aψ + b with cond(A) = 117 (facts 4.1), at a step of any length."""
    turns = (np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in (0.7, -0.3))
    shear = next(turns) @ np.diag([1, 1 / 117]) @ next(turns)
    G = jnp.asarray(gradients_at(THETA))
    for rate in (0.01, 10.0):
        step = ef.step_in(charts.affine(jnp.asarray(shear), 0.3), jnp.asarray(THETA), G, learning_rate=rate)
        direct = -rate * np.linalg.pinv(G) @ np.ones(4)
        # eps·size·κ(GJ)² is 3e-11: what κ enlarges on the way there shrinks on the way back. (The facts found 2.6e-15.)
        assert oracles.relative(step.delta, direct) < 1e-10
        assert oracles.relative(step.pushed, direct) < 1e-10


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_invariance_gap_is_what_two_steps_differ_by(name, damping, x64):
    """Each field by the formulas of the steps; the finite gap is the predicted second order, up to the third."""
    theta, G, (psi, J) = jnp.asarray(THETA), gradients_at(THETA), here(name)
    gap = ef.invariance_gap(CHARTS[name], theta, jnp.asarray(G), damping=damping, learning_rate=1e-4)
    direct, chart = -direction(G, np.eye(2), damping), -direction(G, J, damping)
    first = J @ chart - direct
    close = {"rtol": 1e-6, "atol": slack(G, J)}
    np.testing.assert_allclose(gap.first_order, np.linalg.norm(first) / np.linalg.norm(direct), **close)
    np.testing.assert_allclose(gap.restored, 0, atol=slack(G, J))
    on_examples = np.linalg.norm(G @ first) / np.linalg.norm(G @ direct)
    np.testing.assert_allclose(gap.on_examples, on_examples, **close)
    if name in CURVED:
        first += 1e-4 * second(name, psi, chart) / 2
    finite = np.linalg.norm(first) / np.linalg.norm(direct)
    # The third order is η² = 1e-8 times a few beside the first, or, at ε = 0, η beside the second: 1e-3. And φ(ψ + Δψ)
    # - φ(ψ) loses 1e4 of the 1e16.
    np.testing.assert_allclose(gap.finite, finite, rtol=1e-3, atol=1e-11)
    assert finite < 1e-3 or damping


# 4.2: in continuous time.

END = 0.2


def flow(velocity, end=END):
    """Where dθ/dt = velocity(θ) leads, by somebody else's Runge-Kutta."""
    found = solve_ivp(lambda _, theta: velocity(theta), (0, end), THETA, rtol=1e-10, atol=1e-12)
    assert found.success
    return found.y[:, -1]


def assert_halves(errors):
    """A gap a/N + b/N² + …: the ratio at N and 2N is 2 + b/(aN), so twice the second ratio less the first is 2.

    0.02 is for the next term.
    """
    first, second = errors[0] / errors[1], errors[1] / errors[2]
    assert abs(second - 2) < 0.1
    np.testing.assert_allclose(2 * second - first, 2, atol=0.02)


# 4.3: fewer examples than parameters.

WIDE = np.array([[1.0, 0.5, -0.3], [-0.4, 1.2, 0.8]])
OTHER = np.array([0.6, -0.9, 1.1])  # the gradient of an example that is not in the sample
WIDE_CHARTS = {
    "affine": charts.affine(jnp.array([[2.0, 1.0, 0.0], [0.0, 0.5, -1.0], [1.0, 0.0, 2.0]])),
    "weight norm": charts.weight_norm,
}


@pytest.mark.parametrize("name", WIDE_CHARTS)
def test_fewer_examples_than_parameters(name, x64):
    """The sample's losses change alike, -η each (facts 4.3); the step differs, and so does what it does to others."""
    dtype = "float32" if name == "affine" else "float64"  # the rank is 2 in any precision
    chart, theta, G = WIDE_CHARTS[name], jnp.array([0.4, 0.7, 1.5], dtype), jnp.asarray(WIDE, dtype)
    J = np.asarray(charts.jacobian(chart, chart.inverse(theta)), float)

    @jax.jit
    def both(theta, G):
        steps = [ef.step_in(each, theta, G, learning_rate=RATE) for each in (chart, charts.identity)]
        return *steps, ef.invariance_gap(chart, theta, G, learning_rate=RATE)

    step, direct, gap = both(theta, G)
    close = slack(G, J)
    for each in (step, direct):
        np.testing.assert_allclose(WIDE @ np.asarray(each.pushed, float), -RATE, rtol=close)
    expected = [-RATE * M @ np.linalg.pinv(WIDE @ M) @ np.ones(2) for M in (J, np.eye(3))]
    assert oracles.relative(step.pushed, expected[0]) < close
    assert oracles.relative(direct.pushed, expected[1]) < close
    between = expected[0] - expected[1]
    assert np.linalg.norm(between) > 0.1 * np.linalg.norm(expected[1])
    assert abs(OTHER @ between) > 0.1 * abs(OTHER @ expected[1])
    np.testing.assert_allclose(WIDE @ between, 0, atol=1e-13)  # between: in the null space of C
    size = np.linalg.norm(between) / np.linalg.norm(expected[1])
    np.testing.assert_allclose(gap.first_order, size, rtol=10 * close)
    assert gap.on_examples < close


def test_metric_damping_is_for_any_number_of_examples(x64):
    """ε → 0 with εJᵀJ keeps the shortest step in θ, where ε = 0 takes the shortest one in ψ."""
    J = np.array([[2.0, 1.0, 0.0], [0.0, 0.5, -1.0], [1.0, 0.0, 2.0]])
    for damping in (1e-8, 1e-2, 1.0):
        direct = -RATE * direction(WIDE, np.eye(3), damping)
        # √(nε) is the smallest singular value of the regression: a condition of 1e4 at ε = 1e-8, squared where rows
        # do not fit, which here is √ε of them.
        assert oracles.relative(linear(J, WIDE, damping, metric=True).pushed, direct) < 1e-7
        assert oracles.relative(linear(J, WIDE, damping).pushed, direct) > 0.01


# 4.4: damping.

TALL = np.asarray(oracles.GRID["tall"])
_rng = np.random.default_rng(11)
_turn = np.linalg.qr(_rng.normal(size=(4, 4)))[0]
# cond(J) = 117, as in the fact sheet; its draw is not known.
GENERAL = _turn @ np.diag(np.geomspace(1, 1 / 117, 4)) @ np.linalg.qr(_rng.normal(size=(4, 4)))[0]
DIAGONAL = np.diag([3.0, 0.2, 1.0, 0.7])
JACOBIANS = {"general": GENERAL, "diagonal": DIAGONAL, "orthogonal": _turn, "scaled": 3 * np.eye(4)}


def gap(J, damping=0.0, form="full", G=TALL):
    """‖JΔψ - Δθ‖/‖Δθ‖ with θ = Jψ."""
    return oracles.relative(*(linear(M, G, damping, form=form).pushed for M in (J, np.eye(4))))


@pytest.mark.parametrize("damping", [1e-6, 1e-4, 1e-2, 1.0])
def test_damping_depends_on_the_chart_and_metric_damping_does_not(damping, x64):
    """εI in ψ is ε(JJᵀ)⁻¹ in θ; εJᵀJ in ψ is εI in θ (facts 4.4)."""
    C, g = oracles.empirical_fisher(TALL), oracles.mean_gradient(TALL)
    direct = np.linalg.solve(C + damping * np.eye(4), g)
    for J in (GENERAL, DIAGONAL):
        there = np.linalg.solve(C + damping * np.linalg.inv(J @ J.T), g)
        expected = np.linalg.norm(there - direct) / np.linalg.norm(direct)
        # κ(J)² of eps, also in these solves: 1e-11.
        np.testing.assert_allclose(gap(J, damping), expected, rtol=1e-6, atol=1e-9)
        assert expected > 10 * damping if damping < 1 else expected > 0.1
        restored = linear(J, TALL, damping, metric=True).pushed
        assert oracles.relative(restored, -RATE * direct) < 1e-10
    assert gap(_turn, damping) < 1e-12
    # J = aI: its own damping is a²ε.
    scaled = linear(3 * np.eye(4), TALL, 9 * damping).pushed
    assert oracles.relative(scaled, -RATE * direct) < 1e-12
    assert gap(3 * np.eye(4), damping) > 0.1 * damping


@pytest.mark.parametrize(
    ("name", "form"),
    [("weight norm", "full"), ("exponential", "diagonal"), ("polar", "diagonal")],
)
def test_metric_damping_in_a_curved_chart(name, form, x64):
    """Δψ by the definition; restored are all steps by a full matrix, and those by a diagonal where J is diagonal."""
    theta, G, (_, J) = jnp.asarray(THETA), jnp.asarray(gradients_at(THETA)), here(name)
    for damping in (0.01, 10.0):
        step = stepping(name, theta, G, damping, form=form, metric=True)
        assert oracles.relative(step.chart_delta, -RATE * direction(G, J, damping, form, metric=True)) < 1e-11
        away = oracles.relative(step.pushed, -RATE * direction(G, np.eye(2), damping, form))
        assert away > 0.01 if (name, form) == ("polar", "diagonal") else away < 1e-11


@given(seed=st.integers(0, 2**31), log_damping=st.floats(-8, 2))
def test_small_is_small_in_both_charts(seed, log_damping):
    """In what the losses see, each step is short of the undamped one by at most ε/(λmin + ε), λ those of its chart."""
    rng, damping = np.random.default_rng(seed), 10**log_damping
    G, J = rng.normal(size=(6, 4)), rng.normal(size=(4, 4))
    with jax.enable_x64(True):
        steps = [linear(M, G, damping).pushed for M in (J, np.eye(4))]
    short = [damping / (oracles.eigenvalues(G @ M)[-1] + damping) for M in (J, np.eye(4))]
    changes = [G @ np.asarray(step) for step in steps]
    undamped = np.linalg.norm(RATE * G @ np.linalg.pinv(G) @ np.ones(6))
    # 1e-6: condition up to 1e10 in a bad draw.
    assert np.linalg.norm(changes[0] - changes[1]) <= (sum(short) + 1e-6) * undamped


@pytest.mark.parametrize("shrunk", ["psi", "theta"])
def test_small_in_one_chart_is_not_small(shrunk, x64):
    """Eigenvalues 1 in one chart, down to 1e-4 in the other: ε = 1e-3 is large, ε = 1e-7 is small."""
    small = np.diag([1, 1, 1, 0.01])
    G = np.sqrt(6) * np.vstack([np.eye(4), np.zeros((2, 4))])  # C = I
    G, J = (G, small) if shrunk == "psi" else (G @ small, np.linalg.inv(small))
    values = [oracles.eigenvalues(each)[-1] for each in (G, G @ J)]
    np.testing.assert_allclose(sorted(values), [1e-4, 1], rtol=1e-9)
    assert gap(J, 1e-3, G=G) > 0.3
    assert gap(J, 1e-7, G=G) < 2e-3


# 4.5: which form is invariant to what.

INVARIANT = {
    "full": {"general", "diagonal", "orthogonal", "scaled"},
    "diagonal": {"diagonal", "scaled"},
    "root": {"orthogonal"},
    "diagonal root": set(),
    "none": {"orthogonal"},
}


@pytest.mark.parametrize("kind", JACOBIANS)
@pytest.mark.parametrize("form", FORMS)
def test_which_form_is_invariant_to_what(form, kind, x64):
    J = JACOBIANS[kind]
    expected = oracles.relative(J @ direction(TALL, J, form=form), direction(TALL, np.eye(4), form=form))
    if kind in INVARIANT[form]:
        # eps·κ(GJ)² is 1e-11, and the way back may cost κ(J) more.
        assert gap(J, form=form) < 1e-8
    else:
        assert expected > 0.05
        np.testing.assert_allclose(gap(J, form=form), expected, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_with_a_budget_a_common_unit_does_not_matter(form, x64):
    """J = aI: every form goes the same way, and the budget sets the length."""
    step, direct = (linear(M, TALL, form=form, given="budget").pushed for M in (3 * np.eye(4), np.eye(4)))
    assert oracles.relative(step, direct) < 1e-12


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize(("form", "power"), list(zip(FORMS, (-1, -1, 0, 0, 1), strict=True)))
def test_scaling_the_loss(form, power, factor, x64):
    """Loss times a: the step times 1/a by C, times 1 by a root, times a by gradient descent, in any chart."""
    scaled, step = (linear(GENERAL, each, form=form).pushed for each in (factor * TALL, TALL))
    assert oracles.relative(scaled, factor**power * step) < 1e-9


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["general", "orthogonal"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_what_it_says(form, kind, damping, x64):
    """Δψ by the definitions, for C and for a matrix in its place; with a budget, what is spent is c."""
    J, B = JACOBIANS[kind], TALL[:4] @ TALL[:4].T + np.eye(4)
    for curvature in (None, B) if form in ("full", "root") else (None,):
        expected = -RATE * direction(TALL, J, damping, form, curvature)
        step = linear(J, TALL, damping, None if curvature is None else jnp.asarray(B), form=form)
        # A root divides by √λ and a full inverse by λ: at worst eps·κ(JᵀCJ), 1e-10, and again for JΔψ.
        assert oracles.relative(step.chart_delta, expected) < 1e-8
        assert oracles.relative(step.pushed, J @ expected) < 1e-8
        np.testing.assert_allclose(step.delta, step.pushed, rtol=0, atol=1e-12)
    spent = linear(J, TALL, damping, form=form, given="budget")
    np.testing.assert_allclose(np.mean((TALL @ spent.pushed) ** 2), BUDGET, rtol=1e-9)
    expected = J @ direction(TALL, J, damping, form)
    assert (
        oracles.relative(spent.pushed, -np.sqrt(BUDGET / np.mean((TALL @ expected) ** 2)) * expected) < 1e-8
    )


# 4.6: charts in closed form.

ONE = np.array([[0.9, -0.2, 1.4, 0.3, 0.6, -0.7, 1.1, 0.2, 0.8, 0.5]]).T  # gradients of one parameter
MEAN, POWER = ONE.mean(), np.mean(ONE**2)


@pytest.mark.parametrize("theta", [0.2, 3.0])
@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.3])
def test_exponential_and_square_in_closed_form(rate, theta, x64):
    """θ exp(-ηg/(θC)); and a gap of exactly η²g²/(4θC²)."""
    G, point = jnp.asarray(ONE), jnp.array([theta])
    step = stepping("exponential", point, G, 0.0, rate)
    z = -rate * MEAN / (theta * POWER)
    np.testing.assert_allclose(theta + step.delta[0], theta * np.exp(z), rtol=1e-13)
    bend = rate**2 * MEAN**2 / (2 * theta * POWER**2)
    # exp z - 1 - z = z²/2 (1 + z/3 + …), an alternating series; and 1e-16 of θ in a gap of z²/2 of it.
    gap = step.delta[0] + rate * MEAN / POWER
    np.testing.assert_allclose(gap, bend, rtol=abs(z) / 3 + 4e-15 / z**2)
    step = stepping("square", point, G, 0.0, rate)
    gap = step.delta[0] + rate * MEAN / POWER
    np.testing.assert_allclose(gap, bend / 2, rtol=1e-14 / z**2 + 1e-13)


def test_weight_norm_leaves_the_length_of_v(x64):
    """The pseudo-inverse has no part along v: ‖v‖ stays to first order; s moves by the part of Δθ along θ."""
    G, v = gradients_at(THETA), THETA / np.linalg.norm(THETA)
    step = ef.step_in(charts.weight_norm, jnp.asarray(THETA), jnp.asarray(G), learning_rate=RATE)
    assert abs(v @ step.chart_delta[1:]) < 1e-14 * np.linalg.norm(step.chart_delta)
    assert np.linalg.norm(step.chart_delta[1:]) > 0.01
    np.testing.assert_allclose(step.chart_delta[0], -RATE * v @ np.linalg.pinv(G) @ np.ones(4), rtol=1e-12)


TEN = np.array([1.0] * 7 + [0.0] * 3)  # labels with mean y = 0.7
P = 0.4


def coin(p, x, y):
    return -(y * jnp.log(p[0]) + (1 - y) * jnp.log1p(-p[0]))


@pytest.fixture(name="flips")
def coins(x64):
    """A coin with p = 0.4 that showed heads 7 times in 10: θ, G, and F in p by the library."""
    p, x = jnp.array([P]), jnp.zeros(10)
    F = ef.fisher(coin, p, x, output_fn=lambda p, x: jax.scipy.special.logit(p[0]), likelihood=bernoulli)
    return p, ef.per_example_gradients(coin, p, x, jnp.asarray(TEN)), F


def test_coin_by_probability_and_by_log_odds(flips):
    """The digits of facts 4.6, y = 0.7, p = 0.4, η = 0.1."""
    p, G, F = flips
    y, variance = TEN.mean(), P * (1 - P)
    np.testing.assert_allclose(G.mean(), (P - y) / variance, rtol=1e-14)
    np.testing.assert_allclose(
        ef.pull_back(G, charts.jacobian(charts.logit, charts.logit.inverse(p))).mean(), P - y, rtol=1e-13
    )
    np.testing.assert_allclose(F, [[1 / variance]], rtol=1e-14)

    def both(rate=RATE, curvature=None, form="full"):
        return (stepping(name, p, G, 0.0, rate, curvature, form=form) for name in ("identity", "logit"))

    in_p, by_logit = both()
    np.testing.assert_allclose(in_p.delta, -RATE * (P - y) * variance / (P**2 - 2 * P * y + y), rtol=1e-13)
    np.testing.assert_allclose(in_p.delta, 0.0240, atol=5e-5)
    np.testing.assert_allclose(by_logit.delta, 0.0242, atol=5e-5)
    np.testing.assert_allclose(by_logit.pushed, in_p.pushed, rtol=1e-13)
    # s moves by η(y - p)/E[(p - yᵢ)²], whatever the derivative of the logistic function.
    np.testing.assert_allclose(by_logit.chart_delta, RATE * (y - P) / (P**2 - 2 * P * y + y), rtol=1e-13)
    # Gradient descent: (p(1 - p))² between the two.
    in_p, by_logit = both(form="none")
    np.testing.assert_allclose(in_p.delta, 0.125, rtol=1e-13)
    np.testing.assert_allclose(by_logit.delta, 0.00722, atol=5e-6)
    np.testing.assert_allclose(by_logit.pushed, variance**2 * in_p.pushed, rtol=1e-13)
    # The natural gradient: -η(p - y) in p, which lands on y at η = 1; by log-odds the same to first order.
    for rate in (RATE, 1.0):
        in_p, by_logit = both(rate, F)
        np.testing.assert_allclose(in_p.delta, -rate * (P - y), rtol=1e-13)
        np.testing.assert_allclose(by_logit.pushed, in_p.pushed, rtol=1e-12)
    np.testing.assert_allclose(p + in_p.delta, y, rtol=1e-13)


@pytest.mark.parametrize("name", ["polar", "weight norm"])
def test_natural_gradient_does_not_depend_on_the_chart(name, x64):
    """The Fisher as `curvature`: -ηF⁻¹g in every chart, to first order; and its finite gap is of second order."""
    theta, G, (psi, J) = jnp.asarray(THETA), jnp.asarray(gradients_at(THETA)), here(name)
    F = fisher_at(THETA)
    np.testing.assert_allclose(natural(theta), F, rtol=1e-13)
    direct = -np.linalg.solve(F, np.mean(G, axis=0))
    step = stepping(name, theta, G, 0.0, 1e-4, jnp.asarray(F))
    assert oracles.relative(step.pushed, 1e-4 * direct) < slack(G, J)
    bend = second(name, psi, np.linalg.pinv(J) @ direct) / 2
    # As in the gap of the empirical Fisher: a third order of η, and the 1e-16 of φ(ψ + Δψ) - φ(ψ).
    np.testing.assert_allclose(
        (step.delta - 1e-4 * direct) / 1e-8, bend, rtol=0, atol=1e-3 * np.linalg.norm(direct)
    )


def test_invariance_gap_takes_a_form_and_a_curvature(x64):
    G, F, (_, J) = gradients_at(THETA), fisher_at(THETA), here("polar")
    gap = ef.invariance_gap(
        charts.polar,
        jnp.asarray(THETA),
        jnp.asarray(G),
        damping=0.05,
        learning_rate=RATE,
        form="diagonal",
        curvature=jnp.asarray(F),
    )
    direct, there = (direction(G, M, 0.05, "diagonal", F) for M in (np.eye(2), J))
    restored = direction(G, J, 0.05, "diagonal", F, metric=True)
    for found, step in ((gap.first_order, there), (gap.restored, restored)):
        np.testing.assert_allclose(found, oracles.relative(J @ step, direct), rtol=1e-10)
    np.testing.assert_allclose(gap.on_examples, oracles.relative(G @ J @ there, G @ direct), rtol=1e-10)


# No gradient, no step; jit, vmap, precision, pytrees.

CANCELLING = {
    "nothing": np.zeros((4, 2)),
    "two rows": np.array([[1.0, 2.0], [-1.0, -2.0]] * 2),
    "two scales": np.array([[3000, 1999], [1, 0], [-3000, -1999], [-1, 0.0]]),
}


@pytest.mark.parametrize("rows", CANCELLING)
def test_no_gradient_no_step(rows, dtype):
    """g = 0, also where the rows cancel: nothing moves, in any chart, and every gap is 0."""
    theta, G = jnp.asarray(THETA, dtype), jnp.asarray(CANCELLING[rows], dtype)
    assert not ef.mean_gradient(G).any()
    for options in ({"budget": BUDGET}, {"learning_rate": RATE, "damping": 0.1}):
        np.testing.assert_array_equal(np.array(ef.invariance_gap(charts.polar, theta, G, **options)), 0)
        step = ef.step_in(charts.polar, theta, G, **options)
        for field in step[:3]:
            np.testing.assert_array_equal(field, 0)
        assert jnp.isfinite(step.learning_rate)
    for form in FORMS[1:]:
        np.testing.assert_array_equal(ef.step_in(charts.polar, theta, G, budget=1.0, form=form).pushed, 0)


def test_jit_and_vmap_change_nothing(x64):
    """Over θ and G, and over many dampings and budgets."""
    theta, G, chart = jnp.asarray(THETA), jnp.asarray(gradients_at(THETA)), charts.polar
    dampings, budgets = jnp.array([0.0, 1e-3, 0.1]), jnp.array([1e-4, 0.01, 0.05])
    mapped = jax.jit(
        jax.vmap(lambda damping, budget: ef.step_in(chart, theta, G, damping=damping, budget=budget))
    )(dampings, budgets)
    jitted = jax.jit(lambda *state: ef.step_in(chart, *state[:2], damping=state[2], budget=state[3]))
    for k in range(3):
        alone = ef.step_in(chart, theta, G, damping=dampings[k], budget=budgets[k])
        for field, value in zip(ChartStep._fields, alone, strict=True):
            assert oracles.relative(getattr(mapped, field)[k], value) < slack(G, here("polar")[1]), field
            compiled = getattr(jitted(theta, G, dampings[k], budgets[k]), field)
            assert oracles.relative(compiled, value) < slack(G, here("polar")[1]), field


def test_under_jit_the_result_says_that_it_is_not_finite():
    """Outside the chart, or with gradients that are not finite, it must not look like the step of a zero gradient."""
    for options in ({"budget": BUDGET}, {"learning_rate": RATE}):
        traced = jax.jit(partial(ef.step_in, charts.exponential, **options))
        for theta, G in ((-THETA, gradients_at(THETA)), (THETA, gradients_at(THETA) * np.nan)):
            step = traced(jnp.asarray(theta, jnp.float32), jnp.asarray(G, jnp.float32))
            assert not jnp.isfinite(step.delta).any()
            assert not jnp.isfinite(step.pushed).any()


def test_float32_stays_float32_where_64_bits_are_on(x64):
    """Whole numbers, NumPy numbers and float64 arrays for the scalars do not turn it into float64."""
    theta, G = jnp.asarray(THETA, jnp.float32), jnp.asarray(gradients_at(THETA), jnp.float32)
    for damping, budget in (
        (0, 1),
        (np.float64(0.1), np.float64(0.01)),
        (jnp.asarray(0.1), jnp.asarray(0.01)),
    ):
        for call in (ef.step_in, ef.invariance_gap):  # the dtypes, without the numbers
            found = jax.eval_shape(partial(call, charts.polar, damping=damping, budget=budget), theta, G)
            assert [field.dtype for field in found] == [jnp.float32] * 4


@pytest.mark.parametrize("name", CHARTS)
def test_float32_is_enough(name):
    """Beside float64: eps·κ in a step; the finite step is φ(ψ + Δψ) - φ(ψ) and loses ‖θ‖/‖Δθ‖ besides."""
    G, (_, J) = gradients_at(THETA), here(name)
    for damping in (0.0, 0.1):
        with jax.enable_x64(True):
            exact = ef.step_in(
                CHARTS[name], jnp.asarray(THETA), jnp.asarray(G), damping=damping, learning_rate=RATE
            )
        theta32, G32 = jnp.asarray(THETA, jnp.float32), jnp.asarray(G, jnp.float32)
        step = ef.step_in(CHARTS[name], theta32, G32, damping=damping, learning_rate=RATE)
        close = slack(G.astype(np.float32), J)
        assert oracles.relative(step.pushed, exact.pushed) < close
        assert oracles.relative(step.chart_delta, exact.chart_delta) < close
        lost = 10 * oracles.unit("float32") * np.linalg.norm(THETA) / np.linalg.norm(exact.delta)
        assert oracles.relative(step.delta, exact.delta) < close + lost


def test_parameters_are_any_pytree(x64):
    """Ravelled in the order of `jax.tree`; what comes back is flat."""
    tree = {"a": jnp.asarray(THETA[0]), "b": [jnp.asarray(THETA[1:])]}
    G = jnp.asarray(gradients_at(THETA))
    for field, value in zip(
        ef.step_in(charts.polar, tree, G, budget=BUDGET),
        ef.step_in(charts.polar, jnp.asarray(THETA), G, budget=BUDGET),
        strict=True,
    ):
        np.testing.assert_array_equal(field, value)
    flat = ef.invariance_gap(charts.polar, jnp.asarray(THETA), G, budget=BUDGET, damping=0.1)
    np.testing.assert_array_equal(
        np.array(ef.invariance_gap(charts.polar, tree, G, budget=BUDGET, damping=0.1)), np.array(flat)
    )


# Trajectories.


# Errors.

G = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
NAN, INF = float("nan"), float("inf")


def step_in(chart, params, G=G, **options):
    return bare(ef.step_in)(chart, jnp.asarray(params), G, **options or {"budget": BUDGET})


ENTER = {
    "step": step_in,
    "gap": lambda chart, params, G=G: bare(ef.invariance_gap)(chart, jnp.asarray(params), G, budget=BUDGET),
}


@pytest.fixture
def unhooked(monkeypatch):
    """Goes round jaxtyping's hook inside the module too: what is wrong is said by the library itself."""
    for name in ("step_in", "precondition", "pull_back", "jacobian", "mean_gradient", "empirical_fisher"):
        for module in (charts, chart_step):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, bare(getattr(module, name)))


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("enter", ENTER.values(), ids=ENTER)
@pytest.mark.parametrize(
    ("name", "theta", "domain", "got"),
    [
        ("exponential", [-1.0, 1.0], "θ > 0, as θ = exp ψ", "[-1.  1.]"),
        ("square", [1.0, -0.5], "θ > 0, as θ = ψ²", "[ 1.  -0.5]"),
        ("logit", [0.5, 2.0], "0 < θ < 1, as θ = 1/(1 + exp(-ψ))", "[0.5 2. ]"),
        ("weight norm", [0.0, 0.0], "θ ≠ 0, as θ = s v/‖v‖", "[0. 0.]"),
    ],
    ids=str,
)
def test_outside_the_chart(name, theta, domain, got, enter):
    with raises(f"`params` must be inside the chart {name!r} ({domain}); got {got}. Start elsewhere."):
        enter(CHARTS[name], theta)


@pytest.mark.parametrize("enter", ENTER.values(), ids=ENTER)
def test_parameters_that_are_not_finite(enter):
    for value, got in ((NAN, "[nan  1.]"), (-INF, "[-inf   1.]")):
        with raises(
            "`params` must be inside the chart 'identity' (where its inverse is defined); got " + got
        ):
            enter(charts.identity, [value, 1.0])
        with raises(f"got {got}. Start elsewhere."):
            enter(charts.polar, [value, 1.0])


@pytest.mark.parametrize("enter", ENTER.values(), ids=ENTER)
@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("polar", [0.0, 0.0]),
        ("square", [0.0, 1.0]),
        ("exponential", [0.0, 1.0]),
        ("logit", [1.0, 0.5]),
        ("cube", [1.0, 0.0]),
    ],
)
def test_singular_points(name, theta, enter):
    """φ leads there, and J is singular: some step of θ cannot be made."""
    with raises(f"`params` must be at a regular point of the chart {name!r} (") as caught:
        enter(CHARTS[name], theta)
    assert "where some step cannot be made in it. Start elsewhere." in str(caught.value)


def test_a_chart_with_too_few_numbers():
    """One number for two parameters: J (2, 1) has no full row rank, however regular."""
    line = charts.Coordinates("line", lambda psi: jnp.stack([psi[0], 2 * psi[0]]), lambda theta: theta[:1])
    with raises("`params` must be at a regular point of the chart 'line' (where its inverse is defined)"):
        step_in(line, [1.0, 2.0])
    with raises("`params` must be inside the chart 'line' (where its inverse is defined)"):
        step_in(line, [1.0, 1.0])  # not on the line


@pytest.mark.parametrize("size", [1, 3])
def test_polar_is_for_two(size):
    with raises(
        "`params` must be as many numbers as the chart 'polar' (two parameters, not both 0"
    ) as caught:
        step_in(charts.polar, np.ones(size), jnp.ones((4, size)))
    assert f"describes, 2; got {size} of them. Choose a chart that fits." in str(caught.value)


def test_every_chart_says_what_it_can_describe():
    for name, chart in CHARTS.items():
        assert chart.name == name
        assert chart.domain
    assert charts.elementwise("half", lambda psi: psi / 2, lambda theta: 2 * theta, "all θ").domain == "all θ"


def test_affine_needs_an_invertible_matrix():
    affine = bare(charts.affine)
    for shape in ((2, 3), (2,), (), (0, 0)):
        with raises(f"`A` must be square (p, p); got shape {shape}. It maps p numbers to the p parameters."):
            affine(jnp.ones(shape))
    with raises("`A` must be finite; got NaN or infinity in 1 of 2 rows: 0. Every entry is a number."):
        affine(jnp.eye(2).at[0, 1].set(NAN))
    for singular in (jnp.ones((2, 2)), jnp.zeros((2, 2)), jnp.diag(jnp.array([1, 1e-8], jnp.float32))):
        with raises("`A` must be invertible; got singular values from ") as caught:
            affine(singular)
        assert "Some step of the parameters could not be made in this chart." in str(caught.value)
    with raises("`shift` must be an array of real numbers; got str."):
        affine(jnp.eye(2), "shift")


def test_pull_back_and_push_forward_fit():
    for shape in ((3, 2), (2,), (2, 2, 2)):
        with raises(f"`J` must be of shape (2, q), as G is (3, 2); got shape {shape}. Use jacobian("):
            bare(ef.pull_back)(G, jnp.ones(shape))
    with raises("`G` must be 2-D, one gradient a row (n, p); got shape (2,)."):
        bare(ef.pull_back)(G[0], jnp.eye(2))
    with raises("`G` must be finite; got NaN or infinity in 1 of 3 rows: 1."):
        bare(ef.pull_back)(G.at[1, 0].set(NAN), jnp.eye(2))
    for shape in ((2,), (3, 1), ()):
        with raises(f"`delta` must be of shape (3,), as J is (2, 3); got shape {shape}. Use a step that was"):
            bare(ef.push_forward)(jnp.ones((2, 3)), jnp.ones(shape))


def test_gradients_of_other_parameters():
    with raises("`G` must be of shape (n, 2), as params are; got shape (4, 3). Use per_example_gradients"):
        step_in(charts.polar, THETA, jnp.ones((4, 3)))
    with raises("`G` must be finite; got NaN or infinity in 1 of 3 rows: 1. Look at these examples"):
        step_in(charts.polar, THETA, G.at[1, 0].set(NAN))
    with raises("`G` must be non-empty; got shape (0, 2)."):
        step_in(charts.polar, THETA, jnp.ones((0, 2)))


OPTIONS = {
    "step": lambda **options: step_in(charts.exponential, THETA, **options),
    "gap": lambda **options: bare(ef.invariance_gap)(charts.exponential, jnp.asarray(THETA), G, **options),
}


@pytest.mark.parametrize("call", OPTIONS.values(), ids=OPTIONS)
def test_options(call, unhooked):
    message = "Exactly one of `budget` and `learning_rate` must be given; got "
    with raises(message + "both. A budget c fixes"):
        call(budget=0.1, learning_rate=0.1)
    with raises(message + "none. A budget c fixes"):
        call(damping=0.1)
    for value in (-1.0, NAN, INF):
        with raises(f"`damping` must be finite and at least 0; got {value}. Use 0 for the pseudo-inverse"):
            call(damping=value, budget=0.1)
    for argument in ("budget", "learning_rate"):
        for value in (0.0, -0.5, NAN, INF):
            with raises(f"`{argument}` must be finite and greater than 0; got {value}. "):
                call(**{argument: value})
        with raises(f"`{argument}` must be one number; got shape (3,)."):
            call(**{argument: jnp.ones(3)})
    with raises("`damping` must be one number; got shape (2,)."):
        call(damping=jnp.ones(2), budget=0.1)
    with raises("`form` must be one of 'full', 'diagonal', 'root', 'diagonal root', 'none'; got 'half'."):
        call(form="half", budget=0.1)


def test_curvature():
    for form in ("full", "diagonal"):
        with raises("`curvature` must be square (p, p); got shape (2, 3)."):
            step_in(charts.identity, THETA, budget=0.1, form=form, curvature=jnp.ones((2, 3)))
        with raises("`curvature` must be symmetric; got |curvature - curvatureᵀ| up to 1."):
            step_in(charts.identity, THETA, budget=0.1, form=form, curvature=jnp.eye(2).at[0, 1].set(1))
        with raises("`curvature` must be finite; got NaN or infinity in 1 of 2 rows: 0."):
            step_in(charts.identity, THETA, budget=0.1, form=form, curvature=jnp.eye(2).at[0, 0].set(NAN))
    # A matrix that does not see all of g, as in solve_primal.
    with raises("`g` must lie in the range of `A` when `damping` is 0; got a part g⊥"):
        step_in(charts.exponential, THETA, budget=0.1, curvature=jnp.diag(jnp.array([1.0, 0.0])))
    with raises("must be positive semi-definite here"):
        step_in(charts.exponential, THETA, budget=0.1, form="root", curvature=-jnp.eye(2))


# θ = √ψ: below ψ = 0 there is no θ.
ROOT = charts.elementwise("root", jnp.sqrt, jnp.square, "θ > 0")


@pytest.mark.parametrize("options", [{"learning_rate": 1e3}, {"budget": 1e6}], ids=str)
@pytest.mark.parametrize(
    ("chart", "sign"), [(ROOT, 1), (charts.exponential, -1)], ids=["root", "exponential"]
)
def test_a_step_out_of_the_chart(chart, sign, options):
    """Where φ is not defined, as the step lowers θ; and where it overflows, as the step raises it."""
    for call in (bare(ef.step_in), bare(ef.invariance_gap)):
        with raises("The step leads out of the chart: make it smaller") as caught:
            call(chart, jnp.asarray(THETA), sign * G, **options)
        assert str(caught.value).startswith(f"`{next(iter(options))}` must be ")


def squares(theta, x, y):
    return (x @ theta - y) ** 2 / 2


EXTREMES = [
    (1.0, {"budget": 1e-30}),
    (1.0, {"budget": 1e30}),
    (1.0, {"learning_rate": 1e30}),
    (1e20, {"budget": 1e30}),
    (1e20, {"learning_rate": 1e30}),
    (1e-20, {"learning_rate": 1e-30}),
]
EDGES = {
    "identity": [[0, 0], [1e30, 1e-30]],
    "affine": [[0.125, -0.25], [1e6, -1e6]],
    "exponential": [[1e-30, 2e-30], [1e30, 1e30], [1e-30, 1e30], [0, 0]],
    "square": [[1e-30, 1e-30], [1e30, 1e30], [-0.0, 1]],
    "logit": [[1e-6, 1 - 1e-6], [0, 1], [1e-30, 1e-30]],
    "polar": [[-1, 0], [0, 1e-30], [1e30, 1e30], [1e-7, 0]],
    "weight norm": [[-1, 0], [1e-30, 1e-30], [1e30, 1e30]],
}


@pytest.mark.parametrize("name", EDGES)
def test_never_a_silent_nan(name):
    """Finite input, finite output, or an error that is the library's own."""
    rows = jnp.asarray(np.vstack([gradients_at(THETA), np.zeros((1, 2))]), jnp.float32)
    for theta in EDGES[name]:
        for scale, options in EXTREMES:
            try:
                step = ef.step_in(CHARTS[name], jnp.asarray(theta, jnp.float32), scale * rows, **options)
            except ValueError as error:
                assert re.match(r"`\w+` must be ", str(error))  # noqa: PT017
            else:
                for field, value in zip(ChartStep._fields, step, strict=True):
                    assert jnp.isfinite(value).all(), (theta, scale, options, field)


# Edges.


def test_affine_chart_with_a_shift_at_the_origin():
    """Where every built-in problem starts."""
    A = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2)), jnp.float32)
    step = step_in(charts.affine(A, 0.3), jnp.zeros(2), learning_rate=1.0)
    np.testing.assert_allclose(step.pushed, -np.array([11, 7]) / 23, rtol=1e-4)


@pytest.mark.parametrize(("scale", "form"), [(1e-22, "full"), (1e-12, "none")])
def test_the_scale_of_the_loss_never_gives_a_silent_nothing(scale, form):
    """A step, or an error that says to rescale the loss, as in `empirical_fisher_step`."""
    try:
        step = step_in(charts.identity, THETA, scale * G, budget=BUDGET, form=form)
    except ValueError as error:
        assert "rescale the loss" in str(error)  # noqa: PT017
    else:
        assert (np.abs(step.pushed) * scale > 1e-3).all()


def test_a_step_that_is_not_finite_in_the_chart():
    with raises("make it smaller"):
        step_in(charts.logit, THETA, learning_rate=3e38)


def test_whole_numbers_are_taken_as_real():
    step = step_in(charts.exponential, np.array([1, 2]), learning_rate=0.1)
    np.testing.assert_allclose(step.pushed, -0.1 * np.array([11, 7]) / 23, rtol=1e-4)


def test_jacobian_that_is_not_finite():
    for chart, psi in ((charts.weight_norm, jnp.zeros(3)), (charts.exponential, jnp.array([1000.0]))):
        with raises("`psi` must be "):
            bare(charts.jacobian)(chart, psi)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("curvature", lambda: step_in(charts.identity, THETA, budget=0.1, curvature=jnp.eye(3))),
        ("params", lambda: step_in(charts.affine(jnp.eye(2)), np.ones(3), jnp.ones((4, 3)), budget=0.1)),
        ("shift", lambda: bare(charts.affine)(jnp.eye(2), jnp.ones(3))),
        ("shift", lambda: bare(charts.affine)(jnp.eye(2), NAN)),
        ("J", lambda: bare(ef.push_forward)(jnp.ones(()), jnp.ones(2))),
        ("J", lambda: bare(ef.push_forward)(jnp.ones(2), jnp.ones(2))),
    ],
    ids=["curvature", "params", "shift's shape", "shift's value", "J", "J and delta"],
)
def test_what_does_not_fit_is_named(argument, call):
    with raises(f"`{argument}` must be "):
        call()
