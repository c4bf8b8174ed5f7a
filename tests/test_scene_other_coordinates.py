"""Charts: the whole table against two steps taken by hand, in NumPy and float64, and how gaps grow."""

from itertools import product

import gallery
import numpy as np
import oracles
import pytest
from gallery import agree

from efisher_teach.figures.scenes.other_coordinates import DAMPINGS, GAPS, RATES, STEPS

A = np.array([[1.5, 0.9], [0.0, 0.4]])
THETA = np.float64(np.float32([0.6, 0.2]))


CHARTS = {  # θ of ψ, and ψ of θ
    "θ": (oracles.CHARTS["identity"], lambda t: t),
    "affine": (lambda p: A @ p, lambda t: np.linalg.solve(A, t)),
    "exp": (oracles.CHARTS["exponential"], np.log),
    "square": (oracles.CHARTS["square"], np.sqrt),
    "logit": (oracles.CHARTS["logit"], lambda t: np.log(t / (1 - t))),
    "polar": (oracles.CHARTS["polar"], lambda t: np.array([np.hypot(*t), np.arctan2(t[1], t[0])])),
}


def step(problem, chart, psi, rate, damping, descent=False):
    """Δψ by definition; gradient descent at the cost of the undamped step."""
    forward, _ = CHARTS[chart]
    J = oracles.jacobian(forward, psi)
    G = gallery.gradients(problem._replace(params=forward(psi)))
    here = G @ J
    C, g = here.T @ here / len(G), here.mean(0)
    if not descent:
        return -rate * np.linalg.pinv(C + damping * np.eye(len(psi)), rcond=1e-9 * (damping == 0)) @ g
    u = np.linalg.lstsq(G, np.ones(len(G)))[0]
    return gallery.spend(here, g, rate**2 * gallery.cost(G, u))


case = gallery.looks("other_coordinates", "other_coordinates, affine")


def test_gaps_are_between_the_ends_of_both_steps(case):
    chart, problem, table = case.scene.labels["chart"], case.problem, case.table
    forward, inverse = CHARTS[chart]
    psi = inverse(THETA)

    def gap(*settings):
        """In θ, in % of the step of θ."""
        here = step(problem, "θ", THETA, *settings)
        there = forward(psi + step(problem, chart, psi, *settings)) - THETA
        return 100 * np.linalg.norm(there - here) / np.linalg.norm(here)

    for i, j in product((0, 14, 30), (0, 12, 24)):
        at, rate, damping = table.at((i, j)), RATES[i], DAMPINGS[j]
        ours, descent = gap(rate, damping), gap(rate, 0.0, True)
        agree(at, rtol=2e-3, atol=1e-4, gap=ours, descent_gap=descent)
        ours, descent = np.clip([ours, descent], *GAPS)
        agree(at, rtol=2e-3, by_rate_dot=[rate, ours], descent_dot=[rate, descent])
        np.testing.assert_allclose(at["by_rate"][i], [rate, ours], rtol=2e-3)


def test_what_leaks_to_first_order_is_repaired_by_the_metric(case):
    chart, problem, table = case.scene.labels["chart"], case.problem, case.table
    forward, inverse = CHARTS[chart]
    J = oracles.jacobian(forward, psi := inverse(THETA))
    for j in (8, 24):
        here = step(problem, "θ", THETA, 1, DAMPINGS[j])
        leak = np.linalg.norm(J @ step(problem, chart, psi, 1, DAMPINGS[j]) - here) / np.linalg.norm(here)
        np.testing.assert_allclose(table.arrays["leak"][j], 100 * leak, rtol=1e-2, atol=0.02)
    restored = np.broadcast_to(table.arrays["restored"][..., 1], (25, 31))
    if chart == "affine":  # nothing is left
        assert (restored <= GAPS[0] * (1 + 1e-5)).all()
    else:  # at ε → 0 there is nothing to repair but the little that leaks
        gap, leak = table.arrays["gap"][:, 0].clip(*GAPS), float(table.arrays["leak"][0])
        np.testing.assert_allclose(restored[0], gap, rtol=0.05, atol=leak)


@pytest.mark.parametrize("name", ["step", "descent"])
@pytest.mark.parametrize(("i", "j"), [(15, 6), (3, 24), (0, 0)])
@np.errstate(invalid="ignore")  # outside the chart, where nothing is drawn
def test_trajectories(case, name, i, j):
    """Of both panels, as far as their views reach; and what one panel sees of the other's. At ε = 1 it is −g's way."""
    chart, problem, table = case.scene.labels["chart"], case.problem, case.table
    forward, inverse = CHARTS[chart]
    here, there, compared = [THETA], [inverse(THETA)], 0
    for _ in range(STEPS):
        settings = RATES[i], DAMPINGS[j], name == "descent"
        here.append(here[-1] + step(problem, "θ", here[-1], *settings))
        there.append(there[-1] + step(problem, chart, there[-1], *settings))
    between = np.linspace(0, 1, 9)[:, None]  # as the other panel sees it, the first step is a curve
    first, first_there = (ends[0] + between * (ends[1] - ends[0]) for ends in (here, there))
    shown, view = table.at((i, j)), table.background
    panels = [("", here, map(forward, first_there), map(forward, there[1:]))]
    panels += [("chart_", there, map(inverse, first), map(inverse, here[1:]))]
    for panel, points, bent, path in panels:
        own, across = f"{panel}{name}", "here" if panel else "there"
        ends = np.stack([view[panel + side][[0, -1]] for side in "xy"], axis=1)
        # A trajectory of the other panel has its name before "_there", and its path after.
        pairs = [([*shown[own], *shown[f"{own}_path"]], points), (shown[f"{own}_{across}"], bent)]
        for drawn, expected in [*pairs, (shown[f"{own}_path_{across}"], path)]:
            for ours, point in zip(drawn, expected, strict=True):
                if not ((ends[0] < point) & (point < ends[1])).all():
                    break
                np.testing.assert_allclose(ours, point, rtol=1e-4, atol=2e-4 if i == 15 else 1e-5)
                compared += 1
    assert compared >= 24
