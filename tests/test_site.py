"""The pages without a server, in a real Chromium with the network cut: they show what the notebooks show, and move.

They shut nobody out: axe-core reads them, narrow and wide, light and dark.
"""

import importlib.util
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
BUILT = [
    "03_the_best_step",
    pytest.param("00_start_here", marks=pytest.mark.heavy),
]  # all take minutes: `make site`


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The papers, the contents, and one notebook."""
    lab.chromium()
    out = tmp_path_factory.mktemp("site")
    build.build(out, ["03"])
    return out


@pytest.fixture(scope="module")
def window():
    """A browser without a network."""
    with lab.browser(offline=True) as page:
        yield page


@pytest.fixture(scope="module", params=BUILT)
def opened(request, site, window):
    """A page from disk. Nothing may go wrong in it."""
    if not (site / f"{request.param}.html").exists():
        build.write_notebook(site, ROOT / "notebooks" / f"{request.param}.ipynb")
    page = window.context.browser.new_page(viewport={"width": 1500, "height": 1000}, offline=True)
    troubles = lab.listen(page, from_disk=True)
    page.goto((site / f"{request.param}.html").as_uri())
    page.locator("mjx-container").first.wait_for(timeout=20_000)
    yield page
    assert troubles == []
    page.close()


def test_formulas_are_set_and_solutions_are_folded(opened):
    text = opened.locator("main").evaluate(
        """(main) => {
            const copy = main.cloneNode(true);
            copy.querySelectorAll("script, style, pre, code, mjx-container").forEach((node) => node.remove());
            return copy.textContent;
        }"""
    )
    assert "$" not in text
    assert "\\" not in text
    solutions = opened.locator("details")
    assert solutions.count() >= 1
    assert not opened.locator("details[open]").count()
    solutions.last.locator("summary").click()
    assert solutions.last.locator("pre").is_visible()


def test_notebooks_shut_nobody_out_before_a_guess(opened):
    assert lab.barriers(opened, (1500, "light")) == []


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
    """With every figure alive; and nothing sticks out."""
    assert lab.barriers(opened) == []
    for width in (390, 1500):
        opened.set_viewport_size({"width": width, "height": 900})
        assert lab.until(lambda: opened.evaluate("document.scrollingElement.scrollWidth") <= width)  # noqa: B023


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
    troubles = lab.listen(window, from_disk=True)
    for name in ("index", *(path.stem for path in build.PAPERS)):
        window.goto((site / f"{name}.html").as_uri())
        for scheme, paper in (("dark", "rgb(23, 24, 26)"), ("light", "rgb(255, 255, 255)")):
            window.emulate_media(color_scheme=scheme)
            assert window.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert lab.barriers(window) == [], name
    assert troubles == []
