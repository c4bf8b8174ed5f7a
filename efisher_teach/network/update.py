"""The update on real networks: θ ← θ - η(C + εI)⁻¹g for any JAX loss, on CPU, GPU or several devices.

One jitted function makes the Gram matrix K of the loss, solves n × n equations for the coefficients α, and takes Gᵀα.
Neither G nor C is formed, so a step costs little more than the gradient. The budget costs nothing: GΔ = -ηnKα is known
from K.

The natural-gradient update stands beside it, for comparison.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_losses
from efisher_teach.core.likelihoods import Likelihood
from efisher_teach.core.precision import dot
from efisher_teach.core.solve import solve_gram
from efisher_teach.core.step import rate_of
from efisher_teach.network import devices
from efisher_teach.network.gram import check_hashable, loss_gram


class Report(NamedTuple):
    """The outcome of an update. `fit` puts a leading axis, the steps, on every field.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> _, report = ef.make_update(toy.loss_fn, damping=0.0, budget=0.01)(toy.params, toy.x, toy.y)
        >>> print(f"{report.predicted_decrease:.4f} = √(cρ) = {(0.01 * report.damped_agreement) ** 0.5:.4f}")
        0.0575 = √(cρ) = 0.0575
    """

    loss: Float[Array, "*steps"]
    """The mean loss before the step."""
    actual_decrease: Float[Array, "*steps"] | None
    """The measured decrease of the mean loss of these examples; None if not measured."""
    predicted_decrease: Float[Array, "*steps"]
    """-gᵀΔ, the same to first order."""
    budget_spent: Float[Array, "*steps"]
    """ΔᵀCΔ, the mean squared loss change to first order."""
    learning_rate: Float[Array, "*steps"]
    """η: given, or √(c/uᵀCu)."""
    damped_agreement: Float[Array, "*steps"]
    """gᵀ(C + εI)⁻¹g ≤ ρ, which it approaches as ε goes to 0."""
    residual: Float[Array, "*steps"]
    """‖(C + εI)u - g‖/‖g‖: how well the linear system was solved."""
    finite: Bool[Array, "*steps"]
    """True if the step is finite, and so is the loss after it where that was measured. Otherwise the parameters were
    left as they were."""


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

    It is compiled once for a loss and its shapes: another ε, c or η costs nothing. It is made for n < p. In float32 its
    relative error is below 1e-5 for smooth networks; on a GPU only if the model's own products are not rounded to TF32,
    which leaves three digits: set `jax.default_matmul_precision("highest")`.

    Args:
        loss_fn: `loss_fn(params, x, y)`, the loss of one example, a scalar.
        damping: ε ≥ 0; 0 is the pseudo-inverse.
        budget: c > 0, the mean squared loss change to spend, to first order; met exactly, also with damping.
        learning_rate: η > 0, instead of a budget.
        mesh: Devices that share the work. Its axis "examples" splits x and y, its axis "parameters" splits every array
            of the parameters that it can; it may have one of them or both. The result is the same on any mesh.
        measure: True evaluates the loss once more, after the step. This costs about a third of a gradient.

    Returns:
        `update(params, x, y) -> (params, Report)`, for x and y with one example a row. It can be called anywhere, also
        under `jax.jit`. g = 0 leaves the parameters as they are, and so does a step that is not finite: see
        `Report.finite`.

    Raises:
        ValueError: damping is negative or not finite; budget or learning_rate is not positive, or both or neither are
            given; the mesh has other axes. The update itself raises as `loss_gram` does, except that it reports what is
            not finite; and if n is not a multiple of the devices that share the examples.

    Examples:
        >>> loss_fn = lambda theta, x, y: (x @ theta - y) ** 2 / 2
        >>> update = ef.make_update(loss_fn, damping=0.0, budget=0.01)
        >>> params, report = update(jnp.zeros(2), jnp.eye(2), jnp.array([-1.0, -2.0]))  # G = [[1, 0], [0, 2]]
        >>> print(params, f"{report.predicted_decrease:.3f}, in truth {report.actual_decrease:.3f}")
        [-0.1  -0.05] 0.100, in truth 0.097
    """
    check_hashable(loss_fn)
    damping, budgeted, scale = _numbers(damping, budget, learning_rate)
    mesh = None if mesh is None else devices.automatic(mesh)

    def update(params, x, y):
        with devices.inside(mesh):
            return _update(loss_fn, budgeted, mesh, measure, params, x, y, damping, scale)

    return update


@partial(jax.jit, static_argnames=("loss_fn", "budgeted", "mesh", "measure"))
def _update(loss_fn, budgeted, mesh, measure, params, x, y, damping, scale):
    x, y = devices.split_examples(mesh, x, y)
    params = devices.split_parameters(mesh, params)
    known = loss_gram(loss_fn, params, x, y)
    K, n = devices.copy_to_all(mesh, known.K), len(known.losses)
    solution = _solve(K, jnp.full(n, 1 / n, K.dtype), n, damping, scale, budgeted)
    return _take(loss_fn, mesh, measure, params, x, y, known, solution, jnp.mean(known.losses))


def _numbers(damping, budget, learning_rate):
    """The damping ε; whether a budget is given; and c or η, whichever is."""
    damping = errors.one_number("damping", errors.damping(damping))
    budgeted, scale = errors.budget_or_rate(budget, learning_rate, damping.dtype)
    # JAX gives weak types to Python's numbers. Without them, no other number is a reason to compile again.
    damping, scale = (lax.convert_element_type(number, number.dtype) for number in (damping, scale))
    return damping, budgeted, scale


class _Solution(NamedTuple):
    """A direction u = Rᵀα, and what is known of the step -ηu without forming it."""

    coefficients: Array
    learning_rate: Array
    budget_spent: Array
    damped_agreement: Array  # gᵀu
    squared_length: Array  # ‖ηu‖²
    residual: Array


def _solve(K, target, n, damping, scale, budgeted):
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
    return _Solution(
        coefficients=coefficients,
        learning_rate=rate,
        budget_spent=rate**2 * cost,
        damped_agreement=jnp.sum(target * along),
        squared_length=rate**2 * jnp.sum(coefficients * along),
        residual=jnp.where(is_zero, 0, jnp.sqrt(jnp.sum(left_over * dot(K, left_over)) / size)),
    )


def _take(loss_fn, mesh, measure, params, x, y, known, solution, loss):
    """The parameters after the step, or before it where it is not finite; and the report."""
    delta = known.weighted_gradient(-solution.learning_rate * solution.coefficients)
    moved = devices.split_parameters(mesh, jax.tree.map(jnp.add, params, delta))
    after = jnp.mean(per_example_losses(loss_fn, moved, x, y)) if measure else None
    finite = jnp.isfinite(loss) & jnp.isfinite(solution.squared_length)
    finite = finite if after is None else finite & jnp.isfinite(after)
    for leaf in jax.tree.leaves(moved):
        if jnp.finfo(leaf.dtype).bits < 32:  # a step of finite length may still be too long for these
            finite &= jnp.all(jnp.isfinite(leaf))
    report = Report(
        loss=loss,
        actual_decrease=None if after is None else loss - after,
        predicted_decrease=solution.learning_rate * solution.damped_agreement,
        budget_spent=solution.budget_spent,
        learning_rate=solution.learning_rate,
        damped_agreement=solution.damped_agreement,
        residual=solution.residual,
        finite=finite,
    )
    return jax.tree.map(partial(jnp.where, finite), moved, params), report


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

    It is the dual again, with a row for each label that the model thinks possible, weighted by the root of its
    probability: for m labels its price is about m times that of `make_update`.

    Args:
        output_fn: `output_fn(params, x)`, the output z of one example.
        likelihood: p(y | z), of `efisher_teach.core.likelihoods`: the loss is its -log p(y | z).
        damping: ε ≥ 0.
        budget: c > 0, spent in the metric of F: ΔᵀFΔ = c is twice the KL divergence of the model from what it was.
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
    damping, budgeted, scale = _numbers(damping, budget, learning_rate)

    def update(params, x, y):
        return _natural_update(output_fn, likelihood, budgeted, measure, params, x, y, damping, scale)

    return update


@partial(jax.jit, static_argnames=("output_fn", "likelihood", "budgeted", "measure"))
def _natural_update(output_fn, likelihood, budgeted, measure, params, x, y, damping, scale):
    n = errors.examples(x, y)

    def loss_fn(params, x, y):
        return likelihood.loss(output_fn(params, x), y)

    def factors(x, y):
        """B with Σₖ wₖ∇ℓₖ∇ℓₖᵀ = BᵀB for the gradients ∂ℓₖ/∂z of every label, and t with Bᵀt = ∂ℓ/∂z."""
        z, gradient = output_fn(params, x), jax.grad(likelihood.loss)
        labels, weights = likelihood.labels(z)
        believed = jax.vmap(gradient, in_axes=(None, 0))(z, labels)
        B = jnp.sqrt(weights)[:, None] * believed.reshape(len(weights), -1)
        return B.reshape(believed.shape), dot(jnp.linalg.pinv(B.T), jnp.ravel(gradient(z, y)))

    B, target = jax.vmap(factors)(x, y)
    labels = B.shape[1]
    B, target = B.reshape(n * labels, *B.shape[2:]), target.reshape(n * labels) / n
    x_of_row = jax.tree.map(lambda leaf: jnp.repeat(leaf, labels, axis=0), x)
    known = loss_gram(lambda params, x, b: jnp.sum(b * output_fn(params, x)), params, x_of_row, B)
    # F is a mean over n examples, K over n × labels rows.
    solution = _solve(labels * known.K, target, n, damping, scale, budgeted)
    loss = jnp.mean(per_example_losses(loss_fn, params, x, y))
    return _take(loss_fn, None, measure, params, x, y, known, solution, loss)
