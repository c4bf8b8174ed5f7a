"""One figure a file: a pure JAX function from state to named arrays, its drawing by matplotlib, its words."""

from efisher_teach.scenes.arrow_cloud import arrow_cloud
from efisher_teach.scenes.charts import charts
from efisher_teach.scenes.cost import cost
from efisher_teach.scenes.damping import damping
from efisher_teach.scenes.ellipsoid import ellipsoid
from efisher_teach.scenes.lookalikes import lookalikes
from efisher_teach.scenes.proof import proof
from efisher_teach.scenes.race import race
from efisher_teach.scenes.scene import Axis, Handle, Orbit, Preset, Scene, Table, paint, show, tabulate, view
from efisher_teach.scenes.solid import solid
from efisher_teach.scenes.three_ellipses import three_ellipses
from efisher_teach.scenes.two_budgets import two_budgets
from efisher_teach.scenes.vector_field import vector_field
from efisher_teach.scenes.who_improves import who_improves
from efisher_teach.scenes.your_model import your_model

__all__ = [
    "Axis",
    "Handle",
    "Orbit",
    "Preset",
    "Scene",
    "Table",
    "arrow_cloud",
    "charts",
    "cost",
    "damping",
    "ellipsoid",
    "lookalikes",
    "paint",
    "proof",
    "race",
    "show",
    "solid",
    "tabulate",
    "three_ellipses",
    "two_budgets",
    "vector_field",
    "view",
    "who_improves",
    "your_model",
]
