"""The ledger: every line holds where it must, falls where it must, and shows itself truly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import bare

import efisher_teach as ef
from efisher_teach.core.premises import BREAKS
from efisher_teach.core.statements import DAMPED, STATEMENTS

BUDGET, DAMPING = 1e-2, 1e-2
TAYLOR = ("one loss", "mean loss", "constraint")
PROBLEMS = {
    "tall": lambda: ef.descend(ef.breast_cancer(), steps=3),
    "wide": lambda: crop(ef.digits((4,)), 12),
    "deficient": lambda: twice(ef.logistic_regression(3, 5)),
    "one example": lambda: ef.linear_regression(1, 3),
    "one parameter": lambda: ef.linear_regression(8, 1),
}


def crop(problem, n):
    return problem._replace(x=problem.x[:n], y=problem.y[:n])


def twice(problem):
    """Every example twice: K is singular, and C too."""
    return problem._replace(x=jnp.concatenate([problem.x] * 2), y=jnp.concatenate([problem.y] * 2))


def ledger(problem, **options):
    options = {"budget": BUDGET, "damping": DAMPING, **options}
    lines = ef.ledger(problem.loss_fn, problem.params, problem.x, problem.y, **options)
    return {line.name: line for line in lines}


def fallen(lines):
    return {name for name, line in lines.items() if not line.holds}


@pytest.fixture(scope="module")
def tall():
    return PROBLEMS["tall"]()


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_line_holds(name):
    lines = ledger(PROBLEMS[name]())
    assert list(lines) == list(STATEMENTS)
    assert fallen(lines) == set()
    for line in lines.values():
        assert np.isfinite([line.left, line.right, line.residual]).all(), line
        if line.order is None:
            assert line.residual < 1e-8, line
    # Slopes over six halvings, with the remainder 1000 times above rounding: the next order adds a few parts in 100.
    assert lines["one loss"].order == pytest.approx(2, abs=0.05)
    assert lines["mean loss"].order == pytest.approx(2, abs=0.05)
    assert lines["constraint"].order == pytest.approx(3, abs=0.05)


def test_without_damping_there_are_no_lines_about_it(tall):
    assert set(ledger(tall, damping=0.0)) == set(STATEMENTS) - set(DAMPED)


def test_sides_are_the_two_sides(tall, x64):
    """Against the definitions, in float64."""
    double = lambda leaf: jnp.asarray(leaf, float)  # noqa: E731
    x, params = double(tall.x), double(tall.params)
    G = np.asarray(ef.per_example_gradients(tall.loss_fn, params, x, double(tall.y)))
    g, C = oracles.mean_gradient(G), G.T @ G / len(G)
    rho, lines = oracles.agreement(G), ledger(tall, damping=0.0)
    expected = {
        "value": -np.sqrt(BUDGET * rho),
        "multiplier": np.sqrt(rho / BUDGET) / 2,
        "active": BUDGET,
        "quadratic form": BUDGET,
        "step": np.sqrt(BUDGET / rho) * np.linalg.norm(np.linalg.solve(C, g)),
        "stationarity": np.linalg.norm(g),
        "range": np.linalg.norm(g),
        "optimum": -np.sqrt(BUDGET * rho),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(lines[name].right, value, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(lines[name].left, value, rtol=1e-7, err_msg=name)
    np.testing.assert_allclose(
        lines["second order"].left, 2 * lines["multiplier"].right * np.linalg.eigvalsh(C)[0], rtol=1e-9
    )
    delta = -np.sqrt(BUDGET / rho) * np.linalg.solve(C, g)
    changes = np.asarray(ef.loss_changes(tall.loss_fn, params, x, double(tall.y), jnp.asarray(delta)))
    np.testing.assert_allclose(lines["mean loss"].left, changes.mean(), rtol=1e-9)
    np.testing.assert_allclose(lines["constraint"].left, np.mean(changes**2), rtol=1e-9)
    np.testing.assert_allclose(lines["constraint"].residual, abs(np.mean(changes**2) / BUDGET - 1), rtol=1e-9)


@pytest.mark.parametrize("line", BREAKS)
def test_a_broken_line_falls_and_says_why(line, tall):
    lines = ledger(tall, break_line=line)
    assert line in fallen(lines)
    reason = BREAKS[line][0]
    for name in fallen(lines):
        assert lines[name].note == f"fails: {reason}"
        assert lines[name].residual > 1e-8
    assert fallen(lines) < set(lines)


def test_what_falls_together(tall):
    """Algebra cannot see that gradients are stale; Taylor's lines cannot see that the algebra is wrong."""
    stale = ledger(tall, break_line="mean loss")
    assert fallen(stale) == set(TAYLOR)
    # Without its first-order term a remainder falls as fast as the step, that of the square as its square.
    assert [stale[name].order for name in TAYLOR] == pytest.approx([1, 1, 2], abs=0.05)
    square = fallen(ledger(tall, break_line="quadratic form"))
    assert {"quadratic form", "step", "active", "optimum", "ridge regression"} <= square
    assert not {*TAYLOR, "range", "stationarity"} & square  # g is in the range of ggᵀ: nothing shows there
    assert fallen(ledger(tall, break_line="multiplier")) == {"multiplier", "stationarity"}
    assert fallen(ledger(tall, break_line="value")) == {"value"}
    ascent = fallen(ledger(tall, break_line="second order"))
    assert "stationarity" not in ascent  # both ends are stationary: only the second order tells them apart
    assert {"second order", "value", "optimum"} <= ascent
    for line in ("metric", "two budgets", "penalty", "ridge regression"):
        assert fallen(ledger(tall, break_line=line)) == {line}


def test_residuals_say_by_how_much(tall):
    lines = ledger(tall, break_line="active")  # 10 % too long: 21 % too dear
    assert lines["active"].residual == pytest.approx(0.21)
    assert lines["step"].residual == pytest.approx(0.1)
    assert ledger(tall, break_line="multiplier")["stationarity"].residual == pytest.approx(1)
    assert ledger(tall, break_line="second order")["value"].residual == pytest.approx(2)
    rho = float(ef.empirical_fisher_step(gradients(tall), budget=1).agreement)
    assert ledger(tall, break_line="value")["value"].residual == pytest.approx(1 - np.sqrt(rho), rel=1e-5)


def gradients(problem):
    return ef.per_example_gradients(problem.loss_fn, problem.params, problem.x, problem.y)


def test_a_wrong_matrix_is_found_out(tall):
    G = gradients(tall)
    right = ledger(tall, C=ef.empirical_fisher(G.astype(float)), damping=0.0)
    # C was rounded to float32, which its user cannot help: the lines that compare with float64 see that, and no more.
    assert max(line.residual for line in right.values() if line.order is None) < 1e-5
    wrong = ledger(tall, C=ef.gradient_covariance(G))
    assert {"quadratic form", "active", "damped step", "ridge regression"} <= fallen(wrong)
    assert wrong["quadratic form"].note == "fails: C is not the empirical Fisher of these examples"
    assert wrong["optimum"].holds  # the centred covariance gives the same direction (facts 5.3)
    assert not ledger(tall, C=jnp.eye(2))["optimum"].holds


def test_rank_deficient_matrix_of_other_examples():
    """C of three examples, g of twelve: a part of g lies outside, and nothing is NaN."""
    problem = PROBLEMS["wide"]()
    C = ef.empirical_fisher(gradients(problem)[:3])
    lines = ledger(problem, C=C, damping=1e-3)
    assert {"range", "stationarity", "step", "quadratic form"} <= fallen(lines)
    assert np.isfinite([[line.left, line.right, line.residual] for line in lines.values()]).all()


def test_direction(tall):
    """Any step, short or long, for Taylor's lines; the others do not depend on it."""
    for size in (1e-3, 1.0):
        lines = ledger(tall, direction=size * jnp.array([1.0, -2.0]))
        assert fallen(lines) == set()
        assert lines["one loss"].order == pytest.approx(2, abs=0.05)
    assert lines["constraint"].right != pytest.approx(BUDGET)
    assert lines["value"] == ledger(tall)["value"]


def test_order_is_measured_not_asserted():
    """A loss with a kink of power 3/2 has order 1.5 there, and a linear one no remainder at all."""
    x, y, at = jnp.linspace(0.5, 1.5, 7), jnp.ones(7), jnp.zeros(1)
    kink = ef.ledger(lambda theta, x, y: x * theta[0] + jnp.abs(theta[0]) ** 1.5, at, x, y, budget=BUDGET)
    assert kink[0].order == pytest.approx(1.5, abs=0.02)
    assert [line.holds for line in kink[:3]] == [False, False, False]
    assert kink[0].note == "fails: this model does not have the property that it needs"
    linear = ef.ledger(lambda theta, x, y: x * theta[0] - y, at, x, y, budget=BUDGET)
    assert [line.order for line in linear[:3]] == [np.inf] * 3
    cubic = ef.ledger(lambda theta, x, y: x * theta[0] + x * theta[0] ** 3, at, x, y, budget=BUDGET)
    assert [line.order for line in cubic[:3]] == pytest.approx([3, 3, 4], abs=0.05)


def test_float64_inside_and_nothing_of_it_outside(tall):
    """From float32 data, with 64 bits off, the residuals are those of float64."""
    assert not jax.config.jax_enable_x64
    lines = ledger(tall)
    assert not jax.config.jax_enable_x64
    assert tall.x.dtype == jnp.float32
    assert max(line.residual for line in lines.values() if line.order is None) < 1e-10


def test_it_shows_itself(tall):
    lines = ef.ledger(tall.loss_fn, tall.params, tall.x, tall.y, budget=BUDGET, damping=DAMPING)
    text, page = repr(lines), lines._repr_markdown_()
    assert isinstance(lines, tuple)
    assert str(lines) == text
    assert len(text.splitlines()) == 1 + len(lines)
    rows = page.splitlines()
    assert len(rows) == 2 + len(lines)
    assert {row.count("|") for row in rows} == {9}  # no bar in a formula: it would end a cell
    for line, printed, row in zip(lines, text.splitlines()[1:], rows[2:], strict=True):
        assert printed.startswith(f"✓  {line.name} ")
        assert line.statement in printed
        assert f"| ✓ | {line.name} | ${line.latex}$ | " in row
        assert f" {line.left:.4g} " in printed or line.left == 0
        assert row.endswith(f"{line.note} |")
    broken = ef.ledger(tall.loss_fn, tall.params, tall.x, tall.y, budget=BUDGET, break_line="active")
    assert "\nactive fails: the step is 10 % longer than the budget allows" in str(broken)
    assert re.search(r"✗  active .* 0\.0121 +0\.01 +2\.1e-01", str(broken))


def test_the_text_does_not_tremble(tall):
    """What is printed does not depend on rounding: another order of the examples prints the same."""
    order = np.random.default_rng(0).permutation(len(tall.y))
    other = tall._replace(x=tall.x[order], y=tall.y[order])
    here, there = (
        ef.ledger(each.loss_fn, each.params, each.x, each.y, budget=BUDGET, damping=DAMPING)
        for each in (tall, other)
    )
    assert repr(here) == repr(there)


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


def test_messages(tall):
    def call(loss_fn=tall.loss_fn, params=tall.params, **options):
        return bare(ef.ledger)(loss_fn, params, tall.x, tall.y, **{"budget": BUDGET, **options})

    with raises("`budget` must be finite and greater than 0; got 0.0."):
        call(budget=0.0)
    with raises("`damping` must be finite and at least 0; got -1.0."):
        call(damping=-1.0)
    with raises("`break_line` must be one of 'one loss', 'mean loss', "):
        call(break_line="two")
    with raises("got 'metric'. Choose one of these."):
        call(break_line="metric")  # there is no such line without damping
    with raises("`direction` must be of shape (2,), one number a parameter; got shape (3,). Ravel it."):
        call(direction=jnp.ones(3))
    with raises("`C` must be of shape (2, 2), as params are; got shape (3, 3). Use the same parameters."):
        call(C=jnp.eye(3))
    with raises("`C` must be positive semi-definite here; got -1 among its eigenvalues"):
        call(C=jnp.diag(jnp.array([1.0, -1.0])))
    with raises("`C` must be a matrix with g in its range, at least in part; got gᵀC⁺g = 0."):
        call(C=jnp.zeros((2, 2)))
    with raises(
        "`loss_fn` must be a function that computes in float64 here; got float32. Its numbers were float64"
    ):
        call(lambda params, x, y: tall.loss_fn(params, x, y).astype(jnp.float32))
    with raises(
        "`params` must be where the mean gradient is not 0; got g = 0. There is nothing to derive there."
    ):
        call(lambda params, x, y: 0 * params[0])
