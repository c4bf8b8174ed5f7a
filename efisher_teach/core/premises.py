"""The premises of the proof, in NumPy and float64; and a way to break each of its lines on purpose."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from efisher_teach import errors


def _divide(g, diagonal):
    """g/diag C; a coordinate in which nothing moves stays still."""
    return np.where(diagonal > 0, g / np.where(diagonal > 0, diagonal, 1), 0)


class Premises(NamedTuple):
    """All that the lines of the proof speak of. C = RᵀR/m, by the rows R: those of G, or of something wrong."""

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
        """The mean gradient."""
        return self.G.mean(axis=0)


def times(rows: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cv."""
    return rows.T @ (rows @ v) / len(rows)


def inverse_times(rows: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """(C + εI)⁻¹v, and C⁺v at ε = 0, by the singular values of the rows."""
    _, singular, Vt = np.linalg.svd(rows / np.sqrt(len(rows)), full_matrices=False)
    Vt = Vt[singular > np.sqrt(max(rows.shape)) * np.finfo(float).eps * singular[0]]
    singular = singular[: len(Vt)]
    along = Vt @ v
    outside = (v - Vt.T @ along) / damping if damping else 0
    return Vt.T @ (along / (singular**2 + damping)) + outside


def prove(G: np.ndarray, rows: np.ndarray, budget: float, damping: float) -> Premises:
    """Everything that follows from the gradients, the matrix and the budget."""
    g = G.mean(axis=0)
    u, damped = inverse_times(rows, g, 0.0), inverse_times(rows, g, damping)
    rho = g @ u
    if not rho > 0:
        action = "In this matrix every part of the gradient costs nothing: there is no step to derive."
        errors.reject("C", "a matrix with g in its range, at least in part", f"gᵀC⁺g = {rho:.3g}", action)
    rate = float(np.sqrt(budget / (damped @ times(rows, damped))))
    damped = -rate * damped
    return Premises(
        G=G,
        rows=rows,
        budget=budget,
        damping=damping,
        rho=rho,
        multiplier=np.sqrt(rho / budget) / 2,
        delta=-np.sqrt(budget / rho) * u,
        damped=damped,
        rate=rate,
        metric_budget=float(damped @ times(rows, damped) + damping * damped @ damped),
        radius=float(np.linalg.norm(damped)),
        half=0.5,
        asked=rate,
    )


def _spend(premises, u):
    """Another direction, scaled to spend the budget."""
    return premises._replace(delta=-np.sqrt(premises.budget / (u @ times(premises.rows, u))) * u)


def _stale(premises, past):
    return prove(past(), past(), premises.budget, premises.damping)


def _of_one_example(premises, _):
    row = premises.G[[np.argmax(np.abs(premises.G @ premises.g))]]
    return prove(premises.G, row, premises.budget, premises.damping)


def _damped_a_little(premises, _):
    damping = float(np.mean(premises.rows**2))
    return _spend(premises, inverse_times(premises.rows, premises.g, damping))


STALE = ("the gradients are those of a few steps ago", _stale)
BREAKS: dict[str, tuple[str, Callable[[Premises, Callable], Premises]]] = {
    "one loss": STALE,
    "mean loss": STALE,
    "constraint": STALE,
    "quadratic form": (
        "the mean was taken before the square: C = ggᵀ",
        lambda premises, _: prove(premises.G, premises.g[None], premises.budget, premises.damping),
    ),
    "range": ("C is of one example only, and g of all", _of_one_example),
    "step": ("a damping slipped into the undamped step", _damped_a_little),
    "stationarity": ("the step goes along -g", lambda premises, _: _spend(premises, premises.g)),
    "active": (
        "the step is 10 % longer than the budget allows",
        lambda premises, _: premises._replace(delta=1.1 * premises.delta),
    ),
    "multiplier": (
        "λ was taken from a Lagrangian with λ/2 before the constraint",
        lambda premises, _: premises._replace(multiplier=2 * premises.multiplier),
    ),
    "value": (
        "the mean change was taken for its root mean square, as if ρ = 1",
        lambda premises, _: premises._replace(rho=1.0),
    ),
    "second order": (
        "λ < 0 and Δ = +ηC⁺g: the other stationary point, the steepest ascent",
        lambda premises, _: premises._replace(multiplier=-premises.multiplier, delta=-premises.delta),
    ),
    "optimum": (
        "only the diagonal of C was inverted",
        lambda premises, _: _spend(premises, _divide(premises.g, np.mean(premises.rows**2, axis=0))),
    ),
    "damped step": (
        "ε was added to the sum over the examples, not to the mean: it is n times too small",
        lambda premises, _: prove(
            premises.G, premises.rows, premises.budget, premises.damping / len(premises.G)
        )._replace(damping=premises.damping),
    ),
    "metric": (
        "η was made to spend c in the damped metric: c' = c",
        lambda premises, _: premises._replace(metric_budget=premises.budget),
    ),
    "two budgets": (
        "the radius is half of the step's length",
        lambda premises, _: premises._replace(radius=premises.radius / 2),
    ),
    "penalty": ("the penalty is ε‖d‖², without the ½", lambda premises, _: premises._replace(half=1.0)),
    "ridge regression": (
        "every example is asked for a decrease of √c, not of η",
        lambda premises, _: premises._replace(asked=np.sqrt(premises.budget)),
    ),
    "bound": ("C is of one example only, and the rest of g is divided by ε alone", _of_one_example),
}
"""A way to break each line: the reason why it then fails, and the harm that is done to the premises."""
