"""The proof, over the whole table: each dot against what it audits in float64, each verdict against what it needs."""

from functools import partial

import gallery
import numpy as np
from gallery import agree

import efisher_teach as ef
from efisher_teach.core.statements import DAMPED, STATEMENTS
from efisher_teach.figures.scenes.proof import BUDGETS

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
    ordered = case.arrays["ordered"][..., 0]
    agree(case.arrays, least=ordered.min(axis=1), most=ordered.max(axis=1))
    slopes = np.polyfit(np.log(BUDGETS[:6]), np.log(ordered[:6]), 1)[0]
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


def test_what_falls_and_how_far_is_that_of_the_ledger(case):
    """In some of the rows. (Who falls with whom: test_proof.py.)"""
    problem, budget = gallery.problem(case.data), case.scene.axes[0].default
    audit = partial(ef.ledger, problem.loss_fn, problem.params, problem.x, problem.y, damping=case.damping)
    for row, broken in [(0, None), *enumerate(case.names, 1)][::4]:
        lines = audit(budget=budget, break_line=broken)
        falls = np.array([not line.holds for line in lines])
        np.testing.assert_array_equal(case.arrays["falls"][row, :, 0] > 0, falls)
        far = np.clip([line.residual for line in lines], 1e-16, 30)[falls]
        np.testing.assert_allclose(case.arrays["fallen"][row, falls, 0], far, rtol=1e-5)


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
