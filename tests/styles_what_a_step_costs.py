"""Right answers to the exercises of notebook 02, as others would write them."""

import jax
import jax.numpy as jnp
import numpy as np

import efisher_teach as ef


def _loss(theta, x, label):
    return (label - x @ theta) ** 2 / 2


def _by_subtraction(theta, X, y, delta):
    theta, X, y, delta = (np.asarray(part, float) for part in (theta, X, y, delta))
    changes = ((y - X @ (theta + delta)) ** 2 - (y - X @ theta) ** 2) / 2
    G = (X @ theta - y)[:, None] * X
    return [changes.mean() - G.mean(0) @ delta, np.mean(changes**2) - delta @ (G.T @ G / len(G)) @ delta]


def _by_autodiff(theta, X, y, delta):
    left = []
    for x, label in zip(X, y, strict=True):
        first = jax.grad(_loss)(theta, x, label) @ delta
        rest = delta @ jax.hessian(_loss)(theta, x, label) @ delta / 2
        left.append([rest, 2 * first * rest + rest**2])
    return tuple(jnp.mean(jnp.array(left), axis=0))


def _projected(G):
    G = np.asarray(G, float)
    for axis in np.eye(G.shape[1]):
        rest = axis - np.linalg.pinv(G) @ (G @ axis)
        if np.linalg.norm(rest) > 0.1:
            return 100 * rest


STYLES = {
    "cost_of_a_step": (
        lambda G, delta: sum(float(row @ delta) ** 2 for row in G) / len(G),
        lambda G, delta: ef.quadratic_form(ef.empirical_fisher(G), delta),
    ),
    "as_a_length": (
        lambda G: np.linalg.cholesky(np.asarray(G).T @ np.asarray(G) / len(G)).T,
        lambda G: [[entry / len(G) ** 0.5 for entry in row] for row in np.asarray(G).tolist()],
    ),
    "semi_axes": (
        lambda C, budget: sorted(np.sqrt(budget / np.linalg.eigh(np.asarray(C))[0]).tolist(), reverse=True),
        lambda C, budget: jnp.sqrt(budget * jnp.linalg.eigvalsh(jnp.linalg.inv(C)))[::-1],
    ),
    "free_direction": (lambda G: np.linalg.svd(np.asarray(G))[2][len(G)], _projected),
    "order_of": (
        lambda scales, errors: np.log(errors[-1] / errors[0]) / np.log(scales[-1] / scales[0]),
        lambda scales, errors: np.mean(np.diff(np.log10(errors)) / np.diff(np.log10(scales))),
    ),
    "left_out": (_by_subtraction, _by_autodiff),
}
