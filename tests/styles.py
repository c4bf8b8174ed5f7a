"""Right answers to the exercises of the course, as others would write them; by name, in the order of the notebooks."""

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


def _looped(theta, X, y):
    return [
        [float((1 / (1 + np.exp(-x @ theta)) - label) * entry) for entry in x]
        for x, label in zip(X, y, strict=True)
    ]


def _loss(theta, x, label):
    return (label - x @ theta) ** 2 / 2


def _by_subtraction(theta, X, y, delta):
    theta, X, y, delta = (np.asarray(part, float) for part in (theta, X, y, delta))
    changes = ((y - X @ (theta + delta)) ** 2 - (y - X @ theta) ** 2) / 2
    G = (X @ theta - y)[:, None] * X
    return [changes.mean() - G.mean(0) @ delta, np.mean(changes**2) - delta @ (G.T @ G / len(G)) @ delta]


def _by_autodiff_left_out(theta, X, y, delta):
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


def _looped_step(G, budget):
    G = np.asarray(G)
    C = np.zeros((G.shape[1], G.shape[1]))
    for row in G:
        C += np.outer(row, row) / len(G)
    u = np.linalg.inv(C) @ G.mean(0)
    return -u * (budget / (G.mean(0) @ u)) ** 0.5


def _reach(G):
    return np.linalg.pinv(np.asarray(G)) @ np.ones(len(G))


def _looped_promises(G, unseen, dampings, budget):
    best = None
    for damping in dampings:
        delta = ef.empirical_fisher_step(G, damping=damping, budget=budget).delta
        change = float(jnp.mean(unseen @ delta))
        if best is None or change < best[0]:
            best = (change, float(damping))
    return best[1]


def _looped_pull_back(g, C, J):
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


def _by_autodiff_coin(p, y, learning_rate):
    s = jax.scipy.special.logit(p)

    def loss(s, label):
        return jax.nn.softplus(s) - label * s

    ones, zeros = (jax.grad(loss)(s, label) for label in (1.0, 0.0))
    g, C = y * ones + (1 - y) * zeros, y * ones**2 + (1 - y) * zeros**2
    return jax.nn.sigmoid(s - learning_rate * g / C)


def _by_weights(matrices, decay):
    weights = decay ** np.arange(len(matrices))[::-1]
    return np.average(np.asarray(matrices), axis=0, weights=weights)


def _as_least_squares(G, last, damping, learning_rate, memory):
    n, p = G.shape
    rows = np.vstack([np.asarray(G), np.sqrt(n * damping) * np.eye(p)])
    wish = np.concatenate([np.full(n, -learning_rate), np.sqrt(n * damping) * memory * np.asarray(last)])
    return np.linalg.lstsq(rows, wish, rcond=None)[0]


def _by_the_rest(G, last, damping, learning_rate, memory):
    """By the n × n form, of what the last step leaves to be asked for."""
    n = len(G)
    rest = learning_rate + G @ (memory * last)
    return memory * last - G.T @ jnp.linalg.solve(G @ G.T + n * damping * jnp.eye(n), rest)


def _symmetric_root(C):
    values, V = np.linalg.eigh(np.asarray(C))
    return V @ np.diag(values**-0.5) @ V.T


def _projector(G):
    U, singular, _ = np.linalg.svd(np.asarray(G, float), full_matrices=False)
    U = U[:, singular > 1e-5 * singular[0]]
    return U @ U.T


def _counted(G, delta):
    worse = 0
    for row in np.asarray(G):
        worse += sum(a * b for a, b in zip(row, delta, strict=True)) > 0
    return worse / len(G)


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


def _with_numpy(G):
    G = np.asarray(G, float)
    U, singular, _ = np.linalg.svd(G, full_matrices=False)
    U = U[:, singular > 1e-5 * singular[0]]
    return {"n": len(G), "p": len(G[0]), "rank": U.shape[1], "rho": np.sum(U.sum(axis=0) ** 2) / len(G)}


def _with_the_library(G):
    step, (n, p) = ef.empirical_fisher_step(G, budget=0.01), G.shape
    return {"rho": step.agreement, "rank": round(float(step.effective_rank)), "n": n, "p": p}


def _as_a_cosine(F, g, u):
    """Of two steps, where F is the identity."""
    L = np.linalg.cholesky(np.asarray(F, float)).T
    ours, best = L @ u, L @ np.linalg.solve(F, g)
    return ours @ best / np.linalg.norm(ours) / np.linalg.norm(best)


def _by_a_grid(eigenvalues, kept):
    grid = np.logspace(-8, 8, 20001)
    left = np.sum(np.asarray(eigenvalues) / (np.asarray(eigenvalues) + grid[:, None]), axis=1)
    return grid[np.argmin(np.abs(left - kept))]


def _by_newton(eigenvalues, kept):
    values, t = np.asarray(eigenvalues, float), 0.0
    values = values[values > 0]
    for _ in range(200):
        fraction = values / (values + np.exp(t))
        t += np.clip((fraction.sum() - kept) / (fraction * (1 - fraction)).sum(), -1, 1)
    return np.exp(t)


STYLES = {
    # every_example_pulls
    "mean_gradient": (lambda G: sum(G) / len(G), lambda G: np.ones(len(G)) @ np.asarray(G) / len(G)),
    "logistic_gradients": (_by_autodiff, _looped),
    "empirical_fisher": (
        lambda G: sum(np.outer(row, row) for row in np.asarray(G)) / len(G),
        lambda G: jnp.einsum("ni,nj->ij", G, G) / G.shape[0],
    ),
    "hidden_by_the_mean": (
        lambda: np.array([[1, 0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]),
        lambda: [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]],
    ),
    "kept_by_the_mean": (
        lambda G: np.linalg.norm(np.mean(G, axis=0)) ** 2 / np.trace(np.asarray(G.T @ G)) * len(G),
        lambda G: jnp.vdot(G.mean(0), G.mean(0)) / jnp.mean(G**2) / G.shape[1],
    ),
    # what_a_step_costs
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
    "left_out": (_by_subtraction, _by_autodiff_left_out),
    # the_best_step
    "lagrange_step": (_looped_step, lambda G, budget: ef.empirical_fisher_step(G, budget=budget).delta),
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
    # damping
    "damping_for_sums": (lambda damping, n: damping * n, lambda damping, n: jnp.sum(jnp.full(n, damping))),
    "enforced_length": (
        lambda theta, damping, budget: (budget / theta**2) ** 0.5,
        lambda theta, damping, budget: np.linalg.norm(
            ef.empirical_fisher_step(jnp.array([[theta]]), damping=damping, budget=budget).delta
        ),
    ),
    "choose_damping": (
        _looped_promises,
        lambda G, unseen, dampings, budget: min(
            np.asarray(dampings),
            key=lambda e: float(ef.empirical_fisher_step(G, damping=e, budget=budget).delta @ unseen.mean(0)),
        ),
    ),
    "settles": (
        lambda learning_rate, damping: abs(1 - learning_rate / damping) < 1,
        lambda learning_rate, damping: np.bool_(learning_rate / damping < 2),
    ),
    # other_coordinates
    "pull_back": (_looped_pull_back, lambda g, C, J: [g @ J, jnp.einsum("aj,ab,bk->jk", J, C, J)]),
    "gap_of_the_square": (
        _both_ends,
        lambda theta, g, C, learning_rate: (learning_rate * g / (2 * theta**0.5 * C)) ** 2,
    ),
    "through_the_logit": (_tossed, _by_autodiff_coin),
    "repaired_step": (
        lambda g, C, J, damping, learning_rate: (
            np.linalg.inv(J)
            @ (-learning_rate * np.linalg.inv(np.asarray(C) + damping * np.eye(len(g))) @ np.asarray(g))
        ),
        lambda g, C, J, damping, learning_rate: (
            -learning_rate * jnp.linalg.inv(J.T @ (C + damping * jnp.eye(len(g))) @ J) @ (g @ J)
        ),
    ),
    "where_descent_is_enough": (_symmetric_root, lambda C: np.linalg.cholesky(np.linalg.inv(np.asarray(C)))),
    # fisher_hessian
    "agreement_of_noise": (lambda p, B: p / max(p, B), lambda p, B: jnp.minimum(1.0, p / B)),
    "running_average": (_by_weights, lambda matrices, decay: _by_weights(matrices, decay).tolist()),
    "step_with_memory": (_as_least_squares, _by_the_rest),
    "generalisation_gap": (
        lambda X, r: float(r**2 @ np.sum(X @ np.linalg.inv(X.T @ X) * X, axis=1)) / len(r),
        lambda X, r: jnp.sum(jnp.linalg.eigvals(jnp.linalg.inv(X.T @ X) @ ((X.T * r**2) @ X)).real) / len(X),
    ),
    "which_is_which": (
        lambda: {"M4": "Hessian", "M3": "none of them", "M2": "empirical Fisher", "M1": "Fisher"},
        lambda: dict(M1="Fisher", M2="empirical Fisher", M3="none of them", M4="Hessian"),  # noqa: C408
    ),
    "turn_away": (
        lambda: ([[1, 2], [1, 3]], [1, 5]),
        lambda: (np.array([[1.0, 0.2], [1, 0.4], [1, 3], [1, 4]]), np.array([0.4, 0.9, 6.2, 7.9])),
    ),
    # should_all_improve
    "equal_changes": (
        lambda G: -_projector(G).sum(axis=1),
        lambda G: ef.empirical_fisher_step(G, learning_rate=1.0).predicted_changes,
    ),
    "fraction_worse": (_counted, lambda G, delta: sum(float(each) > 0 for each in G @ delta) / len(G)),
    "negative_coefficient": (lambda: [[1, 0], [3, 0.5]], lambda: np.array([[4.0, 4.0], [1.0, 0.0]])),
    "targeted": (
        lambda G, target: -np.linalg.pinv(np.asarray(G)) @ np.asarray(target),
        lambda G, target: ef.targeted_step(G, target).delta,
    ),
    # a_real_network
    "cheaper_form": (lambda n, p: "primal" if p <= n else "dual", lambda n, p: ("dual", "primal")[n >= p]),
    "cost_from_coefficients": (
        lambda K, alpha, learning_rate: np.mean((learning_rate * len(K) * np.asarray(K @ alpha)) ** 2),
        lambda K, alpha, learning_rate: learning_rate**2 * len(K) * (alpha @ K @ K @ alpha),
    ),
    "dual_direction": (lambda G, damping: ef.solve_dual(G, damping), _primal),
    "weighted_backward": (
        _by_rows,
        lambda loss_fn, theta, x, y, alpha: ef.weighted_gradient(loss_fn, theta, x, y, alpha),
    ),
    "layer_gram": (
        lambda X, D: jnp.einsum("ia,ja,ib,jb->ij", X, X, D, D),
        lambda X, D: [
            [float((x @ z) * (d @ e)) for z, e in zip(X, D, strict=True)] for x, d in zip(X, D, strict=True)
        ],
    ),
    # which_matrix
    "most_labels": (
        lambda classes: float(classes - 1) - 1,
        lambda classes: max(m for m in range(classes) if 1 + m < classes),
    ),
    "weighted_fisher": (
        lambda G, losses: np.einsum("i,ij,ik->jk", 1 / np.expm1(losses), G, G) / len(G),
        lambda G, losses: ef.empirical_fisher(G / jnp.sqrt(jnp.exp(losses) - 1)[:, None]),
    ),
    "share_of_the_best": (
        lambda F, g, u: float(g @ u) / np.sqrt(float(u @ F @ u)) / np.sqrt(float(g @ jnp.linalg.inv(F) @ g)),
        _as_a_cosine,
    ),
    "kronecker_direction": (
        lambda S, A, V: jnp.linalg.inv(S) @ V @ jnp.linalg.inv(A),
        lambda S, A, V: np.linalg.solve(np.kron(S, A), np.ravel(V)).reshape(V.shape),
    ),
    # bug_hunt
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
    # your_model
    "summary": (_with_numpy, _with_the_library),
    "effective_rank": (
        lambda eigenvalues, damping: sum(float(each) / (float(each) + damping) for each in eigenvalues),
        lambda eigenvalues, damping: jnp.trace(jnp.diag(eigenvalues) @ jnp.diag(1 / (eigenvalues + damping))),
    ),
    "pick_damping": (_by_a_grid, _by_newton),
    "advice": (
        lambda: "My model has rank 26 of 39, so drop one class.",
        lambda: "Nimm ε nicht kleiner als 0,004, sonst wird der Schritt zu lang.",
    ),
}
