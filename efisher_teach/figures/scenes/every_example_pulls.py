"""The arrow cloud: each example pulls its own way, −gᵢ. The mean hides how far apart they pull; C does not.

Two averages of one cloud: the arrow −g, and the ellipse vᵀC⁻¹v = 1 of the second moment C, with its semi-axes √μ along
C's eigenvectors. A gradient that grows moves the mean in proportion, and C by its square. A flipped label turns an
arrow round, which the mean cannot but notice; C sees lengths and axes only.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.core.gradients import mean_gradient, per_example_gradients
from efisher_teach.core.matrices import empirical_fisher
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_by_two import root, semi_axes
from efisher_teach.figures import plane
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
    "tips": dots("A", DATA, 5),
    "turned_tips": dots("A", CONSTRAINT, 5),
    "loud_tip": dots("A", DATA, 9),
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
           "Arrows turn round until hardly any mean is left; the ellipse shows that all of them still pull.",
           "The mean gradient is almost 0. Is there nothing left to learn?"),
)  # fmt: skip


def background(data):
    """Limits: all arrows but the longest, which may point beyond the view."""
    true, flipped, longest = cloud = _cloud(data)
    both = jnp.where(jnp.tile(longest, 2)[:, None], 0, jnp.concatenate([true, flipped]))
    both = jnp.concatenate([both, dot(both, unit(mean_gradient(true)))[:, None]], axis=1)
    own, other = jnp.split(jnp.abs(both), 2)  # of some flipped labels, too, arrows are cut at the edge
    half = jnp.maximum(jnp.max(own, axis=0), jnp.quantile(other, 0.8, axis=0))
    loudest, _, _ = jax.vmap(lambda noise: _gradients(data, cloud, OUTLIER[-1], noise))(data["noises"])
    return {
        "reach": fit(half, ASPECT, 1.12),
        "along": 1.25 * half[2],
        "lengths": 1.35 * jnp.max(jnp.sqrt(jnp.mean(jnp.sum(loudest**2, axis=2), axis=1))),
        "noises": data["noises"],
        "mean": mean_gradient(true),
        **numbers(longest=1 + jnp.argmax(longest), count=len(true)),
    }


def respond(data, state):
    """The cloud, its mean and both ellipses; and of each arrow what lies along the mean."""
    cloud, view = _cloud(data), background(data)
    example, outlier, noise = state["example"], state["outlier"], state["noise"]
    edge, limit = 0.985 * view["reach"], view["along"]
    G, g, C = _gradients(data, cloud, outlier, noise)
    turned, picked = _turned(data, noise), jnp.round(example).astype(int) - 1

    # Without the outlier, the arrows do not depend on its scale.
    tips = plane.inside(-_gradients(data, cloud, 0.0, noise)[0], edge)
    true_tips, turned_tips = jnp.where(turned[:, None], 0, tips), jnp.where(turned[:, None], tips, 0)
    loud, tip = plane.inside(-dot(cloud[2].astype(g.dtype), G), edge), plane.inside(-G[picked], edge)

    rim, places, along = circle(49), jnp.arange(1, len(G) + 1, dtype=g.dtype), dot(G, unit(g))
    seen, trace, length = jnp.clip(along, -limit, limit), jnp.trace(C), jnp.linalg.norm(g)

    def lengths(noise):
        G, g, _ = _gradients(data, cloud, outlier, noise)
        return jnp.linalg.norm(g), jnp.sqrt(jnp.mean(jnp.sum(G**2, axis=1)))

    means, squares = jax.vmap(lengths)(data["noises"])
    longest, shortest = semi_axes(C)
    return {
        "ellipse": dot(rim, root(C)),
        "centred": dot(rim, root(C - jnp.outer(g, g))) - g,
        **from_origin(arrows=true_tips, turned_arrows=turned_tips, loud=loud, mean_arrow=-g, picked=tip),
        "tips": true_tips,
        "turned_tips": turned_tips,
        "loud_tip": loud,
        "tip": tip,
        "bars": rectangles(places, jnp.where(turned, 0, seen), 0.8),
        "turned_bars": rectangles(places, jnp.where(turned, seen, 0), 0.8),
        "level": points([0.0, len(G) + 1.0], length),
        **over(example, place=limit * jnp.array([-1.0, 1.0]), along_dot=seen[picked]),
        **over(data["noises"], means=means, squares=squares),
        **over(noise, mean_dot=length, square_dot=jnp.sqrt(trace)),
        **numbers(count=len(G), mean=length, rms=jnp.sqrt(trace), longest=longest, shortest=shortest),
        **plane.percent(share=length**2 / jnp.maximum(trace, 1e-30), against=jnp.mean(along < 0)),
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
    set_up(along, zero=True, xlim=(0, count + 1), ylim=(-limit, limit))
    along.set_xticks([background["longest"]], ["longest"])
    along.set(xlabel=f"{count:.0f} examples; below 0: against", title="Pull along the mean")
    key(along, "lower left", ("|g|, length of the mean", DESCENT))

    lengths.set(xlim=background["noises"][-1] * np.array([-0.03, 1.03]), ylim=(0, background["lengths"]))
    lengths.set(xlabel="flipped labels", title="‖g‖, and RMS of ‖gᵢ‖")
    lengths.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    both = ("√tr C, RMS of |gᵢ|", EMPIRICAL_FISHER), ("|g|, length of the mean", DESCENT)
    key(lengths, "upper right", *both)


def _cloud(data):
    """G (n, 2) with each example's own label and with the other one, by falling pull; and which row is longest."""
    problem = data["problem"]
    gradients = partial(per_example_gradients, problem.loss_fn, problem.params, problem.x)
    true, flipped = gradients(problem.y), gradients(jnp.min(problem.y) + jnp.max(problem.y) - problem.y)
    order = jnp.argsort(-dot(true, mean_gradient(true)))
    true, flipped = true[order], flipped[order]
    return true, flipped, jnp.arange(len(true)) == jnp.argmax(jnp.sum(true**2, axis=1))


def _turned(data, noise):
    """The labels that are flipped: those whose turn has come."""
    return data["turn"] < jnp.round(noise * len(data["turn"]))


def _gradients(data, cloud, outlier, noise):
    """G with some labels flipped and the longest row scaled, its mean g and its second moment C."""
    true, flipped, longest = cloud
    G = jnp.where(_turned(data, noise)[:, None], flipped, true)
    G = jnp.where(longest[:, None], outlier * G, G)
    return G, mean_gradient(G), empirical_fisher(G)
