"""Rare and wrong: what is drawn and said of given runs, against means and extremes by hand."""

import gallery
import numpy as np
import pytest
from gallery import agree

case = gallery.looks("rare_and_wrong")


@pytest.mark.parametrize("level", range(4))
def test_means_and_spread_of_the_runs(case, level):
    (rare, wrong), arrays = gallery.left_behind(), case.table.at((level,))
    equal, descent = 100 * rare[..., level, 0].mean(axis=2)
    told, untold = 100 * wrong[1, ..., level, 0].mean(axis=1), 100 * wrong[0, ..., level, 0]
    few = rare[:, :2, :, level, 1].mean(axis=(1, 2))
    behind = wrong[0][[0, -1], :, level, 1].mean(axis=1)
    both, low, high = np.stack([descent, equal], axis=-1), untold.min(axis=1), untold.max(axis=1)
    agree(arrays, rtol=1e-5, neglected=both[:2], others=both[2:], told=np.stack([range(4), told], axis=-1))
    agree(arrays, rtol=1e-5, untold=np.stack([range(4), untold.mean(axis=1)], axis=-1))
    agree(arrays, rtol=1e-5, equal_low=low[0], equal_high=high[0], descent_low=low[3], descent_high=high[3])
    agree(arrays, rtol=1e-5, by_descent=[3, untold[3].mean()], loss_neglected=few[1], loss_wrong=behind[1])
    agree(arrays, rtol=1e-5, here=[[gallery.LEVELS[level], loss] for loss in (*few, *behind)])
    np.testing.assert_allclose(arrays["band"][0][:, 1], [*low, *high[::-1]], rtol=1e-5)
