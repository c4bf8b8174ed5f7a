"""The cost of a step, over the whole table, against the formulas of logistic and linear regression in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.what_a_step_costs import RADII, what_a_step_costs

PROBLEMS = {
    "tumours": lambda: ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5),
    "clouds": lambda: ef.logistic_regression(n=17, seed=3)._replace(params=jnp.array([0.4, -0.2])),
    "line": lambda: ef.descend(ef.linear_regression(seed=1), steps=1, learning_rate=0.3),
}


@pytest.fixture(
    scope="module", params=[("tumours", 0.01), ("clouds", 0.04), ("line", 0.002)], ids=lambda case: case[0]
)
def steps(request):
    """Scene, table, budget; G; Δ (turn, length, 2); and the true changes of all losses under any steps."""
    name, budget = request.param
    problem = PROBLEMS[name]()
    scene = what_a_step_costs(problem, budget=budget)
    x, y, theta = (np.float64(part) for part in (problem.x, problem.y, problem.params))
    z = x @ theta
    G = (z - y)[:, None] * x if name == "line" else (1 / (1 + np.exp(-z)) - y)[:, None] * x

    def changes(delta):
        after = delta @ x.T + z
        if name == "line":
            return ((after - y) ** 2 - (z - y) ** 2) / 2
        return np.logaddexp(0, after) - np.logaddexp(0, z) - y * (after - z)

    g, turns = G.mean(axis=0), np.deg2rad(scene.axes[0].values)
    start = np.arctan2(-g[1], -g[0])
    around = np.stack([np.cos(start + turns), np.sin(start + turns)], axis=1)
    delta = around[:, None] * scene.axes[1].values[:, None]
    return scene, scenes.tabulate(scene), budget, G, around, delta, changes


def test_the_step_of_every_place(steps):
    _, table, _, _, _, delta, _ = steps
    np.testing.assert_allclose(table.arrays["tip"], delta, atol=1e-5)
    np.testing.assert_allclose(table.arrays["step"][:, :, 1], delta, atol=1e-5)


def test_first_order_cost_is_the_quadratic_form(steps):
    _, table, _, G, _, delta, _ = steps
    form = np.einsum("tli,ij,tlj->tl", delta, G.T @ G / len(G), delta)
    np.testing.assert_allclose(table.arrays["cost"] ** 2, form, rtol=1e-4)
    np.testing.assert_allclose(table.arrays["predicted"], delta @ G.mean(axis=0), atol=2e-6)


def test_the_truth(steps):
    _, table, _, _, _, delta, changes = steps
    true = changes(delta)
    np.testing.assert_allclose(table.arrays["true_cost"], np.sqrt(np.mean(true**2, axis=2)), rtol=1e-4)
    np.testing.assert_allclose(table.arrays["actual"], true.mean(axis=2), atol=3e-6)


def test_bars_and_dots_are_examples_all_over_the_order(steps):
    """The first and the last bar pull least and most with the mean; between them, places are even."""
    _, table, _, G, _, delta, changes = steps
    most, count = float(table.background["most"]), min(24, len(G))
    order = np.argsort(G @ G.mean(axis=0))[np.linspace(0, len(G) - 1, count).round().astype(int)]
    heights = table.arrays["bars"][:, :, :, 1, 1]
    np.testing.assert_allclose(heights, np.clip(delta @ G[order].T, -most, most), atol=2e-5)
    dots = table.arrays["changes"]
    np.testing.assert_allclose(dots[..., 1], np.clip(changes(delta)[..., order], -most, most), atol=2e-5)
    assert dots.shape[2] == count
    assert (abs(heights) < most).mean() > 0.8  # few bars are cut off


def test_ellipse_costs_the_budget(steps):
    scene, table, budget, G, *_ = steps
    assert table.depends["ellipse"] == table.depends["allowance"] == ()
    np.testing.assert_allclose(np.mean((table.arrays["ellipse"] @ G.T) ** 2, axis=1), budget, rtol=1e-4)
    np.testing.assert_allclose(table.arrays["allowance"][:, 0, 1], [budget**0.5, -(budget**0.5)], rtol=1e-5)
    np.testing.assert_allclose(table.arrays["allowed"], budget**0.5, rtol=1e-5)
    assert scene.axes[1].values[-1] > np.linalg.norm(table.arrays["ellipse"], axis=1).max()


def test_true_curve_costs_the_budget_in_truth(steps):
    """Where it lies in the view: it is interpolated, on logarithmic scales, between places a part of 24 apart."""
    scene, table, budget, _, _, _, changes = steps
    curve = np.float64(table.arrays["true_curve"])
    inside = np.linalg.norm(curve, axis=1) < 0.999 * scene.axes[1].values[-1]
    assert inside.sum() > 20
    np.testing.assert_allclose(np.mean(changes(curve[inside]) ** 2, axis=1), budget, rtol=0.02)


def test_remainders_are_what_first_order_leaves_out(steps):
    """At every radius of every turn, from 1/316 of the longest step on: in float64 there is something to subtract."""
    scene, table, _, G, around, _, changes = steps
    radii = RADII * scene.axes[1].values[-1]
    delta = around[:, None] * radii[:, None]
    true, kept = changes(delta), delta @ G.T
    low, high = table.background["rest_limits"]
    expected = {
        "rest": true.mean(axis=2) - kept.mean(axis=2),
        "square_rest": np.mean(true**2, axis=2) - np.mean(kept**2, axis=2),
    }
    for name, rest in expected.items():
        shown = table.arrays[name]
        np.testing.assert_allclose(shown[..., 0], np.broadcast_to(radii, rest.shape), rtol=1e-5)
        wrong = abs(shown[..., 1] - np.clip(abs(rest), low, high))
        assert (wrong < 1e-3 * abs(rest).max(axis=0)).all()  # relative to the turn where most is left out
        dots = table.arrays[f"{name}_dot"]
        np.testing.assert_allclose(dots[..., 1], shown[:, -dots.shape[1] :, 1], rtol=1e-5)
        np.testing.assert_allclose(dots[..., 0], shown[:, -dots.shape[1] :, 0], rtol=1e-5)


def test_orders(steps):
    """2 for the mean loss, 3 for the mean square (facts 2.8), but where the third-order term changes its sign."""
    _, table, _, G, around, _, changes = steps
    np.testing.assert_allclose(table.arrays["slope"], 2, atol=0.03)
    square = table.arrays["square_slope"]
    assert np.mean(abs(square - 3) < 0.05) > 0.8
    short = 1e-3 * around  # E[(gᵢᵀΔ)(ΔᵀHᵢΔ)] in float64
    kept = short @ G.T
    third = np.mean(kept * 2 * (changes(short) - kept), axis=1) / np.mean(kept**2, axis=1) ** 1.5
    clear = abs(third) > 0.1 * abs(third).max()
    np.testing.assert_allclose(square[clear], 3, atol=0.1)


def test_guides_have_the_slopes_they_are_named_for(steps):
    _, table, *_ = steps
    low, high = table.background["rest_limits"]
    for name, curve, power in (("guide", "rest", 2), ("square_guide", "square_rest", 3)):
        ends, start = table.arrays[name], table.arrays[curve][:, 0]
        np.testing.assert_allclose(ends[:, 0], start, rtol=1e-5)
        free = (ends[:, :, 1] > 1.001 * low).all(axis=1) & (ends[:, 1, 1] < 0.999 * high)
        assert free.mean() > 0.5
        slopes = np.diff(np.log(ends[free]), axis=1)[:, 0]
        np.testing.assert_allclose(slopes[:, 1] / slopes[:, 0], power, rtol=1e-4)


def test_a_cheap_and_a_dear_step_are_equally_long(steps):
    scene, table, _, G, *_ = steps
    cheap, dear, far = scene.presets
    costs = []
    for preset in (cheap, dear):
        places = [axis.nearest(preset.state[axis.name]) for axis in scene.axes]
        costs.append(table.arrays["cost"][tuple(places)] / scene.axes[1].values[places[1]])
    np.testing.assert_allclose(
        np.square(costs), np.linalg.eigvalsh(G.T @ G / len(G)), rtol=0.02
    )  # √λ a unit of length, to within the two degrees of a place
    assert far.state["turn"] == -180


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: what_a_step_costs(ef.breast_cancer(None)),
            r"`problem` must be one with params of shape \(2,\)",
        ),
        (
            lambda: what_a_step_costs(ef.linear_regression(n=1)),
            "`problem` must be one where every step costs something",
        ),
        (
            lambda: what_a_step_costs(ef.breast_cancer(), budget=0.05),
            "`budget` must be at most 0.04; got 0.05",
        ),
    ],
)
def test_messages(build, message):
    with pytest.raises(ValueError, match=message):
        build()
