"""The form of the stored notebooks; what they compute is compared by nbval (`make test-notebooks`)."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module", params=BOOKS, ids=lambda path: path.stem)
def book(request):
    return nbformat.read(request.param, as_version=4)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def text(book):
    return "\n\n".join(cell.source for cell in cells(book, "markdown"))


def outputs(book):
    return [output for cell in cells(book, "code") for output in cell.outputs]


def test_there_are_notebooks():
    assert BOOKS


def test_stored_executed_in_order(book):
    """A cell without a count is not compared by nbval: it would pass with a broken library."""
    counts = [cell.execution_count for cell in cells(book, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert outputs(book)
    assert not [
        output for output in outputs(book) if output.output_type == "error" or output.get("name") == "stderr"
    ]


def test_nothing_stored_that_needs_a_kernel(book):
    assert "widgets" not in book.metadata
    assert not [
        output for output in outputs(book) if any("widget" in kind for kind in output.get("data", {}))
    ]


def test_explorers_are_stored_as_picture_and_words(book):
    figures = [output for output in outputs(book) if "image/png" in output.get("data", {})]
    assert 1 <= len(figures) <= 3
    for figure in figures:
        assert len(figure.data["text/plain"]) > 100
        assert figure.metadata["image/png"]["alt"] == figure.data["text/plain"]


def test_size(book):
    assert 600 <= len(text(book).split()) <= 1500
    lines = [
        line
        for cell in cells(book, "code")
        if "exercise" not in cell.metadata.get("tags", [])
        for line in cell.source.splitlines()
        if line.strip()
    ]
    assert len(lines) <= 30


def test_parts_come_in_order(book):
    parts = [
        "minutes.** After this notebook you can",
        "## A guess first",
        "<details>",
        "Try this",
        "xercise",
        "## To take away",
    ]
    places = [text(book).find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"\[\d\d [\w ]+\]\(\d\d_\w+\.ipynb\)", cells(book, "markdown")[-1].source)  # a way on
    assert "assert " in "\n".join(cell.source for cell in cells(book, "code"))


def test_links_lead_somewhere(book):
    for link in re.findall(r"\]\(([^)#]+)\)", text(book)):
        assert link.startswith("https://") or (FOLDER / link).exists(), link


def test_folded_answers_are_closed(book):
    assert text(book).count("<details>") == text(book).count("</details>") >= 1
    assert text(book).count("<summary>") == text(book).count("</summary>") == text(book).count("<details>")
