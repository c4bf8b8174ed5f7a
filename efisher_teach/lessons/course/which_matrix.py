"""Notebook 10: what stands in for the Fisher, its price in gradients, and what its step is worth."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, rows, weighted
from efisher_teach.lessons.question import ask

ask(
    "a step by C",
    "Ten classes, early in training, little damping. Of all steps with the same KL divergence, that of F promises the "
    "largest decrease; its price is ten gradients. That of C is one. What does its step promise, at the same KL "
    "divergence?",
    "About nine tenths of the best.",
    "About as much as a step along −g.",
    "Clearly less than a step along −g.",
    because="Clearly less than a step along −g: about six tenths of the best, where −g has three quarters. C is not a "
    "cheap F. It measures something else, E[Δℓ²], and for that its step is the best.",
    answer=3,
)
ask(
    "one label from the model",
    "For each example draw one label from the model, and make C from these labels: two gradients a step. Averaged over "
    "draws, this matrix is F. What brings its step near to that of F?",
    "Nothing more is needed.",
    "More labels, or more examples.",
    "More training.",
    because="More labels, or more examples: its error is noise, which averages out. With 256 examples it promises less "
    "than −g, with 1024 nine tenths of the best. This early, more examples do little for C: most of its error is not "
    "noise.",
    answer=2,
)


@exercise(
    1, "With $k$ classes the price of $F$ is $k$, that of $m$ sampled labels $1+m$. What is the largest $m$ for which "
    "sampling is cheaper?",
    ("The price of m labels is 1 + m: one pass for g, and one for each label.",
     "1 + m < k, for whole numbers.",
     "m = k − 2."),
    lambda rng, size: ((3, 10, 4, 100, 1000)[size],),
    mistakes=lambda classes: {
        "With this many the prices are equal: sampling should be cheaper.": classes - 1,
        "Do not forget the pass for g: the price of m labels is 1 + m.": classes,
        "One too few: with one more it is still cheaper.": classes - 3,
    },
)  # fmt: skip
def most_labels(classes):
    """Return the largest number of sampled labels that is cheaper than F."""
    return classes - 2


def _losses(rng, size):
    G = rows(rng, size)
    return G, jnp.asarray(rng.uniform(0.1, 2.5, len(G)).round(2), float)


@exercise(
    2, "Compute the weighted $C$, $\\mathbb E[w\\,\\nabla\\ell\\,\\nabla\\ell^\\top]$ with $w=q_y/(1-q_y)$, from the "
    "gradients and the losses $\\ell=-\\log q_y$.",
    ("q_y = exp(−ℓ). What is (1 − q_y)/q_y?",
     "w = 1/(exp(ℓ) − 1), one number for each row of G.",
     "(w[:, None] * G).T @ G / n"),
    _losses,
    mistakes=lambda G, losses: {
        "The weights are upside down: this is (1 − q_y)/q_y.": weighted(G, jnp.expm1(losses)),
        "These weights are q_y alone: the division by 1 − q_y is missing.": weighted(G, jnp.exp(-losses)),
        "The weights are squared, as they are on both sides. Put the root on each, or all on one.":
            weighted(G, 1 / jnp.expm1(losses) ** 2),
        "There is no 1/n: this is the sum.": len(G) * weighted(G, 1 / jnp.expm1(losses)),
        "The weights were scaled to add up to 1. But their size matters, as that of F does.":
            len(G) * weighted(G, 1 / jnp.expm1(losses)) / jnp.sum(1 / jnp.expm1(losses)),
        "This is C: the weights are missing.": weighted(G, jnp.ones(len(G))),
    },
    why="$1/w=e^{\\ell}-1$ takes only the loss, and `jnp.expm1` keeps it exact where the loss is small.",
)  # fmt: skip
def weighted_fisher(G, losses):
    """Return E[w ∇ℓ∇ℓᵀ] (p, p), w = q_y/(1 − q_y), for G (n, p) and losses (n,)."""
    weights = 1 / jnp.expm1(losses)
    return (weights[:, None] * G).T @ G / len(G)


def _spd(rng, side):
    rows = rng.normal(0, 1, (side + 4, side))
    return rows.T @ rows / (side + 4) + 0.1 * np.eye(side)


def _metric(rng, size):
    p = (2, 2, 3, 4, 6)[size]
    F, g = _spd(rng, p), rng.normal(0, 1, p)
    u = np.linalg.solve(_spd(rng, p), g)
    return tuple(jnp.asarray(part, float) for part in (F, g, u))


@exercise(
    2, "At equal KL divergence, what share of the best decrease does a step along $-u$ promise? Divide "
    "$g^\\top u/\\sqrt{u^\\top Fu}$ by the same for $F^{-1}g$.",
    ("For u = F⁻¹g: gᵀu = gᵀF⁻¹g, and uᵀFu is the same number.",
     "So the best is √(gᵀF⁻¹g).",
     "g @ u / jnp.sqrt((u @ F @ u) * (g @ jnp.linalg.solve(F, g)))"),
    _metric,
    parts=lambda F, g, u: (F, g, u, jnp.linalg.solve(F, g)),
    mistakes=lambda F, g, u, best: {
        "This is the cosine of two arrows: it depends on the parametrization. Lengths are measured by F here.":
            u @ best / jnp.linalg.norm(u) / jnp.linalg.norm(best),
        "This is what the step promises for its KL divergence. Divide it by the best.": g @ u / jnp.sqrt(u @ F @ u),
        "A root is missing: the KL divergence grows with the square of the step.": g @ u / (u @ F @ u) / (g @ best),
        "This is the square of the share.": (g @ u) ** 2 / (u @ F @ u) / (g @ best),
        "This is the cosine with g: it measures steps by their length, not by F.":
            g @ u / jnp.linalg.norm(u) / jnp.linalg.norm(g),
    },
    why="It is the same in any coordinates (notebook 05).",
)  # fmt: skip
def share_of_the_best(F, g, u):
    """Return the share, at most 1, for F (p, p), g (p,) and a direction u (p,)."""
    return g @ u / jnp.sqrt((u @ F @ u) * (g @ jnp.linalg.solve(F, g)))


def _layer(rng, size):
    b, a = ((2, 2), (2, 3), (3, 2), (3, 5), (6, 4))[size]
    parts = _spd(rng, b), _spd(rng, a), rng.normal(0, 1, (b, a))
    return tuple(jnp.asarray(part, float) for part in parts)


def _sides(S, A, V):
    inverses = jnp.linalg.inv(S), jnp.linalg.inv(A)
    return S, A, V, *inverses


@exercise(
    3, "A layer's block of K-FAC is $S\\otimes A$, with $S=\\mathbb E[\\delta\\delta^\\top]$ and "
    "$A=\\mathbb E[aa^\\top]$. Solve $(S\\otimes A)\\operatorname{vec}U=\\operatorname{vec}V$ for the layer's gradient "
    "$V$, whose rows belong to outputs, without a matrix of $n_\\text{in}n_\\text{out}$ rows.",
    ("The gradient of one example is δaᵀ: S acts on its left side, A on its right side.",
     "(S ⊗ A) vec U = vec(S U A), as A is symmetric.",
     "U = S⁻¹ V A⁻¹"),
    _layer, parts=_sides,
    mistakes=lambda S, A, V, S_inverse, A_inverse: {
        "This multiplies by the block. Solve with it.": S @ V @ A,
        "Only the outputs are taken care of: A is missing.": S_inverse @ V,
        "Only the inputs are taken care of: S is missing.": V @ A_inverse,
        "This is the transpose: U has the shape of V.": (S_inverse @ V @ A_inverse).T,
        "Each side is divided twice: one inverse for each is enough.":
            S_inverse @ S_inverse @ V @ A_inverse @ A_inverse,
    },
    why="Two small systems in place of one with $n_\\text{in}n_\\text{out}$ rows: for a layer of 1024 by 1024, $10^3$ "
    "rows against $10^6$.",
)  # fmt: skip
def kronecker_direction(S, A, V):
    """Return U (n_out, n_in), for S (n_out, n_out), A (n_in, n_in), V (n_out, n_in)."""
    return jnp.linalg.solve(S, jnp.linalg.solve(A, V.T).T)
