"""Vector field: where three flows lead on a linear regression, after Figure 1 of Kunstner, Balles and Hennig, 2019.

The reader drags the start. The natural gradient goes straight to the optimum; the empirical Fisher may first turn away
from it, since C grows with the square of the residuals and is then not the curvature of anything. In these flows,
dθ/dt = −F⁻¹g, −C⁻¹g and −g, no step size and no damping can be blamed. As in the authors' code, g and F contain a
weak prior on θ, and C does not.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patheffects import withStroke

from efisher_teach import errors
from efisher_teach.core.matrices import quadratic_form
from efisher_teach.core.precision import dot, einsum
from efisher_teach.core.two_by_two import solve_two_by_two
from efisher_teach.figures.flows import flow, linear_flow, walk
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DESCENT, EMPIRICAL_FISHER, NATURAL
from efisher_teach.figures.marks import contours, dots, key, line
from efisher_teach.figures.plane import grid_of, numbers, points, unit
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene, as_written

N, TRUTH_AT = 1000, (2.0, 2.0)  # examples, and the intercept and slope that made them
PRIOR = 1 / (0.1 * N)  # N(0, 0.1) on both parameters, as in the authors' code: it enters g and F, not C
STARTS, VIEW = np.arange(-1, 5.01, 0.25), (-2.0, 6.1)
POINTS = 31  # of a path, equally far apart
MARKS = {
    "natural": line("A", NATURAL, 2.2),
    "descent": line("A", DESCENT, 2.2, dashes=(5, 2)),
    "natural_left": line("C", NATURAL, 2.0),
    "descent_left": line("C", DESCENT, 2.0, dashes=(5, 2)),
    "path": line("A", EMPIRICAL_FISHER, 2.8),
    "left": line("C", EMPIRICAL_FISHER, 2.4),
    "natural_ends": dots("C", NATURAL, 8),
    "descent_ends": dots("C", DESCENT, 8),
    "start": dots("A", CANDIDATE, 11),
    "place": dots("B", CANDIDATE, 10),
    "ends": dots("C", EMPIRICAL_FISHER, 8),
}


def vector_field(*, noise: float = 1.0) -> Scene:
    """Flows of gradient descent, natural gradient and empirical Fisher from any start, on y = 2 + 2x + noise.

    Args:
        noise: Standard deviation of y about the line, in [0.1, 10]; the model believes in 1.

    Returns:
        A `Scene` with the axes "intercept" and "slope": where the flows start.

    Raises:
        ValueError: noise out of range.

    Reference:
        F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", NeurIPS 2019.

    Examples:
        >>> scene = ef.scenes.vector_field()
        >>> print(scene.presets[2].asks)
        Does a good cosine at the start promise a short way?
    """
    if not 0.1 <= float(errors.positive("noise", noise)) <= 10:
        errors.reject("noise", "from 0.1 to 10", f"{noise:.3g}", "The paper has 1.")
    rng = np.random.RandomState(0)  # the authors' generator and seed
    x = np.stack([np.ones(N), rng.lognormal(0, 0.75, N)], axis=1)
    y = x @ TRUTH_AT + noise * rng.normal(size=N)
    return Scene(
        title="Empirical Fisher, Fisher, gradient: three flows to one optimum",
        axes=(
            Axis("intercept", "intercept of the start", STARTS, 2.0, partial(as_written, spec=".2f")),
            Axis("slope", "slope of the start", STARTS, 4.5, partial(as_written, spec=".2f")),
        ),
        data={"x": jnp.asarray(x, float), "y": jnp.asarray(y, float)},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;B;C"),
        words=WORDS,
        size=(10.0, 5.8),
        narrow=(4.8, 11.6),
        handles=(
            Handle("start", ("intercept", "slope"), "the start of the three flows"),
            Handle("place", ("intercept", "slope"), "the start, on the map of the angle"),
        ),
        presets=PRESETS,
    )


WORDS = (
    "From intercept {intercept} and slope {slope} the path of the empirical Fisher to the optimum is {length:.2f} long "
    "and turns by {turning:.0f}° in all; that of the natural gradient is {natural_length:.2f} long and straight, that "
    "of gradient descent {descent_length:.2f} long, turning by {descent_turning:.0f}°. At the start the cosine of the "
    "first two is {cosine:+.3f}; there g is {gradient:.2f} long and C⁻¹g only {step:.3f}."
)
PRESETS = (
    Preset("Away", {"intercept": 2.0, "slope": 4.5},
           "Only the slope is wrong, and the empirical Fisher moves the intercept.",
           "Which way will C⁻¹g point from here: along the natural gradient, or away from it?"),
    Preset("Detour", {"intercept": 1.0, "slope": 0.0}, "Nearly three times the distance, to the same end.",
           "Where on the map are the detours longest?"),
    Preset("Late", {"intercept": 4.5, "slope": 3.0}, "They set out nearly side by side, and part later.",
           "Does a good cosine at the start promise a short way?"),
    Preset("Agreed", {"intercept": -0.5, "slope": 3.0}, "From here both take nearly the same path.",
           "Near the optimum of a model with the right noise, what is C?"),
)  # fmt: skip


def background(data):
    """Contours of the loss, the direction of C⁻¹g everywhere, and its cosine with the natural gradient."""
    optimum, H, C = _regression(data)
    grid = jnp.linspace(*VIEW, 61)
    off = grid_of(grid, grid) - optimum
    field = jax.vmap(jax.vmap(partial(_direction, H, C)))(off)
    loss, cosine = jnp.sqrt(quadratic_form(H, off)), -jnp.sum(field * unit(off), axis=-1)
    return {"grid": grid, "optimum": optimum, "loss": loss, "field": field, "cosine": cosine}


def respond(data, state):
    """The three ways from a start to the optimum."""
    start, (optimum, H, C) = jnp.stack([state["intercept"], state["slope"]]), _regression(data)
    off, direction = start - optimum, partial(_direction, H, C)
    g, far, way, descent = dot(H, off), jnp.linalg.norm(off), flow(direction, off), linear_flow(H, off)
    path, left, length, turning = walk(way, jax.vmap(direction)(way), POINTS)
    descent, descent_left, descent_length, descent_turning = walk(descent, -unit(dot(descent, H)), POINTS)
    lengths = {"": length, "descent_": descent_length, "natural_": far}
    return {
        "start": start,
        "place": start,
        "path": optimum + path,
        "descent": optimum + descent,
        "natural": optimum + jnp.stack([off, jnp.zeros_like(off)]),
        "left": left,
        "descent_left": descent_left,
        "natural_left": jnp.array([[0.0, far], [far, 0.0]]),
        **{f"{name}ends": points(way, 0.0) for name, way in lengths.items()},
        **numbers(**{f"{name}length": way for name, way in lengths.items()}),
        **numbers(turning=turning, descent_turning=descent_turning, cosine=-dot(direction(off), off) / far),
        **numbers(gradient=jnp.linalg.norm(g), step=jnp.linalg.norm(solve_two_by_two(C(off), g))),
    }


def still(panels, background):
    """The plane of the two parameters, the map of the cosine, and how much way is left."""
    plane, angle, left = (panels[letter] for letter in "ABC")
    grid, optimum, ticks = background["grid"], background["optimum"], range(-1, 7)
    for panel, size in ((plane, 16), (angle, 12)):
        panel.set(xlim=VIEW, ylim=VIEW, xticks=ticks, yticks=ticks, xlabel="intercept", ylabel="slope")
        panel.plot(*optimum, "*", color=CONSTRAINT, ms=size, mec="white", zorder=9)

    contours(plane, (grid, grid), background["loss"], 10)
    among = slice(2, None, 4)
    arrows = np.moveaxis(background["field"][among, among], -1, 0)
    pale = {
        "color": to_rgba(EMPIRICAL_FISHER, 0.4),
        "width": 0.0022,
        "headwidth": 4,
        "headlength": 5,
        "headaxislength": 5,
    }
    plane.quiver(
        grid[among], grid[among], *arrows, pivot="mid", angles="xy", scale_units="xy", scale=2.2, **pale
    )
    plane.set(aspect="equal", title="Flows to the optimum ★")
    flows = ("empirical Fisher, −C⁻¹g", EMPIRICAL_FISHER), ("natural gradient, −F⁻¹g", NATURAL)
    flows += ("gradient descent, −g", DESCENT), ("start: drag it", CANDIDATE)
    for text in key(plane, "lower left", *flows):
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])  # over the lines of the field

    levels = [-1, -0.5, 0, 0.5, 0.9, 1]
    shades = angle.contourf(grid, grid, background["cosine"], levels=levels, cmap="Greys_r")
    angle.figure.colorbar(shades, ax=angle, ticks=levels, format="{x:g}", pad=0.02)
    angle.set_title("Cosine of −C⁻¹g and −F⁻¹g")
    left.set(xlim=(-0.15, 12.2), ylim=(-0.15, 6.4), xticks=range(0, 13, 3))
    left.set(xlabel="distance travelled", title="Distance left to the optimum")


def _regression(data):
    """θ*; H = E[xxᵀ] + prior; C as a function of θ − θ*.

    The residuals are e − xᵀ(θ − θ*), so E[r²xxᵀ] is a quadratic in θ − θ*: three moments serve the whole plane.
    """
    x, y = data["x"], data["y"]
    H = dot(x.T, x) / len(y) + PRIOR * jnp.eye(2, dtype=x.dtype)
    optimum = solve_two_by_two(H, dot(x.T, y) / len(y))
    e = y - dot(x, optimum)
    second = einsum("i,ij,ik->jk", e**2 / len(y), x, x)
    third = einsum("i,ij,ik,il->jkl", e / len(y), x, x, x)
    fourth = einsum("ij,ik,il,im->jklm", x / len(y), x, x, x)
    return optimum, H, lambda off: second - 2 * dot(third, off) + dot(dot(fourth, off), off)


def _direction(H, C, off):
    """The direction of −C⁻¹g, g = H(θ − θ*)."""
    return -unit(solve_two_by_two(C(off), dot(H, off)))
