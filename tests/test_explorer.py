"""The explorer without a browser: its state, its picture, its words, its answers to controls."""

import gc
import tracemalloc
from io import BytesIO
from threading import Semaphore
from time import sleep
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import traitlets
from matplotlib.image import imread

import efisher_teach as ef
from efisher_teach.browser import packing as room
from efisher_teach.browser import rerun
from efisher_teach.figures import scenes
from efisher_teach.figures.scenes.the_best_step import respond


@pytest.fixture(scope="module")
def problem():
    return ef.descend(ef.breast_cancer(), steps=6, learning_rate=0.5)


@pytest.fixture
def explorer(problem):
    return ef.Explorer(scenes.the_best_step(problem))


@pytest.fixture
def controlled(problem):
    def build(budget, kind):
        return scenes.the_best_step(problem, budget=budget) if kind else 1 / 0

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
    assert imread(BytesIO(after)).shape[:2] == (1120, 2000)
    assert before != after
    explorer.turn = 0
    assert explorer.to_png() == before


def test_what_is_stored(explorer, controlled):
    for shown in (explorer, controlled):
        data, metadata = shown._repr_mimebundle_()
        assert data["text/plain"] == f"{shown.scene.title}. {shown.words}".replace("?. ", "? ")
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
    picture = controlled._reply["forms"]["wide"]["picture"]
    controlled.controls["budget"].value = 0.03
    assert controlled._reply["error"] == ""
    assert controlled._reply["forms"]["wide"]["picture"] == picture


def test_other_data_get_a_new_picture(problem):
    seed = ipywidgets.IntSlider(0, max=3)
    explorer = ef.Explorer(
        lambda seed: scenes.the_best_step(ef.descend(ef.breast_cancer(seed=seed), steps=6)), seed=seed
    )
    picture = explorer._reply["forms"]["wide"]["picture"]
    seed.value = 1
    assert explorer._reply["forms"]["wide"]["picture"] != picture


def test_panels_stand_still_while_a_control_moves():
    """Alone, the second figure would have other places: the labels of its ticks are shorter."""

    def draw(figure, background, arrays):
        scenes.scene.panels(figure, "A", "A")["A"].set_ylim(0, float(background["top"]))
        return {}

    axis = scenes.Axis("length", "length", np.array([0.0, 1.0, 2.0]), 0.0, str)

    def build(top):
        data = np.float32(top)
        return scenes.Scene("", (axis,), data, lambda top: {"top": top}, lambda *of: {}, draw, "", (4.0, 3.0))

    def stand(explorer):
        return room.places(explorer._shown.forms["wide"].painting.figure)

    control = ipywidgets.FloatSlider(500.0, max=1e9)
    explorer = ef.Explorer(build, top=control)
    before = stand(explorer)
    for top in (5.0, 50.0):  # shorter labels, then longer ones: there is still room
        control.value = top
        np.testing.assert_array_equal(stand(explorer), before)
        assert not np.allclose(stand(ef.Explorer(build(5.0))), before)
    control.value = 50_000.0
    assert not np.allclose(stand(explorer), before)


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
        ef.Explorer(scenes.the_best_step(problem), budget=ipywidgets.FloatSlider())


def test_an_axis_cannot_be_called_words(problem):
    scene = scenes.the_best_step(problem)
    renamed = scene._replace(
        axes=(scene.axes[0]._replace(name="words"),), respond=turned, words="{words}", handles=()
    )
    with pytest.raises(ValueError, match="`words` cannot name an axis"):
        ef.Explorer(renamed)


def turned(data, state):
    return respond(data, {"turn": state["words"]})


def test_a_table_that_is_too_large_is_refused(problem, monkeypatch):
    monkeypatch.setattr(room, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"packs to \d+ bytes, at most 1000 are sent; `\w+` is the largest"):
        ef.Explorer(scenes.the_best_step(problem))


# What the bar of buttons, other cells and other explorers do


def test_a_state_is_restored(controlled):
    controlled.restore(turn=30, budget=0.02)
    assert controlled.state == {"turn": 30.0}
    assert controlled.controls["budget"].value == 0.02
    assert "spend √c = 0.141" in controlled.words
    with pytest.raises(
        ValueError, match=r"`tilt` must be an axis or a control .* it has: turn, budget, kind"
    ):
        controlled.restore(tilt=1)


def test_linked_explorers_share_axes(explorer, problem):
    other = ef.Explorer(scenes.damping(ef.linear_regression()))
    with pytest.raises(ValueError, match="`names` must be axes of both explorers; got none in common"):
        explorer.link(other)
    with pytest.raises(ValueError, match=r"got turn. They have turn and damping"):
        explorer.link(other, "turn")
    explorer.link(
        ef.Explorer(scenes.the_best_step(problem, budget=0.02))
    )  # moves in the browser: tested there


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_saved(explorer, tmp_path, kind, start):
    explorer.save(tmp_path / f"figure.{kind}")
    assert (tmp_path / f"figure.{kind}").read_bytes().startswith(start)
    sent = []
    explorer.send = lambda content, buffers: sent.append((content, buffers))
    explorer._told(explorer, {"save": kind}, [])
    (content, (data,)) = sent[0]
    assert content["file"] == f"figure.{kind}"
    assert data.startswith(start)


def test_other_files_are_refused(explorer, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .png, .svg, .pdf or .html; got 'figure.gif'"):
        explorer.save(tmp_path / "figure.gif")


def test_page_holds_everything(controlled, tmp_path):
    controlled.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(page) < 1_500_000
    assert "<!--" not in page
    assert '"label": "budget", "said": "0.01"' in page
    assert "://" not in page.replace("http://www.w3.org", "")  # letters alone may stand in base64
    assert controlled._asked == "wide"  # the live one is as it was


def test_narrow_form_is_drawn_when_it_is_asked_for(controlled):
    assert set(controlled._reply["forms"]) == {"wide"}
    wide = controlled._reply["forms"]["wide"]["picture"]
    controlled._asked = "narrow"
    assert set(controlled._reply["forms"]) == {"wide", "narrow"}
    assert controlled._reply["forms"]["wide"]["picture"] is wide
    assert controlled._reply["forms"]["narrow"]["size"] == [480, 1060]
    controlled.controls["budget"].value = 0.02
    assert set(controlled._reply["forms"]) == {"wide", "narrow"}


def test_reset_brings_the_controls_back(controlled):
    controlled.controls["budget"].value = 0.02
    controlled._told(controlled, {"reset": True}, [])
    assert controlled.controls["budget"].value == 0.01
    assert "√c = 0.100" in controlled.words


@pytest.fixture
def slow(problem):
    """An explorer whose builder works in ten parts; `gate` lets it go on, one part each."""
    gate, reached = Semaphore(0), []

    def build(budget, progress):
        for part in range(10):
            progress(part / 10)
            reached.append(part)
            if budget > 0.01:
                assert gate.acquire(timeout=20)
        return scenes.the_best_step(problem, budget=budget)

    return ef.Explorer(build, budget=ipywidgets.FloatSlider(0.01, min=0.001, max=0.1)), gate, reached


def wait(ready):
    for _ in range(400):
        if ready():
            return True
        sleep(0.02)
    return False


def test_a_long_computation_tells_how_far_it_is(slow):
    explorer, gate, _ = slow
    explorer.controls["budget"].value = 0.02  # comes back at once
    assert explorer._busy == 2
    gate.release(3)
    assert wait(lambda: explorer._progress == 0.3)
    assert explorer._reply["serial"] == 1  # still what it was
    gate.release(10)
    assert wait(lambda: explorer._reply["serial"] == 2)
    assert explorer._progress == -1
    assert "√c = 0.141" in explorer.words


def test_a_long_computation_is_cancelled(slow):
    explorer, gate, reached = slow
    words = explorer.words
    explorer.controls["budget"].value = 0.02
    gate.release(2)
    assert wait(lambda: explorer._progress == 0.2)
    explorer._told(explorer, {"cancel": True}, [])
    assert explorer.controls["budget"].value == 0.01
    assert explorer._reply["serial"] == explorer._busy == 2
    assert explorer.words == words
    gate.release(20)
    before = len(reached)
    sleep(0.2)
    assert len(reached) <= before + 1, "it went on"
    assert explorer._reply["serial"] == 2


def test_a_newer_request_replaces_a_long_computation(slow):
    explorer, gate, _ = slow
    explorer.controls["budget"].value = 0.02
    explorer.controls["budget"].value = 0.03
    gate.release(30)
    assert wait(lambda: "√c = 0.173" in explorer.words)
    sleep(0.2)
    assert "√c = 0.173" in explorer.words
    assert explorer._reply["serial"] == 2


def in_cell(monkeypatch, cell, run):
    """Pretend that a cell is running."""
    shell = SimpleNamespace(get_parent=lambda: {"metadata": {"cellId": cell}, "header": {"msg_id": run}})
    monkeypatch.setattr(rerun, "get_ipython", lambda: shell)


def test_a_cell_that_runs_again_frees_what_it_made(problem, monkeypatch):
    def build(budget):
        return scenes.the_best_step(problem, budget=budget)

    in_cell(monkeypatch, "a", "1")
    first, second = (
        ef.Explorer(build, budget=ipywidgets.FloatSlider(0.01, max=0.04)),
        ef.Explorer(build(0.02)),
    )
    in_cell(monkeypatch, "b", "2")
    elsewhere = ef.Explorer(build(0.01))
    in_cell(monkeypatch, "a", "3")
    fresh = ef.Explorer(build(0.03))
    for old in (first, second):
        assert old.comm is None
        with pytest.raises(RuntimeError, match="closed: its cell ran again"):
            old.words  # noqa: B018
        assert old._reply == {}
    first.controls["budget"].value = 0.02  # of the learner, and may live on; nobody listens
    assert elsewhere.words
    assert fresh.words


def growth(run, first, last):
    """Bytes that Python holds more after run(first) … run(last - 1), once it has run a few times."""
    tracemalloc.start()
    for i in range(first):
        run(i)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(first, last):
        run(i)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


def test_cells_that_run_again_leave_nothing_behind(problem, monkeypatch):
    scene = scenes.the_best_step(problem)

    def run(i):
        in_cell(monkeypatch, "loop", str(i))
        explorer = ef.Explorer(lambda budget: scene, budget=ipywidgets.FloatSlider(0.01, max=0.04))
        explorer.to_png()

    assert growth(run, 4, 24) < 1_000_000  # what is left is the learner's own slider


def test_moves_leave_nothing_behind(controlled):
    def run(i):
        controlled.turn = i % 180
        controlled.controls["budget"].value = 0.01 + 0.0001 * (i % 90)

    assert growth(run, 100, 300) < 100_000
