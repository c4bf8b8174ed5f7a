"""The fact sheet, sections 1 and 2: the exact problem, what damping solves, and how far "up to second order" goes.

What test_step.py and test_solve.py hold of these sections is not repeated here.
"""

import re
from decimal import Decimal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.stats import ttest_1samp

import efisher_teach as ef
from efisher_teach.core.solve import spectrum
from efisher_teach.core.two_budgets import TwoBudgetStep

pytestmark = pytest.mark.heavy

BUDGET = 0.01
EXAMPLE = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])  # facts 1.1
_rng = np.random.default_rng(0)  # the draw of facts 1.4
BATCH, _, OTHER = _rng.normal(size=(3, 6)), _rng.normal(size=6), _rng.normal(size=(3, 6))
TALL, WIDE = oracles.GRID["tall"], oracles.GRID["wide"]
EPS = oracles.unit("float64")

# The problem behind the table of facts 2.5 and the check of 2.1 b: eigenvalues λₖ of C, and the shares (uₖᵀ1)²/n of
# the ones vector that lie along its eigenvectors. These ten numbers were solved for from the digits in the sheet, of
# which there are five times as many.
VALUES = np.array([5.291877670e-04, 1.301037978e-02, 1.780973858e-01, 1.337959172, 8.894068945])
SHARES = np.array([4.437554488e-02, 1.193482468e-01, 7.068636355e-02, 3.276821912e-01, 2.092771921e-01])


def with_spectrum(values, shares):
    """G (r + 1, r) such that C has these eigenvalues and (uₖᵀ1)²/n are these shares: ρ is their sum."""
    r = len(values)
    along, ones = np.sqrt(np.r_[shares, 1 - np.sum(shares)]), np.full(r + 1, (r + 1) ** -0.5)
    mirror = np.eye(r + 1) - 2 * np.outer(along - ones, along - ones) / np.sum((along - ones) ** 2)
    V = np.linalg.qr(np.random.default_rng(1).normal(size=(r, r)))[0]
    return np.sqrt(r + 1) * mirror[:, :r] * np.sqrt(values) @ V.T


TABLED = with_spectrum(VALUES, SHARES)


def sixteen_at_a_time(function):
    """The function of G and arrays of numbers, jitted, in chunks of one length: compiled once a shape of G."""
    jitted = jax.jit(function)

    def mapped(G, *numbers):
        numbers = np.broadcast_arrays(*(np.atleast_1d(np.asarray(each, float)) for each in numbers))
        m = len(numbers[0])
        numbers = [np.pad(each, (0, -m % 16), mode="edge").reshape(-1, 16) for each in numbers]
        chunks = [jitted(jnp.asarray(G), *chunk) for chunk in zip(*numbers, strict=True)]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:m], *chunks)

    return mapped


@sixteen_at_a_time
def budget_path(G, dampings, budgets):
    """Steps of budgets, one a damping."""
    return jax.vmap(lambda damping, budget: ef.empirical_fisher_step(G, damping=damping, budget=budget))(
        dampings, budgets
    )


@sixteen_at_a_time
def rate_path(G, dampings, rates):
    """Steps with learning rates, one a damping."""
    return jax.vmap(lambda damping, rate: ef.empirical_fisher_step(G, damping=damping, learning_rate=rate))(
        dampings, rates
    )


LOGISTIC = ef.logistic_regression(n=1, p=1).loss_fn
outcome = jax.jit(lambda theta, x, y, delta: oracles.outcome(LOGISTIC, theta, x, y, delta))
path = sixteen_at_a_time(lambda G, dampings: ef.damping_path(G, dampings, BUDGET))
two_budgets = sixteen_at_a_time(jax.vmap(ef.two_budget_step, (None, 0, 0)))
changes = jax.jit(ef.loss_changes, static_argnums=0)
matrix_step = jax.jit(
    lambda A, g, damping: oracles.preconditioned_step(A, g, damping=damping, learning_rate=1.0)
)


def at(steps, k):
    """One step of many."""
    return jax.tree.map(lambda field: field[k], steps)


def budget_step(G, damping=0.0, budget=BUDGET):
    return at(budget_path(G, damping, budget), 0)


class Numbers(NamedTuple):
    """G with its C, g, λmax and smallest non-zero λ, by NumPy."""

    G: np.ndarray
    C: np.ndarray
    g: np.ndarray
    largest: float
    least: float

    def cost(self, u):
        """R = uᵀCu/‖u‖²."""
        return u @ self.C @ u / (u @ u)

    def ends(self):
        """R(0) and R(∞), facts 2.2."""
        return self.cost(oracles.direction(self.G, 0.0)), self.cost(self.g)

    def condition(self, damping):
        return (self.largest + damping) / (self.least + damping)


def numbers(G):
    values = oracles.eigenvalues(G)
    return Numbers(
        np.asarray(G, float), oracles.empirical_fisher(G), oracles.mean_gradient(G), values[0], values[-1]
    )


def digits(value, text):
    """The number, to half a unit of the last digit that is printed."""
    np.testing.assert_allclose(
        value, float(text), rtol=0, atol=0.5 * 10.0 ** Decimal(text).as_tuple().exponent
    )


def normal(seed, shape=(6, 4)):
    return np.random.default_rng(seed).normal(size=shape)


# 1.1: the solution, by looking everywhere.


def test_a_scan_of_the_whole_ellipse(x64):
    """200,000 points of ΔᵀCΔ = c: none is lower than the step, none is higher than minus the step, which is ascent."""
    step, (_, C, g, _, least) = budget_step(EXAMPLE), numbers(EXAMPLE)
    values, V = np.linalg.eigh(C)
    angle = 2 * np.pi * np.arange(200_000) / 200_000
    points = np.sqrt(BUDGET) * np.c_[np.cos(angle), np.sin(angle)] / np.sqrt(values) @ V.T
    np.testing.assert_allclose(np.sum(points @ C * points, axis=1), BUDGET, rtol=1e-14)
    objective, best, apart = points @ g, np.sqrt(BUDGET * step.agreement), angle[1]
    # g·Δ is best·cos(angle - best angle): half the distance of two points from its end it is wrong by 1 - cos.
    for end, sign in ((objective.argmin(), -1), (objective.argmax(), 1)):
        assert best * np.cos(apart / 2) - EPS < sign * objective[end] < best * (1 + 8 * EPS)
        digits(sign * objective[end], "0.0940243570")
        assert np.linalg.norm(points[end] + sign * step.delta) < apart / 2 * np.sqrt(BUDGET / least) * 1.001


def test_the_conditions_of_lagrange(x64):
    """g + 2λCΔ = 0 with λ > 0 is the minimum of a convex Lagrangian; with -λ and -Δ it is the maximum, ascent."""
    step, (_, C, g, _, _) = budget_step(EXAMPLE), numbers(EXAMPLE)
    delta, multiplier = np.asarray(step.delta), float(step.multiplier)
    assert np.linalg.norm(g + 2 * multiplier * C @ delta) < 20 * EPS * np.linalg.norm(g)
    digits(2 * multiplier, "9.402436")  # μ, in front of half the constraint
    np.testing.assert_allclose(g @ delta, -np.sqrt(BUDGET * step.agreement), rtol=10 * EPS)
    # The gradient of the constraint, 2CΔ, is not 0: along Δ it is 2c.
    np.testing.assert_allclose(2 * C @ delta @ delta, 2 * BUDGET, rtol=10 * EPS)

    def lagrangian(d, multiplier):  # of steps anywhere, on the ellipse or not
        return d @ g + multiplier * (np.sum(d @ C * d, axis=-1) - BUDGET)

    anywhere = normal(0, (1000, 2))
    for sign in (1, -1):
        end = sign * delta
        assert np.linalg.norm(g + 2 * sign * multiplier * C @ end) < 20 * EPS * np.linalg.norm(g)
        assert (
            sign * (lagrangian(anywhere, sign * multiplier) - lagrangian(end, sign * multiplier))
        ).min() > 0
        digits(g @ end, "-0.0940243570" if sign == 1 else "0.0940243570")


# 1.2 to 1.4: where C is singular.


def test_the_gradient_is_in_the_range(x64):
    """Three gradients in six dimensions: what costs nothing also changes nothing (facts 1.2)."""
    G = jnp.asarray(BATCH)
    g, V = ef.mean_gradient(G), spectrum(G).parameter_vectors
    # Orthonormal columns, good to a few rounding units times their length of 6.
    assert np.linalg.norm(g - V @ (V.T @ g)) < 30 * EPS * np.linalg.norm(g)
    assert budget_step(BATCH).residual < 30 * EPS * numbers(BATCH).condition(0)


def null_vector(G):
    """A unit vector that is orthogonal to all three gradients."""
    return np.linalg.svd(G)[2][-1]


def test_a_null_vector_can_be_added(x64):
    """10z changes neither objective nor constraint nor any first-order change; the step is the shortest (facts 1.3)."""
    step, (G, C, g, largest, _) = budget_step(BATCH), numbers(BATCH)
    delta, z = np.asarray(step.delta), null_vector(G)
    far = delta + 10 * z
    # z is orthogonal to G but for rounding, which 10 enlarges.
    rounding = 10 * EPS * 10 * np.sqrt(largest)
    assert abs(g @ far - g @ delta) < rounding
    np.testing.assert_allclose(G @ far, step.predicted_changes, rtol=0, atol=np.sqrt(3) * rounding)
    assert abs(far @ C @ far - BUDGET) < 2 * np.sqrt(BUDGET) * np.sqrt(3) * rounding
    assert abs(delta @ z) < 10 * EPS * np.linalg.norm(delta)
    np.testing.assert_allclose(far @ far, delta @ delta + 100, rtol=10 * EPS)


def bowl(theta, x, y):
    """Logistic along x, with a curvature y of its own in every direction."""
    return jax.nn.softplus(x @ theta + y * theta @ theta / 2)


def test_a_null_vector_is_free_to_first_order_and_in_the_sample_only(x64):
    """At θ = 0 the gradients are x/2: along z the sample's losses rise by t²/4, another's move by t·xᵀz/2."""
    theta, z, t = jnp.zeros(6), null_vector(BATCH), 1e-3

    def moved(x):
        return changes(bowl, theta, x, np.ones(3), t * z)

    np.testing.assert_allclose(ef.per_example_gradients(bowl, theta, BATCH, jnp.ones(3)), BATCH / 2, rtol=EPS)
    # softplus(s) = log 2 + s/2 + s²/8: relative to t²/4 the next term is t²/4, and rounding EPS/t² times 3.
    np.testing.assert_allclose(moved(BATCH), t**2 / 4, rtol=t**2 + 10 * EPS / t**2)
    # Relative to 1 the next terms are t²(1/4 + (xᵀz)²/8).
    np.testing.assert_allclose(
        moved(OTHER), t * OTHER @ z / 2, rtol=0, atol=t**2 * (1 + OTHER @ z @ (OTHER @ z))
    )
    assert np.abs(OTHER @ z).max() > 0.1


def test_another_sample_is_what_makes_small_damping_dangerous(x64):
    """The step of its own sample converges, that of another batch goes as ‖g⊥‖/ε: digit by digit (facts 1.4)."""
    C, z = ef.empirical_fisher(jnp.asarray(BATCH)), np.linalg.svd(BATCH)[2][3:]
    g, other = jnp.asarray(BATCH.mean(axis=0)), jnp.asarray(OTHER.mean(axis=0))
    outside = (z @ other) @ z
    digits(np.linalg.norm(outside), "0.700")
    inside = np.linalg.norm(
        np.linalg.pinv(BATCH, rcond=1e-12) @ np.linalg.pinv(BATCH.T, rcond=1e-12) @ other * 3
    )
    for damping, own, strange in (
        (1e-1, "1.13", "7.24"),
        (1e-2, "1.48", "70.07"),
        (1e-3, "1.525", "700.2"),
        (1e-4, "1.530", "7002"),
        (1e-6, "1.531", "700228"),
    ):
        digits(np.linalg.norm(matrix_step(C, g, damping).delta), own)
        delta = np.asarray(matrix_step(C, other, damping).delta)
        digits(np.linalg.norm(delta), strange)
        # Δ = -g⊥/ε - (C + εI)⁻¹g∥, and the second part is at most ‖C⁺g∥‖; rounding is 1/ε times as large as ‖Δ‖.
        rounding = 6 * EPS * numbers(BATCH).largest / damping * np.linalg.norm(delta)
        assert np.linalg.norm(delta + outside / damping) < inside + rounding
        # The bound of facts 2.7 is for the same sample; of another one only η‖g‖/ε is left.
        assert np.linalg.norm(delta) <= np.linalg.norm(other) / damping + rounding
        assert np.linalg.norm(delta) > 2 / (2 * np.sqrt(damping))


def _strangers():
    """g and C that do not belong together, each for a reason that happens in practice."""
    C_average = (0.9 * jnp.asarray(BATCH[:2].T @ BATCH[:2]) + OTHER[:2].T @ OTHER[:2]) / (2 * 1.9)
    C, g = ef.empirical_fisher(jnp.asarray(BATCH)), ef.mean_gradient(jnp.asarray(BATCH))
    return {
        "another batch": (C, jnp.asarray(OTHER.mean(axis=0))),
        "a part of the batch": (ef.empirical_fisher(jnp.asarray(BATCH[:2])), g),
        "a running average": (C_average, g),
        "weight decay": (C, g + 0.1 * jnp.arange(6.0)),
    }


@pytest.mark.parametrize(
    "name", ["another batch", "a part of the batch", "a running average", "weight decay"]
)
def test_undamped_another_sample_is_refused_with_the_length_outside(name, x64):
    """Along g⊥ the mean loss falls and no cost is paid: without a bound (facts 1.4)."""
    C, g = _strangers()[name]
    values, V = np.linalg.eigh(C)
    outside = V[:, values < 1e-12 * values[-1]]
    outside = outside @ (outside.T @ g)
    assert abs(outside @ C @ outside) < 10 * EPS * values[-1] * (outside @ outside)
    np.testing.assert_allclose(-g @ outside, -outside @ outside, rtol=1e-12)
    for scale in ({"budget": BUDGET}, {"learning_rate": 1.0}):
        with pytest.raises(ValueError, match="must lie in the range of `A` when `damping` is 0") as refusal:
            oracles.preconditioned_step(C, g, **scale)
        stray, size = re.search(r"g⊥ of length (\S+) \(of (\S+)\) outside", str(refusal.value)).groups()
        # Three digits are printed.
        np.testing.assert_allclose(float(stray), np.linalg.norm(outside), rtol=5.1e-3)
        np.testing.assert_allclose(float(size), np.linalg.norm(g), rtol=5.1e-3)


# 1.5: at most c, exactly c, at least c.


@pytest.mark.parametrize("G", [TALL, WIDE], ids=["tall", "wide"])
def test_at_most_the_budget_is_the_same_problem(G, x64):
    """With g ≠ 0 the multiplier is positive, so the constraint is active; and inside the ellipsoid all is worse."""
    exact = budget_step(G)
    step = at(two_budgets(G, BUDGET, 1e3), 0)
    assert step.budget_binds
    assert not step.radius_binds
    assert step.damping == step.radius_multiplier == 0
    close = 100 * EPS * numbers(G).condition(0)
    np.testing.assert_allclose(step.budget_multiplier, exact.multiplier, rtol=close)
    assert oracles.relative(step.delta, exact.delta) < close
    np.testing.assert_allclose(step.budget_spent, BUDGET, rtol=10 * EPS)
    others, part = normal(2, (500, G.shape[1])), np.random.default_rng(3).uniform(size=(500, 1))
    inside = others * part * np.sqrt(BUDGET) / np.sqrt(np.mean((others @ G.T) ** 2, axis=1, keepdims=True))
    assert (np.mean(inside @ G.T, axis=1) > np.mean(exact.predicted_changes) * part[:, 0] - 10 * EPS).all()


def test_at_least_the_budget_has_no_solution(x64):
    """Spend more, gain more: the decrease is √(cρ) at any c."""
    for budget in (1e-4, 1.0, 1e8):
        step = budget_step(TALL, 0.0, budget)
        np.testing.assert_allclose(
            np.mean(step.predicted_changes), -np.sqrt(budget * step.agreement), rtol=100 * EPS
        )


CANCELLING = np.tile([[1.0, 2.0, 0.5, -1.0], [-1.0, -2.0, -0.5, 1.0]], (3, 1))


@pytest.mark.parametrize("G", [CANCELLING, 0 * CANCELLING], ids=["cancelling", "zero"])
def test_no_gradient_no_step_of_two_budgets(G, dtype):
    """0/0 in the formula: Δ = 0, and neither budget binds (facts 1.5)."""
    steps = two_budgets(jnp.asarray(G, dtype), BUDGET, [1e-3, 0.1, 10.0])
    for name, field in zip(TwoBudgetStep._fields, steps, strict=True):
        np.testing.assert_array_equal(field, np.zeros_like(field), err_msg=name)


# 1.6 and 1.7: one number says how equal the decrease is.


@given(seed=st.integers(0, 2**31))
def test_the_budget_caps_the_progress(seed):
    """|E Δℓ| ≤ √E Δℓ² for any step; of the step itself the coefficient of variation is √((1 - ρ)/ρ) (facts 1.6)."""
    with jax.enable_x64(True):
        step = budget_step(normal(seed))
        rho, predicted, worse = float(step.agreement), np.asarray(step.predicted_changes), float(step.worse)
    others = normal(seed + 1, (50, 4)) @ normal(seed).T
    assert (np.abs(others.mean(axis=1)) < np.sqrt(np.mean(others**2, axis=1))).all()
    # κ of 24 random numbers may reach 1e4, which ρ feels but little: 1e-10 is left of 1e-16.
    np.testing.assert_allclose(predicted.std() / -predicted.mean(), np.sqrt((1 - rho) / rho), rtol=1e-10)
    assert worse == np.mean(predicted > 0)
    assert worse <= 1 - rho + 1e-12


def test_a_fraction_that_really_gets_worse(x64):
    """Gradients 1, 1, -δ: a third gets worse, and 1 - ρ comes as close to a third as you like (facts 1.7)."""
    for small in (1e-1, 1e-3, 1e-5):
        G = np.tile([[1.0], [1.0], [-small]], (2, 1))
        step = budget_step(G)
        np.testing.assert_allclose(step.worse, 1 / 3, rtol=EPS)
        np.testing.assert_allclose(step.agreement, (2 - small) ** 2 / (3 * (2 + small**2)), rtol=10 * EPS)
        assert step.worse <= 1 - step.agreement < 1 / 3 + small
        # Really: at θ = 0 the logistic loss of x = 2g and the label 0 has the gradient g.
        measured = outcome(np.zeros(1), 2 * G, np.zeros(6), step.delta)
        np.testing.assert_allclose(measured.worse, 1 / 3, rtol=EPS)


def test_who_does_not_move_is_not_worse(x64):
    """Half of the gradients are orthogonal to the step: ρ = ½ and none gets worse, whatever rounding makes of 0."""
    G = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for angle in np.arange(8.0):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step = budget_step(G @ turn)
        assert step.worse == 0
        np.testing.assert_allclose(step.agreement, 0.5, rtol=10 * EPS)


# 1.8: the wide case beyond Taylor.

LABELS = np.array([0.0, 1.0, 1.0])


@jax.jit
def gauss_newton(theta, delta, decrease):
    """Three logistic losses after a step: what is left of a decrease that each was asked for, and the step for it."""
    x, y = BATCH[:, :5], LABELS
    measured = oracles.outcome(LOGISTIC, theta, x, y, delta)
    G = ef.per_example_gradients(LOGISTIC, theta + delta, x, y)
    left = decrease + measured.changes
    step = ef.empirical_fisher_step(G, budget=decrease**2)
    return left, ef.targeted_step(G, left).delta, step.delta, measured


def test_the_step_is_the_first_gauss_newton_iterate_for_an_equal_decrease(x64):
    """Three logistic losses, five parameters, each to fall by t = 0.1: the iterates converge quadratically (facts 1.8).

    Each loss depends on its own margin only, so each is solved by Newton: eₖ₊₁ = ℓ''/(2ℓ'²)eₖ².
    """
    theta, t = 0.1 * np.arange(5.0), 0.1
    delta, errors = np.zeros(5), []
    for k in range(5):
        left, move, step, measured = gauss_newton(theta, delta, t)
        errors.append(np.abs(np.asarray(left)))
        if k == 0:
            assert oracles.relative(step, move) < 100 * EPS
        if k < 4:
            delta = delta + move
    p = 1 / (1 + np.exp(-BATCH[:, :5] @ (theta + delta)))
    rate = p * (1 - p) / (2 * (p - LABELS) ** 2)
    # Relative to eₖ₊₁ the next term is eₖ times ℓ'''/ℓ'' ≤ 1/|ℓ'| and the like; and a loss is rounded to EPS.
    for k in (1, 2):
        close = 3 * errors[k] / np.abs(p - LABELS) + 4 * EPS / errors[k + 1]
        assert (np.abs(errors[k + 1] / errors[k] ** 2 / rate - 1) < close).all()
    assert 1e-3 < errors[1].max() < 3e-2  # as in the sheet: 8.6e-3, 2.6e-5, 2.5e-10, 0 of another draw
    assert 1e-6 < errors[2].max() < 1e-3
    assert errors[4].max() < 8 * EPS
    # Every loss falls by √c = t: the bound of Cauchy-Schwarz is attained, by real losses.
    np.testing.assert_allclose(measured.mean_change, -t, rtol=20 * EPS / t)
    np.testing.assert_allclose(measured.budget_spent, t**2, rtol=40 * EPS / t)


@given(seed=st.integers(0, 2**31), log_length=st.floats(-3, 2))
def test_no_real_step_beats_the_budget_it_spends(seed, log_length):
    """-√E Δℓ² ≤ E Δℓ, of real losses and steps of any length (facts 1.8)."""
    with jax.enable_x64(True):
        measured = outcome(np.zeros(6), BATCH, LABELS, 10**log_length * normal(seed, 6))
        measured = jax.tree.map(np.asarray, measured)
    # Cauchy-Schwarz may be an equality, to the rounding of losses of size log 2 and of sums of three.
    assert measured.mean_change >= -np.sqrt(measured.budget_spent) * (1 + 4 * EPS) - 4 * EPS
    np.testing.assert_allclose(measured.mean_change, np.mean(measured.changes), rtol=8 * EPS, atol=4 * EPS)
    np.testing.assert_allclose(measured.budget_spent, np.mean(measured.changes**2), rtol=8 * EPS)


def half_square(theta, x, y):
    return theta @ theta / 2


def test_one_example_is_the_step_of_polyak(x64):
    """Δ = -ηg/‖g‖²; with η = ℓ - ℓ*, of ℓ = ‖θ‖²/2, it goes half of the way to 0 and leaves a quarter of the loss."""
    theta, nothing = np.array([0.6, -0.8, 1.2, 0.1]), np.zeros((1, 1))
    G, loss = theta[None], theta @ theta / 2
    step = at(rate_path(G, 0.0, loss), 0)
    np.testing.assert_allclose(step.delta, -loss * G[0] / (G[0] @ G[0]), rtol=10 * EPS)
    np.testing.assert_allclose(step.delta, -theta / 2, rtol=10 * EPS)
    moved = changes(half_square, theta, nothing, nothing, step.delta)
    np.testing.assert_allclose(moved, [-0.75 * loss], rtol=20 * EPS)


# 1.9 and 1.10: the same vector elsewhere.


def test_the_step_has_the_best_mean_for_its_spread(x64):
    """Mean over standard deviation of the decrease is √s, s = gᵀΣ⁻¹g = ρ/(1 - ρ): the most of all directions.

    Damped it is the same of the shrunken covariance Σ + εI. Hotelling's T², whose covariance has n - 1, is (n - 1)s.
    """
    G = normal(9, (60, 4)) + np.array([0.5, 0.3, 0.2, 0.1])
    g, Sigma = G.mean(axis=0), np.asarray(ef.gradient_covariance(jnp.asarray(G)))
    others = normal(10, (20_000, 4))

    for damping in (0.0, 0.3):

        def ratio(d, damping=damping):  # mean/std; shrinkage adds ε‖d‖² to the variance
            decrease = -d @ G.T
            return decrease.mean(axis=-1) / np.sqrt(decrease.var(axis=-1) + damping * np.sum(d**2, axis=-1))

        step = budget_step(G, damping)
        s = g @ np.linalg.solve(Sigma + damping * np.eye(4), g)
        best = ratio(np.asarray(step.delta))
        np.testing.assert_allclose(best, np.sqrt(s), rtol=100 * EPS)  # κ is about 1 here
        assert (ratio(others) < best).all()
        assert ratio(-g) < best * (1 - 1e-3)
        if damping == 0:
            np.testing.assert_allclose(step.agreement, s / (1 + s), rtol=100 * EPS)  # I4
            np.testing.assert_allclose(ratio(-g), g @ g / np.sqrt(g @ Sigma @ g), rtol=100 * EPS)
            t = ttest_1samp(step.predicted_changes, 0).statistic  # its variance has n - 1
            np.testing.assert_allclose(t**2, 59 * s, rtol=1000 * EPS)


def closest_to_zero(G):
    """The shortest GᵀW with Σ wᵢ = 1, from its own conditions: GGᵀw = ν1."""
    n = len(G)
    system = np.block([[G @ G.T, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    w = np.linalg.solve(system, np.r_[np.zeros(n), 1])[:n]
    return G.T @ w, w


def test_the_step_points_to_the_affine_hull(x64):
    """C⁺g = x/‖x‖², x the point of the affine hull of the gradients that is closest to 0: gᵢᵀx = ‖x‖² (facts 1.10)."""
    close = 10 * EPS * numbers(BATCH).condition(0)
    x, w = closest_to_zero(BATCH)
    step = at(rate_path(BATCH, 0.0, 1.0), 0)
    assert oracles.relative(-step.delta, x / (x @ x)) < close
    np.testing.assert_allclose(BATCH @ x, x @ x, rtol=close)
    np.testing.assert_allclose(step.coefficients, w / (x @ x), rtol=close)
    # Of unit gradients it is the equiangular vector of LARS.
    unit = BATCH / np.linalg.norm(BATCH, axis=1, keepdims=True)
    delta = rate_path(unit, 0.0, 1.0).delta[0]
    np.testing.assert_allclose(
        unit @ delta / np.linalg.norm(delta), -np.linalg.norm(closest_to_zero(unit)[0]), rtol=close
    )


def test_the_affine_hull_is_not_the_convex_one(x64):
    """A weight may be negative: then no mixture of the gradients is as short (facts 1.10, 3.2)."""
    G = np.zeros((3, 6))
    G[0, 0], G[1, :2], G[2, 2] = 1, (2, 1), 7
    step = at(rate_path(G, 0.0, 1.0), 0)
    np.testing.assert_allclose(step.coefficients, [3, -1, 1 / 49], rtol=50 * EPS * numbers(G).condition(0))
    shares = np.random.default_rng(5).dirichlet(np.ones(3), 20_000)
    shares = np.vstack([shares, np.c_[np.linspace(0, 1, 1000), np.zeros(1000), np.linspace(1, 0, 1000)]])
    shortest = np.linalg.norm(shares @ G, axis=1).min()
    # Between (1, 0) and the third: the second is left out.
    np.testing.assert_allclose(shortest, 7 / np.sqrt(50), rtol=1e-5)
    assert np.linalg.norm(closest_to_zero(G)[0]) < shortest - 0.1


# 2.1: what damping solves.


@pytest.mark.parametrize("name", oracles.GRID)
def test_readings_of_the_damped_step(name, x64):
    """As a metric (a), a penalty (c) and a ridge regression (d): each minimised, with its value. (b) is below."""
    G, C, g, largest, _ = numbers(oracles.GRID[name])
    eta, others = 0.7, normal(4, (200, G.shape[1]))
    dampings = np.array(oracles.DAMPINGS[1:])
    steps, exact = rate_path(G, dampings, eta), budget_path(G, dampings, BUDGET)
    for k, damping in enumerate(dampings):
        delta, M = np.asarray(steps.delta[k]), C + damping * np.eye(len(C))
        u = -delta / eta
        power = g @ u  # gᵀ(C + εI)⁻¹g
        # The svd leaves a residual of EPS·size·((λmax + ε)‖u‖ + ‖g‖), see test_solve; a value is as good as that·‖u‖.
        left = 5 * max(G.shape) * EPS * ((largest + damping) * np.linalg.norm(u) + np.linalg.norm(g))
        wrong = left * np.linalg.norm(u)
        # Other steps, as long as u in the metric.
        z = others * np.sqrt(power / np.sum(others @ M * others, axis=1))[:, None]

        # (a) c' = η²gᵀAg is spent in C + εI, and of it c'(1 - ε‖Ag‖²/gᵀAg) in C.
        assert abs(delta @ M @ delta - eta**2 * power) < eta**2 * wrong
        spent = eta**2 * power * (1 - damping * u @ u / power)
        assert abs(steps.budget_spent[k] - spent) < 2 * eta**2 * wrong
        assert steps.budget_spent[k] < eta**2 * power
        assert (eta * z @ g).min() > g @ delta - eta * wrong
        # The same with c given: η = √(c'/gᵀAg), where c = c'(1 - ε‖Ag‖²/gᵀAg).
        metric_budget = BUDGET / (1 - damping * u @ u / power)
        cancelled = wrong / (power - damping * u @ u)  # the difference is small where ε is large
        np.testing.assert_allclose(
            exact.learning_rate[k], np.sqrt(metric_budget / power), rtol=4 * cancelled + 20 * EPS
        )

        # (c) ηgᵀd + dᵀCd/2 + ε‖d‖²/2: a bowl about Δ, of the value -η²gᵀAg/2.
        def penalty(d):
            return eta * d @ g + np.sum(d @ M * d, axis=-1) / 2  # noqa: B023

        # (d) E[(gᵢᵀd + η)²] + ε‖d‖²: a bowl about Δ, of the value η²(1 - gᵀAg).
        def ridge(d):
            return np.mean((d @ G.T + eta) ** 2, axis=-1) + damping * np.sum(d**2, axis=-1)  # noqa: B023

        assert np.linalg.norm(eta * g + M @ delta) < eta * left
        # A slope at Δ that is only rounding changes the value by left·‖z‖.
        far = np.linalg.norm(z, axis=1).max()
        for value, least, bowl in (
            (penalty, -(eta**2) * power / 2, power / 2),
            (ridge, eta**2 * (1 - power), power),
        ):
            assert abs(value(delta) - least) < eta**2 * wrong + 10 * EPS
            np.testing.assert_allclose(
                value(delta + z) - value(delta), bowl, rtol=0, atol=2 * eta * left * far + 40 * EPS
            )


def test_the_learning_rate_is_the_decrease_that_every_example_is_asked_for(x64):
    """Wide, ε → 0: each loses η, to first order in ε and really to first order in η (facts 2.1 d)."""
    G, K = WIDE, oracles.gram(WIDE)
    dampings = np.array([0.0, 1e-6, 1e-4])
    predicted = rate_path(G, dampings, 0.3).predicted_changes
    np.testing.assert_allclose(predicted[0], -0.3, rtol=10 * EPS * numbers(G).condition(0))
    # Δℓ = -η(1 - εK⁻¹1 + …): the next term is smaller by ε/λmin.
    slope = 0.3 * np.linalg.solve(K, np.ones(4))
    for k in (1, 2):
        np.testing.assert_allclose(
            (predicted[k] + 0.3) / dampings[k],
            slope,
            rtol=0,
            atol=np.linalg.norm(slope) * dampings[k] / numbers(G).least + 100 * EPS / dampings[k],
        )
    for eta in (1e-2, 1e-3):
        _, delta, _, _ = gauss_newton(np.zeros(5), np.zeros(5), eta)
        measured = gauss_newton(np.zeros(5), delta, eta)[-1]
        # ℓ''/(2ℓ'²) is ½ at θ = 0 (see the Gauss-Newton iterates); the next term is smaller by about η.
        np.testing.assert_allclose((measured.changes + eta) / eta**2, 0.5, rtol=2 * eta)


# 2.1 b and 2.2: two budgets.

REGIMES = {"loss budget": (True, False), "both": (True, True), "radius": (False, True)}


def radii(G):
    """One radius a regime: c/r² below R(0), half-way on a log scale, above R(∞)."""
    low, high = numbers(G).ends()
    return np.sqrt(BUDGET / np.array([low / 2, np.sqrt(low * high), 2 * high]))


def test_two_budgets_digit_by_digit(x64):
    """facts 2.1 b. The sheet's μ₁ and μ₂ stand in front of half the constraints: twice our multipliers."""
    step = two_budgets(TABLED, BUDGET, radii(TABLED))
    digits(step.damping[1], "0.0163882")
    digits(step.learning_rate[1], "0.127932")
    digits(np.mean(step.predicted_changes[1]), "-0.08335341202")
    digits(2 * step.budget_multiplier[1], "7.81666")
    digits(2 * step.radius_multiplier[1], "0.128101")
    for k, binds in enumerate(REGIMES.values()):
        assert (step.budget_binds[k], step.radius_binds[k]) == binds


@pytest.mark.parametrize("name", oracles.GRID)
def test_two_budgets_satisfy_their_conditions(name, dtype):
    """g + 2λ₁CΔ + 2λ₂Δ = 0, λ ≥ 0, both budgets kept, and no price for what is left over (Karush, Kuhn, Tucker)."""
    G = jnp.asarray(oracles.GRID[name], dtype)
    data, eps, size = numbers(G), oracles.unit(dtype), max(G.shape)
    steps = two_budgets(G, BUDGET, radii(G))
    assert {field.dtype for field in steps} == {G.dtype, jnp.dtype(bool)}
    low, high = data.ends()
    for k, binds in enumerate(REGIMES.values()):
        step = jax.tree.map(lambda field: np.asarray(field[k], float), steps)  # noqa: B023
        radius, delta = radii(G)[k], step.delta
        if high > 1.01 * low:
            assert (step.budget_binds, step.radius_binds) == binds
        assert step.budget_multiplier >= 0
        assert step.radius_multiplier >= 0
        pull = 2 * step.budget_multiplier * data.C @ delta + 2 * step.radius_multiplier * delta
        pulls = 2 * (step.budget_multiplier * data.largest + step.radius_multiplier) * np.linalg.norm(delta)
        assert np.linalg.norm(data.g + pull) < 5 * size * eps * (pulls + np.linalg.norm(data.g))
        # R(ε) = c/r² is met as well as u is known, eps·size·κ. Every entry of the row is then that good.
        damping = step.damping if np.isfinite(step.damping) else 0.0
        close = 10 * size * eps * data.condition(damping)
        assert step.budget_spent <= BUDGET * (1 + close)
        assert step.length <= radius * (1 + close)
        if step.budget_binds:
            np.testing.assert_allclose(step.budget_spent, BUDGET, rtol=close)
            np.testing.assert_allclose(step.budget_multiplier, 1 / (2 * step.learning_rate), rtol=4 * eps)
            np.testing.assert_allclose(
                step.radius_multiplier, step.damping * step.budget_multiplier, rtol=4 * eps
            )
        else:
            assert step.budget_multiplier == 0
            assert step.damping == step.learning_rate == np.inf
            assert oracles.relative(delta, -radius * data.g / np.linalg.norm(data.g)) < 20 * eps
        if step.radius_binds:
            np.testing.assert_allclose(step.length, radius, rtol=close)
        else:
            assert step.radius_multiplier == step.damping == 0
        rounding = close * np.sqrt(data.largest) * np.linalg.norm(delta)
        np.testing.assert_allclose(
            step.predicted_changes, data.G @ delta, rtol=0, atol=np.sqrt(size) * rounding
        )
        np.testing.assert_allclose(step.budget_spent, delta @ data.C @ delta, rtol=0, atol=2 * rounding)
        np.testing.assert_allclose(step.length, np.linalg.norm(delta), rtol=20 * eps)


@pytest.mark.parametrize("G", [TABLED, TALL, WIDE], ids=["table", "tall", "wide"])
def test_a_solver_that_knows_nothing_of_multipliers(G, x64):
    """SLSQP on min gᵀΔ such that ΔᵀCΔ ≤ c and ‖Δ‖ ≤ r, at five radii: in each pure case and between."""
    _, C, g, _, _ = data = numbers(G)
    low, high = np.log(data.ends())
    places = np.exp([low - 1, low + (high - low) / 4, (low + high) / 2, low + 3 * (high - low) / 4, high + 1])
    steps = two_budgets(G, BUDGET, np.sqrt(BUDGET / places))
    for k, radius in enumerate(np.sqrt(BUDGET / places)):
        delta, scale = np.asarray(steps.delta[k]), 1 / np.linalg.norm(steps.delta[k])
        found = minimize(  # in units in which the step and its decrease are about 1
            lambda d: g @ d / (np.sqrt(BUDGET) * scale),  # noqa: B023
            -0.01 * g * scale,
            jac=lambda d: g / (np.sqrt(BUDGET) * scale),  # noqa: B023
            constraints=[
                {
                    "type": "ineq",
                    "fun": lambda d: 1 - d @ C @ d / (BUDGET * scale**2),  # noqa: B023
                    "jac": lambda d: -2 * C @ d / (BUDGET * scale**2),  # noqa: B023
                },
                {
                    "type": "ineq",
                    "fun": lambda d: 1 - d @ d / (radius * scale) ** 2,  # noqa: B023
                    "jac": lambda d: -2 * d / (radius * scale) ** 2,  # noqa: B023
                },
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        # It stops where it cannot improve: with both constraints kept to 1e-8, and so with a value good to some 1e-8.
        assert np.mean((G @ found.x / scale) ** 2) < BUDGET * (1 + 1e-8)
        assert np.linalg.norm(found.x / scale) < radius * (1 + 1e-8)
        np.testing.assert_allclose(g @ found.x / scale, g @ delta, rtol=1e-7)
        if k > 0 or len(G) > G.shape[1]:  # with C singular and the radius loose the solution is not unique
            # A value good to 1e-8 pins the step to √(1e-8·κ) in its flattest direction, κ at most 1.7e4.
            assert oracles.relative(found.x / scale, delta) < 1.5e-2


@pytest.mark.parametrize("G", [TABLED, WIDE], ids=["table", "wide"])
def test_no_step_of_two_budgets_is_beaten(G, x64):
    """By 20,000 random feasible ones, also near it."""
    _, _, g, _, _ = numbers(G)
    steps = two_budgets(G, BUDGET, radii(G))
    for k, radius in enumerate(radii(G)):
        delta = np.asarray(steps.delta[k])
        others = (
            normal(k, (20_000, G.shape[1])) * np.logspace(-4, 0, 20_000)[:, None] * np.linalg.norm(delta)
            + delta
        )
        costs = np.sqrt(np.mean((others @ G.T) ** 2, axis=1))
        feasible = (
            others * np.minimum(np.sqrt(BUDGET) / costs, radius / np.linalg.norm(others, axis=1))[:, None]
        )
        assert (feasible @ g).min() > g @ delta - 1e-12


@pytest.mark.parametrize("G", [TABLED, TALL, WIDE], ids=["table", "tall", "wide"])
def test_the_step_is_continuous_where_a_budget_begins_to_bind(G, x64):
    """Just inside a boundary the step differs from that on it by O(h), and ε → 0 or ∞ (facts 2.2)."""
    boundary, h = numbers(G).ends(), np.array([1e-4, 1e-6])
    for end, inward in zip(boundary, (1, -1), strict=True):
        ratio = end * (1 + inward * np.r_[h, -h])
        steps = two_budgets(G, BUDGET, np.sqrt(BUDGET / ratio))
        assert (steps.budget_binds & steps.radius_binds).tolist() == [True, True, False, False]
        jump = np.linalg.norm(steps.delta[:2] - steps.delta[2:], axis=1) / np.linalg.norm(
            steps.delta[:2], axis=1
        )
        # Linear in h, but for terms of relative size h times a slope of 1e3 at most; rounding of ε is 1e-16·κ/h.
        np.testing.assert_allclose(jump[0] / jump[1], 100, rtol=0.2)
        small = steps.damping[:2] if inward == 1 else 1 / steps.damping[:2]
        np.testing.assert_allclose(small[0] / small[1], 100, rtol=0.2)
        assert (steps.damping[2:] == (0 if inward == 1 else np.inf)).all()


EIGENVECTORS = {
    # C = diag(4, 1, 0, 0), g = (2, 0, 0, 0)
    "anisotropic": np.tile([[2.0, 1.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0]], (3, 1)),
    "isotropic": np.tile([[2.0, 2.0, 0.0, 0.0], [2.0, -2.0, 0.0, 0.0]], (3, 1)),  # C = diag(4, 4, 0, 0)
    "one example": np.array([[1.2, -1.6, 0.0, 0.0]]),  # C = ggᵀ, ‖g‖² = 4
    "one parameter": np.full((6, 1), 2.0),
}


@pytest.mark.parametrize("name", EIGENVECTORS)
def test_where_the_gradient_is_an_eigenvector_there_is_one_direction(name, dtype):
    """R = 4 at every ε: the shorter of the two lengths along -g, at the boundary itself too, to the last digit."""
    G, eps = jnp.asarray(EIGENVECTORS[name], dtype), oracles.unit(dtype)
    g = np.mean(np.asarray(G, float), axis=0)
    both = np.sqrt(BUDGET / 4)  # the radius at which both bind
    radius = jnp.asarray(np.r_[both / 10, both * (1 + eps * np.arange(-6, 7)), both * 10], dtype)
    steps = two_budgets(G, BUDGET, radius)
    for k, field in enumerate(steps.delta):
        expected = -min(float(radius[k]), both) * g / np.linalg.norm(g)
        assert oracles.relative(field, expected) < 40 * eps
    assert (steps.budget_binds | steps.radius_binds).all()
    assert steps.damping[0] == np.inf
    assert steps.damping[-1] == 0
    for name, field in zip(TwoBudgetStep._fields, steps, strict=True):
        assert not jnp.isnan(field).any(), name
    # Stationary in any case: 2(λ₁R + λ₂)‖Δ‖ = ‖g‖.
    pull = 2 * (4 * steps.budget_multiplier + steps.radius_multiplier) * steps.length
    np.testing.assert_allclose(pull, np.linalg.norm(g), rtol=40 * eps)


def test_a_grid_of_budgets_and_radii(x64):
    """jit and vmap over (c, r) change nothing, and Δ(t²c, tr) = tΔ(c, r)."""
    budgets, lengths = np.meshgrid([0.001, 0.01, 0.1], radii(TABLED))
    budgets, lengths = budgets.ravel(), lengths.ravel()
    grid = two_budgets(TABLED, budgets, lengths)
    close = 100 * EPS * numbers(TABLED).condition(0)
    for k in (0, 4, 8):
        alone = ef.two_budget_step(jnp.asarray(TABLED), budgets[k], lengths[k])
        for name, one, many in zip(TwoBudgetStep._fields, alone, at(grid, k), strict=True):
            np.testing.assert_allclose(one, many, rtol=close, atol=close * np.abs(many).max(), err_msg=name)
    longer = two_budgets(TABLED, 4 * budgets, 2 * lengths)
    assert oracles.relative(longer.delta, 2 * grid.delta) < close
    for regime in REGIMES.values():
        assert regime in set(zip(grid.budget_binds.tolist(), grid.radius_binds.tolist(), strict=True))


def moments(damping):
    """Σ λγ²/(λ + ε)², Σ γ²/(λ + ε)² and d log R/d log ε of the table's problem, γ² = λ·share (facts 2.2)."""
    weight = VALUES * SHARES / (VALUES + damping) ** 2
    mean = np.sum(VALUES * weight) / np.sum(weight)
    covariance = np.sum(weight * (VALUES - mean) * -2 / (VALUES + damping)) / np.sum(weight)
    return np.sum(VALUES * weight), np.sum(weight), covariance * damping / mean


def test_damping_and_learning_rate_are_budget_and_radius(x64):
    """(ε, η) ↦ (c, r) by the sums over the spectrum, and back by `two_budget_step` (facts 2.2)."""
    dampings, eta = np.logspace(-5, 2, 15), 0.3
    power, square, slope = np.array([moments(damping) for damping in dampings]).T
    budgets, lengths = eta**2 * power, eta * np.sqrt(square)
    steps, close = rate_path(TABLED, dampings, eta), 30 * EPS * numbers(TABLED).condition(0)
    np.testing.assert_allclose(steps.budget_spent, budgets, rtol=close)
    np.testing.assert_allclose(np.linalg.norm(steps.delta, axis=1), lengths, rtol=close)
    back = two_budgets(TABLED, budgets, lengths)
    # ε is as uncertain as R, times d log ε/d log R.
    assert (slope > 0).all()
    np.testing.assert_array_less(np.abs(back.damping / dampings - 1), close / slope)
    np.testing.assert_array_less(np.abs(back.learning_rate / eta - 1), close / slope)
    assert oracles.relative(back.delta, steps.delta) < close / slope.min()
    # R'(ε) = Cov(λ, -2/(λ + ε)), by a central difference: h² and EPS/h away.
    h = 1e-5
    ratio = [np.divide(*moments(damping * (1 + sign * h))[:2]) for damping in dampings for sign in (1, -1)]
    np.testing.assert_allclose(np.diff(np.log(ratio))[::2] / (-2 * h), slope, rtol=0, atol=1e-9)


def test_damping_is_found_in_float32():
    """Where R is steep, four digits of the ε that made (c, r) come back: 1e-7 times κ, at most 100 here."""
    dampings = np.array([0.01, 0.1, 1.0, 10.0])
    G = jnp.asarray(TALL, jnp.float32)
    steps = rate_path(G, dampings, 0.3)
    back = two_budgets(G, steps.budget_spent, np.linalg.norm(steps.delta, axis=1))
    assert back.damping.dtype == jnp.float32
    np.testing.assert_allclose(back.damping, dampings, rtol=1e-3)
    np.testing.assert_allclose(back.learning_rate, 0.3, rtol=1e-3)


# 2.3 and 2.4: filter and limits.


def test_filter(x64):
    """λ/(λ + ε) of every component, in the parameters and in the losses; of gradient descent αλ (facts 2.3)."""
    values = np.array([10.0, 1.0, 0.1, 0.01, 0.001])
    G = with_spectrum(values, np.full(5, 0.18))
    steps = rate_path(G, [0.0, 0.1, 1e9], 1.0)
    _, V, U = spectrum(jnp.asarray(G))
    along, seen = np.asarray(steps.delta @ V), np.asarray(steps.predicted_changes @ U)
    # Components of size √λ·… in the presence of the largest: eps·κ^(1/2) for the losses, eps·κ for the parameters.
    kept = values / (values + 0.1)
    np.testing.assert_allclose(along[1] / along[0], kept, rtol=20 * EPS * 1e4)
    np.testing.assert_allclose(seen[1] / seen[0], kept, rtol=20 * EPS * 1e4)
    np.testing.assert_allclose(seen[1], -kept * (U.T @ np.ones(6)), rtol=20 * EPS * 1e4)
    for k, printed in ((1, ".909"), (2, ".5"), (3, ".0909")):
        digits(along[1, k] / along[0, k], printed)
    np.testing.assert_allclose(steps.effective_rank[1], kept.sum(), rtol=20 * EPS * 1e4)
    # η = αε with ε → ∞: f = αλ/(1 + λ/ε).
    np.testing.assert_allclose(1e9 * along[2] / along[0], values, rtol=1e-7)
    np.testing.assert_allclose(1e9 * seen[2] / seen[0], values, rtol=1e-7)


@pytest.mark.parametrize("name", ["tall", "wide", "deficient"])
def test_limits_with_their_orders(name, x64):
    """u = C⁺g - εC⁺²g + … and u = g/ε - Cg/ε² + C²g/ε³ - …: two orders at each end (facts 2.4)."""
    G, C, g, largest, least = numbers(oracles.GRID[name])
    small, large = least * np.array([1e-2, 1e-3, 1e-4]), largest * np.array([1e2, 1e3, 1e4])
    u = -np.asarray(rate_path(G, np.r_[0.0, small, large], 1.0).delta)
    inverse = np.linalg.pinv(C, rcond=1e-12, hermitian=True)
    free, rest = u[0], inverse @ inverse @ g
    assert oracles.relative(free, inverse @ g) < 100 * EPS * largest / least
    for k, damping in enumerate(small):
        # The next term is smaller by ε/λmin at least; the difference loses 1/that to rounding.
        rounding = 100 * EPS * largest / damping
        assert oracles.relative((free - u[1 + k]) / damping, rest) < damping / least + rounding
    for k, damping in enumerate(large):
        first, lost = damping * (damping * u[4 + k] - g), 100 * EPS * damping * np.linalg.norm(g)
        next_term = 3 * largest / damping
        assert oracles.relative(first, -C @ g) < next_term + lost / np.linalg.norm(C @ g)
        second = damping * (first + C @ g)
        assert oracles.relative(second, C @ C @ g) < next_term + lost * damping / np.linalg.norm(C @ C @ g)
        # Direction of gradient descent, length 0, unless η = αε.
        assert oracles.relative(damping * u[4 + k], g) < 2 * largest / damping
        assert np.linalg.norm(u[4 + k]) < np.linalg.norm(g) / damping


# 2.5: along ε.

#   ε    ‖Ag‖   ‖Δ‖    cos    condition   R   decrease   spent by (a)   η
TABLE = """
    0    9.680  1.1021 0.0524 16807 0.00823 0.08783 0.01000 0.1139
    1e-3 4.314  0.5104 0.1117 5817  0.0384  0.08673 0.00975 0.1183
    1e-1 0.722  0.1003 0.5198 89.5  0.9946  0.07928 0.00909 0.1388
    1    0.331  0.0628 0.7694 9.89  2.532   0.07356 0.00717 0.1896
    100  0.0142 0.0372 0.9996 1.089 7.228   0.05655 6.7e-4  2.623
"""


def columns(G, dampings):
    """The table of facts 2.5, from the library's steps: one array a column."""
    steps, g = path(G, dampings), np.asarray(G).mean(axis=0)
    delta, eta = np.asarray(steps.delta), np.asarray(steps.learning_rate)
    length, values = np.linalg.norm(delta, axis=1), np.asarray(spectrum(jnp.asarray(G)).eigenvalues)
    decrease = -np.mean(steps.predicted_changes, axis=1)
    metric = np.asarray(steps.budget_spent) + dampings * length**2  # Δᵀ(C + εI)Δ
    return {
        "‖Ag‖": length / eta,
        "length": length,
        "cosine": -delta @ g / (length * np.linalg.norm(g)),
        "condition": (values[0] + dampings) / (values[-1] + dampings),
        "cost": np.asarray(steps.budget_spent) / length**2,
        "decrease": decrease,
        "spent by (a)": BUDGET * np.asarray(steps.budget_spent) / metric,
        "learning rate": eta,
    }


def test_table_of_the_fact_sheet(x64):
    """Every digit of it, from one spectrum; and gradient descent in its last row."""
    rows = [line.split() for line in TABLE.strip().splitlines()]
    found = np.array(list(columns(TABLED, np.array([float(row[0]) for row in rows])).values())).T
    for row, values in zip(rows, found, strict=True):
        for value, text in zip(values, row[1:], strict=True):
            digits(value, text)
    np.testing.assert_allclose(spectrum(jnp.asarray(TABLED)).eigenvalues[::-1], VALUES, rtol=1e-11)
    for value, text in zip(VALUES, ("5.3e-4", ".013", ".178", "1.338", "8.894"), strict=True):
        digits(value, text)
    _, C, g, _, _ = numbers(TABLED)
    descent = oracles.preconditioned_step(jnp.asarray(C), jnp.asarray(g), budget=BUDGET, form="none")
    length = np.linalg.norm(descent.delta)
    digits(length, "0.0367")
    digits(descent.budget_spent / length**2, "7.409")
    digits(-descent.predicted_change, "0.05589")


@pytest.mark.parametrize("G", [TABLED, TALL, WIDE], ids=["table", "tall", "wide"])
def test_everything_is_monotone_in_damping(G, x64):
    """At 4000 dampings from 1e-8 to 1e6, and with the limits at both ends (facts 2.2, 2.5)."""
    dampings, data = np.logspace(-8, 6, 4000), numbers(G)
    along, ends = columns(G, dampings), columns(G, np.r_[0.0, 1e9])
    rank = path(G, dampings).effective_rank
    falling = {"‖Ag‖", "length", "condition", "decrease", "spent by (a)"}
    for name, column in along.items():
        change = np.diff(column) * (-1 if name in falling else 1)
        # Near an end a column nearly stands still: it may then move by the rounding of u, EPS·κ.
        assert (change > -10 * EPS * data.condition(0) * np.abs(column).max()).all(), name
        assert change.sum() > 0
        middle = (dampings[1:] > data.least) & (dampings[1:] < data.largest)
        assert (np.diff(column)[middle] * (-1 if name in falling else 1) > 0).all(), name
    assert (np.diff(rank) < 0).all()
    rho, (low, high), g = oracles.agreement(G), data.ends(), data.g
    norm, curved = np.linalg.norm(g), g @ data.C @ g
    limits = {
        "length": np.sqrt(BUDGET / np.array([low, high])),
        "cosine": [rho / norm / np.linalg.norm(oracles.direction(G, 0.0)), 1],
        "cost": [low, high],
        "decrease": [np.sqrt(BUDGET * rho), np.sqrt(BUDGET) * norm**2 / np.sqrt(curved)],
        "spent by (a)": [BUDGET, 0],
    }
    for name, expected in limits.items():
        # At ε = 1e9 what is left is λmax/ε ~ 1e-8; at 0, rounding EPS·κ² of a pseudo-inverse of C.
        np.testing.assert_allclose(ends[name], expected, rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(ends["condition"][1], 1, rtol=1e-7)
    np.testing.assert_allclose(ends["learning rate"][0], np.sqrt(BUDGET / rho), rtol=1e-9)


# 2.6: the budget with damping.


@pytest.mark.parametrize("name", oracles.GRID)
def test_the_exact_budget_needs_no_further_product(name, dtype):
    """gᵀACAg = gᵀAg - ε‖Ag‖²; a constant η spends η² of it, at most η²ρ; so √c ≤ η of the exact rule."""
    G, eps = jnp.asarray(oracles.GRID[name], dtype), oracles.unit(dtype)
    data, rho = numbers(G), oracles.agreement(G)
    dampings = jnp.asarray(oracles.DAMPINGS, dtype)
    steps, exact = rate_path(G, dampings, 0.7), budget_path(G, dampings, BUDGET)
    np.testing.assert_allclose(exact.budget_spent, BUDGET, rtol=20 * eps)
    assert (exact.learning_rate >= np.sqrt(BUDGET / rho) * (1 - 100 * eps)).all()
    assert (exact.learning_rate >= np.sqrt(BUDGET) * (1 - 20 * eps)).all()
    assert (np.asarray(steps.budget_spent) <= 0.49 * rho * (1 + 100 * eps)).all()
    for k, damping in enumerate(oracles.DAMPINGS):
        u = -np.asarray(steps.delta[k], float) / 0.7
        # As good as the residual of the system allows (see test_solve), along u.
        left = (data.largest + damping) * np.linalg.norm(u) + np.linalg.norm(data.g)
        rounding = 5 * max(G.shape) * eps * left * np.linalg.norm(u)
        assert abs(data.g @ u - damping * u @ u - u @ data.C @ u) < rounding
        assert abs(steps.budget_spent[k] / 0.49 - (data.g @ u - damping * u @ u)) < rounding
        # g'Ag in place of it uses too little of the budget, but at ε = 0.
        assert u @ data.C @ u <= data.g @ u + rounding


# 2.8: orders.

POINT = np.array([0.4, -0.3])
INPUTS = np.array([[1.0, 0.5], [-0.7, 1.2], [0.3, -1.5], [1.4, 0.9]])
TARGETS = np.array([1.0, 0.0, 1.0, 0.0])


class Expansion(NamedTuple):
    """Four logistic losses of two parameters, by their closed forms: gᵢ = (σ - y)x, Hᵢ = σ(1 - σ)xxᵀ."""

    G: np.ndarray
    H: np.ndarray
    """(4, 2, 2)."""
    d1: np.ndarray
    """The step of the budget 1."""
    rho: float

    def second(self):
        """E[(gᵢᵀd)(dᵀHᵢd)] at d1."""
        return np.mean(self.G @ self.d1 * np.einsum("ijk,j,k->i", self.H, self.d1, self.d1))


@pytest.fixture(name="losses")
def expansion(x64):
    p = 1 / (1 + np.exp(-INPUTS @ POINT))
    G = (p - TARGETS)[:, None] * INPUTS
    H = np.einsum("i,ij,ik->ijk", p * (1 - p), INPUTS, INPUTS)
    u = np.linalg.solve(G.T @ G / 4, G.mean(axis=0))
    rho = G.mean(axis=0) @ u
    return Expansion(G, H, -u / np.sqrt(rho), rho)


def measure(delta):
    return outcome(POINT, INPUTS, TARGETS, delta)


def mean_hessian():
    return np.asarray(jax.jit(ef.hessian, static_argnums=0)(LOGISTIC, POINT, INPUTS, TARGETS))


def test_the_closed_forms_of_the_four_losses(losses):
    G = jax.jit(ef.per_example_gradients, static_argnums=0)(LOGISTIC, POINT, INPUTS, TARGETS)
    np.testing.assert_allclose(G, losses.G, rtol=20 * EPS)
    np.testing.assert_allclose(mean_hessian(), losses.H.mean(axis=0), rtol=50 * EPS)
    step = budget_step(losses.G, 0.0, 1.0)
    assert oracles.relative(step.delta, losses.d1) < 50 * EPS
    np.testing.assert_allclose(step.agreement, losses.rho, rtol=50 * EPS)
    assert losses.rho < 0.95


def test_the_objective_is_first_order(losses):
    """(L(θ + td) - L - t gᵀd)/t² → dᵀHd/2, and the error of that is O(t)."""
    d, slope = losses.d1, losses.G.mean(axis=0) @ losses.d1
    limit = d @ mean_hessian() @ d / 2
    errors = [abs((float(measure(t * d).mean_change) - t * slope) / t**2 - limit) for t in (1e-2, 1e-3)]
    assert errors[1] < 1e-3 * abs(limit) * 5  # the next term is t times a number of the size of the limit
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.1)


def test_the_constraint_is_second_order(losses):
    """(E Δℓ² - t²)/t³ → E[(gᵢᵀd)(dᵀHᵢd)], the error O(t): the remainder is O(‖Δ‖³)."""
    d, limit = losses.d1, losses.second()
    errors = [abs((float(measure(t * d).budget_spent) - t**2) / t**3 - limit) for t in (1e-2, 1e-3)]
    assert errors[1] < 1e-3 * abs(limit) * 5
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.1)
    # So a step of the budget c really spends c(1 + O(√c)).
    for budget in (1e-4, 1e-6):
        step = budget_step(losses.G, 0.0, budget)
        over = float(measure(step.delta).budget_spent) / budget - 1
        np.testing.assert_allclose(over / np.sqrt(budget), limit, rtol=10 * np.sqrt(budget))


def kinked(theta, x, y):
    return theta[0] + jnp.abs(theta[0]) ** 1.5


def test_the_constraint_is_o_of_the_square_with_one_derivative(x64):
    """ℓ = θ + |θ|^1.5 has no second derivative at 0: the remainder is 2t^2.5 + t³, o(t²) and not O(t³)."""
    for t in (1e-2, 1e-4):
        spent = changes(kinked, np.zeros(1), np.zeros(1), np.zeros(1), np.array([t]))[0] ** 2
        np.testing.assert_allclose((spent - t**2) / t**2.5, 2 + np.sqrt(t), rtol=20 * EPS / np.sqrt(t))


@jax.jit
def true_minimiser(delta, multiplier, budget):
    """min E Δℓ such that E Δℓ² = c, of the real losses: eight Newton steps on its conditions, and their Jacobian."""

    def moved(scaled):
        return ef.loss_changes(LOGISTIC, jnp.asarray(POINT), INPUTS, TARGETS, jnp.sqrt(budget) * scaled)

    def lagrangian(scaled, multiplier):  # in units in which everything is of order 1
        return jnp.mean(moved(scaled)) / jnp.sqrt(budget) + multiplier * (
            jnp.mean(moved(scaled) ** 2) / budget - 1
        )

    def conditions(unknown):
        return jnp.append(
            jax.grad(lagrangian)(unknown[:2], unknown[2]), jnp.mean(moved(unknown[:2]) ** 2) / budget - 1
        )

    unknown = jnp.append(delta / jnp.sqrt(budget), multiplier * jnp.sqrt(budget))
    for _ in range(8):
        unknown = unknown - jnp.linalg.solve(jax.jacfwd(conditions)(unknown), conditions(unknown))
    curvature = jax.hessian(lagrangian)(unknown[:2], unknown[2])
    return jnp.sqrt(budget) * unknown[:2], conditions(unknown), curvature, unknown[2]


def test_the_true_minimiser_differs_by_the_second_term(losses):
    """Δ_true = √c d₁ + c d₂ + O(c^1.5): relative to the step the error is O(√c)."""
    G, H_i, d1, rho = losses
    C, H = G.T @ G / 4, H_i.mean(axis=0)
    curved = H_i @ d1
    q = np.mean((curved @ d1)[:, None] * G / 2 + (G @ d1)[:, None] * curved, axis=0)
    rest = np.linalg.solve(C, H @ d1 / np.sqrt(rho) + q)
    k = losses.second() / 2 - d1 @ C @ rest  # from 2d₁ᵀCd₂ + E[(gᵢᵀd₁)(d₁ᵀHᵢd₁)] = 0, where d₁ᵀCd₁ = 1
    d2 = -rest - k * d1
    np.testing.assert_allclose(2 * d1 @ C @ d2 + losses.second(), 0, atol=1e-13)

    budgets, errors, relative = np.array([1e-4, 1e-6, 1e-8]), [], []
    for budget in budgets:
        step = budget_step(G, 0.0, budget)
        delta, left, curvature, multiplier = true_minimiser(step.delta, step.multiplier, budget)
        # A loss is rounded to EPS, beside changes of √c.
        assert np.abs(left).max() < 100 * EPS / np.sqrt(budget)
        np.testing.assert_allclose(measure(delta).budget_spent, budget, rtol=100 * EPS / np.sqrt(budget))
        assert multiplier > 0
        assert np.linalg.eigvalsh(curvature)[0] > 0  # a minimum
        errors.append(oracles.relative((delta - step.delta) / budget, d2))
        relative.append(oracles.relative(step.delta, delta))
    # The next term is √c times a number of order 1, and 1e-8 is rounding at the smallest c.
    np.testing.assert_allclose(errors, np.sqrt(budgets) * errors[0] / 1e-2, rtol=0.1)
    assert errors[-1] < 1e-3
    # Slope ½ in c, and the constant ‖d₂‖/‖d₁‖.
    np.testing.assert_allclose(np.log10(relative[1] / relative[2]), 1, atol=0.01)
    np.testing.assert_allclose(
        relative[-1] / np.sqrt(budgets[-1]), np.linalg.norm(d2) / np.linalg.norm(d1), rtol=1e-3
    )


def test_the_hessian_is_a_correction_of_relative_order_one_half(losses):
    """min gᵀΔ + ΔᵀHΔ/2 such that ΔᵀCΔ = c is -(H + μC)⁻¹g with μ ~ √(ρ/c): off the step by O(√c)."""
    G, H_i, d1, rho = losses
    C, H, g = G.T @ G / 4, H_i.mean(axis=0), G.mean(axis=0)

    budgets, off = (1e-4, 1e-6), []
    for budget in budgets:
        start = np.sqrt(rho / budget)

        def over(mu, budget=budget):
            d = -np.linalg.solve(H + mu * C, g)
            return d @ C @ d / budget - 1

        mu = brentq(over, start / 2, 2 * start, xtol=1e-12, rtol=1e-14)
        delta = np.asarray(matrix_step(H + mu * C, g, 0.0).delta)
        np.testing.assert_allclose(delta @ C @ delta, budget, rtol=1e-12)
        np.testing.assert_allclose(mu / start, 1, rtol=10 * np.sqrt(budget))
        # In H's own problem it beats the step, which spends as much.
        step = np.asarray(budget_step(G, 0.0, budget).delta)
        assert g @ delta + delta @ H @ delta / 2 < g @ step + step @ H @ step / 2
        off.append(oracles.relative(delta, step))
    np.testing.assert_allclose(off[0] / off[1], 10, rtol=0.1)
    # To first order Δ = √c(d₁ - √(c/ρ)·(what C⁻¹Hd₁ has across d₁)).
    turn = np.linalg.solve(C, H @ d1)
    across = (turn - d1 * (d1 @ C @ turn)) / np.sqrt(rho)
    np.testing.assert_allclose(
        off[1] / np.sqrt(budgets[1]), np.linalg.norm(across) / np.linalg.norm(d1), rtol=1e-2
    )
