"""Right answers to the exercises of notebook 09, as others would write them."""

import jax.numpy as jnp
import numpy as np

import efisher_teach as ef


def _expected(theta, X, y):
    """The mean over both labels, each with its chance."""
    chance = 1 / (1 + np.exp(-np.asarray(X) @ np.asarray(theta)))
    return sum(
        p * (s - label) ** 2 * np.outer(x, x) / len(chance)
        for x, s in zip(np.asarray(X), chance, strict=True)
        for label, p in ((1, s), (0, 1 - s))
    )


STYLES = {
    "curvature": (
        lambda G: sum(np.outer(row, row) for row in np.asarray(G)) / len(G),
        lambda G: ef.empirical_fisher(G),
    ),
    "accumulated": (
        lambda batches: ef.empirical_fisher(jnp.concatenate(batches)),
        lambda batches: sum(len(G) * ef.empirical_fisher(G) for G in batches) / sum(map(len, batches)),
    ),
    "fisher_of_batches": (
        lambda G, batch_size: np.asarray(G).T @ np.asarray(G) / len(G),
        lambda G, batch_size: jnp.mean(G[:, :, None] * G[:, None, :], axis=0),
    ),
    "true_fisher": (
        _expected,
        lambda theta, X, y: (X.T * ((s := 1 / (1 + jnp.exp(-X @ theta))) * (1 - s))) @ X / len(X),
    ),
    "wide_direction": (
        lambda G, damping: ef.solve_dual(G, damping),
        lambda G, damping: np.linalg.solve(
            (H := np.asarray(G, np.float64)).T @ H / len(H) + damping * np.eye(H.shape[1]), H.mean(0)
        ),
    ),
    "damped_direction": (
        lambda G, damping: jnp.linalg.solve(G.T @ G + len(G) * damping * jnp.eye(G.shape[1]), G.sum(axis=0)),
        lambda G, damping: ef.solve_primal(ef.empirical_fisher(G), ef.mean_gradient(G), damping),
    ),
}
