"""The linear algebra of the mathematics: products that state their precision, factors that refuse to be differentiated.

GPUs round float32 products to TF32 unless told otherwise, so every dense product goes through `dot` or `einsum`.
Singular vectors have no derivative where singular values repeat: JAX would answer NaN, so `svd`, `eigh` and `cholesky`
raise instead. The derivative of a step by its damping, budget or learning rate goes through none of them.

LAPACK has no half precision: what is given in float16 or bfloat16 is solved in float32, and given back as it came.
"""

from functools import partial, wraps

import jax
import jax.numpy as jnp
from jax import lax

dot = partial(jnp.matmul, precision="highest")
einsum = partial(jnp.einsum, precision="highest")


def in_float32(solve):
    """The function of arrays, computed in float32 where they are in half precision."""

    @wraps(solve)
    def solved(*arrays):
        kind = jnp.result_type(*arrays)
        wide = [array.astype(jnp.promote_types(kind, jnp.float32)) for array in arrays]
        return jax.tree.map(lambda array: array.astype(kind), solve(*wide))

    return solved


solve = in_float32(jnp.linalg.solve)
solve_cholesky = in_float32(lambda L, b: jax.scipy.linalg.cho_solve((L, True), b))


def without_derivative(factorise):
    """The factorisation, with an error in the place of its derivative."""
    constant = jax.custom_jvp(in_float32(factorise))

    @constant.defjvp
    def refuse(primals, tangents):
        raise ValueError(
            "`G` must be held constant: steps and solves go through singular vectors, which have no derivative where "
            "singular values repeat; got a derivative of one. Pass jax.lax.stop_gradient(G), or differentiate "
            "jnp.linalg.solve(C + damping * I, g) for a damping > 0."
        )

    return constant


@without_derivative
def svd(A: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The reduced singular value decomposition A = U diag(σ) Vᵀ, as (U, σ, Vᵀ)."""
    U, singular, Vt = jnp.linalg.svd(A, full_matrices=False)
    return U, singular, Vt


@without_derivative
def eigh(A: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric A."""
    eigenvalues, V = jnp.linalg.eigh(A)
    return eigenvalues, V


@without_derivative
def cholesky(A: jax.Array) -> jax.Array:
    """The lower triangle L of A = LLᵀ, from the lower triangle of A; NaN where A is not positive definite."""
    lapack = partial(lax.linalg.cholesky, symmetrize_input=False)
    if not BLOCK < len(A) <= 16 * BLOCK:
        return lapack(A)
    return lax.platform_dependent(A, cpu=partial(_by_blocks, lapack), default=lapack)


BLOCK = 128  # LAPACK takes one thread for so few rows. More threads would spin for 0.1 s afterwards, beside XLA's own.


def _by_blocks(factorise, A):
    n = len(A)
    padding = -n % BLOCK
    A = jnp.pad(A.T, (0, padding)) + jnp.diag(jnp.arange(n + padding) >= n).astype(A.dtype)
    U = jnp.zeros_like(A)  # Lᵀ, whose rows are in one piece
    for start in range(0, n, BLOCK):
        end = start + BLOCK
        left_over = A[start:end, start:] - dot(U[:start, start:end].T, U[:start, start:])
        corner = factorise(left_over[:, :BLOCK].T)
        row = corner.T
        if end < n:
            row = jnp.concatenate([row, dot(_inverse_of_triangle(corner), left_over[:, BLOCK:])], axis=1)
        U = lax.dynamic_update_slice(U, row, (start, start))
    return U[:n, :n].T


def _inverse_of_triangle(L):
    places = jnp.arange(len(L))

    def add_row(i, inverse):
        known = jnp.where(places < i, L[i], 0)
        row = (jnp.where(places == i, 1, 0) - dot(known, inverse)) / L[i, i]
        return lax.dynamic_update_slice(inverse, row[None], (i, 0))

    return lax.fori_loop(0, len(L), add_row, jnp.zeros_like(L))
