"""Right answers to the exercises of notebook 06, as others would write them."""

import jax
import jax.numpy as jnp
import numpy as np

import efisher_teach as ef


def _both_labels(theta, X, y):
    """The expectation as a loop over examples and labels."""
    X, theta = np.asarray(X), np.asarray(theta)
    F = np.zeros((X.shape[1], X.shape[1]))
    for x in X:
        p = 1 / (1 + np.exp(-x @ theta))
        for label, probability in ((0, 1 - p), (1, p)):
            F += probability * np.outer((p - label) * x, (p - label) * x)
    return F / len(X)


def _as_a_hessian(theta, X, y):
    return jax.hessian(lambda theta: jnp.mean(jax.nn.softplus(X @ theta) - y * (X @ theta)))(theta)


def _both_steps(Sigma, g, damping):
    Sigma, g = np.asarray(Sigma, float), np.asarray(g, float)
    damped = Sigma + damping * np.eye(len(g))
    return np.linalg.norm(np.linalg.inv(damped) @ g) / np.linalg.norm(
        np.linalg.inv(damped + np.outer(g, g)) @ g
    )


STYLES = {
    "step_in_one_dimension": (
        lambda slopes: -sum(float(each) for each in slopes) / sum(float(each) ** 2 for each in slopes),
        lambda slopes: ef.empirical_fisher_step(slopes[:, None], learning_rate=1.0).delta[0],
    ),
    "noise_ratio": (lambda sigma: [sigma * sigma, sigma**-2], lambda sigma: tuple(np.array([sigma, 1 / sigma]) ** 2)),
    "logistic_fisher": (_both_labels, _as_a_hessian),
    "which_is_which": (
        lambda: {"D": "Hessian", "C": "none of them", "B": "empirical Fisher", "A": "Fisher"},
        lambda: dict(zip("ABCD", ("Fisher", "empirical Fisher", "none of them", "Hessian"), strict=True)),
    ),
    "longer_when_centred": (
        _both_steps,
        lambda Sigma, g, damping: jnp.linalg.det(Sigma + damping * jnp.eye(len(g)) + jnp.outer(g, g))
        / jnp.linalg.det(Sigma + damping * jnp.eye(len(g))),
    ),
    "turn_away": (
        lambda: ([[1, 2], [1, 3]], [1, 5]),
        lambda: (np.array([[1.0, 0.2], [1, 0.4], [1, 3], [1, 4]]), np.array([0.4, 0.9, 6.2, 7.9])),
    ),
}  # fmt: skip
