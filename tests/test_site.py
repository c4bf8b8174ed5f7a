"""The pages without a server, in a real Chromium with the network cut: they show what the notebooks show, and move.

They shut nobody out: axe-core reads them, narrow and wide, light and dark; they bear large letters, paper, a browser
that keeps nothing, and one that runs no scripts.
"""

import re
import shutil
import statistics
import warnings
from pathlib import Path

import build
import executed
import gallery
import lab
import nbformat
import pytest

import efisher_teach as ef

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
SMALL = pytest.param("00_start_here", marks=pytest.mark.heavy)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The front page, the papers, the reference, and one notebook."""
    lab.chromium()
    out = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings(record=True) as told:
        build.build(out, ["03"])
    assert not [each for each in told if "pdoc" in each.filename]
    return out


@pytest.fixture(scope="module")
def window():
    """A browser without a network."""
    with lab.browser(offline=True) as page:
        yield page


@pytest.fixture
def go(site, window):
    """Go to a page from disk. Nothing may go wrong in it."""
    troubles = lab.listen(window, from_disk=True)
    yield lambda name: window.goto((site / f"{name}.html").as_uri())
    assert troubles == []


@pytest.fixture(scope="module", params=["03_the_best_step", SMALL])  # all take minutes: `make site`
def opened(request, site, window):
    """A page from disk. Nothing may go wrong in it."""
    if not (site / f"{request.param}.html").exists():
        path = ROOT / "notebooks" / f"{request.param}.ipynb"
        build.Writer(site).notebook(path, build.handed_over(path))
    page = window.context.browser.new_page(viewport=lab.WINDOW, offline=True)
    troubles = lab.listen(page, from_disk=True)
    page.goto((site / f"{request.param}.html").as_uri())
    page.locator("mjx-container").first.wait_for(timeout=20_000)
    yield page
    assert troubles == []
    page.close()


def test_cells_run_again_when_code_changes_and_not_for_text(tmp_path, monkeypatch):
    no_bytes, started = shutil.ignore_patterns("*.pyc"), []
    package = shutil.copytree(executed.PACKAGE, tmp_path / "efisher_teach", ignore=no_bytes)
    monkeypatch.setattr(executed, "PACKAGE", package)
    monkeypatch.setattr(executed, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(executed.NotebookClient, "execute", lambda client, env: started.append(client))
    book = nbformat.read(ROOT / "notebooks" / "03_the_best_step.ipynb", as_version=4)
    cell = next(cell for cell in book.cells if cell.cell_type == "code" and "Explorer" in cell.source)
    scene, script = package / "figures/scenes/solid.py", package / "browser/static/explorer.js"

    def runs():
        before, path = len(started), tmp_path / "03_the_best_step.ipynb"
        nbformat.write(book, path)
        executed.handed_over(path)
        return len(started) - before

    assert [runs(), runs()] == [1, 0]
    book.cells[0].source += " More of it."
    script.write_text(script.read_text() + "// more of it")
    assert runs() == 0
    scene.write_text(scene.read_text().replace("0", "1", 1))
    assert [runs(), runs()] == [1, 0]
    cell.source += "\nexplorer.turn = 3"
    assert [runs(), runs()] == [1, 0]
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert runs() == 1


PROSE = """(main) => {
    const copy = main.cloneNode(true);
    copy.querySelectorAll("script, style, pre, code, mjx-container").forEach((node) => node.remove());
    return copy.textContent;
  }"""


def test_formulas_are_set_and_solutions_are_folded(opened):
    text = opened.locator("main").evaluate(PROSE)
    assert not {"$", "\\"} & {*text}
    solutions = opened.locator("details")
    assert solutions.count() >= 1
    assert not opened.locator("details[open]").count()
    solutions.last.locator("summary").click()
    assert solutions.last.locator("pre").is_visible()


def test_notebooks_shut_nobody_out_before_a_guess(opened):
    assert lab.barriers(opened, (1500, "light")) == []


def test_a_screen_reader_hears_a_page_and_its_question(opened):
    heard = lab.hear(opened.locator("body"))
    headings = [phrase.split(", ", 1)[1] for phrase in heard if phrase.startswith("heading, ")]
    titles = opened.locator("main :is(h1, h2, h3):is(main > *, .text_cell_render > *)").all_inner_texts()
    assert len(titles) > 5
    expected = [f"{title}, level {1 + (place > 0)}" for place, title in enumerate(titles)]
    assert [title for title in headings if title.rpartition(", level ")[0] in titles] == expected
    assert heard.index("main") < heard.index(f"heading, {titles[0]}, level 1")
    card = opened.locator(".ef-question .ef-card").first
    heard = lab.hear(card)
    assert card.locator(".ef-said").inner_text().strip() in heard
    options = card.locator("fieldset label").all_inner_texts()
    radios = [phrase for phrase in heard if phrase.startswith("radio, ")]
    assert all(phrase.startswith(f"radio, {said}") for phrase, said in zip(radios, options, strict=True))
    assert any(phrase.startswith("slider, how sure are you?") for phrase in heard)
    assert lab.turned_signs(opened.locator("main")) == []


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
    lab.guess_all(opened)
    figures = opened.locator(".ef-page").all()
    assert len(figures) == len(stored) >= 1
    for figure, words in zip(figures, stored, strict=True):
        figure.scroll_into_view_if_needed()  # which brings it to life
        explorer = figure.locator(".ef-explorer[data-serial]")
        explorer.wait_for(timeout=20_000)
        assert words.endswith(lab.read(explorer)["words"])
        for slider in explorer.locator(".ef-axis input").all():
            first, second = (lab.press(explorer, slider, key) for key in ("Home", "PageUp"))
            assert first["pixels"] != second["pixels"]
            assert len({lab.read(explorer)["pixels"] for _ in lab.drag(slider, moves=4)}) > 1


def test_notebooks_shut_nobody_out(opened):
    """With every figure alive."""
    assert lab.barriers(opened) == []


def test_pages_are_small_and_lead_on(site):
    pages = {path.name: path.read_text() for path in site.glob("*.html") if path.stem not in build.MOVED}
    to_come = {f"{path.stem}.html" for path in build.BOOKS}
    for name, text in pages.items():
        assert len(text.encode()) < 3_000_000, name
        assert "0%|" not in text, f"{name} has a bar that stands still"
        assert "widget-state" not in text, f"{name} has its figures twice: once more as the state of widgets"
        for link in re.findall(r'<a [^>]*href="([^"#]+)', text):
            assert link.startswith("https://") or link in to_come or (site / link).exists(), f"{name}: {link}"
        without_data = re.sub(r"<script type=.*?</script>", "", text, flags=re.DOTALL)
        for source in re.findall(r'src="([^"]+)"', without_data):
            assert (site / source).exists(), f"{name}: {source}"
        assert 'rel="prev"' in text or name == "index.html", name
        listed = re.findall(r'<li data-page="(\w+)"><a href="\1.html"', text)
        assert set(listed) >= {book.stem for book in build.BOOKS}, name
    cards = pages["index.html"].partition('<ol class="cards">')[2]
    assert len(re.findall(r"<img .*?<span>\d+ min</span><p>\S", cards)) == len(build.BOOKS) > 10


def test_controls_load_their_states_from_files_beside_the_page(site, window, go):
    parts = [*(site / "assets" / "parts").iterdir()]
    assert parts
    assert max(path.stat().st_size for path in parts) <= 100_000
    go("03_the_best_step")
    lab.guess_all(window)
    root = window.locator(".ef-explorer[data-serial]:has(select)").first
    window.locator(".ef-page").first.scroll_into_view_if_needed()
    root.wait_for(timeout=20_000)
    before = lab.read(root)
    root.locator("select").select_option("linear_regression")
    problem = ef.descend(ef.linear_regression(), steps=6, learning_rate=0.5)
    explorer = ef.Explorer(ef.scenes.the_best_step(problem, budget=0.01))
    explorer.turn = 60
    seen = lab.read_when(root, lambda seen: seen["words"] == explorer.words and not seen["busy"])
    assert seen["serial"] > before["serial"]


def test_old_addresses_lead_on_to_the_same_section(site, window):
    names = {path.stem for path in build.BOOKS}
    assert not names & build.MOVED.keys()
    assert {*build.MOVED.values()} <= names
    old, new = "09_bug_hunt", "11_bug_hunt"
    (site / f"{new}.html").write_text("<!doctype html><title>new</title>")
    window.goto((site / f"{old}.html").as_uri() + "#Exercises", wait_until="commit")
    window.wait_for_url(f"**/{new}.html#Exercises", timeout=10_000)
    (site / f"{new}.html").unlink()


def test_the_reference_has_every_public_name(site):
    page = (site / "api" / "efisher_teach.html").read_text()
    assert {*ef.__all__} - {*re.findall(r'<section id="(\w+)"', page)} == set()


def test_readme_leads_to_the_site():
    """By its first link and by its first picture, to where GitHub serves the pages of the repository."""
    owner, name = build.HOME.split("/")[-2:]
    readme = (ROOT / "README.md").read_text()
    link = re.search(r"\]\((http.*?)\)", readme)[1]
    picture = re.search(r"\[!\[.*?\]\(docs/.*?\)\]\((.*?)\)", readme)[1]
    assert link == picture == f"https://{owner}.github.io/{name}/"


PAGES = ["index", "api/efisher_teach", *(path.stem for path in build.PAPERS)]


@pytest.mark.parametrize("name", gallery.usual(PAGES, "index", "teaching"))
def test_front_page_and_papers_work_and_shut_nobody_out(window, go, name):
    go(name)
    for scheme, paper in (("dark", "rgb(23, 24, 26)"), ("light", "rgb(255, 255, 255)")):
        window.emulate_media(color_scheme=scheme)
        assert window.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert lab.barriers(window) == []


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_the_first_screen_has_a_figure_to_drag(window, go, width, height):
    window.set_viewport_size({"width": width, "height": height})
    go("index")
    explorer = window.locator(".ef-explorer[data-serial]")
    explorer.wait_for(timeout=20_000)
    for part in ("canvas", ".ef-axis input"):
        box = explorer.locator(part).bounding_box()
        assert box["y"] + box["height"] <= height
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    before = lab.read(explorer)
    for _ in lab.drag(explorer.locator(".ef-axis input"), moves=3):
        pass
    assert lab.read(explorer)["pixels"] != before["pixels"]


# How many letters a whole line has, by paragraph: all its letters beside the length of all of them on one line.
MEASURE = """(paragraphs) => paragraphs.filter((p) => !p.querySelector("mjx-container, code")).map((p) => {
    const [room, line] = [p.offsetWidth, Object.assign(p, { style: "float: left; white-space: nowrap" })];
    const length = line.offsetWidth;
    p.removeAttribute("style");
    return (p.textContent.length / length) * room;
  })"""
CUT = """(blocks) => blocks.filter((pre) => pre.scrollWidth > pre.clientWidth)
  .map((pre) => [getComputedStyle(pre).overflowX, getComputedStyle(pre).backgroundAttachment])"""


def test_text_is_as_wide_as_eyes_like_it_and_nothing_is_cut_or_sticks_out(opened):
    opened.set_viewport_size({"width": 1366, "height": 768})
    letters = opened.locator(".text_cell_render > p").evaluate_all(MEASURE)
    assert 60 <= statistics.median(letters) <= 75
    room, text = (opened.locator(part).bounding_box() for part in (".room", "main"))
    assert abs((text["x"] - room["x"]) - (room["width"] - text["width"]) / 2) <= 1, "it is not in the middle"
    for width in (390, 1366):
        opened.set_viewport_size({"width": width, "height": 768})
        assert lab.until(lambda: opened.evaluate("document.scrollingElement.scrollWidth") <= width)  # noqa: B023
        signs = opened.locator("pre").evaluate_all(CUT)
        assert all(scrolls == "auto" and "scroll" in shadow for scrolls, shadow in signs)
        assert signs or width > 390
    formulas = opened.locator("mjx-container[tabindex='0']")
    assert lab.until(lambda: not formulas.count()), "formulas that have room are stops for Tab"


def test_contents_are_a_drawer_for_keys_where_there_is_no_room(window, go):
    window.set_viewport_size({"width": 390, "height": 844})
    go("03_the_best_step")
    contents, button = window.locator("#contents"), window.locator(".bar .menu")
    assert not contents.is_visible()
    button.focus()
    for key, is_open in (("Enter", True), ("Escape", False), ("Enter", True)):
        window.keyboard.press(key)
        assert contents.is_visible() == is_open
        assert window.evaluate("document.activeElement.matches('.bar .menu')")
    for _ in range(3):
        window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.closest('#contents') !== null")
    contents.get_by_role("link", name="Exercises").click()
    assert not contents.is_visible()
    assert window.url.endswith("#Exercises")
    button.press("Enter")
    contents.get_by_role("link").last.press("Tab")
    assert not contents.is_visible(), "it lies over what has the focus"
    window.set_viewport_size({"width": 1366, "height": 768})
    assert contents.is_visible()
    assert not button.is_visible()


NO_MEMORY = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })"


@pytest.mark.parametrize("forgets", [False, True])
def test_look_and_progress_hold_over_pages_or_are_forgotten(site, window, forgets):
    context = window.context.browser.new_context(offline=True, color_scheme="light")
    page = context.new_page()
    if forgets:
        page.add_init_script(NO_MEMORY)
    troubles = lab.listen(page, from_disk=True)
    dark = "getComputedStyle(document.body).backgroundColor === 'rgb(23, 24, 26)'"
    page.goto((site / "03_the_best_step.html").as_uri())
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(dark)
    page.goto((site / "index.html").as_uri())
    assert page.evaluate(dark) != forgets
    progress = page.locator(".cards .progress")
    assert progress.all_text_contents() == ([] if forgets else ["begun"])
    assert ("Go on with 03" in page.locator(".start").inner_text()) != forgets
    page.goto((site / "03_the_best_step.html").as_uri())
    page.keyboard.press("End")
    page.locator(".way").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    page.locator(".way a[rel=prev]").scroll_into_view_if_needed()
    page.goto((site / "index.html").as_uri())
    assert progress.all_text_contents() == ([] if forgets else ["read"])
    page.get_by_label("Colours").select_option("")
    assert not page.evaluate(dark)
    assert troubles == []
    context.close()


POLICY = {"Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'"}


@pytest.mark.parametrize("scripts", [False, True])
def test_without_scripts_or_under_a_strict_policy_there_are_pictures_with_words(site, window, scripts):
    context = window.context.browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    thrown = []
    page.on("pageerror", lambda error: thrown.append(str(error)))

    def serve(route):
        route.fulfill(path=site / route.request.url.partition("test/")[2], headers=POLICY)

    page.route("https://course.test/**", serve)
    page.goto("https://course.test/03_the_best_step.html")
    if scripts:
        lab.guess_all(page)
    assert "system-ui" in page.locator(".bar").evaluate("(bar) => getComputedStyle(bar).fontFamily")
    for figure in page.locator(".ef-page").all():
        figure.scroll_into_view_if_needed()
        picture = figure.locator("> img")
        assert lab.until(lambda: picture.evaluate("(image) => image.naturalWidth") > 500)  # noqa: B023
        assert picture.is_visible()
        assert len(figure.locator("figcaption").inner_text()) > 80
    page.wait_for_timeout(500)
    assert not page.locator(".ef-explorer, .ef-waits").count(), "half a figure beside the picture"
    assert thrown == []
    gallery.explorer("the_best_step").to_html(site / "alone.html")
    page.goto("https://course.test/alone.html")
    assert page.locator("img").get_attribute("alt") in gallery.explorer("the_best_step").scene.title
    assert page.locator("main p").inner_text() == gallery.explorer("the_best_step").words
    context.close()


def test_pages_bear_paper_large_letters_and_the_other_direction(site, window):
    """Paper: text, figures and words, and nothing to press. 400 %: a window of 320 pixels, 180 high."""
    page = window.context.browser.new_page(offline=True, viewport={"width": 1366, "height": 768})
    for name in ("index", "03_the_best_step", "teaching", "api/efisher_teach"):
        page.goto((site / f"{name}.html").as_uri())
        for width, height in ((320, 180), (1366, 768)):
            page.set_viewport_size({"width": width, "height": height})
            for direction in ("rtl", "ltr"):
                page.evaluate("(way) => (document.documentElement.dir = way)", direction)
                assert page.evaluate("document.scrollingElement.scrollWidth") <= width, (name, direction)
                assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"
    page.goto((site / "03_the_best_step.html").as_uri())
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 690, "height": 1000})
    for chrome in (".bar", "#contents", ".way", ".ef-ask >> nth=0", ".ef-closed >> nth=0"):
        assert not page.locator(chrome).is_visible()
    for figure in page.locator(".ef-page").all():
        assert figure.is_visible()
        assert figure.locator("figcaption, .ef-words").first.is_visible()
    assert page.locator("pre").evaluate_all(CUT) == []
    page.close()
