"""Damping: what ε does to one step of a fixed cost, from -C⁺g (ε = 0) to the direction of -g (ε = ∞).

Six views of one step: on the ellipse, as a filter λ/(λ + ε) of C's eigendirections, by its length and the bound on
it, in the change it asks of each example, in the loss that the linear model promises beside the loss one gets, and in
the budget that three rules for η spend.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullFormatter

from efisher_teach import errors
from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import spectrum
from efisher_teach.core.step import damping_path, empirical_fisher_step, step_along
from efisher_teach.figures.ink import (
    CONSTRAINT,
    DATA,
    DESCENT,
    EMPIRICAL_FISHER,
    FAINT,
    OTHER,
    TRUTH,
    UNDAMPED,
)
from efisher_teach.figures.marks import arrow, dots, key, line, polygons
from efisher_teach.figures.plane import (
    WIDEST,
    changes,
    ellipse,
    frame,
    gradients,
    held_out,
    plane_of,
    rectangles,
    sample_of,
)
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

DAMPINGS = np.logspace(-7, 1, 161)
SHOWN = 36  # examples with a bar of their own
ASPECT = 1.25  # width by height of the panel of the ellipse
STRETCH = np.linspace(0, 2, 25)  # how far along the step, in steps
MARKS = {
    "exact": line("F", EMPIRICAL_FISHER),
    "naive": line("F", CONSTRAINT, 1.8, dashes=(4, 2)),
    "constant": line("F", OTHER, 1.8, dashes=(1, 1.5)),
    "ellipse": line("A", CONSTRAINT, 1.8),
    "filter": line("B", EMPIRICAL_FISHER),
    "half": line("B", FAINT, 1.2),
    "bounds": line("C", CONSTRAINT, 1.2),
    "lengths": line("C", EMPIRICAL_FISHER),
    "bars": polygons("D", DATA),
    "promised": line("E", CONSTRAINT, 1.8),
    "true": line("E", TRUTH),
    "held_out": line("E", TRUTH, dashes=(2, 1.5)),
    "spent": dots("F", EMPIRICAL_FISHER, 7),
    "path": line("A", EMPIRICAL_FISHER, 1.4, dashes=(4, 2)),
    "kept": dots("B", EMPIRICAL_FISHER, 8),
    "length_dot": dots("C", EMPIRICAL_FISHER, 9),
    "promised_dot": dots("E", CONSTRAINT, 8),
    "true_dot": dots("E", TRUTH, 8),
    "held_out_dot": dots("E", TRUTH, 8),
    "descent": arrow("A", DESCENT),
    "undamped": arrow("A", UNDAMPED),
    "changes": dots("D", TRUTH, 4),
    "step": arrow("A", EMPIRICAL_FISHER),
}


def damping(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Damp the step of budget c, for a problem whose parameters are a vector.

    Args:
        problem: With `params` of shape (p,), p ≥ 2, and at least 36 examples.
        budget: c, in (0, 0.04]: the view has room for that much.

    Returns:
        A `Scene` with the axis "damping": ε from 1e-7 to 10.

    Raises:
        ValueError: params is not a vector of at least two; no held-out examples; fewer than 36 examples; budget out
            of range.

    Examples:
        >>> scene = ef.scenes.damping(ef.breast_cancer(None))
        >>> print(scene.title)
        Damping: one cost, every ε
        >>> print(scene.presets[0].asks)
        The step is the best one there is: why would anyone shorten it?
    """
    shape = getattr(problem.params, "shape", ())
    if len(shape) != 1 or shape[0] < 2:
        errors.reject("problem", "one with params of shape (p,), p ≥ 2", f"{shape}", "E.g. breast_cancer().")
    if problem.x_test is None or problem.y_test is None:
        errors.reject("problem", "one with held-out examples", "x_test or y_test None", "Set aside a fifth.")
    if len(problem.y) < SHOWN:
        errors.reject("problem", f"one with {SHOWN} examples", f"{len(problem.y)}", "Make n larger.")
    return Scene(
        title="Damping: one cost, every ε",
        axes=(Axis("damping", "damping ε", DAMPINGS, 1e-3, scientific),),
        data=sample_of(problem, budget),
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC;DEF", "A;B;C;D;E;F"),
        words=WORDS,
        size=(10.0, 6.4),
        narrow=(4.8, 16.0),
        presets=PRESETS,
    )


WORDS = (
    "At ε = {damping} the step is {length:.3f} long (bound {bound:.3f}), {turn:.0f}° from −g, and keeps "
    "{kept_least:.0f} % to {kept_most:.0f} % of the undamped components. The linear model promises a mean loss change "
    "of {predicted:+.4f}, the training loss makes {actual:+.4f}, the held-out loss {unseen:+.4f}; {worse:.0f} % of the "
    "training examples get worse. Every ε spends √c = {cost:.3f}; η for the metric C + εI would spend "
    "{naive_spent:.0f} % of c, a constant η {constant_spent:.1f} %."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7},
           "Every direction is kept, however little C knows of it: the step is long.",
           "The step is the best one there is: why would anyone shorten it?"),
    Preset("A little", {"damping": 1e-3},
           "What C hardly knows is filtered out: the promise comes closer to the truth.",
           "Which examples still gain as much as without damping?"),
    Preset("Strong", {"damping": 10.0},
           "Far above every eigenvalue the direction is that of −g.",
           "What must happen to η so that the step does not shrink to nothing?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every ε and every budget, so that a change of budget needs no new picture."""
    G = gradients(data["problem"])
    paths = damping_path(G, jnp.asarray(DAMPINGS, G.dtype), WIDEST)
    widest = jnp.sqrt(WIDEST) * ellipse(G, _plane(G), 181)
    lengths = jnp.linalg.norm(paths.delta, axis=1)
    fall = jnp.sqrt(WIDEST * paths.agreement[0])
    asked = paths.predicted_changes[:, :SHOWN] / jnp.sqrt(WIDEST)
    low, high = jnp.minimum(-1.8, jnp.min(asked)), jnp.maximum(0.8, jnp.max(asked))
    return {
        "reach": frame(1.08 * jnp.max(jnp.abs(widest), axis=0), ASPECT),
        "length_limits": jnp.stack([jnp.min(lengths) / 5, 2.5 * jnp.max(lengths)]),
        "change_limits": 1.1 * jnp.stack([low, high]),
        "loss_limits": jnp.stack([-2.1 * fall, 0.5 * fall]),
    }


def respond(data, state):
    """The step at ε, and the path over all ε."""
    problem, budget, damping = data["problem"], data["budget"], state["damping"]
    G, dampings = gradients(problem), jnp.asarray(DAMPINGS, state["damping"].dtype)
    g, plane, eigenvalues = mean_gradient(G), _plane(G), spectrum(G).eigenvalues
    step = empirical_fisher_step(G, damping=damping, budget=budget)
    undamped = empirical_fisher_step(G, budget=budget)
    path = damping_path(G, dampings, budget)
    descent = step_along(G, -g, budget)

    u = -path.delta / path.learning_rate[:, None]  # (C + εI)⁻¹g
    square, rise = jnp.sum(u**2, axis=1), dot(u, g)  # rise − ε|u|² is uᵀCu
    naive, constant = 1 - dampings * square / rise, (rise - dampings * square) / undamped.agreement
    spent = jnp.stack([jnp.ones_like(naive), naive, constant])
    here = jnp.argmin(jnp.abs(dampings - damping))

    scale = jnp.logspace(-7, 1, 65)
    bound = path.learning_rate * jnp.sqrt(path.agreement / dampings) / 2
    length = jnp.linalg.norm(step.delta)
    stretch = jnp.asarray(STRETCH, G.dtype)
    predicted = jnp.mean(step.predicted_changes)
    actual, unseen = changes(problem, step.delta), changes(held_out(problem), step.delta)
    along = jax.vmap(lambda t: jnp.mean(changes(problem, t * step.delta)))(stretch)
    unseen_along = jax.vmap(lambda t: jnp.mean(changes(held_out(problem), t * step.delta)))(stretch)
    places = jnp.arange(SHOWN, dtype=G.dtype)
    downhill = -g / jnp.linalg.norm(g)
    forward = dot(downhill, step.delta)
    zero, rms = jnp.zeros(2, G.dtype), jnp.sqrt(budget)
    kept = eigenvalues / (eigenvalues + damping)
    return {
        "ellipse": rms * ellipse(G, plane, 181),
        "path": dot(path.delta, plane),
        "descent": jnp.stack([zero, dot(descent, plane)]),
        "undamped": jnp.stack([zero, dot(undamped.delta, plane)]),
        "step": jnp.stack([zero, dot(step.delta, plane)]),
        "filter": jnp.stack([scale, scale / (scale + damping)], axis=-1),
        "half": jnp.array([[damping, 0.0], [damping, 0.5]]),
        "kept": jnp.stack([eigenvalues, kept], axis=-1),
        "lengths": jnp.stack([dampings, jnp.linalg.norm(path.delta, axis=1)], axis=-1),
        "bounds": jnp.stack([dampings, bound], axis=-1),
        "length_dot": jnp.stack([damping, length]),
        "bars": rectangles(places, step.predicted_changes[:SHOWN] / rms, 0.8),
        "changes": jnp.stack([places, actual[:SHOWN] / rms], axis=-1),
        "exact": jnp.stack([dampings, spent[0]], axis=-1),
        "naive": jnp.stack([dampings, spent[1]], axis=-1),
        "constant": jnp.stack([dampings, spent[2]], axis=-1),
        "spent": jnp.stack([jnp.broadcast_to(damping, 3), spent[:, here]], axis=-1),
        "promised": jnp.stack([stretch, stretch * predicted], axis=-1),
        "true": jnp.stack([stretch, along], axis=-1),
        "held_out": jnp.stack([stretch, unseen_along], axis=-1),
        "held_out_dot": jnp.array([1.0, jnp.mean(unseen)]),
        "true_dot": jnp.array([1.0, jnp.mean(actual)]),
        "promised_dot": jnp.array([1.0, predicted]),
        "length": length,
        "bound": step.learning_rate * jnp.sqrt(step.agreement / damping) / 2,
        "turn": jnp.rad2deg(jnp.atan2(jnp.linalg.norm(step.delta - forward * downhill), forward)),
        "kept_least": 100 * jnp.min(kept),
        "kept_most": 100 * jnp.max(kept),
        "naive_spent": 100 * spent[1, here],
        "constant_spent": 100 * spent[2, here],
        "cost": jnp.sqrt(step.budget_spent),
        "predicted": predicted,
        "actual": jnp.mean(actual),
        "unseen": jnp.mean(unseen),
        "worse": 100 * jnp.mean(actual > 0),
    }


def still(panels, background):
    """The ellipse, and five readings of the same step."""
    plane, kept, length, each, loss, spent = (panels[letter] for letter in "ABCDEF")
    reach = background["reach"]
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    plane.set(xlabel="along −g", ylabel="across", title="The step on the ellipse")
    if np.isclose(reach[0], ASPECT * reach[1]):
        plane.set_aspect("equal")
    plane.plot(0, 0, "o", color=CONSTRAINT, ms=5)
    key(plane, "lower left", ("−C⁺g: ε = 0", UNDAMPED), ("−g: ε = ∞", DESCENT))
    key(plane, "lower right", ("the step at ε", EMPIRICAL_FISHER))

    kept.set(xscale="log", xlim=(1e-7, 10), ylim=(0, 1.05), xlabel="eigenvalue λ of C")
    kept.set_title("What is kept: λ/(λ + ε)")
    length.set(xscale="log", yscale="log", xlim=(DAMPINGS[0], DAMPINGS[-1]), ylim=background["length_limits"])
    length.set(xlabel="damping ε", title="Length of the step")
    length.yaxis.set_minor_formatter(NullFormatter())
    key(length, "lower left", ("bound η√ρ/(2√ε)", CONSTRAINT))

    each.set(xlim=(-1, SHOWN), ylim=background["change_limits"], xlabel=f"{SHOWN} of the examples", xticks=[])
    each.set_title("Change of each loss, in √c")
    each.axhline(0, color=FAINT, lw=1)
    each.axhline(-1, color=CONSTRAINT, lw=1, ls=(0, (4, 2)))
    key(each, "upper left", ("first order", DATA))
    key(each, "upper right", ("true", TRUTH))

    loss.set(xlim=(0, 2), ylim=background["loss_limits"], xlabel="steps along Δθ")
    loss.set_title("Change of the mean loss")
    loss.axhline(0, color=FAINT, lw=1)
    key(loss, "lower left", ("promised", CONSTRAINT), ("true", TRUTH), ("held out (dashed)", TRUTH))

    spent.set(xscale="log", xlim=(DAMPINGS[0], DAMPINGS[-1]), ylim=(0, 1.75), xlabel="damping ε")
    spent.set_title("Budget spent, in c")
    key(
        spent,
        "upper right",
        ("exact η", EMPIRICAL_FISHER),
        ("η for C + εI (dashed)", CONSTRAINT),
        ("constant η (dotted)", OTHER),
    )


def _plane(G):
    """An orthonormal basis (p, 2) of the plane of −g and −C⁺g."""
    return plane_of(-mean_gradient(G), empirical_fisher_step(G, learning_rate=1.0).delta)
