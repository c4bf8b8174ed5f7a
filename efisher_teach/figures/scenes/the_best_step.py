"""The ellipsoid: every step of one cost lies on ΔᵀCΔ = c. Which of them lowers the loss most?

A candidate step runs round the ellipse. The level line of the linear model through its tip cuts the ellipse, except
at one place, where it only touches: there stands the Lagrange step -√(c/ρ) C⁺g, and no candidate scores above it.
What it gains, against the budget c, has the slope λ: the multiplier is the value of one more unit of c.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import PercentFormatter

from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import spectrum
from efisher_teach.core.step import empirical_fisher_step, step_along
from efisher_teach.figures import plane
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, TRUTH
from efisher_teach.figures.marks import arrow, centre, contours_of, dots, key, label, line
from efisher_teach.figures.plane import WIDEST, fit, from_origin, gradients, mean_changes, over, points
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, degrees

ASPECT = 1.24  # width by height of the left panel
TURNS = np.arange(-180.0, 181.0)
MARKS = {
    "ellipse": line("A", CONSTRAINT, 1.8),
    "level": line("A", CANDIDATE, 1.2, dashes=(5, 3)),
    "descent": arrow("A", DESCENT),
    "best": arrow("A", EMPIRICAL_FISHER),
    "candidate": arrow("A", CANDIDATE),
    "tip": dots("A", CANDIDATE, 10),
    "scores": line("B", CONSTRAINT, 1.8),
    "true_scores": line("B", TRUTH, 1.8),
    "true_dot": dots("B", TRUTH, 8),
    "dot": dots("B", CANDIDATE, 10),
    "true_value": line("C", TRUTH, 1.8),
    "value": line("C", EMPIRICAL_FISHER),
    "tangent": line("C", CONSTRAINT, 1.2, dashes=(4, 2)),
    "spent": dots("C", EMPIRICAL_FISHER, 9),
}


def the_best_step(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Try to beat Lagrange: a candidate step on the ellipse ΔᵀCΔ = c of a problem with two parameters.

    Args:
        problem: With `params` of shape (2,).
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axis "turn": degrees round the (whitened) ellipse from the step along -g.

    Raises:
        ValueError: params is not (2,); budget out of range.

    Examples:
        >>> scene = ef.scenes.the_best_step(ef.breast_cancer())
        >>> print(scene.title)
        Beat Lagrange: every step on the ellipse has the same cost
        >>> print(scene.presets[0].asks)
        Same cost, any direction: can another step lower the loss more?
    """
    plane.require_two_parameters(problem)
    return Scene(
        title="Beat Lagrange: every step on the ellipse has the same cost",
        axes=(Axis("turn", "turn the candidate", TURNS, 0.0, degrees),),
        data=plane.sample_of(problem, budget),
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;B;C;C"),
        words=WORDS,
        size=(10.0, 5.6),
        narrow=(4.8, 10.6),
        handles=(Handle("tip", ("turn",), "the tip of the candidate"),),
        presets=PRESETS,
    )


WORDS = (
    "Turned {turn} from the step along −g, the candidate gets {score:.1f} % of the best decrease: it changes the mean "
    "loss by {predicted:+.4f} to first order, by {actual:+.4f} in truth. The Lagrange step changes it by "
    "{best_predicted:+.4f}; the step along −g gets {descent_score:.1f} % of that. All of them cost c = {cost:.2g}; "
    "the next bit of c would lower the loss by λ = {multiplier:.2f} times that bit."
)
PRESETS = (
    Preset("Downhill", {"turn": 0.0}, "The steepest way down is not the best buy.",
           "Same cost, any direction: can another step lower the loss more?"),
    Preset("Uphill", {"turn": 180.0}, "The constraint is even: it allows this step too.",
           "Which sign of the multiplier leads here?"),
)  # fmt: skip


def background(data):
    """Contours of the loss about θ, and room for the widest ellipse."""
    G = gradients(data["problem"])
    reach = _reach(spectrum(G))
    return {
        "reach": reach,
        "most": -dot(mean_gradient(G), empirical_fisher_step(G, budget=WIDEST).delta),
        **plane.landscape(partial(mean_changes, data["problem"]), reach),
    }


def respond(data, state):
    """The tip and the score of the candidate, and what stands still until the budget changes."""
    problem, budget, G = data["problem"], data["budget"], gradients(data["problem"])
    g, factors = mean_gradient(G), spectrum(G)
    best, descent = empirical_fisher_step(G, budget=budget).delta, step_along(G, -g, budget)
    tip, turns = _turned(factors, descent, budget, state["turn"]), jnp.asarray(TURNS, g.dtype)
    around = jax.vmap(partial(_turned, factors, descent, budget))(turns)
    predicted, actual, most = dot(g, tip), mean_changes(problem, tip), dot(g, best)
    percent, value = 100 / most, -most / (2 * budget)  # of c: the multiplier of ΔᵀCΔ − c
    budgets, ends = WIDEST * jnp.linspace(0, 1, 41) ** 2, jnp.array([0.0, WIDEST])
    gains = -mean_changes(problem, best * jnp.sqrt(budgets / budget)[:, None])
    return {
        "ellipse": around,
        "level": _chord(tip, jnp.stack([-g[1], g[0]]), _reach(factors)),
        **from_origin(descent=descent, best=best, candidate=tip),
        "tip": tip,
        **over(turns, scores=percent * dot(around, g), true_scores=percent * mean_changes(problem, around)),
        **over(state["turn"], dot=percent * predicted, true_dot=percent * actual),
        **over(budgets, value=jnp.sqrt(budgets / budget) * -most, true_value=gains),
        "tangent": points(ends, -most + value * (ends - budget)),
        "spent": points(budget, -most),
        **plane.numbers(score=percent * predicted, descent_score=percent * dot(g, descent)),
        **plane.numbers(predicted=predicted, best_predicted=most, actual=actual),
        **plane.numbers(multiplier=value, cost=jnp.mean(dot(G, tip) ** 2)),
    }


def still(panels, background):
    """The plane of the two parameters, the score all round the ellipse, and the value of the best step against c."""
    plane, score, value = (panels[letter] for letter in "ABC")
    contours_of(plane, background, 13)
    centre(plane, background["reach"], ASPECT, xlabel="Δ₁", ylabel="Δ₂")
    plane.set_title("Steps of equal cost, over contours of the loss")
    plane.annotate("θ", (0, 0), xytext=(-12, 4), textcoords="offset points")
    steps = ("Lagrange step", EMPIRICAL_FISHER), ("along −g", DESCENT), ("candidate: drag it", CANDIDATE)
    key(plane, "lower left", *steps)

    score.axhline(100, color=EMPIRICAL_FISHER, lw=1)
    score.axhline(0, color=FAINT, lw=1)
    score.set(xlim=(-180, 180), ylim=(-195, 135), xlabel="turn from the step along −g")
    score.set_title("Decrease, in % of the best step's")
    score.set_xticks(range(-180, 181, 90), [degrees(turn) for turn in range(-180, 181, 90)])
    score.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    label(score, -175, 105, "the Lagrange step", EMPIRICAL_FISHER, va="bottom")
    key(score, "lower left", ("first order", CONSTRAINT))
    key(score, "lower right", ("true loss", TRUTH))

    value.set(xlim=(0, WIDEST), ylim=(0, 1.25 * background["most"]), xlabel="budget c")
    value.set_title("Decrease that c buys; slope λ")
    key(value, "lower right", ("first order, √(cρ)", EMPIRICAL_FISHER), ("true loss", TRUTH))


def _turned(factors, start, budget, degrees):
    """The step of that cost at an angle from another, counter-clockwise, counted where the ellipse is a circle."""
    root, V, length = jnp.sqrt(factors.eigenvalues), factors.parameter_vectors, jnp.sqrt(budget)
    x, y = root * dot(V.T, start) / length
    side = V[0, 0] * V[1, 1] - V[0, 1] * V[1, 0]  # −1 where V mirrors the plane
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), side * jnp.sin(jnp.deg2rad(degrees))
    return length * dot(V, points(cos * x - sin * y, sin * x + cos * y) / root)


def _reach(factors):
    """Half sides of the view: the bounding box of the widest ellipse, with room about it."""
    whitened = factors.parameter_vectors / jnp.sqrt(factors.eigenvalues)
    half = jnp.sqrt(WIDEST * jnp.sum(whitened**2, axis=1))
    return fit(half, ASPECT, 1.12)


def _chord(point, direction, reach):
    """The line through a point of the view, cut where it leaves the view: dashes start there, in every renderer."""
    times = jnp.sort((jnp.stack([-reach, reach]) - point) / direction, axis=0)
    return point + jnp.stack([jnp.max(times[0]), jnp.min(times[1])])[:, None] * direction
