"""Who improves: the change that one step makes in the loss of every example, and of every group of them.

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
from efisher_teach.core.solve import agreement_of, spectrum
from efisher_teach.core.step import step_along, targeted_step
from efisher_teach.figures.ink import (
    CANDIDATE,
    CONSTRAINT,
    DATA,
    DESCENT,
    EMPIRICAL_FISHER,
    FAINT,
    TRUTH,
    UNDAMPED,
)
from efisher_teach.figures.marks import dots, key, line, polygons
from efisher_teach.figures.plane import changes, gradients, rectangles, sample_of
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 41)
TARGETS = np.linspace(0, 1, 11)
SHOWN = 36  # examples with a bar: evenly spaced ranks
FARTHEST = 12.0  # in √c: where what would leave the view stays
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
    """Whose loss falls under one step of cost c, for a problem with labels 0 and 1.

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
        >>> print([axis.name for axis in scene.axes])
        ['damping', 'target']
        >>> print(scene.presets[3].asks)
        What does it ask of an example whose label is wrong?
    """
    shape = getattr(problem.params, "shape", ())
    if len(shape) != 1:
        errors.reject("problem", "one with params of shape (p,)", f"{shape}", "E.g. breast_cancer(None).")
    y = np.asarray(problem.y)
    if not np.isin(y, (0, 1)).all() or problem.output_fn is None or problem.likelihood is None:
        got = f"labels {np.unique(y)[:3]}, likelihood {problem.likelihood and problem.likelihood.name}"
        errors.reject("problem", "one with labels 0 and 1 and a likelihood", got, "E.g. breast_cancer().")
    if len(y) < SHOWN:
        errors.reject("problem", f"one with {SHOWN} examples", f"{len(y)}", "Make n larger.")
    if not 0 < imbalance <= 1:
        errors.reject("imbalance", "above 0 and at most 1", f"{imbalance}", "1 keeps every example.")
    if not 0 <= noise <= 0.5:
        errors.reject("noise", "from 0 to 0.5", f"{noise}", "0 flips no label.")
    kept, flipped = _sample(y, imbalance, noise, np.random.default_rng(seed))
    y = jnp.asarray(np.where(flipped, 1 - y, y), problem.y.dtype)
    groups = ("clean", "flipped") if noise else ("label 0", "label 1")
    return Scene(
        title="Who improves, who pays?",
        axes=(
            Axis("damping", "damping ε", DAMPINGS, DAMPINGS[15], scientific, 6),
            Axis("target", "target: equal, (∂ℓ/∂z)², ℓ", TARGETS, 0.0, _wish, 6),
        ),
        # An example that is not kept has weight 0, so that all shapes, and what is compiled for them, stay.
        data=sample_of(problem._replace(y=y), budget)
        | {
            "kept": jnp.asarray(kept, float),
            "flipped": jnp.asarray(flipped, float),
            "second": jnp.asarray(flipped if noise else y, float),
        },
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        labels={"groups": groups},
        words=WORDS.replace("FIRST", groups[0]).replace("SECOND", groups[1]),
        size=(10.0, 5.8),
        narrow=(4.8, 10.2),
        presets=PRESETS,
    )


WORDS = (
    "Asked for a decrease {target}, of which steps can fulfil ρ = {agreement:.3f}, {worse:.0f} % of the examples get "
    "worse to first order at ε = {damping}, where at most {bound:.0f} % could; {actual_worse:.0f} % do in truth. The "
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
    found = _targets(data)
    corners = jnp.meshgrid(jnp.array([1e-7, 1e-3, 10.0]), jnp.array([0, 0.5, 1]))
    steps = jax.vmap(lambda *place: _step(data, found, *place).delta)(*map(jnp.ravel, corners))
    steps = jnp.concatenate([steps, _descent(data, found)[None]])
    asked = dot(steps, found["G"].T) / jnp.sqrt(data["budget"])
    shown = jax.vmap(lambda each: each[_ranks(data, each)])(asked)
    means = jax.vmap(partial(_group_means, data))(asked)
    return {
        "change_limits": _limits(shown, -1.2),
        "mean_limits": _limits(means, -0.6),
        "undamped": 100 * (1 - _agreement(found, 0.0)),
    }


def respond(data, state):
    """The changes under the step at ε and the target, the fraction that gets worse over all ε, and the groups."""
    found, rms = _targets(data), jnp.sqrt(data["budget"])
    problem, damping, target = data["problem"], state["damping"], state["target"]
    dampings = jnp.asarray(DAMPINGS, damping.dtype)
    path = jax.vmap(lambda damping: _step(data, found, damping, target))(dampings)
    over = jax.vmap(lambda delta: _mean(data, changes(problem, delta) > 0))(path.delta)
    bounds = jax.vmap(lambda delta: _bound(data, dot(found["G"], delta)))(path.delta)
    enlarge = len(data["kept"]) / jnp.sum(data["kept"])

    step = _step(data, found, damping, target)
    predicted, actual = dot(found["G"], step.delta), changes(problem, step.delta)
    ranks = _ranks(data, predicted)
    flipped = data["flipped"][ranks]
    descent = _descent(data, found)
    descent_predicted, descent_actual = dot(found["G"], descent), changes(problem, descent)
    (first, second), (descent_first, descent_second) = (
        _group_means(data, each) for each in (actual, descent_actual)
    )
    worse, bound, actual_worse = enlarge * step.worse, _bound(data, predicted), _mean(data, actual > 0)

    places = jnp.arange(SHOWN, dtype=rms.dtype)
    pair = jnp.array([0.0, 1.0])

    def height(value):
        return jnp.clip(value / rms, -FARTHEST, FARTHEST)

    return {
        "bars": rectangles(places, height(predicted[ranks]) * (1 - flipped), 0.8),
        "flipped_bars": rectangles(places, height(predicted[ranks]) * flipped, 0.8),
        "changes": jnp.stack([places, height(actual[ranks])], axis=-1),
        "descent": jnp.stack([places, height(descent_predicted[_ranks(data, descent_predicted)])], axis=-1),
        "worse_path": jnp.stack([dampings, 100 * enlarge * path.worse], axis=-1),
        "bound_path": jnp.stack([dampings, 100 * bounds], axis=-1),
        "actual_path": jnp.stack([dampings, 100 * over], axis=-1),
        "worse_dot": jnp.stack([damping, 100 * worse]),
        "bound_dot": jnp.stack([damping, 100 * bound]),
        "actual_dot": jnp.stack([damping, 100 * actual_worse]),
        "groups": rectangles(pair - 0.2, height(jnp.stack([first, second])), 0.36),
        "descent_groups": rectangles(pair + 0.2, height(jnp.stack([descent_first, descent_second])), 0.36),
        "agreement": _agreement(found, target),
        "worse": 100 * worse,
        "bound": 100 * bound,
        "actual_worse": 100 * actual_worse,
        "first": first,
        "second": second,
        "descent_first": descent_first,
        "descent_second": descent_second,
    }


def still(panels, background):
    """One bar an example, sorted; the part that gets worse, against ε; the mean of each group."""
    each, worse, means = (panels[letter] for letter in "ABC")
    each.set(xlim=(-1, SHOWN), ylim=background["change_limits"], xticks=[])
    each.set(xlabel=f"{SHOWN} examples, by what they gain", title="Change of each loss, in √c")
    each.axhline(0, color=FAINT, lw=1)
    each.axhline(-1, color=CONSTRAINT, lw=1, ls=(0, DASHES))
    entries = [("gradient descent, in its own order", DESCENT), ("first order", DATA), ("true", TRUTH)]
    if background["groups"][1] == "flipped":
        entries.append(("first order, label flipped", CANDIDATE))
    key(each, "upper left", *entries)

    worse.set(
        xscale="log", xlim=(DAMPINGS[0] / 2, DAMPINGS[-1] * 2), ylim=(-4, 160), yticks=range(0, 101, 25)
    )
    worse.set(xlabel="damping ε", title="Examples that get worse")
    worse.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    worse.set_xticks([1e-7, 1e-5, 1e-3, 1e-1, 10])
    worse.axhline(background["undamped"], color=UNDAMPED, lw=1.5, ls=(0, DASHES))
    key(worse, "upper right", ("1 − ρ", UNDAMPED))
    key(worse, "upper left", ("bound", CONSTRAINT), ("first order", EMPIRICAL_FISHER), ("true", TRUTH))

    means.set(xlim=(-0.6, 1.6), ylim=background["mean_limits"], title="Mean change of each group, in √c")
    means.axhline(0, color=FAINT, lw=1)
    means.set_xticks([0, 1], background["groups"])
    key(means, "upper left", ("this step", EMPIRICAL_FISHER), ("gradient descent", DESCENT))


def _wish(value: float) -> str:
    """Name a target."""
    parts = [
        (1 - 2 * value, "equal for all"),
        (1 - abs(2 * value - 1), "∝ (∂ℓ/∂z)²"),
        (2 * value - 1, "∝ ℓ"),
    ]
    said = [f"{100 * part:.0f} % {name}" for part, name in parts if part > 1e-6]
    return said[0].removeprefix("100 % ") if len(said) == 1 else " and ".join(said)


def _sample(y, imbalance, noise, rng):
    """Draw the examples that are kept, and among them the labels that are flipped."""
    positive = np.flatnonzero(y == 1)
    gone = rng.permutation(positive)[max(1, round(imbalance * len(positive))) :]
    kept = ~np.isin(np.arange(len(y)), gone)
    few = max(1, round(noise * kept.sum())) if noise else 0
    return kept, np.isin(np.arange(len(y)), rng.permutation(np.flatnonzero(kept))[:few])


def _targets(data):
    """G; with the weights of `kept`, G and three targets of mean 1, and those as far as steps can reach them."""
    problem, kept = data["problem"], data["kept"]
    params, x, y = problem.params, problem.x, problem.y
    G, output = gradients(problem), jax.vmap(problem.output_fn, (None, 0))(params, x)
    slope = jax.vmap(jax.grad(problem.likelihood.loss))(output, y)
    losses = per_example_losses(problem.loss_fn, params, x, y)
    weight = kept * jnp.sqrt(len(kept) / jnp.sum(kept))  # then means over all rows are means over those kept
    wishes = jnp.stack([jnp.ones_like(losses), slope**2, losses])
    wishes = wishes / jnp.maximum(jax.vmap(partial(_mean, data))(wishes)[:, None], 1e-30)
    weighted, targets = weight[:, None] * G, weight * wishes
    return {"G": G, "weighted": weighted, "targets": targets, "factors": spectrum(weighted)}


def _parts(target):
    """The parts of the three targets."""
    return jnp.stack(
        [jnp.maximum(0, 1 - 2 * target), 1 - jnp.abs(2 * target - 1), jnp.maximum(0, 2 * target - 1)]
    )


def _agreement(found, target):
    """ρ of a target; for equal targets it is that of the course."""
    return agreement_of(found["factors"], dot(_parts(target), found["targets"]))


def _step(data, found, damping, target):
    """The step of cost c at ε, for a target between equal, (∂ℓ/∂z)² and ℓ."""
    wish = dot(_parts(target), found["targets"])
    return targeted_step(found["weighted"], wish, damping=damping, budget=data["budget"])


def _descent(data, found):
    """−g, at the same cost."""
    g = jnp.mean(found["targets"][0][:, None] * found["weighted"], axis=0)
    return step_along(found["weighted"], -g, data["budget"])


def _mean(data, values):
    """Over the examples that are kept."""
    return jnp.sum(data["kept"] * values) / jnp.sum(data["kept"])


def _group_means(data, values):
    weights = data["kept"] * jnp.stack([1 - data["second"], data["second"]])
    return dot(weights, values) / jnp.maximum(jnp.sum(weights, axis=1), 1)


def _bound(data, predicted):
    """Cantelli: changes of mean m < 0 and mean square s are ≥ 0 for at most 1 − m²/s of the examples."""
    mean = jnp.minimum(_mean(data, predicted), 0)
    return jnp.maximum(1 - mean**2 / _mean(data, predicted**2), 0)


def _ranks(data, values):
    """The examples at SHOWN evenly spaced ranks, from the largest decrease."""
    order = jnp.argsort(jnp.where(data["kept"] > 0, values, jnp.inf))
    places = (jnp.arange(SHOWN) + 0.5) / SHOWN * jnp.sum(data["kept"])
    return order[places.astype(int)]


def _limits(values, least):
    """Room for all values and for a key above them."""
    low, high = jnp.minimum(jnp.min(values), least), jnp.maximum(jnp.max(values), 0.4)
    return jnp.clip(jnp.stack([low - 0.08 * (high - low), high + 0.4 * (high - low)]), -FARTHEST, FARTHEST)
