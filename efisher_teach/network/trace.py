"""Reading a gradient off its trace: which operations made it, and the value of anything on the way.

JAX traces the loss and the gradients of ONE example into a list of equations. Here the calls in that list are opened
(jit, checkpoint), so that each gradient can be followed back to the product that made it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import Literal
from jaxtyping import PyTree

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"}  # their names in any JAX
MOVES = {"transpose", "reshape", "squeeze", "copy", "convert_element_type"}  # they keep inner products


class Trace(NamedTuple):
    """The equations that compute the loss and the gradients of one example."""

    jaxpr: Any
    constants: list
    made_by: dict
    """The equation of every variable."""
    varying: set
    """The variables that depend on the example."""


class Term(NamedTuple):
    """A part of a gradient: a variable, the equation that made it, and how its entries are moved from there on."""

    var: Any
    equation: Any
    moves: tuple


def trace_gradients(loss_fn: Callable, params: PyTree, x: PyTree, y: PyTree) -> Trace:
    """The trace of `jax.value_and_grad(loss_fn)`: its outputs are the loss and the gradients, leaf by leaf."""
    nested = jax.make_jaxpr(jax.value_and_grad(loss_fn))(params, x, y)

    def opened(*inputs):
        read = evaluate(nested.jaxpr, nested.consts, inputs)
        return [read(out) for out in nested.jaxpr.outvars]

    closed = jax.make_jaxpr(opened)(*jax.tree.leaves((params, x, y)))
    made_by, varying = {}, set(closed.jaxpr.invars[len(jax.tree.leaves(params)) :])
    trace = Trace(closed.jaxpr, closed.consts, made_by, varying)
    for equation in closed.jaxpr.eqns:
        made_by.update((out, equation) for out in equation.outvars)
        if any(varies(trace, var) for var in equation.invars):
            varying.update(equation.outvars)
    return trace


def evaluate(jaxpr: Any, constants: Any, inputs: Any) -> Callable[[Any], Any]:
    """Run a trace; what comes back gives the value of any variable of it. Unused ones cost nothing under jit."""
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
    """A convolution by the settings of its equation; its output's channels are made first, then put in their place.

    Where they come last, XLA (as of JAX 0.10) splits the gradients of many examples over devices wrongly.
    """
    numbers = settings["dimension_numbers"]
    batch, channel, *space = numbers.out_spec
    turned = numbers._replace(out_spec=(1, 0, *range(2, 2 + len(space))))
    out = lax.conv_general_dilated_p.bind(left, right, **settings | {"dimension_numbers": turned})
    order = [channel, batch, *space]
    return lax.transpose(out, [order.index(axis) for axis in range(out.ndim)])


def varies(trace: Trace, var: Any) -> bool:
    """Whether a variable depends on the example."""
    return not isinstance(var, Literal) and var in trace.varying


def terms(trace: Trace, var: Any, moves: tuple = ()) -> list[Term]:
    """Follow a gradient back through moves and sums, as far as it can be followed."""
    equation = trace.made_by[var] if varies(trace, var) and var in trace.made_by else None
    if equation and equation.primitive.name == "add_any":
        return [term for part in equation.invars for term in terms(trace, part, moves)]
    if equation and equation.primitive.name in MOVES:
        return terms(trace, equation.invars[0], (equation, *moves))
    return [Term(var, equation, moves)]


def move(moves: tuple, value: Any) -> Any:
    """Move the entries of a value as a gradient's were moved."""
    for equation in moves:
        value = equation.primitive.bind(value, **equation.params)
    return value
