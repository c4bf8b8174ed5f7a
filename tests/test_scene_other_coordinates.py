"""Charts: the whole table against two steps taken by hand, in NumPy and float64, and the slopes of facts 4."""

import gallery
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures.scenes.other_coordinates import DAMPINGS, GAPS, RATES, STEPS

A = np.array([[1.5, 0.9], [0.0, 0.4]])
THETA = np.float64(np.float32([0.6, 0.2]))
GRID = [(i, j) for i in (0, 14, 30) for j in (0, 12, 24)]  # of η and ε


def forward(chart, psi):
    if chart == "polar":
        return psi[0] * np.array([np.cos(psi[1]), np.sin(psi[1])])
    if chart == "weight norm":
        return psi[0] * psi[1:] / np.sqrt(psi[1] ** 2 + psi[2] ** 2)  # also of complex numbers
    by_name = {"θ": lambda p: p, "affine": lambda p: A @ p, "exp": np.exp, "square": np.square,
               "logit": lambda p: 1 / (1 + np.exp(-p))}  # fmt: skip
    return by_name[chart](psi)


def inverse(chart, theta):
    length = np.hypot(*theta)
    with np.errstate(invalid="ignore"):  # outside the chart, where nothing is drawn
        return {"θ": theta, "affine": np.linalg.solve(A, theta), "exp": np.log(theta), "square": np.sqrt(theta),
                "logit": np.log(theta / (1 - theta)), "polar": np.array([length, np.arctan2(*theta[::-1])]),
                "weight norm": np.r_[length, theta / length]}[chart]  # fmt: skip


def seen(psi):
    """In its panel: of weight norm's three numbers, s and the tangent of v's turn."""
    if len(psi) == 2:
        return psi
    return np.array([psi[0], np.tan(np.deg2rad(gallery.turned(THETA, psi[1:])))])


def jacobian(chart, psi):
    """By complex steps: exact to rounding."""
    return np.stack([forward(chart, psi + 1e-30j * e).imag / 1e-30 for e in np.eye(len(psi))], axis=1)


@pytest.fixture(params=gallery.cases("other_coordinates", "other_coordinates, weight norm"))
def case(request):
    """The name of the chart, the problem, and the table."""
    scene, table = gallery.shown(request.param)
    return scene.labels["chart"], scene.data["problem"], table


def step(problem, chart, psi, rate, damping, descent=False):
    """Δψ by definition; gradient descent of the cost of the undamped step."""
    G = gallery.gradients(problem._replace(params=forward(chart, psi)))
    here = G @ jacobian(chart, psi)
    C, g = here.T @ here / len(G), here.mean(0)
    if not descent:
        return -rate * np.linalg.pinv(C + damping * np.eye(len(psi)), rcond=1e-9 * (damping == 0)) @ g
    u = np.linalg.lstsq(G, np.ones(len(G)))[0]
    return gallery.spend(here, g, rate**2 * gallery.cost(G, u))


def test_first_steps_and_gaps(case):
    chart, problem, table = case
    psi = inverse(chart, THETA)

    def gap(*settings):
        """Between the ends in θ of the step of the chart and of that of θ, in % of it."""
        here = step(problem, "θ", THETA, *settings)
        there = forward(chart, psi + step(problem, chart, psi, *settings)) - THETA
        return here, 100 * np.linalg.norm(there - here) / np.linalg.norm(here)

    for i, j in GRID:
        at = table.at((i, j))
        for name, settings, atol in (
            ("step", (RATES[i], DAMPINGS[j]), 1e-4),
            ("descent", (RATES[i], 0.0, True), 0),
        ):
            here, apart = gap(*settings)
            shown = "gap" if name == "step" else "descent_gap"
            gallery.agree(at, {name: [THETA, THETA + here]}, atol=1e-5 + 1e-4 * np.linalg.norm(here))
            gallery.agree(at, {shown: apart}, rtol=2e-3, atol=atol)
            apart = np.clip(apart, *GAPS)
            dots = {"by_rate_dot": [RATES[i], apart], "by_damping_dot": [DAMPINGS[j], apart]}
            dots = dots if name == "step" else {"descent_dot": [RATES[i], apart]}
            gallery.agree(at, dots, rtol=2e-3, atol=atol)
            if name == "step":
                np.testing.assert_allclose(at["by_rate"][i], [RATES[i], apart], rtol=2e-3, atol=atol)
                np.testing.assert_allclose(
                    at["by_damping"][5 * j // 2], [DAMPINGS[j], apart], rtol=5e-3, atol=atol
                )
            else:
                np.testing.assert_allclose(at["descent_level"][:, 1], apart, rtol=2e-3)


def test_what_leaks_to_first_order_is_that_of_the_library_and_is_repaired_by_the_metric(case):
    chart, problem, table = case
    G = jnp.asarray(gallery.gradients(problem), float)
    name = {"exp": "exponential", "weight norm": "weight_norm"}.get(chart, chart)
    chosen = ef.coordinates.affine(jnp.asarray(A)) if chart == "affine" else getattr(ef.coordinates, name)
    for j in (8, 24):
        gap = ef.invariance_gap(chosen, problem.params, G, damping=DAMPINGS[j], learning_rate=RATES[20])
        np.testing.assert_allclose(table.arrays["leak"][j], 100 * gap.first_order, rtol=1e-2, atol=0.02)
    restored = np.broadcast_to(table.arrays["restored"][..., 1], (31, 61))
    if chart == "affine":  # nothing is left
        assert (restored <= GAPS[0] * (1 + 1e-5)).all()
    else:  # at ε → 0 there is nothing to repair
        np.testing.assert_allclose(restored[20, 0], table.arrays["gap"][20, 0], rtol=0.05)
    smallest = [
        np.linalg.svd(G @ M, compute_uv=False)[-1] ** 2 / len(G)
        for M in (np.eye(2), jacobian(chart, inverse(chart, THETA)))
    ]
    if chart != "weight norm":  # its C has rank 2 of 3
        gallery.agree(table.arrays, {"smallest": min(smallest)}, rtol=1e-2)


def test_without_damping_the_gap_grows_as_the_square_of_the_rate_in_curved_charts(case):
    chart, problem, table = case
    if chart == "affine":  # only ε is felt, in proportion
        np.testing.assert_allclose(table.arrays["slope"], 1, rtol=1e-5)
    else:  # facts 4.1, 4.6
        np.testing.assert_allclose(table.arrays["slope"][0, 0], 2, atol=0.04 if chart == "logit" else 0.02)
    if chart == "square":
        u = step(problem, "θ", THETA, 1, 0)
        gap = 100 * RATES * np.linalg.norm(u**2 / (4 * THETA)) / np.linalg.norm(u)  # facts 4.6
        np.testing.assert_allclose(table.arrays["gap"][:, 0], gap, atol=2e-3)  # and what ε = 1e-6 leaks


@pytest.mark.parametrize("name", ["step", "descent"])
@pytest.mark.parametrize(("i", "j"), [(15, 6), (3, 24)])
def test_trajectories(case, name, i, j):
    """Of both panels, as far as their views reach; and what one panel sees of the other's. At ε = 1 it is −g's way."""
    chart, problem, table = case
    shown, view, compared = table.at((i, j)), table.background, 0

    def holds(own, panel, points):
        nonlocal compared
        x, y = view[panel + "x"], view[panel + "y"]
        ends = np.stack([x[[0, -1]], y[[0, -1]]], axis=1)
        for drawn, point in zip(own, points, strict=True):
            if not ((ends[0] < point) & (point < ends[1])).all():
                break
            np.testing.assert_allclose(drawn, point, atol=2e-4)
            compared += 1

    psi, theta = inverse(chart, THETA), THETA
    here, there = [theta], [psi]
    for _ in range(STEPS):
        settings = RATES[i], DAMPINGS[j], name == "descent"
        theta, psi = theta + step(problem, "θ", theta, *settings), psi + step(problem, chart, psi, *settings)
        here.append(theta)
        there.append(psi)
    holds([*shown[name], *shown[f"{name}_path"]], "", here)
    holds([*shown[f"chart_{name}"], *shown[f"chart_{name}_path"]], "chart_", map(seen, there))
    holds(shown[f"{name}_path_there"], "", [forward(chart, point) for point in there[1:]])
    holds(shown[f"chart_{name}_path_here"], "chart_", [seen(inverse(chart, point)) for point in here[1:]])
    # As the other panel sees it, the first step is a curve.
    between = np.linspace(0, 1, 9)[:, None]
    first, chart_first = (ends[0] + between * (ends[1] - ends[0]) for ends in (here, there))
    holds(shown[f"{name}_there"], "", [forward(chart, point) for point in chart_first])
    holds(shown[f"chart_{name}_here"], "chart_", [seen(inverse(chart, point)) for point in first])
    assert compared >= 24
