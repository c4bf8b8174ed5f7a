"""One figure a file: a pure JAX function from state to named arrays, its drawing by matplotlib, its words."""

from efisher_teach.scenes.damping import damping
from efisher_teach.scenes.ellipsoid import ellipsoid
from efisher_teach.scenes.race import race
from efisher_teach.scenes.scene import Axis, Handle, Orbit, Preset, Scene, Table, paint, show, tabulate, view

__all__ = [
    "Axis",
    "Handle",
    "Orbit",
    "Preset",
    "Scene",
    "Table",
    "damping",
    "ellipsoid",
    "paint",
    "race",
    "show",
    "tabulate",
    "view",
]
