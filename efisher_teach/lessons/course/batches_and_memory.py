"""Notebook 06: what the step of a minibatch solves and for whom, and what a memory of C or of steps mends."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, positive
from efisher_teach.lessons.question import ask

ask(
    "one example or two",
    "A model has two parameters, and there is hardly any damping. Batches grow from one example to two, and each step "
    "still gives its own batch all that it asks for. How do the examples outside the batch fare on average, compared "
    "with before?",
    "Better: two examples know more than one.",
    "Worse.",
    "The same: nobody has asked them.",
    because="Worse. One example fixes one direction of the step, and the shortest step leaves the other alone. Two "
    "examples fix both: each gets exactly what it asks for, however long a step that takes. Most pairs do no harm, "
    "but some so much that the mean is worse. Only beyond two do more examples help the others.",
    answer=2,
)
ask(
    "the mean of many steps",
    "The mean of g_B over many minibatches is g, and that of C_B is C. Is the mean of (C_B + εI)⁻¹g_B the step of all "
    "examples, (C + εI)⁻¹g?",
    "Yes: what is right on average stays right.",
    "Yes, if the batches do not overlap.",
    "No, it is another step, in another direction.",
    because="It is another step. The inverse is not linear, and C_B and g_B come from the same few examples: one with "
    "a large gradient raises both. In batches of one the mean is that of gᵢ/(‖gᵢ‖² + ε), where a large gradient counts "
    "for little.",
    answer=3,
)


@exercise(
    1, "Gradients of pure noise: the entries of $G$ are independent and normal, with mean 0. What is the expected "
    "$\\rho$ of a batch of $B$ examples, with $p$ parameters?",
    ("ρ = ‖P1‖²/B, where P projects onto the span of the p columns of G.",
     "That span is a random one, of p among B dimensions. What part of ‖1‖² = B lies in it, on average?",
     "p/B, and never more than 1."),
    lambda rng, size: (((30, 300), (200, 50), (7, 7), (1, 40), (1000, 10))[size]),
    mistakes=lambda p, B: {
        "With more parameters than examples every wish is granted, and ρ is 1, not more.":
            p / B,
        "Upside down: more examples are harder to please.": min(1, B / p),
        "On average g is 0, but ρ asks how well this batch can be served.": 0,
        "No root: ρ is a part of a squared length.": np.sqrt(min(1, p / B)),
    },
)  # fmt: skip
def agreement_of_noise(p, B):
    """Return the expected ρ of a batch of B noisy gradients with p entries."""
    return min(1, p / B)


def _running(matrices, decay, *, debias=True):
    average = 0 * matrices[0]
    for matrix in matrices:
        average = decay * average + (1 - decay) * matrix
    return average / (1 - decay ** len(matrices)) if debias else average


@exercise(
    1, "Average $C$ over the batches so far: $\\bar C\\leftarrow\\beta\\bar C+(1-\\beta)C_B$, starting at $\\bar C=0$. "
    "Correct for that start: if all $C_B$ are equal, return just this matrix, even after one batch.",
    ("After one batch the average is (1 − β)C_B. What factor is missing?",
     "After k batches the weights add up to 1 − βᵏ.",
     "Divide by 1 − βᵏ, with k = len(matrices)."),
    lambda rng, size: (
        jnp.asarray([np.cov(rng.normal(size=(2, 9))) for _ in range((1, 2, 3, 5, 8)[size])], float),
        float(rng.choice([0.5, 0.9, 0.99])),
    ),
    mistakes=lambda matrices, decay: {
        "It starts at 0 and is too small at first: its weights do not add up to 1. A small C makes long steps.":
            _running(matrices, decay, debias=False),
        "This forgets nothing: the newest batch should have the largest weight.":
            matrices.mean(axis=0),
        "β is the weight of the old average, 1 − β that of the new batch.":
            _running(matrices, 1 - decay),
    },
    why="`scale_by_empirical_fisher(decay=…)` does the same, with rows of $G$.",
)  # fmt: skip
def running_average(matrices, decay):
    """Return the average of matrices (k, p, p), the oldest first, for the decay β."""
    average = jnp.zeros_like(matrices[0])
    for matrix in matrices:
        average = decay * average + (1 - decay) * matrix
    return average / (1 - decay ** len(matrices))


def _remembering(G, last, damping, learning_rate, memory, *, asks=1.0, adds=1.0):
    G, last = np.asarray(G, float), np.asarray(last, float)
    C, g = G.T @ G / len(G), G.mean(axis=0)
    kept = memory * last
    return adds * kept - np.linalg.solve(C + damping * np.eye(len(g)), learning_rate * g + asks * C @ kept)


@exercise(
    2, "The step with a memory: minimise $\\mathbb E_B[(g_i^\\top\\Delta+\\eta)^2]+\\varepsilon\\lVert\\Delta-\\beta"
    "\\Delta_-\\rVert^2$.",
    ("Write Δ = βΔ₋ + d. What does d minimise?",
     "E[(gᵢᵀd + η + β gᵢᵀΔ₋)²] + ε‖d‖²: a ridge regression, as in notebook 04.",
     "d = −(C + εI)⁻¹(ηg + βCΔ₋)."),
    lambda rng, size: (
        jnp.asarray(rng.normal(size=((3, 2), (2, 4), (5, 5), (6, 3), (4, 8))[size]), float),
        jnp.asarray(rng.normal(size=(2, 4, 5, 3, 8)[size]), float),
        positive(rng, 0.1, 1), positive(rng, 0.1, 1), float(rng.choice([0.5, 0.9])),
    ),
    mistakes=lambda G, last, damping, learning_rate, memory: {
        "That is momentum: the batch is asked for η on top of what the last step gives it already.":
            _remembering(G, last, damping, learning_rate, memory, asks=0.0),
        "βΔ₋ itself is missing: this is only d, what the batch adds to it.":
            _remembering(G, last, damping, learning_rate, memory, adds=0.0),
        "The step is damped towards βΔ₋, not towards the whole of Δ₋.":
            _remembering(G, last, damping, learning_rate, 1.0),
        "Without the memory: this is the step of notebook 04.":
            _remembering(G, last, damping, learning_rate, 0.0),
    },
    why="`make_update(memory=…)` does the same through the $B\\times B$ matrix $K=GG^\\top/B$.",
)  # fmt: skip
def step_with_memory(G, last, damping, learning_rate, memory):
    """Return Δ (p,), for rows G (n, p) of the batch and the last step (p,)."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    kept = memory * last
    return kept - jnp.linalg.solve(C + damping * jnp.eye(len(g)), learning_rate * g + C @ kept)
