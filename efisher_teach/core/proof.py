"""The proof as a ledger: every line of the derivation, checked on the learner's own model.

    min L(θ+Δ) such that E[Δℓ²] = c    ≈    min gᵀΔ such that ΔᵀCΔ = c    ⇒    Δ* = -√(c/ρ) C⁺g    → with ε: -η(C+εI)⁻¹g

An approximation is checked by its order: the slope of what it leaves out, against the length of the step on logarithmic
scales. An equation is checked by its residual. Any line can be broken on purpose, to see which others fall with it.

This is the library's auditor: NumPy in float64, from the definitions, and the library's own step only as what is
audited. (NumPy never rounds to TF32: here a product needs no stated precision.)
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_gradients
from efisher_teach.core.step import empirical_fisher_step
from efisher_teach.core.two_budgets import two_budget_step

TOLERANCE = float(np.finfo(float).eps) ** 0.5
"""An equation holds if it is true to half of the digits of float64: far above rounding, far below any mistake."""

LOOSE_ENDS = (
    (
        "“The update solves min L(θ+Δθ)”",
        "It solves min gᵀΔθ: L was expanded to first order on the way. The second order in the claim is that of the "
        "constraint, whose leading term is of second order; no curvature of L enters the step.",
    ),
    (
        "“with damping ε”",
        "ε does not follow from the problem as it is stated. It comes with a second budget, ‖Δθ‖ ≤ r, or a penalty "
        "ε‖Δθ‖².",
    ),
    (
        "“all losses fall by about √c on average”",
        "√c is the root mean square of the changes. Their mean is -√(cρ): the two agree only if ρ = 1.",
    ),
    (
        "“it encourages every loss to fall”",
        "The constraint does not know the sign of a change. At most a fraction 1 - ρ of the losses rises.",
    ),
    (
        "“invariant under reparametrization”",
        "Up to three leaks: the curvature of the new coordinates, of order η²; the damping, unless it is carried along "
        "as εJᵀJ; and, where C is singular, what changes no loss of the sample.",
    ),
    (
        "“ε keeps the update from getting too big”",
        "‖Δθ‖ ≤ η√ρ/(2√ε), if g and C come from the same examples. Otherwise only ‖Δθ‖ ≤ η‖g‖/ε.",
    ),
)
"""What the text that the course starts from leaves loose, and what is exactly true."""


class Line(NamedTuple):
    """One line of the derivation, evaluated.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> line = ef.ledger(toy.loss_fn, toy.params, toy.x, toy.y, budget=0.01)[2]
        >>> print(line.statement, f"measured order: {line.order:.1f}", sep="; ")
        E[Δℓ²] = E[(gᵢᵀΔ)²] + O(‖Δ‖³); measured order: 3.0
    """

    name: str
    statement: str
    """The equation, as text."""
    left: float
    """The size of its left side."""
    right: float
    """The size of its right side."""
    residual: float
    """How far apart the two are, relative to the right side; for a bound, by how much it is broken."""
    order: float | None
    """The measured power of ‖Δ‖ with which the remainder falls, ∞ where it is rounding; None for an equation."""
    holds: bool
    note: str
    """What the line says here, in numbers; or why it does not hold."""
    latex: str
    """The equation, for a page."""


class Ledger(tuple[Line, ...]):
    """The lines, in the order of the proof: a tuple that shows itself as a table, in a notebook and as text.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> lines = ef.ledger(toy.loss_fn, toy.params, toy.x, toy.y, budget=0.01)
        >>> for row in str(lines).splitlines()[2:5]:
        ...     print(row)
        ✓  mean loss       L(θ+Δ) - L(θ) = gᵀΔ + O(‖Δ‖²)     -0.04991  -0.05755  1.3e-01   2.0
        ✓  constraint      E[Δℓ²] = E[(gᵢᵀΔ)²] + O(‖Δ‖³)     0.008059  0.01      1.9e-01   3.0
        ✓  quadratic form  E[(gᵢᵀΔ)²] = ΔᵀCΔ                 0.01      0.01      rounding
    """

    def __repr__(self) -> str:
        head = ("", "line", "statement", "left", "right", "residual", "order")
        rows = [head, *(_cells(line, line.name, line.statement) for line in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        failed = [f"{line.name} {line.note}" for line in self if not line.holds]
        return "\n".join([*table, *failed])

    def _repr_markdown_(self) -> str:
        head = "| | line | statement | left | right | residual | order | |\n|---|---|---|---|---|---|---|---|"
        rows = [(*_cells(line, line.name, f"${line.latex}$"), line.note) for line in self]
        return "\n".join([head, *("| " + " | ".join(row) + " |" for row in rows)])


def _cells(line, name, statement):
    """Numbers as they are shown: rounding itself differs between machines and is not."""
    residual = "rounding" if line.residual < TOLERANCE else f"{line.residual:.1e}"
    order = "" if line.order is None else "exact" if np.isinf(line.order) else f"{line.order:.1f}"
    sides = (f"{0.0 if abs(side) < TOLERANCE**1.5 else side:.4g}" for side in (line.left, line.right))
    return ("✓" if line.holds else "✗", name, statement, *sides, residual, order)


STATEMENTS = {
    "one loss": ("Δℓᵢ = gᵢᵀΔ + O(‖Δ‖²)", r"\Delta\ell_i = g_i^\top\Delta + O(\lVert\Delta\rVert^2)"),
    "mean loss": (
        "L(θ+Δ) - L(θ) = gᵀΔ + O(‖Δ‖²)",
        r"L(\theta+\Delta) - L(\theta) = g^\top\Delta + O(\lVert\Delta\rVert^2)",
    ),
    "constraint": (
        "E[Δℓ²] = E[(gᵢᵀΔ)²] + O(‖Δ‖³)",
        r"\mathbb{E}[\Delta\ell^2] = \mathbb{E}[(g_i^\top\Delta)^2] + O(\lVert\Delta\rVert^3)",
    ),
    "quadratic form": (
        "E[(gᵢᵀΔ)²] = ΔᵀCΔ",
        r"\mathbb{E}[(g_i^\top\Delta)^2] = \Delta^\top C\Delta",
    ),
    "range": ("CC⁺g = g", "C C^+ g = g"),
    "step": ("Δ* = -√(c/ρ) C⁺g, ρ = gᵀC⁺g", r"\Delta^{\ast} = -\sqrt{c/\rho}\; C^+ g,\ \rho = g^\top C^+ g"),
    "stationarity": ("g + 2λCΔ* = 0", r"g + 2\lambda C\Delta^{\ast} = 0"),
    "active": ("E[(gᵢᵀΔ*)²] = c", r"\mathbb{E}[(g_i^\top\Delta^{\ast})^2] = c"),
    "multiplier": (
        "-gᵀΔ*/(2Δ*ᵀCΔ*) = ½√(ρ/c) = λ",
        r"-\frac{g^\top\Delta^{\ast}}{2\,\Delta^{\ast\top} C\Delta^{\ast}} = \tfrac12\sqrt{\rho/c} = \lambda",
    ),
    "value": ("gᵀΔ* = -√(cρ)", r"g^\top\Delta^{\ast} = -\sqrt{c\rho}"),
    "second order": ("vᵀ(2λC)v ≥ 0 for all v", r"v^\top (2\lambda C)\,v \ge 0\ \ \forall v"),
    "optimum": (
        "min{gᵀΔ : E[(gᵢᵀΔ)²] = c} ≥ gᵀΔ*",
        r"\min\{g^\top\Delta : \mathbb{E}[(g_i^\top\Delta)^2] = c\} \ge g^\top\Delta^{\ast}",
    ),
    "damped step": (
        "Δ = -η(C + εI)⁻¹g, ΔᵀCΔ = c",
        r"\Delta = -\eta (C+\epsilon I)^{-1} g,\ \Delta^\top C\Delta = c",
    ),
    "metric": (
        "η = √(c'/gᵀ(C+εI)⁻¹g), c' = Δᵀ(C+εI)Δ",
        r"\eta = \sqrt{c'/g^\top (C+\epsilon I)^{-1} g},\ c' = \Delta^\top (C+\epsilon I)\Delta",
    ),
    "two budgets": (
        "Δ = argmin{gᵀd : dᵀCd ≤ c, ‖d‖ ≤ ‖Δ‖}",
        r"\Delta = \arg\min\{g^\top d : d^\top C d \le c,\ \lVert d\rVert \le \lVert\Delta\rVert\}",
    ),
    "penalty": (
        "Δ = argmin ηgᵀd + ½dᵀCd + ½ε‖d‖²",
        r"\Delta = \arg\min\ \eta g^\top d + \tfrac12 d^\top C d + \tfrac12\epsilon\lVert d\rVert^2",
    ),
    "ridge regression": (
        "Δ = argmin E[(gᵢᵀd + η)²] + ε‖d‖²",
        r"\Delta = \arg\min\ \mathbb{E}[(g_i^\top d + \eta)^2] + \epsilon\lVert d\rVert^2",
    ),
    "bound": ("‖Δ‖ ≤ η√ρ/(2√ε)", r"\lVert\Delta\rVert \le \eta\sqrt\rho/(2\sqrt\epsilon)"),
}
"""Every line by its name: as text, and as LaTeX."""

DAMPED = ("damped step", "metric", "two budgets", "penalty", "ridge regression", "bound")
"""The lines that exist only where ε > 0."""


class _Proof(NamedTuple):
    """All that the lines speak of. C = RᵀR/m, by the rows R of a matrix: those of G, or of something wrong."""

    G: np.ndarray
    rows: np.ndarray
    budget: float
    damping: float
    rho: float
    multiplier: float
    delta: np.ndarray
    damped: np.ndarray
    """-η(C + εI)⁻¹g."""
    rate: float
    metric_budget: float
    radius: float
    half: float
    """The ½ of the penalty."""
    asked: float
    """The decrease that the regression asks for, η."""

    @property
    def g(self) -> np.ndarray:
        return self.G.mean(axis=0)

    def times_C(self, v):  # noqa: N802
        return _times(self.rows, v)

    def times_inverse(self, damping):
        """(C + εI)⁻¹g, or C⁺g."""
        return _inverse(self.rows, self.g, damping)


def _times(rows, v):
    """Cv."""
    return rows.T @ (rows @ v) / len(rows)


def _inverse(rows, v, damping):
    """(C + εI)⁻¹v, and C⁺v at ε = 0, by the singular values of the rows."""
    _, singular, Vt = np.linalg.svd(rows / np.sqrt(len(rows)), full_matrices=False)
    Vt = Vt[singular > np.sqrt(max(rows.shape)) * np.finfo(float).eps * singular[0]]
    singular = singular[: len(Vt)]
    along = Vt @ v
    outside = (v - Vt.T @ along) / damping if damping else 0
    return Vt.T @ (along / (singular**2 + damping)) + outside


def _prove(G, rows, budget, damping):
    """Everything that follows from the gradients, the matrix and the budget."""
    g = G.mean(axis=0)
    u, damped = _inverse(rows, g, 0.0), _inverse(rows, g, damping)
    rho = g @ u
    errors.meets("C", rho)
    rate = np.sqrt(budget / (damped @ _times(rows, damped)))
    damped = -rate * damped
    metric_budget = damped @ _times(rows, damped) + damping * damped @ damped
    delta, multiplier, radius = (
        -np.sqrt(budget / rho) * u,
        np.sqrt(rho / budget) / 2,
        float(np.linalg.norm(damped)),
    )
    return _Proof(
        G, rows, budget, damping, rho, multiplier, delta, damped, rate, metric_budget, radius, 0.5, rate
    )


def _spend(proof, u):
    """Another direction, scaled to spend the budget."""
    return proof._replace(delta=-np.sqrt(proof.budget / (u @ proof.times_C(u))) * u)


def _stale(proof, past):
    return _prove(past(), past(), proof.budget, proof.damping)


def _rows(proof, rows):
    return _prove(proof.G, rows, proof.budget, proof.damping)


def _of_one_example(proof, _):
    return _rows(proof, proof.G[[np.argmax(np.abs(proof.G @ proof.g))]])


STALE = ("the gradients are those of a few steps ago", _stale)
BREAKS: dict[str, tuple[str, Callable[[_Proof, Callable], _Proof]]] = {
    "one loss": STALE,
    "mean loss": STALE,
    "constraint": STALE,
    "quadratic form": (
        "the mean was taken before the square: C = ggᵀ",
        lambda proof, _: _rows(proof, proof.g[None]),
    ),
    "range": (
        "C is of one example only, and g of all",
        _of_one_example,
    ),
    "step": (
        "a damping slipped into the undamped step",
        lambda proof, _: _spend(proof, proof.times_inverse(np.mean(proof.rows**2))),
    ),
    "stationarity": ("the step goes along -g", lambda proof, _: _spend(proof, proof.g)),
    "active": (
        "the step is 10 % longer than the budget allows",
        lambda proof, _: proof._replace(delta=1.1 * proof.delta),
    ),
    "multiplier": (
        "λ was taken from a Lagrangian with λ/2 before the constraint",
        lambda proof, _: proof._replace(multiplier=2 * proof.multiplier),
    ),
    "value": (
        "the mean change was taken for its root mean square, as if ρ = 1",
        lambda proof, _: proof._replace(rho=1.0),
    ),
    "second order": (
        "λ < 0 and Δ = +ηC⁺g: the other stationary point, the steepest ascent",
        lambda proof, _: proof._replace(multiplier=-proof.multiplier, delta=-proof.delta),
    ),
    "optimum": (
        "only the diagonal of C was inverted",
        lambda proof, _: _spend(proof, _divide(proof.g, np.mean(proof.rows**2, axis=0))),
    ),
    "damped step": (
        "ε was added to the sum over the examples, not to the mean: it is n times too small",
        lambda proof, _: _prove(proof.G, proof.rows, proof.budget, proof.damping / len(proof.G))._replace(
            damping=proof.damping
        ),
    ),
    "metric": (
        "η was made to spend c in the damped metric: c' = c",
        lambda proof, _: proof._replace(metric_budget=proof.budget),
    ),
    "two budgets": (
        "the radius is half of the step's length",
        lambda proof, _: proof._replace(radius=proof.radius / 2),
    ),
    "penalty": (
        "the penalty is ε‖d‖², without the ½",
        lambda proof, _: proof._replace(half=1.0),
    ),
    "ridge regression": (
        "every example is asked for a decrease of √c, not of η",
        lambda proof, _: proof._replace(asked=np.sqrt(proof.budget)),
    ),
    "bound": (
        "C is of one example only, and the rest of g is divided by ε alone",
        _of_one_example,
    ),
}
"""How to break each line: why it then fails, and what is done to the proof."""


def _divide(g, diagonal):
    """g/diag C; a coordinate in which nothing moves stays still."""
    return np.where(diagonal > 0, g / np.where(diagonal > 0, diagonal, 1), 0)


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
        errors.one_of(
            "break_line", break_line, tuple(name for name in BREAKS if damping or name not in DAMPED)
        )
    with jax.enable_x64(True):
        params, x, y = jax.tree.map(_double, (params, x, y))
        theta, unravel = ravel_pytree(params)
        losses = partial(_losses, loss_fn)
        here, G = np.asarray(losses(params, x, y)), per_example_gradients(loss_fn, params, x, y)
        errors.computes_in_float64(G, here)
        start = empirical_fisher_step(G, budget=budget).delta
        if not start.any():
            errors.reject(
                "params", "where the mean gradient is not 0", "g = 0", "There is nothing to derive there."
            )
        rows = np.asarray(G) if C is None else _square_root(C, theta.size)
        proof, reason = (
            _prove(np.asarray(G), rows, budget, damping),
            "C is not the empirical Fisher of these examples",
        )
        if break_line is not None:
            reason, harm = BREAKS[break_line]
            past = lambda: np.asarray(per_example_gradients(loss_fn, unravel(theta - 3 * start), x, y))  # noqa: E731
            proof = harm(proof, past)
        solution = proof.damped if damping else proof.delta
        d = solution if direction is None else np.asarray(errors.vector("direction", direction, theta.size))
        lengths = 0.5 ** np.arange(40)
        changes = np.stack([losses(unravel(theta + t * d), x, y) - here for t in lengths])
        lines = [*_taylor(proof, d, lengths, changes, np.mean(np.abs(here))), *_lagrange(proof)]
        if damping:
            lines += _damped(proof)
    if C is None and break_line is None:
        reason = "this model does not have the property that it needs"
    return Ledger(line if line.holds else line._replace(note=f"fails: {reason}") for line in lines)


@partial(jax.jit, static_argnums=0)
def _losses(loss_fn, params, x, y):
    """All losses; compiled once for a model, however many ledgers are made of it."""
    return jax.vmap(loss_fn, (None, 0, 0))(params, x, y)


def _taylor(proof, d, lengths, changes, size):
    """The approximations, each with the order of its remainder along Δ, Δ/2, Δ/4 and so on."""
    predicted = proof.G @ d
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
    right = d @ proof.times_C(d)
    yield _equation("quadratic form", spent, right, "the mean of the squares, not the square of the mean")


def _lagrange(proof):
    """Min gᵀΔ such that ΔᵀCΔ = c."""
    g, budget, multiplier, delta = proof.g, proof.budget, proof.multiplier, proof.delta
    value, price, spent = g @ delta, delta @ proof.times_C(delta), np.mean((proof.G @ delta) ** 2)
    audited = empirical_fisher_step(jnp.asarray(proof.G), budget=budget)
    note = "a step that changes no loss does not change their mean"
    yield _equation("range", proof.times_C(proof.times_inverse(0.0)), g, note)
    yield _equation("step", delta, np.asarray(audited.delta), "empirical_fisher_step agrees")
    yield _equation("stationarity", -2 * multiplier * proof.times_C(delta), g, "-g and 2λCΔ* are in balance")
    yield _equation("active", spent, budget, "all of c is spent: where g ≠ 0, λ = 0 is impossible")
    note = f"λ is the price of c, with no ½ before it; ρ = {proof.rho:.4g}"
    yield _equation("multiplier", -value / (2 * price), multiplier, note)
    fall = np.sqrt(budget * proof.rho)
    note = f"the mean fall is √(cρ) = {fall:.4g}; √c = {np.sqrt(budget):.4g} is the root mean square"
    yield _equation("value", value, -fall, note)

    eigenvalues = np.linalg.svd(proof.rows, compute_uv=False) ** 2 / len(proof.rows)
    cut = max(proof.rows.shape) * np.finfo(float).eps ** 2 * eigenvalues[0]
    unique = eigenvalues.size == g.size and eigenvalues[-1] > cut
    ends = 2 * multiplier * np.array([eigenvalues[-1] if unique else 0, eigenvalues[0]])
    note = (
        "> 0: Δ* is the only one" if unique else "0 for steps that change no loss: Δ* is the shortest of many"
    )
    yield _bound("second order", ends.min(), 0.0, -ends.min(), np.abs(ends).max(), note)
    best, fair = _scan(proof), value * np.sqrt(budget / spent)
    note = "1000 other steps of the same cost, near and far: none is better"
    yield _bound("optimum", best, fair, fair - best, abs(fair), note)


def _damped(proof):
    """Δ = -η(C + εI)⁻¹g, and the four problems that it solves exactly."""
    G, g, damping, rate, delta = proof.G, proof.g, proof.damping, proof.rate, proof.damped
    audited = empirical_fisher_step(jnp.asarray(G), damping=damping, budget=proof.budget)
    found = two_budget_step(jnp.asarray(G), proof.budget, proof.radius)
    scale = np.sqrt(proof.metric_budget / (g @ proof.times_inverse(damping)))
    slope = proof.times_C(delta) + 2 * proof.half * damping * delta
    ridge = _ridge(G, np.full(len(G), -proof.asked), damping)
    length, limit = np.linalg.norm(delta), rate * np.sqrt(proof.rho) / (2 * np.sqrt(damping))
    note = "ε does not follow from the problem: it needs one of the next four"
    yield _equation("damped step", delta, np.asarray(audited.delta), note)
    yield _equation("metric", rate, scale, "steps are measured by C + εI: c' > c")
    note = f"‖Δ‖ = {proof.radius:.4g} is the radius that makes this ε"
    yield _equation("two budgets", delta, np.asarray(found.delta), note)
    yield _equation("penalty", -slope, rate * g, "the slope is 0 at Δ: (C + εI)Δ = -ηg")
    note = f"every example is asked for the decrease η = {proof.asked:.4g}"
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
    sides = (
        (left[0], right[0]) if left.size == right.size == 1 else (np.linalg.norm(left), np.linalg.norm(right))
    )
    return _line(name, *sides, residual, None, residual < TOLERANCE, note)


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


def _scan(proof):
    """The best mean change among many steps that cost c: half of them drawn about Δ*, half of them from anywhere."""
    noise = np.random.default_rng(0).normal(size=(1000, proof.delta.size))
    near = np.linalg.norm(proof.delta) * np.logspace(-4, 0, 500)[:, None] / np.sqrt(proof.delta.size)
    steps = np.vstack([proof.delta + near * noise[:500], noise[500:]])
    cost = np.sqrt(np.mean((steps @ proof.G.T) ** 2, axis=1))
    return np.min((steps @ proof.g)[cost > 0] / cost[cost > 0]) * np.sqrt(proof.budget)


def _double(leaf):
    """A leaf in float64, if it is a floating-point number."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _square_root(C, p):
    """Rows R (p, p) with RᵀR/p = C, without the eigenvalues that are rounding in the precision that C came in."""
    C = np.asarray(C)
    eps = np.finfo(C.dtype if C.dtype.kind == "f" else float).eps
    C = np.asarray(errors.symmetric("C", C), float)
    if C.shape != (p, p):
        errors.reject(
            "C", f"of shape ({p}, {p}), as params are", f"shape {C.shape}", "Use the same parameters."
        )
    eigenvalues, V = np.linalg.eigh(C)
    cut = p * eps * np.abs(eigenvalues).max()
    errors.semi_definite("C", eigenvalues, cut)
    return np.sqrt(p * np.where(eigenvalues > cut, eigenvalues, 0))[:, None] * V.T
