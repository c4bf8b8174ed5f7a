"""The ways in which the gradient of one array of parameters enters the Gram matrix.

A way first says what it needs from the trace of one example (`take`, and `shared`: what is the same for all examples).
What it took, `size` numbers of an example, comes back with all examples on the first axis, for the layer's part of nK
(`inner_products`) and, where it is cheap, its part of Gᵀw (`pull`).
"""

from functools import partial
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from efisher_teach.core.precision import dot, einsum
from efisher_teach.network.trace import Trace, convolve, move, terms, varies


def wide(array: jax.Array) -> jax.Array:
    """At least float32: K is a sum of many products, and small differences in it count."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def way_of(trace: Trace, out: Any, n: int, limit: int) -> "Rows | Products | Convolution":
    """The cheapest way that is exact for a gradient, where `limit` numbers may be held beside what the loss needs."""
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
            pays = T**2 * (a + b) <= a * b and n**2 * T**2 <= max(limit, n**2)  # K has n² in any case
            why = f"{T} outer product{'s' * (T > 1)} of {a} and {b} numbers" + f", {h} times" * (h > 1)
            way = "factors" if pays else "columns"
            return Products(((left, a), (right, b)), core, (h, a, b), moves, constants, why, way)
    if names == {"conv_general_dilated"} and len(made) == 1:
        settings = made[0].equation.params
        if settings["feature_group_count"] == settings["batch_group_count"] == 1:
            return Convolution(made[0].equation, made[0].moves, constants)
    return Rows(out, "made by " + ", ".join(sorted(names)) if names else "the same for every example")


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


class Rows(NamedTuple):
    """The gradient itself."""

    out: Any
    why: str
    way: str = "rows"

    @property
    def size(self):
        return self.out.aval.size

    def take(self, read):
        return jnp.ravel(read(self.out))

    def shared(self, read):
        return ()

    def inner_products(self, rows, shared, limit):
        return dot(rows, rows.T)

    def pull(self, rows, shared, weights):
        return dot(weights, rows)


class Products(NamedTuple):
    """A sum of T outer products, for each of h heads: factors A (h, T, a) and D (h, T, b)."""

    sides: tuple  # of A and of D: the variables that they come from, with their axes in the order h, T, free
    core: Any  # what the products make, (*h, *a, *b), before the moves
    shape: tuple  # (h, a, b)
    moves: tuple
    constants: tuple
    why: str
    way: str

    @property
    def size(self):
        return sum(prod(var.aval.shape) for side, _ in self.sides for var, _ in side)

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


class Convolution(NamedTuple):
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

    @property
    def size(self):
        return sum(prod(var.aval.shape) for var in self.equation.invars)

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
    return wide(jax.linear_transpose(there, layer.core)(V)[0])


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
