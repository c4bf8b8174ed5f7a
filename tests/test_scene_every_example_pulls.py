"""The arrow cloud, over the whole table: two averages of the gradients, as outliers grow and labels are flipped."""

import gallery
import jax.numpy as jnp
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.every_example_pulls import every_example_pulls

PROBLEMS = {
    "fresh": ef.breast_cancer,
    "trained": lambda: ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5),
    "few": lambda: ef.logistic_regression(n=25, seed=3)._replace(params=jnp.array([0.4, -0.2])),
}


@pytest.fixture(scope="module", params=gallery.usual(PROBLEMS, "trained", "few"))
def cloud(request):
    """Table, problem, and G (outlier, noise, n, 2) from the formula (σ(z) − y)x, flipped and sorted by hand."""
    problem = PROBLEMS[request.param]()
    scene = every_example_pulls(problem)
    n = min(60, len(problem.y))
    x, y, theta = (np.float64(part) for part in (problem.x[:n], problem.y[:n], problem.params))
    chance = 1 / (1 + np.exp(-x @ theta))
    own, other = (chance - y)[:, None] * x, (chance - (1 - y))[:, None] * x
    order = np.argsort(-own @ own.mean(axis=0))
    own, other = own[order], other[order]
    longest, turn = np.argmax((own**2).sum(axis=1)), np.asarray(scene.data["turn"])
    G = np.empty((len(scene.axes[1].values), len(scene.axes[2].values), n, 2))
    for i, scale in enumerate(scene.axes[1].values):
        for k in range(n // 2 + 1):  # the k-th place flips k labels
            G[i, k] = [other[row] if turn[row] < k else own[row] for row in range(n)]
            G[i, k, longest] *= scale
    return scene, scenes.tabulate(scene), G, longest


def moments(G):
    """g and C, for every scale and every noise."""
    return G.mean(axis=2), np.einsum("onij,onik->onjk", G, G) / G.shape[2]


def test_mean_and_second_moment(cloud):
    _, table, G, _ = cloud
    g, C = moments(G)
    square = np.trace(C, axis1=2, axis2=3)
    np.testing.assert_allclose(table.arrays["mean_arrow"][:, :, 1], -g, atol=1e-6)
    np.testing.assert_allclose(table.arrays["mean"], np.linalg.norm(g, axis=2), atol=1e-6)
    np.testing.assert_allclose(table.arrays["rms"], np.sqrt(square), rtol=1e-5)
    np.testing.assert_allclose(table.arrays["share"], 100 * (g**2).sum(axis=2) / square, rtol=1e-4, atol=1e-4)
    assert (table.arrays["share"] <= 100).all()


def test_ellipses(cloud):
    """vᵀC⁻¹v = 1, and the same of Σ = C − ggᵀ about −g; the semi-axes are the roots of C's eigenvalues."""
    _, table, G, _ = cloud
    g, C = moments(G)
    for name, A, centre in (
        ("ellipse", C, 0 * g),
        ("centred", C - np.einsum("oni,onj->onij", g, g), -g),
    ):
        v = np.float64(table.arrays[name]) - centre[:, :, None]
        form = np.einsum("onki,onij,onkj->onk", v, np.linalg.inv(A), v)
        np.testing.assert_allclose(form, 1, rtol=2e-3)
        assert (np.ptp(v, axis=2) > 0).all()  # all round
    semi = np.sqrt(np.linalg.eigvalsh(C))
    np.testing.assert_allclose(table.arrays["shortest"], semi[:, :, 0], rtol=1e-4)
    np.testing.assert_allclose(table.arrays["longest"], semi[:, :, 1], rtol=1e-4)


def test_an_outlier_counts_once_in_the_mean_and_squared_in_c(cloud):
    scene, table, G, longest = cloud
    scales, n = scene.axes[1].values, G.shape[2]
    without, its = G[0].mean(axis=1), G[4, :, longest]  # scale 0 and scale 1
    assert scales[4] == 1
    np.testing.assert_allclose(
        -table.arrays["mean_arrow"][:, :, 1], without + scales[:, None, None] * its / n, atol=1e-6
    )
    squares = table.arrays["rms"] ** 2
    grown = scales[:, None] ** 2 * (its**2).sum(axis=1) / n
    np.testing.assert_allclose(squares - squares[0], grown, rtol=1e-4, atol=1e-5)


def test_bars_are_what_lies_along_the_mean(cloud):
    _, table, G, _ = cloud
    g = G.mean(axis=2)
    pulls = np.einsum("onij,onj->oni", G, g) / np.linalg.norm(g, axis=2)[:, :, None]
    limit = float(table.background["along"])
    bars = table.arrays["bars"][:, :, :, 1, 1] + table.arrays["turned_bars"][:, :, :, 1, 1]
    np.testing.assert_allclose(bars, np.clip(pulls, -limit, limit), atol=1e-4)
    assert (np.diff(bars[4, 0]) <= 1e-6).all()  # sorted where all is as it was
    # Their mean is the length of the mean, where none is cut off.
    whole = (abs(pulls) < limit).all(axis=2)
    assert whole.any()
    np.testing.assert_allclose(bars.mean(axis=2)[whole], table.arrays["mean"][whole], atol=1e-5)
    np.testing.assert_allclose(table.arrays["level"][..., 1], table.arrays["mean"][..., None].repeat(2, 2))
    clear = (abs(pulls) > 1e-5).all(axis=2)  # where no sign is a matter of rounding
    np.testing.assert_allclose(table.arrays["against"][clear], 100 * (pulls < 0).mean(axis=2)[clear])


def test_the_picked_one_at_every_place(cloud):
    _, table, G, _ = cloud
    g = G.mean(axis=2)
    assert table.depends["along"] == table.depends["tip"] == (0, 1, 2)
    rows = np.moveaxis(G, 2, 0)
    pulls = (rows * g).sum(axis=-1) / np.linalg.norm(g, axis=-1)
    np.testing.assert_allclose(table.arrays["along"], pulls, atol=1e-4)
    np.testing.assert_allclose(table.arrays["length"], np.linalg.norm(rows, axis=-1), rtol=1e-5)
    reach = table.background["reach"]
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose(table.arrays["tip"][seen], -rows[seen], atol=1e-6)
    tips = np.float64(table.arrays["tip"][~seen])  # cut at the edge, on their way
    np.testing.assert_allclose(np.max(abs(tips) / reach, axis=-1), 0.985, rtol=1e-2)
    beside = tips[:, 0] * rows[~seen][:, 1] - tips[:, 1] * rows[~seen][:, 0]
    np.testing.assert_allclose(beside, 0, atol=1e-5)
    assert (tips * rows[~seen] <= 1e-9).all()


def test_arrows_are_the_examples_with_their_labels(cloud):
    """Each is in one of two groups, the longest apart; one more label is flipped at each place, and stays so."""
    scene, table, G, longest = cloud
    own, turned = table.arrays["tips"], table.arrays["turned_tips"]
    reach, rows = table.background["reach"], -G[0]
    seen = (abs(rows) < 0.98 * reach).all(axis=-1)
    np.testing.assert_allclose((own + turned)[seen], rows[seen], atol=1e-6)
    assert not np.stack([own, turned])[:, :, longest].any()
    flipped = scene.data["turn"] < np.arange(len(own))[:, None]
    assert not turned[~flipped].any()
    assert not own[flipped].any()
    np.testing.assert_allclose(table.arrays["arrows"][:, :, 1], own)
    np.testing.assert_allclose(table.arrays["loud"][:, :, 1], table.arrays["loud_tip"])


def test_curves_against_the_noise(cloud):
    """The curves are the numbers of the other states: at each place they pass through its dots."""
    _, table, _, _ = cloud
    for curve, dot, number in (("means", "mean_dot", "mean"), ("squares", "square_dot", "rms")):
        np.testing.assert_allclose(table.arrays[curve][..., 1], table.arrays[number], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(table.arrays[curve], table.arrays[dot], rtol=1e-4, atol=1e-6)


def test_flipped_labels_are_not_seen_by_c_at_zero_logits():
    """There the residual is ±½ whatever the label: arrows turn round, C stays, and the mean fades (facts 5.2)."""
    table = scenes.tabulate(every_example_pulls(ef.breast_cancer()))
    ellipses = table.arrays["ellipse"]
    np.testing.assert_allclose(ellipses, ellipses[:, :1].repeat(ellipses.shape[1], axis=1), atol=1e-5)
    assert table.arrays["mean"][4, -1] < 0.2 * table.arrays["mean"][4, 0]


def test_real_labels_too():
    """Flipping is a reflection of y about the middle of its range."""
    problem = ef.linear_regression(n=8, seed=1)
    scene = every_example_pulls(problem)
    table = scenes.tabulate(scene)
    assert [len(axis.values) for axis in scene.axes] == [8, 13, 5]
    x, y = np.float64(problem.x), np.float64(problem.y)
    own, other = -y[:, None] * x, -(y.min() + y.max() - y)[:, None] * x
    turn = np.empty(8, int)
    turn[np.argsort(-own @ own.mean(axis=0))] = scene.data["turn"]  # the rows were sorted first
    expected = np.where((turn < 4)[:, None], other, own)
    np.testing.assert_allclose(-table.arrays["mean_arrow"][4, 4, 1], expected.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: every_example_pulls(ef.breast_cancer(None)),
            r"`problem` must be one with params of shape \(2,\)",
        ),
        (
            lambda: every_example_pulls(ef.linear_regression(n=3)),
            "`problem` must be one with at least 4 examples",
        ),
    ],
)
def test_messages(build, message):
    with pytest.raises(ValueError, match=message):
        build()
