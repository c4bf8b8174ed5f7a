"""Notebook 04: what ε solves, how it is scaled, how long a step can be, and how to choose it."""

import jax.numpy as jnp
import numpy as np

import efisher_teach as ef
from efisher_teach.lessons.exercise import direction, exercise, positive, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "damping without end",
    "Keep the learning rate η fixed and let ε grow without end. Does −η (C + εI)⁻¹g become gradient descent?",
    "Yes.",
    "In direction yes, but its length goes to zero.",
    "No, it becomes −C⁺g.",
    because="In direction only. For large ε it is nearly −(η/ε) g: raising ε lowers the learning rate with it. "
    "To get gradient descent one has to raise η in proportion; a fixed budget does that by itself. −C⁺g is the other "
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


def _damped(rng, size):
    return rows(rng, size), positive(rng, 0.02, 0.5), positive(rng, 0.02, 0.5)


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
    2, "The damped step as ridge regression: use `jnp.linalg.lstsq` only, with neither $C$ nor $g$.",
    ("n rows ask for a decrease of η each, p rows ask the step to stay at 0.",
     "The objective is a mean over the examples and a sum over the parameters. Multiply all by n: what stands "
     "before ‖Δ‖²?",
     "Stack G on √(nε) I, and n times −η on p zeros."),
    _damped,
    parts=lambda G, damping, eta: (G, damping, eta, len(G)), mistakes=lambda G, damping, eta, n: {
        "Ascent: each example is asked for an increase of η. The wish is −η.": eta * direction(G, damping),
        "ε was not scaled by n: n rows stand for a sum, so the penalty needs nε.": -eta * direction(G, damping / n),
        "The root of ε is missing: least squares squares its rows.": -eta * direction(G, n * damping**2),
        "√n ε instead of √(nε): only n is under the root.": -eta * direction(G, damping**2),
        "There is no damping in it: this is the least-squares step at ε = 0.": -eta * jnp.linalg.pinv(G) @ jnp.ones(n),
        "Each example is asked for a decrease of 1: η is missing.": -direction(G, damping),
    },
)  # fmt: skip
def ridge_step(G, damping, learning_rate):
    """Return −η (C + εI)⁻¹g (p,), for G (n, p), by least squares."""
    n, p = G.shape
    wish = jnp.concatenate([-learning_rate * jnp.ones(n), jnp.zeros(p)])
    return jnp.linalg.lstsq(jnp.vstack([G, jnp.sqrt(n * damping) * jnp.eye(p)]), wish)[0]


def _parts(G, damping, budget):
    u = direction(G, damping)
    return G, G.mean(axis=0), budget, u, jnp.mean((G @ u) ** 2)


@exercise(
    2, "With damping, $\\eta=\\sqrt{c/\\rho}$ spends too little. Find the $\\eta$ for which the damped step costs "
    "*exactly* $c$.",
    ("Take the direction u = (C + εI)⁻¹g. What does −ηu cost?",
     "η² uᵀCu = c. Without C: uᵀCu is the mean of the squares of G u.",
     "η = √(c / mean((G u)²)); or, with gᵀu − ε‖u‖² for uᵀCu."),
    lambda rng, size: (*_damped(rng, size)[:2], positive(rng, 0.004, 0.05)),
    parts=_parts, mistakes=lambda G, g, c, u, cost: {
        "This is √(c/gᵀu): it spends c in the metric C + εI, and less than c in losses.": jnp.sqrt(c / (g @ u)),
        "This is the undamped rate √(c/ρ): the damped direction costs less, so it may go further.":
            jnp.sqrt(c / (jnp.linalg.pinv(G) @ jnp.ones(len(G)) @ g)),
        "The root is missing: the cost grows with η².": c / cost,
        "Upside down: a larger budget must give a larger η.": jnp.sqrt(cost / c),
        "1/n is missing: the cost is the mean of the squares, not their sum.": jnp.sqrt(c / jnp.sum((G @ u) ** 2)),
        "This makes the step √c long. The budget is of losses, not of length.": jnp.sqrt(c) / jnp.linalg.norm(u),
    },
    why="The two forms agree because $C=(C+\\varepsilon I)-\\varepsilon I$, so $u^\\top Cu=g^\\top "
    "u-\\varepsilon\\lVert u\\rVert^2$.",
)  # fmt: skip
def exact_rate(G, damping, budget):
    """Return η such that −η (C + εI)⁻¹g costs the budget, for G (n, p)."""
    u = jnp.linalg.solve(G.T @ G / len(G) + damping * jnp.eye(G.shape[1]), G.mean(axis=0))
    return jnp.sqrt(budget / jnp.mean((G @ u) ** 2))


def _promises(G, unseen, dampings, budget):
    """Promises of each step to the unseen, (m,); in NumPy, as instances are drawn until one is clear."""
    G, unseen = np.asarray(G, float), np.asarray(unseen, float)
    C, g = G.T @ G / len(G), G.mean(axis=0)
    directions = [np.linalg.solve(C + damping * np.eye(len(g)), g) for damping in np.asarray(dampings, float)]
    return np.array([-np.sqrt(budget / np.mean((G @ u) ** 2)) * (unseen @ u).mean() for u in directions])


def _samples(rng, size):
    """Two samples of one population, such that the best damping is not the smallest, and clearly the best."""
    n, p = ((4, 2), (5, 3), (6, 5), (9, 8), (12, 10))[size]
    dampings = jnp.array([0.001, 0.01, 0.1, 1.0, 10.0])
    while True:
        mean, scale = rng.normal(0.5, 0.3, p), np.logspace(0, -1.5, p)
        G, unseen = (jnp.asarray(mean * scale + rng.normal(0, 1, (k, p)) * scale, float) for k in (n, 40))
        promises = _promises(G, unseen, dampings, 0.01)
        first, second = np.sort(promises)[:2]
        if np.argmin(promises) in (1, 2, 3) and first < 1.02 * second < 0:
            return G, unseen, dampings, 0.01


@exercise(
    2, "Choose $\\varepsilon$ as one should: by examples that $C$ has not seen. Every step costs $c$ on the rows of "
    "$G$; take the $\\varepsilon$ whose step promises the largest decrease of the mean loss of the *unseen* examples.",
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
    """Return the best of dampings (m,) for unseen gradients (k, p), where each step costs the budget on G (n, p)."""
    steps = ef.damping_path(G, dampings, budget=budget).delta
    return dampings[jnp.argmin(steps @ unseen.mean(axis=0))]


@exercise(
    2, "One example, $\\ell=\\theta^2/2$, fixed $\\eta$ and $\\varepsilon$: the update is "
    "$\\theta\\leftarrow\\theta-\\eta\\,\\theta/(\\theta^2+\\varepsilon)$. Does it settle at 0, if it starts nearby?",
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
    why="Near an interpolating minimum $C\\to0$, and the damped update is gradient descent with the rate "
    "$\\eta/\\varepsilon$: it settles if $\\eta<2\\varepsilon/\\mu_{\\max}$, with the largest "
    "eigenvalue of the Hessian, here 1. Undamped it never does: $\\theta\\leftarrow\\theta-\\eta/\\theta$.",
)  # fmt: skip
def settles(learning_rate, damping):
    """Return True if the damped update of θ²/2 settles at 0, else False."""
    return learning_rate < 2 * damping


def _longest(g, damping, learning_rate):
    g, bound = readable(g, "p"), learning_rate / (2 * np.sqrt(damping))
    length = learning_rate * np.linalg.norm(g) / (g @ g + damping)
    return bool(length > 0.999 * bound) or f"the step is {length:.4g} long, the bound is {bound:.4g}"


@exercise(
    3, "No step is longer than $\\eta/(2\\sqrt\\varepsilon)$. Show that the bound is reached: give the gradient $g$ "
    "of a single example whose damped step $-\\eta\\,g/(\\lVert g\\rVert^2+\\varepsilon)$ is exactly that long.",
    ("Write s = ‖g‖. The step is η s/(s² + ε) long: which s makes it longest?",
     "The derivative by s vanishes where s² = ε.",
     "Any g with ‖g‖ = √ε, such as one number."),
    lambda rng, size: (positive(rng, 0.001, 1), positive(rng, 0.01, 1)),
    accepts=_longest,
    why="For many examples with orthogonal gradients the same happens at $\\lVert "
    "g_i\\rVert=\\sqrt{n\\varepsilon}$: damping chooses which gradient length has the most to say. Smaller "
    "ones are filtered out, larger ones decay like $1/\\lVert g_i\\rVert$.",
)  # fmt: skip
def longest_step(damping, learning_rate):
    """Return a gradient g (p,) of a single example whose damped step reaches the bound."""
    return jnp.array([jnp.sqrt(damping)])
