"""Notebook 02: the cost of a step, what it is a length of, its ellipse, and the orders of what it leaves out."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import TALL, WIDE, entries, exercise, positive, readable, rows
from efisher_teach.lessons.question import ask

ask(
    "twice as far",
    "To first order, a short step Δ changes the mean loss by gᵀΔ, and the mean square of the changes, E[Δℓ²], is ΔᵀCΔ. "
    "Both are a little wrong. Now the step is twice as long. By what factors do the two errors grow?",
    "Both by 2.",
    "Both by 4.",
    "The error of the mean by 4, that of the mean square by 8.",
    "The error of the mean by 4, that of the mean square by 16.",
    because="By 4 and by 8. Write the change of one loss as a + b: a = gᵢᵀΔ is of first order, and b is the rest, "
    "which grows as the length squared. So does its mean. In the square, (a + b)² = a² + 2ab + b², the largest error "
    "is 2ab: a grows as the length, b as its square, so 2ab grows as the cube.",
    answer=3,
)
ask(
    "other units",
    "One of two measurements is written in a smaller unit: its numbers become ten times as large and its parameter a "
    "tenth, so that the model predicts what it did before. A step Δ is rewritten in the same way. What stays the same?",
    "Its cost ΔᵀCΔ only.",
    "Its length ‖Δ‖ only.",
    "Both.",
    "Neither.",
    because="Its cost. It is counted in losses, and no loss notices the unit. The length changes: below, from 0.447 "
    "to 0.204. It adds up squares of numbers whose units were ours to choose.",
    answer=1,
)
ask(
    "a step for nothing",
    "A network with 2410 parameters sees 16 digits. Is there a step of length 1 that costs nothing, ΔᵀCΔ = 0?",
    "No: a step of length 1 must change something.",
    "Yes, but it changes these 16 losses a little, and those of other digits more.",
    "Yes, and it leaves these 16 losses as they are, though not those of other digits.",
    "Yes, and no digit's loss changes: the network has parameters to spare.",
    because="There are 2394 dimensions of such steps: everything at right angles to the 16 gradients. But they are "
    "free only to first order, and only for these 16 digits. The step below does change their losses, by 0.011 in root "
    "mean square, and those of all other digits by 0.109.",
    answer=2,
)


def _step(rng, size):
    """Gradients, and a step that changes the losses by more than a little, not all of them alike."""
    G = rows(rng, size)
    n, p = G.shape
    while True:
        delta = entries(rng, size, p)
        changes = np.asarray(G) @ delta
        if np.abs(changes.mean()) > 0.3 and (n == 1 or np.ptp(changes) > 0.3) and (delta != 0).all():
            return G, jnp.asarray(delta, float)


@exercise(
    1, "What does a step cost, to first order? Start from $G$, and do not form $C$: with a million parameters it "
    "would not fit into memory.",
    ("ΔᵀCΔ = ΔᵀGᵀGΔ/n. Where would you put the brackets?",
     "GΔ has one entry for each example: the change of its loss, to first order.",
     "The mean of their squares: `jnp.mean((G @ delta) ** 2)`."),
    _step,
    parts=lambda G, delta: (G @ delta, delta), mistakes=lambda changes, delta: {
        "The square is missing: this is the mean change. Changes up and down cancel in it.": jnp.mean(changes),
        "This is the square of the mean: you averaged before you squared, and ups and downs cancel in it.":
            jnp.mean(changes) ** 2,
        "1/n is missing: this is the sum over the examples.": jnp.sum(changes**2),
        "This is the root of what was asked: the root mean square change. The cost is the mean square.":
            jnp.sqrt(jnp.mean(changes**2)),
        "This is ‖Δ‖²: a length in parameters. It does not know what the step does to the losses.": delta @ delta,
        "This is the mean size of the changes. The cost is the mean of their squares.": jnp.mean(jnp.abs(changes)),
        "These are the changes, one for each example. The cost is one number: the mean of their squares.": changes,
        "The mean is missing: these are the squares, one for each example.": changes**2,
        "This is the variance: you took the mean out first. A change that all examples share costs something too.":
            jnp.var(changes),
        "Divided by the number of parameters: the mean is over the examples.": jnp.sum(changes**2) / len(delta),
    },
    properties={
        "a step twice as long costs four times as much.":
            lambda answer, G, delta: (answer(G, 2 * delta), 4 * np.asarray(answer(G, delta))),
        "the opposite step costs the same.": lambda answer, G, delta: (answer(G, -delta), answer(G, delta)),
    },
)  # fmt: skip
def cost_of_a_step(G, delta):
    """Return the number ΔᵀCΔ for gradients G (n, p) and a step delta (p,)."""
    return jnp.mean((G @ delta) ** 2)


def _is_root(B, G):
    G, B = np.asarray(G, float), readable(B, "any number", np.shape(G)[1])
    C = G.T @ G / len(G)
    axes = np.eye(len(C))
    steps = [*axes, *map(sum, combinations(axes, 2))]  # a quadratic form is known by these
    costs = np.array([[np.sum((B @ step) ** 2), step @ C @ step] for step in steps])
    worst = np.abs(costs[:, 0] - costs[:, 1]).argmax()
    wrong, right = costs[worst]
    fits = abs(wrong - right) < 2e-3 * np.abs(C).max()
    return (
        bool(fits)
        or f"for Δ = {steps[worst].astype(int).tolist()}, ‖BΔ‖² is {wrong:.4g}, and ΔᵀCΔ is {right:.4g}"
    )


@exercise(
    2, "Prove that no step has a negative cost: show that the cost is a squared length. Return a $B$ with $\\lVert "
    "B\\Delta\\rVert^2=\\Delta^\\top C\\,\\Delta$ for *every* $\\Delta$.",
    ("‖BΔ‖² = ΔᵀBᵀBΔ. So what must BᵀB be?",
     "BᵀB = C = GᵀG/n. You already have such a B, up to a factor.",
     "The factor is squared in BᵀB: `G / jnp.sqrt(len(G))`."),
    lambda rng, size: (rows(rng, size, TALL),),
    mistakes=lambda G: {
        "1/n is missing: ‖GΔ‖² is the sum of the squared changes, n times the cost.": G,
        "The factor is squared too: with B = G/n, ‖BΔ‖² is ‖GΔ‖²/n².": G / len(G),
        "‖CΔ‖² is ΔᵀC²Δ: C itself is squared. You want a B for which BᵀB is C.": G.T @ G / len(G),
        "This is L with LLᵀ = C. You want BᵀB = C: transpose it.": jnp.linalg.cholesky(G.T @ G / len(G)),
        "This is the root of each entry of C. You want a B with BᵀB = C, as a product of matrices.":
            jnp.sqrt(G.T @ G / len(G)),
    },
    accepts=_is_root,
    why="The cost is the squared length of $G\\Delta/\\sqrt n$, the list of all changes. It is 0 exactly when *no* "
    "loss changes, to first order. Every $B$ with $B^\\top B=C$ is right, for instance a transposed Cholesky factor.",
)  # fmt: skip
def as_a_length(G):
    """Return B (any number, p) with ‖BΔ‖² = ΔᵀCΔ for every Δ, for G (n, p)."""
    return G / jnp.sqrt(len(G))


def _ellipse(rng, size):
    while True:
        G = rows(rng, size, TALL)
        C = G.T @ G / len(G)
        values = np.linalg.eigvalsh(np.float64(C))
        diagonal = np.abs(np.asarray(C) - np.diag(np.diag(C))).max()
        if len(values) == 1 or (np.diff(values).min() > 0.2 * values[-1] and diagonal > 0.1 * values[-1]):
            return C, positive(rng, 0.004, 0.05)


@exercise(
    2, "The steps with $\\Delta^\\top C\\,\\Delta=c$ form an ellipse, in more dimensions an ellipsoid. How long are "
    "its semi-axes? The longest first.",
    ("They lie along the eigenvectors of C. What does a step of length s along one of them cost?",
     "It costs μs², for the eigenvalue μ. Which s makes this c?",
     "s = √(c/μ): the smallest eigenvalue has the longest axis. `jnp.linalg.eigvalsh` gives the smallest first."),
    _ellipse,
    parts=lambda C, c: (C, c, jnp.linalg.eigvalsh(C)), mistakes=lambda C, c, values: {
        "The root is missing: a step of length s costs μs², so s² = c/μ.": c / values,
        "Upside down: √(μ/c). Where μ is large, a step is dear, and the axis short.": jnp.sqrt(values / c),
        "Upside down, and sorted: √(μ/c). Where μ is large, a step is dear, and the axis short.":
            jnp.sqrt(values[::-1] / c),
        "√(cμ) is long where μ is large. It is the other way round: there a step is dear.": jnp.sqrt(c * values),
        "√(cμ), sorted: but it is long where μ is large. It is the other way round: there a step is dear.":
            jnp.sqrt(c * values[::-1]),
        "These are the right lengths, the shortest first.": jnp.sqrt(c / values)[::-1],
        "These are the whole axes, from end to end. A semi-axis is half of it.": 2 * jnp.sqrt(c / values),
        "This is where the ellipse meets the coordinate axes. Its own axes are the eigenvectors of C.":
            jnp.sqrt(c / jnp.diag(C)),
        "These are only the eigenvalues. Which length s has μs² = c?": values,
        "The root is taken of μ only. μs² = c gives s = √(c/μ).": c / jnp.sqrt(values),
    },
    properties={
        "four times the budget makes each axis twice as long.":
            lambda answer, C, budget: (answer(C, 4 * budget), 2 * np.asarray(answer(C, budget))),
    },
)  # fmt: skip
def semi_axes(C, budget):
    """Return the semi-axes (p,) of ΔᵀCΔ = budget, longest first, for C (p, p)."""
    return jnp.sqrt(budget / jnp.linalg.eigvalsh(C))


def _is_free(delta, G):
    G, delta = np.asarray(G, float), readable(delta, np.shape(G)[1])
    length = np.linalg.norm(delta)
    if length < 1e-6:
        return "it is zero, or nearly. That costs nothing, but it is no step"
    changes = G @ delta / (length * np.linalg.norm(G, axis=1).max())
    if np.abs(changes).max() < 1e-3:
        return True
    if np.abs(changes.mean()) < 1e-3:
        return "the mean loss does not change, but single losses do, up and down. GΔ must be 0 in each entry"
    return f"it changes the losses: GΔ = {(G @ delta).round(3).tolist()}"


@exercise(
    2, "Fewer examples than parameters, $n<p$. Find a step that costs nothing, and is not zero.",
    ("The cost is the mean of the squares of GΔ. When is it 0?",
     "Every row of G must be at right angles to Δ: Δ is in the null space of G. The singular value decomposition "
     "has a basis of it.",
     "`U, s, Vt = jnp.linalg.svd(G)`: the rows of Vt after the first n are free. Take the last."),
    lambda rng, size: (rows(rng, size, WIDE),),
    mistakes=lambda G: {
        "This is the dearest direction: the first row of Vt belongs to the largest singular value. Take the last.":
            jnp.linalg.svd(G)[2][0],
        "`full_matrices=False` keeps only the n directions that do cost something. Leave it out.":
            jnp.linalg.svd(G, full_matrices=False)[2][-1],
        "This is a column of Vt. The singular vectors are its rows.": jnp.linalg.svd(G)[2][:, -1],
    },
    accepts=_is_free,
    why="It is free to first order, and for *these* $n$ examples; the others have not been asked. In a linear "
    "model with one output it is free to every order, if no $g_i$ is 0: then each $g_i$ is a multiple of $x_i$, so no "
    "prediction moves. A network is not linear in $\\theta$, so there the losses do change, at second order.",
)  # fmt: skip
def free_direction(G):
    """Return a step (p,) that is not zero and costs nothing, for G (n, p), n < p."""
    return jnp.linalg.svd(G)[2][-1]


def _power(rng, size):
    """Errors that are a power of the scale, with a factor before it, and scales that do not all halve."""
    count, order = ((2, 2), (3, 3), (4, 1), (5, 4), (6, 1.5))[size]
    scales = np.cumprod([rng.choice([0.8, 0.5]), *rng.choice([0.1, 0.2, 0.4, 0.5, 0.6], count - 1)])
    return jnp.asarray(scales, float), jnp.asarray(positive(rng, 1.5, 9) * scales**order, float)


def _slope(x, y):
    x = x - x.mean()
    return x @ y / (x @ x)


@exercise(
    2, "Some errors are of order $k$: at the scale $s$ they are proportional to $s^k$. Find $k$ from scales and "
    "errors.",
    ("Take the logarithm of a constant times sᵏ. What is this in a plot against log s?",
     "A line: k is its slope, and the constant only moves it up or down.",
     "The slope between the first and the last: `jnp.log(errors[-1] / errors[0]) / jnp.log(scales[-1] / scales[0])`."),
    _power,
    parts=lambda x, y: (x, y, jnp.log(x), jnp.log(y)), mistakes=lambda x, y, log_x, log_y: {
        "This is a slope, but not in logarithms: it depends on the unit of the errors.": _slope(x, y),
        "Upside down: this is 1/k, the logarithm of the scale against that of the error.": _slope(log_y, log_x),
        "Only the errors are in logarithms. Then a power of s is no straight line.": _slope(x, log_y),
        "Only the scales are in logarithms. Then a power of s is no straight line.": _slope(log_x, y),
        "The sign is wrong: errors that shrink with the scale have a positive order.": -_slope(log_x, log_y),
        "The logarithms' ratio is not their slope: it depends on the unit of the errors. Take differences first.":
            jnp.mean(log_y / log_x),
        "This is right only where each scale is half of the one before. Divide by the logarithm of the scales' ratio.":
            jnp.mean(jnp.log2(y[:-1] / y[1:])),
        "This is by how much an error shrinks from one scale to the next. Take its logarithm, and that of the scales.":
            jnp.mean(y[:-1] / y[1:]),
    },
    properties={
        "errors in another unit have the same order.":
            lambda answer, scales, errors: (answer(scales, 7 * errors), answer(scales, errors)),
    },
)  # fmt: skip
def order_of(scales, errors):
    """Return the number k for which errors (m,) grow as scales (m,) to the power k."""
    return jnp.polyfit(jnp.log(scales), jnp.log(errors), 1)[0]


def _least_squares(rng, size):
    """A step with something left out of both means, and nothing that cancels by chance."""
    n, p = ((1, 1), (2, 1), (2, 2), (4, 3), (6, 2))[size]
    while True:
        theta, X, y, delta = (entries(rng, size, *shape) for shape in ((p,), (n, p), (n,), (p,)))
        delta = delta / 2
        first, rest = _terms(theta, X, y, delta)
        kept, left = abs(np.mean(first)), abs(np.mean(first * rest))
        if kept > 0.1 and left > 0.1 * np.mean(rest**2) and abs(np.mean(2 * first * rest + rest**2)) > 0.1:
            return tuple(jnp.asarray(part, float) for part in (theta, X, y, delta))


def _terms(theta, X, y, delta):
    """Split each change into the part that is linear in the step, a, and the rest, b."""
    return (X @ theta - y) * (X @ delta), (X @ delta) ** 2 / 2


@exercise(
    3, "For least squares, $\\ell_i=\\tfrac12(y_i-x_i^\\top\\theta)^2$, Taylor's series ends after two terms, so you "
    "can say *exactly* what first order leaves out of the mean, $\\mathbb E[\\Delta\\ell]-g^\\top\\Delta$, and of the "
    "mean square, $\\mathbb E[\\Delta\\ell^2]-\\Delta^\\top C\\,\\Delta$. Of which order is each term?",
    ("Expand ½(y − xᵀθ − xᵀΔ)². Which term is linear in Δ, and what is left?",
     "a = (xᵀθ − y)·xᵀΔ is linear, b = (xᵀΔ)²/2 is left. Now square the whole change, a + b.",
     "Left out are the mean of b, and the mean of 2ab + b²."),
    _least_squares,
    parts=_terms, mistakes=lambda a, b: {
        "The ½ of the loss is missing in what is left: b = (xᵀΔ)²/2.": (2 * b.mean(), jnp.mean(4 * a * b + 4 * b**2)),
        "The cross term is missing: (a + b)² = a² + 2ab + b², and 2ab is the larger one for a short step.":
            (b.mean(), jnp.mean(b**2)),
        "This is the leading term, of third order. b², of fourth order, belongs to the whole too.":
            (b.mean(), jnp.mean(2 * a * b)),
        "The 2 is missing in the cross term: (a + b)² = a² + 2ab + b².": (b.mean(), jnp.mean(a * b + b**2)),
        "1/n is missing: both are means over the examples, not sums.": (b.sum(), jnp.sum(2 * a * b + b**2)),
        "The linear part has the wrong sign: the gradient is (xᵀθ − y)x.": (b.mean(), jnp.mean(-2 * a * b + b**2)),
        "This is the whole change, and its mean square. What first order says of them is not taken off.":
            (jnp.mean(a + b), jnp.mean((a + b) ** 2)),
        "You averaged before you squared: E[Δℓ²] is the mean of the squares, not the square of the mean.":
            (b.mean(), jnp.mean(a + b) ** 2 - jnp.mean(a) ** 2),
    },
    why="$b$ is of second order, and so is its mean; $2ab$ is of third order, $b^2$ of fourth. The Hessian "
    "$x_ix_i^\\top$ stands in $b$ only. What is kept, $\\mathbb E[a^2]$, is of second order, and has no second "
    "derivative in it.",
)  # fmt: skip
def left_out(theta, X, y, delta):
    """Return what first order leaves out of (E[Δℓ], E[Δℓ²]) for the step delta (p,)."""
    first, rest = (X @ theta - y) * (X @ delta), (X @ delta) ** 2 / 2
    return rest.mean(), jnp.mean(2 * first * rest + rest**2)
