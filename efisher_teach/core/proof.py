"""The proof as a ledger: every line of the derivation, checked on the learner's own model.

    min L(θ+Δ) such that E[Δℓ²] = c    ≈    min gᵀΔ such that ΔᵀCΔ = c    ⇒    Δ* = -√(c/ρ) C⁺g    → with ε: -η(C+εI)⁻¹g

An approximation is checked by its order: the slope of what it leaves out, against the length of the step on logarithmic
scales. An equation is checked by its residual. Any line can be broken on purpose, to see which others fall with it.

This is the library's auditor: NumPy in float64, from the definitions, and the library's own step only as what is
audited. (NumPy never rounds to TF32: here a product needs no stated precision.)
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_gradients
from efisher_teach.core.precondition import semi_definite
from efisher_teach.core.premises import BREAKS, inverse_times, prove, times
from efisher_teach.core.statements import DAMPED, STATEMENTS, TOLERANCE, Ledger, Line
from efisher_teach.core.step import empirical_fisher_step
from efisher_teach.core.two_budgets import two_budget_step


def ledger(
    loss_fn: Callable,
    params: PyTree,
    x: PyTree,
    y: PyTree,
    *,
    budget: Real[ArrayLike, ""],
    damping: Real[ArrayLike, ""] = 0.0,
    direction: Real[Array, " p"] | None = None,
    C: Real[Array, "p p"] | None = None,
    break_line: str | None = None,
) -> Ledger:
    """Check every line of the derivation on a model: from min L(θ+Δ) such that E[Δℓ²] = c to the damped step.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        budget: c > 0.
        damping: ε ≥ 0; 0 leaves out the lines about damping.
        direction: The step Δ (p,) of the lines about Taylor's expansion; None takes the solution.
        C: A matrix (p, p) in place of the empirical Fisher: a wrong one shows which lines need the right one.
        break_line: The name of a line to break on purpose, one of `BREAKS`; the lines that fall then say why.

    Returns:
        A `Ledger`, a tuple of `Line`. Computed in float64, whatever the user's settings, which stay as they are.

    Raises:
        ValueError: As in `per_example_gradients`; budget or damping out of range; direction or C does not fit; C is not
            positive semi-definite; no such line to break; a loss that does not compute in float64; a mean gradient of
            0, where there is nothing to derive.

    Reference:
        T. George, "What is the empirical Fisher?", 2018.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> model = toy.loss_fn, toy.params, toy.x, toy.y
        >>> all(line.holds for line in ef.ledger(*model, budget=0.01, damping=1e-3))
        True
        >>> broken = ef.ledger(*model, budget=0.01, break_line="multiplier")  # λ is twice too large
        >>> [line.name for line in broken if not line.holds]
        ['stationarity', 'multiplier']
    """
    budget = float(errors.one_positive("budget", budget, float))
    damping = float(errors.one_damping(damping, float))
    if break_line is not None:
        known = tuple(name for name in BREAKS if damping or name not in DAMPED)
        errors.one_of("break_line", break_line, known)
    with jax.enable_x64(True):
        params, x, y = jax.tree.map(_double, (errors.parameters(params), *errors.data(x, y)))
        flat, unravel = ravel_pytree(params)
        G = per_example_gradients(loss_fn, params, x, y)  # which looks at the model and its data
        here = np.asarray(_losses(loss_fn, params, x, y))
        for each in (G, here):
            if each.dtype != np.float64:
                action = "Its numbers were float64: leave out casts such as .astype(jnp.float32)."
                errors.reject("loss_fn", "a function that computes in float64 here", f"{each.dtype}", action)
        start = empirical_fisher_step(G, budget=budget).delta
        if not start.any():
            action = "There is nothing to derive there."
            errors.reject("params", "where the mean gradient is not 0", "g = 0", action)

        def past():
            """The gradients of a few steps ago."""
            return np.asarray(per_example_gradients(loss_fn, unravel(flat - 3 * start), x, y))

        rows = np.asarray(G) if C is None else _square_root(C, flat.size)
        premises = prove(np.asarray(G), rows, budget, damping)
        reason = "C is not the empirical Fisher of these examples"
        if break_line is not None:
            reason, harm = BREAKS[break_line]
            premises = harm(premises, past)
        solution = premises.damped if damping else premises.delta
        d = solution if direction is None else _vector(direction, flat.size)
        lengths = 0.5 ** np.arange(40)
        changes = np.stack([_losses(loss_fn, unravel(flat + t * d), x, y) - here for t in lengths])
        lines = [*_taylor(premises, d, lengths, changes, np.mean(np.abs(here))), *_lagrange(premises)]
        if damping:
            lines += _damped(premises)
    if C is None and break_line is None:
        reason = "this model does not have the property that it needs"
    return Ledger(line if line.holds else line._replace(note=f"fails: {reason}") for line in lines)


@partial(jax.jit, static_argnums=0)
def _losses(loss_fn, params, x, y):
    """All losses; compiled once for a model, however many ledgers are made of it."""
    return jax.vmap(loss_fn, (None, 0, 0))(params, x, y)


def _taylor(premises, d, lengths, changes, size):
    """The approximations, each with the order of its remainder along Δ, Δ/2, Δ/4 and so on."""
    predicted = premises.G @ d
    rest = changes - lengths[:, None] * predicted
    rms, spent = np.sqrt(np.mean(predicted**2)), np.mean(predicted**2)
    # What float64 cannot tell from 0: a few roundings of a loss, and of a predicted change.
    floor = 8 * np.finfo(float).eps * (size + lengths * rms)
    square = np.mean(changes**2, axis=1) - lengths**2 * spent
    yield _approximation(
        "one loss",
        (np.sqrt(np.mean(changes[0] ** 2)), rms, np.sqrt(np.mean(rest[0] ** 2))),
        (2, _order(lengths, np.sqrt(np.mean(rest**2, axis=1)), floor)),
        "root mean squares over the examples",
    )
    yield _approximation(
        "mean loss",
        (np.mean(changes[0]), np.mean(predicted), np.mean(rest[0])),
        (2, _order(lengths, np.abs(np.mean(rest, axis=1)), floor)),
        "the objective is kept to first order only: no curvature of L",
    )
    yield _approximation(
        "constraint",
        (np.mean(changes[0] ** 2), spent, square[0]),
        (3, _order(lengths, np.abs(square), 2 * lengths * rms * floor)),
        "the leading term is already of second order",
    )
    right = d @ times(premises.rows, d)
    yield _equation("quadratic form", spent, right, "the mean of the squares, not the square of the mean")


def _lagrange(premises):
    """Min gᵀΔ such that ΔᵀCΔ = c."""
    g, budget, multiplier, delta = premises.g, premises.budget, premises.multiplier, premises.delta
    value, price, spent = g @ delta, delta @ times(premises.rows, delta), np.mean((premises.G @ delta) ** 2)
    audited = empirical_fisher_step(jnp.asarray(premises.G), budget=budget)
    note = "a step that changes no loss does not change their mean"
    yield _equation("range", times(premises.rows, inverse_times(premises.rows, g, 0.0)), g, note)
    yield _equation("step", delta, np.asarray(audited.delta), "empirical_fisher_step agrees")
    slope = -2 * multiplier * times(premises.rows, delta)
    yield _equation("stationarity", slope, g, "-g and 2λCΔ* are in balance")
    yield _equation("active", spent, budget, "all of c is spent: where g ≠ 0, λ = 0 is impossible")
    note = f"λ is the price of c, with no ½ before it; ρ = {premises.rho:.4g}"
    yield _equation("multiplier", -value / (2 * price), multiplier, note)
    fall = np.sqrt(budget * premises.rho)
    note = f"the mean fall is √(cρ) = {fall:.4g}; √c = {np.sqrt(budget):.4g} is the root mean square"
    yield _equation("value", value, -fall, note)

    eigenvalues = np.linalg.svd(premises.rows, compute_uv=False) ** 2 / len(premises.rows)
    cut = max(premises.rows.shape) * np.finfo(float).eps ** 2 * eigenvalues[0]
    unique = eigenvalues.size == g.size and eigenvalues[-1] > cut
    ends = 2 * multiplier * np.array([eigenvalues[-1] if unique else 0, eigenvalues[0]])
    note = "0 for steps that change no loss: Δ* is the shortest of many"
    note = "> 0: Δ* is the only one" if unique else note
    yield _bound("second order", ends.min(), 0.0, -ends.min(), np.abs(ends).max(), note)
    best, fair = _scan(premises), value * np.sqrt(budget / spent)
    note = "1000 other steps of the same cost, near and far: none is better"
    yield _bound("optimum", best, fair, fair - best, abs(fair), note)


def _damped(premises):
    """Δ = -η(C + εI)⁻¹g, and the four problems that it solves exactly."""
    G, g, damping, rate, delta = premises.G, premises.g, premises.damping, premises.rate, premises.damped
    audited = empirical_fisher_step(jnp.asarray(G), damping=damping, budget=premises.budget)
    found = two_budget_step(jnp.asarray(G), premises.budget, premises.radius)
    scale = np.sqrt(premises.metric_budget / (g @ inverse_times(premises.rows, g, damping)))
    slope = times(premises.rows, delta) + 2 * premises.half * damping * delta
    ridge = _ridge(G, np.full(len(G), -premises.asked), damping)
    length, limit = np.linalg.norm(delta), rate * np.sqrt(premises.rho) / (2 * np.sqrt(damping))
    note = "ε does not follow from the problem: it needs one of the next four"
    yield _equation("damped step", delta, np.asarray(audited.delta), note)
    yield _equation("metric", rate, scale, "steps are measured by C + εI: c' > c")
    note = f"‖Δ‖ = {premises.radius:.4g} is the radius that makes this ε"
    yield _equation("two budgets", delta, np.asarray(found.delta), note)
    yield _equation("penalty", -slope, rate * g, "the slope is 0 at Δ: (C + εI)Δ = -ηg")
    note = f"every example is asked for the decrease η = {premises.asked:.4g}"
    yield _equation("ridge regression", delta, ridge, note)
    note = "for g and C of the same examples, whatever the spectrum"
    yield _bound("bound", length, limit, length - limit, limit, note)


def _ridge(G, target, damping):
    """Ridge regression as least squares, or, where n < p, as least norm: it knows nothing of C."""
    n, p = G.shape
    if n < p:
        return np.linalg.lstsq(np.hstack([G, np.sqrt(n * damping) * np.eye(n)]), target, rcond=None)[0][:p]
    system = np.vstack([G, np.sqrt(n * damping) * np.eye(p)])
    return np.linalg.lstsq(system, np.r_[target, np.zeros(p)], rcond=None)[0]


def _equation(name, left, right, note):
    """Two sides that must agree, numbers or vectors."""
    left, right = np.atleast_1d(left), np.atleast_1d(right)
    residual = float(np.linalg.norm(left - right) / max(np.linalg.norm(right), np.finfo(float).tiny))
    if left.size > 1:
        left, right = [np.linalg.norm(left)], [np.linalg.norm(right)]
    return _line(name, left[0], right[0], residual, None, residual < TOLERANCE, note)


def _bound(name, left, right, excess, size, note):
    """A side that must not exceed the other one."""
    residual = max(0.0, float(excess)) / max(float(size), np.finfo(float).tiny)
    return _line(name, left, right, residual, None, residual < TOLERANCE, note)


def _approximation(name, sides, orders, note):
    """Two sides that part as a power of the length of the step, at least as high as claimed."""
    left, right, rest = sides
    claimed, measured = orders
    residual = float(np.abs(rest) / max(np.abs(right), np.finfo(float).tiny))
    return _line(name, left, right, residual, measured, measured > claimed - 0.1, note)


def _line(name, left, right, residual, order, holds, note):
    text, latex = STATEMENTS[name]
    return Line(name, text, float(left), float(right), residual, order, bool(holds), note, latex)


def _order(lengths, remainder, floor):
    """The slope of the remainder on logarithmic scales, over the six shortest steps where it stands out of rounding."""
    usable = np.flatnonzero(np.isfinite(remainder) & (remainder > 1000 * floor))[-6:]
    if usable.size < 3:
        return np.inf
    return float(np.polyfit(np.log(lengths[usable]), np.log(remainder[usable]), 1)[0])


def _scan(premises):
    """The best mean change among many steps that cost c: half of them drawn about Δ*, half of them from anywhere."""
    noise = np.random.default_rng(0).normal(size=(1000, premises.delta.size))
    near = np.linalg.norm(premises.delta) * np.logspace(-4, 0, 500)[:, None] / np.sqrt(premises.delta.size)
    steps = np.vstack([premises.delta + near * noise[:500], noise[500:]])
    cost = np.sqrt(np.mean((steps @ premises.G.T) ** 2, axis=1))
    return np.min((steps @ premises.g)[cost > 0] / cost[cost > 0]) * np.sqrt(premises.budget)


def _double(leaf):
    """A leaf in float64, if it is a floating-point number."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _square_root(C, p):
    """Rows R (p, p) with RᵀR/p = C, without the eigenvalues that are rounding in the precision that C came in."""
    C = np.asarray(C)
    eps = np.finfo(C.dtype if C.dtype.kind == "f" else float).eps
    C = np.asarray(errors.symmetric("C", C), float)
    errors.shaped("C", C, (p, p), "as params are", "Use the same parameters.")
    eigenvalues, V = np.linalg.eigh(C)
    cut = p * eps * np.abs(eigenvalues).max()
    semi_definite("C", eigenvalues, cut)
    return np.sqrt(p * np.where(eigenvalues > cut, eigenvalues, 0))[:, None] * V.T


def _vector(direction, p):
    """A finite step, one number a parameter."""
    array = errors.as_float("direction", direction)
    errors.shaped("direction", array, (p,), "one number a parameter", "Ravel it.")
    errors.finite_rows("direction", array, "Every entry is a number.")
    return np.asarray(array)
