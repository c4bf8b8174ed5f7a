"""Charts: the whole table against two steps taken by hand, in NumPy and float64, and the slopes of facts 4."""

from functools import cache

import gallery
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures.scenes import tabulate
from efisher_teach.figures.scenes.other_coordinates import (
    CHARTS,
    DAMPINGS,
    GAPS,
    RATES,
    STEPS,
    other_coordinates,
)

A = np.array([[1.5, 0.9], [0.0, 0.4]])
THETA = np.float64(np.float32([0.6, 0.2]))
CURVED = [name for name in CHARTS if name != "affine"]
GRID = [(i, j) for i in (0, 14, 30) for j in (0, 12, 24)]  # of η and ε


def forward(chart, psi):
    if chart == "polar":
        return psi[0] * np.array([np.cos(psi[1]), np.sin(psi[1])])
    if chart == "weight norm":
        return psi[0] * psi[1:] / np.sqrt(psi[1] ** 2 + psi[2] ** 2)  # also of complex numbers
    by_name = {"θ": lambda p: p, "affine": lambda p: A @ p, "exp": np.exp, "square": np.square,
               "logit": lambda p: 1 / (1 + np.exp(-p))}  # fmt: skip
    return by_name[chart](psi)


def inverse(chart):
    length = np.hypot(*THETA)
    return {"θ": THETA, "affine": np.linalg.solve(A, THETA), "exp": np.log(THETA), "square": np.sqrt(THETA),
            "logit": np.log(THETA / (1 - THETA)), "polar": np.array([length, np.arctan2(*THETA[::-1])]),
            "weight norm": np.r_[length, THETA / length]}[chart]  # fmt: skip


def jacobian(chart, psi):
    """By complex steps: exact to rounding."""
    return np.stack([forward(chart, psi + 1e-30j * e).imag / 1e-30 for e in np.eye(len(psi))], axis=1)


@cache
def problem():
    return ef.breast_cancer(2)._replace(params=jnp.asarray(THETA, jnp.float32))


def step(chart, psi, rate, damping, descent=False):
    """Δψ by definition, and G."""
    x, y = np.float64(problem().x), np.float64(problem().y)
    z = x @ forward(chart, psi)
    G = (1 / (1 + np.exp(-z)) - y)[:, None] * x
    here = G @ jacobian(chart, psi)
    C, g = here.T @ here / len(y), here.mean(0)
    if not descent:
        return -rate * np.linalg.pinv(C + damping * np.eye(len(psi)), rcond=1e-9 * (damping == 0)) @ g, G
    u = np.linalg.lstsq(G, np.ones(len(y)))[0]
    return -rate * np.sqrt(np.mean((G @ u) ** 2) / np.mean((here @ g) ** 2)) * g, G


def ends(chart, rate, damping, descent=False):
    """Where the step of the chart ends in θ, and where that of θ does, from θ."""
    psi = inverse(chart)
    delta, _ = step(chart, psi, rate, damping, descent)
    return forward(chart, psi + delta) - THETA, step("θ", THETA, rate, damping, descent)[0]


@cache
def table(chart):
    return tabulate(other_coordinates(problem(), chart))


@pytest.mark.parametrize("chart", gallery.usual(CHARTS, "polar", "weight norm"))
def test_first_steps_and_gaps(chart):
    arrays = table(chart).arrays
    for i, j in GRID:
        there, here = ends(chart, RATES[i], DAMPINGS[j])
        length = np.linalg.norm(here)
        np.testing.assert_allclose(arrays["step"][i, j, 1] - THETA, here, atol=1e-5 + 1e-4 * length)
        gap = 100 * np.linalg.norm(there - here) / length
        np.testing.assert_allclose(arrays["gap"][i, j], gap, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(arrays["by_rate"][j, i, 1], np.clip(gap, *GAPS), rtol=2e-3, atol=1e-4)
        there, here = ends(chart, RATES[i], 0.0, descent=True)
        gap = 100 * np.linalg.norm(there - here) / np.linalg.norm(here)
        np.testing.assert_allclose(arrays["descent_gap"][i], gap, rtol=2e-3)
        np.testing.assert_allclose(arrays["descent"][i, 1] - THETA, here, atol=1e-5 + 1e-4 * length)


@pytest.mark.parametrize("chart", gallery.usual(CHARTS, "polar", "weight norm"))
def test_what_leaks_to_first_order_is_that_of_the_library_and_is_repaired_by_the_metric(chart):
    G = ef.per_example_gradients(problem().loss_fn, problem().params, problem().x, problem().y)
    name = {"exp": "exponential", "weight norm": "weight_norm"}.get(chart, chart)
    chosen = ef.coordinates.affine(jnp.asarray(A)) if chart == "affine" else getattr(ef.coordinates, name)
    for j in (8, 24):
        gap = ef.invariance_gap(chosen, problem().params, G, damping=DAMPINGS[j], learning_rate=RATES[20])
        leak = table(chart).arrays["leak"][j]
        np.testing.assert_allclose(leak, 100 * gap.first_order, rtol=1e-2, atol=0.02)
    restored = np.broadcast_to(table(chart).arrays["restored"][..., 1], (31, 61))
    if chart == "affine":  # nothing is left
        assert (restored <= GAPS[0] * (1 + 1e-5)).all()
    else:  # at ε → 0 there is nothing to repair
        np.testing.assert_allclose(restored[20, 0], table(chart).arrays["gap"][20, 0], rtol=0.05)


def test_without_damping_the_gap_grows_as_the_square_of_the_rate_in_curved_charts():
    for chart in CURVED:  # facts 4.1, 4.6
        np.testing.assert_allclose(
            table(chart).arrays["slope"][0, 0], 2, atol=0.04 if chart == "logit" else 0.02
        )
    np.testing.assert_allclose(table("affine").arrays["slope"], 1, rtol=1e-5)  # only ε is felt, in proportion
    u = step("θ", THETA, 1, 0)[0]
    gap = (
        100 * RATES * np.linalg.norm(u**2 / (4 * THETA)) / np.linalg.norm(u)
    )  # of the square chart: facts 4.6
    np.testing.assert_allclose(table("square").arrays["gap"][:, 0], gap, atol=2e-3)  # and what ε = 1e-6 leaks


@pytest.mark.parametrize("chart", gallery.usual(["affine", "polar", "weight norm", "square"], "weight norm"))
@pytest.mark.parametrize("name", ["step", "descent"])
def test_trajectories(chart, name):
    """Of both panels, as far as their views reach; and what one panel sees of the other's."""
    (i, j), descent, view = (15, 6), name == "descent", table(chart).background
    shown, psi, theta, compared = table(chart).at((i, j)), inverse(chart), THETA, 0

    def holds(array, place, point, own=""):
        ends = np.stack([view[own + "x"][[0, -1]], view[own + "y"][[0, -1]]], axis=1)
        if ((ends[0] < point) & (point < ends[1])).all():
            np.testing.assert_allclose(shown[array][place], point, atol=2e-4, err_msg=array)
            return 1
        return 0

    for k in range(STEPS):
        psi = psi + step(chart, psi, RATES[i], DAMPINGS[j], descent)[0]
        theta = theta + step("θ", theta, RATES[i], DAMPINGS[j], descent)[0]
        if k:
            compared += holds(f"{name}_path", k - 1, theta)
            compared += holds(f"{name}_path_there", k, forward(chart, psi))
            if len(psi) == 2:
                compared += holds(f"chart_{name}_path", k - 1, psi, "chart_")
    assert compared >= 3
