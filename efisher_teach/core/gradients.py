"""All first-order differentiation: per-example losses, gradients and Jacobians, and weighted sums of gradients.

A `loss_fn(params, x, y)` is the loss of ONE example; `params` is any pytree. Parameters are ravelled here,
once: everything after this room sees the matrix G (n, p), whose row i is the gradient of example i.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.precision import dot


def of_each(function: Callable, x: PyTree, y: PyTree, chunk_size: int | None = None) -> PyTree:
    """`function(x, y)` of every example, of `chunk_size` of them at a time; None means all at once."""
    if chunk_size is None or chunk_size >= len(jax.tree.leaves((x, y))[0]):
        return jax.vmap(function)(x, y)
    return lax.map(lambda example: function(*example), (x, y), batch_size=chunk_size)


def per_example_losses(
    loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, *, chunk_size: int | None = None
) -> Float[Array, " n"]:
    """The loss ℓᵢ(θ) of every example.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        chunk_size: How many examples to evaluate at once; None means all.

    Returns:
        The losses (n,), in the unit of the loss.

    Raises:
        ValueError: x and y differ in length, loss_fn does not return one number, or chunk_size < 1.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta * x - y) ** 2 / 2  # of one example
        >>> print(ef.per_example_losses(loss_fn, 1.0, jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0])))
        [2. 0.]
    """
    x, y = errors.data(x, y)
    errors.scalar_loss(loss_fn, params, x, y)
    return of_each(lambda x, y: loss_fn(params, x, y), x, y, checked_chunk_size(chunk_size))


def checked_chunk_size(value: Any) -> int | None:
    """A number of examples, or None for all of them."""
    action = "For all at once, leave it out."
    return None if value is None else errors.at_least_one("chunk_size", value, action)


def per_example_gradients(
    loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, *, chunk_size: int | None = None
) -> Float[Array, "n p"]:
    """The gradient of every example, one a row: Gᵢ = ∇ℓᵢ(θ).

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree; its leaves are ravelled in `jax.tree` order into p numbers.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        chunk_size: How many examples to differentiate at once; None means all. Bounds the memory
            of the backward pass, not of the result.

    Returns:
        G (n, p).

    Raises:
        ValueError: As in `per_example_losses`; chunk_size < 1; a gradient that is not finite (its row is named).

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2  # its gradient is (xᵀθ - y)x
        >>> x, y = jnp.eye(2), jnp.array([-1.0, -2.0])
        >>> print(ef.per_example_gradients(loss_fn, jnp.zeros(2), x, y))
        [[1. 0.]
         [0. 2.]]
    """
    params, (x, y) = errors.parameters(params), errors.data(x, y)
    errors.scalar_loss(loss_fn, params, x, y)
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda flat, x, y: loss_fn(unravel(flat), x, y))
    G = of_each(lambda x, y: gradient(flat, x, y), x, y, checked_chunk_size(chunk_size))
    errors.finite_rows("loss_fn", G, "Its gradient overflows or is undefined at these examples.")
    return G


def per_example_jacobians(output_fn: Callable, params: PyTree, x: PyTree) -> Float[Array, "n k p"]:
    """The Jacobian of the model's output at every example: Jᵢ = ∂f(θ, xᵢ)/∂θ.

    Args:
        output_fn: `output_fn(params, x)`, the output of one example, of any shape; it is ravelled into k numbers.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).

    Returns:
        J (n, k, p).

    Raises:
        ValueError: x is empty, or a Jacobian is not finite (its row is named).

    Examples:
        >>> output_fn = lambda theta, x: jnp.stack([theta[0] * x, theta[0] * theta[1]])
        >>> print(per_example_jacobians(output_fn, jnp.array([1.0, 2.0]), jnp.array([5.0]))[0])
        [[5. 0.]
         [2. 1.]]
    """
    params, (x, _) = errors.parameters(params), errors.data(x, None)
    errors.examples(x, None)
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda flat, x: jnp.ravel(output_fn(unravel(flat), x)))
    J = jax.vmap(jacobian, in_axes=(None, 0))(flat, x)
    errors.finite_rows("output_fn", J, "Its derivative overflows or is undefined at these examples.")
    return J


def loss_changes(
    loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, delta: Real[Array, " p"]
) -> Float[Array, " n"]:
    """Measure what a step does to every loss: Δℓᵢ = ℓᵢ(θ + Δ) - ℓᵢ(θ). To first order it is gᵢᵀΔ.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        delta: The step Δ (p,), as in `Step.delta`.

    Returns:
        Δℓ (n,), in the unit of the loss.

    Raises:
        ValueError: As in `per_example_losses`; delta does not fit the parameters, or leads where a loss is not finite.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta - y) ** 2 / 2
        >>> y = jnp.array([1.0, -1.0])  # at θ = 0 the gradients are -1 and 1
        >>> print(ef.loss_changes(loss_fn, 0.0, y, y, jnp.array([1.0])))  # to first order [-1 1]; curvature adds ½
        [-0.5  1.5]
    """
    flat, unravel = ravel_pytree(errors.parameters(params))
    delta = errors.as_float("delta", delta)
    errors.shaped("delta", delta, flat.shape, "one number a parameter", "Use Step.delta.")
    after = per_example_losses(loss_fn, unravel(flat + delta.astype(flat.dtype)), x, y)
    changes = after - per_example_losses(loss_fn, params, x, y)
    errors.finite_rows("delta", changes, "It leads where these losses are infinite or undefined: shorten it.")
    return changes


def remainders(
    loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, delta: Real[Array, " p"], radii: np.ndarray
) -> Float[Array, "m n"]:
    """The remainder of each change of a loss, on the way along a step: ℓᵢ(θ + rΔ) - ℓᵢ(θ) - r gᵢᵀΔ.

    By Taylor it is ∫₀ʳ (r - u)ℓ″(u)du, where nothing cancels. ℓ″ is taken at 16 places of the step, and the polynomial
    through them is integrated.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        delta: The step Δ (p,).
        radii: r (m,), in (0, 1].

    Returns:
        The remainders (m, n), in the unit of the loss.

    Examples:
        >>> loss_fn = lambda theta, x, y: (theta - y) ** 2 / 2
        >>> y = jnp.array([1.0, -1.0])
        >>> print(remainders(loss_fn, 0.0, y, y, jnp.array([2.0]), np.array([0.5, 1.0])))  # ½(2r)², of both
        [[0.5 0.5]
         [2.  2. ]]
    """
    flat, unravel = ravel_pytree(params)
    nodes = (1 - np.cos(np.pi * np.linspace(0, 1, 16))) / 2
    powers = np.arange(len(nodes))
    integrals = radii[:, None] ** (powers + 2) / ((powers + 1) * (powers + 2))
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, integrals.T).T
    losses = jax.jacfwd(jax.jacfwd(lambda u: per_example_losses(loss_fn, unravel(flat + u * delta), x, y)))
    bends = jax.vmap(losses)(jnp.asarray(nodes, flat.dtype))
    return dot(jnp.asarray(weights, flat.dtype), bends)


def mean_gradient(G: Float[Array, "n p"]) -> Float[Array, " p"]:
    """The gradient of the mean loss: g = Gᵀ1/n.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        g (p,).

    Raises:
        ValueError: G is not 2-D, is empty, or has rows that are not finite.

    Examples:
        >>> G = jnp.array([[3.0, 1.0], [-3.0, 1.0]])
        >>> print(ef.mean_gradient(G))  # the examples want opposite things along θ₁: the mean hides it
        [0. 1.]
    """
    return jnp.mean(errors.gradients(G), axis=0)


@jax.jit
def cancels(terms: Float[Array, "n p"], mean: Float[Array, " p"]) -> Bool[Array, ""]:
    """True if a mean is but the rounding of its terms, column by column; False if a term is not finite."""
    rounding = 4 * jnp.finfo(terms.dtype).eps * jnp.max(jnp.abs(terms), axis=0)
    return jnp.all((jnp.abs(mean) <= rounding) & jnp.isfinite(rounding))


def weighted_gradient(
    loss_fn: Callable,
    params: PyTree,
    x: PyTree,
    y: PyTree,
    weights: Real[Array, " n"],
    *,
    chunk_size: int | None = None,
) -> PyTree:
    """Any combination of the per-example gradients for the price of one backward pass: Gᵀw = ∇ Σᵢ wᵢ ℓᵢ(θ).

    With w = (K + εI)⁻¹1/n this is the empirical-Fisher direction, and G is never formed (`solve_dual`).

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        params: The parameters θ, any pytree.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        weights: w (n,), of any sign; held constant. A SUM: for the mean gradient use w = 1/n.
        chunk_size: How many examples to differentiate at once, each of them evaluated twice; None means all.

    Returns:
        A pytree shaped like `params`.

    Raises:
        ValueError: As in `per_example_losses`; weights of another length; chunk_size < 1.

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> here = jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0])  # G = [[1, 0], [0, 2]], so K = diag(½, 2)
        >>> print(ef.weighted_gradient(loss_fn, *here, jnp.array([0.5, 0.5])))  # w = 1/n: the mean gradient
        [0.5 1. ]
        >>> print(ef.weighted_gradient(loss_fn, *here, jnp.array([1.0, 0.25])))  # w = K⁻¹1/n: C⁻¹g
        [1.  0.5]
    """
    params, (x, y) = errors.parameters(params), errors.data(x, y)
    n = errors.scalar_loss(loss_fn, params, x, y)
    weights = lax.stop_gradient(errors.as_float("weights", weights))
    errors.shaped("weights", weights, (n,), "one an example", "Ravel it.")
    chunk_size = checked_chunk_size(chunk_size)
    # Without the checkpoint, the map would keep what the backward pass of all chunks needs.
    loss = loss_fn if chunk_size is None else jax.checkpoint(loss_fn)
    losses = lambda params: of_each(lambda x, y: loss(params, x, y), x, y, chunk_size)  # noqa: E731
    return jax.grad(lambda params: jnp.sum(weights * losses(params)))(params)
