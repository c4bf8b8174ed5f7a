"""The solid, over the whole table: every wire on the ellipsoid, the plane under it, the cylinder cut at the view."""

import gallery
import numpy as np
import pytest

from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.solid import CORNER, FARTHEST


@pytest.fixture(params=gallery.cases("solid", "solid, a cylinder"))
def case(request):
    """The scene, its table, its budget, and C and g in float64."""
    scene, table = gallery.shown(request.param)
    G = gallery.gradients(scene.data["problem"])
    return scene, table, scene.data["budget"], G.T @ G / len(G), G.mean(axis=0)


def each(case):
    """ε, the damped matrix and the arrays there."""
    scene, table, _, C, _ = case
    for i, damping in enumerate(np.float32(scene.axes[0].values).astype(float)):
        yield damping, C + damping * np.eye(3), table.at((i, 0, 0))


def test_wires_lie_on_the_ellipsoid(case):
    for damping, A, at in each(case):
        points = at["wires"].reshape(-1, 3)
        inside = np.abs(points).max() < 0.99 * CORNER * at["reach"]  # a slab is cut all round
        cost = np.sum(points @ A * points, axis=-1)
        assert cost.max() <= case[2] * 1.001, damping
        if inside or np.linalg.eigvalsh(case[3])[1] > 1e-6:
            np.testing.assert_allclose(cost, case[2], rtol=1e-3)


def test_both_steps_solve_the_damped_problem_and_the_plane_touches(case):
    *_, C, g = case
    down = -g / np.linalg.norm(g)
    for damping, A, at in each(case):
        u = np.linalg.solve(A, g)
        step, descent = (-v * np.sqrt(case[2] / (v @ A @ v)) for v in (u, g))
        length, drawn = np.linalg.norm(step), at["step"][1]
        expected = {"length": length, "length_dot": [damping, length], "cost": np.sqrt(case[2])}
        gallery.agree(at, expected | {"decrease": -g @ step, "descent_decrease": -g @ descent}, rtol=2e-3)
        gallery.agree(at, {"spent": 100 * step @ C @ step / case[2]}, atol=0.02)
        gallery.agree(at, {"turn": np.degrees(np.arccos(min(1, down @ step / length)))}, atol=0.1)
        gallery.agree(at, {"descent": [np.zeros(3), descent]}, atol=1e-5)
        # A long one is drawn shorter: its tip is out of view.
        shorter = min(1, FARTHEST * at["reach"] / length)
        gallery.agree(at, {"step": [np.zeros(3), shorter * step]}, rtol=2e-3, atol=2e-4)

        np.testing.assert_allclose(at["level"] @ g, drawn @ g, rtol=1e-4)
        assert np.linalg.matrix_rank(at["level"][1:] - at["level"][0], tol=1e-4) == 2
        np.testing.assert_allclose(at["level"][:4].mean(axis=0), drawn, atol=1e-5)
        promised = at["wires"].reshape(-1, 3) @ g
        assert promised.min() >= -at["decrease"] * (1 + 1e-4)
        assert promised.min() < -0.8 * at["decrease"]  # some wire passes near the place


def test_semi_axes(case):
    scene, table, budget, C, _ = case
    values = np.clip(np.linalg.eigvalsh(C), 0, None)  # ascending: the longest first
    values[values < 1e-6 * values.max()] = 0
    expected = np.sqrt(budget / (values[:, None] + scene.axes[0].values))
    gallery.agree(table.arrays, dict(zip(("longest", "middle", "shortest"), expected, strict=True)))
    np.testing.assert_allclose(table.arrays["semi_axes"][::-1, :, 1], expected, rtol=1e-3)
    np.testing.assert_allclose(table.arrays["semi_dots"][:, ::-1, 1], expected.T, rtol=1e-3)
    np.testing.assert_allclose(table.arrays["lengths"][:, 1], table.arrays["length"], rtol=1e-5)


@pytest.mark.parametrize("name", gallery.usual(["solid, a cylinder", "solid, a slab"], "solid, a cylinder"))
def test_a_free_direction_is_cut_at_the_view(name):
    scene, table = gallery.shown(name)
    free = np.linalg.svd(np.float64(scene.data["problem"].x))[2][-1]  # null(C) = null(x) in linear regression
    cut, longest = CORNER * table.background["reach"], np.sqrt(scene.data["budget"] / 1e-6)
    assert table.arrays["longest"][0] == pytest.approx(longest, rel=1e-3)  # √(c/ε): the words do not hide it
    if name == "solid, a cylinder":
        along = np.abs(table.arrays["wires"] @ free).max(axis=(1, 2))
        np.testing.assert_allclose(along, np.minimum(cut, table.arrays["longest"]), rtol=1e-3)
    assert (np.abs(table.arrays["step"][:, 1] @ free) < 1e-5).all()  # the step has no part there, at any ε


def test_only_the_view_is_turned(case):
    scene, table, *_ = case
    assert all(set(axes) <= {0} for axes in table.depends.values())
    np.testing.assert_array_equal(table.arrays["wires"], table.arrays["front"])
    edge_on = scene.presets[-1].state
    indices = (20, *(scene.axes[k].nearest(edge_on[scene.axes[k].name]) for k in (1, 2)))
    seen = scenes.view(scene, table, indices)
    sides = np.linalg.svd(seen["level"][1:3] - seen["level"][0], compute_uv=False)
    assert sides[1] < 0.1 * sides[0]  # a line, to the three degrees between places
    hidden = np.isnan(seen["front"]).any(axis=-1).mean()
    assert 0.3 < hidden < 0.7
