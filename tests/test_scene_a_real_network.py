"""The race: it shows the runs that were given to it, the best of each rival, and ours by ε and c."""

import re

import numpy as np
import pytest

from efisher_teach.figures import scenes
from efisher_teach.network.training import Trial


def fake_runs(steps=20):
    """Losses that fall at known rates, and one run that blew up after seven steps."""
    fall = lambda rate: np.exp(-rate * np.arange(steps))  # noqa: E731
    trial = lambda rate: Trial(fall(rate), 0.01 / (1 + rate))  # noqa: E731
    rivals = {
        name: {rate: trial(rate) for rate in (0.1, 0.2 + i / 50)} for i, name in enumerate(rivals_named())
    }
    ours = {e: {c: trial(c / (1 + e)) for c in (0.1, 0.3)} for e in (0.01, 1.0, 10.0)}
    ours[0.01][0.3] = Trial(np.r_[np.ones(6), np.nan], 0.01)
    return rivals, ours


def rivals_named():
    return ("descent", "adam", "natural")


def test_race_shows_the_best_of_each_and_the_run_of_the_sliders():
    rivals, ours = fake_runs()
    scene = scenes.a_real_network(rivals, ours, damping=1.0)
    table = scenes.tabulate(scene)
    assert [axis.default for axis in scene.axes] == [20, 1.0, 0.3]  # the larger budget ends lower
    for i, name in enumerate(rivals_named()):
        curve = table.background[name]
        expected = [np.exp(-(0.2 + i / 50) * np.mean(np.arange(max(0, t - 6), t + 1))) for t in range(20)]
        np.testing.assert_allclose(curve[:, 2], expected, rtol=1e-5)
        np.testing.assert_allclose(curve[:, 0], np.arange(1, 21))
        np.testing.assert_allclose(curve[:, 1], np.arange(1, 21) * 0.01 / (1 + 0.2 + i / 50), rtol=1e-5)
    for i, e in enumerate(sorted(ours)):
        for j, c in enumerate((0.1, 0.3)):
            shown = table.at((12, i, j))
            np.testing.assert_allclose(shown["by_step"][12, 1], shown["ours"], rtol=1e-6)
            np.testing.assert_array_equal(shown["ours_step"], [13, shown["ours"]])
            if (e, c) != (0.01, 0.3):
                np.testing.assert_allclose(shown["ours"], np.exp(-c / (1 + e) * 9), rtol=1e-5)
            else:
                assert shown["ours"] > 100  # it has blown up, and is finite in the table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rivals, ours: rivals.pop("adam"), "`rivals` must be the runs of descent, adam, natural"),
        (lambda rivals, ours: ours[1.0].pop(0.3), "`ours` must be runs of every ε, also of 1, with every c"),
        (lambda rivals, ours: ours.pop(1.0), "`ours` must be runs of every ε, also of 1, with every c"),
    ],
    ids=["a rival", "a budget", "the first ε"],
)
def test_race_wants_all_runs(change, message):
    rivals, ours = fake_runs()
    change(rivals, ours)
    with pytest.raises(ValueError, match=re.escape(message)):
        scenes.a_real_network(rivals, ours, damping=1.0)
