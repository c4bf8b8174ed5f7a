"""The exercises: right answers are accepted, in another style too, and each known mistake is recognised by its name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from styles import STYLES, on_paper, remembered

import efisher_teach as ef
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, judge, source, stub

each = pytest.mark.parametrize("name", sorted(EXERCISES))


def mistakes(exercise):
    return exercise.mistakes(*exercise.draw(np.random.default_rng(0), 0))


def as_lists(answer):
    """The same answer, its numbers in lists, and as Python has them."""

    def plain(part):
        return part if isinstance(part, str) else np.asarray(part).tolist()

    return lambda *arguments: jax.tree.map(plain, answer(*arguments))


@each
def test_right_answers(name):
    """The solution is, for several seeds, as it stands in the notebook, and with its numbers in lists; and a style."""
    exercise, notebook = EXERCISES[name], {"jnp": jnp, "jax": jax, "ef": ef}
    exec(stub(exercise), notebook)
    assert judge(exercise, notebook[name]).state == "not yet"
    exec(source(exercise.solution), notebook)
    ours = [on_paper(exercise, exercise.solution, seed) for seed in (1, 2)]
    solutions = [on_paper(exercise, notebook[name], 0), as_lists(ours[0]), ours[1]]
    assert exercise.by_hand or name in STYLES
    for seed, answer in [*enumerate(solutions), (0, STYLES.get(name, solutions[0]))]:
        verdict = judge(exercise, answer, seed)
        assert verdict.state == "right", verdict


@each
def test_mistakes_are_named(name):
    known = remembered(EXERCISES[name].mistakes)
    exercise = EXERCISES[name]._replace(mistakes=known)
    for says in mistakes(exercise):
        for seed in (0, 3):
            answer = on_paper(exercise, lambda *arguments, says=says: known(*arguments)[says], seed)
            verdict = judge(exercise, answer, seed)
            assert (verdict.state, verdict.says) == ("wrong", says), verdict


UNREADABLE = r"[$\\]|  "  # in a widget: LaTeX, or two spaces


@each
def test_form(name):
    exercise = EXERCISES[name]
    assert exercise.stars in (1, 2, 3)
    assert len(exercise.hints) == 3
    assert exercise.task[-1] in ".?!"
    words = *exercise.hints, *mistakes(exercise), exercise.solution.__doc__
    assert not re.search(UNREADABLE, "".join(words))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_form_of_questions(question):
    words = question.asks, question.because, *question.options
    assert not re.search(UNREADABLE, "".join(words))
    assert {text[-1] for text in words} <= {".", "?"}
    if question.options:
        assert 3 <= len(question.options) <= 5
        assert question.answer in range(1, len(question.options) + 1)
    else:
        assert question.low <= question.answer <= question.high
        assert 0 < question.within < (question.high - question.low) / 4
