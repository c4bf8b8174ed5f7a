"""The Gram matrix K: how much each pair of examples pulls the same way, from G or, without ever forming G, from a loss.

The idea of `loss_gram`: the weights of a dense layer z = Wx have the gradient δxᵀ, δ = ∂ℓ/∂z, an outer product. Two of
these have the inner product ⟨δxᵀ, δ′x′ᵀ⟩ = (δᵀδ′)(xᵀx′). With the inputs X (n, a) and the errors D (n, b) of a layer,

    its part of nK is (XXᵀ)∘(DDᵀ)         and its part of Gᵀw is Xᵀ diag(w) D:

n(n + a + b) numbers where G has nab. Nothing is asked of the model: the gradient of ONE example is traced, and each
gradient is followed back to the product that made it. Then the trace is run, for all examples at once, only as far as
the factors of that product. Where a layer is used T times (a sequence, tied weights), x and δ have T rows each, and
the inner product is Σ_st (δ_sᵀδ′_t)(x_sᵀx′_t).

Where that does not pay, or there is no such product (a bias, an embedding, a scan), the dense rows of G are taken
instead: all at once while they are few, or no more than the factors (those of biases are the errors D themselves),
otherwise a part at a time. Exact all the same, and the memory stays bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial, keystr, register_dataclass, tree_flatten_with_path
from jaxtyping import Array, Float, PyTree

from efisher_teach import errors
from efisher_teach.core.gradients import weighted_gradient
from efisher_teach.core.precision import dot
from efisher_teach.network.strategies import Rows, at_least_float32, choose_strategy
from efisher_teach.network.trace import evaluate, trace_gradients

NUMBERS = 2**26  # how many may be held beside what the loss itself needs: 256 MiB in float32


class Leaf(NamedTuple):
    """How one array of the parameters enters K.

    Examples:
        >>> layer = {"W": jnp.ones((20, 10)), "b": jnp.zeros(20)}
        >>> loss_fn = lambda params, x, y: jnp.sum((params["W"] @ x + params["b"] - y) ** 2)
        >>> for leaf in ef.loss_gram(loss_fn, layer, jnp.ones((5, 10)), jnp.zeros((5, 20))).leaves:
        ...     print(leaf.name, leaf.way)
        ['W'] factors
        ['b'] rows
    """

    name: str
    """Its place in the parameters."""
    way: str
    """"factors": its gradients are never formed; "rows": all are; "columns" or "blocks": a part of them at a time."""
    why: str
    """What the trace shows."""


@partial(register_dataclass, data_fields=["losses", "K", "weighted_gradient"], meta_fields=["leaves"])
@dataclass(frozen=True)
class LossGram:
    """K = GGᵀ/n of a loss, and w ↦ Gᵀw, without G.

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> known = ef.loss_gram(loss_fn, jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))
        >>> print(known.losses, known.weighted_gradient(jnp.array([0.5, 0.5])))  # w = 1/n: the mean gradient
        [0.5 2. ] [0.5 1. ]
    """

    losses: Float[Array, "*m n"]
    """ℓᵢ(θ) of every example."""
    K: Float[Array, "*m n n"]
    """GGᵀ/n, symmetric (under `jit` to rounding), positive semi-definite."""
    weighted_gradient: Callable[[Float[Array, " n"]], PyTree]
    """w ↦ Gᵀw, shaped like the parameters: with w = (K + εI)⁻¹1/n it is the direction (C + εI)⁻¹g."""
    leaves: tuple[Leaf, ...]
    """How each array of the parameters was treated, and why."""


def loss_gram(
    loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree, *, chunk_size: int | None = None
) -> LossGram:
    """The Gram matrix of any loss, for about the price of one gradient.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar. Compiled once: what else it reads, such as
            a global, counts as it was then.
        params: The parameters θ, any pytree of floating-point arrays.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        chunk_size: How many dense gradients to hold at once where a layer needs them; None means 256 MiB of them,
            or as many numbers as the factors have.

    Returns:
        A `LossGram`.

    Raises:
        ValueError: As in `per_example_losses`; params that are not floating-point; a loss or gradient that is not
            finite (its row is named).

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> known = ef.loss_gram(loss_fn, jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))
        >>> print(known.K)  # of G = [[1, 0], [0, 2]], which is never formed
        [[0.5 0. ]
         [0.  2. ]]
        >>> print(known.weighted_gradient(ef.solve_gram(known.K)))  # C⁻¹g
        [1.  0.5]
    """
    errors.scalar_loss(loss_fn, params, x, y)
    errors.floating("params", params)
    errors.hashable("loss_fn", loss_fn)
    chunk_size = None if chunk_size is None else errors.at_least_one("chunk_size", chunk_size)
    result = _loss_gram(loss_fn, chunk_size, params, x, y)
    if errors.is_concrete(result.K):
        result = replace(result, K=(result.K + result.K.T) / 2)
    action = "Its value or its gradient overflows or is undefined at these examples."
    errors.finite_rows("loss_fn", jnp.column_stack([result.losses, jnp.diag(result.K)]), action)
    return result


@partial(jax.jit, static_argnums=(0, 1))
def _loss_gram(loss_fn, chunk_size, params, x, y):
    arrays, n = jax.tree.leaves(params), len(jax.tree.leaves((x, y))[0])
    limit = NUMBERS if chunk_size is None else chunk_size * sum(array.size for array in arrays)
    trace = trace_gradients(loss_fn, params, *_first(x, y))
    loss, *gradients = trace.jaxpr.outvars
    layers = [choose_strategy(trace, out, n, limit) for out in gradients]
    dense = [layer for layer in layers if isinstance(layer, Rows)]
    width = sum(layer.size for layer in dense)
    beside = sum(layer.size for layer in layers if not isinstance(layer, Rows)) if chunk_size is None else 0
    in_blocks = n * width > max(limit, n * beside)  # too many rows: made again, a block of examples at a time
    held = [i for i, layer in enumerate(layers) if not (in_blocks and isinstance(layer, Rows))]

    def examine(x, y, chosen):
        """The loss of one example, and what these layers need of it."""
        read = evaluate(trace.jaxpr, trace.constants, jax.tree.leaves((params, x, y)))
        needed = [layer.read_example(lambda var: at_least_float32(read(var))) for layer in chosen]
        return at_least_float32(read(loss)), needed

    losses, factors_of = jax.vmap(lambda x, y: examine(x, y, [layers[i] for i in held]))(x, y)
    read = evaluate(trace.jaxpr, trace.constants, jax.tree.leaves((params, *_first(x, y))))
    common = [layers[i].read_common(read) for i in held]
    K = jnp.zeros((n, n), losses.dtype)
    for i, factors, constant in zip(held, factors_of, common, strict=True):
        K = K + layers[i].inner_products(factors, constant, limit)
    if in_blocks:
        rows = jax.vmap(lambda x, y: jnp.concatenate(examine(x, y, dense)[1]))
        K = K + _in_blocks(rows, x, y, max(1, limit // (2 * width)))

    def combine(params, x, y, factors_of, common, weights):
        arrays, tree = jax.tree.flatten(params)
        if in_blocks or any(
            layer.weighted_gradient is None for layer in layers
        ):  # one more backward pass, for these
            arrays = jax.tree.leaves(weighted_gradient(loss_fn, params, x, y, weights))
        for i, factors, constant in zip(held, factors_of, common, strict=True):
            if direct := layers[i].weighted_gradient:
                arrays[i] = (
                    direct(factors, constant, weights).reshape(arrays[i].shape).astype(arrays[i].dtype)
                )
        return jax.tree.unflatten(tree, arrays)

    names = [keystr(path) for path, _ in tree_flatten_with_path(params)[0]]
    ways = ["blocks" if in_blocks and isinstance(layer, Rows) else layer.way for layer in layers]
    leaves = tuple(map(Leaf, names, ways, [layer.why for layer in layers]))
    return LossGram(losses, K / n, Partial(jax.jit(combine), params, x, y, factors_of, common), leaves)


def _first(x, y):
    return jax.tree.map(lambda leaf: leaf[0], (x, y))


def _in_blocks(rows, x, y, size):
    """RRᵀ of rows that are made again for each pair of blocks of examples."""
    n = len(jax.tree.leaves((x, y))[0])
    blocks = ceil(n / size)
    index = jnp.minimum(jnp.arange(blocks * size), n - 1)  # the last block may repeat the last example

    def block(i):
        return rows(*jax.tree.map(lambda leaf: leaf[lax.dynamic_slice_in_dim(index, i * size, size)], (x, y)))

    def add(i, K):
        R = block(i)
        return lax.fori_loop(
            0, i + 1, lambda j, K: lax.dynamic_update_slice(K, dot(R, block(j).T), (i * size, j * size)), K
        )

    K = jnp.zeros((blocks * size, blocks * size), jax.eval_shape(rows, x, y).dtype)
    K = lax.fori_loop(0, blocks, add, K)[:n, :n]
    return jnp.tril(K) + jnp.tril(K, -1).T
