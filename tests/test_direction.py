"""The options of an update: trust region, weights, targets, memory, keys; and that its report is true."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import flat

import efisher_teach as ef
from efisher_teach.network.report import levenberg_marquardt


def loss_fn(params, x, y):
    return (jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2 / 2


def data(n=6, seed=0):
    """Parameters and n examples, in the precision of the moment."""
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(4, 3)), "v": rng.normal(size=3)}
    return jax.tree.map(jnp.asarray, (params, rng.normal(size=(n, 4)), rng.normal(size=n)))


def step_of(update, params, *batch, **options):
    moved, report = update(params, *batch, **options)
    return flat(moved) - flat(params), report


def G_of(params, x, y):
    return ef.per_example_gradients(loss_fn, params, x, y)


# The trust region.


def test_a_step_takes_all_that_budget_and_radius_allow(x64):
    params, x, y = data()
    for budget, radius in ((0.01, 1e3), (0.01, 1e-3), (1e3, 0.5)):
        update = ef.make_update(loss_fn, damping=1e-3, budget=budget, radius=radius)
        delta, report = step_of(update, params, x, y)
        cost, length = np.mean((G_of(params, x, y) @ delta) ** 2), np.linalg.norm(delta)
        change = ef.loss_changes(loss_fn, params, x, y, jnp.asarray(delta))
        assert max(cost / budget, length / radius) == pytest.approx(1)
        said = report.budget_spent, report.length, report.squared_change, report.ratio
        ratio = -np.mean(change) / report.predicted_decrease
        np.testing.assert_allclose(said, [cost, length, np.mean(change**2), ratio], rtol=1e-6)


def square(params, x, y):
    return jnp.sum((x @ params - y) ** 2) / 2


def test_a_step_that_raises_the_loss_can_be_refused_and_is_not_remembered():
    update = ef.make_update(square, damping=1e-3, learning_rate=3.0, memory=0.9, accept=0.0)
    remembered, report = update(update.start(jnp.ones(1)), jnp.ones((1, 1)), jnp.zeros(1))
    assert report.finite
    assert not report.accepted
    assert report.actual_decrease < 0
    assert remembered.params == 1
    assert remembered.direction == 0


def test_the_ratio_steers_the_damping():
    update = ef.make_update(square, damping=1.0, learning_rate=1.0, steer=0.5, accept=0.0)
    remembered, dampings = update.start(jnp.array([8.0])), []
    for _ in range(6):
        remembered, report = update(remembered, jnp.ones((1, 1)), jnp.zeros(1))
        expected = levenberg_marquardt(report.damping, report.ratio, 0.5)
        assert remembered.damping == expected
        dampings.append(float(report.damping))
    assert dampings[0] > dampings[1]  # a good step asks for less
    assert levenberg_marquardt(1.0, jnp.nan, 0.5) == 2


# Weights and targets.


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_whole_weights_are_repetitions(damping, x64):
    params, x, y = data()
    repeats = np.array([0, 0, 2, 2, 2, 4])
    update = ef.make_update(loss_fn, damping=damping, budget=0.01)
    padded = x.at[jnp.array([1, 3, 5])].set(jnp.nan)
    weighted, report = step_of(update, params, padded, y, weights=jnp.array([2.0, 0, 3, 0, 1, 0]))
    expected, of_repeated = step_of(update, params, x[repeats], y[repeats])
    np.testing.assert_allclose(weighted, expected, rtol=1e-6, atol=1e-9)
    for one, other in zip(report[:-1], of_repeated[:-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_target_is_the_targeted_step(x64):
    params, x, y = data()
    target = jnp.arange(6.0)
    for damping in (0.0, 0.1):
        update = ef.make_update(loss_fn, damping=damping, learning_rate=1.0)
        delta, report = step_of(update, params, x, y, target=target)
        step = ef.targeted_step(G_of(params, x, y), target, damping=damping)
        np.testing.assert_allclose(delta, step.delta, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(report.predicted_decrease, -jnp.mean(step.predicted_changes))


# Memory.


@pytest.mark.parametrize("examples", [6, 30])
def test_memory_damps_towards_the_last_direction(examples, x64):
    params, x, y = data(examples, seed=1)
    eps, mu, rate = 0.3, 0.8, 0.05
    update = ef.make_update(loss_fn, damping=eps, learning_rate=rate, memory=mu)
    remembered, past = update.start(params), np.zeros(15)
    for _ in range(3):
        G = np.asarray(G_of(remembered.params, x, y))
        A = np.concatenate([G / np.sqrt(len(G)), np.sqrt(eps) * np.eye(15)])
        b = np.concatenate([np.full(len(G), len(G) ** -0.5), np.sqrt(eps) * mu * past])
        past = np.linalg.lstsq(A, b)[0]
        before = flat(remembered.params)
        remembered, report = update(remembered, x, y)
        np.testing.assert_allclose(flat(remembered.direction), past, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(flat(remembered.params) - before, -rate * past, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(report.length, rate * np.linalg.norm(past))
        np.testing.assert_allclose(report.budget_spent, rate**2 * np.mean((G @ past) ** 2))
        assert report.residual < 1e-9


# A report that is true.


def test_a_step_that_bfloat16_loses_is_reported():
    half, x, y = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), data())
    for rate, lost in ((1e-6, True), (0.3, False)):
        moved, report = ef.make_update(loss_fn, damping=1.0, learning_rate=rate)(half, x, y)
        assert np.array_equal(flat(moved), flat(half)) == lost
        assert (report.rounding == 1) == lost
        assert (report.actual_decrease == 0) == lost


@pytest.mark.parametrize("relative_to", ["largest", "mean"])
def test_epsilon_in_parts_of_an_eigenvalue(relative_to):
    params, x, y = data()
    G = G_of(params, x, y)
    K = ef.gram(G)
    unit = float({"largest": np.linalg.norm(K, 2), "mean": np.trace(K) / 6}[relative_to])
    target = jnp.arange(6.0)

    def direction(**options):
        form = ef.scale_by_empirical_fisher(**options)
        return form.update(G, form.init(G[0]))[0]

    for function in (
        lambda **options: step_of(ef.make_update(loss_fn, budget=0.01, **options), params, x, y)[0],
        lambda **options: ef.empirical_fisher_step(G, budget=0.01, **options).delta,
        lambda **options: ef.targeted_step(G, target, **options).delta,
        direction,
        partial(direction, decay=0.5, memory=12),
        lambda damping, **options: ef.damping_path(G, jnp.array([0.0, damping]), 0.01, **options).delta,
    ):
        relative = function(damping=0.1, relative_to=relative_to)
        np.testing.assert_allclose(relative, function(damping=0.1 * unit), rtol=1e-4, atol=1e-6)
    padding = {"weights": jnp.array([1.0, 1, 0, 0, 0, 0])}
    update = ef.make_update(loss_fn, damping=0.1, relative_to=relative_to, budget=0.01)
    expected = step_of(update, params, x[:2], y[:2])[1].damping
    assert step_of(update, params, x, y, **padding)[1].damping == pytest.approx(float(expected), rel=1e-5)


# Losses that return more, and need more.


def dropout(params, x, y, key):
    kept = jax.random.bernoulli(key, 0.5, (3,))
    z = jnp.where(kept, jnp.tanh(x @ params["w"]), 0) @ params["v"]
    return (z - y) ** 2 / 2, {"prediction": z}


def test_a_key_for_each_example_and_aux_beside_the_loss():
    params, x, y = data()
    key = jax.random.key(3)
    keys = jax.random.split(key, 6)
    update = ef.make_update(dropout, damping=0.1, budget=0.01, has_aux=True, needs_key=True)
    delta, report = step_of(update, params, x, y, key=key)
    with_keys = ef.make_update(
        lambda params, xk, y: dropout(params, xk[0], y, xk[1])[0], damping=0.1, budget=0.01
    )
    expected, by_hand = step_of(with_keys, params, (x, keys), y)
    np.testing.assert_allclose(delta, expected, rtol=1e-5)
    np.testing.assert_allclose(report.actual_decrease, by_hand.actual_decrease, rtol=1e-5)
    predictions = jax.vmap(partial(dropout, params))(x, y, keys)[1]["prediction"]
    np.testing.assert_allclose(report.aux["prediction"], predictions, rtol=1e-5)


@pytest.mark.parametrize("examples", [6, 40])
def test_examples_some_at_a_time(examples):
    """A part of the examples may be differentiated at once: the last one here is alone."""
    params, x, y = data(examples)
    whole, parts = (ef.make_update(loss_fn, damping=0.1, budget=0.01, chunk_size=m) for m in (None, 5))
    answers = [update(params, x, y) for update in (whole, parts)]
    assert max(report.residual for _, report in answers) < 1e-5  # all rounding: no two ways have the same
    alike = ((moved, report._replace(residual=0.0)) for moved, report in answers)
    for one, other in zip(*map(jax.tree.leaves, alike), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)
    at_once = [str(jax.make_jaxpr(update)(params, x, y)) for update in (whole, parts)]
    assert [f"f32[{examples},3] = dot_general" in text for text in at_once] == [True, False]
    weights = jnp.arange(float(examples))
    dense = [flat(ef.weighted_gradient(loss_fn, params, x, y, weights, chunk_size=m)) for m in (None, 5)]
    np.testing.assert_allclose(*dense, rtol=1e-5, atol=1e-5)


@given(
    seed=st.integers(0, 99),
    n=st.sampled_from([1, 3, 200]),  # few shapes: each is compiled
    p=st.sampled_from([1, 3, 12]),
    rank=st.integers(1, 12),
    damping=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    unit=st.integers(-63, 60),
    repeated=st.booleans(),
)
@settings(max_examples=40)
@example(seed=0, n=3, p=12, rank=1, damping=1e-3, unit=0, repeated=False)
def test_no_step_is_wrong_with_a_good_flag(seed, n, p, rank, damping, unit, repeated):
    """In float32, of any shape, rank and unit: it is the step in float64, or the residual says that it is not.

    It never has to where ε is large enough, or no K is formed: with as many examples as parameters.
    """
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, p)) * 2.0**unit
    G = np.repeat(G[:1], n, axis=0) if repeated else G
    update = ef.make_update(linear, radius=1.0, damping=damping, relative_to="largest")
    moved, report = update(jnp.zeros(p), jnp.asarray(G, jnp.float32), jnp.zeros(n))
    singular = np.linalg.svd(G, compute_uv=False)
    A = G.T @ G / n + damping * singular[0] ** 2 / n * np.eye(p)
    u = np.linalg.pinv(A, rcond=1e-9, hermitian=True) @ G.mean(axis=0)
    if np.linalg.norm(u) * singular[0] < 1e-6:
        return  # g is 0 to rounding
    left_over = A @ -np.asarray(moved, float) * np.linalg.norm(u) - G.mean(axis=0)
    assert report.finite
    assert np.linalg.norm(left_over) < 1e-3 * np.linalg.norm(G.mean(axis=0)) or report.residual > 1e-4
    assert report.residual < 1e-4 or (n < p and damping < 1e-3)


def linear(params, x, y):
    """Its gradient is x, whatever the parameters are."""
    return x @ params
