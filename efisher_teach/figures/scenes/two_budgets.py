"""Two budgets: where ε comes from. The farthest step along −g that costs at most c and is at most r long.

The loss budget is an ellipse, the radius a circle. Where only the ellipse binds the step is −C⁺g, ε = 0; where only
the circle binds it is −g; where both do, ε is the ratio of the two multipliers, λ₂/λ₁. Which it is depends on c/r²
alone: R(ε) = ΔᵀCΔ/‖Δ‖² grows with ε from R(0) to R(∞), and ε is where it is c/r².
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import solve_spectral, spectrum
from efisher_teach.core.two_budgets import two_budget_step
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, UNDAMPED
from efisher_teach.figures.marks import arrow, dots, key, line, polygons
from efisher_teach.figures.plane import WIDEST, circle, ellipse, gradients, no_farther, plane_of, sample_of
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, scientific

BUDGETS = np.logspace(-3, -1.4, 41)
ASPECT = 0.88  # width by height of the panel of the plane
ROOM = 0.06  # decades of r beyond the longest and the shortest step that the loss budget allows
MARKS = {
    "disc": polygons("A", f"{DESCENT}20"),
    "wanted_line": line("C", CANDIDATE, 1.4, dashes=(4, 2)),
    "inside": polygons("A", f"{EMPIRICAL_FISHER}20"),
    "circle": line("A", CONSTRAINT, 1.6, dashes=(5, 3)),
    "ellipse": line("A", CONSTRAINT, 1.8),
    "path": line("A", EMPIRICAL_FISHER, 1.3, dashes=(2, 2)),
    "level": line("A", FAINT, 1.2),
    "drop": line("C", EMPIRICAL_FISHER, 1.2, dashes=(2, 2)),
    "undamped": arrow("A", UNDAMPED),
    "place": dots("B", CANDIDATE, 11),
    "descent": arrow("A", DESCENT),
    "crossing": dots("C", CANDIDATE, 9),
    "step": arrow("A", EMPIRICAL_FISHER),
}


def two_budgets(problem: Problem, *, budget: float = 0.02) -> Scene:
    """Drag c and r: which of the two binds, and what ε and η that implies.

    Args:
        problem: With `params` of shape (p,), p ≥ 2; with two the picture is the whole truth. Best where C is no ball:
            with correlated features.
        budget: c in (0, 0.04], the loss budget to start with; the radius starts where both bind.

    Returns:
        A `Scene` with the axes "budget" and "radius".

    Raises:
        ValueError: params is not a vector of at least two; budget out of range; −g is an eigenvector of C, so that
            damping changes nothing.

    Examples:
        >>> scene = ef.scenes.two_budgets(ef.breast_cancer())
        >>> print([axis.name for axis in scene.axes])
        ['budget', 'radius']
        >>> print(scene.presets[1].asks)
        A shorter r: does ε grow or fall?
    """
    shape = getattr(problem.params, "shape", ())
    if len(shape) != 1 or shape[0] < 2:
        errors.reject("problem", "one with params of shape (p,), p ≥ 2", f"{shape}", "E.g. breast_cancer().")
    data = sample_of(problem, budget)
    lowest, highest = (float(ratio) for ratio in _ratios(gradients(problem))[2])
    if not highest > 1.0005 * lowest:
        got, action = f"R from {lowest:.4g} to {highest:.4g}", "No ε changes the direction: take another θ."
        errors.reject("problem", "such that g is no eigenvector of C", got, action)
    ends = np.sqrt([BUDGETS[0] / highest, BUDGETS[-1] / lowest])
    radii = np.logspace(np.log10(ends[0]) - ROOM, np.log10(ends[1]) + ROOM, 41)
    start = BUDGETS[np.argmin(abs(np.log(BUDGETS / budget)))]
    middle = radii[np.argmin(abs(np.log(radii**2 * np.sqrt(lowest * highest) / start)))]
    return Scene(
        title="Two budgets: where ε comes from",
        axes=(
            Axis("budget", "loss budget c", BUDGETS, float(start), scientific),
            Axis("radius", "radius r", radii, float(middle), lambda value: f"{value:.3g}"),
        ),
        data=data | {"radii": jnp.asarray(radii, float)},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AABB;AACC", "A;A;B;C"),
        words=WORDS,
        size=(10.0, 6.0),
        narrow=(4.8, 11.0),
        handles=(Handle("place", ("budget", "radius"), "the pair of budgets, c and r"),),
        presets=_presets(radii, lowest, highest),
    )


WORDS = (
    "With c = {budget} and r = {radius} the best step spends {cost_used:.0f} % of c and {length_used:.0f} % of r²; a "
    "budget that is not used up has no price. It promises {decrease:.4f} less mean loss, {by_budget:.0f} % of it owed "
    "to c and {by_radius:.0f} % to r: the prices are λ₁ = {of_budget:.3f} of c and λ₂ = {of_radius:.4f} of r². So ε = "
    "λ₂/λ₁ = {of_radius:.4f}/{of_budget:.3f} and η = 1/(2λ₁) = 1/(2 × {of_budget:.3f}). Here c/r² = {wanted:.3g}; ε is "
    "0 up to R(0) = {lowest:.3g}, and infinite from R(∞) = {highest:.3g}."
)


def _presets(radii, lowest, highest):
    c = float(BUDGETS[30])
    wanted = np.array([lowest / 1.3, np.sqrt(lowest * highest), 4 * highest])
    free, both, short = np.clip(np.sqrt(c / wanted), radii[0], radii[-1]).tolist()
    return (
        Preset("Only c binds", {"budget": c, "radius": free},
               "The circle is too wide to matter: −C⁺g, undamped.",
               "What happens to the step if r grows further?"),
        Preset("Both bind", {"budget": c, "radius": both},
               "The step sits in a corner: some ε > 0 puts it there.",
               "A shorter r: does ε grow or fall?"),
        Preset("Only r binds", {"budget": c, "radius": short},
               "The circle lies inside: normalised gradient descent.",
               "How much of the loss budget is left?"),
    )  # fmt: skip


def background(data):
    """The curve R(ε), the regions of the map, and a view with room for the widest ellipse's best step."""
    G, radii = gradients(data["problem"]), data["radii"]
    _, factors, (lowest, highest) = _ratios(G)
    dampings, budgets = _dampings(factors), jnp.asarray(BUDGETS[[0, -1]] * [0.9, 1.1], G.dtype)
    return {
        "reach": 1.03 * radii[-1] * jnp.array([ASPECT, 1.0]),
        "radii": radii[jnp.array([0, -1])],
        "budgets": budgets,
        "borders": jnp.sqrt(budgets / jnp.stack([lowest, highest])[:, None]),
        "dampings": dampings,
        "ratios": jax.vmap(_ratio, (None, 0))(G, solve_spectral(factors, dampings)),
        "ratio_ends": jnp.stack([lowest, highest]),
        "ratio_limits": _ratio_limits(lowest, highest),
    }


def respond(data, state):
    """The step, the two bounds, and where (c, r) lies in the map and on the curve R(ε)."""
    G = gradients(data["problem"])
    direction, factors, (lowest, highest) = _ratios(G)
    plane = plane_of(-mean_gradient(G), -direction)
    g, c, r = mean_gradient(G), state["budget"], state["radius"]
    step = two_budget_step(G, c, r)
    zero, tip = jnp.zeros(2, G.dtype), dot(step.delta, plane)
    farthest = 3 * data["radii"][-1]  # the tips of a needle, far out of view, are drawn nearer
    bound, disc = no_farther(ellipse(G, plane, 97), farthest / jnp.sqrt(WIDEST)), circle(97, G.dtype)
    level = tip[0] * jnp.array([1.0, 1]), 1.03 * data["radii"][-1] * jnp.array([-1.0, 1])

    dampings = _dampings(factors)
    u = jnp.concatenate([direction[None], solve_spectral(factors, dampings), g[None]])
    costs = jax.vmap(lambda u: jnp.mean(dot(G, u) ** 2))(u)
    path = dot(-u / jnp.sqrt(costs)[:, None], plane)  # of cost 1, from −C⁺g to −g
    path = jnp.concatenate([path, jnp.zeros((1, 2), G.dtype)])

    wanted, decrease = c / r**2, -dot(g, step.delta)
    low, high = _ratio_limits(lowest, highest)
    damping = jnp.clip(step.damping, dampings[0], dampings[-1])  # 0 and ∞ are at the ends of the panel
    ratio, shown = jnp.clip(wanted, lowest, highest), jnp.clip(wanted, low, high)
    by_budget, by_radius = 2 * step.budget_multiplier * c, 2 * step.radius_multiplier * r**2
    return {
        "disc": (r * disc)[None],
        "inside": (jnp.sqrt(c) * bound)[None],
        "circle": r * disc,
        "ellipse": jnp.sqrt(c) * bound,
        "path": jnp.sqrt(c) * path,
        "level": jnp.stack(level, axis=-1),
        "undamped": jnp.stack([zero, jnp.sqrt(c) * path[0]]),
        "descent": jnp.stack([zero, r * jnp.array([1.0, 0.0], G.dtype)]),
        "step": jnp.stack([zero, tip]),
        "place": jnp.stack([c, r]),
        "wanted_line": jnp.stack([dampings[jnp.array([0, -1])], jnp.broadcast_to(shown, 2)], axis=-1),
        "drop": jnp.stack([jnp.stack([damping, low]), jnp.stack([damping, ratio])]),
        "crossing": jnp.stack([damping, ratio]),
        "cost_used": 100 * step.budget_spent / c,
        "length_used": 100 * step.length**2 / r**2,
        "decrease": decrease,
        "by_budget": 100 * by_budget / (by_budget + by_radius),
        "by_radius": 100 * by_radius / (by_budget + by_radius),
        "of_budget": step.budget_multiplier,
        "of_radius": step.radius_multiplier,
        "wanted": wanted,
        "lowest": lowest,
        "highest": highest,
    }


def still(panels, background):
    """The plane at the left; at the right the map of all pairs (c, r), and the curve R(ε)."""
    plane, chart, curve = (panels[letter] for letter in "ABC")
    reach = background["reach"]
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), aspect="equal")
    plane.set(xlabel="along −g", ylabel="across", title="As far along −g as both allow")
    plane.plot(0, 0, "o", color=CONSTRAINT, ms=5)
    steps = ("best step", EMPIRICAL_FISHER), ("−C⁺g: c alone", UNDAMPED), ("−g: r alone", DESCENT)
    key(plane, "lower right", *steps)

    budgets, (top, bottom) = background["budgets"], background["borders"]
    chart.set(xscale="log", yscale="log", xlim=budgets)
    chart.set_ylim(*background["radii"] * [1 / 1.08, 1.08])
    chart.set(xlabel="loss budget c", ylabel="radius r", title="Which budget binds (drag the dot)")
    chart.fill_between(budgets, top, 1e9, color=UNDAMPED, alpha=0.15, lw=0)
    chart.fill_between(budgets, bottom, top, color=EMPIRICAL_FISHER, alpha=0.35, lw=0)
    chart.fill_between(budgets, 1e-9, bottom, color=DESCENT, alpha=0.12, lw=0)
    # Each word stands in its region: the ground has the colour.
    key(chart, "upper left", ("only c: ε = 0", CONSTRAINT))
    key(chart, "upper right", ("both", CONSTRAINT))
    key(chart, "lower right", ("only r: along −g", CONSTRAINT))

    dampings, ends = background["dampings"], background["ratio_ends"]
    curve.set(xscale="log", yscale="log", xlim=(dampings[0], dampings[-1]), ylim=background["ratio_limits"])
    curve.set(xlabel="damping ε", title="R(ε) = ΔᵀCΔ/‖Δ‖² must be c/r²")
    curve.axhline(ends[0], color=UNDAMPED, lw=1)
    curve.axhline(ends[1], color=DESCENT, lw=1)
    curve.plot(dampings, background["ratios"], color=EMPIRICAL_FISHER)
    key(curve, "upper left", ("c/r² (dashed)", CANDIDATE))
    key(curve, "lower right", ("R(ε)", EMPIRICAL_FISHER))
    for axis in (chart.xaxis, chart.yaxis, curve.yaxis):  # less than a decade may be in view
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(NullLocator())
    curve.xaxis.set_minor_formatter(NullFormatter())


def _ratio(G, u):
    """R = uᵀCu/‖u‖²."""
    return jnp.mean(dot(G, u) ** 2) / jnp.sum(u**2)


@partial(jax.jit, inline=True)
def _ratios(G):
    """C⁺g, the spectrum of C, and R at both ends: at −C⁺g and at −g."""
    factors = spectrum(G)
    direction = solve_spectral(factors, 0.0)
    return direction, factors, jnp.stack([_ratio(G, direction), _ratio(G, mean_gradient(G))])


def _ratio_limits(lowest, highest):
    """A view of R with room for pairs of budgets that lie beyond its ends: they are drawn at the border."""
    return jnp.stack([lowest * (lowest / highest) ** 0.4 / 1.15, highest * (highest / lowest) ** 0.4 * 1.15])


def _dampings(factors):
    """ε from far below the smallest eigenvalue that matters to far above the largest."""
    largest = factors.eigenvalues[0]
    kept = jnp.where(factors.eigenvalues > 1e-5 * largest, factors.eigenvalues, largest)
    return jnp.geomspace(jnp.min(kept) / 100, largest * 100, 61)
