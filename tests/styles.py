"""A right answer to each exercise of the course, as another would write it; by name, in the order of the notebooks.

Of two ways it is the one that is farther from the solution. In what form the numbers come is tested of every solution.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import efisher_teach as ef


def on_paper(exercise, answer, seed=0):
    """Fix the numbers of a seed as the arguments of an answer, where the task is for pencil and paper."""
    return partial(answer, *exercise.draw(np.random.default_rng(seed), 0)) if exercise.by_hand else answer


def remembered(function):
    """The function, which computes what it gives for some arrays once."""
    known: dict = {}

    def remember(*arguments):
        if (key := repr(arguments)) not in known:
            known[key] = function(*arguments)
        return known[key]

    return remember


def _by_autodiff(theta, X, y):
    def loss(theta, x, label):
        return jnp.logaddexp(0.0, x @ theta) - label * (x @ theta)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(theta, X, y)


def _by_subtraction(theta, X, y, delta):
    theta, X, y, delta = (np.asarray(part, float) for part in (theta, X, y, delta))
    changes = ((y - X @ (theta + delta)) ** 2 - (y - X @ theta) ** 2) / 2
    G = (X @ theta - y)[:, None] * X
    return [changes.mean() - G.mean(0) @ delta, np.mean(changes**2) - delta @ (G.T @ G / len(G)) @ delta]


def _both_ends(theta, g, C, learning_rate):
    psi = np.sqrt(theta)
    J = 2 * psi
    return (psi - learning_rate * J * g / (J * C * J)) ** 2 - (theta - learning_rate * g / C)


def _tossed(p, y, learning_rate):
    """With forty tosses, one by one."""
    tosses = np.r_[np.ones(round(40 * y)), np.zeros(40 - round(40 * y))]
    G = p - tosses
    return 1 / (1 + np.exp(-np.log(p) + np.log(1 - p) + learning_rate * G.mean() / np.mean(G**2)))


def _as_least_squares(G, last, damping, learning_rate, memory):
    n, p = G.shape
    rows = np.vstack([np.asarray(G), np.sqrt(n * damping) * np.eye(p)])
    wish = np.concatenate([np.full(n, -learning_rate), np.sqrt(n * damping) * memory * np.asarray(last)])
    return np.linalg.lstsq(rows, wish, rcond=None)[0]


def _primal(G, damping):
    G = np.asarray(G, float)
    return np.linalg.solve(G.T @ G / len(G) + damping * np.eye(G.shape[1]), G.mean(0))


def _by_rows(loss_fn, theta, x, y, alpha):
    return sum(a * jax.grad(loss_fn)(theta, *pair) for a, *pair in zip(alpha, x, y, strict=True))


def _expected(theta, X, y):
    """The mean over both labels, each with its chance."""
    chance = 1 / (1 + np.exp(-np.asarray(X) @ np.asarray(theta)))
    return sum(
        p * (s - label) ** 2 * np.outer(x, x) / len(chance)
        for x, s in zip(np.asarray(X), chance, strict=True)
        for label, p in ((1, s), (0, 1 - s))
    )


def _by_singular_vectors(G):
    G = np.asarray(G, float)
    U, singular, _ = np.linalg.svd(G, full_matrices=False)
    U = U[:, singular > 1e-5 * singular[0]]
    return {"n": len(G), "p": len(G[0]), "rank": U.shape[1], "rho": np.sum(U.sum(axis=0) ** 2) / len(G)}


def _by_a_grid(eigenvalues, kept):
    grid = np.logspace(-8, 8, 20001)
    left = np.sum(np.asarray(eigenvalues) / (np.asarray(eigenvalues) + grid[:, None]), axis=1)
    return grid[np.argmin(np.abs(left - kept))]


STYLES = {
    # every_example_pulls
    "mean_gradient": lambda G: sum(G) / len(G),
    "logistic_gradients": _by_autodiff,
    "empirical_fisher": lambda G: sum(np.outer(row, row) for row in np.asarray(G)) / len(G),
    "hidden_by_the_mean": lambda: np.array([[1, 0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]),
    "kept_by_the_mean": lambda G: (
        np.linalg.norm(np.mean(G, axis=0)) ** 2 / np.trace(np.asarray(G.T @ G)) * len(G)
    ),
    # what_a_step_costs
    "cost_of_a_step": lambda G, delta: sum(float(row @ delta) ** 2 for row in G) / len(G),
    "as_a_length": lambda G: np.linalg.cholesky(np.asarray(G).T @ np.asarray(G) / len(G)).T,
    "semi_axes": lambda C, budget: jnp.sqrt(budget * jnp.linalg.eigvalsh(jnp.linalg.inv(C)))[::-1],
    "free_direction": lambda G: np.linalg.svd(np.asarray(G))[2][len(G)],
    "order_of": lambda scales, errors: np.log(errors[-1] / errors[0]) / np.log(scales[-1] / scales[0]),
    "left_out": _by_subtraction,
    # the_best_step
    "lagrange_step": lambda G, budget: ef.empirical_fisher_step(G, budget=budget).delta,
    "one_example": lambda g, budget: ef.empirical_fisher_step(g[None], budget=budget).delta,
    "two_blanks": lambda rho, budget: (1 / (2 * np.sqrt(budget / rho)), np.sqrt(budget) * np.sqrt(rho)),
    "reach_the_gradient": lambda G: np.linalg.lstsq(np.asarray(G), np.ones(len(G)), rcond=None)[0],
    "tight": lambda: [[2.0], [0.0]],
    # damping
    "damping_for_sums": lambda damping, n: jnp.sum(jnp.full(n, damping)),
    "enforced_length": lambda theta, damping, budget: np.linalg.norm(
        ef.empirical_fisher_step(jnp.array([[theta]]), damping=damping, budget=budget).delta
    ),
    "choose_damping": lambda G, unseen, dampings, budget: min(
        np.asarray(dampings),
        key=lambda e: float(ef.empirical_fisher_step(G, damping=e, budget=budget).delta @ unseen.mean(0)),
    ),
    "settles": lambda learning_rate, damping: abs(1 - learning_rate / damping) < 1,
    # other_coordinates
    "pull_back": lambda g, C, J: [g @ J, jnp.einsum("aj,ab,bk->jk", J, C, J)],
    "gap_of_the_square": _both_ends,
    "through_the_logit": _tossed,
    "repaired_step": lambda g, C, J, damping, learning_rate: (
        np.linalg.inv(J)
        @ (-learning_rate * np.linalg.inv(np.asarray(C) + damping * np.eye(len(g))) @ np.asarray(g))
    ),
    "where_descent_is_enough": lambda C: np.linalg.cholesky(np.linalg.inv(np.asarray(C))),
    # batches_and_memory, fisher_hessian
    "agreement_of_noise": lambda p, B: p / max(p, B),
    "running_average": lambda matrices, decay: np.average(
        np.asarray(matrices), axis=0, weights=decay ** np.arange(len(matrices))[::-1]
    ),
    "step_with_memory": _as_least_squares,
    "generalisation_gap": lambda X, r: float(r**2 @ np.sum(X @ np.linalg.inv(X.T @ X) * X, axis=1)) / len(r),
    "which_is_which": lambda: dict(M4="Hessian", M3="none of them", M2="empirical Fisher", M1="Fisher"),  # noqa: C408
    "turn_away": lambda: ([[1, 2], [1, 3]], [1, 5]),
    # should_all_improve
    "equal_changes": lambda G: ef.empirical_fisher_step(G, learning_rate=1.0).predicted_changes,
    "fraction_worse": lambda G, delta: sum(float(each) > 0 for each in G @ delta) / len(G),
    "negative_coefficient": lambda: np.array([[4.0, 4.0], [1.0, 0.0]]),
    "targeted": lambda G, target: -np.linalg.pinv(np.asarray(G)) @ np.asarray(target),
    # a_real_network
    "cheaper_form": lambda n, p: ("dual", "primal")[n >= p],
    "cost_from_coefficients": lambda K, alpha, learning_rate: (
        learning_rate**2 * len(K) * (alpha @ K @ K @ alpha)
    ),
    "dual_direction": _primal,
    "weighted_backward": _by_rows,
    "layer_gram": lambda X, D: jnp.einsum("ia,ja,ib,jb->ij", X, X, D, D),
    # which_matrix
    "most_labels": lambda classes: max(m for m in range(classes) if 1 + m < classes),
    "weighted_fisher": lambda G, losses: ef.empirical_fisher(G / jnp.sqrt(jnp.exp(losses) - 1)[:, None]),
    "share_of_the_best": lambda F, g, u: (
        float(g @ u) / np.sqrt(float(u @ F @ u)) / np.sqrt(float(g @ jnp.linalg.inv(F) @ g))
    ),
    "kronecker_direction": lambda S, A, V: np.linalg.solve(np.kron(S, A), np.ravel(V)).reshape(V.shape),
    # bug_hunt
    "curvature": lambda G: sum(np.outer(row, row) for row in np.asarray(G)) / len(G),
    "accumulated": lambda batches: ef.empirical_fisher(jnp.concatenate(batches)),
    "fisher_of_batches": lambda G, batch_size: jnp.mean(G[:, :, None] * G[:, None, :], axis=0),
    "true_fisher": _expected,
    "wide_direction": _primal,
    "damped_direction": lambda G, damping: jnp.linalg.solve(
        G.T @ G + len(G) * damping * jnp.eye(G.shape[1]), G.sum(axis=0)
    ),
    # your_model
    "summary": _by_singular_vectors,
    "effective_rank": lambda eigenvalues, damping: jnp.trace(
        jnp.diag(eigenvalues) @ jnp.diag(1 / (eigenvalues + damping))
    ),
    "pick_damping": _by_a_grid,
    "advice": lambda: "Nimm ε nicht kleiner als 0,004, sonst wird der Schritt zu lang.",
}
