"""The wait of a learner for the first figure, and for a whole notebook: `make bench-start`.

Every notebook runs in a fresh kernel of its own, in the environment that `make lab` gives, twice: with nothing
compiled, and with what the first run left in the cache. *First figure* is from the start of the cell that makes the
first explorer to its reply; *run all* is from the first cell to the last, without the start of the kernel. The
yardstick is a kernel that imports JAX, matplotlib and scikit-learn, compiles one small function and draws one bare
figure: what no course can be below.
"""

import argparse
import json
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
import json, re, resource
_ = resource.getrusage(resource.RUSAGE_SELF)
now = re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(json.dumps({"resident": int(now) / 1024, "peak": _.ru_maxrss / 1024, "cpu": _.ru_utime + _.ru_stime}))
"""


def books(*prefixes: str) -> dict[str, list[Any]]:
    """The cells of every notebook of the course, or of those whose names begin so."""
    paths = [
        path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name.startswith(prefixes or "")
    ]
    return {path.stem: nbformat.read(path, as_version=4).cells for path in paths}


def run(cells: list[Any], **variables: str) -> dict[str, float]:
    """Seconds to the first figure and of all cells, CPU seconds, and MiB now and at the peak, in one fresh kernel."""
    code = [nbformat.v4.new_code_cell(cell.source) for cell in cells if cell.cell_type == "code"]
    book = nbformat.v4.new_notebook(cells=[*code, nbformat.v4.new_code_cell(SPENT)])
    client = NotebookClient(book, timeout=600, resources={"metadata": {"path": ROOT / "notebooks"}})
    client.execute(env=os.environ | variables)
    begun, done = (
        [datetime.fromisoformat(cell.metadata.execution[end]) for cell in book.cells]
        for end in ("iopub.execute_input", "shell.execute_reply")
    )
    first = next((at for at, cell in enumerate(code) if "Explorer(" in cell.source), -1)
    times = {"figure": (done[first] - begun[first]).total_seconds()}
    times["all"] = (done[-2] - begun[0]).total_seconds()
    return times | json.loads(book.cells[-1].outputs[0].text)


def main() -> None:
    """Print the table: a row a notebook, the yardstick first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("only", nargs="*", help="how their names begin, such as 03; all if none is given")
    print(machine())
    print("| notebook | first figure, s | again | run all, s | again | CPU, s | again | peak, MiB |")
    print("| --- " * 8 + "|")
    yardstick = {"yardstick": [nbformat.v4.new_code_cell(YARDSTICK)]}
    for name, cells in (yardstick | books(*parser.parse_args().only)).items():
        with tempfile.TemporaryDirectory() as cache:
            first, again = (run(cells, JAX_COMPILATION_CACHE_DIR=cache) for _ in range(2))
        numbers = [f"{each[of]:.1f}" for of in ("figure", "all") for each in (first, again)]
        numbers += [f"{each['cpu']:.0f}" for each in (first, again)]
        numbers[:2] = ["", ""] if name == "yardstick" else numbers[:2]
        print("|", " | ".join([name, *numbers, f"{first['peak']:.0f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
