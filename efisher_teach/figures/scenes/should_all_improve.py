"""The change that one step makes in the loss of every example, and of every group of them.

The empirical Fisher asks all examples for the same decrease, trusted or not: good for a minority, bad for wrong labels.
ε and the target set what is asked; "imbalance" and "noise" set who is there. Every step costs the same, E[Δℓ²] = c.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import PercentFormatter

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_losses
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.step import step_along, targeted_step
from efisher_teach.figures import plane
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DATA, DESCENT, EMPIRICAL_FISHER, TRUTH, UNDAMPED
from efisher_teach.figures.marks import dots, key, line, loss_panel, polygons, set_up
from efisher_teach.figures.plane import changes, height_limits, height_of, numbers, over, percent, rectangles
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 41)
TARGETS = np.linspace(0, 1, 11)
SHOWN = 36  # examples with a bar: evenly spaced ranks
DASHES = (4, 2)
MARKS = {
    "bars": polygons("A", DATA),
    "flipped_bars": polygons("A", CANDIDATE),
    "bound_path": line("B", CONSTRAINT, 1.5, dashes=DASHES),
    "actual_path": line("B", TRUTH, 4),  # may lie below the next
    "worse_path": line("B", EMPIRICAL_FISHER),
    "groups": polygons("C", EMPIRICAL_FISHER),
    "descent_groups": polygons("C", DESCENT),
    "descent": line("A", DESCENT, 2.2),
    "changes": dots("A", TRUTH, 5),
    "bound_dot": dots("B", CONSTRAINT),
    "actual_dot": dots("B", TRUTH),
    "worse_dot": dots("B", EMPIRICAL_FISHER, 8),
}


def should_all_improve(
    problem: Problem, *, budget: float = 0.01, imbalance: float = 1.0, noise: float = 0.0, seed: int = 0
) -> Scene:
    """The losses that fall and rise under one step of cost c, for a problem with labels 0 and 1.

    Args:
        problem: With `params` of shape (p,), an `output_fn` and a `likelihood`, labels 0 and 1, at least 36 examples.
        budget: c, in (0, 0.04].
        imbalance: The fraction of the examples with label 1 that is kept, in (0, 1].
        noise: The fraction of the kept examples whose label is then flipped, in [0, 0.5]; θ stays where it is.
        seed: Of who is kept and flipped.

    Returns:
        A `Scene` with the axes "damping", ε from 1e-7 to 10, and "target": from 0, the same decrease for all, over 0.5,
        in proportion to (∂ℓ/∂z)² as in the improved empirical Fisher, to 1, in proportion to the loss.

    Raises:
        ValueError: A problem of another kind; budget, imbalance or noise out of range.

    Examples:
        >>> scene = ef.scenes.should_all_improve(ef.breast_cancer(), noise=0.1)
        >>> print(scene.presets[3].asks)
        What does it ask of an example whose label is wrong?
    """
    plane.require_vector(problem, action="E.g. breast_cancer(None).")
    y = np.asarray(problem.y)
    if not np.isin(y, (0, 1)).all() or problem.output_fn is None or problem.likelihood is None:
        got = f"labels {np.unique(y)[:3]}, likelihood {problem.likelihood and problem.likelihood.name}"
        errors.reject("problem", "one with labels 0 and 1 and a likelihood", got, "E.g. breast_cancer().")
    plane.require_examples(problem, SHOWN)
    if not 0 < imbalance <= 1:
        errors.reject("imbalance", "above 0 and at most 1", f"{imbalance}", "1 keeps every example.")
    if not 0 <= noise <= 0.5:
        errors.reject("noise", "from 0 to 0.5", f"{noise}", "0 flips no label.")
    kept, flipped = _sample(y, imbalance, noise, np.random.default_rng(seed))
    y = np.where(flipped, 1 - y, y)
    names, second = (("clean", "flipped"), flipped) if noise else (("label 0", "label 1"), y == 1)
    # An example that is not kept has weight 0, so that all shapes, and what is compiled for them, stay.
    members = np.stack([kept, kept & ~second, kept & second])
    every, *groups = members / np.maximum(members.sum(axis=1, keepdims=True), 1)
    weights = numbers(kept=kept, flipped=flipped, weights=every, groups=groups)
    return Scene(
        title="Who improves, who pays?",
        axes=(
            Axis("damping", "damping ε", DAMPINGS, DAMPINGS[15], scientific, 6),
            Axis("target", "target: equal, (∂ℓ/∂z)², ℓ", TARGETS, 0.0, _wish, 6),
        ),
        data=plane.sample_of(problem._replace(y=jnp.asarray(y, problem.y.dtype)), budget) | weights,
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        labels={"groups": names},
        words=WORDS.replace("FIRST", names[0]).replace("SECOND", names[1]),
        size=(10.0, 5.8),
        narrow=(4.8, 10.2),
        presets=PRESETS,
    )


WORDS = (
    "The step asks for a decrease {target}; steps can grant ρ = {agreement:.3f} of it. At ε = {damping}, {worse:.0f} % "
    "of the examples get worse to first order (at most {bound:.0f} % could), and {actual_worse:.0f} % in truth. The "
    "mean loss change of FIRST: {first:+.4f}, by gradient descent for the same cost {descent_first:+.4f}; of SECOND: "
    "{second:+.4f}, by gradient descent {descent_second:+.4f}."
)
PRESETS = (
    Preset("All alike", {"damping": 1e-7, "target": 0.0}, "As equal as the model allows: 1 − ρ bounds who gets worse.",
           "Can a step of this cost let fewer examples get worse?"),
    Preset("Damped", {"damping": 10.0, "target": 0.0}, "Nearly gradient descent: a few gain much, and some pay.",
           "Who pays for the gain of the others?"),
    Preset("By (∂ℓ/∂z)²", {"damping": 1e-7, "target": 0.5}, "The improved empirical Fisher asks less of who is right.",
           "Of whom does it ask more: of the minority, or of the wrong labels?"),
    Preset("By the loss", {"damping": 1e-7, "target": 1.0}, "Polyak's target asks that all reach their floor together.",
           "What does it ask of an example whose label is wrong?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every budget: steps at both ends and in the middle of each axis."""
    known = _known(data)
    corners = jnp.meshgrid(jnp.array([1e-7, 1e-3, 10.0]), jnp.array([0, 0.5, 1]))
    steps = jax.vmap(partial(_step, data, known))(*map(jnp.ravel, corners))
    deltas = jnp.concatenate([steps.delta, known["descent"][None]])
    asked = dot(deltas, known["G"].T) / jnp.sqrt(data["budget"])
    shown = jax.vmap(lambda each: each[_ranks(data, each)])(asked)
    return {
        "change_limits": height_limits(shown, -1.2, 0.4),
        "mean_limits": height_limits(dot(asked, data["groups"].T), -0.6, 0.4),
        "undamped": 100 * (1 - steps.agreement[0]),
    }


def respond(data, state):
    """The changes under the step at ε and the target, the fraction that gets worse over all ε, and the groups."""
    known, rms, problem, weights = _known(data), jnp.sqrt(data["budget"]), data["problem"], data["weights"]
    dampings, descent = jnp.asarray(DAMPINGS, rms.dtype), known["descent"]
    path = jax.vmap(lambda damping: _step(data, known, damping, state["target"]))(dampings)
    predicted, actual = dot(path.delta, known["G"].T), jax.vmap(partial(changes, problem))(path.delta)
    # Cantelli: changes of mean m < 0 and mean square s are ≥ 0 for at most 1 − m²/s of the examples.
    most = 1 - jnp.minimum(dot(predicted, weights), 0) ** 2 / dot(predicted**2, weights)
    worse = {"worse": path.worse * len(weights) / jnp.sum(data["kept"]), "bound": jnp.maximum(most, 0)}
    worse = percent(**worse, actual=dot((actual > 0).astype(rms.dtype), weights))

    here = plane.place_of(state["damping"], dampings)
    worse_here = {name: part[here] for name, part in worse.items()}
    predicted, actual, descent_predicted = predicted[here], actual[here], dot(known["G"], descent)
    ranks, descent_ranks = _ranks(data, predicted), _ranks(data, descent_predicted)
    flipped, seen = data["flipped"][ranks], height_of(predicted[ranks], rms)
    means, by_descent = (dot(data["groups"], each) for each in (actual, changes(problem, descent)))
    return {
        "bars": plane.bars(seen * (1 - flipped)),
        "flipped_bars": plane.bars(seen * flipped),
        "changes": plane.beside_bars(height_of(actual[ranks], rms)),
        "descent": plane.beside_bars(height_of(descent_predicted[descent_ranks], rms)),
        **over(dampings, **{f"{name}_path": part for name, part in worse.items()}),
        **over(state["damping"], **{f"{name}_dot": part for name, part in worse_here.items()}),
        "groups": rectangles(jnp.arange(2.0) - 0.2, height_of(means, rms), 0.36),
        "descent_groups": rectangles(jnp.arange(2.0) + 0.2, height_of(by_descent, rms), 0.36),
        "agreement": path.agreement[0],
        **numbers(worse=worse_here["worse"], bound=worse_here["bound"], actual_worse=worse_here["actual"]),
        **numbers(first=means[0], second=means[1], descent_first=by_descent[0], descent_second=by_descent[1]),
    }


def still(panels, background):
    """One bar an example, sorted; the part that gets worse, against ε; the mean of each group."""
    each, worse, means = (panels[letter] for letter in "ABC")
    loss_panel(each, SHOWN, background["change_limits"], "examples, by what they gain")
    each.axhline(-1, color=CONSTRAINT, lw=1, ls=(0, DASHES))
    entries = [("gradient descent, in its own order", DESCENT), ("first order", DATA), ("true", TRUTH)]
    if background["groups"][1] == "flipped":
        entries.append(("first order, label flipped", CANDIDATE))
    key(each, "upper left", *entries)

    set_up(worse, log="x", xlim=(DAMPINGS[0] / 2, DAMPINGS[-1] * 2), xticks=[1e-7, 1e-5, 1e-3, 1e-1, 10])
    worse.set(ylim=(-4, 160), yticks=range(0, 101, 25), xlabel="damping ε", title="Examples that get worse")
    worse.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    worse.axhline(background["undamped"], color=UNDAMPED, lw=1.5, ls=(0, DASHES))
    key(worse, "upper right", ("1 − ρ", UNDAMPED))
    key(worse, "upper left", ("bound", CONSTRAINT), ("first order", EMPIRICAL_FISHER), ("true", TRUTH))

    set_up(means, zero=True, xlim=(-0.6, 1.6), ylim=background["mean_limits"])
    means.set_title("Mean change of each group, in √c")
    means.set_xticks([0, 1], background["groups"])
    key(means, "upper left", ("this step", EMPIRICAL_FISHER), ("gradient descent", DESCENT))


def _wish(value: float) -> str:
    """Name a target."""
    parts = zip(_parts(value), ("equal for all", "∝ (∂ℓ/∂z)²", "∝ ℓ"), strict=True)
    said = [f"{100 * part:.0f} % {name}" for part, name in parts if part > 1e-6]
    return said[0].removeprefix("100 % ") if len(said) == 1 else " and ".join(said)


def _sample(y, imbalance, noise, rng):
    """Draw the examples that are kept, and among them the labels that are flipped."""
    positive = np.flatnonzero(y == 1)
    gone = rng.permutation(positive)[max(1, round(imbalance * len(positive))) :]
    kept = ~np.isin(np.arange(len(y)), gone)
    few = max(1, round(noise * kept.sum())) if noise else 0
    return kept, np.isin(np.arange(len(y)), rng.permutation(np.flatnonzero(kept))[:few])


def _parts(target):
    """The parts of the three targets."""
    return [jnp.maximum(0, 1 - 2 * target), 1 - abs(2 * target - 1), jnp.maximum(0, 2 * target - 1)]


def _known(data):
    """G; with the weights of the examples that are kept, G and three targets of mean 1; and −g at the cost c."""
    problem, weights = data["problem"], data["weights"]
    G, output = plane.gradients(problem), jax.vmap(problem.output_fn, (None, 0))(problem.params, problem.x)
    slope = jax.vmap(jax.grad(problem.likelihood.loss))(output, problem.y)
    losses = per_example_losses(problem.loss_fn, problem.params, problem.x, problem.y)
    wishes = jnp.stack([jnp.ones_like(losses), slope**2, losses])
    wishes /= jnp.maximum(dot(wishes, weights)[:, None], 1e-30)
    root = jnp.sqrt(len(weights) * weights)  # then means over all rows are means over those kept
    weighted, targets = root[:, None] * G, root * wishes
    descent = step_along(weighted, -dot(weights, G), data["budget"])
    return {"G": G, "weighted": weighted, "targets": targets, "descent": descent}


def _step(data, known, damping, target):
    """The step of cost c at ε, for a target between equal, (∂ℓ/∂z)² and ℓ."""
    wish = dot(jnp.stack(_parts(target)), known["targets"])
    return targeted_step(known["weighted"], wish, damping=damping, budget=data["budget"])


def _ranks(data, values):
    """The examples at SHOWN evenly spaced ranks, from the largest decrease."""
    order = jnp.argsort(jnp.where(data["kept"] > 0, values, jnp.inf))
    places = (jnp.arange(SHOWN) + 0.5) / SHOWN * jnp.sum(data["kept"])
    return order[places.astype(int)]
