"""Notebook 12: your own model, what to look at first, how to choose its damping, and what to tell others about it."""

import re

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, positive, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "a promise",
    "A small tanh network with 275 parameters is trained on 120 wines; its mean loss is 0.21. The undamped step of "
    "cost c = 0.01 promises to lower the loss of every wine by 0.1. What does the mean loss do?",
    "It falls by about 0.1: first order is good for such a small step.",
    "It falls by less than a quarter of that.",
    "It rises.",
    because="It falls by less than 0.02, and for wines that the step has not seen it rises. ρ = 1 says that such a "
    "promise can be made to every example. Whether it is kept depends on the step's length: undamped it is nearly five "
    "times as long as with ε at a hundredth of the largest eigenvalue, where seven tenths of the promise are kept.",
    answer=2,
)
ask(
    "ten times the loss",
    "You change the unit of your loss, and all its values become ten times as large. What must change with it, for the "
    "damped step of your model to keep its direction?",
    "Nothing: ρ is the same, so the direction is.",
    "ε, which must be ten times as large.",
    "ε, which must be a hundred times as large.",
    "ε, which must be a tenth of what it was.",
    because="ε, to a hundred times what it was. It is compared with the eigenvalues of C, which go with the square of "
    "the gradients. n, p, the rank and ρ stay as they are. So state ε as a fraction of the largest eigenvalue: then it "
    "keeps its meaning.",
    answer=3,
)


def _with_a_copy(rng, size):
    """Gradients of which one occurs twice, so that the rank is not that of the shape."""
    G = rows(rng, size, ((1, 3), (2, 3), (3, 2), (3, 5), (6, 3)))
    return (jnp.concatenate([G, G[:1]]),)


def _summary(G, **other):
    fit = G @ jnp.linalg.lstsq(G, jnp.ones(len(G)))[0]
    right = {"n": G.shape[0], "p": G.shape[1], "rank": jnp.linalg.matrix_rank(G), "rho": jnp.mean(fit)}
    return right | other


@exercise(
    1, "The four numbers to look at first: how many examples, how many parameters, the rank of $C$, and $\\rho$.",
    ("The shape of G gives two of them. C = GᵀG/n has the rank of G.",
     "ρ is the mean of the fitted values when ones are regressed on the gradients (notebook 08).",
     "jnp.linalg.matrix_rank(G), and jnp.mean(G @ jnp.linalg.lstsq(G, jnp.ones(n))[0])."),
    _with_a_copy,
    mistakes=lambda G: {
        "n and p are swapped: a row of G is an example.": _summary(G, n=G.shape[1], p=G.shape[0]),
        "The smaller side of G is only a bound on the rank: here an example occurs twice.":
            _summary(G, rank=min(G.shape)),
        "This is 1 − ρ, the fraction of examples that may get worse.": _summary(G, rho=1 - _summary(G)["rho"]),
        "This is ‖g‖²/tr C, not ρ. C⁺ is missing.":
            _summary(G, rho=jnp.sum(G.mean(axis=0) ** 2) / jnp.mean(jnp.sum(G**2, axis=1))),
        "ρ is a mean over the examples; this is the sum.": _summary(G, rho=len(G) * _summary(G)["rho"]),
    },
)  # fmt: skip
def summary(G):
    """Return {"n": …, "p": …, "rank": …, "rho": …} for G (n, p)."""
    n, p = G.shape
    rho = jnp.mean(G @ jnp.linalg.lstsq(G, jnp.ones(n))[0])
    return {"n": n, "p": p, "rank": jnp.linalg.matrix_rank(G), "rho": rho}


def _spectrum(rng, size):
    small = ([1.0, 0.5], [4.0, 1.0, 0.0], [9.0, 3.0, 1.0, 0.1])
    values = small[size] if size < 3 else rng.lognormal(-1, 2, 3 * size)
    return jnp.sort(jnp.asarray(values, float))[::-1]


@exercise(
    1, "How many directions does the damping leave? Compute $\\sum_j\\mu_j/(\\mu_j+\\varepsilon)$.",
    ("Each eigenvalue counts for something between 0 and 1.",
     "One that is equal to ε counts for a half.",
     "jnp.sum(eigenvalues / (eigenvalues + damping))"),
    lambda rng, size: (_spectrum(rng, size), positive(rng, 0.05, 2)),
    parts=lambda values, damping: (values, damping, values / (values + damping)),
    mistakes=lambda values, damping, kept: {
        "A hard cut: this counts eigenvalues above ε. Damping is a soft one.": jnp.sum(values > damping),
        "This counts the directions that are lost: Σ ε/(μ + ε).": jnp.sum(damping / (values + damping)),
        "This is their fraction. Take the sum.": jnp.mean(kept),
        "This is the trace of (C + εI)⁻¹: μ is missing in the numerator.": jnp.sum(1 / (values + damping)),
        "Σμ/Σ(μ + ε) is a fraction of two sums. Take the sum of the fractions.":
            jnp.sum(values) / jnp.sum(values + damping),
        "The fraction is squared: this is what is left of the step's ΔᵀCΔ.": jnp.sum(kept**2),
    },
)  # fmt: skip
def effective_rank(eigenvalues, damping):
    """Return the number Σ μ/(μ + ε), for eigenvalues (m,) of C and a damping ε > 0."""
    return jnp.sum(eigenvalues / (eigenvalues + damping))


def _leaves(damping, eigenvalues, kept):
    damping = readable(damping)
    if damping <= 0:
        return f"ε must be positive, this is {damping}"
    values = np.asarray(eigenvalues, float)
    left = np.sum(values / (values + damping))
    return (
        bool(abs(left - kept) < 0.01 * kept) or f"it leaves {left:.3g} directions, {kept:.3g} are asked for"
    )


def _to_keep(rng, size):
    eigenvalues = _spectrum(rng, size)
    most = int(jnp.sum(eigenvalues > 0))
    return eigenvalues, 0.5 if most < 2 else float(rng.integers(1, most))


@exercise(
    2, "The other way round: choose $\\varepsilon$ so that $\\sum_j\\mu_j/(\\mu_j+\\varepsilon)$ is the number of "
    "directions that you want to keep, to within 1 %.",
    ("The sum falls as ε grows. So if it is too large at some ε, the right ε is larger.",
     "Halve an interval of log ε: ε lies between almost 0 and a very large number.",
     "low, high = 1e-8, 1e8; 60 times: middle = √(low·high) replaces low if the sum there is above `kept`, else high."),
    _to_keep,
    accepts=_leaves,
    mistakes=lambda eigenvalues, kept: {
        "The eigenvalue of that rank is a hard cut. The sum there is another: each smaller one still counts a little.":
            eigenvalues[int(kept) - 1],
        "Between two eigenvalues is where a hard cut would be. Solve for the sum.":
            jnp.sqrt(eigenvalues[int(kept) - 1] * eigenvalues[int(kept)] + 1e-12),
    },
)  # fmt: skip
def pick_damping(eigenvalues, kept):
    """Return ε with Σ μ/(μ + ε) = kept, for eigenvalues (m,) of C, kept below rank."""
    low, high = 1e-8, 1e8
    for _ in range(60):
        middle = (low * high) ** 0.5
        left = jnp.sum(eigenvalues / (eigenvalues + middle))
        low, high = (middle, high) if left > kept else (low, middle)
    return (low * high) ** 0.5


def _advises(sentence):
    if not isinstance(sentence, str):
        return f"a sentence is expected, between quotes; this is a {type(sentence).__name__}"
    words = re.findall(r"[^\W\d_]{2,}", sentence.lower())
    if len(words) < 5 or len(set(words)) < 4:
        return "it should be a sentence of at least five words"
    return True if re.search(r"\d", sentence) else "it needs a number: one that you have seen above"


@exercise(
    1, "One sentence of advice to whoever trains *your* model with this step, with a number that you have seen above.",
    ("What surprised you: the rank, ρ, a promise that was not kept, who pays?",
     "Say what to do, and by which number you know it.",
     "For example: “Keep ε above … of the largest eigenvalue, or the step keeps only … % of its promise.”"),
    accepts=_advises,
)  # fmt: skip
def advice():
    """Return one sentence, as a string, with at least one number in it."""
    return "Keep ε above 1 % of the largest eigenvalue: almost undamped, the step keeps 0.02 of the 0.10 it promises."
