"""A whole run: what holds the step back, a constant η or an enforced c? Three runs from the same first step.

Near an optimum that all examples share the gradients vanish, and C with their square. Who enforces ΔᵀCΔ = c then
takes ever longer steps, whatever ε is, until the run explodes; a radius bounds them. Who keeps η takes ever shorter
ones, if ε is large enough. How much of the promised decrease comes tells whether it is, and steers ε.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from efisher_teach.core.gradients import mean_gradient, per_example_gradients
from efisher_teach.core.matrices import hessian
from efisher_teach.core.problems import Problem, mean_loss
from efisher_teach.core.solve import quotient
from efisher_teach.core.step import empirical_fisher_step
from efisher_teach.core.two_by_two import solve_two_by_two
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, OTHER, TRUTH
from efisher_teach.figures.marks import centre, contours_of, dots, key, label, line, set_up
from efisher_teach.figures.plane import gradients, no_farther, numbers, over
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific
from efisher_teach.network.update import make_update

BUDGETS = np.logspace(-2.5, -1, 7)
NO_RADIUS = 1e6
RADII = np.array([*0.02 * 2.0 ** np.arange(7), NO_RADIUS])
DAMPINGS = np.logspace(-3, 1, 5)
STEPS, LAST = 80, 10  # of a run, and those whose promise is compared with what came
CONVERGED = 1e-6  # of the first loss
SHOWN = 1e-9, 1e8  # of the first loss: what lies beyond is drawn at the border
MARKS = {
    "steered": line("A", CONSTRAINT, 1.6, dashes=(4, 2)),
    "constant": dots("A", OTHER, 4),
    "path": line("A", EMPIRICAL_FISHER, 1.4),
    "steered_loss": line("B", CONSTRAINT, 1.8, dashes=(4, 2)),
    "constant_loss": dots("B", OTHER, 4),
    "loss": line("B", EMPIRICAL_FISHER, 1.8),
    "end": dots("A", EMPIRICAL_FISHER, 9),
    "turn": dots("B", CANDIDATE, 9),
    "ends": dots("B", EMPIRICAL_FISHER, 9),
}


def a_whole_run(problem: Problem) -> Scene:
    """Drag c, r and ε: a run of 80 steps converges, stalls or explodes.

    Args:
        problem: With `params` of shape (2,), where the runs start; best with a loss that can reach 0 for all examples.

    Returns:
        A `Scene` with the axes "budget", "radius" (the last is none) and "damping".

    Raises:
        ValueError: params is not (2,).

    Examples:
        >>> scene = ef.scenes.a_whole_run(ef.linear_regression(n=16, noise=1e-6, seed=5))
        >>> print(scene.presets[0].asks)
        Will a larger ε stop it?
    """
    view.require_two_parameters(problem)
    return Scene(
        title="A whole run: it converges, stalls or explodes",
        axes=(
            Axis("budget", "budget c", BUDGETS, BUDGETS[3], scientific),
            Axis("radius", "radius r", RADII, NO_RADIUS, lambda r: f"{r:g}" if r < NO_RADIUS else "none"),
            Axis("damping", "damping ε", DAMPINGS, 1.0, lambda value: f"{value:g}"),
        ),
        data={"problem": problem},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AB", "A;B"),
        words=WORDS,
        size=(10.0, 4.9),
        narrow=(4.8, 9.2),
        presets=PRESETS,
    )


WORDS = (
    "With c = {budget} enforced, r = {radius} and ε = {damping} the loss falls to {least:.2g} of the first, turns at "
    "step {turned:.0f}, rises to {highest:.2g} times the first and ends at {last:.2g}. The longest step is "
    "{longest:.2g} long. At the turn the true decrease is {worst:.2g} times the promised one; over the last ten steps "
    "that ratio is {ratio:.2g}. With η kept at its first value, {rate:.2g}, the run ends at {constant_last:.2g}, and "
    "no step is longer than {constant_longest:.2g} (bound η/(2√ε) = {bound:.2g}); with ε steered, it ends at "
    "{steered_last:.2g}. A run above 1 explodes, below 10⁻⁶ converges (10⁻⁹: or less), else stalls."
)
PRESETS = (
    Preset("Enforced", {"budget": BUDGETS[3], "radius": NO_RADIUS, "damping": 1.0},
           "Down, and up again: near the optimum C shrinks, and the same c buys ever longer steps.",
           "Will a larger ε stop it?"),
    Preset("A radius", {"budget": BUDGETS[3], "radius": 0.08, "damping": 1.0},
           "No step is longer than r: the run stays near the optimum, and comes no nearer.",
           "If r is halved, what becomes of the loss at the end?"),
    Preset("Constant η", {"budget": BUDGETS[3], "radius": NO_RADIUS, "damping": 0.01},
           "The dotted run keeps η. Now ε bounds its steps, but too little: it stalls.",
           "How large must ε be for it to settle?"),
)  # fmt: skip


def background(data):
    """Contours of the loss about its optimum, and the first loss."""
    problem = data["problem"]
    (optimum, reach), loss = _frame(problem), partial(mean_loss, problem)
    found = {"reach": reach, "first": loss(problem.params), "start": problem.params - optimum}
    return found | view.landscape(loss, reach, optimum)


def respond(data, state):
    """Three runs: c enforced within r, a constant η, and that with a steered ε."""
    problem, damping = data["problem"], state["damping"]
    first, (optimum, reach) = mean_loss(problem, problem.params), _frame(problem)
    enforced = {"budget": state["budget"], "radius": state["radius"]}
    step = empirical_fisher_step(gradients(problem), damping=damping, budget=state["budget"])
    constant = {"learning_rate": step.learning_rate}
    path, loss, report = _run(problem, damping, **enforced)
    constant_path, constant_loss, constant_report = _run(problem, damping, **constant)
    steered_path, steered_loss, _ = _run(problem, damping, **constant, steer=0.5, accept=0.0)
    count, rises = jnp.arange(STEPS + 1, dtype=loss.dtype), loss[1:] > loss[:-1]
    turn = jnp.where(jnp.any(rises), jnp.argmax(rises), STEPS)
    losses = loss, constant_loss, steered_loss
    loss, constant_loss, steered_loss = (jnp.clip(each / first, *SHOWN) for each in losses)
    decreases = report.actual_decrease, report.predicted_decrease
    came, promised = (jnp.sum(jnp.asarray(each)[-LAST:]) for each in decreases)
    paths = {"path": path, "constant": constant_path, "steered": steered_path}
    away = {name: each - optimum + 1e-9 for name, each in paths.items()}  # the optimum has a direction, too
    return {
        **{name: no_farther(each, 3 * reach[0]) for name, each in away.items()},
        "end": view.inside(path[-1] - optimum, reach[0]),
        **over(count, loss=loss, constant_loss=constant_loss, steered_loss=steered_loss),
        **over(count[turn], turn=loss[turn]),
        **over(count[-1], ends=loss[-1]),
        **numbers(turned=turn, least=loss[turn], highest=jnp.max(jnp.where(count >= turn, loss, 0))),
        **numbers(last=loss[-1], constant_last=constant_loss[-1], steered_last=steered_loss[-1]),
        **numbers(longest=jnp.max(report.length), constant_longest=jnp.max(constant_report.length)),
        **numbers(worst=report.ratio[turn], ratio=quotient(came, promised), rate=step.learning_rate),
        "bound": step.learning_rate / (2 * jnp.sqrt(damping)),
    }


def still(panels, background):
    """The plane of the parameters, and the loss with what its end means."""
    plane, loss = panels["A"], panels["B"]
    contours_of(plane, background, background["first"] * 10.0 ** np.arange(-2, 1.1, 0.5))
    centre(plane, background["reach"], xlabel="θ₁, from the optimum", ylabel="θ₂, from the optimum")
    plane.plot(*background["start"], "o", color=CONSTRAINT, ms=8, mec="white")
    plane.set_title("The path, over contours of the loss")
    plane.annotate("start", background["start"], xytext=(6, 6), textcoords="offset points")

    set_up(loss, log="y", xlim=(-1, STEPS + 2), ylim=SHOWN, xlabel="step")
    loss.set_title("Loss, relative to the first")
    loss.axhline(1, color=DESCENT, lw=1)
    loss.axhline(CONVERGED, color=TRUTH, lw=1)
    label(loss, 1, SHOWN[1] / 2, "explodes", CONSTRAINT, va="top")
    label(loss, STEPS - 1, 2 * CONVERGED, "stalls", CONSTRAINT, ha="right", va="bottom")
    label(loss, STEPS - 1, CONVERGED / 2, "converges", CONSTRAINT, ha="right", va="top")
    runs = ("c enforced, ‖Δ‖ ≤ r", EMPIRICAL_FISHER), ("constant η (dotted)", OTHER)
    key(loss, "upper right", *runs, ("ε steered (dashed)", CONSTRAINT), ("where it turns", CANDIDATE))


def _frame(problem):
    """The optimum, by Newton's method, as the middle of the view; and half sides of that."""

    def move(params, _):
        of = problem.loss_fn, params, problem.x, problem.y
        return params - solve_two_by_two(hessian(*of), mean_gradient(per_example_gradients(*of))), None

    optimum = lax.scan(move, problem.params, length=8)[0]
    return optimum, 2.4 * jnp.linalg.norm(problem.params - optimum) * jnp.ones(2)


def _run(problem, damping, *, steer=None, **limits):
    """The parameters (STEPS + 1, 2) of a run, their losses, and the reports of its steps."""
    update = make_update(problem.loss_fn, damping=damping, steer=steer, **limits)

    def move(state, _):
        state, report = update(state, problem.x, problem.y)
        return state, (state if steer is None else state.params, report)

    start = problem.params if steer is None else update.start(problem.params)
    _, (path, report) = lax.scan(move, start, length=STEPS)
    path = jnp.concatenate([problem.params[None], path])
    return path, jax.vmap(partial(mean_loss, problem))(path), report
