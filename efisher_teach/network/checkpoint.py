"""A run that can be put aside: parameters, the best ones so far and the reports, in one file of NumPy arrays."""

import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors


class Run(NamedTuple):
    """The state of a run of updates: its parameters, those of the least loss so far with that loss, its steps."""

    params: Any
    best: Any
    best_loss: Any
    steps: Any

    def after_step(self, params, loss):
        """The run after one more step; `loss` is the one before it."""
        best = (self.params, loss) if loss < self.best_loss else (self.best, self.best_loss)
        return Run(params, *best, self.steps + 1)


def stack(reports, steps):
    """The reports of the finished steps; an interrupted one may have left another."""
    return jax.tree.map(_stacked, *reports[:steps]) if steps else ()


def _stacked(*values):
    """One array; where shapes differ, as those of an aux may with the size of the batch, an array of arrays."""
    if not any(ragged(values[0], value) for value in values):
        return np.stack(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def ragged(report, other):
    """True if two reports differ in a shape."""
    return [*map(np.shape, jax.tree.leaves(report))] != [*map(np.shape, jax.tree.leaves(other))]


def save(path, run, reports):
    """Write a new file and rename it, so that a crash leaves either the old file or the new one."""
    arrays = [np.asarray(_numbers(leaf)) for leaf in jax.tree.leaves((run, stack(reports, run.steps)))]
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        np.savez(file, *arrays)
    new.replace(path)


def _numbers(leaf):
    """A leaf as NumPy can hold it: a key of JAX by its numbers."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def load(path, start, report):
    """Read a run as it was saved, and its reports."""
    leaves, tree = jax.tree.flatten((start, report))
    saved, wanted = [], _described(map(_numbers, jax.tree.leaves(start)))
    try:
        with np.load(path) as file:
            saved = list(file.values())
        found = _described(saved)
        fits = found[: len(wanted)] == wanted and len(found) == len(leaves)
    except (EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        found, fits = [f"{type(error).__name__}: {error}"], False
    if not fits:
        requirement = "a file of these parameters: " + ", ".join(wanted)
        action = "Give another file name, or delete the file to start anew."
        errors.reject("checkpoint", requirement, f"{', '.join(found)} in {path}", action)
    # NumPy does not know bfloat16 and gives back bytes.
    saved = [a.view(leaf.dtype) if a.dtype.kind == "V" else a for a, leaf in zip(saved, leaves, strict=True)]
    saved = [
        jax.random.wrap_key_data(a, impl=jax.random.key_impl(leaf)) if _numbers(leaf) is not leaf else a
        for a, leaf in zip(saved, leaves, strict=True)
    ]
    run, stacked = jax.tree.unflatten(tree, saved)
    params, best = jax.tree.map(jnp.asarray, (run.params, run.best))
    reports = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(int(run.steps))]
    return Run(params, best, float(run.best_loss), int(run.steps)), reports


def _described(arrays):
    """The precision and shape of each."""
    arrays = list(arrays)
    dtypes = [np.asarray(array).dtype for array in arrays]
    names = ["bfloat16" if dtype.kind == "V" else str(dtype) for dtype in dtypes]
    return [f"{name}{list(np.shape(array))}" for name, array in zip(names, arrays, strict=True)]
