"""Notebooks 00 and 01: per-example gradients, their mean, and what the mean hides."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, rows
from efisher_teach.lessons.question import ask

ask(
    "what damping does",
    "A step may change the losses by a fixed amount, in root mean square. Now the damping ε goes from almost "
    "nothing to a lot. What happens to the step?",
    "It turns, and it gets shorter. With little damping the step is long and far from the direction of −g; with a "
    "lot of it, the step lies along −g and is much shorter. The explorer shows it, and notebook 04 says why.",
    options=(
        "It gets shorter and keeps its direction.",
        "It turns towards −g and keeps its length.",
        "It turns towards −g and gets shorter.",
    ),
    answer=3,
)


ask(
    "left in the mean",
    "60 tumours, a model with two parameters, half-way fitted. Of the mean of ‖gᵢ‖², over the gradients of the 60 "
    "losses, how many % are left in ‖g‖², the square of their mean?",
    "7 %. Most of what the single examples want cancels in the mean. The mean is not wrong about the mean loss; it "
    "just says little about the 60.",
    low=0,
    high=100,
    answer=7,
    within=5,
    unit="%",
)
ask(
    "the longest of sixty",
    "One of the 60 gradients is the longest. How many % of the mean of ‖gᵢ‖², which is the trace of C, come from "
    "this one alone?",
    "79 %. It is seven times as long as the root mean square of all, and lengths count squared: it weighs as much "
    "as 47 average examples. C listens to the loud.",
    low=0,
    high=100,
    answer=79,
    within=12,
    unit="%",
)
ask(
    "half the labels",
    "Take the model as it was at the very start, θ = 0, and flip the labels of half of the tumours, at random. "
    "What happens to C?",
    "Nothing at all. At θ = 0 every prediction is ½, so that gᵢ is −xᵢ/2 or +xᵢ/2, as the label is 1 or 0. A "
    "flipped label turns gᵢ right round, and gᵢgᵢᵀ does not see that. The mean does: it shrinks from 0.43 to 0.06.",
    options=(
        "It shrinks: gradients that point against each other cancel.",
        "Nothing.",
        "It grows: wrong labels make large gradients.",
    ),
    answer=2,
)


@exercise(
    "00", 1,
    "The mean of the rows of $G$ is the gradient of the mean loss. Write it.",
    ("G has one row for each example. Over which axis is the mean?",
     "`G.mean(axis=...)`: the axis that disappears is the one of the examples.",
     "`return G.mean(axis=0)`"),
    lambda rng, size: (rows(rng, size),),
    mistakes={
        "Mean over the wrong axis: you averaged over the parameters, and got one number for each example.":
            lambda G: G.mean(axis=1),
        "1/n is missing: this is the sum of the gradients.": lambda G: G.sum(axis=0),
        "This is one number: the mean over everything. Keep one number for each parameter.": lambda G: G.mean(),
    },
)  # fmt: skip
def mean_gradient(G):
    """Return g (p,), the mean of the rows of G (n, p)."""
    return G.mean(axis=0)


def _logistic(rng, size):
    n, p = ((1, 1), (2, 1), (2, 2), (4, 3), (6, 2))[size]
    draw = (
        (lambda *shape: rng.integers(-2, 3, shape)) if size < 3 else (lambda *shape: rng.normal(0, 1, shape))
    )
    theta, X = draw(p), draw(n, p)
    X[0, 0], theta[0] = 2, 1  # so that no instance is all zeros
    return jnp.asarray(theta, float), jnp.asarray(X, float), jnp.asarray(np.arange(n) % 2, float)


def _sigma(theta, X):
    return 1 / (1 + jnp.exp(-X @ theta))


@exercise(
    "01", 2,
    "Logistic regression has $\\ell_i=\\log(1+e^{z_i})-y_iz_i$ with $z_i=x_i^\\top\\theta$. Write all $n$ "
    "gradients at once, without automatic differentiation.",
    ("Differentiate ℓᵢ by zᵢ first, then zᵢ by θ.",
     "∂ℓᵢ/∂zᵢ = σ(zᵢ) − yᵢ is one number an example; ∂zᵢ/∂θ = xᵢ is one row an example.",
     "Row i of G is (σ(zᵢ) − yᵢ)·xᵢ. An (n,) array times the rows of an (n, p) array: `r[:, None] * X`."),
    _logistic,
    mistakes={
        "Ascent: the sign is that of y − σ(z). The loss grows along this.":
            lambda theta, X, y: (y - _sigma(theta, X))[:, None] * X,
        "These are already averaged: keep one row for each example.":
            lambda theta, X, y: jnp.mean((_sigma(theta, X) - y)[:, None] * X, axis=0),
        "These are the derivatives by z. The chain rule goes on: ∂z/∂θ = x.":
            lambda theta, X, y: _sigma(theta, X) - y,
        "The labels are missing: this is the gradient as if every y were 0.":
            lambda theta, X, y: _sigma(theta, X)[:, None] * X,
        "1/n has no place here: the rows are the gradients of single losses.":
            lambda theta, X, y: (_sigma(theta, X) - y)[:, None] * X / len(y),
        "This is the residual of least squares, z − y: the sigmoid is missing.":
            lambda theta, X, y: (X @ theta - y)[:, None] * X,
    },
)  # fmt: skip
def logistic_gradients(theta, X, y):
    """Return G (n, p): row i is the gradient of example i at theta (p,), for X (n, p) and labels y (n,) in {0, 1}."""
    residual = 1 / (1 + jnp.exp(-X @ theta)) - y
    return residual[:, None] * X


@exercise(
    "01", 1,
    "Build the empirical Fisher $C=\\frac1n\\sum_i g_ig_i^\\top$ from $G$.",
    ("One outer product for each example, then the mean of the n matrices. In that order.",
     "The sum of the outer products of the rows is a product of two matrices.",
     "GᵀG is the sum over the examples; divide by how many they are."),
    lambda rng, size: (rows(rng, size),),
    mistakes={
        "This is the square of the mean: you averaged before the outer product.":
            lambda G: jnp.outer(G.mean(axis=0), G.mean(axis=0)),
        "1/n is missing: this is the sum over the examples.": lambda G: G.T @ G,
        "Centred: you took the mean out first. The empirical Fisher is uncentred.":
            lambda G: jnp.cov(G, rowvar=False, bias=True).reshape(G.shape[1], -1),
        "Centred, and over n − 1: this is the sample covariance. The empirical Fisher is the uncentred mean.":
            lambda G: jnp.cov(G, rowvar=False).reshape(G.shape[1], -1),
        "This is K, the (n, n) Gram matrix: one row and column for each example. C has one for each parameter.":
            lambda G: G @ G.T / len(G),
        "Divided by the number of parameters: the mean is over the examples.": lambda G: G.T @ G / G.shape[1],
        "This is only the diagonal of C.": lambda G: jnp.diag(jnp.mean(G**2, axis=0)),
        "These are only the diagonal entries of C.": lambda G: jnp.mean(G**2, axis=0),
    },
    properties={
        "in another order, the same examples have the same C.":
            lambda answer, G: bool(np.allclose(answer(G[::-1]), answer(G), atol=1e-4)),
        "gradients twice as long have a C four times as large.":
            lambda answer, G: bool(np.allclose(answer(2 * G), 4 * np.asarray(answer(G)), atol=1e-3)),
    },
)  # fmt: skip
def empirical_fisher(G):
    """Return C (p, p), the mean of the outer products of the rows of G (n, p)."""
    return G.T @ G / len(G)


def _hides(G):
    G = np.asarray(G, float)
    if G.ndim != 2 or min(G.shape) < 2:
        return f"a table of at least 2 rows and 2 columns is expected, its shape is {G.shape}"
    if not np.isfinite(G).all():
        return "it is not finite"
    size = np.abs(G).max()
    if np.abs(G.mean(axis=0)).max() > 1e-6 * max(size, 1e-30) or size == 0:
        return f"its mean is {G.mean(axis=0).round(3)}; it shall be 0, and the rows not"
    singular = np.linalg.svd(G, compute_uv=False)
    return (
        True
        if singular[-1] > 1e-6 * singular[0]
        else "C is singular: in some direction no example pulls at all"
    )


@exercise(
    "01", 2,
    "Somebody computes `jnp.outer(g, g)` and calls it $C$. Give a table $G$ for which that is *all zeros*, while "
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
    "01", 2,
    "How much of the size of the gradients does the mean keep? Compute $\\lVert g\\rVert^2/\\operatorname{tr}C$: 1 "
    "if all examples pull alike, 0 if they cancel.",
    ("The trace of C is the sum of its diagonal. What is a diagonal entry of C?",
     "tr C is the mean of ‖gᵢ‖²: neither C nor a p × p matrix is needed.",
     "Numerator: square and sum the mean row. Denominator: square and sum each row, then the mean."),
    lambda rng, size: (rows(rng, size),),
    mistakes={
        "The square is missing: ‖g‖, not ‖g‖².":
            lambda G: jnp.linalg.norm(G.mean(axis=0)) / jnp.mean(jnp.sum(G**2, axis=1)),
        "1/n is missing in the trace: it is the mean of ‖gᵢ‖², not the sum.":
            lambda G: jnp.sum(G.mean(axis=0) ** 2) / jnp.sum(G**2),
        "This is the part that the mean hides: 1 minus what was asked.":
            lambda G: 1 - jnp.sum(G.mean(axis=0) ** 2) / jnp.mean(jnp.sum(G**2, axis=1)),
        "This compares ‖g‖ with the mean of ‖gᵢ‖. The trace of C is the mean of the squares.":
            lambda G: jnp.linalg.norm(G.mean(axis=0)) / jnp.mean(jnp.linalg.norm(G, axis=1)),
    },
)  # fmt: skip
def kept_by_the_mean(G):
    """Return the number ‖g‖²/tr C, between 0 and 1, for gradients G (n, p)."""
    return jnp.sum(G.mean(axis=0) ** 2) / jnp.mean(jnp.sum(G**2, axis=1))
