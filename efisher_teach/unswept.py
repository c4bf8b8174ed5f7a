"""No sweep for garbage while a reader waits."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer, current_thread
from time import sleep

QUIET = 0.5  # seconds without an answer: then a sweep may come
MOST = 10  # answers in a row without one: each leaves a figure to sweep


class _Held:
    """The state that all blocks share."""

    lock = Lock()
    inside = 0
    """Blocks that run."""
    answers = 0
    """Blocks since the last sweep that could come; 0 where sweeps are as the reader has them."""
    timer: Timer | None = None


@contextmanager
def unswept() -> Iterator[None]:
    """Let sweeps for cycles of garbage wait until the block has ended, and none has begun for a while.

    A whole sweep goes through all that JAX and matplotlib hold, a quarter of a second, as long as an answer takes; of
    a slider that is dragged, every third answer would be late.
    """
    with _Held.lock:
        ours = bool(_Held.answers) or gc.isenabled()  # else the reader lets none come
        _Held.inside += ours
        _Held.answers += ours
        if _Held.timer:
            _Held.timer.cancel()
        _Held.timer = None
        gc.disable()
    try:
        yield
    finally:
        sleep(0.002)  # what was said goes out by another thread, which a sweep would hold up
        with _Held.lock:
            _Held.inside -= ours
            if ours and not _Held.inside:
                _Held.timer = timer = Timer(0 if _Held.answers >= MOST else QUIET, _sweep)
                timer.daemon = True
                timer.start()


def _sweep() -> None:
    """Sweeps may come again, if no block has begun since."""
    with _Held.lock:
        if _Held.timer is current_thread():
            _Held.answers, _Held.timer = 0, None
            gc.enable()
