"""Beat Lagrange, over the whole table: every candidate costs the budget, none scores above the formula."""

import gallery
import numpy as np
import pytest


@pytest.fixture(params=gallery.cases("the_best_step", "the_best_step, linear"))
def case(request):
    """The problem, its budget, the turns, the table and its arrays; G and g, the best step and that along −g."""
    scene, table = gallery.shown(request.param)
    problem, budget = scene.data["problem"], scene.data["budget"]
    G = gallery.gradients(problem)
    g = G.mean(axis=0)
    best = gallery.spend(G, np.linalg.solve(G.T @ G / len(G), g), budget)
    return problem, budget, scene.axes[0].values, table, G, g, best, gallery.spend(G, g, budget)


def test_candidates_run_round_the_ellipse_from_gradient_descent(case):
    problem, budget, turns, table, G, g, best, descent = case
    arrays = table.arrays
    W = np.linalg.cholesky(G.T @ G / len(G)).T  # where the ellipse is a circle
    side = np.sign(gallery.turned(W @ descent, W @ arrays["tip"][270]))  # a quarter round
    angles = side * np.deg2rad(turns)
    x, y = W @ descent
    round_ = [np.cos(angles) * x - np.sin(angles) * y, np.sin(angles) * x + np.cos(angles) * y]
    tips = np.linalg.solve(W, round_).T
    gallery.agree(arrays, {"tip": tips, "ellipse": tips}, atol=1e-3 * np.abs(tips).max())
    np.testing.assert_array_equal(arrays["candidate"][:, 1], arrays["tip"])
    np.testing.assert_allclose(gallery.cost(G, np.float64(arrays["tip"])), budget, rtol=1e-5)
    np.testing.assert_allclose(arrays["cost"] ** 2, budget, rtol=1e-5)
    steps = {"descent": [[0, 0], descent], "best": [[0, 0], best]}
    gallery.agree(arrays, steps, atol=1e-4 * np.abs(tips).max())

    most, actual = g @ best, gallery.changes(problem, tips).mean(axis=-1)
    scores, true_scores = 100 * tips @ g / most, 100 * actual / most
    expected = {"score": scores, "true_scores": np.stack([turns, true_scores], axis=1)}
    expected |= {"scores": np.stack([turns, scores], axis=1), "descent_score": 100 * g @ descent / most}
    gallery.agree(
        arrays, expected | {"dot": expected["scores"], "true_dot": expected["true_scores"]}, atol=0.05
    )
    gallery.agree(arrays, {"predicted": tips @ g, "actual": actual, "best_predicted": most}, atol=4e-6)
    assert arrays["score"].max() <= 100.001
    assert arrays["score"].max() >= 99.99  # a place on the slider is at most half a degree from the best


def test_level_line_is_of_what_the_candidate_promises_and_crosses_the_view(case):
    *_, table, _, g, _, _ = case
    level, tip = table.arrays["level"], table.arrays["tip"]
    np.testing.assert_allclose(level @ g, (tip @ g)[:, None] * [1, 1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.max(np.abs(level) / table.background["reach"], axis=-1), 1, rtol=1e-3)
    assert (np.sum((level[:, 0] - tip) * (level[:, 1] - tip), axis=-1) < 0).all()


def test_value_of_the_budget_and_its_slope(case):
    """What c buys is √(cρ), and the multiplier √(ρ/c)/2 is its slope: the line touches it at c, and lies above it."""
    problem, budget, _, table, G, g, best, _ = case
    rho = g @ np.linalg.solve(G.T @ G / len(G), g)
    budgets, gains = table.arrays["value"].T
    np.testing.assert_allclose(gains, np.sqrt(budgets * rho), rtol=1e-4)
    expected = {"multiplier": np.sqrt(rho / budget) / 2, "spent": [budget, np.sqrt(budget * rho)]}
    gallery.agree(table.arrays, expected, rtol=1e-4)
    (low, start), (high, end) = table.arrays["tangent"]
    assert (start + (end - start) * (budgets - low) / (high - low) >= gains - 1e-6).all()
    np.testing.assert_allclose((end - start) / (high - low), table.arrays["multiplier"], rtol=1e-4)
    true = -gallery.changes(problem, np.sqrt(budgets / budget)[:, None] * best).mean(axis=-1)
    gallery.agree(table.arrays, {"true_value": np.stack([budgets, true], axis=1)}, atol=4e-6)
