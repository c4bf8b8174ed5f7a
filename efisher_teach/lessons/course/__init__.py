"""The questions and exercises of the course: one file for each notebook, and named as the notebook.

Importing this package imports the files, which fill `EXERCISES` and `QUESTIONS`.
"""

from importlib import import_module

from efisher_teach.lessons.exercise import EXERCISES, Exercise, given, source, stub
from efisher_teach.lessons.judge import Verdict, judge
from efisher_teach.lessons.question import QUESTIONS, Question, ask

NOTEBOOKS = (
    *(
        "start_here",
        "every_example_pulls",
        "what_a_step_costs",
        "the_best_step",
        "damping",
        "other_coordinates",
    ),
    *("batches_and_memory", "fisher_hessian", "should_all_improve", "a_real_network", "which_matrix"),
    *("bug_hunt", "your_model"),
)
for name in NOTEBOOKS:
    import_module(f"{__name__}.{name}")

__all__ = [
    "EXERCISES",
    "QUESTIONS",
    "Exercise",
    "Question",
    "Verdict",
    "ask",
    "given",
    "judge",
    "source",
    "stub",
]
