"""Damping, over the whole table: each ε against a ridge regression in float64, and what is monotone."""

import gallery
import numpy as np
import oracles
from gallery import agree

# Of ε, and of the unit and the power of the spectrum: as it is, and dragged.
PLACES = [*((i, 3, 2) for i in (5, 19, 33, 40)), (20, 0, 2), (30, 4, 0), (15, 3, 1), (25, 1, 3)]
case = gallery.looks("damping", "damping, two")


def units(G, scale, power):
    """M (p, p), which gives C the eigenvalues sμ₁(μ/μ₁)ᵗ: of features xM, and of ψ where θ = Mψ."""
    values, V = np.linalg.eigh(G.T @ G / len(G))
    seen, share = values > 1e-10 * values[-1], np.abs(values) / values[-1]
    return V * np.where(seen, np.sqrt(scale * share ** (power - 1)), 1) @ V.T


def test_every_reading_of_the_step(case):
    """With a spectrum that is dragged: the same losses, and MCM in the place of C."""
    c, plane, rms, undamped = case.budget, case.plane(), np.sqrt(case.budget), oracles.direction(case.G, 0.0)
    for (epsilon, scale, power), at in case.states(*PLACES):
        M = units(case.G, scale, power)
        own, x, x_test = case.problem, np.float64(case.problem.x) @ M, np.float64(case.problem.x_test) @ M
        problem = own._replace(params=np.linalg.solve(M, np.float64(own.params)), x=x, x_test=x_test)
        G, held_out = gallery.gradients(problem), problem._replace(x=problem.x_test, y=problem.y_test)
        eigenvalues = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
        u = oracles.direction(G, epsilon)
        delta = gallery.spend(G, u, c)
        length, kept = np.linalg.norm(delta), eigenvalues / (eigenvalues + epsilon)
        true, unseen = gallery.changes(problem, delta), gallery.changes(held_out, delta).mean()
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        agree(at, rtol=3e-3, length=length, length_dot=[epsilon, length])
        constant = np.sqrt(c / (case.g @ undamped)) * np.linalg.norm(u)  # of η = √(c/ρ)
        agree(at, rtol=3e-3, constant_length=constant, constant_dot=[epsilon, constant])
        agree(at, rtol=3e-3, bound=np.sqrt(c / epsilon) / 2)
        seen, descent = M @ delta, gallery.spend(case.G, M @ M @ case.g, c)
        agree(at, rtol=1e-2, shadow=gallery.cost(case.G, plane @ (plane.T @ seen)) / c)
        agree(at, atol=2e-4, actual=true.mean(), unseen=unseen, predicted=np.mean(G @ delta))
        atol = 6e-3 * np.linalg.norm(seen)
        agree(at, atol=atol, step=[[0, 0], seen @ plane], descent=[[0, 0], descent @ plane])
        agree(at, rtol=1e-2, atol=1e-4, kept=np.stack([eigenvalues, kept], axis=1))
        some = eigenvalues > 1e-9 * eigenvalues[0]
        agree(at, rtol=1e-2, atol=1e-2, kept_least=100 * kept[some].min(), kept_most=100 * kept.max())
        agree(at, rtol=5e-3, least=eigenvalues[some].min(), most=eigenvalues[0])
        agree(at, atol=101 / len(G), worse=100 * np.mean(true > 0))
        shown = len(at["bars"])
        np.testing.assert_allclose(at["bars"][:, 1, 1], (G @ delta)[:shown] / rms, rtol=3e-3, atol=3e-3)
        np.testing.assert_allclose(at["changes"][:, 1], true[:shown] / rms, rtol=3e-3, atol=1e-2)
        for name, data, number in (("true", problem, "actual"), ("held_out", held_out, "unseen")):
            far = gallery.changes(data, 2 * delta).mean()
            np.testing.assert_allclose(at[name][[8, 16]], [[1, at[number]], [2, far]], rtol=1e-3, atol=4e-4)
        np.testing.assert_allclose(at["promised"], np.outer(at["promised"][:, 0], [1, at["predicted"]]))
        tip = gallery.spend(case.G, undamped, c) @ plane
        agree(at, atol=1e-2 * np.abs(tip).max(), undamped=[[0, 0], tip])
    np.testing.assert_allclose(gallery.cost(case.G, case.arrays["ellipse"] @ plane.T), c, rtol=1e-2)


def test_curves_over_all_dampings_pass_through_their_dots(case):
    arrays, (dampings, scales, _) = case.arrays, (axis.values for axis in case.scene.axes)
    for curve, dot in (("lengths", "length_dot"), ("constant_lengths", "constant_dot")):
        np.testing.assert_allclose(arrays[curve], np.moveaxis(arrays[dot], 0, 2), rtol=1e-3)
    np.testing.assert_allclose(arrays["bounds"][:, 1], arrays["bound"], rtol=1e-3)
    for j, scale in enumerate(scales):  # of s times C, the step at ε is that of C at ε/s
        places = 1 + np.rint(5 * np.log10(dampings / scale / 1e-8)).astype(int)
        np.testing.assert_array_equal(
            arrays["path"][:, places], np.moveaxis(arrays["step"][:, j, :, 1], 0, 1)
        )
    for i, epsilon in enumerate(dampings):
        values, kept = arrays["filter"][i].T
        np.testing.assert_allclose(kept, values / (values + epsilon), rtol=1e-5)
    np.testing.assert_allclose(arrays["half"][:, 1, 0], dampings, rtol=1e-5)


def test_bound_and_what_is_monotone_in_damping(case):
    arrays = case.arrays
    # A constant η: bounded whatever the spectrum. An enforced c: not at a large ε, the less the smaller C is.
    assert (arrays["constant_length"] <= arrays["bound"][:, None, None] * (1 + 1e-5)).all()
    assert case.table.depends["bound"] == (0,)
    assert (arrays["length"][-1, :4] > 2 * arrays["bound"][-1]).all()  # up to C itself
    assert (np.diff(arrays["length"][..., 2], axis=1) < 0).all()
    shadow = arrays["shadow"][..., 2]
    assert (shadow > 1 - 1e-3).all() if len(case.g) > 2 else np.allclose(shadow, 1, rtol=1e-2)
    for name, sign in (("length", -1), ("predicted", 1), ("kept_least", -1)):
        assert (np.diff(arrays[name], axis=0) * sign >= -1e-4 * np.abs(arrays[name]).max()).all(), name


def test_where_all_eigenvalues_are_alike_every_damping_gives_the_same_step(case):
    """And the more they differ, the more of the promise a damping of a given share of the largest takes."""
    arrays = case.arrays
    alike = arrays["step"][:, :, 0, 1]
    np.testing.assert_allclose(alike, np.broadcast_to(arrays["undamped"][0, 1], alike.shape), rtol=1e-3)
    assert (np.diff(arrays["predicted"][28, 3]) > 1e-7).all()
