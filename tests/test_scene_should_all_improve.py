"""Who improves: the whole table against ridge regressions in NumPy and float64, and the facts 1 and 3."""

from functools import cache

import gallery
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures.scenes import tabulate
from efisher_teach.figures.scenes.should_all_improve import DAMPINGS, SHOWN, TARGETS, should_all_improve

BUDGET = 0.01
CASES = {
    "real": lambda: (ef.descend(ef.breast_cancer(None), steps=3), {}),
    "noisy": lambda: (ef.descend(ef.breast_cancer(None), steps=3), {"noise": 0.15}),
    "few positives": lambda: (ef.descend(ef.breast_cancer(2), steps=9), {"imbalance": 0.1}),
    "both": lambda: (ef.descend(ef.breast_cancer(2), steps=9), {"imbalance": 0.3, "noise": 0.2, "seed": 1}),
    "wide": lambda: (ef.descend(ef.logistic_regression(n=40, p=60, seed=2), steps=3, learning_rate=0.1), {}),
}
PLACES = [(i, j) for i in (0, 12, 28, 40) for j in (0, 3, 5, 10)]  # of ε and the target


@cache
def look(name):
    """The table, and by hand: x, y, the second group and who was flipped, of those kept, and θ."""
    problem, options = CASES[name]()
    scene = should_all_improve(problem, budget=BUDGET, **options)
    kept = np.asarray(scene.data["kept"]) == 1
    flipped = np.asarray(scene.data["flipped"])[kept]
    x, y = np.float64(problem.x)[kept], np.float64(problem.y)[kept]
    y = np.where(flipped, 1 - y, y)
    second = flipped == 1 if "noise" in options else y == 1
    return tabulate(scene), x, y, second, flipped, np.float64(problem.params)


def losses(x, y, theta):
    return np.logaddexp(0, x @ theta) - y * (x @ theta)


def changes(name, delta):
    """To first order, and in truth."""
    _, x, y, _, _, theta = look(name)
    slope = 1 / (1 + np.exp(-x @ theta)) - y
    return slope * (x @ delta), losses(x, y, theta + delta) - losses(x, y, theta)


def spend(name, u):
    return u * np.sqrt(BUDGET / np.mean(changes(name, u)[0] ** 2))


def wish(name, target):
    """t, from 1 over (∂ℓ/∂z)² to ℓ, each of mean 1."""
    _, x, y, _, _, theta = look(name)
    three = [np.ones(len(y)), (1 / (1 + np.exp(-x @ theta)) - y) ** 2, losses(x, y, theta)]
    low = int(target > 0.5)
    a, b = (each / each.mean() for each in three[low : low + 2])
    return a + (2 * target - low) * (b - a)


def step(name, i, j):
    """Ridge regression of the wish on the gradients, at the cost c."""
    _, x, y, *_, theta = look(name)
    G = (1 / (1 + np.exp(-x @ theta)) - y)[:, None] * x
    n, p = G.shape
    rows = np.vstack([G, np.sqrt(n * DAMPINGS[i]) * np.eye(p)])
    u = np.linalg.lstsq(rows, np.r_[wish(name, TARGETS[j]), np.zeros(p)])[0]
    return spend(name, -u)


def ranked(values):
    return np.sort(values)[((np.arange(SHOWN) + 0.5) / SHOWN * len(values)).astype(int)]


def assert_worse(percent, values):
    """Those above 0, where those that only rounding tells from 0 count or not."""
    assert 100 * np.mean(values > 2e-6) - 1e-3 <= percent <= 100 * np.mean(values > -2e-6) + 1e-3


def heights(table, name="bars"):
    return table.arrays[name][..., 1, 1]


@pytest.mark.parametrize("name", gallery.usual(CASES, "both", "wide"))
def test_changes_of_the_examples_and_groups(name):
    table, *_, second, _, _ = look(name)
    arrays, rms = table.arrays, np.sqrt(BUDGET)
    for i, j in PLACES:
        predicted, actual = changes(name, step(name, i, j))
        both = heights(table)[i, j] + heights(table, "flipped_bars")[i, j]
        np.testing.assert_allclose(both, ranked(predicted) / rms, atol=5e-3)
        order = np.argsort(predicted)[((np.arange(SHOWN) + 0.5) / SHOWN * len(predicted)).astype(int)]
        if name != "wide":  # there the order of equal changes is rounding
            np.testing.assert_allclose(arrays["changes"][i, j, :, 1], actual[order] / rms, atol=0.02)
        np.testing.assert_allclose(arrays["first"][i, j], actual[~second].mean(), atol=2e-5)
        np.testing.assert_allclose(arrays["second"][i, j], actual[second].mean(), atol=2e-5)
        means = [arrays["first"][i, j], arrays["second"][i, j]]
        np.testing.assert_allclose(arrays["groups"][i, j, :, 1, 1] * rms, means, atol=1e-6)
        assert_worse(arrays["actual_worse"][i, j], actual)


@pytest.mark.parametrize("name", gallery.usual(CASES, "both", "wide"))
def test_descent_costs_the_same(name):
    table, x, y, second, _, theta = look(name)
    g = np.mean((1 / (1 + np.exp(-x @ theta)) - y)[:, None] * x, axis=0)
    predicted, actual = changes(name, spend(name, -g))
    np.testing.assert_allclose(table.arrays["descent"][:, 1], ranked(predicted) / np.sqrt(BUDGET), atol=2e-3)
    np.testing.assert_allclose(table.arrays["descent_first"], actual[~second].mean(), atol=2e-5)
    np.testing.assert_allclose(table.arrays["descent_second"], actual[second].mean(), atol=2e-5)


@pytest.mark.parametrize("name", gallery.usual(CASES, "both", "wide"))
def test_no_more_get_worse_than_the_bound(name):
    """Cantelli, of the changes that are predicted, for every ε and target; and of the examples themselves."""
    arrays = look(name)[0].arrays
    assert (arrays["worse"] <= arrays["bound"] + 1e-3).all()
    for i, j in PLACES:
        predicted, _ = changes(name, step(name, i, j))
        bound = 1 - min(predicted.mean(), 0) ** 2 / np.mean(predicted**2)
        np.testing.assert_allclose(arrays["bound"][i, j], 100 * bound, atol=0.02)
        assert_worse(arrays["worse"][i, j], predicted)
    for path, number in (("worse_path", "worse"), ("bound_path", "bound"), ("actual_path", "actual_worse")):
        np.testing.assert_allclose(arrays[path][..., 1].T, arrays[number], atol=101 / len(look(name)[1]))


@pytest.mark.parametrize("name", gallery.usual(CASES, "both", "wide"))
def test_no_step_has_a_lower_bound_than_the_undamped_empirical_fisher(name):
    table, x, y, *_, theta = look(name)
    G = (1 / (1 + np.exp(-x @ theta)) - y)[:, None] * x
    rho = np.mean(G @ np.linalg.lstsq(G, np.ones(len(y)))[0])
    bound = table.arrays["bound"]
    np.testing.assert_allclose(table.background["undamped"], 100 * (1 - rho), atol=0.02)
    np.testing.assert_allclose(table.arrays["agreement"][0], rho, atol=1e-4)
    np.testing.assert_allclose(bound[0, 0], 100 * (1 - rho), atol=0.5)
    assert (bound >= 100 * (1 - rho) - 0.02).all()
    assert (np.diff(bound[:, 0]) > -0.01).all()  # and it grows with ε (facts 2.5)


def test_wide_and_undamped_every_wish_is_fulfilled():
    table, *_ = look("wide")
    np.testing.assert_allclose(heights(table)[0, 0], -1, atol=1e-3)  # the same decrease for all: facts 3.1
    for j in (5, 10):  # (∂ℓ/∂z)², ℓ
        t = wish("wide", TARGETS[j])
        np.testing.assert_allclose(heights(table)[0, j], ranked(-t / np.sqrt(np.mean(t**2))), atol=2e-3)
    np.testing.assert_allclose(table.arrays["agreement"], 1, atol=1e-4)


def test_who_is_kept_and_flipped():
    problem, _ = CASES["noisy"]()
    scene = should_all_improve(problem, imbalance=0.25, noise=0.2)
    kept, flipped = (np.asarray(scene.data[name]) == 1 for name in ("kept", "flipped"))
    old, new, positive = np.asarray(problem.y), np.asarray(scene.data["problem"].y), int(np.sum(problem.y))
    assert (old[kept].sum(), (1 - old[kept]).sum()) == (round(0.25 * positive), len(old) - positive)
    assert flipped.sum() == round(0.2 * kept.sum())
    assert ((old != new) == flipped).all()
    arrays, few = (
        look("noisy")[0].arrays,
        np.count_nonzero(heights(look("noisy")[0], "flipped_bars"), axis=-1),
    )
    assert (heights(look("noisy")[0]) * heights(look("noisy")[0], "flipped_bars") == 0).all()
    assert 0.05 * SHOWN < few.mean() < 0.3 * SHOWN
    assert (arrays["second"] < 2 * arrays["first"]).all()  # wrong labels are learnt first


def conflict(rows):
    """Losses that are linear, with these gradients; the label is 1 for the last tenth."""
    x, y = jnp.asarray(rows, float), jnp.asarray(np.arange(len(rows)) >= 0.9 * len(rows), float)
    problem = ef.logistic_regression(n=40)._replace(x=x, y=y, params=jnp.zeros(x.shape[1]))
    return problem._replace(loss_fn=LINEAR)


def LINEAR(params, x, y):  # noqa: N802
    return jnp.vdot(x, params) + 1 + 0 * y


def test_conflict_of_a_majority_and_a_minority():
    """Facts 3.1: gradient descent makes the minority pay, the empirical Fisher does not."""
    arrays = tabulate(should_all_improve(conflict([(1, 0.2)] * 36 + [(-1, 0.3)] * 4), budget=BUDGET)).arrays
    np.testing.assert_allclose(arrays["descent_second"] / arrays["descent_first"], -0.737 / 0.842, rtol=2e-3)
    np.testing.assert_allclose([arrays["first"][0, 0], arrays["second"][0, 0]], -0.1, rtol=1e-3)
    assert arrays["worse"][0, 0] == 0
    assert arrays["worse"][-1, 0] == pytest.approx(10)


def test_tight_bound():
    """Facts 1.7: gradients (1, 1, 0), ρ = 2/3, one third has no decrease. Six times the same column: rank 1."""
    arrays = tabulate(
        should_all_improve(conflict([[1.0] * 6, [1.0] * 6, [0.0] * 6] * 13), budget=BUDGET)
    ).arrays
    np.testing.assert_allclose(arrays["agreement"][0], 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(arrays["bound"], 100 / 3, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"params": jnp.zeros((2, 2))}, {}, "`problem` must be one with params of shape"),
        ({"y": jnp.arange(64.0)}, {}, "`problem` must be one with labels 0 and 1"),
        ({"x": jnp.ones((20, 2)), "y": jnp.ones(20)}, {}, "`problem` must be one with 36 examples; got 20"),
        ({}, {"imbalance": 0.0}, "`imbalance` must be above 0 and at most 1; got 0.0"),
        ({}, {"noise": 0.6}, "`noise` must be from 0 to 0.5; got 0.6"),
        ({}, {"budget": 0.5}, "`budget` must be at most 0.04"),
    ],
)
def test_bad_input(change, options, says):
    with pytest.raises(ValueError, match=says):
        should_all_improve(ef.logistic_regression()._replace(**change), **options)
