"""Minibatches at a θ that stays: what a batch of B examples knows, the step that it makes, and two ways to remember.

    no memory   Δ = -η(C_B + εI)⁻¹g_B
    of C        Δ = -η(C̄ + εI)⁻¹g_B, with C̄ the running average of C_B
    of steps    Δ minimises E_B[(gᵢᵀΔ + η)²] + ε‖Δ - βΔ₋‖²: what the last step gave to earlier batches is kept

The weight of what is remembered falls by a factor β from batch to batch; β = 0 is no memory. All is for two parameters,
in closed form, and for batches of several sizes at once: a table of many runs takes no factorisation.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Real

from efisher_teach.core.two_by_two import multiply_each, solve_each


class Moments(NamedTuple):
    """C and g of batches: the leading axes run over batches, and their sizes."""

    C: Float[Array, "*batches 2 2"]
    g: Float[Array, "*batches 2"]


def moments(G: Float[Array, "n 2"], drawn: Int[Array, "batches most"], sizes: tuple[int, ...]) -> Moments:
    """C_B and g_B of batches in several sizes. A larger one keeps the examples of a smaller: the first that were drawn.

    Args:
        G: Per-example gradients (n, 2).
        drawn: The examples of each batch, in their order.
        sizes: Numbers of examples B.

    Returns:
        `Moments` of the shapes (batches, sizes, 2, 2) and (batches, sizes, 2).

    Examples:
        >>> from efisher_teach.core.batches import moments
        >>> print(moments(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1, 0]]), (1, 2)).g)
        [[[0.  2. ]
          [0.5 1. ]]]
    """
    rows, last = G[drawn], np.array(sizes) - 1
    C = jnp.cumsum(rows[..., None] * rows[..., None, :], axis=1)[:, last] / (last + 1)[:, None, None]
    return Moments(C, jnp.cumsum(rows, axis=1)[:, last] / (last + 1)[:, None])


def steps_with_matrix(
    batches: Moments, keep: Real[ArrayLike, ""], damping: Real[ArrayLike, ""], rate: float
) -> Float[Array, "m *sizes 2"]:
    """The step of every batch, by its own gradient and the running average of C.

    Args:
        batches: `Moments` of m batches, in the order in which they come.
        keep: β, in [0, 1).
        damping: ε > 0.
        rate: η, the decrease that is asked for.

    Returns:
        Δ (m, …, 2).

    Examples:
        >>> from efisher_teach.core.batches import moments, steps_with_matrix
        >>> batches = moments(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[0], [1]]), (1,))
        >>> print(steps_with_matrix(batches, 0.5, 0.5, 0.1)[:, 0])  # C̄ = diag(1, 0), then diag(½, 2)
        [[-0.067 -0.   ]
         [-0.    -0.08 ]]
    """

    def follow(average, matrix):
        average = keep * average + (1 - keep) * matrix
        return average, average

    _, remembered = lax.scan(follow, batches.C[0], batches.C)
    return -rate * solve_each(remembered, batches.g, damping)


def steps_with_last(
    batches: Moments, keep: Real[ArrayLike, ""], damping: Real[ArrayLike, ""], rate: float
) -> Float[Array, "m *sizes 2"]:
    """The step of every batch, near β times the last step: what that gave to earlier batches is kept.

    Args:
        batches: `Moments` of m batches, in the order in which they come.
        keep: β, in [0, 1).
        damping: ε > 0.
        rate: η, the decrease that is asked for.

    Returns:
        Δ (m, …, 2).

    Reference:
        G. Goldshlager, N. Abrahamsen, L. Lin, "A Kaczmarz-inspired approach to accelerate the optimization of neural
        network wavefunctions", 2024.

    Examples:
        >>> from efisher_teach.core.batches import moments, steps_with_last
        >>> batches = moments(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[0], [1]]), (1,))
        >>> print(steps_with_last(batches, 0.5, 0.5, 0.1)[:, 0])  # half of the first step is kept in the second
        [[-0.067  0.   ]
         [-0.033 -0.044]]
    """

    def move(last, batch):
        kept = keep * last
        step = kept - solve_each(batch.C, rate * batch.g + multiply_each(batch.C, kept), damping)
        return step, step

    return lax.scan(move, jnp.zeros_like(batches.g[0]), batches)[1]


def misses(steps: Float[Array, "... 2"], batches: Moments, rate: float) -> Float[Array, "..."]:
    """By how much of η examples miss the decrease that they are asked for: √E[(gᵢᵀΔ + η)²]/η, from C and g alone."""
    squares = jnp.sum(steps * multiply_each(batches.C, steps), axis=-1)
    squares += 2 * rate * jnp.sum(batches.g * steps, axis=-1) + rate**2
    return jnp.sqrt(jnp.maximum(squares, 0)) / rate
