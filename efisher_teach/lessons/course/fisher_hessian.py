"""Notebook 07: the empirical Fisher, the Fisher and the Hessian, and what the difference does to the step."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import (
    TALL,
    chance,
    exercise,
    logistic,
    positive,
    readable,
    rows,
    weighted,
)
from efisher_teach.lessons.question import ask

ask(
    "the longest ellipse",
    "A line has been fitted to data: θ is nearly at the optimum. The model believes in noise of size 1; the data have "
    "only half as much. For each matrix M the steps with ΔᵀMΔ = 1 form an ellipse. Which ellipse is the longest?",
    "None: near the optimum the three matrices agree.",
    "That of the empirical Fisher.",
    "That of the Fisher.",
    "That of the Hessian.",
    because="That of the empirical Fisher, twice as long as the others. C is 0.25 times the Fisher here, in every "
    "direction: the residuals, whose squares make C, are half as large as the model believes, at every x. So −C⁻¹g is "
    "four times as long as the natural gradient. At the optimum the three agree only if the model is right, its noise "
    "included.",
    answer=2,
)
ask(
    "a slope that is wrong",
    "Another line, for data in which no x is negative. Its intercept is right, but its slope is 4.5 and should be 2. "
    "In which direction does −C⁻¹g start?",
    "It lowers the slope and nothing else: straight to the optimum.",
    "Nearly along −g: with 1000 examples C is a good metric.",
    "It moves the intercept, which was right, and hardly touches the slope.",
    because="It moves the intercept, nearly at a right angle to where the optimum is, and even a bit away from it: "
    "the cosine with the natural gradient is −0.150. Whoever follows it walks 6.35 far, where 2.51 would do. "
    "The text below the figure says why.",
    answer=3,
)
ask(
    "subtract the mean",
    "The covariance of the gradients is Σ = C − ggᵀ: the mean is subtracted first. What happens to the step if Σ "
    "takes the place of C?",
    "It turns towards the natural gradient: noise is what the Fisher measures.",
    "It turns, by how much g stands out of the noise.",
    "It gets longer, and keeps its direction.",
    "It gets shorter, and keeps its direction.",
    because="It keeps its direction, for any ε, and gets longer by the factor 1 + gᵀ(Σ + εI)⁻¹g: here by 3.54 without "
    "damping. With the same budget c it is the same step. There is one trap, the pseudo-inverse: if the gradients are "
    "linearly independent, and so ρ = 1, then Σ⁺g is orthogonal to C⁺g.",
    answer=3,
)


def _slopes(rng, size):
    n = (2, 2, 3, 5, 8)[size]
    while True:
        slopes = rng.integers(-4, 5, n) if size < 3 else rng.normal(0.5, 1.5, n).round(2)
        if np.abs(slopes).min() > 0.2 and np.abs(slopes.mean()) > 0.3 and slopes.std() > 0.5:
            return (jnp.asarray(slopes, float),)


@exercise(
    1, "One parameter. From the $n$ derivatives of the losses, compute the undamped empirical-Fisher step with "
    "$\\eta=1$.",
    ("C is a number here, and so is g. Which ones?",
     "g is the mean of the derivatives, C the mean of their squares.",
     "−g/C. The two 1/n cancel: minus the sum, over the sum of the squares."),
    _slopes,
    parts=lambda slopes: (slopes, slopes.mean(), jnp.mean(slopes**2)), mistakes=lambda slopes, g, C: {
        "This is −1/g. C is the mean of the squares, not the square of the mean.": -1 / g,
        "This is the mean of the steps of the single examples. Take the means first, then divide.":
            -jnp.mean(1 / slopes),
        "Ascent: the step must go against the gradient.": g / C,
        "n times too long: the mean of the squares, but the sum of the derivatives.": -len(slopes) * g / C,
        "n times too short: the mean of the derivatives, but the sum of the squares.": -g / C / len(slopes),
        "Centred: this is divided by the variance. C is the uncentred mean square.": -g / jnp.var(slopes),
        "With a root, as in Adam: C itself stands below the line.": -g / jnp.sqrt(C),
    },
    properties={
        "all derivatives ten times as large, and the step is ten times shorter.":
            lambda answer, slopes: (10 * answer(10 * slopes), answer(slopes)),
    },
)  # fmt: skip
def step_in_one_dimension(slopes):
    """Return the step, a number, for the derivatives (n,) of the losses."""
    return -slopes.sum() / jnp.sum(slopes**2)


@exercise(
    1, "A linear regression near its optimum, with many examples. The model believes in noise of size 1; the data have "
    "noise of size $\\sigma$ that does not depend on $x$. How many times $F$ is $C$? And how many times as long as the "
    "natural gradient $F^{-1}g$ is $C^{-1}g$?",
    ("C is the mean of r²xxᵀ, F that of xxᵀ. How large is r² at the optimum?",
     "r² is σ² on average, whatever x is, so the mean of C is σ²F.",
     "And the inverse of a matrix that is σ² times as large is 1/σ² times as large."),
    lambda rng, size: ((0.5, 2.0, 0.1, positive(rng, 0.2, 0.8), positive(rng, 1.5, 5))[size],),
    mistakes=lambda sigma: {
        "Residuals enter C squared: with noise of half the size C is a quarter.": (sigma, 1 / sigma),
        "Upside down: cleaner data have smaller residuals, smaller gradients and a smaller C.":
            (1 / sigma**2, sigma**2),
        "C is right. The step has the inverse of it: a small matrix makes a long step.": (sigma**2, sigma**2),
        "C is right, but its inverse is 1/σ² times as large, not 1/σ.": (sigma**2, 1 / sigma),
        "They would agree if the model knew σ. It does not: its F is the mean of xxᵀ, whatever the noise is.":
            (1.0, 1.0),
    },
    why="A model that knows its noise has the loss $r^2/2\\sigma^2$: then the two agree.",
)  # fmt: skip
def noise_ratio(sigma):
    """Return (how many times F is C, how many times as long as F⁻¹g is C⁻¹g)."""
    return sigma**2, 1 / sigma**2


@exercise(
    2, "The Fisher of logistic regression, without sampling: for each $x_i$ the expectation over the labels that the "
    "*model* believes in. Mind what you do with `y`.",
    ("The gradient of an example is (q − y)x. What is the mean of its square over y = 1, with probability q, and y "
     "= 0?",
     "q(q − 1)² + (1 − q)q² can be written shorter.",
     "It is q(1 − q). So F is the mean of q(1 − q)xxᵀ, and y does not occur."),
    logistic,
    parts=lambda theta, X, y: (X, chance(theta, X), y), mistakes=lambda X, p, y: {
        "These are the observed labels: you computed the empirical Fisher. The Fisher does not look at y.":
            weighted(X, (p - y) ** 2),
        "1/n is missing: this is the sum over the examples.": len(X) * weighted(X, p * (1 - p)),
        "q(1 − q) must not be squared: it is the mean square of q − y already.": weighted(X, (p * (1 - p)) ** 2),
        "These are the labels the model finds likeliest. The Fisher takes the mean over both labels.":
            weighted(X, jnp.minimum(p, 1 - p) ** 2),
        "The weight is q. It must be q(1 − q), the same for both labels.": weighted(X, p),
        "The weight is q²: that is the gradient as if each y were 0.": weighted(X, p**2),
        "This is the standard deviation of the label; the weight is its variance.": weighted(X, jnp.sqrt(p * (1 - p))),
        "This is one number, the mean of q(1 − q). Each xxᵀ has that weight.": jnp.mean(p * (1 - p)),
        "This is the mean of xxᵀ: the Fisher of linear regression.": X.T @ X / len(X),
    },
    properties={
        "with all labels turned over it is the same matrix.":
            lambda answer, theta, X, y: (answer(theta, X, 1 - y), answer(theta, X, y)),
    },
)  # fmt: skip
def logistic_fisher(theta, X, y):
    """Return F (p, p) at theta (p,), for inputs X (n, p) and observed labels y (n,)."""
    q = 1 / (1 + jnp.exp(-X @ theta))
    return (X.T * q * (1 - q)) @ X / len(X)


KINDS = {"M1": "Fisher", "M2": "empirical Fisher", "M3": "none of them", "M4": "Hessian"}


def _sorted(got):
    if not isinstance(got, dict) or {*got} != {*KINDS}:
        return "a dictionary with 'M1', 'M2', 'M3' and 'M4' is expected"
    if unknown := [kind for kind in got.values() if kind not in KINDS.values()]:
        return f"{unknown[0]!r} is not one of: {', '.join(map(repr, sorted(KINDS.values())))}"
    right = sum(got[name] == kind for name, kind in KINDS.items())
    return True if right == len(KINDS) else f"{right} of the 4 are right"


@exercise(
    2,
    """Four snippets, as found in the wild, for a network that classifies. `gradients(y)` has one row for each example.

```python
draws = [gradients(model.sample(x)) for _ in range(100)]
M1 = sum(G.T @ G / n for G in draws) / 100
M2 = sum(jnp.outer(row, row) for row in gradients(y)) / n
M3 = jnp.outer(gradients(y).mean(axis=0), gradients(y).mean(axis=0))
M4 = jax.jacfwd(jax.grad(mean_loss))(theta)
```

Name each `"empirical Fisher"`, `"Fisher"`, `"Hessian"` or `"none of them"`.""",
    ("Ask each one: which labels do you look at? Is anything averaged before it is squared?",
     "M1 draws its labels, a hundred times over. M3 averages first: of what rank is that?",
     "M1: labels of the model. M2: observed labels. M3: g gᵀ, of rank 1. M4: the derivative of a derivative."),
    mistakes=lambda: {
        "M1 and M2 the other way round: M1 draws its labels from the model, M2 takes those that were observed.":
            KINDS | {"M1": "empirical Fisher", "M2": "Fisher"},
        "M1 is no empirical Fisher: the model makes its labels. To draw samples does not make a matrix empirical.":
            KINDS | {"M1": "empirical Fisher"},
        "M2 is no Fisher: its labels were observed. Many programs call it so.": KINDS | {"M2": "Fisher"},
        "M3 is no empirical Fisher: the mean of squares is not the square of the mean.":
            KINDS | {"M3": "empirical Fisher"},
        "M2 and M3 the other way round: M3 squares the mean, M2 averages the squares.":
            KINDS | {"M2": "none of them", "M3": "empirical Fisher"},
        "M3 is no Hessian: it has only first derivatives, and rank 1.": KINDS | {"M3": "Hessian"},
        "M4 is the second derivative of the mean loss. For a curved model that is not the Fisher.":
            KINDS | {"M4": "Fisher"},
    },
    accepts=_sorted,
)  # fmt: skip
def which_is_which():
    """Return {"M1": …, "M2": …, "M3": …, "M4": …}."""
    return {"M1": "Fisher", "M2": "empirical Fisher", "M3": "none of them", "M4": "Hessian"}


def _centred(rng, size):
    G = rows(rng, size, TALL)
    return jnp.cov(G, rowvar=False, bias=True).reshape(G.shape[1], -1), G.mean(axis=0), positive(rng, 0.1, 2)


def _s(Sigma, g, damping):
    return g @ jnp.linalg.solve(Sigma + damping * jnp.eye(len(g)), g)


@exercise(
    2, "*Subtract the mean*, as a formula: how many times as long as $(C+\\varepsilon I)^{-1}g$ is "
    "$(\\Sigma+\\varepsilon I)^{-1}g$? You have $\\Sigma=C-gg^\\top$, and no $C$.",
    ("Call u = (Σ + εI)⁻¹g, and let C + εI = Σ + εI + ggᵀ act on it.",
     "(C + εI)u = g + g(gᵀu): a multiple of g.",
     "So u = (1 + gᵀu)·(C + εI)⁻¹g."),
    _centred,
    parts=lambda *given: (*given, _s(*given)), mistakes=lambda Sigma, g, damping, s: {
        "The 1 is missing: (C + εI)u = g + g(gᵀu).": s,
        "Upside down: the centred matrix is the smaller one, so its step is the longer one.": 1 / (1 + s),
        "The sign: C is Σ + ggᵀ, so the factor is 1 + s.": 1 - s,
        "The damping is missing.": 1 + _s(Sigma, g, 0),
        "A root too many: the step itself is 1 + s times as long.": jnp.sqrt(1 + s),
        "The inverse is missing: s = gᵀ(Σ + εI)⁻¹g.": 1 + g @ (Sigma + damping * jnp.eye(len(g))) @ g,
    },
    properties={
        "with very much damping the mean does not matter.":
            lambda answer, Sigma, g, damping: (answer(Sigma, g, 1e6), 1),
    },
)  # fmt: skip
def longer_when_centred(Sigma, g, damping):
    """Return ‖(Σ + εI)⁻¹g‖ / ‖(C + εI)⁻¹g‖, for Sigma (p, p), g (p,) and ε."""
    return 1 + g @ jnp.linalg.solve(Sigma + damping * jnp.eye(len(g)), g)


def _turns_away(got):
    if not isinstance(got, tuple | list) or len(got) != 2:
        return "two things are expected: X, y"
    X = readable(got[0], "n", 2)
    y = readable(got[1], len(X))
    G = -y[:, None] * X
    for M, name in ((X, "F"), (G, "C")):
        singular = np.linalg.svd(M, compute_uv=False)
        if singular[-1] < 1e-4 * singular[0]:
            return f"{name} is singular"
    natural = np.linalg.lstsq(X, y, rcond=None)[0]
    step = -np.linalg.lstsq(G, np.ones(len(y)), rcond=None)[0]
    if np.linalg.norm(natural) < 1e-6:
        return "θ = 0 is the optimum already"
    cosine = natural @ step / np.linalg.norm(natural) / np.linalg.norm(step)
    away = f"the optimum is at {natural.round(2)}, the step goes along {step.round(2)}: the cosine is {cosine:+.3f}"
    return True if cosine < -0.01 else f"{away}, and should be negative"


@exercise(
    3, "Make it fail. Give the data of a linear regression with two parameters, such that at $\\theta=0$ the undamped "
    "empirical-Fisher step goes *away* from the optimum. Two examples are enough.",
    ("At θ = 0 the residuals are y. With two examples both steps solve a system: what do they want of each prediction?",
     "The natural gradient moves each prediction xᵀθ by y, the empirical Fisher by 1/y: equal decreases of y²/2.",
     "Two examples that are alike in x, one with a small y, the other with a large one: x = (1, 0) and (1, 1)."),
    accepts=_turns_away,
    why="The optimum is $(1,2)$: both predictions should rise, the second by 3. Equal decreases want it to rise by ⅓ "
    "only, less than the first by 1, so the slope has to fall. To first order both losses fall all the same. "
    "Angles depend on the coordinates (notebook 05): where $F$ measures them, this one is less than a right angle.",
)  # fmt: skip
def turn_away():
    """Return X (n, 2), y (n,) such that −C⁻¹g leads away from the optimum, at θ = 0."""
    return jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([1.0, 3.0])
