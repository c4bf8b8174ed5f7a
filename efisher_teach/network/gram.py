"""The Gram matrix K of a loss, how much each pair of examples asks for the same step, without ever forming G.

The idea of `loss_gram`: the weights of a dense layer z = Wx have the gradient δxᵀ, δ = ∂ℓ/∂z, an outer product. Two of
these have the inner product ⟨δxᵀ, δ′x′ᵀ⟩ = (δᵀδ′)(xᵀx′). With the inputs X (n, a) and the errors D (n, b) of a layer,

    its part of nK is (XXᵀ)∘(DDᵀ)         and its part of Gᵀw is Xᵀ diag(w) D:

n(n + a + b) numbers where G has nab. The model need not be prepared: the gradient of ONE example is traced, and that of
each array is followed back to the product that made it. Then the trace is run, for all examples at once, only as far as
the factors of that product. Where a layer is used T times (a sequence, tied weights), x and δ have T rows each, and
the inner product is Σ_st (δ_sᵀδ′_t)(x_sᵀx′_t).

Where that does not pay, or there is no such product (a bias, an embedding, a scan), the dense rows of G are taken
instead: all at once if they are few, or no more numbers than the factors (the rows of a bias are the errors D
themselves); otherwise a part at a time. The result is just as exact, and the memory stays bounded.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial, keystr, register_dataclass, tree_flatten_with_path
from jaxtyping import Array, Float, PyTree

from efisher_teach import errors
from efisher_teach.core.gradients import checked_chunk_size, of_each, weighted_gradient
from efisher_teach.core.precision import dot
from efisher_teach.network.strategies import Rows, at_least_float32, choose_strategy
from efisher_teach.network.trace import evaluate, trace_gradients

NUMBERS = 2**26  # how many may be held beyond those of the loss itself: 256 MiB in float32


class Leaf(NamedTuple):
    """The part of one array of the parameters in K.

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
    """The reason, as the trace shows it."""


@partial(
    register_dataclass, data_fields=["losses", "unit", "upper", "scaled_gradient"], meta_fields=["leaves"]
)
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
    unit: Float[Array, "*m"]
    """A power of 2 near the entries of G. Only G/unit is ever squared, so that no loss is too small or too large."""
    upper: Float[Array, "*m n n"]
    """The upper triangle of K/unit²; 0 below it."""
    scaled_gradient: Callable[[Float[Array, " n"]], PyTree]
    """w ↦ Gᵀw/unit."""
    leaves: tuple[Leaf, ...]
    """The treatment of each array of the parameters, and the reason."""

    @property
    def K(self) -> Float[Array, "*m n n"]:
        """GGᵀ/n, symmetric, positive semi-definite."""
        unit = self.unit[..., None, None]
        return (self.upper + jnp.matrix_transpose(jnp.triu(self.upper, 1))) * unit * unit

    def weighted_gradient(self, weights: Float[Array, " n"]) -> PyTree:
        """Gᵀw, shaped like the parameters: with w = (K + εI)⁻¹1/n it is the direction (C + εI)⁻¹g."""
        return jax.tree.map(lambda leaf: self.unit.astype(leaf.dtype) * leaf, self.scaled_gradient(weights))


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
        chunk_size: How many examples to differentiate at once, and how many dense gradients to hold where an array
            needs them. None means all, and 256 MiB of gradients, or as many numbers as the factors have, if that is
            more.

    Returns:
        A `LossGram`.

    Raises:
        ValueError: As in `per_example_losses`; params are not floating-point; a loss or gradient is not finite (its
            row is named).

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> known = ef.loss_gram(loss_fn, jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))
        >>> print(known.K)  # of G = [[1, 0], [0, 2]], which is never formed
        [[0.5 0. ]
         [0.  2. ]]
        >>> print(known.weighted_gradient(ef.solve_gram(known.K)))  # C⁻¹g
        [1.  0.5]
    """
    params, (x, y) = errors.parameters(params), errors.data(x, y)
    _require_room(errors.scalar_loss(loss_fn, params, x, y))
    check_hashable(loss_fn)
    chunk_size = checked_chunk_size(chunk_size)
    result = _loss_gram(loss_fn, chunk_size, params, x, y)
    action = "Its value or its gradient overflows or is undefined at these examples."
    errors.finite_rows("loss_fn", jnp.column_stack([result.losses, jnp.diag(result.upper)]), action)
    return result


@partial(jax.jit, static_argnums=(0, 1))
def _loss_gram(loss_fn, chunk_size, params, x, y):
    n, first = len(jax.tree.leaves((x, y))[0]), jax.tree.map(lambda leaf: leaf[0], (x, y))
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    limit = NUMBERS if chunk_size is None else chunk_size * p
    trace = trace_gradients(loss_fn, params, *first)
    loss, *gradients = trace.jaxpr.outvars
    strategies = [choose_strategy(trace, gradient, n, limit, n * p <= limit) for gradient in gradients]

    rows = [strategy for strategy in strategies if isinstance(strategy, Rows)]
    width = sum(strategy.size for strategy in rows)
    factors = sum(strategy.size for strategy in strategies) - width
    # If the rows are too many, they are made for a block of examples at a time, anew for each pair of blocks.
    by_blocks = n * width > max(limit, n * factors if chunk_size is None else 0)
    places = [i for i, each in enumerate(strategies) if not (by_blocks and isinstance(each, Rows))]
    at_once = [strategies[i] for i in places]

    def values(x, y):
        return evaluate(trace.jaxpr, trace.constants, jax.tree.leaves((params, x, y)))

    def read_examples(strategies, x, y):
        """The losses, and what these strategies need of each example."""

        def read_example(x, y):
            read = values(x, y)
            raised = lambda var: at_least_float32(read(var))  # noqa: E731
            return raised(loss), [strategy.read_example(raised) for strategy in strategies]

        return of_each(read_example, x, y, chunk_size)

    losses, needed = read_examples(at_once, x, y)
    read = values(*first)
    constants = [strategy.read_constant(read) for strategy in at_once]
    size = max(1, limit // (2 * width)) if by_blocks else 0
    block = read_examples(rows, *jax.tree.map(lambda leaf: leaf[:size], (x, y)))[1] if by_blocks else []
    unit = _unit([*needed, *constants, *block])
    needed, constants = ([_in_unit(each, unit) for each in parts] for parts in (needed, constants))
    parts = [
        strategy.inner_products(of_examples, constant, limit)
        for strategy, of_examples, constant in zip(at_once, needed, constants, strict=True)
    ]
    if by_blocks:
        make_rows = lambda x, y: jnp.concatenate(read_examples(rows, x, y)[1], axis=1) / unit  # noqa: E731
        K = _by_blocks(make_rows, x, y, size)
        parts.append(lambda start, end: K[start:end, start:])
    upper = _upper_triangle(n, parts)

    names = [keystr(path) for path, _ in tree_flatten_with_path(params)[0]]
    ways = ["blocks" if by_blocks and isinstance(each, Rows) else each.way for each in strategies]
    leaves = tuple(map(Leaf, names, ways, [strategy.why for strategy in strategies]))
    combine = jax.jit(partial(_combine, loss_fn, strategies, places, chunk_size))
    return LossGram(losses, unit, upper / n, Partial(combine, params, x, y, needed, constants, unit), leaves)


def _upper_triangle(n, parts):
    """The sum of symmetric matrices that are known by blocks."""
    blocks = 4 if n >= 512 else 1  # the products of fewer rows at a time are slower, by more than is saved
    ends = [n * (i + 1) // blocks for i in range(blocks)]
    rows = []
    for start, end in zip([0, *ends], ends, strict=False):
        row = sum(block(start, end) for block in parts)
        rows.append(jnp.pad(row, ((0, 0), (start, 0))))
    return jnp.triu(jnp.concatenate(rows))


def _unit(parts):
    """A power of 2 near the largest entry of these rows, or product of factors, in sixteen of the examples."""
    exponents = [
        sum(jnp.log2(jnp.max(jnp.abs(factor[:: max(1, len(factor) // 16)]))) for factor in part)
        for part in (part if isinstance(part, tuple) else (part,) for part in parts if part is not None)
    ]
    largest = jnp.max(jnp.stack(exponents))
    exponent = jnp.where(jnp.isfinite(largest), jnp.ceil(largest), 0)
    return jnp.ldexp(jnp.ones((), largest.dtype), jnp.clip(exponent, -120, 120).astype(int))


def _in_unit(part, unit):
    """Rows, or factors of rows, by a unit; None stays None."""
    if isinstance(part, tuple):
        return part[0], _in_unit(part[1], unit)
    # As a matrix, so that XLA sees that the rows of a bias are the errors of its layer, and takes one product for both
    return part if part is None else (part.reshape(len(part), -1) / unit).reshape(part.shape)


def _combine(loss_fn, strategies, places, chunk_size, params, x, y, needed, constants, unit, weights):
    """Gᵀw/unit, by each strategy that has a cheap way; where one has none, one more backward pass gives its part."""
    arrays, tree = jax.tree.flatten(params)
    if len(places) < len(strategies) or any(strategy.weighted_gradient is None for strategy in strategies):
        dense = weighted_gradient(loss_fn, params, x, y, weights / unit, chunk_size=chunk_size)
        arrays = jax.tree.leaves(dense)
    for i, of_examples, constant in zip(places, needed, constants, strict=True):
        if combine := strategies[i].weighted_gradient:
            array = combine(of_examples, constant, weights)
            arrays[i] = array.reshape(arrays[i].shape).astype(arrays[i].dtype)
    return jax.tree.unflatten(tree, arrays)


def _by_blocks(make_rows, x, y, size):
    """RRᵀ of rows that are made again for each pair of blocks of examples, on the diagonal and above it."""
    n = len(jax.tree.leaves((x, y))[0])
    blocks = ceil(n / size)
    index = jnp.minimum(jnp.arange(blocks * size), n - 1)  # the last block may repeat the last example

    def block(i):
        chosen = lax.dynamic_slice_in_dim(index, i * size, size)
        return make_rows(*jax.tree.map(lambda leaf: leaf[chosen], (x, y)))

    def add_row_of_blocks(i, K):
        R = block(i)

        def add_block(j, K):
            return lax.dynamic_update_slice(K, dot(R, block(j).T), (i * size, j * size))

        return lax.fori_loop(i, blocks, add_block, K)

    K = jnp.zeros((blocks * size, blocks * size), jax.eval_shape(make_rows, x, y).dtype)
    return lax.fori_loop(0, blocks, add_row_of_blocks, K)[:n, :n]


def _require_room(n):
    """Room for a few n × n matrices, such as K and its factors, in the memory of this machine or of its accelerator."""
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if memory is None and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory and 4 * n**2 > memory / 4:
        wanted = "few enough that K (n, n) takes at most a quarter of the memory"
        got = f"n = {n}: 4n² bytes are {4 * n**2 / 2**30:.1f} GiB of {memory / 2**30:.1f}"
        errors.reject("x and y", wanted, got, "Take batches.")


def check_hashable(loss_fn: Any) -> None:
    """A function that JAX can remember having compiled."""
    try:
        hash(loss_fn)
    except TypeError:
        action = "Wrap it in a function: lambda params, x, y: loss(params, x, y)."
        errors.reject("loss_fn", "hashable, as it is compiled once", type(loss_fn).__name__, action)
