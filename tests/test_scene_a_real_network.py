"""The race: it shows and says the runs that were given to it, the best of each rival, and ours one by one."""

import gallery
import numpy as np
from gallery import OURS, RIVALS, STEPS, agree

case = gallery.looks("a_real_network")


def smooth(rate):
    """The geometric mean of the last seven losses of a run."""
    return np.array([np.exp(-rate * np.mean(np.arange(max(0, t - 6), t + 1))) for t in STEPS])


def test_race_shows_the_best_of_each_and_the_run_of_the_slider(case):
    arrays, (_, run), steps = case.arrays, case.scene.axes, STEPS + 1
    assert [axis.default for axis in case.scene.axes] == [40, 3]
    for name, rate in RIVALS.items():
        losses, seconds = smooth(rate), steps * 0.01 / (1 + rate)
        by_step, by_seconds = (np.stack([at, losses], axis=1) for at in (steps, seconds))
        agree(arrays, rtol=1e-5, **{name: losses, f"{name}_step": by_step, f"{name}_seconds": by_seconds})
        agree(case.view, rtol=1e-5, **{name: np.stack([steps, seconds, losses], axis=1)})
    assert arrays["ours"][12, 1] > 100  # it has blown up, and is finite in the table
    rates, all_ours = (
        [each for runs in ours.values() for each in runs.values()] for ours in (OURS, gallery.runs()[1])
    )
    for i in (0, 2, 3, 4):
        losses = smooth(rates[i])
        by_step, by_seconds = (np.stack([at, losses], axis=1) for at in (steps, steps * all_ours[i].seconds))
        shown = {name: arrays[name][:, i] for name in ("ours", "ours_step", "ours_seconds")}
        shown |= {name: arrays[name][i] for name in ("by_step", "by_seconds")}
        agree(shown, rtol=1e-5, by_step=by_step, by_seconds=by_seconds)
        agree(shown, rtol=1e-5, ours=losses, ours_step=by_step, ours_seconds=by_seconds)
    said = ["c = 0.1", "c = 0.3", *(f"memory, η = {rate}" for rate in ("0.1", "1", "3"))]
    assert [run.say(float(i)) for i in range(5)] == said
