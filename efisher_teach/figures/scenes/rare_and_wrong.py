"""Rare and wrong: how equal decrease serves those that descent neglects, and what it memorises, while training goes on.

The runs come from outside, as training takes seconds. What moves is how far training has gone, which is the only way
to compare methods that take steps of different length: at the same mean loss. (Runs that are told
which labels are wrong stop at that mean loss of the others.)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from efisher_teach import errors
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER, TRUTH
from efisher_teach.figures.marks import dots, key, label, line, polygons, set_up
from efisher_teach.figures.plane import numbers, over, points
from efisher_teach.figures.scene import Axis, Preset, Scene

NEGLECTED = 3.0  # times the mean loss: a kind whose loss is larger than that under descent is neglected
MARKS = {
    "others": dots("A", OTHER, 7),
    "neglected": dots("A", CANDIDATE, 9),
    "band": polygons("B", FAINT),
    "told": line("B", TRUTH, 2.4),
    "untold": line("B", EMPIRICAL_FISHER, 2.4),
    "by_descent": dots("B", DESCENT, 9),
    "here": dots("C", CONSTRAINT, 8),
}


def rare_and_wrong(
    levels: tuple[float, ...],
    dampings: tuple[float, ...],
    rare: Float[np.ndarray, "2 kinds draws levels 2"],
    wrong: Float[np.ndarray, "2 dampings runs levels 2"],
) -> Scene:
    """Compare equal decrease with descent at the same training loss: rare kinds, and wrong labels over ε.

    Args:
        levels: Mean training losses at which the runs were looked at, falling.
        dampings: ε of the runs with wrong labels, rising; the last is so large that it is descent.
        rare: By equal decrease and by descent: of each rare kind, draw and level the part of its unseen examples that
            it gets right, and the mean training loss of its few examples.
        wrong: Nobody told and told who is wrong: of each ε, draw and level the part of all unseen examples that it
            gets right, and the mean loss of the wrong labels.

    Returns:
        A `Scene` with the axis "level".

    Raises:
        ValueError: The shapes do not fit.

    Examples:
        >>> rare, wrong = np.full((2, 10, 3, 2, 2), 0.1), np.full((2, 4, 8, 2, 2), 0.5)
        >>> rare[1, :2, ..., 1] = 0.9  # descent leaves two kinds behind
        >>> scene = ef.scenes.rare_and_wrong((0.5, 0.1), (1e-3, 0.03, 0.3, 1e6), rare, wrong)
        >>> print(scene.axes[0].say(1.0))
        0.1
    """
    rare, wrong = np.asarray(rare, float), np.asarray(wrong, float)
    for name, array, count in (("rare", rare, rare.shape[1:2]), ("wrong", wrong, (len(dampings),))):
        shape = (2, *count, *array.shape[2:3], len(levels), 2)
        if array.shape != shape:
            errors.reject(name, f"of shape {shape}", f"{array.shape}", "Its axes are in the docstring.")
    known, losses = np.moveaxis(rare.mean(axis=2), -1, 0)
    middle = int(np.argmin(np.abs(np.array(levels) - 0.1)))
    neglected = losses[1, :, middle] > NEGLECTED * levels[middle]
    if neglected.all() or not neglected.any():
        action = "Take more kinds, or fewer examples of each."
        errors.reject("rare", "some kinds that descent neglects, and some that not", f"{neglected}", action)
    data = {"known": known, "losses": losses, "wrong": wrong, "levels": np.array(levels)}
    return Scene(
        title="Rare and wrong: as the training loss falls",
        axes=(
            Axis(
                "level",
                "trained to a mean loss of",
                np.arange(float(len(levels))),
                float(middle),
                lambda level: f"{levels[int(level)]:g}",
            ),
        ),
        data={name: jnp.asarray(array, float) for name, array in data.items()}
        | {"places": [np.flatnonzero(neglected), np.flatnonzero(~neglected)]},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC", "A;B;C"),
        words=WORDS,
        size=(10.0, 4.0),
        narrow=(4.8, 11.0),
        labels={"dampings": (*(f"{value:g}" for value in dampings[:-1]), "descent")},
        presets=(
            Preset("Early", {"level": 0.0},
                   "On the neglected kinds equal decrease is hardly better than a coin, and descent is far worse.",
                   "Will descent make up for it?"),
            Preset("Late", {"level": len(levels) - 1.0},
                   "Descent has caught up, and every method that is not told has learned the wrong labels.",
                   "Where would you have stopped, if you did not know which is which?"),
        ),
    )  # fmt: skip


WORDS = (
    "At a mean training loss of {level}, of the unseen digits of the kinds that descent neglects equal decrease gets "
    "{equal_neglected:.0f} % right, descent {descent_neglected:.0f} %, a coin 50 %; of the other kinds "
    "{equal_others:.0f} % and {descent_others:.0f} %. With wrong labels equal decrease gets {equal_wrong:.0f} % of all "
    "unseen digits right (from {equal_low:.0f} to {equal_high:.0f} % over the draws), and descent "
    "{descent_wrong:.0f} % (from {descent_low:.0f} to {descent_high:.0f} %); told which labels are wrong, and stopped "
    "by the loss of the others, {equal_told:.0f} % and {descent_told:.0f} %. Under descent the neglected have a loss "
    "of {loss_neglected:.2f}, the wrong labels one of {loss_wrong:.2f}."
)


def background(data):
    """The losses of the neglected and of the wrong over the levels, by both methods."""
    neglected = jnp.mean(data["losses"][:, data["places"][0]], axis=1)
    wrong = jnp.mean(data["wrong"][0, jnp.array([0, -1]), :, :, 1], axis=1)
    return {"levels": data["levels"], "neglected_loss": neglected, "wrong_loss": wrong}


def respond(data, state):
    """All that is right at a level, and the losses there."""
    level = jnp.argmin(jnp.abs(jnp.arange(len(data["levels"])) - state["level"]))
    equal, descent = 100 * data["known"][:, :, level]
    neglected, others = data["places"]
    found = 100 * data["wrong"][..., level, 0]
    untold, told = found.mean(axis=-1)
    low, high = found[0].min(axis=-1), found[0].max(axis=-1)
    at = jnp.arange(len(untold), dtype=untold.dtype)
    now = background(data)
    reached = jnp.concatenate([now["neglected_loss"][:, level], now["wrong_loss"][:, level]])
    return {
        "neglected": points(descent, equal)[neglected],
        "others": points(descent, equal)[others],
        **over(at, untold=untold, told=told),
        **over(at[-1], by_descent=untold[-1]),
        "band": jnp.concatenate([points(at, low), points(at, high)[::-1]])[None],
        "here": points(data["levels"][level], reached),
        **numbers(equal_neglected=equal[neglected].mean(), descent_neglected=descent[neglected].mean()),
        **numbers(equal_others=equal[others].mean(), descent_others=descent[others].mean()),
        **numbers(equal_wrong=untold[0], equal_low=low[0], equal_high=high[0]),
        **numbers(descent_wrong=untold[-1], descent_low=low[-1], descent_high=high[-1]),
        **numbers(equal_told=told[0], descent_told=told[-1]),
        **numbers(loss_neglected=reached[1], loss_wrong=reached[3]),
    }


def still(panels, background):
    """The diagonal where both are equally good, and a coin; the scale of ε; the losses of those left behind."""
    kinds, labels, losses = (panels[letter] for letter in "ABC")
    set_up(kinds, xlim=(-3, 103), ylim=(-3, 103), xlabel="by descent", ylabel="by equal decrease")
    kinds.plot([0, 100], [0, 100], color=FAINT, lw=1.2)
    kinds.axhline(50, color=FAINT, lw=1.2, ls=(0, (4, 2)))
    label(kinds, 1, 51.5, "a coin", OTHER, va="bottom")
    kinds.set_title("Rare kinds: % of unseen right")
    key(kinds, "lower right", ("kinds that descent neglects", CANDIDATE), ("other kinds", OTHER))

    names = background["dampings"]
    set_up(labels, xlim=(-0.3, len(names) - 0.7), ylim=(48, 102), xlabel="damping ε")
    labels.set_xticks(range(len(names)), names)
    labels.set_title("Wrong labels: % of unseen right")
    key(
        labels,
        "lower left",
        ("told which are wrong", TRUTH),
        ("not told, and its spread", EMPIRICAL_FISHER),
        ("not told, descent", DESCENT),
    )

    set_up(losses, log="x", xlim=(1.25 * background["levels"][0], background["levels"][-1] / 1.25))
    losses.set(ylim=(0, None), xlabel="mean training loss, falling")
    losses.set_xticks(background["levels"], [f"{level:g}" for level in background["levels"]])
    losses.minorticks_off()
    for name, style in (("neglected_loss", "--"), ("wrong_loss", "-")):
        for values, color in zip(background[name], (EMPIRICAL_FISHER, DESCENT), strict=True):
            losses.plot(background["levels"], values, style, color=color, lw=2)
    losses.set_title("Loss: wrong; neglected (dashed)")
    key(losses, "upper right", ("descent", DESCENT), ("equal decrease", EMPIRICAL_FISHER))
