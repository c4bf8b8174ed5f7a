"""Vector field: the digits of facts 5.4 at the paper's starts, and the whole table against NumPy in float64."""

from functools import cache

import gallery
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from efisher_teach.figures.scenes import tabulate
from efisher_teach.figures.scenes.vector_field import STARTS, VIEW, vector_field

# start, ‖C⁻¹g‖, cosine with the natural gradient, length of the path, of the straight one (facts 5.4)
PAPER = [
    ((2, 4.5), 0.337, -0.150, 6.35, 2.515),
    ((1, 0), 0.3317, 0.322, 6.38, 2.23),
    ((4.5, 3), 0.3080, 0.875, 5.69, 2.69),
    ((-0.5, 3), 0.5146, 0.990, 2.74, 2.71),
]
PLACES = [(a, b) for a in (-1, 2, 5) for b in (-1, 1.75, 5)]
NOISES = (0.1, 1.0, 10.0)


@cache
def look(noise=1.0):
    """The data by the paper's recipe, the optimum, H, and the table."""
    rng = np.random.RandomState(0)
    x = np.stack([np.ones(1000), rng.lognormal(0, 0.75, 1000)], axis=1)
    y = x @ [2, 2] + noise * rng.normal(size=1000)
    H = x.T @ x / 1000 + 0.01 * np.eye(2)
    scene = vector_field(noise=noise)
    return x, y, np.linalg.solve(H, x.T @ y / 1000), H, scene, tabulate(scene)


def at(table, start):
    return table.at(tuple(int(np.argmin(np.abs(STARTS - value))) for value in start))


def ours(theta, noise=1.0):
    """−C⁻¹g from the gradients of all examples; the prior is in g alone."""
    x, y, *_ = look(noise)
    G = -(y - x @ theta)[:, None] * x
    return -np.linalg.solve(G.T @ G / 1000, G.mean(0) + 0.01 * theta)


def walk(velocity, start, optimum):
    """Length of a flow, and what it turns by until a hundredth of the distance is left."""

    def rates(_, state):
        v = velocity(state[:2])
        return np.r_[v, np.linalg.norm(v)]

    path = solve_ivp(rates, (0, 400), [*start, 0], method="LSODA", rtol=1e-8, atol=1e-10, dense_output=True)
    points = path.sol(np.geomspace(1e-6, 399, 4000))[:2].T
    seen = np.linalg.norm(points - optimum, axis=1) > 0.01 * np.linalg.norm(start - optimum)
    directions = np.array([velocity(point) for point in points[seen]])
    turns = np.diff(np.unwrap(np.arctan2(directions[:, 1], directions[:, 0])))
    return path.y[2, -1], np.rad2deg(np.abs(turns).sum())


@pytest.mark.parametrize(("start", "step", "cosine", "length", "straight"), PAPER)
def test_digits_of_the_paper(start, step, cosine, length, straight):
    now = at(look()[-1], start)
    np.testing.assert_allclose(now["start"], start)  # the grid has it
    np.testing.assert_allclose(now["step"], step, atol=5e-4)
    np.testing.assert_allclose(now["cosine"], cosine, atol=5e-4)
    np.testing.assert_allclose(now["length"], length, atol=5e-3)
    np.testing.assert_allclose(now["natural_length"], straight, atol=5e-3)


def test_from_the_first_start_the_empirical_fisher_moves_the_intercept():
    now = at(look()[-1], (2, 4.5))
    np.testing.assert_allclose(now["gradient"], 7.63, atol=5e-3)
    first = now["path"][1] - now["path"][0]
    np.testing.assert_allclose(first / np.linalg.norm(first), [-0.99, 0.15], atol=1e-2)
    np.testing.assert_allclose(look()[-1].background["optimum"], [2.0120, 1.9855], atol=5e-5)


@pytest.mark.parametrize("noise", gallery.usual(NOISES, 1.0))
def test_fields_at_every_start(noise):
    """Moments of the data serve the whole plane: against the gradients of all examples."""
    *_, optimum, H, _, table = look(noise)
    for i, intercept in enumerate(STARTS):
        for j, slope in enumerate(STARTS):
            off = np.array([intercept, slope]) - optimum
            v = ours(off + optimum, noise)
            np.testing.assert_allclose(table.arrays["step"][i, j], np.linalg.norm(v), rtol=2e-3)
            cosine = -v @ off / np.linalg.norm(v) / np.linalg.norm(off)
            np.testing.assert_allclose(table.arrays["cosine"][i, j], cosine, atol=2e-3)
            np.testing.assert_allclose(table.arrays["gradient"][i, j], np.linalg.norm(H @ off), rtol=1e-4)


@pytest.mark.parametrize("noise", gallery.usual(NOISES, 1.0))
def test_flows_by_another_integrator(noise):
    *_, optimum, H, _, table = look(noise)
    for start in [*PLACES, (2, 4.5), (4.5, 3)] if noise == 1 else PLACES[::3]:
        now = at(table, start)
        length, turning = walk(lambda theta: -H @ (theta - optimum), start, optimum)
        np.testing.assert_allclose(now["descent_length"], length, rtol=1e-3)
        np.testing.assert_allclose(now["descent_turning"], turning, atol=0.5)
        length, turning = walk(lambda theta: (1 + noise**2) * ours(theta, noise), start, optimum)
        np.testing.assert_allclose(now["length"], length, rtol=2e-3)
        np.testing.assert_allclose(now["turning"], turning, atol=1.5)


@pytest.mark.parametrize("noise", gallery.usual(NOISES, 1.0))
def test_paths_lead_to_the_optimum_by_no_less_than_the_straight_way(noise):
    *_, optimum, _, _, table = look(noise)
    arrays = table.arrays
    for name in ("path", "descent", "natural"):
        np.testing.assert_allclose(arrays[name][..., 0, :], arrays["start"], atol=1e-5)
        np.testing.assert_allclose(arrays[name][..., -1, :] - optimum, 0, atol=1e-4)
        assert (np.clip(arrays[name], *VIEW) == arrays[name]).all()
    for name in ("length", "descent_length"):
        assert (arrays[name] >= arrays["natural_length"] * (1 - 1e-5)).all()
    off = np.linalg.norm(arrays["start"] - optimum, axis=-1)
    np.testing.assert_allclose(arrays["natural_length"], off, rtol=1e-3)  # Newton's step: straight


def test_drawn_points_lie_on_the_path_and_add_up_to_it():
    *_, optimum, _, _, table = look()
    for path, left, length in (("path", "left", "length"), ("descent", "descent_left", "descent_length")):
        points, ways = table.arrays[path], table.arrays[left]
        np.testing.assert_allclose(np.linalg.norm(points - optimum, axis=-1), ways[..., 1], atol=1e-4)
        chords = np.linalg.norm(np.diff(points, axis=-2), axis=-1)
        assert (chords <= np.diff(ways[..., 0]) * (1 + 1e-3) + 1e-4).all()
        np.testing.assert_allclose(chords.sum(-1), table.arrays[length], rtol=0.01)


def test_right_noise_makes_the_fields_agree_at_the_optimum_and_more_noise_shortens_the_detour():
    cosine = look()[-1].arrays["cosine"][12, 12]  # (2, 2), a fiftieth from it
    assert cosine > 0.95
    mean = [float(np.mean(look(noise)[-1].arrays["length"])) for noise in NOISES]
    assert mean[0] > mean[1] > 1.5 * mean[2]
