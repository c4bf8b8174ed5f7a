"""The ellipsoid: every step of one cost lies on ΔᵀCΔ = c. Which of them lowers the loss most?

A candidate step runs round the ellipse. The level line of the linear model through its tip cuts the ellipse, except
at one place, where it only touches: there stands the Lagrange step -√(c/ρ) C⁺g, and no candidate scores above it.
What it gains, against the budget c, has the slope λ: the multiplier is the price of c.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import PercentFormatter

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import spectrum
from efisher_teach.core.step import empirical_fisher_step
from efisher_teach.figures.scene import (
    CANDIDATE,
    CONSTRAINT,
    DESCENT,
    EMPIRICAL_FISHER,
    FAINT,
    TRUTH,
    WIDEST,
    Axis,
    Handle,
    Preset,
    Scene,
    arrow,
    changes,
    degrees,
    dots,
    gradients,
    key,
    label,
    line,
    look_at,
    panels,
)

ASPECT = 1.24  # width by height of the left panel
TURNS = np.arange(-180.0, 181.0)


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
    shape = getattr(problem.params, "shape", None)
    if shape != (2,):
        errors.reject("problem", "one with params of shape (2,)", f"shape {shape}", "E.g. breast_cancer(2).")
    return Scene(
        title="Beat Lagrange: every step on the ellipse has the same cost",
        axes=(Axis("turn", "turn the candidate", TURNS, 0.0, degrees),),
        data=look_at(problem, budget),
        background=background,
        respond=respond,
        draw=draw,
        words=WORDS,
        size=(10.0, 5.6),
        narrow=(4.8, 10.6),
        handles=(Handle("tip", ("turn",), "the tip of the candidate"),),
        presets=PRESETS,
    )  # fmt: skip


WORDS = (
    "Turned {turn} from the step along −g, the candidate makes {score:.1f} % of the best decrease: a mean loss "
    "change of {predicted:+.4f} to first order, {actual:+.4f} in truth. The Lagrange step makes {best_predicted:+.4f}, "
    "the step along −g {descent_score:.1f} % of it. All of them spend √c = {cost:.3f}; a little more c would lower the "
    "loss by λ = {price:.2f} times as much."
)
PRESETS = (
    Preset("Downhill", {"turn": 0.0}, "The steepest way down is not the best buy.",
           "Same cost, any direction: can another step lower the loss more?"),
    Preset("Uphill", {"turn": 180.0}, "The constraint is even: it allows this step too.",
           "Which sign of the multiplier leads here?"),
)  # fmt: skip


def background(data):
    """Contours of the loss about θ, and room for the widest ellipse."""
    _, V, eigenvalues, _ = _geometry(data)
    reach = _reach(V, eigenvalues)
    grid = jnp.linspace(-1, 1, 61)
    plane = jnp.stack(jnp.meshgrid(reach[0] * grid, reach[1] * grid), axis=-1).reshape(-1, 2)
    return {
        "reach": reach,
        "most": jnp.sqrt(WIDEST * _agreement(data)),
        "grid": grid,
        "loss": jax.vmap(lambda delta: jnp.mean(changes(data, delta)))(plane).reshape(61, 61),
    }


def respond(data, state):
    """The candidate's tip and score, and what stands still until the budget changes."""
    g, V, eigenvalues, G = _geometry(data)
    root = jnp.sqrt(eigenvalues)
    budget = data["budget"]
    length = jnp.sqrt(budget)
    best = empirical_fisher_step(G, budget=budget).delta
    descent = -g * jnp.sqrt(budget / jnp.mean(dot(G, g) ** 2))

    start = root * dot(V.T, descent) / length  # the gradient-descent step, where the ellipse is a unit circle

    def on_ellipse(degrees):
        angle = jnp.deg2rad(degrees)
        turned = jnp.stack([jnp.cos(angle) * start[0] - jnp.sin(angle) * start[1],
                            jnp.sin(angle) * start[0] + jnp.cos(angle) * start[1]])  # fmt: skip
        return length * dot(V, turned / root)

    tip = on_ellipse(state["turn"])
    around = jax.vmap(on_ellipse)(jnp.asarray(TURNS, g.dtype))
    most = dot(g, best)
    percent = 100 / most
    true_around = jax.vmap(lambda delta: jnp.mean(changes(data, delta)))(around)
    actual = jnp.mean(changes(data, tip))
    zero = jnp.zeros(2, g.dtype)
    price = -most / (2 * budget)  # of c: the multiplier of ΔᵀCΔ − c
    budgets = WIDEST * jnp.linspace(0, 1, 41) ** 2
    gains = jax.vmap(lambda c: -jnp.mean(changes(data, best * jnp.sqrt(c / budget))))(budgets)
    ends = jnp.array([0.0, WIDEST])
    return {
        "ellipse": around,
        "level": _chord(tip, jnp.stack([-g[1], g[0]]), _reach(V, eigenvalues)),
        "descent": jnp.stack([zero, descent]),
        "best": jnp.stack([zero, best]),
        "candidate": jnp.stack([zero, tip]),
        "tip": tip,
        "scores": jnp.stack([jnp.asarray(TURNS, g.dtype), percent * dot(around, g)], axis=-1),
        "true_scores": jnp.stack([jnp.asarray(TURNS, g.dtype), percent * true_around], axis=-1),
        "dot": jnp.stack([state["turn"], percent * dot(g, tip)]),
        "true_dot": jnp.stack([state["turn"], percent * actual]),
        "value": jnp.stack([budgets, jnp.sqrt(budgets / budget) * -most], axis=-1),
        "true_value": jnp.stack([budgets, gains], axis=-1),
        "tangent": jnp.stack([ends, -most + price * (ends - budget)], axis=-1),
        "paid": jnp.stack([budget + 0 * most, -most]),
        "score": percent * dot(g, tip),
        "predicted": dot(g, tip),
        "best_predicted": most,
        "actual": actual,
        "descent_score": percent * dot(g, descent),
        "price": price,
        "cost": jnp.sqrt(jnp.mean(dot(G, tip) ** 2)),
    }


def draw(figure, background, arrays):
    """The plane of the two parameters, the score all round the ellipse, and the value of the best step against c."""
    axes = panels(figure, "AAB;AAC", "A;A;B;B;C;C")
    plane, score, value = axes["A"], axes["B"], axes["C"]

    reach = background["reach"]
    plane.contour(
        reach[0] * background["grid"], reach[1] * background["grid"], background["loss"],
        levels=13, colors=FAINT, linewidths=0.9, linestyles="solid",
    )  # fmt: skip
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), aspect="equal")
    plane.set(xlabel="Δθ₁", ylabel="Δθ₂", title="Steps of equal cost, over contours of the loss")
    plane.plot(0, 0, "o", color=CONSTRAINT, ms=5)
    plane.annotate("θ", (0, 0), xytext=(-12, 4), textcoords="offset points")
    key(plane, "lower left", ("Lagrange step", EMPIRICAL_FISHER), ("along −g", DESCENT),
        ("candidate: drag it", CANDIDATE))  # fmt: skip

    score.axhline(100, color=EMPIRICAL_FISHER, lw=1)
    score.axhline(0, color=FAINT, lw=1)
    score.set(xlim=(-180, 180), ylim=(-165, 135), xlabel="turn from the step along −g")
    score.set_title("Decrease, in % of the best step's")
    score.set_xticks(range(-180, 181, 90), [f"{turn}°".replace("-", "−") for turn in range(-180, 181, 90)])
    score.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    label(score, -175, 105, "the Lagrange step", EMPIRICAL_FISHER, va="bottom")
    key(score, "lower right", ("first order", CONSTRAINT), ("true loss", TRUTH))

    value.set(xlim=(0, WIDEST), ylim=(0, 1.25 * background["most"]), xlabel="budget c")
    value.set_title("Decrease that c buys; slope λ")
    key(value, "lower right", ("first order, √(cρ)", EMPIRICAL_FISHER), ("true loss", TRUTH))

    return {
        "ellipse": line(plane, arrays["ellipse"], CONSTRAINT, 1.8),
        "level": line(plane, arrays["level"], CANDIDATE, 1.2, style=(0, (5, 3))),
        "descent": arrow(plane, arrays["descent"], DESCENT, order=1),
        "best": arrow(plane, arrays["best"], EMPIRICAL_FISHER, order=2),
        "candidate": arrow(plane, arrays["candidate"], CANDIDATE, order=3),
        "tip": dots(plane, arrays["tip"], CANDIDATE, 10, order=4),
        "scores": line(score, arrays["scores"], CONSTRAINT, 1.8),
        "true_scores": line(score, arrays["true_scores"], TRUTH, 1.8),
        "dot": dots(score, arrays["dot"], CANDIDATE, 10, order=3),
        "true_dot": dots(score, arrays["true_dot"], TRUTH, 8, order=2),
        "true_value": line(value, arrays["true_value"], TRUTH, 1.8),
        "value": line(value, arrays["value"], EMPIRICAL_FISHER),
        "tangent": line(value, arrays["tangent"], CONSTRAINT, 1.2, style=(0, (4, 2)), order=0.5),
        "paid": dots(value, arrays["paid"], EMPIRICAL_FISHER, 9, order=2),
    }


def _geometry(data):
    """g, and C = V diag(eigenvalues) Vᵀ, from the per-example gradients G."""
    G = gradients(data)
    eigenvalues, V, _ = spectrum(G)
    return mean_gradient(G), V, eigenvalues, G


def _agreement(data):
    """ρ = gᵀC⁺g."""
    return empirical_fisher_step(gradients(data), budget=WIDEST).agreement


def _reach(V, eigenvalues):
    """Half sides of the view: the widest ellipse's bounding box, with room about it."""
    half = jnp.sqrt(WIDEST * jnp.sum((V / jnp.sqrt(eigenvalues)) ** 2, axis=1))
    return 1.12 * jnp.maximum(half[1], half[0] / ASPECT) * jnp.array([ASPECT, 1.0])


def _chord(point, direction, reach):
    """The line through a point of the view, cut where it leaves the view: dashes start there, in every renderer."""
    times = jnp.sort((jnp.stack([-reach, reach]) - point) / direction, axis=0)
    return point + jnp.stack([jnp.max(times[0]), jnp.min(times[1])])[:, None] * direction
