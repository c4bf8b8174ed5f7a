"""A whole run: every step that is drawn, taken again from where it starts, in float64; and what the words promise."""

import gallery
import numpy as np
import oracles
import pytest
from gallery import agree

RUNS = ("path", "loss"), ("constant", "constant_loss"), ("steered", "steered_loss")
case = gallery.looks("a_whole_run")


class By:
    """The problem by hand about its optimum, and the steps of the three rules."""

    def __init__(self, problem):
        self.x, self.y, start = (np.float64(each) for each in (problem.x, problem.y, problem.params))
        self.optimum = np.linalg.lstsq(self.x, self.y)[0]
        self.start, self.first = start - self.optimum, self.loss(start - self.optimum)

    def loss(self, off):
        return np.mean(((off + self.optimum) @ self.x.T - self.y) ** 2, axis=-1) / 2

    def step(self, off, damping, *, budget=None, radius=None, rate=None):
        G = (self.x @ (off + self.optimum) - self.y)[:, None] * self.x
        u = oracles.direction(G, damping)
        if rate is None:
            rate = min(np.sqrt(budget / gallery.cost(G, u)), radius / np.linalg.norm(u))
        return -rate * u, rate * (G.mean(axis=0) @ u), rate


def follow(by, path, loss, move):
    """Hold every step of a path to its rule, as far as the path is in view and float32 knows the loss."""
    held = 0
    for here, there, height in zip(path[:-1], path[1:], loss, strict=False):
        expected = here + move(here)
        far = np.linalg.norm([here, there, expected], axis=-1).max()
        if height < 1e-4 or far > 5 * np.linalg.norm(by.start):
            continue
        near = min(1, 10 * np.linalg.norm(here))  # near the optimum a rounding of the place turns the step
        np.testing.assert_allclose(there, expected, atol=3e-3 * far / near)
        held += 1
    return held


def steered(by, damping, rate):
    """The steps of a constant η whose ε is halved, doubled or left, by what came of the promise."""

    def move(off):
        nonlocal damping
        delta, promised, _ = by.step(off, damping, rate=rate)
        ratio = (by.loss(off) - by.loss(off + delta)) / promised
        damping *= 0.5 if ratio > 0.75 else 2 if ratio < 0.25 else 1
        return delta if ratio >= 0 else 0 * delta

    return move


def test_each_step_of_each_run_is_the_one_of_its_rule(case):
    by, held = By(case.problem), np.zeros(3)
    places = (0, 7, 0), (2, 7, 2), (2, 2, 2), (6, 7, 4), (6, 0, 0), (4, 5, 3)
    for (c, r, damping), at in case.states(*places):
        rate = by.step(by.start, damping, budget=c, radius=np.inf)[2]
        agree(at, rtol=1e-3, rate=rate, bound=rate / (2 * np.sqrt(damping)))
        rules = {"budget": c, "radius": r}, {"rate": rate}
        moves = [lambda off, of=damping, rule=rule: by.step(off, of, **rule)[0] for rule in rules]
        moves.append(steered(by, damping, rate))
        for row, ((path, loss), move) in enumerate(zip(RUNS, moves, strict=True)):
            np.testing.assert_allclose(at[path][0], by.start, atol=1e-5)
            held[row] += follow(by, np.float64(at[path]), at[loss][:, 1], move)
    assert (held > (250, 150, 50)).all(), held


def test_losses_are_those_of_the_places_and_the_words_say_them(case):
    by, arrays = By(case.problem), case.arrays
    for path, loss in RUNS:
        places, heights = np.float64(arrays[path]), arrays[loss][..., 1]
        inside = np.linalg.norm(places, axis=-1) < 5 * np.linalg.norm(by.start)
        seen, true = inside & (heights > 1e-5), by.loss(places) / by.first
        np.testing.assert_allclose(heights[seen], true[seen], rtol=2e-2)
    heights, count = arrays["loss"][..., 1], np.arange(81)
    rises = heights[..., 1:] > heights[..., :-1]
    turned = np.where(rises.any(axis=-1), rises.argmax(axis=-1), 80)
    least = np.take_along_axis(heights, turned[..., None], -1)[..., 0]
    highest = np.where(count >= turned[..., None], heights, 0).max(axis=-1)
    agree(arrays, turned=turned, turn=np.stack([turned, least], axis=-1))
    agree(arrays, rtol=1e-4, highest=highest, last=heights[..., -1], least=least)


@pytest.mark.parametrize("case", ["a_whole_run"], indirect=True)
def test_enforced_budget_never_settles_and_a_radius_bounds_it(case):
    """Where losses reach zero, a run without a radius is chaotic: that some stay below 1 for 80 steps is rounding."""
    arrays, radii = case.arrays, case.scene.axes[1].values
    assert (arrays["highest"][:, -1] > 1).mean() > 0.9
    assert (arrays["last"] > 1e-6).all()
    assert (arrays["highest"][:, 0] < 0.01).all()
    assert (arrays["longest"] <= 1.0001 * radii[:, None]).all()
    assert (arrays["constant_longest"] <= 1.0001 * arrays["bound"]).all()
    assert (arrays["longest"][3, -1] > 3 * arrays["bound"][3]).all()
    assert (arrays["steered_last"] < 1e-6).all()
    ends = [*case.views()]
    assert ends[0]["highest"] > 100
    assert ends[0]["worst"] < -1000
    assert ends[0]["constant_last"] < 1e-6 < ends[2]["constant_last"]
    assert 1e-6 < ends[1]["last"] < ends[1]["highest"] < 0.1
