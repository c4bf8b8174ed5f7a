"""Beat Lagrange, over the whole table: every candidate costs the budget, none scores above the formula."""

import gallery
import numpy as np
import pytest

from efisher_teach.figures import scenes


@pytest.fixture(
    params=[(name, budget) for name in ("two", "logistic", "linear") for budget in (0.002, 0.04)], ids=str
)
def lagrange(request):
    """A scene, its table, its budget, G in float64, and the problem."""
    name, budget = request.param
    problem = gallery.problem(name)
    scene = scenes.the_best_step(problem, budget=budget)
    return scene, scenes.tabulate(scene), budget, gallery.gradients(problem), problem


def test_cost_is_the_budget_at_every_place(lagrange):
    _, table, budget, *_ = lagrange
    np.testing.assert_allclose(table.arrays["cost"] ** 2, budget, rtol=1e-5)


def test_candidates_lie_on_the_ellipse(lagrange):
    _, table, budget, G, _ = lagrange
    np.testing.assert_allclose(gallery.cost(G, np.float64(table.arrays["tip"])), budget, rtol=1e-5)
    np.testing.assert_allclose(gallery.cost(G, np.float64(table.arrays["ellipse"])), budget, rtol=1e-5)


def test_no_candidate_beats_lagrange(lagrange):
    _, table, *_ = lagrange
    assert table.arrays["score"].max() <= 100.001
    assert (
        table.arrays["score"].max() >= 99.99
    )  # a place on the slider is at most half a degree from the best
    assert np.abs(table.arrays["score"].min() + 100) < 0.01  # the other end is the steepest ascent


def test_level_line_touches_only_at_the_best(lagrange):
    _, table, _, G, _ = lagrange
    g = G.mean(axis=0)
    promised = table.arrays["ellipse"] @ g
    for i, level in enumerate(table.arrays["level"]):
        np.testing.assert_allclose(level @ g, table.arrays["tip"][i] @ g, rtol=1e-3, atol=1e-5)
        better = (
            promised < table.arrays["tip"][i] @ g - 1e-6
        ).mean()  # the part of the ellipse beyond the line
        angle = np.degrees(np.arccos(np.clip(table.arrays["score"][i] / 100, -1, 1)))
        assert abs(better - angle / 180) < 0.01


def test_turn_zero_is_gradient_descent(lagrange):
    scene, table, budget, G, _ = lagrange
    g = G.mean(axis=0)
    descent = -g * np.sqrt(budget / gallery.cost(G, g))
    place = scene.axes[0].nearest(0)
    close = {"rtol": 1e-3, "atol": 1e-4 * np.abs(descent).max()}
    np.testing.assert_allclose(table.arrays["tip"][place], descent, **close)
    np.testing.assert_allclose(table.arrays["descent"], [np.zeros(2), descent], **close)
    np.testing.assert_array_equal(table.arrays["candidate"][:, 1], table.arrays["tip"])


def test_true_loss_of_the_candidates(lagrange):
    _, table, _, _, problem = lagrange
    for i in (0, 90, 200):
        assert table.arrays["actual"][i] == pytest.approx(
            gallery.true_change(problem, table.arrays["tip"][i]), abs=2e-6
        )


def test_value_of_the_budget_and_its_slope(lagrange):
    """What c buys is √(cρ), and the multiplier √(ρ/c)/2 is its slope: the line touches it at c, and lies above it."""
    _, table, budget, G, problem = lagrange
    g = G.mean(axis=0)
    agreement = g @ np.linalg.solve(G.T @ G / len(G), g)
    budgets, gains = table.arrays["value"].T
    np.testing.assert_allclose(gains, np.sqrt(budgets * agreement), rtol=1e-4)
    np.testing.assert_allclose(table.arrays["multiplier"], np.sqrt(agreement / budget) / 2, rtol=1e-4)
    np.testing.assert_allclose(table.arrays["spent"], [budget, np.sqrt(budget * agreement)], rtol=1e-4)
    (low, start), (high, end) = table.arrays["tangent"]
    assert (start + (end - start) * (budgets - low) / (high - low) >= gains - 1e-6).all()
    np.testing.assert_allclose((end - start) / (high - low), table.arrays["multiplier"], rtol=1e-4)
    at = np.argmin(abs(budgets - 0.01))
    best = table.arrays["best"][1] * np.sqrt(budgets[at] / budget)
    assert table.arrays["true_value"][at, 1] == pytest.approx(-gallery.true_change(problem, best), abs=2e-6)
