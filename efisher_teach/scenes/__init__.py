"""One figure a file: a pure JAX function from state to named arrays, how matplotlib draws it, how it is said in words."""

from efisher_teach.scenes.ellipsoid import ellipsoid
from efisher_teach.scenes.scene import Axis, Handle, Scene, Table, paint, tabulate

__all__ = ["Axis", "Handle", "Scene", "Table", "ellipsoid", "paint", "tabulate"]
