"""Exercises that are checked on the page: what it hands to Python in the browser, and which exercises that can judge.

The lessons run there as they stand, by the same `judge`; `python/` has what stands in for JAX and for the package.
"""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from efisher_teach.lessons.course import EXERCISES, stub

HERE = Path(__file__).parent
OURS, PACKAGE = HERE / "python", HERE.parent / "efisher_teach"
VERSION = "314.0.7"
CORE = f"https://cdn.jsdelivr.net/npm/pyodide@{VERSION}/"
NUMPY = f"https://cdn.jsdelivr.net/pyodide/v{VERSION}/full/"
PINNED = {  # of this version on npm; the hash of the wheel is that of its pyodide-lock.json
    "pyodide.mjs": "sha256-bx1g979Sm+swDw9HmDySHTmCNjZAuiCvDjjv3dvGYQk=",
    "pyodide.asm.mjs": "sha256-983I7OgGeM63EvjmXr5tOoMgOhgMOZhl9JYSoFFpNjU=",
    "pyodide.asm.wasm": "sha256-zDbjyrBP38mmP/E+tS6uK5Eb9GwCXMeygfOUvT3h1eY=",
    "python_stdlib.zip": "sha256-+hlX5XdwaPxPdDf5bYYK4vvpwZcyugbITgBOwW3X3Xo=",
    "pyodide-lock.json": "sha256-XcL8EZEIvBSMdFfchudnW1yH4cr9QgucNMHq73s2wBA=",
    "numpy-2.4.6-cp314-cp314-pyemscripten_2026_0_wasm32.whl": "sha256-opLB9dfYoiCM1elPxGdgTBMcq80vwU/tbu/eEh5/q98=",
}


def sources() -> dict[str, str]:
    """The Python files of the page, by their paths there."""
    ours = {path.relative_to(OURS).as_posix(): path for path in OURS.rglob("*.py")}
    lessons = (PACKAGE / "lessons").rglob("*.py")
    paths = ours | {path.relative_to(PACKAGE.parent).as_posix(): path for path in lessons}
    return {name: path.read_text(encoding="utf-8") for name, path in sorted(paths.items())}


def write(folder: Path) -> None:
    """Write the files of the page into a folder, from which any Python with NumPy can run them."""
    for name, text in sources().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@cache
def left_out() -> dict[str, str]:
    """The exercises that cannot be judged on a page, each with the reason: found by judging every solution."""
    with TemporaryDirectory() as folder:
        write(Path(folder))
        code = "import json, on_page; print(json.dumps(on_page.left_out()))"
        command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write_assets(assets: Path) -> None:
    """Write what a page with exercises loads: its script and styles at once, the lessons at the first check."""
    for name in ("exercise.js", "exercise.css"):
        shutil.copy(HERE / name, assets)
    (assets / "lessons.js").write_text(lessons(), encoding="utf-8")


def lessons() -> str:
    """The script that a page loads at the first check: Python's files, where the rest comes from, and its hashes."""
    given = {"core": CORE, "numpy": NUMPY, "pinned": PINNED, "sources": sources()}
    return f"window.lessons = {json.dumps(given)};\n"


def about(name: str) -> dict:
    """Describe an exercise to its page: all that the script needs, or why it cannot be judged there."""
    if name in left_out():
        return {"why": left_out()[name]}
    return {"name": name, "stub": stub(EXERCISES[name]), "hints": EXERCISES[name].hints}
