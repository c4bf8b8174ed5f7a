"""Time several ways to the same step in one process, in turns. NumPy alone, so that every framework's process has it.

In each round all ways take their turn, in an order by chance, so that all see the same machine. *First call* has
everything that is compiled. *Memory* is how far the resident memory rises above its level before, at its peak, during
one more call (VmHWM, reset before). *Error* is ‖u − u*‖/‖u*‖ of the direction, with u* from a float64 dual in NumPy:
by backpropagation by hand and dense G.
"""

import ctypes
import datetime
import gc
import json
import os
import random
import re
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DAMPING = 1e-3
PATIENCE = 4.0  # seconds that a way may take in all; one that is slower is called once more only


class Case(NamedTuple):
    """A tanh network with softmax cross-entropy, and its data, in float32."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    """W (inputs, outputs) and b (outputs,) of each layer."""
    x: np.ndarray
    y: np.ndarray


class Way(NamedTuple):
    """One way to the step."""

    call: Callable[[], Any]
    """All of it; returns when it is done."""
    direction: Callable[[Any], list[np.ndarray]] | None = None
    """From what `call` returned to u: W and b of each layer, as in a `Case`. None for a gradient."""


def make_case(widths: tuple[int, ...], n: int) -> Case:
    """The same numbers in every process."""
    rng = np.random.RandomState(0)  # not default_rng: this stream is frozen for all versions of NumPy

    def normal(*shape, size=1.0):
        return (size * rng.standard_normal(shape)).astype(np.float32)

    layers = [(normal(a, b, size=a**-0.5), normal(b, size=0.1)) for a, b in pairwise(widths)]
    return Case(layers, normal(n, widths[0]), rng.randint(widths[-1], size=n))


def count(widths: tuple[int, ...]) -> int:
    """p."""
    return sum((a + 1) * b for a, b in pairwise(widths))


def reference(case: Case, numbers: int = 2**26) -> list[np.ndarray]:
    """u = Gᵀ(GGᵀ/n + εI)⁻¹1/n in float64, with backpropagation by hand and dense G, some of its columns at a time."""
    n, (layers, x, y) = len(case.y), case
    layers = [(W.astype(float), b.astype(float)) for W, b in layers]
    inputs = [x.astype(float)]
    for W, b in layers[:-1]:
        inputs.append(np.tanh(inputs[-1] @ W + b))
    z = inputs[-1] @ layers[-1][0] + layers[-1][1]
    z = np.exp(z - z.max(axis=1, keepdims=True))
    errors = [z / z.sum(axis=1, keepdims=True) - np.eye(z.shape[1])[y]]
    for (W, _), h in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        errors.insert(0, (errors[0] @ W.T) * (1 - h**2))
    K = np.zeros((n, n))
    for A, D in zip(inputs, errors, strict=True):
        width = max(1, numbers // A.size)
        for start in range(0, D.shape[1], width):
            G = (A[:, :, None] * D[:, None, start : start + width]).reshape(n, -1)
            K += G @ G.T
        K += D @ D.T
    weights = np.linalg.solve(K / n + DAMPING * np.eye(n), np.full(n, 1 / n))
    pairs = zip(inputs, errors, strict=True)
    return [leaf for A, D in pairs for leaf in (A.T @ (weights[:, None] * D), weights @ D)]


def distance(u: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """‖u − u*‖/‖u*‖."""
    apart = sum(np.sum((np.asarray(one, float) - other) ** 2) for one, other in zip(u, truth, strict=True))
    return float(np.sqrt(apart / sum(np.sum(leaf**2) for leaf in truth)))


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Of one call, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def resident(field: str) -> int:
    """VmRSS, the resident memory now, or VmHWM, its peak: bytes, from Linux."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def extra_memory(call: Callable[[], Any]) -> int:
    """Bytes that one call adds to the resident memory, at its peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, or it would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, _ = resident("VmRSS"), call()
    return max(0, resident("VmHWM") - before)


def in_turns(ways: dict[str, Callable[[], Way]], truth: list[np.ndarray] | None, rounds: int) -> dict:
    """First call, times, extra memory and error of each way; or what became of it."""
    available = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    # An error, and not the kernel's killer.
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.8 * available),) * 2)
    found, made = {}, {}
    for name, make in ways.items():
        try:
            way = make()
            first, result = seconds(way.call)
            found[name] = {"first": first, "times": []}
            if way.direction and truth:
                found[name]["error"] = distance(way.direction(result), truth)
            del result
            found[name]["memory"] = extra_memory(way.call)
            made[name] = way
        except Exception as error:  # reported as what became of this way
            found[name] = {"problem": f"{type(error).__name__}: {str(error)[:160]}"}
    for _ in range(rounds):
        for name in random.sample(sorted(made), len(made)):
            times = found[name]["times"]
            if not times or sum(times) < PATIENCE:
                warm = 1 if not times or times[-1] < 1 else 0  # the first of a turn finds another's caches
                calls = max(1, min(20, int(0.2 / max(times[-1], 1e-4)))) if times else 1
                times += [seconds(made[name].call)[0] for _ in range(calls + warm)][warm:]
        time.sleep(0.01)  # threads that wait for more work by spinning give up
    return found


def about() -> dict[str, Any]:
    """The date, the machine, and its load as a benchmark begins."""
    return {"date": datetime.date.today().isoformat(), "device": machine(), "load": [os.getloadavg()[0]]}


def store(results: dict[str, Any], path: Path) -> None:
    """Write results for the tables of docs/."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(f"Stored in {path}. `make tables` writes them into docs/.")


def machine() -> str:
    """The processor, and how many cores of it."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{processor[1] if processor else 'unknown processor'}, {os.cpu_count()} cores"
