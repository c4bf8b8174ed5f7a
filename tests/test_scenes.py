"""Every scene, swept over every slider: its mathematics holds on the whole table, against NumPy in float64."""

import re
from functools import cache
from string import Formatter

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import efisher_teach as ef
from efisher_teach import scenes
from efisher_teach.scenes import scene as room

TWO = {
    "breast cancer": lambda: ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5),
    "logistic": lambda: ef.descend(ef.logistic_regression(seed=3), steps=2, learning_rate=0.5),
    "linear": lambda: ef.descend(ef.linear_regression(seed=1), steps=1, learning_rate=0.3),
}
MANY = {
    "30 features": lambda: ef.descend(ef.breast_cancer(None), steps=50, learning_rate=0.5),
    "2 features": TWO["breast cancer"],
    "wide": lambda: ef.logistic_regression(n=40, p=60, seed=2),
}
ELLIPSOIDS = [("ellipsoid", name, budget) for name in TWO for budget in (0.002, 0.04)]
DAMPINGS = [("damping", name, budget) for name in MANY for budget in (0.002, 0.04)]


@cache
def look(kind, name, budget):
    """A scene, its table, its budget, G in float64, and the problem."""
    problem = (TWO if kind == "ellipsoid" else MANY)[name]()
    scene = getattr(scenes, kind)(problem, budget=budget)
    G = np.float64(ef.per_example_gradients(problem.loss_fn, problem.params, problem.x, problem.y))
    return scene, scenes.tabulate(scene), budget, G, problem


@pytest.fixture(params=ELLIPSOIDS + DAMPINGS, ids=lambda case: " ".join(map(str, case)))
def case(request):
    return look(*request.param)


@pytest.fixture(params=ELLIPSOIDS, ids=lambda case: " ".join(map(str, case)))
def lagrange(request):
    return look(*request.param)


@pytest.fixture(params=DAMPINGS, ids=lambda case: " ".join(map(str, case)))
def damped(request):
    return look(*request.param)


def cost(G, delta):
    return np.mean((delta @ G.T) ** 2, axis=-1)


def true_change(problem, delta):
    return float(ef.mean_loss(problem, problem.params + delta) - ef.mean_loss(problem, problem.params))


# All scenes


def test_table_is_finite_and_equals_single_states(case):
    scene, table, *_ = case
    axis = scene.axes[0]
    for i in (0, len(axis.values) // 3, len(axis.values) - 1):
        alone = scene.respond(scene.data, {axis.name: np.float32(axis.values[i])})
        for name, array in table.at((i,)).items():
            assert np.isfinite(array).all()
            np.testing.assert_allclose(array, alone[name], rtol=2e-3, atol=2e-3 * np.abs(alone[name]).max())


def test_cost_is_the_budget_at_every_place(case):
    _, table, budget, *_ = case
    np.testing.assert_allclose(table.arrays["cost"] ** 2, budget, rtol=1e-5)


def test_words_are_the_numbers_of_the_table(case):
    scene, table, *_ = case
    explorer = ef.Explorer(scene)
    axis = scene.axes[0]
    for i in range(0, len(axis.values), 7):
        setattr(explorer, axis.name, float(axis.values[i]))
        numbers = {name: float(array) for name, array in table.at((i,)).items() if array.ndim == 0}
        said = scene.words.format(**numbers | {axis.name: "¤"})
        assert explorer.words == re.sub(r"-(?=\d)", "−", said).replace("¤", axis.say(axis.values[i]))


def test_packed_table_is_small(case):
    reply = ef.Explorer(case[0])._reply
    assert len(reply["table"]) <= 100_000  # 300 kB is the limit


def test_moving_arrays_are_drawn_and_numbers_are_said(case):
    scene, table, *_ = case
    _, artists = scenes.paint(scene, table, (0,))
    said = {field for _, field, _, _ in Formatter().parse(scene.words) if field} - {
        axis.name for axis in scene.axes
    }
    assert set(artists) | said == set(table.arrays)


def test_background_does_not_depend_on_the_budget(case):
    scene, table, *_ = case
    again = scenes.tabulate(scene._replace(data=scene.data | {"budget": 0.013}))
    for name, array in table.background.items():
        np.testing.assert_array_equal(array, again.background[name])


def test_drawing_leaves_matplotlib_as_it_was(case):
    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    scenes.paint(case[0], case[1], (0,))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_drawn_data_are_the_data_passed(case):
    scene, table, *_ = case
    figure, artists = scenes.paint(scene, table, (3,))
    for name, artist in artists.items():
        points = table.at((3,))[name]
        if isinstance(artist, mpl.lines.Line2D):
            np.testing.assert_allclose(artist.get_xydata(), points.reshape(-1, 2), rtol=1e-6)
        view = artist.axes.transAxes.inverted().transform(
            artist.axes.transData.transform(points.reshape(-1, 2))
        )
        assert (abs(view - 0.5) <= 0.5001).all(axis=1).any(), f"{name} is out of view"
    assert figure.axes


# Beat Lagrange


def test_candidates_lie_on_the_ellipse(lagrange):
    _, table, budget, G, _ = lagrange
    np.testing.assert_allclose(cost(G, np.float64(table.arrays["tip"])), budget, rtol=1e-5)
    np.testing.assert_allclose(cost(G, np.float64(table.arrays["ellipse"])), budget, rtol=1e-5)


def test_no_candidate_beats_lagrange(lagrange):
    _, table, *_ = lagrange
    assert table.arrays["score"].max() <= 100.001
    assert (
        table.arrays["score"].max() >= 99.99
    )  # a place on the slider is at most half a degree from the best
    assert np.abs(table.arrays["score"].min() + 100) < 0.01  # the other end is the steepest ascent


def test_level_line_touches_only_at_the_best(lagrange):
    _, table, _, G, _ = lagrange
    g = G.mean(axis=0)
    promised = table.arrays["ellipse"] @ g
    for i, level in enumerate(table.arrays["level"]):
        np.testing.assert_allclose(level @ g, table.arrays["tip"][i] @ g, rtol=1e-3, atol=1e-5)
        better = (
            promised < table.arrays["tip"][i] @ g - 1e-6
        ).mean()  # the part of the ellipse beyond the line
        angle = np.degrees(np.arccos(np.clip(table.arrays["score"][i] / 100, -1, 1)))
        assert abs(better - angle / 180) < 0.01


def test_turn_zero_is_gradient_descent(lagrange):
    scene, table, budget, G, _ = lagrange
    g = G.mean(axis=0)
    descent = -g * np.sqrt(budget / cost(G, g))
    place = scene.axes[0].nearest(0)
    np.testing.assert_allclose(
        table.arrays["tip"][place], descent, rtol=1e-3, atol=1e-4 * np.abs(descent).max()
    )


def test_true_loss_of_the_candidates(lagrange):
    _, table, _, _, problem = lagrange
    for i in (0, 90, 200):
        assert table.arrays["actual"][i] == pytest.approx(
            true_change(problem, table.arrays["tip"][i]), abs=2e-6
        )


# Damping


def reference(G, epsilon, budget):
    """The step of one budget by a dense solve in float64."""
    C, g = G.T @ G / len(G), G.mean(axis=0)
    u = np.linalg.solve(C + epsilon * np.eye(len(C)), g)
    return -u * np.sqrt(budget / cost(G, u))


def test_steps_against_a_dense_solve(damped):
    scene, table, budget, G, problem = damped
    for i in range(20, 161, 28):
        delta = reference(G, scene.axes[0].values[i], budget)
        # float32 sees a singular value to 1e-7 of the largest: at ε = 1e-6 the smallest kept ones to 1e-3
        np.testing.assert_allclose(table.arrays["length"][i], np.linalg.norm(delta), rtol=3e-3)
        heights = table.arrays["bars"][i, :, 1, 1]
        np.testing.assert_allclose(
            heights, (G @ delta)[: len(heights)] / np.sqrt(budget), rtol=3e-3, atol=3e-3
        )
        assert table.arrays["actual"][i] == pytest.approx(true_change(problem, np.float32(delta)), abs=2e-4)


def test_bound_on_the_length(damped):
    _, table, *_ = damped
    assert (table.arrays["length"] <= table.arrays["bound"] * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("name", "sign"), [("length", -1), ("turn", -1), ("predicted", 1), ("kept_least", -1)]
)
def test_monotone_in_damping(damped, name, sign):
    array = damped[1].arrays[name]
    slack = 1e-3 if name == "turn" else 1e-4  # an angle near 0 is the root of a rounding error
    assert (np.diff(array) * sign >= -slack * np.abs(array).max()).all()


def test_filter_is_what_is_kept(damped):
    scene, table, _, G, _ = damped
    eigenvalues = np.linalg.svd(G, compute_uv=False) ** 2 / len(G)
    for i in (0, 60, 160):
        kept = eigenvalues / (eigenvalues + scene.axes[0].values[i])
        np.testing.assert_allclose(table.arrays["kept"][i, :, 1], kept, rtol=1e-2, atol=1e-4)


def test_path_runs_from_undamped_to_descent(damped):
    _, table, *_ = damped
    path, undamped, descent = (table.arrays[name] for name in ("path", "undamped", "descent"))
    scale = np.abs(undamped).max()
    np.testing.assert_allclose(path[-1], descent[1], atol=0.05 * scale)
    assert np.linalg.norm(path[0] - undamped[1]) < np.linalg.norm(path[-1] - undamped[1])


# Bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: scenes.ellipsoid(ef.breast_cancer(None)),
            r"`problem` must be one with params of shape \(2,\)",
        ),
        (lambda: scenes.damping(ef.digits()), r"`problem` must be one with params of shape \(p,\)"),
        (
            lambda: scenes.damping(ef.breast_cancer()._replace(x_test=None)),
            "`problem` must be one with held-out",
        ),
        (
            lambda: scenes.damping(ef.linear_regression(n=20)),
            "`problem` must be one with 36 examples; got 20",
        ),
        (
            lambda: scenes.ellipsoid(ef.breast_cancer(), budget=0.05),
            "`budget` must be at most 0.04; got 0.05",
        ),
        (
            lambda: scenes.damping(ef.breast_cancer(), budget=0.0),
            "`budget` must be finite and greater than 0; got 0",
        ),
    ],
)
def test_messages(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_not_finite_is_named():
    scene = scenes.damping(TWO["breast cancer"]())
    broken = scene._replace(respond=not_finite)
    with pytest.raises(
        ValueError, match=r"`length` of the scene 'Damping.* is not finite at damping = 1e-07"
    ):
        scenes.tabulate(broken)


def not_finite(data, state):
    return {"length": np.nan * state["damping"]}


def test_a_still_artist_over_a_moving_one_is_refused():
    scene = scenes.ellipsoid(TWO["breast cancer"]())

    def draw(figure, background, arrays):
        artists = scene.draw(figure, background, arrays)
        figure.axes[0].text(0, 0, "above", zorder=room.MOVING + 5)
        return artists

    with pytest.raises(ValueError, match="stands still but has z-order 15"):
        scenes.paint(scene._replace(draw=draw), scenes.tabulate(scene), (0,))


def test_each_array_is_computed_over_its_own_axes():
    def respond(data, state):
        return {"a": state["x"] + 1.0, "b": state["x"] * state["y"], "c": data + 0.0, "d": state["y"] * 2.0}

    axes = (
        scenes.Axis("x", "x", np.arange(3.0), 0, str),
        scenes.Axis("y", "y", np.arange(4.0), 0, str),
    )
    scene = scenes.Scene("toy", axes, np.float32(5), lambda data: {}, respond, lambda *_: {}, "", (1, 1))
    table = scenes.tabulate(scene)
    assert table.depends == {"a": (0,), "b": (0, 1), "c": (), "d": (1,)}
    assert table.arrays["b"].shape == (3, 4)
    assert table.at((2, 3))["b"] == 6


# The race: its runs come from outside


def fake_runs(steps=20):
    """Losses that fall at known rates, and one run that blew up after seven steps."""
    fall = lambda rate: np.exp(-rate * np.arange(steps))  # noqa: E731
    trial = lambda rate: ef.Trial(fall(rate), 0.01 / (1 + rate), None)  # noqa: E731
    rivals = {
        name: {rate: trial(rate) for rate in (0.1, 0.2 + i / 50)} for i, name in enumerate(rivals_named())
    }
    ours = {e: {c: trial(c / (1 + e)) for c in (0.1, 0.3)} for e in (0.01, 1.0, 10.0)}
    ours[0.01][0.3] = ef.Trial(np.r_[np.ones(6), np.nan], 0.01, None)
    return rivals, ours


def rivals_named():
    return ("descent", "adam", "natural")


def test_race_shows_the_best_of_each_and_the_run_of_the_sliders():
    rivals, ours = fake_runs()
    scene = scenes.race(rivals, ours, damping=1.0)
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


def test_race_is_said_and_drawn():
    scene = scenes.race(*fake_runs(), damping=10.0)
    table = scenes.tabulate(scene)
    _, artists = scenes.paint(scene, table, (0, 0, 0))
    said = {field for _, field, _, _ in Formatter().parse(scene.words) if field} - {
        "step",
        "damping",
        "budget",
    }
    assert set(artists) | said == set(table.arrays)
    explorer = ef.Explorer(scene)
    explorer.step, explorer.damping, explorer.budget = 8, 1.0, 0.1
    assert explorer.words.startswith(
        "After 8 steps the training loss is 0.45 with SGD, 0.41 with Adam and 0.38"
    )
    assert "ε = 1, c = 0.1" in explorer.words
    assert len(explorer._reply["table"]) < 20_000


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
        scenes.race(rivals, ours, damping=1.0)
