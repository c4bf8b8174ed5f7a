"""The split, over the whole table, and Gauss-Newton by second differences of a loss that is really split."""

import gallery
import numpy as np
from gallery import agree
from scipy.special import beta, betainc

from efisher_teach.figures.scenes.fisher_hessian import FARTHEST, POINTS, SHOWN

case = gallery.looks("fisher_hessian", "fisher_hessian, drawn")


def inner(z, s):
    """The integral of (4t(1 − t))ˢ/(t(1 − t)) from ½ to q: the inner function as an incomplete beta function."""
    return z if s == 0 else 4**s * beta(s, s) * (betainc(s, s, 1 / (1 + np.exp(-z))) - 0.5)


def test_matrices_weights_and_places_in_every_state(case):
    x, y = np.float64(case.problem.x), np.float64(case.problem.y)
    for (s, scale), at in case.states():
        z = x @ (scale * np.float64(case.problem.params))
        q = 1 / (1 + np.exp(-z))
        p = np.where(y == 1, q, 1 - q)
        weights = {"fisher": q * (1 - q), "empirical": (q - y) ** 2}
        weights["split"] = (1 - s) * weights["fisher"] + s * weights["empirical"]
        F, C, M = ((x.T * w) @ x / len(x) for w in weights.values())
        back = np.linalg.inv(np.linalg.cholesky(F))
        for found, matrix, name in (("split_matrix", M, ""), ("empirical", C, "empirical_")):
            least, most = np.linalg.eigvalsh(back @ matrix @ back.T)
            agree(at, rtol=2e-3, **{f"{name}least": least, f"{name}most": most})
            points = at[found] @ back
            np.testing.assert_allclose(np.sum(points @ matrix * points, axis=1), 1, rtol=2e-3)
        agree(at, rtol=1e-4, atol=1e-6, examples=np.stack([p, weights["split"]], axis=1)[:SHOWN])
        unlikely = p < 0.5 - 1e-7
        shares = {name: 100 * w[unlikely].sum() / w.sum() for name, w in weights.items()}
        agree(at, atol=2e-2, wrong=100 * unlikely.mean(), share=shares["split"])
        agree(at, atol=2e-2, fisher_share=shares["fisher"], empirical_share=shares["empirical"])
        seen = np.abs(z[:SHOWN]) < FARTHEST  # beyond it p is 1 but for its last digits
        losses = np.stack([inner(np.where(y == 1, z, -z), s), -np.log(p)], axis=1)[:SHOWN]
        np.testing.assert_allclose(at["losses"][seen], losses[seen], rtol=2e-4, atol=2e-4)


def test_curves_and_ends(case):
    """And that they belong together: Gauss-Newton weighs an example by (du/dz)² d²h/du² of its loss h(u)."""
    grid, z = np.linspace(0, 1, POINTS), np.linspace(-FARTHEST, FARTHEST, POINTS)

    def weights(s):
        return np.stack([grid, (1 - s) * grid * (1 - grid) + s * (1 - grid) ** 2], axis=1)

    def outer(s):
        return np.stack([inner(z, s), np.logaddexp(0, -z)], axis=1)

    for (s, _), at in case.states(*((i, 0) for i in range(len(case.scene.axes[0].values)))):
        agree(at, rtol=1e-4, atol=2e-4, weights=weights(s), outer=outer(s))
        fine = np.linspace(-4, 4, 2001)
        u, q = inner(fine, s), 1 / (1 + np.exp(-fine))
        weighed = np.gradient(u, fine) ** 2 * np.gradient(np.gradient(np.logaddexp(0, -fine), u), u)
        np.testing.assert_allclose(weighed[5:-5], np.interp(q, *at["weights"].T)[5:-5], atol=1e-3)
    ends = {"weight_ends": [weights(0), weights(1)], "outer_ends": [outer(0), outer(1)]}
    agree(case.view, rtol=1e-4, atol=2e-4, **ends)


def test_that_C_is_near_F_at_the_fit_is_mostly_luck():
    """As notebook 07 says: θ is fitted to labels that the model draws, again and again."""
    problem, rng, off = gallery.problem("two"), np.random.default_rng(0), []
    x, observed = np.float64(problem.x), np.float64(problem.y)

    def fitted(y):
        theta = np.zeros(2)
        for _ in range(12):  # of Newton's steps
            q = 1 / (1 + np.exp(-x @ theta))
            theta = theta - np.linalg.solve((x.T * q * (1 - q)) @ x, x.T @ (q - y))
        assert abs(x.T @ (q - y)).max() < 1e-6
        C, F = (x.T * (y - q) ** 2) @ x, (x.T * q * (1 - q)) @ x
        return q, np.linalg.norm(C - F) / np.linalg.norm(F)

    q, seen = fitted(observed)
    off = [fitted(rng.random(len(x)) < q)[1] for _ in range(300)]
    assert seen < 0.09
    assert 0.25 < np.median(off) < 0.36
    assert np.mean(np.array(off) < seen) < 0.12
