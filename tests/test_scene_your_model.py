"""Your model, over the whole table: each ε against a dense solve in float64, for a network, real data, and a bare G."""

from itertools import product
from typing import Any

import gallery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.your_model import PLANES, your_model


def network():
    """A small net, its parameters a list of dictionaries; fewer examples than parameters."""
    whole = ef.descend(ef.digits((4,)), steps=5, learning_rate=0.5)
    return whole._replace(x=whole.x[:40], y=whole.y[:40])


def bare():
    return np.random.default_rng(0).normal(size=(50, 7)) * [3, 2, 1, 1, 1, 0.5, 0.1] + 0.3


CASES = {"network": network, "two": lambda: gallery.problem("two"), "wide": lambda: gallery.problem("wide")}


@pytest.fixture(
    params=gallery.usual(
        product([*CASES, "bare"], PLANES), ("network", "steps"), ("two", "random"), ("bare", "eigenvectors")
    ),
    ids=str,
    scope="module",
)
def case(request):
    """Scene, table, G in float64, the problem or None, the plane."""
    name, plane = request.param
    if name == "bare":
        G, problem, scene = bare(), None, your_model(G=bare(), plane=plane)
    else:
        problem = CASES[name]()
        scene = your_model(problem, plane=plane)
        x, y = scene.data["problem"].x, scene.data["problem"].y
        G = np.float64(ef.per_example_gradients(problem.loss_fn, problem.params, x, y))
    return scene, scenes.tabulate(scene), G, problem, plane


def each(case):
    """ε and the step there, of cost 0.01, by the n × n dual in float64."""
    scene, table, G, *_ = case
    K = G @ G.T / len(G)
    largest = np.linalg.eigvalsh(K)[-1]
    for i in range(12, 49, 4):  # float32 sees ε/λmax from about 1e-5 on to some digits
        u = G.T @ np.linalg.solve(K + scene.axes[0].values[i] * largest * np.eye(len(G)), np.ones(len(G)))
        yield largest * scene.axes[0].values[i], -0.1 * u / np.sqrt(np.mean((G @ u) ** 2)), table.at((i,))


def test_steps_against_the_dual(case):
    P, G = np.float64(case[0].data["plane"]), case[2]
    for _, delta, at in each(case):
        scale = np.linalg.norm(delta)
        np.testing.assert_allclose(at["tip"], delta @ P, atol=5e-3 * scale)
        assert at["length"] == pytest.approx(scale, rel=5e-3)
        assert at["inside"] == pytest.approx(100 * np.linalg.norm(delta @ P) / scale, abs=0.5)
        assert at["predicted"] == pytest.approx(np.mean(G @ delta), rel=2e-3)


def test_bars_are_the_changes_of_some_examples(case):
    scene, _, G, *_ = case
    shown, gain = np.asarray(scene.data["shown"]), -G @ G.mean(axis=0)
    assert len(set(shown)) == min(36, len(G))
    assert (np.diff(gain[shown]) >= -1e-5 * np.abs(gain).max()).all()  # from the largest gain along −g
    assert np.searchsorted(np.sort(gain), gain[shown[0]]) <= len(G) / 36
    for _, delta, at in each(case):
        np.testing.assert_allclose(at["bars"][:, 1, 1], (G @ delta)[shown] / 0.1, atol=0.02)
        assert at["promised_worse"] == pytest.approx(100 * np.mean(G @ delta > 0), abs=100 * 1.01 / len(G))
        np.testing.assert_allclose(at["mean"][:, 1], np.mean(G @ delta) / 0.1, rtol=2e-3)


def test_true_changes(case):
    scene, _, _, problem, _ = case
    if problem is None:
        assert not {"changes", "actual", "worse"} & set(case[1].arrays)
        assert "loss" not in case[1].background
        return
    theta, unravel = ravel_pytree(problem.params)
    x, y = scene.data["problem"].x, scene.data["problem"].y
    losses = jax.vmap(problem.loss_fn, (None, 0, 0))
    for _, delta, at in each(case):
        actual = np.float64(losses(unravel(theta + np.float32(delta)), x, y) - losses(problem.params, x, y))
        assert at["actual"] == pytest.approx(np.mean(actual), abs=5e-4)
        assert at["worse"] == pytest.approx(100 * np.mean(actual > 0), abs=100 * 2.01 / len(actual))
        expected = np.clip(actual[np.asarray(scene.data["shown"])] / 0.1, -12, 12)
        np.testing.assert_allclose(at["changes"][:, 1], expected, atol=0.03)


def test_contours_are_the_true_loss(case):
    scene, table, _, problem, _ = case
    if problem is None:
        return
    theta, unravel = ravel_pytree(problem.params)
    P, grid, reach = scene.data["plane"], table.background["grid"], table.background["reach"]
    losses = jax.vmap(problem.loss_fn, (None, 0, 0))
    for row, column in ((12, 12), (3, 20), (24, 0)):
        place = jnp.array([reach[0] * grid[column], reach[1] * grid[row]])
        moved = losses(
            unravel(theta + jnp.sum(P * place, axis=1)), scene.data["problem"].x, scene.data["problem"].y
        )
        change = np.mean(np.float64(moved)) - np.mean(
            np.float64(losses(problem.params, scene.data["problem"].x, scene.data["problem"].y))
        )
        assert table.background["loss"][row, column] == pytest.approx(change, rel=1e-2, abs=1e-4)


def test_the_plane(case):
    scene, _, G, _, plane = case
    P, g = np.float64(scene.data["plane"]), G.mean(axis=0)
    np.testing.assert_allclose(P.T @ P, np.eye(2), atol=1e-5)
    if plane == "steps":
        u = np.linalg.pinv(G, rcond=1e-4) @ np.ones(len(G))
        for direction in (g, u):
            inside = np.linalg.norm(direction @ P) / np.linalg.norm(direction)
            assert inside == pytest.approx(1, abs=2e-3)
        assert -g @ P[:, 0] > 0
        assert -u @ P[:, 1] > -1e-3 * np.linalg.norm(u)
    if plane == "eigenvectors":
        values = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
        np.testing.assert_allclose(np.mean((G @ P) ** 2, axis=0), values[:2], rtol=1e-3)


def test_the_ellipse_costs_c_in_the_plane(case):
    scene, table, G, *_ = case
    P = np.float64(scene.data["plane"])
    np.testing.assert_allclose(np.mean((table.arrays["ellipse"] @ P.T @ G.T) ** 2, axis=1), 0.01, rtol=2e-2)
    path, tips = table.arrays["path"], table.arrays["tip"]
    np.testing.assert_allclose(path, tips, atol=1e-3 * np.abs(tips).max())
    np.testing.assert_allclose(path[-1], table.arrays["descent_tip"], atol=0.1 * np.abs(path).max())


def test_spectrum_and_words(case):
    _, table, G, *_ = case
    values = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
    assert (table.arrays["n"], table.arrays["p"]) == G.shape
    assert table.arrays["rank"] == np.linalg.matrix_rank(G, tol=1e-5 * np.linalg.norm(G, 2))
    fitted = G @ np.linalg.lstsq(G, np.ones(len(G)), rcond=None)[0]
    assert table.arrays["agreement"] == pytest.approx(np.mean(fitted), abs=1e-3)
    for epsilon, _, at in each(case):
        assert at["kept"] == pytest.approx(np.sum(values / (values + epsilon)), rel=2e-3)
        np.testing.assert_allclose(at["level"][:, 1], epsilon, rtol=1e-4)
        assert at["kept_area"][0, 0, 1] == pytest.approx(max(values[0], epsilon), rel=1e-3)
    assert (np.diff(table.arrays["kept"]) < 0).all()
    assert (np.diff(table.arrays["length"]) <= 1e-4 * table.arrays["length"][0]).all()


def test_many_examples_are_drawn_by_seed():
    scene, other = (your_model(gallery.problem("two"), seed=seed) for seed in (0, 1))
    assert scene.data["G"].shape == (300, 2)
    assert (scene.data["G"] != other.data["G"]).any()


def test_budget_changes_no_picture(case):
    scene, table, *_ = case
    again = scenes.tabulate(scene._replace(data=scene.data | {"budget": jnp.asarray(0.03)}))
    for name, array in table.background.items():
        np.testing.assert_array_equal(array, again.background[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`problem` must be given, or else G; got neither"),
        ({"problem": network, "G": bare}, "`problem` must be given, or else G; got both"),
        ({"G": lambda: np.ones(3)}, r"`G` must be 2-D, one gradient a row \(n, p\); got shape \(3,\)"),
        ({"G": lambda: bare() / [1, 1, 1, 0, 1, 1, 1]}, "`G` must be finite"),
        ({"G": bare, "plane": "flat"}, "`plane` must be one of 'steps', 'eigenvectors', 'random'; got 'flat'"),
        ({"G": lambda: bare()[:, :1]}, r"n ≥ 2 and p ≥ 2; got shape \(50, 1\)"),
        ({"G": lambda: bare()[:1]}, r"n ≥ 2 and p ≥ 2; got shape \(1, 7\)"),
        ({"problem": lambda: ef.linear_regression(p=1)}, r"`problem` must be with .* got shape \(64, 1\)"),
        ({"G": lambda: np.stack([bare()[0], -bare()[0]])}, "`G` must be where the mean gradient is not 0; got g = 0"),
        ({"G": bare, "budget": 0.05}, r"`budget` must be at most 0\.04"),
    ],
)  # fmt: skip
def test_messages(arguments, message):
    build: Any = your_model
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        build(**{name: value() if callable(value) else value for name, value in arguments.items()})
