"""No sweep for garbage while a reader waits."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep


@contextmanager
def unswept() -> Iterator[None]:
    """Let sweeps for cycles of garbage wait until the block has ended.

    A whole sweep goes through all that JAX and matplotlib hold, a quarter of a second, as long as an answer takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            sleep(0.002)  # what was said goes out by another thread, which a sweep would hold up
            gc.enable()
