"""Run the notebooks and store what they show: `make notebooks`. A second run changes nothing.

Outputs and counts are kept, for readers without a kernel and for the tests, which compare them. What only a live kernel
understands is dropped: widget state, widget views that have a picture beside them, and progress bars.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LIVE = "application/vnd.jupyter.widget-view+json"


def store(path: Path) -> None:
    """Run one notebook in a fresh kernel and write it back."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=180, record_timing=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop(LIVE, None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(book, path)


def _is_progress(output):
    """A widget view with no picture: a bar that has done its work."""
    return LIVE in output.get("data", {}) and "image/png" not in output.data


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path.name, flush=True)
        store(path)
