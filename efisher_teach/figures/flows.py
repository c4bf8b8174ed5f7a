"""Flows in a plane that end at the origin: their paths, the length of these, and what they turn by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from efisher_teach.core.precision import dot
from efisher_teach.figures.plane import points, turned

STEPS, SPAN = 320, 18.0  # of the integration of a path, and how long it lasts


def flow(direction: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """The path (STEPS + 1, 2) of dx/dt = direction(x) ‖x‖/(1 + ‖x‖), by Runge and Kutta.

    The speed falls to 0 with the distance, so that the path ends at the origin and does not run about it.
    """

    def velocity(at):
        far = jnp.linalg.norm(at)
        return far / (1 + far) * direction(at)

    def move(at, _):
        h = SPAN / STEPS
        a = velocity(at)
        b = velocity(at + h / 2 * a)
        c = velocity(at + h / 2 * b)
        at = at + h / 6 * (a + 2 * b + 2 * c + velocity(at + h * c))
        return at, at

    return jnp.concatenate([start[None], lax.scan(move, start, length=STEPS)[1]])


def linear_flow(H: jax.Array, start: jax.Array) -> jax.Array:
    """The path (STEPS + 1, 2) of dx/dt = −Hx for a positive definite H (2, 2), in closed form: e^(−Ht)x."""
    values, V = jnp.linalg.eigh(H)
    times = 8 / values[0] * jnp.linspace(0, 1, STEPS + 1) ** 3
    return dot(jnp.exp(-times[:, None] * values) * dot(V.T, start), V.T)


def walk(
    path: jax.Array, directions: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A path (m, 2) to the origin, and its `directions` (m, 2), by `count` points: close together where it turns.

    Returns:
        The points (count, 2); the way to each and the distance that is left there, (count, 2); the whole way; and all
        that the path turns by, in degrees, until a hundredth of the distance is left: what comes later cannot be seen.
    """
    far = jnp.linalg.norm(path, axis=-1)
    turns = jnp.deg2rad(jnp.abs(turned(directions[:-1], directions[1:]))) * (far[1:] > 0.01 * far[0])
    arcs = jnp.linalg.norm(jnp.diff(path, axis=0), axis=-1) * (1 + turns**2 / 24)  # each an arc, not a chord
    gone = jnp.concatenate([jnp.zeros(1), jnp.cumsum(arcs), (jnp.sum(arcs) + far[-1])[None]])
    bent = jnp.concatenate([jnp.zeros(1), jnp.cumsum(turns), jnp.sum(turns)[None]])
    gauge = gone / gone[-1] + bent / jnp.maximum(bent[-1], 0.1)
    places = jnp.linspace(0, gauge[-1], count)
    columns = *jnp.concatenate([path, jnp.zeros_like(path[:1])]).T, gone
    x, y, way = (jnp.interp(places, gauge, column) for column in columns)
    return points(x, y), points(way, jnp.hypot(x, y)), gone[-1], jnp.rad2deg(bent[-1])
