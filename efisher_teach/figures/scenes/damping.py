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
from efisher_teach.core.step import damping_path, empirical_fisher_step
from efisher_teach.figures.scene import (
    CONSTRAINT,
    DATA,
    DESCENT,
    EMPIRICAL_FISHER,
    FAINT,
    OTHER,
    TRUTH,
    UNDAMPED,
    WIDEST,
    Axis,
    Preset,
    Scene,
    arrow,
    bars,
    changes,
    dots,
    frame,
    gradients,
    key,
    line,
    look_at,
    panels,
    rectangles,
    scientific,
)

DAMPINGS = np.logspace(-7, 1, 161)
SHOWN = 36  # examples with a bar of their own
ASPECT = 1.25  # width by height of the panel of the ellipse
STRETCH = np.linspace(0, 2, 25)  # how far along the step, in steps


def damping(problem: Problem, *, budget: float = 0.01) -> Scene:
    """What ε does to the step of budget c, for a problem whose parameters are a vector.

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
        data=look_at(problem, budget),
        background=background,
        respond=respond,
        draw=draw,
        words=WORDS,
        size=(10.0, 6.4),
        narrow=(4.8, 16.0),
        presets=PRESETS,
    )  # fmt: skip


WORDS = (
    "At ε = {damping} the step is {length:.3f} long (bound {bound:.3f}), {turn:.0f}° from −g, and keeps "
    "{kept_least:.0f} % to {kept_most:.0f} % of the undamped components. The linear model promises a mean loss change "
    "of {predicted:+.4f}, the training loss makes {actual:+.4f}, the held-out loss {unseen:+.4f}; {worse:.0f} % of the "
    "training examples get worse. Every ε spends √c = {cost:.3f}; η for the metric C + εI would spend "
    "{naive_spent:.0f} % of c, a constant η {constant_spent:.1f} %."
)
PRESETS = (
    Preset("Undamped", {"damping": 1e-7}, "Every direction is kept, however little C knows of it: the step is long.",
           "The step is the best one there is: why would anyone shorten it?"),
    Preset("A little", {"damping": 1e-3}, "What C hardly knows is filtered out: the promise comes closer to the truth.",
           "Which examples still gain as much as without damping?"),
    Preset("Strong", {"damping": 10.0}, "Far above every eigenvalue the direction is that of −g.",
           "What must happen to η so that the step does not shrink to nothing?"),
)  # fmt: skip


def background(data):
    """Limits that hold for every ε and every budget, so that a change of budget needs no new picture."""
    G, _, plane = _geometry(data)
    paths = damping_path(G, jnp.asarray(DAMPINGS, G.dtype), WIDEST)
    ellipse = _ellipse(G, plane, WIDEST)
    lengths = jnp.linalg.norm(paths.delta, axis=1)
    fall = jnp.sqrt(WIDEST * paths.agreement[0])
    asked = paths.predicted_changes[:, :SHOWN] / jnp.sqrt(WIDEST)
    return {
        "reach": frame(1.08 * jnp.max(jnp.abs(ellipse), axis=0), ASPECT),
        "length_limits": jnp.stack([jnp.min(lengths) / 5, 2.5 * jnp.max(lengths)]),
        "change_limits": 1.1
        * jnp.stack([jnp.minimum(-1.8, jnp.min(asked)), jnp.maximum(0.8, jnp.max(asked))]),
        "loss_limits": jnp.stack([-2.1 * fall, 0.5 * fall]),
    }


def respond(data, state):
    """The step at ε, and the path over all ε."""
    G, eigenvalues, plane = _geometry(data)
    budget, epsilon = data["budget"], state["damping"]
    step = empirical_fisher_step(G, damping=epsilon, budget=budget)
    dampings = jnp.asarray(DAMPINGS, G.dtype)
    path = damping_path(G, dampings, budget)
    g = mean_gradient(G)
    descent = -g * jnp.sqrt(budget / jnp.mean(dot(G, g) ** 2))
    undamped = empirical_fisher_step(G, budget=budget)

    u = -path.delta / path.learning_rate[:, None]  # (C + εI)⁻¹g
    square, rise = jnp.sum(u**2, axis=1), dot(u, g)  # rise − ε|u|² is uᵀCu
    naive, constant = 1 - dampings * square / rise, (rise - dampings * square) / undamped.agreement
    spent = jnp.stack([jnp.ones_like(naive), naive, constant])
    here = jnp.argmin(jnp.abs(dampings - epsilon))

    lam = jnp.logspace(-7, 1, 65)
    bound = path.learning_rate * jnp.sqrt(path.agreement / dampings) / 2
    length = jnp.linalg.norm(step.delta)
    stretch = jnp.asarray(STRETCH, G.dtype)
    predicted = jnp.mean(step.predicted_changes)
    actual, unseen = changes(data, step.delta), changes(data, step.delta, "test")
    along, unseen_along = (
        jax.vmap(lambda t, sample=sample: jnp.mean(changes(data, t * step.delta, sample)))(stretch)
        for sample in ("train", "test")
    )
    places = jnp.arange(SHOWN, dtype=G.dtype)
    downhill = -g / jnp.linalg.norm(g)
    forward = dot(downhill, step.delta)
    zero, rms = jnp.zeros(2, G.dtype), jnp.sqrt(budget)
    kept = eigenvalues / (eigenvalues + epsilon)
    return {
        "ellipse": _ellipse(G, plane, budget),
        "path": dot(path.delta, plane),
        "descent": jnp.stack([zero, dot(descent, plane)]),
        "undamped": jnp.stack([zero, dot(undamped.delta, plane)]),
        "step": jnp.stack([zero, dot(step.delta, plane)]),
        "filter": jnp.stack([lam, lam / (lam + epsilon)], axis=-1),
        "half": jnp.stack([jnp.stack([epsilon, 0.0 * epsilon]), jnp.stack([epsilon, 0.5 + 0.0 * epsilon])]),
        "kept": jnp.stack([eigenvalues, kept], axis=-1),
        "lengths": jnp.stack([dampings, jnp.linalg.norm(path.delta, axis=1)], axis=-1),
        "bounds": jnp.stack([dampings, bound], axis=-1),
        "length_dot": jnp.stack([epsilon, length]),
        "bars": rectangles(places, step.predicted_changes[:SHOWN] / rms, 0.8),
        "changes": jnp.stack([places, actual[:SHOWN] / rms], axis=-1),
        "exact": jnp.stack([dampings, spent[0]], axis=-1),
        "naive": jnp.stack([dampings, spent[1]], axis=-1),
        "constant": jnp.stack([dampings, spent[2]], axis=-1),
        "spent": jnp.stack([jnp.broadcast_to(epsilon, 3), spent[:, here]], axis=-1),
        "promised": jnp.stack([stretch, stretch * predicted], axis=-1),
        "true": jnp.stack([stretch, along], axis=-1),
        "held_out": jnp.stack([stretch, unseen_along], axis=-1),
        "held_out_dot": jnp.stack([1.0 + 0 * predicted, jnp.mean(unseen)]),
        "true_dot": jnp.stack([1.0 + 0 * predicted, jnp.mean(actual)]),
        "promised_dot": jnp.stack([1.0 + 0 * predicted, predicted]),
        "length": length,
        "bound": step.learning_rate * jnp.sqrt(step.agreement / epsilon) / 2,
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
    }  # fmt: skip


def draw(figure, background, arrays):
    """The ellipse, and five readings of the same step."""
    axes = panels(figure, "ABC;DEF", "A;B;C;D;E;F")
    plane, kept, length, each, loss, spent = (axes[name] for name in "ABCDEF")
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
    key(spent, "upper right", ("exact η", EMPIRICAL_FISHER), ("η for C + εI (dashed)", CONSTRAINT),
        ("constant η (dotted)", OTHER))  # fmt: skip

    return {
        "exact": line(spent, arrays["exact"], EMPIRICAL_FISHER),
        "naive": line(spent, arrays["naive"], CONSTRAINT, 1.8, style=(0, (4, 2))),
        "constant": line(spent, arrays["constant"], OTHER, 1.8, style=(0, (1, 1.5))),
        "spent": dots(spent, arrays["spent"], EMPIRICAL_FISHER, 7),
        "ellipse": line(plane, arrays["ellipse"], CONSTRAINT, 1.8),
        "path": line(plane, arrays["path"], EMPIRICAL_FISHER, 1.4, style=(0, (4, 2)), order=1),
        "descent": arrow(plane, arrays["descent"], DESCENT, order=2),
        "undamped": arrow(plane, arrays["undamped"], UNDAMPED, order=2),
        "step": arrow(plane, arrays["step"], EMPIRICAL_FISHER, order=3),
        "filter": line(kept, arrays["filter"], EMPIRICAL_FISHER),
        "half": line(kept, arrays["half"], FAINT, 1.2),
        "kept": dots(kept, arrays["kept"], EMPIRICAL_FISHER, 8),
        "bounds": line(length, arrays["bounds"], CONSTRAINT, 1.2),
        "lengths": line(length, arrays["lengths"], EMPIRICAL_FISHER),
        "length_dot": dots(length, arrays["length_dot"], EMPIRICAL_FISHER, 9),
        "bars": bars(each, arrays["bars"], DATA),
        "changes": dots(each, arrays["changes"], TRUTH, 4, order=2),
        "promised": line(loss, arrays["promised"], CONSTRAINT, 1.8),
        "true": line(loss, arrays["true"], TRUTH),
        "promised_dot": dots(loss, arrays["promised_dot"], CONSTRAINT, 8),
        "true_dot": dots(loss, arrays["true_dot"], TRUTH, 8),
        "held_out": line(loss, arrays["held_out"], TRUTH, style=(0, (2, 1.5))),
        "held_out_dot": dots(loss, arrays["held_out_dot"], TRUTH, 8),
    }


def _geometry(data):
    """G, the eigenvalues of C, and an orthonormal basis (p, 2) of the plane of -g and -C⁺g."""
    G = gradients(data)
    along = -mean_gradient(G)
    along /= jnp.linalg.norm(along)
    undamped = empirical_fisher_step(G, learning_rate=1.0).delta
    across = undamped - along * dot(along, undamped)
    return G, spectrum(G).eigenvalues, jnp.stack([along, across / jnp.linalg.norm(across)], axis=1)


def _ellipse(G, plane, budget):
    """The points of the plane whose cost is the budget, (181, 2)."""
    angle = jnp.linspace(0, 2 * jnp.pi, 181)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    factors = spectrum(dot(G, plane))  # of the 2 × 2 block of C that belongs to the plane
    return jnp.sqrt(budget) * dot(circle / jnp.sqrt(factors.eigenvalues), factors.parameter_vectors.T)
