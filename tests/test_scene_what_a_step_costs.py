"""The cost of a step, over the whole table, against the formulas of logistic and linear regression in float64."""

import gallery
import numpy as np
from gallery import agree

from efisher_teach.figures.scenes.what_a_step_costs import RADII


class Steps(gallery.Look):
    """Beside the table: unit vectors (turn, 2), and Δ (turn, length, 2)."""

    def __init__(self, name):
        super().__init__(name)
        turns, lengths = (axis.values for axis in self.scene.axes)
        angles = np.arctan2(*-self.g[::-1]) + np.deg2rad(turns)
        self.around, self.longest = np.stack([np.cos(angles), np.sin(angles)], axis=1), lengths[-1]
        self.delta = self.around[:, None] * lengths[:, None]


case = gallery.looks("what_a_step_costs", "what_a_step_costs, few", kind=Steps)


def test_every_step_to_first_order_and_in_truth(case):
    """The first and the last bar pull least and most with the mean; between them, places are even."""
    arrays, G, delta, true = case.arrays, case.G, case.delta, gallery.changes(case.problem, case.delta)
    agree(arrays, atol=1e-5, tip=delta)
    np.testing.assert_array_equal(arrays["step"][:, :, 1], arrays["tip"])
    form = np.einsum("tli,ij,tlj->tl", delta, case.C, delta)
    agree(arrays, rtol=1e-4, cost=np.sqrt(form), true_cost=np.sqrt(np.mean(true**2, axis=2)))
    agree(arrays, atol=2e-6, predicted=delta @ case.g)
    agree(arrays, atol=3e-6, actual=true.mean(axis=2))

    most, count = float(case.view["most"]), min(24, len(G))
    order = np.argsort(G @ case.g)[np.linspace(0, len(G) - 1, count).round().astype(int)]
    heights, dots = arrays["bars"][:, :, :, 1, 1], arrays["changes"][..., 1]
    np.testing.assert_allclose(heights, np.clip(delta @ G[order].T, -most, most), atol=2e-5)
    np.testing.assert_allclose(dots, np.clip(true[..., order], -most, most), atol=2e-5)
    assert (abs(heights) < most).mean() > 0.8  # few bars are cut off


def test_curves_cost_the_budget(case):
    """The true one is interpolated, on logarithmic scales, between places a part of 24 apart."""
    arrays, budget, around, longest = case.arrays, case.budget, case.around, case.longest
    assert case.table.depends["ellipse"] == case.table.depends["allowance"] == ()
    np.testing.assert_allclose(gallery.cost(case.G, arrays["ellipse"]), budget, rtol=1e-4)
    np.testing.assert_allclose(arrays["allowance"][:, 0, 1], [budget**0.5, -(budget**0.5)], rtol=1e-5)
    np.testing.assert_allclose(arrays["allowed"], budget**0.5, rtol=1e-5)
    lengths = np.linalg.norm(arrays["true_curve"], axis=1)
    assert longest > np.linalg.norm(arrays["ellipse"], axis=1).max()
    inside = lengths < 0.999 * longest
    assert inside.sum() > 20
    true = gallery.changes(case.problem, (lengths[:, None] * around)[inside])
    np.testing.assert_allclose(np.mean(true**2, axis=1), budget, rtol=0.02)
    np.testing.assert_allclose(arrays["true_curve"], lengths[:, None] * around, atol=1e-5)


def test_remainders_are_what_first_order_leaves_out(case):
    """At every radius of every turn, from 1/316 of the longest step on: in float64 there is something to subtract."""
    radii, (low, high) = RADII * case.longest, case.view["rest_limits"]
    delta = case.around[:, None] * radii[:, None]
    true, kept = gallery.changes(case.problem, delta), delta @ case.G.T
    expected = {
        "rest": (2, true.mean(axis=2) - kept.mean(axis=2)),
        "square_rest": (3, np.mean(true**2, axis=2) - np.mean(kept**2, axis=2)),
    }
    for name, (power, rest) in expected.items():
        shown = case.arrays[name]
        np.testing.assert_allclose(shown[..., 0], np.broadcast_to(radii, rest.shape), rtol=1e-5)
        wrong = abs(shown[..., 1] - np.clip(abs(rest), low, high))
        assert (wrong < 1e-3 * abs(rest).max(axis=0)).all()  # relative to the turn where most is left out
        dots = case.arrays[f"{name}_dot"]
        np.testing.assert_allclose(dots, shown[:, -dots.shape[1] :], rtol=1e-5)
        slope = np.log(abs(rest[:, 4] / rest[:, 0])) / np.log(RADII[4] / RADII[0])
        clear = abs(rest[:, 0]) > 0.1 * abs(rest[:, 0]).max()  # elsewhere the leading term changes its sign
        shown_slope = case.arrays[name.replace("rest", "slope")]
        np.testing.assert_allclose(shown_slope[clear], slope[clear], atol=0.03)
        np.testing.assert_allclose(slope[clear], power, atol=0.1)
        # The guide starts there, and has the slope that it is named for.
        ends = case.arrays[name.replace("rest", "guide")]
        np.testing.assert_allclose(ends[:, 0], shown[:, 0], rtol=1e-5)
        free = (ends[:, :, 1] > 1.001 * low).all(axis=1) & (ends[:, 1, 1] < 0.999 * high)
        assert free.mean() > 0.5
        slopes = np.diff(np.log(ends[free]), axis=1)[:, 0]
        np.testing.assert_allclose(slopes[:, 1] / slopes[:, 0], power, rtol=1e-4)


def test_a_cheap_and_a_dear_step_are_equally_long(case):
    *presets, far = case.scene.presets
    costs = [at["cost"] / np.linalg.norm(at["tip"]) for at in [*case.views()][:2]]
    np.testing.assert_allclose(np.square(costs), np.linalg.eigvalsh(case.C), rtol=0.02)  # two degrees of turn
    cheap, dear = (preset.state["length"] for preset in presets)
    assert cheap == dear
    assert far.state["turn"] == -180
