"""A lesson in JupyterLab and in Voilà: it moves; what axe-core says of it, in all looks; and right to left."""

import re

import lab
import nbformat
import pytest
from test_browser import START, desk

__all__ = ["desk"]  # a fixture
pytestmark = [pytest.mark.browser, pytest.mark.heavy]
LOOKS = [(width, scheme) for width in (320, 390, 1366) for scheme in ("light", "dark")]
WITH_CONTROLS = """
import ipywidgets
budget = ipywidgets.FloatSlider(-0.01, min=-0.04, max=-0.005, step=0.005, description="−c")
whose = ipywidgets.Dropdown(options=["all", "the last"], description="tumours")
ef.Explorer(lambda budget, whose: ef.scenes.the_best_step(problem, budget=-budget), budget=budget, whose=whose)
"""
OURS = {"include": [".ef-explorer", ".ef-card", ".ef-panel"]}


@pytest.mark.parametrize("front_end", ["lab", "voila"])
def test_a_lesson_moves_and_shuts_nobody_out(desk, front_end):
    """Our own parts; menus, cells and page are the front end's."""
    book = nbformat.read(START, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(WITH_CONTROLS))
    nbformat.write(book, desk.folder / "notebooks" / f"{front_end}.ipynb")
    page = desk.page
    if front_end == "lab":
        desk.open(f"notebooks/{front_end}.ipynb")
        lab.run_all(page)
    else:
        desk.open_voila(f"notebooks/{front_end}.ipynb")
    page.locator(".ef-panel .ef-explorer[data-serial]").wait_for(state="attached", timeout=300_000)
    assert lab.barriers(page, (1366, "light"), within=OURS) == []
    lab.guess_all(page)
    page.locator(".jp-OutputArea .ef-explorer[data-serial]").nth(1).wait_for(state="attached", timeout=60_000)
    assert lab.barriers(page, *LOOKS, within=OURS) == []
    page.set_viewport_size({"width": 1366, "height": 900})
    explorer = lab.explorers(page).first
    slider = explorer.locator(".ef-axis input").first
    assert len({lab.read(explorer)["pixels"] for _ in lab.drag(slider)}) > 3
    for key, place in (("Home", 0), ("End", int(slider.get_attribute("max")))):
        assert lab.press(explorer, slider, key)["state"][0] == place
    panel = page.locator(".ef-panel")
    panel.scroll_into_view_if_needed()
    assert lab.turned_signs(panel) == []
    heard = lab.hear(panel)
    for said in ("slider, turn the candidate", "slider, −c", "combobox, tumours"):
        assert any(phrase.startswith(said) for phrase in heard), heard
    assert bool(page.locator(".cm-editor").count()) == (front_end == "lab")
    # Voilà asks another host for fonts, and stumbles over an extension of Notebook 7.
    own = r"ERR_NAME_NOT_RESOLVED|@jupyter-notebook/lab-extension"
    assert [each for each in desk.troubles if not re.search(own, each)] == []
