"""Packing for the browser: still pictures, and every point that moves, packed into one buffer.

matplotlib draws what stands still, once. What moves is turned into figure pixels with matplotlib's own transforms,
over every value of every axis; points with three coordinates stay so, in pixels from the place of the origin.
"""

import json
import zlib
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from efisher_teach.figures.canvas import still_picture
from efisher_teach.figures.ink import DPI
from efisher_teach.figures.marks import HEAD_LENGTH, HEAD_SCALE, HEAD_WIDTH, Mark, show
from efisher_teach.figures.paint import Layout, Painting, layout_of, paint, places, write
from efisher_teach.figures.scene import Axis, Scene, as_written
from efisher_teach.figures.table import Table, slack, view

RATIO = 2  # device pixels a CSS pixel, of the figures that matplotlib draws
STEPS = 8  # a packed coordinate counts eighths of a CSS pixel
LIMIT = 1_000_000  # bytes of a packed table
LEVEL = 4  # of zlib's nine: packs in a third of the time that the usual 6 takes, and a tenth larger


class Form(NamedTuple):
    """A scene painted in one size, and the picture of what stands still in it."""

    painting: Painting
    picture: bytes
    ratio: int
    """Device pixels a CSS pixel of the picture."""
    layout: Layout


class Shown(NamedTuple):
    """The scene that an explorer shows, in each form that is asked for; replaced as a whole."""

    scene: Scene
    table: Table
    forms: dict[str, Form]
    words: list[Any]
    """In parts: plain text, or all the texts that a number takes and which of them each state has."""

    def say(self, indices: tuple[int, ...]) -> str:
        """The words in one state."""

        def of(part: Any) -> str:
            if isinstance(part, str):
                return part
            return part["said"][part["index"][tuple(indices[axis] for axis in part["axes"])]]

        return "".join(map(of, self.words))


def prepare(
    scene: Scene, table: Table, names: tuple[str, ...], last: Shown | None = None, ratio: int = RATIO
) -> Shown:
    """Draw what stands still, unless the last pictures serve again: they show the same, and are as sharp."""
    old = last.forms if last and _drawing(last.scene) == _drawing(scene) else {}
    still = last.table.background if last and old else {}
    same = old and all(np.array_equal(still[key], new) for key, new in table.background.items())
    forms = {}
    for name in names:
        last_form = old.get(name)
        serves = last_form if same and last_form and last_form.ratio >= ratio else None
        forms[name] = serves or _form(scene, table, name, last_form, ratio)
    return Shown(scene, table, forms, _words(scene, table))


def _drawing(scene: Scene) -> tuple:
    """All that the still picture depends on, besides the background."""
    return scene.still, scene.marks, scene.mosaic, scene.size, scene.narrow


def _form(scene: Scene, table: Table, name: str, last: Form | None, ratio: int) -> Form:
    size = scene.narrow if name == "narrow" else scene.size
    start = tuple(axis.nearest(axis.default) for axis in scene.axes)
    layout = last and last.layout
    painting = paint(scene, table, start, size, layout)
    # A layout that stays keeps the room that is not needed now.
    if not layout or not np.array_equal(places(painting.figure), layout.places):
        layout = layout_of(painting.figure, layout)
    for artist in painting.artists.values():
        artist.set_visible(False)
    return Form(painting, still_picture(painting.figure, DPI * ratio / RATIO), ratio, layout)


def _words(scene: Scene, table: Table) -> list[Any]:
    parts: list[Any] = []
    names = [axis.name for axis in scene.axes]
    for literal, field, spec, _ in Formatter().parse(scene.words):
        if literal:
            parts.append(literal)
        if field in names:
            axis = scene.axes[names.index(field)]
            axes, shape = [names.index(field)], axis.values.shape
            said, index = np.unique([axis.say(value) for value in axis.values], return_inverse=True)
        elif field:
            axes, shape = list(table.depends[field]), table.arrays[field].shape
            said, index = _said(table.arrays[field].reshape(-1), spec or "")
        else:
            continue
        parts.append({"said": [*map(str, said)], "axes": axes, "index": index.reshape(shape)})
    return parts


def _said(values: np.ndarray, spec: str) -> tuple[list[str], np.ndarray]:
    """All that numbers are called in a format, and which of it each is: what lies between two alike is like them."""
    order = np.argsort(values)
    ordered = values[order].tolist()
    texts, ranges = [""] * len(ordered), [(0, len(ordered) - 1)]
    texts[0], texts[-1] = (as_written(ordered[end], spec) for end in (0, -1))
    while ranges:
        low, high = ranges.pop()
        if texts[low] == texts[high]:
            texts[low:high] = [texts[low]] * (high - low)
        elif high - low > 1:
            middle = (low + high) // 2
            texts[middle] = as_written(ordered[middle], spec)
            ranges += (low, middle), (middle, high)
    said = sorted({*texts})
    index = np.empty(len(texts), int)
    index[order] = [*map({text: place for place, text in enumerate(said)}.__getitem__, texts)]
    return said, index


def draw_whole(
    shown: Shown, indices: tuple[int, ...], kind: str, dpi: float, caption: str = "", form: str = "wide"
) -> bytes:
    """The figure in one state, all of it by matplotlib."""
    painting, arrays = shown.forms[form].painting, view(shown.scene, shown.table, indices)
    for name, artist in painting.artists.items():
        show(artist, arrays[name])
        artist.set_visible(True)
    return write(painting.figure, kind, dpi, caption)


def pack(shown: Shown) -> dict[str, Any]:
    """All that is sent to the browser of a scene.

    Raises:
        ValueError: The packed table is larger than 1 MB; the largest array is named.
    """
    scene = shown.scene
    places = {axis.name: place for place, axis in enumerate(scene.axes)}
    orbit = scene.orbit and {axis: places[getattr(scene.orbit, axis)] for axis in ("azimuth", "elevation")}
    handles = [each._asdict() | {"axes": [places[axis] for axis in each.axes]} for each in scene.handles]
    return {
        "title": scene.title,
        "steps": STEPS,
        "narrow": scene.narrow is not None,
        "forms": {name: _packed(shown, form) for name, form in shown.forms.items()},
        "axes": [_axis(axis) for axis in scene.axes],
        "words": zlib.compress(json.dumps(shown.words, default=np.ndarray.tolist).encode(), LEVEL),
        "handles": handles,
        "orbit": orbit,
        "presets": [preset._asdict() for preset in scene.presets],
    }


def _axis(axis: Axis) -> dict[str, Any]:
    start = float(axis.values[axis.nearest(axis.default)])
    values, said = axis.values.tolist(), [axis.say(value) for value in axis.values]
    about = {"name": axis.name, "label": axis.label, "play": axis.play}
    return about | {"values": values, "said": said, "start": start}


def _packed(shown: Shown, form: Form) -> dict[str, Any]:
    """A form: its picture, its marks from back to front, and the table that they share."""
    layers, pieces, offset = [], {}, 0
    for name, mark in shown.scene.marks.items():
        layer, counts = _layer(shown, form, name, mark)
        layers.append(layer | {"offset": offset} | _look(mark))
        pieces[name] = _differences(counts)
        offset += counts.size
    nothing = np.zeros(0, "<i2")  # a scene may have numbers only
    # All low bytes, then all high ones: of small numbers the high ones are alike.
    low_and_high = np.concatenate([nothing, *pieces.values()]).view(np.uint8).reshape(-1, 2).T
    table = zlib.compress(low_and_high.tobytes(), LEVEL)
    if len(table) > LIMIT:
        name = max(pieces, key=lambda name: pieces[name].size)
        raise ValueError(
            f"The table of '{shown.scene.title}' packs to {len(table)} bytes, at most {LIMIT} are sent; "
            f"`{name}` is the largest array: give it fewer points, or its axis fewer values."
        )
    size = [side / RATIO for side in form.painting.figure.bbox.size]
    return {"size": size, "picture": form.picture, "table": table, "layers": layers}


def _differences(counts: np.ndarray) -> np.ndarray:
    """Subtract from each place of an axis the one before, coordinate by coordinate: points move smoothly."""
    for axis in range(counts.ndim - 2):
        counts = np.diff(counts, axis=axis, prepend=counts.dtype.type(0))
    return counts.reshape(-1, counts.shape[-2] * counts.shape[-1]).T.ravel()


def _layer(shown: Shown, form: Form, name: str, mark: Mark) -> tuple[dict[str, Any], np.ndarray]:
    """A mark's axes and place, and its points (…, points, 2 or 3) in eighths of CSS pixels from the top left."""
    axes, orbit = form.painting.panels[mark.panel], shown.scene.orbit
    height = form.painting.figure.bbox.height
    array, depends = shown.table.arrays[name], shown.table.depends[name]
    shape, space = array.shape[: len(depends)], 3 if orbit and array.shape[-1] == 3 else 2
    origin, right = axes.transData.transform([(0, 0), (1, 0)])
    if space == 3:
        pixels = array.reshape(-1, 3) * (right - origin)[0]
    else:
        pixels = axes.transData.transform(array.reshape(-1, 2)) * [1, -1] + [0, height]
    counts = np.clip(np.rint(pixels * (STEPS / RATIO)), -32767, 32767).astype("<i2")  # ±2047 CSS pixels
    counts = counts.reshape(*shape, -1, space)
    layer = {
        "name": name,
        "axes": list(depends),
        "shape": list(shape),
        "points": counts.shape[-2],
        "piece": array.shape[-2] if array.ndim > len(depends) + 1 else 1,
        "space": space,
        "clip": _clip(axes, height),
    }
    if space == 3:
        center = [origin[0] / RATIO, (height - origin[1]) / RATIO]
        front = orbit and name in orbit.front
        layer |= {"center": center, "rim": slack(pixels) / RATIO if front else None}
    return layer, counts


def _clip(axes: Axes, height: float) -> list[float]:
    """The rectangle of a panel in CSS pixels; Agg clips at whole device pixels."""
    left, bottom, right, top = np.rint(axes.bbox.extents)
    return [side / RATIO for side in (left, height - top, right - left, top - bottom)]


def _look(mark: Mark) -> dict[str, Any]:
    """The look of a mark in CSS pixels, with which the browser draws it as matplotlib does."""
    point = DPI / 72 / RATIO
    size = mark.size * point
    look = {"kind": mark.kind, "color": to_hex(mark.color, keep_alpha=True)}
    if mark.kind == "line":
        return look | {"width": size, "dashes": [dash * size for dash in mark.dashes]}
    if mark.kind == "arrow":
        head = [side * HEAD_SCALE * point for side in (HEAD_LENGTH, HEAD_WIDTH)]
        return look | {"width": size, "head": head}
    if mark.kind == "dots":
        return look | {"radius": size / 2, "edge": to_hex("white", keep_alpha=True), "edge_width": point}
    return look
