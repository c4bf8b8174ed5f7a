"""Scenes as pages without a kernel, in a real Chromium with the network cut: the picture, and all one can do."""

import time

import gallery
import ipywidgets
import lab
import pytest

import efisher_teach as ef
from efisher_teach.browser.packing import draw_whole

pytestmark = pytest.mark.browser
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
    """Open the page of a scene, or of an explorer; nothing may go wrong, nothing be asked for."""
    troubles = lab.listen(window, from_disk=True)

    def open_page(name, explorer=None, **media):
        path, explorer = folder / f"{name}.html", explorer or gallery.explorer(name)
        if not path.exists():
            explorer.to_html(path)
        window.set_viewport_size(lab.WINDOW)
        window.emulate_media(**{"reduced_motion": "no-preference", "color_scheme": "light"} | media)
        window.goto(path.as_uri())
        root = window.locator(".ef-explorer[data-serial]")
        root.wait_for(timeout=10_000)
        return root

    yield open_page
    assert not troubles


def drawn(name, state, form):
    """The same picture, all by matplotlib."""
    return lab.read_png(draw_whole(gallery.explorer(name).shown, state, "png", 200.0, form=form))


def start(scene):
    return [axis.nearest(axis.default) for axis in scene.axes]


def ways_in(scene, part):
    """The state so far along each axis."""
    return [int(part * (len(axis.values) - 1)) for axis in scene.axes]


def check_at(root, name, state, form, tolerance=0.1):
    """Set every slider, and compare words and picture with matplotlib's, scaled as the page has it."""
    for slider, place in zip(root.locator(".ef-axis input").all(), state, strict=True):
        slider.evaluate(SET, place)
    assert lab.read_at(root, *state)["words"] == gallery.explorer(name).shown.say(tuple(state))
    ours, theirs = lab.photograph(root.locator(".ef-figure")), drawn(name, tuple(state), form)
    assert lab.apart(ours, theirs, tolerance) <= 4, state  # one spot: where a dot is cut by its frame


# With every kind of mark; with one axis and with three, points to hold, a solid, a play button. Of every scene,
# test_scenes.py knows that its points are packed where matplotlib draws them.
FEW = ("a_real_network", "damping", "solid", "the_best_step", "two_budgets", "your_model")


@pytest.mark.parametrize("name", gallery.usual(gallery.BARE, *FEW))
def test_page_draws_and_says_what_the_library_does(visit, name):
    """As it opens, by the keys of every slider, and some way along all axes."""
    root, scene = visit(name), gallery.explorer(name).scene
    assert lab.read(root)["words"] == gallery.explorer(name).shown.say(tuple(start(scene)))
    sliders = root.locator(".ef-axis input").all()
    for place, (axis, slider) in enumerate(zip(scene.axes, sliders, strict=True)):
        assert slider.get_attribute("aria-label") == axis.label
        for key, goal in (("Home", 0), ("ArrowRight", 1)):
            seen = lab.press(root, slider, key)
            assert seen["state"][place] == seen["places"][place] == goal
            said = axis.say(axis.values[goal])
            assert seen["said"][place] == slider.get_attribute("aria-valuetext") == said
            assert seen["label"].endswith(seen["words"])
        assert slider.evaluate("(node) => node.matches(':focus-visible')")
    check_at(root, name, ways_in(scene, 0.34), "wide")


TWO_FORMS = [name for name in gallery.BARE if name != "a_real_network"]


@pytest.mark.parametrize("name", gallery.usual(TWO_FORMS, "vector_field", "solid"))
def test_form_follows_the_room(visit, window, name):
    root, scene = visit(name), gallery.explorer(name).scene
    gallery.explorer(name).form = "narrow"  # from now on it has both forms
    figure = root.locator(".ef-figure")
    check_at(root, name, ways_in(scene, 0.7), "wide")
    wide, narrow = figure.bounding_box(), pytest.approx([100 * side for side in scene.narrow])
    assert [wide["width"], wide["height"]] == pytest.approx([100 * side for side in scene.size])
    window.set_viewport_size({"width": 1180, "height": 800})
    assert lab.until(lambda: figure.bounding_box()["width"] < 900)
    check_at(root, name, ways_in(scene, 0.3), "wide", tolerance=0.2)  # two ways to scale a picture
    window.set_viewport_size({"width": 512, "height": 1900})  # the page has margins of 16 pixels
    assert lab.until(lambda: [figure.bounding_box()[side] for side in ("width", "height")] == narrow)
    assert lab.read(root)["state"] == ways_in(scene, 0.3)
    check_at(root, name, ways_in(scene, 1), "narrow")
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    window.set_viewport_size(lab.WINDOW)
    assert lab.until(lambda: figure.bounding_box() == wide)


def check_phone(root):
    """All that moves a figure stays in view while its panels scroll past."""
    hands, figure = root.locator(".ef-hands"), root.locator(".ef-figure")
    for part in (0, 0.25, 0.5):
        root.page.evaluate("(part) => scrollTo(0, part * (document.body.scrollHeight - innerHeight))", part)
        box, seen = hands.bounding_box(), figure.bounding_box()
        assert 0 <= box["y"] <= box["y"] + box["height"] <= 844
        in_view = min(box["y"], seen["y"] + seen["height"]) - max(0, seen["y"])
        assert in_view > min(400, 0.9 * seen["height"]), "the sliders hide the panels"


def test_what_a_hand_moves_is_painted_before_the_frame(visit, window):
    """A mouse's move when it is heard, not in the frame in which the slider follows; and that of a key at once."""
    root = visit("the_best_step")
    slider = root.locator("[data-axis]").first
    box = lab.settled_box(slider)
    last, middle = int(slider.get_attribute("max")), box["y"] + box["height"] / 2
    root.evaluate("""(root) => ["pointermove", "input"].forEach((kind) =>
      root.addEventListener(kind, (event) => (root[kind] ??= []).push(root.dataset.state)))""")

    def drag(spare):
        """What is painted when the slider is about to follow, and in the end; and where it should be."""
        window.mouse.move(box["x"] + spare / 2, middle)
        window.mouse.down()
        found = []
        for place in (20, 50, 90, 200, 120):
            window.wait_for_timeout(50)  # as a slow hand does
            window.mouse.move(box["x"] + spare / 2 + (box["width"] - spare) * place / last, middle)
            before = root.evaluate("(root) => root.pointermove.at(-1)")
            lab.await_frame(window)
            found.append((int(before), int(root.get_attribute("data-state")), place))
        window.mouse.up()
        return found

    found = drag(16)  # half of the knob lies at each end
    assert all(before == after == place for before, after, place in found), found
    slider.evaluate("(node) => Object.assign(node.style, { padding: '0 30px', boxSizing: 'border-box' })")
    found = drag(76)  # foreseen wrongly
    assert all(after == place for _, after, place in found), found
    assert any(before != place for before, _, place in found)
    slider.press("ArrowRight")
    assert root.evaluate("(root) => root.input.at(-1)") == root.get_attribute("data-state") == "121"


def test_a_mouse_that_passes_by_moves_nothing(visit, window):
    root = visit("the_best_step")
    box, state = lab.settled_box(root.locator("[data-axis]").first), root.get_attribute("data-state")
    for down in (False, True):  # and one that drags something else
        window.mouse.move(box["x"] + 10, box["y"] - 40)
        if down:
            window.mouse.down()
        for part in (0.2, 0.5, 0.9):
            window.wait_for_timeout(50)
            window.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] / 2)
        lab.await_frame(window)
        assert root.get_attribute("data-state") == state
    window.mouse.up()


def test_play_runs_to_the_end_and_stops_when_told(visit):
    root = visit("a_real_network")
    slider, play = root.locator(".ef-axis input").first, root.locator(".ef-axis button")
    lab.press(root, slider, "Home")
    play.click()
    places = set()
    lab.read_when(root, lambda seen: places.add(seen["state"][0]) or len(places) > 3)
    play.click()
    stopped = lab.read(root)["state"]
    root.page.wait_for_timeout(300)
    assert lab.read(root)["state"] == stopped
    assert play.get_attribute("aria-pressed") == "false"
    play.click()
    lab.press(root, slider, "Home")  # the reader takes over
    root.page.wait_for_timeout(300)
    assert lab.read(root)["state"][0] == 0
    slider.evaluate(SET, 34)
    play.click()
    lab.read_when(root, lambda seen: seen["state"][0] == 39)
    assert lab.until(lambda: play.get_attribute("aria-pressed") == "false")


def test_reduced_motion_is_respected(visit):
    root = visit("a_real_network", reduced_motion="reduce")
    lab.press(root, root.locator(".ef-axis input").first, "Home")
    root.locator(".ef-axis button").click()
    began = time.monotonic()
    places = {lab.read(root)["state"][0] for _ in range(40)}
    assert len(places) <= 2 + (time.monotonic() - began)  # one a second
    root.get_by_role("button", name="the next view").click()  # a view is there at once
    assert lab.read(root)["state"][0] == 4


def test_views_are_a_lecture_without_slides(visit):
    root, scene = visit("the_best_step"), gallery.explorer("the_best_step").scene
    said = root.locator(".ef-preset")
    for preset in (*scene.presets, scene.presets[0]):
        root.get_by_role("button", name="the next view").click()
        lab.read_at(root, scene.axes[0].nearest(preset.state["turn"]))
        assert preset.says in said.inner_text()
        assert preset.asks in said.inner_text()
    root.get_by_role("button", name="the view before").click()
    assert "2 of 2" in said.inner_text()
    root.get_by_role("button", name="back to the first state").click()
    lab.read_at(root, 180)


def test_controls_are_lists_and_sliders_of_the_states_that_the_page_has(visit, window):
    """By keys; a refused one says why and goes back; one at a time, as all combinations would be too many."""
    budget = ipywidgets.FloatSlider(0.01, min=0.005, max=0.05, step=0.005, description="c")
    kind = ipywidgets.Dropdown(options=[("two", "two"), ("linear", "linear")], description="data")

    def build(budget, kind):
        return ef.scenes.the_best_step(gallery.problem(kind), budget=budget)

    explorer = ef.Explorer(build, budget=budget, kind=kind)
    root = visit("controls", explorer)
    slider, choice = root.locator(".ef-control input"), root.locator(".ef-control select")
    lab.press(root, root.locator(".ef-axis input"), "PageDown")  # a number with a sign
    (turned,) = lab.read(root)["state"]

    def shows(**controls):
        explorer.restore(turn=explorer.scene.axes[0].values[turned], **controls)
        return lab.read_when(root, lambda seen: seen["words"] == explorer.words and not seen["busy"])

    before = shows()
    lab.press(root, slider, "ArrowRight")
    assert shows(budget=0.015)["pixels"] != before["pixels"]
    choice.select_option("linear")
    shows(budget=0.01, kind="linear")
    assert slider.get_attribute("aria-valuetext") == "0.01"
    root.get_by_role("button", name="copy a line").click()
    line = f"explorer.restore(turn={explorer.state['turn']:.0f}, budget=0.01, kind='linear')"
    assert root.locator(".ef-copied").input_value() == line
    lab.press(root, slider, "End")
    seen = lab.read_when(root, lambda seen: seen["error"])
    assert "`budget` must be at most 0.04" in seen["error"]
    assert seen["words"] == explorer.words
    assert (choice.input_value(), slider.get_attribute("aria-valuetext")) == ("linear", "0.01")
    root.get_by_role("button", name="back to the first state").click()
    turned = 180
    shows(kind="two")
    assert "Move one of the lists and sliders above" in root.locator(".ef-fixed").inner_text()
    assert lab.barriers(window) == []
    window.set_viewport_size({"width": 390, "height": 844})
    assert lab.until(lambda: root.get_attribute("data-controls") == "under")
    check_phone(root)
    assert slider.bounding_box()["y"] + slider.bounding_box()["height"] <= 844


def test_picture_is_saved(visit, window, tmp_path):
    root = visit("damping")
    with window.expect_download() as waiting:
        root.get_by_role("button", name="save as PNG").click()
    waiting.value.save_as(tmp_path / "figure.png")
    saved = lab.read_png((tmp_path / "figure.png").read_bytes())
    here = tuple(start(gallery.explorer("damping").scene))
    assert not lab.unlike(saved, drawn("damping", here, "wide")).any()
    assert not root.get_by_role("button", name="save as SVG").count()  # matplotlib draws those, in the kernel


@pytest.mark.parametrize("name", ["solid", "your_model"])  # one of each kind of control is among theirs
def test_explorers_shut_nobody_out(visit, window, name):
    root = visit(name)
    assert lab.until(lambda: root.locator(".ef-live").text_content())
    assert lab.barriers(window) == []
    names = [node.get_attribute("aria-label") for node in root.locator("button, input").all()]
    assert all(names)
    assert len(set(names)) == len(names), "two controls of one name"


RUN_THROUGH = """async (slider, places) => {
    for (slider.value of places) {
      slider.dispatchEvent(new Event("input"));
      await new Promise(requestAnimationFrame);
    }
  }"""


def run_through(root, places):
    """Move the first slider to one place after the other, one a frame."""
    root.locator(".ef-axis input").first.evaluate(RUN_THROUGH, list(places))


LISTEN = """(node) => new MutationObserver(() => (node.heard ??= []).push(node.textContent))
    .observe(node, { childList: true })"""


def test_words_are_said_politely_and_once(visit):
    root = visit("the_best_step")
    live = root.locator(".ef-live")
    assert lab.until(live.text_content)
    assert live.get_attribute("aria-live") == "polite"
    live.evaluate(LISTEN)
    run_through(root, range(100, 110))
    words = lab.read(root)["words"]
    assert lab.until(lambda: live.text_content() == words)
    assert live.evaluate("(node) => node.heard") == [words]  # where the reader stopped, nothing on the way
    assert root.locator(".ef-preset").get_attribute("aria-live") == "polite"
    assert root.locator(".ef-error").get_attribute("role") == "alert"


def test_a_screen_reader_hears_what_the_words_say(visit):
    """Once as a sentence, once as the name of the picture; a move is announced, politely. And from right to left."""
    root, words = visit("the_best_step"), gallery.explorer("the_best_step").shown.say
    assert lab.until(root.locator(".ef-live").text_content)
    heard = lab.hear(root)
    title = gallery.explorer("the_best_step").scene.title
    assert (heard[0], heard[-1]) == (f"group, {title}", f"end of group, {title}")
    assert f"image, {title}. {words((180,))}" in heard
    assert heard[heard.index("paragraph") + 1] == words((180,))
    (slider,) = (phrase for phrase in heard if phrase.startswith("slider"))
    assert slider.startswith("slider, turn the candidate, ")
    assert slider.endswith(", current value 0°")
    assert not {"button", "slider", "image", "textbox", "combobox"} & {*heard}, "something has no name"
    change = f"(root) => ({SET})(root.querySelector('.ef-axis input'), 20)"
    assert f"polite: {words((20,))}" in lab.hear(root, change)
    assert lab.turned_signs(root) == []


@pytest.mark.heavy
def test_moves_leave_nothing_in_the_browser(visit, window):
    root = visit("damping")
    session = window.context.new_cdp_session(window)

    def held_after(moves):
        run_through(root, [place % 41 for place in range(moves)])
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    before = held_after(200)
    assert held_after(1000) - before < 150_000  # bytes
