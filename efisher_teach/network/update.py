"""The update on real networks: θ ← θ - η(C + εI)⁻¹g for any JAX loss, on CPU, GPU or several devices.

One jitted function: the Gram matrix K of the loss, an n × n solve for the coefficients α, and Gᵀα. Neither G nor C is
formed, so that a step costs little more than the gradient. The budget costs nothing: GΔ = -ηnKα is known from K.

Beside it: the natural-gradient update, to compare with.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_losses
from efisher_teach.core.likelihoods import Likelihood
from efisher_teach.core.precision import dot
from efisher_teach.core.solve import solve_gram
from efisher_teach.core.step import rate_of
from efisher_teach.network.gram import loss_gram

if TYPE_CHECKING:
    pass

EXAMPLES, PARAMETERS = "examples", "parameters"  # the axes of a mesh that `make_update` knows


class Report(NamedTuple):
    """What an update did. `fit` puts a leading axis, the steps, on every field.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> _, report = ef.make_update(toy.loss_fn, damping=0.0, budget=0.01)(toy.params, toy.x, toy.y)
        >>> print(f"{report.predicted_decrease:.4f} = √(cρ) = {(0.01 * report.damped_agreement) ** 0.5:.4f}")
        0.0575 = √(cρ) = 0.0575
    """

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
    damped_agreement: Float[Array, "*steps"]
    """gᵀ(C + εI)⁻¹g: ρ as far as the damping lets it be seen, from below."""
    residual: Float[Array, "*steps"]
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved."""
    finite: Bool[Array, "*steps"]
    """Whether the step is finite, and the loss after it if it was measured. If not, the parameters were left as they
    were."""


def make_update(
    loss_fn: Callable,
    *,
    damping: Real[ArrayLike, ""],
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    mesh: Mesh | None = None,
    measure: bool = True,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Report]]:
    """The empirical-Fisher update of a network: θ ← θ - η(C + εI)⁻¹g, with η given or such that ΔᵀCΔ = c.

    It is compiled once for a loss and its shapes: a new update with another ε, c or η costs nothing. Made for n < p. In
    float32 its relative error is below 1e-5 for smooth networks; on GPUs only where the model's own products are not
    rounded to TF32, which leaves three digits: `jax.default_matmul_precision("highest")`.

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

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> update = ef.make_update(loss_fn, damping=0.0, budget=0.01)
        >>> params, report = update(jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))  # G = [[1, 0], [0, 2]]
        >>> print(params, f"{report.predicted_decrease:.3f}, in truth {report.actual_decrease:.3f}")
        [-0.1  -0.05] 0.100, in truth 0.097
    """
    errors.hashable("loss_fn", loss_fn)
    damping, budgeted, scale = _settings(damping, budget, learning_rate)
    if mesh is not None:
        errors.mesh_axes(mesh, (EXAMPLES, PARAMETERS))
        mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever they were

    def update(params, x, y):
        # The mesh's own axes, automatic ones, also where the caller has set a mesh of another kind.
        with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return _update((loss_fn, budgeted, mesh, measure), params, x, y, damping, scale)

    return update


@partial(jax.jit, static_argnums=0)
def _update(settings, params, x, y, damping, scale):
    loss_fn, budgeted, mesh, measure = settings
    if mesh is not None:
        errors.multiple("x and y", errors.examples(x, y), mesh.shape.get(EXAMPLES, 1))
    x, y = _spread(mesh, (x, y), lambda leaf: (EXAMPLES,))
    params = _spread(mesh, params, partial(_longest_axis, mesh))
    known = loss_gram(loss_fn, params, x, y)
    K, n = _spread(mesh, known.K, lambda leaf: ()), len(known.losses)
    found = _solve(K, jnp.full(n, 1 / n, K.dtype), n, damping, budgeted, scale)
    moved = jax.tree.map(jnp.add, params, known.weighted_gradient(-found.learning_rate * found.coefficients))
    moved = _spread(mesh, moved, partial(_longest_axis, mesh))
    return _accept(loss_fn, params, moved, x, y, jnp.mean(known.losses), found, measure)


def _settings(damping, budget, learning_rate):
    damping = errors.one_number("damping", errors.damping(damping))
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, damping.dtype)
    # Without weak types, which JAX gives to Python's numbers: other numbers are then no reason to compile again.
    damping, scale = (lax.convert_element_type(number, number.dtype) for number in (damping, scale))
    return damping, budgeted, scale


class _Solved(NamedTuple):
    """A direction u = Rᵀα, and what is known of the step -ηu without forming it."""

    coefficients: Array
    learning_rate: Array
    budget_spent: Array
    damped_agreement: Array  # gᵀu
    squared_length: Array  # ‖ηu‖²
    residual: Array


def _solve(K, target, n, damping, budgeted, scale):
    """u = (A + εI)⁻¹g for the matrix A = RᵀR/n and the gradient g = Rᵀt, from K = RRᵀ/n alone."""
    K = lax.optimization_barrier(K)  # made once, not again for each use
    damping, scale = damping.astype(K.dtype), scale.astype(K.dtype)
    coefficients = solve_gram(K, damping, target)
    along = n * dot(K, coefficients)  # Ru
    sizes = jnp.sqrt(jnp.abs(jnp.diag(K)))
    rounding = 4 * jnp.finfo(K.dtype).eps * sizes * jnp.sum(sizes * jnp.abs(target))
    is_zero = jnp.all(jnp.abs(dot(K, target)) <= rounding)  # Rg/n: nowhere to go
    coefficients, along = (jnp.where(is_zero, 0, part) for part in (coefficients, along))
    cost = jnp.sum(along**2) / n  # uᵀAu
    rate = rate_of(scale, cost, is_zero, budgeted=budgeted)
    left_over = target - dot(K, coefficients) - damping * coefficients  # (A + εI)u - g is -Rᵀ of it
    size = jnp.where(is_zero, 1, jnp.sum(target * dot(K, target)))  # ‖g‖²/n
    return _Solved(
        coefficients=coefficients,
        learning_rate=rate,
        budget_spent=rate**2 * cost,
        damped_agreement=jnp.sum(target * along),
        squared_length=rate**2 * jnp.sum(coefficients * along),
        residual=jnp.where(is_zero, 0, jnp.sqrt(jnp.sum(left_over * dot(K, left_over)) / size)),
    )


def _accept(loss_fn, params, moved, x, y, loss, found, measure):
    """The step, if it is finite, and the report."""
    after = jnp.mean(per_example_losses(loss_fn, moved, x, y)) if measure else loss
    finite = jnp.isfinite(loss) & jnp.isfinite(after) & jnp.isfinite(found.squared_length)
    for leaf in jax.tree.leaves(moved):
        if jnp.finfo(leaf.dtype).bits < 32:  # a step of finite length may still be too long for these
            finite &= jnp.all(jnp.isfinite(leaf))
    report = Report(
        loss=loss,
        actual_decrease=loss - after if measure else None,
        predicted_decrease=found.learning_rate * found.damped_agreement,
        budget_spent=found.budget_spent,
        learning_rate=found.learning_rate,
        damped_agreement=found.damped_agreement,
        residual=found.residual,
        finite=finite,
    )
    return jax.tree.map(partial(jnp.where, finite), moved, params), report


def _spread(mesh, tree, axes_of):
    """Every array spread over the devices; JAX moves the data."""
    if mesh is None:
        return tree

    def spread(leaf):
        axes = [axis if axis in mesh.axis_names else None for axis in axes_of(leaf)]
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(spread, tree)


def _longest_axis(mesh, leaf):
    """The names of its axes: the longest one that the devices can share evenly is split, if there is one."""
    parts = mesh.shape.get(PARAMETERS, 1)
    axes = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % parts == 0]
    longest = max(axes, key=lambda axis: leaf.shape[axis], default=None)
    return [PARAMETERS if axis == longest else None for axis in range(leaf.ndim)]


def make_natural_update(
    output_fn: Callable,
    likelihood: Likelihood,
    *,
    damping: Real[ArrayLike, ""],
    budget: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    measure: bool = True,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Report]]:
    """The natural-gradient update, to compare with: θ ← θ - η(F + εI)⁻¹g, with the Fisher F of the model's own labels.

    The dual again, with a row for each label that the model believes in, weighted by the root of its probability: for m
    labels about m times the price of `make_update`.

    Args:
        output_fn: `output_fn(params, x)`, the output z of one example.
        likelihood: p(y | z), of `efisher_teach.core.likelihoods`: the loss is its -log p(y | z).
        damping: ε ≥ 0.
        budget: c > 0, spent in the metric of F: ΔᵀFΔ = c is twice the divergence KL of the model from what it was.
        learning_rate: η > 0, instead of a budget.
        measure: As in `make_update`.

    Returns:
        `update(params, x, y) -> (params, Report)`, as of `make_update`; "C" in its report is F.

    Raises:
        ValueError: As in `make_update`.

    Examples:
        >>> output_fn, gaussian = lambda theta, x: x @ theta, ef.likelihoods.gaussian  # then F is the Hessian
        >>> update = ef.make_natural_update(output_fn, gaussian, damping=0.0, learning_rate=1.0)
        >>> params, report = update(jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))
        >>> print(params, f"{report.loss:.2f}")  # one step of Newton's method: the solution; the loss was 1.25
        [-1. -2.] 1.25
    """
    damping, budgeted, scale = _settings(damping, budget, learning_rate)
    return lambda params, x, y: _natural(
        (output_fn, likelihood, budgeted, measure), params, x, y, damping, scale
    )


@partial(jax.jit, static_argnums=0)
def _natural(settings, params, x, y, damping, scale):
    output_fn, likelihood, budgeted, measure = settings
    n = errors.examples(x, y)

    def loss_fn(params, x, y):
        return likelihood.loss(output_fn(params, x), y)

    def rows(x, y):  # ∂z of Σₖ wₖ∇ℓₖ∇ℓₖᵀ = BᵀB, and t with Bᵀt = ∂ℓ/∂z
        z = output_fn(params, x)
        labels, weights = likelihood.labels(z)
        believed = jax.vmap(jax.grad(likelihood.loss), in_axes=(None, 0))(z, labels)
        B = jnp.sqrt(weights)[:, None] * believed.reshape(len(weights), -1)
        return B.reshape(believed.shape), dot(
            jnp.linalg.pinv(B.T), jnp.ravel(jax.grad(likelihood.loss)(z, y))
        )

    B, target = jax.vmap(rows)(x, y)
    labels = B.shape[1]
    B, target = B.reshape(n * labels, *B.shape[2:]), target.reshape(n * labels) / n
    x_of_row = jax.tree.map(lambda leaf: jnp.repeat(leaf, labels, axis=0), x)
    known = loss_gram(lambda params, x, b: jnp.sum(b * output_fn(params, x)), params, x_of_row, B)
    found = _solve(labels * known.K, target, n, damping, budgeted, scale)
    moved = jax.tree.map(jnp.add, params, known.weighted_gradient(-found.learning_rate * found.coefficients))
    loss = jnp.mean(per_example_losses(loss_fn, params, x, y))
    return _accept(loss_fn, params, moved, x, y, loss, found, measure)
