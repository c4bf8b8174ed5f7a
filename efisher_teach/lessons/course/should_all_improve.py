"""Notebook 08: the same decrease for all, whom it serves and whom it harms, and what else a step can be asked for."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import entries, exercise, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "serve all alike",
    "Two hundred digits, odd or even. First one kind of digit is rare, four twos among a hundred even digits; then one "
    "label in five is wrong. We train by steps that lower all losses equally, or by gradient descent. Which learns "
    "more about unseen digits?",
    "The equal steps, both times: they leave nobody behind.",
    "Gradient descent, both times: who serves all alike serves nobody well.",
    "The equal steps where twos are rare, descent where labels are wrong.",
    "Descent where twos are rare, the equal steps where labels are wrong.",
    because="It depends on who is served. With four twos equal steps get nearly two thirds of the unseen ones right "
    "early, when descent, at the same training loss, gets few (a coin, half); later it catches up. But they learn "
    "wrong labels just as early, and until descent has learned them, too, get fewer unseen digits right. Both are "
    "computed below, with what they do not show.",
    answer=3,
)
ask(
    "pushed uphill",
    "The step is −η Σ αᵢgᵢ, a combination of the gradients, and each of the 200 losses falls by the same. How many of "
    "the coefficients αᵢ are negative?",
    "None: a negative coefficient would make that loss rise.",
    "One or two, by rounding.",
    "More than a quarter of them.",
    because="About two in five: their own terms, −αᵢgᵢ, go uphill, and still their losses fall. αᵢ is "
    "negative exactly where the step for the other 199 alone would lower loss i by more than was asked; the "
    "coefficient takes the excess back.",
    answer=3,
)
ask(
    "ρ of nothing",
    "The labels of the 200 digits are replaced by tosses of a coin. What is ρ in the model with 600 parameters?",
    because="1. With more parameters than examples, all 200 wishes can be met at once, sense or nonsense. ρ "
    "measures whether a step can serve these examples alike, not whether they have anything in common.",
    answer=1,
    high=1,
    step=0.01,
    within=0.02,
)


def _projected(G):
    """P1: the part of the vector of ones that loss changes can reach."""
    return G @ jnp.linalg.lstsq(G, jnp.ones(len(G)))[0]


def _sharpe(G):
    """s = gᵀΣ⁺g, with the centred covariance Σ."""
    g = G.mean(axis=0)
    return g @ jnp.linalg.pinv((G - g).T @ (G - g) / len(G), rtol=1e-4) @ g


@exercise(
    2, "Ask every example for a decrease of 1, undamped: $\\Delta=-C^{+}g$. What does each loss do, to first order? "
    "$C$ is not needed, and $G$ may have any shape.",
    ("Which regression does the step solve? Its rows are the gradients, and all its targets are equal.",
     "`jnp.linalg.lstsq(G, y)[0]` is the shortest Δ whose G Δ comes nearest to y.",
     "Regress −1 on the gradients, and return the fitted values: G @ lstsq(G, −1)[0]."),
    lambda rng, size: (rows(rng, size),),
    parts=lambda G: (G, _projected(G)), mistakes=lambda G, fit: {
        "This is what was asked for. With more examples than parameters it cannot be had in full.":
            -jnp.ones(len(G)),
        "The sign: they are asked to fall.": fit,
        "These are the changes under −g, gradient descent: −K1.": -G @ G.mean(axis=0),
        "This is the step, one number for each parameter. Asked for is what it does to each loss, G Δ.":
            -jnp.linalg.lstsq(G, jnp.ones(len(G)))[0],
        "This is what is left over: the residual of the regression, not its fit.": fit - 1,
        "This step is scaled to spend E[Δℓ²] = 1. There is no budget here: η = 1.": -fit / jnp.sqrt(jnp.mean(fit)),
        "1/n does not belong here: every example is asked for 1.": -fit / len(G),
    },
    properties={
        "gradients twice as long change nothing: the step is half as long.":
            lambda answer, G: (answer(2 * G), answer(G)),
        "the mean of the changes is minus the mean of their squares: they are a projection.":
            lambda answer, G: (-np.mean(answer(G)), np.mean(np.square(answer(G)))),
    },
    why="$C^{+}g=G^{+}\\mathbf 1$, so the changes are $-GG^{+}\\mathbf 1=-P\\mathbf 1$.",
)  # fmt: skip
def equal_changes(G):
    """Return the n predicted changes of the losses under Δ = −C⁺g, for G (n, p)."""
    return -G @ jnp.linalg.lstsq(G, jnp.ones(len(G)))[0]


def _shear(p):
    return jnp.eye(p) + 0.5 * jnp.eye(p, k=1)


def _with_a_step(rng, size):
    """Gradients and a step under which some losses rise, and where it can be, one stays."""
    while True:
        G = np.array(rows(rng, size, ((2, 2), (4, 2), (4, 2), (12, 3), (12, 3))))
        if size:
            G[-1] = 0  # an example that has nothing left to learn
        delta = entries(rng, size, G.shape[1])
        change = G @ delta
        decided = (np.abs(change) > 0.05) | (np.abs(G).max(axis=1) == 0)
        up, down = np.mean(change > 0), np.mean(change < 0)
        if decided.all() and (0 < up != down > 0 or (not size and up == 1)):
            return jnp.asarray(G, float), jnp.asarray(delta, float)


@exercise(
    1, "What fraction of the losses rises under a step $\\Delta$, to first order? A loss that stays does not count.",
    ("To first order, by how much does each loss change?",
     "G Δ holds the n changes. Compare each with 0.",
     "The mean of a comparison is a fraction: jnp.mean(… > 0)."),
    _with_a_step,
    mistakes=lambda G, delta: {
        "This is how many they are: divide by n.": jnp.sum(G @ delta > 0),
        "This counts those that improve.": jnp.mean(G @ delta < 0),
        "This also counts those that stay: to rise means > 0.": jnp.mean(G @ delta >= 0),
        "This says whether the mean loss rises. Compare first, average later.": jnp.mean(G @ delta) > 0,
        "This is by how much the losses rise, not how many do.": jnp.mean(jnp.maximum(G @ delta, 0)),
    },
)  # fmt: skip
def fraction_worse(G, delta):
    """Return the fraction of losses that rise by the step delta (p,), for G (n, p)."""
    return jnp.mean(G @ delta > 0)


def _negative(G):
    G = readable(G, 2, 2)
    singular = np.linalg.svd(G, compute_uv=False)
    if singular[-1] <= 1e-4 * singular[0]:
        return "the two gradients are parallel, or one is 0: then the two losses cannot both fall by 1"
    weights = np.linalg.solve(G @ G.T, np.ones(2))
    if weights.min() < -1e-6 * np.abs(weights).max():
        return True
    return f"both losses fall by 1, but α = ({weights[0]:.3g}, {weights[1]:.3g}): none is negative"


@exercise(
    2, "Two examples, two parameters. The step $\\Delta=-\\alpha_1g_1-\\alpha_2g_2$ lowers both losses by 1. Give "
    "gradients for which one coefficient is *negative*.",
    ("Let the first example pull moderately, and the second much harder in a similar direction.",
     "What does −g₁ alone do to ℓ₂? If that is more than asked, g₂ must take something back.",
     "g₁ᵀg₂ > ‖g₁‖² will do: g₁ = (1, 0), and a g₂ whose first entry is larger than 1, not parallel to g₁."),
    accepts=_negative,
    why="$\\alpha=(GG^\\top)^{-1}\\mathbf 1=(3,-1)$. The step $-g_1$ lowers $\\ell_1$ by 1 and $\\ell_2$ by 2, too "
    "much. The negative coefficient takes the excess back; the step is $(-1,1)$.",
)  # fmt: skip
def negative_coefficient():
    """Return G (2, 2), two gradients such that (GGᵀ)⁻¹1 has a negative entry."""
    return jnp.array([[1.0, 0.0], [2.0, 1.0]])


def _wished(rng, size):
    G = rows(rng, size, ((1, 2), (2, 2), (2, 3), (3, 5), (3, 5)))
    target = rng.integers(1, 4, len(G)) if size < 3 else rng.uniform(0.2, 2, len(G))
    return G, jnp.asarray(np.append(target[:-1], target[-1] + 1), float)


@exercise(
    2, "Ask example $i$ for a decrease of $t_i$. With linearly independent gradients all of them can have it. Return "
    "the shortest step that does it.",
    ("G Δ = −t is a system with more unknowns than equations.",
     "The shortest solution lies in the span of the gradients: Δ = Gᵀv.",
     "GGᵀv = −t, so Δ = −Gᵀ(GGᵀ)⁻¹t. Or lstsq, which returns the shortest solution."),
    _wished,
    mistakes=lambda G, target: {
        "Ascent: every loss rises by as much as it should fall.": G.T @ jnp.linalg.solve(G @ G.T, target),
        "This asks all for the same, 1: where is the target?": -G.T @ jnp.linalg.solve(G @ G.T, jnp.ones(len(G))),
        "This is the gradient of a loss with weights t. A weight pushes an example; it does not say how far it gets.":
            -G.T @ target / len(G),
        "The gradients themselves were multiplied by t. Then a loss with a large tᵢ falls by less, 1/tᵢ.":
            -jnp.linalg.lstsq(target[:, None] * G, jnp.ones(len(G)))[0],
        "There is a 1/n too many: the equations are G Δ = −t, one for each example.":
            -G.T @ jnp.linalg.solve(G @ G.T, target) / len(G),
    },
    properties={
        "every loss falls by what was asked: G Δ = −t.":
            lambda answer, G, target: (G @ jnp.asarray(answer(G, target)), -target),
    },
)  # fmt: skip
def targeted(G, target):
    """Return the shortest Δ (p,) that lowers loss i by target[i]; G (n, p), n ≤ p."""
    return -G.T @ jnp.linalg.solve(G @ G.T, target)
