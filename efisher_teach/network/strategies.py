"""Strategies: how the gradient of one array of parameters enters the Gram matrix.

A strategy reads from the trace what it needs of one example (`read_example`: `size` numbers), and what is the same for
all of them (`read_constant`). It is given the former again with the n examples on the first axis, to make the array's
part of nK (`inner_products`) and, where that is cheap, its part of Gᵀw (`weighted_gradient`). As nK is symmetric, it is
made in blocks: `block(start, end)` has the rows of the examples from start to end, and the columns from start on.
"""

from collections.abc import Callable
from functools import partial
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from efisher_teach.core.precision import dot, einsum
from efisher_teach.network.trace import Move, Term, Trace, apply_moves, convolve

Read = Callable[[Any], jax.Array]  # from a variable of the trace to its value
Block = Callable[[int, int], jax.Array]


def at_least_float32(array: jax.Array) -> jax.Array:
    """Raise the precision to float32 if it is lower: K is a sum of many products, and small differences in it count."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def choose_strategy(
    trace: Trace, gradient: Any, n: int, limit: int, rows_fit: bool
) -> "Rows | Products | Convolution":
    """The cheapest strategy that is exact, where `limit` numbers may be held beyond those of the loss itself.

    `rows_fit` says that all of G is within the limit: then a row that is no larger than its factors, twice, is kept.
    """
    terms = trace.terms(gradient)
    constants = tuple(term for term in terms if not trace.varies(term.var))
    varying = [term for term in terms if trace.varies(term.var)]
    names = {term.equation.primitive.name if term.equation else "the data" for term in varying}
    if names == {"dot_general"} and any(_both_vary(trace, term.equation) for term in varying):
        lefts, rights, layouts = zip(*map(_outer_products, varying), strict=True)
        if all(layout == layouts[0] for layout in layouts):
            h, a, b = layouts[0].shape
            T = sum(side.size for side in lefts) // (h * a)
            pays = T**2 * (a + b) <= a * b and n**2 * T**2 <= max(limit, n**2)  # K has n² in any case
            why = f"{T} outer product{'s' * (T > 1)} of {a} and {b} numbers" + f", {h} times" * (h > 1)
            if not pays and rows_fit and a * b <= 2 * T * (a + b):  # otherwise it would be made twice
                return Rows(gradient, why)
            return Products(lefts, rights, layouts[0], constants, why, "factors" if pays else "columns")
    if names == {"conv_general_dilated"} and len(varying) == 1:
        settings = varying[0].equation.params
        if settings["feature_group_count"] == settings["batch_group_count"] == 1:
            return Convolution(varying[0].equation, varying[0].moves, constants)
    return Rows(gradient, "made by " + ", ".join(sorted(names)) if names else "the same for every example")


class Rows(NamedTuple):
    """The gradient itself, as a row of G."""

    gradient: Any
    why: str
    way: str = "rows"

    @property
    def size(self) -> int:
        """The number of numbers that an example needs."""
        return self.gradient.aval.size

    def read_example(self, read: Read) -> jax.Array:
        """The gradient of one example."""
        return jnp.ravel(read(self.gradient))

    def read_constant(self, read: Read) -> None:
        """Nothing: a row is the whole gradient."""

    def inner_products(self, rows, constant, limit) -> Block:
        """RRᵀ of the rows R."""
        return lambda start, end: dot(rows[start:end], rows[start:].T)

    def weighted_gradient(self, rows, constant, weights):
        """Rᵀw."""
        return dot(weights, rows)


class Side(NamedTuple):
    """One factor of outer products: a variable, and its axes in the order heads, products, factor."""

    var: Any
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of numbers that an example needs."""
        return self.var.aval.size

    def read(self, read: Read, h: int, length: int) -> jax.Array:
        """The factors (h, T, length) of one example."""
        return lax.transpose(read(self.var), self.axes).reshape(h, -1, length)


class Layout(NamedTuple):
    """The form of outer products. Products of the same layout can be added."""

    shape: tuple[int, int, int]
    """(h, a, b): a × b numbers for each of h heads."""
    made: Any
    """Its shape and precision as it was made, before the moves: (*h, *a, *b)."""
    moves: tuple[Move, ...]
    """The moves that bring its entries to their places in the gradient."""


class Products(NamedTuple):
    """A sum of T outer products for each of h heads: of factors A (h, T, a) and D (h, T, b)."""

    lefts: tuple[Side, ...]
    rights: tuple[Side, ...]
    layout: Layout
    constants: tuple[Term, ...]
    why: str
    way: str

    @property
    def size(self) -> int:
        """The number of numbers that an example needs."""
        return sum(side.size for side in (*self.lefts, *self.rights))

    def read_example(self, read: Read) -> tuple[jax.Array, jax.Array]:
        """The factors A and D of one example."""
        h, a, b = self.layout.shape
        A = jnp.concatenate([side.read(read, h, a) for side in self.lefts], axis=1)
        return A, jnp.concatenate([side.read(read, h, b) for side in self.rights], axis=1)

    def read_constant(self, read: Read) -> jax.Array | None:
        """V (h, a, b), the part of the gradient that is the same for every example, or None."""
        if not self.constants:
            return None
        V = _before_moves(self.constants, self.layout.made, self.layout.moves, read)
        return V.reshape(self.layout.shape)

    def inner_products(self, factors, V, limit) -> Block:
        """Σ_st (a_sᵀa′_t)(d_sᵀd′_t) by the factors, or by the columns of R where that is cheaper."""
        A, D = factors
        (n, h, T, a), b = A.shape, D.shape[-1]
        if self.way == "columns":
            V = jnp.zeros((h, a, b), A.dtype) if V is None else V

            def rows(D, V):
                return einsum("nhta,nhtb->nhab", A, D) + V

            return _by_columns(rows, D, 3, V, 2, limit // (n * h * a))
        heads = [[factor[:, head].reshape(n * T, -1) for factor in factors] for head in range(h)]
        along = None if V is None else jnp.sum(einsum("nhta,hab->nhtb", A, V) * D, axis=(1, 2, 3))

        def block(start, end):
            first, last = start * T, end * T
            K = jnp.zeros((end - start, n - start), A.dtype)
            for rows in heads:
                P, Q = (dot(factor[first:last], factor[first:].T) for factor in rows)
                K = K + jnp.sum((P * Q).reshape(end - start, T, n - start, T), axis=(1, 3))
            if V is None or along is None:
                return K
            return K + along[start:end, None] + along[start:] + jnp.sum(V**2)

        return block

    def weighted_gradient(self, factors, V, weights):
        """Aᵀ diag(w) D for each head, moved to where the gradient has it."""
        A, D = factors
        n, h, T, _ = A.shape
        D = D * weights[:, None, None, None]
        heads = [dot(A[:, head].reshape(n * T, -1).T, D[:, head].reshape(n * T, -1)) for head in range(h)]
        total = jnp.stack(heads) if V is None else jnp.stack(heads) + V * jnp.sum(weights)
        return apply_moves(self.layout.moves, total.reshape(self.layout.made.shape))


class Convolution(NamedTuple):
    """A convolution of the inputs with the errors, which can be made a few channels at a time."""

    equation: Any
    moves: tuple[Move, ...]
    constants: tuple[Term, ...]
    why: str = "a convolution"
    way: str = "columns"

    weighted_gradient = None  # it would cost a backward pass, and one such pass gives Gᵀw of all arrays

    @property
    def size(self) -> int:
        """The number of numbers that an example needs."""
        return sum(var.aval.size for var in self.equation.invars)

    def read_example(self, read: Read) -> tuple[jax.Array, jax.Array]:
        """The inputs and the errors of one example."""
        left, right = self.equation.invars
        return read(left), read(right)

    def read_constant(self, read: Read) -> jax.Array:
        """V, the part of the gradient that is the same for every example."""
        made = self.equation.outvars[0].aval
        if not self.constants:
            return jnp.zeros(made.shape)
        return _before_moves(self.constants, made, self.moves, read)

    def inner_products(self, factors, V, limit) -> Block:
        """RRᵀ, some channels at a time."""
        left, right = factors
        numbers = self.equation.params["dimension_numbers"]
        rows = jax.vmap(partial(convolve, self.equation.params | {"preferred_element_type": None}))
        axis, channel = 1 + numbers.rhs_spec[0], numbers.out_spec[1]
        width = limit // (len(left) * V.size // V.shape[channel])
        return _by_columns(lambda right, V: rows(left, right) + V, right, axis, V, channel, width)


def _both_vary(trace, equation):
    """True if both factors depend on the example. In the gradient of a bias, one factor is the weights that follow."""
    return all(trace.varies(var) and var.aval.size for var in equation.invars)


def _outer_products(term: Term) -> tuple[Side, Side, Layout]:
    """Read a batched matrix product as outer products: its batch axes are the heads, it sums over the products."""
    sides, ranks, lengths = [], [], []
    summed_axes, head_axes = term.equation.params["dimension_numbers"]
    for var, summed, heads in zip(term.equation.invars, summed_axes, head_axes, strict=True):
        rest = tuple(axis for axis in range(var.aval.ndim) if axis not in (*summed, *heads))
        sides.append(Side(var, (*heads, *summed, *rest)))
        ranks.append(len(rest))
        lengths.append(prod(var.aval.shape[axis] for axis in rest))
    made, moves, h = term.equation.outvars[0].aval, term.moves, len(head_axes[0])
    made = jax.ShapeDtypeStruct(made.shape, made.dtype)
    # Where a transposition only exchanges the sides, the sides are exchanged instead.
    while moves and moves[0].primitive.name == "transpose":
        middle = h + ranks[0]
        permutation = (*range(h), *range(middle, len(made.shape)), *range(h, middle))
        if moves[0].settings["permutation"] != permutation:
            break
        sides, ranks, lengths, moves = sides[::-1], ranks[::-1], lengths[::-1], moves[1:]
        made = jax.ShapeDtypeStruct([made.shape[axis] for axis in permutation], made.dtype)
    return sides[0], sides[1], Layout((prod(made.shape[:h]), *lengths), made, moves)


def _before_moves(constants, made, moves, read):
    """The sum of the terms that are the same for every example, in the form `made` that gradients have before moves."""
    forward = partial(apply_moves, moves)
    V = jnp.asarray(sum(apply_moves(term.moves, read(term.var)) for term in constants))
    V = V.astype(jax.eval_shape(forward, made).dtype)
    return at_least_float32(jax.linear_transpose(forward, made)(V)[0])


def _by_columns(rows, right, axis, V, channel, width):
    """RRᵀ of the rows `rows(right, V)`, made `width` columns at a time: `right` is cut by `axis`, V by `channel`."""
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

    K = lax.scan(add, jnp.zeros((len(right), len(right)), right.dtype), jnp.arange(parts) * width)[0]
    return lambda start, end: K[start:end, start:]
