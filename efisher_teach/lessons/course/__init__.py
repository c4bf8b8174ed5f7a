"""The questions and exercises of the course, one file for each notebook. An exercise is its solution, decorated."""

from efisher_teach.exercises import (
    bugs,
    coordinates,
    damping,
    equal,
    fishers,
    lagrange,
    model,
    network,
    price,
    pull,
)
from efisher_teach.exercises.exercise import EXERCISES, Exercise, Verdict, given, judge, source, stub
from efisher_teach.exercises.question import QUESTIONS, Question, ask

__all__ = [
    "EXERCISES",
    "QUESTIONS",
    "Exercise",
    "Question",
    "Verdict",
    "ask",
    "bugs",
    "coordinates",
    "damping",
    "equal",
    "fishers",
    "given",
    "judge",
    "lagrange",
    "model",
    "network",
    "price",
    "pull",
    "source",
    "stub",
]
