"""The proof, over the whole table: each dot against what it audits in float64, each verdict against what it needs."""

import gallery
import numpy as np
import pytest
from gallery import agree

from efisher_teach.core.statements import DAMPED, STATEMENTS
from efisher_teach.figures.scenes.proof import BUDGETS

TAYLOR = {"one loss", "mean loss", "constraint"}
PROVED = tuple(name for name in STATEMENTS if name not in DAMPED)  # in notebook 03
CASES = {  # the data, ε, and the lines
    "proof": ("two", 0.0, PROVED),
    "proof, damped": ("wide", 1e-2, (*PROVED, *DAMPED)),
}


class Audit(gallery.Look):
    """The lines that it shows, by their names and number."""

    def __init__(self, name):
        super().__init__(name)
        self.data, self.damping, self.names = CASES[name]
        self.lines = len(self.names)


case = gallery.looks("proof", "proof, damped", kind=Audit)


def test_approximations_miss_by_the_remainder(case):
    """Along the step of cost c; order 2 beside 1, 3 beside 2: relative, each falls with its length."""
    problem = gallery.problem(case.data)
    G = gallery.gradients(problem)
    u = np.linalg.solve(G.T @ G / len(G) + case.damping * np.eye(G.shape[1]), G.mean(axis=0))
    for budget, dots in zip(BUDGETS, case.arrays["ordered"], strict=True):
        delta = gallery.spend(G, u, budget)
        true, first = gallery.changes(problem, delta), G @ delta
        expected = [
            np.sqrt(np.mean((true - first) ** 2) / np.mean(first**2)),
            abs(np.mean(true - first) / np.mean(first)),
            abs(np.mean(true**2) / np.mean(first**2) - 1),
        ]
        np.testing.assert_allclose(dots[:, 0], expected, rtol=1e-3)
    agree(case.arrays, least=np.min(case.arrays["ordered"][..., 0], axis=1))
    agree(case.arrays, most=np.max(case.arrays["ordered"][..., 0], axis=1))
    slopes = np.polyfit(np.log(BUDGETS[:6]), np.log(case.arrays["ordered"][:6, :, 0]), 1)[0]
    np.testing.assert_allclose(slopes, 0.5, atol=0.02)


def test_rows_are_the_lines_in_order_and_equations_hold_to_rounding_at_any_budget(case):
    arrays, depends, say = case.arrays, case.table.depends, case.scene.axes[1].say
    exact = arrays["exact"]
    assert exact.shape == (len(BUDGETS), case.lines - 3, 2)
    assert exact[..., 0].max() < 1e-9
    assert exact[..., 0].min() >= 0.99e-16
    np.testing.assert_array_equal(arrays["ordered"][0, :, 1], [0, 1, 2])
    np.testing.assert_array_equal(exact[0, :, 1], np.arange(3, case.lines))
    np.testing.assert_array_equal(arrays["hand"], [[2, row] for row in range(-1, case.lines)])
    counts = [arrays[name] for name in ("lines", "exact_lines", "ordered_lines")]
    assert counts == [case.lines, case.lines - 3, 3]
    assert case.scene.labels["names"] == case.names
    assert depends["exact"] == depends["ordered"] == depends["least"] == (0,)
    assert all(depends[name] == (1,) for name in ("fall", "fallen", "falls", "stands", "row", "hand"))
    assert say(0.0) == "nothing"
    assert say(7.0) == "“stationarity” (the step goes along −g)"


def test_who_falls_with_whom(case):
    """A broken line falls; what it does not touch stands."""
    marks = case.arrays["falls"][..., 0] > 0
    nothing, *rest = ({line for line, mark in zip(case.names, row, strict=True) if mark} for row in marks)
    fallen = dict(zip(case.names, rest, strict=True))
    assert nothing == set()
    # With fewer examples than parameters ρ is 1: there is nothing to mistake.
    assert fallen.pop("value") == (set() if case.data == "wide" else {"value"})
    assert all(line in fell for line, fell in fallen.items())
    for line in TAYLOR:
        assert fallen[line] == TAYLOR
    assert fallen["multiplier"] == {"stationarity", "multiplier"}
    assert fallen["active"] == {"step", "stationarity", "active", "multiplier", "value"}
    for line in ("stationarity", "optimum", "step"):  # a wrong direction that is scaled to the cost c
        assert not fallen[line] & {"active", "quadratic form", "range", *TAYLOR, *DAMPED}
    for line in {"metric", "two budgets", "penalty", "ridge regression"}.intersection(case.names):
        assert fallen[line] == {line}


def test_how_far_they_fall(case):
    """10 % longer: Δ by 0.1, the cost by 0.21. λ doubled: a whole g is left, and ½ of λ is missing."""
    fallen = case.arrays["fallen"][..., 0]
    far = {("active", "step"): 0.1, ("active", "active"): 0.21, ("second order", "step"): 2}
    far |= {("multiplier", "stationarity"): 1, ("multiplier", "multiplier"): 0.5}
    for (broken, line), expected in far.items():
        assert fallen[1 + PROVED.index(broken), PROVED.index(line)] == pytest.approx(expected, rel=1e-5)


def test_each_row_has_one_verdict(case):
    arrays, budget = case.arrays, case.scene.axes[0]
    place = budget.nearest(budget.default)
    falls, stands = arrays["falls"][..., 0] == 1, arrays["stands"][..., 0] == 0
    np.testing.assert_array_equal(falls, ~stands)
    np.testing.assert_array_equal(falls.sum(axis=1), arrays["fallen_lines"])
    np.testing.assert_array_equal(arrays["fallen_lines"] + arrays["standing"], case.lines)
    np.testing.assert_array_equal(arrays["fallen"][..., 0] > 1e-12, falls)
    stood = np.concatenate([arrays["ordered"][place], arrays["exact"][place]]) + np.zeros((len(falls), 1, 1))
    np.testing.assert_array_equal(arrays["fall"][:, :, 1], arrays["fallen"])
    np.testing.assert_array_equal(arrays["fall"][:, :, 0][falls], stood[falls])


def test_a_band_lies_about_the_line_that_is_broken(case):
    for name in ("row", "verdict_row"):
        nothing, *bands = case.arrays[name][:, 0]
        assert np.ptp(nothing[:, 1]) == 0
        for line, band in enumerate(bands):
            (left, right), (low, high) = np.unique(band[:, 0]), np.unique(band[:, 1])
            assert left < right
            assert (low, high) == (line - 0.5, line + 0.5)
            np.testing.assert_allclose(band, [[left, low], [right, low], [right, high], [left, high]])
