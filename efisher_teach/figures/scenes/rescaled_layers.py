"""Rescaled layers: one step of the same network, for W₁ and W₂ and for aW₁ and W₂/a, by three methods.

Behind max(0, ·) both pairs are the same function: no prediction shows a. In the weights of the second pair the
gradients are G diag(s), s = 1/a for the first layer and a for the second, and a step Δ is sΔ in those of the first. The
empirical Fisher undoes s twice, as far as ε lets it; Adam's root undoes it once, gradient descent not at all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from efisher_teach import errors
from efisher_teach.core.problems import Problem
from efisher_teach.core.solve import quotient, solve_spectral, spectrum
from efisher_teach.core.step import step_along
from efisher_teach.figures import plane
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, FAINT, OTHER
from efisher_teach.figures.marks import dots, key, line, set_up
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

FACTORS = np.logspace(-1, 1, 17)
DAMPINGS = np.logspace(-8, 0, 17)
SHOWN = 36  # examples with dots of their own
METHODS = {"descent": DESCENT, "adam": OTHER, "step": EMPIRICAL_FISHER}
MARKS = {
    "level": line("C", DESCENT),
    "adam_level": line("C", OTHER),
    "by_damping": line("C", EMPIRICAL_FISHER),
    "by_factor": line("B", EMPIRICAL_FISHER),
    **{f"{name}_changes": dots("A", color, 5) for name, color in METHODS.items()},
    **{f"{name}_dot": dots("B", color, 8) for name, color in METHODS.items()},
    "damping_dot": dots("C", EMPIRICAL_FISHER, 8),
}


def rescaled_layers(problem: Problem, *, budget: float = 1e-4) -> Scene:
    """Multiply the first layer of a network by a and divide the second by a: who makes the same step?

    Adam is what it is on the whole sample, g over the root of the mean square of each gradient, without damping.

    Args:
        problem: With two arrays of weights as `params`, behind one another with a ReLU between; at least 36 examples.
            (Of any other model it is the one whose code stores aW₁ and W₂/a.)
        budget: c, in (0, 0.04], the same for all steps: small, as they agree to first order only.

    Returns:
        A `Scene` with the axes "factor", a from 0.1 to 10, and "damping", ε from 1e-8 to 1.

    Raises:
        ValueError: params are not two layers; fewer than 36 examples; budget out of range.

    Examples:
        >>> loss_fn = lambda weights, x, y: (weights[1] @ jax.nn.relu(weights[0] @ x) - y) ** 2 / 2
        >>> weights = [jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([0.5, 0.3])]
        >>> scene = ef.scenes.rescaled_layers(ef.linear_regression()._replace(loss_fn=loss_fn, params=weights))
        >>> print(scene.presets[0].asks)
        Which of the three methods notices?
    """
    layers = problem.params if isinstance(problem.params, list | tuple) else ()
    if len(layers) != 2:
        action = "A ReLU network of two layers has them."
        errors.reject("problem", "one with two layers as params, [W₁, W₂]", f"{len(layers)}", action)
    plane.require_examples(problem, SHOWN)
    return Scene(
        title="The same network, its layers rescaled",
        axes=(
            Axis("factor", "a of aW₁, W₂/a", FACTORS, 10.0, lambda value: f"{value:.3g}", 4),
            Axis("damping", "damping ε", DAMPINGS, 1e-6, scientific, 4),
        ),
        data=plane.sample_of(problem, budget),
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC", "A;B;C"),
        words=WORDS,
        size=(10.0, 4.2),
        narrow=(4.8, 11.0),
        presets=PRESETS,
    )


WORDS = (
    "aW₁ and W₂/a with a = {factor} are the same network. After one step of the same cost its losses differ from those "
    "of a = 1 by {step_gap:.1f} % of their change with the empirical Fisher at ε = {damping}, by {descent_gap:.0f} % "
    "with gradient descent, by {adam_gap:.0f} % with Adam. The mean loss changes by {step_mean:+.4f}, "
    "{descent_mean:+.4f} and {adam_mean:+.4f}; at a = 1 by {step_first:+.4f}, {descent_first:+.4f} and "
    "{adam_first:+.4f}."
)
PRESETS = (
    Preset("Rescaled", {"factor": 10.0, "damping": 1e-6},
           "Each prediction is what it was; only the numbers in the two matrices differ.",
           "Which of the three methods notices?"),
    Preset("ε leaks", {"factor": 10.0, "damping": 0.1},
           "The same ε, beside gradients a tenth as large in one layer and ten times in the other.",
           "Which layer does ε keep from moving?"),
    Preset("Nearly alike", {"factor": float(FACTORS[9]), "damping": 1e-6},
           "A third more in one layer, a quarter less in the other: nobody would call that another network.",
           "By how much do the two changes of descent differ?"),
)  # fmt: skip


def background(data):
    """Limits, and how far from its step at a = 1 the undamped methods go."""
    found = _changes(data)
    shown = jnp.concatenate([found[name].reshape(-1, len(data["problem"].y))[:, :SHOWN] for name in METHODS])
    return {
        "limits": jnp.stack([jnp.min(shown), jnp.max(shown)]),
        **{name: _gap(found[name]) for name in ("descent", "adam")},
    }


def respond(data, state):
    """The change of each loss for a = 1 and for this a, and the distance between the two."""
    found = _changes(data)
    i, j = plane.place_of(state["factor"], FACTORS), plane.place_of(state["damping"], DAMPINGS)
    gaps, shown = _gap(found["step"]), {}
    for name in METHODS:
        changes = found[name][j] if name == "step" else found[name]
        gap = _gap(changes)[i]
        first, now = changes[len(FACTORS) // 2], changes[i]
        shown |= {
            f"{name}_changes": plane.points(first, now)[:SHOWN],
            **plane.over(state["factor"], **{f"{name}_dot": gap}),
            f"{name}_gap": gap,
            f"{name}_mean": jnp.mean(now) * jnp.sqrt(data["budget"]),
            f"{name}_first": jnp.mean(first) * jnp.sqrt(data["budget"]),
        }
    return shown | {
        **plane.over(jnp.asarray(FACTORS), by_factor=gaps[j]),
        **plane.over(jnp.asarray(DAMPINGS), by_damping=gaps[:, i]),
        **plane.over(DAMPINGS[[0, -1]], level=shown["descent_gap"], adam_level=shown["adam_gap"]),
        **plane.over(state["damping"], damping_dot=shown["step_gap"]),
    }


def still(panels, background):
    """The diagonal of those who have not noticed, and the distances over a and over ε."""
    alike, by_factor, by_damping = (panels[letter] for letter in "ABC")
    low, high = background["limits"]
    room = 0.05 * (high - low)
    set_up(alike, xlim=(low - room, high + room), ylim=(low - room, high + room))
    alike.plot([low, high], [low, high], color=FAINT, lw=1.2)
    alike.set(xlabel="at a = 1", ylabel="at this a", title="Change of each loss, in √c")

    names = ("empirical Fisher", EMPIRICAL_FISHER), ("gradient descent", DESCENT), ("Adam", OTHER)
    key(alike, "upper left", *names)
    top = 1.15 * max(np.max(background["descent"]), np.max(background["adam"]))
    for panel, values, name in ((by_factor, FACTORS, "factor a"), (by_damping, DAMPINGS, "damping ε")):
        set_up(panel, log="x", xlim=values[[0, -1]] * [1 / 1.2, 1.2], ylim=(-0.03 * top, top), xlabel=name)
        panel.yaxis.set_major_formatter("{x:g} %")
        panel.axhline(0, color=FAINT, lw=1)
    by_factor.set_title("Difference from a = 1, in %")
    by_factor.axvline(1, color=CONSTRAINT, lw=1, ls=(0, (4, 2)))
    for name in ("descent", "adam"):
        by_factor.plot(FACTORS, background[name], color=METHODS[name], lw=2)
    by_damping.set_title("… against ε")


@jax.jit
def _changes(data):
    """The true change of each loss in √c, for each a (and ε): (ε, a, n) for "step", (a, n) for the others."""
    problem, c = data["problem"], data["budget"]
    G, first = plane.gradients(problem), ravel_pytree(problem.params[0])[0].size

    def along(s, direction):
        return plane.changes(problem, s * step_along(s * G, -direction, c)) / jnp.sqrt(c)

    def of(a):
        s = jnp.where(jnp.arange(G.shape[1]) < first, 1 / a, a)
        g, size = jnp.mean(s * G, axis=0), jnp.sqrt(jnp.mean((s * G) ** 2, axis=0))
        damped = solve_spectral(spectrum(s * G), jnp.asarray(DAMPINGS, G.dtype))
        steps = jax.vmap(lambda u: along(s, u))(damped)
        return {"step": steps, "descent": along(s, g), "adam": along(s, quotient(g, size))}

    found = jax.lax.map(of, jnp.asarray(FACTORS, G.dtype))
    return found | {"step": found["step"].swapaxes(0, 1)}


def _gap(changes):
    """The distance from a = 1, in % of the change there: (…, a)."""
    first = changes[..., len(FACTORS) // 2 : len(FACTORS) // 2 + 1, :]
    return 100 * jnp.linalg.norm(changes - first, axis=-1) / jnp.linalg.norm(first, axis=-1)
