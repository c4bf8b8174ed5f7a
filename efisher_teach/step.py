"""The step: minimise gᵀΔ such that ΔᵀCΔ = c. The result carries its evidence.

Stationarity of gᵀΔ + λ(ΔᵀCΔ - c), with no factor ½, is g + 2λCΔ = 0, so Δ = -ηC⁺g with η = 1/(2λ); the constraint then
gives η = √(c/ρ), ρ = gᵀC⁺g. Damping replaces C by C + εI in the direction only: the budget stays ΔᵀCΔ = c.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import _checks
from efisher_teach._precision import dot
from efisher_teach.gradients import mean_gradient
from efisher_teach.solve import regress_one

RESCALE = "Its scale leaves no room in this precision: rescale the loss."


class Step(NamedTuple):
    """A step and what it does. With u = (C + εI)⁻¹g; `damping_path` puts a leading axis on every field."""

    delta: Float[Array, "*m p"]
    """Δ = -ηu, the step."""
    learning_rate: Float[Array, "*m"]
    """η: given, or √(c/uᵀCu), which spends the budget exactly. It has the unit of a loss."""
    multiplier: Float[Array, "*m"]
    """λ = 1/(2η), so that g + 2λ(C + εI)Δ = 0 (no ½ in front of the multiplier); 0 if there is no step."""
    budget_spent: Float[Array, "*m"]
    """ΔᵀCΔ = mean of the squared predicted changes."""
    predicted_changes: Float[Array, "*m n"]
    """GΔ: the first-order change of every example's loss."""
    agreement: Float[Array, "*m"]
    """ρ = gᵀC⁺g in [0, 1]: 1 if every loss can fall alike, 0 if g = 0. Does not depend on ε."""
    residual: Float[Array, "*m"]
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved."""


def empirical_fisher_step(
    G: Float[Array, "n p"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
) -> Step:
    """The empirical-Fisher step Δ = -η(C + εI)⁻¹g, with η given or such that ΔᵀCΔ = c.

    Args:
        G: Per-example gradients (n, p); C = GᵀG/n and g = Gᵀ1/n come from this one sample.
        damping: ε ≥ 0; 0 is the pseudo-inverse, and then the step solves min gᵀΔ such that ΔᵀCΔ = c.
        budget: c > 0, the mean squared loss change to spend; exactly met, also with damping.
        learning_rate: η > 0, instead of a budget.

    Returns:
        A `Step`. g = 0 gives Δ = 0.

    Raises:
        ValueError: A bad G; damping negative or not finite; budget or learning_rate not positive, both or none of
            them; a step that is not finite.

    Reference:
        T. George, "What is the empirical Fisher?", 2018.
    """
    G = _checks.gradients(G)
    given = _checks.exactly_one(budget=budget, learning_rate=learning_rate)
    scale = _checks.positive(given, budget if given == "budget" else learning_rate)
    scale = _checks.one_number(given, scale).astype(G.dtype)
    damping = _checks.one_number("damping", _checks.damping(damping)).astype(G.dtype)

    g = mean_gradient(G)
    u, agreement = regress_one(G, damping)
    # A mean that is nothing but the rounding of its terms is 0: there is no direction to go.
    rounding = 4 * jnp.finfo(G.dtype).eps * jnp.max(jnp.abs(G))
    still = (jnp.max(jnp.abs(g)) <= rounding) & jnp.isfinite(rounding)
    u = jnp.where(still, 0, u)
    decrease = dot(G, u)
    power = jnp.where(still, 1, jnp.mean(decrease**2))  # uᵀCu
    rate = jnp.where(still, 0, jnp.sqrt(scale / power)) if given == "budget" else scale

    left = dot(G.T, decrease) / G.shape[0] + damping * u - g
    size = jnp.linalg.norm(jnp.where(still, 1, g))
    step = Step(
        delta=-rate * u,
        learning_rate=rate,
        multiplier=jnp.where(still, 0, 1 / (2 * jnp.where(still, 1, rate))),
        budget_spent=rate**2 * jnp.where(still, 0, power),
        predicted_changes=-rate * decrease,
        agreement=jnp.where(still, 0, agreement),
        residual=jnp.where(still, 0, lax.stop_gradient(jnp.linalg.norm(left) / size)),
    )
    _checks.finite_rows("G", step.delta[None], RESCALE)
    return step


def damping_path(G: Float[Array, "n p"], dampings: Real[Array, " m"], budget: Real[ArrayLike, ""]) -> Step:
    """The steps of one budget for many dampings, from one factorisation: Δ(ε) from -C⁺g to -g.

    Args:
        G: Per-example gradients (n, p).
        dampings: ε ≥ 0, an array (m,).
        budget: c > 0, spent exactly by each step.

    Returns:
        A `Step` with a leading axis m on every field.

    Raises:
        ValueError: As in `empirical_fisher_step`; dampings is not 1-D.
    """
    dampings, budget = _checks.damping(dampings), _checks.positive("budget", budget)
    if dampings.ndim != 1 or dampings.size == 0:
        got = f"shape {dampings.shape}"
        _checks.reject("dampings", "1-D and non-empty", got, "Use e.g. jnp.logspace(-6, 2, 50).")
    G = _checks.gradients(G)
    path = jax.vmap(lambda damping: empirical_fisher_step(G, damping=damping, budget=budget))(dampings)
    _checks.finite_rows("G", path.delta, RESCALE)
    return path
