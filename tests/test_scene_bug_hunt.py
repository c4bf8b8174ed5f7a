"""Lookalikes, over the whole table: each wrong matrix by a loop, its step and what it spends, in float64."""

import re

import gallery
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.bug_hunt import BATCH, DAMPINGS, NAMES, bug_hunt

NONE, SQUARE, MISSING, BATCHES, CENTRED, LABELS, SUM = range(7)
CASES = {"bug_hunt": ("two", 0), "bug_hunt, fresh": ("logistic", 1)}


class Oracle:
    """A scene with its table, and what the test itself knows of it."""

    def __init__(self, name):
        problem, seed = CASES[name]
        self.problem = gallery.problem(problem)
        self.scene, self.table = gallery.shown(name)
        self.c = float(self.scene.data["budget"])
        self.G = G = gallery.gradients(self.problem)
        self.n, self.g = len(G), G.mean(axis=0)
        self.C = sum(np.outer(each, each) for each in G) / self.n
        order = np.random.default_rng(seed).permutation(self.n)
        batches = [G[order[i : i + BATCH]] for i in range(0, self.n - BATCH + 1, BATCH)]
        means = [batch.mean(axis=0) for batch in batches]
        self.matrices = [
            self.C,
            np.outer(self.g, self.g),
            sum(np.outer(each, each) for each in G),
            sum(np.outer(mean, mean) for mean in means) / len(batches),
            sum(np.outer(each - self.g, each - self.g) for each in G) / self.n,
            self.fisher(),
            self.C,
        ]

    def fisher(self):
        """Of a logistic model: E[p(1 − p) xxᵀ]."""
        x = np.float64(self.problem.x)
        p = 1 / (1 + np.exp(-x @ np.float64(self.problem.params)))
        return sum(q * (1 - q) * np.outer(row, row) for q, row in zip(p, x, strict=True)) / self.n

    def step(self, mistake, epsilon):
        """Of the length that costs c in the matrix that its author has."""
        M = self.matrices[mistake]
        v = np.linalg.solve(M + epsilon / (self.n if mistake == SUM else 1) * np.eye(2), self.g)
        return -np.sqrt(self.c / (v @ M @ v)) * v

    def states(self):
        for index in np.ndindex(len(NAMES), len(DAMPINGS)):
            yield *index, DAMPINGS[index[1]], self.table.at(index)


@pytest.fixture(params=gallery.usual(CASES, "bug_hunt"), scope="module")
def case(request):
    return Oracle(request.param)


def turned(step, other):
    """Degrees from one step to another, against the clock."""
    return np.degrees(np.arctan2(step[0] * other[1] - step[1] * other[0], step @ other))


def test_steps_cost_c_in_the_matrix_of_their_author(case):
    for mistake, _, epsilon, at in case.states():
        right, wrong = case.step(NONE, epsilon), case.step(mistake, epsilon)
        descent = -case.g * np.sqrt(case.c / (case.g @ case.C @ case.g))
        for name, step in (("right", right), ("wrong", wrong), ("descent", descent)):
            scale = np.linalg.norm(step)
            np.testing.assert_allclose(at[name], [[0, 0], step], atol=1e-3 * scale, err_msg=name)
        np.testing.assert_array_equal(at["tip"], at["wrong"][1])
        assert gallery.cost(case.G, np.float64(at["right"][1])) == pytest.approx(case.c, rel=1e-3)
        tip = np.float64(at["tip"])
        assert tip @ case.matrices[mistake] @ tip == pytest.approx(case.c, rel=2e-3)


def test_spent_and_turned_are_of_all_seven(case):
    for mistake, _, epsilon, at in case.states():
        steps = np.array([case.step(each, epsilon) for each in range(7)])
        downhill = turned(steps[0], -case.g)
        side = np.sign(downhill)
        spent = gallery.cost(case.G, steps) / case.c
        turns = [side * turned(steps[0], step) for step in steps]
        rows = 6 - np.arange(7)
        np.testing.assert_allclose(at["spent_dots"], np.stack([spent, rows], axis=1), rtol=2e-3)
        np.testing.assert_allclose(at["turn_dots"], np.stack([turns, rows], axis=1), atol=0.05)
        np.testing.assert_array_equal(at["spent_mark"], at["spent_dots"][mistake])
        np.testing.assert_array_equal(at["turn_mark"], at["turn_dots"][mistake])
        np.testing.assert_array_equal(at["spent_stems"][:, 1], at["spent_dots"])
        np.testing.assert_array_equal(at["spent_stems"][:, 0].T, [np.ones(7), rows])
        np.testing.assert_array_equal(at["turn_stems"][:, 1], at["turn_dots"])
        np.testing.assert_array_equal(at["turn_stems"][:, 0].T, [np.zeros(7), rows])
        np.testing.assert_allclose(at["descent_line"][:, 0], abs(downhill), atol=0.02)


def test_numbers(case):
    for mistake, _, epsilon, at in case.states():
        right, wrong = case.step(NONE, epsilon), case.step(mistake, epsilon)
        downhill = turned(right, -case.g)
        assert at["turn"] == pytest.approx(np.sign(downhill) * turned(right, wrong), abs=0.1)
        assert at["descent_turn"] == pytest.approx(abs(downhill), abs=0.02)
        assert at["ratio"] == pytest.approx(np.linalg.norm(wrong) / np.linalg.norm(right), rel=1e-3)
        assert at["spent"] == pytest.approx(np.mean((case.G @ wrong) ** 2) / case.c, rel=2e-3)
        assert at["budget"] == pytest.approx(case.c)
        assert at["predicted"] == pytest.approx(np.mean(case.G @ wrong), rel=1e-3)
        assert at["right_predicted"] == pytest.approx(np.mean(case.G @ right), rel=1e-3)


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
    assert case.table.depends["ellipse"] == ()
    assert case.table.depends["wrong_ellipse"] == (0,)


# What the figure is there to show.


def test_square_of_the_mean_goes_along_minus_g_whatever_the_damping(case):
    np.testing.assert_array_equal(case.table.arrays["turn"][SQUARE], case.table.arrays["descent_turn"])
    for step in case.table.arrays["tip"][SQUARE]:
        assert abs(turned(np.float64(step), -case.g)) < 1e-3
    assert (case.table.arrays["spent"][SQUARE] > 1).all()  # E[(gᵢᵀg)²] ≥ (gᵀg)²
    exact = case.g @ case.C @ case.g / (case.g @ case.g) ** 2
    np.testing.assert_allclose(case.table.arrays["spent"][SQUARE], exact, rtol=1e-3)


def test_missing_n_spends_c_over_n_and_turns_as_epsilon_on_the_sum(case):
    arrays = case.table.arrays
    np.testing.assert_allclose(arrays["spent"][MISSING], 1 / case.n, rtol=1e-3)
    np.testing.assert_allclose(arrays["spent"][SUM], 1, rtol=1e-3)
    np.testing.assert_allclose(arrays["tip"][MISSING] * np.sqrt(case.n), arrays["tip"][SUM], rtol=2e-3)
    undamped = -np.sqrt(case.c) * np.linalg.solve(case.C, case.g)
    for step in arrays["tip"][SUM][DAMPINGS / case.n < 1e-4]:
        assert abs(turned(undamped, np.float64(step))) < 0.05


def test_centred_turns_nothing_and_overspends(case):
    """By Sherman and Morrison the directions are one; uᵀCu = uᵀΣu + (gᵀu)²."""
    arrays = case.table.arrays
    np.testing.assert_allclose(arrays["turn"][CENTRED], 0, atol=0.03)
    assert (arrays["spent"][CENTRED] > 1.5).all()
    s = case.g @ np.linalg.solve(case.matrices[CENTRED], case.g)
    assert arrays["spent"][CENTRED, 0] == pytest.approx(1 + s, rel=2e-3)  # at a tiny ε


def test_batches_come_between_c_and_the_square_of_the_mean():
    """In expectation they are ggᵀ + Σ/16. With 20,000 examples luck is small."""
    problem = ef.logistic_regression(n=20_000, seed=3)
    scene = bug_hunt(problem._replace(params=np.array([0.3, -0.1], np.float32)))
    arrays = scenes.tabulate(scene).arrays
    G = gallery.gradients(problem._replace(params=scene.data["problem"].params))
    g, C = G.mean(axis=0), G.T @ G / len(G)
    expected = np.outer(g, g) + (C - np.outer(g, g)) / BATCH
    for place, epsilon in enumerate(DAMPINGS):
        v = np.linalg.solve(expected + epsilon * np.eye(2), g)
        step = -v * np.sqrt(float(scene.data["budget"]) / (v @ expected @ v))
        np.testing.assert_allclose(
            arrays["tip"][BATCHES, place], step, atol=0.06 * np.linalg.norm(step), err_msg=epsilon
        )
    assert (arrays["spent"][BATCHES] > 1).all()
    assert (arrays["spent"][BATCHES] < 1.01 * arrays["spent"][SQUARE]).all()


def test_labels_of_the_model_make_another_matrix(case):
    """No multiple of C, at any scale."""
    ratios = np.linalg.eigvals(np.linalg.solve(case.C, case.matrices[LABELS]))
    assert ratios.max() > 1.3 * ratios.min()
    assert (np.abs(case.table.arrays["spent"][LABELS] - 1) > 0.1).all()


def test_words_name_the_mistake_and_round_the_oracle(case):
    explorer = ef.Explorer(case.scene)
    for mistake, said in enumerate(NAMES.values()):
        for place in (0, 16, 40):
            explorer.restore(mistake=float(mistake), damping=float(DAMPINGS[place]))
            words = explorer.words.replace("−", "-")
            assert words.startswith(f"Mistake: {said.replace('−', '-')}. At ε = ")
            right, wrong = (case.step(each, DAMPINGS[place]) for each in (NONE, mistake))
            side = np.sign(turned(right, -case.g))
            number = r"(-?[\d.]+(?:e-?\d+)?)"
            turn, descent = re.search(rf"turned {number}° .* at {number}°", words).groups()
            assert float(turn) == pytest.approx(side * turned(right, wrong), abs=0.1)
            assert float(descent) == pytest.approx(abs(turned(right, -case.g)), abs=0.06)
            (spent,) = re.search(rf"ΔᵀCΔ = {number} c", words).groups()
            assert float(spent) == pytest.approx(gallery.cost(case.G, wrong) / case.c, rel=6e-3)
            assert "-0.0°" not in words


def test_presets_are_what_they_say(case):
    square, missing, centred, on_sum = (preset.state for preset in case.scene.presets)
    assert [state["mistake"] for state in (square, missing, centred, on_sum)] == [1, 2, 4, 6]
    assert missing["damping"] == on_sum["damping"] == DAMPINGS[-1]
    at = case.table.at((SUM, len(DAMPINGS) - 1))
    undamped = case.table.at((NONE, 0))["right"][1]
    assert abs(turned(np.float64(undamped), np.float64(at["tip"]))) < 1.5  # hardly damped
    # The answer to its question: n times as large.
    np.testing.assert_allclose(case.step(SUM, case.n * 1.0), case.step(NONE, 1.0), rtol=1e-9)


def test_seed_chooses_the_batches_only(case):
    other = scenes.tabulate(bug_hunt(case.problem, seed=7)).arrays
    same = np.delete(np.arange(7), BATCHES)
    np.testing.assert_array_equal(other["tip"][same], case.table.arrays["tip"][same])
    assert np.abs(other["tip"][BATCHES] - case.table.arrays["tip"][BATCHES]).max() > 1e-3


def test_messages():
    problem = ef.logistic_regression(n=64)
    with pytest.raises(
        ValueError, match=r"`problem` must be one with params of shape \(2,\); got shape \(3,\)"
    ):
        bug_hunt(ef.logistic_regression(n=64, p=3))
    with pytest.raises(ValueError, match="`problem` must be one with an output_fn and a likelihood"):
        bug_hunt(problem._replace(likelihood=None))
    with pytest.raises(ValueError, match="`problem` must be one with 32 examples, two batches; got 31"):
        bug_hunt(ef.logistic_regression(n=31))
    with pytest.raises(ValueError, match=r"`budget` must be at most 0.04; got 0.05"):
        bug_hunt(problem, budget=0.05)
