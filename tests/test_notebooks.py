"""The form of the stored notebooks; what they compute is compared by nbval (`make test-notebooks`)."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
import store

from efisher_teach.lessons.course import EXERCISES, QUESTIONS

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


@cache
def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def book(path):
    return read(path)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def text(book):
    return "\n\n".join(cell.source for cell in cells(book, "markdown"))


def code(book):
    return "\n".join(cell.source for cell in cells(book, "code"))


def outputs(book):
    return [output for cell in cells(book, "code") for output in cell.outputs]


def pictures(book):
    return [output for output in outputs(book) if "image/png" in output.get("data", {})]


def exercises(book):
    """Its cells that belong to an exercise: of which, which part, and what they say."""
    found = [cell for cell in book.cells if "exercise" in cell.metadata]
    return [(cell.metadata["exercise"], cell.metadata["part"], cell.source) for cell in found]


def test_stored_executed_in_order_and_without_trouble(book):
    """A cell without a count is not compared by nbval: it would pass with a broken library."""
    counts = [cell.execution_count for cell in cells(book, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert outputs(book)
    for output in outputs(book):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert not [kind for kind in output.get("data", {}) if "widget" in kind]  # it would need a kernel
    assert "widgets" not in book.metadata


def test_explorers_are_stored_as_picture_and_words(book):
    assert 1 <= len(pictures(book)) <= 3
    for figure in pictures(book):
        assert len(figure.data["text/plain"]) > 100
        assert figure.metadata["image/png"]["alt"] == figure.data["text/plain"]


def test_size(book):
    assert 600 <= len(text(book).split()) <= 1500
    ours = [cell for cell in cells(book, "code") if "colab" not in cell.metadata.get("tags", [])]
    assert [line for cell in ours for line in cell.source.splitlines() if len(line) > 88] == []


def test_stated_minutes_are_those_it_takes(book):
    """180 words a minute, 90 s a figure, 3 minutes an exercise of one star, 6 of two; *** are on top."""
    words = " ".join(cell.source for cell in cells(book, "markdown") if "exercise" not in cell.metadata)
    stars = [EXERCISES[name].stars for name, part, _ in exercises(book) if part == "task"]
    takes = len(words.split()) / 180 + 1.5 * len(pictures(book)) + sum({1: 3, 2: 6, 3: 0}[n] for n in stars)
    assert int(re.search(r"\*\*(\d+) minutes", words)[1]) == pytest.approx(takes, abs=1)


def test_colab_installs_the_course_first(book):
    """Elsewhere the cell does nothing, and is folded away."""
    cell = cells(book, "code")[0]
    assert cell == store.COLAB | {"execution_count": 1}
    assert "pip install" in cell.source
    assert cell.metadata["jupyter"]["source_hidden"]


PARTS = [r"minutes\.\*\* After this notebook you can", "## A guess first", "Try this"]
PARTS += ["## Exercises|## An exercise|## Six bugs", "## To take away"]


def test_parts_come_in_order(book):
    found = [re.search(part, text(book)) for part in PARTS]
    assert None not in found
    places = [match.start() for match in found]
    assert places == sorted(places)
    assert "assert " in code(book)


def test_a_guess_comes_before_anything_is_shown(book):
    _, first, *_ = cells(book, "code")  # after the one for Colab
    names = re.findall(r'ef\.predict\("(.*?)"\)', code(book))
    assert "ef.predict(" in first.source
    assert len(set(names)) >= (1 if "Start here" in text(book) else 2)
    assert set(names) <= set(QUESTIONS)
    assert "<details>" in first.outputs[0].data["text/html"]  # folded, not missing
    assert "ef.guesses()" in code(book)
    said = "\n".join(output.get("text") or output.data.get("text/plain", "") for output in outputs(book))
    for name in names:  # an answer's numbers are computed where it is asked
        for number in re.findall(r"\d+\.\d+", QUESTIONS[name].because):
            assert number in said, f"{name}: {number}"


def test_exercises_are_what_they_are_checked_by(path, book):
    """Task, stub and solution stand in the notebook as the exercise has them; the easiest come first."""
    names = list(dict.fromkeys(name for name, *_ in exercises(book)))
    parts = [(name, part) for name in names for part in ("task", "stub", "solution")]
    assert exercises(book) == [(name, part, store.part(name, part)) for name, part in parts]
    assert {EXERCISES[name].notebook for name in names} == {path.stem.split("_", 1)[1]}
    stars = [EXERCISES[name].stars for name in names]
    assert stars == sorted(stars)


def test_every_exercise_and_every_question_is_in_a_notebook():
    books = [*map(read, PATHS)]
    assert {name for book in books for name, *_ in exercises(book)} == set(EXERCISES)
    assert len(EXERCISES) >= 25
    assert [name for name in QUESTIONS if f'ef.predict("{name}")' not in "".join(map(code, books))] == []


def test_one_notebook_leads_to_the_next(path, book):
    last, others, place = cells(book, "markdown")[-1].source, dict(enumerate(PATHS)), int(path.stem[:2])
    assert others[place] == path
    for word, other in (("Previous", others.get(place - 1)), ("Next", others.get(place + 1))):
        assert (f"{word}:" in last) == (other is not None)
        if other:
            title = re.match(r"# ([^:\n]+)", read(other).cells[0].source)[1]
            assert f"{word}: [{other.stem[:2]} {title}]({other.name})" in last


def test_folded_answers_are_closed(book):
    counts = {text(book).count(f"<{tag}>") for tag in ("details", "/details", "summary", "/summary")}
    assert len(counts) == 1
    assert min(counts) >= 1


def test_pictures_have_words_and_widgets_are_labelled_without_latex(book):
    assert all(len(words) > 20 for words in re.findall(r"!\[(.*?)\]", text(book)))
    assert not re.search(r'description="[^"]*[$\\]', code(book))


def test_spelling(tmp_path):
    for path in PATHS:
        (tmp_path / f"{path.stem}.md").write_text(text(read(path)))
    spell = Path(sys.executable).with_name("codespell")
    result = subprocess.run([spell, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
