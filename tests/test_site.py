"""The pages without a server, in a real Chromium with the network cut: they show what the notebooks show, and move."""

import importlib.util
import os
import re
from pathlib import Path

import lab
import nbformat
import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("build", ROOT / "site" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
BUILT = ("00_start_here", "03_the_best_step")  # to run all of them takes minutes: `make site` does


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two notebooks, the papers and the contents."""
    if not lab.chromium():
        stop = pytest.fail if os.environ.get("EFISHER_TEACH_REQUIRE_BROWSER") else pytest.skip
        stop("the browser tests need Chromium on the PATH (Debian: apt install chromium)")
    out = tmp_path_factory.mktemp("site")
    build.build(out, [name[:2] for name in BUILT])
    return out


@pytest.fixture(scope="module", params=BUILT)
def opened(request, site):
    """A page from disk, in a browser without a network, and what went wrong in it."""
    with lab.browser(offline=True) as page:
        page.troubles = lab.listen(page)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((site / f"{request.param}.html").as_uri())
        page.locator("mjx-container").first.wait_for(timeout=20_000)
        page.book = nbformat.read(ROOT / "notebooks" / f"{request.param}.ipynb", as_version=4)
        yield page
        assert page.troubles == []
        assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []


def stored_words(page):
    outputs = [output for cell in page.book.cells for output in cell.get("outputs", [])]
    return [output.data["text/plain"] for output in outputs if "image/png" in output.get("data", {})]


def test_formulas_are_set(opened):
    text = opened.locator("main").evaluate(
        "(main) => { const copy = main.cloneNode(true);"
        " copy.querySelectorAll('script, style, pre, code, mjx-container').forEach((node) => node.remove());"
        " return copy.textContent; }"
    )
    assert "$" not in text
    assert "\\" not in text


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


def test_numbers_are_those_of_the_notebook(opened):
    lab.guess_all(opened)
    figures = opened.locator(".ef-page").all()
    said = []
    for figure in figures:
        figure.scroll_into_view_if_needed()
        explorer = figure.locator(".ef-explorer[data-serial]")
        explorer.wait_for(timeout=20_000)
        said.append(lab.read(explorer)["words"])
    stored = stored_words(opened)
    assert len(said) == len(stored) >= 1
    for words, told in zip(said, stored, strict=True):
        assert told.endswith(words)


def test_every_axis_is_live(opened):
    lab.guess_all(opened)
    for explorer in opened.locator(".ef-page .ef-explorer[data-serial]").all():
        for slider in explorer.locator(".ef-axis input").all():
            seen = [lab.press(explorer, slider, key) for key in ("Home", "PageUp")]
            assert seen[0]["pixels"] != seen[1]["pixels"]
            assert len({lab.read(explorer)["pixels"] for _ in lab.drag(slider, moves=4)}) > 1


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
        for link in re.findall(r'<a [^>]*href="([^"#]+)', text):
            assert link.startswith("https://") or link in to_come or (site / link).exists(), f"{name}: {link}"
        for source in re.findall(
            r'src="([^"]+)"', re.sub(r"<script type=.*?</script>", "", text, flags=re.DOTALL)
        ):
            assert source.startswith("data:") or (site / source).exists(), f"{name}: {source}"
    assert len(re.findall(r"<li><a ", pages["index.html"])) == len(build.BOOKS) == 11


def test_a_dark_system_gets_dark_pages(opened):
    for scheme, paper in (("dark", "rgb(23, 24, 26)"), ("light", "rgb(255, 255, 255)")):
        opened.emulate_media(color_scheme=scheme)
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == paper
