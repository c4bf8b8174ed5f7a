"""Run the notebooks and store what they show: `make notebooks`. A second run changes nothing.

Task, stub and folded solution of an exercise are written into its cells first, from `efisher_teach.lessons.course`, and
below the title a cell that installs the course on Colab. Outputs and counts are kept, for readers without a kernel and
for the tests, which compare them. What only a live kernel understands is dropped: widget state, widget views that have
something else beside them, and progress bars.
"""

import os
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from efisher_teach.lessons import course

LIVE = "application/vnd.jupyter.widget-view+json"
STAR = "\\*"
# Folded away in JupyterLab, a button in Colab, left out of the site.
COLAB = nbformat.v4.new_code_cell(
    """#@title Only Colab needs this cell: it installs the course.
import sys
if "google.colab" in sys.modules:
    %pip install -q git+https://github.com/efisher-teach/efisher_teach
    from google.colab import output
    output.enable_custom_widget_manager()""",
    metadata={"tags": ["colab"], "cellView": "form", "jupyter": {"source_hidden": True}},
    id="colab",
)


def store(path: Path) -> None:
    """Run one notebook in a fresh kernel and write it back."""
    book = nbformat.read(path, as_version=4)
    if book.cells[1].id == COLAB.id:
        del book.cells[1]
    book.cells.insert(1, deepcopy(COLAB))
    for cell in book.cells:
        if name := cell.metadata.get("exercise"):
            cell.source = part(name, cell.metadata["part"])
    NotebookClient(
        book,
        timeout=180,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": path.parent}},
    ).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        for output in cell.get("outputs", []):
            if {"image/png", "text/html"} & output.get("data", {}).keys():
                output.data.pop(LIVE, None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(book, path)


def part(name: str, kind: str) -> str:
    """A cell of an exercise: its "task", its "stub" with the check, or its folded "solution"."""
    exercise = course.EXERCISES[name]
    head, check = "", f"ef.check({name})"
    if exercise.by_hand:  # each seed gives other numbers
        head, check = f'seed = 0\nprint(ef.given("{name}", seed=seed))\n\n', f"ef.check({name}, seed=seed)"
    if kind == "task":
        return f"{STAR * exercise.stars} **`{name}`** {exercise.task}"
    if kind == "stub":
        return f"{head}{course.stub(exercise)}\n\n{check}"
    code, why = course.source(exercise.solution), f"\n{exercise.why}\n" if exercise.why else ""
    return f"<details>\n<summary>Solution of {name}</summary>\n\n```python\n{code}\n```\n{why}</details>"


def _is_progress(output):
    """A widget view with nothing beside it: a bar that has done its work."""
    return LIVE in output.get("data", {}) and not {"image/png", "text/html"} & output.data.keys()


if __name__ == "__main__":
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # notebook 00 tells where programs are kept
    for path in [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path.name, flush=True)
        store(path)
