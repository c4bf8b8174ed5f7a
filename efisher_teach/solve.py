"""Three ways to solve (C + εI)u = g.

With G (n, p), C = GᵀG/n, K = GGᵀ/n and g = Gᵀ1/n:

    primal     u = (C + εI)⁻¹ g            a p × p problem, for few parameters
    dual       u = Gᵀ (K + εI)⁻¹ 1/n       an n × n problem, for few examples
    spectral   u = V diag(σ/(σ² + ε)) Uᵀ1/√n, from G/√n = U diag(σ) Vᵀ: one factorisation, any number of ε

All three are one ridge regression: u is the least-squares solution of "gᵢᵀu = 1 for all i" with penalty ε‖u‖².

ε = 0 is the pseudo-inverse, and so is an ε that rounding cannot see beside the matrix. Values that it cannot tell from
zero are then set to zero: σ ≤ √max(n, p) · eps · σmax for G, λ ≤ p · eps · λmax for C. (Rounding errors add up like a
random walk, hence the root; C is the user's, with errors of its own.) Forming C or K squares the condition number;
the spectral way does not, and is what `empirical_fisher_step` takes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import _checks
from efisher_teach._precision import dot
from efisher_teach.gram import gram


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of C and K at once, r = min(n, p): C = V diag(λ) Vᵀ, K = U diag(λ) Uᵀ."""

    eigenvalues: Float[Array, " r"]
    """λ, descending, ≥ 0; exactly 0 below the cut-off."""
    parameter_vectors: Float[Array, "p r"]
    """V, orthonormal columns: the axes of the ellipsoid ΔᵀCΔ = c, with semi-axes √(c/λ)."""
    example_vectors: Float[Array, "n r"]
    """U, orthonormal columns: the same axes seen as patterns of loss change."""


def spectrum(G: Float[Array, "n p"]) -> Spectrum:
    """Factor once, solve for any ε: the singular value decomposition G/√n = U diag(√λ) Vᵀ.

    Its vectors have no derivative where eigenvalues repeat: differentiate `solve_dual` or the step instead.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        A `Spectrum`.

    Raises:
        ValueError: G is not 2-D, is empty, or has rows that are not finite.
    """
    G = _checks.gradients(G)
    U, singular, Vt = jnp.linalg.svd(G / jnp.sqrt(G.shape[0]), full_matrices=False)
    cut = max(G.shape) ** 0.5 * jnp.finfo(G.dtype).eps * singular[0]
    return Spectrum(jnp.where(singular > cut, singular, 0) ** 2, Vt.T, U)


def solve_spectral(spectrum: Spectrum, dampings: Real[ArrayLike, "*m"]) -> Float[Array, "*m p"]:
    """u(ε) = V diag(√λ/(λ + ε)) Uᵀ1/√n for every ε, from one factorisation.

    Args:
        spectrum: From `spectrum(G)`.
        dampings: ε ≥ 0, a number or an array (m,).

    Returns:
        u, (p,) for a number or (m, p) for m of them.

    Raises:
        ValueError: A damping is negative or not finite.
    """
    damping = _checks.damping(dampings).astype(spectrum.eigenvalues.dtype)[..., None]
    kept, eigenvalues = _safe(spectrum.eigenvalues)
    coefficients = jnp.where(kept, jnp.sqrt(eigenvalues) / (eigenvalues + damping), 0)
    return dot(coefficients * _alignment(spectrum.example_vectors), spectrum.parameter_vectors.T)


def solve_dual(G: Float[Array, "n p"], damping: Real[ArrayLike, ""] = 0.0) -> Float[Array, " p"]:
    """u = Gᵀ(K + εI)⁻¹1/n, an n × n problem: the way to go when n < p.

    Args:
        G: Per-example gradients (n, p).
        damping: ε ≥ 0; 0 gives C⁺g.

    Returns:
        u (p,), equal to (C + εI)⁻¹g.

    Raises:
        ValueError: A bad G, or a damping that is negative or not finite.
    """
    G = _checks.gradients(G)
    damping = _checks.one_number("damping", _checks.damping(damping)).astype(G.dtype)
    n, K = G.shape[0], gram(G)
    visible, shift = _visible(K, damping)
    return lax.cond(
        visible,
        lambda: dot(G.T, jnp.linalg.solve(K + shift * jnp.eye(n, dtype=K.dtype), jnp.ones(n, K.dtype))) / n,
        lambda: _regression(G, damping)[0],
    )


def solve_primal(
    C: Float[Array, "p p"], g: Float[Array, " p"], damping: Real[ArrayLike, ""] = 0.0
) -> Float[Array, " p"]:
    """u = (C + εI)⁻¹g, a p × p problem. The only one that takes any C and g, also from different samples.

    Args:
        C: A symmetric positive semi-definite matrix (p, p).
        g: A gradient (p,).
        damping: ε ≥ 0; 0, or too small to be told from it, gives C⁺g, and then g must lie in the range of C.

    Returns:
        u (p,). Its derivative is exact where C + εI is invertible; elsewhere it is the part in the range of C.

    Raises:
        ValueError: C is not square, symmetric and finite; g does not fit; damping is negative or not finite;
            damping is 0 and g has a part outside the range of C (the problem is then unbounded).
    """
    C, g = _checks.symmetric(C, g)
    damping = _checks.one_number("damping", _checks.damping(damping)).astype(C.dtype)
    visible, shift = _visible(C, damping)
    if _checks.is_concrete(C, g, damping) and not visible:
        kept, _, V = _range(C)
        _checks.same_sample(g, dot(V, jnp.where(kept, 0, dot(V.T, g))))
    return lax.cond(
        visible,
        lambda: jnp.linalg.solve(C + shift * jnp.eye(C.shape[0], dtype=C.dtype), g),
        lambda: _pseudo_inverse(C, g),
    )


def regress_one(
    G: Float[Array, "n p"], damping: Real[ArrayLike, ""]
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """The direction and the agreement, by the most accurate way: u = (C + εI)⁻¹g and ρ = gᵀC⁺g.

    Args:
        G: Per-example gradients (n, p).
        damping: ε ≥ 0.

    Returns:
        u (p,), and ρ in [0, 1], the R² of the undamped regression of the constant 1 on the gradients.

    Raises:
        ValueError: A bad G, or a damping that is negative or not finite.
    """
    G = _checks.gradients(G)
    return _regression(G, _checks.one_number("damping", _checks.damping(damping)).astype(G.dtype))


@jax.custom_jvp
def _regression(G, damping):
    factors = spectrum(G)
    kept, _ = _safe(factors.eigenvalues)
    return solve_spectral(factors, damping), jnp.sum(kept * _alignment(factors.example_vectors) ** 2)


@_regression.defjvp
def _regression_jvp(primals, tangents):
    """Differentiate (C + εI)u = g itself: the vectors of an SVD have no derivative where its values repeat.

    u̇ = (C + εI)⁺[(Ġᵀr - GᵀĠu)/n - ε̇u] + (I - VVᵀ)Ġᵀα and ρ̇ = 2 r₀ᵀĠu₀/n, where r = 1 - Gu is what the regression
    leaves over, α = (K + εI)⁻¹1/n are the examples' weights, and u₀, r₀ belong to ε = 0.
    """
    (G, damping), (G_dot, damping_dot) = primals, tangents
    n = G.shape[0]
    eigenvalues, V, U = factors = spectrum(G)
    kept, eigenvalues = _safe(eigenvalues)
    inverse = jnp.where(kept, 1 / (eigenvalues + damping), 0)
    u, rho = _regression(G, damping)
    rest, ones = 1 - dot(G, u), jnp.ones(n, G.dtype)
    span = dot(U * kept, dot((U * kept).T, ones))
    beyond = jnp.where(damping > 0, (ones - span) / jnp.where(damping > 0, damping, 1), 0)
    weights = (dot(U, inverse * dot(U.T, ones)) + beyond) / n
    pull = dot(G_dot.T, weights)
    right = (dot(G_dot.T, rest) - dot(G.T, dot(G_dot, u))) / n - damping_dot * u
    u_dot = dot(V, inverse * dot(V.T, right)) + pull - dot(V * kept, dot((V * kept).T, pull))
    undamped = solve_spectral(factors, 0.0)
    rho_dot = 2 * jnp.mean((1 - dot(G, undamped)) * dot(G_dot, undamped))
    return (u, rho), (u_dot, rho_dot)


def _alignment(U):
    """Uᵀ1/√n: how much of "all examples alike" each pattern of change carries."""
    return jnp.sum(U, axis=0) / jnp.sqrt(U.shape[0])


def _visible(A, damping):
    """Whether ε can be told from 0 beside the symmetric matrix A, and an ε that is safe to add to it."""
    visible = damping > jnp.finfo(A.dtype).eps * jnp.trace(A)
    return visible, jnp.where(visible, damping, 1)


def _range(C):
    """Which eigenvalues span the range of C, the eigenvalues (1 in place of the others), the eigenvectors."""
    eigenvalues, V = jnp.linalg.eigh(C)
    cut = C.shape[0] * jnp.finfo(C.dtype).eps * jnp.max(eigenvalues)
    return *_safe(jnp.where(eigenvalues > cut, eigenvalues, 0)), V


def _pseudo_inverse(C, g):
    """C⁺g. Differentiated implicitly: eigenvectors have no derivative where eigenvalues repeat."""
    kept, eigenvalues, V = _range(lax.stop_gradient(C))
    inverse = jnp.where(kept, 1 / eigenvalues, 0)
    return lax.custom_linear_solve(
        lambda u: dot(C, u), g, solve=lambda _, b: dot(V, inverse * dot(V.T, b)), symmetric=True
    )


def _safe(eigenvalues):
    """Which eigenvalues are kept, and the eigenvalues with 1 in place of the others, safe to divide by."""
    kept = eigenvalues > 0
    return kept, jnp.where(kept, eigenvalues, 1)
