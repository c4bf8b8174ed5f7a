"""Likelihoods, the models' beliefs about the labels: p(y | z) for the output z of a model, as the Fisher needs it.

A loss is a negative log-likelihood, -log p(y | z) up to a constant, for one of these three:

    gaussian      z is the mean (of each output), the variance is 1     loss ‖y - z‖²/2
    bernoulli     z is the log-odds of y = 1                            loss log(1 + eᶻ) - yz
    categorical   z are the logits of the classes, y is a class         loss log Σ eᶻ - z[y]

All three are exponential families with natural parameter z, which is why their Fisher is their Gauss-Newton matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from efisher_teach import errors

__all__ = ["Likelihood", "bernoulli", "categorical", "gaussian"]


class Likelihood(NamedTuple):
    """p(y | z), for one example with the output z of its model.

    Examples:
        >>> labels, weights = ef.likelihoods.bernoulli.labels(jnp.log(3.0))  # log-odds log 3: p = ¾
        >>> print(labels, weights)
        [0. 1.] [0.25 0.75]
    """

    name: str
    loss: Callable
    """`loss(z, y)`: -log p(y | z), up to a constant."""
    mean: Callable
    """`mean(z)`: the mean, the probability of 1, or the probabilities of the classes."""
    labels: Callable
    """`labels(z)`: m labels and their weights (m,), such that Σ weightₖ φ(yₖ) = E[φ(y)] for every φ quadratic in y.

    So the expectation in the Fisher is a finite sum, for a Gaussian too.
    """
    sample: Callable
    """`sample(key, z)`: one label, drawn from the model."""


def _gaussian_labels(z):
    """z, and z ± s√d eₖ for each of d outputs: mean z, covariance I. An s ≥ |z| is not lost in the rounding of z."""
    d = jnp.size(z)
    s = jax.lax.stop_gradient(2 ** jnp.ceil(jnp.log2(jnp.maximum(1, jnp.max(jnp.abs(z))))))
    offsets = s * jnp.sqrt(d) * jnp.eye(d, dtype=z.dtype).reshape(d, *z.shape)
    weights = jnp.full(2 * d, 1 / (2 * d), z.dtype) / s / s
    return jnp.concatenate([z[None], z + offsets, z - offsets]), jnp.append(1 - 1 / s / s, weights)


gaussian = Likelihood(
    "Gaussian",
    loss=lambda z, y: jnp.sum((y - z) ** 2) / 2,
    mean=lambda z: z,
    labels=_gaussian_labels,
    sample=lambda key, z: z + jax.random.normal(key, z.shape, z.dtype),
)
bernoulli = Likelihood(
    "Bernoulli",
    loss=lambda z, y: jax.nn.softplus(z) - y * z,
    mean=jax.nn.sigmoid,
    labels=lambda z: (jnp.array([0, 1], z.dtype), jnp.stack([jax.nn.sigmoid(-z), jax.nn.sigmoid(z)])),
    sample=lambda key, z: jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype),
)
categorical = Likelihood(
    "categorical",
    # Ten times faster, for many at once, than picking from log_softmax.
    loss=lambda z, y: jax.nn.logsumexp(z - z[y]),
    mean=jax.nn.softmax,
    labels=lambda z: (jnp.arange(z.shape[0]), jax.nn.softmax(z)),
    sample=jax.random.categorical,
)


def require_negative_log(likelihood: Likelihood, G: jax.Array, believed: jax.Array) -> None:
    """A loss whose gradients G are those of -log p(y | z), label by label."""
    if not errors.is_concrete(G, believed):
        return
    error, size = float(jnp.abs(G - believed).max()), float(jnp.abs(believed).max())
    if error > float(jnp.finfo(G.dtype).eps) ** 0.5 * size:
        raise ValueError(
            f"`loss_fn` must be the negative log-likelihood -log p(y | x, θ) of the {likelihood.name} likelihood, up "
            f"to a constant; got gradients that differ from its by up to {error:.3g} (they are up to {size:.3g}). Only "
            "a likelihood has a Fisher: leave weight decay, class weights and label smoothing out of the loss, check "
            "factors such as the ½ of the squared loss, or give the likelihood that fits. The empirical Fisher exists "
            "for any loss."
        )
