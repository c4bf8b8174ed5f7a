"""The proof, over the whole table: each dot against what it audits in float64, each verdict against what it needs."""

import gallery
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.core.statements import STATEMENTS
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.proof import BUDGETS, NAMES, proof

DAMPED = set(NAMES[12:])
TAYLOR = {"one loss", "mean loss", "constraint"}


@pytest.fixture(params=gallery.usual(["two", "wide", "linear"], "two"), scope="module")
def case(request):
    problem = gallery.problem(request.param)
    scene = proof(problem)
    return problem, scene, scenes.tabulate(scene)


def fallen(case, name):
    """The lines in the column "falls" where a line is broken."""
    marks = case[2].arrays["falls"][1 + NAMES.index(name) if name else 0]
    return {line for line, mark in zip(NAMES, marks, strict=True) if mark[0] > 0}


def sides(problem, budget):
    """What Taylor's lines compare, along the damped step of cost c: true and first-order changes, in float64."""
    x, y = np.float64(problem.x), np.float64(problem.y)
    theta = np.float64(problem.params)
    if problem.name == "linear regression":
        losses = lambda theta: (y - x @ theta) ** 2 / 2  # noqa: E731
        G = -(y - x @ theta)[:, None] * x
    else:
        losses = lambda theta: np.logaddexp(0, x @ theta) - y * (x @ theta)  # noqa: E731
        G = (1 / (1 + np.exp(-x @ theta)) - y)[:, None] * x
    u = np.linalg.solve(G.T @ G / len(G) + 1e-3 * np.eye(len(theta)), G.mean(axis=0))
    delta = -u * np.sqrt(budget / np.mean((G @ u) ** 2))
    return losses(theta + delta) - losses(theta), G @ delta


def test_approximations_miss_by_the_remainder(case):
    problem, _, table = case
    for budget, dots in zip(BUDGETS, table.arrays["ordered"], strict=True):
        true, first = sides(problem, budget)
        expected = [
            np.sqrt(np.mean((true - first) ** 2) / np.mean(first**2)),
            abs(np.mean(true - first) / np.mean(first)),
            abs(np.mean(true**2) / np.mean(first**2) - 1),
        ]
        np.testing.assert_allclose(dots[:, 0], expected, rtol=1e-3)


def test_approximations_fall_with_the_root_of_the_budget(case):
    """Order 2 beside 1, order 3 beside 2: relative, each falls with the length of the step."""
    logs = np.log(case[2].arrays["ordered"][:6, :, 0])
    slopes = np.polyfit(np.log(BUDGETS[:6]), logs, 1)[0]
    np.testing.assert_allclose(slopes, 0.5, atol=0.02)


def test_equations_hold_to_rounding_at_any_budget(case):
    exact = case[2].arrays["exact"]
    assert exact.shape == (len(BUDGETS), 15, 2)
    assert exact[..., 0].max() < 1e-9
    assert exact[..., 0].min() >= 0.99e-16


def test_rows_are_the_lines_in_order(case):
    arrays = case[2].arrays
    np.testing.assert_array_equal(arrays["ordered"][0, :, 1], [0, 1, 2])
    np.testing.assert_array_equal(arrays["exact"][0, :, 1], np.arange(3, 18))
    np.testing.assert_array_equal(arrays["hand"], [[2, row] for row in range(-1, 18)])
    assert tuple(STATEMENTS) == NAMES


def test_nothing_broken_nothing_falls(case):
    assert fallen(case, None) == set()
    assert case[2].arrays["fallen_lines"][0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_line_falls(case, name):
    if name == "value" and case[0].x.shape[0] < case[0].x.shape[1]:
        assert (
            fallen(case, name) == set()
        )  # with fewer examples than parameters ρ is 1: there is nothing to mistake
    else:
        assert name in fallen(case, name)


def test_who_falls_with_whom(case):
    """What a broken line does not touch stands."""
    for name in ("one loss", "mean loss", "constraint"):
        assert fallen(case, name) == TAYLOR
    assert fallen(case, "multiplier") == {"stationarity", "multiplier"}
    assert fallen(case, "value") == {"value"} or case[0].x.shape[0] < case[0].x.shape[1]
    assert fallen(case, "active") == {"step", "stationarity", "active", "multiplier", "value"}
    for name in ("stationarity", "optimum", "step"):  # a wrong direction that is scaled to the cost c
        assert not fallen(case, name) & {"active", "quadratic form", "range", *TAYLOR, *DAMPED}
    for name in ("metric", "two budgets", "penalty", "ridge regression"):
        assert fallen(case, name) == {name}


def test_how_far_they_fall(case):
    """10 % longer: Δ by 0.1, the cost by 0.21. λ doubled: a whole g is left, and ½ of λ is missing."""
    marks = {name: 1 + NAMES.index(name) for name in NAMES}
    fallen = case[2].arrays["fallen"][..., 0]
    assert fallen[marks["active"], NAMES.index("step")] == pytest.approx(0.1, rel=1e-5)
    assert fallen[marks["active"], NAMES.index("active")] == pytest.approx(0.21, rel=1e-5)
    assert fallen[marks["multiplier"], NAMES.index("stationarity")] == pytest.approx(1, rel=1e-5)
    assert fallen[marks["multiplier"], NAMES.index("multiplier")] == pytest.approx(0.5, rel=1e-5)
    assert fallen[marks["second order"], NAMES.index("step")] == pytest.approx(2, rel=1e-5)


def test_each_row_has_one_verdict(case):
    arrays = case[2].arrays
    falls, stands = arrays["falls"][..., 0] == 1, arrays["stands"][..., 0] == 0
    np.testing.assert_array_equal(falls, ~stands)
    np.testing.assert_array_equal(falls.sum(axis=1), arrays["fallen_lines"])
    np.testing.assert_array_equal(arrays["fallen_lines"] + arrays["standing"], 18)
    np.testing.assert_array_equal(arrays["fallen"][..., 0] > 1e-12, falls)


def test_dots_by_budget_and_marks_by_break(case):
    depends = case[2].depends
    assert depends["exact"] == depends["ordered"] == depends["least"] == (0,)
    assert all(depends[name] == (1,) for name in ("fall", "fallen", "falls", "stands", "row", "hand"))


def test_what_is_broken_is_said(case):
    say = case[1].axes[1].say
    assert say(0.0) == "nothing"
    assert say(7.0) == "“stationarity” (the step goes along −g)"


def test_messages():
    problem = ef.linear_regression()
    with pytest.raises(ValueError, match=r"`budget` must be at most 0\.04; got 0\.05"):
        proof(problem, budget=0.05)
    with pytest.raises(ValueError, match="`damping` must be finite and greater than 0; got 0"):
        proof(problem, damping=0.0)
