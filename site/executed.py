"""The outputs of cells, for pages: run in fresh kernels, and kept until code changes that could change it.

They are kept beside the environment, which git ignores, under a key of all that makes them: the code of the cells, the
package, this file, whatever is installed, and the settings of JAX. Text of notebooks and pages is not among them.
"""

import json
import os
import sys
import sysconfig
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from efisher_teach.browser.page import MIME, SWITCH

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "efisher_teach"
KEPT = Path(sys.prefix) / ".pages"
DROPPED = ("ef.guesses()", "ef.environment()")  # say something about a kernel only
ELSEWHERE = {".js", ".css", ".pyc"}  # runs in the browser, or is made of what is in the key


def key(source: Any) -> str:
    """Name all that an output of this source is made of."""
    code = [
        (path.relative_to(PACKAGE).as_posix(), path.read_bytes())
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and path.suffix not in ELSEWHERE
    ]
    installed = sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("JAX_", "XLA_"))}
    settings = {name: value for name, value in settings.items() if "CACHE" not in name}
    made_of = (source, code, Path(__file__).read_bytes(), sys.version, installed, settings)
    return sha256(repr(made_of).encode()).hexdigest()


def kept(name: str, source: Any, make: Callable[[], Any]) -> Any:
    """Make something that takes long, or take it as it was made last, if its key is the same."""
    of, path = key(source), KEPT / f"{name}.json"
    if path.exists() and (last := json.loads(path.read_text()))["of"] == of:
        return last["made"]
    print(name, flush=True)
    made = make()
    KEPT.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({"of": of, "made": made}))
    beside.replace(path)
    return made


def handed_over(path: Path) -> list[list[dict]]:
    """For each code cell of a notebook, up to the last figure or question: what its widgets give to a page."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    shows = [
        cell.metadata.get("part") != "stub" and cell.source not in DROPPED and rich(cell.outputs)
        for cell in cells
    ]
    cells = cells[: max((place + 1 for place, each in enumerate(shows) if each), default=0)]
    return kept(path.stem, [cell.source for cell in cells], lambda: run(cells, path.parent))


def rich(outputs: list) -> list:
    """The outputs that may be widgets of ours."""
    return [output for output in outputs if {"image/png", "text/html"} & output.get("data", {}).keys()]


def run(cells: list, folder: Path) -> list[list[dict]]:
    """Run cells in a fresh kernel. Gives, for each, what its widgets give to a page."""
    book = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        book,
        timeout=300,
        store_widget_state=False,  # every figure a second time
        resources={"metadata": {"path": folder}},
    )
    client.execute(env=os.environ | {SWITCH: "1"})
    return [[slim(output.data.get(MIME, {})) for output in rich(cell.outputs)] for cell in book.cells]


def slim(about: dict[str, Any]) -> dict[str, Any]:
    """Reduce the pictures in what a figure hands over."""
    if "reply" in about:
        replies = [about["reply"], *about["reply"]["states"].values()]
        for holder in (about, *(form for each in replies for form in each.get("forms", {}).values())):
            if holder["picture"]:
                holder["picture"] = b64encode(in_256_colours(b64decode(holder["picture"]))).decode()
    return about


def in_256_colours(picture: bytes) -> bytes:
    """Reduce a PNG to what figures of lines and words have, and a third of the bytes."""
    out, image = BytesIO(), Image.open(BytesIO(picture)).convert("RGB")
    # An octree is four times as fast as a median cut, a third smaller as a file, and nearer to the colours; the last
    # levels of PNG take four times as long for a tenth of the bytes.
    image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(out, "PNG", compress_level=7)
    return out.getvalue()
