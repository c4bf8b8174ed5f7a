"""Lookalikes: the matrices that people take for C, overlaid on it. Which of them turns the step, which only resizes it?

With M in the place of C the step is -√(c/vᵀMv) v, v = (M + εI)⁻¹g: it ends on ΔᵀMΔ = c, and seems to cost c. What it
really spends is ΔᵀCΔ: c/n where 1/n is missing, and more than c for ggᵀ and for C - ggᵀ. Direction is another matter:
the square of the mean goes along -g at any ε, a missing 1/n and an ε on the sum turn the step alike, to where it is
hardly damped, and C - ggᵀ does not turn it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import LogLocator

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.matrices import fisher
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.step import step_along
from efisher_teach.core.two_by_two import solve_two_by_two
from efisher_teach.figures import plane, samples
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER
from efisher_teach.figures.marks import arrow, centre, dots, key, line, set_up
from efisher_teach.figures.plane import fit, from_origin, gradients, points
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, degrees, scientific

DAMPINGS = np.logspace(-5, 0, 41)
BATCH = 16  # examples
NAMES = {  # in the picture, and as it is said
    "C itself": "none, C itself",
    "squared mean": "the square of the mean, ggᵀ",
    "1/n missing": "1/n missing, GᵀG",
    "batches": f"gradients of batches of {BATCH}",
    "centred": "centred, C − ggᵀ",
    "model's labels": "labels of the model, the Fisher",
    "ε on the sum": "ε on the sum, C + (ε/n)I",
}
MISTAKES = np.arange(float(len(NAMES)))
ROWS = MISTAKES[::-1]  # where each mistake stands in the panels at the right
EDGES = -0.6, len(NAMES) - 0.4  # of these panels
FARTHEST = 3.0  # in views: where a curve that leaves the view is cut
READINGS = {"spent": "B", "turn": "C"}  # each has a panel, with a dot on a stem for every mistake
MARKS = {
    "ellipse": line("A", CONSTRAINT, 3.4),
    "wrong_ellipse": line("A", CANDIDATE, 1.8),
    "wrong": line("A", CANDIDATE, 2.5),
    "descent": arrow("A", DESCENT),
    "right": arrow("A", EMPIRICAL_FISHER),
    "tip": dots("A", CANDIDATE, 8),
    "descent_line": line("C", DESCENT, 1.2),
    **{f"{name}_stems": line(panel, FAINT) for name, panel in READINGS.items()},
    **{f"{name}_dots": dots(panel, OTHER) for name, panel in READINGS.items()},
    **{f"{name}_mark": dots(panel, CANDIDATE, 10) for name, panel in READINGS.items()},
}


def bug_hunt(problem: Problem, *, budget: float = 0.01, seed: int = 0) -> Scene:
    """The step with a wrong matrix beside the right one, for a problem with two parameters.

    Args:
        problem: With `params` of shape (2,), an `output_fn` and a `likelihood`, and at least 32 examples.
        budget: c, in (0, 0.04].
        seed: Draws the batches of 16; examples that fill no batch are left out.

    Returns:
        A `Scene` with the axes "mistake", from 0, none, to 6, and "damping", ε from 1e-5 to 1.

    Raises:
        ValueError: params is not (2,); no likelihood; too few examples; budget out of range.

    Examples:
        >>> mistake, damping = ef.scenes.bug_hunt(ef.breast_cancer()).axes
        >>> print(f"{mistake.say(0.0)}; {mistake.say(2.0)}")
        none, C itself; 1/n missing, GᵀG
    """
    plane.require_two_parameters(problem)
    if problem.output_fn is None or problem.likelihood is None:
        errors.reject("problem", "one with an output_fn and a likelihood", "None", "The Fisher needs both.")
    plane.require_examples(problem, 2 * BATCH)
    n, believed = len(problem.y), {"output_fn": problem.output_fn, "likelihood": problem.likelihood}
    order = np.random.default_rng(seed).permutation(n)[: n - n % BATCH].reshape(-1, BATCH)
    # compiled as a whole: one program, not forty
    F = jax.jit(partial(fisher, problem.loss_fn, **believed))(problem.params, problem.x)
    return Scene(
        title="Lookalikes: which of these is C?",
        axes=(
            Axis("mistake", "mistake", MISTAKES, 1.0, lambda value: [*NAMES.values()][round(value)]),
            Axis("damping", "damping ε", DAMPINGS, float(DAMPINGS[16]), scientific),
        ),
        data=plane.sample_of(problem, budget) | {"fisher": F, "batches": jnp.asarray(order)},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAABB;AAACC", "A;A;B;C"),
        words=WORDS,
        size=(10.0, 5.8),
        narrow=(4.8, 10.4),
        handles=(Handle("spent_mark", ("mistake",), "the mistake"),),
        presets=PRESETS,
    )


WORDS = (
    "Mistake: {mistake}. At ε = {damping} the step is turned {turn:.1f}° from the right one, counted towards −g, which "
    "is at {descent_turn:.1f}°, and is {ratio:.3g} times as long. Its own matrix says that it costs c = {budget:.3g}; "
    "it really spends ΔᵀCΔ = {spent:.3g} c. To first order the mean loss changes by {predicted:+.4f}, by the right "
    "step {right_predicted:+.4f}."
)
PRESETS = (
    Preset("The square of the mean", {"mistake": 1.0, "damping": 1e-5},
           "ggᵀ knows one direction, g: whatever ε is, the step goes along −g.",
           "Its ellipse has become two lines. What does a step along them cost in ggᵀ?"),
    Preset("1/n missing", {"mistake": 2.0, "damping": 1.0},
           "By GᵀG every step costs n times as much: its ellipse is a spot, c/n is spent, and ε weighs n times less.",
           "If η is tuned by hand, which half of this mistake remains?"),
    Preset("Centred", {"mistake": 4.0, "damping": 1e-5},
           "C − ggᵀ does not turn the step, but makes free what all examples share: more than c is spent.",
           "When does it spend most: when the examples agree, or when they do not?"),
    Preset("ε on the sum", {"mistake": 6.0, "damping": 1.0},
           "The budget is met, and the ellipse is right; but ε/n hardly damps.",
           "How large must ε be here to damp as much as ε = 1 does on the mean?"),
)  # fmt: skip


def background(data):
    """A view with room for the right ellipse and every step, and limits for what they spend and how they turn."""
    matrices, steps, spent, turns = jax.vmap(partial(_mistakes, data))(jnp.asarray(DAMPINGS, float))
    C = matrices[0, 0]
    box = jnp.sqrt(data["budget"] * jnp.diagonal(solve_two_by_two(C, jnp.eye(2))))  # of the right ellipse
    reach = jnp.maximum(box, jnp.max(jnp.abs(steps), axis=(0, 1)))
    largest = jnp.maximum(10.0, jnp.max(jnp.abs(turns)))
    return {
        "reach": fit(reach, room=1.15),
        "spent_limits": jnp.stack([jnp.min(spent) / 2, jnp.max(spent) * 2]),
        "turn_limits": 1.2 * jnp.stack([jnp.minimum(jnp.min(turns), -0.4 * largest), largest]),
    }


def respond(data, state):
    """Both steps and what they end on, and what all seven spend and turn at this ε."""
    matrices, steps, spent, turns = _mistakes(data, state["damping"])
    G, c, this = gradients(data["problem"]), data["budget"], state["mistake"].astype(int)
    farthest, rows, found = FARTHEST * jnp.max(background(data)["reach"]), jnp.asarray(ROWS, float), {}
    curves = jax.vmap(plane.level_curve, (0, None, None))(matrices, c, farthest)
    for name, values, start in (("spent", spent, 1.0), ("turn", turns, 0.0)):
        ends = points(values, rows)
        found[f"{name}_stems"] = jnp.stack([points(start, rows), ends], axis=1)
        found |= {f"{name}_dots": ends, f"{name}_mark": ends[this]}
    g, ratio = mean_gradient(G), jnp.linalg.norm(steps[this]) / jnp.linalg.norm(steps[0])
    return found | {
        "ellipse": curves[0],
        "wrong_ellipse": curves[this],
        **from_origin(wrong=steps[this], right=steps[0], descent=step_along(G, -g, c)),
        "tip": steps[this],
        "descent_line": points(turns[1], jnp.array(EDGES)),
        "turn": jnp.where(jnp.abs(turns[this]) < 0.05, 0, turns[this]),  # no "−0.0"
        "descent_turn": turns[1],  # the square of the mean goes along −g
        **plane.numbers(ratio=ratio, budget=c, spent=spent[this]),
        **plane.numbers(predicted=dot(g, steps[this]), right_predicted=dot(g, steps[0])),
    }


def still(panels, background):
    """Both steps in the plane of the two parameters; what each mistake spends, and how far it turns the step."""
    both, spent, turns = (panels[letter] for letter in "ABC")
    centre(both, background["reach"], xlabel="Δ₁", ylabel="Δ₂", title="Steps, and what they end on")
    both.locator_params(nbins=5, steps=[1, 2, 5, 10])
    right = ("ΔᵀCΔ = c", CONSTRAINT), ("right step", EMPIRICAL_FISHER)
    key(both, "lower left", *right, ("along −g", DESCENT))
    key(both, "upper right", ("ΔᵀMΔ = c", CANDIDATE), ("wrong step", CANDIDATE))

    for panel, start, color in ((spent, 1, CONSTRAINT), (turns, 0, EMPIRICAL_FISHER)):
        panel.set(ylim=EDGES, yticks=ROWS, yticklabels=[*NAMES])
        panel.axvline(start, color=color, lw=1.2)
        panel.tick_params(axis="y", length=0)
    set_up(spent, log="x", xlim=background["spent_limits"], title="Really spent, ΔᵀCΔ/c (drag the dot)")
    spent.xaxis.set_major_locator(LogLocator(numticks=5))
    spent.xaxis.set_major_formatter("{x:g}")
    turns.set(xlim=background["turn_limits"], title="Turned towards −g")
    turns.locator_params(axis="x", nbins=6, steps=[1, 2, 3, 5, 10])
    turns.xaxis.set_major_formatter(lambda value, _: degrees(value))


def _mistakes(data, damping):
    """The matrices in the place of C, their steps, what these spend and how they are turned."""
    known = gradients(data["problem"]), data["fisher"], data["batches"]
    return samples.lookalikes(*known, damping, data["budget"])
