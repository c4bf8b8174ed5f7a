"""What a scene is, and its table: the whole response over the axes, by one jitted `vmap`.

A scene has two pure functions. `background(data)` gives what no axis moves (contours, limits). `respond(data, state)`
gives what does: points in data coordinates, which artists show, and numbers, which the words say. A slider is an
axis of `respond`; `tabulate` evaluates it over every value of every axis at once. Each array is computed over just the
axes that it depends on, which are read from its trace. Points may have three coordinates: then two axes of the scene
turn them (`Orbit`), and no table is needed for that.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.tree_util import Partial
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.transforms import Bbox

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_gradients, per_example_losses
from efisher_teach.core.problems import Problem

DPI = 200.0  # device pixels an inch: two for each CSS pixel, so that figures are sharp on every screen
STYLE = mpl.rc_params_from_file(Path(__file__).with_name("efisher.mplstyle"), use_default_template=False)

# One meaning each, in every figure (Okabe and Ito's colours, which colour-blind readers can tell apart).
EMPIRICAL_FISHER = "#0072B2"
UNDAMPED = "#88B7D5"  # a tint of it: the same step at ε = 0
DESCENT = "#D55E00"
CONSTRAINT = "#444444"
CANDIDATE = "#CC79A7"  # what the reader holds, or has marked
NATURAL = "#E69F00"  # the Fisher and the natural gradient
TRUTH = "#009E73"  # the true loss, and its Hessian
DATA = "#56B4E9"
OTHER = "#7A7A7A"  # what the course is not about
FAINT = "#C8C8C8"
# Words in a colour are set in a darker one of its hue: WCAG 2.2 asks text for a contrast of 4.5.
INK = {
    UNDAMPED: "#5A798D",
    DESCENT: "#C05500",
    CANDIDATE: "#A26085",
    NATURAL: "#9C6C00",
    TRUTH: "#008561",
    DATA: "#3B7BA0",
    OTHER: "#757575",
}
WIDEST = 0.04  # the budget that every view has room for, so that a change of budget needs no new picture
MOVING = 10  # the z-order from which on artists move
# A table is computed once: it shall compile soon. XLA's newer code generator takes longer, and 100 MB that the process
# keeps; its second level of optimisation takes a quarter longer, and tables are seldom computed faster by it.
LEAN = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
NARROW = 6  # inches: a figure that is less wide is for a phone, or for half a screen


class Axis(NamedTuple):
    """A slider: the values it takes.

    Examples:
        >>> turn = ef.scenes.Axis("turn", "turn it", np.array([0.0, 45.0, 90.0]), 0.0, lambda value: f"{value:.0f}°")
        >>> print(turn.say(turn.values[turn.nearest(50)]))
        45°
    """

    name: str
    label: str
    values: np.ndarray
    default: float
    say: Callable[[float], str]
    """How a value is said, with its unit."""
    play: float = 0
    """Seconds that a play button takes from end to end; 0 for none."""

    def nearest(self, value: float | int) -> int:
        """The nearest value's place."""
        return int(np.argmin(np.abs(self.values - value)))


class Handle(NamedTuple):
    """A point that the reader may drag: of one axis or two, those values are taken whose point is nearest.

    Examples:
        >>> handle = ef.scenes.the_best_step(ef.breast_cancer()).handles[0]
        >>> print(f"who drags {handle.label} sets {', '.join(handle.axes)}")
        who drags the tip of the candidate sets turn
    """

    points: str
    """The array of the point, (2,)."""
    axes: tuple[str, ...]
    label: str
    """What the reader drags, for those who do not see it."""


class Orbit(NamedTuple):
    """Two axes, in degrees, that turn all arrays whose points have three coordinates. `respond` does not use them.

    Examples:
        >>> scene = ef.scenes.solid(ef.logistic_regression(p=3))
        >>> print(scene.orbit.azimuth, scene.orbit.elevation)  # the two axes of it that only turn the picture
        azimuth elevation
    """

    azimuth: str
    elevation: str
    front: tuple[str, ...] = ()
    """Arrays of which only the part before the origin shows."""


class Preset(NamedTuple):
    """A state worth a look: the axes that it sets, one sentence, and a question to a class.

    Examples:
        >>> preset = ef.scenes.the_best_step(ef.breast_cancer()).presets[1]
        >>> print(preset.name, preset.state, preset.says)
        Uphill {'turn': 180.0} The constraint is even: it allows this step too.
    """

    name: str
    state: dict[str, float]
    says: str
    asks: str = ""


class Scene(NamedTuple):
    """A figure as a function. `background` and `respond` are pure and module-level, so that they are compiled once.

    Examples:
        >>> scene = ef.scenes.Scene(
        ...     title="What a step costs",
        ...     axes=(ef.scenes.Axis("length", "length", np.linspace(0.0, 2.0, 5), 1.0, "{:g}".format),),
        ...     data=jnp.array(3.0),  # C, for one parameter
        ...     background=lambda C: {},
        ...     respond=lambda C, state: {"price": C * state["length"] ** 2},
        ...     draw=lambda figure, background, arrays: {},
        ...     words="A step of length {length} costs {price:.2f}.",
        ...     size=(4.0, 3.0),
        ... )
        >>> explorer = ef.Explorer(scene)
        >>> explorer.length = 0.6  # the nearest that it has is 0.5
        >>> print(explorer.words)
        A step of length 0.5 costs 0.75.
    """

    title: str
    axes: tuple[Axis, ...]
    data: Any
    background: Callable[[Any], dict[str, jax.Array]]
    respond: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
    draw: Callable[[Figure, dict[str, np.ndarray], dict[str, np.ndarray]], Mapping[str, Artist]]
    """`draw(figure, background, arrays)` returns the artists that move, by the name of the array they show."""
    words: str
    """What the figure shows, a format string over the axes and the numbers of `respond`."""
    size: tuple[float, float]
    """Width and height in inches; 1 inch is 100 CSS pixels."""
    narrow: tuple[float, float] | None = None
    """The size where there is room for less than 600 pixels; None: the same figure, scaled down."""
    handles: tuple[Handle, ...] = ()
    orbit: Orbit | None = None
    presets: tuple[Preset, ...] = ()


class Table(NamedTuple):
    """The response of a scene over its axes.

    Examples:
        >>> axes = tuple(ef.scenes.Axis(name, name, np.array([0.0, 1.0, 2.0]), 0.0, str) for name in ("a", "b"))
        >>> respond = lambda data, state: {"square": state["b"] ** 2, "sum": state["a"] + state["b"]}
        >>> scene = ef.scenes.Scene("", axes, None, lambda data: {}, respond, lambda *of: {}, "", (1.0, 1.0))
        >>> table = ef.scenes.tabulate(scene)
        >>> print(table.depends["square"], table.depends["sum"], table.at((0, 2))["square"])  # a square is of b alone
        (1,) (0, 1) 4.0
    """

    background: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    """By name; the leading dimensions run over the axes that the array depends on."""
    depends: dict[str, tuple[int, ...]]
    """By name, the places of those axes."""

    def at(self, indices: tuple[int, ...]) -> dict[str, Any]:
        """All arrays in one state, given by one index an axis."""
        return {
            name: array[tuple(indices[axis] for axis in self.depends[name])]
            for name, array in self.arrays.items()
        }


class Layout(NamedTuple):
    """Where the panels of a figure stand, and the room that is left for the labels of their ticks."""

    places: np.ndarray
    """Left, lower, right and upper end of each panel, (panels, 4)."""
    room: list[np.ndarray]
    """What `_overhang` says of each panel."""


def tabulate(scene: Scene) -> Table:
    """The whole response of a scene.

    Args:
        scene: What to evaluate.

    Returns:
        A `Table` of NumPy arrays.

    Raises:
        ValueError: A number is not finite; its name and state are named.

    Examples:
        >>> axes = tuple(ef.scenes.Axis(name, name, np.array([0.0, 1.0, 2.0]), 0.0, str) for name in ("a", "b"))
        >>> respond = lambda data, state: {"square": state["b"] ** 2, "sum": state["a"] + state["b"]}
        >>> scene = ef.scenes.Scene("", axes, None, lambda data: {}, respond, lambda *of: {}, "", (1.0, 1.0))
        >>> print(ef.scenes.tabulate(scene).arrays["sum"])
        [[0. 1. 2.]
         [1. 2. 3.]
         [2. 3. 4.]]
    """
    names = tuple(axis.name for axis in scene.axes)
    values = tuple(jnp.asarray(axis.values, float) for axis in scene.axes)
    background, groups = jax.device_get(_evaluate(scene.background, scene.respond, names, scene.data, values))
    arrays, depends = {}, {}
    for key, group in groups.items():
        for name, array in group.items():
            arrays[name] = np.asarray(array)
            depends[name] = tuple(names.index(axis) for axis in key.split())
            if not np.isfinite(array).all():
                where = np.argwhere(~np.isfinite(array))[0][: len(depends[name])]
                state = ", ".join(
                    f"{names[axis]} = {scene.axes[axis].values[i]:.3g}"
                    for axis, i in zip(depends[name], where, strict=True)
                )
                raise ValueError(
                    f"`{name}` of the scene '{scene.title}' is not finite at {state or 'any state'}."
                )
    return Table(background, arrays, depends)


@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=LEAN)
def _evaluate(background, respond, names, data, values):
    """The background, and the arrays grouped by the axes they depend on: {"damping": {"ellipse": (m, …)}}.

    The response is traced once, and the equations of the trace that depend on the same axes are mapped over just these.
    """
    state = {name: value[0] for name, value in zip(names, values, strict=True)}
    closed, shapes = jax.make_jaxpr(partial(respond, data), return_shape=True)(state)
    trace = closed.jaxpr
    ordered = sorted(zip(names, values, strict=True))  # as JAX orders the entries of a dict
    known = dict(zip(trace.constvars, closed.consts, strict=True))
    known |= {var: value for var, (_, value) in zip(trace.invars, ordered, strict=True)}
    along = {var: (name,) for var, (name, _) in zip(trace.invars, ordered, strict=True)}
    alike: dict[tuple[str, ...], list] = {}
    for equation in trace.eqns:
        axes = {axis for var in _variables(equation) for axis in along.get(var, ())}
        its = tuple(name for name in names if name in axes)
        along |= dict.fromkeys(equation.outvars, its)
        alike.setdefault(its, []).append(equation)
    for axes in sorted(alike, key=len):  # what depends on fewer axes does not need what depends on more
        made = [var for equation in alike[axes] for var in equation.outvars]
        inputs = [
            *dict.fromkeys(var for equation in alike[axes] for var in _variables(equation) if var in known)
        ]
        alone = trace.replace(constvars=[], invars=inputs, outvars=made, eqns=alike[axes])
        over = jaxpr_as_fun(ClosedJaxpr(alone, ()))
        for axis in reversed(axes):
            over = jax.vmap(over, in_axes=tuple(0 if axis in along.get(var, ()) else None for var in inputs))
        known |= dict(zip(made, over(*(known[var] for var in inputs)), strict=True))
    groups = {}
    for name, var in zip(sorted(shapes), trace.outvars, strict=True):
        axes, array = ((), var.val) if isinstance(var, Literal) else (along.get(var, ()), known[var])
        groups.setdefault(" ".join(axes), {})[name] = array
    return background(data), groups


def _variables(equation: Any) -> list[Any]:
    return [var for var in equation.invars if not isinstance(var, Literal)]


def rim(points: np.ndarray) -> float:
    """How far behind the origin points still count as before it: rounding shall not decide in symmetric views."""
    return 2e-3 * float(np.abs(points).max())


def view(scene: Scene, table: Table, indices: tuple[int, ...]) -> dict[str, Any]:
    """All arrays in one state, as they are seen: points with three coordinates are turned and lie in the plane.

    Examples:
        >>> axes = [ef.scenes.Axis(name, name, np.array([0.0, 90.0]), 0.0, str) for name in ("azimuth", "elevation")]
        >>> respond, orbit = lambda data, state: {"point": data}, ef.scenes.Orbit("azimuth", "elevation")
        >>> about = (*axes,), jnp.array([1.0, 2.0, 3.0]), lambda data: {}, respond, lambda *of: {}
        >>> scene = ef.scenes.Scene("A point", *about, "", (1.0, 1.0), orbit=orbit)
        >>> table = ef.scenes.tabulate(scene)
        >>> for indices in ((0, 0), (0, 1)):  # along x one sees (y, z), and from above (y, -x)
        ...     print(ef.scenes.view(scene, table, indices)["point"])
        [2. 3.]
        [ 2. -1.]
    """
    arrays = table.at(indices)
    if not scene.orbit:
        return arrays
    at = {axis.name: np.deg2rad(axis.values[i]) for axis, i in zip(scene.axes, indices, strict=True)}
    azimuth, elevation = at[scene.orbit.azimuth], at[scene.orbit.elevation]
    for name, points in arrays.items():
        if np.ndim(points) and points.shape[-1] == 3:
            x, y, z = np.moveaxis(points, -1, 0)
            near = np.cos(azimuth) * x + np.sin(azimuth) * y
            across = np.cos(azimuth) * y - np.sin(azimuth) * x
            arrays[name] = np.stack([across, np.cos(elevation) * z - np.sin(elevation) * near], axis=-1)
            if name in scene.orbit.front:
                arrays[name][np.cos(elevation) * near + np.sin(elevation) * z < -rim(table.arrays[name])] = (
                    np.nan
                )
    return arrays


def paint(
    scene: Scene,
    table: Table,
    indices: tuple[int, ...],
    size: tuple[float, float] | None = None,
    layout: Layout | None = None,
) -> tuple[Figure, dict[str, Artist]]:
    """The whole figure in one state, by matplotlib, and the artists that move in it.

    Args:
        scene: What to draw.
        table: Its response.
        indices: The state: one place an axis.
        size: In inches; None for the scene's own.
        layout: `layout_of` a figure of the same drawing and size. Panels stand where they stand there, as long as there
            is room for the labels of their ticks; that is twice as fast, and they keep still under the reader's eyes.

    Raises:
        ValueError: A fixed artist would be drawn over a moving one: the browser could not tell them apart.

    Examples:
        >>> def draw(figure, background, arrays):
        ...     return {"point": figure.add_subplot().plot(*arrays["point"], "o", zorder=10)[0]}
        >>> axis = ef.scenes.Axis("length", "length", np.array([0.0, 1.0, 2.0]), 0.0, str)
        >>> respond = lambda data, state: {"point": jnp.stack([state["length"], state["length"] ** 2])[:, None]}
        >>> scene = ef.scenes.Scene("", (axis,), None, lambda data: {}, respond, draw, "", (4.0, 3.0))
        >>> figure, artists = ef.scenes.paint(scene, ef.scenes.tabulate(scene), (2,))
        >>> print(artists["point"].get_xydata())  # where the length is 2
        [[2. 4.]]
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or scene.size, dpi=DPI)
        FigureCanvasAgg(figure)
        artists = dict(scene.draw(figure, table.background, view(scene, table, indices)))
        engine = figure.get_layout_engine()  # all of a drawing that moves anything
        if engine and not (layout and _take(figure, layout)):
            engine.execute(figure)
        figure.set_layout_engine(None)  # nothing moves any more, and nothing is laid out again
    for axes in figure.axes:
        moving = {id(artist) for artist in artists.values()}
        for artist in axes.get_children():
            if id(artist) not in moving and artist.get_visible() and artist.get_zorder() >= MOVING:
                raise ValueError(f"{artist} stands still but has z-order {artist.get_zorder()} ≥ {MOVING}.")
    for name, artist in artists.items():
        if artist.get_zorder() < MOVING:
            raise ValueError(
                f"The artist of `{name}` moves but has z-order {artist.get_zorder()} < {MOVING}."
            )
    return figure, artists


def layout_of(figure: Figure) -> Layout:
    """Where the panels of a figure stand, and what room the labels of their ticks take."""
    return Layout(places(figure), [_overhang(axes) for axes in figure.axes])


def places(figure: Figure) -> np.ndarray:
    """Left, lower, right and upper end of each panel, (panels, 4)."""
    return np.array([axes.get_position(original=True).extents for axes in figure.axes]).reshape(-1, 4)


def _take(figure: Figure, layout: Layout) -> bool:
    """Put the panels of a figure where a layout has them; whether the labels of their ticks have room there."""
    for axes, place in zip(figure.axes, layout.places, strict=True):
        axes.set_position(Bbox.from_extents(place))
        axes.set_in_layout(True)  # which a position ends
    panels = zip(figure.axes, layout.room, strict=True)
    return all((_overhang(axes) <= room + 1).all() for axes, room in panels)


def _overhang(axes: Axes) -> np.ndarray:
    """How far the labels of a panel's ticks reach beyond it, left, below, right and above, in pixels.

    And how many characters the common factors have: matplotlib places them when it draws.
    """
    axes.apply_aspect()
    renderer = cast(
        FigureCanvasAgg, axes.figure.canvas
    ).get_renderer()  # texts remember one of another resolution
    edges, factors = [axes.bbox.extents], []
    for side, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = zip(side.get_majorticklocs(), side.get_majorticklabels(), strict=True)
        shown = [text for at, text in ticks if min(limits) <= at <= max(limits) and text.get_text()]
        edges += [text.get_window_extent(renderer).extents for text in shown]
        factors.append(2 * len(side.get_major_formatter().get_offset()))
    reach = np.array(edges)
    return np.concatenate([reach[0, :2] - reach[:, :2].min(0), reach[:, 2:].max(0) - reach[0, 2:], factors])


def show(artist: Artist, points: np.ndarray) -> None:
    """Let an artist show other points: (N, 2) of a line, (N, M, 2) of lines or polygons, (2, 2) of an arrow.

    Examples:
        >>> from matplotlib.lines import Line2D
        >>> line = Line2D([], [])
        >>> ef.scenes.show(line, np.array([[0.0, 1.0], [2.0, 3.0]]))  # a point a row
        >>> print(line.get_xdata(), line.get_ydata())
        [0. 2.] [1. 3.]
    """
    if isinstance(artist, Line2D):
        artist.set_data(*_joined(points))
    elif isinstance(artist, PolyCollection):
        artist.set_verts([*points])
    elif isinstance(artist, FancyArrowPatch):
        artist.set_positions(*points)
    else:
        raise TypeError(f"A moving artist is a Line2D, PolyCollection or FancyArrowPatch, not {artist!r}.")


# What scenes share: what they look at, and pieces of drawing.


def look_at(problem: Problem, budget: float) -> dict[str, Any]:
    """The data of a scene: a problem, and a budget c in (0, 0.04], as much as the view has room for."""
    if errors.positive("budget", budget) > WIDEST:
        errors.reject(
            "budget", f"at most {WIDEST}", f"{budget:.3g}", "Beyond it the linear model says little."
        )
    train, test = (problem.x, problem.y), (problem.x_test, problem.y_test)
    loss_fn = Partial(problem.loss_fn)  # a pytree, so that `respond` gets it with the arrays
    return {"loss_fn": loss_fn, "theta": problem.params, "train": train, "test": test, "budget": budget}


def gradients(data) -> jax.Array:
    """G (n, p), of the training examples at θ."""
    G = _gradients(data["loss_fn"], data["theta"], *data["train"])
    errors.finite_rows("loss_fn", G, "Its gradient overflows or is undefined at these examples.")
    return G


@partial(jax.jit, inline=True)  # compiled as a whole: one operation after the other takes ten times as long
def _gradients(loss_fn, theta, x, y):
    return per_example_gradients(loss_fn.func, theta, x, y)


def changes(data, delta: jax.Array, sample: str = "train") -> jax.Array:
    """The true change of each example's loss under a step."""
    losses = partial(per_example_losses, data["loss_fn"].func)
    return losses(data["theta"] + delta, *data[sample]) - losses(data["theta"], *data[sample])


def panels(figure: Figure, wide: str, narrow: str) -> dict[str, Axes]:
    """Axes by their letters in a mosaic: one for a wide figure, such as "AAB;AAC", and one for a narrow, "A;A;B;C".

    Rows are equally high, columns equally wide, less the room that labels need.
    """
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.03)
    return figure.subplot_mosaic(wide if figure.get_figwidth() >= NARROW else narrow)


def line(axes, points, color, width=2.0, *, style: Any = "-", order=0.0):
    """A line that moves, (N, 2), or several, (N, M, 2)."""
    return axes.add_line(Line2D(*_joined(points), color=color, lw=width, ls=style, zorder=MOVING + order))


def _joined(points):
    """x and y of a line, or of several with a gap between them."""
    if points.ndim == 3:
        points = np.pad(points, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    return np.reshape(points, (-1, 2)).T


def dots(axes, points, color, size=7.0, *, order=1.0):
    """Round markers that move."""
    x, y = np.reshape(points, (-1, 2)).T
    marker = Line2D(
        x, y, marker="o", ls="none", ms=size, mfc=color, mec="white", mew=1, zorder=MOVING + order
    )
    return axes.add_line(marker)


def arrow(axes, ends, color, *, order=2.0):
    """An arrow that moves, from ends[0] to ends[1]."""
    patch = FancyArrowPatch(
        *ends,
        arrowstyle="-|>,head_length=0.5,head_width=0.25",
        mutation_scale=16,
        lw=2.5,
        color=color,
        shrinkA=0,
        shrinkB=0,
        zorder=MOVING + order,
    )
    return axes.add_patch(patch)


def bars(axes, corners, color, *, order=0.0):
    """Bars, or other polygons, that move: (N, corners, 2). The color may have an alpha."""
    collection = PolyCollection(corners, facecolor=color, edgecolor="none", zorder=MOVING + order, snap=False)
    return axes.add_collection(collection, autolim=False)


def frame(reach: jax.Array, aspect: float) -> jax.Array:
    """Half sides of a view, `aspect` times as wide as high, with one scale on both axes unless that makes a needle."""
    height = jnp.maximum(reach[1], reach[0] / aspect)
    return jnp.where(jnp.max(reach) < 4 * jnp.min(reach), height * jnp.array([aspect, 1.0]), reach)


def rectangles(x: jax.Array, height: jax.Array, width: float) -> jax.Array:
    """Corners (N, 4, 2) of bars from 0 to `height` (N,) about `x` (N,)."""
    left, right, zero = x - width / 2, x + width / 2, jnp.zeros_like(height)
    corners = [(left, zero), (left, height), (right, height), (right, zero)]
    return jnp.stack([jnp.stack(corner, axis=-1) for corner in corners], axis=-2)


def degrees(value: float) -> str:
    """An angle as it is said: −25°."""
    return f"{value:.0f}°".replace("-", "−")


def scientific(value: float) -> str:
    """A number as it is said over many decades: 2.5×10⁻³."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}×10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def key(axes, corner, *entries):
    """What the colours of a panel mean: (text, color) a line, in a corner such as "lower left"."""
    below, left = "lower" in corner, "left" in corner
    for row, (text, color) in enumerate(reversed(entries) if below else entries):
        offset = (8 if left else -8, (7 + 15 * row) * (1 if below else -1))
        axes.annotate(
            text, (0 if left else 1, 0 if below else 1), xytext=offset, xycoords="axes fraction",
            textcoords="offset points", ha="left" if left else "right", va="bottom" if below else "top",
            color=INK.get(color, color), fontsize=10, fontweight="bold",
        )  # fmt: skip


def label(axes, x, y, text, color, **options):
    """A word beside what it names, in that thing's colour."""
    return axes.text(x, y, text, color=INK.get(color, color), fontsize=10, fontweight="bold", **options)
