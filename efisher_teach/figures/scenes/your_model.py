"""Your model: a plane of any model's parameters, its spectrum, and what a step asks of each example.

A `Problem` with parameters of any shape, or nothing but per-example gradients G (n, p), from any framework. C (p, p) is
never formed: all of it that matters is in the n × n dual, and so thousands of parameters are no trouble.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from matplotlib.ticker import MaxNLocator, NullFormatter

from efisher_teach import errors
from efisher_teach.core.gradients import cancels, mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import agreement_of, solve_spectral, spectrum
from efisher_teach.core.step import step_along
from efisher_teach.figures.ink import CONSTRAINT, DATA, DESCENT, EMPIRICAL_FISHER, FAINT, TRUTH, UNDAMPED
from efisher_teach.figures.marks import dots, key, line, polygons
from efisher_teach.figures.plane import WIDEST, circle, frame, gradients, rectangles, within_view
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 49)  # in largest eigenvalues of C
PLANES = {
    "steps": ("along −g", "across, towards −C⁺g"),
    "eigenvectors": ("first eigenvector of C", "second eigenvector of C"),
    "random": ("a random direction", "another one"),
}
MOST = 300  # examples: of more, so many are drawn
SHOWN = 36  # examples with a bar
RANKS = 64  # eigenvalues that are drawn, evenly spaced
FARTHEST = 12.0  # in √c: where what would leave the view stays
ASPECT = 1.25  # width by height of the panel of the plane
MARKS = {
    "ellipse": line("A", CONSTRAINT, 1.8),
    "kept_area": polygons("B", f"{EMPIRICAL_FISHER}40"),
    "level": line("B", EMPIRICAL_FISHER, 1.8),
    "bars": polygons("C", DATA),
    "path": line("A", EMPIRICAL_FISHER, 1.3, dashes=(2, 2)),
    "mean": line("C", DATA, 1.8, dashes=(4, 2)),
    "descent": line("A", DESCENT, 2.5),
    "descent_tip": dots("A", DESCENT),
    "step": line("A", EMPIRICAL_FISHER, 2.5),
    "tip": dots("A", EMPIRICAL_FISHER, 10),
    "level_dot": dots("B", EMPIRICAL_FISHER, 9),
}
TRUE_MARKS = MARKS | {"changes": dots("C", TRUTH, 5)}


def your_model(
    problem: Problem | None = None,
    *,
    G: ArrayLike | None = None,
    plane: str = "steps",
    budget: float = 0.01,
    seed: int = 0,
) -> Scene:
    """Take a step of cost c on your own model, at any ε.

    Args:
        problem: A model with data; `params` are any pytree. Of more than 300 examples, 300 are drawn.
        G: Per-example gradients (n, p) in its place, e.g. from PyTorch. Then there are no true losses to compare with.
        plane: What is seen of the p parameters: "steps", the plane of −g and −C⁺g; "eigenvectors", the two leading
            ones of C; "random", two directions at random.
        budget: c, in (0, 0.04]: the view has room for that much.
        seed: Of the random directions, and of the examples that are drawn.

    Returns:
        A `Scene` with the axis "damping": ε from 1e-7 to 10 times the largest eigenvalue of C.

    Raises:
        ValueError: Neither or both of problem and G; a bad G or a loss whose gradient is not finite; fewer than two
            examples or parameters; a mean gradient of 0; an unknown plane; budget out of range.

    Examples:
        >>> scene = ef.scenes.your_model(G=jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))  # or a Problem of yours
        >>> print(scene.title)
        Your model: its plane, its spectrum, its examples
        >>> print(scene.presets[2].asks)
        Which of your examples gain most now, and which pay?
    """
    if (problem is None) == (G is None):
        got = "neither" if problem is None else "both"
        errors.reject("problem", "given, or else G", got, "Give a Problem, or per-example gradients (n, p).")
    errors.one_of("plane", plane, tuple(PLANES))
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {"budget": jnp.asarray(within_view(budget), float)}
    if problem is None:
        name, rows = "G", errors.gradients(G)
    else:
        n = len(jax.tree.leaves(problem.x)[0])
        drawn = np.sort(rng.permutation(n)[:MOST])
        x, y = jax.tree.map(lambda leaf: leaf[drawn], (problem.x, problem.y))
        data["problem"] = problem._replace(x=x, y=y, x_test=None, y_test=None)
        name, rows = "problem", gradients(data["problem"])
    if min(rows.shape) < 2:
        got, action = f"shape {rows.shape}", "A plane needs two parameters, a mean two examples."
        errors.reject(name, "with (n, p) gradients, n ≥ 2 and p ≥ 2", got, action)
    nothing, g, factors, undamped, shown = _examine(rows)
    if nothing:
        errors.reject(name, "where the mean gradient is not 0", "g = 0", "At a minimum no step is best.")
    largest = float(factors.eigenvalues[0])
    data |= {"G": rows, "factors": factors, "shown": shown}
    data["plane"] = _plane(g, undamped, factors, plane, rng)
    return Scene(
        title="Your model: its plane, its spectrum, its examples",
        axes=(
            Axis(
                "damping",
                "damping ε",
                DAMPINGS,
                DAMPINGS[24],
                lambda value: scientific(value * largest),
                play=6,
            ),
        ),
        data=data,
        background=background,
        respond=respond,
        marks=MARKS if problem is None else TRUE_MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        labels={"directions": PLANES[plane]},
        words=ALONE if problem is None else WORDS,
        size=(10.0, 5.8),
        narrow=(4.8, 11.0),
        handles=(
            Handle("tip", ("damping",), "the step at ε"),
            Handle("level_dot", ("damping",), "ε beside the eigenvalues"),
        ),
        presets=PRESETS,
    )


START = (
    "{n:.0f} examples, {p:.0f} parameters: C has rank {rank:.0f}, and ρ = {agreement:.3f}. At ε = {damping} the "
    "damping leaves Σ λ/(λ + ε) = {kept:.1f} directions, and the step is {length:.3g} long; its shadow in this plane "
    "has {inside:.0f} % of that. It promises a mean loss change of {predicted:+.4f}"
)
WORDS = START + (
    "; the true one is {actual:+.4f}, and {worse:.0f} % of the losses rise, {promised_worse:.0f} % to first order."
)
ALONE = START + (
    ", and {promised_worse:.0f} % of the losses rise to first order; from gradients alone, the true changes are not "
    "known."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7}, "Every direction is kept: equal falls for all, as far as the model allows.",
           "Does the promise come true on your model? Where is the step long?"),
    Preset("The large ones", {"damping": 1e-2}, "What C hardly knows is left out, and the step is shorter.",
           "How many of your parameters' directions are left?"),
    Preset("Like −g", {"damping": 10.0}, "ε is above every eigenvalue: the direction is that of the mean gradient.",
           "Which of your examples gain most now, and which pay?"),
)  # fmt: skip


def background(data):
    """The eigenvalues, limits that hold for every ε, and the true loss in the plane where there is one."""
    G, factors, root = data["G"], data["factors"], jnp.sqrt(WIDEST)
    steps = _steps(data, jnp.asarray(DAMPINGS, G.dtype))
    shadow = jnp.concatenate([dot(steps, data["plane"]), _ellipse(data), _descent(data)[None]])
    reach = frame(1.08 * root * jnp.max(jnp.abs(shadow), axis=0), ASPECT)
    asked = dot(steps, G[data["shown"]].T)
    low, high = jnp.minimum(jnp.min(asked), -1.6), jnp.maximum(jnp.max(asked), 0.4)
    limits = jnp.stack([low - 0.08 * (high - low), high + 0.3 * (high - low)])
    ranks, eigenvalues = _ranked(factors)
    found = {
        "reach": reach,
        "change_limits": jnp.clip(limits, -FARTHEST, FARTHEST),
        "eigenvalues": jnp.stack([ranks, eigenvalues], axis=-1),
        "spectrum_limits": jnp.stack([_floor(factors), 1000 * factors.eigenvalues[0]]),
        "ranks": jnp.asarray(float(len(factors.eigenvalues))),
        "fall": -jnp.sqrt(agreement_of(factors)),
        "shown": jnp.asarray(len(data["shown"])),
    }
    if "problem" in data:
        grid = jnp.linspace(-1, 1, 25)
        places = jnp.stack(jnp.meshgrid(reach[0] * grid, reach[1] * grid), axis=-1).reshape(-1, 2)

        def loss(place):
            return jnp.mean(_changes(data["problem"], dot(data["plane"], place)))

        found["grid"], found["loss"] = grid, jax.lax.map(loss, places, batch_size=25).reshape(25, 25)
    return found


def respond(data, state):
    """The step at ε, in the plane, in the spectrum and in every example."""
    G, factors, plane, rms = data["G"], data["factors"], data["plane"], jnp.sqrt(data["budget"])
    largest = factors.eigenvalues[0]
    damping, dampings = largest * state["damping"], jnp.asarray(DAMPINGS, G.dtype)
    delta = rms * _steps(data, state["damping"][None])[0]
    tip, zero = dot(delta, plane), jnp.zeros(2, G.dtype)
    predicted = dot(G, delta)
    order = data["shown"]
    places = jnp.arange(len(order), dtype=G.dtype)
    ranks, eigenvalues = _ranked(factors)
    above = jnp.stack([ranks, jnp.maximum(eigenvalues, damping)], axis=-1)
    level = jnp.stack([ranks, jnp.broadcast_to(damping, ranks.shape)], axis=-1)
    last = float(len(factors.eigenvalues))
    length = jnp.linalg.norm(delta)
    found = {
        "ellipse": rms * _ellipse(data),
        "path": rms * dot(_steps(data, dampings), plane),
        "descent": jnp.stack([zero, rms * _descent(data)]),
        "descent_tip": rms * _descent(data),
        "step": jnp.stack([zero, tip]),
        "tip": tip,
        "kept_area": jnp.concatenate([above, level[::-1]])[None],
        "level": jnp.stack([jnp.array([0.5, last + 0.5]), jnp.broadcast_to(damping, 2)], axis=-1),
        "level_dot": jnp.stack([0.5 + 0.96 * last, damping]),
        "bars": rectangles(places, _height(predicted[order] / rms), 0.8),
        "mean": jnp.stack(
            [jnp.array([-1.0, len(order)]), jnp.broadcast_to(jnp.mean(predicted) / rms, 2)], axis=-1
        ),
        "n": jnp.asarray(float(len(G))),
        "p": jnp.asarray(float(G.shape[1])),
        "rank": jnp.sum(factors.eigenvalues > 0, dtype=G.dtype),
        "agreement": agreement_of(factors),
        "kept": jnp.sum(factors.eigenvalues / (factors.eigenvalues + damping)),
        "length": length,
        "inside": 100 * jnp.linalg.norm(tip) / length,
        "predicted": jnp.mean(predicted),
        "promised_worse": 100 * jnp.mean(predicted > 0, dtype=G.dtype),
    }
    if "problem" in data:
        actual = _changes(data["problem"], delta)
        found |= {
            "changes": jnp.stack([places, _height(actual[order] / rms)], axis=-1),
            "actual": jnp.mean(actual),
            "worse": 100 * jnp.mean(actual > 0, dtype=G.dtype),
        }
    return found


def still(panels, background):
    """Steps in the plane, over the true loss where it is known; the spectrum of C; some examples."""
    plane, values, each = (panels[letter] for letter in "ABC")
    reach, true = background["reach"], "loss" in background
    if true:
        across, up = (side * background["grid"] for side in reach)
        top = np.quantile(background["loss"], 0.9)
        levels = MaxNLocator(16).tick_values(background["loss"].min(), top)
        thin = {"colors": FAINT, "linewidths": 0.9, "linestyles": "solid"}
        plane.contour(across, up, background["loss"], levels=levels, **thin)
    x, y = background["directions"]
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), xlabel=x, ylabel=y)
    plane.set_title("Steps of one cost" + (", over the true loss" if true else ""))
    if np.isclose(reach[0], ASPECT * reach[1]):
        plane.set_aspect("equal")
    plane.plot(0, 0, "o", color=CONSTRAINT, ms=5)
    key(plane, "upper left", ("the step at ε: drag it", EMPIRICAL_FISHER), ("−g", DESCENT))
    key(plane, "lower right", ("cost c, in this plane", CONSTRAINT))

    values.plot(*background["eigenvalues"].T, color=CONSTRAINT, marker="o", ms=2.5, lw=1)
    values.set(yscale="log", ylim=background["spectrum_limits"], xlabel="rank of the eigenvalue")
    values.set(xlim=(0.5, background["ranks"] + 0.5), title="Eigenvalues of C: kept above ε")
    values.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    values.yaxis.set_minor_formatter(NullFormatter())
    key(values, "upper right", ("ε: drag it", EMPIRICAL_FISHER))

    shown = int(background["shown"])
    each.set(xlim=(-1, shown), ylim=background["change_limits"], xticks=[])
    each.set(xlabel=f"{shown} examples, by gain along −g", title="Change of each loss, in √c")
    each.axhline(0, color=FAINT, lw=1)
    each.axhline(background["fall"], color=UNDAMPED, lw=1.8, ls=(0, (1, 1.2)))
    key(each, "lower right", ("−√ρ, mean at ε = 0 (dotted)", UNDAMPED))
    key(each, "upper left", ("first order, and its mean", DATA), *([("true", TRUTH)] if true else []))


@jax.jit
def _examine(G):
    """True if g is 0; g; the factors of C; C⁺g; and the examples that are shown."""
    g, factors = mean_gradient(G), spectrum(G)
    return cancels(G, g), g, factors, solve_spectral(factors, 0.0), _shown(G)


def _plane(g, undamped, factors, name, rng):
    """An orthonormal basis (p, 2): of the first two independent directions of those that the plane is made of."""
    V = np.asarray(factors.parameter_vectors, np.float64)[:, :2]
    noise = rng.normal(size=(len(g), 3))
    steps = -np.stack([g, undamped], axis=1).astype(np.float64)
    first = {"steps": np.hstack([steps, V]), "eigenvectors": V, "random": noise}[name]
    basis = []
    for direction in np.hstack([first, noise]).T:
        size = np.linalg.norm(direction)
        for _ in range(2):  # a second time, for what rounding left
            for other in basis:
                direction = direction - other * (other @ direction)
        if np.linalg.norm(direction) > 1e-4 * size:
            basis.append(direction / np.linalg.norm(direction))
    return jnp.asarray(np.stack(basis[:2], axis=1), g.dtype)


def _shown(G):
    """The examples with a bar: each keeps its place at every ε, by what a step along −g brings it."""
    shown = min(SHOWN, len(G))
    order = jnp.argsort(-dot(G, mean_gradient(G)))
    return order[((np.arange(shown) + 0.5) / shown * len(G)).astype(int)]


def _steps(data, dampings):
    """Steps of cost 1 for ε in largest eigenvalues, (m, p)."""
    G, factors = data["G"], data["factors"]
    u = solve_spectral(factors, factors.eigenvalues[0] * dampings)
    return -u / jnp.sqrt(jnp.mean(dot(u, G.T) ** 2, axis=1, keepdims=True))


def _descent(data):
    """The projection of the step along −g of cost 1, (2,)."""
    G = data["G"]
    return dot(step_along(G, -mean_gradient(G), 1.0), data["plane"])


def _ellipse(data):
    """The points of the plane whose cost is 1; where the plane holds free directions, a needle is cut."""
    factors = spectrum(dot(data["G"], data["plane"]))
    eigenvalues = jnp.maximum(factors.eigenvalues, 1e-6 * factors.eigenvalues[0])
    return dot(circle(121) / jnp.sqrt(eigenvalues), factors.parameter_vectors.T)


def _changes(problem, delta):
    """The true change of each loss; one that overflows is a million."""
    flat, unravel = ravel_pytree(problem.params)
    losses = jax.vmap(problem.loss_fn, in_axes=(None, 0, 0))
    after = losses(unravel(flat + delta.astype(flat.dtype)), problem.x, problem.y)
    change = after - losses(problem.params, problem.x, problem.y)
    return jnp.clip(jnp.nan_to_num(change, nan=1e6, posinf=1e6), -1e6, 1e6)


def _ranked(factors):
    """Some ranks, evenly spaced, and the eigenvalues there, none below the view."""
    count = len(factors.eigenvalues)
    ranks = np.unique(np.linspace(0, count - 1, min(count, RANKS)).astype(int))
    return jnp.asarray(ranks + 1.0), jnp.maximum(factors.eigenvalues[ranks], _floor(factors))


def _floor(factors):
    """The lower limit of the view of the spectrum."""
    kept = jnp.where(factors.eigenvalues > 0, factors.eigenvalues, factors.eigenvalues[0])
    return jnp.clip(jnp.min(kept) / 3, 1e-10 * factors.eigenvalues[0], 3e-8 * factors.eigenvalues[0])


def _height(value):
    return jnp.clip(value, -FARTHEST, FARTHEST)
