"""The step in other coordinates: taken in ψ, and seen in θ = φ(ψ).

-(JᵀCJ)⁻¹Jᵀg, taken in ψ, is -C⁻¹g in θ. What leaks is measured by `invariance_gap`: curvature of φ, damping that is
Euclidean in its own chart, and, where C is singular, what changes no loss of the sample.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.coordinates import Coordinates, enter, identity, jacobian, pull_back
from efisher_teach.core.gradients import cancels, mean_gradient
from efisher_teach.core.matrices import empirical_fisher
from efisher_teach.core.precision import dot
from efisher_teach.core.precondition import Form, precondition
from efisher_teach.core.solve import solve_spectral, spectrum
from efisher_teach.core.step import rate_of


class ChartStep(NamedTuple):
    """A step that was computed in ψ and seen in θ.

    Examples:
        >>> G, theta = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 2.0])
        >>> step = ef.step_in(ef.coordinates.exponential, theta, G, budget=0.01)
        >>> print(step.pushed, step.delta)  # θ(exp Δψ - 1): exp is curved
        [-0.1  -0.05] [-0.095 -0.049]
    """

    delta: Float[Array, " p"]
    """Δθ = φ(ψ + Δψ) - θ: where one really gets."""
    pushed: Float[Array, " p"]
    """JΔψ: the same to first order."""
    chart_delta: Float[Array, " q"]
    """Δψ."""
    learning_rate: Float[Array, ""]
    """η: given, or what spends the budget."""


def step_in(
    coordinates: Coordinates,
    params: PyTree,
    G: Float[Array, "n p"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    form: Form = "full",
    curvature: Float[Array, "p p"] | None = None,
    metric_damping: bool = False,
) -> ChartStep:
    """One step in other coordinates, Δψ = -η(JᵀCJ + εI)⁻¹Jᵀg, from the same θ and with the same budget.

    Args:
        coordinates: The chart.
        params: θ, any pytree, inside the chart.
        G: Per-example gradients in θ (n, p).
        damping: ε ≥ 0; 0 is the pseudo-inverse.
        budget: c > 0, the mean squared first-order loss change; the same in every chart.
        learning_rate: η > 0, instead of a budget.
        form: What is inverted, in ψ: "full", "diagonal", "root", "diagonal root" or "none"; see `precondition`.
        curvature: A matrix in θ (p, p) in place of C, e.g. the Fisher; it is pulled back as JᵀAJ.
        metric_damping: Damp with εJᵀJ instead of εI: the damping of θ, carried along. At ε = 0 it does nothing; where C
            is singular its limit ε → 0 is the step that is shortest in θ, and without it the one shortest in ψ.

    Returns:
        A `ChartStep`.

    Raises:
        ValueError: θ is outside the chart, or on a singular point of it; a bad G, damping, budget, learning rate, form
            or curvature; a step that is not finite.

    Examples:
        >>> G, theta = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 2.0])
        >>> charts = ef.coordinates.identity, ef.coordinates.exponential
        >>> for form in ("full", "none"):  # C⁻¹g is one step in both charts, gradient descent is two
        ...     print(form, *(ef.step_in(chart, theta, G, budget=0.01, form=form).pushed for chart in charts))
        full [-0.1  -0.05] [-0.1  -0.05]
        none [-0.034 -0.069] [-0.009 -0.071]
    """
    flat = errors.as_float("params", ravel_pytree(params)[0])
    psi = enter(coordinates, flat)
    G = errors.gradients(G)
    if G.shape[1] != flat.size:
        action = "Use per_example_gradients at these params."
        errors.reject("G", f"of shape (n, {flat.size}), as params are", f"shape {G.shape}", action)
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, G.dtype)
    damping = errors.one_damping(damping, G.dtype)
    J, g = jacobian(coordinates, psi), mean_gradient(G)
    here, is_zero = pull_back(G, J), cancels(G, g)
    if curvature is not None:
        curvature = errors.symmetric("curvature", curvature).astype(G.dtype)
        errors.shaped("curvature", curvature, (g.size, g.size), "as params are", "It is a matrix in θ.")
    if form == "none":
        u = dot(J.T, g)
    elif form == "full" and curvature is None:
        u = _empirical_direction(here, J, damping, metric_damping)
    else:
        A = empirical_fisher(G) if curvature is None else curvature
        metric = damping * metric_damping
        A = dot(J.T, dot(A + metric * jnp.eye(g.size, dtype=A.dtype), J))
        u = precondition((A + A.T) / 2, jnp.where(is_zero, 0, dot(J.T, g)), damping - metric, form)
    u = jnp.where(is_zero, 0, u)
    rate = rate_of(scale, jnp.mean(dot(here, u) ** 2), is_zero, budgeted=budgeted)
    chart_delta = -rate * u
    delta = coordinates.forward(psi + chart_delta) - coordinates.forward(psi)
    name = "budget" if budgeted else "learning_rate"
    action = "The step leads out of the chart: make it smaller, or rescale the loss."
    errors.finite_result(name, delta, chart_delta, action=action)
    errors.not_lost("G", chart_delta, is_zero)
    return ChartStep(delta, dot(J, chart_delta), chart_delta, rate)


def _empirical_direction(here, J, damping, metric_damping):
    """(JᵀCJ + ε·)⁻¹Jᵀg from GJ. Damping by εJᵀJ is p more examples, the rows of √(nε)J, asked for no change."""
    if not metric_damping:
        return solve_spectral(spectrum(here), damping)
    n, p = here.shape[0], J.shape[0]
    rows = jnp.concatenate([here, jnp.sqrt(n * damping) * J])
    target = jnp.concatenate([jnp.ones(n, here.dtype), jnp.zeros(p, here.dtype)])
    return solve_spectral(spectrum(rows), 0.0, target)


class InvarianceGap(NamedTuple):
    """The distance of a step in ψ from the same step in θ, relative to its length.

    Examples:
        >>> G, theta = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 2.0])
        >>> for budget in (1e-2, 1e-4):  # a tenth of the step has a tenth of the gap: exp is curved
        ...     gap = ef.invariance_gap(ef.coordinates.exponential, theta, G, budget=budget)
        ...     print(f"{gap.first_order:.3f} {gap.finite:.3f}")
        0.000 0.044
        0.000 0.004
    """

    first_order: Float[Array, ""]
    """‖JΔψ - Δθ‖/‖Δθ‖: what damping and the form of the matrix do, whatever η."""
    finite: Float[Array, ""]
    """‖φ(ψ + Δψ) - θ - Δθ‖/‖Δθ‖: with what the curvature of φ adds, proportional to η."""
    restored: Float[Array, ""]
    """The first again, damped with εJᵀJ in ψ."""
    on_examples: Float[Array, ""]
    """‖G(JΔψ - Δθ)‖/‖GΔθ‖: the first again, in what the losses of the sample see."""


def invariance_gap(
    coordinates: Coordinates,
    params: PyTree,
    G: Float[Array, "n p"],
    *,
    damping: Real[ArrayLike, ""] = 0.0,
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    form: Form = "full",
    curvature: Float[Array, "p p"] | None = None,
) -> InvarianceGap:
    """Take the same step in θ and in ψ, and measure how far apart they are.

    The full empirical Fisher and the Fisher have no first-order gap undamped where they are invertible; where C is
    singular the losses of the sample see none. The diagonal has none where J is diagonal; the root and gradient descent
    have none where J is orthogonal. The finite gap falls with η until rounding, eps‖θ‖/‖Δθ‖, is all that is left of it.

    Args:
        coordinates: The chart.
        params: θ, any pytree, inside the chart.
        G: Per-example gradients in θ (n, p).
        damping: ε ≥ 0.
        budget: c > 0, the same for both steps.
        learning_rate: η > 0, instead of a budget.
        form: As in `step_in`.
        curvature: As in `step_in`.

    Returns:
        An `InvarianceGap`; all 0 if there is no step.

    Raises:
        ValueError: As in `step_in`.

    Examples:
        >>> G, theta = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 2.0])
        >>> for damping in (0.0, 0.5):  # εI opens a gap, εJᵀJ closes it
        ...     gap = ef.invariance_gap(ef.coordinates.exponential, theta, G, damping=damping, budget=0.01)
        ...     print(f"{gap.first_order:.2f} {gap.restored:.2f}")
        0.00 0.00
        0.09 0.00
    """
    options = {"damping": damping, "budget": budget, "learning_rate": learning_rate, "form": form}
    step = partial(step_in, params=params, G=G, curvature=curvature, **options)
    direct, there, carried = step(identity).pushed, step(coordinates), step(coordinates, metric_damping=True)

    def relative(difference, whole):
        size = jnp.linalg.norm(whole)
        return jnp.linalg.norm(difference) / jnp.where(size > 0, size, 1)

    return InvarianceGap(
        first_order=relative(there.pushed - direct, direct),
        finite=relative(there.delta - direct, direct),
        restored=relative(carried.pushed - direct, direct),
        on_examples=relative(dot(G, there.pushed - direct), dot(G, direct)),
    )
