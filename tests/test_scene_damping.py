"""Damping, over the whole table: each ε against a dense solve in float64, the bound, and what is monotone."""

from itertools import product

import gallery
import numpy as np
import pytest

from efisher_teach.figures import scenes


@pytest.fixture(
    params=gallery.usual(product(("thirty", "two", "wide"), (0.002, 0.04)), ("thirty", 0.002), ("two", 0.04)),
    ids=str,
)
def damped(request):
    """A scene, its table, its budget, G in float64, and the problem."""
    name, budget = request.param
    problem = gallery.problem(name)
    scene = scenes.damping(problem, budget=budget)
    return scene, scenes.tabulate(scene), budget, gallery.gradients(problem), problem


def test_cost_is_the_budget_at_every_place(damped):
    _, table, budget, *_ = damped
    np.testing.assert_allclose(table.arrays["cost"] ** 2, budget, rtol=1e-5)


def reference(G, epsilon, budget):
    """The step of one budget by a dense solve in float64."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    u = np.linalg.solve(C + epsilon * np.eye(len(C)), g)
    return -u * np.sqrt(budget / gallery.cost(G, u))


def test_steps_against_a_dense_solve(damped):
    scene, table, budget, G, problem = damped
    for i in range(20, 161, 28):
        delta = reference(G, scene.axes[0].values[i], budget)
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        np.testing.assert_allclose(table.arrays["length"][i], np.linalg.norm(delta), rtol=3e-3)
        heights = table.arrays["bars"][i, :, 1, 1]
        np.testing.assert_allclose(
            heights, (G @ delta)[: len(heights)] / np.sqrt(budget), rtol=3e-3, atol=3e-3
        )
        assert table.arrays["actual"][i] == pytest.approx(
            gallery.true_change(problem, np.float32(delta)), abs=2e-4
        )


def test_bound_on_the_length(damped):
    _, table, *_ = damped
    assert (table.arrays["length"] <= table.arrays["bound"] * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("name", "sign"), [("length", -1), ("turn", -1), ("predicted", 1), ("kept_least", -1)]
)
def test_monotone_in_damping(damped, name, sign):
    array = damped[1].arrays[name]
    slack = 1e-3 if name == "turn" else 1e-4  # an angle near 0 is the root of a rounding error
    assert (np.diff(array) * sign >= -slack * np.abs(array).max()).all()


def test_filter_is_what_is_kept(damped):
    scene, table, _, G, _ = damped
    eigenvalues = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
    for i in (0, 60, 160):
        kept = eigenvalues / (eigenvalues + scene.axes[0].values[i])
        np.testing.assert_allclose(table.arrays["kept"][i, :, 1], kept, rtol=1e-2, atol=1e-4)


def test_path_runs_from_undamped_to_descent(damped):
    _, table, *_ = damped
    path, undamped, descent = (table.arrays[name] for name in ("path", "undamped", "descent"))
    scale = np.abs(undamped).max()
    np.testing.assert_allclose(path[-1], descent[1], atol=0.05 * scale)
    assert np.linalg.norm(path[0] - undamped[1]) < np.linalg.norm(path[-1] - undamped[1])
