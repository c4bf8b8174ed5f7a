"""The split, over the whole table: Gauss-Newton by JAX's own second derivatives of a loss that is really split."""

import gallery
import jax
import jax.numpy as jnp
import numpy as np
from gallery import agree
from scipy.special import beta, betainc

import efisher_teach as ef
from efisher_teach.figures.scenes.fisher_hessian import FARTHEST, POINTS, SHOWN

case = gallery.looks("fisher_hessian", "fisher_hessian, drawn")
# Inner functions of the logit that have names, and what they leave of the loss of a label.
NAMED = {
    0.0: (lambda z: z, lambda u, y: jnp.logaddexp(0, u) - y * u),
    0.5: (lambda z: jnp.arcsin(jnp.sqrt(jax.nn.sigmoid(z))),
          lambda u, y: -2 * jnp.log(jnp.sin(u) * y + jnp.cos(u) * (1 - y))),
    1.0: (jax.nn.sigmoid, lambda u, y: -jnp.log(u * y + (1 - u) * (1 - y))),
}  # fmt: skip


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
    grid, z = np.linspace(0, 1, POINTS), np.linspace(-FARTHEST, FARTHEST, POINTS)

    def weights(s):
        return np.stack([grid, (1 - s) * grid * (1 - grid) + s * (1 - grid) ** 2], axis=1)

    def outer(s):
        return np.stack([inner(z, s), np.logaddexp(0, -z)], axis=1)

    for (s, _), at in case.states(*((i, 0) for i in range(len(case.scene.axes[0].values)))):
        agree(at, rtol=1e-4, atol=2e-4, weights=weights(s), outer=outer(s))
    ends = {"weight_ends": [weights(0), weights(1)], "outer_ends": [outer(0), outer(1)]}
    agree(case.view, rtol=1e-4, atol=2e-4, **ends)


def test_gauss_newton_of_named_splits_is_what_is_drawn(case):
    """h and u as functions, given to the library, which knows nothing of the family."""
    splits, scales = (list(axis.values) for axis in case.scene.axes)
    problem, x = case.problem, np.float64(case.problem.x)
    for s, (of, outer) in NAMED.items():
        at = case.table.at((splits.index(s), scales.index(1.0)))
        with jax.enable_x64(True):
            params, features, y = (jnp.asarray(np.float64(each)) for each in (problem.params, x, problem.y))
            M = ef.gauss_newton(lambda theta, row, of=of: of(row @ theta), outer, params, features, y)
        q = 1 / (1 + np.exp(-x @ np.float64(problem.params)))
        F = (x.T * q * (1 - q)) @ x / len(x)
        C = (x.T * (q - np.float64(problem.y)) ** 2) @ x / len(x)
        np.testing.assert_allclose(M, (1 - s) * F + s * C, rtol=1e-7)
        back = np.linalg.inv(np.linalg.cholesky(F))
        least, most = np.linalg.eigvalsh(back @ np.asarray(M) @ back.T)
        agree(at, rtol=1e-3, least=least, most=most)
