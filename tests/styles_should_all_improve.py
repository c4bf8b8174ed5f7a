"""Right answers to the exercises of notebook 07, as others would write them."""

import numpy as np

import efisher_teach as ef


def _projector(G):
    U, singular, _ = np.linalg.svd(np.asarray(G, float), full_matrices=False)
    U = U[:, singular > 1e-5 * singular[0]]
    return U @ U.T


def _counted(G, delta):
    worse = 0
    for row in np.asarray(G):
        worse += sum(a * b for a, b in zip(row, delta, strict=True)) > 0
    return worse / len(G)


STYLES = {
    "equal_changes": (
        lambda G: -_projector(G).sum(axis=1),
        lambda G: ef.empirical_fisher_step(G, learning_rate=1.0).predicted_changes,
    ),
    "agreement": (
        lambda G: _projector(G).sum() / len(G),
        lambda G: (
            np.linalg.norm(np.asarray(G) @ np.linalg.pinv(np.asarray(G)) @ np.ones(len(G))) ** 2 / len(G)
        ),
    ),
    "fraction_worse": (
        _counted,
        lambda G, delta: len([each for each in np.asarray(G @ delta) if each > 0]) / len(G),
    ),
    "negative_weight": (lambda: [[1, 0], [3, 0.5]], lambda: np.array([[4.0, 4.0], [1.0, 0.0]])),
    "targeted": (
        lambda G, target: -np.linalg.pinv(np.asarray(G)) @ np.asarray(target),
        lambda G, target: ef.targeted_step(G, target).delta,
    ),
}
