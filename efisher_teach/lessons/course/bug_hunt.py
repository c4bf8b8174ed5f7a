"""Notebook 11: six errors that real code has, each to be found and repaired. The stub is the code with the error."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import WIDE, chance, exercise, logistic, positive, rows, weighted
from efisher_teach.lessons.question import ask

ask(
    "the square of the mean",
    "Some code takes the square of the mean, ggᵀ, for C, and damps it: −η (ggᵀ + εI)⁻¹g. Which step is that?",
    "Nearly the empirical-Fisher step, if the examples agree.",
    "Gradient descent with another length.",
    "A step across the gradient.",
    because="Exactly gradient descent, with a learning rate that depends on ‖g‖: (ggᵀ + εI)⁻¹g = g/(‖g‖² + ε). What C "
    "knows beyond g is how the examples differ, and the mean has lost that.",
    answer=2,
)
ask(
    "which bug is loud",
    "Which of these errors is sure to show in the training loss of a first run?",
    "The square of the mean.",
    "1/n in the wrong place.",
    "ε on the sum.",
    "None of them.",
    because="None of them. Each still makes a step that lowers the loss: a wrong scale hides in the learning rate, a "
    "wrong matrix looks like a matter of tuning. What finds them is a test against a loop over the examples.",
    answer=4,
)


def _batches(rng, size):
    """Batches of unequal size, of one set of examples."""
    shapes, p = ((1, 2), (1, 3), (3, 2), (1, 3, 2), (3, 2, 1))[size], 2 if size else 1
    G = rng.integers(-3, 4, (sum(shapes), p)) if size < 3 else rng.normal(0.4, 1, (sum(shapes), p))
    G[:, 0] = 1 + np.arange(len(G)) % 5
    return ([jnp.asarray(part, float) for part in np.split(G, np.cumsum(shapes)[:-1])],)


def buggy_curvature(G):
    """Return the empirical Fisher C (p, p) of G (n, p)."""
    g = G.mean(axis=0)
    return jnp.outer(g, g)


@exercise(
    1, "**Bug 1.** From a library for continual learning. Whatever the data are, this matrix has rank 1.",
    ("Compute it by hand for the two gradients 1 and −1.",
     "When is the mean taken: before the square, or after?",
     "The mean of the outer products, not the outer product of the mean: G.T @ G / len(G)."),
    lambda rng, size: (rows(rng, size),),
    parts=lambda G: (G, G.T @ G / len(G), buggy_curvature(G)), mistakes=lambda G, C, square: {
        "Now 1/n is missing: the sum of the outer products.": G.T @ G,
        "Only the diagonal is right now. C has the products of different parameters too.": jnp.diag(jnp.diag(C)),
        "This is only what the bug had lost, C − ggᵀ. The empirical Fisher is the sum of both.": C - square,
    },
    bug=buggy_curvature,
)  # fmt: skip
def curvature(G):
    """Return the empirical Fisher C (p, p) of G (n, p)."""
    return G.T @ G / len(G)


def buggy_accumulated(batches):
    """Return C (p, p) of all examples; batches lists G's (n₁, p), (n₂, p) and so on."""
    C = 0.0
    for G in batches:
        C = C + G.T @ G / len(G)
    return C


@exercise(
    1, "**Bug 2.** $C$ of a data set that does not fit into memory, batch by batch. With twice as many batches the "
    "result is twice as large.",
    ("What is the 1/n of a mean over all the examples?",
     "Each batch adds its sum. The division comes once, at the end.",
     "Sum G.T @ G over the batches; divide by the number of all rows."),
    _batches,
    parts=lambda batches: (batches, sum(G.T @ G for G in batches)), mistakes=lambda batches, total: {
        "1/n is missing altogether now.": total,
        "The mean of the batches' means: a small batch then counts as much as a large one.":
            sum(G.T @ G / len(G) for G in batches) / len(batches),
        "This divides by the number of batches. Divide by that of examples.": total / len(batches),
    },
    bug=buggy_accumulated,
)  # fmt: skip
def accumulated(batches):
    """Return C (p, p) of all examples; batches lists G's (n₁, p), (n₂, p) and so on."""
    return sum(G.T @ G for G in batches) / sum(len(G) for G in batches)


def _grouped(rng, size):
    n, k, p = ((2, 2, 1), (4, 2, 2), (4, 2, 2), (6, 3, 3), (6, 2, 3))[size]
    G = rng.integers(-3, 4, (n, p)) if size < 3 else rng.normal(0.4, 1, (n, p))
    G[:, 0] = 1 + np.arange(n) % 5
    return jnp.asarray(G, float), k


def buggy_fisher_of_batches(G, batch_size):
    """Return the empirical Fisher C (p, p); G (n, p) comes in batches of batch_size."""
    means = G.reshape(-1, batch_size, G.shape[1]).mean(axis=1)
    return means.T @ means / len(means)


@exercise(
    2, "**Bug 3.** The loop over the data loader squares what `backward()` left in `.grad`. With larger batches, $C$ "
    "shrinks.",
    ("What does .grad hold after a batch: one example's gradient, or a mean?",
     "In the square of a mean of B gradients, only about 1/B is left of how they differ.",
     "Square the gradients of single examples; the batches then play no part."),
    _grouped,
    mistakes=lambda G, batch_size: {
        "This is scaled by the batch size: right only where the mean gradient is 0. The part ggᵀ is now too large.":
            batch_size * buggy_fisher_of_batches(G, batch_size),
        "The mean over everything: that is a batch of n.": jnp.outer(G.mean(axis=0), G.mean(axis=0)),
        "1/n is missing.": G.T @ G,
    },
    bug=buggy_fisher_of_batches,
    why="Where the batches are drawn at random, their means have the second moment "
    "$gg^\\top+\\frac1B(C-gg^\\top)$: between $C$, for $B=1$, and the square of the mean.",
)  # fmt: skip
def fisher_of_batches(G, batch_size):
    """Return the empirical Fisher C (p, p); G (n, p) comes in batches of batch_size."""
    return G.T @ G / len(G)


def buggy_true_fisher(theta, X, y):
    """Return F (p, p) of logistic regression at theta (p,), for X (n, p) and y (n,)."""
    chance = 1 / (1 + jnp.exp(-X @ theta))
    residual = chance - y
    return X.T @ (residual[:, None] ** 2 * X) / len(X)


@exercise(
    2, "**Bug 4.** A natural-gradient optimizer. The Fisher averages over labels from the *model*, not over those "
    "observed.",
    ("Which labels does the model expect, and how often?",
     "y = 1 with probability q, else 0. What is the mean of (q − y)² then?",
     "q(1 − q)² + … = q(1 − q): the labels y do not occur at all."),
    logistic,
    parts=lambda theta, X, y: (X, chance(theta, X)), mistakes=lambda X, q: {
        "Only one of the two labels is averaged, y = 1 with its probability. y = 0 is missing.":
            weighted(X, q * (1 - q) ** 2),
        "The weight is q(1 − q), once: this is its square.": weighted(X, (q * (1 - q)) ** 2),
        "1/n is missing.": len(X) * weighted(X, q * (1 - q)),
        "These labels are the most likely ones, not drawn from the model: that is another matrix.":
            weighted(X, (q - (q > 0.5)) ** 2),
    },
    bug=buggy_true_fisher,
)  # fmt: skip
def true_fisher(theta, X, y):
    """Return F (p, p) of logistic regression at theta (p,), for X (n, p) and y (n,)."""
    chance = 1 / (1 + jnp.exp(-X @ theta))
    return X.T @ ((chance * (1 - chance))[:, None] * X) / len(X)


def buggy_damped_direction(G, damping):
    """Return (C + εI)⁻¹g (p,), C and g means over the rows of G (n, p)."""
    total = G.sum(axis=0)
    return jnp.linalg.solve(G.T @ G + damping * jnp.eye(G.shape[1]), total)


@exercise(
    2, "**Bug 5.** A port from a paper that uses sums. Without damping, sums and means give the same step; with it, "
    "twice the data needs twice the $\\varepsilon$.",
    ("At ε = 0 the factor n cancels. Where does it not cancel?",
     "Divide the system by n: what becomes of the damping?",
     "Take means on both sides, or n times the damping on the sum."),
    lambda rng, size: (rows(rng, size), positive(rng, 0.1, 1)),
    mistakes=lambda G, damping: {
        "The sum of the outer products with the mean of the gradients: n does not cancel at all now.":
            jnp.linalg.solve(G.T @ G + damping * jnp.eye(G.shape[1]), G.mean(axis=0)),
        "The mean of the outer products with the sum of the gradients: n times too long.":
            jnp.linalg.solve(G.T @ G / len(G) + damping * jnp.eye(G.shape[1]), G.sum(axis=0)),
        "Here the damping is divided by n. Beside sums it must be multiplied by n.":
            jnp.linalg.solve(G.T @ G + damping / len(G) * jnp.eye(G.shape[1]), G.sum(axis=0)),
    },
    bug=buggy_damped_direction,
)  # fmt: skip
def damped_direction(G, damping):
    """Return (C + εI)⁻¹g (p,), C and g means over the rows of G (n, p)."""
    return jnp.linalg.solve(G.T @ G / len(G) + damping * jnp.eye(G.shape[1]), G.mean(axis=0))


def buggy_wide_direction(G, damping):
    """Return (C + εI)⁻¹g (p,) by Woodbury's identity, for G (n, p) with n < p."""
    n, g = len(G), G.mean(axis=0)
    A = G @ G.T + n * damping * jnp.eye(n)
    return (g - G.T @ jnp.linalg.solve(A, G @ g)) / damping


def _wide(rng, size):
    return rows(rng, size, WIDE), 1e-6


@exercise(
    3, "**Bug 6.** On paper this is right: it is Woodbury's identity. In float32, with a small $\\varepsilon$, the "
    "step is mostly noise.",
    ("For small ε the bracket is the difference of two vectors. In which digit do they differ?",
     "Another form of the same step divides by nothing small: Gᵀ(…)⁻¹1.",
     "G.T @ jnp.linalg.solve(G @ G.T / n + damping * jnp.eye(n), jnp.ones(n) / n)"),
    _wide,
    mistakes=lambda G, damping: {
        "1/n is missing on the right: this is n times too long.":
            G.T @ jnp.linalg.solve(G @ G.T / len(G) + damping * jnp.eye(len(G)), jnp.ones(len(G))),
        "Nothing cancels now, but this is the gradient.": G.mean(axis=0),
        "This is g/ε: only the first term is left.": G.mean(axis=0) / damping,
    },
    bug=buggy_wide_direction,
)  # fmt: skip
def wide_direction(G, damping):
    """Return (C + εI)⁻¹g (p,) by Woodbury's identity, for G (n, p) with n < p."""
    n = len(G)
    return G.T @ jnp.linalg.solve(G @ G.T / n + damping * jnp.eye(n), jnp.ones(n) / n)
