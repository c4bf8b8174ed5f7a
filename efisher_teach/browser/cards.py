"""Lessons: predict before you look, check what you wrote, a hint when you are stuck, and a record of all that.

Each is a card in the notebook: a widget where there is a kernel, folded HTML where there is none. What a learner did
is kept in `RECORD` as long as the kernel runs, so that a cell that runs again loses nothing. Nothing is sent anywhere.
"""

import inspect
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import jax
import traitlets

from efisher_teach.browser.rerun import settle
from efisher_teach.lessons import course
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, Exercise, Question

STATIC = Path(__file__).with_name("static")
LIVE = "application/vnd.jupyter.widget-view+json"
MARKS = {"right": "✓", "not yet": "…", "wrong": "✗", "stopped": "✗"}
PACKAGES = (
    "efisher_teach",
    "jax",
    "numpy",
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "jupyterlab",
    "notebook",
)

NO_WIDGETS = (
    "no answer yet. If this line stays, widgets do not run here: reload the page, run the cell again, or open it "
    "with `make lab` or on Binder. Pictures, words and folded answers need no widgets."
)


class Record(traitlets.HasTraits):
    """What the learner did since the kernel started."""

    guesses = traitlets.Dict()
    """By the question's name: the guess, how sure, whether right."""
    attempts = traitlets.Dict()
    """By the exercise's name: how often it was checked, the last verdict, the last code."""
    hints = traitlets.Dict()
    """By the exercise's name: how many were asked for."""


RECORD = Record()


class _Follower(ipywidgets.DOMWidget):
    """A widget that follows the record until it is closed, which a cell does to those of its earlier run."""

    def follow(self, part: str, react: Callable) -> None:
        """Call `react()` now, and whenever that part of the record changes."""
        self._followed = (lambda _: react(), part)
        RECORD.observe(*self._followed)
        settle(self)
        react()

    def close(self) -> None:
        """End the widget."""
        if followed := getattr(self, "_followed", None):
            RECORD.unobserve(*followed)
            self._followed = None
        super().close()


class Card(anywidget.AnyWidget, _Follower):
    """A piece of a lesson: safe HTML, and maybe a form. Its words are also its text and its HTML without a kernel."""

    _esm = STATIC / "lesson.js"
    _css = STATIC / "lesson.css"
    html = traitlets.Unicode().tag(sync=True)
    """What is shown. Whoever sets it has escaped what is not ours."""
    form = traitlets.Dict().tag(sync=True)
    """Empty, or what the browser asks: options or a range, and what stands on the button."""
    state = traitlets.Unicode().tag(sync=True)
    seen = traitlets.Dict().tag(sync=True)
    """What the browser tells: where it runs."""
    words = ""
    folded = ""

    def _repr_mimebundle_(self, **kwargs) -> Any:
        view: Any = super()._repr_mimebundle_(**kwargs)
        data, metadata = view if isinstance(view, tuple) else (view, {})
        stored = {"text/plain": self.words, "text/html": f"<div>{self.folded or self.html}</div>"}
        return data | stored, metadata


class Gate(ipywidgets.VBox, _Follower):
    """A figure behind a guess: closed until the question is answered. Stored, it is the figure."""

    def __init__(self, question: Question, figure: Any):
        self._question, self._figure = question, figure
        closed = "<p>This figure opens when you have made your guess, in the card above.</p>"
        super().__init__([Card(html=closed, state="not yet")])
        self.follow("guesses", self._look)

    def _look(self):
        if self._question.name in RECORD.guesses:
            self.children = [getattr(self._figure, "panel", self._figure)]

    def _repr_mimebundle_(self, **kwargs) -> Any:
        view: Any = super()._repr_mimebundle_(**kwargs)
        data, metadata = view if isinstance(view, tuple) else (view, {})
        figure, about = self._figure._repr_mimebundle_()
        return {**figure, LIVE: data[LIVE]}, metadata | about


class Prediction(Card):
    """A question whose answer shows after a guess. `predict` makes it."""

    def __init__(self, question: Question):
        self._question = question
        super().__init__()
        answer = f"<p>{_escape(question.because)}</p>"
        self._asked = f"<p>{_escape(question.asks)}</p>"
        choices = "".join(f"<li>{_escape(option)}</li>" for option in question.options)
        summary = "<summary>Make your guess, then open this.</summary>"
        self.folded = f"{self._asked}{choices and f'<ol>{choices}</ol>'}<details>{summary}{answer}</details>"
        options = "".join(f"\n  {place}. {option}" for place, option in enumerate(question.options, 1))
        self.words = f"A guess first: {question.asks}{options}"
        self.on_msg(self._told)
        self.follow("guesses", self._show)

    def opens(self, figure: Any) -> Gate:
        """Keep a figure closed until the guess is made.

        Args:
            figure: An `Explorer`, or any widget that can be stored.

        Returns:
            A widget that shows the figure after the guess.
        """
        return Gate(self._question, figure)

    def _show(self):
        guess = RECORD.guesses.get(self._question.name)
        question = self._question
        if guess is None:
            self.html = self._asked
            kind = {"options": list(question.options)} if question.options else _range(question)
            self.form = kind | {"sure": question.chance, "button": "That is my guess"}
            return
        said = (
            question.options[guess["guess"] - 1]
            if question.options
            else f"{guess['guess']:.4g} {question.unit}"
        )
        verdict = "right" if guess["right"] else "not what happens"
        self.form = {}
        self.state = "right" if guess["right"] else "wrong"
        head = f"<p><strong>{MARKS[self.state]} Your guess, “{_escape(said)}”, is {verdict}.</strong></p>"
        self.html = f"{self._asked}{head}<p>{_escape(question.because)}</p>"

    def _told(self, _widget, message, _buffers):
        name, question = self._question.name, self._question
        if name in RECORD.guesses or "guess" not in message:
            return
        value = message["guess"]
        right = value == question.answer if question.options else question.near(float(value))
        guess = {"guess": value, "sure": float(message["sure"]), "right": bool(right)}
        RECORD.guesses = RECORD.guesses | {name: guess}


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
    if isinstance(question, str):
        if question not in QUESTIONS:
            known = ", ".join(QUESTIONS)
            raise ValueError(
                f"`question` must be a question of the course; got '{question}'. It has: {known}."
            )
        question = QUESTIONS[question]
    return Prediction(question)


class _Checked(Card):
    """A verdict, with hints by a button."""

    def __init__(self, exercise: Exercise, head: str, words: str, state: str = ""):
        self._exercise, self._head = exercise, head
        super().__init__(state=state)
        self.words = words
        self.on_msg(self._told)
        self.follow("hints", self._show)

    def _show(self):
        given, hints = RECORD.hints.get(self._exercise.name, 0), self._exercise.hints
        self.html = self._head + "".join(
            f"<p><em>Hint {place}:</em> {_escape(hint)}</p>" for place, hint in enumerate(hints[:given], 1)
        )
        more = self.state != "right" and given < len(hints)
        self.form = {"button": f"hint {given + 1} of {len(hints)}"} if more else {}

    def _told(self, _widget, message, _buffers):
        if "more" in message:
            _one_more(self._exercise)


def check(answer: Any, exercise: str | None = None, *, seed: int = 0) -> Card:
    """Judge an answer: on random instances, by the mistakes that are known, by what must be true.

    It never raises, and what is written stays as it is.

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
    name = exercise or getattr(answer, "__name__", type(answer).__name__)
    if name not in EXERCISES:
        return _plain(f"There is no exercise named {name}. There are: {', '.join(EXERCISES)}.", "stopped")
    found = EXERCISES[name]
    verdict = course.judge(found, answer, seed)
    before = RECORD.attempts.get(name, {"tries": 0, "passed": False})
    RECORD.attempts = RECORD.attempts | {
        name: {
            "tries": before["tries"] + (verdict.state != "not yet"),
            "state": verdict.state,
            "says": verdict.says,
            "seed": seed,
            "passed": before["passed"] or verdict.state == "right",
            "code": _code(answer),
        }
    }
    shows = f"<pre>{escape(verdict.shows)}</pre>" if verdict.shows else ""
    head = f"<p><strong>{MARKS[verdict.state]} {name}</strong>: {_escape(verdict.says)}</p>{shows}"
    words = f"{MARKS[verdict.state]} {name}: {verdict.says}" + f"\n{verdict.shows}" * bool(verdict.shows)
    return _Checked(found, head, words, verdict.state)


def hint(exercise: str) -> Card:
    """Show one hint more; there are three, and the last nearly says it.

    Args:
        exercise: The exercise's name.

    Returns:
        A card with the hints so far.

    Examples:
        >>> print(ef.hint("mean_gradient").words)
        Hint 1: G has one row for each example. Over which axis is the mean?
    """
    if exercise not in EXERCISES:
        return _plain(f"There is no exercise named {exercise}. There are: {', '.join(EXERCISES)}.", "stopped")
    found = EXERCISES[exercise]
    _one_more(found)
    given = found.hints[: RECORD.hints[exercise]]
    words = "\n".join(f"Hint {place}: {each}" for place, each in enumerate(given, 1))
    return _Checked(found, f"<p><strong>{exercise}</strong></p>", words)


def given(exercise: str, *, seed: int = 0) -> dict[str, Any]:
    """The numbers of an exercise for pencil and paper; each seed gives others.

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
    if exercise not in EXERCISES:
        raise ValueError(
            f"`exercise` must be one of the course; got '{exercise}'. It has: {', '.join(EXERCISES)}."
        )
    return course.given(EXERCISES[exercise], seed)


def guesses() -> Card:
    """How good the guesses of this notebook were, and how sure they were. It follows as more are made.

    Returns:
        A card.

    Examples:
        >>> print(ef.guesses().words)
        No guess yet. Make them in the cards above; this card follows.
    """
    card = Card()

    def show():
        card.words = _calibration([*RECORD.guesses.values()])
        card.html = f"<p>{_escape(card.words)}</p>"

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
    kept = {
        "name": name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "efisher_teach": version("efisher_teach"),
        "guesses": RECORD.guesses,
        "attempts": RECORD.attempts,
        "hints": RECORD.hints,
    }
    if path.suffix == ".json":
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".html":
        path.write_text(_as_page(kept), encoding="utf-8")
    else:
        raise ValueError(f"`path` must end in .html or .json; got '{path.name}'. Rename the file.")
    passed = sum(attempt["passed"] for attempt in RECORD.attempts.values())
    return _plain(f"{path.name}: {len(RECORD.guesses)} guesses, {passed} exercises passed.", "right")


def environment() -> Card:
    """Versions, device and front end, whether widgets work, and what to do if they do not.

    Returns:
        A card; the browser adds what it sees.

    Examples:
        >>> print(ef.environment().words)
        Python: 3...
        jax: 0...
        computes on: ...
    """
    rows = {"Python": platform.python_version(), "system": platform.system()}
    for package in PACKAGES:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed here; the front end may bring its own"
    rows["computes on"] = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    card = Card()

    def show(_=None):
        last = {"widgets": f"they run, in {card.seen['front end']}" if card.seen else NO_WIDGETS}
        lines = "".join(
            f"<tr><th>{escape(key)}</th><td>{_escape(value)}</td></tr>"
            for key, value in (rows | last).items()
        )
        card.html = f"<table>{lines}</table>"

    card.observe(show, "seen")
    card.words = "\n".join(f"{key}: {value}" for key, value in rows.items())
    card.state = "right"
    show()
    return card


def _one_more(exercise):
    more = min(RECORD.hints.get(exercise.name, 0) + 1, len(exercise.hints))
    RECORD.hints = RECORD.hints | {exercise.name: more}


def _plain(words, state):
    card = Card(html=f"<p>{_escape(words)}</p>", state=state)
    card.words = words
    return card


def _escape(text):
    """HTML of a sentence; what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _range(question):
    return {"low": question.low, "high": question.high, "step": question.step, "unit": question.unit}


def _code(answer):
    try:
        return inspect.getsource(answer)
    except (OSError, TypeError):
        return ""


def _calibration(made):
    """One sentence on how right the guesses were, beside how sure they were."""
    if not made:
        return "No guess yet. Make them in the cards above; this card follows."
    right, sure = sum(guess["right"] for guess in made), sum(guess["sure"] for guess in made) / len(made)
    share = 100 * right / len(made)
    word = "about as sure as right"
    if abs(sure - share) > 20:
        word = (
            "surer than right: look once more where you were sure"
            if sure > share
            else "better than you thought"
        )
    return (
        f"{right} of {len(made)} guesses right, {share:.0f} %; you were {sure:.0f} % sure on average: {word}."
    )


def _as_page(kept):
    def table(entries, columns):
        head = "".join(f"<th>{column}</th>" for column in ("", *columns))
        lines = (
            f"<tr><th>{escape(name)}</th>"
            + "".join(f"<td><pre>{escape(str(entry.get(column, '')))}</pre></td>" for column in columns)
            + "</tr>"
            for name, entry in entries.items()
        )
        return f"<table><tr>{head}</tr>{''.join(lines)}</table>"

    hinted = {name: entry | {"hints": kept["hints"].get(name, 0)} for name, entry in kept["attempts"].items()}
    title = f"Lab record{', ' if kept['name'] else ''}{escape(kept['name'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:70em;margin:2em auto}td,th{text-align:left;vertical-align:top;"
        "padding:.2em .8em .2em 0}pre{margin:0;white-space:pre-wrap}</style>"
        f"<h1>{title}</h1><p>{kept['written']}, efisher_teach {kept['efisher_teach']}</p>"
        f"<h2>Guesses</h2>{table(kept['guesses'], ('guess', 'sure', 'right'))}"
        f"<p>{escape(_calibration([*kept['guesses'].values()]))}</p>"
        f"<h2>Exercises</h2>{table(hinted, ('passed', 'tries', 'hints', 'seed', 'says', 'code'))}</html>"
    )
