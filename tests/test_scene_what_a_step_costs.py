"""The cost of a step, over the whole table, against the formulas of logistic and linear regression in float64."""

import gallery
import numpy as np
import pytest

from efisher_teach.figures.scenes.what_a_step_costs import RADII


@pytest.fixture(params=gallery.cases("what_a_step_costs", "what_a_step_costs, few"))
def case(request):
    """Scene, table, problem, budget; G; unit vectors (turn, 2) and Δ (turn, length, 2)."""
    scene, table = gallery.shown(request.param)
    problem = scene.data["problem"]
    G = gallery.gradients(problem)
    start, turns = np.arctan2(*-G.mean(axis=0)[::-1]), np.deg2rad(scene.axes[0].values)
    around = np.stack([np.cos(start + turns), np.sin(start + turns)], axis=1)
    delta = around[:, None] * scene.axes[1].values[:, None]
    return scene, table, problem, scene.data["budget"], G, around, delta


def test_every_step_to_first_order_and_in_truth(case):
    """The first and the last bar pull least and most with the mean; between them, places are even."""
    _, table, problem, _, G, _, delta = case
    arrays, true = table.arrays, gallery.changes(problem, delta)
    gallery.agree(arrays, {"tip": delta}, atol=1e-5)
    np.testing.assert_array_equal(arrays["step"][:, :, 1], arrays["tip"])
    form = np.einsum("tli,ij,tlj->tl", delta, G.T @ G / len(G), delta)
    gallery.agree(arrays, {"cost": np.sqrt(form), "true_cost": np.sqrt(np.mean(true**2, axis=2))}, rtol=1e-4)
    gallery.agree(arrays, {"predicted": delta @ G.mean(axis=0), "actual": true.mean(axis=2)}, atol=3e-6)

    most, count = float(table.background["most"]), min(24, len(G))
    order = np.argsort(G @ G.mean(axis=0))[np.linspace(0, len(G) - 1, count).round().astype(int)]
    heights, dots = arrays["bars"][:, :, :, 1, 1], arrays["changes"][..., 1]
    np.testing.assert_allclose(heights, np.clip(delta @ G[order].T, -most, most), atol=2e-5)
    np.testing.assert_allclose(dots, np.clip(true[..., order], -most, most), atol=2e-5)
    assert (abs(heights) < most).mean() > 0.8  # few bars are cut off


def test_curves_cost_the_budget(case):
    """The true one is interpolated, on logarithmic scales, between places a part of 24 apart."""
    scene, table, problem, budget, G, around, _ = case
    arrays, longest = table.arrays, scene.axes[1].values[-1]
    assert table.depends["ellipse"] == table.depends["allowance"] == ()
    np.testing.assert_allclose(gallery.cost(G, arrays["ellipse"]), budget, rtol=1e-4)
    np.testing.assert_allclose(arrays["allowance"][:, 0, 1], [budget**0.5, -(budget**0.5)], rtol=1e-5)
    np.testing.assert_allclose(arrays["allowed"], budget**0.5, rtol=1e-5)
    lengths = np.linalg.norm(arrays["true_curve"], axis=1)
    assert longest > np.linalg.norm(arrays["ellipse"], axis=1).max()
    inside = lengths < 0.999 * longest
    assert inside.sum() > 20
    true = gallery.changes(problem, (lengths[:, None] * around)[inside])
    np.testing.assert_allclose(np.mean(true**2, axis=1), budget, rtol=0.02)
    np.testing.assert_allclose(arrays["true_curve"], lengths[:, None] * around, atol=1e-5)


def test_remainders_are_what_first_order_leaves_out(case):
    """At every radius of every turn, from 1/316 of the longest step on: in float64 there is something to subtract."""
    scene, table, problem, _, G, around, _ = case
    radii = RADII * scene.axes[1].values[-1]
    delta = around[:, None] * radii[:, None]
    true, kept = gallery.changes(problem, delta), delta @ G.T
    low, high = table.background["rest_limits"]
    expected = {
        "rest": (2, true.mean(axis=2) - kept.mean(axis=2)),
        "square_rest": (3, np.mean(true**2, axis=2) - np.mean(kept**2, axis=2)),
    }
    for name, (power, rest) in expected.items():
        shown = table.arrays[name]
        np.testing.assert_allclose(shown[..., 0], np.broadcast_to(radii, rest.shape), rtol=1e-5)
        wrong = abs(shown[..., 1] - np.clip(abs(rest), low, high))
        assert (wrong < 1e-3 * abs(rest).max(axis=0)).all()  # relative to the turn where most is left out
        dots = table.arrays[f"{name}_dot"]
        np.testing.assert_allclose(dots, shown[:, -dots.shape[1] :], rtol=1e-5)
        # The guide starts there, and has the slope that it is named for.
        ends = table.arrays[name.replace("rest", "guide") if power == 3 else "guide"]
        np.testing.assert_allclose(ends[:, 0], shown[:, 0], rtol=1e-5)
        free = (ends[:, :, 1] > 1.001 * low).all(axis=1) & (ends[:, 1, 1] < 0.999 * high)
        assert free.mean() > 0.5
        slopes = np.diff(np.log(ends[free]), axis=1)[:, 0]
        np.testing.assert_allclose(slopes[:, 1] / slopes[:, 0], power, rtol=1e-4)


def test_orders(case):
    """2 for the mean loss, 3 for the mean square (facts 2.8), but where the third-order term changes its sign."""
    _, table, problem, _, G, around, _ = case
    np.testing.assert_allclose(table.arrays["slope"], 2, atol=0.03)
    square = table.arrays["square_slope"]
    assert np.mean(abs(square - 3) < 0.05) > 0.8
    kept = 1e-3 * around @ G.T  # E[(gᵢᵀΔ)(ΔᵀHᵢΔ)] in float64
    third = (
        np.mean(kept * 2 * (gallery.changes(problem, 1e-3 * around) - kept), axis=1)
        / np.mean(kept**2, axis=1) ** 1.5
    )
    clear = abs(third) > 0.1 * abs(third).max()
    np.testing.assert_allclose(square[clear], 3, atol=0.1)


def test_a_cheap_and_a_dear_step_are_equally_long(case):
    scene, table, _, _, G, *_ = case
    cheap, dear, far = scene.presets
    costs = []
    for preset in (cheap, dear):
        places = [axis.nearest(preset.state[axis.name]) for axis in scene.axes]
        costs.append(table.arrays["cost"][tuple(places)] / scene.axes[1].values[places[1]])
    values = np.linalg.eigvalsh(G.T @ G / len(G))
    np.testing.assert_allclose(
        np.square(costs), values, rtol=0.02
    )  # √λ a unit, to within two degrees of turn
    assert far.state["turn"] == -180
