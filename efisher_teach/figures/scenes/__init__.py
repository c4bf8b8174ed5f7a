"""TEMPORARY while scenes are converted: those that import are offered."""

import contextlib
import importlib

from efisher_teach.figures.paint import paint
from efisher_teach.figures.scene import Axis, Handle, Orbit, Preset, Scene
from efisher_teach.figures.table import Table, tabulate, view

for _name in "a_real_network bug_hunt damping every_example_pulls fisher_hessian other_coordinates proof should_all_improve solid the_best_step two_budgets vector_field what_a_step_costs your_model".split():
    with contextlib.suppress(ImportError):
        globals()[_name] = getattr(importlib.import_module(f"efisher_teach.figures.scenes.{_name}"), _name)
