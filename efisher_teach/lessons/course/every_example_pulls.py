"""Notebook 01: per-example gradients, their mean, and what the mean hides."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import chance, exercise, logistic, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "left in the mean",
    "A half-trained model with two parameters sees 60 tumours. Take the mean of ‖gᵢ‖² over the 60 gradients. What "
    "percentage of it is left in ‖g‖², the squared length of the mean gradient?",
    because="7 %. Most of what the single examples want cancels in the mean. The mean gradient is right about the mean "
    "loss, but it says little about the 60 losses behind it.",
    answer=7,
    within=5,
    unit="%",
)
ask(
    "the longest of sixty",
    "The trace of C is the mean of ‖gᵢ‖² over the 60 gradients. What percentage of it comes from the longest gradient "
    "alone?",
    because="79 %. It is seven times as long as the root mean square of all 60, and lengths count squared: it weighs "
    "as much as 47 average examples. C listens to the loud.",
    answer=79,
    within=12,
    unit="%",
)
ask(
    "half the labels",
    "Take the model as it was at the very start, θ = 0, and flip the labels of half of the tumours, at random. What "
    "happens to C?",
    "It shrinks: gradients that point against each other cancel.",
    "Nothing.",
    "It grows: wrong labels make large gradients.",
    because="Nothing at all. At θ = 0 every prediction is ½, so gᵢ is −xᵢ/2 if the label is 1, and +xᵢ/2 if it is 0. "
    "A flipped label turns gᵢ right round, and gᵢgᵢᵀ does not see that. The mean does: it shrinks from 0.43 to 0.06.",
    answer=2,
)


@exercise(
    2, "Logistic regression has $\\ell_i=\\log(1+e^{z_i})-y_iz_i$ with $z_i=x_i^\\top\\theta$. Write all $n$ "
    "gradients at once, without automatic differentiation.",
    ("Differentiate ℓᵢ by zᵢ first, then zᵢ by θ.",
     "∂ℓᵢ/∂zᵢ = σ(zᵢ) − yᵢ is one number for each example; ∂zᵢ/∂θ = xᵢ is one row for each.",
     "Row i of G is (σ(zᵢ) − yᵢ)·xᵢ. An (n,) array times the rows of an (n, p) array: `residual[:, None] * X`."),
    logistic,
    mistakes=lambda theta, X, y: {
        "Ascent: the sign is that of y − σ(z). The loss grows along this.": (y - chance(theta, X))[:, None] * X,
        "These are already averaged: keep one row for each example.": X.T @ (chance(theta, X) - y) / len(y),
        "These are the derivatives by z. The chain rule goes on: ∂z/∂θ = x.": chance(theta, X) - y,
        "The labels are missing: this is the gradient as if every y were 0.": chance(theta, X)[:, None] * X,
        "1/n has no place here: the rows are the gradients of single losses.":
            (chance(theta, X) - y)[:, None] * X / len(y),
        "This is the residual of least squares, z − y: the sigmoid is missing.": (X @ theta - y)[:, None] * X,
    },
)  # fmt: skip
def logistic_gradients(theta, X, y):
    """Return G (n, p), a gradient a row, for theta (p,), X (n, p), y (n,) in {0, 1}."""
    residual = 1 / (1 + jnp.exp(-X @ theta)) - y
    return residual[:, None] * X


@exercise(
    1, "Build the empirical Fisher $C=\\frac1n\\sum_i g_ig_i^\\top$ from $G$.",
    ("One outer product for each example, then the mean of the n matrices. In that order.",
     "The sum of the outer products of the rows is a product of two matrices.",
     "GᵀG is the sum over the examples; divide by how many they are."),
    lambda rng, size: (rows(rng, size),),
    mistakes=lambda G: {
        "This is the square of the mean: you averaged before the outer product.":
            jnp.outer(G.mean(axis=0), G.mean(axis=0)),
        "1/n is missing: this is the sum over the examples.": G.T @ G,
        "Centred: you took the mean out first. The empirical Fisher is uncentred.":
            jnp.cov(G, rowvar=False, bias=True).reshape(G.shape[1], -1),
        "Centred, and over n − 1: this is the sample covariance. The empirical Fisher is the uncentred mean.":
            jnp.cov(G, rowvar=False).reshape(G.shape[1], -1),
        "This is K, the (n, n) Gram matrix: one row and column for each example. C has one for each parameter.":
            G @ G.T / len(G),
        "Divided by the number of parameters: the mean is over the examples.": G.T @ G / G.shape[1],
        "This is only the diagonal of C.": jnp.diag(jnp.mean(G**2, axis=0)),
        "These are only the diagonal entries of C.": jnp.mean(G**2, axis=0),
    },
    properties={
        "in another order, the same examples have the same C.": lambda answer, G: (answer(G[::-1]), answer(G)),
        "gradients twice as long have a C four times as large.":
            lambda answer, G: (answer(2 * G), 4 * np.asarray(answer(G))),
    },
)  # fmt: skip
def empirical_fisher(G):
    """Return C (p, p), the mean of the outer products of the rows of G (n, p)."""
    return G.T @ G / len(G)


def _hides(G):
    G = readable(G, "n", "p")
    if min(G.shape) < 2:
        return f"a table of at least 2 rows and 2 columns is expected, its shape is {G.shape}"
    if np.abs(G.mean(axis=0)).max() > 1e-6 * np.abs(G).max() or not G.any():
        return f"its mean is {G.mean(axis=0).round(3)}; it should be 0, and the rows should not"
    singular = np.linalg.svd(G, compute_uv=False)
    return (
        bool(singular[-1] > 1e-6 * singular[0]) or "C is singular: in some direction no example pulls at all"
    )


@exercise(
    2, "Somebody computes `jnp.outer(g, g)` and calls it $C$. Give a table $G$ for which that is *all zeros*, while "
    "the real $C$ is invertible.",
    ("When is the square of the mean 0?",
     "The examples must pull in opposite ways, and yet leave no direction alone.",
     "In two dimensions: two examples along one axis, in opposite senses, and two along the other."),
    accepts=_hides,
)  # fmt: skip
def hidden_by_the_mean():
    """Return G (n, p), p ≥ 2, with mean 0 and an invertible empirical Fisher."""
    return jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


@exercise(
    2, "How much of the size of the gradients does the mean keep? Compute $\\lVert g\\rVert^2/\\operatorname{tr}C$: 1 "
    "if all examples pull alike, 0 if they cancel.",
    ("The trace of C is the sum of its diagonal. What is a diagonal entry of C?",
     "tr C is the mean of ‖gᵢ‖²: neither C nor a p × p matrix is needed.",
     "Numerator: square and sum the mean row. Denominator: square and sum each row, then the mean."),
    lambda rng, size: (rows(rng, size),),
    parts=lambda G: (G, jnp.sum(G.mean(axis=0) ** 2), jnp.mean(jnp.sum(G**2, axis=1))),
    mistakes=lambda G, kept, trace: {
        "The square is missing: ‖g‖, not ‖g‖².": jnp.sqrt(kept) / trace,
        "1/n is missing in the trace: it is the mean of ‖gᵢ‖², not the sum.": kept / trace / len(G),
        "This is the part that the mean hides: 1 minus what was asked.": 1 - kept / trace,
        "This compares ‖g‖ with the mean of ‖gᵢ‖. The trace of C is the mean of the squares.":
            jnp.sqrt(kept) / jnp.mean(jnp.linalg.norm(G, axis=1)),
    },
)  # fmt: skip
def kept_by_the_mean(G):
    """Return the number ‖g‖²/tr C, between 0 and 1, for gradients G (n, p)."""
    return jnp.sum(G.mean(axis=0) ** 2) / jnp.mean(jnp.sum(G**2, axis=1))
