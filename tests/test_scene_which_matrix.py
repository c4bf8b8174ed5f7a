"""Which matrix: every step again in NumPy, by backpropagation written out, dense solves, and K-FAC by np.kron."""

import gallery
import jax
import numpy as np
import pytest
import scipy.linalg

case = gallery.looks("which_matrix")
ROWS = ["descent", "root", "diag_empirical", "empirical", "weighted", "kfac_empirical"]
ROWS += ["kfac", "labels_1", "labels_4", "diag_fisher", "fisher"]


class By:
    """The network of a stage by hand, on the first n examples: rows of every label, and what they are made of."""

    def __init__(self, scene, stage, n):
        problem = scene.data["problem"]
        layers = jax.tree.map(lambda leaf: np.float64(leaf[stage]), scene.data["stages"])
        self.n, self.y, a = n, np.asarray(problem.y[:n]), np.float64(problem.x[:n])
        self.inputs = []
        for layer in layers:
            self.inputs.append(np.c_[a, np.ones(n)])
            z = a @ layer["W"].T + layer["b"]
            a = np.tanh(z)
        self.p = np.exp(z - z.max(axis=1, keepdims=True))
        self.p /= self.p.sum(axis=1, keepdims=True)
        delta = self.p[:, None] - np.eye(10)  # (n, label, class)
        self.errors = [delta]
        for layer, inputs in zip(layers[:0:-1], self.inputs[:0:-1], strict=True):
            delta = delta @ layer["W"] * (1 - inputs[:, None, :-1] ** 2)
            self.errors.insert(0, delta)
        parts = []
        for e, i in zip(self.errors, self.inputs, strict=True):
            rows = np.einsum("nkb,na->nkba", e, i)
            parts += [rows[..., :-1].reshape(n, 10, -1), rows[..., -1]]
        self.rows = np.concatenate(parts, axis=2)
        self.g = self.rows[np.arange(n), self.y].mean(axis=0)
        self.F = self.mean(np.sqrt(self.p)[..., None] * self.rows)

    def mean(self, rows):
        flat = rows.reshape(-1, rows.shape[-1])
        return flat.T @ flat / self.n

    def kronecker(self, label):
        blocks = []
        for errors, inputs in zip(self.errors, self.inputs, strict=True):
            S, A = self.mean(errors[np.arange(self.n), label]), self.mean(inputs)
            places = np.arange(len(S) * len(A)).reshape(len(S), len(A))
            order = np.r_[places[:, :-1].ravel(), places[:, -1]]
            blocks.append(np.kron(S, A)[np.ix_(order, order)])
        return scipy.linalg.block_diag(*blocks)

    def matrices(self, labels):
        here = np.arange(self.n)
        G, p = self.rows[here, self.y], self.p[here, self.y]

        def sampled(m):
            return [self.mean(self.rows[here[:, None], each[: self.n, :m]] / np.sqrt(m)) for each in labels]

        return {
            "fisher": [self.F],
            "empirical": [self.mean(G)],
            "weighted": [self.mean(np.sqrt(p / (1 - p))[:, None] * G)],
            "kfac_empirical": [self.kronecker(self.y)],
            "kfac": [self.kronecker(label[: self.n, 0]) for label in labels],
            "labels_1": sampled(1),
            "labels_4": sampled(4),
        }

    def share(self, u):
        best = np.sqrt(self.g @ np.linalg.pinv(self.F, rcond=1e-6, hermitian=True) @ self.g)
        return 100 * (u @ self.g) / np.sqrt(u @ self.F @ u) / best


def labels_of(scene, stage):
    problem = scene.data["problem"]
    params = jax.tree.map(lambda leaf: leaf[stage], scene.data["stages"])
    z = jax.vmap(lambda x: problem.output_fn(params, x))(problem.x[:1024])
    return np.asarray(jax.random.categorical(scene.data["key"], z[:, None], shape=(5, 1024, 8)))


@pytest.mark.parametrize(("damping", "stage", "batch"), [(1, 1, 1), (2, 3, 2), (4, 0, 0)])
def test_shares_are_those_of_the_definitions(case, damping, stage, batch):
    (((epsilon, _, n), shown),) = case.states((damping, stage, batch))
    by, labels = By(case.scene, stage, int(n)), labels_of(case.scene, stage)
    one = np.eye(len(by.g))

    def solved(A):
        return np.linalg.solve(A + epsilon * np.trace(A) / len(one) * one, by.g)

    matrices = by.matrices(labels)
    steps = {name: [solved(A) for A in drawn] for name, drawn in matrices.items()}
    C, F = (np.diag(matrices[name][0]) for name in ("empirical", "fisher"))
    steps["descent"], steps["root"] = [by.g], [by.g / np.sqrt(C + epsilon * C.mean())]
    for name, D in (("diag_empirical", C), ("diag_fisher", F)):
        steps[name] = [by.g / (D + epsilon * D.mean())]
    for name, drawn in steps.items():
        shares = [by.share(u) for u in drawn]
        assert shown[name] == pytest.approx(np.mean(shares), abs=1.0), name
        if name == "labels_1":
            assert [shown["one_low"], shown["one_high"]] == pytest.approx([min(shares), max(shares)], abs=1.5)
        if f"cos_{name}" in shown:
            (natural,) = steps["fisher"]
            cosines = [u @ natural / np.linalg.norm(u) / np.linalg.norm(natural) for u in drawn]
            assert shown[f"cos_{name}"] == pytest.approx(np.mean(cosines), abs=0.02), name


def test_drawn_is_what_is_said(case):
    """A dot stands at the share that the words say, in the row of its name and at its price."""
    arrays = case.arrays
    drawn = np.concatenate([arrays[name] for name in ("alone", "observed", "kronecker", "believed")], axis=-2)
    said = np.stack([arrays[name] for name in ROWS], axis=-1)
    np.testing.assert_allclose(100 * drawn[..., 0], said, rtol=1e-5)
    assert (drawn[..., 1] == np.arange(11)).all()
    curve = arrays["labels"]
    assert (curve[..., 0] == [2, 3, 5, 9, 10]).all()
    for place, name in ((0, "labels_1"), (2, "labels_4"), (4, "fisher")):
        np.testing.assert_allclose(100 * curve[..., place, 1], arrays[name], rtol=1e-5)
    np.testing.assert_allclose(100 * arrays["ranges"][..., 1, 0, 0], arrays["one_low"], rtol=1e-5)
    band = arrays["band"][..., 0, :, 1]
    assert (band[..., :4] <= curve[..., :4, 1] + 1e-6).all()
    assert (band[..., :3:-1] >= curve[..., :4, 1] - 1e-6).all()
    cosine = np.maximum(arrays["cos_empirical"], 0)
    np.testing.assert_allclose(arrays["cosines"][..., 3, 0], cosine, atol=1e-6)


@pytest.mark.parametrize("case", ["which_matrix"], indirect=True)
def test_what_the_views_say(case):
    """Of a network: a model without hidden layers is kinder to −g."""
    arrays = case.arrays
    assert max(arrays[name].max() for name in ROWS) < 100.5  # none is worth more than F⁻¹g
    assert (arrays["fisher"][0] > 99.5).all()
    few, many, damped, late = case.views()
    assert few["empirical"] < few["descent"] - 15 < few["kfac_empirical"] - 20
    assert many["labels_1"] - few["labels_1"] > 30 > 12 > many["empirical"] - few["empirical"]
    assert damped["cos_descent"] > 0.95
    assert damped["fisher"] - damped["descent"] < 10
    assert late["descent"] < 40 < late["kfac_empirical"] < late["empirical"] - 10
