"""Right answers to the exercises of notebook 05, as others would write them."""

import jax
import jax.numpy as jnp
import numpy as np


def _looped(g, C, J):
    p = len(g)
    there = np.zeros((p, p))
    for j in range(p):
        for k in range(p):
            there[j, k] = sum(J[a, j] * C[a, b] * J[b, k] for a in range(p) for b in range(p))
    return [sum(J[a, j] * g[a] for a in range(p)) for j in range(p)], there


def _both_ends(theta, g, C, learning_rate):
    psi = np.sqrt(theta)
    J = 2 * psi
    return (psi - learning_rate * J * g / (J * C * J)) ** 2 - (theta - learning_rate * g / C)


def _tossed(p, y, learning_rate):
    """With forty tosses, one by one."""
    tosses = np.r_[np.ones(round(40 * y)), np.zeros(40 - round(40 * y))]
    G = p - tosses
    return 1 / (1 + np.exp(-np.log(p) + np.log(1 - p) + learning_rate * G.mean() / np.mean(G**2)))


def _by_autodiff(p, y, learning_rate):
    s = jax.scipy.special.logit(p)

    def loss(s, label):
        return jax.nn.softplus(s) - label * s

    ones, zeros = (jax.grad(loss)(s, label) for label in (1.0, 0.0))
    g, C = y * ones + (1 - y) * zeros, y * ones**2 + (1 - y) * zeros**2
    return jax.nn.sigmoid(s - learning_rate * g / C)


def _symmetric_root(C):
    values, V = np.linalg.eigh(np.asarray(C))
    return V @ np.diag(values**-0.5) @ V.T


STYLES = {
    "pull_back": (_looped, lambda g, C, J: [g @ J, jnp.einsum("aj,ab,bk->jk", J, C, J)]),
    "gap_of_the_square": (
        _both_ends,
        lambda theta, g, C, learning_rate: (learning_rate * g / (2 * theta**0.5 * C)) ** 2,
    ),
    "through_the_logit": (_tossed, _by_autodiff),
    "repaired_step": (
        lambda g, C, J, damping, learning_rate: np.linalg.inv(J)
        @ (-learning_rate * np.linalg.inv(np.asarray(C) + damping * np.eye(len(g))) @ np.asarray(g)),
        lambda g, C, J, damping, learning_rate: -learning_rate
        * jnp.linalg.inv(J.T @ (C + damping * jnp.eye(len(g))) @ J) @ (g @ J),
    ),
    "where_descent_is_enough": (_symmetric_root, lambda C: np.linalg.cholesky(np.linalg.inv(np.asarray(C)))),
}  # fmt: skip
