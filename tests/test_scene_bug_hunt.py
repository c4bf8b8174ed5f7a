"""Lookalikes, over the whole table: each wrong matrix by a loop, its step and what it spends, in float64."""

import re

import gallery
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures.scenes.bug_hunt import BATCH, DAMPINGS, NAMES, bug_hunt

NONE, SQUARE, MISSING, BATCHES, CENTRED, LABELS, SUM = range(7)
SEEDS = {"bug_hunt": 0, "bug_hunt, fresh": 1}
ROWS = 6 - np.arange(7)


class Oracle:
    """A scene with its table, and what the test itself knows of it."""

    def __init__(self, name):
        self.scene, self.table = gallery.shown(name)
        problem, self.c = self.scene.data["problem"], float(self.scene.data["budget"])
        self.G = G = gallery.gradients(problem)
        self.n, self.g = len(G), G.mean(axis=0)
        self.C = sum(np.outer(each, each) for each in G) / self.n
        order = np.random.default_rng(SEEDS[name]).permutation(self.n)
        batches = [G[order[i : i + BATCH]] for i in range(0, self.n - BATCH + 1, BATCH)]
        means = [batch.mean(axis=0) for batch in batches]
        x = np.float64(problem.x)
        p = 1 / (1 + np.exp(-x @ np.float64(problem.params)))
        self.matrices = [
            self.C,
            np.outer(self.g, self.g),
            sum(np.outer(each, each) for each in G),
            sum(np.outer(mean, mean) for mean in means) / len(batches),
            sum(np.outer(each - self.g, each - self.g) for each in G) / self.n,
            sum(q * (1 - q) * np.outer(row, row) for q, row in zip(p, x, strict=True)) / self.n,
            self.C,
        ]

    def step(self, mistake, epsilon):
        """Of the length that costs c in the matrix that its author has."""
        M = self.matrices[mistake]
        v = np.linalg.solve(M + epsilon / (self.n if mistake == SUM else 1) * np.eye(2), self.g)
        return -np.sqrt(self.c / (v @ M @ v)) * v

    def states(self):
        for index in np.ndindex(len(NAMES), len(DAMPINGS)):
            yield *index, DAMPINGS[index[1]], self.table.at(index)


@pytest.fixture(params=gallery.cases("bug_hunt"), scope="module")
def case(request):
    return Oracle(request.param)


def test_every_step_what_it_spends_and_how_it_is_turned(case):
    zero, descent = np.zeros(2), gallery.spend(case.G, case.g, case.c)
    for mistake, _, epsilon, at in case.states():
        steps = np.array([case.step(each, epsilon) for each in range(7)])
        right, wrong = steps[NONE], steps[mistake]
        downhill = gallery.turned(right, -case.g)
        spent = gallery.cost(case.G, steps) / case.c
        turns = np.sign(downhill) * np.array([gallery.turned(right, step) for step in steps])
        for name, step in (("right", right), ("wrong", wrong), ("descent", descent)):
            gallery.agree(at, {name: [zero, step]}, atol=1e-3 * np.linalg.norm(step))
        np.testing.assert_array_equal(at["tip"], at["wrong"][1])
        tip = np.float64(at["tip"])
        assert tip @ case.matrices[mistake] @ tip == pytest.approx(case.c, rel=2e-3)
        dots = np.stack([spent, ROWS], axis=1), np.stack([turns, ROWS], axis=1)
        gallery.agree(
            at, {"spent_dots": dots[0], "spent_mark": dots[0][mistake], "budget": case.c}, rtol=2e-3
        )
        gallery.agree(at, {"turn_dots": dots[1], "turn_mark": dots[1][mistake]}, atol=0.05)
        ones, zeros = (np.stack([np.full(7, start), ROWS], axis=1) for start in (1, 0))
        np.testing.assert_array_equal(at["spent_stems"], np.stack([ones, at["spent_dots"]], axis=1))
        np.testing.assert_array_equal(at["turn_stems"], np.stack([zeros, at["turn_dots"]], axis=1))
        gallery.agree(at, {"turn": turns[mistake]}, atol=0.1)
        gallery.agree(at, {"descent_turn": abs(downhill)}, atol=0.02)
        np.testing.assert_array_equal(at["descent_line"][:, 0], at["descent_turn"])
        ratio = np.linalg.norm(wrong) / np.linalg.norm(right)
        gallery.agree(at, {"spent": spent[mistake], "ratio": ratio}, rtol=2e-3)
        gallery.agree(at, {"predicted": case.g @ wrong, "right_predicted": case.g @ right})
    # Exactly, whatever the damping: at a tiny ε the rounding of ggᵀ would turn it.
    np.testing.assert_array_equal(case.table.arrays["turn"][SQUARE], case.table.arrays["descent_turn"])


def test_curves_lie_on_their_quadrics_wherever_they_are_in_view(case):
    reach = case.table.background["reach"]
    for mistake in range(7):
        at = case.table.at((mistake, 0))
        for name, M in (("ellipse", case.C), ("wrong_ellipse", case.matrices[mistake])):
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
    view = case.table.background
    for mistake, _, _, at in case.states():
        for name in ("ellipse", "wrong", "descent", "right"):
            assert (np.abs(at[name]) < view["reach"]).all(), (name, mistake)
        for name in ("spent", "turn"):
            low, high = view[f"{name}_limits"]
            assert (low < at[f"{name}_dots"][:, 0]).all()
            assert (at[f"{name}_dots"][:, 0] < high).all()
    assert view["turn_limits"][1] > case.table.arrays["descent_turn"].max()
    assert [case.table.depends[name] for name in ("ellipse", "wrong_ellipse")] == [(), (0,)]


def test_presets_and_words_name_the_mistake(case):
    states = [preset.state for preset in case.scene.presets]
    assert [state["mistake"] for state in states] == [SQUARE, MISSING, CENTRED, SUM]
    assert states[1]["damping"] == states[3]["damping"] == DAMPINGS[-1]
    assert [case.scene.axes[0].say(float(mistake)) for mistake in range(7)] == [*NAMES.values()]


def test_words_are_of_the_oracle_at_one_place():
    case, explorer = Oracle("bug_hunt"), gallery.explorer("bug_hunt")
    default = explorer.mistake, explorer.damping
    explorer.restore(mistake=float(CENTRED), damping=float(DAMPINGS[16]))
    words = explorer.words.replace("−", "-")
    explorer.restore(mistake=default[0], damping=default[1])
    right, wrong = (case.step(each, DAMPINGS[16]) for each in (NONE, CENTRED))
    number = r"(-?[\d.]+)"
    turn, descent, spent = re.search(rf"turned {number}° .* at {number}°.* ΔᵀCΔ = {number} c", words).groups()
    assert "-0.0°" not in words
    assert abs(float(turn)) == pytest.approx(abs(gallery.turned(right, wrong)), abs=0.1)
    assert float(descent) == pytest.approx(abs(gallery.turned(right, -case.g)), abs=0.06)
    assert float(spent) == pytest.approx(gallery.cost(case.G, wrong) / case.c, rel=6e-3)


def test_seed_draws_the_batches():
    problem = ef.logistic_regression(n=64)
    first, other = (bug_hunt(problem, seed=seed).data["batches"] for seed in (0, 7))
    order = np.random.default_rng(7).permutation(64)
    np.testing.assert_array_equal(other.ravel(), order)
    assert (first != other).any()
