"""The update in optax's form: any optimizer as an update for `fit`, and the empirical Fisher as a transformation.

The only module that imports optax.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_losses
from efisher_teach.core.matrices import gram
from efisher_teach.core.precision import dot, eigh
from efisher_teach.core.solve import relative, solve_gram

if TYPE_CHECKING:
    import optax


class OptaxReport(NamedTuple):
    """The report of a step by another optimizer.

    Examples:
        >>> import optax
        >>> loss_fn, x, y = lambda theta, x, y: (x @ theta - y) ** 2 / 2, jnp.eye(2), jnp.array([-1.0, -2.0])
        >>> update, start = ef.optax_update(loss_fn, optax.adam(0.1), jnp.zeros(2))
        >>> print(update(start, x, y)[1].loss)  # (½ + 2)/2, before the step
        1.25
    """

    loss: Float[Array, "*steps"]
    """The mean loss before the step."""


def optax_update(
    loss_fn: Callable, optimizer: "optax.GradientTransformation", params: PyTree
) -> tuple[Callable[[PyTree, PyTree, PyTree], tuple[PyTree, OptaxReport]], PyTree]:
    """Any optimizer of optax as an update for `fit` or `tune`, by the mean gradient.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        optimizer: Any of optax's, such as `optax.adam(1e-3)`.
        params: The parameters to start from, of which the state is made.

    Returns:
        `update` and its start `(params, state)`, as `update((params, state), x, y) -> ((params, state), OptaxReport)`.

    Examples:
        >>> import optax
        >>> loss_fn, x, y = lambda theta, x, y: (x @ theta - y) ** 2 / 2, jnp.eye(2), jnp.array([-1.0, -2.0])
        >>> update, start = ef.optax_update(loss_fn, optax.sgd(0.1), jnp.zeros(2))
        >>> (params, state), report = update(start, x, y)
        >>> print(params)  # -0.1 g
        [-0.05 -0.1 ]
    """

    @jax.jit
    def update(carry, x, y):
        params, state = carry
        mean_loss = lambda params: jnp.mean(per_example_losses(loss_fn, params, x, y))  # noqa: E731
        loss, gradient = jax.value_and_grad(mean_loss)(params)
        delta, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, delta), state), OptaxReport(loss)

    return update, (params, optimizer.init(params))


class ScaleByEmpiricalFisherState(NamedTuple):
    """Past per-example gradients, newest first: C̄ = Σₖ wₖ rₖrₖᵀ.

    Examples:
        >>> G = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> averaged = ef.scale_by_empirical_fisher(1e-3, decay=0.5, memory=3)
        >>> _, state = averaged.update(G, averaged.init(G[0]))
        >>> _, state = averaged.update(G, state)
        >>> print(state.weights, state.total)  # two new rows and the newest of the old ones: half a weight
        [0.25  0.25  0.125] 0.75
    """

    rows: Float[Array, "m p"]
    weights: Float[Array, " m"]
    """(1 - β)βᵗ⁻ˢ/n for a row of batch s; 0 where nothing is stored yet."""
    total: Float[Array, ""]
    """1 - βᵗ: the sum of the weights of all batches, forgotten ones included."""


def scale_by_empirical_fisher(
    damping: Real[ArrayLike, ""],
    *,
    relative_to: str | None = None,
    decay: Real[ArrayLike, ""] = 0.0,
    memory: int | None = None,
) -> "optax.GradientTransformation":
    """The direction (C + εI)⁻¹g as a gradient transformation: from per-example gradients to a step, for `optax.chain`.

    Its updates come in with the examples on the first axis, as `jax.vmap(jax.grad(loss_fn), (None, 0, 0))` makes them,
    and go out shaped like the parameters. This is ascent: follow it with `optax.scale_by_learning_rate(η)`, where η may
    be a schedule. G is formed, n × p numbers; `make_update` avoids that.

    Args:
        damping: ε ≥ 0, or ε > 0 with a running average. It may be traced, as by `optax.inject_hyperparams`.
        relative_to: "largest" or "mean", if ε counts in the largest eigenvalue of C or in tr C/n, n rows being in use.
        decay: β in [0, 1) of the running average C̄ₜ = Σₛ βᵗ⁻ˢ Cₛ / Σₛ βᵗ⁻ˢ over batches; 0 takes C of this batch only.
        memory: m ≥ n, the number of the newest per-example gradients that C̄ is made of. Older ones are forgotten, and
            their terms are missing from C̄. The state holds m × p numbers. Needed where decay > 0.

    Returns:
        An `optax.GradientTransformation`.

    Raises:
        ValueError: damping is negative or not finite; decay is outside [0, 1), or given without memory; a batch has
            more examples than the memory.

    Examples:
        >>> G = jnp.array([[1.0, 0.0], [0.0, 2.0]])  # one gradient an example, not their mean
        >>> scaled = ef.scale_by_empirical_fisher(damping=0.5)
        >>> direction, _ = scaled.update(G, scaled.init(jnp.zeros(2)))
        >>> print(direction)  # (C + εI)⁻¹g, C = diag(½, 2), g = [½, 1]
        [0.5 0.4]
    """
    import optax

    damping = errors.one_number("damping", errors.damping(damping))
    errors.relative_to(relative_to)
    _check_average(decay, memory)

    def init(params):
        flat, _ = ravel_pytree(errors.parameters(params))
        m, zeros = memory or 0, partial(jnp.zeros, dtype=flat.dtype)
        return ScaleByEmpiricalFisherState(zeros((m, flat.size)), zeros(m), zeros(()))

    def update(updates, state, params=None):
        _check_per_example(updates, state.rows.shape[1])
        _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], updates))
        G = jax.vmap(lambda example: ravel_pytree(example)[0])(updates)
        n, m = len(G), len(state.rows)
        if m == 0:
            return unravel(dot(G.T, solve(gram(G), n))), state
        if n > m:
            action = "Make memory a few batches large, or the batches smaller."
            errors.reject("updates", f"of at most {m} examples, the memory", f"{n} examples", action)
        state = ScaleByEmpiricalFisherState(
            jnp.concatenate([G, state.rows])[:m],
            jnp.concatenate([jnp.full(n, (1 - decay) / n, G.dtype), decay * state.weights])[:m],
            decay * state.total + (1 - decay),
        )
        # C̄ = RᵀR and g = Rᵀt: the dual again, though g is of the last batch only.
        R = jnp.sqrt(state.weights / state.total)[:, None] * state.rows
        size = jnp.sqrt((1 - decay) / n / state.total)
        target = jnp.where(jnp.arange(m) < n, 1 / (n * size), 0)
        return unravel(dot(R.T, solve(dot(R, R.T), jnp.sum(state.weights > 0), target))), state

    def solve(K, n, target=None):
        shift = relative(damping, relative_to, lambda: eigh(K)[0][-1], lambda: jnp.trace(K) / n)
        return solve_gram(K, shift, target)

    return optax.GradientTransformation(init, update)


def _check_per_example(updates, p):
    """Gradients with the examples on the first axis: n ≥ 1 of them, of p parameters."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(updates)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths or sum(map(prod, shapes)) != lengths.pop() * p:
        requirement = f"per-example gradients, for each array (n, …), of {p} parameters in all"
        action = "Use jax.vmap(jax.grad(loss_fn), (None, 0, 0)): their mean has lost what C is made of."
        errors.reject("updates", requirement, f"shapes {str(shapes)[:80]}", action)


def _check_average(decay, memory):
    """The factor by which a running average forgets, and the number of rows that it is made of."""
    if errors.is_concrete(decay) and not 0 <= decay < 1:
        action = "Use e.g. 0.9: about the last ten batches."
        errors.reject("decay", "at least 0 and below 1", f"{decay}", action)
    if errors.is_concrete(decay) and decay > 0 and memory is None:
        action = "It is how many past per-example gradients are kept, e.g. ten batches of them."
        errors.reject("memory", "a number of rows where decay is given", "None", action)
    if memory is not None:
        errors.at_least_one("memory", memory)
