"""The fact sheet, section 5: where the empirical Fisher is the Fisher, and what happens where it is not.

Held elsewhere: 4 by test_coordinates.py and test_scene_other_coordinates.py; 5.1 by test_matrices.py; Figure 1 of
Kunstner, Balles and Hennig (5.4) by test_scene_vector_field.py; running averages (5.7) by test_update.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import efisher_teach as ef
from efisher_teach.core.precondition import precondition
from efisher_teach.core.problems import LINEAR, LOGISTIC

pytestmark = pytest.mark.heavy


class Matrices(NamedTuple):
    """Those at one θ, and what C is in terms of F."""

    g: jax.Array
    C: jax.Array
    F: jax.Array
    hessian: jax.Array
    ratios: jax.Array


def matrices(model, params, x, y):
    G = ef.per_example_gradients(model.loss_fn, params, x, y)
    C = ef.empirical_fisher(G)
    F = ef.fisher(model.loss_fn, params, x, output_fn=model.output_fn, likelihood=model.likelihood)
    return Matrices(
        ef.mean_gradient(G), C, F, ef.hessian(model.loss_fn, params, x, y), ef.generalised_eigenvalues(C, F)
    )


compute = jax.jit(matrices, static_argnums=0)
budget_step = jax.jit(lambda G: ef.empirical_fisher_step(G, budget=0.01))


# 5.2: where they coincide.


def test_binary_labels_at_zero_logits(dtype):
    """(σ(0) - y)² = 1/4 = p(1 - p) whatever the label is: C = F = H, to rounding; elsewhere C differs."""
    problem, close = ef.logistic_regression(64, 3), 2 * 64 * oracles.unit(dtype)  # sums of 64 terms
    for y in (problem.y, jnp.ones_like(problem.y)):
        at = compute(LOGISTIC, jnp.zeros(3), problem.x, y)
        for other in (at.F, at.hessian, problem.x.T @ problem.x / (4 * 64)):
            assert oracles.relative(at.C, other) < close
        np.testing.assert_allclose(at.ratios, 1, rtol=100 * close)  # κ(F) < 100
    away = compute(LOGISTIC, jnp.array([1.0, -1, 0]), problem.x, problem.y)
    assert oracles.relative(away.C, away.F) > 0.1
    assert oracles.relative(away.F, away.hessian) < close


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 2.0])
def test_linear_regression_at_its_optimum_has_the_noise_as_a_factor(noise, x64):
    """C = σ²F to sampling error, so the step by C is 1/σ² of Newton's: 100 times too long for σ = .1.

    In whitened x, an entry of C/σ² has variance 8/n on the diagonal and 3/n beside it, so for p = 3 and n = 20,000 the
    error has the expected Frobenius norm √(42/n) = .046. Twice that bounds the eigenvalues.
    """
    problem = ef.linear_regression(20_000, 3, noise=noise)
    at = compute(LINEAR, np.linalg.lstsq(problem.x, problem.y)[0], problem.x, problem.y)
    np.testing.assert_allclose(at.ratios / noise**2, 1, atol=0.092)


def test_interpolation_ends_the_empirical_fisher_but_not_the_hessian(x64):
    """No residual is left: C falls with the square of the distance, H stays; so undamped steps grow as it shrinks."""
    problem, target, away = ef.linear_regression(40, 3), jnp.array([1.0, -2, 0.5]), jnp.array([1.0, 1, -1])
    y = problem.x @ target
    far = compute(LINEAR, target + away, problem.x, y)
    step = np.linalg.solve(far.C, far.g)
    for distance in (1e-1, 1e-2, 1e-3):
        near = compute(LINEAR, target + distance * away, problem.x, y)
        assert oracles.relative(near.C, distance**2 * far.C) < 1e-11  # residuals 1e-3, good to 1e-15
        assert oracles.relative(near.hessian, problem.x.T @ problem.x / 40) < 1e-13
        np.testing.assert_allclose(np.linalg.solve(near.hessian, near.g), distance * away, rtol=1e-10)
        assert oracles.relative(np.linalg.solve(near.C, near.g), step / distance) < 1e-9  # κ(C)·1e-12
    assert jnp.linalg.norm(compute(LINEAR, target, problem.x, y).C) < 1e-28 * jnp.linalg.norm(far.C)


# 4.5: the unit of the loss.

POWERS = {"full": -1, "diagonal": -1, "root": 0, "diagonal root": 0, "none": 1}


@pytest.mark.parametrize("form", POWERS)
def test_scaling_the_loss(form, x64):
    """Loss times a: C takes 1/a, a root nothing, gradient descent a; ε takes a² to leave it so."""

    def direction(G, damping):
        return precondition(ef.empirical_fisher(G), ef.mean_gradient(G), damping, form)

    G = jnp.asarray(oracles.GRID["tall"])
    for factor in (10.0, 0.1):
        for damping in (0.0, 0.1) if form != "none" else (0.0,):
            expected = factor ** POWERS[form] * direction(G, damping)
            assert oracles.relative(direction(factor * G, factor**2 * damping), expected) < 1e-11
            assert damping == 0 or oracles.relative(direction(factor * G, damping), expected) > 0.01


# 5.3: centred or not, the same direction.

SAMPLE = np.random.default_rng(4).normal(size=(50, 4)) + np.array(
    [0.5, 0.3, -0.2, 0.1]
)  # 50 × 4, as on the sheet


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.1, 10.0])
def test_centred_is_the_same_direction_and_longer(damping, x64):
    """(Σ + εI)⁻¹g = (1 + s)(C + εI)⁻¹g with s = gᵀ(Σ + εI)⁻¹g. (The 1.5256 of the fact sheet is of another draw.)"""
    G, g = jnp.asarray(SAMPLE), jnp.asarray(SAMPLE.mean(axis=0))
    uncentred = ef.solve_primal(ef.empirical_fisher(G), g, damping)
    centred = ef.solve_primal(ef.gradient_covariance(G), g, damping)
    s = g @ np.linalg.solve(np.cov(SAMPLE.T, bias=True) + damping * np.eye(4), g)
    np.testing.assert_allclose(centred, (1 + s) * uncentred, rtol=1e-12)
    if damping == 0:  # with the same budget in the same metric it is the same step
        cost = ef.quadratic_form(ef.empirical_fisher(G), centred)
        np.testing.assert_allclose(-centred * jnp.sqrt(0.01 / cost), budget_step(G).delta, rtol=1e-12)


def test_with_pseudo_inverses_centred_is_orthogonal_where_examples_are_few(x64):
    """C⁺g is in the null space of Σ, the part of g that Σ cannot see; damping, however small, restores it.

    It takes ρ = 1: for (1, 0) and (2, 0) the two are parallel (facts 9.3).
    """
    G = jnp.asarray(oracles.GRID["wide"])
    g, C, covariance = ef.mean_gradient(G), ef.empirical_fisher(G), ef.gradient_covariance(G)
    uncentred, pseudo = ef.solve_primal(C, g), np.linalg.pinv(covariance, rcond=1e-12, hermitian=True)
    assert np.linalg.norm(pseudo @ g) > 0.1  # not orthogonal because it is 0
    np.testing.assert_allclose(oracles.cosine(pseudo @ g, uncentred), 0, atol=1e-12)
    np.testing.assert_allclose(oracles.cosine(g - covariance @ (pseudo @ g), uncentred), 1, rtol=1e-12)
    for damping in (1e-6, 1e-2):
        both = ef.solve_primal(covariance, g, damping), ef.solve_primal(C, g, damping)
        np.testing.assert_allclose(oracles.cosine(*both), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="range"):  # undamped it is refused
        ef.solve_primal(covariance, g)
    G = jnp.array([[1.0, 0.0], [2.0, 0.0]])
    both = [ef.solve_primal(A(G), ef.mean_gradient(G)) for A in (ef.gradient_covariance, ef.empirical_fisher)]
    np.testing.assert_allclose(oracles.cosine(*both), 1, rtol=1e-14)


# 5.4: Kunstner, Balles and Hennig 2019, Figure 2 and its linear version in the appendix.


def two_clouds(centre, first, second):
    """500 points about (centre, centre), class 0, and 500 about its opposite, class 1; the matrices mix the noise."""
    rng = np.random.RandomState(0)
    zero, one = rng.normal(size=(500, 2)) @ first, rng.normal(size=(500, 2)) @ second
    return np.vstack([zero + centre, one - centre]), np.repeat([0.0, 1.0], 500)


def line(noise, bend):
    """y = x + 1 with noise, and perhaps a bend that the model does not know."""
    rng = np.random.RandomState(0)
    z = rng.normal(size=1000)
    return np.stack([z, np.ones(1000)], axis=1), z + 1 + bend * z**2 + noise * rng.normal(size=1000)


LEAN, ROUND = np.array([[0, 0.9], [0.9, 0]]), np.eye(2)
# Model, data, and the generalised eigenvalues of C and F at the minimum
FIGURE_2 = {
    "well specified": (LOGISTIC, two_clouds(1, 2 * ROUND, 2 * ROUND), ".876 1.050"),
    "unequal size": (LOGISTIC, two_clouds(1.5, 3 * ROUND, ROUND), "1.376 1.638"),
    "unequal shape": (LOGISTIC, two_clouds(1, 1.5 * ROUND - LEAN, 1.5 * ROUND + LEAN), ".406 1.590"),
    "line, well specified": (LINEAR, line(1, 0), ".910 .981"),
    "line, noise of size 2": (LINEAR, line(2, 0), "3.64 3.92"),
    "line, quadratic misfit": (LINEAR, line(1, 0.5), "1.41 3.04"),
}


@pytest.mark.parametrize("name", FIGURE_2)
def test_figure_2(name, x64):
    """1000 points: C is F only if the model is right, to the digits of the sheet; F is the Hessian in any case."""
    model, (x, y), printed = FIGURE_2[name]
    theta = np.zeros(2)
    for _ in range(10):
        at = compute(model, theta, x, y)
        theta = theta - np.linalg.solve(at.hessian, at.g)
    assert jnp.linalg.norm(at.g) < 1e-13
    oracles.digits(at.ratios[::-1], printed)
    assert oracles.relative(at.F, at.hessian) < 1e-12


# 5.6: squared after averaging.


def test_squares_of_batches_lose_what_examples_differ_by(x64):
    """E[ĝĝᵀ] = ggᵀ + Σ/B, not C: exactly, over all batches of two."""
    G = jnp.asarray(oracles.GRID["tall"])
    means = (G[:, None] + G).reshape(-1, G.shape[1]) / 2
    expected = jnp.outer(ef.mean_gradient(G), ef.mean_gradient(G)) + ef.gradient_covariance(G) / 2
    assert oracles.relative(ef.empirical_fisher(means), expected) < 1e-14


# 5.5: the length of the step.

SIGMA = 0.1  # two losses of one parameter, (θ - σ)²/2 and (θ + σ)²/2: g = θ and C = θ² + σ²


def test_no_learning_rate_suits_two_places(x64):
    """-θ/(θ² + σ²): as one over the distance far away, as distance/σ² near the minimum (facts 5.5)."""
    steps = [
        -ef.empirical_fisher_step(jnp.array([[t - SIGMA], [t + SIGMA]]), learning_rate=1.0).delta
        for t in (10.0, 1.0, 0.1, 1e-3)
    ]
    oracles.digits(steps, ".100 .990 5.00 .100")


@pytest.mark.parametrize("decay", [False, True])
def test_steps_of_one_budget_never_shrink(decay, x64):
    """They are √c/√(θ² + σ²) long, and end up hopping to and fro about the minimum; with c/t² they settle (9.2)."""

    def move(theta, t):
        step = ef.empirical_fisher_step(
            jnp.stack([theta - SIGMA, theta + SIGMA])[:, None], budget=1e-4 / t**2 if decay else 1e-4
        )
        return theta + step.delta[0], (theta, step.delta[0])

    _, (theta, delta) = jax.jit(lambda: jax.lax.scan(move, 0.53, jnp.arange(1.0, 1001.0)))()
    expected = 0.01 / np.sqrt(theta**2 + SIGMA**2)
    if decay:
        np.testing.assert_allclose(jnp.abs(delta), expected / np.arange(1, 1001), rtol=1e-10)
    else:
        np.testing.assert_allclose(jnp.abs(delta), expected, rtol=1e-10)
        assert jnp.all(jnp.abs(theta[-100:]) < 0.1)
        assert jnp.max(jnp.abs(theta[-100:])) > 0.03  # half a hop at least, √c/σ = 0.1 long
