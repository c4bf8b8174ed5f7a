"""Three ellipses: empirical Fisher, Fisher and Hessian, where they agree and where they do not.

A regression with a Gaussian of unit variance about the model. Three knobs break the agreement: the true noise σ is not
1 (the empirical Fisher is then σ² times the Fisher), the model does not fit, or θ is far from the optimum. The plane is
drawn in coordinates where the Fisher is a circle, so that everything else is seen relative to it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from efisher_teach import errors
from efisher_teach.core import matrices
from efisher_teach.core.gradients import mean_gradient, per_example_gradients, per_example_jacobians
from efisher_teach.core.likelihoods import gaussian
from efisher_teach.core.precision import dot
from efisher_teach.core.problems import Problem
from efisher_teach.figures.ink import CONSTRAINT, DATA, EMPIRICAL_FISHER, NATURAL, TRUTH
from efisher_teach.figures.marks import arrow, centre, dots, key, line, polygons, set_up
from efisher_teach.figures.plane import circle, from_origin, no_farther, over, points
from efisher_teach.figures.scene import Axis, Handle, Preset, Scene

NOISES = np.logspace(-1, 0.5, 13)
MISFITS = np.linspace(0, 1, 6)
DISTANCES = np.r_[0.01, np.arange(0.25, 3.1, 0.25)]  # at 0 there is no direction to go
AWAY = (-0.8, -0.6)  # from the optimum: down, and less steep
START = (0.0, 1.0)  # the intercept and slope of the data, were it not for misfit and noise
HALF, ASPECT = 3.0, 1.24  # of the panel of the ellipses: half its height, and width by height
HEAD = 0.25
FARTHEST = 12.0  # where ellipses that leave the view are cut
LEAST, MOST = 4e-3, 150.0  # of the panel of eigenvalues
SHOWN = 60  # examples with a dot
POINTS = 33  # of an ellipse
EDGE = 2.9  # of the panel of the data, in standard deviations of x
MARKS = {
    "centred": line("A", EMPIRICAL_FISHER, 1.4, dashes=(3, 2)),
    "sigma": line("B", DATA, 1.6, dashes=(4, 2)),
    "belief": polygons("C", f"{NATURAL}40"),
    "examples": dots("C", DATA, 5),
    "best": line("C", TRUTH, 1.6, dashes=(4, 3)),
    "model": line("C", CONSTRAINT, 2),
    "empirical": line("A", EMPIRICAL_FISHER, 2.6),
    "hessian": line("A", TRUTH, 2, dashes=(4, 3)),
    "optimum": dots("A", TRUTH, 9),
    "natural": arrow("A", NATURAL),
    "empirical_ends": dots("B", EMPIRICAL_FISHER, 10),
    "centred_ends": dots("B", EMPIRICAL_FISHER, 7),
    "hessian_ends": dots("B", TRUTH, 10),
    "step": arrow("A", EMPIRICAL_FISHER),
}


def fisher_hessian(*, n: int = 200, seed: int = 0, model: str = "linear") -> Scene:
    """ΔᵀMΔ = 1 for the empirical Fisher, its centred form, the Fisher and the Hessian of a regression.

    Args:
        n: Examples; more of them bring the empirical Fisher of a well-specified model closer to the Fisher.
        seed: Of the draw of x and of the noise, which the slider scales.
        model: "linear", θ₀ + θ₁x, whose Hessian is the Fisher; or "curved", θ₀ + θ₁x + θ₁²(x² − 1)/3, whose Hessian is
            another matrix wherever residuals bend, and may have a negative eigenvalue.

    Returns:
        A `Scene` with the axes "noise", "misfit" and "distance".

    Raises:
        ValueError: n is below 60, or the model is unknown.

    Examples:
        >>> scene = ef.scenes.fisher_hessian()
        >>> print([axis.name for axis in scene.axes])
        ['noise', 'misfit', 'distance']
        >>> print(scene.presets[1].asks)
        The data are cleaner than the model believes. Does C grow or shrink?
    """
    if errors.at_least_one("n", n) < SHOWN:
        errors.reject("n", f"at least {SHOWN}", f"{n}", "Fewer examples make no cloud.")
    errors.one_of("model", model, tuple(MODELS))
    drawn = np.random.default_rng(seed).normal(size=(2, n))
    drawn = (drawn - drawn.mean(axis=1)[:, None]) / drawn.std(axis=1)[
        :, None
    ]  # so that the Fisher of the line is I
    edges = np.linspace(-EDGE, EDGE, 2 if model == "linear" else 11)
    x, unit, start, edges = (jnp.asarray(array, float) for array in (*drawn, START, edges))
    output_fn, loss_fn = MODELS[model]
    about = {"output_fn": output_fn, "likelihood": gaussian}
    problem = Problem(model, loss_fn, output_fn, start, x, jnp.zeros(n), **about)
    return Scene(
        title="Three ellipses: empirical Fisher, Fisher, Hessian",
        axes=(
            Axis("noise", "noise σ of the data", NOISES, float(NOISES[6]), lambda value: f"{value:.2f}"),
            Axis("misfit", "misfit of the model", MISFITS, 0.0, lambda value: f"{value:.1f}"),
            Axis("distance", "distance to the optimum", DISTANCES, 2.0, lambda value: f"{value:.2f}"),
        ),
        data={"problem": problem, "unit": unit, "edges": edges},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("AAB;AAC", "A;A;B;C"),
        words=WORDS,
        size=(10.0, 5.8),
        narrow=(4.8, 10.4),
        handles=(Handle("optimum", ("distance",), "the optimum"),),
        presets=PRESETS,
    )


WORDS = (
    "With noise σ = {noise}, misfit {misfit}, at a distance of {distance} from the optimum, the empirical Fisher is "
    "{empirical_least:.3g} to {empirical_most:.3g} times the Fisher, depending on the direction (σ² = "
    "{variance:.2g}); its centred form {centred_least:.3g} to {centred_most:.3g} times, and the Hessian "
    "{hessian_least:.2f} to {hessian_most:.2f} times. The step −C⁻¹g points {angle:.0f}° away from the natural "
    "gradient −F⁻¹g, and is {ratio:.3g} times as long."
)
PRESETS = (
    Preset("Well specified", {"noise": 1.0, "misfit": 0.0, "distance": 0.01},
           "Noise as the model believes, at the optimum: all agree, but for the luck of the draw.",
           "Which of the three knobs breaks the agreement?"),
    Preset("Little noise", {"noise": 0.1, "misfit": 0.0, "distance": 0.01},
           "The blue ellipse has left the view: C is a hundredth of F, and its step a hundred times too long.",
           "The data are cleaner than the model believes. Does C grow or shrink?"),
    Preset("Misspecified", {"noise": float(NOISES[6]), "misfit": 1.0, "distance": 0.01},
           "What the model cannot fit looks like noise that grows with |x|: C is no multiple of F.",
           "In which direction does C grow more, intercept or slope?"),
    Preset("Far away", {"noise": float(NOISES[6]), "misfit": 0.0, "distance": 3.0},
           "Large gradients make C large and lopsided: a short step, in another direction than the Fisher's.",
           "Does centring repair it?"),
)  # fmt: skip


def background(data):
    """The circle that the Fisher is; all limits are known beforehand."""
    return {"fisher": circle(POINTS, data["edges"].dtype), "edges": data["edges"][jnp.array([0, -1])]}


def respond(data, state):
    """The matrices at θ in coordinates where the Fisher is the identity, and the two steps."""
    problem, edges = data["problem"], data["edges"]
    output_fn, loss_fn, x = problem.output_fn, problem.loss_fn, problem.x
    predict = jax.vmap(output_fn, (None, 0))
    y = predict(problem.params, x) + state["misfit"] * (x**2 - 1) / 2 + state["noise"] * data["unit"]
    optimum = _optimum(output_fn, problem.params, x, y)
    away = state["distance"] * jnp.asarray(AWAY, x.dtype)
    params = optimum + away

    G = per_example_gradients(loss_fn, params, x, y)
    F = matrices.fisher(loss_fn, params, x, output_fn=output_fn, likelihood=gaussian)
    compared = {
        "empirical": matrices.empirical_fisher(G),
        "centred": matrices.gradient_covariance(G),
        "hessian": matrices.hessian(loss_fn, params, x, y),
    }
    L = jnp.linalg.cholesky(F)
    divided = partial(solve_triangular, L, lower=True)
    found = {}
    for row, (name, M) in enumerate(compared.items()):
        most, least = matrices.generalised_eigenvalues(M, F)
        ends = points(jnp.clip(jnp.stack([least, most]), LEAST, MOST), 3.0 - row)
        seen = divided(divided(M).T)  # L⁻¹ML⁻ᵀ
        found |= {name: _ellipse(seen), f"{name}_ends": ends, f"{name}_least": least, f"{name}_most": most}

    natural = -divided(mean_gradient(G))
    step = jnp.linalg.solve(divided(divided(compared["empirical"]).T), natural)
    length = jnp.linalg.norm(natural)
    ratio = jnp.linalg.norm(step) / length
    shown = jnp.maximum(length, HEAD) / length  # an arrow is no shorter than its head
    towards, turned = shown * natural, shown * step / ratio
    across = towards[0] * turned[1] - towards[1] * turned[0]
    model, variance = predict(params, edges), state["noise"] ** 2
    belief = points(edges, model + 1), points(edges, model - 1)[::-1]
    return found | {
        "optimum": -dot(L.T, away),
        **from_origin(natural=towards, step=turned),
        "sigma": points(variance, jnp.array([0.4, 3.6])),
        "examples": points(x, y)[:SHOWN],
        "belief": jnp.concatenate(belief)[None],
        **over(edges, model=model, best=predict(optimum, edges)),
        "variance": variance,
        "angle": jnp.rad2deg(jnp.abs(jnp.atan2(across, dot(towards, turned)))),
        "ratio": ratio,
    }


def still(panels, background):
    """The ellipses at the left; at the right how much larger than the Fisher they are, and the data."""
    plane, sizes, cloud = (panels[letter] for letter in "ABC")
    plane.plot(*background["fisher"].T, color=NATURAL, lw=2.6)
    centre(plane, HALF * np.array([ASPECT, 1.0]), ASPECT, xlabel="intercept", ylabel="slope")
    plane.set_title("ΔᵀMΔ = 1, where the Fisher is a circle")
    plane.annotate("θ", (0, 0), xytext=(7, -12), textcoords="offset points")
    both = ("empirical Fisher C, and −C⁻¹g", EMPIRICAL_FISHER), ("centred (dashed)", EMPIRICAL_FISHER)
    key(plane, "upper left", *both, ("Fisher F, and −F⁻¹g", NATURAL))
    key(plane, "lower right", ("Hessian (dashed)", TRUTH), ("optimum θ*: drag it", TRUTH))

    sizes.axvline(1, color=NATURAL, lw=2)
    set_up(sizes, log="x", xlim=(LEAST, MOST), ylim=(-0.4, 3.6), xlabel="times the Fisher")
    sizes.set_yticks([3, 2, 1], ["C", "centred", "Hessian"])
    sizes.set_title("Generalised eigenvalues")
    key(sizes, "lower right", ("σ² (dashed)", DATA))

    cloud.set(xlim=background["edges"], ylim=(-8, 8), xlabel="x", title="Data, and the model's belief")
    key(cloud, "upper left", ("model at θ", CONSTRAINT), ("believes ±1", NATURAL))
    key(cloud, "lower right", ("best fit θ*", TRUTH))


def _optimum(output_fn, start, x, y):
    """The least-squares fit, by Gauss-Newton: for a line the first step is exact."""

    def move(_, params):
        J = per_example_jacobians(output_fn, params, x)[:, 0]
        residual = y - jax.vmap(output_fn, (None, 0))(params, x)
        return params + jnp.linalg.solve(dot(J.T, J), dot(J.T, residual))

    return lax.fori_loop(0, 30, move, start)


def _ellipse(M):
    """vᵀMv = 1, as the image of a circle; for an indefinite M a hyperbola. Cut far out of view."""
    unit = circle(POINTS, M.dtype)
    image = no_farther(solve_triangular(jnp.linalg.cholesky(M), unit.T, lower=True, trans=1).T, FARTHEST)
    curvature = jnp.sum(dot(unit, M) * unit, axis=-1, keepdims=True)
    along = unit / jnp.sqrt(jnp.maximum(curvature, FARTHEST**-2))
    return jnp.where(jnp.all(jnp.isfinite(image)), image, along)


def _output(stiffness, params, x):
    return params[0] + params[1] * x + params[1] ** 2 * (x**2 - 1) / stiffness


def _loss(stiffness, params, x, y):
    return gaussian.loss(_output(stiffness, params, x), y)


STIFFNESS = {"linear": np.inf, "curved": 3.0}
MODELS = {name: (partial(_output, value), partial(_loss, value)) for name, value in STIFFNESS.items()}
