"""The table as the browser gets it, unpacked, against the places where matplotlib puts the same points."""

import zlib

import gallery
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from efisher_teach.browser.packing import pack
from efisher_teach.figures.marks import show
from efisher_teach.figures.table import view


@pytest.fixture(scope="module", params=gallery.CASES)
def shown(request):
    """In both forms, where it has two."""
    return gallery.prepared(request.param)


def unpack(reply, form):
    """The points of every layer over its axes, in CSS pixels: what `open` in explorer.js does."""
    low_and_high = np.frombuffer(zlib.decompress(form["table"]), np.uint8).reshape(2, -1)
    steps = np.ascontiguousarray(low_and_high.T).view("<i2")[:, 0]
    found = {}
    for layer in form["layers"]:
        states, width = int(np.prod(layer["shape"], dtype=int)), layer["space"] * layer["points"]
        places = steps[layer["offset"] :][: states * width].reshape(width, states).T
        places = places.reshape(*layer["shape"], layer["points"], layer["space"])
        for dimension, order in enumerate(layer["orders"]):
            for _ in range(order):
                places = np.cumsum(places, axis=dimension, dtype="<i2")
        found[layer["name"]] = places / reply["steps"]
    return found


def turned(scene, layer, points, state):
    """Points in the plane: what `points` in explorer.js does to those in space."""
    if layer["space"] == 2:
        return points
    at = {axis.name: np.deg2rad(axis.values[i]) for axis, i in zip(scene.axes, state, strict=True)}
    a, e = at[scene.orbit.azimuth], at[scene.orbit.elevation]
    x, y, z = points.T
    near = np.cos(a) * x + np.sin(a) * y
    plane = np.stack([np.cos(a) * y - np.sin(a) * x, np.sin(e) * near - np.cos(e) * z], axis=-1)
    if layer["rim"]:
        plane = plane[np.cos(e) * near + np.sin(e) * z >= -layer["rim"]]
    return plane + layer["center"]


def drawn_at(artist):
    """Where matplotlib draws an artist's points, in CSS pixels from the top left corner."""
    if isinstance(artist, Line2D):
        points = artist.get_xydata()
        points = points[np.isfinite(points).all(axis=1)]
    elif isinstance(artist, PolyCollection):
        points = np.concatenate([path.vertices[:-1] for path in artist.get_paths()])
    else:
        points = np.array(artist._posA_posB)
    pixels = artist.axes.transData.transform(points)
    pixels[:, 1] = artist.figure.bbox.height - pixels[:, 1]
    return pixels * 100 / artist.figure.dpi


def test_packed_points_are_where_matplotlib_draws_them(shown):
    scene, packed = shown.scene, pack(shown)
    assert set(packed["forms"]) == ({"wide", "narrow"} if scene.narrow else {"wide"})
    for name, form in packed["forms"].items():
        found, drawn = unpack(packed, form), shown.forms[name].painting.artists
        assert [layer["name"] for layer in form["layers"]] == [*scene.marks]  # from back to front
        assert found.keys() == drawn.keys()
        for state in gallery.states(scene):
            arrays = view(scene, shown.table, state)
            for layer in form["layers"]:
                artist = drawn[layer["name"]]
                show(artist, arrays[layer["name"]])
                packed_points = found[layer["name"]][tuple(state[axis] for axis in layer["axes"])]
                places = turned(scene, layer, packed_points, state)
                ours, theirs = np.clip(places, -2047, 2047), np.clip(drawn_at(artist), -2047, 2047)
                if layer.get("rim"):  # which of two points at the rim is behind is a matter of rounding
                    gaps = np.linalg.norm(ours[:, None] - theirs, axis=-1)
                    assert (gaps.min(axis=1) > 1 / 8).sum() <= 4
                else:
                    what = f"{layer['name']} at {state}"
                    np.testing.assert_allclose(ours, theirs, atol=1 / 8, err_msg=what)


def test_layers_look_as_matplotlib_draws_them(shown):
    """Colour, width, dashes, size and clip: what the browser draws with, against the artists."""
    packed, point = pack(shown), 100 / 72
    for name, form in packed["forms"].items():
        painting = shown.forms[name].painting
        for layer in form["layers"]:
            artist = painting.artists[layer["name"]]
            left, top, width, height = layer["clip"]
            box, whole = artist.axes.bbox, painting.figure.bbox.height
            corners = [box.x0, whole - box.y1, box.width, box.height]
            np.testing.assert_allclose([left, top, width, height], np.array(corners) / 2, atol=0.5)
            if layer["kind"] == "polygons":
                assert to_hex(artist.get_facecolor()[0], keep_alpha=True) == layer["color"]
            elif layer["kind"] == "dots":
                assert to_hex(artist.get_markerfacecolor(), keep_alpha=True) == layer["color"]
                assert artist.get_markersize() * point / 2 == pytest.approx(layer["radius"])
                assert artist.get_markeredgewidth() * point == pytest.approx(layer["edge_width"])
            else:
                color = artist.get_color() if layer["kind"] == "line" else artist.get_edgecolor()
                assert to_hex(color, keep_alpha=True) == layer["color"]
                assert artist.get_linewidth() * point == pytest.approx(layer["width"])
            if layer["kind"] == "line":
                dashes = artist._dash_pattern[1] or ()  # there is no public way to what is drawn
                assert [dash * point for dash in dashes] == pytest.approx(layer["dashes"])
