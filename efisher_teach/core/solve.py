"""Three ways to solve (C + εI)u = g, and the other preconditioners that people put in its place.

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

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from efisher_teach import errors
from efisher_teach.core.matrices import gram
from efisher_teach.core.precision import dot


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of C and K at once, r = min(n, p): C = V diag(λ) Vᵀ, K = U diag(λ) Uᵀ.

    Examples:
        >>> eigenvalues, V, _ = ef.spectrum(jnp.array([[1.0, 2.0], [2.0, 1.0]]))
        >>> print((V * eigenvalues) @ V.T)  # C again
        [[2.5 2. ]
         [2.  2.5]]
    """

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

    Examples:
        >>> found = ef.spectrum(jnp.array([[1.0, 2.0], [2.0, 1.0]]))  # C = [[2.5, 2], [2, 2.5]]
        >>> print(found.eigenvalues)
        [4.5 0.5]
        >>> print(jnp.sqrt(0.045 / found.eigenvalues))  # semi-axes of the ellipse ΔᵀCΔ = 0.045
        [0.1 0.3]
    """
    G = errors.gradients(G)
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

    Examples:
        >>> found = ef.spectrum(jnp.array([[1.0, 0.0], [0.0, 2.0]]))  # C = diag(½, 2), g = [½, 1]
        >>> print(ef.solve_spectral(found, jnp.array([0.0, 0.5])))  # [½/½, 1/2], [½/1, 1/2½]
        [[1.  0.5]
         [0.5 0.4]]
    """
    return _fit(spectrum, jnp.ones_like(spectrum.example_vectors[:, 0]), errors.damping(dampings))


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
        lambda: dot(G.T, jnp.linalg.solve(K + shift * jnp.eye(n, dtype=K.dtype), jnp.ones(n, K.dtype))) / n,
        lambda: _regression(G, jnp.ones(n, G.dtype), damping).direction,
    )


def solve_gram(
    K: Float[Array, "n n"], damping: Real[ArrayLike, ""] = 0.0, target: Real[Array, " n"] | None = None
) -> Float[Array, " n"]:
    """The weights α = (K + εI)⁻¹t of the dual, where only K is known: Gᵀα is then (C + εI)⁻¹Gᵀt.

    A Cholesky factorisation where there is one. Where rounding has left none (repeated examples, an ε that is small
    beside the errors of K), the eigenvalues that can be told from 0.

    Args:
        K: The Gram matrix (n, n), as of `loss_gram`.
        damping: ε ≥ 0; 0 gives K⁺t.
        target: t (n,); None means 1/n each, and Gᵀt is g.

    Returns:
        α (n,). Not made to be differentiated: for that, see `solve_dual`.

    Raises:
        ValueError: K is not square, symmetric and finite; damping is negative or not finite; target does not fit.

    Examples:
        >>> K = jnp.array([[0.5, 0.0], [0.0, 2.0]])  # of G = [[1, 0], [0, 2]]
        >>> print(ef.solve_gram(K))  # K⁻¹1/n: the example with the short gradient weighs more
        [1.   0.25]
    """
    K = errors.symmetric("K", K)
    n = len(K)
    target = jnp.full(n, 1 / n, K.dtype) if target is None else errors.target(target, n).astype(K.dtype)
    weights = _gram_weights(K, errors.one_damping(damping, K.dtype), target)
    errors.finite_result("K", weights)
    return weights


@jax.jit
def _gram_weights(K, damping, target):
    visible, shift = _visible(K, damping)
    shifted = K + shift * jnp.eye(len(K), dtype=K.dtype)
    L = lax.linalg.cholesky(
        shifted.T, symmetrize_input=False
    )  # .T: LAPACK goes by columns, and K was made by rows
    weights = jax.scipy.linalg.cho_solve((L, True), target)

    def by_eigenvalues():
        kept, values, U = _range(K)
        return dot(U, jnp.where(kept, dot(U.T, target) / (values + damping), 0))

    return lax.cond(visible & jnp.all(jnp.isfinite(weights)), lambda: weights, by_eigenvalues)


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

    Examples:
        >>> C, g = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([1.0, 1.0])  # of different samples
        >>> print(ef.solve_primal(C, g, damping=0.25))  # where C does not see g, it is divided by ε alone
        [0.8 4. ]
    """
    return _solve("C", *errors.linear_system("C", C, g), damping)


def _solve(argument, A, g, damping):
    damping = errors.one_damping(damping, A.dtype)
    if errors.is_concrete(A, g, damping) and not _visible(A, damping)[0]:
        kept, _, V = _range(A)
        errors.same_sample(argument, g, dot(V, jnp.where(kept, 0, dot(V.T, g))))
    u = _primal(A, g, damping)
    action = (
        "Its scale leaves no room in this precision, or -ε is one of its eigenvalues: rescale, or change ε."
    )
    errors.finite_result(argument, u, action=action)
    return u


@jax.jit
def _primal(A, g, damping):
    visible, shift = _visible(A, damping)
    return lax.cond(
        visible,
        lambda: jnp.linalg.solve(A + shift * jnp.eye(A.shape[0], dtype=A.dtype), g),
        lambda: _pseudo_inverse(A, g),
    )


def solve_rank_one(
    rows: Float[Array, "m p"],
    weights: Real[Array, " m"],
    g: Float[Array, " p"],
    damping: Real[ArrayLike, ""],
) -> Float[Array, " p"]:
    """u = (εI + Σₖ wₖ rₖrₖᵀ)⁻¹g, one row after the other (Sherman-Morrison).

    F₀ = εI, and then Fₖ⁻¹ = Fₖ₋₁⁻¹ - Fₖ₋₁⁻¹ rₖrₖᵀ Fₖ₋₁⁻¹ / (1/wₖ + rₖᵀFₖ₋₁⁻¹rₖ).
    For running averages: the rows are past gradients, their weights (1 - β)βᵗ⁻ᵏ. Each solve starts again from εI. An
    inverse that is carried along instead, with Fₜ = βFₜ₋₁ + (1 - β)gₜgₜᵀ, loses its damping as βᵗ.

    Args:
        rows: Gradients r (m, p), of any examples.
        weights: w ≥ 0 (m,); 1/m each gives the empirical Fisher of the rows.
        g: A gradient (p,), of the same or of other examples.
        damping: ε > 0.

    Returns:
        u (p,). Takes O(m²p) and never forms a p × p matrix. Its relative error is about eps·(λmax + ε)/ε: in float32,
            keep ε above 1e-4 of the largest eigenvalue.

    Raises:
        ValueError: rows or g is not finite or does not fit; a weight is negative; damping is not positive; an overflow.

    Reference:
        S. P. Singh, D. Alistarh, "WoodFisher", NeurIPS 2020; E. Frantar, E. Kurtic, D. Alistarh, "M-FAC", NeurIPS 2021.

    Examples:
        >>> rows, g = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0.5, 1.0])
        >>> print(ef.solve_rank_one(rows, jnp.array([0.5, 0.5]), g, damping=0.5))  # C = diag(½, 2)
        [0.5 0.4]
    """
    rows, weights, g = errors.weighted_rows(rows, weights, g)
    u = _rank_one(rows, weights, g, errors.one_positive("damping", damping, rows.dtype))
    errors.finite_result("rows", u)
    return u


@jax.jit
def _rank_one(rows, weights, g, damping):
    def divide_out(k, solved):  # every vector that is still needed, by one more row
        pull = dot(solved, rows[k])  # rᵢᵀFₖ₋₁⁻¹rₖ
        return solved - jnp.outer(weights[k] * pull / (1 + weights[k] * pull[k]), solved[k])

    return lax.fori_loop(0, rows.shape[0], divide_out, jnp.vstack([rows, g]) / damping)[-1]


Form = Literal["full", "diagonal", "root", "diagonal root", "none"]


def precondition(
    A: Float[Array, "p p"],
    g: Float[Array, " p"],
    damping: Real[ArrayLike, ""] = 0.0,
    form: Form = "full",
) -> Float[Array, " p"]:
    """The directions that people take in place of (A + εI)⁻¹g.

        "full"            (A + εI)⁻¹g
        "diagonal"        (diag A + εI)⁻¹g, which forgets how parameters act together
        "root"            (A + εI)^(-1/2) g, as in full AdaGrad
        "diagonal root"   (diag A + εI)^(-1/2) g, as in Adam and RMSProp
        "none"            g, gradient descent

    Args:
        A: A symmetric positive semi-definite matrix (p, p); "full" takes an indefinite one too.
        g: A gradient (p,).
        damping: ε ≥ 0; 0 is the pseudo-inverse, and then g must lie in the range of what is inverted.
        form: One of the names above.

    Returns:
        u (p,). A step is -ηu.

    Raises:
        ValueError: As in `solve_primal`; an unknown form; a root of an indefinite matrix.

    Examples:
        >>> A, g = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 0.0])
        >>> for form in ("full", "diagonal", "none"):
        ...     print(form, ef.precondition(A, g, form=form))
        full [ 2. -1.]
        diagonal [1.5 0. ]
        none [3. 0.]
    """
    A, g = errors.linear_system("A", A, g)
    damping = errors.one_damping(damping, A.dtype)
    errors.one_of("form", form, get_args(Form))
    if form == "full":
        return _solve("A", A, g, damping)
    if form == "none":
        return g
    values, V = jnp.linalg.eigh(A) if form == "root" else (jnp.diag(A), jnp.eye(A.shape[0], dtype=A.dtype))
    kept, shifted, cut = _shift(values, damping)
    errors.semi_definite("A", values, cut)
    errors.same_sample("A", g, dot(V, jnp.where(kept, 0, dot(V.T, g))))
    if form == "root":
        u = _inverse_root(A, g, damping)
    else:
        u = jnp.where(kept, g / (shifted if form == "diagonal" else jnp.sqrt(shifted)), 0)
    errors.finite_result("A", u)
    return u


@jax.custom_jvp
def _inverse_root(A, g, damping):
    """(A + εI)^(-1/2) g, and at ε = 0 the pseudo-inverse of the root."""
    root, V = _root(A, damping)
    return dot(V, root * dot(V.T, g))


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
    """By divided differences of λ^(-1/2), which are smooth where eigenvalues repeat: -1/(√a√b(√a + √b))."""
    (A, g, damping), (A_dot, g_dot, damping_dot) = primals, tangents
    root, V = _root(A, damping)
    total = root[:, None] + root
    # -1/(√a√b(√a + √b)) in terms of 1/√a and 1/√b; 0 where either is cut.
    divided = -((root[:, None] * root) ** 2) / jnp.where(total > 0, total, 1)
    turned = dot(V.T, dot(A_dot + damping_dot * jnp.eye(A.shape[0], dtype=A.dtype), V))
    u_dot = dot(V, dot(divided * turned, dot(V.T, g)) + root * dot(V.T, g_dot))
    return _inverse_root(A, g, damping), u_dot


def _root(A, damping):
    """(λ + ε)^(-1/2), 0 where that is cut, and the eigenvectors."""
    values, V = jnp.linalg.eigh(A)
    kept, shifted, _ = _shift(values, damping)
    return jnp.where(kept, 1 / jnp.sqrt(shifted), 0), V


def _shift(values, damping):
    """Which of λ + ε can be told from 0, their values (1 in place of the others), and the cut-off of λ."""
    cut = values.shape[0] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return *_safe(jnp.where((values > cut) | (damping > cut), values + damping, 0)), cut


class Regression(NamedTuple):
    """The ridge regression of a target t on the gradients: min E[(gᵢᵀu - tᵢ)²] + ε‖u‖².

    Examples:
        >>> G = jnp.array([[1.0], [2.0]])  # one parameter cannot lower two unlike losses by 1 each
        >>> print(f"{ef.regress(G, jnp.ones(2), 0.0).agreement:.2f}")  # g²/C = 1.5²/2.5
        0.90
    """

    direction: Float[Array, " p"]
    """u = (C + εI)⁻¹Gᵀt/n."""
    weights: Float[Array, " n"]
    """α = (K + εI)⁻¹t/n, the same as a combination of the gradients: u = Gᵀα."""
    agreement: Float[Array, ""]
    """‖Pt‖²/‖t‖², P the projector on the columns of G: the R² of the undamped regression. For t = 1 it is gᵀC⁺g."""
    effective_rank: Float[Array, ""]
    """Σ λ/(λ + ε): how many directions the damping leaves."""


def regress(G: Float[Array, "n p"], target: Real[Array, " n"], damping: Real[ArrayLike, ""]) -> Regression:
    """The ridge regression of a target on the gradients, by the most accurate way, the singular values of G.

    Args:
        G: Per-example gradients (n, p).
        target: t (n,). All 1 gives the empirical-Fisher direction.
        damping: ε ≥ 0.

    Returns:
        A `Regression`. It can be differentiated, also where singular values repeat.

    Raises:
        ValueError: A bad G or target, or a damping that is negative or not finite.

    Examples:
        >>> G = jnp.array([[1.0], [2.0]])
        >>> found = ef.regress(G, jnp.ones(2), 0.0)  # one number u, with gᵢu near 1 for both
        >>> print(found.direction, (G @ found.direction))
        [0.6] [0.6 1.2]
    """
    G = errors.gradients(G)
    target = errors.target(target, G.shape[0]).astype(G.dtype)
    return _regression(G, target, errors.one_damping(damping, G.dtype))


@jax.custom_jvp
def _regression(G, target, damping):
    factors = spectrum(G)
    kept, eigenvalues = _safe(factors.eigenvalues)
    along = dot(factors.example_vectors.T, target)
    power = jnp.sum(target**2)
    return Regression(
        _fit(factors, target, damping),
        _example_inverse(factors, damping)(target) / G.shape[0],
        jnp.sum(kept * along**2) / jnp.where(power > 0, power, 1),
        jnp.sum(kept * eigenvalues / (eigenvalues + damping)),
    )


@_regression.defjvp
def _regression_jvp(primals, tangents):
    """Differentiate the equations themselves: the vectors of an SVD have no derivative where its values repeat.

    With r = t - Gu, what the regression leaves over, and Q = I - KK⁺:
        u̇ = (C + εI)⁺[(Ġᵀr - GᵀĠu + Gᵀṫ)/n - ε̇u] + (I - VVᵀ)Ġᵀα
        α̇ = (K + εI)⁺[ṫ/n - K̇α - ε̇α], and at ε = 0 also + K⁺K⁺K̇Qt/n + QK̇K⁺α    (the derivative of a pseudo-inverse)
        ρ̇ = 2[r₀ᵀĠu₀ + (Pt - ρt)ᵀṫ]/‖t‖², where u₀, r₀ belong to ε = 0
        ḋ = Σ [ελ̇ - ε̇λ]/(λ + ε)², d = Σ λ/(λ + ε)
    """
    (G, target, damping), (G_dot, target_dot, damping_dot) = primals, tangents
    n = G.shape[0]
    eigenvalues, V, U = factors = spectrum(G)
    kept, eigenvalues = _safe(eigenvalues)
    u, weights, rho, _ = primal = _regression(G, target, damping)

    inverse = jnp.where(kept, 1 / (eigenvalues + damping), 0)
    pull = dot(G_dot.T, weights)
    right = (dot(G_dot.T, target - dot(G, u)) - dot(G.T, dot(G_dot, u) - target_dot)) / n - damping_dot * u
    u_dot = dot(V, inverse * dot(V.T, right)) + pull - dot(V * kept, dot((V * kept).T, pull))

    solve = _example_inverse(factors, damping)
    K_dot = (dot(G_dot, u) + dot(G, pull)) / n  # K̇α
    weights_dot = solve(target_dot / n - K_dot - damping_dot * weights)
    undamped = _fit(factors, target, jnp.zeros_like(damping))
    rest = target - dot(G, undamped)  # Qt
    turn = dot(G_dot, dot(G.T, solve(weights))) / n
    ending = solve(solve(dot(G, dot(G_dot.T, rest)))) / n**2 + turn - dot(U * kept, dot((U * kept).T, turn))
    weights_dot = weights_dot + jnp.where(damping > 0, 0, ending)

    power = jnp.sum(target**2)
    power = jnp.where(power > 0, power, 1)
    along = rest * dot(G_dot, undamped) + (target - rest - rho * target) * target_dot
    rho_dot = 2 * jnp.sum(along) / power
    values_dot = 2 * jnp.sqrt(eigenvalues / n) * jnp.sum(U * dot(G_dot, V), axis=0)
    rank_dot = jnp.sum(kept * inverse**2 * (damping * values_dot - damping_dot * eigenvalues))
    return primal, Regression(u_dot, weights_dot, rho_dot, rank_dot)


def _fit(factors, target, damping):
    """u = V diag(√λ/(λ + ε)) Uᵀt/√n, for an ε of any shape."""
    kept, eigenvalues = _safe(factors.eigenvalues)
    damping = damping.astype(eigenvalues.dtype)[..., None]
    coefficients = jnp.where(kept, jnp.sqrt(eigenvalues) / (eigenvalues + damping), 0)
    along = dot(factors.example_vectors.T, target) / jnp.sqrt(target.shape[0])
    return dot(coefficients * along, factors.parameter_vectors.T)


def _example_inverse(factors, damping):
    """(K + εI)⁺ as a function: on the columns of U, and, where they do not span everything, 1/ε beside them."""
    eigenvalues, _, U = factors
    kept, safe = _safe(eigenvalues)
    damped = damping > 0
    shift = jnp.where(damped, damping, 1)
    inside = jnp.where(damped, 1 / (eigenvalues + shift), jnp.where(kept, 1 / safe, 0))
    beside = jnp.where(damped, 1 / shift, 0) if U.shape[0] > U.shape[1] else 0

    def solve(v):
        along = dot(U.T, v)
        return dot(U, inside * along) + beside * (v - dot(U, along))

    return solve


def _visible(A, damping):
    """Whether ε can be told from 0 beside the symmetric matrix A, and an ε that is safe to add to it."""
    visible = damping > jnp.finfo(A.dtype).eps * jnp.sum(jnp.abs(jnp.diag(A)))
    return visible, jnp.where(visible, damping, 1)


def _range(C):
    """Which eigenvectors span the range of C, the eigenvalues (1 in place of the others), the eigenvectors."""
    eigenvalues, V = jnp.linalg.eigh(C)
    size = jnp.abs(eigenvalues)
    kept = size > C.shape[0] * jnp.finfo(C.dtype).eps * jnp.max(size)
    return kept, jnp.where(kept, eigenvalues, 1), V


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
