"""Damping, over the whole table: each ε against a ridge regression in float64, and what is monotone."""

import gallery
import numpy as np
import oracles
from gallery import agree

case = gallery.looks("damping", "damping, two")


def test_every_reading_of_the_step(case):
    problem, c, G, g, plane = case.problem, case.budget, case.G, case.g, case.plane()
    eigenvalues, rms, undamped = (
        np.linalg.svd(G, compute_uv=False) ** 2 / len(G),
        np.sqrt(c),
        oracles.direction(G, 0.0),
    )
    rho, held_out = g @ undamped, problem._replace(x=problem.x_test, y=problem.y_test)
    for i in range(20, 161, 28):
        epsilon, at = case.scene.axes[0].values[i], case.table.at((i,))
        u = oracles.direction(G, epsilon)
        delta = gallery.spend(G, u, c)
        length, kept = np.linalg.norm(delta), eigenvalues / (eigenvalues + epsilon)
        true, unseen = gallery.changes(problem, delta), gallery.changes(held_out, delta).mean()
        naive, constant = gallery.cost(G, u) / (g @ u), gallery.cost(G, u) / rho
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        agree(at, rtol=3e-3, length=length, length_dot=[epsilon, length])
        agree(at, rtol=3e-3, bound=np.sqrt(c / epsilon) / 2)  # of the constant η = √(c/ρ)
        constant_length = np.sqrt(c / rho) * np.linalg.norm(u)
        agree(at, rtol=3e-3, constant_length=constant_length, constant_dot=[epsilon, constant_length])
        agree(at, rtol=1e-2, shadow=gallery.cost(G, plane @ (plane.T @ delta)) / c)
        agree(at, rtol=3e-3, naive_spent=100 * naive, constant_spent=100 * constant)
        agree(at, rtol=3e-3, spent=np.stack([[epsilon] * 3, [1, naive, constant]], axis=1))
        agree(at, atol=2e-4, actual=true.mean(), unseen=unseen, predicted=np.mean(G @ delta))
        agree(at, atol=6e-3 * length, step=[[0, 0], delta @ plane])
        agree(at, rtol=1e-2, atol=1e-4, kept=np.stack([eigenvalues, kept], axis=1))
        agree(at, rtol=1e-2, atol=1e-2, kept_least=100 * kept.min(), kept_most=100 * kept.max())
        agree(at, atol=0.2, turn=np.degrees(np.arccos(min(1, plane[:, 0] @ delta / length))))
        agree(at, atol=101 / len(G), worse=100 * np.mean(true > 0))
        shown = len(at["bars"])
        np.testing.assert_allclose(at["bars"][:, 1, 1], (G @ delta)[:shown] / rms, rtol=3e-3, atol=3e-3)
        np.testing.assert_allclose(at["changes"][:, 1], true[:shown] / rms, rtol=3e-3, atol=1e-2)
        for name, data, number in (("true", problem, "actual"), ("held_out", held_out, "unseen")):
            np.testing.assert_allclose(at[f"{name}_dot"], [1, at[number]])
            far = gallery.changes(data, 2 * delta).mean()
            np.testing.assert_allclose(at[name][[12, 24]], [[1, at[number]], [2, far]], rtol=1e-3, atol=4e-4)
        np.testing.assert_allclose(at["promised"], np.outer(at["promised"][:, 0], [1, at["predicted"]]))
        np.testing.assert_allclose(at["promised_dot"], [1, at["predicted"]])
    undamped, descent = (gallery.spend(G, v, c) @ plane for v in (undamped, g))
    scale = np.abs(undamped).max()
    agree(case.arrays, atol=1e-2 * scale, undamped=[[0, 0], undamped], descent=[[0, 0], descent])
    np.testing.assert_allclose(case.arrays["cost"] ** 2, c, rtol=1e-5)
    np.testing.assert_allclose(gallery.cost(G, case.arrays["ellipse"] @ plane.T), c, rtol=1e-2)


def test_curves_over_all_dampings_pass_through_their_dots(case):
    arrays, dampings = case.arrays, case.scene.axes[0].values
    np.testing.assert_allclose(arrays["lengths"], arrays["length_dot"], rtol=1e-3)
    np.testing.assert_allclose(arrays["bounds"][:, 1], arrays["bound"], rtol=1e-3)
    np.testing.assert_allclose(arrays["constant_lengths"], arrays["constant_dot"], rtol=1e-3)
    np.testing.assert_allclose(arrays["path"], arrays["step"][:, 1], atol=1e-3 * np.abs(arrays["path"]).max())
    for row, name in enumerate(("exact", "naive", "constant")):
        np.testing.assert_allclose(arrays[name], arrays["spent"][:, row], rtol=1e-3)
    for i, epsilon in enumerate(dampings):
        values, kept = arrays["filter"][i].T
        np.testing.assert_allclose(kept, values / (values + epsilon), rtol=1e-5)
    np.testing.assert_allclose(arrays["half"][:, 1, 0], dampings, rtol=1e-5)


def test_bound_and_what_is_monotone_in_damping(case):
    arrays = case.arrays
    assert (arrays["constant_length"] <= arrays["bound"] * (1 + 1e-5)).all()
    assert arrays["length"][-1] > 2 * arrays["bound"][-1]  # a budget that is enforced knows no such bound
    assert (
        (arrays["shadow"] > 1 - 1e-3).all()
        if len(case.g) > 2
        else np.allclose(arrays["shadow"], 1, rtol=1e-2)
    )
    for name, sign in (("length", -1), ("turn", -1), ("predicted", 1), ("kept_least", -1)):
        slack = 1e-3 if name == "turn" else 1e-4  # an angle near 0 is the root of a rounding error
        assert (np.diff(arrays[name]) * sign >= -slack * np.abs(arrays[name]).max()).all(), name
