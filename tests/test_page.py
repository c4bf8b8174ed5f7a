"""Every scene as a page without a kernel, in a real Chromium with the network cut: the picture, and all one can do."""

import os
import time
from io import BytesIO

import gallery
import lab
import matplotlib.image
import numpy as np
import pytest

from efisher_teach.browser.packing import draw_whole

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def window():
    if not lab.chromium():
        stop = pytest.fail if os.environ.get("EFISHER_TEACH_REQUIRE_BROWSER") else pytest.skip
        stop("the browser tests need Chromium on the PATH (Debian: apt install chromium)")
    with lab.browser(scale=2, offline=True, has_touch=True) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def visit(window, folder):
    """Open the page of a scene, as wide as asked; gives its explorer. Nothing may go wrong, nothing be asked for."""
    asked, troubles = [], lab.listen(window)

    def open_page(name, width=1500, height=1000, **media):
        path = folder / f"{name}.html"
        if not path.exists():
            gallery.explorer(name).to_html(path)
        window.set_viewport_size({"width": width, "height": height})
        window.emulate_media(**{"reduced_motion": "no-preference", "color_scheme": "light"} | media)
        window.goto(path.as_uri())
        asked.clear()
        root = window.locator(".ef-explorer[data-serial]")
        root.wait_for(timeout=10_000)
        return root

    def note(request):
        asked.append(request.url)

    window.on("request", note)
    yield open_page
    window.remove_listener("request", note)
    assert not troubles
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def drawn(name, indices, form):
    """The same picture, all by matplotlib."""
    explorer = gallery.explorer(name)
    explorer._asked = "narrow"
    picture = draw_whole(explorer._now(), indices, "png", 200, form=form)
    return matplotlib.image.imread(BytesIO(picture))[..., :3]


def go(root, indices):
    """Set every slider of a page."""
    for slider, place in zip(root.locator(".ef-axis input").all(), indices, strict=True):
        slider.evaluate(
            "(node, place) => { node.value = place; node.dispatchEvent(new Event('input')); }", place
        )
    return lab.read(root)


def corners(scene):
    """The default state, and the two ends of all axes."""
    default = tuple(axis.nearest(axis.default) for axis in scene.axes)
    last = tuple(len(axis.values) - 1 for axis in scene.axes)
    third = tuple(len(axis.values) // 3 for axis in scene.axes)
    return default, (0,) * len(last), last, third


@pytest.mark.parametrize("form", ["wide", "narrow"])
@pytest.mark.parametrize("name", gallery.BARE)
def test_page_draws_and_says_what_the_library_does(visit, name, form):
    scene, _ = gallery.shown(name)
    if form == "narrow" and not scene.narrow:
        pytest.skip("this scene has one form")
    root = visit(name, 512, 1900) if form == "narrow" else visit(name)  # the page has margins of 16 pixels
    for indices in corners(scene):
        seen = go(root, indices)
        assert tuple(seen["state"]) == indices
        assert seen["words"] == gallery.explorer(name)._now().say(indices)
        ours, theirs = lab.photograph(root.locator(".ef-figure")), drawn(name, indices, form)
        assert ours.shape == theirs.shape
        # One spot of 2 × 2 device pixels is let pass: where a dot is cut by its frame.
        assert lab.unlike(ours, theirs).sum() <= 4, f"the page draws what matplotlib does not, at {indices}"
        assert lab.unlike(theirs, ours).sum() <= 4, f"matplotlib draws what the page does not, at {indices}"


@pytest.mark.parametrize("name", gallery.BARE)
def test_every_slider_has_keys_and_a_name(visit, name):
    root = visit(name)
    scene, _ = gallery.shown(name)
    for axis, slider in zip(scene.axes, root.locator(".ef-axis input").all(), strict=True):
        assert slider.get_attribute("aria-label") == axis.label
        last = len(axis.values) - 1
        for key, place in (("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", last)):
            seen = lab.press(root, slider, key)
            assert seen["places"][scene.axes.index(axis)] == place
            assert seen["label"].endswith(seen["words"])
            assert slider.get_attribute("aria-valuetext") == axis.say(axis.values[place])
        assert slider.evaluate("(node) => node.matches(':focus-visible')")


@pytest.mark.parametrize("name", [name for name in gallery.BARE if gallery.shown(name)[0].handles])
@pytest.mark.parametrize("hand", ["mouse", "touch", "keys"])
def test_points_can_be_dragged(visit, window, name, hand):
    """The point goes where the hand goes: to the nearest place that its axes have."""
    root = visit(name)
    scene, table = gallery.shown(name)
    handle = scene.handles[0]
    start = lab.read(root)["state"]
    artist = gallery.explorer(name)._shown.forms["wide"].painting.artists[handle.points]

    def at(state):
        x, y = artist.axes.transData.transform(np.ravel(table.at(tuple(state))[handle.points])) / 2
        return np.array([x, 100 * scene.size[1] - y])

    axes = [next(i for i, axis in enumerate(scene.axes) if axis.name == each) for each in handle.axes]
    if hand == "keys":
        grip = root.locator(".ef-grip").first
        assert handle.label in grip.get_attribute("aria-label")
        moved = set()
        for key, way in (
            ("ArrowRight", [1, 0]),
            ("ArrowUp", [0, -1]),
            ("ArrowLeft", [-1, 0]),
            ("ArrowDown", [0, 1]),
        ):
            before = lab.read(root)["state"]
            after = lab.press(root, grip, key)["state"]
            if after != before:
                assert (at(after) - at(before)) @ way > 0
                moved.add(key)
        assert len(moved) >= 2
        return
    root.locator(".ef-figure").scroll_into_view_if_needed()
    box = root.locator("canvas").bounding_box()
    corner = np.array([box["x"], box["y"]])
    pointer = (lab.Mouse if hand == "mouse" else lab.Touch)(window)
    pointer.down(*corner + at(start))
    for part in (0.4, 0.8, 0.15):
        goal = list(start)
        for i in axes:
            goal[i] = int(part * (len(scene.axes[i].values) - 1))
        pointer.move(*corner + at(goal))
        seen = lab.read_when(
            root, lambda seen, goal=goal: np.hypot(*at(seen["state"]) - at(goal)) < 2, timeout=2
        )
        assert np.hypot(*at(seen["state"]) - at(goal)) < 2
        assert [place for i, place in enumerate(seen["state"]) if i not in axes] == [
            place for i, place in enumerate(start) if i not in axes
        ]
    pointer.up()


SOLIDS = [name for name in gallery.BARE if gallery.shown(name)[0].orbit]


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("hand", ["mouse", "touch", "keys"])
def test_a_solid_can_be_turned(visit, window, name, hand):
    root = visit(name)
    scene, _ = gallery.shown(name)
    names = [axis.name for axis in scene.axes]
    azimuth, elevation = names.index(scene.orbit.azimuth), names.index(scene.orbit.elevation)
    before = lab.read(root)
    if hand == "keys":
        grip = root.locator(".ef-grip").last
        lab.press(root, grip, "ArrowLeft")
        seen = lab.press(root, grip, "ArrowUp")
    else:
        layer = next(
            each for each in gallery.explorer(name)._reply["forms"]["wide"]["layers"] if each["space"] == 3
        )
        left, top, width, height = layer["clip"]
        root.locator(".ef-figure").scroll_into_view_if_needed()
        box = root.locator("canvas").bounding_box()
        x, y = box["x"] + left + width / 2, box["y"] + top + height * 0.8
        pointer = (lab.Mouse if hand == "mouse" else lab.Touch)(window)
        pointer.down(x, y)
        pointer.move(x + 60, y - 40)
        seen = lab.read_when(root, lambda seen: seen["state"] != before["state"], timeout=2)
        pointer.up()
    assert seen["state"][azimuth] != before["state"][azimuth]
    assert seen["state"][elevation] != before["state"][elevation]
    assert seen["pixels"] != before["pixels"]


def test_play_runs_to_the_end_and_stops_when_told(visit):
    root = visit("a_real_network")
    slider, play = root.locator(".ef-axis input").first, root.locator(".ef-axis button")
    lab.press(root, slider, "Home")
    play.click()
    places = {lab.read(root)["state"][0] for _ in range(20)}
    assert len(places) > 3
    play.click()
    stopped = lab.read(root)["state"]
    root.page.wait_for_timeout(300)
    assert lab.read(root)["state"] == stopped
    assert play.get_attribute("aria-pressed") == "false"
    play.click()
    lab.press(root, slider, "Home")  # the reader takes over
    root.page.wait_for_timeout(300)
    assert lab.read(root)["state"][0] == 0
    play.click()
    assert lab.read_when(root, lambda seen: seen["state"][0] == 39)["state"][0] == 39


def test_who_wants_little_motion_gets_little(visit):
    root = visit("a_real_network", reduced_motion="reduce")
    lab.press(root, root.locator(".ef-axis input").first, "Home")
    root.locator(".ef-axis button").click()
    start = time.monotonic()
    places = {lab.read(root)["state"][0] for _ in range(40)}
    assert len(places) <= 2 + (time.monotonic() - start)  # one a second
    root.locator(".ef-bar button").nth(1).click()  # a view is there at once
    assert lab.read(root)["state"][0] == 4


def test_views_are_a_lecture_without_slides(visit):
    root = visit("the_best_step")
    scene, _ = gallery.shown("the_best_step")
    for step in (0, 1, 0):
        root.get_by_role("button", name="the next view").click()
        preset = scene.presets[step]
        goal = scene.axes[0].nearest(preset.state["turn"])
        assert lab.read_when(root, lambda seen, goal=goal: seen["state"] == [goal])["state"] == [goal]
        said = root.locator(".ef-preset").inner_text()
        assert preset.says in said
        assert preset.asks in said
    root.get_by_role("button", name="the view before").click()
    assert "2 of 2" in root.locator(".ef-preset").inner_text()
    root.get_by_role("button", name="back to the first state").click()
    assert lab.read_when(root, lambda seen: seen["state"] == [180])["state"] == [180]


def test_state_is_copied_as_python(visit):
    root = visit("the_best_step")
    lab.press(root, root.locator(".ef-axis input"), "Home")
    root.get_by_role("button", name="copy a line").click()
    line = root.locator(".ef-copied").input_value()
    assert line == "explorer.restore(turn=-180)"
    explorer = gallery.explorer("the_best_step")
    exec(line)
    assert explorer.words == lab.read(root)["words"]


def test_picture_is_saved(visit, window, tmp_path):
    root = visit("damping")
    with window.expect_download() as waiting:
        root.get_by_role("button", name="save as PNG").click()
    waiting.value.save_as(tmp_path / "figure.png")
    saved = matplotlib.image.imread(tmp_path / "figure.png")[..., :3]
    indices = corners(gallery.shown("damping")[0])[0]
    assert not lab.unlike(saved, drawn("damping", indices, "wide")).any()
    assert (
        root.get_by_role("button", name="save as SVG").count() == 0
    )  # matplotlib draws those, in the kernel


def test_form_follows_the_room(visit, window):
    root = visit("damping")
    wide = root.locator(".ef-figure").bounding_box()
    lab.press(root, root.locator(".ef-axis input"), "End")
    window.set_viewport_size({"width": 512, "height": 1000})
    assert lab.until(lambda: root.locator(".ef-figure").bounding_box()["height"] > 2 * wide["height"])
    assert root.locator(".ef-figure").bounding_box()["width"] == pytest.approx(480)
    assert lab.read(root)["state"] == [160]
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    window.set_viewport_size({"width": 1500, "height": 1000})
    assert lab.until(lambda: root.locator(".ef-figure").bounding_box() == wide)


def test_dark_pages_keep_their_text_legible(visit):
    root = visit("the_best_step", color_scheme="dark")
    ink, paper = root.evaluate(
        "(node) => [getComputedStyle(node).color, getComputedStyle(document.documentElement).colorScheme]"
    )
    red = int(ink.split("(")[1].split(",")[0])
    assert red > 180
    assert "dark" in paper


def test_moves_leave_nothing_in_the_browser(visit, window):
    root = visit("damping")
    session = window.context.new_cdp_session(window)

    def move(times):
        root.evaluate(
            """async (root, times) => {
                const slider = root.querySelector(".ef-axis input");
                for (let i = 0; i < times; i++) {
                  slider.value = i % 160;
                  slider.dispatchEvent(new Event("input"));
                  await new Promise(requestAnimationFrame);
                }
            }""",
            times,
        )
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    before = move(200)
    assert move(2000) - before < 300_000  # bytes
