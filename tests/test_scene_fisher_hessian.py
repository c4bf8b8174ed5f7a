"""Three ellipses, over the whole table: every matrix by its closed form, in float64."""

import gallery
import numpy as np
from gallery import agree

from efisher_teach.figures.scenes.fisher_hessian import AWAY, FARTHEST, HEAD, LEAST, MOST

NAMES = ("empirical", "centred", "hessian")


case = gallery.looks("fisher_hessian", "fisher_hessian, curved")


def each(case):
    """Indices and arrays of every state, with x, y, the optimum, and the oracle's matrices at θ."""
    scene, bend = case.scene, 1 / 3 if "curved" in case.name else 0.0  # the factor of θ₁²(x² − 1)
    x, unit = np.float64(scene.data["problem"].x), np.float64(scene.data["unit"])
    square = x**2 - 1
    for index in np.ndindex(*(len(axis.values) for axis in scene.axes)):
        noise, misfit, distance = (axis.values[i] for axis, i in zip(scene.axes, index, strict=True))
        at = case.table.at(index)
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
        yield index, at, matrices, F, g, (x, y, bend, residual, optimum, theta)


def test_matrices_and_steps_in_every_state(case):
    for index, at, matrices, F, g, (x, y, _, _, optimum, theta) in each(case):
        L = np.linalg.cholesky(F)
        back = np.linalg.inv(L)
        for row, name in enumerate(NAMES):
            least, most = np.linalg.eigvalsh(back @ matrices[name] @ back.T)
            scale = 2e-3 * max(abs(least), abs(most))
            agree(at, rtol=2e-3, atol=scale, **{f"{name}_least": least, f"{name}_most": most})
            shown = np.clip([at[f"{name}_least"], at[f"{name}_most"]], LEAST, MOST)
            np.testing.assert_allclose(at[f"{name}_ends"].T, [shown, [3 - row] * 2], rtol=1e-5)
            points = at[name] @ back
            inside = np.linalg.norm(at[name], axis=-1) < 0.99 * FARTHEST
            cost = np.sum(points @ matrices[name] * points, axis=-1)
            np.testing.assert_allclose(cost[inside], 1, rtol=5e-3)
            assert inside.all() or at[f"{name}_least"] < 1.03 / FARTHEST**2

        natural, step = -np.linalg.solve(L, g), -L.T @ np.linalg.solve(matrices["empirical"], g)
        length = max(np.linalg.norm(natural), HEAD)
        near = 0.02 if index[2] == 0 else 2e-3  # near the optimum g is a small difference
        drawn = [[[0, 0], v * length / np.linalg.norm(v)] for v in (natural, step)]
        agree(at, atol=near * length, natural=drawn[0], step=drawn[1])
        agree(at, rtol=near, ratio=np.linalg.norm(step) / np.linalg.norm(natural))
        agree(at, atol=100 * near, angle=abs(gallery.turned(natural, step)))
        agree(at, rtol=1e-3, atol=1e-4, optimum=L.T @ (optimum - theta))
        variance = case.scene.axes[0].values[index[0]] ** 2
        agree(at, rtol=1e-5, variance=variance, sigma=[[variance, 0.4], [variance, 3.6]])
        agree(at, rtol=1e-4, atol=1e-4, examples=np.stack([x, y], axis=1)[:60])


def test_data_optimum_and_the_two_models(case):
    """There is no better fit elsewhere; the belief is one about the model."""
    for (_, _, far), at, *_, (x, _, bend, residual, optimum, theta) in each(case):
        edges, model = np.float64(at["model"]).T
        expected = theta[0] + theta[1] * edges + bend * theta[1] ** 2 * (edges**2 - 1)
        np.testing.assert_allclose(model, expected, atol=2e-3)
        if far:
            continue  # the optimum does not depend on where one looks
        J = np.stack([np.ones_like(x), x + 2 * bend * optimum[1] * (x**2 - 1)], axis=1)
        r = residual(optimum)
        assert np.abs(J.T @ r / len(x)).max() < 1e-4 * (1 + np.abs(r).max())
        for shift in np.mgrid[-1:1:5j, -4:4:41j].reshape(2, -1).T:
            assert np.mean(r**2) <= np.mean(residual(optimum + shift) ** 2) + 1e-6
    for array in (case.problem.x, case.scene.data["unit"]):
        np.testing.assert_allclose([np.mean(array), np.std(array)], [0, 1], atol=1e-5)
    model, belief = case.arrays["model"], case.arrays["belief"][..., 0, :, :]
    width = model.shape[-2]
    for shown, off in ((belief, 1), (belief[..., ::-1, :], -1)):
        np.testing.assert_allclose(shown[..., :width, :] - [0, off], model, rtol=1e-5, atol=1e-5)
    assert [case.table.depends[name] for name in ("examples", "best", "sigma")] == [(0, 1), (0, 1), (0,)]


def test_presets_are_what_they_say():
    scene, table = gallery.shown("fisher_hessian")
    states = (tuple(a.nearest(preset.state[a.name]) for a in scene.axes) for preset in scene.presets)
    well, little, wrong, far = map(table.at, states)
    assert 0.7 < well["empirical_least"] < well["empirical_most"] < 1.4
    assert little["empirical_most"] < 0.03
    assert little["ratio"] > 50
    assert wrong["empirical_most"] > 2 * wrong["empirical_least"]
    assert far["ratio"] < 0.3
    assert np.linalg.norm(far["empirical"], axis=-1).max() < 1
