"""Notebook 07: the empirical Fisher, the Fisher and the Hessian, when they agree, and what each of them is for."""

import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.exercise import exercise, readable, weighted
from efisher_teach.lessons.question import ask

ask(
    "one loss, two halves",
    "The loss of an example is a chain: parameters, logit, probability, loss. A Gauss-Newton matrix cuts the chain, "
    "linearises the part before the cut, and keeps the curvature of the part after it. Cut at the logit, and the "
    "matrix is the Fisher. What is it if you cut at the probability?",
    "The Fisher again: it is the same loss.",
    "The Hessian: a cut nearer to the loss leaves out less.",
    "The empirical Fisher.",
    "Zero: nothing bends after the cut.",
    because="The empirical Fisher. After the cut comes −log q, with the second derivative 1/q². And ∇q∇qᵀ/q² is ∇ℓ∇ℓᵀ, "
    "as ∇ℓ = −∇q/q. Cuts in between give every mixture of the two. So being a Gauss-Newton matrix says little.",
    answer=3,
)
ask(
    "the longest ellipse",
    "A line is fitted to data, so θ is near the optimum. The model assumes noise of standard deviation 1; in the data "
    "it is ½. For each matrix M, the steps with ΔᵀMΔ = 1 form an ellipse. Which ellipse is the longest?",
    "None: near the optimum the three matrices agree.",
    "That of the empirical Fisher.",
    "That of the Fisher.",
    "That of the Hessian.",
    because="That of the empirical Fisher, twice as long as the others. C is a quarter of the Fisher here, in every "
    "direction: at every x the residuals, whose squares make C, are half as large as the model expects. So −C⁻¹g is "
    "four times as long as the natural gradient. At the optimum, and with many examples, the three agree if the model "
    "is right, its noise included.",
    answer=2,
)
ask(
    "a slope that is wrong",
    "Another line, for data with positive x only. Its intercept is right, but its slope is 4.5 and should be 2. Where "
    "does −C⁻¹g point?",
    "It lowers the slope and nothing else: straight at the optimum.",
    "Nearly along −g: with 1000 examples C is a good metric.",
    "It moves the intercept, which was right, and hardly touches the slope.",
    because="It moves the intercept: nearly at a right angle to the way to the optimum, and even slightly back. The "
    "cosine with the natural gradient is −0.150. Following it takes a path of 6.35, where 2.51 would do. The text "
    "below the figure says why.",
    answer=3,
)
ask(
    "subtract the mean",
    "The covariance of the gradients is Σ = C − ggᵀ: the mean is subtracted first. What happens to the step if Σ "
    "takes the place of C?",
    "It turns towards the natural gradient: noise is what the Fisher measures.",
    "It turns, the more the larger g is beside the noise.",
    "It gets longer, and keeps its direction.",
    "It gets shorter, and keeps its direction.",
    because="It keeps its direction, for any ε, and gets longer by the factor 1 + gᵀ(Σ + εI)⁻¹g: here by 3.54, without "
    "damping. With the same budget c it is the same step.",
    answer=3,
)


def _residuals(rng, size):
    n, p = ((3, 2), (4, 2), (4, 2), (7, 3), (7, 3))[size]
    X = np.column_stack([np.ones(n), rng.normal(0, 1, (n, p - 1))]).round(1)
    y = rng.normal(0, 2, n)
    return jnp.asarray(X, float), jnp.asarray(y - X @ np.linalg.lstsq(X, y)[0], float)


def _gap(X, weights, n):
    return np.trace(np.linalg.solve(weighted(X, weights**0), weighted(X, weights))) / n


@exercise(
    1, "A linear regression at its best fit. By Takeuchi's $\\mathrm{tr}(H^{-1}C)/n$, estimate how much more loss it "
    "will have on new data.",
    ("The loss of an example is δ²/2, with a residual δ that is linear in θ. What are its gradient and its second "
     "derivative?",
     "The gradient is δ times x, up to the sign; so C is the mean of δ²xxᵀ. The second derivative is xxᵀ.",
     "H = X.T @ X / n, C = (X.T * residuals**2) @ X / n, and the trace of jnp.linalg.solve(H, C), divided by n."),
    _residuals,
    parts=lambda X, r: (np.asarray(X), np.asarray(r), len(X)), mistakes=lambda X, r, n: {
        "This is p/n: it would be the gap if C were H, with residuals of size 1.": X.shape[1] / n,
        "The division by n is missing: the more examples, the smaller the gap.": _gap(X, r**2, 1),
        "Upside down: more noise makes a larger gap, so C belongs in the numerator.":
            np.trace(np.linalg.solve(weighted(X, r**2), weighted(X, r**0))) / n,
        "H is missing: without it the gap would depend on the units of x.": np.trace(weighted(X, r**2)) / n,
        "The trace of the product is not the product of the traces.":
            np.trace(weighted(X, r**2)) / np.trace(weighted(X, r**0)) / n,
        "C has the squares of the residuals in it.": _gap(X, np.abs(r), n),
        "This is half of it: the loss of the fit is too low by as much as that of new data is too high.":
            _gap(X, r**2, n) / 2,
        "One of the two is a sum and the other a mean: both H and C have their 1/n.": _gap(X, r**2, n) / n,
    },
    properties={
        "residuals three times as large, and the gap is nine times as large.":
            lambda answer, X, r: (answer(X, 3 * r), 9 * answer(X, r)),
    },
)  # fmt: skip
def generalisation_gap(X, residuals):
    """Return the gap, for inputs X (n, p) and residuals (n,) of the best fit."""
    H = X.T @ X / len(X)
    C = (X.T * residuals**2) @ X / len(X)
    return jnp.trace(jnp.linalg.solve(H, C)) / len(X)


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
    """Four snippets, as found in the wild, for a classifier. `gradients(y)` has one row for each example.

```python
draws = [gradients(model.sample(x)) for _ in range(100)]
M1 = sum(G.T @ G / n for G in draws) / 100
M2 = sum(jnp.outer(row, row) for row in gradients(y)) / n
M3 = jnp.outer(gradients(y).mean(axis=0), gradients(y).mean(axis=0))
M4 = jax.jacfwd(jax.grad(mean_loss))(theta)
```

Name each `"empirical Fisher"`, `"Fisher"`, `"Hessian"` or `"none of them"`.""",
    ("Ask each one: which labels do you look at? Is anything averaged before it is squared?",
     "M1 draws its labels, a hundred times over. M3 averages first: what rank does that give?",
     "M1: labels of the model. M2: observed labels. M3: g gᵀ, of rank 1. M4: the derivative of a derivative."),
    mistakes=lambda: {
        "M1 and M2 the other way round: M1 draws its labels from the model, M2 takes those that were observed.":
            KINDS | {"M1": "empirical Fisher", "M2": "Fisher"},
        "M1 is not the empirical Fisher: its labels come from the model. Drawing samples does not make it empirical.":
            KINDS | {"M1": "empirical Fisher"},
        "M2 is not the Fisher: its labels were observed. (Many programs call it that.)": KINDS | {"M2": "Fisher"},
        "M3 is not the empirical Fisher: the mean of squares is not the square of the mean.":
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
    3, "Make it fail. Give data for a linear regression with two parameters, so that at $\\theta=0$ the undamped "
    "empirical-Fisher step goes *away* from the optimum. Two examples are enough.",
    ("At θ = 0 the residuals are y. With two examples both steps solve a system: what do they want of each prediction?",
     "The natural gradient moves each prediction xᵀθ by y, the empirical Fisher by 1/y: equal decreases of y²/2.",
     "Two examples that are alike in x, one with a small y, the other with a large one: x = (1, 0) and (1, 1)."),
    accepts=_turns_away,
    why="The optimum is $(1,2)$: the first prediction should rise by 1, the second by 3. Equal decreases ask the "
    "second for only ⅓ as much as the first, so the slope has to fall.",
)  # fmt: skip
def turn_away():
    """Return X (n, 2), y (n,) such that −C⁻¹g leads away from the optimum, at θ = 0."""
    return jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([1.0, 3.0])
