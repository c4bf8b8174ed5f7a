"""The ledger: every line holds where it must, falls where it must, and shows itself truly."""

import re

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.core.premises import BREAKS
from efisher_teach.core.statements import DAMPED, STATEMENTS

BUDGET, DAMPING = 1e-2, 1e-2
TAYLOR = ("one loss", "mean loss", "constraint")
TALL = ef.descend(ef.breast_cancer(), steps=3)


def examples(problem, rows):
    """The same problem with some of its examples, in another order or more than once."""
    rows = jnp.asarray(rows)
    return problem._replace(x=problem.x[rows], y=problem.y[rows])


PROBLEMS = {
    "tall": lambda: TALL,
    "wide": lambda: examples(ef.digits((4,)), range(12)),
    "deficient": lambda: examples(ef.logistic_regression(3, 5), [0, 1, 2] * 2),  # K is singular, and C too
    "one example": lambda: ef.linear_regression(1, 3),
    "one parameter": lambda: ef.linear_regression(8, 1),
}


def whole_ledger(problem, **options):
    options = {"budget": BUDGET, "damping": DAMPING, **options}
    return ef.ledger(problem.loss_fn, problem.params, problem.x, problem.y, **options)


def ledger(problem=TALL, **options):
    return {line.name: line for line in whole_ledger(problem, **options)}


def fallen(lines):
    return {name for name, line in lines.items() if not line.holds}


def gradients(problem):
    return ef.per_example_gradients(problem.loss_fn, problem.params, problem.x, problem.y)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_line_holds(name):
    """From float32 data, with 64 bits off, the residuals are those of float64."""
    lines = ledger(PROBLEMS[name]())
    assert list(lines) == list(STATEMENTS)
    assert fallen(lines) == set()
    for line in lines.values():
        assert np.isfinite([line.left, line.right, line.residual]).all(), line
        if line.order is None:
            assert line.residual < 1e-8, line
    # Slopes over six halvings, with the remainder 1000 times above rounding: the next order adds a few parts in 100.
    assert [lines[name].order for name in TAYLOR] == pytest.approx([2, 2, 3], abs=0.05)


def test_sides_are_the_two_sides(x64):
    """Against the definitions, in float64."""
    data = [jnp.asarray(array, float) for array in (TALL.params, TALL.x, TALL.y)]
    G = np.asarray(ef.per_example_gradients(TALL.loss_fn, *data))
    g, C = oracles.mean_gradient(G), G.T @ G / len(G)
    rho, lines = oracles.agreement(G), ledger(damping=0.0)
    assert set(lines) == set(STATEMENTS) - set(DAMPED)
    delta = -np.sqrt(BUDGET / rho) * np.linalg.solve(C, g)
    changes = np.asarray(ef.loss_changes(TALL.loss_fn, *data, jnp.asarray(delta)))
    both = {
        "value": -np.sqrt(BUDGET * rho),
        "multiplier": np.sqrt(rho / BUDGET) / 2,
        "active": BUDGET,
        "quadratic form": BUDGET,
        "step": np.linalg.norm(delta),
        "stationarity": np.linalg.norm(g),
        "range": np.linalg.norm(g),
        "optimum": -np.sqrt(BUDGET * rho),
    }
    left = {
        "second order": 2 * lines["multiplier"].right * np.linalg.eigvalsh(C)[0],
        "mean loss": changes.mean(),
        "constraint": np.mean(changes**2),
    }
    for name, value in (both | left).items():
        np.testing.assert_allclose(lines[name].left, value, rtol=1e-9 if name in left else 1e-7, err_msg=name)
    for name, value in both.items():
        np.testing.assert_allclose(lines[name].right, value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(lines["constraint"].residual, abs(np.mean(changes**2) / BUDGET - 1), rtol=1e-9)


TOGETHER = {  # what falls when a line is broken, where that is little
    **{line: {line} for line in ("value", "metric", "two budgets", "penalty", "ridge regression")},
    **{line: set(TAYLOR) for line in TAYLOR},  # algebra cannot see that gradients are stale
    "multiplier": {"multiplier", "stationarity"},
}
FALLS = {  # and some of it, where it is much
    "quadratic form": {"step", "active", "optimum", "ridge regression"},
    "second order": {"value", "optimum"},
    "active": {"step", "stationarity", "multiplier", "value"},
}
SCALED = {"active", "quadratic form", "range", *TAYLOR, *DAMPED}  # what a wrong direction of the cost c keeps
STANDS = {  # and what does not fall
    "quadratic form": {*TAYLOR, "range", "stationarity"},  # g is in the range of ggᵀ: nothing shows there
    "second order": {"stationarity"},  # both ends are stationary: only the second order tells them apart
    **dict.fromkeys(("stationarity", "optimum", "step"), SCALED),
}
RESIDUALS = {
    "active": {"active": 0.21, "step": 0.1},  # 10 % too long: 21 % too dear
    "multiplier": {"stationarity": 1},
    "second order": {"value": 2},
}


@pytest.mark.parametrize("line", BREAKS)
def test_a_broken_line_falls_and_says_why(line):
    lines = ledger(break_line=line)
    found = fallen(lines)
    assert found == TOGETHER.get(line, found)
    assert {line} | FALLS.get(line, set()) <= found < set(lines)
    assert not found & STANDS.get(line, set())
    for name in found:
        assert lines[name].note == f"fails: {BREAKS[line][0]}"
        assert lines[name].residual > 1e-8
    for name, residual in RESIDUALS.get(line, {}).items():
        assert lines[name].residual == pytest.approx(residual)
    if line in TAYLOR:
        # Without its first-order term a remainder falls as fast as the step, that of the square as its square.
        assert [lines[name].order for name in TAYLOR] == pytest.approx([1, 1, 2], abs=0.05)


def test_a_wrong_matrix_is_found_out():
    G = gradients(TALL)
    right = ledger(C=ef.empirical_fisher(G), damping=0.0)
    # C was rounded to float32, which its user cannot help: the lines that compare with float64 see that, and no more.
    assert max(line.residual for line in right.values() if line.order is None) < 1e-5
    wrong = ledger(C=ef.gradient_covariance(G))
    assert {"quadratic form", "active", "damped step", "ridge regression"} <= fallen(wrong)
    assert wrong["quadratic form"].note == "fails: C is not the empirical Fisher of these examples"
    assert wrong["optimum"].holds  # the centred covariance gives the same direction
    assert not ledger(C=jnp.eye(2))["optimum"].holds
    # C of three examples, g of twelve: a part of g lies outside, and nothing is NaN.
    wide = PROBLEMS["wide"]()
    other = ledger(wide, C=ef.empirical_fisher(gradients(wide)[:3]), damping=1e-3)
    assert {"range", "stationarity", "step", "quadratic form"} <= fallen(other)
    assert np.isfinite([[line.left, line.right, line.residual] for line in other.values()]).all()


def test_direction():
    """Any step, short or long, for Taylor's lines; the others do not depend on it."""
    for size in (1e-3, 1.0):
        lines = ledger(direction=size * jnp.array([1.0, -2.0]))
        assert fallen(lines) == set()
        assert lines["one loss"].order == pytest.approx(2, abs=0.05)
    assert lines["constraint"].right != pytest.approx(BUDGET)
    assert lines["value"] == ledger()["value"]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [(lambda t: jnp.abs(t) ** 1.5, [1.5] * 2), (lambda t: 0 * t, [np.inf] * 3), (lambda t: t**3, [3, 3, 4])],
    ids=["a kink", "linear", "cubic"],
)
def test_order_is_measured_not_asserted(rest, expected):
    """A kink of power 3/2 has order 1.5 there, and a linear loss no remainder at all."""
    data = jnp.zeros(1), jnp.linspace(0.5, 1.5, 7), jnp.ones(7)
    lines = ef.ledger(lambda theta, x, y: x * theta[0] + x * rest(theta[0]), *data, budget=BUDGET)
    assert [line.order for line in lines[: len(expected)]] == pytest.approx(expected, abs=0.05)
    assert [line.holds for line in lines[:3]] == [expected[0] > 2] * 3
    if not lines[0].holds:
        assert lines[0].note == "fails: this model does not have the property that it needs"


def test_it_shows_itself():
    lines = whole_ledger(TALL)
    text, rows = str(lines).splitlines(), lines._repr_markdown_().splitlines()
    assert isinstance(lines, tuple)
    assert {row.count("|") for row in rows} == {9}  # no bar in a formula: it would end a cell
    for line, printed, row in zip(lines, text[1:], rows[2:], strict=True):
        assert printed.startswith(f"✓  {line.name} ")
        assert line.statement in printed
        assert f"| ✓ | {line.name} | ${line.latex}$ | " in row
        assert f" {line.left:.4g} " in printed or line.left == 0
        assert row.endswith(f"{line.note} |")
    damped = str(lines[12:]).splitlines()
    assert [row[3:].split("  ")[0] for row in damped] == ["line", *DAMPED]
    assert damped[0].endswith("residual")  # and no order: nothing is approximated
    broken = str(whole_ledger(TALL, break_line="active"))
    assert "\nactive fails: the step is 10 % longer than the budget allows" in broken
    assert re.search(r"✗  active .* 0\.0121 +0\.01 +2\.1e-01", broken)
    # What is printed does not depend on rounding: another order of the examples prints the same.
    order = np.random.default_rng(0).permutation(len(TALL.y))
    assert str(whole_ledger(examples(TALL, order))) == str(lines)
