"""The solid, over the whole table: every wire on the ellipsoid, the plane under it, the cylinder cut at the view."""

import gallery
import numpy as np
import pytest
from gallery import agree

from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.solid import CORNER, FARTHEST

case = gallery.looks("solid", "solid, a cylinder")


def each(case):
    """ε, the damped matrix and the arrays there."""
    for (damping, *_), at in case.states(*((i, 0, 0) for i in range(len(case.scene.axes[0].values)))):
        yield damping, case.C + damping * np.eye(3), at


def test_wires_lie_on_the_ellipsoid(case):
    for damping, A, at in each(case):
        points = at["wires"].reshape(-1, 3)
        inside = np.abs(points).max() < 0.99 * CORNER * at["reach"]  # a slab is cut all round
        cost = np.sum(points @ A * points, axis=-1)
        assert cost.max() <= case.budget * 1.001, damping
        if inside or np.linalg.eigvalsh(case.C)[1] > 1e-6:
            np.testing.assert_allclose(cost, case.budget, rtol=1e-3)


def test_both_steps_solve_the_damped_problem_and_the_plane_touches(case):
    C, g = case.C, case.g
    down = -g / np.linalg.norm(g)
    for damping, A, at in each(case):
        u = np.linalg.solve(A, g)
        step, descent = (-v * np.sqrt(case.budget / (v @ A @ v)) for v in (u, g))
        length, drawn = np.linalg.norm(step), at["step"][1]
        agree(at, rtol=2e-3, length=length, length_dot=[damping, length])
        agree(at, rtol=1e-3, decrease=-g @ step, descent_decrease=-g @ descent)
        agree(at, rtol=1e-5, cost=case.budget)
        agree(at, atol=0.02, spent=100 * step @ C @ step / case.budget)
        agree(at, atol=0.1, turn=np.degrees(np.arccos(min(1, down @ step / length))))
        agree(at, rtol=1e-3, atol=1e-5, descent=[np.zeros(3), descent])
        # A long one is drawn shorter: its tip is out of view.
        shorter = min(1, FARTHEST * at["reach"] / length)
        agree(at, rtol=2e-3, atol=2e-4, step=[np.zeros(3), shorter * step])

        np.testing.assert_allclose(at["level"] @ g, drawn @ g, rtol=1e-4)
        assert np.linalg.matrix_rank(at["level"][1:] - at["level"][0], tol=1e-4) == 2
        np.testing.assert_allclose(at["level"][:4].mean(axis=0), drawn, atol=1e-5)
        promised = at["wires"].reshape(-1, 3) @ g
        assert promised.min() >= -at["decrease"] * (1 + 1e-4)
        assert promised.min() < -0.8 * at["decrease"]  # some wire passes near the place


def test_semi_axes(case):
    values = np.clip(np.linalg.eigvalsh(case.C), 0, None)  # ascending: the longest first
    values[values < 1e-6 * values.max()] = 0
    expected = np.sqrt(case.budget / (values[:, None] + case.scene.axes[0].values))
    agree(case.arrays, rtol=1e-3, longest=expected[0], middle=expected[1], shortest=expected[2])
    np.testing.assert_allclose(case.arrays["semi_axes"][::-1, :, 1], expected, rtol=1e-3)
    np.testing.assert_allclose(case.arrays["semi_dots"][:, ::-1, 1], expected.T, rtol=1e-3)
    np.testing.assert_allclose(case.arrays["lengths"][:, 1], case.arrays["length"], rtol=1e-5)


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
    scene, table = case.scene, case.table
    assert all(set(axes) <= {0} for axes in table.depends.values())
    np.testing.assert_array_equal(table.arrays["wires"], table.arrays["front"])
    edge_on = scene.presets[-1].state
    indices = (20, *(scene.axes[k].nearest(edge_on[scene.axes[k].name]) for k in (1, 2)))
    seen = scenes.view(scene, table, indices)
    sides = np.linalg.svd(seen["level"][1:3] - seen["level"][0], compute_uv=False)
    assert sides[1] < 0.1 * sides[0]  # a line, to the three degrees between places
    hidden = np.isnan(seen["front"]).any(axis=-1).mean()
    assert 0.3 < hidden < 0.7
