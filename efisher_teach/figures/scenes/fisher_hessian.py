"""Empirical Fisher, Fisher, Hessian: C is a Gauss-Newton matrix too, of a loss split elsewhere.

Two classes, z the logit of an example, q = 1/(1 + e⁻ᶻ). Write its loss as ℓ(z) = h(u(z)), linearise the inner u and
keep the outer h as it is: the Gauss-Newton matrix E[w ∇z∇zᵀ] has the weights w = h″(u) u′² = ℓ″ − ℓ′ u″/u′, which
depend on the split. One family of inner functions leads from the logit to the probability:

    uₛ′ = (4q(1 − q))ˢ      s = 0: u = z, the logit      s = ½: an arcsine of √q      s = 1: u = 4(q − ½)

With uₛ″/uₛ′ = s(1 − 2q) it follows that w = (1 − s) q(1 − q) + s (q − y)²: the matrix is (1 − s)F + sC. (The factor 4
makes all uₛ alike at q = ½; an inner function may be shifted and scaled, and reversed, without any effect.)
"""

import jax
import jax.numpy as jnp
import numpy as np

from efisher_teach import errors
from efisher_teach.core.gradients import per_example_jacobians
from efisher_teach.core.matrices import empirical_fisher
from efisher_teach.core.precision import cholesky, dot, eigh
from efisher_teach.core.problems import Problem
from efisher_teach.core.two_by_two import solve_two_by_two
from efisher_teach.figures import plane as view
from efisher_teach.figures.ink import CANDIDATE, EMPIRICAL_FISHER, NATURAL
from efisher_teach.figures.marks import centre, dots, key, line, set_up
from efisher_teach.figures.plane import circle, percent, points
from efisher_teach.figures.scene import Axis, Preset, Scene

SPLITS = np.linspace(0, 1, 21)
SCALES = np.linspace(0, 3, 13)
HALF, ASPECT = 1.45, 1.24  # of the panel of the ellipses: half its height, and width by height
POINTS = 65  # of an ellipse and of a curve
SHOWN = 120  # examples with a dot
FARTHEST = 9.0  # logits that the curves of the loss reach
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
MARKS = {
    "empirical": line("A", EMPIRICAL_FISHER, 2.2),
    "weights": line("B", CANDIDATE, 2.2),
    "outer": line("C", CANDIDATE, 2.2),
    "split_matrix": line("A", CANDIDATE, 2.6, dashes=(5, 2)),
    "examples": dots("B", CANDIDATE, 5),
    "losses": dots("C", CANDIDATE, 5),
}


def fisher_hessian(problem: Problem) -> Scene:
    """Drag the place where a loss is split: its Gauss-Newton matrix goes from F to C.

    Args:
        problem: Two classes, with `params` of shape (2,); best with fitted ones, which the second slider scales.

    Returns:
        A `Scene` with the axes "split" and "scale".

    Raises:
        ValueError: params is not (2,), or the likelihood is not that of two classes.

    Reference:
        F. Kunstner, L. Balles, P. Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", NeurIPS 2019, section 4.1.

    Examples:
        >>> scene = ef.scenes.fisher_hessian(ef.descend(ef.breast_cancer(2), steps=100))
        >>> print(scene.presets[0].asks)
        Which examples will gain weight if the split moves to the probability?
    """
    view.require_two_parameters(problem)
    if not problem.likelihood or problem.likelihood.name != "Bernoulli":
        got = problem.likelihood and problem.likelihood.name
        errors.reject("problem", "one of two classes", f"the likelihood {got}", "E.g. breast_cancer(2).")
    return Scene(
        title="The split: one loss, many Gauss-Newton matrices",
        axes=(
            Axis("split", "split s, logit to probability", SPLITS, 0.5, lambda value: f"{value:.2f}"),
            Axis("scale", "multiple of θ", SCALES, 2.0, lambda value: f"{value:.2f}"),
        ),
        data={"problem": problem},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        words=WORDS,
        size=(10.0, 5.4),
        narrow=(4.8, 10.4),
        presets=PRESETS,
    )


WORDS = (
    "Split at s = {split} on the way from the logit (0) to the probability (1), and with {scale} times θ, the "
    "Gauss-Newton matrix is {least:.3g} to {most:.3g} times the Fisher, depending on the direction; the empirical "
    "Fisher is {empirical_least:.3g} to {empirical_most:.3g} times the Fisher. The {wrong:.0f} % of the examples "
    "whose label the model finds unlikely have {fisher_share:.0f} % of all weight in the Fisher, "
    "{empirical_share:.0f} % in the empirical Fisher and {share:.0f} % here."
)
PRESETS = (
    Preset("Logit", {"split": 0.0, "scale": 2.0},
           "Split at the logit the Gauss-Newton matrix is the Fisher, and here the Hessian too.",
           "Which examples will gain weight if the split moves to the probability?"),
    Preset("Probability", {"split": 1.0, "scale": 2.0},
           "Split at the probability it is the empirical Fisher: a label ruled out weighs 1, a doubtful one ¼.",
           "It is a Gauss-Newton matrix. Is it a good model of the curvature?"),
    Preset("No opinion", {"split": 1.0, "scale": 0.0},
           "At θ = 0 every label has the probability ½ and every split gives the same matrix.",
           "Will the split matter more or less as the model grows more confident?"),
    Preset("Too sure", {"split": 1.0, "scale": 3.0},
           "Three times the fitted θ: confident mistakes make up nearly all of C.",
           "Which of the two matrices hardly counts the mistakes?"),
)  # fmt: skip


def background(data):
    """The circle that the Fisher is, and the weights and the losses of both ends."""
    dtype = data["problem"].params.dtype
    chance, ends = jnp.linspace(0, 1, POINTS, dtype=dtype), jnp.array([0.0, 1.0], dtype)
    z = jnp.linspace(-FARTHEST, FARTHEST, POINTS, dtype=dtype)
    return {
        "fisher": circle(POINTS, dtype),
        "weight_ends": jax.vmap(lambda s: points(chance, _weight(chance, s)))(ends),
        "outer_ends": jax.vmap(lambda s: points(_inner(z, s), jax.nn.softplus(-z)))(ends),
    }


def respond(data, state):
    """The three matrices at the scaled θ, the examples, and the two halves of the split."""
    problem, s = data["problem"], state["split"]
    params, dtype = state["scale"] * problem.params, problem.params.dtype
    J = per_example_jacobians(problem.output_fn, params, problem.x)[:, 0]
    margin = (2 * problem.y - 1) * jax.vmap(problem.output_fn, (None, 0))(params, problem.x)
    chance = jax.nn.sigmoid(margin)  # that the model gives to the label
    weights = {name: _weight(chance, at) for name, at in (("fisher", 0.0), ("empirical", 1.0), ("split", s))}
    F, C = (empirical_fisher(jnp.sqrt(weights[name])[:, None] * J) for name in ("fisher", "empirical"))
    seen = solve_two_by_two(F, cholesky(F))  # L⁻ᵀ, back from the coordinates where F = LLᵀ is the identity
    ratios, axes = eigh(dot(seen.T, dot(C, seen)))
    split_ratios = 1 - s + s * ratios  # of (1 − s)F + sC, with the same axes
    wrong = chance < 0.5
    fisher_share, empirical_share, share = (jnp.sum(w * wrong) / jnp.sum(w) for w in weights.values())
    grid, z = jnp.linspace(0, 1, POINTS, dtype=dtype), jnp.linspace(-FARTHEST, FARTHEST, POINTS, dtype=dtype)
    return {
        "empirical": dot(circle(POINTS, dtype) / jnp.sqrt(ratios), axes.T),
        "split_matrix": dot(circle(POINTS, dtype) / jnp.sqrt(split_ratios), axes.T),
        "weights": points(grid, _weight(grid, s)),
        "examples": points(chance, weights["split"])[:SHOWN],
        "outer": points(_inner(z, s), jax.nn.softplus(-z)),
        "losses": points(_inner(margin, s), jax.nn.softplus(-margin))[:SHOWN],
        **dict(zip(("least", "most"), split_ratios, strict=True)),
        **dict(zip(("empirical_least", "empirical_most"), ratios, strict=True)),
        **percent(wrong=jnp.mean(wrong), share=share),
        **percent(fisher_share=fisher_share, empirical_share=empirical_share),
    }


def still(panels, background):
    """The Fisher and what the colours mean; the weights and the losses of both ends."""
    plane, weight, loss = (panels[letter] for letter in "ABC")
    plane.plot(*background["fisher"].T, color=NATURAL, lw=2.6)
    centre(plane, HALF * np.array([ASPECT, 1.0]), ASPECT, xlabel="θ₁, scaled", ylabel="θ₂, scaled")
    plane.set_title("ΔᵀMΔ = 1, where the Fisher is a circle")
    matrices = ("Fisher F: split at the logit", NATURAL), ("empirical Fisher C: split at q", EMPIRICAL_FISHER)
    key(plane, "upper left", *matrices)
    key(plane, "lower left", ("split at s (dashed)", CANDIDATE))

    for ends, panel in ((background["weight_ends"], weight), (background["outer_ends"], loss)):
        for curve, color in zip(ends, (NATURAL, EMPIRICAL_FISHER), strict=True):
            panel.plot(*curve.T, color=color, lw=1.4)
    set_up(weight, xlim=(-0.02, 1.02), ylim=(-0.03, 1.05), xlabel="q, the probability of the label")
    weight.set_title("Weight of an example")
    key(weight, "upper right", ("C: (1 − q)²", EMPIRICAL_FISHER), ("F: q(1 − q)", NATURAL))
    set_up(loss, xlim=(-6, 4), ylim=(-0.15, 5), xlabel="u, the part that is linearised")
    loss.set_title("Loss of an example, h(u)")
    key(loss, "upper right", ("u = q: −log q", EMPIRICAL_FISHER), ("u = logit", NATURAL))


def _weight(chance, s):
    """ℓ″ − ℓ′ u″/u′ by the chance q of the label, with ℓ = −log q, ℓ′ = q − 1, ℓ″ = q(1 − q) and u″/u′ = s(1 − 2q)."""
    return chance * (1 - chance) + s * (1 - chance) * (1 - 2 * chance)


def _inner(z, s):
    """u = ∫₀ᶻ (4q(1 − q))ˢ, by Gauss's rule."""
    at = z[..., None] * jnp.asarray((1 + NODES) / 2, z.dtype)
    slope = jnp.cosh(at / 2) ** (-2 * s)  # 4q(1 − q) = 1/cosh²(z/2)
    return z * jnp.sum(jnp.asarray(WEIGHTS / 2, z.dtype) * slope, axis=-1)
