"""Your model: a plane of any model's parameters, its spectrum, and what a step asks of each example.

A `Problem` of any size, or nothing but per-example gradients G (n, p), from any framework: C (p, p) is never formed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.ticker import MaxNLocator

from efisher_teach import errors
from efisher_teach.core.gradients import cancels, mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import agreement_of, solve_spectral, spectrum
from efisher_teach.core.step import step_along
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CONSTRAINT, DATA, DESCENT, EMPIRICAL_FISHER, TRUTH
from efisher_teach.figures.marks import centre, contours_of, dots, key, line, loss_panel, polygons, set_up
from efisher_teach.figures.plane import WIDEST, ellipse, height_of, numbers, percent, points
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 49)  # in largest eigenvalues of C
PLANES = {
    "steps": ("along −g", "across, towards −C⁺g"),
    "eigenvectors": ("first eigenvector of C", "second eigenvector of C"),
    "random": ("a random direction", "another one"),
}
MOST, SHOWN, RANKS = 300, 36, 64  # at most so many examples; those with a bar; eigenvalues that are drawn
ASPECT, NEEDLE = 1.25, 1e-6  # of the plane's panel; of an ellipse's largest eigenvalue: thinner ones are cut
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
        ValueError: Neither or both of problem and G; gradients that are not finite; fewer than two examples or
            parameters; a mean gradient of 0; an unknown plane; budget out of range.

    Examples:
        >>> scene = ef.scenes.your_model(G=jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))  # or a Problem of yours
        >>> print(scene.presets[2].asks)
        Which of your examples gain most now, and which pay?
    """
    if (problem is None) == (G is None):
        got = "neither" if problem is None else "both"
        errors.reject("problem", "given, or else G", got, "Give a Problem, or per-example gradients (n, p).")
    errors.one_of("plane", plane, tuple(PLANES))
    data: dict[str, Any] = {"budget": jnp.asarray(view.within_view(budget), float)}
    rng, name, count = np.random.default_rng(seed), "G", "{n:.0f}"
    if problem is not None:
        name, n = "problem", len(jax.tree.leaves(problem.x)[0])
        count += f" of {n}" if n > MOST else ""
        data["problem"] = view.only(problem, np.sort(rng.permutation(n)[:MOST]))
    rows = errors.gradients(G) if problem is None else view.gradients(data["problem"])
    if min(rows.shape) < 2:
        got, action = f"shape {rows.shape}", "A plane needs two parameters, a mean two examples."
        errors.reject(name, "with (n, p) gradients, n ≥ 2 and p ≥ 2", got, action)
    known, nothing = _examine(rows)
    if nothing:
        errors.reject(name, "where the mean gradient is not 0", "g = 0", "At a minimum no step is best.")
    largest = float(known["factors"].eigenvalues[0])
    return Scene(
        title="Your model: its plane, its spectrum, its examples",
        axes=(Axis("damping", "damping ε", DAMPINGS, DAMPINGS[24], lambda e: scientific(e * largest), 6),),
        data=data | known | {"plane": _plane(known, plane, rng)},
        background=background,
        respond=respond,
        marks=MARKS if problem is None else TRUE_MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        labels={"directions": PLANES[plane]},
        words=count + WORDS + (ALONE if problem is None else TRUE),
        size=(10.0, 5.8),
        narrow=(4.8, 11.0),
        handles=(
            Handle("tip", ("damping",), "the step at ε"),
            Handle("level_dot", ("damping",), "ε beside the eigenvalues"),
        ),
        presets=PRESETS,
    )


WORDS = (
    " examples, {p:.0f} parameters: C has rank {rank:.0f}, and ρ = {agreement:.3f}. At ε = {damping} the "
    "damping leaves Σ μ/(μ + ε) = {kept:.1f} directions, and the step is {length:.3g} long; its shadow in this plane "
    "has {inside:.0f} % of that. It promises a mean loss change of {predicted:+.4f}"
)
TRUE = "; the true one is {actual:+.4f}, and {worse:.0f} % of the losses rise, {promised_worse:.0f} % to first order."
ALONE = (
    ", and {promised_worse:.0f} % of the losses rise to first order; from gradients alone, the true changes are not "
    "known."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7}, "Every direction is kept: equal decreases, as far as the model allows.",
           "Does the promise come true on your model? Where is the step long?"),
    Preset("The large ones", {"damping": 1e-2}, "Small eigenvalues are left out, and the step is shorter.",
           "How many of your parameters' directions are left?"),
    Preset("Like −g", {"damping": 10.0}, "ε is above every eigenvalue: the direction is that of the mean gradient.",
           "Which of your examples gain most now, and which pay?"),
)  # fmt: skip


def background(data):
    """The eigenvalues, limits that hold for every ε, and the true loss in the plane where there is one."""
    G, basis, factors = data["G"], data["plane"], data["factors"]
    steps = _steps(data, jnp.asarray(DAMPINGS, G.dtype))
    shadows = dot(steps, basis), dot(data["descent"], basis)[None], ellipse(G, basis, 121, NEEDLE)
    half = jnp.max(jnp.abs(jnp.concatenate(shadows)), axis=0)
    reach = view.frame(1.08 * jnp.sqrt(WIDEST) * half, ASPECT)

    def loss(place):
        return view.mean_changes(data["problem"], dot(basis, place))

    return {
        "reach": reach,
        "change_limits": view.height_limits(dot(steps, G[data["shown"]].T), -3.0, 0.3),
        "eigenvalues": data["eigenvalues"],
        "spectrum_limits": jnp.stack([data["floor"], 1000 * factors.eigenvalues[0]]),
        **numbers(ranks=len(factors.eigenvalues), shown=len(data["shown"])),
        **(view.landscape(loss, reach, count=25) if "problem" in data else {}),
    }


def respond(data, state):
    """The step at ε, in the plane, in the spectrum and in every example."""
    G, factors, basis, rms = data["G"], data["factors"], data["plane"], jnp.sqrt(data["budget"])
    damping, order = factors.eigenvalues[0] * state["damping"], data["shown"]
    delta = rms * _steps(data, state["damping"][None])[0]
    tip, descent, predicted = dot(delta, basis), rms * dot(data["descent"], basis), dot(G, delta)
    ranks, eigenvalues = data["eigenvalues"].T
    above, level = points(ranks, jnp.maximum(eigenvalues, damping)), points(ranks, damping)
    length, values = jnp.linalg.norm(delta), factors.eigenvalues
    found = {
        "ellipse": rms * ellipse(G, basis, 121, NEEDLE),
        "path": rms * dot(_steps(data, jnp.asarray(DAMPINGS, G.dtype)), basis),
        **view.from_origin(descent=descent, step=tip),
        "descent_tip": descent,
        "tip": tip,
        "kept_area": jnp.concatenate([above, level[::-1]])[None],
        "level": points([0.5, len(values) + 0.5], damping),
        "level_dot": points(0.5 + 0.96 * len(values), damping),
        "bars": view.bars(height_of(predicted[order], rms)),
        "mean": points([-1.0, len(order)], jnp.mean(predicted) / rms),
        **numbers(n=len(G), p=G.shape[1], agreement=agreement_of(factors), predicted=jnp.mean(predicted)),
        **numbers(rank=jnp.sum(values > 0), kept=jnp.sum(values / (values + damping)), length=length),
        **percent(inside=jnp.linalg.norm(tip) / length, promised_worse=jnp.mean(predicted > 0)),
    }
    if "problem" in data:
        actual = view.changes(data["problem"], delta)
        found |= {"changes": view.beside_bars(height_of(actual[order], rms)), "actual": jnp.mean(actual)}
        found |= percent(worse=jnp.mean(actual > 0))
    return found


def still(panels, background):
    """Steps in the plane, over the true loss where it is known; the spectrum of C; some examples."""
    plane, values, each = (panels[letter] for letter in "ABC")
    true, (x, y) = "loss" in background, background["directions"]
    if true:
        low, high = np.nanquantile(background["loss"], (0, 0.9))
        contours_of(plane, background, MaxNLocator(16).tick_values(low, high))
    centre(plane, background["reach"], ASPECT, xlabel=x, ylabel=y)
    plane.set_title("Steps of equal cost" + (", over the true loss" if true else ""))
    plane.locator_params(axis="x", nbins=7)
    here = {"the step at ε: drag it": EMPIRICAL_FISHER, "−g": DESCENT, "cost c, in this plane": CONSTRAINT}
    for word in key(plane, "upper left", *here.items()):
        word.set_bbox({"fc": "white", "ec": "none", "pad": 1})  # no contour strikes it through

    values.plot(*background["eigenvalues"].T, color=CONSTRAINT, marker="o", ms=2.5, lw=1)
    set_up(values, log="y", ylim=background["spectrum_limits"], xlabel="eigenvalues, the largest first")
    values.set(xlim=(0.5, background["ranks"] + 0.5), title="Eigenvalues of C: kept above ε")
    values.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    key(values, "upper right", ("ε: drag it", EMPIRICAL_FISHER))

    loss_panel(each, int(background["shown"]), background["change_limits"], "examples, by gain along −g")
    key(each, "lower right", ("first order, and its mean", DATA), *([("true", TRUTH)] if true else []))


@jax.jit
def _examine(G):
    """All that no slider moves, and True if g is 0. Examples have their places by what a step along −g brings them."""
    g, factors, count = mean_gradient(G), spectrum(G), min(SHOWN, len(G))
    shown = jnp.argsort(-dot(G, g))[((np.arange(count) + 0.5) / count * len(G)).astype(int)]
    eigenvalues, last = factors.eigenvalues, len(factors.eigenvalues)
    least = jnp.min(jnp.where(eigenvalues > 0, eigenvalues, eigenvalues[0]))
    floor = jnp.clip(least / 3, 1e-10 * eigenvalues[0], 3e-8 * eigenvalues[0])  # of the view
    ranks = np.unique(np.linspace(0, last - 1, min(last, RANKS)).astype(int))
    drawn = points(ranks + 1.0, jnp.maximum(eigenvalues[ranks], floor))
    known = {"G": G, "factors": factors, "shown": shown, "floor": floor, "eigenvalues": drawn}
    known |= {"descent": step_along(G, -g, 1.0), "undamped": solve_spectral(factors, 0.0)}
    return known, cancels(G, g)


def _plane(known, name, rng):
    """A basis (p, 2) of the plane of that name. Others stand by, in case two of its directions are one."""
    V = np.asarray(known["factors"].parameter_vectors)[:, :2]
    noise, steps = rng.normal(size=(len(V), 3)).astype(V.dtype), (known["descent"], -known["undamped"], *V.T)
    return view.plane_of(*{"steps": steps, "eigenvectors": V.T, "random": ()}[name], *noise.T)


def _steps(data, dampings):
    """Steps of cost 1 for ε in largest eigenvalues, (m, p)."""
    u = solve_spectral(data["factors"], data["factors"].eigenvalues[0] * dampings)
    return -u / jnp.sqrt(jnp.mean(dot(u, data["G"].T) ** 2, axis=1, keepdims=True))
