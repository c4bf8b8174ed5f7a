"""A line fitted to data that are no line, y = x + m(x² − 1)/2 + σe: runs of SGD and least-squares fits, by NumPy.

Both are linear in what disturbs the labels, a misfit (x² − 1)/2 and a noise e of size 1. So they are computed for each
of the two, and whoever uses them weighs the two by v = (m, σ).
"""

from typing import Any

import numpy as np


def form(matrices: Any, misfit: Any, noise: Any) -> Any:
    """vᵀMv for v = (m, σ), of one 2 × 2 matrix or of many."""
    cross = matrices[..., 0, 1] + matrices[..., 1, 0]
    return matrices[..., 0, 0] * misfit**2 + cross * misfit * noise + matrices[..., 1, 1] * noise**2


def _draw(rng, *shape):
    """Inputs a (…, 2), and what disturbs their labels: a misfit and a noise of size 1 (…, 2)."""
    x, e = rng.normal(size=(2, *shape))
    return np.stack([np.ones_like(x), x], axis=-1), np.stack([(x**2 - 1) / 2, e], axis=-1)


def ends_of_runs(rng: np.random.Generator, batch: int, *, rate: float, steps: int, runs: int) -> np.ndarray:
    """The ends of runs of SGD, from the optimum: disturbed by the misfit alone and by the noise alone, (runs, 2, 2)."""
    at = np.zeros((runs, 2, 2))
    for _ in range(steps):
        a, disturbed = _draw(rng, runs, batch)
        residual = disturbed - a @ at.swapaxes(1, 2)
        at += rate / batch * residual.swapaxes(1, 2) @ a
    return at


def gaps_of_fits(rng: np.random.Generator, sets: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean gap between loss on new examples and on those of the fit, and its scatter over training sets: `form`s.

    With d the way from the optimum to the fit, the gap is ½dᵀHd + ½dᵀĤd and what the loss at the optimum differs by,
    which is 0 on average: the mean is taken without it.
    """
    a, disturbed = _draw(rng, sets, examples)
    across = a.swapaxes(1, 2)
    H = across @ a / examples
    d = np.linalg.solve(H, across @ disturbed / examples)  # a column for the misfit, one for the noise
    gaps = d.swapaxes(1, 2) @ (np.eye(2) + H) @ d / 2
    here = np.diag([0.25, 0.5]) - disturbed.swapaxes(1, 2) @ disturbed / examples / 2
    mean = gaps.mean(axis=0)
    return mean, gaps + here - mean
