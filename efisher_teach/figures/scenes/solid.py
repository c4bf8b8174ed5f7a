"""Solid: the ellipsoid Δᵀ(C + εI)Δ = c of three parameters, and the plane that touches it at the best step.

Where C is blind to a direction, ε = 0 leaves a cylinder: along null(C) a step costs nothing and brings nothing. Damping
closes it: the semi-axes √(c/(μ + ε)) end at √(c/ε), and far above every μ the ellipsoid is a ball, where the best step
is the one along −g.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import solve_spectral, spectrum
from efisher_teach.figures import plane
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER
from efisher_teach.figures.marks import about_the_middle, arrow, dots, key, label, line, set_up
from efisher_teach.figures.plane import WIDEST, gradients, no_farther, numbers, over, unit
from efisher_teach.figures.scene import Axis, Orbit, Preset, Scene, degrees, scientific
from efisher_teach.figures.space import seen_from, square, wires

DAMPINGS = np.logspace(-6, 0, 37)
TURNS, TILTS = np.arange(-180.0, 181.0, 3), np.arange(-90.0, 91.0, 3)  # degrees
ASPECT = 1.24  # width by height of the panel of the ellipsoid
CORNER = 1.6  # from the middle of that panel to its corner, in half its height: beyond it wires end
FARTHEST = 2.5  # a step that is longer, in half heights, is drawn as long: its tip is out of view
MARKS = {
    "rulers": line("A", FAINT, 1, dashes=(2, 2)),
    "semi_axes": line("B", CONSTRAINT, 1.6),
    "marks": dots("A", OTHER, 5),
    "wires": line("A", FAINT, 1),
    "front": line("A", CONSTRAINT, 1.3),
    "lengths": line("B", EMPIRICAL_FISHER, 1.8, dashes=(4, 2)),
    "level": line("A", EMPIRICAL_FISHER, 1.4, dashes=(5, 3)),
    "semi_dots": dots("B", CONSTRAINT, 8),
    "descent": arrow("A", DESCENT),
    "length_dot": dots("B", EMPIRICAL_FISHER, 9),
    "step": arrow("A", EMPIRICAL_FISHER),
}


def solid(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Turn the ellipsoid of a problem with three parameters, and damp it.

    Args:
        problem: With `params` of shape (3,), and any number of examples; with two of them C has a null space.
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axes "damping", ε from 1e-6 to 1, and "azimuth" and "elevation", degrees that only turn it.

    Raises:
        ValueError: params is not (3,); budget out of range.

    Examples:
        >>> scene = ef.scenes.solid(ef.logistic_regression(p=3))
        >>> print(scene.presets[2].asks)
        Where does a plane touch a ball?
    """
    action = "E.g. logistic_regression(p=3), or linear_regression(2, 3) for a cylinder."
    plane.require_shape(problem, (3,), action)
    data = plane.sample_of(problem, budget)
    aside, oblique = _viewpoints(data)
    edge_on = Preset("Edge on", aside,
                     "From the side the plane is a line, and all of the ellipsoid lies on one side of it.",
                     "Which point of the ellipsoid is farthest down the slope?")  # fmt: skip
    return Scene(
        title="Three parameters: an ellipsoid of equal cost, and the plane that touches it",
        axes=(
            Axis("damping", "damping ε", DAMPINGS, 1e-4, scientific, 8),
            Axis("azimuth", "turn it round", TURNS, oblique["azimuth"], degrees, 16),
            Axis("elevation", "look from above", TILTS, oblique["elevation"], degrees),
        ),
        data=data,
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAAAABB", "A;A;A;B;B"),
        words=WORDS,
        size=(10.0, 5.6),
        narrow=(4.8, 8.0),
        orbit=Orbit("azimuth", "elevation", front=("front",)),
        presets=(*PRESETS, edge_on),
    )


WORDS = (
    "At ε = {damping} the semi-axes √(c/(μ + ε)) are {longest:.3f}, {middle:.3f} and {shortest:.3f} long; the view "
    "ends at {reach:.2f}. Seen from {azimuth} round and {elevation} above, a plane of equal gᵀΔ touches the ellipsoid "
    "at the best step: {length:.3f} long, {turn:.0f}° from −g. It promises to lower the mean loss by {decrease:.4f}; "
    "the step along −g of the same cost promises {descent_decrease:.4f}. Of c = {cost:.2g}, {spent:.1f} % is "
    "the cost ΔᵀCΔ, and the rest ε‖Δ‖²."
)
PRESETS = (
    Preset("Hardly damped", {"damping": 1e-6},
           "Where C knows little, a step may be long: the ellipsoid is a needle, or a cylinder that only √(c/ε) ends.",
           "What does a step along the longest axis do to the losses?"),
    Preset("Closed", {"damping": 1e-2}, "Damping shortens the long axes first, and hardly touches the short ones.",
           "Which of the three semi-axes feels this ε?"),
    Preset("A ball", {"damping": 1.0}, "Above every eigenvalue all directions cost the same: the step turns to −g.",
           "Where does a plane touch a ball?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every ε and every budget."""
    eigenvalues, _ = _geometry(gradients(data["problem"]))
    low = jnp.sqrt(1e-3 / (eigenvalues[0] + DAMPINGS[-1]))
    high = jnp.sqrt(WIDEST / (eigenvalues[2] + DAMPINGS[0]))
    return {"reach": _reach(eigenvalues), "lengths": jnp.stack([low / 1.5, 2 * high])}


def respond(data, state):
    """The ellipsoid at ε, the plane, the two steps, and the semi-axes over all ε."""
    G = gradients(data["problem"])
    eigenvalues, V = _geometry(G)
    reach, budget, damping = _reach(eigenvalues), data["budget"], state["damping"]
    g, dampings = mean_gradient(G), jnp.asarray(DAMPINGS, G.dtype)

    def cost(delta, damping):
        return jnp.mean(dot(G, delta) ** 2) + damping * jnp.sum(delta**2)

    def best(damping):
        u = solve_spectral(spectrum(G), damping)
        return -u * jnp.sqrt(budget / cost(u, damping))

    step, descent = best(damping), -g * jnp.sqrt(budget / cost(g, damping))
    semi, every = (jnp.sqrt(budget / (eigenvalues[:, None] + each)) for each in (damping, dampings))
    mesh, tip = wires(V, semi[:, 0], CORNER * reach), no_farther(step, FARTHEST * reach)
    lengths, length = jnp.linalg.norm(jax.vmap(best)(dampings), axis=-1), jnp.linalg.norm(step)
    rulers = 0.92 * reach * jnp.eye(3, dtype=G.dtype)
    return {
        "rulers": jnp.stack([-rulers, rulers], axis=1),
        "marks": jnp.stack([rulers[k] * (1 - 0.06 * i) for k in range(3) for i in range(k + 1)]),
        "wires": mesh,
        "front": mesh,
        "level": tip + square(unit(g), 0.4 * jnp.minimum(reach, 3 * semi[1, 0])),
        **plane.from_origin(step=tip, descent=no_farther(descent, FARTHEST * reach)),
        **over(dampings, semi_axes=every, lengths=lengths),
        **over(damping, semi_dots=semi[:, 0], length_dot=length),
        **numbers(longest=semi[2, 0], middle=semi[1, 0], shortest=semi[0, 0], reach=reach, length=length),
        **numbers(turn=plane.turn_of(step, -g), decrease=-dot(g, step), descent_decrease=-dot(g, descent)),
        **numbers(cost=cost(step, damping), spent=100 * jnp.mean(dot(G, step) ** 2) / budget),
    }


def still(panels, background):
    """The ellipsoid at the left, its semi-axes against ε at the right."""
    (space, semi), reach = (panels[letter] for letter in "AB"), background["reach"]
    half = reach * np.array([ASPECT, 1.0], reach.dtype)
    about_the_middle(space, half, aspect="equal", title="Steps of equal cost")
    space.set(xticks=[], yticks=[])
    space.spines[:].set(visible=True, color=FAINT)
    best = ("best step, and the plane it reaches", EMPIRICAL_FISHER)
    key(space, "lower left", best, ("along −g, for the same cost", DESCENT))
    key(space, "upper left", ("Δ₁ •  Δ₂ ••  Δ₃ •••", OTHER))

    set_up(semi, log="xy", xlim=DAMPINGS[[0, -1]], ylim=background["lengths"])
    semi.set(xlabel="damping ε", title="Semi-axes √(c/(μ + ε))")
    semi.axhline(reach, color=FAINT, lw=1)
    label(semi, DAMPINGS[0] * 1.4, reach, "the view ends here", OTHER, va="bottom")
    key(semi, "lower left", ("semi-axes", CONSTRAINT), ("best step (dashed)", EMPIRICAL_FISHER))


@partial(jax.jit, inline=True)
def _geometry(G):
    """C = V diag(eigenvalues) Vᵀ with three eigenvectors also where there are fewer examples."""
    rows = max(3, len(G))
    padded = jnp.pad(G, ((0, rows - len(G)), (0, 0))) * (rows / len(G)) ** 0.5  # rows of 0 leave C as it is
    eigenvalues, V, _ = spectrum(padded)
    return eigenvalues, V


def _viewpoints(data):
    """Two places to look from: the plane edge on and the longest axis across, and from there a little aside."""
    G = gradients(data["problem"])
    longest, down = np.asarray(_geometry(G)[1])[:, 2], -np.asarray(mean_gradient(G))
    down, aside = down / np.linalg.norm(down), np.cross(down, longest)
    aside, above = (v * np.where(v[2] < 0, -1, 1) for v in (aside / np.linalg.norm(aside), longest))
    return [seen_from(eye, 3) for eye in (aside, aside + 0.4 * down + 0.35 * above)]


def _reach(eigenvalues):
    """Half the height of the view: the widest ellipsoid, unless it is a needle, a cylinder or a slab."""
    short, middle, long = jnp.sqrt(WIDEST / (eigenvalues + DAMPINGS[0]))
    return 1.05 * jnp.minimum(long, 1.4 * jnp.minimum(middle, 4 * short))
