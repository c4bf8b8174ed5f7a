"""The arrow cloud, over the whole table: two averages of the gradients, as outliers grow and labels are flipped."""

import gallery
import numpy as np
from gallery import agree


def gradients(problem):
    """Of each example with its own label and with the other, which reflects y about the middle of its range."""
    y = problem.y
    own, other = gallery.gradients(problem), gallery.gradients(problem._replace(y=y.min() + y.max() - y))
    order = np.argsort(-own @ own.mean(axis=0))
    return own[order], other[order]


class Cloud(gallery.Look):
    """Beside the table: which row is longest; G (outlier, noise, n, 2), flipped and sorted by hand; g and C of it."""

    def __init__(self, name):
        super().__init__(name)
        own, other = gradients(self.problem)
        scales, noises = self.scene.axes[1].values, self.scene.axes[2].values
        n, self.longest, turn = len(own), np.argmax((own**2).sum(axis=1)), np.asarray(self.scene.data["turn"])
        self.G = np.empty((len(scales), len(noises), n, 2))
        for i, scale in enumerate(scales):
            for k in range(n // 2 + 1):  # the k-th place flips k labels
                self.G[i, k] = np.where((turn < k)[:, None], other, own)
                self.G[i, k, self.longest] *= scale
        self.g, self.C = self.G.mean(axis=2), np.einsum("onij,onik->onjk", self.G, self.G) / n


case = gallery.looks("every_example_pulls", "every_example_pulls, few", kind=Cloud)


def test_mean_and_second_moment(case):
    """An outlier counts once in the mean, and squared in C."""
    g, C = case.g, case.C
    length, square = np.linalg.norm(g, axis=2), np.trace(C, axis1=2, axis2=3)
    noises = np.broadcast_to(case.scene.axes[2].values, length.shape)
    mean, rms = (np.stack([noises, number], axis=2) for number in (length, np.sqrt(square)))
    agree(case.arrays, rtol=1e-5, atol=1e-6, mean=length, rms=np.sqrt(square), mean_dot=mean, square_dot=rms)
    agree(case.arrays, rtol=1e-4, atol=1e-4, share=100 * length**2 / square)
    assert (case.arrays["share"] <= 100).all()
    agree(case.arrays, atol=1e-6, mean_arrow=np.stack([0 * g, -g], axis=2))
    np.testing.assert_allclose(case.arrays["level"][..., 1], length[..., None].repeat(2, 2), atol=1e-6)
    # The curves are the numbers of the other states: at each place they pass through its dots.
    agree(case.arrays, rtol=1e-4, atol=1e-6, means=mean, squares=rms)


def test_ellipses(case):
    """vᵀC⁻¹v = 1, and the same of Σ = C − ggᵀ about −g; the semi-axes are the roots of C's eigenvalues."""
    g, C = case.g, case.C
    for name, A, centre in (("ellipse", C, 0 * g), ("centred", C - np.einsum("oni,onj->onij", g, g), -g)):
        v = np.float64(case.arrays[name]) - centre[:, :, None]
        form = np.einsum("onki,onij,onkj->onk", v, np.linalg.inv(A), v)
        np.testing.assert_allclose(form, 1, rtol=2e-3)
        assert (np.ptp(v, axis=2) > 0).all()  # all round
    semi = np.sqrt(np.linalg.eigvalsh(C))
    agree(case.arrays, rtol=1e-4, shortest=semi[:, :, 0], longest=semi[:, :, 1])


def test_bars_are_what_lies_along_the_mean(case):
    G, g = case.G, case.g
    pulls = np.einsum("onij,onj->oni", G, g) / np.linalg.norm(g, axis=2)[:, :, None]
    limit = float(case.view["along"])
    bars = case.arrays["bars"][:, :, :, 1, 1] + case.arrays["turned_bars"][:, :, :, 1, 1]
    np.testing.assert_allclose(bars, np.clip(pulls, -limit, limit), atol=1e-4)
    assert (np.diff(bars[4, 0]) <= 1e-6).all()  # sorted where all is as it was
    assert (abs(pulls) < limit).all(axis=2).any()
    clear = (abs(pulls) > 1e-5).all(axis=2)  # where no sign is a matter of rounding
    agree(case.arrays, where=clear, against=100 * (pulls < 0).mean(axis=2))
    assert case.table.depends["along"] == case.table.depends["tip"] == (0, 1, 2)
    agree(case.arrays, atol=1e-4, along=np.moveaxis(pulls, 2, 0))
    agree(case.arrays, rtol=1e-5, length=np.linalg.norm(np.moveaxis(G, 2, 0), axis=-1))
    np.testing.assert_allclose(case.arrays["along_dot"][..., 1], np.clip(case.arrays["along"], -limit, limit))


def test_the_picked_arrow_is_cut_at_the_edge_on_its_way(case):
    rows, tips, reach = np.moveaxis(case.G, 2, 0), np.float64(case.arrays["tip"]), case.view["reach"]
    np.testing.assert_array_equal(case.arrays["picked"][..., 1, :], case.arrays["tip"])
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    agree(case.arrays, atol=1e-6, where=seen, tip=-rows)
    tips, rows = tips[~seen], rows[~seen]
    np.testing.assert_allclose(np.max(abs(tips) / reach, axis=-1), 0.985, rtol=1e-2)
    np.testing.assert_allclose(tips[:, 0] * rows[:, 1] - tips[:, 1] * rows[:, 0], 0, atol=1e-5)
    assert (tips * rows <= 1e-9).all()


def test_arrows_are_the_examples_with_their_labels(case):
    """Each is in one of two groups, the longest apart; one more label is flipped at each place, and stays so."""
    longest, G = case.longest, case.G
    own, turned = case.arrays["tips"], case.arrays["turned_tips"]
    reach, rows = case.view["reach"], -G[0]
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose((own + turned)[seen], rows[seen], atol=1e-6)
    assert not np.stack([own, turned])[:, :, longest].any()
    flipped = case.scene.data["turn"] < np.arange(len(own))[:, None]
    assert not turned[~flipped].any()
    assert not own[flipped].any()
    for line, tips in (("arrows", "tips"), ("turned_arrows", "turned_tips")):
        np.testing.assert_array_equal(case.arrays[line][..., 1, :], case.arrays[tips])
    thick = {name: case.arrays[name][..., 1, :] for name in ("loud", "turned_loud")}
    loud, turned = -G[:, :, longest], flipped[:, longest, None]
    agree(
        thick,
        atol=1e-6,
        where=(abs(loud) < 0.98 * reach).all(axis=-1),
        loud=loud * ~turned,
        turned_loud=loud * turned,
    )
