"""Every scene as a page without a kernel, in a real Chromium with the network cut: the picture, and all one can do."""

import time
from itertools import islice

import gallery
import lab
import numpy as np
import pytest

from efisher_teach.browser.packing import draw_whole

pytestmark = pytest.mark.browser
ARROWS = {"ArrowRight": [1, 0], "ArrowUp": [0, -1], "ArrowLeft": [-1, 0], "ArrowDown": [0, 1]}
HANDS = {"mouse": lab.Mouse, "touch": lab.Touch}
SET = "(node, place) => { node.value = place; node.dispatchEvent(new Event('input')); }"


@pytest.fixture(scope="module")
def window():
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
        root = window.locator(".ef-explorer[data-serial]")
        root.wait_for(timeout=10_000)
        return root

    def note(request):
        asked.append(request.url)

    window.on("request", note)
    yield open_page
    window.remove_listener("request", note)
    assert not troubles
    assert lab.not_from_disk(asked) == []


def drawn(name, indices, form):
    """The same picture, all by matplotlib."""
    explorer = gallery.explorer(name)
    explorer.form = "narrow"
    return lab.read_png(draw_whole(explorer.shown, indices, "png", 200.0, form=form))


def go(root, indices):
    """Set every slider of a page."""
    for slider, place in zip(root.locator(".ef-axis input").all(), indices, strict=True):
        slider.evaluate(SET, place)
    return lab.read(root)


def states(scene):
    """The default state, both ends of all axes, and a third of the way."""
    counts = [len(axis.values) for axis in scene.axes]
    yield tuple(axis.nearest(axis.default) for axis in scene.axes)
    yield tuple(count - 1 for count in counts)
    yield tuple(0 for _ in counts)
    yield tuple(count // 3 for count in counts)


@pytest.mark.parametrize("form", ["wide", "narrow"])
@pytest.mark.parametrize("name", gallery.BARE)
def test_page_draws_and_says_what_the_library_does(visit, name, form):
    scene, _ = gallery.shown(name)
    if form == "narrow" and not scene.narrow:
        pytest.skip("this scene has one form")
    root = visit(name, 512, 1900) if form == "narrow" else visit(name)  # the page has margins of 16 pixels
    for indices in islice(states(scene), 4 if form == "wide" else 2):
        seen = go(root, indices)
        assert tuple(seen["state"]) == indices
        assert seen["words"] == gallery.explorer(name).shown.say(indices)
        ours, theirs = lab.photograph(root.locator(".ef-figure")), drawn(name, indices, form)
        assert ours.shape == theirs.shape
        # One spot of 2 × 2 device pixels is let pass: where a dot is cut by its frame.
        assert lab.unlike(ours, theirs).sum() <= 4, f"the page draws what matplotlib does not, at {indices}"
        assert lab.unlike(theirs, ours).sum() <= 4, f"matplotlib draws what the page does not, at {indices}"


@pytest.mark.parametrize("name", gallery.BARE)
def test_every_slider_has_keys_and_a_name(visit, name):
    root = visit(name)
    scene, _ = gallery.shown(name)
    for place, (axis, slider) in enumerate(
        zip(scene.axes, root.locator(".ef-axis input").all(), strict=True)
    ):
        assert slider.get_attribute("aria-label") == axis.label
        last = len(axis.values) - 1
        for key, goal in (("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", last)):
            seen = lab.press(root, slider, key)
            assert seen["places"][place] == goal
            assert seen["label"].endswith(seen["words"])
            assert slider.get_attribute("aria-valuetext") == axis.say(axis.values[goal])
        assert slider.evaluate("(node) => node.matches(':focus-visible')")


def with_handles():
    return [name for name in gallery.BARE if gallery.shown(name)[0].handles]


def handle_at(name):
    """Tell where the first handle of a scene is in a state, in CSS pixels from the top left of its figure."""
    scene, table = gallery.shown(name)
    artist = gallery.explorer(name).shown.forms["wide"].painting.artists[scene.handles[0].points]

    def at(state):
        point = np.ravel(table.at(tuple(state))[scene.handles[0].points])
        x, y = artist.axes.transData.transform(point) / 2
        return np.array([x, 100 * scene.size[1] - y])

    return at


def test_points_are_moved_by_keys(visit):
    for name in with_handles():
        root, at = visit(name), handle_at(name)
        grip = root.locator(".ef-grip").first
        assert gallery.shown(name)[0].handles[0].label in grip.get_attribute("aria-label")
        moved = set()
        for key, way in ARROWS.items():
            before = lab.read(root)["state"]
            after = lab.press(root, grip, key)["state"]
            if after != before:
                assert (at(after) - at(before)) @ way > 0, name
                moved.add(key)
        assert len(moved) >= 2, name


@pytest.mark.parametrize("hand", HANDS)
def test_points_can_be_dragged(visit, window, hand):
    """The point goes where the hand goes: to the nearest place that its axes have."""
    for name in with_handles():
        root, at = visit(name), handle_at(name)
        scene, _ = gallery.shown(name)
        start = lab.read(root)["state"]
        dragged = [place for place, axis in enumerate(scene.axes) if axis.name in scene.handles[0].axes]
        root.locator(".ef-figure").scroll_into_view_if_needed()
        box = root.locator("canvas").bounding_box()
        corner = np.array([box["x"], box["y"]])
        pointer = HANDS[hand](window)
        pointer.down(*corner + at(start))
        for part in (0.4, 0.8, 0.15):
            goal = list(start)
            for place in dragged:
                goal[place] = int(part * (len(scene.axes[place].values) - 1))
            target = at(goal)
            pointer.move(*corner + target)
            arrived = lambda seen: np.hypot(*at(seen["state"]) - target) < 2  # noqa: B023, E731
            seen = lab.read_when(root, arrived, timeout=2)
            assert arrived(seen), name
            assert all(seen["state"][place] == goal[place] or place in dragged for place in range(len(goal)))
        pointer.up()


@pytest.mark.parametrize("hand", ["keys", *HANDS])
def test_a_solid_can_be_turned(visit, window, hand):
    for name in [name for name in gallery.BARE if gallery.shown(name)[0].orbit]:
        root = visit(name)
        scene, _ = gallery.shown(name)
        names = [axis.name for axis in scene.axes]
        before = lab.read(root)
        if hand == "keys":
            grip = root.locator(".ef-grip").last
            lab.press(root, grip, "ArrowLeft")
            seen = lab.press(root, grip, "ArrowUp")
        else:
            layers = gallery.explorer(name).reply["forms"]["wide"]["layers"]
            left, top, width, height = next(each["clip"] for each in layers if each["space"] == 3)
            root.locator(".ef-figure").scroll_into_view_if_needed()
            box = root.locator("canvas").bounding_box()
            x, y = box["x"] + left + width / 2, box["y"] + top + height * 0.8
            pointer = HANDS[hand](window)
            pointer.down(x, y)
            pointer.move(x + 60, y - 40)
            seen = lab.read_when(root, lambda seen: seen["state"] != before["state"], timeout=2)  # noqa: B023
            pointer.up()
        for axis in (scene.orbit.azimuth, scene.orbit.elevation):
            assert seen["state"][names.index(axis)] != before["state"][names.index(axis)], name
        assert seen["pixels"] != before["pixels"]


def test_play_runs_to_the_end_and_stops_when_told(visit):
    root = visit("a_real_network")
    slider, play = root.locator(".ef-axis input").first, root.locator(".ef-axis button")
    lab.press(root, slider, "Home")
    play.click()
    assert len({lab.read(root)["state"][0] for _ in range(20)}) > 3
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


def test_reduced_motion_is_respected(visit):
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
        goal = [scene.axes[0].nearest(preset.state["turn"])]
        assert lab.read_when(root, lambda seen, goal=goal: seen["state"] == goal)["state"] == goal
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
    saved = lab.read_png((tmp_path / "figure.png").read_bytes())
    indices = next(states(gallery.shown("damping")[0]))
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
    ink = root.evaluate("(node) => getComputedStyle(node).color")
    assert int(ink.split("(")[1].split(",")[0]) > 180
    assert "dark" in root.evaluate("() => getComputedStyle(document.documentElement).colorScheme")


@pytest.mark.heavy
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
    assert move(1000) - before < 150_000  # bytes
