"""Smoke: what the other tests hold in Chromium holds in Firefox, on a page and in JupyterLab."""

import shutil
from pathlib import Path

import firefox
import gallery
import lab
import pytest
from test_page import drawn

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
LIVE = ".ef-explorer[data-serial]"
SLIDER = f"{LIVE} .ef-axis input"


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    with firefox.browser(tmp_path_factory.mktemp("profile")) as fox:
        yield fox


def moved(fox, key):
    """Press a key on the slider, and read what comes of it, when it has come."""
    before = fox.ask(lab.READ, LIVE)["state"]
    fox.press(SLIDER, key)
    assert lab.until(lambda: fox.ask(lab.READ, LIVE)["state"] != before, 30), (key, before)
    return fox.ask(lab.READ, LIVE)


def test_a_page_draws_its_picture_and_says_its_words(fox, tmp_path):
    name = "the_best_step"
    shown = gallery.explorer(name).shown
    gallery.explorer(name).to_html(tmp_path / "page.html")
    fox.open((tmp_path / "page.html").as_uri())
    fox.wait_for(LIVE)
    seen = [fox.ask(lab.READ, LIVE), *(moved(fox, key) for key in ("Home", "ArrowRight", "PageUp"))]
    for moment in seen:
        assert moment["words"] == shown.say(tuple(moment["state"]))
        assert moment["label"].endswith(moment["words"])
    assert len({moment["pixels"] for moment in seen}) == len({moment["words"] for moment in seen}) == 4
    ours, theirs = fox.photograph(".ef-figure"), drawn(name, tuple(seen[-1]["state"]), "wide")
    assert lab.apart(ours, theirs) <= 4
    assert fox.troubles == []


@pytest.mark.heavy
def test_jupyterlab_runs_a_lesson_whose_figure_moves(fox, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", tmp_path / "notebooks")
    with lab.server(tmp_path) as (url, token, log):
        fox.open(f"{url}lab/workspaces/fox/tree/notebooks/00_start_here.ipynb?reset&token={token}")
        fox.wait_for(".jp-Notebook-ExecutionIndicator[data-status='idle']")
        fox.click(".jp-MarkdownCell")
        fox.click(".lm-MenuBar-item:nth-child(4)", "Run")
        fox.click(".lm-Menu-item:not(.lm-mod-disabled)[data-command='runmenu:run-all']")
        fox.wait_for(".ef-ask")
        assert lab.until(lambda: fox.ask(lab.ALL_RUN), 120)
        fox.click(".ef-ask label")
        fox.click(".ef-ask button")
        fox.wait_for(LIVE)
        seen = [moved(fox, key) for key in ("Home", "PageUp", "End")]
        assert len({moment["pixels"] for moment in seen}) == len({moment["words"] for moment in seen}) == 3
        desk = lab.Desk(tmp_path, url, token, log, None, fox.troubles)
        words = "import json; print(json.dumps(explorer.words))"
        assert lab.until(lambda: desk.ask(words) == seen[-1]["words"])
        assert desk.problems() == []
