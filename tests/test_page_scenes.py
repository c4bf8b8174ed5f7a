"""The pages of all scenes: one screen holds each, and what moves it; its points go where keys and hands move them."""

import gallery
import lab
import numpy as np
import pytest
from test_page import FEW, check_phone, folder, visit, ways_in, window

__all__ = ["folder", "visit", "window"]  # fixtures
pytestmark = pytest.mark.browser
ARROWS = {"ArrowRight": [1, 0], "ArrowUp": [0, -1], "ArrowLeft": [-1, 0], "ArrowDown": [0, 1]}
FIT = "(width) => Object.assign(document.body.style, { width, margin: 0, padding: 0 })"
TALLEST = """(root, views) => Math.max(...Array.from({ length: views }, () => {
    root.querySelector("[aria-label='the next view']").click();
    return root.offsetHeight;
  }))"""
SIZES = "(nodes) => nodes.map((node) => Math.min(node.offsetWidth, node.offsetHeight))"


@pytest.mark.parametrize("name", gallery.BARE)
def test_one_screen_holds_a_figure_and_what_moves_it(visit, window, name):
    """JupyterLab on a laptop, and a column of text; on a phone the sliders stay while the panels scroll past."""
    root, scene = visit(name, reduced_motion="reduce"), gallery.explorer(name).scene
    figure = root.locator(".ef-figure")
    for width, height, scale in ((1186, 560, 0.8), (700, 768, 0.7)):
        window.set_viewport_size({"width": 1366, "height": 768})
        window.evaluate(FIT, f"{width}px")
        assert lab.until(lambda: root.bounding_box()["width"] == width)  # noqa: B023
        assert root.evaluate(TALLEST, len(scene.presets)) <= height
        least = (
            scale * 100 * scene.size[0]
        )  # else its text is too small to read; the wide form comes a frame later
        assert lab.until(lambda: figure.bounding_box()["width"] >= least)  # noqa: B023
        sizes = root.locator("button:visible, input:visible").evaluate_all(SIZES)
        assert min(sizes) >= 24, "too small for a finger"
        assert window.evaluate("document.documentElement.scrollWidth") <= 1366
    window.set_viewport_size({"width": 390, "height": 844})
    window.evaluate(FIT, "auto")
    width, height = scene.narrow
    tall = pytest.approx(390 * height / width, abs=1)
    assert lab.until(lambda: (box := figure.bounding_box())["width"] == 390 and box["height"] == tall)
    check_phone(root)


def check_handle(root, window, name):
    """Move the first point of a scene: by the arrows, by the mouse, and in a few scenes by a finger."""
    explorer, figure = gallery.explorer(name), root.locator(".ef-figure")
    scene, artists = explorer.scene, explorer.shown.forms["wide"].painting.artists
    window.set_viewport_size({"width": 1180, "height": 800})  # where the figure is scaled
    assert lab.until(lambda: figure.bounding_box()["width"] < 900)
    scale = figure.bounding_box()["width"] / (100 * scene.size[0])
    handle, grip, moved = scene.handles[0], root.locator(".ef-grip").first, set()
    assert handle.label in grip.get_attribute("aria-label")

    def at(state):
        """The places of its points, (handles, 2) in CSS pixels from the top left of the figure."""
        arrays, names = explorer.table.at(tuple(state)), [each.points for each in scene.handles]
        places = [artists[name].axes.transData.transform(np.ravel(arrays[name])) for name in names]
        return scale * (np.array(places) / 2 * [1, -1] + [0, 100 * scene.size[1]])

    for key, way in ARROWS.items():
        before, after = lab.read(root)["state"], lab.press(root, grip, key)["state"]
        if after != before:
            assert (at(after) - at(before))[0] @ way > 0, name
            moved.add(key)
    assert len(moved) >= 2, name
    dragged = [place for place, axis in enumerate(scene.axes) if axis.name in handle.axes]
    figure.scroll_into_view_if_needed()
    box = root.locator("canvas").bounding_box()
    corner, half_way = np.array([box["x"], box["y"]]), at(ways_in(scene, 0.5))[0]
    for pointer in (window.mouse, lab.Touch(window)) if name in FEW else (window.mouse,):
        state = lab.read(root)["state"]
        pointer.move(*corner + at(state)[0])
        pointer.down()
        for part in (0.4, 0.8, 0.15):
            goal = [ways_in(scene, part)[i] if i in dragged else place for i, place in enumerate(state)]
            target = at(goal)[0]
            pointer.move(*corner + target)
            seen = lab.read_when(root, lambda seen: np.hypot(*at(seen["state"])[0] - target) < 2)  # noqa: B023
            assert all(seen["state"][i] == place for i, place in enumerate(goal) if i not in dragged)
        pointer.up()
        state = lab.read(root)["state"]
        pointer.move(*corner + half_way)
        assert lab.read(root)["state"] == state, f"{name}: what was let go still follows"
        across, down = np.arange(60.0, 700, 20), np.arange(60.0, 300, 20)
        spots = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
        far = np.linalg.norm(spots[:, None] - at(state), axis=-1).min(axis=1)
        pointer.move(*corner + spots[np.where(far > 40, far, np.inf).argmin()])
        pointer.down()
        pointer.move(*corner + half_way)
        assert lab.read(root)["state"] == state, f"{name}: a press beside the point moves it"
        pointer.up()


def test_points_are_moved_by_keys_mouse_and_touch(visit, window):
    """The point goes where the hand goes: to the nearest place that its axes have. Let go, or beside it: nothing."""
    for name in gallery.BARE:
        if gallery.explorer(name).scene.handles:
            check_handle(visit(name), window, name)


def test_a_solid_is_turned_by_keys_mouse_and_touch(visit, window):
    root, scene = visit("solid"), gallery.explorer("solid").scene
    places = [[axis.name for axis in scene.axes].index(each) for each in scene.orbit[:2]]
    layers = gallery.explorer("solid").reply["forms"]["wide"]["layers"]
    left, top, width, height = next(each["clip"] for each in layers if each["space"] == 3)
    root.locator(".ef-figure").scroll_into_view_if_needed()
    box = root.locator("canvas").bounding_box()
    x, y = box["x"] + left + width / 2, box["y"] + top + height * 0.8
    for pointer in (None, window.mouse, lab.Touch(window)):
        before = lab.read(root)
        if pointer:
            pointer.move(x, y)
            pointer.down()
            pointer.move(x + 60, y - 40)
            pointer.up()
        else:
            for key in ("ArrowLeft", "ArrowUp"):
                lab.press(root, root.locator(".ef-grip").last, key)
        moved = lambda seen: all(seen["state"][i] != before["state"][i] for i in places)  # noqa: B023, E731
        assert lab.read_when(root, moved)["pixels"] != before["pixels"]
