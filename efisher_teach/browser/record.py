"""The record of a learner's guesses, attempts and hints. It lives as long as the kernel, and is sent nowhere."""

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import traitlets

from efisher_teach.browser.page import TEMPLATES


class Record(traitlets.HasTraits):
    """Everything that a learner did since the kernel started."""

    guesses = traitlets.Dict()
    """By the question's name: the guess, how sure, whether right."""
    attempts = traitlets.Dict()
    """By the exercise's name: how often it was checked, the last verdict, the last code."""
    hints = traitlets.Dict()
    """By the exercise's name: how many were asked for."""

    def clear(self) -> None:
        """Forget everything, as a new kernel does."""
        self.guesses = self.attempts = self.hints = {}

    def add_guess(self, question: str, guess: float | int, sure: float, right: bool) -> None:
        """Keep a guess; the first one to a question stays."""
        self.guesses = {question: {"guess": guess, "sure": sure, "right": right}} | self.guesses

    def add_attempt(self, exercise: str, verdict: Any, seed: int, code: str) -> None:
        """Keep an attempt in place of the one before. An exercise that was passed stays passed; stubs do not count."""
        before = self.attempts.get(exercise, {"tries": 0, "passed": False})
        attempt = {
            "tries": before["tries"] + (verdict.state != "not yet"),
            "state": verdict.state,
            "says": verdict.says,
            "seed": seed,
            "passed": before["passed"] or verdict.state == "right",
            "code": code,
        }
        self.attempts = self.attempts | {exercise: attempt}

    def add_hint(self, exercise: str, most: int) -> None:
        """Count one more hint of an exercise that has `most`."""
        self.hints = self.hints | {exercise: min(self.hints.get(exercise, 0) + 1, most)}

    @property
    def passed(self) -> int:
        """The number of exercises passed."""
        return sum(attempt["passed"] for attempt in self.attempts.values())

    @property
    def calibration(self) -> str:
        """One sentence on how right the guesses were, beside how sure the learner was of them."""
        made = self.guesses.values()
        if not made:
            return "No guess yet. Make them in the cards above; this card follows."
        right, sure = sum(guess["right"] for guess in made), sum(guess["sure"] for guess in made) / len(made)
        share = 100 * right / len(made)
        judgement = "about as sure as right"
        if sure > share + 20:
            judgement = "surer than right: look once more where you were sure"
        elif sure < share - 20:
            judgement = "better than you thought"
        counted = f"{right} of {len(made)} guesses right, {share:.0f} %"
        return f"{counted}; you were {sure:.0f} % sure on average: {judgement}."

    def write(self, path: Path, name: str) -> None:
        """Write the record, with the learner's name, as .html or .json.

        Raises:
            ValueError: Another ending, or a folder that does not exist.
        """
        if not path.parent.is_dir():
            raise ValueError(f"`path` must be in a folder that exists; got '{path}'. Make the folder first.")
        if path.suffix not in (".html", ".json"):
            raise ValueError(f"`path` must end in .html or .json; got '{path.name}'. Rename the file.")
        written = datetime.now(UTC).isoformat(timespec="seconds")
        kept = {"name": name, "written": written, "efisher_teach": version("efisher_teach")}
        kept |= self.trait_values()
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        if path.suffix == ".html":
            page = TEMPLATES.get_template("record.html")
            text = page.render(kept, record=kept, calibration=self.calibration)
        write_whole(path, text)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside, then put it in the place of the old one: whatever fails, one of the two is whole."""
    path = path.resolve()  # a link stays a link
    beside = path.with_name(path.name + ".new")
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    try:
        beside.write_bytes(raw)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


RECORD = Record()
