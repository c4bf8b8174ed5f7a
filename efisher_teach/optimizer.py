"""The update on real networks: θ ← θ - η(C + εI)⁻¹g for any JAX loss, on CPU, GPU or several devices.

One jitted function: the Gram matrix K of the loss, an n × n solve for the weights α, and Gᵀα. Neither G nor C is
formed, so that a step costs little more than the gradient. The budget costs nothing: GΔ = -ηnKα is known from K.

Around it: the same direction as a gradient transformation for optax, and a loop that shows its progress, can be
interrupted, and goes on where it stopped.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree, Real

from efisher_teach import _checks
from efisher_teach._precision import dot
from efisher_teach.gradients import per_example_losses
from efisher_teach.gram import loss_gram
from efisher_teach.solve import solve_gram

EXAMPLES, PARAMETERS = "examples", "parameters"  # the axes of a mesh that `make_update` knows


class Report(NamedTuple):
    """What an update did. `fit` puts a leading axis, the steps, on every field."""

    loss: Float[Array, "*steps"]
    """The mean loss before the step."""
    actual_decrease: Float[Array, "*steps"] | None
    """What the mean loss of these examples really fell by; None if not measured."""
    predicted_decrease: Float[Array, "*steps"]
    """-gᵀΔ, the same to first order."""
    budget_spent: Float[Array, "*steps"]
    """ΔᵀCΔ, the mean squared loss change to first order."""
    learning_rate: Float[Array, "*steps"]
    """η: given, or √(c/uᵀCu)."""
    agreement: Float[Array, "*steps"]
    """gᵀ(C + εI)⁻¹g: ρ as far as the damping lets it be seen, from below."""
    residual: Float[Array, "*steps"]
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved."""
    finite: Bool[Array, "*steps"]
    """Whether the step is finite, and the loss after it if it was measured. If not, the parameters were left as they
    were."""


def make_update(
    loss_fn: Callable,
    *,
    damping: Real[Array, ""] | float,
    budget: Real[Array, ""] | float | None = None,
    learning_rate: Real[Array, ""] | float | None = None,
    mesh: Mesh | None = None,
    measure: bool = True,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Report]]:
    """The empirical-Fisher update of a network: θ ← θ - η(C + εI)⁻¹g, with η given or such that ΔᵀCΔ = c.

    It is compiled once for a loss and its shapes: a new update with another ε, c or η costs nothing.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        damping: ε ≥ 0; 0 is the pseudo-inverse.
        budget: c > 0, the mean squared loss change to spend, to first order; exactly met, also with damping.
        learning_rate: η > 0, instead of a budget.
        mesh: Devices to share the work. Its axis "examples" splits x and y, its axis "parameters" every parameter
            array that it can; one of them or both. The result is the same on any mesh.
        measure: Whether to evaluate the loss once more, after the step. This costs about a third of a gradient.

    Returns:
        `update(params, x, y) -> (params, Report)`, for x and y with one example a row, to be called anywhere, also
        under `jax.jit`. g = 0 leaves the parameters as they are, and so does a step that is not finite: see
        `Report.finite`.

    Raises:
        ValueError: damping negative or not finite; budget or learning_rate not positive, both or none of them; a mesh
            with other axes. The update itself: as in `loss_gram`, except that it reports what is not finite; n is no
            multiple of the devices that share it.
    """
    damping = _checks.one_number("damping", _checks.damping(damping))
    budgeted, scale = _checks.budget_or_rate(budget, learning_rate, damping.dtype)
    if mesh is not None:
        _checks.mesh_axes(mesh, (EXAMPLES, PARAMETERS))
        mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever they were
    return lambda params, x, y: _update((loss_fn, budgeted, mesh, measure), params, x, y, damping, scale)


@partial(jax.jit, static_argnums=0)
def _update(settings, params, x, y, damping, scale):
    loss_fn, budgeted, mesh, measure = settings
    if mesh is not None:
        _checks.multiple("x and y", _checks.examples(x, y), mesh.shape.get(EXAMPLES, 1))
    x, y = _shared(mesh, (x, y), lambda leaf: (EXAMPLES,))
    params = _shared(mesh, params, partial(_longest, mesh))
    known = loss_gram(loss_fn, params, x, y)
    K, n = _shared(mesh, known.K, lambda leaf: ()), len(known.losses)
    damping, scale = damping.astype(K.dtype), scale.astype(K.dtype)

    weights = solve_gram(K, damping)
    decrease = n * dot(K, weights)  # Gu, with u = Gᵀα
    still = jnp.all(jnp.abs(decrease) <= 4 * jnp.finfo(K.dtype).eps * n * dot(jnp.abs(K), jnp.abs(weights)))
    power = jnp.where(still, 1, jnp.mean(decrease**2))  # uᵀCu
    rate = jnp.where(still, 0, jnp.sqrt(scale / power) if budgeted else scale)
    moved = jax.tree.map(jnp.add, params, known.pull(-rate * weights))
    moved = _shared(mesh, moved, partial(_longest, mesh))

    loss = jnp.mean(known.losses)
    after = jnp.mean(per_example_losses(loss_fn, moved, x, y)) if measure else loss
    finite = jnp.isfinite(
        jax.tree.reduce(lambda total, leaf: total + jnp.sum(leaf**2), (moved, loss, after), 0.0)
    )
    left = 1 / n - dot(K, weights) - damping * weights  # (C + εI)u - g = -Gᵀ of it
    size = jnp.where(still, 1, jnp.sum(K) / n)  # ‖g‖²
    report = Report(
        loss=loss,
        actual_decrease=loss - after if measure else None,
        predicted_decrease=rate * jnp.mean(decrease),
        budget_spent=jnp.where(still, 0, rate**2 * power),
        learning_rate=rate,
        agreement=jnp.mean(decrease),
        residual=jnp.where(still, 0, jnp.sqrt(n * jnp.sum(left * dot(K, left)) / size)),
        finite=finite,
    )
    return jax.tree.map(partial(jnp.where, finite), moved, params), report


def _shared(mesh, tree, axes_of):
    """Every array spread over the devices; JAX moves the data."""
    if mesh is None:
        return tree

    def spread(leaf):
        axes = [axis if axis in mesh.axis_names else None for axis in axes_of(leaf)]
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(spread, tree)


def _longest(mesh, leaf):
    """The longest axis that the devices can share evenly, if there is one."""
    parts = mesh.shape.get(PARAMETERS, 1)
    axes = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % parts == 0]
    longest = max(axes, key=lambda axis: leaf.shape[axis], default=None)
    return [PARAMETERS if axis == longest else None for axis in range(leaf.ndim)]
