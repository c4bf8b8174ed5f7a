"""The step: minimise gᵀΔ such that ΔᵀCΔ = c. The result carries its evidence.

Stationarity of gᵀΔ + λ(ΔᵀCΔ - c), with no factor ½, is g + 2λCΔ = 0, so Δ = -ηC⁺g with η = 1/(2λ); the constraint then
gives η = √(c/ρ), ρ = gᵀC⁺g. Damping replaces C by C + εI in the direction only: the budget stays ΔᵀCΔ = c.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from efisher_teach import errors
from efisher_teach.core.gradients import cancels
from efisher_teach.core.precision import dot
from efisher_teach.core.solve import agreement_of, factor, quotient, relative


class Step(NamedTuple):
    """A step and what it does. With u = (C + εI)⁻¹g; `damping_path` puts a leading axis on every field.

    Examples:
        >>> step = ef.empirical_fisher_step(jnp.array([[1.0], [2.0]]), budget=0.1)
        >>> print(step.predicted_changes)  # not alike, as one parameter cannot please both
        [-0.2 -0.4]
        >>> print(f"ρ = {step.agreement:.1f}, mean change {step.predicted_changes.mean():.1f} = -√(cρ)")
        ρ = 0.9, mean change -0.3 = -√(cρ)
    """

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
    worse: Float[Array, "*m"]
    """The fraction of examples whose predicted change is positive; at ε = 0 at most 1 - ρ."""
    coefficients: Float[Array, "*m n"]
    """α = (K + εI)⁻¹1/n: the step is -ηΣαᵢgᵢ. A coefficient may be negative though that loss falls."""
    effective_rank: Float[Array, "*m"]
    """Σ μ/(μ + ε) over the eigenvalues μ of C: how many directions the damping leaves."""


def empirical_fisher_step(
    G: Float[Array, "n p"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    relative_to: str | None = None,
) -> Step:
    """The empirical-Fisher step Δ = -η(C + εI)⁻¹g, with η given or such that ΔᵀCΔ = c.

    Args:
        G: Per-example gradients (n, p); C = GᵀG/n and g = Gᵀ1/n come from this one sample.
        damping: ε ≥ 0; 0 is the pseudo-inverse, and then the step solves min gᵀΔ such that ΔᵀCΔ = c.
        budget: c > 0, the mean squared loss change to spend; exactly met, also with damping.
        learning_rate: η > 0, instead of a budget.
        relative_to: "largest" or "mean", if ε counts in the largest eigenvalue of C or in tr C/n, the mean one of K.

    Returns:
        A `Step`. g = 0 gives Δ = 0.

    Raises:
        ValueError: A bad G; damping negative or not finite; budget or learning_rate not positive, both or none of
            them; a step that is not finite.

    Reference:
        T. George, "What is the empirical Fisher?", 2018.

    Examples:
        >>> step = ef.empirical_fisher_step(jnp.array([[1.0, 0.0], [0.0, 2.0]]), budget=0.01)
        >>> print(step.delta, step.predicted_changes)  # both losses fall by √c
        [-0.1  -0.05] [-0.1 -0.1]
        >>> print(f"{step.budget_spent:.3f}")  # ΔᵀCΔ = ½ 0.1² + 2 0.05²
        0.010
    """
    G = errors.gradients(G)
    ones = jnp.ones(G.shape[0], G.dtype)
    return _checked(G, ones, damping, relative_to, budget=budget, learning_rate=learning_rate)


@partial(jax.jit, static_argnames=("budgeted", "relative_to"))
def solve_step(
    G: Float[Array, "n p"],
    target: Float[Array, " n"],
    damping: Float[Array, ""],
    scale: Float[Array, ""],
    *,
    budgeted: bool,
    relative_to: str | None = None,
) -> Step:
    """The step, for checked arguments; `scale` is c or η.

    With G/√n = U diag(√μ) Vᵀ, and t = 1 for all examples, so that Gᵀt/n is g:

    u = (C + εI)⁻¹Gᵀt/n = V diag(√μ/(μ + ε)) Uᵀt/√n,    Δ = -ηu,    η = √(c/uᵀCu).
    """
    n, factors = G.shape[0], factor(G)
    eigenvalues, V, U = factors
    damping = relative(damping, relative_to, lambda: eigenvalues[0], lambda: jnp.sum(eigenvalues) / n)
    g, is_zero = mean_direction(G, target)
    along = jnp.where(is_zero, 0, dot(U.T, target))
    u = dot(V, quotient(jnp.sqrt(eigenvalues), eigenvalues + damping) * along) / jnp.sqrt(n)

    decrease = dot(G, u)
    cost = jnp.mean(decrease**2)  # uᵀCu
    rate = rate_of(scale, cost, is_zero, budgeted=budgeted)
    left_over = dot(G.T, decrease) / n + damping * u - g
    rounding = 4 * jnp.finfo(G.dtype).eps * dot(jnp.abs(G), jnp.abs(u))
    return Step(
        delta=-rate * u,
        learning_rate=rate,
        multiplier=jnp.where(is_zero, 0, quotient(0.5, rate)),
        budget_spent=rate**2 * cost,
        predicted_changes=-rate * decrease,
        agreement=jnp.where(is_zero, 0, agreement_of(factors, target)),
        residual=jnp.where(is_zero, 0, quotient(jnp.linalg.norm(left_over), jnp.linalg.norm(g))),
        worse=jnp.mean(decrease < -rounding, dtype=G.dtype),
        coefficients=jnp.where(is_zero, 0, _coefficients(factors, target, damping)),
        effective_rank=jnp.sum(quotient(eigenvalues, eigenvalues + damping)),
    )


def _coefficients(factors, target, damping):
    """α = (K + εI)⁻¹t/n. Where n > p, K + εI is ε alone on the part of t that U does not reach."""
    eigenvalues, V, U = factors
    along = dot(U.T, target)
    inside = quotient(1, eigenvalues + damping)
    outside = quotient(1, damping) if len(U) > len(V) else 0.0
    return (dot(U, inside * along) + outside * (target - dot(U, along))) / len(U)


def rate_of(
    scale: Real[ArrayLike, ""], cost: Float[Array, ""], is_zero: Bool[Array, ""], *, budgeted: bool
) -> Float[Array, ""]:
    """η: √(c/uᵀCu) if `scale` is a budget c, and 0 where the gradient is 0; a learning rate is returned as given."""
    if not budgeted:
        return jnp.asarray(scale)
    return jnp.where(is_zero, 0, jnp.sqrt(scale / jnp.where(is_zero, 1, cost)))


def step_along(
    G: Float[Array, "n p"], direction: Float[Array, " p"], budget: Real[ArrayLike, ""]
) -> Float[Array, " p"]:
    """The step of cost c along a direction u: √(c/uᵀCu) u; 0 where u costs nothing. u = -g is gradient descent's."""
    cost = jnp.mean(dot(G, direction) ** 2)
    return direction * rate_of(jnp.asarray(budget, G.dtype), cost, cost == 0, budgeted=True)


def mean_direction(
    G: Float[Array, "n p"], target: Float[Array, " n"]
) -> tuple[Float[Array, " p"], Bool[Array, ""]]:
    """Gᵀt/n, and True if it is nothing but rounding: then there is no direction to go."""
    wishes = target[:, None] * G
    g = jnp.mean(wishes, axis=0)
    return g, cancels(wishes, g)


def targeted_step(
    G: Float[Array, "n p"],
    target: Real[Array, " n"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    relative_to: str | None = None,
) -> Step:
    """The step that asks example i for the decrease tᵢ: Δ = argmin E[(gᵢᵀΔ + tᵢ)²] + ε‖Δ‖² = -(C + εI)⁻¹Gᵀt/n.

    t = η for all is the empirical-Fisher step with learning rate η; tᵢ = ‖∂ℓᵢ/∂z‖² the improved empirical Fisher;
    tᵢ = ℓᵢ - min ℓᵢ aims at the floor of every loss.

    Args:
        G: Per-example gradients (n, p).
        target: t (n,), in the unit of the loss, of any sign.
        damping: ε ≥ 0.
        budget: c > 0, to scale the step such that ΔᵀCΔ = c; None takes the decreases as they are asked for.
        relative_to: As in `empirical_fisher_step`.

    Returns:
        A `Step`, with Gᵀt/n in the place of g and t in the place of 1: its agreement is ‖Pt‖²/‖t‖², the part of the
        wish that steps can fulfil; its learning rate is 1, or what scales t to the budget.

    Raises:
        ValueError: A bad G, target, damping or budget; a step that is not finite.

    Reference:
        X. Wu, W. Yu, C. Zhang, P. Woodland, "An improved empirical Fisher approximation for natural gradient descent",
        NeurIPS 2024.

    Examples:
        >>> G = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> step = ef.targeted_step(G, jnp.array([0.1, 0.3]))  # the second loss shall fall three times as much
        >>> print(step.delta, step.predicted_changes)
        [-0.1  -0.15] [-0.1 -0.3]
    """
    G = errors.gradients(G)
    target = errors.target(target, G.shape[0]).astype(G.dtype)
    learning_rate = 1.0 if budget is None else None
    return _checked(G, target, damping, relative_to, budget=budget, learning_rate=learning_rate)


def _checked(G, target, damping, relative_to, *, budget, learning_rate):
    errors.relative_to(relative_to)
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, G.dtype)
    damping = errors.one_damping(damping, G.dtype)
    step = solve_step(G, target, damping, scale, budgeted=budgeted, relative_to=relative_to)
    errors.finite_result("G", step.delta)
    errors.not_lost("G", step.delta, step.multiplier == 0)  # the multiplier is 0 where g is
    return step


def damping_path(
    G: Float[ArrayLike, "n p"],
    dampings: Real[ArrayLike, " m"],
    budget: Real[ArrayLike, ""],
    *,
    relative_to: str | None = None,
) -> Step:
    """The steps of one budget for many dampings, from one factorisation: Δ(ε) from -C⁺g to -g.

    Args:
        G: Per-example gradients (n, p).
        dampings: ε ≥ 0, an array (m,).
        budget: c > 0, spent exactly by each step.
        relative_to: As in `empirical_fisher_step`.

    Returns:
        A `Step` with a leading axis m on every field.

    Raises:
        ValueError: As in `empirical_fisher_step`; dampings is not 1-D.

    Examples:
        >>> path = ef.damping_path(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0.0, 0.5, 1e3]), budget=0.01)
        >>> print(path.delta)  # from -C⁻¹g to the direction of -g = -[½, 1]
        [[-0.1   -0.05 ]
         [-0.075 -0.06 ]
         [-0.034 -0.069]]
        >>> print(path.budget_spent)
        [0.01 0.01 0.01]
    """
    errors.relative_to(relative_to)
    dampings, budget = errors.damping(dampings), errors.positive("budget", budget)
    if dampings.ndim != 1 or dampings.size == 0:
        got = f"shape {dampings.shape}"
        errors.reject("dampings", "1-D and non-empty", got, "Use e.g. jnp.logspace(-6, 2, 50).")
    G = errors.gradients(G)
    dampings, budget, ones = dampings.astype(G.dtype), budget.astype(G.dtype), jnp.ones(G.shape[0], G.dtype)
    solve = partial(solve_step, budgeted=True, relative_to=relative_to)
    path = jax.vmap(lambda damping: solve(G, ones, damping, budget))(dampings)
    errors.finite_result("G", path.delta)
    return path
