"""One step in two coordinate systems, for two parameters in closed form: how far apart its ends are, and why.

All is 2 × 2, so a table of many trajectories takes no factorisation. The gap is a sum of what ε and what the curvature
of φ do: in float32 the difference of two steps would lose most of its digits.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from efisher_teach.core.coordinates import Coordinates
from efisher_teach.core.gradients import mean_gradient, per_example_gradients
from efisher_teach.core.matrices import empirical_fisher
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_by_two import solve_each, solve_two_by_two

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
NODES, WEIGHTS = (1 + NODES) / 2, WEIGHTS / 2  # of a mean over [0, 1]


class Start(NamedTuple):
    """All that both steps are made of, at θ = φ(ψ)."""

    chart: Coordinates
    psi: Float[Array, " 2"]
    C: Float[Array, "2 2"]
    g: Float[Array, " 2"]
    J: Float[Array, "2 2"]


class Gaps(NamedTuple):
    """The distance of the ends of two first steps, in % of the step in θ."""

    gap: Float[Array, ""]
    restored: Float[Array, ""]
    """The gap with the damping εJᵀJ in ψ."""
    leak: Float[Array, ""]
    """The part of the gap that ε leaks, to first order."""


def start_of(problem: Problem, chart: Coordinates, psi: Float[Array, " 2"]) -> Start:
    """Gradients and Jacobian at ψ."""
    G = per_example_gradients(problem.loss_fn, chart.forward(psi), problem.x, problem.y)
    J = jax.jacfwd(chart.forward)(psi)
    return Start(chart, psi, empirical_fisher(G), mean_gradient(G), J)


def step_from(
    problem: Problem,
    chart: Coordinates,
    psi: Float[Array, " 2"],
    rate: Float[Array, ""],
    damping: Float[Array, ""],
    *,
    descent: bool,
) -> Float[Array, " 2"]:
    """Δψ = -η(JᵀCJ + εI)⁻¹Jᵀg; or that of gradient descent, -Jᵀg at the cost of the undamped empirical Fisher."""
    _, _, C, g, J = start_of(problem, chart, psi)
    if descent:
        return -_descent_rate(C, g, J, rate) * dot(J.T, g)
    return -rate * solve_each(dot(J.T, dot(C, J)), dot(J.T, g), damping)


def _descent_rate(C, g, J, rate):
    """The factor of Jᵀg that costs as much as the undamped empirical Fisher, η²gᵀC⁻¹g, to first order."""
    seen = dot(J, dot(J.T, g))
    cost = jnp.maximum(jnp.sum(seen * dot(C, seen)), 1e-30)
    return rate * jnp.sqrt(jnp.sum(g * solve_two_by_two(C, g)) / cost)


@partial(jax.jit, static_argnames=("steps", "descent"))  # inside another jit: traced once, however often used
def trajectory(
    problem: Problem,
    chart: Coordinates,
    psi: Float[Array, " 2"],
    rate: Float[Array, ""],
    damping: Float[Array, ""],
    *,
    steps: int,
    descent: bool,
) -> Float[Array, "{steps}+1 2"]:
    """ψ before the first step and after each."""

    def move(psi, _):
        psi = psi + step_from(problem, chart, psi, rate, damping, descent=descent)
        return psi, psi

    return jnp.concatenate([psi[None], lax.scan(move, psi, length=steps)[1]])


def gaps(start: Start, rate: Float[Array, ""], damping: Float[Array, ""]) -> Gaps:
    """Compare the first steps of the empirical Fisher in θ and in ψ. No two near numbers are subtracted.

    The identity of ψ is W = (JJᵀ)⁻¹ in θ. With A = C + εW and B = C + εI, A⁻¹g − B⁻¹g = εA⁻¹(I − W)B⁻¹g: what ε leaks.
    What the chart bends is the remainder of Taylor, ∫ (1 − t) D²φ(ψ + tΔψ)[Δψ, Δψ] dt.
    """
    _, _, C, g, J = start
    metric = solve_two_by_two(dot(J, J.T), jnp.eye(2, dtype=J.dtype))
    direct = solve_each(C, g, damping)
    leak = damping * solve_two_by_two(C + damping * metric, direct - dot(metric, direct))
    back = -rate * dot(J.T, metric)  # times v: the Δψ that is −ηv to first order
    length = rate * jnp.linalg.norm(direct)
    return Gaps(
        gap=100 * jnp.linalg.norm(_bend(start, dot(back, direct + leak)) - rate * leak) / length,
        restored=100 * jnp.linalg.norm(_bend(start, dot(back, direct))) / length,
        leak=100 * jnp.linalg.norm(leak) / jnp.linalg.norm(direct),
    )


def descent_gap(start: Start, rate: Float[Array, ""]) -> Float[Array, ""]:
    """Compare the first steps of gradient descent in θ and in ψ, in % of the step in θ."""
    _, _, C, g, J = start
    here, there = (_descent_rate(C, g, matrix, rate) for matrix in (jnp.eye(2, dtype=J.dtype), J))
    gradient = dot(J.T, g)  # in ψ
    gap = here * g - there * dot(J, gradient) + _bend(start, -there * gradient)
    return 100 * jnp.linalg.norm(gap) / (here * jnp.linalg.norm(g))


def _bend(start, delta):
    """φ(ψ + Δψ) − φ(ψ) − JΔψ, by quadrature."""

    def along(t):
        return start.chart.forward(start.psi + t * delta)

    weights, nodes = (jnp.asarray(each, delta.dtype) for each in (WEIGHTS * (1 - NODES), NODES))
    curvature = jax.jacfwd(jax.jacfwd(along))
    return dot(weights, jax.vmap(curvature)(nodes))


def smallest_eigenvalue(start: Start) -> Float[Array, ""]:
    """The smallest eigenvalue of C in either chart."""
    both = jnp.stack([start.C, dot(start.J.T, dot(start.C, start.J))])
    return jnp.min(jnp.linalg.eigvalsh(both))
