"""The step: minimise gᵀΔ such that ΔᵀCΔ = c. The result carries its evidence.

Stationarity of gᵀΔ + λ(ΔᵀCΔ - c), with no factor ½, is g + 2λCΔ = 0, so Δ = -ηC⁺g with η = 1/(2λ); the constraint then
gives η = √(c/ρ), ρ = gᵀC⁺g. Damping replaces C by C + εI in the direction only: the budget stays ΔᵀCΔ = c.

Around it: the same step for two budgets, for a target that is not the same for all examples, for a matrix and a
gradient that come from elsewhere; and what a step really did.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import cancels, loss_changes, mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.solve import Form, precondition, regress, spectrum


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
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved. Held constant in derivatives."""
    worse: Float[Array, "*m"]
    """The fraction of examples whose predicted change is positive; at ε = 0 at most 1 - ρ."""
    weights: Float[Array, "*m n"]
    """α = (K + εI)⁻¹1/n: the step is -ηΣαᵢgᵢ. A weight may be negative though its loss falls."""
    effective_rank: Float[Array, "*m"]
    """Σ λ/(λ + ε) over the eigenvalues λ of C: how many directions the damping leaves."""


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

    Examples:
        >>> step = ef.empirical_fisher_step(jnp.array([[1.0, 0.0], [0.0, 2.0]]), budget=0.01)
        >>> print(step.delta, step.predicted_changes)  # both losses fall by √c
        [-0.1  -0.05] [-0.1 -0.1]
        >>> print(f"{step.budget_spent:.3f}")  # ΔᵀCΔ = ½ 0.1² + 2 0.05²
        0.010
    """
    G = errors.gradients(G)
    return _step(G, jnp.ones(G.shape[0], G.dtype), damping, budget=budget, learning_rate=learning_rate)


def targeted_step(
    G: Float[Array, "n p"],
    target: Real[Array, " n"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
) -> Step:
    """The step that asks example i for the decrease tᵢ: Δ = argmin E[(gᵢᵀΔ + tᵢ)²] + ε‖Δ‖² = -(C + εI)⁻¹Gᵀt/n.

    t = η for all is the empirical-Fisher step with learning rate η; tᵢ = ‖∂ℓᵢ/∂z‖² the improved empirical Fisher;
    tᵢ = ℓᵢ - min ℓᵢ aims at the floor of every loss.

    Args:
        G: Per-example gradients (n, p).
        target: t (n,), in the unit of the loss, of any sign.
        damping: ε ≥ 0.
        budget: c > 0, to scale the step such that ΔᵀCΔ = c; None takes the decreases as they are asked for.

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
    return _step(G, target, damping, budget=budget, learning_rate=1.0 if budget is None else None)


def _step(G, target, damping, *, budget, learning_rate):
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, G.dtype)
    damping = errors.one_damping(damping, G.dtype)
    step, still = _make(G, target, damping, scale, budgeted)
    errors.finite_result("G", step.delta)
    errors.not_lost("G", step.delta, still)
    return step


@partial(jax.jit, static_argnames="budgeted")
def _make(G, target, damping, scale, budgeted):
    """The step, and whether there is none; compiled as a whole: ten times as fast as operation by operation."""
    wishes = target[:, None] * G
    g = jnp.mean(wishes, axis=0)
    still = cancels(wishes, g)
    u, weights, agreement, effective_rank = regress(G, target, damping)
    # 0 where there is no direction to go, but with the derivative of u: at a minimum a step still has a Jacobian.
    u, weights = (part - jnp.where(still, lax.stop_gradient(part), 0) for part in (u, weights))
    decrease = dot(G, u)
    power = jnp.where(still, 1, jnp.mean(decrease**2))  # uᵀCu
    rate = jnp.where(still, 0, jnp.sqrt(scale / power)) if budgeted else scale

    left = dot(G.T, decrease) / G.shape[0] + damping * u - g
    size = jnp.linalg.norm(jnp.where(still, 1, g))
    return Step(
        delta=-rate * u,
        learning_rate=rate,
        multiplier=jnp.where(still, 0, 1 / (2 * jnp.where(still, 1, rate))),
        budget_spent=rate**2 * jnp.where(still, 0, power),
        predicted_changes=-rate * decrease,
        agreement=jnp.where(still, 0, agreement),
        residual=jnp.where(still, 0, lax.stop_gradient(jnp.linalg.norm(left) / size)),
        worse=jnp.mean(decrease < -4 * jnp.finfo(G.dtype).eps * dot(jnp.abs(G), jnp.abs(u)), dtype=G.dtype),
        weights=weights,
        effective_rank=effective_rank,
    ), still


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

    Examples:
        >>> path = ef.damping_path(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0.0, 0.5, 1e3]), budget=0.01)
        >>> print(path.delta)  # from -C⁻¹g to the direction of -g = -[½, 1]
        [[-0.1   -0.05 ]
         [-0.075 -0.06 ]
         [-0.034 -0.069]]
        >>> print(path.budget_spent)
        [0.01 0.01 0.01]
    """
    dampings, budget = errors.damping(dampings), errors.positive("budget", budget)
    if dampings.ndim != 1 or dampings.size == 0:
        got = f"shape {dampings.shape}"
        errors.reject("dampings", "1-D and non-empty", got, "Use e.g. jnp.logspace(-6, 2, 50).")
    G = errors.gradients(G)
    path = jax.vmap(lambda damping: empirical_fisher_step(G, damping=damping, budget=budget))(dampings)
    errors.finite_result("G", path.delta)
    return path


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
    """λ₁ ≥ 0, the price of the loss budget: what the mean loss would fall by for one more unit of c."""
    radius_multiplier: Float[Array, ""]
    """λ₂ ≥ 0, the price of the radius: what the mean loss would fall by for one more unit of r²."""
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
    """Where ε comes from: minimise gᵀΔ such that ΔᵀCΔ ≤ c and ‖Δ‖ ≤ r.

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
    step = _two_budgets(G, budget, errors.one_positive("radius", radius, G.dtype))
    errors.finite_result("G", step.delta)
    errors.not_lost("G", step.delta, ~(step.budget_binds | step.radius_binds))
    return step


@jax.jit
def _two_budgets(G, budget, radius):
    g, ones, wanted = mean_gradient(G), jnp.ones(G.shape[0], G.dtype), budget / radius**2
    still = cancels(G, g)

    def cost(u):  # R = uᵀCu/‖u‖²
        length = jnp.sum(u**2)
        return jnp.mean(dot(G, u) ** 2) / jnp.where(length > 0, length, 1)

    free = regress(G, ones, 0.0).direction
    budget_binds, radius_binds = ~still & (wanted < cost(g)), ~still & (wanted >= cost(free))
    budget_binds = budget_binds | ~still & ~radius_binds  # where g is an eigenvector, R does not grow

    factors = jax.tree.map(lax.stop_gradient, spectrum(G))
    both = budget_binds & radius_binds
    # A harmless ε where log ε is not used.
    beside = jnp.log(jnp.where(still, 1, jnp.sum(factors.eigenvalues)))

    def excess(log_damping):
        return jnp.log(jnp.where(still, 1, cost(regress(G, ones, jnp.exp(log_damping)).direction) / wanted))

    def divide(linear, right):
        slope = linear(jnp.ones_like(right))
        used = both & (slope > 0)
        return jnp.where(used, right / jnp.where(used, slope, 1), 0)

    log_damping = lax.custom_root(
        excess,
        beside,
        lambda _, beside: jnp.where(both, _crossing(factors, lax.stop_gradient(wanted)), beside),
        divide,
    )
    damping = jnp.where(radius_binds, jnp.exp(log_damping), 0)
    u = jnp.where(budget_binds, regress(G, ones, damping).direction, g)
    decrease, length = dot(G, u), jnp.linalg.norm(jnp.where(still, 1, u))
    power = jnp.where(still, 1, jnp.mean(decrease**2))
    rate = jnp.where(still, 0, jnp.where(budget_binds, jnp.sqrt(budget / power), radius / length))
    multiplier = jnp.where(still, 0, 1 / (2 * jnp.where(still, 1, rate)))
    return TwoBudgetStep(
        delta=-rate * u,
        damping=jnp.where(radius_binds & ~budget_binds, jnp.inf, damping),
        learning_rate=jnp.where(radius_binds & ~budget_binds, jnp.inf, rate),
        budget_multiplier=jnp.where(budget_binds, multiplier, 0),
        radius_multiplier=jnp.where(radius_binds, multiplier * jnp.where(budget_binds, damping, 1), 0),
        budget_spent=rate**2 * jnp.where(still, 0, power),
        length=rate * jnp.where(still, 0, length),
        predicted_changes=-rate * decrease,
        budget_binds=budget_binds,
        radius_binds=radius_binds,
    )


def _crossing(factors, wanted):
    """The log ε where R(ε) = wanted, by bisection: R is a mean of the eigenvalues with weights that grow with ε."""
    values = factors.eigenvalues
    power = values * jnp.sum(factors.example_vectors, axis=0) ** 2
    largest = jnp.where(values[0] > 0, values[0], 1)
    values, eps = values / largest, jnp.finfo(values.dtype).eps

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        weight = power / (values + jnp.exp(middle)) ** 2
        under = jnp.sum(values * weight) * largest < wanted * jnp.sum(weight)
        return jnp.where(under, middle, low), jnp.where(under, high, middle)

    ends = jnp.log(eps) * jnp.array([3, -2], values.dtype)  # R(0) and R(∞), to rounding
    low, high = lax.fori_loop(0, 64, halve, (ends[0] + 0 * wanted, ends[1] + 0 * wanted))
    return (low + high) / 2 + jnp.log(largest)


class PreconditionedStep(NamedTuple):
    """A step by any matrix. It does not know the examples: what it predicts is about the mean loss.

    Examples:
        >>> step = ef.preconditioned_step(jnp.eye(2), jnp.array([3.0, 4.0]), budget=0.01)
        >>> print(step.delta, f"{step.predicted_change:.2f}")  # in the metric I: along -g, and √c long
        [-0.06 -0.08] -0.50
    """

    delta: Float[Array, " p"]
    """Δ = -ηu."""
    learning_rate: Float[Array, ""]
    """η: given, or √(c/uᵀAu)."""
    budget_spent: Float[Array, ""]
    """ΔᵀAΔ, in the metric of A."""
    predicted_change: Float[Array, ""]
    """gᵀΔ: the first-order change of the mean loss."""


def preconditioned_step(
    A: Float[Array, "p p"],
    g: Float[Array, " p"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    form: Form = "full",
) -> PreconditionedStep:
    """The step Δ = -η(A + εI)⁻¹g by a matrix from anywhere: the Fisher, a running average, another batch.

    Where A is an empirical Fisher of other examples than g, a part g⊥ of g may lie outside its range. Undamped, the
    loss can then fall without limit at no cost, and this is refused; damped, the step goes as -ηg⊥/ε.

    Args:
        A: A symmetric matrix (p, p).
        g: A gradient (p,).
        damping: ε ≥ 0; 0 is the pseudo-inverse.
        budget: c > 0, spent in the metric of A: ΔᵀAΔ = c.
        learning_rate: η > 0, instead of a budget.
        form: What is inverted, see `precondition`: all of A, its diagonal, a root, or nothing.

    Returns:
        A `PreconditionedStep`. g = 0 gives Δ = 0.

    Raises:
        ValueError: As in `precondition`; budget or learning_rate not positive, both or none of them; a step that costs
            nothing in A, so that no length spends the budget.

    Examples:
        >>> A, g = jnp.array([[0.5, 0.0], [0.0, 2.0]]), jnp.array([0.5, 1.0])
        >>> for form in ("full", "none"):  # as cheap in the metric of A, but the first lowers the loss more
        ...     step = ef.preconditioned_step(A, g, budget=0.01, form=form)
        ...     print(form, step.delta, f"{step.predicted_change:.3f}")
        full [-0.1  -0.05] -0.100
        none [-0.034 -0.069] -0.086
    """
    A, g = errors.linear_system("A", A, g)
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, A.dtype)
    u = precondition(A, g, damping, form)
    still, power = ~jnp.any(g), jnp.sum(u * dot(A, u))
    if budgeted:
        errors.costs("A", power, still)
    rate = jnp.where(still, 0, jnp.sqrt(scale / jnp.where(still, 1, power))) if budgeted else scale
    delta = -rate * u
    errors.finite_result("g", delta)
    errors.not_lost("g", delta, still)
    return PreconditionedStep(delta, rate, rate**2 * power, jnp.sum(g * delta))


class Outcome(NamedTuple):
    """What a step did, beside what it predicted.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta - y) ** 2 / 2
        >>> y = jnp.array([1.0, -1.0])
        >>> print(ef.outcome(loss_fn, 0.0, y, y, jnp.array([0.1])).changes)  # to first order [-0.1 0.1]
        [-0.095  0.105]
    """

    changes: Float[Array, " n"]
    """Δℓᵢ, measured."""
    mean_change: Float[Array, ""]
    """The change of the mean loss."""
    budget_spent: Float[Array, ""]
    """E[Δℓ²], what ΔᵀCΔ stands for."""
    worse: Float[Array, ""]
    """The fraction of examples whose loss rose."""


def outcome(loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, delta: Real[Array, " p"]) -> Outcome:
    """Take a step, and measure what it did to the losses, without any approximation.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …); those of the step, or held-out ones.
        y: Targets, one example a row (n, …).
        delta: The step Δ (p,), as in `Step.delta`.

    Returns:
        An `Outcome`.

    Raises:
        ValueError: As in `loss_changes`.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta - y) ** 2 / 2
        >>> y = jnp.array([1.0, -1.0])  # what is good for one example is bad for the other
        >>> done = ef.outcome(loss_fn, 0.0, y, y, jnp.array([0.1]))
        >>> print(f"{done.mean_change:.3f}, √E[Δℓ²] = {done.budget_spent**0.5:.3f}, {done.worse:.0%} worse")
        0.005, √E[Δℓ²] = 0.100, 50% worse
    """
    changes = loss_changes(loss_fn, params, x, y, delta)
    worse = jnp.mean(changes > 0, dtype=changes.dtype)
    return Outcome(changes, jnp.mean(changes), jnp.mean(changes**2), worse)


def step_along(G, direction, budget):
    """TEMP stub."""
    return direction * jnp.sqrt(budget / jnp.mean(dot(G, direction) ** 2))
