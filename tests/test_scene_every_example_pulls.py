"""The arrow cloud, over the whole table: two averages of the gradients, as outliers grow and labels are flipped."""

import gallery
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.every_example_pulls import every_example_pulls


def gradients(problem):
    """Of each example with its own label and with the other, which reflects y about the middle of its range."""
    y = problem.y
    own, other = gallery.gradients(problem), gallery.gradients(problem._replace(y=y.min() + y.max() - y))
    order = np.argsort(-own @ own.mean(axis=0))
    return own[order], other[order]


@pytest.fixture(scope="module", params=gallery.cases("every_example_pulls", "every_example_pulls, few"))
def case(request):
    """Scene, table, and which row is longest; G (outlier, noise, n, 2), flipped and sorted by hand; g and C of it."""
    scene, table = gallery.shown(request.param)
    own, other = gradients(scene.data["problem"])
    n, longest, turn = len(own), np.argmax((own**2).sum(axis=1)), np.asarray(scene.data["turn"])
    G = np.empty((len(scene.axes[1].values), len(scene.axes[2].values), n, 2))
    for i, scale in enumerate(scene.axes[1].values):
        for k in range(n // 2 + 1):  # the k-th place flips k labels
            G[i, k] = np.where((turn < k)[:, None], other, own)
            G[i, k, longest] *= scale
    return scene, table, longest, G, G.mean(axis=2), np.einsum("onij,onik->onjk", G, G) / n


def test_mean_and_second_moment(case):
    """An outlier counts once in the mean, and squared in C."""
    scene, table, _, _, g, C = case
    length, square = np.linalg.norm(g, axis=2), np.trace(C, axis1=2, axis2=3)
    noises = np.broadcast_to(scene.axes[2].values, length.shape)
    dots = {
        "mean_dot": np.stack([noises, length], axis=2),
        "square_dot": np.stack([noises, square**0.5], axis=2),
    }
    gallery.agree(table.arrays, dots | {"mean": length, "rms": np.sqrt(square)}, rtol=1e-5, atol=1e-6)
    gallery.agree(table.arrays, {"share": 100 * length**2 / square}, rtol=1e-4, atol=1e-4)
    assert (table.arrays["share"] <= 100).all()
    np.testing.assert_allclose(table.arrays["mean_arrow"][:, :, 1], -g, atol=1e-6)
    np.testing.assert_allclose(table.arrays["level"][..., 1], length[..., None].repeat(2, 2), atol=1e-6)
    # The curves are the numbers of the other states: at each place they pass through its dots.
    gallery.agree(
        table.arrays, {"means": dots["mean_dot"], "squares": dots["square_dot"]}, rtol=1e-4, atol=1e-6
    )


def test_ellipses(case):
    """vᵀC⁻¹v = 1, and the same of Σ = C − ggᵀ about −g; the semi-axes are the roots of C's eigenvalues."""
    _, table, _, _, g, C = case
    for name, A, centre in (("ellipse", C, 0 * g), ("centred", C - np.einsum("oni,onj->onij", g, g), -g)):
        v = np.float64(table.arrays[name]) - centre[:, :, None]
        form = np.einsum("onki,onij,onkj->onk", v, np.linalg.inv(A), v)
        np.testing.assert_allclose(form, 1, rtol=2e-3)
        assert (np.ptp(v, axis=2) > 0).all()  # all round
    semi = np.sqrt(np.linalg.eigvalsh(C))
    gallery.agree(table.arrays, {"shortest": semi[:, :, 0], "longest": semi[:, :, 1]}, rtol=1e-4)


def test_bars_are_what_lies_along_the_mean(case):
    _, table, _, G, g, _ = case
    pulls = np.einsum("onij,onj->oni", G, g) / np.linalg.norm(g, axis=2)[:, :, None]
    limit = float(table.background["along"])
    bars = table.arrays["bars"][:, :, :, 1, 1] + table.arrays["turned_bars"][:, :, :, 1, 1]
    np.testing.assert_allclose(bars, np.clip(pulls, -limit, limit), atol=1e-4)
    assert (np.diff(bars[4, 0]) <= 1e-6).all()  # sorted where all is as it was
    assert (abs(pulls) < limit).all(axis=2).any()
    clear = (abs(pulls) > 1e-5).all(axis=2)  # where no sign is a matter of rounding
    np.testing.assert_allclose(table.arrays["against"][clear], 100 * (pulls < 0).mean(axis=2)[clear])
    assert table.depends["along"] == table.depends["tip"] == (0, 1, 2)
    rows = np.moveaxis(G, 2, 0)
    gallery.agree(table.arrays, {"along": np.moveaxis(pulls, 2, 0)}, atol=1e-4)
    gallery.agree(table.arrays, {"length": np.linalg.norm(rows, axis=-1)}, rtol=1e-5)
    np.testing.assert_allclose(
        table.arrays["along_dot"][..., 1], np.clip(table.arrays["along"], -limit, limit)
    )


def test_the_picked_arrow_is_cut_at_the_edge_on_its_way(case):
    _, table, _, G, *_ = case
    rows, tips, reach = np.moveaxis(G, 2, 0), np.float64(table.arrays["tip"]), table.background["reach"]
    np.testing.assert_array_equal(table.arrays["picked"][..., 1, :], table.arrays["tip"])
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose(tips[seen], -rows[seen], atol=1e-6)
    tips, rows = tips[~seen], rows[~seen]
    np.testing.assert_allclose(np.max(abs(tips) / reach, axis=-1), 0.985, rtol=1e-2)
    np.testing.assert_allclose(tips[:, 0] * rows[:, 1] - tips[:, 1] * rows[:, 0], 0, atol=1e-5)
    assert (tips * rows <= 1e-9).all()


def test_arrows_are_the_examples_with_their_labels(case):
    """Each is in one of two groups, the longest apart; one more label is flipped at each place, and stays so."""
    scene, table, longest, G, *_ = case
    own, turned = table.arrays["tips"], table.arrays["turned_tips"]
    reach, rows = table.background["reach"], -G[0]
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose((own + turned)[seen], rows[seen], atol=1e-6)
    assert not np.stack([own, turned])[:, :, longest].any()
    flipped = scene.data["turn"] < np.arange(len(own))[:, None]
    assert not turned[~flipped].any()
    assert not own[flipped].any()
    for line, tips in (("arrows", "tips"), ("turned_arrows", "turned_tips"), ("loud", "loud_tip")):
        np.testing.assert_array_equal(table.arrays[line][..., 1, :], table.arrays[tips])
    loud, mine = -G[:, :, longest], table.arrays["loud_tip"]
    within = (abs(loud) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose(mine[within], loud[within], atol=1e-6)


def test_flipped_labels_are_not_seen_by_c_at_zero_logits():
    """There the residual is ±½ whatever the label: arrows turn round, C stays, and the mean fades (facts 5.2)."""
    table = scenes.tabulate(every_example_pulls(ef.breast_cancer()))
    ellipses = table.arrays["ellipse"]
    np.testing.assert_allclose(ellipses, ellipses[:, :1].repeat(ellipses.shape[1], axis=1), atol=1e-5)
    assert table.arrays["mean"][4, -1] < 0.2 * table.arrays["mean"][4, 0]
