"""Painting: a scene in one state, whole, by matplotlib; its panels may stand where those of an earlier figure stand."""

from io import BytesIO
from textwrap import wrap
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from efisher_teach.figures.canvas import Canvas
from efisher_teach.figures.ink import DPI, NARROW, STYLE
from efisher_teach.figures.marks import MOVING, add_mark
from efisher_teach.figures.scene import Scene
from efisher_teach.figures.table import Table, view

ROOM = {"w_pad": 0.08, "h_pad": 0.08, "wspace": 0.03, "hspace": 0.03}


class Layout(NamedTuple):
    """The places of the panels of a figure, and the room that is left for the labels of their ticks."""

    places: np.ndarray
    """Left, lower, right and upper end of each panel, (panels, 4)."""
    room: list[np.ndarray]
    """`_overhang` of each panel."""


class Painting(NamedTuple):
    """A painted figure: its panels by letter, and the artists of its marks by name."""

    figure: Figure
    panels: dict[str, Axes]
    artists: dict[str, Artist]


def paint(
    scene: Scene,
    table: Table,
    indices: tuple[int, ...],
    size: tuple[float, float] | None = None,
    layout: Layout | None = None,
) -> Painting:
    """Paint the whole figure in one state.

    Args:
        scene: What to draw.
        table: Its response.
        indices: The state: one place an axis.
        size: In inches; None for the scene's own.
        layout: `layout_of` a figure of the same scene and size. Panels stand where they stand there, as long as there
            is room for the labels of their ticks; that is twice as fast, and they keep still under the reader's eyes.
            Else they stand where there is room for the labels of both.

    Returns:
        A `Painting`.

    Raises:
        ValueError: An artist that stands still would be drawn over a mark: the browser could not tell them apart.

    Examples:
        >>> from efisher_teach.figures.marks import dots
        >>> axis = ef.scenes.Axis("length", "length", np.array([0.0, 1.0, 2.0]), 0.0, str)
        >>> respond = lambda data, state: {"point": jnp.stack([state["length"], state["length"] ** 2])}
        >>> about = (axis,), None, lambda data: {}, respond, "", (4.0, 3.0)
        >>> scene = ef.scenes.Scene("A square", *about, marks={"point": dots("A", "#0072B2")})
        >>> painting = ef.scenes.paint(scene, ef.scenes.tabulate(scene), (2,))
        >>> print(painting.artists["point"].get_xydata())  # where the length is 2
        [[2. 4.]]
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or scene.size, dpi=DPI)
        Canvas(figure)
        figure.set_layout_engine("constrained", **ROOM)
        wide, narrow = scene.mosaic
        panels = figure.subplot_mosaic(wide if is_wide(figure) else narrow)
        scene.still(panels, table.background)
        for axes in figure.axes:
            _require_below(axes)
        arrays = view(scene, table, indices)
        artists = {
            name: add_mark(panels[mark.panel], mark, arrays[name], order)
            for order, (name, mark) in enumerate(scene.marks.items())
        }
        if not (layout and _take(figure, layout)):
            cast(Any, figure.get_layout_engine()).execute(figure)
            if layout:
                _stand(figure, within(places(figure), layout.places))
        figure.set_layout_engine(None)  # nothing moves any more, and nothing is laid out again
    return Painting(figure, panels, artists)


def is_wide(figure: Any) -> bool:
    """True of a figure that is not for a phone, or for half a screen."""
    return bool(figure.get_figwidth() >= NARROW)


def _require_below(axes: Axes) -> None:
    for artist in axes.get_children():
        if artist.get_visible() and artist.get_zorder() >= MOVING:
            raise ValueError(f"{artist} stands still but has z-order {artist.get_zorder()} ≥ {MOVING}.")


def write(figure: Figure, kind: str = "png", dpi: float = DPI, caption: str = "") -> bytes:
    """A figure as a file, with a caption below it.

    PNG is packed at level 1, which is faster than the default and costs a tenth in size.
    """
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
        width, height = figure.get_size_inches()
        lines = wrap(caption, int(13 * width))
        text = figure.text(0.01, 0, "\n".join(lines), va="top", fontsize=10, linespacing=1.4)
        page = Bbox([[0, -0.21 * len(lines)], [width, height]])
        options: Any = {"pil_kwargs": {"compress_level": 1}} if kind == "png" else {}
        figure.savefig(buffer, format=kind, dpi=dpi, bbox_inches=page, **options)
        text.remove()
    return buffer.getvalue()


def layout_of(figure: Figure, last: Layout | None = None) -> Layout:
    """The places of the panels of a figure, and the room that the labels of their ticks take, or took last."""
    room = [_overhang(axes) for axes in figure.axes]
    return Layout(
        places(figure), [np.maximum(*each) for each in zip(room, last.room, strict=True)] if last else room
    )


def places(figure: Figure) -> np.ndarray:
    """Left, lower, right and upper end of each panel, (panels, 4)."""
    return np.array([axes.get_position(original=True).extents for axes in figure.axes]).reshape(-1, 4)


def _take(figure: Figure, layout: Layout) -> bool:
    """Put the panels where a layout has them; False if the labels of their ticks have no room there."""
    _stand(figure, layout.places)
    panels = zip(figure.axes, layout.room, strict=True)
    return all((_overhang(axes) <= room + 1).all() for axes, room in panels)


def _stand(figure: Figure, places: np.ndarray) -> None:
    for axes, place in zip(figure.axes, places, strict=True):
        axes.set_position(Bbox.from_extents(place))
        axes.set_in_layout(True)  # which a position ends


def within(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The common part of panels in two places; where that is much less than here, they stay here."""
    both = np.hstack([np.maximum(here[:, :2], there[:, :2]), np.minimum(here[:, 2:], there[:, 2:])])
    roomy = both[:, 2:] - both[:, :2] >= 0.85 * (here[:, 2:] - here[:, :2])
    return both if roomy.all() else here


def _overhang(axes: Axes) -> np.ndarray:
    """The reach of the labels of a panel's ticks beyond it, left, below, right and above, in pixels.

    And how many characters the common factors have: matplotlib places them when it draws.
    """
    axes.apply_aspect()
    # Each text remembers the renderer that drew it last, which may be one of another resolution.
    renderer = cast(FigureCanvasAgg, axes.figure.canvas).get_renderer()
    edges, factors = [axes.bbox.extents], []
    for side, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = zip(side.get_majorticklocs(), side.get_majorticklabels(), strict=True)
        shown = [text for at, text in ticks if min(limits) <= at <= max(limits) and text.get_text()]
        edges += [text.get_window_extent(renderer).extents for text in shown]
        factors.append(2 * len(side.get_major_formatter().get_offset()))
    reach = np.array(edges)
    return np.concatenate([reach[0, :2] - reach[:, :2].min(0), reach[:, 2:].max(0) - reach[0, 2:], factors])
