"""Damping: what ε does to one step of a fixed cost, from -C⁺g (ε = 0) to gradient descent (ε = ∞).

Five views of one step: its shadow on the ellipse, as a filter μ/(μ + ε) of C's eigendirections, in the change it asks
of each example, in the loss that the linear model promises beside the loss one gets, and by its length beside that of
a constant η and the bound on that, which holds whatever the spectrum is. The spectrum may be dragged, μⱼ → sμ₁(μⱼ/μ₁)ᵗ:
that is the same model in other units along the eigenvectors, so losses and -C⁺g stay, and what ε does changes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach.core.coordinates import steps_in_units
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import spectrum
from efisher_teach.figures import ink, plane, samples
from efisher_teach.figures.marks import arrow, centre, dots, key, line, loss_panel, polygons, set_up
from efisher_teach.figures.plane import numbers, over, percent
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 41)
SCALES, POWERS = np.logspace(-3, 1, 5), np.array([0, 0.5, 1, 1.5])
# Every ε/s there is, and 0 and ∞: −C⁺g and −g.
RATIOS = np.array([0, *np.logspace(-8, 4, 61), 1e7])
SHOWN = 36  # examples with a bar of their own
ASPECT = 1.25  # width by height of the panel of the ellipse
STRETCH = np.linspace(0, 2, 17)  # how far along the step, in steps
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
    "undamped": arrow("A", ink.UNDAMPED),
    "changes": dots("D", ink.TRUTH, 4),
    "step": arrow("A", ink.EMPIRICAL_FISHER),
    "descent": arrow("A", ink.DESCENT),
}


def damping(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Damp the step of budget c, for a problem whose parameters are a vector.

    Args:
        problem: With `params` of shape (p,), p ≥ 2, and at least 36 examples.
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axes "damping", ε from 1e-7 to 10; "scale", s, which multiplies every eigenvalue of C; and
        "power", t, which spreads them: 0 makes all as large as the largest, 1 leaves them as they are.

    Raises:
        ValueError: params is not a vector of p ≥ 2; no held-out examples; fewer than 36 examples; budget out of range.

    Examples:
        >>> scene = ef.scenes.damping(ef.breast_cancer(None))
        >>> print(scene.presets[0].asks)
        The step is the best one there is: why would anyone shorten it?
    """
    plane.require_vector(problem, least=2)
    plane.require_held_out(problem)
    plane.require_examples(problem, SHOWN)
    return Scene(
        title="Damping: one cost, every ε",
        axes=(
            Axis("damping", "damping ε", DAMPINGS, 1e-3, scientific),
            Axis("scale", "every μ times", SCALES, 1.0, "{:g}".format),
            Axis("power", "μ/μ₁ to the power", POWERS, 1.0, "{:g}".format),
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
    "With every μ times {scale}, μ/μ₁ to the power {power}, μ runs from {least:.1e} to {most:.1e}. At ε = {damping} "
    "the step is {length:.3f} long and keeps {kept_least:.0f} % (small μ) to {kept_most:.0f} % (large μ) of a "
    "component; its shadow would cost {shadow:.2f} c. At constant η it is {constant_length:.3f} long, at most "
    "{bound:.3f} for any spectrum. Change of the mean loss: {predicted:+.4f} promised, {actual:+.4f} in training, "
    "{unseen:+.4f} held out; {worse:.0f} % of the training losses rise."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7, "scale": 1.0, "power": 1.0},
           "Every direction is kept, however little C knows of it: the step is long.",
           "The step is the best one there is: why would anyone shorten it?"),
    Preset("A little", {"damping": 1e-3, "scale": 1.0, "power": 1.0},
           "What C hardly knows is filtered out: the promise comes closer to the truth.",
           "Which examples still gain as much as without damping?"),
    Preset("A small C", {"damping": 1e-3, "scale": 1e-3, "power": 1.0},
           "The losses are what they were; C is a thousandth, and the bound has not moved.",
           "Which of the two lengths stays below it, and why does the other one not?"),
    Preset("All μ alike", {"damping": 1e-3, "scale": 1.0, "power": 0.0},
           "Every direction costs the same, as in coordinates where C is a multiple of I.",
           "Drag ε from end to end: what can it still change?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every ε and every budget, so that a change of budget needs no new picture."""
    G, widest = plane.gradients(data["problem"]), plane.WIDEST
    factors, every = spectrum(G), jnp.asarray([0, *DAMPINGS, RATIOS[-1]], G.dtype)
    outline = jnp.sqrt(widest) * plane.ellipse(G, plane.plane_of_steps(G, factors), 181)
    spectra = jax.vmap(lambda power: samples.dragged(factors, 1.0, power))(jnp.asarray(POWERS, G.dtype))
    _, predicted, lengths, _ = jax.vmap(lambda each: steps_in_units(factors, each, every, widest))(spectra)
    fall, asked = -jnp.min(jnp.mean(predicted, axis=-1)), predicted[..., :SHOWN] / jnp.sqrt(widest)
    return {
        "reach": plane.frame(1.08 * jnp.max(jnp.abs(outline), axis=0), ASPECT),
        "length_limits": jnp.stack([jnp.min(lengths[2, 1:-1]) / 50, 40 * jnp.max(lengths[2, 1:-1])]),
        "change_limits": 1.1 * jnp.stack([jnp.min(asked, initial=-1.8), jnp.max(asked, initial=0.8)]),
        "loss_limits": jnp.stack([-2.1 * fall, 0.5 * fall]),
    }


def respond(data, state):
    """The step at ε, and the path over all ε. In θ the step of sC at ε is that of C at ε/s: each is computed once."""
    problem, budget, damping, scale = data["problem"], data["budget"], state["damping"], state["scale"]
    G, rms = plane.gradients(problem), jnp.sqrt(budget)
    factors, ratios, dampings = spectrum(G), jnp.asarray(RATIOS, G.dtype), jnp.asarray(DAMPINGS, G.dtype)
    basis, at = plane.plane_of_steps(G, factors), plane.place_of(damping / scale, RATIOS)
    deltas, asked, *_ = steps_in_units(factors, samples.dragged(factors, 1.0, state["power"]), ratios, budget)
    path, changes = dot(deltas, basis), jax.vmap(lambda delta: plane.changes(problem, delta))(deltas)
    along = deltas[:, None] * jnp.asarray(STRETCH, G.dtype)[:, None]
    true, held_out = (plane.mean_changes(each, along)[at] for each in (problem, plane.held_out(problem)))
    predicted, actual = asked[at], changes[at]
    eigenvalues = samples.dragged(factors, scale, state["power"])
    _, _, *lengths = steps_in_units(factors, eigenvalues, dampings, budget)
    length, constant_length = (each[plane.place_of(damping, DAMPINGS)] for each in lengths)
    kept, values = eigenvalues / (eigenvalues + damping), jnp.logspace(-7, 1, 65)
    promised, least = jnp.mean(predicted), jnp.min(jnp.where(eigenvalues > 0, eigenvalues, jnp.inf))
    return {
        "ellipse": rms * plane.ellipse(G, basis, 181),
        "path": path,
        **plane.from_origin(undamped=path[0], descent=path[-1], step=path[at]),
        **over(values, filter=values / (values + damping)),
        "half": jnp.array([[damping, 0.0], [damping, 0.5]]),
        **over(eigenvalues, kept=kept),
        **over(
            dampings, lengths=lengths[0], constant_lengths=lengths[1], bounds=rms / 2 / jnp.sqrt(dampings)
        ),
        **over(damping, length_dot=length, constant_dot=constant_length),
        "bars": plane.bars(predicted[:SHOWN] / rms),
        "changes": plane.beside_bars(actual[:SHOWN] / rms),
        **over(STRETCH[[0, -1]], promised=STRETCH[[0, -1]] * promised),
        **over(STRETCH, true=true, held_out=held_out),
        **numbers(predicted=promised, actual=jnp.mean(actual), unseen=held_out[len(STRETCH) // 2]),
        **numbers(length=length, constant_length=constant_length, bound=rms / 2 / jnp.sqrt(damping)),
        **numbers(least=least, most=eigenvalues[0]),
        "shadow": jnp.mean(dot(G, dot(basis, path[at])) ** 2) / budget,
        **percent(kept_least=least / (least + damping), kept_most=kept[0], worse=jnp.mean(actual > 0)),
    }


def still(panels, background):
    """The ellipse, and four readings of the same step."""
    (steps, kept, length, each, loss), ends = (panels[letter] for letter in "ABCDE"), DAMPINGS[[0, -1]]
    centre(steps, background["reach"], ASPECT, xlabel="along −g", ylabel="across")
    steps.set_title("The ellipse, and the step's shadow")
    key(steps, "lower left", ("−C⁺g: ε = 0", ink.UNDAMPED), ("descent: ε = ∞", ink.DESCENT))
    key(steps, "lower right", ("the step at ε", ink.EMPIRICAL_FISHER))

    set_up(kept, log="x", xlim=ends, ylim=(0, 1.05), xlabel="eigenvalue μ of C")
    kept.set_title("What is kept: μ/(μ + ε)")
    set_up(length, log="xy", xlim=ends, ylim=background["length_limits"], xlabel="damping ε")
    length.set_title("Length of the step")
    constant = ("constant η (dotted)", ink.OTHER), ("its bound η√ρ/(2√ε)", ink.CONSTRAINT)
    key(length, "upper right", ("c enforced", ink.EMPIRICAL_FISHER), *constant)

    loss_panel(each, SHOWN, background["change_limits"])
    each.axhline(-1, color=ink.CONSTRAINT, lw=1, ls=(0, (4, 2)))
    key(each, "upper left", ("first order", ink.DATA))
    key(each, "upper right", ("true", ink.TRUTH))

    set_up(loss, zero=True, xlim=(0, 2), ylim=background["loss_limits"], xlabel="steps along Δ")
    loss.set_title("Change of the mean loss")
    loss.axvline(1, color=ink.FAINT, lw=1)
    losses = ("true", ink.TRUTH), ("held out (dashed)", ink.TRUTH)
    key(loss, "lower left", ("promised", ink.CONSTRAINT), *losses)
