"""Sharing the work of an update among devices: a mesh splits the examples, the parameters, or both."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from efisher_teach import errors

EXAMPLES, PARAMETERS = "examples", "parameters"  # the axes of a mesh that have a meaning here


def automatic(mesh: Any) -> Mesh:
    """A mesh of the same devices and axes, on which XLA decides where arrays are placed if nothing is said."""
    names = getattr(mesh, "axis_names", None)
    if not names or not set(names) <= {EXAMPLES, PARAMETERS}:
        got = f"axes {tuple(names)}" if names else type(mesh).__name__
        action = 'Use e.g. jax.make_mesh((jax.device_count(),), ("examples",)).'
        errors.reject("mesh", "a jax.sharding.Mesh with axes named 'examples' or 'parameters'", got, action)
    return Mesh(mesh.devices, mesh.axis_names)


def inside(mesh: Mesh | None) -> AbstractContextManager:
    """A context with the axes of this mesh, whatever mesh the caller has set."""
    return nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def split_examples(mesh: Mesh | None, x: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
    """Split x and y along their first axis."""
    if mesh is None:
        return x, y
    n, parts = errors.examples(x, y), mesh.shape.get(EXAMPLES, 1)
    if n % parts:
        action = "Leave out the rest, or use fewer devices."
        errors.reject("x and y", f"a multiple of {parts} examples, the devices of the mesh", f"{n}", action)
    return jax.tree.map(lambda leaf: _place(mesh, leaf, [EXAMPLES]), (x, y))


def split_parameters(mesh: Mesh | None, params: PyTree) -> PyTree:
    """Split every array along the longest axis that the devices can share evenly, if there is one."""
    if mesh is None:
        return params
    parts = mesh.shape.get(PARAMETERS, 1)

    def split(leaf):
        shared = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % parts == 0]
        longest = max(shared, key=lambda axis: leaf.shape[axis], default=None)
        return _place(mesh, leaf, [PARAMETERS if axis == longest else None for axis in range(leaf.ndim)])

    return jax.tree.map(split, params)


def copy_to_all(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Give every device the whole of it."""
    return tree if mesh is None else jax.tree.map(partial(_place, mesh, axes=[]), tree)


def _place(mesh, leaf, axes):
    known = [axis if axis in mesh.axis_names else None for axis in axes]
    return lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(*known)))
