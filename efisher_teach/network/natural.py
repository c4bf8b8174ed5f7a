"""The natural-gradient update, to compare with: the same, with a row for each label that the model believes in."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, PyTree, Real

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_losses
from efisher_teach.core.likelihoods import Likelihood
from efisher_teach.core.precision import dot
from efisher_teach.network.direction import direction_of, rows_of
from efisher_teach.network.report import Report, numbers_of, take


def make_natural_update(
    output_fn: Callable,
    likelihood: Likelihood,
    *,
    damping: Real[ArrayLike, ""],
    budget: Real[ArrayLike, ""] | None = None,
    radius: Real[ArrayLike, ""] | None = None,
    learning_rate: Real[ArrayLike, ""] | None = None,
    measure: bool = True,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Report]]:
    """The natural-gradient update, to compare with: θ ← θ - η(F + εI)⁻¹g, with the Fisher F of the model's own labels.

    It has a row for each label that the model thinks possible, weighted by the root of its probability: for m labels
    its price is about m times that of `make_update`.

    Args:
        output_fn: `output_fn(params, x)`, the output z of one example.
        likelihood: p(y | z), of `efisher_teach.core.likelihoods`: the loss is its -log p(y | z).
        damping: ε ≥ 0.
        budget: c > 0, spent in the metric of F: ΔᵀFΔ = c is twice the KL divergence of the model from what it was.
        radius: As in `make_update`.
        learning_rate: η > 0, instead of both.
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
    numbers = numbers_of(damping, budget, radius, learning_rate)

    def update(params, x, y):
        return _natural_update(output_fn, likelihood, measure, numbers, params, x, y)

    return update


@partial(jax.jit, static_argnums=(0, 1, 2))
def _natural_update(output_fn, likelihood, measure, numbers, params, x, y):
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
    B, target = B.reshape(n * labels, *B.shape[2:]), jnp.ravel(target)
    x_of_row = jax.tree.map(lambda leaf: jnp.repeat(leaf, labels, axis=0), x)
    s = jnp.full(n * labels, n**-0.5, target.dtype)  # F is a mean over n examples, not over n × labels rows
    _, rows = rows_of(lambda params, x, b: jnp.sum(b * output_fn(params, x)), params, x_of_row, B, s)
    damping = numbers.damping.astype(rows.lengths.dtype) / rows.unit / rows.unit
    found = direction_of(rows, s, target, damping)
    # gᵀu, g = Rᵀ(s∘t)
    found = found._replace(agreement=jnp.sum(s * target * rows.times_gram(found.coefficients)))
    losses, share = per_example_losses(loss_fn, params, x, y), jnp.full(n, 1 / n)
    evaluate = (lambda moved: per_example_losses(loss_fn, moved, x, y)) if measure else None
    moved, _, report = take(params, rows, found, None, damping, numbers.limits, losses, share, evaluate)
    return moved, report
