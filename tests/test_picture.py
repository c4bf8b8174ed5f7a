"""The table as the browser gets it, unpacked, against the places where matplotlib puts the same points."""

import zlib

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

import efisher_teach as ef
from efisher_teach.scenes import show

SCENES = {
    "ellipsoid": lambda: ef.scenes.ellipsoid(ef.descend(ef.breast_cancer(), steps=3)),
    "ellipsoid, widest": lambda: ef.scenes.ellipsoid(ef.descend(ef.breast_cancer(), steps=3), budget=0.04),
    "ellipsoid, narrow": lambda: ef.scenes.ellipsoid(ef.linear_regression(), budget=0.001),
    "damping": lambda: ef.scenes.damping(ef.descend(ef.breast_cancer(None), steps=3, learning_rate=0.1)),
    "damping, widest": lambda: ef.scenes.damping(ef.linear_regression(), budget=0.04),
}


@pytest.fixture(scope="module", params=SCENES)
def explorer(request):
    return ef.Explorer(SCENES[request.param]())


def unpack(reply):
    """The points of every layer over its axes, in CSS pixels: what `open` in explorer.js does."""
    counts = np.frombuffer(zlib.decompress(reply["table"]), "<i2")
    found = {}
    for layer in reply["layers"]:
        states, width = int(np.prod(layer["shape"], dtype=int)), 2 * layer["points"]
        differences = counts[layer["offset"] :][: states * width].reshape(states, width)
        places = np.cumsum(differences, axis=0, dtype="<i2") / reply["steps"]
        found[layer["name"]] = places.reshape(*layer["shape"], layer["points"], 2)
    return found


def drawn_at(artist):
    """Where matplotlib draws an artist's points, in CSS pixels from the top left corner."""
    if isinstance(artist, Line2D):
        points = artist.get_xydata()
    elif isinstance(artist, PolyCollection):
        points = np.concatenate([path.vertices[:-1] for path in artist.get_paths()])
    else:
        points = np.array(artist._posA_posB)
    pixels = artist.axes.transData.transform(points)
    pixels[:, 1] = artist.figure.bbox.height - pixels[:, 1]
    return pixels * 100 / artist.figure.dpi


def states(explorer):
    """The default state, and every axis at both ends and between."""
    yield explorer.indices
    for place, axis in enumerate(explorer.scene.axes):
        for index in np.linspace(0, len(axis.values) - 1, 9, dtype=int):
            yield *explorer.indices[:place], int(index), *explorer.indices[place + 1 :]


def test_packed_points_are_where_matplotlib_draws_them(explorer):
    found = unpack(explorer._reply)
    assert found.keys() == explorer._shown.artists.keys()
    for state in states(explorer):
        arrays = explorer.table.at(state)
        for name, artist in explorer._shown.artists.items():
            show(artist, arrays[name])
            layer = next(layer for layer in explorer._reply["layers"] if layer["name"] == name)
            packed = found[name][tuple(state[axis] for axis in layer["axes"])]
            np.testing.assert_allclose(packed, drawn_at(artist), atol=1 / 16, err_msg=f"{name} at {state}")


def test_layers_are_drawn_in_matplotlib_order(explorer):
    orders = [explorer._shown.artists[layer["name"]].get_zorder() for layer in explorer._reply["layers"]]
    assert orders == sorted(orders)


def test_packed_table_is_small(explorer):
    assert len(explorer._reply["table"]) <= 300_000
