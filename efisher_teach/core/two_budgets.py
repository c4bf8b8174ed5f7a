"""The step of two budgets, which is where ε comes from: E[Δℓ²] ≤ c for the losses and ‖Δ‖ ≤ r for the parameters.

Stationarity is g + 2λ₁CΔ + 2λ₂Δ = 0, so Δ = -η(C + εI)⁻¹g with η = 1/(2λ₁) and ε = λ₂/λ₁: the damping is the exchange
rate between the two budgets.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from efisher_teach import errors
from efisher_teach.core.precision import dot
from efisher_teach.core.solve import Spectrum, factor, quotient, solve_spectral
from efisher_teach.core.step import mean_direction, rate_of


class TwoBudgetStep(NamedTuple):
    """The step of two budgets, with g + 2λ₁CΔ + 2λ₂Δ = 0, λ₁(ΔᵀCΔ - c) = 0 and λ₂(‖Δ‖² - r²) = 0.

    Examples:
        >>> step = ef.two_budget_step(jnp.array([[1.0, 0.0], [0.0, 2.0]]), budget=0.01, radius=1.0)
        >>> print(bool(step.radius_binds), f"damping {step.damping:.0f}, length {step.length:.3f}")
        False damping 0, length 0.112
        >>> print(f"{step.budget_multiplier:.0f}")  # λ = ½√(ρ/c)
        5
    """

    delta: Float[Array, " p"]
    """Δ = -η(C + εI)⁻¹g; -r g/‖g‖ where only the radius binds."""
    damping: Float[Array, ""]
    """ε = λ₂/λ₁: 0 where only the loss budget binds, ∞ where only the radius does."""
    learning_rate: Float[Array, ""]
    """η = 1/(2λ₁), ∞ where only the radius binds."""
    budget_multiplier: Float[Array, ""]
    """λ₁ ≥ 0, the value of the loss budget: how much further the mean loss would fall for one more unit of c."""
    radius_multiplier: Float[Array, ""]
    """λ₂ ≥ 0, the value of the radius: how much further the mean loss would fall for one more unit of r²."""
    budget_spent: Float[Array, ""]
    """ΔᵀCΔ ≤ c."""
    length: Float[Array, ""]
    """‖Δ‖ ≤ r."""
    predicted_changes: Float[Array, " n"]
    """GΔ."""
    budget_binds: Bool[Array, ""]
    radius_binds: Bool[Array, ""]


def two_budget_step(
    G: Float[Array, "n p"], budget: Real[ArrayLike, ""], radius: Real[ArrayLike, ""]
) -> TwoBudgetStep:
    """Minimise gᵀΔ such that ΔᵀCΔ ≤ c and ‖Δ‖ ≤ r: the problem that ε comes from.

    R(ε) = ΔᵀCΔ/‖Δ‖² grows with ε, from R(0) at -C⁺g to R(∞) = gᵀCg/‖g‖² at -g. The solution is undamped if c/r² ≤ R(0),
    is normalised gradient descent if c/r² ≥ R(∞), and in between solves R(ε) = c/r².

    Args:
        G: Per-example gradients (n, p).
        budget: c > 0, the mean squared loss change allowed.
        radius: r > 0, the length allowed.

    Returns:
        A `TwoBudgetStep`. g = 0 gives Δ = 0, and no budget binds.

    Raises:
        ValueError: A bad G; budget or radius not positive; a step that is not finite.

    Examples:
        >>> G = jnp.array([[1.0, 0.0], [0.0, 2.0]])  # the undamped step of budget 0.01 has the length 0.112
        >>> for radius in (1.0, 0.1, 0.01):
        ...     print(radius, f"{ef.two_budget_step(G, 0.01, radius).damping:.2f}")
        1.0 0.00
        0.1 0.32
        0.01 inf
    """
    G = errors.gradients(G)
    budget = errors.one_positive("budget", budget, G.dtype)
    step = solve_two_budgets(G, budget, errors.one_positive("radius", radius, G.dtype))
    errors.finite_result("G", step.delta)
    errors.not_lost("G", step.delta, ~(step.budget_binds | step.radius_binds))
    return step


@jax.jit
def solve_two_budgets(
    G: Float[Array, "n p"], budget: Float[Array, ""], radius: Float[Array, ""]
) -> TwoBudgetStep:
    """The step, for checked arguments."""
    g, is_zero = mean_direction(G, jnp.ones(G.shape[0], G.dtype))
    factors, wanted = factor(G), budget / radius**2
    lowest, highest = ratio(G, solve_spectral(factors, 0.0)), ratio(G, g)
    radius_binds = ~is_zero & (wanted >= lowest)
    # Where g is an eigenvector, R does not grow.
    budget_binds = ~is_zero & ((wanted < highest) | ~radius_binds)

    crossing = jnp.where(budget_binds & radius_binds, _crossing(factors, wanted), 1.0)
    damping = jnp.where(radius_binds, crossing, 0)
    u = jnp.where(budget_binds, solve_spectral(factors, damping), g)
    decrease, length = dot(G, u), jnp.linalg.norm(u)
    cost = jnp.mean(decrease**2)
    by_budget = rate_of(budget, cost, is_zero, budgeted=True)
    rate = jnp.where(budget_binds, by_budget, quotient(radius, length))
    rate = jnp.where(is_zero, 0, rate)
    multiplier, only_radius = quotient(0.5, rate), radius_binds & ~budget_binds
    return TwoBudgetStep(
        delta=-rate * u,
        damping=jnp.where(only_radius, jnp.inf, damping),
        learning_rate=jnp.where(only_radius, jnp.inf, rate),
        budget_multiplier=jnp.where(budget_binds, multiplier, 0),
        radius_multiplier=jnp.where(radius_binds, multiplier * jnp.where(budget_binds, damping, 1), 0),
        budget_spent=rate**2 * cost,
        length=rate * length,
        predicted_changes=-rate * decrease,
        budget_binds=budget_binds,
        radius_binds=radius_binds,
    )


def ratio(G: Float[Array, "n p"], delta: Float[Array, " p"]) -> Float[Array, ""]:
    """R = ΔᵀCΔ/‖Δ‖², the cost of a step per squared length."""
    return quotient(jnp.mean(dot(G, delta) ** 2), jnp.sum(delta**2))


@partial(jax.jit, inline=True)
def ratio_curve(
    G: Float[Array, "n p"],
) -> tuple[Float[Array, "_ p"], Float[Array, " m"], Float[Array, " m"], Float[Array, " 2"]]:
    """R(ε) along the directions (C + εI)⁻¹g, from far below the least eigenvalue that matters to far above them all.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        The directions (m + 2, p), of which the first is C⁺g and the last g; ε of those between (m,); R there (m,); and
        its ends, R(0) and R(∞).

    Examples:
        >>> from efisher_teach.core.two_budgets import ratio_curve
        >>> _, dampings, ratios, ends = ratio_curve(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> print(ends, bool((jnp.diff(ratios) > -1e-6).all()))  # R(∞) = gᵀCg/‖g‖² for C = diag(½, 2), g = [½, 1]
        [0.8 1.7] True
    """
    g, factors = jnp.mean(G, axis=0), factor(G)
    largest = factors.eigenvalues[0]
    kept = jnp.where(factors.eigenvalues > 1e-5 * largest, factors.eigenvalues, largest)
    dampings = jnp.geomspace(jnp.min(kept) / 100, largest * 100, 61)
    undamped, damped = solve_spectral(factors, 0.0), solve_spectral(factors, dampings)
    ratios, ends = jax.vmap(ratio, (None, 0))(G, damped), jnp.stack([ratio(G, undamped), ratio(G, g)])
    return jnp.concatenate([undamped[None], damped, g[None]]), dampings, ratios, ends


def _crossing(factors: Spectrum, wanted: Float[Array, ""]) -> Float[Array, ""]:
    """The ε where R(ε) = wanted, by bisection: R is a mean of the eigenvalues with weights that grow with ε."""
    eigenvalues = factors.eigenvalues
    power = eigenvalues * jnp.sum(factors.example_vectors, axis=0) ** 2
    largest = jnp.where(eigenvalues[0] > 0, eigenvalues[0], 1)
    eigenvalues, eps = eigenvalues / largest, jnp.finfo(eigenvalues.dtype).eps

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        weight = power / (eigenvalues + jnp.exp(middle)) ** 2
        under = jnp.sum(eigenvalues * weight) * largest < wanted * jnp.sum(weight)
        return jnp.where(under, middle, low), jnp.where(under, high, middle)

    ends = jnp.log(eps) * jnp.array([3, -2], eigenvalues.dtype)  # R(0) and R(∞), to rounding
    low, high = lax.fori_loop(0, 64, halve, (ends[0], ends[1]))
    return jnp.exp((low + high) / 2) * largest
