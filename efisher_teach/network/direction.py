"""The direction of an update: u = (C + εI)⁻¹g from the rows R of C = RᵀR, and what is known of it without forming C.

With the share sᵢ² of each example (1/n, or by its weight), R = diag(s)G, and the decreases tᵢ that are asked for:

    u = βu₋ + Rᵀα,    (RRᵀ + εI)α = s∘t - βRu₋

is the least-squares solution of E[(gᵢᵀu - tᵢ)²] + ε‖u - βu₋‖², where u₋ is the last direction, if there is a memory β.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from efisher_teach.core.gradients import per_example_gradients, per_example_losses
from efisher_teach.core.precision import dot, eigh
from efisher_teach.core.solve import factor, quotient, solve_upper
from efisher_teach.network import devices
from efisher_teach.network.gram import loss_gram
from efisher_teach.network.strategies import at_least_float32


class Rows(NamedTuple):
    """The rows R of C = RᵀR, by a unit that keeps their squares in range, as far as an update needs them."""

    unit: Array
    times_gram: Callable[[Array], Array]
    """v ↦ RRᵀv."""
    solve: Callable[[Array, Array], Array]
    """(b, ε) ↦ α with (RRᵀ + εI)α = b, up to what Rᵀ does not see."""
    combine: Callable[[Array], PyTree]
    """α ↦ Rᵀα, shaped like the parameters."""
    lengths: Array
    """Of each row."""
    largest: Callable[[], Array]
    """The largest eigenvalue of RRᵀ."""


def rows_of_gram(unit: Array, upper: Array, combine: Callable[[Array], PyTree], s: Array) -> Rows:
    """The rows diag(s)G, known by the upper triangle of GGᵀ/unit², and w ↦ Gᵀw/unit: the way where n < p."""
    U = s[:, None] * upper * s
    squares = jnp.diag(U)
    return Rows(
        unit=unit,
        times_gram=lambda v: dot(U, v) + dot(v, U) - squares * v,
        solve=lambda b, damping: solve_upper(U, damping, b),
        combine=lambda alpha: combine(s * alpha),
        lengths=jnp.sqrt(jnp.abs(squares)),
        largest=lambda: eigh(U + jnp.triu(U, 1).T)[0][-1],
    )


def rows_of_gradients(G: Array, unravel: Callable[[Array], PyTree], s: Array) -> Rows:
    """The rows diag(s)G themselves: where n ≥ p they are fewer numbers than K, whose condition number is the square."""
    unit = jnp.ldexp(jnp.ones((), G.dtype), jnp.frexp(jnp.max(jnp.abs(G)))[1])
    R = s[:, None] * (G / unit)
    eigenvalues, _, U = factor(R * jnp.sqrt(len(R)))

    def solve(b, damping):
        inverse = jnp.where(eigenvalues > 0, quotient(1, eigenvalues + damping), 0)
        return dot(U, inverse * dot(U.T, b))

    return Rows(
        unit=unit,
        times_gram=lambda v: dot(R, dot(R.T, v)),
        solve=solve,
        combine=lambda alpha: unravel(dot(R.T, alpha)),
        lengths=jnp.linalg.norm(R, axis=1),
        largest=lambda: eigenvalues[0],
    )


def rows_of(loss_fn, params, x, y, s, mesh=None, chunk_size=None) -> tuple[Array, Rows]:
    """The losses, and the rows diag(s)G: by their Gram matrix, or themselves where n ≥ p."""
    n, p = len(s), sum(leaf.size for leaf in jax.tree.leaves(params))
    if n < p:
        known = loss_gram(loss_fn, params, x, y, chunk_size=chunk_size)
        upper = devices.copy_to_all(mesh, known.upper)
        return known.losses, rows_of_gram(known.unit, n * upper, known.scaled_gradient, s.astype(upper.dtype))
    G = devices.copy_to_all(mesh, per_example_gradients(loss_fn, params, x, y, chunk_size=chunk_size))
    losses = per_example_losses(loss_fn, params, x, y, chunk_size=chunk_size)
    return at_least_float32(losses), rows_of_gradients(at_least_float32(G), ravel_pytree(params)[1], s)


class Past(NamedTuple):
    """The memory of the last direction."""

    direction: PyTree
    """βu₋."""
    changes: Array
    """βRu₋."""
    squared_length: Array
    """‖βu₋‖² unit²."""


class Direction(NamedTuple):
    """u = βu₋ + Rᵀα, and what is known of it without forming it."""

    coefficients: Float[Array, " n"]
    """α."""
    agreement: Float[Array, ""]
    """gᵀu."""
    cost: Float[Array, ""]
    """uᵀCu."""
    squared_length: Float[Array, ""]
    """‖u‖² unit²."""
    residual: Float[Array, ""]
    """‖(C + εI)u - g - εβu₋‖/‖g‖."""
    is_zero: Bool[Array, ""]
    """True if there is nowhere to go: g is 0, and nothing is remembered."""


def direction_of(rows: Rows, s: Array, target: Array, damping: Array, past: Past | None = None) -> Direction:
    """Solve for the direction; `s` are the roots of the shares, `target` the decreases that are asked for."""
    wanted = s * target
    wish = rows.times_gram(wanted)  # Rg
    rounding = 4 * jnp.finfo(wish.dtype).eps * rows.lengths * jnp.sum(rows.lengths * jnp.abs(wanted))
    is_zero = jnp.all(jnp.abs(wish) <= rounding)
    before, squared_length = jnp.zeros_like(wish), jnp.zeros_like(damping)
    if past is not None:
        before, squared_length = past.changes, past.squared_length
        is_zero &= squared_length == 0
    alpha = jnp.where(is_zero, 0, rows.solve(wanted - before, damping))
    along = rows.times_gram(alpha)
    changes = before + along  # Ru
    left_over = wanted - changes - damping * alpha  # (C + εI)u - g - εβu₋ is -Rᵀ of it
    squared_residual, size = jnp.sum(left_over * rows.times_gram(left_over)), jnp.abs(jnp.sum(wanted * wish))
    return Direction(
        coefficients=alpha,
        agreement=jnp.sum(s * changes),
        cost=jnp.sum(changes**2),
        squared_length=squared_length + jnp.sum(alpha * (2 * before + along)),
        residual=jnp.where(is_zero, 0, jnp.sqrt(quotient(jnp.abs(squared_residual), size))),
        is_zero=is_zero,
    )
