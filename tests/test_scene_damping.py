"""Damping, over the whole table: each ε against a ridge regression in float64, and what is monotone."""

import gallery
import numpy as np
import oracles
import pytest


@pytest.fixture(params=gallery.cases("damping", "damping, two"))
def case(request):
    """A scene, its table, and G in float64."""
    scene, table = gallery.shown(request.param)
    return scene, table, gallery.gradients(scene.data["problem"])


def test_every_reading_of_the_step(case):
    scene, table, G = case
    problem, c, dampings = scene.data["problem"], scene.data["budget"], scene.axes[0].values
    g, undamped = G.mean(axis=0), oracles.direction(G, 0.0)
    eigenvalues, rms, rho = np.linalg.svd(G, compute_uv=False) ** 2 / len(G), np.sqrt(c), g @ undamped
    held_out = problem._replace(x=problem.x_test, y=problem.y_test)
    along = -g / np.linalg.norm(g)
    across = -undamped + along * (along @ undamped)
    plane = np.stack([along, across / np.linalg.norm(across)], axis=1)
    for i in range(20, 161, 28):
        epsilon, at = dampings[i], table.at((i,))
        u = oracles.direction(G, epsilon)
        delta, rate, kept = (
            gallery.spend(G, u, c),
            np.sqrt(c / gallery.cost(G, u)),
            eigenvalues / (eigenvalues + epsilon),
        )
        true, unseen = gallery.changes(problem, delta), gallery.changes(held_out, delta).mean()
        far, far_unseen = (
            gallery.changes(problem, 2 * delta).mean(),
            gallery.changes(held_out, 2 * delta).mean(),
        )
        naive, constant = gallery.cost(G, u) / (g @ u), gallery.cost(G, u) / rho
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        expected = {
            "length": np.linalg.norm(delta), "length_dot": [epsilon, np.linalg.norm(delta)],
            "bound": rate * np.sqrt(rho / epsilon) / 2,
            "cost": rms, "naive_spent": 100 * naive, "constant_spent": 100 * constant,
            "spent": np.stack([[epsilon] * 3, [1, naive, constant]], axis=1),
        }  # fmt: skip
        gallery.agree(at, expected, rtol=4e-3)
        expected = {
            "predicted": np.mean(G @ delta), "promised_dot": [1, np.mean(G @ delta)],
            "actual": true.mean(), "true_dot": [1, true.mean()], "unseen": unseen, "held_out_dot": [1, unseen],
        }  # fmt: skip
        gallery.agree(at, expected, atol=2e-4)
        ends = {"promised": 2 * np.mean(G @ delta), "true": far, "held_out": far_unseen}
        gallery.agree({name: at[name][-1, 1] for name in ends}, ends, atol=4e-4)
        gallery.agree(at, {"step": [[0, 0], delta @ plane]}, atol=6e-3 * np.linalg.norm(delta))
        gallery.agree(
            at, {"kept_least": 100 * kept.min(), "kept_most": 100 * kept.max()}, rtol=1e-2, atol=1e-2
        )
        gallery.agree(at, {"kept": np.stack([eigenvalues, kept], axis=1)}, rtol=1e-2, atol=1e-4)
        gallery.agree(
            at, {"turn": abs(np.degrees(np.arccos(min(1, along @ delta / np.linalg.norm(delta)))))}, atol=0.2
        )
        assert abs(at["worse"] - 100 * np.mean(true > 0)) <= 101 / len(G)
        shown = len(at["bars"])
        np.testing.assert_allclose(at["bars"][:, 1, 1], (G @ delta)[:shown] / rms, rtol=3e-3, atol=3e-3)
        np.testing.assert_allclose(at["changes"][:, 1], true[:shown] / rms, rtol=3e-3, atol=1e-2)
    ends = {
        "undamped": [[0, 0], gallery.spend(G, undamped, c) @ plane],
        "descent": [[0, 0], gallery.spend(G, g, c) @ plane],
    }
    gallery.agree(table.arrays, ends, rtol=1e-2, atol=1e-2 * np.abs(ends["undamped"]).max())
    np.testing.assert_allclose(gallery.cost(G, table.arrays["ellipse"] @ plane.T), c, rtol=1e-2)


def test_curves_over_all_dampings_pass_through_their_dots(case):
    scene, table, _ = case
    arrays = table.arrays
    np.testing.assert_allclose(arrays["lengths"], arrays["length_dot"], rtol=1e-3)
    np.testing.assert_allclose(arrays["bounds"][:, 1], arrays["bound"], rtol=1e-3)
    np.testing.assert_allclose(arrays["path"], arrays["step"][:, 1], atol=1e-3 * np.abs(arrays["path"]).max())
    for row, name in enumerate(("exact", "naive", "constant")):
        np.testing.assert_allclose(arrays[name], arrays["spent"][:, row], rtol=1e-3)
    for i, epsilon in enumerate(scene.axes[0].values):
        values, kept = arrays["filter"][i].T
        np.testing.assert_allclose(kept, values / (values + epsilon), rtol=1e-5)
    np.testing.assert_allclose(arrays["half"][:, 1, 0], scene.axes[0].values, rtol=1e-5)


def test_bound_and_what_is_monotone_in_damping(case):
    arrays = case[1].arrays
    assert (arrays["length"] <= arrays["bound"] * (1 + 1e-5)).all()
    for name, sign in (("length", -1), ("turn", -1), ("predicted", 1), ("kept_least", -1)):
        slack = 1e-3 if name == "turn" else 1e-4  # an angle near 0 is the root of a rounding error
        assert (np.diff(arrays[name]) * sign >= -slack * np.abs(arrays[name]).max()).all(), name
