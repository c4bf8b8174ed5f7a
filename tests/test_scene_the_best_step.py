"""Beat Lagrange, over the whole table: every candidate costs the budget, none scores above the formula."""

import gallery
import numpy as np
from gallery import agree

case = gallery.looks("the_best_step", "the_best_step, linear")


def test_candidates_run_round_the_ellipse_from_gradient_descent(case):
    arrays, turns, G, g = case.arrays, case.scene.axes[0].values, case.G, case.g
    best, descent = (gallery.spend(G, u, case.budget) for u in (np.linalg.solve(case.C, g), g))
    W = np.linalg.cholesky(case.C).T  # where the ellipse is a circle
    angles = np.deg2rad(turns)  # W mirrors nothing: counter-clockwise here is counter-clockwise in the plane
    x, y = W @ descent
    round_ = [np.cos(angles) * x - np.sin(angles) * y, np.sin(angles) * x + np.cos(angles) * y]
    tips = np.linalg.solve(W, round_).T
    agree(arrays, atol=1e-4 * np.abs(tips).max(), tip=tips, ellipse=tips)
    np.testing.assert_array_equal(arrays["candidate"][:, 1], arrays["tip"])
    np.testing.assert_allclose(gallery.cost(G, np.float64(arrays["tip"])), case.budget, rtol=1e-5)
    agree(arrays, rtol=1e-5, cost=case.budget)
    agree(arrays, atol=1e-4 * np.abs(tips).max(), descent=[[0, 0], descent], best=[[0, 0], best])

    most, actual = g @ best, gallery.changes(case.problem, tips).mean(axis=-1)
    scores, true_scores = (np.stack([turns, 100 * each / most], axis=1) for each in (tips @ g, actual))
    agree(arrays, atol=0.05, scores=scores, dot=scores, score=scores[:, 1])
    agree(arrays, atol=0.05, true_scores=true_scores, true_dot=true_scores)
    agree(arrays, atol=0.05, descent_score=100 * g @ descent / most)
    agree(arrays, atol=2e-6, predicted=tips @ g, actual=actual, best_predicted=most)
    assert arrays["score"].max() <= 100.001
    assert arrays["score"].max() >= 99.99  # a place on the slider is at most half a degree from the best


def test_level_line_is_of_what_the_candidate_promises_and_crosses_the_view(case):
    level, tip = case.arrays["level"], case.arrays["tip"]
    np.testing.assert_allclose(level @ case.g, (tip @ case.g)[:, None] * [1, 1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.max(np.abs(level) / case.view["reach"], axis=-1), 1, rtol=1e-3)
    assert (np.sum((level[:, 0] - tip) * (level[:, 1] - tip), axis=-1) < 0).all()


def test_value_of_the_budget_and_its_slope(case):
    """For c one gets √(cρ), and the multiplier √(ρ/c)/2 is its slope: the line touches it at c, and lies above it."""
    arrays, budget, u = case.arrays, case.budget, np.linalg.solve(case.C, case.g)
    rho, best = case.g @ u, gallery.spend(case.G, u, budget)
    budgets, gains = arrays["value"].T
    np.testing.assert_allclose(gains, np.sqrt(budgets * rho), rtol=1e-4)
    agree(arrays, rtol=1e-4, multiplier=np.sqrt(rho / budget) / 2, spent=[budget, np.sqrt(budget * rho)])
    (low, start), (high, end) = arrays["tangent"]
    assert (start + (end - start) * (budgets - low) / (high - low) >= gains - 1e-6).all()
    np.testing.assert_allclose((end - start) / (high - low), arrays["multiplier"], rtol=1e-4)
    true = -gallery.changes(case.problem, np.sqrt(budgets / budget)[:, None] * best).mean(axis=-1)
    agree(arrays, atol=2e-6, true_value=np.stack([budgets, true], axis=1))
