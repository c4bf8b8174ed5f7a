"""One figure a file, named as the notebook that it leads; and what it takes to make a scene of your own."""

from efisher_teach.figures.paint import paint
from efisher_teach.figures.scene import Axis, Handle, Orbit, Preset, Scene
from efisher_teach.figures.scenes.a_real_network import a_real_network
from efisher_teach.figures.scenes.a_whole_run import a_whole_run
from efisher_teach.figures.scenes.batches_and_memory import batches_and_memory
from efisher_teach.figures.scenes.bug_hunt import bug_hunt
from efisher_teach.figures.scenes.damping import damping
from efisher_teach.figures.scenes.every_example_pulls import every_example_pulls
from efisher_teach.figures.scenes.fisher_hessian import fisher_hessian
from efisher_teach.figures.scenes.four_ways_to_weigh import four_ways_to_weigh
from efisher_teach.figures.scenes.noise_and_curvature import noise_and_curvature
from efisher_teach.figures.scenes.other_coordinates import other_coordinates
from efisher_teach.figures.scenes.proof import proof
from efisher_teach.figures.scenes.rare_and_wrong import rare_and_wrong
from efisher_teach.figures.scenes.rescaled_layers import rescaled_layers
from efisher_teach.figures.scenes.should_all_improve import should_all_improve
from efisher_teach.figures.scenes.solid import solid
from efisher_teach.figures.scenes.start_here import start_here
from efisher_teach.figures.scenes.the_best_step import the_best_step
from efisher_teach.figures.scenes.two_budgets import two_budgets
from efisher_teach.figures.scenes.vector_field import vector_field
from efisher_teach.figures.scenes.what_a_step_costs import what_a_step_costs
from efisher_teach.figures.scenes.which_matrix import which_matrix
from efisher_teach.figures.scenes.your_model import your_model
from efisher_teach.figures.table import Table, tabulate, view

__all__ = [
    "Axis",
    "Handle",
    "Orbit",
    "Preset",
    "Scene",
    "Table",
    "a_real_network",
    "a_whole_run",
    "batches_and_memory",
    "bug_hunt",
    "damping",
    "every_example_pulls",
    "fisher_hessian",
    "four_ways_to_weigh",
    "noise_and_curvature",
    "other_coordinates",
    "paint",
    "proof",
    "rare_and_wrong",
    "rescaled_layers",
    "should_all_improve",
    "solid",
    "start_here",
    "tabulate",
    "the_best_step",
    "two_budgets",
    "vector_field",
    "view",
    "what_a_step_costs",
    "which_matrix",
    "your_model",
]
