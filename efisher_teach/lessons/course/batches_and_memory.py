"""Notebook 06: what the step of a minibatch solves and for whom, and what a memory of C or of steps mends."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, positive
from efisher_teach.lessons.question import ask

ask(
    "one example or two",
    "Two parameters, and hardly any damping. A batch has two examples in place of one. Its step serves both of them. "
    "What becomes of the examples that are not in the batch?",
    "They fare better: two know more than one.",
    "They fare worse.",
    "They fare alike: nobody has asked them.",
    because="They fare worse. One example leaves a direction free, and the shortest step does not use it. Two examples "
    "fill the plane: both are served exactly, however far the step must go for it. Only from there on do more examples "
    "help the others.",
    answer=2,
)
ask(
    "the mean of many steps",
    "The mean of g over many minibatches is g, and that of C_B is C. Is the mean of (C_B + εI)⁻¹g_B the step of all "
    "examples?",
    "Yes: what is right on average stays so.",
    "Yes, if the batches do not overlap.",
    "No, it is another step, in another direction.",
    because="Another one: the inverse is not linear, and C_B and g_B come from the same few examples. A loud example "
    "raises both. For single examples the mean is that of gᵢ/(|gᵢ|² + ε), where a large gradient counts little.",
    answer=3,
)


@exercise(
    1, "Gradients of pure noise: the rows of $G$ are independent and normal about 0. Which $\\rho$ is to be expected "
    "of a batch of $B$ examples and $p$ parameters?",
    ("ρ is |P1|²/B, where P projects on the p columns of G.",
     "The columns are random directions in B dimensions. Which part of any vector lies in p of them?",
     "p/B, and never more than 1."),
    lambda rng, size: (((30, 300), (200, 50), (7, 7), (1, 40), (1000, 10))[size]),
    mistakes=lambda p, B: {
        "With more parameters than examples every wish is granted. No part is larger than 1.":
            p / B,
        "The other way round: more examples are harder to please.": min(1, B / p),
        "In the mean g is 0, but ρ asks how well the batch can be served, and it can.": 0,
        "The root is for lengths. ρ is a part of a square.": np.sqrt(min(1, p / B)),
    },
    why="So $\\rho$ near 1 is no good news where $B\\le p$: noise has it too.",
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
    1, "Average $C$ over the batches so far: $\\bar C\\leftarrow\\beta\\bar C+(1-\\beta)C_B$, from $\\bar C=0$. Return "
    "it such that equal $C_B$ give just that $C_B$, after the first batch, too.",
    ("After one batch there stands (1 − β)C_B. What is missing?",
     "After t batches the weights sum up to 1 − βᵗ.",
     "Divide by 1 − βᵗ, t = len(matrices)."),
    lambda rng, size: (
        jnp.asarray([np.cov(rng.normal(size=(2, 9))) for _ in range((1, 2, 3, 5, 8)[size])], float),
        float(rng.choice([0.5, 0.9, 0.99])),
    ),
    mistakes=lambda matrices, decay: {
        "It begins at 0 and is too small at first: the weights do not sum up to 1. Where C is small, steps are long.":
            _running(matrices, decay, debias=False),
        "This forgets nothing. The newest batch should have the largest weight.":
            matrices.mean(axis=0),
        "β is the weight of the old average, 1 − β that of the new batch.":
            _running(matrices, 1 - decay),
    },
    why="`scale_by_empirical_fisher(decay=…)` does so, too, on the rows of $G$.",
)  # fmt: skip
def running_average(matrices, decay):
    """Return the average of matrices (t, p, p), the oldest first, for the decay β."""
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
    2, "The step with a memory: minimise $\\mathbb E_B[(g_i^\\top\\Delta+\\eta)^2]+\\varepsilon\\lVert\\Delta-\\mu"
    "\\Delta_-\\rVert^2$.",
    ("Write Δ = μΔ₋ + d. What does d minimise?",
     "E[(gᵢᵀd + η + μ gᵢᵀΔ₋)²] + ε‖d‖²: a ridge regression, as in notebook 04.",
     "d = −(C + εI)⁻¹(ηg + μCΔ₋)."),
    lambda rng, size: (
        jnp.asarray(rng.normal(size=((3, 2), (2, 4), (5, 5), (6, 3), (4, 8))[size]), float),
        jnp.asarray(rng.normal(size=(2, 4, 5, 3, 8)[size]), float),
        positive(rng, 0.1, 1), positive(rng, 0.1, 1), float(rng.choice([0.5, 0.9])),
    ),
    mistakes=lambda G, last, damping, learning_rate, memory: {
        "That is momentum: the batch is asked for η on top of what the old step gives it already.":
            _remembering(G, last, damping, learning_rate, memory, asks=0.0),
        "μΔ₋ itself is missing: this is only d, what the batch adds to it.":
            _remembering(G, last, damping, learning_rate, memory, adds=0.0),
        "The step is damped towards μΔ₋, not towards the whole of Δ₋.":
            _remembering(G, last, damping, learning_rate, 1.0),
        "Without the memory: this is the step of notebook 04.":
            _remembering(G, last, damping, learning_rate, 0.0),
    },
    why="`make_update(memory=…)` does it with $K$: no matrix is $p\\times p$.",
)  # fmt: skip
def step_with_memory(G, last, damping, learning_rate, memory):
    """Return Δ (p,), for rows G (n, p) of the batch and the last step (p,)."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    kept = memory * last
    return kept - jnp.linalg.solve(C + damping * jnp.eye(len(g)), learning_rate * g + C @ kept)
