"""Shapes in space, for a scene that an `Orbit` turns: the wires of an ellipsoid, a square, and a place to look from."""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.core.precision import dot
from efisher_teach.figures.plane import unit


def wires(V: jax.Array, semi: jax.Array, cut: jax.Array, count: int = 33) -> jax.Array:
    """Eight meridians and seven parallels of an ellipsoid, (15, count, 3).

    Its axes are the columns of V (3, 3), with the semi-axes `semi` (3,); the meridians run from pole to pole of the
    last. What is farther than `cut` from the middle, along an axis, is left out.
    """
    ends = jnp.arcsin(jnp.minimum(1, cut / semi[2]))  # of the latitude
    along, around = jnp.linspace(-1, 1, count), jnp.linspace(0, 2 * jnp.pi, count)
    meridians = jnp.meshgrid(ends * along, jnp.arange(8) * jnp.pi / 4)
    parallels = jnp.meshgrid(around, ends * jnp.linspace(-1, 1, 7))[::-1]
    latitude, longitude = (jnp.concatenate(pair) for pair in zip(meridians, parallels, strict=True))
    ball = [jnp.cos(latitude) * jnp.cos(longitude), jnp.cos(latitude) * jnp.sin(longitude), jnp.sin(latitude)]
    return dot(jnp.clip(semi * jnp.stack(ball, axis=-1), -cut, cut), V.T)  # a slab is cut all round


def square(normal: jax.Array, half: jax.Array) -> jax.Array:
    """Corners (5, 3) of a square about the origin, across a unit vector; the first corner again at the end."""
    across = unit(jnp.cross(normal, jnp.eye(3, dtype=normal.dtype)[jnp.argmin(jnp.abs(normal))]))
    sides = half * jnp.stack([across, jnp.cross(normal, across)])
    return dot(jnp.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]), sides)


def seen_from(eye: np.ndarray, step: int) -> dict[str, float]:
    """The azimuth and the elevation of a place (3,) that one looks from, in degrees, to the nearest `step`."""
    x, y, z = eye
    angles = {"azimuth": np.arctan2(y, x), "elevation": np.arctan2(z, np.hypot(x, y))}
    return {name: float(step * round(np.rad2deg(angle) / step)) for name, angle in angles.items()}
