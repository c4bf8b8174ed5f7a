"""Training: a loop of updates that shows its progress, can be interrupted, and goes on where it stopped.

All it knows of an update is that it takes parameters and a batch, and returns new parameters and a report with a loss.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from efisher_teach import errors
from efisher_teach.network.checkpoint import Run, load, ragged, save, stack

SECONDS_BETWEEN_CHECKPOINTS = 30
ALL_EXAMPLES = "For all examples, leave it out."
NOISE = 2**32 - 1  # no epoch has this number: the keys of the losses are others than those of the order


class Fit(NamedTuple):
    """The outcome of a loop of updates.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> update = ef.make_update(toy.loss_fn, damping=1e-3, budget=0.01)
        >>> low = lambda step, params, report: report.loss < 0.15
        >>> run = ef.fit(update, toy.params, toy.x, toy.y, steps=100, callbacks=[low], progress=False)
        >>> print(run.stopped, run.reports.loss)
        by a callback [0.222 0.172 0.131]
    """

    params: PyTree
    """After the last step."""
    best: PyTree
    """The parameters with the lowest reported loss. With small batches, that is partly a matter of luck."""
    reports: Any
    """The reports of the updates, with the steps on the first axis (NumPy); () before the first one."""
    stopped: str
    """The reason for its end: "all steps done", "no more batches", "interrupted", "not finite" or "by a callback"."""


def fit(
    update: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Any]],
    params: PyTree,
    x: PyTree,
    y: PyTree = None,
    *,
    steps: int,
    batch_size: int | None = None,
    key: Array | None = None,
    callbacks: Iterable[Callable[[int, PyTree, Any], bool | None]] = (),
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> Fit:
    """Repeat an update, with a progress bar. It can be interrupted, and goes on from a checkpoint.

    Args:
        update: `update(params, x, y) -> (params, report)`, of `make_update` or any other; the report is a NamedTuple
            with a `loss`, the one before the step. A state of its own (of Adam, say) may be part of `params`.
        params: The start, any pytree of arrays.
        x: Inputs, one example a row (n, …). Or, without y, any iterable of batches (x, y), such as a list or a loader:
            it is begun again when it ends, if it can be (a generator cannot, and ends the loop).
        y: Targets, one example a row (n, …).
        steps: The number of updates, those of a checkpoint included.
        batch_size: The number of examples that a step sees; None means all. Each pass takes the examples in a new
            order, and leaves out the last ones if they do not fill a batch.
        key: A `jax.random.key`, for the order of the examples, and for an update that `needs_key`, which gets another
            one at each step. Needed for both.
        callbacks: Each is called as `callback(step, params, report)` after a step, and ends the loop by returning True.
        checkpoint: A file (.npz). If it exists, the loop goes on from there, as if it had never stopped. It is written
            every half minute and at the end, even if that is an interruption or an error.
        progress: True shows a progress bar.

    Returns:
        A `Fit`, also after an interruption (Ctrl-C, or the stop button of a notebook). A loss or a step that is not
        finite ends the loop, too.

    Raises:
        ValueError: steps or batch_size is out of range; batches or the update have no key; an iterable has no batches;
            the checkpoint is of other parameters.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> update = ef.make_update(toy.loss_fn, damping=1e-3, budget=0.01)
        >>> run = ef.fit(update, toy.params, toy.x, toy.y, steps=4, progress=False)
        >>> print(run.stopped, run.reports.loss)  # before each step
        all steps done [0.222 0.172 0.131 0.114]
    """
    from tqdm.auto import tqdm

    steps, callbacks = errors.at_least_one("steps", steps), tuple(callbacks)
    needs_key = getattr(update, "needs_key", False)
    if key is None and (needs_key or batch_size is not None):
        wanted = "a jax.random.key where the update needs one, or batch_size is given"
        errors.reject("key", wanted, "None", "Use e.g. jax.random.key(0).")
    noise = None if key is None or not needs_key else jax.random.fold_in(key, NOISE)
    keys = lambda step: {} if noise is None else {"key": jax.random.fold_in(noise, step)}  # noqa: E731
    if y is None:
        given = _given(x, batch_size)
        first = next(given)
        batches = lambda start: islice(chain([first], given), start, steps)  # noqa: E731
    else:
        first = x, y = errors.data(x, y)
        n = errors.examples(x, y)
        size = None if batch_size is None else _checked_batch_size(batch_size, n)
        batches = lambda start: _batches(x, y, n, size, key, range(start, steps))  # noqa: E731
    path, last_saved = None if checkpoint is None else Path(checkpoint), time.monotonic()
    if path is not None and not path.parent.is_dir():
        errors.reject("checkpoint", "in a folder that exists", f"{path}", "Make the folder first.")
    run, reports, reason = Run(params, params, math.inf, 0), [], None
    if path is not None and not path.exists():
        save(path.with_name(path.name + ".try"), run, [])  # better now than after the last step
        path.with_name(path.name + ".try").unlink()
    elif path is not None:
        run, reports = load(path, run, jax.eval_shape(update, params, *first, **keys(0))[1])
    try:
        with tqdm(total=steps, initial=run.steps, unit="step", disable=not progress) as bar:
            for batch in batches(run.steps):
                moved, report = update(run.params, *batch, **keys(run.steps))
                loss = float(report.loss)
                reports.append(jax.device_get(report))
                if path is not None and ragged(reports[0], reports[-1]):
                    got, action = "another one at this batch", "Make all batches of one size."
                    errors.reject("checkpoint", "left out, or every report of one shape", got, action)
                run = run.after_step(moved, loss)
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                bar.update()
                if reason := _reason_to_stop(run.steps - 1, moved, report, callbacks):
                    break
                if path is not None and time.monotonic() - last_saved > SECONDS_BETWEEN_CHECKPOINTS:
                    save(path, run, reports)
                    last_saved = time.monotonic()
    except KeyboardInterrupt:
        reason = "interrupted"
    finally:
        if path is not None and run.steps:
            save(path, run, reports)
    reason = reason or ("all steps done" if run.steps >= steps else "no more batches")
    return Fit(run.params, run.best, stack(reports, run.steps), reason)


class Trial(NamedTuple):
    """A run with one setting. Its parameters are not kept, as there may be many of them: `fit` makes them again.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> make = lambda budget: (ef.make_update(toy.loss_fn, damping=1e-3, budget=budget), toy.params)
        >>> trial = ef.tune(make, [0.01], toy.x, toy.y, steps=3, progress=False)[0.01]
        >>> print(trial.losses, trial.seconds > 0)
        [0.222 0.172 0.131] True
    """

    losses: np.ndarray
    """The mean loss of the batch of each step, before it (steps,)."""
    seconds: float
    """The time that a step takes, without compiling."""


def tune(
    make: Callable[[float], tuple[Callable, PyTree]],
    settings: Iterable[float],
    x: PyTree,
    y: PyTree,
    *,
    steps: int,
    batch_size: int | None = None,
    key: Array | None = None,
    progress: bool = True,
) -> dict[float, Trial]:
    """Run an update with each of a few settings, on the same batches.

    Args:
        make: `make(setting) -> (update, start)`.
        settings: What to try, such as learning rates or budgets.
        x: Inputs, one example a row (n, …).
        y: Targets, one example a row (n, …).
        steps: As in `fit`.
        batch_size: As in `fit`.
        key: As in `fit`.
        progress: True shows a progress bar, over the settings.

    Returns:
        A `Trial` for each setting.

    Raises:
        ValueError: As in `fit`.

    Examples:
        >>> toy = ef.linear_regression(n=20)
        >>> make = lambda budget: (ef.make_update(toy.loss_fn, damping=1e-3, budget=budget), toy.params)
        >>> for budget, trial in ef.tune(make, [1e-4, 1e-2], toy.x, toy.y, steps=3, progress=False).items():
        ...     print(budget, trial.losses)
        0.0001 [0.222 0.216 0.211]
        0.01 [0.222 0.172 0.131]
    """
    from tqdm.auto import tqdm

    trials, batches = {}, {"batch_size": batch_size, "key": key, "progress": False}
    for setting in tqdm(list(settings), unit="run", leave=False, disable=not progress):
        update, start = make(setting)
        fit(update, start, x, y, steps=1, **batches)  # compiles
        begin = time.perf_counter()
        run = fit(update, start, x, y, steps=steps, **batches)
        seconds = (time.perf_counter() - begin) / len(run.reports.loss)
        trials[setting] = Trial(run.reports.loss, seconds)
    return trials


def _checked_batch_size(size, n):
    size = errors.at_least_one("batch_size", size, ALL_EXAMPLES)
    if size > n:
        errors.reject("batch_size", f"at most {n}, the number of examples", f"{size}", ALL_EXAMPLES)
    return size


def _given(x, batch_size):
    """The batches of an iterable, again and again if it can be begun again."""
    if batch_size is not None:
        action = "An iterable has made its batches."
        errors.reject("batch_size", "left out without y", f"{batch_size}", action)
    action = "Give y, too, or a list or loader of pairs (x, y)."
    for passes in count():
        if not isinstance(x, Iterable):
            errors.reject("x", "an iterable of batches (x, y), as there is no y", type(x).__name__, action)
        batches, empty = iter(x), True
        for batch in batches:
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                got = f"one of {type(batch).__name__}"
                errors.reject("x", "an iterable of batches (x, y), as there is no y", got, action)
            empty = False
            yield tuple(batch)
        if empty and not passes:
            errors.reject("x", "an iterable of batches (x, y), as there is no y", "no batch", action)
        if empty or batches is x:
            return


def _batches(x, y, n, size, key, steps):
    """The examples of each step. They depend on the key and the step only: a resumed run sees the same."""
    if size is None:
        yield from ((x, y) for _ in steps)
        return
    order, of_epoch = jnp.arange(n), -1
    for step in steps:
        epoch, part = divmod(step, n // size)
        if epoch != of_epoch:
            order, of_epoch = jax.random.permutation(jax.random.fold_in(key, epoch), n), epoch
        chosen = order[part * size : (part + 1) * size]
        yield jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], (x, y))


def _reason_to_stop(step, params, report, callbacks):
    """The reason to end the loop after a step, or None. Every callback is called."""
    if not (math.isfinite(report.loss) and getattr(report, "finite", True)):
        return "not finite"
    answers = [callback(step, params, report) for callback in callbacks]
    return "by a callback" if any(answers) else None
