"""Two parameters in closed form: a table of many states takes no factorisation."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach.core.precision import dot


def solve_two_by_two(A: Float[Array, "2 2"], b: Float[Array, "2 ..."]) -> Float[Array, "2 ..."]:
    """A⁻¹b for a positive definite A (2, 2).

    The determinant is kept off 0 where only rounding is left of it.
    """
    (a, c), (_, d) = A
    determinant = jnp.maximum(a * d - c * c, 1e-7 * (a + d) ** 2)
    return jnp.stack([d * b[0] - c * b[1], a * b[1] - c * b[0]]) / jnp.maximum(determinant, 1e-30)


def multiply_each(C: Float[Array, "... 2 2"], v: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """Cv, of many matrices and vectors at once."""
    return dot(C, v[..., None])[..., 0]


def solve_each(
    C: Float[Array, "*batch 2 2"], g: Float[Array, "... 2"], damping: Real[ArrayLike, "..."]
) -> Float[Array, "... 2"]:
    """(C + εI)⁻¹g, of many matrices, gradients or dampings at once."""
    damped = C + jnp.asarray(damping, C.dtype)[..., None, None] * jnp.eye(2, dtype=C.dtype)
    return jnp.vectorize(solve_two_by_two, signature="(a,a),(a)->(a)")(damped, g)


def semi_axes(C: Float[Array, "2 2"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The long and the short semi-axis √μ of vᵀC⁻¹v = 1, for a positive semi-definite C (2, 2)."""
    half, determinant = jnp.trace(C) / 2, _determinant(C)
    largest = half + jnp.sqrt(jnp.maximum(half**2 - determinant, 0))
    return jnp.sqrt(largest), jnp.sqrt(determinant / jnp.maximum(largest, 1e-30))


def root(C: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
    """√C of a positive semi-definite C (2, 2)."""
    product = jnp.sqrt(_determinant(C))
    squared = jnp.maximum(jnp.trace(C) + 2 * product, 1e-30)
    return (C + product * jnp.eye(2, dtype=C.dtype)) / jnp.sqrt(squared)


def _determinant(C):
    return jnp.maximum(C[0, 0] * C[1, 1] - C[0, 1] * C[1, 0], 0)
