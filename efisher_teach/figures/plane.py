"""Shared by scenes: the sample that they look at, and the geometry of a plane of steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient, per_example_gradients, per_example_losses
from efisher_teach.core.matrices import quadratic_form
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import Spectrum, solve_spectral, spectrum

WIDEST = 0.04  # the budget that every view has room for, so that a change of budget needs no new picture
FARTHEST = 12.0  # in √c: where changes of losses that would leave the view stay


def sample_of(problem: Problem, budget: float) -> dict[str, Any]:
    """The data of a scene: a problem, and a budget c in (0, 0.04]."""
    return {"problem": problem, "budget": within_view(budget)}


def within_view(budget: float) -> float:
    """A budget c in (0, 0.04], as much as every view has room for."""
    if errors.positive("budget", budget) > WIDEST:
        action = "Beyond it the linear model says little."
        errors.reject("budget", f"at most {WIDEST}", f"{budget:.3g}", action)
    return budget


def require_vector(problem: Problem, least: int = 1, action: str = "E.g. breast_cancer().") -> None:
    """Reject a problem whose parameters are not a vector of at least so many."""
    shape = getattr(problem.params, "shape", ())
    if len(shape) != 1 or shape[0] < least:
        requirement = "one with params of shape (p,)" + (f", p ≥ {least}" if least > 1 else "")
        errors.reject("problem", requirement, f"{shape}", action)


def require_examples(problem: Problem, least: int) -> None:
    """Reject a problem with fewer examples than that."""
    if len(problem.y) < least:
        errors.reject("problem", f"one with {least} examples", f"{len(problem.y)}", "Make n larger.")


def require_held_out(problem: Problem) -> None:
    """Reject a problem without examples that it was not trained on."""
    if problem.x_test is None or problem.y_test is None:
        errors.reject("problem", "one with held-out examples", "x_test or y_test None", "Set aside a fifth.")


def require_shape(problem: Problem, shape: tuple[int, ...], action: str) -> None:
    """Reject a problem whose parameters are not an array of that shape."""
    got = getattr(problem.params, "shape", None)
    if got != shape:
        errors.reject("problem", f"one with params of shape {shape}", f"shape {got}", action)


def require_two_parameters(problem: Problem) -> None:
    """Reject a problem whose parameters do not span a plane."""
    require_shape(problem, (2,), "E.g. breast_cancer(2).")


def gradients(problem: Problem) -> jax.Array:
    """G (n, p), of the training examples at θ."""
    G = _gradients(problem)
    errors.finite_rows("loss_fn", G, "Its gradient overflows or is undefined at these examples.")
    return G


@partial(jax.jit, inline=True)  # compiled as a whole: one operation after the other takes ten times as long
def _gradients(problem):
    return per_example_gradients(problem.loss_fn, problem.params, problem.x, problem.y)


def held_out(problem: Problem) -> Problem:
    """The same model on the examples that it was not trained on."""
    return problem._replace(x=problem.x_test, y=problem.y_test)


def only(problem: Problem, rows: Any) -> Problem:
    """The same model on these of its examples alone."""
    x, y = jax.tree.map(lambda leaf: leaf[rows], (problem.x, problem.y))
    return problem._replace(x=x, y=y, x_test=None, y_test=None)


def changes(problem: Problem, delta: jax.Array) -> jax.Array:
    """The true change of each loss under a step (p,); one that overflows is a million, one that is undefined is NaN."""
    flat, unravel = ravel_pytree(problem.params)
    losses = partial(per_example_losses, problem.loss_fn)
    after = losses(unravel(flat + delta.astype(flat.dtype)), problem.x, problem.y)
    return jnp.clip(after - losses(problem.params, problem.x, problem.y), -1e6, 1e6)


def mean_changes(problem: Problem, deltas: jax.Array) -> jax.Array:
    """The true change of the mean loss under each of some steps (…, p)."""
    return jnp.vectorize(lambda delta: jnp.mean(changes(problem, delta)), signature="(p)->()")(deltas)


def place_of(value: Any, values: Any) -> jax.Array:
    """The place of the nearest of some values."""
    return jnp.argmin(jnp.abs(jnp.asarray(values, float) - value))


def nearest(values: np.ndarray, value: float) -> float:
    """The one of some positive values that is the fewest times larger or smaller."""
    return float(values[np.argmin(abs(np.log(values / value)))])


def points(x: Any, y: Any) -> jax.Array:
    """Points (…, 2) of coordinates that fit each other: one x for many y, or one y for many x."""
    return jnp.stack(jnp.broadcast_arrays(jnp.asarray(x), jnp.asarray(y)), axis=-1)


def over(x: Any, within: Any = (None, None), **heights: Any) -> dict[str, jax.Array]:
    """Curves, or dots, over the same x: `points` by name. What lies beyond the two limits is drawn at them."""
    return {name: points(x, jnp.clip(y, *within)) for name, y in heights.items()}


def from_origin(**tips: jax.Array) -> dict[str, jax.Array]:
    """Arrows from the origin to a point (d,), or to each of many (N, d), by name: (…, 2, d)."""
    return {name: jnp.stack([jnp.zeros_like(tip), tip], axis=-2) for name, tip in tips.items()}


def numbers(**values: Any) -> dict[str, jax.Array]:
    """Numbers for the words, by name; counts are real numbers, too."""
    return {name: jnp.asarray(value, float) for name, value in values.items()}


def percent(**parts: jax.Array) -> dict[str, jax.Array]:
    """Parts of a whole, by name, in %."""
    return {name: 100 * part for name, part in parts.items()}


def grid_of(x: jax.Array, y: jax.Array) -> jax.Array:
    """The points of a grid, (y, x, 2)."""
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def landscape(loss: Callable, reach: jax.Array, about: Any = 0.0, count: int = 61) -> dict[str, jax.Array]:
    """A loss over a view of half sides `reach`: its `grid`, in half sides, and the loss at each place, (y, x)."""
    grid = jnp.linspace(-1, 1, count)
    places = about + grid_of(reach[0] * grid, reach[1] * grid).reshape(-1, 2)
    return {"grid": grid, "loss": jax.lax.map(loss, places, batch_size=count).reshape(count, count)}


def unit(v: jax.Array) -> jax.Array:
    """Vectors (…, d) at length 1; one that is 0 stays 0."""
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-30)


def circle(points: int, dtype: Any = float) -> jax.Array:
    """Points (N, 2) round the unit circle, the first one again at the end."""
    angle = jnp.linspace(0, 2 * jnp.pi, points, dtype=dtype)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def ellipse(G: jax.Array, basis: jax.Array, points: int, thinnest: float = 0.0) -> jax.Array:
    """Points (N, 2) of a plane with the basis (p, 2) whose cost ΔᵀCΔ is 1.

    Where the plane holds directions that cost nothing, a needle is cut: eigenvalues count as at least `thinnest` of the
    largest.
    """
    factors = spectrum(dot(G, basis))  # of the 2 × 2 block of C that belongs to the plane
    eigenvalues = factors.eigenvalues
    if thinnest:
        eigenvalues = jnp.maximum(eigenvalues, thinnest * eigenvalues[0])
    return dot(circle(points, G.dtype) / jnp.sqrt(eigenvalues), factors.parameter_vectors.T)


def level_curve(M: jax.Array, level: Any, farthest: Any, points: int = 97, guide: float = 1e-2) -> jax.Array:
    """Points (N, 2) where ΔᵀMΔ is `level`: an ellipse or, for a matrix of rank one, two lines, which are cut far away.

    Eigenvalues below the part `guide` of the largest do not guide where on the curve the points are.
    """
    eigenvalues, V = jnp.linalg.eigh(M)
    eigenvalues = jnp.maximum(eigenvalues, guide * eigenvalues[1])
    toward = unit(dot(circle(points, M.dtype) / jnp.sqrt(eigenvalues), V.T))
    return toward * jnp.sqrt(level / jnp.maximum(quadratic_form(M, toward), level / farthest**2))[:, None]


def no_farther(points: jax.Array, farthest: float | jax.Array) -> jax.Array:
    """Points (…, d) as they are, but for those farther from the origin than that: they are drawn nearer."""
    return points * jnp.minimum(1, farthest / jnp.linalg.norm(points, axis=-1, keepdims=True))


def inside(points: jax.Array, reach: jax.Array | float) -> jax.Array:
    """Points (…, 2) as they are, but for those beyond a view of such half sides: they are drawn at its edge."""
    return points / jnp.maximum(1, jnp.max(jnp.abs(points) / reach, axis=-1, keepdims=True))


def plane_of_steps(G: jax.Array, factors: Spectrum) -> jax.Array:
    """An orthonormal basis (p, 2) of the plane of −g and −C⁺g."""
    return plane_of(-mean_gradient(G), -solve_spectral(factors, 0.0))


def while_inside(points: jax.Array, limits: jax.Array) -> jax.Array:
    """A line (N, 2) that stops where it leaves a view of such lower left and upper right, or jumps half across it.

    From there on its last good point is repeated.
    """
    low, high = limits
    jump = jnp.diff(points, axis=0, prepend=points[:1])
    good = jnp.isfinite(points) & (points >= low) & (points <= high) & (jnp.abs(jump) <= (high - low) / 2)
    last = jnp.sum(jnp.cumprod(jnp.all(good, axis=-1))) - 1
    return points[jnp.minimum(jnp.arange(len(points)), jnp.maximum(last, 0))]


@partial(jax.jit, inline=True)
def plane_of(along: ArrayLike, *towards: ArrayLike) -> jax.Array:
    """An orthonormal basis (p, 2): along the first direction, and towards the next that is not along it, too."""
    along, others = unit(jnp.asarray(along)), jnp.stack(towards)
    across = others - dot(others, along)[:, None] * along
    left = jnp.linalg.norm(across, axis=1) > 1e-4 * jnp.linalg.norm(others, axis=1)
    across = unit(across[jnp.argmax(left)])
    across -= along * dot(along, across)  # once more, for what rounding left
    return jnp.stack([along, unit(across)], axis=1)


def turn_of(delta: jax.Array, downhill: jax.Array) -> jax.Array:
    """The angle between a step and −g, in degrees; `downhill` is as long as you like."""
    downhill = downhill / jnp.linalg.norm(downhill)
    forward = dot(downhill, delta)
    return jnp.rad2deg(jnp.atan2(jnp.linalg.norm(delta - forward * downhill), forward))


def turn(v: jax.Array, angle: Any) -> jax.Array:
    """A vector (2,) turned by so many degrees against the clock, or by each of some, (…, 2)."""
    angle, across = jnp.deg2rad(angle)[..., None], jnp.stack([-v[1], v[0]])
    return jnp.cos(angle) * v + jnp.sin(angle) * across


def turned(one: ArrayLike, other: ArrayLike) -> jax.Array:
    """Degrees from steps (…, 2) to others, against the clock."""
    (x, y), (other_x, other_y) = (jnp.moveaxis(jnp.asarray(step), -1, 0) for step in (one, other))
    return jnp.rad2deg(jnp.atan2(x * other_y - y * other_x, x * other_x + y * other_y))


def fit(reach: jax.Array, aspect: float = 1.0, room: float = 1.0) -> jax.Array:
    """Half sides of a view with one scale on both axes, `aspect` times as wide as high, that has room for `reach`."""
    return room * jnp.maximum(reach[1], reach[0] / aspect) * jnp.array([aspect, 1.0])


def frame(reach: jax.Array, aspect: float) -> jax.Array:
    """Half sides of a view, `aspect` times as wide as high, with one scale on both axes unless that makes a needle."""
    return jnp.where(jnp.max(reach) < 4 * jnp.min(reach), fit(reach, aspect), reach)


def rectangles(x: jax.Array, height: jax.Array, width: float) -> jax.Array:
    """Corners (N, 4, 2) of bars from 0 to `height` (N,) about `x` (N,)."""
    left, right, zero = x - width / 2, x + width / 2, jnp.zeros_like(height)
    corners = [(left, zero), (left, height), (right, height), (right, zero)]
    return jnp.stack([jnp.stack(corner, axis=-1) for corner in corners], axis=-2)


def strip(sides: tuple[float, float], middle: Any, half: Any) -> jax.Array:
    """Corners (1, 4, 2) of a horizontal strip from side to side."""
    left, right = sides
    return points(jnp.array([left, right, right, left]), middle + half * jnp.array([-1, -1, 1, 1]))[None]


def bars(height: jax.Array) -> jax.Array:
    """Bars of the examples 0, 1, …, of `height` (N,)."""
    return rectangles(jnp.arange(len(height), dtype=height.dtype), height, 0.8)


def beside_bars(height: jax.Array) -> jax.Array:
    """Points (N, 2), one at each of the `bars`."""
    return points(jnp.arange(len(height), dtype=height.dtype), height)


def height_of(change: jax.Array, rms: jax.Array) -> jax.Array:
    """Changes of losses in √c, `rms`, as far as the view reaches."""
    return jnp.clip(change / rms, -FARTHEST, FARTHEST)


def height_limits(height: jax.Array, least: float, above: float) -> jax.Array:
    """Lower and upper end of a view of changes in √c, which begins at `least` or below it.

    It has room for all of them, and for a key above them: `above`, in parts of what they span.
    """
    low, high = jnp.minimum(jnp.min(height), least), jnp.maximum(jnp.max(height), 0.4)
    return jnp.clip(jnp.stack([low - 0.08 * (high - low), high + above * (high - low)]), -FARTHEST, FARTHEST)
