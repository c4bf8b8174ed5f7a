"""How long a learner waits for the first figure, and for a whole notebook: `make bench-start`.

Every notebook runs in a fresh kernel of its own, in the environment that `make lab` gives, twice: with nothing
compiled, and with what the first run left in the cache. *First figure* is from the start of the cell that makes the
first explorer to its reply; *run all* is from the first cell to the last, without the start of the kernel. The
yardstick is a kernel that imports JAX, matplotlib and scikit-learn, compiles one small function and draws one bare
figure: what no course can be below.
"""

import argparse
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from turns import machine

ROOT = Path(__file__).parents[1]
YARDSTICK = """
import io, jax, jax.numpy as jnp, matplotlib, sklearn
from matplotlib.figure import Figure
jax.jit(lambda C, g: jnp.linalg.solve(C, g))(jnp.eye(2), jnp.ones(2)).block_until_ready()
figure = Figure()
figure.subplots().plot([0, 1])
figure.savefig(io.BytesIO())
"""
SPENT = """
import resource, sys
_ = resource.getrusage(resource.RUSAGE_SELF)
print(_.ru_utime + _.ru_stime, _.ru_maxrss / 1024)
"""


def run(cells: list[Any], cache: str) -> tuple[float, float, float, float]:
    """Seconds to the first figure and of all cells, CPU seconds, and MiB at the peak, in one fresh kernel."""
    code = [nbformat.v4.new_code_cell(cell.source) for cell in cells if cell.cell_type == "code"]
    book = nbformat.v4.new_notebook(cells=[*code, nbformat.v4.new_code_cell(SPENT)])
    client = NotebookClient(book, timeout=600, resources={"metadata": {"path": ROOT / "notebooks"}})
    client.execute(env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)})
    spans = [
        [
            datetime.fromisoformat(cell.metadata.execution[end])
            for end in ("iopub.execute_input", "shell.execute_reply")
        ]
        for cell in book.cells
    ]
    first = next((at for at, cell in enumerate(code) if "Explorer(" in cell.source), -1)
    cpu, peak = map(float, book.cells[-1].outputs[0].text.split())
    wall = (spans[-2][1] - spans[0][0]).total_seconds()
    return (spans[first][1] - spans[first][0]).total_seconds(), wall, cpu, peak


def main() -> None:
    """Print the table: a row a notebook, the yardstick first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "only", nargs="*", help="how the names of notebooks begin, such as 03; all if none is given"
    )
    only = tuple(parser.parse_args().only) or ("",)
    books = {"yardstick": [nbformat.v4.new_code_cell(YARDSTICK)]}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if path.name.startswith(only):
            books[path.stem] = nbformat.read(path, as_version=4).cells
    print(machine())
    print("| notebook | first figure, s | again | run all, s | again | CPU, s | again | peak, MiB |")
    print("| --- " * 8 + "|")
    for name, cells in books.items():
        with tempfile.TemporaryDirectory() as cache:
            (figure, wall, cpu, peak), again = run(cells, cache), run(cells, cache)
        figures = ["", ""] if name == "yardstick" else [f"{figure:.1f}", f"{again[0]:.1f}"]
        numbers = [f"{wall:.1f}", f"{again[1]:.1f}", f"{cpu:.0f}", f"{again[2]:.0f}", f"{peak:.0f}"]
        print("|", " | ".join([name, *figures, *numbers]), "|", flush=True)


if __name__ == "__main__":
    main()
