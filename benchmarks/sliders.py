"""The time from a hand's movement to changed pixels, in a real JupyterLab in a real Chromium: `make bench`.

Every axis of every scene of tests/gallery.py is moved by mouse and by keys, and below each figure the same one under
ipywidgets' `interact`, drawn anew by matplotlib for every value: the yardstick. Another yardstick is a bare slider,
which fills a rectangle in the next frame: no figure can answer sooner. Then every control of the course that asks the
kernel is moved, in the figure of its notebook.

*Latency* is of single movements, each awaited: from the browser's own time stamp of the input to the task after the
frame whose pixels differ (of the canvas, read back, or of the picture behind it; for `interact`, another image,
decoded). A control meets each of its values once before, as JAX compiles for new shapes: *first* is the slowest of
these. It counts apart where the picture behind the canvas was kept, and where it was drawn anew.
"""

import argparse
import os
import random
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from turns import about, store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import gallery
import lab

HERE = Path(__file__).parent
BOOKS, RESULTS = HERE.parent / "notebooks", HERE / "results" / "sliders.json"
PROBE = (HERE / "probe.js").read_text()
# What we promise: at most so many milliseconds, p95; and of `interact` so many times the latency of an axis, p50.
MOST = {"mouse": 20, "keys": 28, "kernel": 150, "kernel, new background": 300}
TIMES = 30
CONTROLS = re.compile(r"Explorer\(\w+, \w+=")  # a builder, and its controls

UNDER_INTERACT = """
%matplotlib inline
import ipywidgets
from efisher_teach.figures.paint import paint

def under_interact(shown):
    scene, others = shown.scene, shown.indices[1:]

    def draw(place):
        figure = paint(scene, shown.table, (place, *others)).figure
        figure.set_dpi(100)  # as many pixels as the screen has
        display(figure)

    ipywidgets.interact(draw, place=ipywidgets.IntSlider(max=len(scene.axes[0].values) - 1))
"""
GALLERY = f"""
{UNDER_INTERACT}
import sys
sys.path.insert(0, {lab.__file__.rpartition("/")[0]!r})
import gallery
import efisher_teach as ef
"""
BARE = """
display({"text/html": '''<div class="ef-explorer" data-serial="1" data-state="0">
<canvas width="600" height="300"></canvas><div class="ef-axis">
<input type="range" value="0" max="40" aria-label="a rectangle" data-lm-suppress-shortcuts="true"></div></div>
<script>{
  const root = [...document.querySelectorAll(".ef-explorer")].at(-1), input = root.querySelector("input");
  const paint = root.querySelector("canvas").getContext("2d");
  input.addEventListener("input", () => requestAnimationFrame(() => {
    paint.fillStyle = "hsl(" + 9 * input.value + " 50% 50%)";
    paint.fillRect(0, 0, 600, 300);
    root.dataset.state = input.value;
  }));
}</script>'''}, raw=True)
"""
SCENE = """
shown = ef.Explorer(gallery.GALLERY[{name!r}]())
display(shown)
under_interact(shown)
"""
# The cells of a notebook in a namespace of its own, until they have made the explorer with controls.
NOTEBOOK = f"""
BOOKS = {str(BOOKS)!r}
import nbformat
import efisher_teach as ef

def explorer_of(name):
    made, kind, there = [], ef.Explorer, dict()

    def build(*scene, **controls):
        made.append(kind(*scene, **controls))
        return made[-1]

    ef.Explorer = build
    for cell in nbformat.read(f"{{BOOKS}}/{{name}}.ipynb", as_version=4).cells:
        skipped = "colab" in cell.metadata.get("tags", ()) or cell.metadata.get("part") == "stub"
        if cell.cell_type == "code" and not skipped:
            exec(cell.source, there)
        if made and made[-1].controls:
            break
    ef.Explorer = kind
    return made[-1]
"""
FIGURE = "explorer_of({name!r})"


def zigzag(count, move):
    """Places from 0 to count − 1 and back, again and again."""
    return (count - 1) - abs((move % (2 * count - 2)) - (count - 1)) if count > 1 else 0


class Native:
    """The explorer's own slider, by mouse."""

    def __init__(self, slider):
        self.slider, self.mouse, self.keys = slider, slider.page.mouse, slider.page.keyboard

    def take(self):
        """Hold it, at its low end."""
        self.box, self.last = lab.settled_box(self.slider), int(self.slider.get_attribute("max"))
        self.count = min(12, self.last + 1)
        self.to(0)
        self.mouse.down()

    def move(self, move):
        """Take it to another place, in one input."""
        self.to(round(zigzag(self.count, move) * self.last / (self.count - 1)) / self.last)

    def to(self, fraction):
        """Take it to a part of its length."""
        x = self.box["x"] + 8 + (self.box["width"] - 16) * fraction
        self.mouse.move(x, self.box["y"] + self.box["height"] / 2)

    def let_go(self):
        """Let it go."""
        self.mouse.up()


class Keys(Native):
    """The same by keys, a tenth of the axis each, as PageUp goes; on a short axis a place each, as arrows go."""

    def take(self):
        """Hold it, at its low end."""
        lab.settled_box(self.slider)
        self.slider.focus()
        self.keys.press("Home")
        self.way = "PageUp"

    def move(self, move):
        """Press a key; back from the end."""
        at, low, high = self.slider.evaluate("(node) => [node.value, node.min, node.max].map(Number)")
        self.way = "PageUp" if at == low else "PageDown" if at == high else self.way
        self.keys.press(self.way)

    def let_go(self):
        """Nothing to do."""


class Widget(Native):
    """A slider of ipywidgets, by mouse."""

    count = 5

    def take(self):
        """Hold it, near its low end."""
        handle = self.slider.locator(".noUi-handle")
        lab.settled_box(handle)
        self.box, grip = self.slider.locator(".noUi-target").bounding_box(), handle.bounding_box()
        self.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
        self.mouse.down()
        self.to(0.1)

    def move(self, move):
        """Take it to another value, in one input."""
        self.to(0.1 + 0.8 * zigzag(self.count, move) / (self.count - 1))


class Choice(Keys):
    """A list of ipywidgets, a number, or a row of buttons."""

    def take(self):
        """Bring it into view."""
        lab.settled_box(self.slider)
        self.options, self.buttons = self.slider.locator("option"), self.slider.locator("button")
        self.count = self.options.count() or self.buttons.count() or 4

    def move(self, move):
        """Choose the next one."""
        place = zigzag(self.count, move)
        if self.options.count():
            self.slider.locator("select").select_option(index=place)
        elif self.buttons.count():
            self.buttons.nth(place).evaluate("(button) => button.click()")
        else:
            self.slider.locator("input").press("ArrowUp")

    def let_go(self):
        """Leave a list at its last option: only for a random plane does a seed make a difference."""
        if self.options.count():
            self.slider.locator("select").select_option(index=self.count - 1)


def measure(root, hand, moves, warm, patience=6000):
    """Milliseconds of single movements, and whether each had a new background; the slowest of those to warm up."""
    page = root.page
    hand.take()
    root.evaluate(PROBE)
    page.wait_for_timeout(400)
    found, first = [], 0.0
    for move in range(1, 1 + warm + moves):
        time.sleep(random.uniform(0.03, 0.06))
        page.evaluate("probe.begin()")
        hand.move(move)
        answer = page.evaluate("(patience) => probe.answer(patience)", patience)
        if answer and move > warm:
            found.append(answer)
        elif answer:
            first = max(first, answer[0])
    hand.let_go()
    page.evaluate("probe.stop()")
    return found, first


def told(figure, moved, by, latencies, **more):
    """A row of the results, printed as soon as it is there."""
    if not latencies:
        raise RuntimeError(f"{moved}, {by}: nothing was seen to move.")
    p50, p95 = np.percentile(latencies, [50, 95])
    times = more.get("interact", 0) / p50
    kept = p95 <= MOST.get(by, np.inf) and not 0 < times < TIMES
    said = [f"{p50:.0f} / {p95:.0f}", f"{times:.0f}" if times else "", "" if kept else "missed"]
    print("|", " | ".join([figure, moved, by, *said]), "|", flush=True)
    row = {"figure": figure, "moved": moved, "by": by, "moves": len(latencies), "p50": p50, "p95": p95}
    return row | {"kept": bool(kept)} | more


def axes(name, cell, moves):
    """Rows of every axis of a scene, and of `interact` beside it."""
    explorer, panel = cell.locator(".ef-explorer[data-serial]"), cell.locator(".widget-interact")
    explorer.wait_for(state="attached", timeout=60_000)
    interact = 0.0
    if name != "bare slider":
        panel.locator("img").wait_for(state="attached", timeout=60_000)
        drawn, _ = measure(panel, Widget(panel.locator(".widget-slider")), 6, warm=1)
        yield told(name, "first axis", "`interact`", [latency for latency, _ in drawn])
        interact = float(np.median([latency for latency, _ in drawn]))
    for slider in explorer.locator(".ef-axis input").all():
        for by, hand in (("mouse", Native(slider)), ("keys", Keys(slider))):
            found, _ = measure(explorer, hand, moves, warm=2, patience=1000)
            latencies = [latency for latency, _ in found]
            by = by if interact else f"bare, {by}"
            yield told(name, slider.get_attribute("aria-label"), by, latencies, interact=interact)


def controls(name, cell, moves):
    """Rows of every control of a figure that asks the kernel."""
    explorer = cell.locator(".ef-explorer[data-serial]")
    explorer.wait_for(state="attached", timeout=60_000)
    for slider in explorer.locator(".ef-axis input").all():
        slider.press("End")  # at the start some controls make no difference
    for control in cell.locator(".ef-panel > .widget-hbox > *").all():
        hand = (Widget if control.locator(".noUi-target").count() else Choice)(control)
        found, first = measure(explorer, hand, moves, warm=12)
        label = control.locator(".widget-label").first.inner_text()
        for by, fresh in (("kernel", False), ("kernel, new background", True)):
            if (latencies := [latency for latency, anew in found if anew == fresh]) or not found:
                yield told(name, label, by, latencies, first=first)


def rows(setup, cell_of, names, measured, moves, troubles):
    """Run a notebook, and measure its figures; what goes wrong with one of them is noted, and the next one follows."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cells = (BARE if name == "bare slider" else cell_of.format(name=name) for name in names)
        lab.write_notebook(folder / "sliders.ipynb", setup, *cells)
        with lab.server(folder) as (url, token, log), lab.browser() as page:
            desk = lab.Desk(folder, url, token, log, page, lab.listen(page))
            desk.open("sliders.ipynb")
            lab.run_all(page)
            for at, name in enumerate(names):
                cell = page.locator(".jp-CodeCell").nth(at + 1)
                cell.scroll_into_view_if_needed()
                try:
                    yield from measured(name, cell, moves)
                except Exception as error:
                    troubles.append(f"{name}: {error}")
                    page.mouse.up()
            troubles += desk.problems()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="how scenes and notebooks begin: solid 03; all if none")
    parser.add_argument("--moves", type=int, default=16, help="single movements of each axis and control")
    options = parser.parse_args()
    prefix, moves, troubles = tuple(options.only) or ("",), options.moves, []
    names = [name for name in gallery.BARE if name.startswith(prefix)]
    books = [path for path in sorted(BOOKS.glob("*.ipynb")) if path.name.startswith(prefix)]
    books = [path.stem for path in books if CONTROLS.search(path.read_text())]
    results = about() | {"jupyterlab": version("jupyterlab"), "rows": []}
    print(f"{results['device']}, load {results['load'][0]:.1f}; JupyterLab {results['jupyterlab']}\n")
    print("| figure | what is moved | by | latency, p50 / p95 ms | `interact` takes, times | promise |")
    print("| --- " * 6 + "|", flush=True)
    if names:
        results["rows"] += rows(GALLERY, SCENE, ["bare slider", *names], axes, moves, troubles)
    if books:
        results["rows"] += rows(NOTEBOOK, FIGURE, books, controls, moves, troubles)
    results["load"].append(os.getloadavg()[0])
    missed = sum(not row["kept"] for row in results["rows"])
    print(f"\n{len(results['rows'])} rows, {missed} of them missed; load {results['load'][1]:.1f}.")
    if troubles:
        raise SystemExit("\n".join(["Not all went well, and nothing is stored:", *troubles]))
    if not options.only:
        store(results, RESULTS)


if __name__ == "__main__":
    main()
