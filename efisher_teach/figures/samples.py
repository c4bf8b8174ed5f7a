"""Samples, as scenes see them: gradients by label, C and what is taken for it, and what first order misses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from efisher_teach.core.gradients import mean_gradient, remainders
from efisher_teach.core.matrices import empirical_fisher, gradient_covariance, quadratic_form
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import Spectrum
from efisher_teach.core.two_by_two import solve_each
from efisher_teach.figures.plane import gradients, turned


class Cloud(NamedTuple):
    """The gradients of a sample with each example's own label, and with the other one."""

    own: Float[Array, "n p"]
    other: Float[Array, "n p"]
    longest: Int[Array, ""]
    """The row of the longest one, with its own label."""

    def rows(self, flipped: Bool[Array, "*m n"], outlier: Real[ArrayLike, ""]) -> Float[Array, "*m n p"]:
        """G where some labels are flipped, and the longest row is multiplied."""
        G = jnp.where(flipped[..., None], self.other, self.own)
        return jnp.where((jnp.arange(len(self.own)) == self.longest)[:, None], outlier * G, G)


def cloud(problem: Problem) -> Cloud:
    """The gradients of a sample by falling gᵢᵀg with their own labels; the other label of y is min y + max y - y."""
    own = gradients(problem)
    other = gradients(problem._replace(y=jnp.min(problem.y) + jnp.max(problem.y) - problem.y))
    order = jnp.argsort(-dot(own, mean_gradient(own)))
    return Cloud(own[order], other[order], jnp.argmax(jnp.sum(own[order] ** 2, axis=1)))


def lengths(G: Float[Array, "*m n p"]) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
    """‖g‖, the length of the mean, and the root mean square of all lengths, √tr C."""
    return jnp.linalg.norm(jnp.mean(G, axis=-2), axis=-1), jnp.sqrt(jnp.mean(jnp.sum(G**2, axis=-1), axis=-1))


def lookalikes(
    G: Float[Array, "n 2"],
    F: Float[Array, "2 2"],
    batches: Int[Array, "k b"],
    damping: Real[ArrayLike, ""],
    budget: Real[ArrayLike, ""],
) -> tuple[Float[Array, "7 2 2"], Float[Array, "7 2"], Float[Array, " 7"], Float[Array, " 7"]]:
    """The matrices that people take for C; and of each its step, what that spends, in c, and its turn.

    They are C itself, ggᵀ, GᵀG, C of the means of batches, C − ggᵀ, the Fisher F, and C again with ε/n in the place of
    ε. A step has the length that costs c in its own matrix. Its turn is counted in degrees from the first of them; on
    the side of −g it is positive.
    """
    g, C = mean_gradient(G), empirical_fisher(G)
    of_means = empirical_fisher(jnp.mean(G[batches], axis=1))
    matrices = jnp.stack([C, jnp.outer(g, g), len(G) * C, of_means, gradient_covariance(G), F, C])
    dampings = damping * jnp.ones(len(matrices), g.dtype).at[-1].set(1 / len(G))
    v = solve_each(matrices, g, dampings)
    v = v.at[1].set(g)  # exactly, up to its length: at a tiny ε the rounding of ggᵀ would turn it
    steps = -v * jnp.sqrt(budget / jax.vmap(quadratic_form)(matrices, v))[:, None]
    side = jnp.where(turned(steps[0], g) > 0, -1, 1)
    return matrices, steps, quadratic_form(C, steps) / budget, side * turned(steps[0], steps)


def dragged(factors: Spectrum, scale: Real[ArrayLike, ""], power: Real[ArrayLike, ""]) -> Float[Array, " r"]:
    """The eigenvalues sμ₁(μ/μ₁)ᵗ; what C does not see it does not see in any unit."""
    eigenvalues, largest = factors.eigenvalues, factors.eigenvalues[0]
    return jnp.where(eigenvalues > 0, scale * largest * (eigenvalues / largest) ** power, 0)


def rests(
    problem: Problem, G: Float[Array, "n p"], toward: Float[Array, " p"], longest: Any, parts: np.ndarray
) -> Float[Array, "2 m"]:
    """The remainders of first order, of the mean loss and of E[Δℓ²], along a unit vector, at parts of a longest step.

    E[Δℓ²] − E[(gᵢᵀΔ)²] is the mean of rest · (2gᵢᵀΔ + rest), for the rest of each loss.
    """
    rest = remainders(problem.loss_fn, problem.params, problem.x, problem.y, longest * toward, parts)
    kept = longest * jnp.asarray(parts, G.dtype)[:, None] * dot(G, toward)
    return jnp.stack([jnp.mean(rest, axis=1), jnp.mean(rest * (2 * kept + rest), axis=1)])


def reached(
    square: Float[Array, "k m"], radii: Float[Array, " m"], rms: Float[Array, ""]
) -> Float[Array, " k"]:
    """The radius at which a mean square that rises along k directions is rms²; the last one if it never is.

    It is interpolated on logarithmic scales.
    """
    logs = jnp.log(jnp.maximum(square, 1e-30))
    return jnp.exp(jax.vmap(lambda each: jnp.interp(2 * jnp.log(rms), each, jnp.log(radii)))(logs))
