"""The form of every error, and the checks that more than one module makes. A check used once stands where it is used.

Only concrete values are checked. Under `jit`, `vmap` and `grad` a value is not known yet: there the result carries its
evidence (`Step.residual`, `Step.budget_spent`) instead.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def reject(argument: str, requirement: str, got: str, action: str) -> NoReturn:
    """Raise the error that names the argument, what it must be, what it was, and what to do."""
    raise ValueError(f"`{argument}` must be {requirement}; got {got}. {action}")


FLOATS = {jnp.dtype(kind) for kind in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)}
COMPLEX = "Keep real and imaginary parts as two real parameters, and join them inside the loss."


def is_concrete(*values: Any) -> bool:
    """True if every value is known now (none is being traced)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def as_array(argument: str, value: Any) -> jax.Array:
    """Numbers in any container (lists, NumPy, pandas, PyTorch) as an array of JAX, where that loses nothing."""
    if isinstance(value, jax.Array | Tracer):
        return value
    try:
        found = np.asarray(value)
        mixed = found.dtype == object and all(isinstance(each, Real) for each in found.flat)
        if mixed or (found.dtype == np.longdouble and np.array_equal(found, found.astype(float))):
            found = found.astype(float)
    except Exception as error:  # of a container that we know nothing of
        why = f"{type(value).__name__} ({str(error)[:80]})"
        reject(argument, "numbers in an array", why, "Convert it with np.asarray, one number an entry.")
    is_number = found.dtype.kind in "biuc" or jnp.issubdtype(found.dtype, jnp.floating)
    if not is_number or found.dtype == np.longdouble:
        got = f"{type(value).__name__} of dtype {found.dtype}"
        action = "Encode text and dates as numbers, and make sparse arrays dense."
        reject(argument, "numbers in an array", got, action)
    if np.ma.is_masked(value):
        got = f"{np.ma.count_masked(value)} masked entries"
        reject(argument, "without masked entries", got, "Fill them, or leave out these examples.")
    kind = jax.dtypes.canonicalize_dtype(found.dtype.newbyteorder("="))
    if found.dtype.kind in "iu" and not np.array_equal(found.astype(kind), found):
        action = "Subtract an offset, or give it as floats."
        reject(argument, f"within the range of {kind}", f"{found.dtype} up to {found.max()}", action)
    return jnp.asarray(found.astype(kind))


def as_float(argument: str, value: Any) -> jax.Array:
    """`value` as a floating-point array; integers become floats, anything else is an error."""
    array = as_array(argument, value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        reject(argument, "real", f"dtype {array.dtype}", COMPLEX)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def damping(value: Any) -> jax.Array:
    """A finite damping ≥ 0."""
    array = as_float("damping", value)
    if is_concrete(array) and not np.all(np.isfinite(array) & (np.asarray(array) >= 0)):
        reject("damping", "finite and at least 0", f"{value}", "Use 0 for the pseudo-inverse, or e.g. 1e-3.")
    return array


def one_number(argument: str, array: jax.Array) -> jax.Array:
    """A single number; many are for `vmap`."""
    if array.ndim:
        reject(argument, "one number", f"shape {array.shape}", "For many, use damping_path or jax.vmap.")
    return array


def positive(argument: str, value: Any) -> jax.Array:
    """A finite number > 0."""
    array = as_float(argument, value)
    if is_concrete(array) and not np.all(np.isfinite(array) & (np.asarray(array) > 0)):
        reject(argument, "finite and greater than 0", f"{value}", "For no step at all, skip the update.")
    return array


def one_damping(value: Any, dtype: Any) -> jax.Array:
    """One damping, in the precision of what it damps."""
    return one_number("damping", damping(value)).astype(dtype)


def one_positive(argument: str, value: Any, dtype: Any) -> jax.Array:
    """One number > 0, in the precision of what it belongs to."""
    return one_number(argument, positive(argument, value)).astype(dtype)


def budget_or_rate(budget: Any, learning_rate: Any, dtype: Any) -> tuple[bool, jax.Array]:
    """True if a budget was given, and the one number that was: a budget or a learning rate, not both."""
    budgeted = budget is not None
    if budgeted == (learning_rate is not None):
        raise ValueError(
            f"Exactly one of `budget` and `learning_rate` must be given; got {'both' if budgeted else 'none'}. "
            "A budget c fixes the mean squared loss change, a learning rate η the scale of the step."
        )
    name, scale = ("budget", budget) if budgeted else ("learning_rate", learning_rate)
    return budgeted, one_positive(name, scale, dtype)


def shaped(argument: str, array: Any, shape: tuple[int, ...], why: str, action: str) -> None:
    """An array of this shape; `why` says what asks for it."""
    if array.shape != shape:
        reject(argument, f"of shape {shape}, {why}", f"shape {array.shape}", action)


def finite_rows(argument: str, array: jax.Array, action: str) -> None:
    """Rows that are all finite; the error names those that are not."""
    if not is_concrete(array):
        return
    bad = np.flatnonzero(~np.isfinite(np.asarray(array)).reshape(len(array), -1).all(axis=1))
    if bad.size:
        rows = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
        reject(argument, "finite", f"NaN or infinity in {bad.size} of {len(array)} rows: {rows}", action)


RESCALE = "Its scale leaves no room in this precision: rescale the loss."


def finite_result(argument: str, *results: jax.Array, action: str = RESCALE) -> None:
    """A finite result: finite arguments may still overflow on the way."""
    if is_concrete(*results) and not all(np.isfinite(result).all() for result in results):
        reject(argument, "such that the result is finite", "NaN or infinity in it", action)


def not_lost(argument: str, delta: jax.Array, is_zero: jax.Array) -> None:
    """A step that is not 0, unless the gradient is."""
    if is_concrete(delta, is_zero) and not is_zero and not np.any(delta):
        got = "a gradient that underflows to a step of 0"
        reject(argument, "such that the step is not lost", got, RESCALE)


def gradients(G: Any) -> jax.Array:
    """Per-example gradients (n, p): two axes, n ≥ 1, p ≥ 1, finite."""
    array = as_float("G", G)
    if array.ndim != 2:
        action = "Use per_example_gradients(loss_fn, params, x, y), or G[None, :] for a single example."
        reject("G", "2-D, one gradient a row (n, p)", f"shape {array.shape}", action)
    if 0 in array.shape:
        reject("G", "non-empty", f"shape {array.shape}", "Give at least one example and one parameter.")
    finite_rows("G", array, "Look at these examples, or at the params that made their loss overflow.")
    if is_concrete(array):
        largest = float(np.abs(np.asarray(array)).max())
        kind = jnp.finfo(jnp.promote_types(array.dtype, jnp.float32))
        room = (float(kind.tiny / kind.eps) ** 0.5, (float(kind.max) / array.size) ** 0.5)
        if largest and not room[0] < largest < room[1]:
            requirement = f"between {room[0]:.0e} and {room[1]:.0e}, as it is squared"
            reject("G", requirement, f"{largest:.2g} as its largest entry", RESCALE)
    return array


def symmetric(argument: str, value: Any) -> jax.Array:
    """A square, symmetric, finite matrix (p, p)."""
    A = as_float(argument, value)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        action = "Use empirical_fisher(G); for G itself, solve_dual."
        reject(argument, "square (p, p)", f"shape {A.shape}", action)
    finite_rows(argument, A, "It was computed from gradients that are not finite.")
    if is_concrete(A):
        known = np.asarray(A, float)  # under `jit`, JAX would trace what it makes of a constant
        skew = float(np.abs(known - known.T).max())
        if skew > 1e3 * float(jnp.finfo(A.dtype).eps) * float(np.abs(known).max()):
            got = f"|{argument} - {argument}ᵀ| up to {skew:.3g}"
            reject(argument, "symmetric", got, f"Use empirical_fisher(G), or ({argument} + {argument}.T)/2.")
    return A


def linear_system(argument: str, A: Any, g: Any) -> tuple[jax.Array, jax.Array]:
    """A symmetric matrix (p, p) and a finite g (p,) that fits it, in one precision."""
    A, g = symmetric(argument, A), as_float("g", g)
    action = "Use mean_gradient(G) of the same parameters."
    shaped("g", g, A.shape[:1], f"as {argument} is {A.shape}", action)
    finite_rows("g", g, "It was computed from gradients that are not finite.")
    wider = jnp.result_type(A, g)
    return A.astype(wider), g.astype(wider)


def parameters(params: Any) -> Any:
    """A pytree of floating-point arrays, at least one; what else it holds has no gradient."""
    plain = jax.tree.leaves(params)
    if plain and all(isinstance(leaf, jax.Array) and leaf.dtype in FLOATS for leaf in plain):
        return params
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
        reject("params", "a pytree of floating-point arrays", "no array at all", "Give at least one.")
    arrays = []
    for path, leaf in leaves:
        try:
            kind = getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
            fits = jnp.issubdtype(kind, jnp.floating)
        except TypeError:  # a key of JAX, or what NumPy knows nothing of
            kind, fits = getattr(leaf, "dtype", type(leaf).__name__), False
        if not fits:
            name = type(leaf).__name__ if kind == np.dtype(object) else kind
            action = "Only these have a gradient: close over the others in loss_fn (in equinox: partition and combine)."
            if isinstance(leaf, int):
                action = f"Write {float(leaf)}, if it is a parameter."
            if str(kind).startswith("complex"):
                action = COMPLEX
            got = f"{name} at {jax.tree_util.keystr(path) or 'the root'}"
            reject("params", "a pytree of floating-point arrays", got, action)
        arrays.append(as_array("params", leaf))
    return jax.tree.unflatten(tree, arrays)


def data(x: Any, y: Any) -> tuple[Any, Any]:
    """x and y with arrays of JAX in place of lists of numbers, data frames and tensors."""

    def convert(argument, tree):
        leaves = jax.tree.leaves(tree)
        if all(isinstance(leaf, jax.Array) for leaf in leaves):
            return tree
        if isinstance(tree, list | tuple) and not any(hasattr(leaf, "shape") for leaf in leaves):
            return as_array(argument, tree)
        return jax.tree.map(lambda leaf: as_array(argument, leaf), tree)

    return convert("x", x), convert("y", y)


def examples(x: Any, y: Any) -> int:
    """The number n of examples: the common first axis of x and y."""
    shapes: list[Any] = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves((x, y))]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        got = " and ".join(f"shape {shape}" for shape in shapes) or "nothing"
        action = "For one example, use x[None] and y[None]."
        reject("x and y", "arrays with one example a row, as many in y as in x", got, action)
    n = lengths.pop()
    if n == 0:
        reject("x and y", "non-empty", "0 examples", "Give at least one example.")
    return n


def scalar_loss(loss_fn: Callable, params: Any, x: Any, y: Any) -> int:
    """The number n of examples; `loss_fn(params, x[i], y[i])` is one number."""
    n = examples(x, y)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (x, y))
    try:
        loss = jax.eval_shape(loss_fn, params, *first)
    except NameError as error:
        if "axis" not in str(error):
            raise
        action = "It gets ONE example, without a batch axis: nothing to take a mean over."
        reject("loss_fn", "a function of one example", f"one that uses a {error}", action)
    if getattr(loss, "shape", None) != ():
        got = f"shape {loss.shape}" if hasattr(loss, "shape") else type(loss).__name__
        action = "It gets ONE example, without a batch axis: reduce with .sum() or .mean() over its outputs."
        reject("loss_fn", "a function that returns one number, the loss of one example", got, action)
    return n


def at_least_one(argument: str, value: Any, action: str = "Use 1 or more.") -> int:
    """A whole number ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        reject(argument, "a whole number of at least 1", f"{value!r}", action)
    return int(value)


def relative_to(value: Any) -> None:
    """The eigenvalue that a damping counts in, or None."""
    one_of("relative_to", value, (None, "largest", "mean"))


def one_of(argument: str, value: Any, names: tuple[str | None, ...]) -> None:
    """One of the names."""
    if value not in names:
        reject(argument, "one of " + ", ".join(map(repr, names)), f"{value!r}", "Choose one of these.")


def target(value: Any, n: int) -> jax.Array:
    """The decrease asked of each of n examples (n,): finite numbers."""
    array = as_float("target", value)
    shaped("target", array, (n,), "one number an example", "Ask every example: one decrease each.")
    finite_rows("target", array, "Ask these examples for a finite decrease.")
    return array
