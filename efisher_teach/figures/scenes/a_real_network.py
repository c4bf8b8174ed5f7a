"""Race: learning curves of several optimizers, against steps and against seconds.

The runs come from outside: training takes seconds, a slider milliseconds. What moves is which of the empirical
Fisher's runs is shown, and where along the race one looks.
"""

import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, NATURAL, OTHER
from efisher_teach.figures.marks import dots, key, line, set_up
from efisher_teach.figures.plane import points
from efisher_teach.figures.scene import Axis, Preset, Scene
from efisher_teach.network.training import Trial

WINDOW = 7  # steps that a curve is the mean of: losses of mini-batches are noisy
RIVALS = {"descent": ("SGD", DESCENT), "adam": ("Adam", OTHER), "natural": ("natural gradient", NATURAL)}
MARKS = {
    "by_step": line("A", EMPIRICAL_FISHER, 2.6),
    "by_seconds": line("B", EMPIRICAL_FISHER, 2.6),
    **{f"{name}_step": dots("A", color) for name, (_, color) in RIVALS.items()},
    **{f"{name}_seconds": dots("B", color) for name, (_, color) in RIVALS.items()},
    "ours_step": dots("A", EMPIRICAL_FISHER, 9),
    "ours_seconds": dots("B", EMPIRICAL_FISHER, 9),
}


def a_real_network(
    rivals: dict[str, dict[float, Trial]], ours: dict[str, dict[float, Trial]], *, first: str
) -> Scene:
    """Learning curves of SGD, Adam, the natural gradient, and variants of the empirical Fisher.

    Args:
        rivals: The runs of "descent", "adam" and "natural" by their settings, from `tune`. The best of each is shown:
            the one with the lowest mean loss over its last ten steps.
        ours: The runs of the empirical Fisher by variant and setting. A variant is named by what is set, e.g. "η".
        first: The variant that is shown first, at its best setting.

    Returns:
        A `Scene` with the axes "step" and "run": all runs of ours, one after the other.

    Raises:
        ValueError: A rival or a variant has no runs.

    Examples:
        >>> runs = {0.1: Trial(losses=np.geomspace(1.0, 0.1, 20), seconds=0.01)}  # as of `tune`
        >>> rivals = {"descent": runs, "adam": runs, "natural": runs}
        >>> scene = ef.scenes.a_real_network(rivals, {"constant η": runs, "budget c": runs}, first="budget c")
        >>> print([axis.say(axis.default) for axis in scene.axes])
        ['20', 'budget c = 0.1']
    """
    if set(rivals) != set(RIVALS):
        errors.reject("rivals", f"the runs of {', '.join(RIVALS)}", ", ".join(rivals) or "none", "Name all.")
    if not ours.get(first) or not all(ours.values()):
        got = "; ".join(f"{len(runs)} of {name}" for name, runs in ours.items()) or "none"
        required, action = f"runs of every variant, also of {first}", "Run each with a setting or more."
        errors.reject("ours", required, got, action)
    best = {name: runs[_best(runs)] for name, runs in rivals.items()}
    names = [f"{name} = {setting:g}" for name, runs in ours.items() for setting in runs]
    grid = [run for runs in ours.values() for run in runs.values()]
    steps = max(len(run.losses) for run in [*best.values(), *grid])
    data = {
        "rivals": {name: _smooth(_padded(best[name], steps)) for name in RIVALS},
        "ours": _smooth(np.stack([_padded(run, steps) for run in grid])),
        "seconds": {name: jnp.asarray(best[name].seconds, float) for name in RIVALS},
        "our_seconds": jnp.asarray([run.seconds for run in grid], float),
    }
    shown = float(names.index(f"{first} = {_best(ours[first]):g}"))
    return Scene(
        title="Race: what a step brings, and its price",
        axes=(
            Axis("step", "after step", np.arange(1.0, steps + 1), float(steps), "{:.0f}".format, play=6.0),
            Axis("run", "empirical Fisher", np.arange(float(len(names))), shown, lambda run: names[int(run)]),
        ),
        data=data,
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AB", "A;B"),
        words=WORDS,
        size=(10.0, 4.6),
        narrow=(4.8, 7.6),
        presets=_presets(steps),
    )


WORDS = (
    "After {step} steps the training loss is {descent:.2g} with SGD, {adam:.2g} with Adam and {natural:.2g} with the "
    "natural gradient, each at the best of its settings; with the empirical Fisher it is {ours:.2g} at {run}."
)


def _presets(steps):
    return (
        Preset("The start", {"step": 1 + steps // 10}, "The race has just begun.",
               "Who will be ahead at the end, and by which clock?"),
        Preset("The finish", {"step": steps}, "What a step brings is one thing, its price another.",
               "Which of the two panels decides which method you use?"),
    )  # fmt: skip


def background(data):
    """The curves of the rivals, and limits that hold for every run."""
    rivals, seconds = data["rivals"], data["seconds"]
    steps = len(rivals["descent"])
    at = jnp.arange(1, steps + 1, dtype=float)
    each = jnp.concatenate([jnp.stack([*seconds.values()]), data["our_seconds"]])
    return {name: jnp.stack([at, at * seconds[name], rivals[name]], axis=-1) for name in RIVALS} | {
        "limits": jnp.stack([jnp.min(jnp.stack([*rivals.values()])) / 1.5, 6.0]),
        "steps": jnp.array([0.0, 1.02 * steps]),
        "seconds": jnp.stack([jnp.min(each) / 1.2, 1.2 * steps * jnp.max(each)]),
    }


def respond(data, state):
    """The run that is chosen, and where everyone is after so many steps."""
    run, now = (jnp.round(state[axis]).astype(int) for axis in ("run", "step"))
    ours, now = data["ours"][run], now - 1
    at = jnp.arange(1, len(ours) + 1, dtype=float)
    seconds = data["seconds"] | {"ours": data["our_seconds"][run]}
    found = {"by_step": points(at, ours), "by_seconds": points(at * seconds["ours"], ours)}
    for name, curve in (data["rivals"] | {"ours": ours}).items():
        found |= {
            name: curve[now],
            f"{name}_step": points(at[now], curve[now]),
            f"{name}_seconds": points(at[now] * seconds[name], curve[now]),
        }
    return found


def still(panels, background):
    """The same curves twice: against steps at the left, against seconds at the right."""
    by_step, by_seconds = (panels[letter] for letter in "AB")
    for panel, unit, log in ((by_step, "steps", "y"), (by_seconds, "seconds", "xy")):
        set_up(panel, log=log, xlim=background[unit], xlabel=unit, title=f"Training loss against {unit}")
        panel.set_yticks([0.01, 0.03, 0.1, 0.3, 1, 3], ["0.01", "0.03", "0.1", "0.3", "1", "3"])
        panel.set_ylim(*background["limits"])
        panel.grid(axis="y", color=FAINT, lw=0.5)
    for name, (_, color) in RIVALS.items():
        at, clock, curve = background[name].T
        by_step.plot(at, curve, color=color, lw=1.8)
        by_seconds.plot(clock, curve, color=color, lw=1.8)
    key(by_step, "lower left", *RIVALS.values(), ("empirical Fisher", EMPIRICAL_FISHER))
    key(by_seconds, "lower left", ("the same runs", CONSTRAINT))


def _best(runs):
    """The setting whose run ends lowest."""
    return min(
        runs, key=lambda setting: float(np.mean(np.nan_to_num(runs[setting].losses[-10:], nan=np.inf)))
    )


def _padded(run, steps):
    """A run that ended early has blown up."""
    return np.pad(np.asarray(run.losses, float), (0, steps - len(run.losses)), constant_values=np.inf)


def _smooth(losses):
    """The geometric mean over the last few steps; fewer at the start. A run that blew up ends in the view's attic."""
    logs = np.log(np.clip(np.nan_to_num(np.asarray(losses, float), nan=1e3, posinf=1e3), 1e-6, 1e3))
    steps = np.arange(logs.shape[-1])
    sums = np.concatenate([np.zeros((*logs.shape[:-1], 1)), np.cumsum(logs, axis=-1)], axis=-1)
    first = np.maximum(steps + 1 - WINDOW, 0)
    return jnp.asarray(np.exp((sums[..., steps + 1] - sums[..., first]) / (steps + 1 - first)), float)
