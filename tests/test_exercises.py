"""The exercises: every right answer is accepted, in several styles; every known mistake is recognised by its name."""

import importlib
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, judge, source, stub

STYLES = {
    name: answers
    for path in Path(__file__).parent.glob("styles_*.py")
    for name, answers in importlib.import_module(path.stem).STYLES.items()
}
ALL = sorted(EXERCISES)
MISTAKES = [(name, says) for name in ALL for says in EXERCISES[name].mistakes]


def test_there_are_enough():
    assert len(EXERCISES) >= 25
    assert {each.stars for each in EXERCISES.values()} == {1, 2, 3}


def on_paper(exercise, answer, seed):
    """An answer found for the numbers of a seed, where the task is for pencil and paper."""
    return partial(answer, *exercise.draw(np.random.default_rng(seed), 0)) if exercise.by_hand else answer


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ALL)
def test_solutions_are_right(name, seed):
    exercise = EXERCISES[name]
    verdict = judge(exercise, on_paper(exercise, exercise.solution, seed), seed)
    assert verdict.state == "right", verdict


@pytest.mark.parametrize(("name", "style"), [(name, k) for name in STYLES for k in range(len(STYLES[name]))])
def test_other_styles_are_right(name, style):
    verdict = judge(EXERCISES[name], STYLES[name][style])
    assert verdict.state == "right", verdict


@pytest.mark.parametrize("name", ALL)
def test_stubs_say_not_yet(name):
    names: dict = {"jnp": jnp}
    exec(stub(EXERCISES[name]), names)
    verdict = judge(EXERCISES[name], names[name])
    assert verdict.state == "not yet", verdict


@pytest.mark.parametrize("name", ALL)
def test_solutions_stand_alone(name):
    """What is shown as the solution runs in a notebook."""
    exercise = EXERCISES[name]
    names: dict = {"jnp": jnp, "jax": jax, "ef": ef}
    exec(source(exercise.solution), names)
    if not exercise.by_hand:
        assert judge(exercise, names[name]).state == "right"


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(("name", "says"), MISTAKES)
def test_mistakes_are_named(name, says, seed):
    exercise = EXERCISES[name]
    verdict = judge(exercise, on_paper(exercise, exercise.mistakes[says], seed), seed)
    assert (verdict.state, verdict.says) == ("wrong", says), verdict


@pytest.mark.parametrize("name", QUESTIONS)
def test_form_of_questions(name):
    question = QUESTIONS[name]
    for words in (question.asks, question.because, *question.options):
        assert not re.search(r"[$\\]", words), f"no LaTeX in a widget: {words}"
        assert "  " not in words
        assert words[-1] in ".?"
    if question.options:
        assert 3 <= len(question.options) <= 5
        assert question.answer in range(1, len(question.options) + 1)
    else:
        assert question.low <= question.answer <= question.high
        assert 0 < question.within < (question.high - question.low) / 4


@pytest.mark.parametrize("name", ALL)
def test_form(name):
    exercise = EXERCISES[name]
    assert exercise.stars in (1, 2, 3)
    assert len(exercise.hints) == 3
    assert exercise.solution.__doc__.endswith(".")
    for text in (*exercise.hints, *exercise.mistakes, exercise.solution.__doc__):
        assert not re.search(r"[$\\]", text), f"no LaTeX in a widget: {text}"
        assert "  " not in text
    assert exercise.task[-1] in ".?!"
