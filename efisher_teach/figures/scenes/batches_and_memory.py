"""Batches and memory: a minibatch's step answers another question exactly; averaging such steps does not repair it.

At a θ that stays, batch after batch makes its step -η(C_B + εI)⁻¹g_B. Its examples are all that it knows: as long as
there are no more of them than parameters, each is given all that it asks for, and the others what is left. Two memories
help, each with a weight that falls by the factor 1 - 1/m from batch to batch:

    of C       Δ = -η(C̄ + εI)⁻¹g_B, with C̄ the running average of C_B
    of steps   Δ minimises E_B[(gᵢᵀΔ + η)²] + ε‖Δ - βΔ₋‖²: what the last step gave to earlier batches is kept
"""

import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core.batches import Moments, misses, moments, steps_with_last, steps_with_matrix
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_by_two import solve_each
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CANDIDATE, DATA, EMPIRICAL_FISHER, OTHER, TRUTH, UNDAMPED
from efisher_teach.figures.marks import arrow, centre, dots, key, label, line, set_up
from efisher_teach.figures.plane import from_origin, no_farther, over
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

BATCHES, LARGEST = 2.0 ** np.arange(7), 64
MEMORIES, DAMPINGS = 2.0 ** np.arange(6), np.logspace(-4, 0, 9)
RATE = 0.1  # η, the decrease that is asked for
STEPS, UNCOUNTED, SHOWN = 600, 100, 60  # of a run; those that memories need to fill; those with a dot
HIGHEST = 1.9  # miss that is shown
ASPECT, BEYOND = 1.1, 3.0  # width by height of the plane; how far beyond the undamped step it reaches
MARKS = {
    "cloud": dots("A", DATA, 5),
    "undamped": arrow("A", UNDAMPED),
    "full": arrow("A", EMPIRICAL_FISHER),
    "mean": dots("A", CANDIDATE, 9),
    "best": line("B", EMPIRICAL_FISHER, 1.8, dashes=(5, 2)),
    "own": line("B", DATA, 2.4),
    "all": line("B", TRUTH, 2.4),
    "own_here": dots("B", DATA, 9),
    "all_here": dots("B", TRUTH, 9),
}


def batches_and_memory(problem: Problem, *, remember: str = "C", seed: int = 0) -> Scene:
    """Drag the batch size, ε and a memory: the cloud of minibatch steps, its mean, and whom a step serves.

    Args:
        problem: With `params` of shape (2,) and 64 examples or more.
        remember: What the memory keeps: "C", the running average of the matrix, or "steps", as SPRING does.
        seed: Of the batches; each is drawn without replacement.

    Returns:
        A `Scene` with the axes "batch" (B), "memory" (m batches; 1 is none) and "damping".

    Raises:
        ValueError: params is not (2,), there are fewer than 64 examples, or remember is neither of the two.

    Reference:
        G. Goldshlager, N. Abrahamsen, L. Lin, "A Kaczmarz-inspired approach to accelerate the optimization of neural
        network wavefunctions", 2024, for the memory of steps.

    Examples:
        >>> scene = ef.scenes.batches_and_memory(ef.breast_cancer(2))
        >>> print(scene.presets[0].asks)
        And the examples that are not in the batch?
    """
    view.require_two_parameters(problem)
    view.require_examples(problem, LARGEST)
    errors.one_of("remember", remember, ("C", "steps"))
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(len(problem.y))[:LARGEST] for _ in range(STEPS)])
    return Scene(
        title="Batches and memory: whom does a step serve?",
        axes=(
            Axis("batch", "batch size B", BATCHES, 2.0, lambda value: f"{value:.0f}"),
            Axis("memory", f"memory m, of {remember}", MEMORIES, 1.0, lambda value: f"{value:.0f}"),
            Axis("damping", "damping ε", DAMPINGS, 1e-4, scientific),
        ),
        data={"problem": problem, "drawn": jnp.asarray(drawn)},
        background=background,
        respond=respond_by_matrix if remember == "C" else respond_by_step,
        marks=MARKS,
        still=still,
        mosaic=("AB", "A;B"),
        words=WORDS,
        size=(10.0, 4.6),
        narrow=(4.8, 8.4),
        presets=(*PRESETS, REMEMBERED[remember]),
    )


WORDS = (
    "Batches of {batch}, a memory of {memory}, ε = {damping}. Each step asks its batch for a decrease of η = 0.1. The "
    "batch misses it by {own_misses:.2f} η (root mean square; mean over batches), all examples by {all_miss:.2f} η. "
    "Without a step that would be 1 η, with the step of all examples {least:.2f} η. The mean of the steps is off that "
    "step by {off:.0f} % of its length; single steps scatter about their mean by {scatter:.0f} %."
)
PRESETS = (
    Preset("One example", {"batch": 1.0, "memory": 1.0, "damping": 1e-4},
           "The one example gets all that it asks for, by the shortest step that does it.",
           "And the examples that are not in the batch?"),
    Preset("Two examples", {"batch": 2.0, "memory": 1.0, "damping": 1e-4},
           "As many as there are parameters: both still get nearly all that they ask for, some by a very long step.",
           "Why do all examples together do worse than with batches of one?"),
    Preset("Many", {"batch": 64.0, "memory": 1.0, "damping": 1e-4},
           "What serves these 64 serves all examples nearly as well: the two curves meet.",
           "Where would they meet for a network with a million parameters?"),
)  # fmt: skip
REMEMBERED = {
    "C": Preset("Remembered", {"batch": 2.0, "memory": 32.0, "damping": 1e-4},
                "The batch still has two examples, but the step knows of others.",
                "Who pays for it?"),
    "steps": Preset("Remembered", {"batch": 16.0, "memory": 32.0, "damping": 0.1},
                    "The step stays near the last ones, which served other batches.",
                    "Does anybody pay for it?"),
}  # fmt: skip


def background(data):
    """Room for the steps."""
    longest = RATE * jnp.linalg.norm(solve_each(*_known(data)[1], 0.0))
    return {"reach": BEYOND * longest * jnp.array([ASPECT, 1.0])}


def respond_by_matrix(data, state):
    """Steps with the running average of C, and the gradient of their own batch."""
    return _seen(data, state, steps_with_matrix)


def respond_by_step(data, state):
    """Steps that keep a part of the last one."""
    return _seen(data, state, steps_with_last)


def _seen(data, state, take):
    """All that is drawn and said of steps (STEPS, 7, 2), of batches of each size."""
    batches, every = _known(data)
    steps = take(batches, 1 - 1 / state["memory"], state["damping"], RATE)[UNCOUNTED:]
    counted = Moments(batches.C[UNCOUNTED:], batches.g[UNCOUNTED:])
    own, whole = (jnp.mean(misses(steps, asked, RATE), axis=0) for asked in (counted, every))
    full, undamped = (-RATE * solve_each(*every, damping) for damping in (state["damping"], 0.0))
    least = misses(full, every, RATE)
    here = view.place_of(state["batch"], BATCHES)
    sizes, ours, shown = jnp.asarray(BATCHES, steps.dtype), steps[:, here], (0.0, HIGHEST)
    mean, length = ours.mean(axis=0), jnp.linalg.norm(full)
    spread = jnp.sqrt(jnp.mean(jnp.sum((ours - mean) ** 2, axis=-1)))
    return {
        "cloud": no_farther(ours[-SHOWN:] + 1e-9, 2 * BEYOND * jnp.linalg.norm(undamped)),
        **from_origin(full=full, undamped=undamped),
        "mean": mean,
        **over(sizes, shown, own=own, all=whole),
        **over(sizes[here], shown, own_here=own[here], all_here=whole[here]),
        **over(sizes[jnp.array([0, -1])], best=least),
        **view.numbers(own_misses=own[here], all_miss=whole[here], least=least),
        **view.percent(off=jnp.linalg.norm(mean - full) / length, scatter=spread / length),
    }


def still(panels, background):
    """The plane of the steps, and what is asked for."""
    plane, served = panels["A"], panels["B"]
    title = f"Steps of {SHOWN} batches, and their mean"
    centre(plane, background["reach"], ASPECT, xlabel="Δ₁", ylabel="Δ₂", title=title)
    steps = ("steps of batches", DATA), ("their mean", CANDIDATE)
    key(plane, "upper left", *steps, ("step of all examples", EMPIRICAL_FISHER), ("undamped", UNDAMPED))
    set_up(served, log="x", xlim=(0.8, 80), ylim=(0, HIGHEST), xlabel="batch size B")
    served.set_xticks(BATCHES, [f"{size:.0f}" for size in BATCHES], minor=False)
    served.axhline(1, color=OTHER, lw=1)
    label(served, 60, 1.02, "without a step", OTHER, ha="right", va="bottom")
    served.set_title("How far examples miss η, in units of η")
    key(served, "upper left", ("all examples", TRUTH), ("its own batch", DATA))
    key(served, "lower right", ("all, by the step of all (dashed)", EMPIRICAL_FISHER))


def _known(data):
    """The moments of every batch in each size (STEPS, 7), and those of all examples."""
    G = view.gradients(data["problem"])
    batches = moments(G, data["drawn"], tuple(BATCHES.astype(int).tolist()))
    return batches, Moments(dot(G.T, G) / len(G), G.mean(axis=0))
