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
from matplotlib.ticker import MaxNLocator

from efisher_teach import errors
from efisher_teach.core.gradients import cancels, mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import agreement_of, solve_spectral, spectrum
from efisher_teach.core.step import step_along
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CONSTRAINT, DATA, DESCENT, EMPIRICAL_FISHER, FAINT, TRUTH
from efisher_teach.figures.marks import centre, dots, key, line, polygons, set_up
from efisher_teach.figures.plane import WIDEST, ellipse, gradients, height_of, points, within_view
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
ASPECT = 1.25  # width by height of the panel of the plane
NEEDLE = 1e-6  # of the largest eigenvalue of an ellipse: one that is thinner is cut
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
        n = len(rows)
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
    drawn = f"{{n:.0f}} of {n}" if n > len(rows) else "{n:.0f}"
    data |= {"G": rows, "factors": factors, "shown": shown}
    data["plane"] = _plane(g, undamped, factors, plane, rng)
    return Scene(
        title="Your model: its plane, its spectrum, its examples",
        axes=(Axis("damping", "damping ε", DAMPINGS, DAMPINGS[24], lambda e: scientific(e * largest), 6),),
        data=data,
        background=background,
        respond=respond,
        marks=MARKS if problem is None else TRUE_MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        labels={"directions": PLANES[plane]},
        words=(ALONE if problem is None else WORDS).replace("{n:.0f}", drawn),
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
    "damping leaves Σ μ/(μ + ε) = {kept:.1f} directions, and the step is {length:.3g} long; its shadow in this plane "
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
    G, basis, factors = data["G"], data["plane"], data["factors"]
    steps = _steps(data, jnp.asarray(DAMPINGS, G.dtype))
    shadow = jnp.concatenate([dot(steps, basis), ellipse(G, basis, 121, NEEDLE), _descent(data)[None]])
    reach = view.frame(1.08 * jnp.sqrt(WIDEST) * jnp.max(jnp.abs(shadow), axis=0), ASPECT)
    ranks, eigenvalues, floor = _ranked(factors)
    found = {
        "reach": reach,
        "change_limits": view.height_limits(dot(steps, G[data["shown"]].T), -1.6, 0.3),
        "eigenvalues": points(ranks, eigenvalues),
        "spectrum_limits": jnp.stack([floor, 1000 * factors.eigenvalues[0]]),
        "ranks": jnp.asarray(float(len(factors.eigenvalues))),
        "shown": jnp.asarray(len(data["shown"])),
    }
    if "problem" in data:
        grid = jnp.linspace(-1, 1, 25)
        places = view.grid_of(reach[0] * grid, reach[1] * grid).reshape(-1, 2)

        def loss(place):
            return jnp.mean(_changes(data["problem"], dot(basis, place)))

        found |= {"grid": grid, "loss": jax.lax.map(loss, places, batch_size=25).reshape(25, 25)}
    return found


def respond(data, state):
    """The step at ε, in the plane, in the spectrum and in every example."""
    G, factors, basis, rms = data["G"], data["factors"], data["plane"], jnp.sqrt(data["budget"])
    damping, order = factors.eigenvalues[0] * state["damping"], data["shown"]
    delta = rms * _steps(data, state["damping"][None])[0]
    tip, descent, length = dot(delta, basis), rms * _descent(data), jnp.linalg.norm(delta)
    predicted = dot(G, delta)
    ranks, eigenvalues, _ = _ranked(factors)
    above, level = points(ranks, jnp.maximum(eigenvalues, damping)), points(ranks, damping)
    last = float(len(factors.eigenvalues))
    found = {
        "ellipse": rms * ellipse(G, basis, 121, NEEDLE),
        "path": rms * dot(_steps(data, jnp.asarray(DAMPINGS, G.dtype)), basis),
        **view.from_origin(descent=descent, step=tip),
        "descent_tip": descent,
        "tip": tip,
        "kept_area": jnp.concatenate([above, level[::-1]])[None],
        "level": points([0.5, last + 0.5], damping),
        "level_dot": points(0.5 + 0.96 * last, damping),
        "bars": view.bars(height_of(predicted[order], rms)),
        "mean": points([-1.0, len(order)], jnp.mean(predicted) / rms),
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
            "changes": view.beside_bars(height_of(actual[order], rms)),
            "actual": jnp.mean(actual),
            "worse": 100 * jnp.mean(actual > 0, dtype=G.dtype),
        }
    return found


def still(panels, background):
    """Steps in the plane, over the true loss where it is known; the spectrum of C; some examples."""
    plane, values, each = (panels[letter] for letter in "ABC")
    reach, true = background["reach"], "loss" in background
    if true:
        loss, (across, up) = background["loss"], (side * background["grid"] for side in reach)
        levels = MaxNLocator(16).tick_values(loss.min(), np.quantile(loss, 0.9))
        plane.contour(across, up, loss, levels=levels, colors=FAINT, linewidths=0.9, linestyles="solid")
    x, y = background["directions"]
    centre(plane, reach, ASPECT, xlabel=x, ylabel=y)
    plane.set_title("Steps of one cost" + (", over the true loss" if true else ""))
    key(plane, "upper left", ("the step at ε: drag it", EMPIRICAL_FISHER), ("−g", DESCENT))
    key(plane, "lower right", ("cost c, in this plane", CONSTRAINT))

    values.plot(*background["eigenvalues"].T, color=CONSTRAINT, marker="o", ms=2.5, lw=1)
    set_up(values, log="y", ylim=background["spectrum_limits"], xlabel="rank of the eigenvalue")
    values.set(xlim=(0.5, background["ranks"] + 0.5), title="Eigenvalues of C: kept above ε")
    values.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    key(values, "upper right", ("ε: drag it", EMPIRICAL_FISHER))

    shown = int(background["shown"])
    set_up(each, zero=True, xlim=(-1, shown), ylim=background["change_limits"], xticks=[])
    each.set(xlabel=f"{shown} examples, by gain along −g", title="Change of each loss, in √c")
    key(each, "upper left", ("first order, and its mean", DATA), *([("true", TRUTH)] if true else []))


@jax.jit
def _examine(G):
    """True if g is 0; g; the factors of C; C⁺g; and the examples that are shown.

    Each of these keeps its place at every ε, by what a step along −g brings it.
    """
    g, factors, shown = mean_gradient(G), spectrum(G), min(SHOWN, len(G))
    order = jnp.argsort(-dot(G, g))[((np.arange(shown) + 0.5) / shown * len(G)).astype(int)]
    return cancels(G, g), g, factors, solve_spectral(factors, 0.0), order


def _plane(g, undamped, factors, name, rng):
    """An orthonormal basis (p, 2): of the first two independent directions of those that the plane is made of."""
    V = np.asarray(factors.parameter_vectors, np.float64)[:, :2]
    noise = rng.normal(size=(len(g), 3))
    steps = -np.stack([g, undamped], axis=1).astype(np.float64)
    first = {"steps": np.hstack([steps, V]), "eigenvectors": V, "random": noise}[name]
    first, *others = np.hstack([first, noise]).T
    along = across = first / np.linalg.norm(first)
    for direction in others:
        across = direction
        for _ in range(2):  # a second time, for what rounding left
            across = across - along * (along @ across)
        if np.linalg.norm(across) > 1e-4 * np.linalg.norm(direction):
            break
    return jnp.asarray(np.stack([along, across / np.linalg.norm(across)], axis=1), g.dtype)


def _steps(data, dampings):
    """Steps of cost 1 for ε in largest eigenvalues, (m, p)."""
    G, factors = data["G"], data["factors"]
    u = solve_spectral(factors, factors.eigenvalues[0] * dampings)
    return -u / jnp.sqrt(jnp.mean(dot(u, G.T) ** 2, axis=1, keepdims=True))


def _descent(data):
    """The projection of the step along −g of cost 1, (2,)."""
    G = data["G"]
    return dot(step_along(G, -mean_gradient(G), 1.0), data["plane"])


def _changes(problem, delta):
    """The true change of each loss; one that overflows is a million."""
    flat, unravel = ravel_pytree(problem.params)
    losses = jax.vmap(problem.loss_fn, in_axes=(None, 0, 0))
    after = losses(unravel(flat + delta.astype(flat.dtype)), problem.x, problem.y)
    change = after - losses(problem.params, problem.x, problem.y)
    return jnp.clip(jnp.nan_to_num(change, nan=1e6, posinf=1e6), -1e6, 1e6)


def _ranked(factors):
    """Some ranks, evenly spaced; the eigenvalues there, none below the view; and the lower limit of the view."""
    eigenvalues, count = factors.eigenvalues, len(factors.eigenvalues)
    least = jnp.min(jnp.where(eigenvalues > 0, eigenvalues, eigenvalues[0]))
    floor = jnp.clip(least / 3, 1e-10 * eigenvalues[0], 3e-8 * eigenvalues[0])
    ranks = np.unique(np.linspace(0, count - 1, min(count, RANKS)).astype(int))
    return jnp.asarray(ranks + 1.0), jnp.maximum(eigenvalues[ranks], floor), floor
