"""Notebook 04: what ε solves, how it is scaled, what bounds a step and what does not, and how to choose ε."""

import jax.numpy as jnp
import numpy as np

import efisher_teach as ef
from efisher_teach.lessons.exercise import exercise, positive
from efisher_teach.lessons.question import ask

ask(
    "damping without end",
    "Keep the learning rate η fixed and let ε grow without end. Does −η (C + εI)⁻¹g become gradient descent?",
    "Yes.",
    "In direction yes, but its length goes to zero.",
    "No, it becomes −C⁺g.",
    because="In direction only. For large ε it is nearly −(η/ε) g: raising ε lowers the learning rate with it. "
    "To get gradient descent you must raise η in proportion; a fixed budget does that by itself. −C⁺g is the other "
    "end, ε → 0.",
    answer=2,
)
ask(
    "the held-out loss",
    "Thirty features, c = 0.01, and almost no damping, ε = 10⁻⁷. The step lowers the training loss. What does it do "
    "to the loss of the tumours that were held out?",
    "It lowers it by about as much.",
    "It lowers it by less.",
    "It raises it.",
    because="It raises it, by 0.0085. The step goes far where the training examples hardly mind, and nobody has asked "
    "the others. With ε = 10⁻³ it is an eighth as long, promises nine tenths as much, and lowers the held-out loss as "
    "well.",
    answer=3,
)
ask(
    "a whole run",
    "A linear regression without noise: one θ fits every example. Each step spends the same c, with a large damping, "
    "ε = 10. What does the loss do in the end?",
    "It falls to zero.",
    "It levels off, at a height that c decides.",
    "It falls, and then rises above where it began.",
    because="It falls, and then it explodes. Near the optimum all gradients vanish, and C with them, so a step must be "
    "long to change the losses by as much as before. ε turns the step towards −g, where it is hardly shorter.",
    answer=3,
)


@exercise(
    1, "A paper sums where we average: it solves $\\big(\\sum_i g_ig_i^\\top+\\varepsilon'I\\big)\\,u=\\sum_i g_i$. "
    "Which $\\varepsilon'$ gives our $u=(C+\\varepsilon I)^{-1}g$?",
    ("Multiply our equation by n on both sides.",
     "(nC + nεI) u = n g. What stands in the place of ε'?",
     "n times ε."),
    lambda rng, size: (positive(rng, 0.001, 1), int(rng.integers(2, 500))),
    mistakes=lambda damping, n: {
        "The same ε damps a sum n times less: ε was not scaled by n.": damping,
        "The other way round: that is our ε for a paper that has this one.": damping / n,
        "n once too often: both sides get one factor n.": n**2 * damping,
        "The root is for the rows of the least-squares form. In the matrix it is the whole factor.":
            np.sqrt(n) * damping,
    },
)  # fmt: skip
def damping_for_sums(damping, n):
    """Return the damping of a paper that sums over n examples, for our damping."""
    return n * damping


@exercise(
    1, "One example, $\\ell=\\theta^2/2$, and $\\Delta^\\top C\\Delta=c$ is enforced. How long is the damped step from "
    "$\\theta$?",
    ("There is one parameter: g is θ, and C is θ².",
     "CΔ² = c, whatever direction ε gives to the step.",
     "√c/|θ|: ε does not stand in it."),
    lambda rng, size: ((-1) ** size * positive(rng, 0.01, 2), positive(rng, 0.01, 2), positive(rng, 0.004, 0.05)),
    mistakes=lambda theta, damping, budget: {
        "This is the length for η = √c, which ε does bound. Enforcing c makes η grow until the budget is spent.":
            np.sqrt(budget) * abs(theta) / (theta**2 + damping),
        "ε is in the direction only: ΔᵀCΔ has no ε in it.": np.sqrt(budget / (theta**2 + damping)),
        "This is the change of the loss, √c. Divide it by the slope.": np.sqrt(budget),
        "The root is missing: the cost grows with the square of the step.": budget / theta**2,
        "This has the sign of the step. A length has none.": -np.sqrt(budget) / theta,
        "Divide by the slope, |θ|. This divides by its square, which is C.": np.sqrt(budget) / theta**2,
    },
    why="At $c=0.01$ and $\\theta=0.001$ the step is 100 long, for every $\\varepsilon$.",
)  # fmt: skip
def enforced_length(theta, damping, budget):
    """Return how long the step of this budget is, for the loss θ²/2."""
    return jnp.sqrt(budget) / jnp.abs(theta)


def _promises(G, unseen, dampings, budget):
    """Promises of each step to the unseen, (m,); in NumPy, as instances are drawn until one is clear."""
    G, unseen = np.asarray(G, float), np.asarray(unseen, float)
    C, g = G.T @ G / len(G), G.mean(axis=0)
    directions = [np.linalg.solve(C + damping * np.eye(len(g)), g) for damping in np.asarray(dampings, float)]
    return np.array([-np.sqrt(budget / np.mean((G @ u) ** 2)) * (unseen @ u).mean() for u in directions])


def _samples(rng, size):
    """Two samples of one population, such that the best damping is not the smallest, and clearly the best."""
    n, p = ((4, 2), (5, 3), (6, 5), (6, 5), (12, 10))[size]
    dampings = jnp.array([0.001, 0.01, 0.1, 1.0, 10.0])
    while True:
        mean, scale = rng.normal(0.5, 0.3, p), np.logspace(0, -1.5, p)
        G, unseen = (jnp.asarray(mean * scale + rng.normal(0, 1, (k, p)) * scale, float) for k in (n, 40))
        promises = _promises(G, unseen, dampings, 0.01)
        first, second = np.sort(promises)[:2]
        if np.argmin(promises) in (1, 2, 3) and first < 1.02 * second < 0:
            return G, unseen, dampings, 0.01


@exercise(
    2, "Choose $\\varepsilon$ by examples that $C$ has not seen. Every step costs $c$ on the rows of $G$; take the "
    "$\\varepsilon$ whose step promises the *unseen* examples the largest decrease of their mean loss.",
    ("For each ε: the step from G; then its first-order effect on the unseen mean loss.",
     "ef.damping_path(G, dampings, budget=budget).delta has one step a row.",
     "The promised change is delta @ unseen.mean(axis=0): take the damping where it is smallest."),
    _samples,
    parts=lambda G, unseen, dampings, budget: (
        dampings, _promises(G, G, dampings, budget), _promises(G, unseen, dampings, budget)),
    mistakes=lambda dampings, seen, unseen: {
        "Chosen by the examples that made the step: there the least damping always promises most.":
            dampings[np.argmin(seen)],
        "This is the place in the list. The damping itself is asked for.": np.argmin(unseen),
        "This is the one that promises least: a decrease is a negative change.": dampings[np.argmax(unseen)],
    },
)  # fmt: skip
def choose_damping(G, unseen, dampings, budget):
    """Return the best of dampings (m,), for rows G (n, p) and unseen rows (k, p)."""
    steps = ef.damping_path(G, dampings, budget=budget).delta
    return dampings[jnp.argmin(steps @ unseen.mean(axis=0))]


@exercise(
    2, "One example, $\\ell=\\theta^2/2$, fixed $\\eta$ and $\\varepsilon$: the update is "
    "$\\theta\\leftarrow\\theta-\\eta\\,\\theta/(\\theta^2+\\varepsilon)$. Does it settle at 0, if it starts nearby? "
    "Leave out the border case.",
    ("Close to 0, θ² is nothing beside ε. What is left of the update?",
     "θ is multiplied by 1 − η/ε. When does that shrink it?",
     "|1 − η/ε| < 1, that is, 0 < η < 2ε."),
    lambda rng, size: (0.1, [0.055, 0.3, 0.02, 0.045, 0.09][size]),
    mistakes=lambda learning_rate, damping: {
        "η < ε is safe but too strict: between ε and 2ε it swings about 0 and still settles.": learning_rate < damping,
        "The other way round: more damping is what lets it settle.": learning_rate > 2 * damping,
        "It does not always: with η ≥ 2ε the steps near 0 are too long.": True,
        "It can: enough damping makes the steps near 0 short.": False,
    },
    why="Near a minimum that fits every example, $C\\to0$: the damped update is gradient descent with the rate "
    "$\\eta/\\varepsilon$, and settles if this is below 2 over the largest eigenvalue of the Hessian, here 1. "
    "Undamped it never does: $\\theta\\leftarrow\\theta-\\eta/\\theta$.",
)  # fmt: skip
def settles(learning_rate, damping):
    """Return True if the damped update of θ²/2 settles at 0, else False."""
    return learning_rate < 2 * damping
