"""Exercises: an exercise is its solution with a decorator.

Task, stub, hints, solution and check all come from that one place. The learner writes a function with the solution's
name and arguments, and `judge.py` says whether it is right.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.lessons.guard import kind

EXERCISES: "dict[str, Exercise]" = {}
Numbers = jax.Array | np.ndarray  # a learner has the first, our own answers the second


class Exercise(NamedTuple):
    """A task that is checked. Made by `exercise`, which puts it into `EXERCISES` under the solution's name."""

    solution: Callable
    stars: int
    task: str
    """Markdown."""
    hints: tuple[str, str, str]
    draw: Callable[[np.random.Generator, int], tuple]
    """`draw(rng, size)` gives the arguments of one instance; size 0 is the smallest."""
    mistakes: Callable[..., Mapping[str, Any]] = lambda *arguments: {}
    """`mistakes(*arguments)` gives the wrong answers that are known, each by the sentence that names the mistake."""
    properties: Mapping[str, Callable[..., tuple]] = {}  # never changed
    """Sentences that are true of every right answer: `sides(answer, *arguments)` gives two values that must agree."""
    accepts: Callable[..., bool | str] | None = None
    """`accepts(got, *arguments)`, where more than one answer is right: True, or a sentence on what is missing.
    It gets what `guard.plain` has read."""
    by_hand: bool = False
    """The answer takes no arguments: it is found on paper, for the numbers of `given`."""
    bug: Callable | None = None
    """The code in the stub, where the task is to repair it."""
    why: str = ""
    """Markdown below the solution, for reasons that code does not show."""

    @property
    def name(self) -> str:
        """The name of the function that the learner writes."""
        return self.solution.__name__

    @property
    def notebook(self) -> str:
        """The name of its notebook, which is that of the module it stands in."""
        return self.solution.__module__.rpartition(".")[2]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of that function."""
        return () if self.by_hand else tuple(inspect.signature(self.solution).parameters)


def exercise(
    stars: int,
    task: str,
    hints: tuple[str, str, str],
    draw: Callable[[np.random.Generator, int], tuple] = lambda rng, size: (),
    *,
    mistakes: Callable[..., Mapping[str, Any]] = lambda *arguments: {},
    parts: Callable[..., tuple] = lambda *arguments: arguments,
    **about: Any,
) -> Callable[[Callable], Callable]:
    """Make the decorated solution an exercise; the arguments are the fields of `Exercise`.

    And `parts(*arguments)` gives what `mistakes` takes in the place of the arguments: what its answers are made of.
    """

    def named(*arguments):
        return mistakes(*parts(*arguments))

    def keep(solution: Callable) -> Callable:
        if solution.__name__ in EXERCISES:
            raise ValueError(f"There are two exercises named {solution.__name__}: rename one.")
        EXERCISES[solution.__name__] = Exercise(solution, stars, task, hints, draw, named, **about)
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
    named = zip(inspect.signature(exercise.solution).parameters, values, strict=True)
    return {name: np.asarray(value, float).round(6).tolist() for name, value in named}


# Instances that several exercises share: small whole numbers first, which a learner can follow by hand. Few shapes, as
# JAX compiles a program for each operation of an answer and each shape.

TALL = ((2, 1), (3, 2), (3, 2), (7, 3), (7, 3))
WIDE = ((1, 2), (2, 3), (2, 3), (3, 5), (3, 5))
ANY = ((1, 2), (2, 2), (3, 2), (3, 2), (3, 5))


def rows(rng: np.random.Generator, size: int, shapes: tuple = ANY) -> jax.Array:
    """Draw gradients G (n, p) of full rank whose mean is not 0."""
    n, p = shapes[size]
    while True:
        G = rng.integers(-3, 4, (n, p)) if size < 3 else rng.normal(0.4, 1, (n, p))
        singular = np.linalg.svd(G, compute_uv=False)
        mean = np.abs(G.mean(axis=0)).max()
        spread = n == 1 or np.abs(G - G.mean(axis=0)).max() > 0.3
        if singular[-1] > 0.2 * singular[0] and mean > 0.1 and spread:
            return jnp.asarray(G, float)


def entries(rng: np.random.Generator, size: int, *shape: int) -> np.ndarray:
    """Draw an array of whole numbers from −2 to 2, or of normal ones in the larger instances."""
    return rng.integers(-2, 3, shape) if size < 3 else rng.normal(0, 1, shape)


def logistic(rng: np.random.Generator, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw theta (p,), X (n, p) and labels y (n,), not all zeros and not with every chance at a half."""
    n, p = (3, 2) if size else (2, 1)
    theta, X = entries(rng, size, p), entries(rng, size, n, p)
    X[0, 0], X[1, 0], theta[0] = 2, -1, 1
    return jnp.asarray(theta, float), jnp.asarray(X, float), jnp.asarray(np.arange(n) % 2, float)


def chance(theta: Numbers, X: Numbers) -> jax.Array:
    """Return the probability (n,) that a logistic model gives to the label 1."""
    return 1 / (1 + jnp.exp(-X @ theta))


def positive(rng: np.random.Generator, low: float | int, high: float | int) -> float:
    """Draw a number of two digits between two bounds, evenly in its logarithm."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.1e}")


def readable(got: Any, *shape: int | str) -> np.ndarray:
    """Return what `guard.plain` has read if it is a finite array of a shape, where a word stands for any length.

    Raises:
        ValueError: It is not; the message says why.
    """
    if not isinstance(got, np.ndarray) or got.dtype == bool:
        raise ValueError(f"numbers are expected, this is of type {kind(got)}")
    sides = zip(shape, got.shape, strict=False)
    if len(shape) != got.ndim or any(side != actual for side, actual in sides if not isinstance(side, str)):
        raise ValueError(f"its shape is {got.shape}, ({', '.join(map(str, shape))}) is expected")
    if not np.isfinite(got).all():
        raise ValueError("it is not finite")
    return got


def direction(G: Numbers, damping: float | Numbers = 0.0) -> jax.Array:
    """Return (C + εI)⁻¹g (p,), for gradients G (n, p)."""
    return jnp.linalg.solve(G.T @ G / len(G) + damping * jnp.eye(G.shape[1]), G.mean(axis=0))


def weighted(X, weights):
    """Return the mean (p, p) of the outer products of the rows of X, each with its weight."""
    return (X.T * weights) @ X / len(X)
