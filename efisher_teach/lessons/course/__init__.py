"""The questions and exercises of the course, one file for each notebook. An exercise is its solution, decorated."""

from efisher_teach.lessons.course import (
    a_real_network,
    bug_hunt,
    damping,
    every_example_pulls,
    fisher_hessian,
    other_coordinates,
    should_all_improve,
    the_best_step,
    what_a_step_costs,
    your_model,
)
from efisher_teach.lessons.exercise import EXERCISES, Exercise, given, source, stub
from efisher_teach.lessons.judge import Verdict, judge
from efisher_teach.lessons.question import QUESTIONS, Question, ask

__all__ = [
    "EXERCISES",
    "QUESTIONS",
    "Exercise",
    "Question",
    "Verdict",
    "a_real_network",
    "ask",
    "bug_hunt",
    "damping",
    "every_example_pulls",
    "fisher_hessian",
    "given",
    "judge",
    "other_coordinates",
    "should_all_improve",
    "source",
    "stub",
    "the_best_step",
    "what_a_step_costs",
    "your_model",
]
