"""The solid, over the whole table: every wire on the ellipsoid, the plane under it, the cylinder cut at the view."""

from itertools import product

import gallery
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.solid import CORNER, solid


def three_features():
    """Real data, three of the thirty features."""
    whole, chosen = ef.breast_cancer(None), jnp.array([22, 26, 21])
    few = whole._replace(params=jnp.zeros(3), x=whole.x[:, chosen], x_test=None, y_test=None)
    return ef.descend(few, steps=6, learning_rate=0.5)


PROBLEMS = {
    "real": three_features,
    "cylinder": lambda: ef.linear_regression(2, 3, seed=1),
    "slab": lambda: ef.linear_regression(1, 3, seed=4),
    "logistic": lambda: ef.descend(ef.logistic_regression(p=3, seed=3), steps=3),
}


@pytest.fixture(
    params=gallery.usual(product(PROBLEMS, (0.002, 0.04)), ("real", 0.04), ("cylinder", 0.002)),
    ids=str,
    scope="module",
)
def case(request):
    """The scene, its table, its budget, and C and g in float64."""
    name, budget = request.param
    problem = PROBLEMS[name]()
    scene = solid(problem, budget=budget)
    G = np.float64(ef.per_example_gradients(problem.loss_fn, problem.params, problem.x, problem.y))
    return scene, scenes.tabulate(scene), budget, G.T @ G / len(G), G.mean(axis=0)


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


def test_step_is_the_solution_of_the_damped_problem(case):
    *_, budget, _, g = case
    for _, A, at in each(case):
        u = np.linalg.solve(A, g)
        if (
            np.linalg.norm(at["step"][1]) > 0.999 * at["length"]
        ):  # else it is drawn shorter: its tip is out of view
            np.testing.assert_allclose(at["step"][1], -u * np.sqrt(budget / (g @ u)), rtol=2e-3, atol=2e-4)
        assert at["length"] == pytest.approx(np.linalg.norm(u) * np.sqrt(budget / (g @ u)), rel=2e-3)
        assert at["decrease"] == pytest.approx(np.sqrt(budget * (g @ u)), rel=1e-3)
        assert at["cost"] == pytest.approx(np.sqrt(budget), rel=1e-5)


def test_plane_touches_and_does_not_cut(case):
    g = case[4]
    for _, _, at in each(case):
        np.testing.assert_allclose(at["level"] @ g, at["step"][1] @ g, rtol=1e-4)
        assert np.linalg.matrix_rank(at["level"][1:] - at["level"][0], tol=1e-4) == 2
        np.testing.assert_allclose(at["level"][:4].mean(axis=0), at["step"][1], atol=1e-5)
        promised = at["wires"].reshape(-1, 3) @ g
        assert promised.min() >= -at["decrease"] * (1 + 1e-4)
        assert promised.min() < -0.8 * at["decrease"]  # some wire passes near the place


def test_descent_costs_the_same_and_promises_less(case):
    *_, budget, _, g = case
    for _, A, at in each(case):
        delta = -g * np.sqrt(budget / (g @ A @ g))
        np.testing.assert_allclose(at["descent"][1], delta, rtol=1e-3, atol=1e-5)
        assert at["descent_decrease"] == pytest.approx(-g @ delta, rel=1e-3)
        assert at["descent_decrease"] <= at["decrease"] * (1 + 1e-5)


def test_semi_axes(case):
    scene, table, budget, C, _ = case
    values = np.clip(np.linalg.eigvalsh(C), 0, None)  # ascending: the longest first
    values[values < 1e-6 * values.max()] = 0
    expected = np.sqrt(budget / (values[:, None] + scene.axes[0].values))
    for name, row in zip(("longest", "middle", "shortest"), expected, strict=True):
        np.testing.assert_allclose(table.arrays[name], row, rtol=1e-3)
    np.testing.assert_allclose(table.arrays["semi_axes"][::-1, :, 1], expected, rtol=1e-3)
    np.testing.assert_allclose(table.arrays["semi_dots"][:, ::-1, 1], expected.T, rtol=1e-3)
    np.testing.assert_allclose(table.arrays["lengths"][:, 1], table.arrays["length"], rtol=1e-5)


def test_the_rest_of_the_cost_is_length(case):
    budget = case[2]
    for damping, _, at in each(case):
        assert at["spent"] == pytest.approx(100 * (1 - damping * at["length"] ** 2 / budget), abs=0.02)


def test_damping_turns_the_step_to_descent(case):
    turn = case[1].arrays["turn"]
    assert (np.diff(turn) <= 0.05).all()
    assert turn[-1] <= turn[0] + 1e-4


@pytest.mark.parametrize("name", ["cylinder", "slab"])
def test_a_free_direction_is_cut_at_the_view(name):
    problem = PROBLEMS[name]()
    scene = solid(problem)
    table = scenes.tabulate(scene)
    free = np.linalg.svd(np.float64(problem.x))[2][-1]  # null(C) = null(x) in linear regression
    cut = CORNER * table.background["reach"]
    along = np.abs(table.arrays["wires"] @ free).max(axis=(1, 2))
    assert table.arrays["longest"][0] == pytest.approx(100, rel=1e-3)  # √(c/ε): the words do not hide it
    if name == "cylinder":
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


def test_background_does_not_depend_on_the_budget(case):
    scene, table, *_ = case
    again = scenes.tabulate(scene._replace(data=scene.data | {"budget": 0.013}))
    for name, array in table.background.items():
        np.testing.assert_array_equal(array, again.background[name])


def test_messages():
    with pytest.raises(ValueError, match=r"one with params of shape \(3,\); got shape \(2,\)"):
        solid(ef.breast_cancer())
    with pytest.raises(ValueError, match=r"`budget` must be at most 0\.04; got 0\.05"):
        solid(ef.linear_regression(p=3), budget=0.05)
