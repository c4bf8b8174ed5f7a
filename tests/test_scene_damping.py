"""Damping, over the whole table: each ε against a ridge regression in float64, and what is monotone."""

import gallery
import numpy as np
import oracles
from gallery import agree

case = gallery.looks("damping", "damping, two")


def test_every_reading_of_the_step(case):
    """With features √s times as large and θ as much smaller: the same losses, and s times C."""
    c, plane, axes, rms = case.budget, case.plane(), case.scene.axes, np.sqrt(case.budget)
    undamped = oracles.direction(case.G, 0.0)
    rho = case.g @ undamped
    for i, j in ((10, 6), (24, 6), (38, 6), (52, 6), (66, 6), (80, 6), (40, 0), (60, 3), (30, 8)):
        epsilon, times, at = axes[0].values[i], axes[1].values[j], case.table.at((i, j))
        unit, own = np.sqrt(times), case.problem
        x, x_test = np.float64(own.x) * unit, np.float64(own.x_test) * unit
        problem = own._replace(params=np.float64(own.params) / unit, x=x, x_test=x_test)
        G, held_out = gallery.gradients(problem), problem._replace(x=problem.x_test, y=problem.y_test)
        eigenvalues = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
        u = oracles.direction(G, epsilon)
        delta = gallery.spend(G, u, c)
        length, kept = np.linalg.norm(delta), eigenvalues / (eigenvalues + epsilon)
        true, unseen = gallery.changes(problem, delta), gallery.changes(held_out, delta).mean()
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        agree(at, rtol=3e-3, length=length, length_dot=[epsilon, length])
        agree(at, rtol=3e-3, bound=np.sqrt(c / epsilon) / 2)  # of the constant η = √(c/ρ)
        constant_length = np.sqrt(c / rho) * np.linalg.norm(u)
        agree(at, rtol=3e-3, constant_length=constant_length, constant_dot=[epsilon, constant_length])
        agree(at, rtol=1e-2, shadow=gallery.cost(G, plane @ (plane.T @ delta)) / c)
        agree(at, atol=2e-4, actual=true.mean(), unseen=unseen, predicted=np.mean(G @ delta))
        agree(at, atol=6e-3 * length * unit, step=[[0, 0], unit * delta @ plane])
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
    undamped, descent = (gallery.spend(case.G, v, c) @ plane for v in (undamped, case.g))
    scale = np.abs(undamped).max()
    agree(case.arrays, atol=1e-2 * scale, undamped=[[0, 0], undamped], descent=[[0, 0], descent])
    np.testing.assert_allclose(case.arrays["cost"] ** 2, c, rtol=1e-5)
    np.testing.assert_allclose(gallery.cost(case.G, case.arrays["ellipse"] @ plane.T), c, rtol=1e-2)


def test_curves_over_all_dampings_pass_through_their_dots(case):
    arrays, dampings = case.arrays, case.scene.axes[0].values
    for curve, dot in (("lengths", "length_dot"), ("constant_lengths", "constant_dot")):
        np.testing.assert_allclose(arrays[curve], arrays[dot].swapaxes(0, 1), rtol=1e-3)
    np.testing.assert_allclose(arrays["bounds"][:, 1], arrays["bound"], rtol=1e-3)
    tips = arrays["step"][:, case.scene.axes[1].nearest(1), 1]
    np.testing.assert_allclose(arrays["path"], tips, atol=1e-3 * np.abs(arrays["path"]).max())
    for i, epsilon in enumerate(dampings):
        values, kept = arrays["filter"][i].T
        np.testing.assert_allclose(kept, values / (values + epsilon), rtol=1e-5)
    np.testing.assert_allclose(arrays["half"][:, 1, 0], dampings, rtol=1e-5)


def test_bound_and_what_is_monotone_in_damping(case):
    arrays = case.arrays
    # A constant η: bounded whatever the spectrum. An enforced c: not at a large ε, the less the smaller C is.
    assert (arrays["constant_length"] <= arrays["bound"][:, None] * (1 + 1e-5)).all()
    assert case.table.depends["bound"] == (0,)
    assert (arrays["length"][-1, :7] > 2 * arrays["bound"][-1]).all()  # up to C itself
    assert (np.diff(arrays["length"], axis=1) < 0).all()
    shadow = arrays["shadow"]
    assert (shadow > 1 - 1e-3).all() if len(case.g) > 2 else np.allclose(shadow, 1, rtol=1e-2)
    for name, sign in (("length", -1), ("turn", -1), ("predicted", 1), ("kept_least", -1)):
        slack = 1e-3 if name == "turn" else 1e-4  # an angle near 0 is the root of a rounding error
        assert (np.diff(arrays[name], axis=0) * sign >= -slack * np.abs(arrays[name]).max()).all(), name
