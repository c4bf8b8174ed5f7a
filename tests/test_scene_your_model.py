"""Your model, over the whole table: each ε against a dense solve in float64, for a network, real data, and a bare G."""

import gallery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gallery import agree
from jax.flatten_util import ravel_pytree

import efisher_teach as ef
from efisher_teach.figures.scenes.your_model import PLANES, your_model


def bare():
    return np.random.default_rng(0).normal(size=(50, 7)) * [3, 2, 1, 1, 1, 0.5, 0.1] + 0.3


class Model(gallery.Look):
    """Beside the table: the true changes under a step of all parameters, where there is a problem."""

    def __init__(self, name):
        super().__init__(name)
        self.G, self.changes = np.float64(self.scene.data["G"]), None
        if problem := self.problem:
            x, y = problem.x, problem.y
            self.G = np.float64(ef.per_example_gradients(problem.loss_fn, problem.params, x, y))
            theta, unravel = ravel_pytree(problem.params)
            losses = jax.jit(jax.vmap(problem.loss_fn, (None, 0, 0)))
            before = np.float64(losses(problem.params, x, y))
            self.changes = lambda delta: losses(unravel(theta + jnp.float32(delta)), x, y) - before
        self.g = self.G.mean(axis=0)


case = gallery.looks("your_model", "your_model, gradients", kind=Model)


def test_every_reading_of_the_step(case):
    """By the n × n dual."""
    scene, table, G, changes = case.scene, case.table, case.G, case.changes
    P, c, n = np.float64(scene.data["plane"]), float(scene.data["budget"]), len(G)
    K, rms, shown, ones = G @ G.T / n, c**0.5, np.asarray(scene.data["shown"]), np.ones(n)
    values = np.clip(np.linalg.eigvalsh(K)[::-1], 0, None)
    if changes is None:
        assert not {"changes", "actual", "worse"} & {*table.arrays}
        assert "loss" not in table.background
    for (relative,), at in case.states(
        *((i,) for i in range(12, 49, 4))
    ):  # ε/μ₁ that float32 sees to some digits
        epsilon = values[0] * relative
        delta = gallery.spend(G, G.T @ np.linalg.solve(K + epsilon * np.eye(n), ones), c)
        length, predicted = np.linalg.norm(delta), G @ delta
        agree(at, atol=5e-3 * length, tip=delta @ P, step=[[0, 0], delta @ P])
        agree(at, rtol=5e-3, length=length)
        agree(at, atol=0.5, inside=100 * np.linalg.norm(delta @ P) / length)
        agree(at, rtol=2e-3, predicted=predicted.mean(), kept=np.sum(values / (values + epsilon)))
        agree(at, atol=101 / n, promised_worse=100 * np.mean(predicted > 0))
        np.testing.assert_allclose(at["bars"][:, 1, 1], predicted[shown] / rms, atol=0.02)
        np.testing.assert_allclose(at["mean"][:, 1], predicted.mean() / rms, rtol=2e-3)
        np.testing.assert_allclose([*at["level"][:, 1], at["level_dot"][1]], epsilon, rtol=1e-4)
        np.testing.assert_allclose(at["kept_area"][0, 0, 1], max(values[0], epsilon), rtol=1e-3)
        if changes:
            actual = changes(delta)
            agree(at, atol=5e-4, actual=actual.mean())
            agree(at, atol=202 / n, worse=100 * np.mean(actual > 0))
            expected = np.clip(actual[shown] / rms, -12, 12)
            np.testing.assert_allclose(at["changes"][:, 1], expected, atol=0.03)
    assert (np.diff(table.arrays["kept"]) < 0).all()
    assert (np.diff(table.arrays["length"]) <= 1e-4 * table.arrays["length"][0]).all()


def test_what_stands_still(case):
    G, changes, arrays, view = case.G, case.changes, case.arrays, case.view
    P, c = np.float64(case.scene.data["plane"]), float(case.budget)
    assert (arrays["n"], arrays["p"]) == G.shape
    assert arrays["rank"] == np.linalg.matrix_rank(G, tol=1e-5 * np.linalg.norm(G, 2))
    fitted = G @ np.linalg.lstsq(G, np.ones(len(G)), rcond=None)[0]
    agree(arrays, atol=1e-3, agreement=np.mean(fitted))
    spent = gallery.cost(G, arrays["ellipse"] @ P.T)
    np.testing.assert_allclose(spent, c, rtol=2e-2)
    np.testing.assert_allclose(arrays["path"], arrays["tip"], atol=1e-3 * np.abs(arrays["tip"]).max())
    descent = gallery.spend(G, case.g, c) @ P
    agree(arrays, atol=1e-3 * np.abs(descent).max(), descent_tip=descent, descent=[[0, 0], descent])
    for row, column in ((12, 12), (3, 20), (24, 0)) if changes else ():
        place = view["reach"] * [view["grid"][column], view["grid"][row]]
        np.testing.assert_allclose(view["loss"][row, column], changes(P @ place).mean(), rtol=1e-2, atol=1e-4)


def test_examples_that_are_shown(case):
    G, shown, gain = case.G, np.asarray(case.scene.data["shown"]), -case.G @ case.g
    assert len(set(shown)) == min(36, len(G))
    assert (np.diff(gain[shown]) >= -1e-5 * np.abs(gain).max()).all()  # from the largest gain along −g
    assert np.searchsorted(np.sort(gain), gain[shown[0]]) <= len(G) / 36


@pytest.mark.parametrize(
    ("name", "plane"), [*(("wide", plane) for plane in PLANES), ("two", "steps"), ("bare", "steps")]
)
def test_the_plane(name, plane):
    problem = None if name == "bare" else gallery.problem(name)
    scene = your_model(problem, G=bare() if problem is None else None, plane=plane)
    G, P = np.float64(scene.data["G"]), np.float64(scene.data["plane"])
    g, u = G.mean(axis=0), np.linalg.pinv(G, rcond=1e-4) @ np.ones(len(G))
    np.testing.assert_allclose(P.T @ P, np.eye(2), atol=1e-5)
    if plane == "steps":
        for direction in (g, u):
            inside = np.linalg.norm(direction @ P) / np.linalg.norm(direction)
            assert inside == pytest.approx(1, abs=2e-3)
        assert -g @ P[:, 0] > 0
        assert -u @ P[:, 1] > -1e-3 * np.linalg.norm(u)
    if plane == "eigenvectors":
        values = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
        np.testing.assert_allclose(np.mean((G @ P) ** 2, axis=0), values[:2], rtol=1e-3)


def test_many_examples_are_drawn_by_seed():
    scene, other = (your_model(gallery.problem("two"), seed=seed) for seed in (0, 1))
    assert scene.data["G"].shape == (300, 2)
    assert (scene.data["G"] != other.data["G"]).any()
    assert scene.words.startswith("{n:.0f} of 455 examples, ")
