"""The proof as a ledger: how far each line is from holding on the learner's model, and which lines fall with it.

What is algebra holds to rounding, at any budget. What speaks of true losses holds to an order only: what it misses
falls with the step. Each line can be broken on purpose; those that need it fall, and no others.

The auditor is NumPy in float64 and its own oracle, too slow for a slider: the ledgers come from the factory.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np

from efisher_teach.core.premises import BREAKS
from efisher_teach.core.problems import Problem
from efisher_teach.core.proof import ledger
from efisher_teach.core.statements import STATEMENTS, TOLERANCE
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, EMPIRICAL_FISHER, FAINT, INK, OTHER, TRUTH
from efisher_teach.figures.marks import dots, key, line, polygons
from efisher_teach.figures.paint import is_wide
from efisher_teach.figures.plane import WIDEST, nearest, numbers, place_of, points, strip, within_view
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, scientific

NAMES = tuple(STATEMENTS)
ALONG = {"broken": 1.0 + NAMES.index("stationarity")}
BUDGETS = np.append(np.logspace(-6, -2, 13), [0.02, WIDEST])
EXACT, LARGEST = 1e-16, 30.0  # what is nearer or farther than that is drawn there
SIDES, COLUMNS = (2e-17, 60.0), (-0.5, 2.6)  # of the two panels
AWAY = 1e-19  # left of the view: where marks wait
MARKS = {
    "row": polygons("A", f"{CANDIDATE}30"),
    "verdict_row": polygons("B", f"{CANDIDATE}30"),
    "fall": line("A", CANDIDATE, 1.2, dashes=(2, 2)),
    "exact": dots("A", EMPIRICAL_FISHER, 6),
    "ordered": dots("A", TRUTH, 10),
    "stands": dots("B", EMPIRICAL_FISHER, 6),
    "falls": dots("B", CANDIDATE, 8),
    "fallen": dots("A", CANDIDATE, 8),
    "hand": dots("B", CANDIDATE, 12),
}


def proof(problem: Problem, *, budget: float = 0.01, damping: float = 0.0) -> Scene:
    """Every line of the derivation on a problem, intact and broken: 25 ledgers or more, a few seconds.

    Args:
        problem: With params of any kind; a few thousand of them at most, as the ledger is made in float64.
        budget: c in (0, 0.04], shown first; the breakings are judged at the nearest of 15 budgets.
        damping: ε ≥ 0; 0 leaves out the lines about damping.

    Returns:
        A `Scene` with the axes "budget", c from 1e-6 to 0.04, and "broken": 0 for none, k for the k-th line.

    Raises:
        ValueError: budget or damping out of range; as in `ledger`.

    Examples:
        >>> budget, broken = ef.scenes.proof(ef.linear_regression(n=20)).axes
        >>> print(f"{len(broken.values) - 1} lines can be broken, first {broken.say(broken.default)}")
        12 lines can be broken, first “stationarity” (the step goes along −g)
    """
    start = nearest(BUDGETS, within_view(budget))
    judge = partial(ledger, problem.loss_fn, problem.params, problem.x, problem.y, damping=damping)
    intact = [judge(budget=c) for c in BUDGETS.tolist()]
    names = tuple(found.name for found in intact[0])
    first = {BREAKS[name][1]: name for name in reversed(names)}  # by what is done: some lines break alike
    judged = {harm: judge(budget=start, break_line=name) for harm, name in first.items()}
    broken = [intact[BUDGETS.tolist().index(start)], *(judged[BREAKS[name][1]] for name in names)]
    exact = np.array([found.order is None for found in intact[0]])
    return Scene(
        title="The proof, line by line: which lines hold, and which fall together?",
        axes=(
            Axis("budget", "budget c", BUDGETS, start, scientific, play=4),
            Axis("broken", "break a line", np.arange(len(names) + 1.0), ALONG["broken"], _say),
        ),
        data={
            "start": jnp.asarray(start, float),
            "gaps": _gaps(intact),
            "broken_gaps": _gaps(broken),
            "falls": jnp.asarray([[not found.holds for found in lines] for lines in broken]),
            "exact": jnp.asarray(np.flatnonzero(exact)),
            "ordered": jnp.asarray(np.flatnonzero(~exact)),
        },
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAAB", "AAB"),
        words=WORDS,
        labels={"names": names},
        size=(10.0, 1.7 + 0.25 * len(names)),
        narrow=(4.8, 1.2 + 0.58 * len(names)),
        handles=(Handle("hand", ("broken",), "the line to break"),),
        presets=PRESETS,
    )


WORDS = (
    "Unbroken, {exact_lines:.0f} of the {lines:.0f} lines hold to rounding, whatever c is; the other "
    "{ordered_lines:.0f} are approximations: at c = {budget} they miss by {least:.2g} to {most:.2g} of what they "
    "state, and by less at a smaller c. Broken: {broken}. Judged at c = {judged:.2g}, {fallen_lines:.0f} of the lines "
    "fall and {standing:.0f} stand."
)
PRESETS = (
    Preset("Intact", {"broken": 0}, "Every line holds: three to an order, all others to rounding.",
           "Which three lines can hold only to an order, and what do they have in common?"),
    Preset("A tiny step", {"broken": 0, "budget": 1e-6}, "The smaller the step, the truer the three approximations.",
           "If c is a hundredth, by what factor do their errors shrink?"),
    Preset("Along −g", ALONG,
           "The cost is spent, yet the direction is not the best: what speaks of the optimum falls.",
           "The step costs exactly c: which lines do not notice that it is the wrong one?"),
    Preset("Square of the mean", {"broken": 1 + NAMES.index("quadratic form")},
           "With ggᵀ in the place of C the cost is wrong, and the step with it.",
           "Why does Cu = g still have a solution here?"),
)  # fmt: skip


def background(data):
    """The lines that hold to an order, at every budget."""
    trail = points(data["gaps"][:, data["ordered"]], data["ordered"].astype(float))
    return {"trail": trail.reshape(-1, 2)}


def respond(data, state):
    """The dots at the budget, and the verdicts where a line is broken."""
    gaps = data["gaps"][place_of(state["budget"], BUDGETS)]
    place, hand = state["broken"].astype(int), state["broken"] - 1
    falls, found = data["falls"][place], data["broken_gaps"][place]
    rows, exact, ordered = jnp.arange(len(falls), dtype=float), data["exact"], data["ordered"]
    intact, fallen = (points(jnp.where(falls, gap, AWAY), rows) for gap in (data["broken_gaps"][0], found))
    half = jnp.where(hand < 0, 0, 0.5)  # no strip where nothing is broken
    return {
        "exact": points(gaps[exact], rows[exact]),
        "ordered": points(gaps[ordered], rows[ordered]),
        "fall": jnp.stack([intact, fallen], axis=1),
        "fallen": fallen,
        "stands": points(jnp.where(falls, -9.0, 0.0), rows),
        "falls": points(jnp.where(falls, 1.0, -9.0), rows),
        "row": strip(SIDES, hand, half),
        "verdict_row": strip(COLUMNS, hand, half),
        "hand": points(2.0, hand),
        **numbers(lines=len(falls), exact_lines=len(exact), ordered_lines=len(ordered)),
        **numbers(least=jnp.min(gaps[ordered]), most=jnp.max(gaps[ordered]), judged=data["start"]),
        **numbers(fallen_lines=jnp.sum(falls), standing=jnp.sum(~falls)),
    }


def still(panels, background):
    """One row a line: what it says, how far it is from holding, and the verdict."""
    gap, verdict = (panels[letter] for letter in "AB")
    names = background["names"]
    wide, rows = is_wide(gap.figure), range(len(names))
    for panel in (gap, verdict):
        panel.set_ylim(len(names) - 0.3, -2.3 if wide else -1.5)
        panel.tick_params(length=0)
        panel.spines[["left", "bottom"]].set_visible(False)
        for row in rows:
            panel.axhline(row, color=FAINT, lw=0.5)
    gap.set(xscale="log", xlim=SIDES, xlabel="relative error")
    ticks = {1e-16: "10⁻¹⁶", 1e-8: "10⁻⁸", 1e-4: "10⁻⁴", 1: "1"} | ({1e-12: "10⁻¹²"} if wide else {})
    gap.set_xticks([*ticks], [*ticks.values()])
    gap.minorticks_off()
    gap.axvline(TOLERANCE, color=CONSTRAINT, lw=1, ls=(0, (4, 2)))
    gap.set_yticks(rows, names, ha="left", color=CONSTRAINT)
    gap.tick_params(axis="y", pad=302 if wide else 94)
    place = {"xytext": (-206, 0) if wide else (-94, -14), "textcoords": "offset points", "va": "center"}
    look = {"fontsize": 9, "color": INK[OTHER], "bbox": {"fc": "white", "ec": "none", "pad": 0.5}}
    for row, name in enumerate(names):
        at = {"xy": (0, row), "xycoords": gap.get_yaxis_transform(), "annotation_clip": False}
        gap.annotate(STATEMENTS[name][0].replace("-", "−"), **at, **place, **look)
    gap.plot(*background["trail"].T, "|", color=TRUTH, ms=6, alpha=0.5)
    key(gap, "upper left", ("exact", EMPIRICAL_FISHER))
    key(gap, "upper right", ("to an order", TRUTH), ("broken", CANDIDATE))
    verdict.set(xlim=COLUMNS, yticks=[])
    verdict.set_xticks([0, 1, 2], ["holds", "falls", "break"] if wide else ["✓", "✗", "break"])
    verdict.xaxis.tick_top()


def _say(place: float) -> str:
    """Name the broken line, and the harm."""
    if not place:
        return "nothing"
    name = NAMES[round(place) - 1]
    return f"“{name}” ({BREAKS[name][0]})".replace(" -", " −").replace("(-", "(−")


def _gaps(ledgers):
    """The discrepancy of every line of every ledger, as it is drawn."""
    residuals = np.array([[found.residual for found in lines] for lines in ledgers])
    return jnp.asarray(np.clip(np.nan_to_num(residuals, nan=LARGEST), EXACT, LARGEST), float)
