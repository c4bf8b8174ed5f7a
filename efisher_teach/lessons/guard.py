"""The one place that touches what a learner gives: it may raise, leave, print without end, never end, or be anything.

`tried` lets foreign code run, `plain` reads what it gave, and all that comes back from either is safe to touch.
"""

import inspect
import linecache
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np

SECONDS = 30.0  # for one call
MOST = 3000  # characters of a text, and of what one call prints
PARTS, DEPTH = 100_000, 20  # of an answer: numbers, and lists in lists


class OutOfTime(BaseException):
    """Raised in a call that does not end. No `except Exception` in it catches this."""


class StoppedError(Exception):
    """Foreign code raised, left, or did not end; the words say which, and in what line."""


def tried(touch: Callable[[], Any], answer: Any = None) -> Any:
    """Return `touch()`, in which something foreign runs: it may take and print so much, and leaves in one way.

    Time runs out in the main thread and where the system has the signal (not on Windows), between two operations of
    Python: a loop that is compiled, by JAX or in C, is not ended by this, nor by an interrupt.

    Args:
        touch: What is done.
        answer: The learner's function, whose line is named.

    Raises:
        StoppedError: Whatever it was.
    """
    try:
        return _limited(touch)
    except BaseException as raised:
        error, says = raised, f"It stopped with {kind(raised)}."
    with suppress(BaseException):  # of an error that cannot even be printed the type says enough
        says = _limited(lambda: _what_stopped(error, answer))
    raise StoppedError(legible(says))


def _limited(touch):
    out: Any = _Shortened(sys.stdout)
    errors: Any = _Shortened(sys.stderr)
    deepest = sys.getrecursionlimit()
    try:
        with redirect_stdout(out), redirect_stderr(errors), _alarm():
            return _inside(touch)
    finally:
        sys.setrecursionlimit(deepest)


def _inside(touch):
    """Time runs out below this call, and nowhere else: not where the limits are being lifted."""
    return touch()


def _end(_signal, frame):
    while frame:
        if frame.f_code.co_name == "_inside" and frame.f_globals is globals():
            raise OutOfTime
        frame = frame.f_back


@contextmanager
def _alarm():
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _end)
    timer = signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.05)  # again and again: code may catch the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *timer)


class _Shortened:
    """A stream that passes on its first characters."""

    def __init__(self, stream):
        self._stream, self._room = stream, MOST

    def write(self, text):
        if self._stream and self._room > 0:
            rest = " … and more\n" if len(text) > self._room else ""
            self._stream.write(text[: self._room] + rest)
            self._room -= len(text)
        return len(text)

    def close(self):
        """Stay open: the stream behind it is everybody's."""

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _what_stopped(error, answer):
    """Put an error into words, with the line of the learner's code that raised it."""
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted."
    if isinstance(error, OutOfTime):
        return f"It did not end within {SECONDS:g} seconds."
    file: Any = getattr(getattr(inspect.unwrap(answer), "__code__", None), "co_filename", None)
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    code = linecache.getline(file, lines[-1]).strip() if lines else ""
    said = str(error).strip().splitlines()
    where = f" In line {lines[-1]}: {code[:200]}" if code else ""
    return f"It stopped with {kind(error)}: {said[0][:300].rstrip('.') if said else 'no message'}.{where}"


class Strange:
    """An answer, or a part of one, that `plain` cannot read, by its kind."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        """Say what it was."""
        return f"of type {self.kind}"


def kind(thing: Any) -> str:
    """The name of a thing's type, or of its numbers'. Nothing foreign runs: not of the thing, nor of its type."""
    if type(thing) is Strange:
        return thing.kind
    name = type.__dict__["__name__"].__get__(type(thing))
    return str(thing.dtype) if type(thing) is np.ndarray else str.__str__(name)


def plain(got: Any) -> Any:
    """Read an answer into fresh parts that are safe to touch.

    These are words, arrays of floats or of bools, None, `...`, and lists and dictionaries of them. A tuple becomes a
    list, and a list of equal arrays one array. What cannot be read comes as a `Strange`.
    """
    if type(got) is Strange:
        return got
    try:
        return _parts(got, iter(range(PARTS)), DEPTH)
    except Exception as error:
        said = f": {error}".splitlines()[0][:200]
        return Strange(f"{kind(got)} ({kind(error)}{said})")


def _parts(got, left, depth):
    if not depth or next(left, None) is None:
        raise ValueError(f"more than {PARTS} parts, or lists in lists deeper than {DEPTH}")
    if got is None or got is ...:
        return got
    if isinstance(got, str):
        return str.__str__(got)
    if isinstance(got, dict):
        return {_parts(name, left, depth - 1): _parts(part, left, depth - 1) for name, part in got.items()}
    if isinstance(got, list | tuple):
        parts = [_parts(part, left, depth - 1) for part in got]
        alike = {(part.shape, part.dtype) if isinstance(part, np.ndarray) else None for part in parts}
        return np.array(parts) if len(alike) == 1 and None not in alike else parts
    array = np.asarray(got)
    if array.size > PARTS:
        raise ValueError(f"its shape is {array.shape}, more than {PARTS} numbers")
    real = array.dtype.kind in "biuf" or jnp.issubdtype(array.dtype, jnp.floating)
    if array.dtype == object:
        real = all(isinstance(each, Real) and not isinstance(each, bool) for each in array.flat)
    if real and not np.ma.is_masked(got):
        return array.astype(bool if array.dtype == bool else float)
    return Strange(kind(got) if array.dtype == object else f"{kind(got)} of {array.dtype}")


def legible(text: str, most: int = MOST) -> str:
    """A text that every browser and file can take, of bounded length."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else text[:most] + " …"
