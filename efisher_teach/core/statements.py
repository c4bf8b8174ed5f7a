"""The lines of the proof: what each of them says, as text and as LaTeX, and how a list of them shows itself."""

from typing import Any, NamedTuple

import numpy as np

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
    "quadratic form": ("E[(gᵢᵀΔ)²] = ΔᵀCΔ", r"\mathbb{E}[(g_i^\top\Delta)^2] = \Delta^\top C\Delta"),
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

TOLERANCE = float(np.finfo(float).eps) ** 0.5
"""An equation holds if it is true to half of the digits of float64: far above rounding, far below any mistake."""


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
    """The distance of the two, relative to the right side; for a bound, by how much it is broken."""
    order: float | None
    """The measured power of ‖Δ‖ with which the remainder falls, ∞ where it is rounding; None for an equation."""
    holds: bool
    note: str
    """The line in numbers; or the reason why it does not hold."""
    latex: str
    """The equation, for a page."""


class Ledger(tuple[Line, ...]):
    """The lines, in the order of the proof: a tuple that shows itself, or a slice of it, as a table.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> lines = ef.ledger(toy.loss_fn, toy.params, toy.x, toy.y, budget=0.01)
        >>> for row in str(lines).splitlines()[2:5]:
        ...     print(row)
        ✓  mean loss       L(θ+Δ) - L(θ) = gᵀΔ + O(‖Δ‖²)     -0.04991  -0.05755  1.3e-01   2.0
        ✓  constraint      E[Δℓ²] = E[(gᵢᵀΔ)²] + O(‖Δ‖³)     0.008059  0.01      1.9e-01   3.0
        ✓  quadratic form  E[(gᵢᵀΔ)²] = ΔᵀCΔ                 0.01      0.01      rounding
    """

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return Ledger(found) if isinstance(place, slice) else found

    def __repr__(self) -> str:
        head = ("", "line", "statement", "left", "right", "residual", "order")
        rows = [head, *(_cells(line, line.name, line.statement) for line in self)]
        columns = [column for column in zip(*rows, strict=True) if any(column[1:])]  # equations have no order
        widths = [max(map(len, column)) for column in columns]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]
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
