"""Of every scene: its table is finite, small, drawn and said. The mathematics of each has a file of its own."""

import re
import zlib
from decimal import Decimal
from functools import partial
from io import BytesIO
from itertools import combinations, pairwise
from string import Formatter

import gallery
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from efisher_teach.browser.packing import pack
from efisher_teach.figures import paint, scenes
from efisher_teach.figures import table as table_room
from efisher_teach.figures.marks import MOVING, show
from efisher_teach.figures.table import view


@pytest.fixture(params=gallery.CASES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return gallery.shown(name)


@pytest.fixture
def paintings(name):
    """In both forms, where there are two; each is painted once, and shared by the tests."""
    return [form.painting for form in gallery.prepared(name).forms.values()]


def seen(painting, visible):
    for artist in painting.artists.values():
        artist.set_visible(visible)
    return painting


def test_words_are_the_numbers_of_the_table(name, case):
    scene, table = case
    for indices in gallery.states(scene):
        said = {a.name: a.say(a.values[i]) for a, i in zip(scene.axes, indices, strict=True)}
        numbers = {name: float(array) for name, array in table.at(indices).items() if array.ndim == 0}
        marks = {name: f"\0{name}\0" for name in said}
        expected = re.sub(r"[\d.]+e[-+]\d+", written, scene.words.format(**numbers | marks))
        expected = re.sub(r"-(?=\d)", "−", expected)
        for name_, text in said.items():
            expected = expected.replace(f"\0{name_}\0", text)
        assert gallery.prepared(name).say(indices) == expected
        assert len(expected) > 100


def written(number):
    """A number with an exponent, without: up to a million as it is counted, else by a power of ten."""
    digits, power = number[0].split("e")
    if 0 <= int(power) < 6:
        return f"{Decimal(number[0]):,f}"
    return f"{digits}×10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(d)] if d.isdigit() else '⁻' for d in str(int(power)))}"


def test_moving_arrays_are_drawn_and_numbers_are_said(case, paintings):
    scene, table = case
    fields = {field for _, field, _, _ in Formatter().parse(scene.words) if field}
    assert set(scene.marks) | (fields - {axis.name for axis in scene.axes}) == set(table.arrays)
    assert not set(scene.marks) & fields
    for painting in paintings:
        assert [*painting.artists] == [*scene.marks]
        orders = [artist.get_zorder() for artist in painting.artists.values()]
        assert orders == sorted(orders)
        assert min(orders) >= MOVING


def test_drawing_leaves_matplotlib_as_it_was():
    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    scenes.paint(*gallery.shown("the_best_step"), (0,))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_marks_are_in_view(case, paintings):
    scene, table = case
    default = tuple(axis.nearest(axis.default) for axis in scene.axes)
    arrays = scenes.view(scene, table, default)
    for painting in paintings:
        for name, artist in painting.artists.items():
            show(artist, arrays[name])
            points = arrays[name].reshape(-1, 2)
            points = points[np.isfinite(points).all(axis=1)]
            places = artist.axes.transAxes.inverted().transform(artist.axes.transData.transform(points))
            assert (abs(places - 0.5) <= 0.5001).all(axis=1).any(), f"{name} is out of view"


def test_nothing_is_cut_off(case, paintings):
    """No label reaches beyond the figure, in either form, and tick labels of an axis do not touch."""
    for painting in paintings:
        assert_all_has_room(painting)


def assert_all_has_room(painting):
    figure = seen(painting, False).figure
    tight, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(tight.x0, tight.y0) > -0.02
    assert max(tight.x1 - width, tight.y1 - height) < 0.02
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = zip(axes.xaxis.get_majorticklocs(), axes.xaxis.get_majorticklabels(), strict=True)
        boxes = [text.get_window_extent() for at, text in ticks if low <= at <= high and text.get_text()]
        boxes.sort(key=lambda box: box.x0)
        for one, other in pairwise(boxes):
            assert one.x1 <= other.x0, f"tick labels touch in '{axes.get_title(loc='left')}' at {width}"


@pytest.mark.heavy
@pytest.mark.parametrize("other", [name for name in gallery.GALLERY if "," in name])
def test_panels_may_stand_where_those_of_other_data_stand(other):
    """Nothing is cut off, in either form, of all data that the gallery has a scene drawn on."""
    first, (scene, table) = gallery.prepared(other.split(",")[0]), gallery.shown(other)
    if scene.marks != first.scene.marks:
        pytest.skip("another drawing")
    for form in first.forms.values():
        size = form.painting.figure.get_size_inches()
        assert_all_has_room(scenes.paint(scene, table, (0,) * len(scene.axes), tuple(size), form.layout))


def test_panels_stand_still_where_labels_have_room():
    def drawn(top, last=None):
        def still(panels, background):
            panels["A"].set_ylim(0, top)

        axis = scenes.Axis("length", "length", np.array([0.0, 1.0, 2.0]), 0.0, str)
        about = (axis,), None, lambda data: {}, lambda *of: {}, "", (4.0, 3.0)
        scene = scenes.Scene("", *about, still=still)
        figure = scenes.paint(scene, scenes.tabulate(scene), (0,), None, last).figure
        figure.savefig(BytesIO(), dpi=50)  # as the reader may: it leaves marks on the figure's texts
        return paint.layout_of(figure, last)

    def alike(one, other):
        return np.allclose(one.places, other.places, rtol=0, atol=1e-9)

    hundreds = drawn(500)
    assert alike(drawn(5, hundreds), hundreds)
    assert alike(drawn(300, hundreds), hundreds)
    assert not alike(drawn(5), hundreds)
    for longer in (5000, 5e6):  # of the other, the labels are short but for "1e6" above them
        both = drawn(longer, hundreds)
        assert not alike(both, hundreds)
        assert alike(both, paint.Layout(paint.within(drawn(longer).places, hundreds.places), []))
        assert alike(drawn(500, both), both)
        assert alike(drawn(longer, drawn(5, both)), both)


def test_panels_stand_where_two_places_overlap_unless_that_is_small():
    here, there = np.array([[0.1, 0.1, 0.9, 0.9]]), np.array([[0.15, 0.0, 1.0, 0.85]])
    np.testing.assert_allclose(paint.within(here, there), [[0.15, 0.1, 0.9, 0.85]])
    np.testing.assert_array_equal(paint.within(here, there - 0.5), here)


@pytest.mark.parametrize("name", gallery.BARE)
def test_words_are_dark_enough(name):
    """On the ground where they stand: every colour that fills a fifth of it."""
    figure, _, moving = seen(gallery.prepared(name).forms["wide"].painting, True)
    words = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent() for text in words]
    for artist in [*words, *moving.values()]:
        artist.set_visible(False)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3] / 255
    for text, box in zip(words, boxes, strict=True):
        left, bottom, right, top = np.clip(np.rint(box.extents), 0, None).astype(int)
        behind, counts = np.unique(picture[bottom:top, left:right].reshape(-1, 3), axis=0, return_counts=True)
        for ground in behind[counts >= counts.sum() / 5]:  # none where a tick is beyond the view
            assert gallery.contrast(text.get_color(), tuple(ground)) >= 4.5, text.get_text()


@pytest.mark.parametrize("name", gallery.BARE)
def test_a_scene_is_small_and_has_views(name):
    (scene, _), packed = gallery.shown(name), pack(gallery.prepared(name))
    assert len(packed["forms"]["wide"]["table"]) <= 120_000
    assert len(packed["words"]) <= 200_000
    assert scene.narrow or name == "a_real_network"
    for preset in scene.presets:
        assert preset.says.endswith((".", "!"))
        assert not preset.asks or preset.asks.endswith("?")
        for axis, value in preset.state.items():
            values = next(each.values for each in scene.axes if each.name == axis)
            assert np.min(np.abs(values - value)) <= 0.51 * np.max(np.abs(np.diff(values)))


def tabulated(scene):
    """All that its table is computed from, in the order of `evaluate`."""
    names, values = zip(*((axis.name, jnp.asarray(axis.values, float)) for axis in scene.axes), strict=True)
    return scene.background, scene.respond, names, scene.data, values


@pytest.mark.heavy
@pytest.mark.parametrize("name", gallery.BARE)
def test_tables_lower_for_cuda(name):
    """JAX translates the table of every scene for a GPU, without one."""
    background, respond, names, *rest = tabulated(gallery.shown(name)[0])
    evaluate = partial(table_room.evaluate.__wrapped__, background, respond, names)
    program = jax.export.export(jax.jit(evaluate), platforms=["cuda"])(*rest)
    assert program.platforms == ("cuda",)
    if name in ("the_best_step", "damping"):  # their steps go by the singular values of G
        assert "cusolver_gesvdj" in program.mlir_module()


@pytest.mark.parametrize("name", ["the_best_step", "damping", "solid", "your_model"])
def test_background_does_not_depend_on_the_budget(name):
    scene, table = gallery.shown(name)
    again = scenes.tabulate(scene._replace(data=scene.data | {"budget": 0.0 * scene.data["budget"] + 0.013}))
    for array, other in zip(table.background.values(), again.background.values(), strict=True):
        np.testing.assert_array_equal(array, other)


# The table as the browser gets it, unpacked, against the places where matplotlib puts the same points.


def unpack(reply, form):
    """The points of every layer over its axes, in CSS pixels: what `open` in explorer.js does."""
    low_and_high = np.frombuffer(zlib.decompress(form["table"]), np.uint8).reshape(2, -1)
    steps = np.ascontiguousarray(low_and_high.T).view("<i2")[:, 0]
    found = {}
    for layer in form["layers"]:
        states, width = int(np.prod(layer["shape"], dtype=int)), layer["space"] * layer["points"]
        places = steps[layer["offset"] :][: states * width].reshape(width, states).T
        places = places.reshape(*layer["shape"], layer["points"], layer["space"])
        for axis in range(len(layer["shape"])):
            places = np.cumsum(places, axis=axis, dtype="<i2")
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
    """The points of an artist as matplotlib draws them, in CSS pixels from the top left corner."""
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


COLORS = {"dots": "get_markerfacecolor", "line": "get_color", "arrow": "get_edgecolor"}


def assert_looks_like(layer, artist):
    """Colour, width, dashes, size and clip: what the browser draws with, against the artist."""
    kind, box, point = layer["kind"], artist.axes.bbox, 100 / 72
    corners = np.array([box.x0, artist.figure.bbox.height - box.y1, box.width, box.height])
    np.testing.assert_allclose(layer["clip"], corners / 2, atol=0.5)
    color = artist.get_facecolor()[0] if kind == "polygons" else getattr(artist, COLORS[kind])()
    assert to_hex(color, keep_alpha=True) == layer["color"]
    if kind == "dots":
        assert artist.get_markersize() * point / 2 == pytest.approx(layer["radius"])
        assert artist.get_markeredgewidth() * point == pytest.approx(layer["edge_width"])
    elif kind != "polygons":
        assert artist.get_linewidth() * point == pytest.approx(layer["width"])
    if kind == "line":
        dashes = artist._dash_pattern[1] or ()  # there is no public way to what is drawn
        assert [dash * point for dash in dashes] == pytest.approx(layer["dashes"])


def test_packed_layers_are_what_matplotlib_draws(name):
    shown = gallery.prepared(name)
    scene, packed = shown.scene, pack(shown)
    assert set(packed["forms"]) == ({"wide", "narrow"} if scene.narrow else {"wide"})
    for kind, form in packed["forms"].items():
        found, drawn = unpack(packed, form), shown.forms[kind].painting.artists
        assert [layer["name"] for layer in form["layers"]] == [*scene.marks]  # from back to front
        assert found.keys() == drawn.keys()
        for layer in form["layers"]:
            assert_looks_like(layer, drawn[layer["name"]])
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


# What is said to authors of scenes.


def test_not_finite_is_named():
    scene, _ = gallery.shown("damping, two")
    broken = scene._replace(respond=lambda data, state: {"length": np.nan * state["damping"]})
    with pytest.raises(ValueError, match=r"`length` of the scene 'Damping.* not finite at damping = 1e-07"):
        scenes.tabulate(broken)


def test_a_still_artist_over_a_moving_one_is_refused():
    scene, table = gallery.shown("the_best_step")

    def still(panels, background):
        scene.still(panels, background)
        panels["A"].text(0, 0, "above", zorder=MOVING + 5)

    with pytest.raises(ValueError, match="stands still but has z-order 15"):
        scenes.paint(scene._replace(still=still), table, (0,))


def test_each_array_is_computed_over_its_own_axes():
    """And in each state it is what the scene says of that state alone."""

    def respond(data, state):
        x, y, a = state["x"], state["y"], state["a"]
        return {
            "one": x + 1.0,
            "two": x * y,
            "none": data + 0.0,
            "other": y * 2.0,
            "all": jnp.stack([a, x - y]),
        }

    sizes = {"x": 3.0, "y": 4.0, "a": 2.0}  # in another order than JAX's
    axes = tuple(scenes.Axis(name, name, np.arange(size), 0, str) for name, size in sizes.items())
    scene = scenes.Scene("toy", axes, np.float32(5), lambda data: {}, respond, "", (1, 1))
    table = scenes.tabulate(scene)
    assert table.depends == {"one": (0,), "two": (0, 1), "none": (), "other": (1,), "all": (0, 1, 2)}
    for place in np.ndindex(3, 4, 2):
        alone = respond(5, dict(zip(sizes, map(float, place), strict=True)))
        assert all((array == alone[name]).all() for name, array in table.at(place).items())


def test_solids_are_turned():
    """Against the axes of a camera; what lies behind the origin is hidden where the scene says so."""
    solid = np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [-1.0, 1.0, 1.0]])
    degrees = np.arange(-180.0, 181.0, 30.0)
    axes = tuple(scenes.Axis(name, name, degrees, 0, str) for name in ("azimuth", "elevation"))
    arrays = {"whole": solid, "front": solid.copy(), "number": np.float32(3)}
    table = scenes.Table({}, arrays, dict.fromkeys(arrays, ()))
    orbit = scenes.Orbit("azimuth", "elevation", ("front",))
    scene = gallery.shown("the_best_step")[0]._replace(axes=axes, orbit=orbit)
    for i, j in np.ndindex(len(degrees), len(degrees)):
        a, e = np.deg2rad(degrees[[i, j]])
        toward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0])
        seen, depth = scenes.view(scene, table, (i, j)), solid @ toward
        plane = np.stack([right, np.cross(toward, right)], axis=1)
        np.testing.assert_allclose(seen["whole"], solid @ plane, atol=1e-12)
        clear, behind = abs(depth) > 1e-2, np.isnan(seen["front"]).any(axis=1)
        np.testing.assert_array_equal(behind[clear], depth[clear] < 0)
        assert seen["number"] == 3


def batched_factorisations(program):
    """The calls of LAPACK on several matrices in a compiled program, with all that each of them waits for."""
    for computation in re.split(r"\n(?=\S)", program.as_text()):
        lines = re.findall(r"^\s+(?:ROOT )?%([\w.-]+) = (.*?)(?:, metadata.*)?$", computation, re.MULTILINE)
        needs, found = {}, {}
        for name, line in lines:  # in an order in which they can run
            direct = {each for each in re.findall(r"%([\w.-]+)", line) if each in needs}
            needs[name] = direct.union(*(needs[each] for each in direct))
            shape = re.match(r"\(?f\d+\[([\d,]*)\]", line)
            if 'custom_call_target="lapack_' in line and shape and shape[1].count(",") > 1:
                found[name] = needs[name]
        yield found


@pytest.mark.heavy
def test_no_table_factorises_two_batches_at_once(case):
    """With JAX 0.10 on two cores they may wait for each other for ever: each holds a thread that the other needs."""
    program = table_room.evaluate.lower(*tabulated(case[0])).compile()
    for waits in batched_factorisations(program):
        for one, other in combinations(waits, 2):
            assert one in waits[other] or other in waits[one]
