"""Noise and curvature: C by quadrature, the cloud by the exact recursion of its moments, the gap by fits of its own."""

import gallery
import numpy as np
from gallery import agree
from scipy.linalg import solve_continuous_lyapunov

from efisher_teach.figures.scenes.noise_and_curvature import EXAMPLES, RATE, RUNS, SHOWN, SPREAD

case = gallery.looks("noise_and_curvature")
X, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
A, BENT, WEIGHTS = np.stack([np.ones_like(X), X], axis=1), (X**2 - 1) / 2, WEIGHTS / WEIGHTS.sum()


def mean(values):
    return np.tensordot(WEIGHTS, values, 1)


def outer(a):
    return a[:, :, None] * a[:, None, :]


def each(case):
    """Every state: its numbers, C by quadrature, and what the axes say."""
    for (noise, misfit, batch), at in case.states():
        yield at, mean((misfit**2 * BENT**2 + noise**2)[:, None, None] * outer(A)), misfit, batch


def settled(C, batch):
    """The covariance that SGD has in the end, exactly: S = E[(I − ηĤ)S(I − ηĤ)] + η²C/B."""
    one, fourth = np.eye(2), mean(np.einsum("ni,nj,nk,nl->nijkl", A, A, A, A))
    # E[ĤSĤ] − S, as a map of S (S between j and k)
    twice = (fourth - np.einsum("ij,kl->ijkl", one, one)) / batch
    move = (1 - RATE) ** 2 * np.eye(4) + RATE**2 * np.einsum("ijkl->iljk", twice).reshape(4, 4)
    return np.linalg.solve(np.eye(4) - move, (RATE**2 / batch * C).ravel()).reshape(2, 2)


def test_predictions_are_those_of_the_matrices(case):
    H = mean(outer(A))
    np.testing.assert_allclose(H, np.eye(2), atol=1e-12)
    for at, C, misfit, batch in each(case):
        for name, matrix in (("predicted", C), ("believed", H)):
            S = solve_continuous_lyapunov(H, RATE / batch * matrix)
            points = np.float64(at[name])
            on_it = np.sum(points @ np.linalg.inv(S) * points, axis=1)
            np.testing.assert_allclose(on_it, SPREAD**2, rtol=1e-4)
            agree(at, rtol=1e-4, **{f"{name}_excess": np.trace(H @ S) / 2})
        curve = np.float64(at["curvature"])
        np.testing.assert_allclose(np.sum(curve @ C * curve, axis=1) / 2, 0.5, rtol=1e-4)
        eigenvalues = np.linalg.eigvalsh(np.linalg.solve(H, C))
        agree(at, rtol=1e-4, least=eigenvalues[0], most=eigenvalues[1])
        takeuchi = np.trace(np.linalg.solve(H, C)) / EXAMPLES
        agree(at, rtol=1e-4, takeuchi=takeuchi, here=[misfit, at["gap_here"]])
        shown = np.interp(misfit, *np.float64(at["gap"]).T), np.interp(misfit, *np.float64(at["measured"]).T)
        np.testing.assert_allclose(shown, [takeuchi, at["gap_here"]], rtol=1e-4)


def test_the_cloud_is_that_of_sgd(case):
    """Its mean square is the one that the recursion has, up to the luck of the draw."""
    for at, C, _, batch in each(case):
        S, cloud = settled(C, batch), np.float64(at["cloud"])
        assert cloud.shape == (SHOWN, 2)
        np.testing.assert_allclose(at["excess"], np.trace(S) / 2, rtol=8 / np.sqrt(RUNS))
        np.testing.assert_allclose(np.mean(cloud**2, axis=0), np.diag(S), rtol=10 / np.sqrt(SHOWN))
        np.testing.assert_allclose(cloud.mean(axis=0), 0, atol=4.5 * np.sqrt(S.max() / SHOWN))
        assert 100 * (1 - np.exp(-2)) - 6 < at["inside"] < 100 * (1 - np.exp(-2)) + 3
    ends = np.float64(case.scene.data["ends"])
    for b, batch in enumerate(case.scene.axes[2].values):
        for part, C in enumerate((mean(BENT[:, None, None] ** 2 * outer(A)), np.eye(2))):
            found, S = ends[b, :, part].T @ ends[b, :, part] / RUNS, settled(C, batch)
            np.testing.assert_allclose(found, S, atol=0.12 * S.max())


def test_the_gap_is_that_of_fits(case):
    """Fits to other training sets: their mean gap, and its scatter, within four standard errors."""
    x, e = np.random.default_rng(11).normal(size=(2, 1000, EXAMPLES))
    design = np.stack([np.ones_like(x), x], axis=-1)
    places = (0, 0), (0, 5), (2, 2), (5, 0), (5, 5), (3, 4)
    for (noise, misfit, _), at in case.states(*((i, j, 0) for i, j in places)):
        r = misfit * (x**2 - 1) / 2 + noise * e
        d = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(design, r, strict=True)])
        seen = np.mean((r - np.einsum("rni,ri->rn", design, d)) ** 2, axis=1) / 2
        least = (misfit**2 / 2 + noise**2) / 2
        new, luck = least + np.sum(d**2, axis=1) / 2, np.mean(r**2, axis=1) / 2 - least  # 0 on average
        gaps = new - seen + luck
        np.testing.assert_allclose(at["gap_here"], gaps.mean(), atol=6 * gaps.std() / np.sqrt(len(gaps)))
        np.testing.assert_allclose(at["scatter"], (new - seen).std(), rtol=0.15)


def test_each_matrix_has_one_job(case):
    """C says where SGD ends and how large the gap is, within a quarter; F does so only where it is C."""
    for at, C, *_ in each(case):
        for said, found in (("predicted_excess", "excess"), ("takeuchi", "gap_here")):
            assert abs(at[said] / at[found] - 1) < 0.25
        apart = abs(np.trace(C) / 2 - 1)
        if apart > 0.5:
            assert abs(0.02 / at["gap_here"] - 1) > 0.25
            assert abs(at["believed_excess"] / at["excess"] - 1) > 0.25
