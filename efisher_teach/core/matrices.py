"""The matrices that people confuse, each as one mean over the examples.

    empirical Fisher   C = E[∇ℓ ∇ℓᵀ]              the labels that were observed
    covariance         Σ = C - ggᵀ                 the same, centred
    Fisher             F = E_x E_y~model[∇ℓ ∇ℓᵀ]   labels that the model believes in
    Gauss-Newton       E[Jᵀ (∂²ℓ/∂z²) J]           curvature of the loss, model linearised: F for a likelihood in z
    Hessian            E[∂²ℓ/∂θ²]                  curvature of the loss

C is what a step costs in E[Δℓ²]; F is what it costs in KL divergence; the last two are what the loss really curves by.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient, per_example_jacobians
from efisher_teach.core.likelihoods import Likelihood, require_negative_log
from efisher_teach.core.precision import dot, in_float32


def empirical_fisher(G: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The empirical Fisher, the uncentred covariance of the per-example gradients: C = GᵀG/n.

    ΔᵀCΔ is the mean squared loss change to first order. C is neither the Fisher (labels of the model) nor ggᵀ.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        C (p, p), symmetric, positive semi-definite, of rank at most min(n, p).

    Raises:
        ValueError: G is not 2-D, is empty, or not finite; its squares overflow.

    Reference:
        F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", NeurIPS 2019.

    Examples:
        >>> G = jnp.array([[3.0, 1.0], [-3.0, 1.0]])
        >>> print(ef.empirical_fisher(G))  # the mean gradient is [0, 1]: what cancels in it stays in C
        [[9. 0.]
         [0. 1.]]
    """
    G = errors.gradients(G)
    return dot(G.T, G) / G.shape[0]


def gram(G: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """Inner products of the per-example gradients: K = GGᵀ/n.

    K and C = GᵀG/n have the same non-zero eigenvalues, so the same ε damps both.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        K (n, n), symmetric, positive semi-definite.

    Raises:
        ValueError: G is not 2-D, is empty, or not finite; its squares overflow.

    Examples:
        >>> G = jnp.array([[1.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
        >>> print(ef.gram(G))  # off the diagonal, how far two examples agree
        [[2.5 0.5]
         [0.5 2.5]]
    """
    G = errors.gradients(G)
    return dot(G, G.T) / G.shape[0]


def gradient_covariance(G: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The centred covariance of the per-example gradients: Σ = (G - 1gᵀ)ᵀ(G - 1gᵀ)/n = C - ggᵀ.

    (Σ + εI)⁻¹g and (C + εI)⁻¹g point the same way; the first is longer by the factor 1 + gᵀ(Σ + εI)⁻¹g. Where n ≤ p
    never take the pseudo-inverse of Σ: Σ⁺g is orthogonal to C⁺g there.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        Σ (p, p), symmetric, positive semi-definite, of rank at most min(n - 1, p).

    Raises:
        ValueError: G is not 2-D, is empty, or not finite; its squares overflow.

    Examples:
        >>> G = jnp.array([[3.0, 1.0], [-3.0, 1.0]])
        >>> print(ef.gradient_covariance(G))  # C is diag(9, 1), g is [0, 1]
        [[9. 0.]
         [0. 0.]]
    """
    return empirical_fisher(errors.gradients(G) - mean_gradient(G))


def fisher(
    loss_fn: Callable,
    params: PyTree,
    x: PyTree,
    *,
    output_fn: Callable,
    likelihood: Likelihood,
    sampled: int | None = None,
    key: Array | None = None,
) -> Float[Array, "p p"]:
    """The Fisher information, with labels that the model itself believes in: F = E_x E_y~p(y|x,θ)[∇ℓ ∇ℓᵀ].

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example: -log p(y | x, θ), up to a constant.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …). No labels: the model makes them.
        output_fn: `output_fn(params, x)`, what the likelihood is about; `Problem.output_fn`.
        likelihood: `likelihoods.gaussian`, `bernoulli` or `categorical`; `Problem.likelihood`.
        sampled: How many labels to draw for each example; None takes the expectation exactly.
        key: A `jax.random.key`, if labels are drawn.

    Returns:
        F (p, p), symmetric, positive semi-definite.

    Raises:
        ValueError: loss_fn is not the negative logarithm of the likelihood; sampled < 1; sampled without a key.

    Reference:
        J. Martens, "New insights and perspectives on the natural gradient method", JMLR 21(146), 2020.

    Examples:
        >>> gaussian, output_fn = ef.likelihoods.gaussian, lambda theta, x: theta * x
        >>> loss_fn = lambda theta, x, y: gaussian.loss(output_fn(theta, x), y)
        >>> x = jnp.array([1.0, 3.0])
        >>> print(ef.fisher(loss_fn, 1.0, x, output_fn=output_fn, likelihood=gaussian))  # E[x²], whatever y is
        [[5.]]
        >>> print(ef.empirical_fisher(jnp.array([[-1.0], [3.0]])))  # E[x² residual²]: as large if all residuals are ±1
        [[5.]]
    """
    params, (x, _) = errors.parameters(params), errors.data(x, None)
    n, (flat, unravel) = errors.examples(x, None), ravel_pytree(params)
    output = jax.vmap(lambda x: output_fn(params, x))(x)
    errors.finite_rows("output_fn", output, "The model overflows at these examples.")
    if sampled is None:
        labels, weights = jax.vmap(likelihood.labels)(output)
    else:
        sampled = errors.at_least_one("sampled", sampled)
        if key is None:
            errors.reject("key", "given where labels are sampled", "None", "Use e.g. jax.random.key(0).")
        sample = jax.vmap(jax.vmap(likelihood.sample, (0, None)))
        labels = sample(jax.random.split(key, (n, sampled)), output)
        weights = jnp.full((n, sampled), 1 / sampled, flat.dtype)

    def label_gradients(loss, x, labels):
        gradient = jax.grad(lambda flat, x, y: loss(unravel(flat), x, y))
        return jax.vmap(jax.vmap(gradient, (None, None, 0)), (None, 0, 0))(flat, x, labels)

    G = label_gradients(loss_fn, x, labels)
    errors.finite_rows("loss_fn", G, "Its gradient overflows or is undefined at these examples.")
    few = jax.tree.map(lambda leaf: leaf[:8], (x, labels))
    believed = label_gradients(lambda params, x, y: likelihood.loss(output_fn(params, x), y), *few)
    require_negative_log(likelihood, G[:8], believed)
    # The weights on one side: their root would have no derivative where a label is all but impossible.
    F = dot((weights[..., None] * G).reshape(-1, flat.size).T, G.reshape(-1, flat.size)) / n
    errors.finite_result("loss_fn", F)
    return (F + F.T) / 2


def gauss_newton(
    output_fn: Callable, output_loss: Callable, params: PyTree, x: PyTree, y: PyTree
) -> Float[Array, "p p"]:
    """The generalised Gauss-Newton matrix, for a loss that is split as ℓ = a(f(θ, x), y): E[Jᵀ (∂²a/∂z²) J].

    It depends on where the loss is split. Split at the natural parameter z of a likelihood, it is the Fisher.

    Args:
        output_fn: `output_fn(params, x)`, the output z of one example.
        output_loss: `output_loss(z, y)`, the loss of one output; e.g. `Problem.likelihood.loss`.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).

    Returns:
        The matrix (p, p), symmetric; positive semi-definite if a is convex in z.

    Raises:
        ValueError: x and y differ in length, the loss is not one number, or a derivative is not finite.

    Examples:
        >>> output_fn, output_loss = lambda theta, x: theta**2 * x, lambda z, y: (z - y) ** 2 / 2
        >>> x, y = jnp.array([1.0]), jnp.array([4.0])
        >>> print(ef.gauss_newton(output_fn, output_loss, 1.0, x, y))  # (2θx)²: the residual is left out
        [[4.]]
    """
    params, (x, y) = errors.parameters(params), errors.data(x, y)
    n = errors.scalar_loss(lambda params, x, y: output_loss(output_fn(params, x), y), params, x, y)
    J = per_example_jacobians(output_fn, params, x)
    output = jax.vmap(lambda x: output_fn(params, x))(x)
    H = jax.vmap(lambda z, y: jax.hessian(output_loss)(z, y).reshape(z.size, z.size))(output, y)
    errors.finite_rows("output_loss", H, "Its second derivative is undefined at these examples.")
    B = dot(J.reshape(-1, J.shape[-1]).T, dot(H, J).reshape(-1, J.shape[-1])) / n
    errors.finite_result("output_fn", B)
    return (B + B.T) / 2


def hessian(loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree) -> Float[Array, "p p"]:
    """The Hessian of the mean loss: H = E[∂²ℓ/∂θ²]. It may have negative eigenvalues.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).

    Returns:
        H (p, p), symmetric.

    Raises:
        ValueError: As in `per_example_losses`; a second derivative that is not finite.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta**2 * x - y) ** 2 / 2
        >>> print(ef.hessian(loss_fn, 1.0, jnp.array([1.0]), jnp.array([4.0])))  # (2θx)² + 2x(θ²x - y) = 4 - 6
        [[-2.]]
    """
    params, (x, y) = errors.parameters(params), errors.data(x, y)
    errors.scalar_loss(loss_fn, params, x, y)
    flat, unravel = ravel_pytree(params)
    H = jax.hessian(lambda flat: jnp.mean(jax.vmap(loss_fn, (None, 0, 0))(unravel(flat), x, y)))(flat)
    errors.finite_rows("loss_fn", H, "Its second derivative is undefined at these params.")
    return (H + H.T) / 2


def quadratic_form(A: Real[Array, "p p"], delta: Real[Array, "*m p"]) -> Float[Array, "*m"]:
    """The cost of a step in the metric A: ΔᵀAΔ. With A = C it is the mean squared first-order loss change.

    Args:
        A: A symmetric matrix (p, p).
        delta: A step (p,), or many of them (…, p).

    Returns:
        A number, or one a step (…).

    Raises:
        ValueError: A is not square, symmetric and finite; delta does not fit.

    Examples:
        >>> C, delta = jnp.array([[0.5, 0.0], [0.0, 2.0]]), jnp.array([-0.1, -0.05])
        >>> print(f"{ef.quadratic_form(C, delta):.3f}")  # ½ 0.1² + 2 0.05²
        0.010
    """
    A, delta = errors.symmetric("A", A), errors.as_float("delta", delta)
    if delta.shape[-1:] != A.shape[:1]:
        required, got = f"of shape (…, {len(A)}), as A is {A.shape}", f"shape {delta.shape}"
        errors.reject("delta", required, got, "One step a row.")
    cost = jnp.sum(dot(delta, A) * delta, axis=-1)
    errors.finite_result("delta", cost)
    return cost


def generalised_eigenvalues(A: Real[Array, "p p"], B: Real[Array, "p p"]) -> Float[Array, " p"]:
    """Ratios of A to B, direction by direction: the κ with Av = κBv. All 1 if A = B.

    They do not depend on the parametrization: JᵀAJ and JᵀBJ have the same κ.

    Args:
        A: A symmetric matrix (p, p), e.g. the empirical Fisher.
        B: A symmetric positive definite matrix (p, p), e.g. the Fisher.

    Returns:
        κ (p,), descending; the first and the last bound ΔᵀAΔ/ΔᵀBΔ.

    Raises:
        ValueError: A matrix is not square, symmetric and finite; the shapes differ; B is not positive definite.

    Examples:
        >>> A, B = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.array([[1.0, 0.0], [0.0, 6.0]])
        >>> print(ef.generalised_eigenvalues(A, B))  # A is twice B one way, and half of it another
        [2.  0.5]
    """
    A, B = errors.symmetric("A", A), errors.symmetric("B", B)
    if A.shape != B.shape:
        errors.reject("B", f"of the shape of A, {A.shape}", f"shape {B.shape}", "Use the same parameters.")
    if errors.is_concrete(B):
        low, high = np.linalg.eigvalsh(np.asarray(B, float))[[0, -1]]
        if not low > len(B) * float(jnp.finfo(B.dtype).eps) * high:
            action = "Some direction costs nothing in it: take more examples than parameters, or add damping."
            errors.reject("B", "positive definite", f"eigenvalues from {low:.3g} to {high:.3g}", action)
    ratios = _ratios(A, B)
    errors.finite_result("A", ratios)
    return ratios


@in_float32
def _ratios(A, B):
    """The eigenvalues of L⁻¹AL⁻ᵀ, B = LLᵀ, descending."""
    L = jnp.linalg.cholesky(B)
    half = jax.scipy.linalg.solve_triangular(L, A, lower=True)
    return jnp.linalg.eigvalsh(jax.scipy.linalg.solve_triangular(L, half.T, lower=True))[::-1]
