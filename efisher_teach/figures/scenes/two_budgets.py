"""Two budgets: where ε comes from. The farthest step along −g that costs at most c and is at most r long.

The loss budget is an ellipse, the radius a circle. Where only the ellipse binds the step is −C⁺g, ε = 0; where only
the circle binds it is −g; where both do, ε is the ratio of the two multipliers, λ₂/λ₁. Which it is depends on c/r²
alone: R(ε) = ΔᵀCΔ/‖Δ‖² grows with ε from R(0) to R(∞), and ε is where it is c/r².
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.step import step_along
from efisher_teach.core.two_budgets import ratio_curve, two_budget_step
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, UNDAMPED
from efisher_teach.figures.marks import arrow, centre, dots, key, line, polygons, set_up
from efisher_teach.figures.plane import WIDEST, circle, ellipse, from_origin, gradients, no_farther, points
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
        >>> print(scene.presets[1].asks)
        Make r shorter: does ε grow or fall?
    """
    view.require_vector(problem, 2)
    u, curve = _curve(gradients(problem))  # once: the table takes them as they are
    lowest, highest = curve["ratio_ends"].tolist()
    if not highest > 1.0005 * lowest:
        got, action = f"R from {lowest:.4g} to {highest:.4g}", "No ε changes the direction: take another θ."
        errors.reject("problem", "such that g is no eigenvector of C", got, action)
    ends = np.sqrt([BUDGETS[0] / highest, BUDGETS[-1] / lowest])
    radii = np.logspace(np.log10(ends[0]) - ROOM, np.log10(ends[1]) + ROOM, 41)
    start, c, middle = view.nearest(BUDGETS, budget), float(BUDGETS[30]), np.sqrt(lowest * highest)
    wanted = np.array([lowest / 1.3, middle, 4 * highest])
    wide, both, short = np.clip(np.sqrt(c / wanted), *radii[[0, -1]]).tolist()
    presets = (
        Preset("Only c binds", {"budget": c, "radius": wide}, "The circle is too wide to matter: −C⁺g, undamped.",
               "What happens to the step if r grows further?"),
        Preset("Both bind", {"budget": c, "radius": both}, "The step sits in a corner: some ε > 0 puts it there.",
               "Make r shorter: does ε grow or fall?"),
        Preset("Only r binds", {"budget": c, "radius": short}, "The circle lies inside: normalised gradient descent.",
               "How much of the loss budget is left?"),
    )  # fmt: skip
    return Scene(
        title="Two budgets: where ε comes from",
        axes=(
            Axis("budget", "loss budget c", BUDGETS, start, scientific),
            Axis("radius", "radius r", radii, view.nearest(radii, np.sqrt(start / middle)), "{:.3g}".format),
        ),
        data=view.sample_of(problem, budget) | {"radii": jnp.asarray(radii, float), "u": u, "curve": curve},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AABB;AACC", "A;A;B;C"),
        words=WORDS,
        size=(10.0, 6.0),
        narrow=(4.8, 11.0),
        handles=(Handle("place", ("budget", "radius"), "the pair of budgets, c and r"),),
        presets=presets,
    )


WORDS = (
    "With c = {budget} and r = {radius} the best step spends {cost_used:.0f} % of c and {length_used:.0f} % of r²; a "
    "budget that is not used up has the multiplier 0. The step promises to lower the mean loss by {decrease:.4f}: "
    "{by_budget:.0f} % of that, 2λ₁c, is bought by c, and {by_radius:.0f} %, 2λ₂r², by r, with the multipliers λ₁ = "
    "{of_budget:.3f} and λ₂ = {of_radius:.4f}: ε = λ₂/λ₁ and η = 1/(2λ₁), both infinite where λ₁ is 0. Here c/r² = "
    "{wanted:.3g}; ε is 0 up to R(0) = {lowest:.3g}, and infinite from R(∞) = {highest:.3g}."
)


def background(data):
    """The curve R(ε), the regions of the map, and a view with room for the widest ellipse's best step."""
    radii, budgets, curve = data["radii"], jnp.asarray(BUDGETS[[0, -1]] * [0.9, 1.1], float), data["curve"]
    return curve | {
        "reach": 1.03 * radii[-1] * jnp.array([ASPECT, 1.0]),
        "radii": radii[jnp.array([0, -1])],
        "budgets": budgets,
        "borders": jnp.sqrt(budgets / curve["ratio_ends"][:, None]),
    }


def respond(data, state):
    """The step, the two bounds, and where (c, r) lies in the map and on the curve R(ε)."""
    G, c, r = gradients(data["problem"]), state["budget"], state["radius"]
    u, curve = data["u"], data["curve"]
    plane, dampings, ends = view.plane_of(-u[-1], -u[0]), curve["dampings"], curve["ratio_ends"]
    step, disc, farthest = two_budget_step(G, c, r), circle(97, G.dtype), data["radii"][-1]
    tip = dot(step.delta, plane)
    bound = no_farther(ellipse(G, plane, 97), 3 * farthest / jnp.sqrt(WIDEST))  # needles end out of view
    path = dot(jax.vmap(step_along, (None, 0, None))(G, -u, 1.0), plane)  # of cost 1, from −C⁺g to −g
    path = jnp.sqrt(c) * jnp.concatenate([path, jnp.zeros((1, 2), G.dtype)])
    wanted, (low, high) = c / r**2, curve["ratio_limits"]
    damping = jnp.clip(step.damping, dampings[0], dampings[-1])  # 0 and ∞ are at the ends of the panel
    crossing = points(damping, jnp.clip(wanted, *ends))
    owed = jnp.stack([2 * step.budget_multiplier * c, 2 * step.radius_multiplier * r**2])
    by_budget, by_radius = owed / jnp.sum(owed)
    return {
        "disc": (r * disc)[None],
        "inside": (jnp.sqrt(c) * bound)[None],
        "circle": r * disc,
        "ellipse": jnp.sqrt(c) * bound,
        "path": path,
        "level": points(tip[0], 1.03 * farthest * jnp.array([-1.0, 1])),
        **from_origin(undamped=path[0], descent=r * disc[0], step=tip),
        "place": points(c, r),
        "wanted_line": points(dampings[jnp.array([0, -1])], jnp.clip(wanted, low, high)),
        "drop": jnp.stack([points(damping, low), crossing]),
        "crossing": crossing,
        **view.percent(cost_used=step.budget_spent / c, length_used=step.length**2 / r**2),
        **view.percent(by_budget=by_budget, by_radius=by_radius),
        **view.numbers(decrease=-dot(u[-1], step.delta), wanted=wanted, lowest=ends[0], highest=ends[1]),
        **view.numbers(of_budget=step.budget_multiplier, of_radius=step.radius_multiplier),
    }


def still(panels, background):
    """The plane at the left; at the right the map of all pairs (c, r), and the curve R(ε)."""
    plane, chart, curve = (panels[letter] for letter in "ABC")
    title = "As far along −g as both allow"
    centre(plane, background["reach"], ASPECT, xlabel="along −g", ylabel="across", title=title)
    alone = ("−C⁺g: c alone", UNDAMPED), ("−g: r alone", DESCENT)
    key(plane, "lower right", ("best step", EMPIRICAL_FISHER), *alone)

    budgets, (top, bottom) = background["budgets"], background["borders"]
    set_up(chart, log="xy", plain="xy", xlim=budgets, ylim=background["radii"] * [1 / 1.08, 1.08])
    chart.set(xlabel="loss budget c", ylabel="radius r", title="Which budget binds (drag the dot)")
    chart.fill_between(budgets, top, 1e9, color=UNDAMPED, alpha=0.15, lw=0)
    chart.fill_between(budgets, bottom, top, color=EMPIRICAL_FISHER, alpha=0.35, lw=0)
    chart.fill_between(budgets, 1e-9, bottom, color=DESCENT, alpha=0.12, lw=0)
    # Each word stands in its region: the ground has the colour.
    key(chart, "upper left", ("only c: ε = 0", CONSTRAINT))
    key(chart, "upper right", ("both", CONSTRAINT))
    key(chart, "lower right", ("only r: along −g", CONSTRAINT))

    dampings = background["dampings"]
    set_up(curve, log="xy", plain="y", xlim=dampings[[0, -1]], ylim=background["ratio_limits"])
    curve.set(xlabel="damping ε", title="R(ε) = ΔᵀCΔ/‖Δ‖² must be c/r²")
    for end, color in zip(background["ratio_ends"], (UNDAMPED, DESCENT), strict=True):
        curve.axhline(end, color=color, lw=1)
    curve.plot(dampings, background["ratios"], color=EMPIRICAL_FISHER)
    key(curve, "upper left", ("c/r² (dashed)", CANDIDATE))
    key(curve, "lower right", ("R(ε)", EMPIRICAL_FISHER))


@jax.jit
def _curve(G):
    """The directions from ε = 0 to ∞, and R(ε) between. The view has room for c/r² beyond its ends, at the border."""
    u, dampings, ratios, ends = ratio_curve(G)
    limits = ends * (1.15 * (ends[1] / ends[0]) ** 0.4) ** jnp.array([-1, 1])
    return u, {"dampings": dampings, "ratios": ratios, "ratio_ends": ends, "ratio_limits": limits}
