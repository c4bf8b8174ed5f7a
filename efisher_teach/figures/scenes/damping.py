"""Damping: what ε does to one step of a fixed cost, from -C⁺g (ε = 0) to the direction of -g (ε = ∞).

Six views of one step: its shadow on the ellipse, as a filter μ/(μ + ε) of C's eigendirections, by its length beside
that of a constant η and the bound on that, in the change it asks of each example, in the loss that the linear model
promises beside the loss one gets, and in the budget that three rules for η spend.
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

DAMPINGS = np.logspace(-7, 1, 161)
SHOWN = 36  # examples with a bar of their own
ASPECT = 1.25  # width by height of the panel of the ellipse
STRETCH = np.linspace(0, 2, 25)  # how far along the step, in steps
MARKS = {
    "exact": line("F", ink.EMPIRICAL_FISHER),
    "naive": line("F", ink.CONSTRAINT, 1.8, dashes=(4, 2)),
    "constant": line("F", ink.OTHER, 1.8, dashes=(1, 1.5)),
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
    "spent": dots("F", ink.EMPIRICAL_FISHER, 7),
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
    plane.require_vector(problem, least=2)
    if problem.x_test is None or problem.y_test is None:
        errors.reject("problem", "one with held-out examples", "x_test or y_test None", "Set aside a fifth.")
    plane.require_examples(problem, SHOWN)
    return Scene(
        title="Damping: one cost, every ε",
        axes=(Axis("damping", "damping ε", DAMPINGS, 1e-3, scientific),),
        data=plane.sample_of(problem, budget),
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
    "At ε = {damping} the step is {length:.3f} long, {turn:.0f}° from −g, and keeps {kept_least:.0f} % to "
    "{kept_most:.0f} % of the undamped components; with a constant η it would be {constant_length:.3f}, at most "
    "{bound:.3f}. Its shadow would cost {shadow:.2f} c. The linear model promises a mean loss change of "
    "{predicted:+.4f}, the training loss makes {actual:+.4f}, the held-out loss {unseen:+.4f}; {worse:.0f} % of the "
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
    G, widest = plane.gradients(data["problem"]), plane.WIDEST
    paths = damping_path(G, jnp.asarray(DAMPINGS, G.dtype), widest)
    outline = jnp.sqrt(widest) * plane.ellipse(G, _basis(G), 181)
    lengths = jnp.linalg.norm(paths.delta, axis=1)
    fall = jnp.sqrt(widest * paths.agreement[0])
    asked = paths.predicted_changes[:, :SHOWN] / jnp.sqrt(widest)
    low, high = jnp.minimum(-1.8, jnp.min(asked)), jnp.maximum(0.8, jnp.max(asked))
    return {
        "reach": plane.frame(1.08 * jnp.max(jnp.abs(outline), axis=0), ASPECT),
        "length_limits": jnp.stack([jnp.min(lengths) / 5, 2.5 * jnp.max(lengths)]),
        "change_limits": 1.1 * jnp.stack([low, high]),
        "loss_limits": jnp.stack([-2.1 * fall, 0.5 * fall]),
    }


def respond(data, state):
    """The step at ε, and the path over all ε."""
    problem, budget, damping = data["problem"], data["budget"], state["damping"]
    G, dampings = plane.gradients(problem), jnp.asarray(DAMPINGS, damping.dtype)
    g, basis, eigenvalues = mean_gradient(G), _basis(G), spectrum(G).eigenvalues
    step = empirical_fisher_step(G, damping=damping, budget=budget)
    undamped = empirical_fisher_step(G, budget=budget)
    path = damping_path(G, dampings, budget)

    u = -path.delta / path.learning_rate[:, None]  # (C + εI)⁻¹g
    square, rise = jnp.sum(u**2, axis=1), dot(u, g)  # rise − ε|u|² is uᵀCu
    naive, constant = 1 - dampings * square / rise, (rise - dampings * square) / undamped.agreement
    spent = jnp.stack([jnp.ones_like(naive), naive, constant])
    now = spent[:, jnp.argmin(jnp.abs(dampings - damping))]

    def bound(damping):
        return undamped.learning_rate * jnp.sqrt(undamped.agreement / damping) / 2

    unseen = plane.held_out(problem)
    actual, actual_unseen = (plane.changes(each, step.delta) for each in (problem, unseen))
    constant_lengths = undamped.learning_rate * jnp.sqrt(square)
    constant_length = constant_lengths[jnp.argmin(jnp.abs(dampings - damping))]
    predicted, length, rms = jnp.mean(step.predicted_changes), jnp.linalg.norm(step.delta), jnp.sqrt(budget)
    stretch, scale = jnp.asarray(STRETCH, G.dtype), jnp.logspace(-7, 1, 65)
    true, held_out = (
        jax.vmap(lambda t, each=each: jnp.mean(plane.changes(each, t * step.delta)))(stretch)
        for each in (problem, unseen)
    )
    means = {"predicted": predicted, "actual": jnp.mean(actual), "unseen": jnp.mean(actual_unseen)}
    places, kept = jnp.arange(SHOWN, dtype=G.dtype), eigenvalues / (eigenvalues + damping)
    ends = {"descent": step_along(G, -g, budget), "undamped": undamped.delta, "step": step.delta}
    return means | {
        "ellipse": rms * plane.ellipse(G, basis, 181),
        "path": dot(path.delta, basis),
        **plane.from_origin(**{name: dot(delta, basis) for name, delta in ends.items()}),
        **plane.over(scale, filter=scale / (scale + damping)),
        "half": jnp.array([[damping, 0.0], [damping, 0.5]]),
        **plane.over(eigenvalues, kept=kept),
        **plane.over(dampings, lengths=jnp.linalg.norm(path.delta, axis=1), bounds=bound(dampings)),
        **plane.over(dampings, constant_lengths=constant_lengths),
        **plane.over(dampings, exact=spent[0], naive=naive, constant=constant),
        **plane.over(damping, spent=now, length_dot=length, constant_dot=constant_length),
        "bars": plane.rectangles(places, step.predicted_changes[:SHOWN] / rms, 0.8),
        **plane.over(places, changes=actual[:SHOWN] / rms),
        **plane.over(stretch, promised=stretch * predicted, true=true, held_out=held_out),
        **plane.over(1.0, promised_dot=predicted, true_dot=means["actual"], held_out_dot=means["unseen"]),
        "length": length,
        "constant_length": constant_length,
        "bound": bound(damping),
        "shadow": jnp.mean(dot(G, dot(basis, dot(step.delta, basis))) ** 2) / budget,
        "turn": plane.turn_of(step.delta, -g),
        "cost": jnp.sqrt(step.budget_spent),
        **plane.percent(kept_least=jnp.min(kept), kept_most=jnp.max(kept), worse=jnp.mean(actual > 0)),
        **plane.percent(naive_spent=now[1], constant_spent=now[2]),
    }


def still(panels, background):
    """The ellipse, and five readings of the same step."""
    steps, kept, length, each, loss, spent = (panels[letter] for letter in "ABCDEF")
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

    set_up(spent, log="x", xlim=ends, ylim=(0, 1.75), xlabel="damping ε", title="Budget spent, in c")
    naive, constant = ("η for C + εI (dashed)", ink.CONSTRAINT), ("constant η (dotted)", ink.OTHER)
    key(spent, "upper right", ("exact η", ink.EMPIRICAL_FISHER), naive, constant)


def _basis(G):
    """An orthonormal basis (p, 2) of the plane of −g and −C⁺g."""
    return plane.plane_of(-mean_gradient(G), empirical_fisher_step(G, learning_rate=1.0).delta)
