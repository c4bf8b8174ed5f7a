"""What makes a scene live: its table packed for the browser, the widget, the picture, and the words.

matplotlib draws what stands still, once. What moves is turned into figure pixels with matplotlib's own transforms,
over every value of every slider, and packed into one buffer; the browser (static/explorer.js) overlays it in
matplotlib's own colours and widths. So a drag never waits for the kernel, and picture, words and browser show one
table.
"""

import zlib
from collections.abc import Callable
from io import BytesIO
from math import isclose
from pathlib import Path
from string import Formatter
from textwrap import wrap
from threading import RLock
from typing import Any, NamedTuple, cast

import anywidget
import ipywidgets
import matplotlib as mpl
import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from efisher_teach.scenes.scene import DPI, STYLE, Scene, Table, paint, show, tabulate

STATIC = Path(__file__).with_name("static")
RATIO = 2  # device pixels a CSS pixel, in the picture that matplotlib draws
STEPS = 16  # a packed coordinate counts sixteenths of a CSS pixel
LIMIT = 300_000  # bytes of a packed table


class _Place(traitlets.Float):
    """A place on an axis: any finite number, which stands for the table's nearest value."""

    def validate(self, obj, value):
        value = super().validate(obj, value)
        if not np.isfinite(value):
            raise traitlets.TraitError(
                f"`{self.name}` must be finite; got {value}. Its axis takes numbers only."
            )
        return value


class _Shown(NamedTuple):
    """What an explorer shows now; replaced as a whole."""

    scene: Scene
    table: Table
    figure: Figure
    artists: dict[str, Artist]
    picture: bytes
    """PNG of what stands still."""


class Explorer(anywidget.AnyWidget):
    """A scene that answers at the speed of the hand. Its axes are traits, its controls are ipywidgets.

    Each axis of the scene is a trait of the same name that can be read, set, observed and `jslink`ed. `controls` are
    ordinary ipywidgets; when one changes, `scene(**values)` is called in the kernel and its table replaces the old
    one. Shown alone, an explorer brings its controls along; inside a box, `explorer.panel` does.

    Args:
        scene: A `Scene`, or a function of the controls' values that returns one.
        **controls: ipywidgets with a `value`, by the name of the function's argument.

    Raises:
        TypeError: Controls are given but `scene` is not a function.
        ValueError: The packed table is larger than 300 kB; the largest array is named.

    Example:
        >>> import efisher_teach as ef
        >>> problem = ef.descend(ef.breast_cancer(), steps=3)
        >>> explorer = ef.Explorer(ef.scenes.ellipsoid(problem))
        >>> explorer.turn = 25
        >>> explorer.words.split(",")[0]
        'Turned 25° from the step along −g'
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    _reply = traitlets.Dict().tag(sync=True)
    _busy = traitlets.Int(0).tag(sync=True)

    def __init__(self, scene: Scene | Callable[..., Scene], **controls: Any):
        if isinstance(scene, Scene) and controls:
            raise TypeError(
                "`scene` must be a function of the controls' values, as controls are given; got a Scene."
            )
        self._build = (lambda: scene) if isinstance(scene, Scene) else scene
        self._lock = RLock()  # JupyterLab may call from several threads
        self._serial = 0
        self.controls = controls
        self._good = {name: control.value for name, control in controls.items()}
        first = self._build(**self._good)
        self._shown = _draw(first, tabulate(first))
        self.add_traits(**{axis.name: _Place(axis.default).tag(sync=True) for axis in first.axes})
        super().__init__(_reply=self._answer(self._shown))
        row = ipywidgets.HBox([*controls.values()], layout={"flex_flow": "row wrap"})
        self.panel = ipywidgets.VBox([row, self]) if controls else self
        for control in controls.values():
            control.observe(self._recompute, names="value")

    @property
    def scene(self) -> Scene:
        """The scene that is shown now."""
        return self._shown.scene

    @property
    def table(self) -> Table:
        """The whole response of the scene over its axes."""
        return self._shown.table

    @property
    def indices(self) -> tuple[int, ...]:
        """The place of the current state on each axis: the nearest value that the table has."""
        return tuple(axis.nearest(getattr(self, axis.name)) for axis in self.scene.axes)

    @property
    def state(self) -> dict[str, float]:
        """The current state, as the table has it: {axis: value}."""
        return {
            axis.name: float(axis.values[i]) for axis, i in zip(self.scene.axes, self.indices, strict=True)
        }

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the current state."""
        return {name: float(array) for name, array in self.table.at(self.indices).items() if array.ndim == 0}

    @property
    def words(self) -> str:
        """The current state in words, the same that the browser shows."""
        said = []
        for part in self._reply["words"]:
            if isinstance(part, dict):
                place = np.asarray(part["index"])[tuple(self.indices[axis] for axis in part["axes"])]
                part = part["said"][place]
            said.append(part)
        return "".join(said)

    def to_png(self, *, ratio: float = RATIO, caption: bool = False) -> bytes:
        """The whole figure in the current state, drawn by matplotlib, as PNG.

        Args:
            ratio: Pixels a CSS pixel.
            caption: Whether the words stand below the picture.
        """
        with self._lock:
            arrays = self.table.at(self.indices)
            for name, artist in self._shown.artists.items():
                show(artist, arrays[name])
                artist.set_visible(True)
            return _png(self._shown.figure, DPI * ratio / RATIO, self.words if caption else "")

    def _repr_mimebundle_(self, **kwargs) -> Any:
        """The live widget; the picture and the words where there is no kernel; the words for the tests."""
        shown: Any = super() if self.panel is self else self.panel
        view = shown._repr_mimebundle_(**kwargs)
        data, metadata = view if isinstance(view, tuple) else (view, {})
        words = f"{self.scene.title}. {self.words}"
        picture = {"width": int(100 * self.scene.size[0]), "alt": words}
        stored = {"text/plain": words, "image/png": self.to_png(caption=True)}
        return data | stored, metadata | {"image/png": picture}

    def _recompute(self, _change) -> None:
        """Answer a control with one atomic reply, or say what is wrong and set the controls back."""
        with self._lock:
            values = {name: control.value for name, control in self.controls.items()}
            if all(_same(value, self._good[name]) for name, value in values.items()):
                return
            self._busy = self._serial + 1
            try:
                scene = self._build(**values)
                shown = _draw(scene, tabulate(scene), self._shown)
                reply = self._answer(shown)
            except Exception as error:  # whatever the builder raises is for the reader, not for a log
                self._serial += 1
                self._reply = self._reply | {
                    "serial": self._serial,
                    "error": f"{type(error).__name__}: {error}",
                }
                for name, value in self._good.items():
                    self.controls[name].value = value
            else:
                self._good, self._shown, self._reply = values, shown, reply

    def _answer(self, shown: _Shown) -> dict[str, Any]:
        """Everything that the browser needs to show a scene, in one message."""
        scene = shown.scene
        layers, pieces = _layers(shown)
        packed = zlib.compress(b"".join(pieces.values()), 6)
        if len(packed) > LIMIT:
            name = max(pieces, key=lambda name: len(pieces[name]))
            raise ValueError(
                f"The table of '{scene.title}' packs to {len(packed)} bytes, at most {LIMIT} are sent; "
                f"`{name}` is the largest array: give it fewer points, or its axis fewer values."
            )
        self._serial += 1
        return {
            "serial": self._serial,
            "error": "",
            "title": scene.title,
            "size": [100 * inches for inches in scene.size],
            "steps": STEPS,
            "picture": shown.picture,
            "table": packed,
            "layers": layers,
            "axes": [
                {
                    "name": axis.name,
                    "label": axis.label,
                    "values": [float(value) for value in axis.values],
                    "said": [axis.say(value) for value in axis.values],
                }
                for axis in scene.axes
            ],
            "words": _words(scene, shown.table),
            "handle": scene.handle._asdict() if scene.handle else None,
        }


def _same(value: Any, other: Any) -> bool:
    """Whether a control stands where it stood: a slider in the browser answers 0.01 with 0.009999999999999998."""
    if isinstance(value, float) and isinstance(other, float):
        return isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)
    return value == other


def _draw(scene: Scene, table: Table, last: _Shown | None = None) -> _Shown:
    """Draw what stands still, unless the last picture serves again."""
    if last and last.scene.draw is scene.draw and last.scene.size == scene.size:
        old, new = last.table.background, table.background
        if all(np.array_equal(old[name], new[name]) for name in new):
            return last._replace(scene=scene, table=table)
    figure, artists = paint(scene, table, tuple(axis.nearest(axis.default) for axis in scene.axes))
    for artist in artists.values():
        artist.set_visible(False)
    return _Shown(scene, table, figure, artists, _png(figure))


def _png(figure: Figure, dpi: float = DPI, caption: str = "") -> bytes:
    """A figure as PNG; level 1 packs three times faster than the default and costs a tenth in size."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
        width, height = figure.get_size_inches()
        lines = wrap(caption, int(13 * width))
        text = figure.text(0.01, 0, "\n".join(lines), va="top", fontsize=10, linespacing=1.4)
        page = Bbox([[0, -0.21 * len(lines)], [width, height]])
        figure.savefig(buffer, dpi=dpi, bbox_inches=page, pil_kwargs={"compress_level": 1})
        text.remove()
    return buffer.getvalue()


def _layers(shown: _Shown) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """For each moving artist how it looks, and where its points are: sixteenths of CSS pixels from the top left."""
    height, artists = shown.figure.bbox.height, cast(dict[str, Any], shown.artists)
    layers, pieces, offset = [], {}, 0
    for name, artist in sorted(artists.items(), key=lambda item: item[1].get_zorder()):
        array, depends = shown.table.arrays[name], shown.table.depends[name]
        shape = array.shape[: len(depends)]
        pixels = artist.axes.transData.transform(array.reshape(-1, 2)) * [1, -1] + [0, height]
        counts = np.clip(np.rint(pixels * (STEPS / RATIO)), -32767, 32767).astype("<i2")  # ±2047 CSS pixels
        counts = counts.reshape(int(np.prod(shape)), -1)
        pieces[name] = np.diff(counts, axis=0, prepend=np.zeros_like(counts[:1])).tobytes()
        place = {
            "axes": list(depends),
            "shape": list(shape),
            "points": counts.shape[1] // 2,
            "offset": offset,
        }
        layers.append({"name": name} | place | _look(artist, height))
        offset += counts.size
    return layers, pieces


def _look(artist: Any, height: float) -> dict[str, Any]:
    """How an artist looks, in CSS pixels: what the browser needs to draw it as matplotlib does."""
    point = DPI / 72 / RATIO
    left, bottom, right, top = np.rint(artist.axes.bbox.extents)  # Agg clips at whole pixels
    look: dict[str, Any] = {
        "clip": [side / RATIO for side in (left, height - top, right - left, top - bottom)]
    }
    if isinstance(artist, PolyCollection):
        face: Any = artist.get_facecolor()
        return look | {"kind": "polygons", "color": to_hex(face[0]), "corners": 4}
    color = artist.get_color() if isinstance(artist, Line2D) else artist.get_edgecolor()
    look |= {"color": to_hex(color), "width": artist.get_linewidth() * point}
    if not isinstance(artist, Line2D):
        style, scale = artist.get_arrowstyle(), artist.get_mutation_scale() * point
        return look | {"kind": "arrow", "head": [style.head_length * scale, style.head_width * scale]}
    if artist.get_marker() == "o":
        edge = {
            "edge": to_hex(artist.get_markeredgecolor()),
            "edge_width": artist.get_markeredgewidth() * point,
        }
        radius = artist.get_markersize() / 2 * point
        return look | {"kind": "dots", "color": to_hex(artist.get_markerfacecolor()), "radius": radius} | edge
    dashes: Any = artist._dash_pattern  # type: ignore  # there is no public way to what is drawn
    return look | {"kind": "line", "dashes": [dash * point for dash in dashes[1] or ()]}


def _words(scene: Scene, table: Table) -> list[Any]:
    """The words in parts: plain text, or all the texts that a number takes and which of them each state has."""
    parts: list[Any] = []
    names = [axis.name for axis in scene.axes]
    for literal, field, spec, _ in Formatter().parse(scene.words):
        if literal:
            parts.append(literal)
        if field in names:
            axis = scene.axes[names.index(field)]
            said, axes = [axis.say(value) for value in axis.values], [names.index(field)]
            index = np.arange(len(said))
        elif field:
            array = table.arrays[field]
            texts = [format(float(value), spec or "").replace("-", "−") for value in array.reshape(-1)]
            said = sorted(set(texts))
            place = {text: i for i, text in enumerate(said)}
            index, axes = np.reshape([place[text] for text in texts], array.shape), list(table.depends[field])
        else:
            continue
        parts.append({"said": said, "axes": axes, "index": index.tolist()})
    return parts
