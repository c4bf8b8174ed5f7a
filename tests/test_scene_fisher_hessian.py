"""Three ellipses, over the whole table: every matrix by its closed form, in float64."""

import numpy as np
import pytest

from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.fisher_hessian import AWAY, FARTHEST, HEAD, LEAST, MOST, fisher_hessian

NAMES = ("empirical", "centred", "hessian")


@pytest.fixture(params=["linear", "curved"], scope="module")
def case(request):
    """The scene, its table, and how much the model bends: the factor of θ₁²(x² − 1)."""
    scene = fisher_hessian(model=request.param, seed=3)
    return scene, scenes.tabulate(scene), 0.0 if request.param == "linear" else 1 / 3


def each(case):
    """Indices and arrays of every state, with x, y, the optimum, and the oracle's matrices at θ."""
    scene, table, bend = case
    x, unit = np.float64(scene.data["problem"].x), np.float64(scene.data["unit"])
    square = x**2 - 1
    for index in np.ndindex(*(len(axis.values) for axis in scene.axes)):
        noise, misfit, distance = (axis.values[i] for axis, i in zip(scene.axes, index, strict=True))
        at = table.at(index)
        (low, start), (high, end) = np.float64(at["best"][[0, -1]])
        optimum = np.array([0, (end - start) / (high - low)])  # the bend is the same at both ends
        optimum[0] = (start + end) / 2 - bend * optimum[1] ** 2 * (high**2 - 1)
        theta = optimum + distance * np.array(AWAY)
        y = x + bend * square + misfit * square / 2 + noise * unit

        def residual(params, y=y):
            return y - params[0] - params[1] * x - bend * params[1] ** 2 * square

        J = np.stack([np.ones_like(x), x + 2 * bend * theta[1] * square], axis=1)
        r = residual(theta)
        G, F = -r[:, None] * J, J.T @ J / len(x)
        g, C = G.mean(axis=0), G.T @ G / len(x)
        H = F - np.mean(r * square) * np.diag([0, 2 * bend])
        matrices = {"empirical": C, "centred": C - np.outer(g, g), "hessian": H}
        yield index, at, matrices, F, g, (residual, optimum, theta)


def test_generalised_eigenvalues(case):
    for index, at, matrices, F, *_ in each(case):
        inverse = np.linalg.inv(np.linalg.cholesky(F))
        for row, name in enumerate(NAMES):
            least, most = np.linalg.eigvalsh(inverse @ matrices[name] @ inverse.T)
            scale = 2e-3 * max(abs(least), abs(most))
            assert at[f"{name}_least"] == pytest.approx(least, abs=scale, rel=2e-3), (name, index)
            assert at[f"{name}_most"] == pytest.approx(most, abs=scale), (name, index)
            shown = np.clip([at[f"{name}_least"], at[f"{name}_most"]], LEAST, MOST)
            np.testing.assert_allclose(at[f"{name}_ends"].T, [shown, [3 - row] * 2], rtol=1e-5)


def test_ellipses(case):
    for _, at, matrices, F, *_ in each(case):
        back = np.linalg.inv(np.linalg.cholesky(F))
        for name in NAMES:
            points = at[name] @ back
            cost = np.sum(points @ matrices[name] * points, axis=-1)
            inside = np.linalg.norm(at[name], axis=-1) < 0.99 * FARTHEST
            np.testing.assert_allclose(cost[inside], 1, rtol=5e-3)
            assert inside.all() or at[f"{name}_least"] < 1.03 / FARTHEST**2


def test_steps(case):
    for index, at, matrices, F, g, *_ in each(case):
        L = np.linalg.cholesky(F)
        natural, step = -np.linalg.solve(L, g), -L.T @ np.linalg.solve(matrices["empirical"], g)
        length = max(np.linalg.norm(natural), HEAD)
        near = 0.02 if index[2] == 0 else 2e-3  # near the optimum g is a small difference
        for name, v in (("natural", natural), ("step", step)):
            np.testing.assert_allclose(at[name][1], v * length / np.linalg.norm(v), atol=near * length)
        assert at["ratio"] == pytest.approx(np.linalg.norm(step) / np.linalg.norm(natural), rel=near)
        cosine = natural @ step / np.linalg.norm(natural) / np.linalg.norm(step)
        assert at["angle"] == pytest.approx(np.degrees(np.arccos(min(1, cosine))), abs=100 * near)


def test_optimum_is_one(case):
    scene, _, bend = case
    for (_, _, far), at, _, F, _, (residual, optimum, theta) in each(case):
        expected = np.linalg.cholesky(F).T @ (optimum - theta)
        np.testing.assert_allclose(at["optimum"], expected, rtol=1e-3, atol=1e-4)
        if far:
            continue  # it does not depend on where one looks
        x = np.float64(scene.data["problem"].x)
        J = np.stack([np.ones_like(x), x + 2 * bend * optimum[1] * (x**2 - 1)], axis=1)
        r = residual(optimum)
        assert np.abs(J.T @ r / len(x)).max() < 1e-4 * (1 + np.abs(r).max())
        for shift in np.mgrid[-1:1:5j, -4:4:41j].reshape(2, -1).T:  # there is no better fit elsewhere
            assert np.mean(r**2) <= np.mean(residual(optimum + shift) ** 2) + 1e-6


def test_line_has_the_fisher_for_a_hessian_and_the_natural_gradient_lands(case):
    _, table, bend = case
    least, most = table.arrays["hessian_least"], table.arrays["hessian_most"]
    lands = np.abs(table.arrays["natural"][:, :, 1:, 1] - table.arrays["optimum"][..., 1:, :]).max()
    if bend:
        assert least.min() < 0 < least.max()  # far from the optimum the loss may bend downwards
        assert lands > 0.5
    else:
        np.testing.assert_allclose([least, most], 1, rtol=1e-4)
        assert lands < 1e-3


def test_empirical_fisher_is_the_variance_times_the_fisher():
    """At the optimum of a well-specified line, n = 20000: within 4 % of σ²F, and the step is 1/σ² times too long."""
    scene = fisher_hessian(n=20000)
    values = (np.array([0.1, 0.5, 1, 2]), np.array([0.0]), np.array([1e-3]))
    axes = tuple(axis._replace(values=v) for axis, v in zip(scene.axes, values, strict=True))
    arrays = scenes.tabulate(scene._replace(axes=axes)).arrays
    for i, noise in enumerate(values[0]):
        for end in ("empirical_least", "empirical_most"):
            assert arrays[end][i, 0, 0] == pytest.approx(noise**2, rel=0.04)
        assert arrays["ratio"][i, 0, 0] == pytest.approx(1 / noise**2, rel=0.04)
        assert arrays["variance"][i] == pytest.approx(noise**2)


def test_belief_is_one_about_the_model(case):
    _, table, _ = case
    model, belief = table.arrays["model"], table.arrays["belief"][..., 0, :, :]
    width = model.shape[-2]
    np.testing.assert_allclose(belief[..., :width, 1], model[..., 1] + 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(belief[..., ::-1, :][..., :width, 1], model[..., 1] - 1, rtol=1e-5, atol=1e-5)
    assert [table.depends[name] for name in ("examples", "best", "sigma")] == [(0, 1), (0, 1), (0,)]


def test_presets_are_what_they_say(case):
    scene, table, bend = case
    states = (tuple(a.nearest(preset.state[a.name]) for a in scene.axes) for preset in scene.presets)
    well, little, wrong, far = map(table.at, states)
    assert 0.7 < well["empirical_least"] < well["empirical_most"] < 1.4
    assert little["empirical_most"] < 0.03
    assert little["ratio"] > 50
    assert wrong["empirical_most"] > (1.5 if bend else 2) * wrong["empirical_least"]
    assert far["ratio"] < 0.3
    assert np.linalg.norm(far["empirical"], axis=-1).max() < 1
