"""Judging an answer: on random instances, by properties, and by the mistakes that are known.

The learner's function runs on instances of growing size. Where it fails, the verdict names the known mistake that gives
exactly the same answers, or else shows the smallest instance on which it fails.
"""

import inspect
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from efisher_teach.lessons.exercise import Exercise
from efisher_teach.lessons.guard import StoppedError, Strange, kind, legible, plain, tried

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
    """Run an answer on random instances (or on the numbers of `given`) and on properties, and name the mistake.

    Whatever the learner's function does, this does not raise.
    """
    try:
        with _settings():
            verdict = _judged(exercise, answer, seed)
    except StoppedError as stopped:
        verdict = Verdict("stopped", str(stopped))
    except KeyboardInterrupt:
        verdict = Verdict("stopped", "It was interrupted.")
    except BaseException as error:  # our own code, in a session that has changed what it stands on
        says = f"The check itself stopped with {kind(error)}: restart the kernel"
        verdict = Verdict("stopped", f"{says}, and run the cells above again.")
    return Verdict(verdict.state, legible(verdict.says), legible(verdict.shows))


@contextmanager
def _settings():
    """Let our own code run as it was written, whatever the session has set."""
    kinds, ranks = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.debug_nans(False), jax.debug_infs(False), kinds, ranks, np.errstate(all="ignore"):
        yield


class _Case(NamedTuple):
    """An instance, also as NumPy has it, what is expected (None if `accepts` decides), and what came.

    Our own answers are computed in NumPy: JAX would compile a program for each of their operations and shapes.
    """

    arguments: tuple
    known: tuple
    expected: Any
    got: Any = None


def _judged(exercise, answer, seed):
    if not callable(answer):
        return Verdict("wrong", f"{exercise.name} must be a function; this is of type {kind(answer)}.")
    if names := tried(lambda: _other_arguments(exercise, answer)):
        asked = ", ".join(exercise.arguments)
        return Verdict("wrong", f"{exercise.name} takes ({asked}); yours takes ({names}).")
    ask = partial(_ask, answer)
    rng = np.random.default_rng(seed)
    cases = []
    for size in range(1 if exercise.by_hand else SIZES):  # one by one: a stub needs no solution but the first
        instance = exercise.draw(rng, size)
        known = tuple(map(_in_numpy, instance))
        case = _Case(instance, known, None if exercise.accepts else exercise.solution(*known))
        try:
            got = ask(*([] if exercise.by_hand else instance))
        except StoppedError as stopped:
            return Verdict("stopped", str(stopped), _shown(exercise, case))
        if _unfinished(got):
            return Verdict("not yet", "Write it where the stub has `...`, and run the cell again.")
        cases.append(case._replace(got=got))
    for case in cases:
        if trouble := _trouble(exercise, case):
            return _why(exercise, cases, case, trouble)
    for sentence, sides in exercise.properties.items():
        true = f"Right on {SIZES} instances, but this must be true"
        try:
            if not all(_agree(sides, ask, case.arguments) for case in cases):
                return Verdict("wrong", f"{true}, and is not: {sentence}")
        except StoppedError as stopped:
            return Verdict("stopped", f"{true}: {sentence} {stopped}")
    if exercise.arguments:
        also = "".join(f" Also, {sentence}" for sentence in exercise.properties)
        return Verdict("right", f"Right, on {SIZES} instances.{also}")
    return Verdict("right", "Right.")


def _in_numpy(thing):
    if isinstance(thing, list | tuple):
        return type(thing)(map(_in_numpy, thing))
    return np.asarray(thing) if isinstance(thing, jax.Array) else thing


def _ask(answer, *arguments):
    """Call the answer, each time on copies of its own."""
    copies = deepcopy(arguments)
    return tried(lambda: plain(answer(*copies)), answer)


def _agree(sides, ask, arguments):
    """Compare the two sides of a property."""
    try:
        return not differs(*map(plain, sides(ask, *arguments)))
    except StoppedError:
        raise
    except Exception:  # right on the instances, and of another kind or shape here
        return False


def _why(exercise, cases, case, trouble):
    """Name the known mistake that gives the same answers; else show the smallest counterexample."""
    shown = _shown(exercise, case, trouble)
    if exercise.bug and not any(differs(each.got, exercise.bug(*each.arguments)) for each in cases):
        return Verdict("not yet", SAME, shown)
    wrong = [(exercise.mistakes(*each.known), each.got) for each in cases]
    for says in wrong[0][0]:
        if not any(differs(got, answers[says]) for answers, got in wrong):
            return Verdict("wrong", says)
    return Verdict("wrong", "Not yet right. The smallest case where it fails:", shown)


def _trouble(exercise, case):
    """Say what is wrong with an answer; "" if nothing is."""
    if not exercise.accepts:
        return differs(case.got, case.expected)
    if isinstance(case.got, Strange):
        return f"it cannot be read: it is {case.got}"
    try:
        verdict = exercise.accepts(case.got, *case.arguments)
    except Exception as error:  # of a wrong shape, or of a kind that nobody thought of
        return f"it cannot be read: {error}"
    return "" if verdict is True else str(verdict or "it is not what was asked for")


def differs(got: Any, expected: Any) -> str:
    """Describe the first difference between an answer, as `plain` reads it, and the right one; "" if there is none."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"a dictionary with {', '.join(map(repr, expected))} is expected"
        parts = {f"{name!r}": (got[name], value) for name, value in expected.items()}
    elif isinstance(expected, tuple):
        if isinstance(got, np.ndarray) and got.ndim:
            got = list(map(np.asarray, got))
        if not isinstance(got, list) or len(got) != len(expected):
            return f"{len(expected)} things are expected, separated by commas"
        parts = {f"number {place}": pair for place, pair in enumerate(zip(got, expected, strict=True), 1)}
    elif isinstance(expected, str):
        return "" if isinstance(got, str) and got == expected else f"{expected!r} is expected"
    else:
        return _array_differs(got, np.asarray(expected))
    found = ((name, differs(*pair)) for name, pair in parts.items())
    return next((f"{name}: {trouble}" for name, trouble in found if trouble), "")


def _array_differs(got, expected):
    logical = expected.dtype == bool
    if not isinstance(got, np.ndarray) or (got.dtype == bool) != logical:
        wanted = "True or False is" if logical else "numbers are"
        return f"{wanted} expected, this is of type {kind(got)}"
    got, expected = got.astype(float), expected.astype(float)
    if got.shape != expected.shape:
        return f"its shape is {got.shape}, {expected.shape} is expected"
    if np.isfinite(expected).all() and not np.isfinite(got).all():
        return "it is not finite"
    atol = TOLERANCE * max(float(np.abs(expected[np.isfinite(expected)]).max(initial=0)), 1e-6)
    return "" if np.allclose(got, expected, rtol=0, atol=atol, equal_nan=True) else "the numbers differ"


def _unfinished(got):
    """Find out whether something is missing in what came: nothing was returned, or an ellipsis."""
    parts = got.values() if isinstance(got, dict) else got if isinstance(got, list) else ()
    return got is None or got is ... or any(map(_unfinished, parts))


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


def _shown(exercise, case, trouble=""):
    """Write an instance, and the answer to it and what is expected where there is trouble, as text."""
    shown = {} if exercise.by_hand else dict(zip(exercise.arguments, case.arguments, strict=True))
    lines = [_named(f"{name} = ", value) for name, value in shown.items()]
    if trouble:
        lines += [_named("yours: ", case.got), trouble]
        if not exercise.accepts and not exercise.by_hand and not exercise.bug:
            lines.append(_named("expected: ", case.expected))
    return "\n".join(lines)


def _named(name, value):
    return name + _text(value).replace("\n", "\n" + " " * len(name))


def _text(value):
    """Write a value in a few rounded lines."""
    if callable(value):
        return value.__name__
    value = plain(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(part)}" for name, part in list(value.items())[:20]) + "}"
    if isinstance(value, list):
        return ",\n".join(map(_text, value[:20]))
    if not isinstance(value, np.ndarray):
        return repr(value[:200] if isinstance(value, str) else value)
    if not value.ndim:
        return str(value) if value.dtype == bool else f"{float(value):.4g}"
    if value.ndim > 3:
        return f"of shape {value.shape}"
    short = {"precision": 3, "suppress_small": True, "threshold": 30, "edgeitems": 2}
    return np.array2string(value + 0.0, separator=", ", **short)
