"""Questions: guesses that a learner makes before anything is shown. Each stands with the exercises of its notebook."""

from math import isclose
from typing import Any, NamedTuple

QUESTIONS: "dict[str, Question]" = {}


class Question(NamedTuple):
    """A guess to make: one of some options, or a number in a range."""

    name: str
    asks: str
    because: str
    """The answer, and why. Unicode, no LaTeX: it stands in a widget."""
    options: tuple[str, ...] = ()
    answer: float = 0
    """The number of the right option, from 1; or the number asked for."""
    low: float = 0
    high: float = 100
    step: float = 1
    unit: str = ""
    within: float = 0
    """A number this far from the answer still counts as right."""

    @property
    def chance(self) -> int:
        """The sureness, in %, of a reader who knows nothing."""
        return round(100 / len(self.options)) if self.options else 0

    def allows(self, guess: Any) -> bool:
        """True if it can be a guess: the number of an option, or a number in the range."""
        if self.options:
            return guess in range(1, len(self.options) + 1)
        return isinstance(guess, int | float) and self.low <= guess <= self.high

    def right(self, guess: float | int) -> bool:
        """True if it is the right option, or a number near enough."""
        if self.options:
            return guess == self.answer
        return abs(guess - self.answer) <= self.within or isclose(guess, self.answer)


def ask(name: str, asks: str, *options: str, because: str, **about: Any) -> Question:
    """Put a question into `QUESTIONS`; the arguments are the fields of `Question`."""
    if name in QUESTIONS:
        raise ValueError(f"There are two questions named {name}: rename one.")
    QUESTIONS[name] = Question(name, asks, because, options, **about)
    return QUESTIONS[name]
