"""Rescaled layers: against networks whose weights really are rescaled, by back-propagation in NumPy and float64."""

from functools import partial

import gallery
import numpy as np
import oracles
from gallery import agree

from efisher_teach.figures.scenes.rescaled_layers import DAMPINGS, FACTORS, SHOWN

case = gallery.looks("rescaled_layers")


def scored(weights, x, y):
    """Losses (n,), and what back-propagation needs."""
    hidden = x @ weights[0].T
    scores = np.maximum(hidden, 0) @ weights[1].T
    scores -= scores.max(axis=1, keepdims=True)
    chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return -np.log(chance[np.arange(len(y)), y]), chance - np.eye(10)[y], hidden


def stepped(weights, x, y, budget, direction):
    """The change of each loss in √c, where a step of the rescaled weights themselves costs c; `direction` of G."""
    before, slope, hidden = scored(weights, x, y)
    back = (slope @ weights[1]) * (hidden > 0)
    parts = back[:, :, None] * x[:, None], slope[:, :, None] * np.maximum(hidden, 0)[:, None]
    G = np.concatenate([part.reshape(len(y), -1) for part in parts], axis=1)
    delta = gallery.spend(G, direction(G), budget)
    ends = np.split(delta, [weights[0].size])
    moved = [each + end.reshape(each.shape) for each, end in zip(weights, ends, strict=True)]
    return (scored(moved, x, y)[0] - before) / np.sqrt(budget)


def adam(G):
    size = np.sqrt((G**2).mean(axis=0))
    return np.divide(G.mean(axis=0), size, out=np.zeros_like(size), where=size > 0)


def test_steps_of_networks_that_are_rescaled(case):
    problem, c = case.problem, case.budget
    x, y, (first, last) = np.float64(problem.x), np.array(problem.y), map(np.float64, problem.params)
    for i, j in ((0, 4), (len(FACTORS) // 2, 4), (12, 16), (16, 4), (16, 12), (16, 0)):
        at, damped = case.table.at((i, j)), partial(oracles.direction, damping=DAMPINGS[j])
        for name, direction in {"step": damped, "descent": partial(np.mean, axis=0), "adam": adam}.items():
            before, now = (stepped([a * first, last / a], x, y, c, direction) for a in (1, FACTORS[i]))
            gap = 100 * np.linalg.norm(now - before) / np.linalg.norm(before)
            both = np.stack([before, now], axis=1)[:SHOWN]
            agree(at, atol=0.02, rtol=5e-3, **{f"{name}_gap": gap, f"{name}_changes": both})
            means = {f"{name}_mean": now.mean() * np.sqrt(c), f"{name}_first": before.mean() * np.sqrt(c)}
            agree(at, atol=2e-5, **means)
            agree(at, rtol=1e-6, **{f"{name}_dot": [FACTORS[i], at[f"{name}_gap"]]})
        agree(at, damping_dot=[DAMPINGS[j], at["step_gap"]], rtol=1e-6)
        np.testing.assert_allclose(at["by_factor"][i], at["step_dot"])
        np.testing.assert_allclose(at["by_damping"][j], at["damping_dot"])
        for level, name in (("level", "descent"), ("adam_level", "adam")):
            np.testing.assert_allclose(at[level][:, 1], at[f"{name}_gap"])
            np.testing.assert_allclose(case.view[name][i], at[f"{name}_gap"])


def test_who_notices(case):
    """As the notebook says: with a small ε the empirical Fisher hardly does, with a large one as much as descent."""
    gaps = {name: case.arrays[f"{name}_gap"] for name in ("step", "descent", "adam")}
    assert (gaps["step"][:, 4] < 5).all()
    assert (gaps["step"][[0, -1], 4] * 10 < gaps["adam"][[0, -1]]).all()
    assert (gaps["step"][[0, -1], -1] > 0.9 * gaps["descent"][[0, -1]]).all()
