"""Start here: one slider, ε, turns a step of fixed cost from −C⁻¹g to −g.

Two parameters, so that nothing is hidden: the ellipse ΔᵀCΔ = c holds all steps Δ of that cost, and the step
-η(C + εI)⁻¹g, with the η that spends c, runs along it.
"""

import jax.numpy as jnp
import numpy as np

from efisher_teach.core.gradients import mean_gradient
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.core.step import empirical_fisher_step, step_along
from efisher_teach.figures import plane
from efisher_teach.figures.ink import CONSTRAINT, DESCENT, EMPIRICAL_FISHER, UNDAMPED
from efisher_teach.figures.marks import arrow, centre, key, line
from efisher_teach.figures.scene import Axis, Preset, Scene, scientific

ASPECT = 1.4  # width by height of the panel
MARKS = {
    "ellipse": line("A", CONSTRAINT, 1.8),
    "undamped": arrow("A", UNDAMPED),
    "descent": arrow("A", DESCENT),
    "step": arrow("A", EMPIRICAL_FISHER),
}


def start_here(problem: Problem, *, budget: float = 0.01) -> Scene:
    """Turn the step of a problem with two parameters by its damping.

    Args:
        problem: With `params` of shape (2,); best with correlated features, where the ellipse is long.
        budget: c, in (0, 0.04].

    Returns:
        A `Scene` with the axis "damping": ε from 1e-5 to 1.

    Raises:
        ValueError: params is not (2,); budget out of range.

    Examples:
        >>> scene = ef.scenes.start_here(ef.breast_cancer(("mean radius", "worst radius")))
        >>> print([axis.name for axis in scene.axes])
        ['damping']
        >>> print(scene.presets[1].says)
        Next to ε, C counts for nothing: the step lies along −g.
    """
    plane.require_two_parameters(problem)
    return Scene(
        title="One cost, and damping turns the step",
        axes=(Axis("damping", "damping ε", np.logspace(-5, 0, 51), 1e-2, scientific),),
        data=plane.sample_of(problem, budget),
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        words=WORDS,
        size=(7.0, 5.0),
        narrow=(4.8, 3.9),
        presets=PRESETS,
    )


WORDS = (
    "At ε = {damping} the step is {length:.2f} long and {turn:.0f}° away from −g. Undamped it lies along −C⁻¹g, "
    "{longest:.2f} long and {widest:.0f}° away; along −g itself it is {shortest:.2f} long. Each of them costs the "
    "same: it changes the losses by √c = {cost:.2f}, in root mean square and to first order."
)
PRESETS = (
    Preset("Hardly damped", {"damping": 1e-5}, "Next to C, ε counts for nothing: the step lies along −C⁻¹g.",
           "Why does such a long step cost no more than the short one along −g?"),
    Preset("Strongly damped", {"damping": 1.0}, "Next to ε, C counts for nothing: the step lies along −g.",
           "Has the cost of the step changed on the way?"),
)  # fmt: skip


def background(data):
    """Room for the ellipse."""
    return {"reach": plane.fit(jnp.max(jnp.abs(_ellipse(data)), axis=0), ASPECT, 1.1)}


def respond(data, state):
    """The step at ε, and its two limits."""
    G, c = plane.gradients(data["problem"]), data["budget"]
    g = mean_gradient(G)
    step = empirical_fisher_step(G, damping=state["damping"], budget=c).delta
    undamped, descent = empirical_fisher_step(G, budget=c).delta, step_along(G, -g, c)
    return {
        "ellipse": _ellipse(data),
        **plane.from_origin(undamped=undamped, descent=descent, step=step),
        **plane.numbers(length=jnp.linalg.norm(step), turn=plane.turn_of(step, -g)),
        **plane.numbers(longest=jnp.linalg.norm(undamped), widest=plane.turn_of(undamped, -g)),
        **plane.numbers(shortest=jnp.linalg.norm(descent), cost=jnp.sqrt(jnp.mean(dot(G, step) ** 2))),
    }


def still(panels, background):
    """The plane of the two parameters."""
    centre(panels["A"], background["reach"], ASPECT, xlabel="Δ₁", ylabel="Δ₂")
    panels["A"].set_title("Every step to this ellipse has the same cost")
    limits = ("−C⁻¹g: ε → 0", UNDAMPED), ("−g: ε → ∞", DESCENT)
    key(panels["A"], "lower left", ("the step at ε", EMPIRICAL_FISHER), *limits)


def _ellipse(data):
    """The steps of cost c."""
    G = plane.gradients(data["problem"])
    return jnp.sqrt(data["budget"]) * plane.ellipse(G, jnp.eye(2, dtype=G.dtype), 181)
