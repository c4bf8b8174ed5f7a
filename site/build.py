"""Make a page without a server of every notebook: `make site` writes _site/. Every axis of every figure is live in it.

The notebooks are run; with what their cells show comes, as a MIME type of our own, what the page's scripts mount: the
same scripts that JupyterLab runs. nbconvert makes the HTML, MathJax the formulas, pdoc the reference of the library;
all of it lies in the folder, and no page asks a host for anything.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import nbformat
from jinja2 import FileSystemLoader
from markupsafe import Markup
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from efisher_teach.browser.page import MIME, SWITCH, TEMPLATES

HERE = Path(__file__).parent
ROOT = HERE.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAPERS = sorted((ROOT / "docs").glob("*.md"))
LIVE = "application/vnd.jupyter.widget-view+json"
HOME = "https://github.com/efisher-teach/efisher_teach"
BINDER = "https://mybinder.org/v2/gh/efisher-teach/efisher_teach/main?urlpath=lab/tree/notebooks/"
COLAB = "https://colab.research.google.com/github/efisher-teach/efisher_teach/blob/main/notebooks/"
DROPPED = ("ef.guesses()", "ef.environment()")  # say something about a kernel only
LATE = ("explorer", "cards", "environment")  # what the package imports late, pdoc finds only by its name
SITE = TEMPLATES.overlay(loader=FileSystemLoader(HERE))
SITE.globals["code_style"] = lambda style: Markup(HtmlFormatter(style=style).get_style_defs(".highlight"))
PARTS = SITE.get_template("parts.html").module


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook; its figures and questions become HTML that the scripts of the page bring to life."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book,
        timeout=300,
        coalesce_streams=True,
        store_widget_state=False,  # every figure a second time: the outputs have what the page needs
        resources={"metadata": {"path": path.parent}},
    ).execute(env=os.environ | {SWITCH: "1"})
    figures = 0
    for output in (output for cell in book.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        data.pop(LIVE, None)
        about = data.pop(MIME, {})
        if "reply" in about:
            figures += 1
            for form in about["reply"]["forms"].values():
                form["picture"] = in_256_colours(form["picture"])
            picture, gate = in_256_colours(about["picture"]), about.get("gate", "")
            figure = PARTS.figure(figures, gate, data["text/plain"], picture, about["reply"])
            output.data = {"text/html": str(figure)}
        elif "question" in about:
            output.data = {"text/html": str(PARTS.question(about["question"], data["text/html"]))}
    return book


def in_256_colours(picture: str) -> str:
    """Reduce a PNG, as base64, to what figures of lines and words have, and a third of the bytes."""
    out = BytesIO()
    image = Image.open(BytesIO(b64decode(picture))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return b64encode(out.getvalue()).decode()


def trim(book: nbformat.NotebookNode, name: str) -> None:
    """Leave out what needs a kernel, and say where there is one."""
    book.cells = [
        cell
        for cell in book.cells
        if cell.source not in DROPPED and "colab" not in cell.metadata.get("tags", [])
    ]
    for cell in book.cells:
        if cell.metadata.get("part") == "stub":
            link = nbformat.v4.new_output("display_data", {"text/html": str(PARTS.checked(BINDER + name))})
            cell.outputs = [output for output in cell.outputs if output.output_type == "stream"] + [link]
        elif cell.cell_type == "markdown":
            cell.source = relink(cell.source)


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


def title(book: nbformat.NotebookNode) -> str:
    """The title of a notebook, from its first line."""
    return book.cells[0].source.partition("\n")[0].removeprefix("# ")


def write_page(path: Path, heading: str, body: str, around: str = "") -> None:
    """Write a whole page about `body`, which is HTML."""
    parts = {"title": heading, "body": Markup(body), "around": around, "live": 'class="ef-' in body}
    path.write_text(SITE.get_template("page.html").render(parts), encoding="utf-8")


def write_assets(out: Path) -> None:
    """Put the pictures, the style and MathJax into the site."""
    assets = out / "assets"
    shutil.copytree(ROOT / "docs" / "images", assets)
    shutil.copy(files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg.js", assets / "mathjax.js")
    shutil.copy(HERE / "site.css", assets)


def write_notebook(out: Path, path: Path) -> None:
    """Run a notebook, and write its page."""
    print(path.name, flush=True)
    book = run(path)
    trim(book, path.name)
    hidden = ("exclude_anchor_links", "exclude_input_prompt", "exclude_output_prompt")
    exporter = HTMLExporter(
        template_name="basic", config=Config({"HTMLExporter": dict.fromkeys(hidden, True)})
    )
    body, _ = exporter.from_notebook_node(book)
    links = PARTS.run_it(BINDER + path.name, COLAB + path.name)
    write_page(out / f"{path.stem}.html", title(book), body, links)


def write_contents(out: Path) -> None:
    """Write the page that leads to all notebooks."""
    books = []
    for path in BOOKS:
        book = nbformat.read(path, as_version=4)
        minutes = re.search(r"\*\*(\d+) minutes", book.cells[0].source)[1]
        about = {"page": f"{path.stem}.html", "number": path.name[:2], "title": title(book)}
        books.append(about | {"minutes": minutes})
    index = SITE.get_template("index.html").render(books=books, home=HOME)
    write_page(out / "index.html", "What is the empirical Fisher for?", index)


def write_reference(out: Path) -> None:
    """Write the reference of the library."""
    modules = ["efisher_teach", *(f"efisher_teach.browser.{name}" for name in LATE)]
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "-o", out / "api", *modules]
    subprocess.run(command, check=True)


def build(out: Path, only: list[str]) -> None:
    """Write the site: all pages, or those whose names begin with one of `only`, for a look at it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_assets(out)
    for path in BOOKS:
        if not only or path.name.startswith(tuple(only)):
            write_notebook(out, path)
    for path in PAPERS:
        text = relink(path.read_text())
        write_page(out / f"{path.stem}.html", text.partition("\n")[0][2:], markdown2html(text))
    write_contents(out)
    if not only:
        write_reference(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "only", nargs="*", help="how the names of notebooks begin, such as 03; all if none is given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_site")
    options = parser.parse_args()
    build(options.out, options.only)
