"""The form of the stored notebooks; what they compute is compared by nbval (`make test-notebooks`)."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from efisher_teach.lessons.course import EXERCISES, QUESTIONS

FOLDER = Path(__file__).parent.parent / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("store", FOLDER / "store.py")
store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)


@pytest.fixture(scope="module", params=BOOKS, ids=lambda path: path.stem)
def book(request):
    found = nbformat.read(request.param, as_version=4)
    found.number, found.topic = request.param.stem.split("_", 1)
    return found


def title(book):
    return re.match(r"# ([^:\n]+)", book.cells[0].source)[1]


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
        if "colab" not in cell.metadata.get("tags", [])
        for line in cell.source.splitlines()
        if line.strip()
    ]
    assert [line for line in lines if len(line) > 88] == []


def test_stated_minutes_are_those_it_takes(book):
    """180 words a minute, 90 s a figure, 3 minutes an exercise of one star, 6 of two; *** are on top."""
    words = " ".join(cell.source for cell in cells(book, "markdown") if "exercise" not in cell.metadata)
    figures = sum("image/png" in output.get("data", {}) for output in outputs(book))
    tasks = [cell.metadata["exercise"] for cell in book.cells if cell.metadata.get("part") == "task"]
    effort = sum({1: 3, 2: 6, 3: 0}[EXERCISES[name].stars] for name in tasks)
    takes = len(words.split()) / 180 + 1.5 * figures + effort
    assert int(re.search(r"\*\*(\d+) minutes", words)[1]) == pytest.approx(takes, abs=1)


def test_colab_installs_the_course_first(book):
    """Elsewhere the cell does nothing, and is folded away."""
    cell = cells(book, "code")[0]
    assert cell == store.COLAB | {"execution_count": 1}
    assert "pip install" in cell.source
    assert cell.metadata["jupyter"]["source_hidden"]


def test_parts_come_in_order(book):
    parts = [
        r"minutes\.\*\* After this notebook you can",
        "## A guess first",
        "Try this",
        "## Exercises|## An exercise|## Six bugs",
        "## To take away",
    ]
    found = [re.search(part, text(book)) for part in parts]
    assert None not in found
    places = [match.start() for match in found]
    assert places == sorted(places)
    assert "assert " in "\n".join(cell.source for cell in cells(book, "code"))


def test_a_guess_comes_before_anything_is_shown(book):
    _, first, *_ = cells(book, "code")  # after the one for Colab
    names = re.findall(r'ef\.predict\("(.*?)"\)', "\n".join(cell.source for cell in cells(book, "code")))
    assert "ef.predict(" in first.source
    assert len(set(names)) >= (1 if "Start here" in text(book) else 2)
    assert set(names) <= set(QUESTIONS)
    assert "<details>" in first.outputs[0].data["text/html"]  # folded, not missing
    assert "ef.guesses()" in "\n".join(cell.source for cell in cells(book, "code"))
    said = "\n".join(output.get("text") or output.data.get("text/plain", "") for output in outputs(book))
    for name in names:  # an answer's numbers are computed where it is asked
        for number in re.findall(r"\d+\.\d+", QUESTIONS[name].because):
            assert number in said, f"{name}: {number}"


def test_exercises_are_what_they_are_checked_by(book):
    """Task, stub and solution stand in the notebook as the exercise has them."""
    for cell in book.cells:
        if "exercise" in cell.metadata:
            assert cell.source == store.part(cell.metadata["exercise"], cell.metadata["part"])
    kinds = [
        (cell.metadata["exercise"], cell.metadata["part"])
        for cell in book.cells
        if "exercise" in cell.metadata
    ]
    names = list(dict.fromkeys(name for name, _ in kinds))
    assert kinds == [(name, part) for name in names for part in ("task", "stub", "solution")]
    assert names
    assert {EXERCISES[name].notebook for name in names} == {book.topic}
    stars = [EXERCISES[name].stars for name in names]
    assert stars == sorted(stars)


def test_every_exercise_is_in_its_notebook():
    found = [
        cell.metadata["exercise"]
        for path in BOOKS
        for cell in nbformat.read(path, 4).cells
        if "exercise" in cell.metadata
    ]
    assert sorted(set(found)) == sorted(EXERCISES)
    assert len(EXERCISES) >= 25


def test_every_question_is_asked():
    sources = "".join(path.read_text() for path in BOOKS)
    assert [name for name in QUESTIONS if f'ef.predict(\\"{name}\\")' not in sources] == []


def test_one_notebook_leads_to_the_next(book):
    last, place = cells(book, "markdown")[-1].source, int(book.number)
    near = {"Previous": place - 1, "Next": place + 1}
    for word, other in near.items():
        if 0 <= other < len(BOOKS):
            assert (
                f"{word}: [{BOOKS[other].stem[:2]} {title(nbformat.read(BOOKS[other], 4))}]({BOOKS[other].name})"
                in last
            )
        else:
            assert f"{word}:" not in last


def test_links_lead_somewhere(book):
    for link in re.findall(r"\]\(([^)#]+)\)", text(book)):
        assert link.startswith("https://") or (FOLDER / link).exists(), link


def test_folded_answers_are_closed(book):
    assert text(book).count("<details>") == text(book).count("</details>") >= 1
    assert text(book).count("<summary>") == text(book).count("</summary>") == text(book).count("<details>")


def test_pictures_have_words(book):
    assert not re.findall(r"!\[\]", text(book))
    assert all(len(words) > 20 for words in re.findall(r"!\[(.*?)\]", text(book)))


def test_widgets_are_labelled_without_latex(book):
    labels = re.findall(r'description="(.*?)"', "".join(cell.source for cell in cells(book, "code")))
    assert not [label for label in labels if re.search(r"[$\\]", label)]


def test_spelling(book, tmp_path):
    (tmp_path / "prose.md").write_text(text(book))
    spell = Path(sys.executable).with_name("codespell")
    result = subprocess.run([spell, tmp_path / "prose.md"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
