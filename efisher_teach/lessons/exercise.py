"""Exercises: an exercise is its solution with a decorator.

Task, stub, hints, solution and check all come from that one place. The learner's function has the solution's name and
arguments. `judge.py` says whether it is right.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EXERCISES: "dict[str, Exercise]" = {}


class Exercise(NamedTuple):
    """A task that is checked. Made by `exercise`, which puts it into `EXERCISES` under the solution's name."""

    solution: Callable
    notebook: str
    stars: int
    task: str
    """Markdown."""
    hints: tuple[str, str, str]
    draw: Callable[[np.random.Generator, int], tuple]
    """`draw(rng, size)` gives the arguments of one instance; size 0 is the smallest."""
    mistakes: Mapping[str, Callable]
    """By the sentence that names a mistake: a function that makes it."""
    properties: Mapping[str, Callable[..., bool]]
    """A sentence that is true of every right answer: `holds(answer, *arguments)`."""
    accepts: Callable[..., bool | str] | None
    """Where more than one answer is right: `accepts(got, *arguments)` is True, or says what is missing."""
    by_hand: bool
    """The answer takes no arguments: it is found on paper, for the numbers of `given`."""
    bug: Callable | None
    """The code in the stub, where the task is to mend it."""
    why: str
    """Markdown below the solution, for reasons that code does not show."""

    @property
    def name(self) -> str:
        """The name of the function that the learner writes."""
        return self.solution.__name__

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of that function."""
        return () if self.by_hand else tuple(inspect.signature(self.solution).parameters)


def exercise(
    notebook: str,
    stars: int,
    task: str,
    hints: tuple[str, str, str],
    draw: Callable[[np.random.Generator, int], tuple] = lambda rng, size: (),
    *,
    mistakes: Mapping[str, Callable] | None = None,
    properties: Mapping[str, Callable[..., bool]] | None = None,
    accepts: Callable[..., bool | str] | None = None,
    by_hand: bool = False,
    bug: Callable | None = None,
    why: str = "",
) -> Callable[[Callable], Callable]:
    """Make the decorated solution an exercise; the arguments are the fields of `Exercise`."""

    def keep(solution: Callable) -> Callable:
        fields = (mistakes or {}, properties or {}, accepts, by_hand, bug, why)
        if solution.__name__ in EXERCISES:
            raise ValueError(f"There are two exercises named {solution.__name__}: rename one.")
        EXERCISES[solution.__name__] = Exercise(solution, notebook, stars, task, hints, draw, *fields)
        return solution

    return keep


def stub(exercise: Exercise) -> str:
    """The code that a learner starts from: the head of the solution, or the code with the bug."""
    name, docstring = exercise.name, (exercise.solution.__doc__ or "").strip()
    if exercise.bug:
        return source(exercise.bug).replace(exercise.bug.__name__, name, 1)
    return f'def {name}({", ".join(exercise.arguments)}):\n    """{docstring}"""\n    return ...'


def source(function: Callable) -> str:
    """A function's code, without its decorators."""
    code = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(code).body
    return "\n".join(code.splitlines()[definition.lineno - 1 :])


def given(exercise: Exercise, seed: int = 0) -> dict[str, Any]:
    """The numbers of a task for pencil and paper, by name."""
    values = exercise.draw(np.random.default_rng(seed), 0)
    names = inspect.signature(exercise.solution).parameters
    return {
        name: np.asarray(value, float).round(6).tolist() for name, value in zip(names, values, strict=True)
    }


# Instances that several exercises share: small whole numbers first, which one can follow by hand.

TALL = ((2, 1), (3, 2), (4, 2), (7, 3), (12, 4))
ANY = ((1, 2), (2, 2), (3, 2), (3, 5), (9, 4))


def rows(rng: np.random.Generator, size: int, shapes: tuple = ANY) -> jax.Array:
    """Gradients G (n, p) with a mean that is not 0; with as many rows as columns or fewer they are independent."""
    n, p = shapes[size]
    while True:
        G = rng.integers(-3, 4, (n, p)) if size < 3 else rng.normal(0.4, 1, (n, p))
        singular = np.linalg.svd(G, compute_uv=False)
        mean = np.abs(G.mean(axis=0)).max()
        spread = n == 1 or np.abs(G - G.mean(axis=0)).max() > 0.3
        if singular[-1] > 0.2 * singular[0] and mean > 0.1 and spread:
            return jnp.asarray(G, float)


def positive(rng: np.random.Generator, low: float | int, high: float | int) -> float:
    """A number with two digits."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.1e}")
