"""The Gram matrix K: how much each pair of examples pulls the same way, from G or, without ever forming G, from a loss.

The idea of `loss_gram`: the weights of a dense layer z = Wx have the gradient δxᵀ, δ = ∂ℓ/∂z, an outer product. Two of
these have the inner product ⟨δxᵀ, δ′x′ᵀ⟩ = (δᵀδ′)(xᵀx′). With the inputs X (n, a) and the errors D (n, b) of a layer,

    its part of nK is (XXᵀ)∘(DDᵀ)         and its part of Gᵀw is Xᵀ diag(w) D:

n(n + a + b) numbers where G has nab. Nothing is asked of the model: the gradient of ONE example is traced, and each
gradient is followed back to the product that made it. Then the trace is run, for all examples at once, only as far as
the factors of that product. Where a layer is used T times (a sequence, tied weights), x and δ have T rows each, and
the inner product is Σ_st (δ_sᵀδ′_t)(x_sᵀx′_t).

Where that does not pay, or there is no such product (a bias, an embedding, a scan), the dense rows of G are taken
instead: all at once while they are few, otherwise a part at a time. Exact all the same, and the memory stays bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial, keystr, register_dataclass, tree_flatten_with_path
from jaxtyping import Array, Float, PyTree

from efisher_teach import _checks
from efisher_teach._precision import dot, einsum
from efisher_teach._trace import convolve, evaluate, move, terms, trace_gradients, varies
from efisher_teach.gradients import weighted_gradient

NUMBERS = 2**26  # how many may be held beside what the loss itself needs: 256 MiB in float32


def gram(G: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """Inner products of the per-example gradients: K = GGᵀ/n.

    K and C = GᵀG/n have the same non-zero eigenvalues, so the same ε damps both.

    Args:
        G: Per-example gradients (n, p).

    Returns:
        K (n, n), symmetric, positive semi-definite.

    Raises:
        ValueError: G is not 2-D, is empty, or not finite; its squares overflow.
    """
    G = _checks.gradients(G)
    K = dot(G, G.T) / G.shape[0]
    _checks.finite_result("G", K)
    return K


class Leaf(NamedTuple):
    """How one array of the parameters enters K."""

    name: str
    """Its place in the parameters."""
    way: str
    """"factors": its gradients are never formed; "rows": all are; "columns" or "blocks": a part of them at a time."""
    why: str
    """What the trace shows."""


@partial(register_dataclass, data_fields=["losses", "K", "pull"], meta_fields=["leaves"])
@dataclass(frozen=True)
class LossGram:
    """K = GGᵀ/n of a loss, and w ↦ Gᵀw, without G."""

    losses: Float[Array, "*m n"]
    """ℓᵢ(θ) of every example."""
    K: Float[Array, "*m n n"]
    """GGᵀ/n, symmetric (under `jit` to rounding), positive semi-definite."""
    pull: Callable[[Float[Array, " n"]], PyTree]
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
        chunk_size: How many dense gradients to hold at once where a layer needs them; None means 256 MiB of them.

    Returns:
        A `LossGram`.

    Raises:
        ValueError: As in `per_example_losses`; params that are not floating-point; a loss or gradient that is not
            finite (its row is named).
    """
    _checks.scalar_loss(loss_fn, params, x, y)
    _checks.floating("params", params)
    _checks.hashable("loss_fn", loss_fn)
    chunk_size = None if chunk_size is None else _checks.at_least_one("chunk_size", chunk_size)
    result = _loss_gram(loss_fn, chunk_size, params, x, y)
    if _checks.is_concrete(result.K):
        result = replace(result, K=(result.K + result.K.T) / 2)
    action = "Its value or its gradient overflows or is undefined at these examples."
    _checks.finite_rows("loss_fn", jnp.column_stack([result.losses, jnp.diag(result.K)]), action)
    return result


@partial(jax.jit, static_argnums=(0, 1))
def _loss_gram(loss_fn, chunk_size, params, x, y):
    arrays, n = jax.tree.leaves(params), len(jax.tree.leaves((x, y))[0])
    limit = NUMBERS if chunk_size is None else chunk_size * sum(array.size for array in arrays)
    trace = trace_gradients(loss_fn, params, *_first(x, y))
    loss, *gradients = trace.jaxpr.outvars
    layers = [_layer(trace, out, n, limit) for out in gradients]
    dense = [layer for layer in layers if isinstance(layer, _Rows)]
    width = sum(layer.out.aval.size for layer in dense)
    if n * width > limit:  # more rows than may be held: made again, a block of examples at a time
        layers = [layer._replace(way="blocks") if isinstance(layer, _Rows) else layer for layer in layers]

    def run(x, y):
        read = evaluate(trace.jaxpr, trace.constants, jax.tree.leaves((params, x, y)))
        return lambda var: _wide(read(var))

    def examine(x, y):  # one example: its loss, and what each layer needs to know of it
        read = run(x, y)
        return read(loss), [() if layer.way == "blocks" else layer.take(read) for layer in layers]

    def rows(x, y):
        read = run(x, y)
        return jnp.concatenate([layer.take(read) for layer in dense])

    losses, taken = jax.vmap(examine)(x, y)
    read = run(*_first(x, y))
    shared = [layer.shared(read) for layer in layers]
    K = jnp.zeros((n, n), losses.dtype)
    for layer, factors, constant in zip(layers, taken, shared, strict=True):
        if layer.way != "blocks":
            K = K + layer.inner_products(factors, constant, limit)
    if n * width > limit:
        K = K + _in_blocks(jax.vmap(rows), x, y, max(1, limit // (2 * width)))

    def pull(params, x, y, taken, shared, weights):
        arrays, tree = jax.tree.flatten(params)
        if any(
            layer.pull is None or layer.way == "blocks" for layer in layers
        ):  # one more backward pass, for these
            arrays = jax.tree.leaves(weighted_gradient(loss_fn, params, x, y, weights))
        for i, layer in enumerate(layers):
            if layer.pull and layer.way != "blocks":
                pulled = layer.pull(taken[i], shared[i], weights)
                arrays[i] = pulled.reshape(arrays[i].shape).astype(arrays[i].dtype)
        return jax.tree.unflatten(tree, arrays)

    paths, _ = tree_flatten_with_path(params)
    leaves = tuple(
        Leaf(keystr(path), layer.way, layer.why) for (path, _), layer in zip(paths, layers, strict=True)
    )
    return LossGram(losses, K / n, Partial(jax.jit(pull), params, x, y, taken, shared), leaves)


def _first(x, y):
    return jax.tree.map(lambda leaf: leaf[0], (x, y))


def _wide(array):
    """At least float32: K is a sum of many products, and a difference of them is what counts."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


# The ways into K. `take` is about one example; what it took comes back with all examples on the first axis.


def _layer(trace, out, n, limit):
    """The cheapest way that is exact for this gradient."""
    found = terms(trace, out)
    constants = tuple(term for term in found if not varies(trace, term.var))
    made = [term for term in found if varies(trace, term.var)]
    names = {term.equation.primitive.name if term.equation else "the data" for term in made}
    if names == {"dot_general"} and any(_both_vary(trace, term.equation) for term in made):
        products = [_product(term.equation, term.moves) for term in made]
        *_, core, (h, a, b), moves = products[0]
        if all(product[2:4] == (core, (h, a, b)) and str(product[4]) == str(moves) for product in products):
            left, right = ([product[side] for product in products] for side in (0, 1))
            T = sum(prod(var.aval.shape) // (h * a) for var, _ in left)
            pays = T**2 * (a + b) <= a * b and n**2 * T**2 <= limit
            why = f"{T} outer product{'s' * (T > 1)} of {a} and {b} numbers" + f", {h} times" * (h > 1)
            way = "factors" if pays else "columns"
            return _Products(((left, a), (right, b)), core, (h, a, b), moves, constants, why, way)
    if names == {"conv_general_dilated"} and len(made) == 1:
        settings = made[0].equation.params
        if settings["feature_group_count"] == settings["batch_group_count"] == 1:
            return _Convolution(made[0].equation, made[0].moves, constants)
    return _Rows(out, "made by " + ", ".join(sorted(names)) if names else "the same for every example")


def _both_vary(trace, equation):
    """Whether the factors belong to the example, both. In the gradient of a bias, one is the weights that follow."""
    return all(varies(trace, var) and var.aval.size for var in equation.invars)


def _product(equation, moves) -> tuple[Any, ...]:
    """Its sides, with their axes in the order h, T, free; what it makes; (h, a, b); and the moves after it."""
    contracted, together = equation.params["dimension_numbers"]
    sides, free = [], []
    for var, T, h in zip(equation.invars, contracted, together, strict=True):
        rest = tuple(axis for axis in range(var.aval.ndim) if axis not in (*T, *h))
        sides.append((var, (*h, *T, *rest)))
        free.append([var.aval.shape[axis] for axis in rest])
    core, h = equation.outvars[0].aval, len(together[0])
    while moves and moves[0].primitive.name == "transpose":  # where it swaps the sides, so do we
        turn = h + len(free[0])
        if moves[0].params["permutation"] != (*range(h), *range(turn, core.ndim), *range(h, turn)):
            break
        sides, free, core, moves = sides[::-1], free[::-1], moves[0].outvars[0].aval, moves[1:]
    return *sides, core, (prod(core.shape[:h]), *map(prod, free)), moves


class _Rows(NamedTuple):
    """The gradient itself."""

    out: Any
    why: str
    way: str = "rows"

    def take(self, read):
        return jnp.ravel(read(self.out))

    def shared(self, read):
        return ()

    def inner_products(self, rows, shared, limit):
        return dot(rows, rows.T)

    def pull(self, rows, shared, weights):
        return dot(weights, rows)


class _Products(NamedTuple):
    """A sum of T outer products, for each of h heads: factors A (h, T, a) and D (h, T, b)."""

    sides: tuple  # of A and of D: the variables that they come from, with their axes in the order h, T, free
    core: Any  # what the products make, (*h, *a, *b), before the moves
    shape: tuple  # (h, a, b)
    moves: tuple
    constants: tuple
    why: str
    way: str

    def take(self, read):
        h = self.shape[0]
        return [
            jnp.concatenate(
                [lax.transpose(read(var), axes).reshape(h, -1, size) for var, axes in side], axis=1
            )
            for side, size in self.sides
        ]

    def shared(self, read):
        return _shared(self, read).reshape(self.shape) if self.constants else None

    def inner_products(self, factors, V, limit):
        A, D = factors
        (n, h, T, a), b = A.shape, D.shape[-1]
        if self.way == "columns":
            V = jnp.zeros((h, a, b), A.dtype) if V is None else V
            return _in_columns(
                lambda D, V: einsum("nhta,nhtb->nhab", A, D) + V, D, 3, V, 2, limit // (n * h * a)
            )
        K = jnp.zeros((n, n), A.dtype)
        for head in range(h):
            P, Q = (dot(rows, rows.T) for rows in (factor[:, head].reshape(n * T, -1) for factor in factors))
            K = K + jnp.sum((P * Q).reshape(n, T, n, T), axis=(1, 3))
        if V is None:
            return K
        along = jnp.sum(einsum("nhta,hab->nhtb", A, V) * D, axis=(1, 2, 3))
        return K + along[:, None] + along + jnp.sum(V**2)

    def pull(self, factors, V, weights):
        A, D = factors
        n, h, T, _ = A.shape
        D = D * weights[:, None, None, None]
        pulled = jnp.stack(
            [dot(A[:, head].reshape(n * T, -1).T, D[:, head].reshape(n * T, -1)) for head in range(h)]
        )
        pulled = pulled if V is None else pulled + V * jnp.sum(weights)
        return move(self.moves, pulled.reshape(self.core.shape))


class _Convolution(NamedTuple):
    """A convolution of the inputs with the errors: its columns can be made apart, channel by channel."""

    equation: Any
    moves: tuple
    constants: tuple
    why: str = "a convolution"
    way: str = "columns"

    pull = None  # as dear as one more backward pass, which gives it for all

    @property
    def core(self):
        return self.equation.outvars[0].aval

    def take(self, read):
        return tuple(map(read, self.equation.invars))

    def shared(self, read):
        return _shared(self, read) if self.constants else jnp.zeros(self.core.shape)

    def inner_products(self, factors, V, limit):
        left, right = factors
        numbers = self.equation.params["dimension_numbers"]
        rows = jax.vmap(partial(convolve, self.equation.params | {"preferred_element_type": None}))
        axis, channel = 1 + numbers.rhs_spec[0], numbers.out_spec[1]
        width = limit // (len(left) * self.core.size // self.core.shape[channel])
        return _in_columns(lambda right, V: rows(left, right) + V, right, axis, V, channel, width)


def _shared(layer, read):
    """The terms that are the same for every example, where the products are: before the moves."""
    there = partial(move, layer.moves)
    V = jnp.asarray(sum(move(term.moves, read(term.var)) for term in layer.constants))
    V = V.astype(jax.eval_shape(there, layer.core).dtype)
    return _wide(jax.linear_transpose(there, layer.core)(V)[0])


def _in_columns(rows, right, axis, V, channel, width):
    """RRᵀ of rows that are made from a factor and a constant, some columns at a time."""
    size = right.shape[axis]
    parts = ceil(size / max(1, min(width, size)))
    width = ceil(size / parts)
    right, V = (
        jnp.pad(array, [(0, parts * width - size if i == along else 0) for i in range(array.ndim)])
        for array, along in ((right, axis), (V, channel))
    )

    def add(K, start):
        cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width)
        R = rows(cut(right, axis=axis), cut(V, axis=channel)).reshape(len(right), -1)
        return K + dot(R, R.T), None

    K = jnp.zeros((len(right), len(right)), right.dtype)
    return lax.scan(add, K, jnp.arange(parts) * width)[0]


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
