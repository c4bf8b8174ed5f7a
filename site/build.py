"""Make a page without a server of every notebook: `make site` writes _site/. Every axis of every figure is live in it.

Words, formulas and printed numbers are those that the notebooks have stored. What a figure needs to move is not: so the
cells up to the last figure are run (executed.py), and what their widgets hand over, as a MIME type of our own, is kept
until a line of code changes. nbconvert makes the HTML, MathJax the formulas, pdoc the reference. No page asks a host
for anything before an exercise is checked.
"""

import argparse
import inspect
import json
import os
import re
import shutil
import sys
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pdoc
import pdoc.render
from jinja2 import FileSystemLoader
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image, ImageOps
from traitlets.config import Config

import efisher_teach as ef
from efisher_teach.browser.page import TEMPLATES, static
from efisher_teach.figures.ink import CANDIDATE, DESCENT, EMPIRICAL_FISHER, FAINT
from efisher_teach.figures.marks import centre, key
from efisher_teach.figures.scenes import Scene, the_best_step

HERE = Path(__file__).parent
sys.path.append(str(HERE))
import exercises  # noqa: E402
from executed import DROPPED, handed_over, in_256_colours, kept, rich, slim  # noqa: E402

ROOT = HERE.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAPERS = sorted((ROOT / "docs").glob("*.md"))
HOME = "https://github.com/efisher-teach/efisher_teach"
BINDER = "https://mybinder.org/v2/gh/efisher-teach/efisher_teach/main?urlpath=lab/tree/notebooks/"
COLAB = "https://colab.research.google.com/github/efisher-teach/efisher_teach/blob/main/notebooks/"
MOVED = {  # the pages of notebooks that had another number
    "06_fisher_hessian": "07_fisher_hessian",
    "07_should_all_improve": "08_should_all_improve",
    "08_a_real_network": "09_a_real_network",
    "09_bug_hunt": "11_bug_hunt",
    "10_your_model": "12_your_model",
}
PART = 95_000  # letters of a file that is loaded on demand
WAY = re.compile(
    r"\n(?:---\n)?(?:Previous|Next): \[.*\n?$"
)  # of a notebook to its neighbours: pages have their own
FORMULA = re.compile(r"\$\$.*?\$\$|`[^`]*`|(\(?)(\$[^$]+\$)([.,;:!?)]?)", re.DOTALL)
SITE = TEMPLATES.overlay(loader=FileSystemLoader(HERE))
PARTS = SITE.get_template("parts.html").module


class Page(NamedTuple):
    """A page in the contents: its file without the ending, and its title; of a notebook, more."""

    name: str
    title: str
    number: str = ""
    minutes: str = ""
    shows: str = ""


def notebooks() -> list[Page]:
    """Read the notebooks' titles and minutes, and what the README says that they show."""
    shown = dict(
        re.findall(r"\]\(notebooks/(\w+)\.ipynb\) \| \d+ \| (.*?) \|", (ROOT / "README.md").read_text())
    )
    pages = []
    for path in BOOKS:
        first = nbformat.read(path, as_version=4).cells[0].source
        minutes = re.search(r"\*\*(\d+) minutes", first)[1]
        pages.append(Page(path.stem, heading(first), path.name[:2], minutes, shown.get(path.stem, "")))
    return pages


def heading(text: str) -> str:
    """The title of a text, from its first line."""
    return text.partition("\n")[0].removeprefix("# ")


def lay_beside(text: str, assets: Path) -> list[str]:
    """Write a text into files that a page loads on demand, as browser/states.py says; gives their places."""
    places = []
    for start in range(0, len(text), PART):
        part = text[start : start + PART]
        place = assets / "parts" / f"{sha256(part.encode()).hexdigest()[:16]}.js"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"document.currentScript.part = {json.dumps(part)};\n")
        places.append(f"assets/parts/{place.name}")
    return places


def lay_state_beside(state: dict, assets: Path) -> list[str]:
    """Write a state of the controls: tables and pictures by themselves, as one form is seen at a time."""
    forms = {
        name: form | {part: form[part] and lay_beside(form[part], assets) for part in ("table", "picture")}
        for name, form in state.get("forms", {}).items()
    }
    return lay_beside(json.dumps(state | {"forms": forms}), assets)


def figure(name: str, about: dict, words: str, assets: Path) -> str:
    """A figure as HTML: its picture and its words, and what the scripts need to bring it to life in their place."""
    reply = about["reply"]
    states = {key: lay_state_beside(state, assets) for key, state in reply["states"].items()}
    reply = reply | {"states": states}
    (assets / f"{name}.png").write_bytes(b64decode(about["picture"]))
    size = [round(side) for side in reply["forms"]["wide"]["size"]]
    said = words.removeprefix(reply["title"]).lstrip(".? ")
    return str(PARTS.figure(name, about.get("gate", ""), reply["title"], said, size, reply))


def dress(book: nbformat.NotebookNode, given: list[list[dict]], path: Path, assets: Path) -> None:
    """Put live figures and questions in the place of stored ones; leave out, or point to, what needs a kernel."""
    count = 0
    for cell, abouts in zip([cell for cell in book.cells if cell.cell_type == "code"], given):  # noqa: B905
        for output, about in zip(rich(cell.outputs), abouts, strict=True):
            if "reply" in about:
                count += 1
                html = figure(f"{path.stem}-{count}", about, output.data["text/plain"], assets)
                output.data = {"text/html": html}
            elif "question" in about:
                output.data = {"text/html": str(PARTS.question(about["question"], output.data["text/html"]))}
    tags = [cell.metadata.get("tags", []) for cell in book.cells]
    book.cells = [
        cell
        for cell, own in zip(book.cells, tags, strict=True)
        if cell.source not in DROPPED and "colab" not in own
    ]
    for cell in book.cells:
        if cell.metadata.get("part") == "stub":
            link = nbformat.v4.new_output(
                "display_data",
                {
                    "text/html": str(
                        PARTS.exercise(exercises.about(cell.metadata.exercise), BINDER + path.name)
                    )
                },
            )
            cell.outputs = [output for output in cell.outputs if output.output_type == "stream"] + [link]
        elif cell.cell_type == "markdown":
            source = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", relink(WAY.sub("", cell.source)))
            cell.source = FORMULA.sub(joined, source)


def relink(text: str) -> str:
    """Turn links of notebooks and papers into those of the site."""

    def new(match):
        link = match[1]
        if link.startswith("http"):
            return match[0]
        name = link.rpartition("/")[2]
        if link.endswith(".ipynb"):
            return f"]({name.replace('.ipynb', '.html')})"
        if link.endswith(".md") and (ROOT / "docs" / name).exists():
            return f"]({name.replace('.md', '.html')})"
        if link.endswith((".png", ".svg")):
            return f"](assets/{name})"
        return f"]({HOME}/blob/main/{name})"

    return re.sub(r"\]\(([^)#]+)\)", new, text)


def joined(match: re.Match[str]) -> str:
    """A formula in a line of text, in one piece with the bracket before it and the sign behind it."""
    before, _, after = match.groups()
    return f'<span class="formula">{match[0]}</span>' if before or after else match[0]


class Writer:
    """Writes pages that know of each other: the contents stand beside each, and lead to the one before and the next."""

    def __init__(self, out: Path):
        self.out, self.assets = out, out / "assets"
        self.books = notebooks()
        self.papers = [Page(path.stem, heading(path.read_text())) for path in PAPERS]
        self.way = [Page("index", "The course"), *self.books, *self.papers]
        hidden = ("exclude_anchor_links", "exclude_input_prompt", "exclude_output_prompt")
        config = Config({"HTMLExporter": dict.fromkeys(hidden, True)})
        self.exporter = HTMLExporter(template_name="basic", config=config)

    def around(self, name: str) -> dict[str, Any]:
        """The frame of a page, about its text."""
        place = [page.name for page in self.way].index(name)
        before, after = (self.way[i] if 0 <= i < len(self.way) else None for i in (place - 1, place + 1))
        return self.course() | {"root": "", "name": name, "before": before, "after": after}

    def course(self) -> dict[str, Any]:
        """The parts that all pages share."""
        return {"books": self.books, "papers": self.papers, "home": HOME}

    def page(self, name: str, title: str, body: str, links: str = "") -> None:
        """Write a whole page about `body`, which is HTML."""
        body = re.sub(r'<a class="anchor-link".*?</a>', "", body)
        body = re.sub(r"<h2>(.*?)</h2>", lambda found: f'<h2 id="{slug(found[1])}">{found[1]}</h2>', body)
        sections = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', body)
        body = re.sub(
            r"(?<=<td><code>)[\w.]+(?=</code>)", lambda name: re.sub(r"[._]", r"\g<0><wbr>", name[0]), body
        )
        body = body.replace("<table", '<table tabindex="-1"')  # until the script finds which ones scroll
        parts = {"title": title, "body": Markup(body), "sections": sections, "links": links}
        html = SITE.get_template("page.html").render(parts | self.around(name))
        (self.out / f"{name}.html").write_text(html, encoding="utf-8")

    def materials(self) -> None:
        """Put pictures, styles, scripts and MathJax into the site."""
        shutil.copytree(ROOT / "docs" / "images", self.assets)
        mathjax = files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg.js"
        shutil.copy(mathjax, self.assets / "mathjax.js")
        for name in ("look.js", "moved.js"):
            shutil.copy(HERE / name, self.assets)
        exercises.write_assets(self.assets)
        styles = [static(name) for name in ("explorer.css", "lesson.css")]
        (self.assets / "site.css").write_text("\n".join([*styles, (HERE / "site.css").read_text()]))
        # Not as modules: from a disk, a browser loads none.
        script = (HERE / "site.js").read_text()
        for name in ("explorer.js", "lesson.js"):
            script = script.replace(f"/* {name} */", re.sub(r"(?m)^export default .*", "", static(name)))
        (self.assets / "site.js").write_text(script)
        for path in BOOKS:
            outputs = [
                output
                for cell in nbformat.read(path, as_version=4).cells
                for output in cell.get("outputs", [])
            ]
            first = next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", {}))
            (self.assets / f"{path.stem}.png").write_bytes(in_256_colours(first_panel(b64decode(first))))

    def notebook(self, path: Path, given: list[list[dict]]) -> None:
        """Write the page of a notebook."""
        book = nbformat.read(path, as_version=4)
        title = heading(book.cells[0].source)
        dress(book, given, path, self.assets)
        body, _ = self.exporter.from_notebook_node(book)
        self.page(path.stem, title, body, PARTS.run_it(BINDER + path.name, COLAB + path.name))

    def paper(self, path: Path) -> None:
        """Write the page of a paper."""
        text = relink(path.read_text())
        self.page(path.stem, heading(text), markdown2html(text))

    def front(self) -> None:
        """Write the page that leads to all others; one figure on it is live."""
        about = kept("index", [inspect.getsource(each) for each in (first_figure, one_plane)], first_figure)
        live = figure("index-1", about, about["words"], self.assets)
        html = SITE.get_template("index.html").render(self.around("index") | {"figure": Markup(live)})
        self.page("index", "What is the empirical Fisher for?", html)

    def old_addresses(self) -> None:
        """Write a page under each old name that leads on, to the same section."""
        for old, new in MOVED.items():
            (self.out / f"{old}.html").write_text(SITE.get_template("moved.html").render(new=new))

    def reference(self) -> None:
        """Write the reference of the library: all that `import efisher_teach` offers, and the modules behind it."""
        for name in ef.__all__:
            setattr(ef, name, getattr(ef, name))  # what the package imports late is there now
        os.environ["PDOC_SUBMODULES"] = "1"  # modules are public names too
        behind = [each.__name__ for name in ef.__all__ if inspect.ismodule(each := getattr(ef, name))]
        pdoc.render.configure(docformat="google", search=False, show_source=False, template_directory=HERE)
        pdoc.render.env.globals.update(
            self.course() | {"name": "api", "before": self.papers[-1], "after": None}
        )
        pdoc.pdoc("efisher_teach", *behind, output_directory=self.out / "api")
        for path in (self.out / "api").rglob("*.html"):
            path.write_text(without_dead_links(path.read_text(encoding="utf-8")), encoding="utf-8")


def slug(text: str) -> str:
    """The name of a section in an address."""
    return re.sub(r"\W+", "-", re.sub(r"<.*?>", "", text)).strip("-")


def first_panel(picture: bytes) -> bytes:
    """The first panel of a stored figure, without the words below it, on a card of 480 × 320 pixels."""
    out, image = BytesIO(), Image.open(BytesIO(picture)).convert("RGB")
    ink = np.asarray(image.convert("L")) < 245
    bottom = in_gap(ink.any(axis=1), 0.7, 0.95)
    right = in_gap(ink[:bottom].any(axis=0), 0.3, 0.8)
    ImageOps.pad(image.crop((0, 0, right, bottom)), (480, 320), color="white").save(out, "PNG")
    return out.getvalue()


def in_gap(ink: np.ndarray, low: float, high: float) -> int:
    """The middle of the widest blank stretch that begins between these parts of a side, or the end of that side."""
    sides = np.flatnonzero(np.diff(ink, prepend=True, append=True)).reshape(-1, 2)
    gaps = [side for side in sides if low * len(ink) <= side[0] <= high * len(ink)]
    return int(np.mean(max(gaps, key=np.ptp))) if gaps else len(ink)


def without_dead_links(text: str) -> str:
    """A page of pdoc's, which links to inherited names, too, and does not show them."""
    marks = {*re.findall(r'id="(.*?)"', text)}
    return re.sub(r'<a href="#([^"]+)">(.*?)</a>', lambda link: link[0 if link[1] in marks else 2], text)


def first_figure() -> dict[str, Any]:
    """The live figure of the front page: the plane of `the_best_step` alone, for the first glance."""
    whole = the_best_step(ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5))
    scene: Scene = whole._replace(
        title="Every step on the ellipse has the same cost. Which one lowers the loss most?",
        marks={name: mark for name, mark in whole.marks.items() if mark.panel == "A"},
        mosaic=("A", "A"),
        size=(6.2, 4.7),
        narrow=(4.0, 3.3),
        still=one_plane,
        axes=(whole.axes[0]._replace(default=75.0),),
        words="Turned {turn} from the step along −g, your step makes {score:.1f} % of the best decrease of the loss.",
        presets=(),
    )
    explorer = ef.Explorer(scene)
    return slim(explorer.for_page()) | {"words": explorer.words}


def one_plane(panels: Any, background: Any) -> None:
    """Draw contours of the loss, and say which arrow is which."""
    plane, reach, grid = panels["A"], background["reach"], background["grid"]
    contours = {"levels": 13, "colors": FAINT, "linewidths": 0.9, "linestyles": "solid"}
    plane.contour(reach[0] * grid, reach[1] * grid, background["loss"], **contours)
    centre(plane, reach, 1.24, xlabel="Δ₁", ylabel="Δ₂")
    steps = (
        ("empirical Fisher", EMPIRICAL_FISHER),
        ("gradient descent", DESCENT),
        ("yours: drag it", CANDIDATE),
    )
    key(plane, "lower left", *steps)


def build(out: Path, only: list[str]) -> None:
    """Write the site: all pages, or those whose names begin with one of `only`, for a look at it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    writer = Writer(out)
    writer.materials()
    chosen = [path for path in BOOKS if not only or path.name.startswith(tuple(only))]
    with ThreadPoolExecutor(2) as pool:  # each waits for a kernel, while we write the rest
        runs = pool.map(handed_over, chosen)
        for path in PAPERS:
            writer.paper(path)
        writer.front()
        writer.old_addresses()
        writer.reference()
        for path, given in zip(chosen, runs, strict=True):
            writer.notebook(path, given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "only", nargs="*", help="how the names of notebooks begin, such as 03; all if none is given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_site")
    options = parser.parse_args()
    build(options.out, options.only)
