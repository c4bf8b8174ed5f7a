"""The cost: what does a step do to each loss, and what is that in total? ΔᵀCΔ is the mean square, to first order.

The reader drags a step over a map of its cost. Steps of one length cost more in one direction than in another: C is
not round. And what first order leaves out fades faster than what it keeps, as the length squared from the mean loss,
and cubed from the mean square, which itself falls as the length squared only.
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.matrices import empirical_fisher, quadratic_form
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.figures import ink, plane, samples
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DATA, DESCENT, INK, OTHER, TRUTH
from efisher_teach.figures.marks import arrow, centre, contours, dots, key, line, loss_panel, polygons, set_up
from efisher_teach.figures.plane import WIDEST, changes, gradients, numbers, over, points, turn, turned
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, degrees

TURNS = np.arange(-180.0, 181.0, 4.0)
SHOWN = 24  # examples with a bar of their own
LENGTHS = np.arange(1, 25) / 24  # of steps, in parts of the longest
RADII = np.concatenate([np.logspace(-2.5, np.log10(LENGTHS[0]), 8)[:-1], LENGTHS])  # of the curves
SHORT = 4  # the place among the radii up to which slopes are measured
MEAN_SQUARE = ink.EMPIRICAL_FISHER  # as in notebook 01: g and the mean are orange, C and the mean square blue
MARKS = {
    "true_curve": line("A", TRUTH, 1.8, dashes=(4, 2)),
    "bars": polygons("B", DATA),
    "guide": line("C", DESCENT, 1.0, dashes=(4, 2)),
    "square_guide": line("C", MEAN_SQUARE, 1.0, dashes=(4, 2)),
    "ellipse": line("A", CONSTRAINT, 2.0),
    "allowance": line("B", CONSTRAINT, 1.2, dashes=(4, 2)),
    "step": arrow("A", CANDIDATE),
    "changes": dots("B", TRUTH, 5),
    "rest": line("C", DESCENT),
    "square_rest": line("C", MEAN_SQUARE),
    "tip": dots("A", CANDIDATE, 10),
    "rest_dot": dots("C", DESCENT, 9),
    "square_rest_dot": dots("C", MEAN_SQUARE, 9),
}


def what_a_step_costs(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Drag a step, and read its cost, for a problem with two parameters.

    Args:
        problem: With `params` of shape (2,), and examples whose gradients do not all lie on one line.
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axes "turn" (degrees from -g) and "length" (‖Δ‖, up to the longest step of cost 0.04).

    Raises:
        ValueError: params is not (2,); C is singular; budget out of range.

    Examples:
        >>> scene = ef.scenes.what_a_step_costs(ef.breast_cancer())
        >>> print(scene.presets[1].asks)
        Two steps of one length: which of them would you call small?
    """
    plane.require_two_parameters(problem)
    G = np.asarray(gradients(problem), float)
    (least, most), V = np.linalg.eigh(G.T @ G / len(G))
    if not least > 1e-6 * most:
        got = f"eigenvalues of C from {least:.3g} to {most:.3g}"
        errors.reject("problem", "one where every step costs something", got, "Take more examples.")
    cheap = (float(turned(-G.mean(axis=0), V[:, 0])) + 90) % 180 - 90  # the turn of the long axis
    lengths = 1.05 * np.sqrt(WIDEST / least) * LENGTHS
    presets = (
        Preset("Cheap", {"turn": cheap, "length": lengths[11]}, "Along the ellipse's long axis a step is cheap.",
               "Make the step half as long: what does it cost?"),
        Preset("Dear", {"turn": cheap - np.copysign(90, cheap), "length": lengths[11]},
               "A step just as long, across the axis, changes the losses more.",
               "Two steps of one length: which of them would you call small?"),
        Preset("Too far", {"turn": -180.0, "length": lengths[-1]},
               "Far out, first order is wrong about each loss, and about the cost.",
               "Where does the true cost leave the ellipse, and on which side?"),
    )  # fmt: skip
    return Scene(
        title="What should a step cost?",
        axes=(
            Axis("turn", "turn from −g", TURNS, 32.0, degrees),
            Axis("length", "length ‖Δ‖", lengths, lengths[11], lambda value: f"{value:.2f}"),
        ),
        data=plane.sample_of(problem, budget) | {"longest": jnp.asarray(lengths[-1], float)},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;A;B;B;C;C"),
        words=WORDS,
        size=(10.0, 6.0),
        narrow=(4.8, 10.8),
        handles=(Handle("tip", ("turn", "length"), "the tip of the step"),),
        presets=presets,
    )


WORDS = (
    "A step of length {length}, turned {turn} from −g, changes the losses by √(ΔᵀCΔ) = {cost:.3f} to first order and "
    "by {true_cost:.3f} in truth, in root mean square; the budget allows √c = {allowed:.3f}. The mean loss changes by "
    "{predicted:+.4f} to first order, by {actual:+.4f} in truth. What first order leaves out shrinks as the length to "
    "the power {slope:.2f} for the mean loss, {square_slope:.2f} for the mean square."
)


def background(data):
    """A map of the first-order cost √(ΔᵀCΔ), and limits for any budget."""
    known, longest = _known(data), data["longest"]
    grid = jnp.linspace(-1, 1, 61) * longest
    return {
        "grid": grid,
        "cost": jnp.sqrt(quadratic_form(known["C"], plane.grid_of(grid, grid))),
        **plane.from_origin(downhill=longest * known["around"][len(TURNS) // 2]),
        **numbers(most=known["most"], count=len(known["shown"])),
        "radii": longest * RADII[[0, -1]],
        "rest_limits": known["limits"],
    }


def respond(data, state):
    """The step, what it does to each loss, and how what first order leaves out fades along its direction."""
    known, length, at = _known(data), state["length"], plane.place_of(state["turn"], TURNS)
    G, around, shown, limits = (known[name] for name in ("G", "around", "shown", "limits"))
    delta, root = length * around[at], jnp.sqrt(data["budget"])
    predicted, actual = dot(G, delta), changes(data["problem"], delta)
    seen, seen_actual = (jnp.clip(each[shown], -known["most"], known["most"]) for each in (predicted, actual))

    radii, kept = data["longest"] * jnp.asarray(RADII, G.dtype), quadratic_form(known["C"], around)
    true = samples.reached(kept[:, None] * radii**2 + known["rests"][:, 1], radii, root)
    found, ends = {}, radii[jnp.array([0, -1])]
    here = jnp.maximum(jnp.abs(known["rests"][at]), 1e-30)
    for name, rest, power in zip(("", "square_"), here, (2, 3), strict=True):
        found |= over(radii, limits, **{f"{name}rest": rest})
        found |= over(length, limits, **{f"{name}rest_dot": rest[plane.place_of(length, radii)]})
        found |= over(ends, limits, **{f"{name}guide": rest[0] * (ends / radii[0]) ** power})
        found[f"{name}slope"] = jnp.log(rest[SHORT] / rest[0]) / np.log(RADII[SHORT] / RADII[0])
    return found | {
        "ellipse": around * (root / jnp.sqrt(kept))[:, None],
        "true_curve": around * true[:, None],
        **plane.from_origin(step=delta),
        "tip": delta,
        "bars": plane.bars(seen),
        "changes": plane.beside_bars(seen_actual),
        "allowance": jnp.stack([points([-1.0, len(shown)], sign * root) for sign in (1, -1)]),
        **numbers(cost=jnp.sqrt(jnp.mean(predicted**2)), true_cost=jnp.sqrt(jnp.mean(actual**2))),
        **numbers(allowed=root, predicted=jnp.mean(predicted), actual=jnp.mean(actual)),
    }


def still(panels, background):
    """The step over its costs at the left; at the right what it does to some losses, and what first order misses."""
    steps, each, rests = (panels[letter] for letter in "ABC")
    grid, levels = background["grid"], np.arange(1, 20) / 20
    there = np.hypot(grid, grid[:, None]) <= 1.02 * grid[-1]  # all steps that there are
    lines = contours(steps, (grid, grid), np.where(there, background["cost"], np.nan), levels)
    steps.clabel(lines, levels[:6:2], fmt="%.2f", fontsize=9, colors=INK[OTHER])
    steps.plot(*background["downhill"].T, color=DESCENT, lw=1)
    centre(steps, grid[[-1, -1]], xlabel="Δ₁", ylabel="Δ₂", title="Steps, over the root of their cost")
    key(steps, "upper left", ("ΔᵀCΔ = c", CONSTRAINT))
    key(steps, "upper right", ("E[Δℓ²] = c, in truth", TRUTH))
    key(steps, "lower right", ("along −g", DESCENT), ("your step: drag it", CANDIDATE))

    loss_panel(each, int(background["count"]), 1.35 * background["most"] * np.array([-1, 1]), unit="")
    key(each, "upper right", ("first order", DATA), ("truth", TRUTH))
    key(each, "lower left", ("dashed: ±√c", CONSTRAINT))

    set_up(rests, log="xy", xlim=background["radii"] * [0.9, 1.2], ylim=background["rest_limits"])
    rests.set(xlabel="length of the step", title="What first order leaves out")
    key(rests, "upper left", ("of the mean loss: slope 2", DESCENT), ("of E[Δℓ²]: slope 3", MEAN_SQUARE))


def _known(data):
    """All that no slider moves: a unit vector for each turn, and the remainders of first order along it, among others.

    The examples that are shown are at even places among all, ordered by how much they pull with the mean.
    """
    problem, longest, G = data["problem"], data["longest"], gradients(data["problem"])
    g, C = mean_gradient(G), empirical_fisher(G)
    around = turn(-g, jnp.asarray(TURNS, G.dtype)) / jnp.linalg.norm(g)
    rests = jax.vmap(lambda toward: samples.rests(problem, G, toward, longest, RADII))(around)
    shown = jnp.argsort(dot(G, g))[np.linspace(0, len(G) - 1, min(SHOWN, len(G))).round().astype(int)]
    # The most on the widest ellipse: a loud one is cut off.
    widest = WIDEST * jnp.sum(G[shown].T * jnp.linalg.solve(C, G[shown].T), axis=0)
    most = jnp.maximum(2 * WIDEST**0.5, 1.5 * jnp.sqrt(jnp.quantile(widest, 0.85)))
    limits = jnp.stack([jnp.median(jnp.abs(rests[:, 1, 0])) / 10, 3 * jnp.max(jnp.abs(rests[:, 0]))])
    return {"G": G, "C": C, "around": around, "rests": rests, "shown": shown, "most": most, "limits": limits}
