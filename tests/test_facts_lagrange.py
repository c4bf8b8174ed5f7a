"""The fact sheet, sections 1 and 2: the exact problem, what damping solves, and how far first order goes.

Held elsewhere: the digits of 1.1 by test_step.py; 1.2 and the four identities by test_solve.py and test_step.py; 1.5
and the conditions of 2.1 b by test_two_budgets.py and test_scene_two_budgets.py; the orders of 2.8 by test_proof.py and
test_scene_what_a_step_costs.py; that another sample is refused (1.4) by test_precondition.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.optimize import root

import efisher_teach as ef
from efisher_teach.core.solve import spectrum

pytestmark = pytest.mark.heavy

BUDGET = 0.01
EXAMPLE = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])  # facts 1.1
_rng = np.random.default_rng(0)  # the draw of facts 1.4
BATCH, _, OTHER = _rng.normal(size=(3, 6)), _rng.normal(size=6), _rng.normal(size=(3, 6))
TALL, WIDE = oracles.GRID["tall"], oracles.GRID["wide"]
EPS = oracles.unit("float64")

path, two_budgets = jax.jit(ef.damping_path), jax.jit(ef.two_budget_step)
changes = jax.jit(ef.loss_changes, static_argnums=0)


@jax.jit
def budget_step(G, damping=0.0, budget=BUDGET):
    return ef.empirical_fisher_step(G, damping=damping, budget=budget)


@jax.jit
def rate_step(G, damping=0.0, learning_rate=1.0):
    return ef.empirical_fisher_step(G, damping=damping, learning_rate=learning_rate)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def cost_by_length(G, u):
    """R = uᵀCu/‖u‖²."""
    return np.mean((G @ u) ** 2) / (u @ u)


def with_spectrum(values, shares):
    """G (r + 1, r) such that C has these eigenvalues and (uₖᵀ1)²/n are these shares: ρ is their sum."""
    r = len(values)
    along, ones = np.sqrt(np.r_[shares, 1 - np.sum(shares)]), np.full(r + 1, (r + 1) ** -0.5)
    mirror = np.eye(r + 1) - 2 * np.outer(along - ones, along - ones) / np.sum((along - ones) ** 2)
    V = np.linalg.qr(normal(1, (r, r)))[0]
    return np.sqrt(r + 1) * mirror[:, :r] * np.sqrt(values) @ V.T


# The problem behind the table of facts 2.5 and the check of 2.1 b. These ten numbers were solved for from the digits in
# the sheet, of which there are five times as many.
TABLED = with_spectrum(
    np.array([5.291877670e-04, 1.301037978e-02, 1.780973858e-01, 1.337959172, 8.894068945]),
    np.array([4.437554488e-02, 1.193482468e-01, 7.068636355e-02, 3.276821912e-01, 2.092771921e-01]),
)


# 1.1: the solution, by looking everywhere.


def test_the_whole_ellipse(x64):
    """Of 200,000 points of ΔᵀCΔ = c none is lower than the step, and none is higher than minus the step: ascent."""
    step, C, g = budget_step(EXAMPLE), oracles.empirical_fisher(EXAMPLE), oracles.mean_gradient(EXAMPLE)
    values, V = np.linalg.eigh(C)
    angle = 2 * np.pi * np.arange(200_000) / 200_000
    points = np.sqrt(BUDGET) * np.c_[np.cos(angle), np.sin(angle)] / np.sqrt(values) @ V.T
    objective, best = points @ g, np.sqrt(BUDGET * step.agreement)
    oracles.digits([objective.min(), objective.max()], "-0.0940243570 0.0940243570")
    for end, sign in ((objective.argmin(), -1), (objective.argmax(), 1)):
        assert sign * objective[end] < best * (1 + 8 * EPS)
        assert np.linalg.norm(points[end] + sign * step.delta) < angle[1] * np.sqrt(BUDGET / values[0])


def test_the_lagrangian_is_a_bowl(x64):
    """gᵀd + λ(dᵀCd - c), of steps d on the ellipse or not, is least at Δ; with -λ it is greatest at -Δ."""
    step, C, g = budget_step(EXAMPLE), oracles.empirical_fisher(EXAMPLE), oracles.mean_gradient(EXAMPLE)
    anywhere = normal(0, (1000, 2))
    for sign in (1, -1):
        end, multiplier = sign * np.asarray(step.delta), sign * float(step.multiplier)
        assert np.linalg.norm(g + 2 * multiplier * C @ end) < 20 * EPS * np.linalg.norm(g)
        values = anywhere @ g + multiplier * (np.sum(anywhere @ C * anywhere, axis=1) - BUDGET)
        assert (sign * (values - g @ end)).min() > 0


# 1.3 and 1.4: where C is singular.


def bowl(theta, x, y):
    """Logistic along x, with a curvature y of its own in every direction."""
    return jax.nn.softplus(x @ theta + y * theta @ theta / 2)


def test_a_null_vector_is_free_to_first_order_and_in_the_sample_only(x64):
    """At θ = 0 the gradients are x/2: along z the sample's losses rise by t²/4, another's move by t·xᵀz/2."""
    z, t = np.linalg.svd(BATCH)[2][-1], 1e-3
    assert (
        abs(budget_step(BATCH / 2).delta @ z) < 10 * EPS
    )  # the step is the shortest of those that differ by z

    def moved(x):
        return changes(bowl, jnp.zeros(6), x, np.ones(3), t * z)

    # softplus(s) = log 2 + s/2 + s²/8: relative to t²/4 the next term is t²/4, and rounding EPS/t² times 3.
    np.testing.assert_allclose(moved(BATCH), t**2 / 4, rtol=t**2 + 10 * EPS / t**2)
    # Relative to 1 the next terms are t²(1/4 + (xᵀz)²/8).
    np.testing.assert_allclose(moved(OTHER), t * OTHER @ z / 2, rtol=0, atol=t**2 * (1 + np.sum(OTHER**2)))
    assert np.abs(OTHER @ z).max() > 0.1


# ε, then ‖Δ‖ by the g of C's own sample, and by that of another batch
MISMATCHED = """
    1e-1 1.13  7.24
    1e-2 1.48  70.07
    1e-3 1.525 700.2
    1e-4 1.530 7002
    1e-6 1.531 700228
"""


def test_another_sample_is_what_makes_small_damping_dangerous(x64):
    """The step of its own sample converges, that of another batch goes as ‖g⊥‖/ε, up to a part of order 1."""
    C, z = oracles.empirical_fisher(BATCH), np.linalg.svd(BATCH)[2][3:]
    own, other = BATCH.mean(axis=0), OTHER.mean(axis=0)
    outside = (z @ other) @ z
    oracles.digits(np.linalg.norm(outside), "0.700")
    inside = np.linalg.norm(np.linalg.pinv(C, rcond=1e-12) @ other)
    for damping, *printed in (row.split() for row in MISMATCHED.strip().splitlines()):
        damping = float(damping)
        u, strange = (
            np.asarray(ef.solve_primal(jnp.asarray(C), jnp.asarray(g), damping)) for g in (own, other)
        )
        oracles.digits([np.linalg.norm(u), np.linalg.norm(strange)], " ".join(printed))
        rounding = 6 * EPS * np.trace(C) / damping * np.linalg.norm(strange)
        assert np.linalg.norm(strange - outside / damping) < inside + rounding
        # The bound of facts 2.7 is for the same sample; of another one only η‖g‖/ε is left.
        assert 1 / (2 * np.sqrt(damping)) < np.linalg.norm(strange) < np.linalg.norm(other) / damping


# 1.6, 1.7 and 2.7: what can be said of any step.


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("damping", [1e-6, 1e-2, 1.0])
def test_bounds(shape, damping, x64):
    """Of twenty draws: how equal the decrease is, how many get worse, how long a step is, and that none falls further.

    The mean fall is √(cρ), the variance c(1 - ρ), and at most a fraction 1 - ρ gets worse. ‖Δ‖ ≤ η√ρ/(2√ε).
    """
    for seed in range(20):
        G = normal(seed, shape)
        free, damped = budget_step(G), budget_step(G, damping)
        rho, fall = float(free.agreement), -np.asarray(free.predicted_changes)
        # κ of 15 random numbers may reach 1e6: 1e-10 is left of 1e-16.
        np.testing.assert_allclose(fall.mean(), np.sqrt(BUDGET * rho), rtol=1e-8)
        np.testing.assert_allclose(fall.var(), BUDGET * (1 - rho), rtol=1e-8, atol=1e-10)
        assert max(np.mean(fall <= 0), free.worse) <= 1 - rho + 1e-9
        length = np.linalg.norm(damped.delta)
        assert length <= damped.learning_rate * np.sqrt(rho / damping) / 2 * (1 + 1e-9)
        others = normal(seed + 100, (400, shape[1]))
        others *= np.sqrt(BUDGET) / np.sqrt(np.mean((others @ G.T) ** 2, axis=1, keepdims=True))
        g = G.mean(axis=0)
        assert (others @ g).min() >= g @ free.delta - 1e-12
        # Of those of cost c that are no longer, none does better than the damped one (facts 2.1 b).
        others *= np.minimum(1, length / np.linalg.norm(others, axis=1, keepdims=True))
        assert (others @ g).min() >= g @ damped.delta - 1e-12


def test_who_does_not_move_is_not_worse(x64):
    """Half of the gradients are orthogonal to the step: ρ = ½ and none gets worse, whatever rounding makes of 0."""
    G = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for angle in np.arange(8.0):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step = budget_step(G @ turn)
        assert step.worse == 0
        np.testing.assert_allclose(step.agreement, 0.5, rtol=10 * EPS)


# 1.8 and 1.9: the wide case beyond Taylor, and the same vector elsewhere.


def test_the_step_is_the_first_gauss_newton_iterate_for_an_equal_decrease(x64):
    """Three logistic losses, five parameters, each to fall by t = 0.1: in the end each does, so the mean by √c = t.

    Each loss depends on its own margin only, so each is solved by Newton: eₖ₊₁ = ℓ''/(2ℓ'²)eₖ². The first iterate is
    the step of learning rate t, so that its losses fall by t to first order in t.
    """
    x, y, theta, t = BATCH[:, :5], np.array([0.0, 1.0, 1.0]), 0.1 * np.arange(5.0), 0.1

    def losses(theta):
        return np.logaddexp(0, x @ theta) - y * (x @ theta)

    goal, errors = losses(theta) - t, [np.full(3, t)]
    for _ in range(4):
        residual = 1 / (1 + np.exp(-x @ theta)) - y
        theta = theta + ef.targeted_step(jnp.asarray(residual[:, None] * x), jnp.asarray(errors[-1])).delta
        errors.append(losses(theta) - goal)
    p = 1 / (1 + np.exp(-x @ theta))
    rate = p * (1 - p) / (2 * (p - y) ** 2)
    # Relative to eₖ₊₁ the next term is eₖ times ℓ'''/ℓ'' ≤ 1/|ℓ'| and the like; and a loss is rounded to EPS.
    for k in (0, 1, 2):
        close = 3 * errors[k] / np.abs(p - y) + 4 * EPS / errors[k + 1]
        assert (np.abs(errors[k + 1] / errors[k] ** 2 / rate - 1) < close).all()
    assert 1e-3 < errors[1].max() < 3e-2  # as in the sheet: 8.6e-3, 2.6e-5, 2.5e-10, 0 of another draw
    assert np.abs(errors[4]).max() < 8 * EPS


def test_the_step_has_the_best_mean_for_its_spread(x64):
    """Mean over standard deviation of the decrease is √s, s = gᵀΣ⁻¹g = ρ/(1 - ρ): the most of all directions."""
    G = normal(9, (60, 4)) + np.array([0.5, 0.3, 0.2, 0.1])
    step, g = budget_step(G), G.mean(axis=0)
    s = g @ np.linalg.solve(np.cov(G.T, bias=True), g)
    fall = -np.vstack([step.delta, -g, normal(10, (20_000, 4))]) @ G.T
    ratio = fall.mean(axis=1) / fall.std(axis=1)
    np.testing.assert_allclose(ratio[0], np.sqrt(s), rtol=100 * EPS)  # κ is about 1 here
    np.testing.assert_allclose(step.agreement, s / (1 + s), rtol=100 * EPS)
    assert (ratio[1:] < ratio[0]).all()


# 2.1 and 2.2: what damping solves.


@pytest.mark.parametrize("name", oracles.GRID)
def test_readings_of_the_damped_step(name, x64):
    """As a metric (a), a penalty (c) and a ridge regression (d): each is a bowl about the step, with its value."""
    G, eta = oracles.GRID[name], 0.7
    C, g, others = oracles.empirical_fisher(G), oracles.mean_gradient(G), normal(4, (200, G.shape[1]))
    for damping in oracles.DAMPINGS[1:]:
        step, M = rate_step(G, damping, eta), C + damping * np.eye(len(C))
        delta = np.asarray(step.delta)
        u, power = -delta / eta, -g @ delta / eta  # power = gᵀ(C + εI)⁻¹g
        # The svd leaves a residual of EPS·size·((λmax + ε)‖u‖ + ‖g‖), see test_solve; a value is as good as that·‖u‖.
        left = 5 * max(G.shape) * EPS * (np.linalg.norm(M, 2) * np.linalg.norm(u) + np.linalg.norm(g))
        wrong = eta**2 * left * np.linalg.norm(u)
        z = (
            others * np.sqrt(power / np.sum(others @ M * others, axis=1))[:, None]
        )  # as long as u, in the metric

        # (a) η²gᵀAg is spent in C + εI, of it gᵀAg - ε‖Ag‖² in C (facts 2.6); and nothing of that length falls further.
        assert abs(delta @ M @ delta - eta**2 * power) < wrong
        assert abs(step.budget_spent - eta**2 * (power - damping * u @ u)) < 2 * wrong
        assert (eta * z @ g).min() > g @ delta - wrong

        def penalty(d):  # (c)
            return eta * d @ g + np.sum(d @ M * d, axis=-1) / 2  # noqa: B023

        def ridge(d):  # (d)
            return np.mean((d @ G.T + eta) ** 2, axis=-1) + damping * np.sum(d**2, axis=-1)  # noqa: B023

        # A slope at Δ that is only rounding changes the value by left·‖z‖.
        close = 2 * eta * left * np.linalg.norm(z, axis=1).max() + 40 * EPS
        for value, least, rise in (
            (penalty, -(eta**2) * power / 2, power / 2),
            (ridge, eta**2 * (1 - power), power),
        ):
            assert abs(value(delta) - least) < wrong + 10 * EPS
            np.testing.assert_allclose(value(delta + z) - value(delta), rise, rtol=0, atol=close)


def ends(G):
    """R(0) and R(∞), between which both budgets bind."""
    return np.array([cost_by_length(G, u) for u in (oracles.direction(G, 0.0), oracles.mean_gradient(G))])


def test_two_budgets_digit_by_digit(x64):
    """facts 2.1 b. The sheet's μ₁ and μ₂ stand in front of half the constraints: twice our multipliers."""
    step = two_budgets(TABLED, BUDGET, np.sqrt(BUDGET / np.sqrt(np.prod(ends(TABLED)))))
    oracles.digits([step.damping, step.learning_rate], "0.0163882 0.127932")
    oracles.digits(np.mean(step.predicted_changes), "-0.08335341202")
    oracles.digits([2 * step.budget_multiplier, 2 * step.radius_multiplier], "7.81666 0.128101")


def test_damping_and_learning_rate_are_budget_and_radius(x64):
    """(ε, η) ↦ (c, r) by the sums over the spectrum of C, and back by `two_budget_step` (facts 2.2)."""
    values, V = np.linalg.eigh(oracles.empirical_fisher(TABLED))
    gamma, eta, close = V.T @ TABLED.mean(axis=0), 0.3, 30 * EPS * values[-1] / values[0]
    for damping in np.logspace(-5, 2, 8):
        weight = gamma**2 / (values + damping) ** 2
        budget, radius = eta**2 * np.sum(values * weight), eta * np.sqrt(np.sum(weight))
        back = two_budgets(TABLED, budget, radius)
        # ε is as uncertain as R, times d log ε/d log R; R' = Cov(λ, -2/(λ + ε)) under these weights.
        mean = np.average(values, weights=weight)
        slope = damping * np.average((values - mean) * -2 / (values + damping), weights=weight) / mean
        assert slope > 0
        np.testing.assert_allclose([back.damping / damping, back.learning_rate / eta], 1, rtol=close / slope)
        assert oracles.relative(back.delta, rate_step(TABLED, damping, eta).delta) < close / slope


@pytest.mark.parametrize("G", [TABLED, TALL, WIDE], ids=["table", "tall", "wide"])
def test_the_step_is_continuous_where_a_budget_begins_to_bind(G, x64):
    """Just inside a boundary the step differs from that on it by O(h), and ε → 0 or ∞ (facts 2.2)."""
    for end, inward in zip(ends(G), (1, -1), strict=True):
        jump, small = [], []
        for h in (1e-4, 1e-6):
            inside, outside = (
                two_budgets(G, BUDGET, np.sqrt(BUDGET / end / (1 + sign * inward * h))) for sign in (1, -1)
            )
            assert inside.budget_binds & inside.radius_binds
            assert outside.damping == (0 if inward == 1 else np.inf)
            jump.append(oracles.relative(outside.delta, inside.delta))
            small.append(inside.damping**inward)
        # Linear in h, but for terms of relative size h times a slope of 1e3 at most; rounding of ε is 1e-16·κ/h.
        np.testing.assert_allclose([jump[0] / jump[1], small[0] / small[1]], 100, rtol=0.2)


EIGENVECTORS = {
    "anisotropic": np.tile([[2.0, 1.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0]], (3, 1)),  # C = diag(4, 1, 0, 0)
    "isotropic": np.tile([[2.0, 2.0, 0.0, 0.0], [2.0, -2.0, 0.0, 0.0]], (3, 1)),  # C = diag(4, 4, 0, 0)
    "one example": np.array([[1.2, -1.6, 0.0, 0.0]]),  # C = ggᵀ, ‖g‖² = 4
    "one parameter": np.full((6, 1), 2.0),
}


@pytest.mark.parametrize("name", EIGENVECTORS)
def test_where_the_gradient_is_an_eigenvector_there_is_one_direction(name, dtype):
    """R = 4 at every ε: the shorter of the two lengths along -g, at the boundary itself too, to the last digit."""
    G, eps = jnp.asarray(EIGENVECTORS[name], dtype), oracles.unit(dtype)
    g, both = np.mean(np.asarray(G, float), axis=0), np.sqrt(BUDGET / 4)  # the radius at which both bind
    for radius in jnp.asarray(np.r_[both / 10, both * (1 + eps * np.arange(-6, 7)), both * 10], dtype):
        step = two_budgets(G, BUDGET, radius)
        assert oracles.relative(step.delta, -min(float(radius), both) * g / np.linalg.norm(g)) < 40 * eps
        assert step.budget_binds | step.radius_binds
        # Stationary in any case: 2(λ₁R + λ₂)‖Δ‖ = ‖g‖.
        pull = 2 * (4 * step.budget_multiplier + step.radius_multiplier) * step.length
        np.testing.assert_allclose(pull, np.linalg.norm(g), rtol=40 * eps)


# 2.3 to 2.5: along ε.


def test_filter(x64):
    """λ/(λ + ε) of every component, in the parameters and in the losses; of gradient descent, η = αε, αλ."""
    values = np.array([10.0, 1.0, 0.1, 0.01, 0.001])
    G = with_spectrum(values, np.full(5, 0.18))
    steps, (_, V, U) = [rate_step(G, damping) for damping in (0.0, 0.1, 1e9)], spectrum(jnp.asarray(G))
    for along in ([step.delta @ V for step in steps], [step.predicted_changes @ U for step in steps]):
        np.testing.assert_allclose(along[1] / along[0], values / (values + 0.1), rtol=20 * EPS * 1e4)
        np.testing.assert_allclose(1e9 * along[2] / along[0], values, rtol=1e-7)
        oracles.digits((along[1] / along[0])[1:4], ".909 .5 .0909")


@pytest.mark.parametrize("name", ["tall", "wide", "deficient"])
def test_limits_with_their_orders(name, x64):
    """u = C⁺g - εC⁺²g + … and u = g/ε - Cg/ε² + …: the next order at each end (facts 2.4)."""
    G, values = oracles.GRID[name], oracles.eigenvalues(oracles.GRID[name])
    C, g = oracles.empirical_fisher(G), oracles.mean_gradient(G)
    inverse = np.linalg.pinv(C, rcond=1e-12, hermitian=True)

    def u(damping):
        return -np.asarray(rate_step(G, damping).delta)

    assert oracles.relative(u(0.0), inverse @ g) < 100 * EPS * values[0] / values[-1]
    for share in (1e-2, 1e-3, 1e-4):
        # The next term is smaller by ε/λmin, or λmax/ε, at least; the difference loses 1/that to rounding.
        small, large = share * values[-1], values[0] / share
        close = share + 100 * EPS * values[0] / small
        assert oracles.relative((u(0.0) - u(small)) / small, inverse @ inverse @ g) < close
        lost = 100 * EPS * large * np.linalg.norm(g) / np.linalg.norm(C @ g)
        assert oracles.relative(large * (large * u(large) - g), -C @ g) < 3 * share + lost


#   ε    ‖Ag‖   ‖Δ‖    cos    condition   R   decrease   spent by (a)   η
TABLE = """
    0    9.680  1.1021 0.0524 16807 0.00823 0.08783 0.01000 0.1139
    1e-3 4.314  0.5104 0.1117 5817  0.0384  0.08673 0.00975 0.1183
    1e-1 0.722  0.1003 0.5198 89.5  0.9946  0.07928 0.00909 0.1388
    1    0.331  0.0628 0.7694 9.89  2.532   0.07356 0.00717 0.1896
    100  0.0142 0.0372 0.9996 1.089 7.228   0.05655 6.7e-4  2.623
"""


def test_table_of_the_fact_sheet(x64):
    """Every digit of it, from one spectrum; and gradient descent, as ε → ∞, in its last row."""
    rows = [row.split(maxsplit=1) for row in TABLE.strip().splitlines()]
    dampings = np.array([*(float(damping) for damping, _ in rows), 1e9])
    steps, g, values = path(TABLED, dampings, BUDGET), TABLED.mean(axis=0), oracles.eigenvalues(TABLED)
    oracles.digits(values[::-1], "5.3e-4 .013 .178 1.338 8.894")
    length, cost = np.linalg.norm(steps.delta, axis=1), np.asarray(steps.budget_spent)
    found = np.stack([
        length / steps.learning_rate,
        length,
        -steps.delta @ g / (length * np.linalg.norm(g)),
        (values[0] + dampings) / (values[-1] + dampings),
        cost / length**2,
        -np.mean(steps.predicted_changes, axis=1),
        BUDGET * cost / (cost + dampings * length**2),  # of c' = c in the metric C + εI
        steps.learning_rate,
    ])  # fmt: skip
    for (_, printed), column in zip(rows, found.T, strict=False):
        oracles.digits(column, printed)
    oracles.digits(found[1:7, -1], "0.0367 1.000 1.000 7.409 0.05589 0.00000")


def test_the_bound_is_of_a_learning_rate(x64):
    """‖Δ‖ ≤ η/(2√ε) bounds no step of a budget: the smaller the gradients, the longer it is (facts 9.1)."""
    steps = [budget_step(scale * np.diag([1.0, 2.0]), 1e-3) for scale in (1.0, 1e-2, 1e-4, 1e-6)]
    oracles.digits([np.linalg.norm(step.delta) for step in steps], ".11 7.8 767 7.7e4")


# 2.8: what linearising costs.

POINT = np.array([0.4, -0.3])
INPUTS = np.array([[1.0, 0.5], [-0.7, 1.2], [0.3, -1.5], [1.4, 0.9]])
TARGETS = np.array([1.0, 0.0, 1.0, 0.0])


def logistic(theta):
    """Losses and gradients of the four examples, and what weighs xxᵀ in their Hessians."""
    z = INPUTS @ theta
    p = 1 / (1 + np.exp(-z))
    return np.logaddexp(0, z) - TARGETS * z, (p - TARGETS)[:, None] * INPUTS, p * (1 - p)


def true_minimiser(step, budget):
    """min E Δℓ such that E Δℓ² = c, of the real losses, by the conditions of Lagrange; in units of order 1."""
    start, scale = logistic(POINT)[0], np.sqrt(budget)

    def conditions(unknown):
        losses, G, _ = logistic(POINT + scale * unknown[:2])
        change = (losses - start) / scale
        return np.r_[np.mean((1 + 2 * unknown[2] * change)[:, None] * G, axis=0), np.mean(change**2) - 1]

    found = root(conditions, np.r_[step.delta / scale, step.multiplier * scale], tol=1e-14)
    # A loss is rounded to EPS, beside changes of √c.
    assert np.abs(conditions(found.x)).max() < 100 * EPS / scale
    return scale * found.x[:2]


def test_the_true_minimiser_differs_by_the_second_term(x64):
    """Δ_true = √c d₁ + c d₂ + O(c^1.5), with d₂ from the Hessians: relative to the step the error is O(√c)."""
    _, G, bend = logistic(POINT)
    C, d1 = G.T @ G / 4, np.asarray(budget_step(G, 0.0, 1.0).delta)
    H_i = np.einsum("i,ij,ik->ijk", bend, INPUTS, INPUTS)
    curved, root_rho = H_i @ d1, np.sqrt(oracles.agreement(G))
    q = np.mean((curved @ d1)[:, None] * G / 2 + (G @ d1)[:, None] * curved, axis=0)
    third = np.mean(G @ d1 * (curved @ d1))  # E[(gᵢᵀd₁)(d₁ᵀHᵢd₁)]
    rest = np.linalg.solve(C, H_i.mean(axis=0) @ d1 / root_rho + q)
    d2 = -rest - (third / 2 - d1 @ C @ rest) * d1  # so that 2d₁ᵀCd₂ + E[(gᵢᵀd₁)(d₁ᵀHᵢd₁)] = 0
    budgets, errors = np.array([1e-4, 1e-6, 1e-8]), []
    for budget in budgets:
        step = budget_step(G, 0.0, budget)
        errors.append(oracles.relative((true_minimiser(step, budget) - step.delta) / budget, d2))
    # The next term is √c times a number of order 1, and 1e-8 is rounding at the smallest c.
    np.testing.assert_allclose(errors, np.sqrt(budgets) * errors[0] / 1e-2, rtol=0.1)
    assert errors[-1] < 1e-3
