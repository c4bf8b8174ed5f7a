"""Damping: what ε does to one step of a fixed cost, from -C⁺g (ε = 0) to the direction of -g (ε = ∞).

Five views of one step: its shadow on the ellipse, as a filter μ/(μ + ε) of C's eigendirections, in the change it asks
of each example, in the loss that the linear model promises beside the loss one gets, and by its length beside that of
a constant η and the bound on that, which holds whatever the spectrum is: C → sC is the same model, with features √s
times as large and θ as much smaller.
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import spectrum
from efisher_teach.core.step import damping_path, empirical_fisher_step, step_along
from efisher_teach.figures import ink, plane
from efisher_teach.figures.marks import arrow, centre, dots, key, line, polygons, set_up
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 81)
SPECTRA = np.array([1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10])
SHOWN = 36  # examples with a bar of their own
ASPECT = 1.25  # width by height of the panel of the ellipse
STRETCH = np.linspace(0, 2, 25)  # how far along the step, in steps
MARKS = {
    "ellipse": line("A", ink.CONSTRAINT, 1.8),
    "filter": line("B", ink.EMPIRICAL_FISHER),
    "half": line("B", ink.FAINT, 1.2),
    "bounds": line("C", ink.CONSTRAINT, 1.2),
    "constant_lengths": line("C", ink.OTHER, 1.8, dashes=(1, 1.5)),
    "lengths": line("C", ink.EMPIRICAL_FISHER),
    "bars": polygons("D", ink.DATA),
    "promised": line("E", ink.CONSTRAINT, 1.8),
    "true": line("E", ink.TRUTH),
    "held_out": line("E", ink.TRUTH, dashes=(2, 1.5)),
    "path": line("A", ink.EMPIRICAL_FISHER, 1.4, dashes=(4, 2)),
    "kept": dots("B", ink.EMPIRICAL_FISHER, 8),
    "constant_dot": dots("C", ink.OTHER, 7),
    "length_dot": dots("C", ink.EMPIRICAL_FISHER, 9),
    "promised_dot": dots("E", ink.CONSTRAINT, 8),
    "true_dot": dots("E", ink.TRUTH, 8),
    "held_out_dot": dots("E", ink.TRUTH, 8),
    "descent": arrow("A", ink.DESCENT),
    "undamped": arrow("A", ink.UNDAMPED),
    "changes": dots("D", ink.TRUTH, 4),
    "step": arrow("A", ink.EMPIRICAL_FISHER),
}


def damping(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Damp the step of budget c, for a problem whose parameters are a vector.

    Args:
        problem: With `params` of shape (p,), p ≥ 2, and at least 36 examples.
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axes "damping", ε from 1e-7 to 10, and "spectrum", which multiplies every eigenvalue of C.

    Raises:
        ValueError: params is not a vector of at least two; no held-out examples; fewer than 36 examples; budget out
            of range.

    Examples:
        >>> scene = ef.scenes.damping(ef.breast_cancer(None))
        >>> print(scene.presets[0].asks)
        The step is the best one there is: why would anyone shorten it?
    """
    plane.require_vector(problem, least=2)
    if problem.x_test is None or problem.y_test is None:
        errors.reject("problem", "one with held-out examples", "x_test or y_test None", "Set aside a fifth.")
    plane.require_examples(problem, SHOWN)
    return Scene(
        title="Damping: one cost, every ε",
        axes=(
            Axis("damping", "damping ε", DAMPINGS, 1e-3, scientific),
            Axis("spectrum", "every μ times", SPECTRA, 1.0, lambda value: f"{value:g}"),
        ),
        data=plane.sample_of(problem, budget),
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC;DEC", "A;B;D;E;C"),
        words=WORDS,
        size=(10.0, 6.4),
        narrow=(4.8, 13.4),
        presets=PRESETS,
    )


WORDS = (
    "At ε = {damping}, with every μ times {spectrum}, the step is {length:.3f} long, {turn:.0f}° from −g, and keeps "
    "{kept_least:.0f} % to {kept_most:.0f} % of the undamped components. With a constant η it is "
    "{constant_length:.3f} long, at most {bound:.3f} for any spectrum. Its shadow would cost {shadow:.2f} c. The "
    "linear model promises a mean loss change of {predicted:+.4f}, the training loss makes {actual:+.4f}, the held-out "
    "loss {unseen:+.4f}; {worse:.0f} % of the training examples get worse. Every ε spends √c = {cost:.3f}."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7, "spectrum": 1.0},
           "Every direction is kept, however little C knows of it: the step is long.",
           "The step is the best one there is: why would anyone shorten it?"),
    Preset("A little", {"damping": 1e-3, "spectrum": 1.0},
           "What C hardly knows is filtered out: the promise comes closer to the truth.",
           "Which examples still gain as much as without damping?"),
    Preset("Strong", {"damping": 10.0, "spectrum": 1.0}, "Far above every eigenvalue the direction is that of −g.",
           "What must happen to η so that the step does not shrink to nothing?"),
    Preset("A small C", {"damping": 1e-3, "spectrum": 1e-3},
           "The losses are what they were; C is a thousandth, and the bound has not moved.",
           "Which of the two lengths stays below it, and why does the other one not?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every ε and every budget, so that a change of budget needs no new picture."""
    G, widest = plane.gradients(data["problem"]), plane.WIDEST
    paths = damping_path(G, jnp.asarray(DAMPINGS, G.dtype), widest)
    outline = jnp.sqrt(widest) * plane.ellipse(G, _basis(G), 181)
    lengths = jnp.linalg.norm(paths.delta, axis=1)
    fall = jnp.sqrt(widest * paths.agreement[0])
    asked = paths.predicted_changes[:, :SHOWN] / jnp.sqrt(widest)
    low, high = jnp.minimum(-1.8, jnp.min(asked)), jnp.maximum(0.8, jnp.max(asked))
    return {
        "reach": plane.frame(1.08 * jnp.max(jnp.abs(outline), axis=0), ASPECT),
        "length_limits": jnp.stack([jnp.min(lengths) / 50, 40 * jnp.max(lengths)]),
        "change_limits": 1.1 * jnp.stack([low, high]),
        "loss_limits": jnp.stack([-2.1 * fall, 0.5 * fall]),
    }


def respond(data, state):
    """The step at ε, and the path over all ε."""
    problem, budget, damping, scale = data["problem"], data["budget"], state["damping"], state["spectrum"]
    G, dampings, unit = plane.gradients(problem), jnp.asarray(DAMPINGS, damping.dtype), jnp.sqrt(scale)
    g, basis, eigenvalues = mean_gradient(G), _basis(G), scale * spectrum(G).eigenvalues
    step = empirical_fisher_step(unit * G, damping=damping, budget=budget)
    undamped = empirical_fisher_step(G, budget=budget)
    rate, delta = undamped.learning_rate, unit * step.delta  # a step of θ as it was
    path = damping_path(unit * G, dampings, budget)
    lengths = jnp.linalg.norm(path.delta, axis=1)
    constant_lengths = rate * lengths / path.learning_rate
    constant_length = constant_lengths[jnp.argmin(jnp.abs(dampings - damping))]

    def bound(damping):
        return rate * jnp.sqrt(undamped.agreement / damping) / 2

    unseen = plane.held_out(problem)
    actual, actual_unseen = (plane.changes(each, delta) for each in (problem, unseen))
    predicted, length, rms = jnp.mean(step.predicted_changes), jnp.linalg.norm(step.delta), jnp.sqrt(budget)
    stretch, values = jnp.asarray(STRETCH, G.dtype), jnp.logspace(-7, 1, 65)

    def along(each):
        return jax.vmap(lambda t: jnp.mean(plane.changes(each, t * delta)))(stretch)

    means = {"predicted": predicted, "actual": jnp.mean(actual), "unseen": jnp.mean(actual_unseen)}
    places, kept = jnp.arange(SHOWN, dtype=G.dtype), eigenvalues / (eigenvalues + damping)
    ends = {"descent": step_along(G, -g, budget), "undamped": undamped.delta, "step": delta}
    return means | {
        "ellipse": rms * plane.ellipse(G, basis, 181),
        "path": dot(damping_path(G, dampings, budget).delta, basis),
        **plane.from_origin(**{name: dot(end, basis) for name, end in ends.items()}),
        **plane.over(values, filter=values / (values + damping)),
        "half": jnp.array([[damping, 0.0], [damping, 0.5]]),
        **plane.over(eigenvalues, kept=kept),
        **plane.over(dampings, lengths=lengths, constant_lengths=constant_lengths, bounds=bound(dampings)),
        **plane.over(damping, length_dot=length, constant_dot=constant_length),
        "bars": plane.rectangles(places, step.predicted_changes[:SHOWN] / rms, 0.8),
        **plane.over(places, changes=actual[:SHOWN] / rms),
        **plane.over(stretch, promised=stretch * predicted, true=along(problem), held_out=along(unseen)),
        **plane.over(1.0, promised_dot=predicted, true_dot=means["actual"], held_out_dot=means["unseen"]),
        **plane.numbers(length=length, constant_length=constant_length, bound=bound(damping)),
        "shadow": jnp.mean(dot(G, dot(basis, dot(delta, basis))) ** 2) / budget,
        **plane.numbers(turn=plane.turn_of(delta, -g), cost=jnp.sqrt(step.budget_spent)),
        **plane.percent(kept_least=jnp.min(kept), kept_most=jnp.max(kept), worse=jnp.mean(actual > 0)),
    }


def still(panels, background):
    """The ellipse, and four readings of the same step."""
    steps, kept, length, each, loss = (panels[letter] for letter in "ABCDE")
    ends = DAMPINGS[[0, -1]]
    centre(steps, background["reach"], ASPECT, xlabel="along −g", ylabel="across")
    steps.set_title("The ellipse, and the step's shadow")
    key(steps, "lower left", ("−C⁺g: ε = 0", ink.UNDAMPED), ("−g: ε = ∞", ink.DESCENT))
    key(steps, "lower right", ("the step at ε", ink.EMPIRICAL_FISHER))

    set_up(kept, log="x", xlim=ends, ylim=(0, 1.05), xlabel="eigenvalue μ of C")
    kept.set_title("What is kept: μ/(μ + ε)")
    set_up(length, log="xy", xlim=ends, ylim=background["length_limits"], xlabel="damping ε")
    length.set_title("Length of the step")
    constant = ("constant η (dotted)", ink.OTHER), ("its bound η√ρ/(2√ε)", ink.CONSTRAINT)
    key(length, "upper right", ("c enforced", ink.EMPIRICAL_FISHER), *constant)

    set_up(each, zero=True, xlim=(-1, SHOWN), ylim=background["change_limits"], xticks=[])
    each.set(xlabel=f"{SHOWN} of the examples", title="Change of each loss, in √c")
    each.axhline(-1, color=ink.CONSTRAINT, lw=1, ls=(0, (4, 2)))
    key(each, "upper left", ("first order", ink.DATA))
    key(each, "upper right", ("true", ink.TRUTH))

    set_up(loss, zero=True, xlim=(0, 2), ylim=background["loss_limits"], xlabel="steps along Δθ")
    loss.set_title("Change of the mean loss")
    losses = ("true", ink.TRUTH), ("held out (dashed)", ink.TRUTH)
    key(loss, "lower left", ("promised", ink.CONSTRAINT), *losses)


def _basis(G):
    """An orthonormal basis (p, 2) of the plane of −g and −C⁺g."""
    return plane.plane_of(-mean_gradient(G), empirical_fisher_step(G, learning_rate=1.0).delta)
