"""The explorer without a browser: its state, its picture, its words, its answers to controls."""

import gc
import json
import sys
import time
from base64 import b64encode
from io import BytesIO
from math import sqrt
from threading import Semaphore
from time import sleep
from types import SimpleNamespace
from weakref import ref

import ipywidgets
import numpy as np
import pytest
import traitlets
from frontend import TURN, budget_slider, respond, run_cell, scene, tell
from matplotlib.image import imread

import efisher_teach as ef
from efisher_teach.browser import packing
from efisher_teach.browser.page import MIME, SWITCH
from efisher_teach.browser.states import choices
from efisher_teach.figures.paint import places
from efisher_teach.figures.scene import as_written


@pytest.fixture
def explorer():
    return ef.Explorer(scene())


@pytest.fixture
def controlled():
    def build(budget, kind):
        return scene(budget) if kind else 1 / 0

    return ef.Explorer(build, budget=budget_slider(), kind=ipywidgets.IntSlider(1, max=1))


def picture(explorer):
    return explorer.reply["forms"]["wide"]["picture"]


def test_axes_are_traits(explorer):
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]), names="turn")
    explorer.turn = 25.3
    assert seen == [25.3]
    assert explorer.state == {"turn": 25.0}  # the nearest place of the table
    assert explorer.numbers == {"spent": pytest.approx(0.1)}
    assert explorer.words == "Turned 25°, the step spends √c = 0.100."
    explorer.turn = 1000
    assert explorer.state == {"turn": 180.0}


def test_pictures_follow_the_state_and_are_saved(explorer, tmp_path):
    before = explorer.to_png()
    explorer.turn = 90
    assert imread(BytesIO(explorer.to_png())).shape[:2] == (600, 800)
    assert imread(BytesIO(explorer.to_png(ratio=1))).shape[:2] == (300, 400)
    for kind, start in {
        "png": b"\x89PNG",
        "svg": b"<?xml",
        "pdf": b"%PDF",
    }.items():  # by buttons: test_browser.py
        explorer.save(tmp_path / f"figure.{kind}")
        assert (tmp_path / f"figure.{kind}").read_bytes().startswith(start)
    assert explorer.to_png() != before
    explorer.turn = 0
    assert explorer.to_png() == before


def test_stored_are_picture_words_and_view(explorer, controlled, monkeypatch):
    row, figure = controlled.panel.children
    assert figure is controlled
    assert row.children == tuple(controlled.controls.values())
    assert explorer.panel is explorer
    for shown in (explorer, controlled):
        data, metadata = shown._repr_mimebundle_()
        assert data["text/plain"] == f"Does it move? {shown.words}"
        assert data["image/png"].startswith(b"\x89PNG")
        assert metadata["image/png"] == {"width": 400, "alt": data["text/plain"]}
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.panel.model_id
        assert MIME not in data
    monkeypatch.setenv(SWITCH, "1")
    controlled.turn = 30
    data, _ = controlled._repr_mimebundle_()
    reply = json.loads(json.dumps(data[MIME]))["reply"]
    assert reply["state"] == {"turn": 30.0}
    assert reply["controls"][0].items() >= {"name": "budget", "label": "c", "said": "0.01"}.items()
    assert set(reply["forms"]) == {"wide", "narrow"}
    assert set(controlled.reply["forms"]) == {"wide"}  # the live one is as it was


def test_a_control_is_answered_by_one_reply_with_the_same_picture(controlled, monkeypatch):
    monkeypatch.setattr(packing, "paint", lambda *_: pytest.fail("the background was drawn again"))
    before, replies = picture(controlled), []
    controlled.observe(lambda change: replies.append(change["new"]), names="reply")
    controlled.controls["budget"].value = 0.02
    assert [reply["serial"] for reply in replies] == [2]
    assert controlled.awaited == 2
    assert controlled.reply["error"] == ""
    assert controlled.numbers["spent"] == pytest.approx(sqrt(0.02))
    assert picture(controlled) == before


def test_no_sweep_for_garbage_falls_into_an_answer_or_between_two(monkeypatch):
    swept = []

    def build(budget):
        swept.append(gc.isenabled())
        return scene(budget)

    def until_swept():
        return any(gc.isenabled() or sleep(0.05) for _ in range(100))

    assert until_swept()
    explorer = ef.Explorer(build, budget=budget_slider())
    explorer.observe(lambda change: swept.append(gc.isenabled()), names="reply")
    for budget in (0.02, 0.03):
        explorer.controls["budget"].value = budget
        sleep(0.05)
        swept.append(gc.isenabled())
    assert swept == 7 * [False]
    assert until_swept()
    monkeypatch.setattr("efisher_teach.unswept.QUIET", 1000)
    for budget in np.linspace(0.01, 0.02, 10):  # but garbage does not pile up
        explorer.controls["budget"].value = budget
    assert until_swept()
    gc.disable()  # as some readers have it
    explorer.controls["budget"].value = 0.04
    assert not gc.isenabled()
    gc.enable()


def test_pictures_are_as_sharp_as_the_sharpest_view():
    top = ipywidgets.FloatSlider(0.3, min=0.1, max=0.9)
    explorer = ef.Explorer(lambda top: scene(top=top), top=top)

    def width():
        return imread(BytesIO(picture(explorer))).shape[1]

    sharp, serial = width(), explorer.reply["serial"]
    explorer.ratio = 1  # what is there is sharp enough
    assert explorer.reply["serial"] == serial
    top.value = 0.4
    assert (width(), explorer.reply["forms"]["wide"]["size"][0]) == (sharp // 2, sharp // 2)
    explorer.ratio = 2
    assert width() == sharp
    top.value = 0.5
    assert width() == sharp


@pytest.mark.parametrize("spec", ["", ".0f", "+.2f", ".1e"])
def test_numbers_are_called_in_words_what_each_of_them_is(spec):
    values = np.random.default_rng(0).normal(size=400).astype(np.float32) * np.logspace(-4, 4, 400)
    for each in (values, values[:2], values[:1]):
        said, index = packing._said(each, spec)
        assert [said[place] for place in index] == [as_written(float(value), spec) for value in each]
        assert said == sorted({*said})


def test_another_background_gets_another_picture_with_its_panels_where_they_stood():
    """A figure of its own would have other places: the labels of its ticks are shorter."""

    def panels(explorer):
        return places(explorer.shown.forms["wide"].painting.figure)

    top = ipywidgets.FloatSlider(500.0, max=1e9)
    explorer = ef.Explorer(lambda top: scene(top=top), top=top)
    before = panels(explorer)
    for shorter_or_longer in (5.0, 50.0):
        drawn = picture(explorer)
        top.value = shorter_or_longer
        assert picture(explorer) != drawn
        np.testing.assert_array_equal(panels(explorer), before)
        assert not np.allclose(panels(ef.Explorer(scene(top=shorter_or_longer))), before)
    top.value = 50_000.0  # no room is left
    assert not np.allclose(panels(explorer), before)


@pytest.mark.parametrize(
    ("control", "value", "message"),
    [("budget", 0.05, "ValueError: `budget` must be at most 0.04"), ("kind", 0, "ZeroDivisionError")],
)
def test_a_control_that_fails_gives_the_reason_and_goes_back(controlled, control, value, message):
    words, shown = controlled.words, controlled.controls[control].value
    controlled.controls[control].value = value
    assert controlled.reply["error"].startswith(message)
    assert controlled.controls[control].value == shown
    assert controlled.reply["serial"] == controlled.awaited
    assert controlled.words == words
    controlled.controls["budget"].value = 0.02  # and the next good value clears it
    assert controlled.reply["error"] == ""


def test_a_table_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(packing, "LIMIT", 10)
    with pytest.raises(ValueError, match=r"packs to \d+ bytes, at most 10 are sent; `tip` is the largest"):
        ef.Explorer(scene())


def renamed(name):
    """The scene with another name for its axis."""
    return scene()._replace(
        axes=(TURN._replace(name=name),),
        respond=lambda data, state: respond(data, {"turn": state[name]}),
        words=f"{{{name}}}",
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: setattr(x, "turn", float("nan")), traitlets.TraitError, "`turn` must be finite; got nan"),
        (lambda x: setattr(x, "turn", float("inf")), traitlets.TraitError, "`turn` must be finite; got inf"),
        (lambda x: x.restore(tilt=1), ValueError, "`tilt` must be an axis or a control .* it has: turn"),
        (lambda x: x.link(ef.Explorer(renamed("tilt"))), ValueError, "`names` must be .* got none in common"),
        (lambda x: x.link(x, "turn", "tilt"), ValueError, "got turn, tilt. They have turn and turn"),
        (lambda x: x.save("figure.gif"), ValueError, "`path` must end in .*; got 'figure.gif'"),
        (lambda x: ef.Explorer(scene(), a=budget_slider()), TypeError, "`scene` must be a function"),
        (lambda x: ef.Explorer(renamed("words")), ValueError, "`words` cannot name an axis"),
    ],
)
def test_messages(explorer, call, error, message):
    with pytest.raises(error, match=message):
        call(explorer)


def test_a_state_is_restored(controlled):
    controlled.restore(turn=30, budget=0.02)
    assert controlled.state == {"turn": 30.0}
    assert controlled.words == "Turned 30°, the step spends √c = 0.141."
    linked = ef.Explorer(scene())
    controlled.link(linked)  # moves in the browser: tested there
    controlled.hand = {"by": 1, "at": 2, "moved": {"turn": 3.0, "other": 4.0}}  # windows hear it of both
    assert linked.hand == {"by": 1, "at": 2, "moved": {"turn": 3.0}}
    tell(controlled, reset=True)
    assert controlled.controls["budget"].value == 0.01
    assert "√c = 0.100" in controlled.words


def test_a_page_holds_everything_and_escapes_it(tmp_path):
    hostile = ef.Explorer(scene()._replace(title="</script><b>"))
    hostile.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<!--" not in page
    assert "<b>" not in page
    assert page.count("</script>") == 1
    assert "://" not in page.replace("http://www.w3.org", "")  # letters alone may stand in base64


def test_a_page_has_the_states_of_the_controls_that_the_kernel_has():
    """Bit for bit; one control alone beside the first state, as all combinations would be too many."""
    options = {
        "budget": ipywidgets.FloatSlider(0.01, min=0.001, max=0.08, step=0.001, description="c"),
        "top": ipywidgets.Dropdown(options=[("near", 0.3), ("far", 0.6)], description="view"),
        "own": ipywidgets.FloatText(1.0, description="own"),
    }
    explorer = ef.Explorer(lambda budget, top, own: scene(budget, top), **options)
    page = explorer.for_page()["reply"]
    budget, top, own = page["controls"]
    assert (len(budget["choices"]), budget["choices"][budget["chosen"]]["code"]) == (12, "0.01")
    assert [each["said"] for each in top["choices"]] == ["near", "far"]
    assert "choices" not in own
    assert not page["together"]
    says = "12 of the 80 values of c", "Move one of the lists and sliders above", "Fixed on this page: own 1."
    assert all(each in page["note"] for each in says)
    assert len(page["states"]) == 11 + 1
    wide = picture(explorer)
    explorer.form = "narrow"
    assert explorer.reply["forms"].keys() == {"wide", "narrow"}
    assert picture(explorer) is wide
    for key, state in page["states"].items():
        places = zip((budget, top), map(int, key.split(",")), strict=True)
        chosen = {each["name"]: eval(each["choices"][place]["code"]) for each, place in places}
        explorer.restore(**chosen)
        if error := explorer.reply["error"]:
            assert state == {"error": error}
            continue
        live = json.loads(json.dumps(explorer.reply, default=lambda raw: b64encode(raw).decode()))
        assert state["words"] == live["words"]
        assert live["forms"].keys() == state["forms"].keys() == {"wide", "narrow"}
        for name, form in live["forms"].items():
            assert state["forms"][name]["table"] == form["table"]
            assert (state["forms"][name]["picture"] is None) == (chosen["top"] == 0.3)
        explorer.restore(budget=0.01, top=0.3)


TWELVE = [60, 200, 958, 1407, 1856, 2305, 2755, 3204, 3653, 4102, 4551, 5000]
CONTROLS = {
    ipywidgets.Checkbox(True): [False, True],
    ipywidgets.Dropdown(options={"a": 1, "b": 2}): [1, 2],
    ipywidgets.BoundedIntText(200, min=60, max=5000): TWELVE,
    ipywidgets.FloatLogSlider(1, min=-2, max=1, step=1): [0.01, 0.1, 1.0, 10.0],
    ipywidgets.Text("a"): [],
    ipywidgets.IntRangeSlider(value=(1, 2)): [],
}


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: type(control).__name__)
def test_choices_of_controls(control):
    found, _ = choices(control, control.value)
    assert [value for _, value in found] == pytest.approx(CONTROLS[control])


def test_where_no_ipywidgets_are_shown_an_explorer_shows_its_controls(monkeypatch):
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(running_in_notebook=lambda: True))
    budget = ipywidgets.FloatSlider(0.01, min=0.005, max=0.05, step=0.005)
    top = ipywidgets.Dropdown(options=[("near", 0.3), ("far", 0.6)], value=0.3)
    explorer = ef.Explorer(scene, budget=budget, top=top)
    assert explorer.panel is explorer
    tell(explorer, controls={"budget": 2, "top": 1})
    assert (budget.value, top.value) == (pytest.approx(0.015), 0.6)
    shown = explorer.reply["controls"]
    assert [each["choices"][each["chosen"]]["said"] for each in shown] == ["0.015", "far"]
    tell(explorer, controls={"budget": 9})
    assert "at most 0.04" in explorer.reply["error"]
    assert budget.value == pytest.approx(0.015)


def test_a_page_has_every_combination_of_few_choices_and_none_that_takes_long():
    def build(kind, top):
        return scene(0.01 * (1 + kind), top)

    few = {"kind": ipywidgets.IntSlider(1, max=2), "top": ipywidgets.Dropdown(options=[0.3, 0.6])}
    page = ef.Explorer(build, **few).for_page()["reply"]
    assert page["together"]
    assert sorted(page["states"]) == ["0,0", "0,1", "1,1", "2,0", "2,1"]
    slow = ef.Explorer(lambda kind, progress: scene(), kind=ipywidgets.IntSlider(1, max=2))
    slow = slow.for_page()["reply"]
    assert slow["states"] == {}
    assert slow["note"] == "Fixed on this page: kind 1. A kernel can change it."


# Computations that run beside the notebook


def wait(ready):
    return any(ready() or sleep(0.02) for _ in range(400))


def test_a_long_computation_reports_its_progress_and_is_cancelled():
    """A builder works in ten parts; `gate` lets it go on, one part each."""
    gate, reached = Semaphore(0), []

    def build(budget, progress):
        for part in range(10):
            progress(part / 10)
            reached.append(part)
            if budget > 0.01:
                assert gate.acquire(timeout=20)
        return scene(budget)

    explorer = ef.Explorer(build, budget=budget_slider())
    explorer.controls["budget"].value = 0.02  # comes back at once
    assert explorer.awaited == 2
    gate.release(3)
    assert wait(lambda: explorer.progress == 0.3)
    assert explorer.reply["serial"] == 1  # still what it was
    gate.release(7)
    assert wait(lambda: explorer.reply["serial"] == 2)
    assert explorer.progress == -1
    words = explorer.words
    assert "√c = 0.141" in words
    explorer.controls["budget"].value = 0.03
    gate.release(2)
    assert wait(lambda: explorer.progress == 0.2)
    tell(explorer, cancel=True)
    assert explorer.controls["budget"].value == 0.02
    assert explorer.reply["serial"] == explorer.awaited == 3
    assert explorer.words == words
    before = len(reached)
    gate.release(20)
    sleep(0.2)
    assert len(reached) <= before + 1, "it went on"
    assert explorer.reply["serial"] == 3


def test_a_late_answer_does_not_replace_a_newer_one():
    gate, answered = Semaphore(0), []

    def build(budget, progress):
        if budget == 0.02:
            assert gate.acquire(timeout=20)
        answered.append(budget)
        return scene(budget)

    explorer = ef.Explorer(build, budget=budget_slider())
    for budget in (0.02, 0.03):
        explorer.controls["budget"].value = budget
    assert wait(lambda: "√c = 0.173" in explorer.words)
    gate.release()
    assert wait(lambda: 0.02 in answered)
    sleep(0.2)
    assert "√c = 0.173" in explorer.words
    assert explorer.reply["serial"] == 2


# Memory


def test_a_cell_that_runs_again_frees_what_it_made(monkeypatch):
    run_cell(monkeypatch, "a", "1")
    first, second = ef.Explorer(scene, budget=budget_slider()), ef.Explorer(scene())
    run_cell(monkeypatch, "b", "2")
    elsewhere = ef.Explorer(scene())
    run_cell(monkeypatch, "a", "3")
    fresh = ef.Explorer(scene())
    for old in (first, second):
        assert old.comm is None
        with pytest.raises(RuntimeError, match="closed: its cell ran again"):
            old.words  # noqa: B018
        assert old.reply == {}
    first.controls["budget"].value = 0.02  # of the learner, and may live on; nobody listens
    assert elsewhere.words
    assert fresh.words


def growth(run, first, last):
    """Containers that Python holds more after run(first) … run(last - 1), once it has run a few times; per run."""

    def held():
        gc.collect()
        time.sleep(0.2)  # beside the sweep of another thread Python makes none, so let that one end
        gc.collect()
        return len(gc.get_objects())

    for i in range(first):
        run(i)
    before = held()
    for i in range(first, last):
        run(i)
    return (held() - before) / (last - first)


def test_cells_that_run_again_leave_nothing_behind(monkeypatch):
    shown, mine = scene(), budget_slider()  # the learner's own slider lives on
    made, still = [], ef.Explorer(scene())

    def run(i):
        run_cell(monkeypatch, "loop", str(i))
        explorer = ef.Explorer(lambda budget: shown, budget=mine)
        explorer.to_png()
        explorer.link(still)
        made.append(ref(explorer))

    assert growth(run, 4, 12) < 30  # weak references and links: an explorer that stays has 150
    assert [explorer() for explorer in made[:-1]] == [None] * (len(made) - 1)


def test_moves_leave_nothing_behind(controlled):
    def run(i):
        controlled.turn = i % 180
        controlled.controls["budget"].value = 0.01 + 0.0001 * i

    assert growth(run, 10, 40) < 1
