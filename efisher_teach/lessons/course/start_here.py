"""Notebook 00: the mean gradient, and a first guess about damping."""

from efisher_teach.lessons.exercise import exercise, rows
from efisher_teach.lessons.question import ask

ask(
    "what damping does",
    "All steps cost the same: each changes the losses by the same root mean square. Now the damping ε goes from "
    "almost nothing to a lot. What happens to the step?",
    "It gets shorter and keeps its direction.",
    "It turns towards −g and keeps its length.",
    "It turns towards −g and gets shorter.",
    because="It turns, and it gets shorter. With little damping the step is long and far from the direction of −g; "
    "with a lot of it, the step lies along −g and is much shorter. The explorer shows it, and notebook 04 says why.",
    answer=3,
)


@exercise(
    1, "The mean of the rows of $G$ is the gradient of the mean loss. Write it.",
    ("G has one row for each example. Over which axis is the mean?",
     "`G.mean(axis=...)`: the axis that disappears is the one of the examples.",
     "`return G.mean(axis=0)`"),
    lambda rng, size: (rows(rng, size),),
    mistakes=lambda G: {
        "Mean over the wrong axis: you averaged over the parameters, and got one number for each example.":
            G.mean(axis=1),
        "1/n is missing: this is the sum of the gradients.": G.sum(axis=0),
        "This is one number: the mean over everything. Keep one number for each parameter.": G.mean(),
    },
)  # fmt: skip
def mean_gradient(G):
    """Return g (p,), the mean of the rows of G (n, p)."""
    return G.mean(axis=0)
