"""Strategies: how the gradient of one array of parameters enters the Gram matrix.

A strategy first reads what it needs from the trace of one example (`read_example`), and what is the same for all
examples (`read_common`). The former, `size` numbers an example, comes back with all examples on the first axis, for the
layer's part of nK (`inner_products`) and, where that is cheap, for its part of Gᵀw (`weighted_gradient`).
"""

from functools import partial
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from efisher_teach.core.precision import dot, einsum
from efisher_teach.network.trace import Trace, convolve, move, terms, varies


def at_least_float32(array: jax.Array) -> jax.Array:
    """At least float32: K is a sum of many products, and small differences in it count."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


class Side(NamedTuple):
    """One factor of a product: a variable, and its axes in the order h, T, free."""

    var: Any
    axes: tuple[int, ...]
    free: int
    """How many numbers the free axes have."""


class Product(NamedTuple):
    """Outer products of two sides, for each of `heads` heads, and how the entries are moved afterwards."""

    left: Side
    right: Side
    made: Any
    """The shape and dtype that the products make, (*h, *a, *b), before the moves."""
    heads: int
    moves: tuple

    def fits(self, other: "Product") -> bool:
        """Whether the two may be added before their entries are moved."""
        shapes = [(each.made, each.heads, each.left.free, each.right.free) for each in (self, other)]
        steps = [[(move.primitive, move.params) for move in each.moves] for each in (self, other)]
        return shapes[0] == shapes[1] and steps[0] == steps[1]


def choose_strategy(trace: Trace, out: Any, n: int, limit: int) -> "Rows | Products | Convolution":
    """The cheapest strategy that is exact for a gradient, where `limit` numbers may be held beside the loss's own."""
    found = terms(trace, out)
    constants = tuple(term for term in found if not varies(trace, term.var))
    made = [term for term in found if varies(trace, term.var)]
    names = {term.equation.primitive.name if term.equation else "the data" for term in made}
    if names == {"dot_general"} and any(_both_vary(trace, term.equation) for term in made):
        products = [_product(term.equation, term.moves) for term in made]
        first = products[0]
        if all(product.fits(first) for product in products):
            h, a, b = first.heads, first.left.free, first.right.free
            T = sum(prod(product.left.var.aval.shape) // (h * a) for product in products)
            pays = T**2 * (a + b) <= a * b and n**2 * T**2 <= max(limit, n**2)  # K has n² in any case
            why = f"{T} outer product{'s' * (T > 1)} of {a} and {b} numbers" + f", {h} times" * (h > 1)
            return Products(tuple(products), constants, why, "factors" if pays else "columns")
    if names == {"conv_general_dilated"} and len(made) == 1:
        settings = made[0].equation.params
        if settings["feature_group_count"] == settings["batch_group_count"] == 1:
            return Convolution(made[0].equation, made[0].moves, constants)
    return Rows(out, "made by " + ", ".join(sorted(names)) if names else "the same for every example")


def _both_vary(trace, equation):
    """Whether the factors belong to the example, both. In the gradient of a bias, one is the weights that follow."""
    return all(varies(trace, var) and var.aval.size for var in equation.invars)


def _product(equation, moves) -> Product:
    """A batched matrix product as outer products, with their axes in the order h, T, free."""
    contracted, together = equation.params["dimension_numbers"]
    sides, dimensions = [], []
    for var, T, h in zip(equation.invars, contracted, together, strict=True):
        rest = tuple(axis for axis in range(var.aval.ndim) if axis not in (*T, *h))
        sides.append(Side(var, (*h, *T, *rest), prod(var.aval.shape[axis] for axis in rest)))
        dimensions.append(len(rest))
    made, h = equation.outvars[0].aval, len(together[0])
    while moves and moves[0].primitive.name == "transpose":  # where it swaps the sides, so do we
        between = h + dimensions[0]
        if moves[0].params["permutation"] != (*range(h), *range(between, made.ndim), *range(h, between)):
            break
        sides, dimensions, made, moves = sides[::-1], dimensions[::-1], moves[0].outvars[0].aval, moves[1:]
    return Product(*sides, made, prod(made.shape[:h]), moves)


class Rows(NamedTuple):
    """The gradient itself, as a row of G."""

    out: Any
    why: str
    way: str = "rows"

    @property
    def size(self) -> int:
        """Numbers that are held for each example."""
        return self.out.aval.size

    def read_example(self, read):
        """The gradient of one example."""
        return jnp.ravel(read(self.out))

    def read_common(self, read):
        """Nothing: a row holds all of a gradient."""
        return ()

    def inner_products(self, rows, common, limit):
        """RRᵀ."""
        return dot(rows, rows.T)

    def weighted_gradient(self, rows, common, weights):
        """Rᵀw."""
        return dot(weights, rows)


class Products(NamedTuple):
    """A sum of T outer products, for each of h heads: factors A (h, T, a) and D (h, T, b)."""

    products: tuple[Product, ...]
    constants: tuple
    why: str
    way: str

    @property
    def made(self) -> Any:
        """The shape and dtype of the sum, before the moves."""
        return self.products[0].made

    @property
    def moves(self) -> tuple:
        """How the entries of the sum are moved to where the gradient has them."""
        return self.products[0].moves

    @property
    def size(self) -> int:
        """Numbers that are held for each example."""
        sides = [side for product in self.products for side in (product.left, product.right)]
        return sum(prod(side.var.aval.shape) for side in sides)

    def read_example(self, read):
        """The factors A and D of one example."""
        lefts, rights = zip(*((product.left, product.right) for product in self.products), strict=True)
        return [self._stacked(read, sides) for sides in (lefts, rights)]

    def _stacked(self, read, sides):
        h = self.products[0].heads
        arrays = [lax.transpose(read(side.var), side.axes).reshape(h, -1, side.free) for side in sides]
        return jnp.concatenate(arrays, axis=1)

    def read_common(self, read):
        """The part V (h, a, b) of the gradient that is the same for all examples, or None."""
        first = self.products[0]
        shape = first.heads, first.left.free, first.right.free
        return _common(self, read).reshape(shape) if self.constants else None

    def inner_products(self, factors, V, limit):
        """Σ_st (a_sᵀa_t)(d_sᵀd_t) over heads, from the factors, or column by column where that is cheaper."""
        A, D = factors
        (n, h, T, a), b = A.shape, D.shape[-1]
        if self.way == "columns":
            V = jnp.zeros((h, a, b), A.dtype) if V is None else V

            def rows(D, V):
                return einsum("nhta,nhtb->nhab", A, D) + V

            return _in_columns(rows, D, 3, V, 2, limit // (n * h * a))
        K = jnp.zeros((n, n), A.dtype)
        for head in range(h):
            P, Q = (dot(rows, rows.T) for rows in (factor[:, head].reshape(n * T, -1) for factor in factors))
            K = K + jnp.sum((P * Q).reshape(n, T, n, T), axis=(1, 3))
        if V is None:
            return K
        along = jnp.sum(einsum("nhta,hab->nhtb", A, V) * D, axis=(1, 2, 3))
        return K + along[:, None] + along + jnp.sum(V**2)

    def weighted_gradient(self, factors, V, weights):
        """Aᵀ diag(w) D, moved to where the gradient has it."""
        A, D = factors
        n, h, T, _ = A.shape
        D = D * weights[:, None, None, None]
        heads = [dot(A[:, head].reshape(n * T, -1).T, D[:, head].reshape(n * T, -1)) for head in range(h)]
        total = jnp.stack(heads) if V is None else jnp.stack(heads) + V * jnp.sum(weights)
        return move(self.moves, total.reshape(self.made.shape))


class Convolution(NamedTuple):
    """A convolution of the inputs with the errors: its columns can be made apart, channel by channel."""

    equation: Any
    moves: tuple
    constants: tuple
    why: str = "a convolution"
    way: str = "columns"

    weighted_gradient = None  # as dear as one more backward pass, which gives it for all

    @property
    def made(self) -> Any:
        """The shape and dtype of the convolution, before the moves."""
        return self.equation.outvars[0].aval

    @property
    def size(self) -> int:
        """Numbers that are held for each example."""
        return sum(prod(var.aval.shape) for var in self.equation.invars)

    def read_example(self, read):
        """Both inputs of the convolution for one example."""
        return tuple(map(read, self.equation.invars))

    def read_common(self, read):
        """The part of the gradient that is the same for all examples."""
        return _common(self, read) if self.constants else jnp.zeros(self.made.shape)

    def inner_products(self, factors, V, limit):
        """RRᵀ, some channels at a time."""
        left, right = factors
        numbers = self.equation.params["dimension_numbers"]
        rows = jax.vmap(partial(convolve, self.equation.params | {"preferred_element_type": None}))
        axis, channel = 1 + numbers.rhs_spec[0], numbers.out_spec[1]
        width = limit // (len(left) * self.made.size // self.made.shape[channel])
        return _in_columns(lambda right, V: rows(left, right) + V, right, axis, V, channel, width)


def _common(layer, read):
    """The terms of a gradient that are the same for every example, as they are before the moves."""
    there = partial(move, layer.moves)
    V = jnp.asarray(sum(move(term.moves, read(term.var)) for term in layer.constants))
    V = V.astype(jax.eval_shape(there, layer.made).dtype)
    return at_least_float32(jax.linear_transpose(there, layer.made)(V)[0])


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
