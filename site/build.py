"""Make a page without a server of every notebook: `make site` writes _site/. Every axis of every figure is live in it.

The notebooks are run; what their cells show is taken from the kernel as JSON that the page's scripts mount, the same
scripts that JupyterLab runs. nbconvert makes the HTML, MathJax the formulas, pdoc the reference of the library; all of
it lies in the folder, and no page asks a host for anything.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from efisher_teach.lessons.course import QUESTIONS

HERE = Path(__file__).parent
ROOT = HERE.parent
STATIC = ROOT / "efisher_teach" / "browser" / "static"
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAPERS = sorted((ROOT / "docs").glob("*.md"))
LIVE = "application/vnd.jupyter.widget-view+json"
HOME = "https://github.com/efisher-teach/efisher_teach"
BINDER = "https://mybinder.org/v2/gh/efisher-teach/efisher_teach/main?urlpath=lab/tree/notebooks/"
COLAB = "https://colab.research.google.com/github/efisher-teach/efisher_teach/blob/main/notebooks/"
DROPPED = ("ef.guesses()", "ef.environment()")  # say something about a kernel only

# Run last: what stands behind each widget that a cell has shown, by the widget's name: the question, and the figure.
ASK = """
import json
from base64 import b64encode
from ipywidgets.widgets.widget import _instances
from efisher_teach.browser.explorer import Explorer
from efisher_teach.browser.cards import Gate, Prediction

_figures = [each for each in _instances.values() if isinstance(each, Explorer)]
_png = {{each: b64encode(each.to_png(ratio=1)).decode() for each in _figures}}
_shown = {{each.panel.model_id: ["", (each._for_page(), _png[each])] for each in _figures}}
_gates = [each for each in _instances.values() if isinstance(each, Gate)]
_shown |= {{each.model_id: [each._question.name, _shown[each._figure.panel.model_id][1]] for each in _gates}}
_asked = [each for each in _instances.values() if isinstance(each, Prediction)]
_shown |= {{each.model_id: [each._question.name, None] for each in _asked}}
open({path!r}, "w").write(json.dumps(_shown))
"""


def run(path: Path) -> nbformat.NotebookNode:
    """A notebook, run; its figures and questions are HTML that the scripts of the page bring to life."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "shown.json"  # megabytes: not by way of an output
        book.cells.append(nbformat.v4.new_code_cell(ASK.format(path=str(found))))
        NotebookClient(
            book,
            timeout=300,
            coalesce_streams=True,
            store_widget_state=False,  # every figure a second time: `found` has what the page needs
            resources={"metadata": {"path": path.parent}},
        ).execute()
        shown = json.loads(found.read_text())
    book.cells.pop()
    figures = 0
    for output in (output for cell in book.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        question, figure = shown.get(data.pop(LIVE, {}).get("model_id"), ["", None])
        if figure:
            figures += 1
            reply, picture = json.loads(figure[0]), lighter(figure[1])
            for form in reply["forms"].values():
                form["picture"] = lighter(form["picture"])
            reply = json.dumps(reply).replace("</", "<\\/")
            about = {"id": f"figure-{figures}", "gate": escape(question), "words": escape(data["text/plain"])}
            output.data = {"text/html": FIGURE.format(**about, picture=picture, reply=reply)}
        elif question:
            about = json.dumps(QUESTIONS[question]._asdict() | {"sure": QUESTIONS[question].chance})
            output.data = {"text/html": QUESTION.format(about=escape(about), folded=data["text/html"])}
    return book


def lighter(picture: str) -> str:
    """A PNG, as base64, in 256 colours: what figures of lines and words have, and a third of the bytes."""
    out = BytesIO()
    image = Image.open(BytesIO(b64decode(picture))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return b64encode(out.getvalue()).decode()


FIGURE = """<figure class="ef-page" id="{id}" data-gate="{gate}" data-words="{words}">
<img alt="{words}" src="data:image/png;base64,{picture}"></figure>
<script type="application/json" data-for="{id}">{reply}</script>"""
QUESTION = '<div class="ef-question" data-about="{about}">{folded}</div>'
CHECKED = (
    '<p class="ef-card">Your answer is checked where a kernel runs: <a href="{}">run it for real</a>.</p>'
)


def trim(book: nbformat.NotebookNode, name: str) -> None:
    """Leave out what needs a kernel, and say where there is one."""
    book.cells = [
        cell
        for cell in book.cells
        if cell.source not in DROPPED and "colab" not in cell.metadata.get("tags", [])
    ]
    for cell in book.cells:
        if cell.metadata.get("part") == "stub":
            link = nbformat.v4.new_output("display_data", {"text/html": CHECKED.format(BINDER + name)})
            cell.outputs = [output for output in cell.outputs if output.output_type == "stream"] + [link]
        elif cell.cell_type == "markdown":
            cell.source = relink(cell.source)


def relink(text: str) -> str:
    """Links of notebooks and papers, as they are in the site."""

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


def title(book: nbformat.NotebookNode) -> str:
    """Of a notebook, from its first line."""
    return book.cells[0].source.partition("\n")[0].removeprefix("# ")


def page(heading: str, body: str, around: str = "") -> str:
    """A whole page about `body`."""
    live = 'class="ef-' in body
    parts = {
        "title": escape(heading),
        "around": around,
        "body": body,
        "code": HtmlFormatter(style="default").get_style_defs(".highlight"),
        "dark": HtmlFormatter(style="github-dark").get_style_defs(".highlight"),
        "css": "".join((STATIC / f"{part}.css").read_text() for part in ("explorer", "lesson"))
        if live
        else "",
        "explorer": (STATIC / "explorer.js").read_text() if live else "",
        "lesson": (STATIC / "lesson.js").read_text() if live else "",
        "math": '<script defer src="assets/mathjax.js"></script>' if "$" in body else "",
    }
    template = (HERE / "page.html").read_text()
    return re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], template)


def build(out: Path, only: list[str]) -> None:
    """Write the site: all pages, or those whose names begin with one of `only`, for a look at it."""
    shutil.rmtree(out, ignore_errors=True)
    assets = out / "assets"
    assets.mkdir(parents=True)
    for picture in (ROOT / "docs" / "images").iterdir():
        shutil.copy(picture, assets)
    shutil.copy(files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg.js", assets / "mathjax.js")
    shutil.copy(HERE / "site.css", assets)
    exporter = HTMLExporter(
        template_name="basic",
        config=Config(
            {
                "HTMLExporter": {
                    "exclude_anchor_links": True,
                    "exclude_input_prompt": True,
                    "exclude_output_prompt": True,
                }
            }
        ),
    )
    lines = []
    for path in BOOKS:
        book = nbformat.read(path, as_version=4)
        minutes, name = re.search(r"\*\*(\d+) minutes", book.cells[0].source)[1], f"{path.stem}.html"
        lines.append(
            f'<li><a href="{name}">{path.name[:2]} {escape(title(book))}</a> <span>{minutes} min</span></li>'
        )
        if only and not path.name.startswith(tuple(only)):
            continue
        print(path.name, flush=True)
        book = run(path)
        trim(book, path.name)
        body, _ = exporter.from_notebook_node(book)
        real = f'<a href="{BINDER}{path.name}">Run it for real: Binder</a> <a href="{COLAB}{path.name}">Colab</a>'
        (out / name).write_text(page(title(book), body, real), encoding="utf-8")
    for path in PAPERS:
        text = relink(path.read_text())
        name = f"{path.stem}.html"
        (out / name).write_text(page(text.partition("\n")[0][2:], markdown2html(text)), encoding="utf-8")
    index = (
        (HERE / "index.html")
        .read_text()
        .replace("<!--notebooks-->", "\n".join(lines))
        .replace("<!--home-->", HOME)
    )
    (out / "index.html").write_text(page("What is the empirical Fisher for?", index), encoding="utf-8")
    if not only:
        reference = [
            sys.executable,
            "-m",
            "pdoc",
            "--docformat",
            "google",
            "-o",
            out / "api",
            "efisher_teach",
            "efisher_teach.browser.explorer",  # what the package imports late, pdoc finds only here
            "efisher_teach.browser.cards",
        ]
        subprocess.run(reference, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "only", nargs="*", help="how the names of notebooks begin, such as 03; all if none is given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_site")
    options = parser.parse_args()
    build(options.out, options.only)
