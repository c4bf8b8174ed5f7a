"""Lookalikes: the matrices that people take for C, overlaid on it. Which of them turns the step, which only resizes it?

With M in the place of C the step is -√(c/vᵀMv) v, v = (M + εI)⁻¹g: it ends on ΔᵀMΔ = c, and seems to cost c. What it
really spends is ΔᵀCΔ: c/n where 1/n is missing, and more than c for ggᵀ and for C - ggᵀ. Direction is another matter:
the square of the mean goes along -g at any ε, a missing 1/n and an ε on the sum turn the step alike, to where it is
hardly damped, and C - ggᵀ does not turn it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.matrices import empirical_fisher, fisher, gradient_covariance
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.step import step_along
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER
from efisher_teach.figures.marks import arrow, dots, key, line
from efisher_teach.figures.plane import circle, gradients, require_two_parameters, sample_of
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
ASPECT = 1.0  # width by height of the left panel
FARTHEST = 3.0  # in views: where a curve that leaves the view is cut
NEEDLE = 1e-2  # eigenvalues below this part of the largest do not guide where points of a curve are
MARKS = {
    "ellipse": line("A", CONSTRAINT, 3.4),
    "wrong_ellipse": line("A", CANDIDATE, 1.8),
    "wrong": line("A", CANDIDATE, 2.5),
    "descent": arrow("A", DESCENT),
    "right": arrow("A", EMPIRICAL_FISHER),
    "tip": dots("A", CANDIDATE, 8),
    "spent_stems": line("B", FAINT),
    "spent_dots": dots("B", OTHER),
    "spent_mark": dots("B", CANDIDATE, 10),
    "descent_line": line("C", DESCENT, 1.2),
    "turn_stems": line("C", FAINT),
    "turn_dots": dots("C", OTHER),
    "turn_mark": dots("C", CANDIDATE, 10),
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
        >>> for value in mistake.values[:4]:
        ...     print(mistake.say(value))
        none, C itself
        the square of the mean, ggᵀ
        1/n missing, GᵀG
        gradients of batches of 16
    """
    require_two_parameters(problem)
    if problem.output_fn is None or problem.likelihood is None:
        errors.reject("problem", "one with an output_fn and a likelihood", "None", "The Fisher needs both.")
    n = len(problem.y)
    if n < 2 * BATCH:
        errors.reject("problem", f"one with {2 * BATCH} examples, two batches", f"{n}", "Make n larger.")
    order = np.random.default_rng(seed).permutation(n)[: n - n % BATCH]
    believed = {"output_fn": problem.output_fn, "likelihood": problem.likelihood}
    F = fisher(problem.loss_fn, problem.params, problem.x, **believed)
    return Scene(
        title="Lookalikes: which of these is C?",
        axes=(
            Axis("mistake", "mistake", MISTAKES, 1.0, lambda value: [*NAMES.values()][round(value)]),
            Axis("damping", "damping ε", DAMPINGS, float(DAMPINGS[16]), scientific),
        ),
        data=sample_of(problem, budget) | {"fisher": F, "batches": jnp.asarray(order.reshape(-1, BATCH))},
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
           "In GᵀG all costs n times as much: its ellipse is a spot, the step spends c/n, and ε weighs n times less.",
           "If η is tuned by hand, which half of this mistake remains?"),
    Preset("Centred", {"mistake": 4.0, "damping": 1e-5},
           "C − ggᵀ turns nothing, but what all examples share costs nothing in it: the step spends more than c.",
           "When does it spend most: when the examples agree, or when they do not?"),
    Preset("ε on the sum", {"mistake": 6.0, "damping": 1.0},
           "The budget is met, and the ellipse is right; but ε/n hardly damps.",
           "How large must ε be here to damp as much as ε = 1 does on the mean?"),
)  # fmt: skip


def background(data):
    """A view with room for the right ellipse and every step, and limits for what they spend and how they turn."""
    g, matrices = _matrices(data)
    dampings = jnp.asarray(DAMPINGS, g.dtype)
    steps = jax.vmap(lambda damping: _steps(data, g, matrices, damping))(dampings)
    spent = _cost(matrices[0], steps) / data["budget"]
    turns = jax.vmap(lambda deltas: _turns(deltas, -g))(steps)
    box = jnp.sqrt(data["budget"] * jnp.diagonal(jnp.linalg.inv(matrices[0])))  # of the right ellipse
    reach = jnp.maximum(box, jnp.max(jnp.abs(steps), axis=(0, 1)))
    largest = jnp.maximum(10.0, jnp.max(jnp.abs(turns)))
    return {
        "reach": 1.15 * jnp.maximum(reach[1], reach[0] / ASPECT) * jnp.array([ASPECT, 1.0]),
        "spent_limits": jnp.stack([jnp.min(spent) / 2, jnp.max(spent) * 2]),
        "turn_limits": 1.2 * jnp.stack([jnp.minimum(jnp.min(turns), -0.4 * largest), largest]),
    }


def respond(data, state):
    """Both steps and what they end on, and what all seven spend and turn at this ε."""
    g, matrices = _matrices(data)
    c, C = data["budget"], matrices[0]
    this = state["mistake"].astype(int)
    steps = _steps(data, g, matrices, state["damping"])
    spent, turns = _cost(C, steps) / c, _turns(steps, -g)
    descent = step_along(gradients(data["problem"]), -g, c)
    descent_turn = turns[1]  # the square of the mean goes along −g

    rows, zero = jnp.asarray(ROWS, g.dtype), jnp.zeros(2, g.dtype)
    spent_dots, turn_dots = (jnp.stack([value, rows], axis=-1) for value in (spent, turns))
    ones, zeros = (jnp.stack([jnp.full_like(rows, start), rows], axis=-1) for start in (1, 0))
    farthest = FARTHEST * jnp.max(background(data)["reach"])
    return {
        "ellipse": _curve(C, c, farthest),
        "wrong_ellipse": jax.vmap(lambda M: _curve(M, c, farthest))(matrices)[this],
        "wrong": jnp.stack([zero, steps[this]]),
        "descent": jnp.stack([zero, descent]),
        "right": jnp.stack([zero, steps[0]]),
        "tip": steps[this],
        "spent_stems": jnp.stack([ones, spent_dots], axis=1),
        "spent_dots": spent_dots,
        "spent_mark": spent_dots[this],
        "turn_stems": jnp.stack([zeros, turn_dots], axis=1),
        "turn_dots": turn_dots,
        "turn_mark": turn_dots[this],
        "descent_line": jnp.stack([jnp.full(2, descent_turn), jnp.array([-0.6, len(NAMES) - 0.4])], axis=-1),
        "turn": jnp.where(jnp.abs(turns[this]) < 0.05, 0, turns[this]),  # no "−0.0"
        "descent_turn": descent_turn,
        "ratio": jnp.linalg.norm(steps[this]) / jnp.linalg.norm(steps[0]),
        "budget": jnp.asarray(c, g.dtype),
        "spent": spent[this],
        "predicted": dot(g, steps[this]),
        "right_predicted": dot(g, steps[0]),
    }


def still(panels, background):
    """Both steps in the plane of the two parameters; what each mistake spends, and how far it turns the step."""
    plane, spent, turns = (panels[letter] for letter in "ABC")
    reach = background["reach"]
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), aspect="equal")
    plane.set(xlabel="Δθ₁", ylabel="Δθ₂", title="Steps, and what they end on")
    for axis in (plane.xaxis, plane.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    plane.plot(0, 0, "o", color=CONSTRAINT, ms=4)
    right = ("ΔᵀCΔ = c", CONSTRAINT), ("right step", EMPIRICAL_FISHER), ("along −g", DESCENT)
    key(plane, "lower left", *right)
    key(plane, "upper right", ("ΔᵀMΔ = c", CANDIDATE), ("wrong step", CANDIDATE))

    for panel in (spent, turns):
        panel.set(ylim=(-0.6, len(NAMES) - 0.4))
        panel.set_yticks(ROWS, [*NAMES])
        panel.tick_params(axis="y", length=0)
    spent.axvline(1, color=CONSTRAINT, lw=1.2)
    spent.set(xscale="log", xlim=background["spent_limits"], title="Really spent, ΔᵀCΔ/c (drag the dot)")
    spent.xaxis.set_major_locator(LogLocator(numticks=5))
    spent.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    spent.xaxis.set_minor_formatter(NullFormatter())
    turns.axvline(0, color=EMPIRICAL_FISHER, lw=1.2)
    turns.set(xlim=background["turn_limits"], title="Turned towards −g")
    turns.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 10]))
    turns.xaxis.set_major_formatter(FuncFormatter(lambda value, _: degrees(value)))


def _matrices(data):
    """g, and what stands in the place of C, (7, 2, 2): the first is C itself, and so is the last, with another ε."""
    G = gradients(data["problem"])
    g, C = mean_gradient(G), empirical_fisher(G)
    batches = empirical_fisher(jnp.mean(G[data["batches"]], axis=1))
    centred = gradient_covariance(G)
    return g, jnp.stack([C, jnp.outer(g, g), len(G) * C, batches, centred, data["fisher"], C])


def _steps(data, g, matrices, damping):
    """The step of every mistake (7, 2), of a length that costs c in its own matrix."""
    dampings = damping * jnp.ones(len(NAMES), g.dtype).at[-1].set(1 / len(data["problem"].y))
    damped = matrices + dampings[:, None, None] * jnp.eye(2, dtype=g.dtype)
    v = jnp.linalg.solve(damped, jnp.broadcast_to(g, (len(NAMES), 2))[..., None])[..., 0]
    v = v.at[1].set(g)  # exactly, up to its length: at a tiny ε the rounding of ggᵀ would turn it
    return -v * jnp.sqrt(data["budget"] / jax.vmap(_cost)(matrices, v))[:, None]


def _cost(M, delta):
    """ΔᵀMΔ, of one step or many."""
    return jnp.sum(dot(delta, M) * delta, axis=-1)


def _turns(deltas, downhill):
    """Degrees by which steps are turned from the first of them; on the side of −g they count as positive."""

    def angle(delta):
        return jnp.atan2(deltas[0, 0] * delta[1] - deltas[0, 1] * delta[0], dot(deltas[0], delta))

    side = jnp.where(angle(downhill) < 0, -1, 1)
    return side * jnp.rad2deg(jax.vmap(angle)(deltas))


def _curve(M, c, farthest):
    """ΔᵀMΔ = c, (97, 2): an ellipse or, for a matrix of rank one, two lines, which meet far outside the view."""
    eigenvalues, V = jnp.linalg.eigh(M)
    toward = dot(circle(97, M.dtype) / jnp.sqrt(jnp.maximum(eigenvalues, NEEDLE * eigenvalues[1])), V.T)
    toward /= jnp.linalg.norm(toward, axis=1, keepdims=True)
    length = jnp.sqrt(c / jnp.maximum(_cost(M, toward), c / farthest**2))
    return toward * length[:, None]
