"""The exercises: right answers are accepted in several styles, and each known mistake is recognised by its name."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from styles import STYLES

import efisher_teach as ef
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, judge, source, stub

ALL = sorted(EXERCISES)


def on_paper(exercise, answer, seed):
    """Fix the numbers of a seed as the arguments of an answer, where the task is for pencil and paper."""
    return partial(answer, *exercise.draw(np.random.default_rng(seed), 0)) if exercise.by_hand else answer


def mistakes(exercise):
    return exercise.mistakes(*exercise.draw(np.random.default_rng(0), 0))


def test_there_are_enough():
    assert len(EXERCISES) >= 25
    assert {each.stars for each in EXERCISES.values()} == {1, 2, 3}


@pytest.mark.parametrize("name", ALL)
def test_right_answers(name):
    """The solution is right for several seeds, as it stands in the notebook too; and so are other styles."""
    exercise, names = EXERCISES[name], {"jnp": jnp, "jax": jax, "ef": ef}
    exec(source(exercise.solution), names)
    for seed in range(3):
        answer = names[name] if seed == 0 else exercise.solution
        verdict = judge(exercise, on_paper(exercise, answer, seed), seed)
        assert verdict.state == "right", verdict
    for style in STYLES.get(name, ()):
        verdict = judge(exercise, style)
        assert verdict.state == "right", verdict
    assert exercise.by_hand or len(STYLES[name]) >= 2


@pytest.mark.parametrize("name", ALL)
def test_stubs_say_not_yet(name):
    names: dict = {"jnp": jnp}
    exec(stub(EXERCISES[name]), names)
    verdict = judge(EXERCISES[name], names[name])
    assert verdict.state == "not yet", verdict


@pytest.mark.parametrize("name", ALL)
def test_mistakes_are_named(name):
    tables: dict = {}

    def once(*arguments):
        if (key := repr(arguments)) not in tables:
            tables[key] = EXERCISES[name].mistakes(*arguments)
        return tables[key]

    exercise = EXERCISES[name]._replace(mistakes=once)
    for says in mistakes(exercise):
        for seed in (0, 3):
            answer = on_paper(exercise, lambda *arguments, says=says: once(*arguments)[says], seed)
            verdict = judge(exercise, answer, seed)
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
    for text in (*exercise.hints, *mistakes(exercise), exercise.solution.__doc__):
        assert not re.search(r"[$\\]", text), f"no LaTeX in a widget: {text}"
        assert "  " not in text
    assert exercise.task[-1] in ".?!"
