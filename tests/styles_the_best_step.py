"""Right answers to the exercises of notebook 03, as others would write them."""

import numpy as np

import efisher_teach as ef


def _looped(G, budget):
    G = np.asarray(G)
    C = np.zeros((G.shape[1], G.shape[1]))
    for row in G:
        C += np.outer(row, row) / len(G)
    u = np.linalg.inv(C) @ G.mean(0)
    return -u * (budget / (G.mean(0) @ u)) ** 0.5


def _reach(G):
    return np.linalg.pinv(np.asarray(G)) @ np.ones(len(G))


STYLES = {
    "lagrange_step": (_looped, lambda G, budget: ef.empirical_fisher_step(G, budget=budget).delta),
    "one_example": (
        lambda g, budget: [-(float(budget) ** 0.5) * float(each) / float(sum(g**2)) for each in g],
        lambda g, budget: ef.empirical_fisher_step(g[None], budget=budget).delta,
    ),
    "two_blanks": (
        lambda rho, budget: [0.5 * (rho / budget) ** 0.5, (budget * rho) ** 0.5],
        lambda rho, budget: (1 / (2 * np.sqrt(budget / rho)), np.sqrt(budget) * np.sqrt(rho)),
    ),
    "reach_the_gradient": (_reach, lambda G: np.linalg.lstsq(np.asarray(G), np.ones(len(G)), rcond=None)[0]),
    "tight": (lambda: [[2.0], [0.0]], lambda: np.array([[1.0, 0], [0, 1], [0, 0]])),
}
