"""The trace of a gradient: the operations that made it, and the value of any variable on the way.

JAX traces the loss and the gradients of ONE example into a list of equations. Here the calls in that list (jit,
checkpoint) are opened, so that each gradient can be followed back to the product that made it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jaxtyping import PyTree

# By their names in all versions of JAX.
CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"}
# Operations that only move entries.
MOVES = {"transpose", "reshape", "squeeze", "copy", "convert_element_type"}


def keeps_inner_products(equation: Any) -> bool:
    """True for an operation that only moves real numbers. From complex to real it would lose a part of them."""
    kinds = [var.aval.dtype for var in (*equation.invars, *equation.outvars)]
    return equation.primitive.name in MOVES and all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)


class Move(NamedTuple):
    """An operation that only moves entries. Two are equal if they do the same."""

    primitive: Any
    settings: dict


class Term(NamedTuple):
    """A part of a gradient: a variable, the equation that made it, and how its entries are moved from there on."""

    var: Any
    equation: Any
    moves: tuple[Move, ...]


class Trace(NamedTuple):
    """The equations that compute the loss and the gradients of one example."""

    jaxpr: Any
    constants: list
    made_by: dict
    """The equation of every variable."""
    varying: set
    """The variables that depend on the example."""

    def varies(self, var: Any) -> bool:
        """True for a variable that depends on the example."""
        return not isinstance(var, Literal) and var in self.varying

    def terms(self, var: Any, moves: tuple[Move, ...] = ()) -> list[Term]:
        """Split a gradient into the terms of a sum, each followed back through moves as far as it can be."""
        equation = self.made_by.get(var) if self.varies(var) else None
        if equation and equation.primitive.name == "add_any":
            return [term for part in equation.invars for term in self.terms(part, moves)]
        if equation and keeps_inner_products(equation):
            return self.terms(equation.invars[0], (Move(equation.primitive, equation.params), *moves))
        return [Term(var, equation, moves)]


def trace_gradients(loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree) -> Trace:
    """Trace `jax.value_and_grad(loss_fn)`; the outputs are the loss and the gradients, leaf by leaf."""
    nested = jax.make_jaxpr(jax.value_and_grad(loss_fn))(params, x, y)

    def opened(*inputs):
        read = evaluate(nested.jaxpr, nested.consts, inputs)
        return [read(out) for out in nested.jaxpr.outvars]

    closed = jax.make_jaxpr(opened)(*jax.tree.leaves((params, x, y)))
    made_by, varying = {}, set(closed.jaxpr.invars[len(jax.tree.leaves(params)) :])
    trace = Trace(closed.jaxpr, closed.consts, made_by, varying)
    for equation in closed.jaxpr.eqns:
        made_by.update((out, equation) for out in equation.outvars)
        if any(trace.varies(var) for var in equation.invars):
            varying.update(equation.outvars)
    return trace


def evaluate(jaxpr: Any, constants: Any, inputs: Any) -> Callable[[Any], Any]:
    """Run a trace, and return a function from its variables to their values. Unused ones cost nothing under jit."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

    def read(var):
        return var.val if isinstance(var, Literal) else values[var]

    for equation in jaxpr.eqns:
        arguments = [read(var) for var in equation.invars]
        if equation.primitive.name in CALLS:
            inner = equation.params["jaxpr"]  # with its constants, or bare
            bare = getattr(inner, "jaxpr", inner)
            read_inner = evaluate(bare, getattr(inner, "consts", ()), arguments)
            results = [read_inner(out) for out in bare.outvars]
        elif equation.primitive.name == "conv_general_dilated":
            results = [convolve(equation.params, *arguments)]
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            functions, settings = bound if isinstance(bound, tuple) else ((), bound)  # a tuple in JAX 0.8
            results = equation.primitive.bind(*functions, *arguments, **settings)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return read


def convolve(settings: dict, left: Any, right: Any) -> Any:
    """Convolve by the settings of an equation, with the channels of the output first; then move them to their place.

    Where they come last, XLA (as of JAX 0.10) is wrong when it splits the gradients of many examples over devices.
    """
    numbers = settings["dimension_numbers"]
    batch, channel, *space = numbers.out_spec
    channels_first = numbers._replace(out_spec=(1, 0, *range(2, 2 + len(space))))
    out = lax.conv_general_dilated_p.bind(left, right, **settings | {"dimension_numbers": channels_first})
    order = [channel, batch, *space]
    return lax.transpose(out, [order.index(axis) for axis in range(out.ndim)])


def apply_moves(moves: tuple[Move, ...], value: Any) -> Any:
    """Move the entries of a value as those of a gradient were moved."""
    for move in moves:
        value = move.primitive.bind(value, **move.settings)
    return value
