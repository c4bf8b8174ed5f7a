"""The explorer without a browser: its state, its picture, its words, its answers to controls."""

from io import BytesIO

import ipywidgets
import numpy as np
import pytest
import traitlets
from matplotlib.image import imread

import efisher_teach as ef
from efisher_teach import explorer as room
from efisher_teach import scenes


@pytest.fixture(scope="module")
def problem():
    return ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5)


@pytest.fixture
def explorer(problem):
    return ef.Explorer(scenes.ellipsoid(problem))


@pytest.fixture
def controlled(problem):
    def build(budget, kind):
        return scenes.ellipsoid(problem, budget=budget) if kind else 1 / 0

    return ef.Explorer(
        build, budget=ipywidgets.FloatSlider(0.01, min=0.001, max=0.1), kind=ipywidgets.IntSlider(1, max=1)
    )


def test_axes_are_traits(explorer):
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]), names="turn")
    explorer.turn = 25.3
    assert seen == [25.3]
    assert explorer.state == {"turn": 25.0}  # the nearest place of the table
    assert explorer.numbers["score"] > explorer.numbers["descent_score"]
    assert "Turned 25°" in explorer.words


def test_values_beyond_the_axis_stand_for_its_end(explorer):
    explorer.turn = 1000
    assert explorer.state == {"turn": 180.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(explorer, value):
    with pytest.raises(traitlets.TraitError, match="`turn` must be finite"):
        explorer.turn = value


def test_picture_follows_the_state(explorer):
    before = explorer.to_png()
    explorer.turn = 90
    after = explorer.to_png()
    assert imread(BytesIO(after)).shape[:2] == (920, 2000)
    assert before != after
    explorer.turn = 0
    assert explorer.to_png() == before


def test_what_is_stored(explorer, controlled):
    for shown in (explorer, controlled):
        data, metadata = shown._repr_mimebundle_()
        assert data["text/plain"] == f"{shown.scene.title}. {shown.words}"
        assert data["image/png"].startswith(b"\x89PNG")
        assert metadata["image/png"]["alt"] == data["text/plain"]
        view = data["application/vnd.jupyter.widget-view+json"]
        assert view["model_id"] == shown.panel.model_id


def test_panel_holds_controls_and_figure(explorer, controlled):
    assert explorer.panel is explorer
    assert controlled.panel.children[1] is controlled
    assert controlled.panel.children[0].children == tuple(controlled.controls.values())


def test_a_control_is_answered_by_one_reply(controlled):
    replies = []
    controlled.observe(lambda change: replies.append(change["new"]), names="_reply")
    controlled.controls["budget"].value = 0.02
    assert [reply["serial"] for reply in replies] == [2]
    assert controlled._busy == 2
    assert controlled.numbers["cost"] == pytest.approx(np.sqrt(0.02), rel=1e-5)


def test_a_budget_needs_no_new_picture(controlled, monkeypatch):
    monkeypatch.setattr(room, "paint", lambda *_: pytest.fail("the background was drawn again"))
    picture = controlled._reply["picture"]
    controlled.controls["budget"].value = 0.03
    assert controlled._reply["error"] == ""
    assert controlled._reply["picture"] == picture


def test_other_data_get_a_new_picture(problem):
    seed = ipywidgets.IntSlider(0, max=3)
    explorer = ef.Explorer(
        lambda seed: scenes.ellipsoid(ef.descend(ef.breast_cancer(seed=seed), steps=6)), seed=seed
    )
    picture = explorer._reply["picture"]
    seed.value = 1
    assert explorer._reply["picture"] != picture


@pytest.mark.parametrize(
    ("control", "value", "message"),
    [("budget", 0.05, "ValueError: `budget` must be at most 0.04"), ("kind", 0, "ZeroDivisionError")],
)
def test_a_control_that_fails_says_so_and_goes_back(controlled, control, value, message):
    words, good = controlled.words, controlled.controls[control].value
    controlled.controls[control].value = value
    assert controlled._reply["error"].startswith(message)
    assert controlled.controls[control].value == good
    assert controlled._reply["serial"] == controlled._busy
    assert controlled.words == words
    controlled.controls["budget"].value = 0.02  # and the next good value clears it
    assert controlled._reply["error"] == ""


def test_controls_need_a_function(problem):
    with pytest.raises(TypeError, match="`scene` must be a function"):
        ef.Explorer(scenes.ellipsoid(problem), budget=ipywidgets.FloatSlider())


def test_a_table_that_is_too_large_is_refused(problem, monkeypatch):
    monkeypatch.setattr(room, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"packs to \d+ bytes, at most 1000 are sent; `\w+` is the largest"):
        ef.Explorer(scenes.ellipsoid(problem))
