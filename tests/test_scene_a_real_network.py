"""The race: it shows and says the runs that were given to it, the best of each rival, and ours one by one."""

import numpy as np
from gallery import agree

from efisher_teach.figures import scenes
from efisher_teach.network.training import Trial

STEPS, RATES = np.arange(20), {"descent": 0.2, "adam": 0.22, "natural": 0.24}


def trial(rate):
    """Losses that fall at a known rate."""
    return Trial(np.exp(-rate * STEPS), 0.01 / (1 + rate))


def smooth(rate):
    """The geometric mean of the last seven of them."""
    return np.array([np.exp(-rate * np.mean(np.arange(max(0, t - 6), t + 1))) for t in STEPS])


OURS = {"budget c": {0.1: 0.05, 0.3: 0.15}, "memory, η": {0.1: 0.08, 1.0: 0.12, 3.0: 0.01}}


def runs():
    """Of each rival two; of ours five, one of which blew up after as many steps, and one took longer."""
    rivals = {name: {setting: trial(setting) for setting in (0.1, rate)} for name, rate in RATES.items()}
    ours = {name: {setting: trial(rate) for setting, rate in rates.items()} for name, rates in OURS.items()}
    ours["budget c"][0.3] = Trial(np.r_[np.ones(6), np.nan], 0.01)
    ours["memory, η"][1.0] = ours["memory, η"][1.0]._replace(seconds=0.5)
    return rivals, ours


def test_race_shows_the_best_of_each_and_the_run_of_the_slider():
    rivals, ours = runs()
    scene = scenes.a_real_network(rivals, ours, first="memory, η")
    table, steps = scenes.tabulate(scene), STEPS + 1
    assert [axis.default for axis in scene.axes] == [20, 3]
    for name, rate in RATES.items():
        losses, cost = smooth(rate), steps * 0.01 / (1 + rate)
        by_step, by_cost = (np.stack([at, losses], axis=1) for at in (steps, cost))
        agree(table.arrays, rtol=1e-5, **{name: losses, f"{name}_step": by_step, f"{name}_cost": by_cost})
        agree(table.background, rtol=1e-5, **{name: np.stack([steps, cost, losses], axis=1)})
    arrays, rates = table.arrays, [rate for each in OURS.values() for rate in each.values()]
    seconds = [run.seconds for each in ours.values() for run in each.values()]
    assert arrays["ours"][12, 1] > 100  # it has blown up, and is finite in the table
    for i in (0, 2, 3, 4):
        losses = smooth(rates[i])
        by_step, by_cost = (np.stack([at, losses], axis=1) for at in (steps, steps * seconds[i]))
        shown = {name: arrays[name][:, i] for name in ("ours", "ours_step", "ours_cost")}
        shown |= {name: arrays[name][i] for name in ("by_step", "by_cost")}
        agree(
            shown,
            rtol=1e-5,
            ours=losses,
            by_step=by_step,
            by_cost=by_cost,
            ours_step=by_step,
            ours_cost=by_cost,
        )
    said = [scene.axes[1].say(float(i)) for i in range(5)]
    assert said == [
        "budget c = 0.1",
        "budget c = 0.3",
        *(f"memory, η = {rate}" for rate in ("0.1", "1", "3")),
    ]
