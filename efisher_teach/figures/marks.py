"""Marks: what moves in a figure, declared once, so that matplotlib and the browser draw the same thing.

A scene declares its marks by the name of the array that each of them shows, from back to front:

    MARKS = {"ellipse": line("A", CONSTRAINT, 1.8), "step": arrow("A", EMPIRICAL_FISHER)}

`set_up` and `centre` make a panel of the still picture, `contours` the ground of one; `key` and `label` are its words,
in the colour of what they name.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.contour import QuadContourSet
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from efisher_teach.figures.ink import CONSTRAINT, FAINT, INK

Corner = Literal["upper left", "upper right", "lower left", "lower right"]
MOVING = 10  # the z-order from which on marks are drawn, above all that stands still
HEAD_LENGTH, HEAD_WIDTH, HEAD_SCALE = 0.5, 0.25, 16  # of an arrow, as matplotlib counts them


class Mark(NamedTuple):
    """The look of an array, and its panel.

    Examples:
        >>> from efisher_teach.figures.marks import line
        >>> print(line("A", "#0072B2", 1.8))
        Mark(kind='line', panel='A', color='#0072B2', size=1.8, dashes=())
    """

    kind: Literal["line", "dots", "arrow", "polygons"]
    panel: str
    """The letter of the panel in the scene's mosaic."""
    color: str
    """May end in two digits of opacity."""
    size: float | int
    """Points: the width of a line, the diameter of a dot."""
    dashes: tuple[float | int, ...] = ()
    """Lengths on and off, in widths of the line; none for a solid line."""


def line(panel: str, color: str, width: float | int = 2.0, *, dashes: tuple[float | int, ...] = ()) -> Mark:
    """A line through points (N, 2), or several lines (N, M, 2)."""
    return Mark("line", panel, color, width, dashes)


def dots(panel: str, color: str, size: float | int = 7.0) -> Mark:
    """Round markers with a white rim, at points (2,) or (N, 2)."""
    return Mark("dots", panel, color, size)


def arrow(panel: str, color: str) -> Mark:
    """An arrow between two points (2, 2)."""
    return Mark("arrow", panel, color, 2.5)


def polygons(panel: str, color: str) -> Mark:
    """Filled polygons without an outline, such as bars: (N, corners, 2)."""
    return Mark("polygons", panel, color, 0.0)


def add_mark(axes: Axes, mark: Mark, points: np.ndarray, order: int) -> Artist:
    """Draw a mark; a larger order is nearer to the reader."""
    above = MOVING + order
    if mark.kind == "line":
        style = (0, mark.dashes) if mark.dashes else "-"
        artist = Line2D(*_joined(points), color=mark.color, lw=mark.size, ls=style, zorder=above)
        return axes.add_line(artist)
    if mark.kind == "dots":
        rim = {"mec": "white", "mew": 1}
        look = {"marker": "o", "ls": "none", "ms": mark.size, "mfc": mark.color} | rim
        return axes.add_line(Line2D(*_joined(points), zorder=above, **look))
    if mark.kind == "arrow":
        style = f"-|>,head_length={HEAD_LENGTH},head_width={HEAD_WIDTH}"
        look = {"arrowstyle": style, "mutation_scale": HEAD_SCALE, "shrinkA": 0, "shrinkB": 0}
        return axes.add_patch(FancyArrowPatch(*points, lw=mark.size, color=mark.color, zorder=above, **look))
    look = {"facecolor": mark.color, "edgecolor": "none", "snap": False}
    return axes.add_collection(PolyCollection([*points], zorder=above, **look), autolim=False)


def show(artist: Artist, points: np.ndarray) -> None:
    """Let the artist of a mark show other points, of the shape that its kind takes.

    Raises:
        TypeError: The artist is not that of a mark.

    Examples:
        >>> from efisher_teach.figures.marks import show
        >>> from matplotlib.lines import Line2D
        >>> line = Line2D([], [])
        >>> show(line, np.array([[0.0, 1.0], [2.0, 3.0]]))  # one point a row
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
        raise TypeError(f"`artist` must be that of a mark; got {artist!r}. Declare it in the scene's marks.")


def _joined(points: np.ndarray) -> np.ndarray:
    """The x and the y of a line, or of several lines with a gap after each."""
    if points.ndim == 3:
        points = np.pad(points, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    return np.reshape(points, (-1, 2)).T


def set_up(axes: Axes, *, log: str = "", plain: str = "", zero: bool = False, **properties: Any) -> None:
    """Set a panel up: which of its axes are logarithmic, such as "xy"; a faint line at y = 0; and what `axes.set` sets.

    Between the powers of ten a logarithmic axis has ticks at 2 and 5, without numbers. Where few decades are in view,
    one of the `plain` has numbers at 1, 2 and 5 of each, and they are written out.
    """
    sides = {"x": axes.xaxis, "y": axes.yaxis}
    for name in log:
        axes.set(**{f"{name}scale": "log"})
        sides[name].set_minor_locator(LogLocator(subs=(2, 5)))
        sides[name].set_minor_formatter(NullFormatter())
    axes.set(**properties)
    for name in plain:
        low, high = sides[name].get_view_interval()
        sides[name].set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
        sides[name].set_major_formatter("{x:g}")
        sides[name].set_minor_locator(NullLocator())
    if zero:
        axes.axhline(0, color=FAINT, lw=1)


def loss_panel(
    axes: Axes, count: int, limits: Any, who: str = "of the examples", unit: str = ", in √c"
) -> None:
    """Set up a panel of the changes of `count` losses: a place for each example, and a faint line at 0."""
    set_up(axes, zero=True, xlim=(-1, count), ylim=limits, xticks=[])
    axes.set(xlabel=f"{count} {who}", title=f"Change of each loss{unit}")


def centre(axes: Axes, reach: np.ndarray, aspect: float = 1.0, **properties: Any) -> None:
    """Set up a panel of steps: no step is a dot in the middle, and `reach` are half sides.

    One scale on both axes, where the panel is `aspect` times as wide as high and the half sides are as well.
    """
    about_the_middle(axes, reach, **properties)
    if np.isclose(reach[0], aspect * reach[1]):
        axes.set_aspect("equal")
    axes.plot(0, 0, "o", color=CONSTRAINT, ms=5)


def about_the_middle(axes: Axes, reach: np.ndarray, **properties: Any) -> None:
    """Set up a panel whose half sides are `reach`, with what `axes.set` sets."""
    axes.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), **properties)


def contours(axes: Axes, sides: Any, height: Any, levels: Any) -> QuadContourSet:
    """Draw faint contours of heights (y, x) over a grid with the sides x and y."""
    return axes.contour(*sides, height, levels=levels, colors=FAINT, linewidths=0.9, linestyles="solid")


def contours_of(axes: Axes, landscape: Any, levels: Any) -> QuadContourSet:
    """Draw faint contours of a loss over a view: a `plane.landscape`, and the half sides of the view, `reach`."""
    return contours(axes, np.outer(landscape["reach"], landscape["grid"]), landscape["loss"], levels)


def key(axes: Axes, corner: Corner, *entries: tuple[str, str]) -> list[Text]:
    """Say what the colours of a panel mean: (text, color) a line, in a corner such as "lower left"."""
    texts, colors = zip(*entries, strict=True)
    inks: list[Any] = [INK.get(color, color) for color in colors]
    legend = Legend(
        axes,
        [Line2D([], [], ls="none") for _ in colors],
        texts,
        loc=corner,
        labelcolor=inks,
        prop={"size": 10, "weight": "bold"},
        handlelength=0,
        handletextpad=0,
        borderpad=0,
        borderaxespad=0.8,
        labelspacing=0.5,
        frameon=False,
        markerfirst="left" in corner,
    )
    axes.add_artist(legend)
    return legend.get_texts()


def label(axes: Axes, x: Any, y: Any, text: str, color: str, *, ha: str = "left", va: str) -> Text:
    """Write a word beside what it names, in the colour of that."""
    return axes.text(x, y, text, color=INK.get(color, color), fontsize=10, fontweight="bold", ha=ha, va=va)
