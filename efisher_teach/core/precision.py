"""The linear algebra of the mathematics: products that state their precision, factors that refuse to be differentiated.

GPUs round float32 products to TF32 unless told otherwise, so every dense product goes through `dot` or `einsum`.
"""

from functools import partial

import jax
import jax.numpy as jnp

dot = partial(jnp.matmul, precision="highest")
einsum = partial(jnp.einsum, precision="highest")


def without_derivative(factorise):
    """A factorisation that raises where it is differentiated: its vectors have no derivative where values repeat."""
    refused = jax.custom_jvp(factorise)

    @refused.defjvp
    def refuse(primals, tangents):
        raise ValueError(
            "`G` must be held constant: steps and solves go through singular vectors, which have no derivative where "
            "singular values repeat; got a derivative of one. Use jax.lax.stop_gradient on the step, or differentiate "
            "jnp.linalg.solve(C + damping * I, g) for a damping > 0."
        )

    return refused


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
