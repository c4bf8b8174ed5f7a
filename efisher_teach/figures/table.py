"""The table of a scene: its whole response over the axes, by one jitted `vmap`, and one state of it as it is seen."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from efisher_teach.figures.scene import Scene

# A table is computed once or a few times, so it should compile soon: the second level of optimisation takes a tenth
# longer, and no table is computed faster by it; the lowest takes two fifths of the time, but twice as long for every
# new picture. In two parts, side by side, a table compiles in a quarter less than in one. JAX 0.8 to 0.10 can do
# without a code generator that takes longer, too, and keeps 100 MB; later versions refuse the option.
LEAN = {"xla_backend_optimization_level": 1, "xla_cpu_parallel_codegen_split_count": 2}
if jax.__version_info__ < (0, 11):
    LEAN["xla_cpu_use_fusion_emitters"] = False


class Table(NamedTuple):
    """The response of a scene over its axes.

    Examples:
        >>> axes = tuple(ef.scenes.Axis(name, name, np.array([0.0, 1.0, 2.0]), 0.0, str) for name in ("a", "b"))
        >>> respond = lambda data, state: {"square": state["b"] ** 2, "sum": state["a"] + state["b"]}
        >>> table = ef.scenes.tabulate(ef.scenes.Scene("", axes, None, lambda data: {}, respond, "", (1.0, 1.0)))
        >>> print(table.depends["square"], table.depends["sum"], table.at((0, 2))["square"])  # a square is of b alone
        (1,) (0, 1) 4.0
    """

    background: dict[str, Any]
    """Arrays that no axis moves, and the labels of the scene."""
    arrays: dict[str, np.ndarray]
    """By name; the leading dimensions run over the axes that the array depends on."""
    depends: dict[str, tuple[int, ...]]
    """By name, the places of those axes."""

    def at(self, indices: tuple[int, ...]) -> dict[str, Any]:
        """All arrays in one state, given by one index an axis."""
        return {
            name: array[tuple(indices[axis] for axis in self.depends[name])]
            for name, array in self.arrays.items()
        }


def tabulate(scene: Scene) -> Table:
    """Evaluate a scene over every value of every axis.

    Args:
        scene: What to evaluate.

    Returns:
        A `Table` of NumPy arrays.

    Raises:
        ValueError: A number is not finite; its name and state are named.

    Examples:
        >>> axes = tuple(ef.scenes.Axis(name, name, np.array([0.0, 1.0, 2.0]), 0.0, str) for name in ("a", "b"))
        >>> respond = lambda data, state: {"square": state["b"] ** 2, "sum": state["a"] + state["b"]}
        >>> scene = ef.scenes.Scene("", axes, None, lambda data: {}, respond, "", (1.0, 1.0))
        >>> print(ef.scenes.tabulate(scene).arrays["sum"])
        [[0. 1. 2.]
         [1. 2. 3.]
         [2. 3. 4.]]
    """
    names = tuple(axis.name for axis in scene.axes)
    values = tuple(jnp.asarray(axis.values, float) for axis in scene.axes)
    background, groups = jax.device_get(evaluate(scene.background, scene.respond, names, scene.data, values))
    arrays, depends = {}, {}
    for key, group in groups.items():
        for name, array in group.items():
            arrays[name] = np.asarray(array)
            depends[name] = tuple(names.index(axis) for axis in key.split())
            _require_finite(scene, name, arrays[name], depends[name])
    return Table(background | dict(scene.labels), arrays, depends)


def _require_finite(scene: Scene, name: str, array: np.ndarray, depends: tuple[int, ...]) -> None:
    if np.isfinite(array).all():
        return
    indices = np.argwhere(~np.isfinite(array))[0][: len(depends)]
    axes = [scene.axes[place] for place in depends]
    state = ", ".join(f"{axis.name} = {axis.values[i]:.3g}" for axis, i in zip(axes, indices, strict=True))
    where = f"`{name}` of the scene '{scene.title}' is not finite at {state or 'any state'}."
    raise ValueError(f"{where} If a loss is undefined after so long a step, take a smaller budget.")


@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=LEAN)
def evaluate(
    background: Callable, respond: Callable, names: tuple[str, ...], data: Any, values: tuple[jax.Array, ...]
) -> tuple[dict[str, jax.Array], dict[str, dict[str, jax.Array]]]:
    """The background, and the arrays grouped by the axes they depend on: {"damping": {"ellipse": (m, …)}}.

    A plain `vmap` over all axes would compute every array in every state. Most arrays depend on one axis or two, so the
    response is traced once, each equation of the trace is found to depend on the axes of its inputs, and the equations
    that depend on the same axes are mapped over just these.
    """
    state = {name: value[0] for name, value in zip(names, values, strict=True)}
    closed, shapes = jax.make_jaxpr(partial(respond, data), return_shape=True)(state)
    trace = closed.jaxpr
    ordered = sorted(zip(names, values, strict=True))  # as JAX orders the entries of a dict
    known = dict(zip(trace.constvars, closed.consts, strict=True))
    known |= {var: value for var, (_, value) in zip(trace.invars, ordered, strict=True)}
    along = {var: (name,) for var, (name, _) in zip(trace.invars, ordered, strict=True)}
    alike: dict[tuple[str, ...], list] = {}
    for equation in trace.eqns:
        axes = {axis for var in _variables(equation) for axis in along.get(var, ())}
        its = tuple(name for name in names if name in axes)
        along |= dict.fromkeys(equation.outvars, its)
        alike.setdefault(its, []).append(equation)
    for axes in sorted(alike, key=len):  # what depends on fewer axes does not need what depends on more
        made = [var for equation in alike[axes] for var in equation.outvars]
        needed = (var for equation in alike[axes] for var in _variables(equation) if var in known)
        inputs = [*dict.fromkeys(needed)]
        alone = trace.replace(constvars=[], invars=inputs, outvars=made, eqns=alike[axes])
        over = jaxpr_as_fun(ClosedJaxpr(alone, ()))
        for axis in reversed(axes):
            over = jax.vmap(over, in_axes=tuple(0 if axis in along.get(var, ()) else None for var in inputs))
        known |= dict(zip(made, over(*(known[var] for var in inputs)), strict=True))
    groups: dict[str, dict[str, jax.Array]] = {}
    for name, var in zip(sorted(shapes), trace.outvars, strict=True):
        axes, array = ((), var.val) if isinstance(var, Literal) else (along.get(var, ()), known[var])
        groups.setdefault(" ".join(axes), {})[name] = array
    return background(data), groups


def _variables(equation: Any) -> list[Any]:
    return [var for var in equation.invars if not isinstance(var, Literal)]


def slack(points: np.ndarray) -> float:
    """The depth behind the origin that still counts as before it: rounding must not decide in symmetric views."""
    return 2e-3 * float(np.abs(points).max())


def view(scene: Scene, table: Table, indices: tuple[int, ...]) -> dict[str, Any]:
    """All arrays in one state, as they are seen: points with three coordinates are turned and lie in the plane.

    Examples:
        >>> axes = [ef.scenes.Axis(name, name, np.array([0.0, 90.0]), 0.0, str) for name in ("azimuth", "elevation")]
        >>> respond, orbit = lambda data, state: {"point": data}, ef.scenes.Orbit("azimuth", "elevation")
        >>> about = (*axes,), jnp.array([1.0, 2.0, 3.0]), lambda data: {}, respond
        >>> scene = ef.scenes.Scene("A point", *about, "", (1.0, 1.0), orbit=orbit)
        >>> table = ef.scenes.tabulate(scene)
        >>> for indices in ((0, 0), (0, 1)):  # along x one sees (y, z), and from above (y, -x)
        ...     print(ef.scenes.view(scene, table, indices)["point"])
        [2. 3.]
        [ 2. -1.]
    """
    arrays = table.at(indices)
    if not scene.orbit:
        return arrays
    at = {axis.name: np.deg2rad(axis.values[i]) for axis, i in zip(scene.axes, indices, strict=True)}
    azimuth, elevation = at[scene.orbit.azimuth], at[scene.orbit.elevation]
    for name, points in arrays.items():
        if np.ndim(points) and points.shape[-1] == 3:
            x, y, z = np.moveaxis(points, -1, 0)
            near = np.cos(azimuth) * x + np.sin(azimuth) * y
            across = np.cos(azimuth) * y - np.sin(azimuth) * x
            arrays[name] = np.stack([across, np.cos(elevation) * z - np.sin(elevation) * near], axis=-1)
            if name in scene.orbit.front:
                depth = np.cos(elevation) * near + np.sin(elevation) * z
                arrays[name][depth < -slack(table.arrays[name])] = np.nan
    return arrays
