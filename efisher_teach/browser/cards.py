"""Cards of the lessons: predict before you look, check what you wrote, a hint by a button, a record of all that.

Each is a widget where there is a kernel, and folded HTML where there is none. What a learner did is kept in `RECORD`
as long as the kernel runs, so that a cell that runs again loses nothing.
"""

import inspect
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from IPython.core.getipython import get_ipython

from efisher_teach.browser.card import HTML, Card, Follower, plain
from efisher_teach.browser.page import MIME, bundle
from efisher_teach.browser.record import RECORD
from efisher_teach.lessons import course
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, Exercise, Question, Verdict
from efisher_teach.lessons.guard import StoppedError, kind, legible, tried

LIVE = "application/vnd.jupyter.widget-view+json"
MARKS = {"right": "✓", "not yet": "…", "wrong": "✗", "stopped": "✗"}


class Gate(ipywidgets.VBox, Follower):
    """A figure behind a guess: closed until the question is answered. Stored, it is the figure."""

    def __init__(self, question: Question, figure: Any):
        self._question, self._figure = question, figure
        closed = HTML.plain("This figure opens when you have made your guess, in the card above.")
        super().__init__([Card(html=closed, state="not yet")])
        self.follow("guesses", self._open_after_guess)

    def _open_after_guess(self):
        if self._question.name in RECORD.guesses:
            self.children = [getattr(self._figure, "panel", self._figure)]

    def _repr_mimebundle_(self, **kwargs) -> Any:
        figure, about = self._figure._repr_mimebundle_()
        stored = {kind: data for kind, data in figure.items() if kind != LIVE}
        if MIME in stored:  # a page opens it by the question
            stored[MIME] |= {"gate": self._question.name}
        return bundle(self, super()._repr_mimebundle_(**kwargs), stored, about)


class Prediction(Card):
    """A question whose answer shows after a guess. `predict` makes it."""

    def __init__(self, question: Question):
        self._question = question
        super().__init__()
        self.folded = HTML.folded_question(question)
        options = "".join(f"\n  {place}. {option}" for place, option in enumerate(question.options, 1))
        self.words = f"A guess first: {question.asks}{options}"
        self.on_msg(self._on_message)
        self.follow("guesses", self._show_guess)

    def opens(self, figure: Any) -> Gate:
        """Keep a figure closed until the guess is made.

        Args:
            figure: An `Explorer`, or any widget that can be stored.

        Returns:
            A widget that shows the figure after the guess.
        """
        return Gate(self._question, figure)

    def for_page(self) -> dict[str, Any]:
        """The question, its answer, and the sureness of a blind guess."""
        return {"question": self._question._asdict() | {"sure": self._question.chance}}

    def _show_guess(self):
        question = self._question
        made = RECORD.guesses.get(question.name)
        if made is None:
            self.html = HTML.plain(question.asks)
            span = {name: getattr(question, name) for name in ("low", "high", "step", "unit")}
            asked = {"options": list(question.options)} if question.options else span
            self.form = asked | {"sure": question.chance, "button": "That is my guess"}
            return
        guess, right = made["guess"], made["right"]
        said = question.options[guess - 1] if question.options else f"{guess:.4g} {question.unit}"
        self.form, self.state = {}, "right" if right else "wrong"
        verdict = "right" if right else "not what happens"
        self.html = HTML.answered_question(question, MARKS[self.state], said, verdict)

    def _on_message(self, _widget, message, _buffers):
        question, guess, sure = self._question, message.get("guess"), message.get("sure")
        if question.allows(guess) and isinstance(sure, int | float) and 0 <= sure <= 100:
            RECORD.add_guess(question.name, guess, float(sure), bool(question.right(guess)))


def predict(question: str | Question) -> Prediction:
    """Ask for a guess, and show the answer only then.

    The guess is kept: a cell that runs again shows it again. `predict(...).opens(explorer)` keeps a figure closed, too.
    Without a kernel the answer is folded.

    Args:
        question: The name of a question of the course, or a `Question` of your own.

    Returns:
        A card.

    Raises:
        ValueError: No question has that name; the known ones are listed.

    Examples:
        >>> print(ef.predict("half the labels").words)
        A guess first: Take the model as it was at the very start, ... What happens to C?
          1. It shrinks: gradients that point against each other cancel.
          2. Nothing.
          3. It grows: wrong labels make large gradients.
    """
    own = isinstance(question, Question)
    return Prediction(question if own else _of_course("question", question, QUESTIONS))


def _of_course(argument: str, name: str, has: dict[str, Any]) -> Any:
    if not isinstance(name, str) or name not in has:
        known = ", ".join(has)
        raise ValueError(f"`{argument}` must be one of the course; got {name!r:.80}. It has: {known}.")
    return has[name]


class _VerdictCard(Card):
    """A verdict, and a button for the next hint."""

    def __init__(self, exercise: Exercise, verdict: Verdict):
        self._exercise, self._verdict = exercise, verdict
        super().__init__(state=verdict.state)
        self.words = f"{MARKS[verdict.state]} {exercise.name}: {verdict.says}\n{verdict.shows}".rstrip("\n")
        self.on_msg(self._on_message)
        self.follow("hints", self._show_hints)

    def _show_hints(self):
        count, hints = RECORD.hints.get(self._exercise.name, 0), self._exercise.hints
        self.html = HTML.verdict(MARKS[self.state], self._exercise.name, self._verdict, hints[:count])
        more = self.state != "right" and count < len(hints)
        self.form = {"button": f"hint {count + 1} of {len(hints)}"} if more else {}

    def _on_message(self, _widget, _message, _buffers):
        RECORD.add_hint(self._exercise.name, len(self._exercise.hints))


def check(answer: Any, exercise: str | None = None, *, seed: int = 0) -> Card:
    """Judge an answer: on random instances, by the mistakes that are known, by what must be true.

    It never raises, and what is written stays as it is. Each call of your function gets copies of its arguments, may
    print 3000 characters, and is stopped after 30 seconds, or by an interrupt; `exit()` only ends the call. Two things
    no check can stop: a loop that runs outside of Python (in a compiled `lax.while_loop`, or `sum(itertools.count())`),
    and what ends the whole process (`os._exit`, a crash), with all that the kernel knows. On Windows, and outside the
    main thread, there is no limit of time.

    Args:
        answer: Your function, with the name and the arguments of the stub.
        exercise: The exercise's name; None: that of the function.
        seed: Of the instances, and of the numbers of `given`; a teacher can give each student another.

    Returns:
        A card with the verdict, and a button for hints.

    Examples:
        >>> def mean_gradient(G):
        ...     return G.sum(axis=0)
        >>> print(ef.check(mean_gradient).words)
        ✗ mean_gradient: 1/n is missing: this is the sum of the gradients.
    """

    def read():
        number = operator.index(seed)
        np.random.default_rng(number)
        return f"{exercise or getattr(answer, '__name__', kind(answer))}", number

    with _exit_raises():
        try:
            name, seed = tried(read)
        except StoppedError as stopped:
            return plain(f"Nothing was checked: the name or the seed cannot be read. {stopped}", "stopped")
        if name not in EXERCISES:
            known = ", ".join(EXERCISES)
            return plain(f"There is no exercise named {legible(name, 80)}. There are: {known}.", "stopped")
        verdict = course.judge(EXERCISES[name], answer, seed)
        try:
            code = legible(tried(lambda: inspect.getsource(answer)), 100_000)
        except StoppedError:
            code = ""
    RECORD.add_attempt(name, verdict, seed, code)
    return _VerdictCard(EXERCISES[name], verdict)


@contextmanager
def _exit_raises() -> Iterator[None]:
    """Let `exit()` raise here, as in plain Python. In a kernel it does not, but ends it after the cell."""
    shell: Any = get_ipython()
    if shell is None:
        yield
        return
    shell.ask_exit = sys.exit
    try:
        yield
    finally:
        vars(shell).pop("ask_exit", None)


def given(exercise: str, *, seed: int = 0) -> dict[str, Any]:
    """Give the numbers of an exercise for pencil and paper; each seed gives others.

    Args:
        exercise: The exercise's name.
        seed: The one that you give to `check`.

    Returns:
        The numbers by name, as plain Python.

    Raises:
        ValueError: No exercise has that name; the known ones are listed.

    Examples:
        >>> ef.given("three_examples")
        {'G': [[2.0, 1.0], [0.0, -2.0], [-1.0, -3.0]], 'budget': 0.01}
    """
    return course.given(_of_course("exercise", exercise, EXERCISES), seed)


def guesses() -> Card:
    """Compare how often you guessed right with how sure you were. The card follows as more guesses are made.

    Returns:
        A card.

    Examples:
        >>> print(ef.guesses().words)
        No guess yet. Make them in the cards above; this card follows.
    """
    card = Card()

    def show():
        card.words = RECORD.calibration
        card.html = HTML.plain(card.words)

    card.follow("guesses", show)
    return card


def lab_record(path: str | Path, *, name: str = "") -> Card:
    """Write guesses, attempts, hints and passed checks to a file, to keep or to hand in. Nothing is sent anywhere.

    Args:
        path: Ends in .html or .json.
        name: Yours, if you want it in the file.

    Returns:
        A card that says what was written.

    Raises:
        ValueError: Another ending.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(ef.lab_record(f"{folder}/record.html", name="Ada").words)
        record.html: 0 guesses, 0 exercises passed.
    """
    path = Path(path)
    RECORD.write(path, name)
    return plain(f"{path.name}: {len(RECORD.guesses)} guesses, {RECORD.passed} exercises passed.", "right")
