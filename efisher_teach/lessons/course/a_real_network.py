"""Notebook 09: the n × n form of the step, its coefficients, and how a layer hides its part of the Gram matrix."""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import entries, exercise, positive, rows
from efisher_teach.lessons.question import ask

ask(
    "the price of a step",
    "A network has two million parameters, a batch has 256 examples. What is the price of one exact damped "
    "empirical-Fisher step, in ordinary mini-batch gradients?",
    "About as much as one or two gradients.",
    "About 256: one for each example.",
    "About two million: one for each row of C.",
    because="About as much as one or two gradients. The p × p system turns into one of n × n, which needs only the "
    "inner products of the per-example gradients; and these are made of numbers that backpropagation has anyway.",
    answer=1,
)
ask(
    "who is misled",
    "About 27 % of 512 training labels are wrong. SGD runs with four learning rates, and the best counts. The "
    "empirical Fisher runs with the same ε and c, once in batches of 64 and once with all 512 at once. Which knows the "
    "most unseen digits after 100 steps?",
    "SGD.",
    "The empirical Fisher, in batches of 64.",
    "The empirical Fisher, with all examples at once.",
    "They are about level.",
    because="The empirical Fisher in batches of 64, by some points. With all examples at once it comes last: it "
    "memorises the wrong labels, because a step that serves all equally serves them, too. The cells below show by how "
    "much, and what a larger ε does.",
    answer=2,
)


@exercise(
    1, "Which form is cheaper: the $p\\times p$ one, \"primal\", or the $n\\times n$ one, \"dual\"?",
    ("The price of the solve is the cube of the matrix's side.",
     "C has the side p, K has the side n.",
     "dual where n < p, primal otherwise."),
    lambda rng, size: ((2, 3), (1000, 100), (64, 1_000_000), (500, 30), (256, 2410))[size],
    mistakes=lambda n, p: {
        "The other way round: take the smaller matrix. K is n × n, C is p × p.": "primal" if n < p else "dual",
        "The dual is not always cheaper: 1000 examples and 100 parameters make a K of a million entries.": "dual",
    },
)  # fmt: skip
def cheaper_form(n, p):
    """Return "primal" or "dual", for n examples and p parameters."""
    return "dual" if n < p else "primal"


def _coefficients(rng, size):
    G = np.array(rows(rng, size))
    n, damping, eta = len(G), positive(rng, 0.02, 0.5), positive(rng, 0.02, 0.5)
    K = G @ G.T / n
    alpha = np.linalg.solve(K + damping * np.eye(n), np.ones(n) / n)
    return jnp.asarray(K), jnp.asarray(alpha, float), eta


@exercise(
    1, "The step is $\\Delta=-\\eta\\,G^\\top\\alpha$. Compute its cost, $\\Delta^\\top C\\,\\Delta$, from $K$, "
    "$\\alpha$ and $\\eta$ alone.",
    ("The cost is the mean square of G Δ. What is G Gᵀ, in terms of K?",
     "G Gᵀ = nK, so the predicted changes are −η n K α.",
     "Their mean square: η² n² ‖Kα‖² / n."),
    _coefficients,
    parts=lambda K, alpha, eta: (alpha, eta, len(K), K @ alpha), mistakes=lambda alpha, eta, n, changes: {
        "G Gᵀ is nK, not K: K has a 1/n in it.": eta**2 * jnp.mean(changes**2),
        "This is the sum of the squared changes. The mean has another 1/n.": eta**2 * n ** 2 * jnp.sum(changes**2),
        "η is missing: the cost grows with its square.": n * jnp.sum(changes**2),
        "η must be squared.": eta * n * jnp.sum(changes**2),
        "This is the squared length of the step, η² αᵀ(nK)α. Its cost is in losses.": eta**2 * n * alpha @ changes,
        "The square is missing: this is the norm, not its square.": eta**2 * n * jnp.linalg.norm(changes),
    },
)  # fmt: skip
def cost_from_coefficients(K, alpha, learning_rate):
    """Return ΔᵀCΔ of Δ = −η Gᵀα, for K = GGᵀ/n (n, n) and alpha (n,)."""
    return learning_rate**2 * len(K) * jnp.sum((K @ alpha) ** 2)


def _dual(G, damping, scale_K=1.0, scale_one=1.0):
    n = len(G)
    return G.T @ jnp.linalg.solve(scale_K * G @ G.T / n + damping * jnp.eye(n), scale_one * jnp.ones(n) / n)


@exercise(
    2, "Write $(C+\\varepsilon I)^{-1}g$ in the $n\\times n$ form: no matrix with $p$ rows *and* $p$ columns.",
    ("The coefficients α solve an n × n system; the direction is Gᵀα.",
     "(K + εI) α = 1/n with K = GGᵀ/n.",
     "alpha = jnp.linalg.solve(G @ G.T / n + damping * jnp.eye(n), jnp.ones(n) / n)"),
    lambda rng, size: (rows(rng, size, ((1, 2), (2, 3), (3, 5), (3, 40), (8, 2000))), positive(rng, 0.02, 0.5)),
    mistakes=lambda G, damping: {
        "1/n is missing in K: this ε damps n times less.": _dual(G, damping, len(G), len(G)),
        "1/n is missing in K, though not on the right: the direction is damped n times less, and n times too short.":
            _dual(G, damping, len(G)),
        "1/n is missing on the right: this is n times too long.": _dual(G, damping, 1.0, len(G)),
        "ε was scaled by n, which is right only where K has no 1/n.": _dual(G, len(G) * damping),
        "The minus comes later: the direction itself has none.": -_dual(G, damping),
        "There is no damping in it.": _dual(G, 0.0),
        "This is g/ε: the identity stands where K should.": G.mean(axis=0) / damping,
    },
)  # fmt: skip
def dual_direction(G, damping):
    """Return (C + εI)⁻¹g (p,), for G (n, p) with p as large as you like."""
    n = len(G)
    alpha = jnp.linalg.solve(G @ G.T / n + damping * jnp.eye(n), jnp.ones(n) / n)
    return G.T @ alpha


def _loss(theta, x, y):
    return jnp.logaddexp(0.0, x @ theta) - y * (x @ theta)


def _weighted(rng, size):
    n, p = ((1, 2), (3, 2), (3, 2), (6, 5), (6, 5))[size]
    x = entries(rng, size, n, p)
    x[:, 0] = np.where(x[:, 0] == 0, 1, x[:, 0])
    alpha = rng.uniform(0.2, 1, n).round(2) * np.where(np.arange(n) % 2, -1, 1)
    y = np.arange(n) % 2
    return _loss, jnp.ones(p), *(jnp.asarray(part, float) for part in (x, y, alpha))


def _combined(reduce, loss_fn, theta, x, y, alpha):
    return jax.grad(lambda theta: reduce(alpha * jax.vmap(loss_fn, (None, 0, 0))(theta, x, y)))(theta)


@exercise(
    2, "Get $G^\\top\\alpha$ without $G$: one ordinary backward pass through a weighted loss.",
    ("Gᵀα = Σ αᵢ ∇ℓᵢ. It is the gradient of which function of θ?",
     "Of Σ αᵢ ℓᵢ(θ), with α held fixed. jax.vmap(loss_fn, (None, 0, 0)) gives all losses.",
     "jax.grad(lambda theta: jnp.sum(alpha * losses(theta)))(theta)"),
    _weighted,
    mistakes=lambda loss_fn, theta, x, y, alpha: {
        "This is a mean. Add the weighted losses up: α has the 1/n in it already.":
            _combined(jnp.mean, loss_fn, theta, x, y, alpha),
        "α is missing: this is the gradient of the plain sum.":
            _combined(jnp.sum, loss_fn, theta, x, y, jnp.ones_like(alpha)),
        "α is missing: this is the mean gradient.":
            _combined(jnp.mean, loss_fn, theta, x, y, jnp.ones_like(alpha)),
        "Keep the signs of α: some examples are pushed the other way, on purpose.":
            _combined(jnp.sum, loss_fn, theta, x, y, jnp.abs(alpha)),
    },
)  # fmt: skip
def weighted_backward(loss_fn, theta, x, y, alpha):
    """Return Gᵀα (p,) for alpha (n,); loss_fn(theta, x[i], y[i]) is of one example."""

    def weighted(theta):
        return jnp.sum(alpha * jax.vmap(loss_fn, (None, 0, 0))(theta, x, y))

    return jax.grad(weighted)(theta)


def _layer(rng, size):
    n, a, b = ((1, 1, 1), (2, 2, 1), (2, 2, 1), (5, 3, 6), (5, 3, 6))[size]
    X, D = rng.integers(-2, 3, (n, a)), rng.integers(-2, 3, (n, b))
    X[:, 0], D[:, 0] = 1 + np.arange(n), 2
    return jnp.asarray(X, float), jnp.asarray(D, float)


def _one_by_one(X, D):
    gradients = jnp.einsum("nb,na->nba", D, X).reshape(len(X), -1)
    return gradients @ gradients.T


@exercise(
    3, "A dense layer $z=Wx$ has the gradients $\\delta_ix_i^\\top$. Return all their inner products, an $n\\times n$ "
    "matrix, without forming a single gradient.",
    ("⟨δᵢxᵢᵀ, δⱼxⱼᵀ⟩ is a product of two numbers.",
     "It is (δᵢ·δⱼ)(xᵢ·xⱼ): each factor is an entry of an n × n matrix.",
     "The entrywise product of X Xᵀ and D Dᵀ."),
    _layer,
    mistakes=lambda X, D: {
        "This multiplies the two matrices. Multiply entry by entry: `*`, not `@`.": (X @ X.T) @ (D @ D.T),
        "The two inner products are multiplied, not added.": X @ X.T + D @ D.T,
        "The errors are missing: this is the Gram matrix of the inputs.": X @ X.T,
        "The inputs are missing: this is the Gram matrix of the errors, the part of the biases.": D @ D.T,
        "1/n is for K. The inner products themselves have none.": (X @ X.T) * (D @ D.T) / len(X),
    },
    properties={
        "it equals the inner products of the gradients, formed one by one.":
            lambda answer, X, D: (answer(X, D), _one_by_one(X, D)),
    },
)  # fmt: skip
def layer_gram(X, D):
    """Return (n, n) inner products of δᵢxᵢᵀ, for inputs X (n, a), errors D (n, b)."""
    return (X @ X.T) * (D @ D.T)
