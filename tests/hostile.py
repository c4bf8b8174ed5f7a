"""Answers that nobody foresaw: things, each in every wrapper, and deeds."""

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np


def boom(*_, **__):
    raise RuntimeError("\ud800 " + "boom " * 1000)


def evil(base):
    """An object whose every method raises, and whose class is a lie."""
    return type("Evil" * 2000, (base,), dict.fromkeys(SPECIAL, boom) | {"__class__": property(boom)})()


BASES = (object, str, float, int, list, tuple, dict, set, ValueError, SystemExit)
SPECIAL = {name for base in (*BASES, np.ndarray, print) for name in dir(base) if name.startswith("__")}
SPECIAL -= {"__new__", "__init__", "__init_subclass__", "__class__", "__dict__", "__qualname__"}
Meta = type("Meta", (type,), {"__name__": property(boom), "__getattribute__": boom, "__hash__": boom})
Endless = type("Endless", (list,), {"__iter__": lambda _: itertools.count()})
DELETED, LEAKED, CIRCLE = jnp.ones(2), [], [1.0]
DELETED.delete()
jax.make_jaxpr(lambda x: LEAKED.append(x) or x)(1.0)
CIRCLE.append(CIRCLE)
DEEP = reduce(lambda inner, _: [inner], range(10_000), [])
THINGS = [*map(evil, BASES), Meta("M", (), {}), Meta("M", (), {})(), DELETED, *LEAKED, CIRCLE, DEEP, object]
THINGS += [10**400, float("nan"), -float("inf"), 5j, "3", b"3", "7" * 10**6, "\ud800<script>", {1}, Endless()]
THINGS += [itertools.count(), np.broadcast_to(1.0, (10**6, 10**6)), np.zeros((1,) * 30), np.zeros(2, "i4,f4")]
THINGS += [np.ma.masked, np.array([True]), np.array(["a"]), np.zeros(2, "M8[Y]"), jax.random.key(0)]
THINGS += [jnp.ones(2, complex), Decimal("sNaN"), Fraction(10**400), RuntimeError("a" * 10**6)]


def raising(thing):
    raise thing if issubclass(type(thing), BaseException) else ValueError(thing)


def harming(arguments, thing):
    """Empty and delete what was given."""
    for each in (*arguments, *jax.tree.leaves(arguments)):
        getattr(each, "clear" if isinstance(each, list) else "delete", dict)()
    return thing


FIELDS = ("n", "p", "rank", "rho", "C", "g", "delta")
WRAPPERS = [lambda thing: thing, lambda thing: lambda *_: thing, lambda thing: lambda *_: [thing, thing]]
WRAPPERS += [lambda thing: lambda *_: dict.fromkeys(FIELDS, thing), lambda thing: lambda *_: raising(thing)]
WRAPPERS += [lambda thing: lambda *_: (thing for _ in "a"), lambda thing: lambda *_: harming(_, thing)]
WRAPPERS += [lambda thing: type("As", (), {"__call__": len, "__wrapped__": thing, "__signature__": thing})()]


async def awaited(*_):
    """Give a coroutine."""


def stubborn(*_):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0)


DEEDS = [awaited, stubborn, print, max, type, Endless, lambda *_: [print(_) for _ in itertools.count()]]
DEEDS += [lambda *_: time.sleep(60), lambda *_: next(iter(())), lambda *_: exit(), lambda *_: sys.exit(0)]
DEEDS += [lambda *_: sys.stdout.close(), lambda *_: threading.Thread(target=str).start()]
DEEDS += [lambda *_: raising(asyncio.CancelledError()), lambda *_: sys.setrecursionlimit(150)]
ANSWERS = [wrap(thing) for wrap in WRAPPERS for thing in THINGS] + DEEDS
