"""Noise and curvature, two jobs: C is right for the first, F and H for the second, after Thomas and others, 2020.

A line is fitted to data that are no line: y = x + m(x² − 1)/2 + σe, with x and e normal. At the best line the residual
is r = m(x² − 1)/2 + σe, so that with a = (1, x)

    H = F = E[aaᵀ] = I        C = E[r²aaᵀ] = σ²I + m² diag(½, 5/2)

Noise. Stochastic gradient descent, with batches of size B and a small η, ends in a cloud about the optimum whose
covariance S solves HS + SH = ηC/B. (At the optimum g = 0, so that C and its centred form are one.) Generalisation. The
best fit to n examples has n⁻¹tr(H⁻¹C) more loss on new examples, on average (Takeuchi, 1976); p/n if C were F (Akaike).
Curvature. The loss is ½ΔᵀHΔ above its least value, whatever C is.
"""

import jax.numpy as jnp
import numpy as np

from efisher_teach.figures.ink import CANDIDATE, DATA, EMPIRICAL_FISHER, NATURAL, TRUTH
from efisher_teach.figures.marks import centre, dots, key, line, set_up
from efisher_teach.figures.plane import circle, no_farther, numbers, over, percent, place_of, points
from efisher_teach.figures.scene import Axis, Preset, Scene
from efisher_teach.network.misfit import ends_of_runs, form, gaps_of_fits

NOISES = 2.0 ** np.arange(-2, 0.6, 0.5)
MISFITS = np.linspace(0, 1, 6)
BATCHES = 2.0 ** np.arange(5)
RATE = 0.05  # η
STEPS, RUNS, SHOWN = 150, 1000, 120  # of a run; runs, and those with a dot
SETS, EXAMPLES = 1000, 100  # training sets, and the examples in each
SPREAD = 2.0  # standard deviations that an ellipse of the cloud reaches: it holds 1 − e⁻² of a normal one
POINTS = 49
HALF, BEYOND = (0.7, 2.6), 9.0  # half sides of the two planes; where an ellipse that leaves the view is cut
GAPS = 8e-4, 0.15
MARKS = {
    "gap": line("C", EMPIRICAL_FISHER, 2.4),
    "measured": dots("C", TRUTH, 7),
    "here": dots("C", CANDIDATE, 10),
    "cloud": dots("A", DATA, 4.5),
    "believed": line("A", NATURAL, 2, dashes=(4, 2)),
    "predicted": line("A", EMPIRICAL_FISHER, 2.4),
    "curvature": line("B", EMPIRICAL_FISHER, 2.4),
}


def noise_and_curvature(*, seed: int = 0) -> Scene:
    """Drag noise, misfit and batch size: C predicts where SGD ends and the generalisation gap, and fails as curvature.

    Args:
        seed: Of the data that the runs and the training sets draw.

    Returns:
        A `Scene` with the axes "noise", "misfit" and "batch".

    Reference:
        V. Thomas, F. Pedregosa, B. van Merriënboer, P.-A. Manzagol, Y. Bengio, N. Le Roux, "On the interplay between
        noise and curvature and its effect on optimization and generalization", AISTATS 2020.

    Examples:
        >>> scene = ef.scenes.noise_and_curvature()
        >>> print(scene.presets[1].asks)
        How long is the step −C⁻¹g here?
    """
    rng = np.random.default_rng(seed)
    runs = {"rate": RATE, "steps": STEPS, "runs": RUNS}
    ends = np.stack([ends_of_runs(rng, int(batch), **runs) for batch in BATCHES])
    gaps, scatter = gaps_of_fits(rng, SETS, EXAMPLES)
    data = {"ends": ends, "gaps": gaps, "scatter": scatter}
    return Scene(
        title="Noise and curvature: two jobs",
        axes=(
            Axis("noise", "noise σ of the data", NOISES, 0.5, lambda value: f"{value:.2f}"),
            Axis("misfit", "misfit of the model", MISFITS, 1.0, lambda value: f"{value:.1f}"),
            Axis("batch", "batch size B", BATCHES, 2.0, lambda value: f"{value:.0f}"),
        ),
        data={name: jnp.asarray(array, float) for name, array in data.items()},
        background=background,
        respond=respond,
        marks=MARKS,
        still=still,
        mosaic=("ABC", "A;B;C"),
        words=WORDS,
        size=(10.0, 3.8),
        narrow=(4.8, 13.0),
        presets=PRESETS,
    )


WORDS = (
    "With noise σ = {noise} and misfit {misfit} the empirical Fisher is {least:.2g} to {most:.2g} times the Hessian, "
    "which is the Fisher here. Noise: in batches of {batch} SGD ends {excess:.2g} above the minimum; C predicts "
    "{predicted_excess:.2g}, the Fisher {believed_excess:.2g}. {inside:.0f} % of the runs end inside C's ellipse of "
    "two deviations, where 86 % should, and {inside_believed:.0f} % inside the Fisher's. Gap: a fit to 100 examples "
    "has {gap_here:.2g} more loss on new ones, on average (standard deviation {scatter:.1g}); C says {takeuchi:.2g}, "
    "the Fisher 0.02."
)
PRESETS = (
    Preset("Well specified", {"noise": 1.0, "misfit": 0.0, "batch": 2.0},
           "The noise is what the model assumes: C, F and H are one matrix, and it does both jobs.",
           "Which slider changes C by a factor, and which changes its shape?"),
    Preset("Little noise", {"noise": 0.25, "misfit": 0.0, "batch": 2.0},
           "The cloud is small, as C says. The loss bends as before: as a curvature C is 16 times too small, and its "
           "ellipse leaves the view.",
           "How long is the step −C⁻¹g here?"),
    Preset("Misspecified", {"noise": 0.5, "misfit": 1.0, "batch": 2.0},
           "The cloud is longest where C is largest, while the loss bends alike in all directions.",
           "Is the generalisation gap still p/n?"),
    Preset("Large batches", {"noise": 0.5, "misfit": 1.0, "batch": 8.0},
           "A batch four times as large: the cloud is half as wide, and keeps its shape.",
           "What does the batch size do to the gap?"),
)  # fmt: skip


def background(data):
    """The circle that H and F are."""
    return {"fisher": circle(POINTS, data["ends"].dtype)}


def respond(data, state):
    """The cloud and its two predictions, the two curvatures, and the gap over all misfits."""
    noise, misfit, batch = state["noise"], state["misfit"], state["batch"]
    ends = data["ends"][place_of(batch, BATCHES)]
    # A run is linear in what disturbs it: that of misfit and noise together is the sum of the two.
    cloud = misfit * ends[:, 0] + noise * ends[:, 1]
    unit = circle(POINTS, ends.dtype)
    variances = noise**2 + misfit**2 * jnp.array([0.5, 2.5])  # the diagonal of C; H is I
    wide, at_end = jnp.sqrt(RATE / (2 * batch)), RATE / (4 * batch)  # of S = ηC/2B, and of its loss ½ tr S
    away = cloud / wide

    def within(variances):
        return jnp.mean(jnp.sum(away**2 / variances, axis=-1) < SPREAD**2)

    def gap(misfit):
        return form(data["gaps"], misfit, noise), (2 * noise**2 + 3 * misfit**2) / EXAMPLES

    misfits = jnp.asarray(MISFITS, ends.dtype)
    measured, takeuchi = gap(misfits)
    gap_here, takeuchi_here = gap(misfit)
    return {
        "cloud": cloud[:SHOWN],
        "predicted": SPREAD * wide * jnp.sqrt(variances) * unit,
        "believed": SPREAD * wide * unit,
        "curvature": no_farther(unit / jnp.sqrt(variances), BEYOND),
        **over(misfits, gap=takeuchi, measured=measured),
        "here": points(misfit, gap_here),
        **numbers(least=variances[0], most=variances[1], excess=jnp.mean(jnp.sum(cloud**2, axis=-1)) / 2),
        **numbers(predicted_excess=at_end * jnp.sum(variances), believed_excess=2 * at_end),
        **percent(inside=within(variances), inside_believed=within(jnp.ones(2))),
        **numbers(gap_here=gap_here, takeuchi=takeuchi_here),
        "scatter": jnp.sqrt(jnp.mean(form(data["scatter"], misfit, noise) ** 2)),
    }


def still(panels, background):
    """Two planes about the optimum with what the Fisher says; the gap that p/n is."""
    noise, curvature, gap = (panels[letter] for letter in "ABC")
    for panel, half, step in zip((noise, curvature), HALF, (0.3, 1), strict=True):
        ticks = step * np.arange(-2, 3)
        about = {"xticks": ticks, "yticks": ticks, "xlabel": "intercept, from the optimum", "ylabel": "slope"}
        centre(panel, half * np.ones(2), 1.0, **about)
    noise.set_title("Noise: where SGD ends")
    key(noise, "upper left", ("runs", DATA), ("two deviations, by C", EMPIRICAL_FISHER))
    key(noise, "lower left", ("if C were F (dashed)", NATURAL))

    curvature.set_title("Curvature: ½ΔᵀMΔ = ½")
    curvature.plot(*background["fisher"].T, color=NATURAL, lw=3.2)
    curvature.plot(*background["fisher"].T, color=TRUTH, lw=1.6, ls="--")
    key(curvature, "upper left", ("the loss, and H (dashed)", TRUTH), ("F", NATURAL))
    key(curvature, "lower left", ("C", EMPIRICAL_FISHER))

    gap.set_box_aspect(1)
    set_up(gap, log="y", xlim=(-0.06, 1.06), ylim=GAPS, xlabel="misfit of the model")
    gap.axhline(2 / EXAMPLES, color=NATURAL, lw=2, ls=(0, (4, 2)))
    gap.set_title(f"Gap to new data, n = {EXAMPLES}")
    key(gap, "upper left", ("measured", TRUTH), ("tr(H⁻¹C)/n", EMPIRICAL_FISHER))
    key(gap, "lower right", ("p/n (dashed)", NATURAL), ("here", CANDIDATE))
