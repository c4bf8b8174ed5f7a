"""The two questions of a page: is this answer right, and which exercises can be judged here?"""

import json
import linecache

import jax
import jax.numpy as jnp
import numpy as np
from jax import REAL

import efisher_teach as ef
from efisher_teach.lessons.course import EXERCISES, Verdict, judge
from efisher_teach.lessons.guard import StoppedError, tried

FILE = "<your answer>"


def check(name: str, code: str) -> str:
    """Run the code of an answer as a cell would, and judge the function that has the exercise's name; as JSON."""
    room: dict = {"__name__": "__main__", "jax": jax, "jnp": jnp, "np": np, "ef": ef}
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    try:
        tried(lambda: exec(compile(code, FILE, "exec"), room))
    except StoppedError as stopped:
        verdict = Verdict("stopped", str(stopped))
    else:
        if name in room:
            verdict = judge(EXERCISES[name], room[name])
        else:
            verdict = Verdict("not yet", f"There is no function named `{name}` in it.")
    return json.dumps(verdict._asdict())


def left_out() -> dict[str, str]:
    """Say for each exercise that cannot be judged here why: what its parts lack, or that its bug is none here."""
    reasons = {}
    for name, exercise in EXERCISES.items():
        try:
            arguments = exercise.draw(np.random.default_rng(0), 0)
            exercise.solution(*arguments)
            exercise.mistakes(*arguments)
            for sides in exercise.properties.values():
                sides(exercise.solution, *arguments)
        except AttributeError as error:
            reasons[name] = str(error).replace(REAL, "is not on this page.")
        else:
            if exercise.bug and judge(exercise, exercise.bug).state == "right":
                reasons[name] = "Its bug shows in single precision, which is not on this page."
    return reasons
