"""The pages without a server, in a real Chromium with the network cut: they show what the notebooks show, and move.

They shut nobody out: axe-core reads pages and explorers, narrow and wide, light and dark.
"""

import importlib.util
import re
from pathlib import Path

import gallery
import lab
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("build", ROOT / "site" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
BUILT = ("00_start_here", "03_the_best_step")  # to run all of them takes minutes: `make site` does
CONTROLS = ("the_best_step", "solid", "vector_field", "a_real_network")  # one of each kind is among theirs


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two notebooks, the papers and the contents."""
    lab.chromium()
    out = tmp_path_factory.mktemp("site")
    build.build(out, [name[:2] for name in BUILT])
    return out


@pytest.fixture(scope="module")
def window(site):
    """A browser without a network."""
    with lab.browser(offline=True) as page:
        yield page


@pytest.fixture(scope="module", params=BUILT)
def opened(request, site, window):
    """A page from disk, and what went wrong in it."""
    page = window.context.browser.new_page(viewport={"width": 1500, "height": 1000}, offline=True)
    troubles, asked = lab.listen(page), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / f"{request.param}.html").as_uri())
    page.locator("mjx-container").first.wait_for(timeout=20_000)
    yield page
    assert troubles == []
    assert lab.not_from_disk(asked) == []
    page.close()


@pytest.fixture
def visit(window, tmp_path):
    """Open the page of one explorer; gives the explorer, once it has said its words."""

    def open_page(name, **media):
        gallery.explorer(name).to_html(tmp_path / f"{name}.html")
        window.set_viewport_size({"width": 1500, "height": 900})
        window.emulate_media(**{"color_scheme": "light", "reduced_motion": "no-preference"} | media)
        window.goto((tmp_path / f"{name}.html").as_uri())
        root = window.locator(".ef-explorer[data-serial]")
        root.wait_for()
        assert lab.until(lambda: root.locator(".ef-live").text_content())
        return root

    return open_page


def barriers(page, widths=(390, 1500), schemes=("light", "dark")):
    """List what axe-core calls serious or critical, in each width and theme."""
    found = []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            page.evaluate(
                "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            options = {"resultTypes": ["violations"], "preload": False}  # the styles are in the page
            for rule in Axe().run(page, options=options).response["violations"]:
                for node in rule["nodes"] if rule["impact"] in ("serious", "critical") else []:
                    found.append(f"{width} {scheme} {rule['id']}, {rule['help']}: {node['html'][:200]}")
    return found


def all_explorers(page):
    """The explorers of a page, each brought to life by a look at it."""
    lab.guess_all(page)
    for figure in page.locator(".ef-page").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".ef-explorer[data-serial]").wait_for(timeout=20_000)
    return page.locator(".ef-page .ef-explorer").all()


def test_formulas_are_set(opened):
    text = opened.locator("main").evaluate(
        """(main) => {
            const copy = main.cloneNode(true);
            copy.querySelectorAll("script, style, pre, code, mjx-container").forEach((node) => node.remove());
            return copy.textContent;
        }"""
    )
    assert "$" not in text
    assert "\\" not in text


def test_notebooks_shut_nobody_out_before_a_guess(opened):
    assert barriers(opened, widths=[1500]) == []


def test_a_guess_opens_answer_and_figure(opened):
    gated = opened.locator(".ef-page:not([data-gate=''])").first
    question = opened.locator(".ef-question .ef-card").first
    assert not gated.is_visible()
    question.get_by_role("radio").first.focus()
    for key in ("Space", "ArrowDown", "Tab", "Tab", "Enter"):
        opened.keyboard.press(key)
    assert "✗ Your guess" in question.text_content()
    assert gated.is_visible()
    gated.scroll_into_view_if_needed()
    assert lab.until(lambda: gated.locator(".ef-explorer[data-serial]").count())


def test_figures_have_the_words_of_the_notebook_and_every_axis_is_live(opened):
    book = nbformat.read(ROOT / "notebooks" / Path(opened.url).with_suffix(".ipynb").name, as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    stored = [output.data["text/plain"] for output in outputs if "image/png" in output.get("data", {})]
    shown = all_explorers(opened)
    assert len(shown) == len(stored) >= 1
    for explorer, words in zip(shown, stored, strict=True):
        assert words.endswith(lab.read(explorer)["words"])
        for slider in explorer.locator(".ef-axis input").all():
            first, second = (lab.press(explorer, slider, key) for key in ("Home", "PageUp"))
            assert first["pixels"] != second["pixels"]
            assert len({lab.read(explorer)["pixels"] for _ in lab.drag(slider, moves=4)}) > 1


def test_notebooks_shut_nobody_out(opened):
    all_explorers(opened)
    assert barriers(opened) == []


@pytest.mark.parametrize("width", [390, 1500])
def test_nothing_sticks_out(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    lab.guess_all(opened)
    assert lab.until(lambda: opened.evaluate("document.scrollingElement.scrollWidth") <= width)


def test_solutions_stay_folded(opened):
    solutions = opened.locator("details")
    assert solutions.count() >= 1
    assert not solutions.locator("[open]").count()
    solutions.last.locator("summary").click()
    assert solutions.last.locator("pre").is_visible()


def test_pages_are_small_and_lead_on(site):
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    to_come = {f"{path.stem}.html" for path in build.BOOKS} | {"api/index.html"}
    for name, text in pages.items():
        assert len(text.encode()) < 3_000_000, name
        assert "widget-state" not in text, f"{name} has its figures twice: once more as the state of widgets"
        for link in re.findall(r'<a [^>]*href="([^"#]+)', text):
            assert link.startswith("https://") or link in to_come or (site / link).exists(), f"{name}: {link}"
        without_scripts = re.sub(r"<script type=.*?</script>", "", text, flags=re.DOTALL)
        for source in re.findall(r'src="([^"]+)"', without_scripts):
            assert source.startswith("data:") or (site / source).exists(), f"{name}: {source}"
    assert len(re.findall(r"<li><a ", pages["index.html"])) == len(build.BOOKS) == 11


def test_contents_and_papers_work_and_shut_nobody_out(site, window):
    troubles = lab.listen(window)
    for name in ("index", *(path.stem for path in build.PAPERS)):
        window.goto((site / f"{name}.html").as_uri())
        for scheme, paper in (("dark", "rgb(23, 24, 26)"), ("light", "rgb(255, 255, 255)")):
            window.emulate_media(color_scheme=scheme)
            assert window.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert barriers(window) == [], name
    assert troubles == []


@pytest.mark.parametrize("name", CONTROLS)
def test_explorers_shut_nobody_out(visit, window, name):
    root = visit(name)
    assert barriers(window) == []
    names = [node.get_attribute("aria-label") for node in root.locator("button, input").all()]
    assert all(names)
    assert len(set(names)) == len(names), "two controls of one name"


def test_words_are_said_politely_and_once(visit):
    root = visit("the_best_step")
    live = root.locator(".ef-live")
    assert live.get_attribute("aria-live") == "polite"
    live.evaluate(
        """(node) => new MutationObserver(() => (node.heard ??= []).push(node.textContent))
            .observe(node, { childList: true })"""
    )
    root.locator(".ef-axis input").evaluate(
        """async (slider) => {
            for (let place = 100; place < 110; place++) {
              slider.value = place;
              slider.dispatchEvent(new Event("input"));
              await new Promise(requestAnimationFrame);
            }
        }"""
    )
    words = lab.read(root)["words"]
    assert lab.until(lambda: live.text_content() == words)
    assert live.evaluate("(node) => node.heard") == [words]  # where the reader stopped, nothing on the way
    assert root.locator(".ef-preset").get_attribute("aria-live") == "polite"
    assert root.locator(".ef-error").get_attribute("role") == "alert"


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_fades_where_reduced_motion_is_asked_for(visit, motion):
    root = visit("the_best_step", reduced_motion=motion)
    moving = root.evaluate(
        """(root) => {
            root.classList.add("ef-busy");
            const times = (style) => `${style.transitionDuration} ${style.animationDuration}`;
            const moves = (node) => /[1-9]/.test(times(getComputedStyle(node)));
            return [...document.querySelectorAll("*")].some(moves);
        }"""
    )
    assert moving == (motion == "no-preference")
