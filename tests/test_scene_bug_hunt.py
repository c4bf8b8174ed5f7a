"""Lookalikes, over the whole table: each wrong matrix by hand, its step and what it spends, in float64."""

import gallery
import numpy as np
import pytest
from gallery import agree

import efisher_teach as ef
from efisher_teach.figures.scenes.bug_hunt import BATCH, DAMPINGS, NAMES, bug_hunt

NONE, SQUARE, MISSING, BATCHES, CENTRED, LABELS, SUM = range(7)
SEEDS = {"bug_hunt": 0, "bug_hunt, fresh": 1}
ROWS = 6 - np.arange(7)


class Oracle(gallery.Look):
    """Beside the table: the seven matrices, and the step of each."""

    def __init__(self, name):
        super().__init__(name)
        G, self.n, self.c = self.G, len(self.G), float(self.budget)
        order = np.random.default_rng(SEEDS[name]).permutation(self.n)
        batches = G[order[: self.n - self.n % BATCH]].reshape(-1, BATCH, 2)
        x, p = np.float64(self.problem.x), gallery.regression(self.problem)[1] + np.float64(self.problem.y)
        means, centred, labels = batches.mean(axis=1), G - self.g, x * (p * (1 - p))[:, None]
        square, of_batches = np.outer(self.g, self.g), means.T @ means / len(means)
        sums = [square, G.T @ G, of_batches, centred.T @ centred / self.n, labels.T @ x / self.n]
        self.matrices = [self.C, *sums, self.C]

    def step(self, mistake, epsilon):
        """Of the length that costs c in the matrix that its author has."""
        M = self.matrices[mistake]
        v = np.linalg.solve(M + epsilon / (self.n if mistake == SUM else 1) * np.eye(2), self.g)
        return -np.sqrt(self.c / (v @ M @ v)) * v


case = gallery.looks("bug_hunt", kind=Oracle)


def test_every_step_what_it_spends_and_how_it_is_turned(case):
    descent = gallery.spend(case.G, case.g, case.c)
    for (mistake, epsilon), at in case.states():
        steps, mistake = np.array([case.step(each, epsilon) for each in range(7)]), int(mistake)
        right, wrong = steps[NONE], steps[mistake]
        downhill, spent = gallery.turned(right, -case.g), gallery.cost(case.G, steps) / case.c
        turns = np.sign(downhill) * np.array([gallery.turned(right, step) for step in steps])
        for name, step in {"right": right, "wrong": wrong, "descent": descent}.items():
            agree(at, atol=1e-3 * np.linalg.norm(step), **{name: [np.zeros(2), step]})
        tip, ratio = np.float64(at["tip"]), np.linalg.norm(wrong) / np.linalg.norm(right)
        assert tip @ case.matrices[mistake] @ tip == pytest.approx(case.c, rel=2e-3)
        dots = np.stack([spent, ROWS], axis=1), np.stack([turns, ROWS], axis=1)
        ones, zeros = (np.stack([np.full(7, start), ROWS], axis=1) for start in (1, 0))
        stems = np.stack([ones, at["spent_dots"]], axis=1), np.stack([zeros, at["turn_dots"]], axis=1)
        agree(at, rtol=0, tip=at["wrong"][1], spent_stems=stems[0], turn_stems=stems[1])
        agree(at, rtol=1e-6, budget=case.c)
        agree(at, rtol=1e-3, predicted=case.g @ wrong, right_predicted=case.g @ right)
        agree(
            at, rtol=2e-3, spent_dots=dots[0], spent_mark=dots[0][mistake], spent=spent[mistake], ratio=ratio
        )
        agree(at, atol=0.02, descent_turn=abs(downhill))
        agree(at, atol=0.05, turn_dots=dots[1], turn_mark=dots[1][mistake], turn=turns[mistake])
        assert (at["descent_line"][:, 0] == at["descent_turn"]).all()
    # Exactly, whatever the damping: at a tiny ε the rounding of ggᵀ would turn it.
    assert (case.arrays["turn"][SQUARE] == case.arrays["descent_turn"]).all()


def test_curves_lie_on_their_quadrics_wherever_they_are_in_view(case):
    reach = case.view["reach"]
    for mistake, M_wrong in enumerate(case.matrices):
        at = case.table.at((mistake, 0))
        for name, M in (("ellipse", case.C), ("wrong_ellipse", M_wrong)):
            points = np.float64(at[name])
            # What is drawn: straight lines between the points. Every piece of them that is in view counts.
            t = np.linspace(0, 1, 21)[:, None, None]
            drawn = (points[:-1] + t * np.diff(points, axis=0)).reshape(-1, 2)
            drawn = drawn[(np.abs(drawn) <= reach).all(axis=1)]
            assert len(drawn) > 20
            value = np.sum(drawn @ M * drawn, axis=1) / case.c
            assert np.abs(np.sqrt(value) - 1).max() < 6e-3, (name, mistake)
            np.testing.assert_allclose(points[0], points[-1], atol=1e-5)  # closed


def test_view_has_room_for_the_right_ellipse_and_every_step(case):
    arrays, view, depends = case.arrays, case.view, case.table.depends
    for name in ("ellipse", "wrong", "descent", "right"):
        assert (np.abs(arrays[name]) < view["reach"]).all(), name
    for name in ("spent", "turn"):
        low, high = view[f"{name}_limits"]
        shown = arrays[f"{name}_dots"][..., 0]
        assert low < shown.min() < shown.max() < high, name
    assert view["turn_limits"][1] > arrays["descent_turn"].max()
    assert [depends[name] for name in ("ellipse", "wrong_ellipse")] == [(), (0,)]


def test_presets_and_words_name_the_mistake(case):
    states = [preset.state for preset in case.scene.presets]
    assert [state["mistake"] for state in states] == [SQUARE, MISSING, CENTRED, SUM]
    assert states[1]["damping"] == states[3]["damping"] == DAMPINGS[-1]
    assert [case.scene.axes[0].say(float(mistake)) for mistake in range(7)] == [*NAMES.values()]


def test_seed_draws_the_batches():
    problem = ef.logistic_regression(n=64)
    first, other = (bug_hunt(problem, seed=seed).data["batches"] for seed in (0, 7))
    order = np.random.default_rng(7).permutation(64)
    np.testing.assert_array_equal(other.ravel(), order)
    assert (first != other).any()
