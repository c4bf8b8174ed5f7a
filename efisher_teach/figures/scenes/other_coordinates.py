"""Charts: one step taken in two coordinate systems, θ and ψ, by the empirical Fisher and by gradient descent.

In each plane, what is taken there is solid, and what is taken in the other and carried over is dashed. The empirical
Fisher's two steps part only as η² (the chart is curved) and where ε is felt (it is Euclidean in its own chart).
Gradient descent follows the perpendicular of the contours in each plane, and these are two different directions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core import coordinates
from efisher_teach.core.problems import Problem, mean_loss
from efisher_teach.core.two_charts import descent_gap, gaps, smallest_eigenvalue, start_of, trajectory
from efisher_teach.figures import chart_planes
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER
from efisher_teach.figures.marks import Mark, arrow, contours, dots, key, line, set_up
from efisher_teach.figures.plane import grid_of, numbers, over, require_two_parameters, while_inside
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

RATES = np.logspace(np.log10(0.003), np.log10(0.3), 31)
DAMPINGS = np.logspace(-6, 0, 25)
STEPS = 6  # of a trajectory
PIECES = 8  # of the curve that a step taken in one chart is in the other
ASPECT = 0.9  # width by height of the views
GAPS = (0.1, 1e3)  # per cent: what the third panel shows
DASHES = (4, 2.5)
CHARTS = {  # what the two numbers of a chart are called
    "affine": ("ψ₁", "ψ₂"),
    "exp": ("ψ₁ = log θ₁", "ψ₂ = log θ₂"),
    "square": ("ψ₁ = √θ₁", "ψ₂ = √θ₂"),
    "polar": ("radius", "angle"),
    "logit": ("ψ₁ = logit θ₁", "ψ₂ = logit θ₂"),
}


def _flow(panel: str, name: str, other: str, color: str) -> dict[str, Mark]:
    """One method in one panel: its first step is an arrow; taken in the other chart it is dashed."""
    return {
        f"{name}_path": dots(panel, color, 5),
        f"{name}_path{other}": line(panel, color, 1.3, dashes=DASHES),
        name: arrow(panel, color),
        f"{name}{other}": line(panel, color, 2.5, dashes=DASHES),
    }


MARKS = {
    "restored": line("C", EMPIRICAL_FISHER, 1.3, dashes=DASHES),
    "by_rate": line("C", EMPIRICAL_FISHER),
    **_flow("A", "descent", "_there", DESCENT),
    **_flow("B", "chart_descent", "_here", DESCENT),
    "by_rate_dot": dots("C", EMPIRICAL_FISHER, 9),
    "descent_dot": dots("C", DESCENT, 7),
    **_flow("A", "step", "_there", EMPIRICAL_FISHER),
    **_flow("B", "chart_step", "_here", EMPIRICAL_FISHER),
}


def other_coordinates(problem: Problem, chart: str = "polar") -> Scene:
    """Take the same step in θ and in ψ, where θ = φ(ψ), for a problem with two parameters.

    Gradient descent is as expensive as the undamped empirical Fisher in either chart: E[Δℓ²] = η²ρ to first order.

    Args:
        problem: With `params` of shape (2,), inside the chart.
        chart: "affine" (scale and shear), "exp", "square" and "logit" (each parameter by itself), or "polar".

    Returns:
        A `Scene` with the axes "learning_rate", η from 0.003 to 0.3, and "damping", ε from 1e-6 to 1.

    Raises:
        ValueError: params is not (2,), or outside the chart; an unknown chart.

    Examples:
        >>> scene = ef.scenes.other_coordinates(ef.breast_cancer()._replace(params=jnp.array([1.0, 2.0])), "exp")
        >>> print(scene.presets[0].asks)
        Which of the two methods depends more on how you write the parameters?
    """
    errors.one_of("chart", chart, tuple(CHARTS))
    require_two_parameters(problem)
    params, chosen = jnp.asarray(problem.params, float), chart_planes.named(chart)
    return Scene(
        title=f"The same step in any coordinates: {chart}",
        axes=(
            Axis("learning_rate", "learning rate η", RATES, 0.1, lambda value: f"{value:.3g}", 6),
            Axis("damping", "damping ε", DAMPINGS, 1e-6, scientific, 6),
        ),
        data={
            "problem": problem._replace(params=params),
            "psi": coordinates.enter(chosen, params),
            "chart": chosen,
        },
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC", "A;B;C"),
        labels={"chart": chart},
        words=f"θ and ψ ({chart}): {WORDS}",
        size=(10.0, 4.0),
        narrow=(4.8, 12.0),
        presets=PRESETS,
    )


WORDS = (
    "at η = {learning_rate} and ε = {damping} the empirical Fisher's two steps end {gap:.2f} % of their length apart, "
    "those of gradient descent, for the same cost, {descent_gap:.1f} %. ε leaks {leak:.2f} % (the gap to first "
    "order). The smallest eigenvalue of C in either chart is {smallest:.5f}: an ε far below it leaks next to "
    "nothing."
)
PRESETS = (
    Preset("One direction", {"learning_rate": 0.1, "damping": 1e-6}, "Both steps of C set out in the same direction.",
           "Which of the two methods depends more on how you write the parameters?"),
    Preset("The chart bends", {"learning_rate": 0.3, "damping": 1e-6}, "A long step feels the curvature of φ.",
           "Halve η: by how much does the distance between the two ends shrink?"),
    Preset("ε leaks", {"learning_rate": 0.1, "damping": 0.3},
           "εI penalises length in each chart: two different penalties.",
           "What must you add to JᵀCJ instead of εI?"),
)  # fmt: skip


def background(data):
    """Views about the steps in both planes, contours of the loss in them, and the gap of gradient descent."""
    problem, chart, psi = data["problem"], data["chart"], data["psi"]
    start = start_of(problem, chart, psi)
    gap = jax.vmap(partial(descent_gap, start))(jnp.asarray(RATES, psi.dtype))
    found = {"descent_gap": jnp.clip(gap, *GAPS)}
    views = chart_planes.views(problem, chart, psi, RATES[-1], ASPECT)
    charts = ("", coordinates.identity, problem.params), ("chart_", chart, psi)
    for (name, of, middle), (low, high) in zip(charts, views, strict=True):
        x, y = jnp.linspace(low, high, 49, axis=-1)
        loss = jax.vmap(jax.vmap(lambda at, of=of: mean_loss(problem, of.forward(at))))(grid_of(x, y))
        found |= {f"{name}start": middle, f"{name}x": x, f"{name}y": y, f"{name}loss": loss}
    return found


def respond(data, state):
    """First steps and trajectories in both planes, and the gap between the two against η."""
    rate, damping = state["learning_rate"], state["damping"]
    problem, chart, psi = data["problem"], data["chart"], data["psi"]
    views = chart_planes.views(problem, chart, psi, RATES[-1], ASPECT)
    limits, chart_limits = (view + (view - view[::-1]) / 4 for view in views)  # a little beside the view
    found = {}
    for name, descent in (("step", False), ("descent", True)):
        settings = {"rate": rate, "damping": jnp.zeros_like(rate) if descent else damping}
        walk = partial(trajectory, problem, **settings, steps=STEPS, descent=descent)
        here, there = walk(coordinates.identity, problem.params), walk(chart, psi)
        bent = while_inside(jax.vmap(chart.forward)(chart_planes.bent(there, PIECES)), limits)
        chart_bent = while_inside(jax.vmap(chart.inverse)(chart_planes.bent(here, PIECES)), chart_limits)
        sides = (
            (name, "_there", here, bent, limits),
            (f"chart_{name}", "_here", there, chart_bent, chart_limits),
        )
        for flow, other, path, carried, view in sides:
            own = jnp.clip(path, *view)
            found |= {flow: own[:2], f"{flow}_path": own[2:]}
            found |= {f"{flow}{other}": carried[: PIECES + 1], f"{flow}_path{other}": carried[PIECES:]}
    rates, start = jnp.asarray(RATES, rate.dtype), start_of(problem, chart, psi)
    by_rate = jax.vmap(lambda rate: gaps(start, rate, damping))(rates)
    now, now_descent = gaps(start, rate, damping), descent_gap(start, rate)
    return found | {
        **over(rates, GAPS, by_rate=by_rate.gap, restored=by_rate.restored),
        **over(rate, GAPS, by_rate_dot=now.gap, descent_dot=now_descent),
        **numbers(gap=now.gap, descent_gap=now_descent, leak=now.leak),
        "smallest": smallest_eigenvalue(start),
    }


def still(panels, background):
    """θ and ψ side by side, and beside them what is left between the two steps."""
    (here, there, by_rate), chart = (panels[letter] for letter in "ABC"), background["chart"]
    for panel, name in ((here, ""), (there, "chart_")):
        x, y = background[name + "x"], background[name + "y"]
        contours(panel, (x, y), background[name + "loss"], 15)
        panel.set(xlim=x[[0, -1]], ylim=y[[0, -1]], aspect="equal")
        panel.plot(*background[name + "start"], "o", color=CONSTRAINT, ms=5)
    here.set(xlabel="θ₁", ylabel="θ₂", title="θ: dashed is taken in ψ")
    there.set(xlabel=CHARTS[chart][0], ylabel=CHARTS[chart][1], title=f"ψ ({chart}): dashed is taken in θ")
    key(here, "lower right", ("empirical Fisher", EMPIRICAL_FISHER), ("gradient descent", DESCENT))

    set_up(by_rate, log="xy", xlim=(RATES[0] / 1.1, RATES[-1] * 1.1), ylim=(GAPS[0] / 2, GAPS[1]))
    by_rate.set(xlabel="learning rate η", title="Gap between the two ends")
    by_rate.set_xticks([0.01, 0.1], ["0.01", "0.1"])
    by_rate.set_yticks([0.1, 1, 10, 100], ["0.1 %", "1 %", "10 %", "100 %"])
    by_rate.plot(RATES, background["descent_gap"], color=DESCENT, lw=2)
    key(by_rate, "upper left", ("if ε leaks, dashed: εJᵀJ", EMPIRICAL_FISHER))
