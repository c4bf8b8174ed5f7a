"""The step of an update: the numbers that limit it, whether it is taken, and the report of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.solve import quotient
from efisher_teach.network import devices
from efisher_teach.network.direction import Direction, Past, Rows
from efisher_teach.network.strategies import at_least_float32


class Report(NamedTuple):
    """The outcome of an update. `fit` puts a leading axis, the steps, on every field.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> _, report = ef.make_update(toy.loss_fn, damping=0.0, budget=0.01)(toy.params, toy.x, toy.y)
        >>> print(f"{report.predicted_decrease:.4f} = √(cρ) = {(0.01 * report.damped_agreement) ** 0.5:.4f}")
        0.0575 = √(cρ) = 0.0575
        >>> print(f"E[Δℓ²] = {report.squared_change:.4f}; {report.ratio:.0%} of the promised decrease came")
        E[Δℓ²] = 0.0081; 87% of the promised decrease came
    """

    loss: Float[Array, "*steps"]
    """The mean loss before the step."""
    actual_decrease: Float[Array, "*steps"] | None
    """The measured decrease of the mean loss of these examples; None if not measured."""
    predicted_decrease: Float[Array, "*steps"]
    """-gᵀΔ, the same to first order."""
    budget_spent: Float[Array, "*steps"]
    """ΔᵀCΔ, the mean squared loss change to first order."""
    learning_rate: Float[Array, "*steps"]
    """η: given, or the largest that budget and radius allow."""
    damped_agreement: Float[Array, "*steps"]
    """gᵀ(C + εI)⁻¹g ≤ ρ, which it approaches as ε goes to 0."""
    residual: Float[Array, "*steps"]
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved."""
    finite: Bool[Array, "*steps"]
    """True if the step is finite, and the loss after it where that was measured."""
    squared_change: Float[Array, "*steps"] | None
    """E[Δℓ²], measured: what a budget bounds to first order; None if not measured."""
    length: Float[Array, "*steps"]
    """‖Δ‖, over all parameters."""
    damping: Float[Array, "*steps"]
    """ε."""
    rounding: Float[Array, "*steps"]
    """max |θ′ - θ - Δ|/max |Δ|: the part of a step that half precision loses, 1 if all of it; 0 in other precisions."""
    accepted: Bool[Array, "*steps"]
    """True if the step was taken; False left the parameters as they were: it was not finite, or short of `accept`."""
    aux: PyTree = None
    """The other result of the loss, one an example; None without `has_aux`."""

    @property
    def ratio(self) -> Float[Array, "*steps"]:
        """The actual decrease by the promised one, 1 where losses are linear; NaN if not measured."""
        actual = jnp.nan if self.actual_decrease is None else self.actual_decrease
        return quotient(actual, jnp.asarray(self.predicted_decrease))


class Limits(NamedTuple):
    """The limits of a step: a budget c, a radius r, or both; or a learning rate η. And the ratio it is judged by."""

    budget: Array | None = None
    radius: Array | None = None
    learning_rate: Array | None = None
    accept: Array | None = None

    def rate(self, found: Direction, unit: Array) -> Array:
        """η: given, or the largest with η²uᵀCu ≤ c and η‖u‖ ≤ r; 0 where there is nowhere to go."""
        if self.learning_rate is not None:
            return self.learning_rate.astype(found.cost.dtype)
        bounds = []
        if self.budget is not None:
            bounds.append(jnp.sqrt(self.budget / jnp.where(found.is_zero, 1, found.cost)))
        if self.radius is not None:
            bounds.append(self.radius * unit / jnp.sqrt(jnp.where(found.is_zero, 1, found.squared_length)))
        return jnp.where(found.is_zero, 0, jnp.min(jnp.stack(bounds)))


class Numbers(NamedTuple):
    """The part of an update that may change: other numbers need no new program."""

    damping: Array
    limits: Limits
    memory: Array
    steer: Array | None


def numbers_of(damping, budget, radius, learning_rate, memory: Any = 0.0, accept=None, steer=None) -> Numbers:
    """The numbers of an update, checked and in one precision."""
    damping = errors.one_number("damping", errors.damping(damping))
    limits = {"budget": budget, "radius": radius, "learning_rate": learning_rate}
    given = [name for name, value in limits.items() if value is not None]
    if not given or (learning_rate is not None and len(given) > 1):
        wanted, got = "given, or radius, or both; or learning_rate alone", ", ".join(given) or "none"
        action = "A budget bounds the mean squared loss change, a radius ‖Δ‖; a learning rate is η itself."
        errors.reject("budget", wanted, got, action)
    checked = {name: errors.one_positive(name, limits[name], damping.dtype) for name in given}
    if errors.is_concrete(memory) and not 0 <= memory < 1:
        errors.reject("memory", "at least 0 and below 1", f"{memory}", "Use e.g. 0.9, or 0 for none.")
    if steer is not None and learning_rate is None:
        action = "An enforced budget or radius undoes what ε does to the length: the run would freeze."
        errors.reject("steer", "beside a learning_rate", " and ".join(given), action)
    if steer is not None and errors.is_concrete(steer, damping) and not (0 < steer < 1 and damping > 0):
        got = f"{steer} for a damping of {damping}"
        action = "Use e.g. 0.9. An ε of 0 stays 0, whatever it is multiplied by."
        errors.reject("steer", "between 0 and 1, for a damping above 0", got, action)
    numbers = Numbers(damping, Limits(**checked, accept=accept), memory, steer)
    # JAX gives weak types to Python's numbers. Without them, no other number is a reason to compile again.
    return jax.tree.map(lambda number: lax.convert_element_type(number, damping.dtype), numbers)


def take(
    params: PyTree,
    rows: Rows,
    found: Direction,
    past: Past | None,
    damping: Array,
    limits: Limits,
    losses: Float[Array, " n"],
    share: Float[Array, " n"],
    evaluate: Callable[[PyTree], Array] | None,
    mesh: Mesh | None = None,
) -> tuple[PyTree, PyTree, Report]:
    """Take the step Δ = -ηu, unless it is refused: the new parameters, Δ, and the report."""
    # αᵀRRᵀα would have the rounding of α squared: where gradients are parallel, α is 1/ε times what Rᵀ sees of it.
    largest = jnp.max(jnp.abs(found.coefficients))
    scale = jnp.where(largest > 0, largest, 1)
    direction = rows.combine(
        found.coefficients / scale
    )  # u by the unit and the scale: in range in half precision
    if past is not None:
        part = rows.unit / scale
        direction = jax.tree.map(
            lambda new, old: new + part.astype(old.dtype) * old, direction, past.direction
        )
    squares = [jnp.sum(at_least_float32(leaf) ** 2) for leaf in jax.tree.leaves(direction)]
    found = found._replace(squared_length=scale**2 * jnp.sum(jnp.stack(squares)).astype(scale.dtype))
    rate = limits.rate(found, rows.unit)
    delta = jax.tree.map(lambda leaf: (-rate * scale / rows.unit * leaf).astype(leaf.dtype), direction)
    moved, rounding = _add(params, delta)
    moved = devices.split_parameters(mesh, moved)
    numbers: dict[str, Any] = {
        "loss": jnp.sum(share * losses),
        "predicted_decrease": rate * found.agreement,
        "budget_spent": (rate * jnp.sqrt(found.cost)) ** 2,  # so, as rate² may overflow where this does not
        "learning_rate": rate,
        "damped_agreement": found.agreement,
        "residual": found.residual,
        "length": rate / rows.unit * jnp.sqrt(found.squared_length),
        "damping": damping * rows.unit * rows.unit,
        "rounding": rounding,
    }
    if evaluate is not None:
        changes = evaluate(moved) - losses
        numbers["actual_decrease"] = -jnp.sum(share * changes)
        numbers["squared_change"] = jnp.sum(share * changes**2)
    finite = jnp.all(jnp.isfinite(jnp.stack([*numbers.values()])))
    for name in ("actual_decrease", "squared_change"):
        numbers.setdefault(name, None)
    report = Report(**numbers, finite=finite, accepted=finite)
    if limits.accept is not None:
        report = report._replace(accepted=finite & (report.ratio >= limits.accept))
    return jax.tree.map(partial(jnp.where, report.accepted), moved, params), delta, report


def _add(params, delta):
    """θ + Δ as the precision of θ holds it, and the part of Δ that half precision loses: max |θ′ - θ - Δ|/max |Δ|."""
    halves = [jnp.finfo(leaf.dtype).bits < 32 for leaf in jax.tree.leaves(params)]
    moved = jax.tree.map(lambda leaf, step: (leaf + step).astype(leaf.dtype), params, delta)
    if not any(halves):
        return moved, jnp.zeros(())

    def cut(leaf):
        kind = jnp.finfo(leaf.dtype)
        # Inside one program XLA may keep more digits than the array has that comes back.
        return lax.reduce_precision(leaf, kind.nexp, kind.nmant)

    moved = jax.tree.map(cut, moved)
    lost = jax.tree.map(lambda new, old, step: at_least_float32(new) - old - step, moved, params, delta)
    lost, largest = (
        jnp.max(jnp.stack([jnp.max(jnp.abs(at_least_float32(leaf))) for leaf in jax.tree.leaves(tree)]))
        for tree in (lost, delta)
    )
    return moved, quotient(lost, largest)


def levenberg_marquardt(
    damping: Real[ArrayLike, ""], ratio: Real[ArrayLike, ""], factor: Real[ArrayLike, ""]
) -> Float[Array, ""]:
    """The damping of the next step: ωε after a step whose `Report.ratio` is above ¾, ε/ω below ¼ (or NaN), else ε.

    Examples:
        >>> from efisher_teach.network.report import levenberg_marquardt
        >>> print([float(levenberg_marquardt(1.0, ratio, 0.5)) for ratio in (0.9, 0.5, -2.0)])
        [0.5, 1.0, 2.0]
    """
    ratio = jnp.asarray(ratio)
    kept = jnp.where(ratio >= 0.25, damping, damping / factor)
    return jnp.where(ratio > 0.75, damping * factor, kept)
