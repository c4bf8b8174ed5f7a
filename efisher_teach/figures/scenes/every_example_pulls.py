"""The arrow cloud: each example pulls its own way, −gᵢ. The mean hides how far apart they pull; C does not.

Two averages of one cloud: the arrow −g, and the ellipse vᵀC⁻¹v = 1 of the second moment C, with its semi-axes √μ along
C's eigenvectors. A gradient that grows moves the mean in proportion, and C by its square. A flipped label turns an
arrow round, which the mean cannot but notice; C sees lengths and axes only.
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.matrices import empirical_fisher
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_by_two import root, semi_axes
from efisher_teach.figures import plane, samples
from efisher_teach.figures.ink import CANDIDATE, CONSTRAINT, DATA, DESCENT, EMPIRICAL_FISHER, OTHER
from efisher_teach.figures.marks import about_the_middle, arrow, dots, key, line, polygons, set_up
from efisher_teach.figures.plane import circle, fit, from_origin, numbers, over, points, rectangles, unit
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene

SHOWN = 60  # examples at most: they are the whole sample here, so that all that is averaged is seen
OUTLIER = np.linspace(0, 3, 13)
ASPECT = 1.24  # width by height of the left panel
MARKS = {
    "arrows": line("A", DATA, 1.0),
    "place": line("B", CANDIDATE, 1.0),
    "squares": line("C", EMPIRICAL_FISHER),
    "means": line("C", DESCENT),
    "turned_arrows": line("A", CONSTRAINT, 1.0, dashes=(2, 2)),
    "loud": line("A", DATA, 3.0),
    "turned_loud": line("A", CONSTRAINT, 3.0, dashes=(2, 2)),
    "tips": dots("A", DATA, 5),
    "turned_tips": dots("A", CONSTRAINT, 5),
    "centred": line("A", OTHER, 1.6, dashes=(4, 2)),
    "bars": polygons("B", DATA),
    "ellipse": line("A", EMPIRICAL_FISHER, 2.2),
    "turned_bars": polygons("B", CONSTRAINT),
    "picked": line("A", CANDIDATE, 2.2),
    "level": line("B", DESCENT, 1.6, dashes=(4, 2)),
    "square_dot": dots("C", EMPIRICAL_FISHER, 9),
    "mean_dot": dots("C", DESCENT, 9),
    "mean_arrow": arrow("A", DESCENT),
    "along_dot": dots("B", CANDIDATE, 9),
    "tip": dots("A", CANDIDATE, 10),
}


def every_example_pulls(problem: Problem, *, seed: int = 0) -> Scene:
    """The gradients of up to 60 examples of a problem with two parameters, their mean, and their second moment.

    Args:
        problem: With `params` of shape (2,) and at least 4 examples; the first 60 are shown, sorted by their pull.
            Flipping a label y means min y + max y - y, also where labels are real numbers.
        seed: Of the order in which labels are flipped.

    Returns:
        A `Scene` with the axes "example" (which one is picked, by its place among the bars), "outlier" (the longest
        gradient, times 0 to 3) and "noise" (the part of the labels that is flipped, 0 to 50 %).

    Raises:
        ValueError: params is not (2,); fewer than 4 examples.

    Examples:
        >>> scene = ef.scenes.every_example_pulls(ef.breast_cancer())
        >>> print(scene.presets[1].asks)
        Which moves more when one gradient grows, the arrow or the ellipse?
    """
    plane.require_two_parameters(problem)
    plane.require_examples(problem, 4)
    n = min(len(problem.y), SHOWN)
    noises = np.arange(n // 2 + 1) / n  # one more label at each place
    turn = jax.random.permutation(jax.random.key(seed), n)
    return Scene(
        title="Every example pulls its own way",
        axes=(
            Axis("example", "pick an example", np.arange(1.0, n + 1), n - 2.0, lambda value: f"{value:.0f}"),
            Axis("outlier", "longest gradient (thick)", OUTLIER, 1.0, lambda value: f"{value:g}×", 5),
            Axis("noise", "flipped labels", noises, 0.0, lambda value: f"{100 * value:.0f} %", 6),
        ),
        data={"problem": plane.only(problem, slice(n)), "turn": turn, "noises": jnp.asarray(noises, float)},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;A;B;B;C;C"),
        words=WORDS,
        size=(10.0, 6.0),
        narrow=(4.8, 10.2),
        handles=(Handle("tip", ("example",), "the tip of the picked arrow"),),
        presets=PRESETS,
    )


WORDS = (
    "With {noise} of the labels flipped and the longest gradient times {outlier}, the mean of the {count:.0f} arrows "
    "is {mean:.3f} long, the root mean square of their lengths {rms:.3f}: ‖g‖² is {share:.0f} % of tr C, and the mean "
    "hides the rest. {against:.0f} % of the examples pull against it. The ellipse of C reaches {longest:.3f} and "
    "{shortest:.3f}. Arrow {example} is {length:.3f} long, and its part along the mean is {along:+.3f}."
)
PRESETS = (
    Preset("As they are", {"outlier": 1.0, "noise": 0.0}, "One arrow is the mean of all; few lie along it.",
           "How many of the examples pull against the mean of all?"),
    Preset("One loud example", {"outlier": 3.0, "noise": 0.0},
           "Its pull counts three times in the mean, and nine times in C.",
           "Which moves more when one gradient grows, the arrow or the ellipse?"),
    Preset("Half the labels flipped", {"outlier": 1.0, "noise": 0.5},
           "Half the arrows turn round, and the mean goes elsewhere; the ellipse shows that all still pull.",
           "Where the mean is almost 0, is there nothing left to learn?"),
)  # fmt: skip


def background(data):
    """Limits: all arrows but the longest, which may point beyond the view."""
    cloud, flipped = samples.cloud(data["problem"]), data["turn"] < jnp.arange(len(data["noises"]))[:, None]
    g, each = mean_gradient(cloud.own), jnp.stack([cloud.own, cloud.other]).at[:, cloud.longest].set(0)
    own, other = jnp.abs(jnp.concatenate([each, dot(each, unit(g))[..., None]], axis=-1))
    # Of some flipped labels, too, arrows are cut at the edge.
    half = jnp.maximum(jnp.max(own, axis=0), jnp.quantile(other, 0.8, axis=0))
    return {
        "reach": fit(half, ASPECT, 1.12),
        "along": 1.25 * half[2],
        "lengths": 1.35 * jnp.max(samples.lengths(cloud.rows(flipped, OUTLIER[-1]))[1]),
        "mean": g,
        **numbers(longest=1 + cloud.longest, count=len(cloud.own)),
    }


def respond(data, state):
    """The cloud, its mean and both ellipses; and of each arrow what lies along the mean."""
    cloud, view, outlier = samples.cloud(data["problem"]), background(data), state["outlier"]
    edge, limit, picked = 0.985 * view["reach"], view["along"], jnp.round(state["example"]).astype(int) - 1
    every = data["turn"] < jnp.arange(len(data["noises"]))[:, None]  # whose turn has come, at every noise
    flipped = every[plane.place_of(state["noise"], data["noises"])]
    G, quiet = cloud.rows(flipped, outlier), cloud.rows(flipped, 0.0)
    g, C = mean_gradient(G), empirical_fisher(G)
    length, rms, (longest, shortest) = jnp.linalg.norm(g), jnp.sqrt(jnp.trace(C)), semi_axes(C)
    means, squares = samples.lengths(cloud.rows(every, outlier))
    tips, loud, tip = (plane.inside(-each, edge) for each in (quiet, G[cloud.longest], G[picked]))
    true_tips, turned_tips = jnp.where(flipped[:, None], 0, tips), jnp.where(flipped[:, None], tips, 0)

    rim, places, along = circle(49), jnp.arange(1, len(G) + 1, dtype=g.dtype), dot(G, unit(g))
    seen = jnp.clip(along, -limit, limit)
    return {
        "ellipse": dot(rim, root(C)),
        "centred": dot(rim, root(C - jnp.outer(g, g))) - g,
        **from_origin(arrows=true_tips, turned_arrows=turned_tips, mean_arrow=-g, picked=tip),
        **from_origin(loud=loud * ~flipped[cloud.longest], turned_loud=loud * flipped[cloud.longest]),
        "tips": true_tips,
        "turned_tips": turned_tips,
        "tip": tip,
        "bars": rectangles(places, jnp.where(flipped, 0, seen), 0.8),
        "turned_bars": rectangles(places, jnp.where(flipped, seen, 0), 0.8),
        "level": points([0.0, len(G) + 1.0], length),
        **over(state["example"], place=limit * jnp.array([-1.0, 1.0]), along_dot=seen[picked]),
        **over(data["noises"], means=means, squares=squares),
        **over(state["noise"], mean_dot=length, square_dot=rms),
        **numbers(count=len(G), mean=length, rms=rms, longest=longest, shortest=shortest),
        **plane.percent(share=length**2 / jnp.maximum(rms**2, 1e-30), against=jnp.mean(along < 0)),
        **numbers(length=jnp.linalg.norm(G[picked]), along=along[picked]),
    }


def still(panels, background):
    """The cloud at the left; at the right each arrow's part along the mean, and both averages against the noise."""
    cloud, along, lengths = (panels[letter] for letter in "ABC")
    about_the_middle(cloud, background["reach"], aspect="equal", title="Where each example pulls: −gᵢ")
    cloud.set(xlabel="along θ₁", ylabel="along θ₂")
    rising = background["mean"].prod() > 0  # then arrows, and flipped ones, leave these corners free
    corners = ("upper left", "lower right") if rising else ("upper right", "lower left")
    averages = ("mean −g", DESCENT), ("second moment C", EMPIRICAL_FISHER), ("centred Σ, about −g", OTHER)
    key(cloud, corners[0], *averages)
    examples = ("examples −gᵢ", DATA), ("label flipped", CONSTRAINT), ("picked: drag it", CANDIDATE)
    key(cloud, corners[1], *examples)

    count, limit = background["count"], background["along"]
    set_up(along, zero=True, xlim=(0, count + 1), ylim=(-1.45 * limit, limit))
    along.set_xticks([background["longest"]], ["longest"])
    along.set(xlabel=f"{count:.0f} examples; below 0: against", title="Pull along the mean")
    key(along, "lower left", ("‖g‖, length of the mean", DESCENT))

    lengths.set(xlim=count // 2 / count * np.array([-0.03, 1.03]), ylim=(0, background["lengths"]))
    lengths.set(xlabel="flipped labels", title="‖g‖, and RMS of ‖gᵢ‖")
    lengths.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    both = ("√tr C, RMS of ‖gᵢ‖", EMPIRICAL_FISHER), ("‖g‖, length of the mean", DESCENT)
    key(lengths, "upper right", *both)
