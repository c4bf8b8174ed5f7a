"""Judging an answer: on random instances, by properties, and by the mistakes that are known.

The learner's function runs on instances of growing size. Where it fails, the verdict names the known mistake that gives
exactly the same answers, or else shows the smallest instance on which it fails.
"""

import inspect
import traceback
from typing import Any, NamedTuple

import numpy as np

from efisher_teach.lessons.exercise import Exercise

SIZES = 5  # instances, of growing size
TOLERANCE = 2e-3  # relative: float32, and every reasonable way to compute it
SAME = "This is still the code of the stub."


class Verdict(NamedTuple):
    """The judgement of an answer."""

    state: str
    """ "right", "not yet", "wrong" or "stopped": it raised an error."""
    says: str
    shows: str = ""
    """The smallest instance on which it fails, or the line that stopped it."""


def judge(exercise: Exercise, answer: Any, seed: int = 0) -> Verdict:
    """Run an answer on random instances and on properties, and name the mistake.

    Args:
        exercise: What was asked.
        answer: The learner's function. Whatever it does, `judge` does not raise.
        seed: Of the instances; of the numbers, where the task is for pencil and paper.

    Returns:
        A `Verdict`.
    """
    if not callable(answer):
        return Verdict("wrong", f"{exercise.name} must be a function; this is a {type(answer).__name__}.")
    if names := _other_arguments(exercise, answer):
        asked = ", ".join(exercise.arguments)
        return Verdict("wrong", f"{exercise.name} takes ({asked}); yours takes ({names}).")
    rng = np.random.default_rng(seed)
    instances = [exercise.draw(rng, size) for size in range(1 if exercise.by_hand else SIZES)]
    seen = []
    for instance in instances:
        try:
            got = answer(*([] if exercise.by_hand else instance))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return Verdict("stopped", _what_stopped(error, answer), _shown(exercise, instance))
        if _unfinished(got):
            return Verdict("not yet", "Write it where the stub has `...`, and run the cell again.")
        seen.append((instance, got))
    for instance, got in seen:
        if trouble := _trouble(exercise, instance, got):
            return _why(exercise, seen, instance, got, trouble)
    for sentence, sides in exercise.properties.items():
        for instance in instances:
            if not _agree(sides, answer, instance):
                says = f"Right on {SIZES} instances, but this must be true, and is not: {sentence}"
                return Verdict("wrong", says)
    if exercise.arguments:
        also = "".join(f" Also, {sentence}" for sentence in exercise.properties)
        return Verdict("right", f"Right, on {SIZES} instances.{also}")
    return Verdict("right", "Right.")


def _agree(sides, answer, instance):
    """Compare the two sides of a property."""
    try:
        return not differs(*sides(answer, *instance))
    except Exception:  # it was right on the instances, and fails where the property calls it
        return False


def _why(exercise, seen, instance, got, trouble):
    """Name the known mistake that gives the same answers; else show the smallest counterexample."""
    shown = _shown(exercise, instance, got, trouble)
    if exercise.bug and not any(differs(given, exercise.bug(*arguments)) for arguments, given in seen):
        return Verdict("not yet", SAME, shown)
    wrong = [(exercise.mistakes(*arguments), given) for arguments, given in seen]
    for says in wrong[0][0]:
        if not any(differs(given, answers[says]) for answers, given in wrong):
            return Verdict("wrong", says)
    return Verdict("wrong", "Not yet right. The smallest case where it fails:", shown)


def _trouble(exercise, instance, got):
    """Say what is wrong with an answer; "" if nothing is."""
    if exercise.accepts:
        try:
            verdict = exercise.accepts(got, *instance)
        except Exception as error:  # of a wrong shape, or of a kind that nobody thought of
            return f"it cannot be read: {error}"
        return "" if verdict is True else str(verdict or "it is not what was asked for")
    return differs(got, exercise.solution(*instance))


def differs(got: Any, expected: Any) -> str:
    """Describe the first difference between an answer and the right one; "" if there is none."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"a dictionary with {', '.join(map(repr, expected))} is expected"
        parts = {f"{name!r}": (got[name], value) for name, value in expected.items()}
    elif isinstance(expected, tuple):
        if isinstance(got, str | dict) or not hasattr(got, "__len__") or len(got) != len(expected):
            return f"{len(expected)} things are expected, separated by commas"
        parts = {f"number {place}": pair for place, pair in enumerate(zip(got, expected, strict=True), 1)}
    elif isinstance(expected, str):
        return "" if isinstance(got, str) and got == expected else f"{expected!r} is expected"
    else:
        return _array_differs(got, expected)
    found = ((name, differs(*pair)) for name, pair in parts.items())
    return next((f"{name}: {trouble}" for name, trouble in found if trouble), "")


def _array_differs(got, expected):
    try:
        got = np.asarray(got, float)
    except (TypeError, ValueError):
        return f"numbers are expected, this is a {type(got).__name__}"
    expected = np.asarray(expected, float)
    if got.shape != expected.shape:
        return f"its shape is {got.shape}, {expected.shape} is expected"
    if np.isfinite(expected).all() and not np.isfinite(got).all():
        return "it is not finite"
    atol = TOLERANCE * max(float(np.abs(expected[np.isfinite(expected)]).max(initial=0)), 1e-6)
    return "" if np.allclose(got, expected, rtol=0, atol=atol, equal_nan=True) else "the numbers differ"


def _unfinished(got):
    """Find out whether something is missing: nothing was returned, or an ellipsis."""
    parts = got.values() if isinstance(got, dict) else got if isinstance(got, tuple | list) else (got,)
    return got is None or any(part is None or part is ... for part in parts)


def _other_arguments(exercise, answer):
    """List the learner's arguments where they are not those of the exercise; "" where they are."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # a function without a signature, such as a builtin
        return ""
    try:
        signature.bind(*exercise.arguments)
    except TypeError:
        return ", ".join(signature.parameters) or "nothing"
    return ""


def _what_stopped(error, answer):
    """Put an error into words, with the line of the learner's code that raised it."""
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted."
    file = getattr(getattr(inspect.unwrap(answer), "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" In line {frames[-1].lineno}: {frames[-1].line}" if frames and frames[-1].line else ""
    said = str(error).strip().splitlines()
    return f"It stopped with {type(error).__name__}: {said[0].rstrip('.') if said else 'no message'}.{where}"


def _shown(exercise, instance, got=None, trouble=""):
    """Write an instance, the answer to it and what is expected as text."""
    shown = {} if exercise.by_hand else dict(zip(exercise.arguments, instance, strict=True))
    lines = [_named(f"{name} = ", value) for name, value in shown.items()]
    if got is not None:
        lines += [_named("yours: ", got), trouble]
        if not exercise.accepts and not exercise.by_hand and not exercise.bug:
            lines.append(_named("expected: ", exercise.solution(*instance)))
    return "\n".join(lines)


def _named(name, value):
    return name + _text(value).replace("\n", "\n" + " " * len(name))


def _text(value):
    """Write a value in a few rounded lines."""
    if callable(value):
        return getattr(value, "__name__", "a function")
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(part)}" for name, part in value.items()) + "}"
    if isinstance(value, tuple | list) and any(np.ndim(part) for part in value):
        return ",\n".join(map(_text, value))
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        return repr(value)[:200]
    if not array.ndim:
        return f"{float(array):.4g}"
    short = {"precision": 3, "suppress_small": True, "threshold": 30, "edgeitems": 2}
    return np.array2string(array + 0.0, separator=", ", **short)
