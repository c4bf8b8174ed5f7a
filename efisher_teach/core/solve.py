"""Three ways to solve (C + εI)u = g.

With G (n, p), C = GᵀG/n, K = GGᵀ/n and g = Gᵀ1/n:

    primal     u = (C + εI)⁻¹ g            a p × p problem, for few parameters
    dual       u = Gᵀ (K + εI)⁻¹ 1/n       an n × n problem, for few examples
    spectral   u = V diag(√μ/(μ + ε)) Uᵀ1/√n, from G/√n = U diag(√μ) Vᵀ: one factorisation, any number of ε

All three are one ridge regression: u is the least-squares solution of "gᵢᵀu = 1 for all i" with penalty ε‖u‖².

ε = 0 is the pseudo-inverse, and so is an ε lost in the rounding of the matrix. Values that rounding cannot tell from
zero are then set to zero: σ ≤ √max(n, p) · eps · σmax for G, μ ≤ p · eps · μmax for C. (Rounding errors add up like a
random walk, hence the root; C is the user's, with errors of its own.) Forming C or K squares the condition number;
the spectral way does not, and is the one that `empirical_fisher_step` takes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import errors
from efisher_teach.core.matrices import gram
from efisher_teach.core.precision import cholesky, dot, eigh, solve, solve_cholesky, svd


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of C and K at once, r = min(n, p): C = V diag(μ) Vᵀ, K = U diag(μ) Uᵀ.

    Examples:
        >>> from efisher_teach.core.solve import spectrum
        >>> eigenvalues, V, _ = spectrum(jnp.array([[1.0, 2.0], [2.0, 1.0]]))
        >>> print((V * eigenvalues) @ V.T)  # C again
        [[2.5 2. ]
         [2.  2.5]]
    """

    eigenvalues: Float[Array, " r"]
    """μ, descending, ≥ 0; exactly 0 below the cut-off."""
    parameter_vectors: Float[Array, "p r"]
    """V, orthonormal columns: the axes of the ellipsoid ΔᵀCΔ = c, with semi-axes √(c/μ)."""
    example_vectors: Float[Array, "n r"]
    """U, orthonormal columns: the same axes seen as patterns of loss change."""


def spectrum(G: Float[Array, "n p"]) -> Spectrum:
    """Factor once, solve for any ε: the singular value decomposition G/√n = U diag(√μ) Vᵀ.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        A `Spectrum`.

    Raises:
        ValueError: G is not 2-D, is empty, or has rows that are not finite.

    Examples:
        >>> from efisher_teach.core.solve import spectrum
        >>> found = spectrum(jnp.array([[1.0, 2.0], [2.0, 1.0]]))  # C = [[2.5, 2], [2, 2.5]]
        >>> print(found.eigenvalues)
        [4.5 0.5]
        >>> print(jnp.sqrt(0.045 / found.eigenvalues))  # semi-axes of the ellipse ΔᵀCΔ = 0.045
        [0.1 0.3]
    """
    return factor(errors.gradients(G))


def factor(G: Float[Array, "n p"]) -> Spectrum:
    """`spectrum` of a checked G."""
    U, singular, Vt = svd(G / jnp.sqrt(G.shape[0]))
    cut = max(G.shape) ** 0.5 * jnp.finfo(G.dtype).eps * singular[0]
    return Spectrum(jnp.where(singular > cut, singular, 0) ** 2, Vt.T, U)


def quotient(above: ArrayLike, below: Array) -> Array:
    """above/below, and 0 where below is 0: the pseudo-inverse leaves out what a matrix does not see."""
    return jnp.where(below == 0, 0, above / jnp.where(below == 0, 1, below))


def relative(
    damping: Array, relative_to: str | None, largest: Callable[[], Array], mean: Callable[[], Array]
) -> Array:
    """ε of a damping that counts in the largest eigenvalue of K, in the mean one (tr K/n), or in nothing (None)."""
    return damping if relative_to is None else damping * {"largest": largest, "mean": mean}[relative_to]()


def agreement_of(spectrum: Spectrum, target: Real[Array, " n"] | None = None) -> Float[Array, ""]:
    """ρ = ‖Pt‖²/‖t‖², P the projector onto the columns of G: the part of t that a step can fulfil. For t = 1, gᵀC⁺g."""
    U = spectrum.example_vectors
    target = jnp.ones(U.shape[0], U.dtype) if target is None else target
    along = jnp.where(spectrum.eigenvalues > 0, dot(U.T, target), 0)
    return quotient(jnp.sum(along**2), jnp.sum(target**2))


def solve_spectral(
    spectrum: Spectrum, dampings: Real[ArrayLike, "*m"], target: Real[Array, " n"] | None = None
) -> Float[Array, "*m p"]:
    """u(ε) = V diag(√μ/(μ + ε)) Uᵀt/√n = (C + εI)⁻¹Gᵀt/n for every ε, from one factorisation.

    Args:
        spectrum: From `spectrum(G)`.
        dampings: ε ≥ 0, a number or an array (m,).
        target: t (n,); None means 1 each, and Gᵀt/n is g.

    Returns:
        u, (p,) for a number or (m, p) for m of them.

    Raises:
        ValueError: A damping is negative or not finite.

    Examples:
        >>> from efisher_teach.core.solve import solve_spectral, spectrum
        >>> found = spectrum(jnp.array([[1.0, 0.0], [0.0, 2.0]]))  # C = diag(½, 2), g = [½, 1]
        >>> print(solve_spectral(found, jnp.array([0.0, 0.5])))  # [½/½, 1/2], [½/1, 1/2½]
        [[1.  0.5]
         [0.5 0.4]]
    """
    eigenvalues, V, U = spectrum
    damping = errors.damping(dampings).astype(eigenvalues.dtype)[..., None]
    target = jnp.ones(U.shape[0], U.dtype) if target is None else target
    along = dot(U.T, target) / jnp.sqrt(U.shape[0])
    return dot(quotient(jnp.sqrt(eigenvalues), eigenvalues + damping) * along, V.T)


def solve_dual(G: Float[Array, "n p"], damping: Real[ArrayLike, ""] = 0.0) -> Float[Array, " p"]:
    """u = Gᵀ(K + εI)⁻¹1/n, an n × n problem: the way to go when n < p.

    Args:
        G: Per-example gradients (n, p).
        damping: ε ≥ 0; 0 gives C⁺g.

    Returns:
        u (p,), equal to (C + εI)⁻¹g.

    Raises:
        ValueError: A bad G, or a damping that is negative or not finite.

    Examples:
        >>> G = jnp.array([[1.0, 2.0, 1.0, 2.0]])  # four parameters, but one example: K = [[10]] is a number
        >>> print(ef.solve_dual(G))  # Gᵀ/10
        [0.1 0.2 0.1 0.2]
    """
    G = errors.gradients(G)
    u = _dual(G, errors.one_damping(damping, G.dtype))
    errors.finite_result("G", u)
    return u


@jax.jit
def _dual(G, damping):
    n, K = G.shape[0], gram(G)
    visible, shift = _visible(K, damping)
    return lax.cond(
        visible,
        lambda: dot(G.T, solve(K + shift * jnp.eye(n, dtype=K.dtype), jnp.ones(n, K.dtype))) / n,
        lambda: solve_spectral(factor(G), damping),
    )


def solve_gram(
    K: Float[Array, "n n"], damping: Real[ArrayLike, ""] = 0.0, target: Real[Array, " n"] | None = None
) -> Float[Array, " n"]:
    """The coefficients α = (K + εI)⁻¹t of the dual, where only K is known: Gᵀα is then (C + εI)⁻¹Gᵀt.

    A Cholesky factorisation where there is one. Where rounding has left none (repeated examples, an ε that is small
    beside the errors of K), the eigenvalues that can be told from 0.

    Args:
        K: The Gram matrix (n, n), as of `loss_gram`.
        damping: ε ≥ 0; 0 gives K⁺t.
        target: t (n,); None means 1/n each, and Gᵀt is g.

    Returns:
        α (n,).

    Raises:
        ValueError: K is not square, symmetric and finite; damping is negative or not finite; target does not fit.

    Examples:
        >>> K = jnp.array([[0.5, 0.0], [0.0, 2.0]])  # of G = [[1, 0], [0, 2]]
        >>> print(ef.solve_gram(K))  # K⁻¹1/n: the example with the short gradient counts more
        [1.   0.25]
    """
    K = errors.symmetric("K", K)
    n = len(K)
    target = jnp.full(n, 1 / n, K.dtype) if target is None else errors.target(target, n).astype(K.dtype)
    coefficients = solve_upper(K, errors.one_damping(damping, K.dtype), target)
    errors.finite_result("K", coefficients)
    return coefficients


@jax.jit
def solve_upper(
    K: Float[Array, "n n"], damping: Float[Array, ""], target: Float[Array, " n"]
) -> Float[Array, " n"]:
    """`solve_gram` of checked arguments, from the upper triangle of K alone."""
    visible, shift = _visible(K, damping)
    shifted = K + shift * jnp.eye(len(K), dtype=K.dtype)
    # .T: LAPACK goes by columns, and K was made by rows
    coefficients = solve_cholesky(cholesky(shifted.T), target)

    by_eigenvalues = lambda: _by_eigenvalues(jnp.triu(K) + jnp.triu(K, 1).T, target, damping)  # noqa: E731
    return lax.cond(visible & jnp.all(jnp.isfinite(coefficients)), lambda: coefficients, by_eigenvalues)


def solve_primal(
    C: Float[Array, "p p"], g: Float[Array, " p"], damping: Real[ArrayLike, ""] = 0.0
) -> Float[Array, " p"]:
    """u = (C + εI)⁻¹g, a p × p problem. The only way that takes any C and g, also from different samples.

    Args:
        C: A symmetric positive semi-definite matrix (p, p).
        g: A gradient (p,).
        damping: ε ≥ 0; 0, or too small to be told from it, gives C⁺g, and then g must lie in the range of C.

    Returns:
        u (p,).

    Raises:
        ValueError: C is not square, symmetric and finite; g does not fit; damping is negative or not finite;
            damping is 0 and g has a part outside the range of C (the problem is then unbounded).

    Examples:
        >>> C, g = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([1.0, 1.0])  # of different samples
        >>> print(ef.solve_primal(C, g, damping=0.25))  # where C does not see g, it is divided by ε alone
        [0.8 4. ]
    """
    return solve_symmetric("C", *errors.linear_system("C", C, g), damping)


def solve_symmetric(argument: str, A: Array, g: Array, damping: Real[ArrayLike, ""]) -> Float[Array, " p"]:
    """(A + εI)⁻¹g for a checked A and g; errors call A by the name of the caller's argument."""
    damping = errors.one_damping(damping, A.dtype)
    if errors.is_concrete(A, g, damping) and not _visible(A, damping)[0]:
        kept, _, V = _range(A)
        same_sample(argument, g, dot(V, jnp.where(kept, 0, dot(V.T, g))))
    u = _primal(A, g, damping)
    why = "Its scale leaves no room in this precision, or -ε is one of its eigenvalues"
    errors.finite_result(argument, u, action=f"{why}: rescale, or change ε.")
    return u


@jax.jit
def _primal(A, g, damping):
    visible, shift = _visible(A, damping)
    regular = lambda: solve(A + shift * jnp.eye(len(A), dtype=A.dtype), g)  # noqa: E731
    return lax.cond(visible, regular, lambda: _by_eigenvalues(A, g, 0.0))


def _visible(A, damping):
    """True if ε can be told from 0 next to the symmetric matrix A, and an ε that is safe to add to it."""
    visible = damping > jnp.finfo(A.dtype).eps * jnp.sum(jnp.abs(jnp.diag(A)))
    return visible, jnp.where(visible, damping, 1)


def _range(A):
    """The mask of the eigenvectors that span the range of A, the eigenvalues (1 for the others), the eigenvectors."""
    eigenvalues, V = eigh(A)
    size = jnp.abs(eigenvalues)
    kept = size > A.shape[0] * jnp.finfo(A.dtype).eps * jnp.max(size)
    return kept, jnp.where(kept, eigenvalues, 1), V


def _by_eigenvalues(A, b, damping):
    """(A + εI)⁻¹b in the range of A, where μ can be told from 0; A⁺b at ε = 0."""
    kept, eigenvalues, V = _range(A)
    return dot(V, jnp.where(kept, dot(V.T, b) / (eigenvalues + damping), 0))


def same_sample(argument: str, g: jax.Array, outside: jax.Array) -> None:
    """A gradient without a part outside the range of the matrix: both come from the same examples."""
    if not errors.is_concrete(g, outside):
        return
    stray, size = float(jnp.linalg.norm(outside)), float(jnp.linalg.norm(g))
    if stray > float(jnp.finfo(g.dtype).eps) ** 0.5 * size:
        raise ValueError(
            f"`g` must lie in the range of `{argument}` when `damping` is 0; got a part g⊥ of length {stray:.3g} (of "
            f"{size:.3g}) outside it. Along that part the loss could fall without limit at no cost. {argument} and g "
            "come from different examples (another batch, a running average, weight decay in one of them), or g is "
            f"lost in the rounding of {argument}: use a larger damping, or solve_dual(G)."
        )
