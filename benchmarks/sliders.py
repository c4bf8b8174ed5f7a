"""From a hand's movement to changed pixels, in a real JupyterLab in a real Chromium: `make bench`.

One notebook holds an explorer of the best step, with controls that recompute its table in the kernel, and the same
figure under ipywidgets' `interact`, drawn anew by matplotlib for every value. They take turns, so that all are measured
on the same machine at the same time.

*Latency* is of single movements, each awaited: from the browser's own time stamp of the input to the begin of the frame
after the one whose pixels differ (of the canvas, read back with getImageData; for `interact`, another image, decoded),
when the screen has changed at the latest. *Pictures a second* counts the different pictures while the slider is pulled
without a pause; *settle* is the time from the last input of such a pull to the last change. A second table has every
axis of every scene, with what the first picture of its explorer took in the kernel, compilation included.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
from turns import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import gallery
import lab

SETUP = """
import ipywidgets
import efisher_teach as ef
from IPython.display import display
from efisher_teach.figures.paint import paint

problem = ef.descend(ef.breast_cancer(), steps=3)
budget = ipywidgets.FloatSlider(value=0.01, min=0.001, max=0.04, step=0.0001, readout_format=".4f")
shift = ipywidgets.FloatSlider(value=0, min=0, max=1, step=0.001, readout_format=".3f")

def build(budget, shift):
    return ef.scenes.the_best_step(problem._replace(params=problem.params + shift), budget=budget)

explorer = ef.Explorer(build, budget=budget, shift=shift)
explorer
"""
INTERACT = """
%matplotlib inline
scene, table = explorer.scene, explorer.table

def draw(turn):
    figure = paint(scene, table, (scene.axes[0].nearest(turn),)).figure
    figure.set_dpi(100)  # as many pixels as the screen has
    display(figure)

ipywidgets.interact(draw, turn=ipywidgets.FloatSlider(value=0, min=-180, max=180, step=1, readout_format=".0f"));
"""
GALLERY = """
import sys, time
sys.path.insert(0, {tests!r})
import gallery
import efisher_teach as ef
took = {{}}
"""
SCENE = """
scene = gallery.GALLERY[{name!r}]()
start = time.perf_counter()
shown = ef.Explorer(scene)
took[{name!r}] = [time.perf_counter() - start, len(shown.reply["forms"]["wide"]["table"]) / 1000]
shown
"""

# Notes the time of every input, and at the end of every frame whether it shows something else than the one before.
# To read pixels back takes a good part of a frame: it confirms single movements, and is left out of the counting.
PROBE = """(root) => {
    const canvas = root.matches(".ef-explorer") && root.querySelector("canvas");
    const pixels = () => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let hash = 0;
      for (const word of new Uint32Array(data.buffer)) hash = (Math.imul(hash, 31) + word) | 0;
      return hash;
    };
    let shown, drawn, image, fresh, frame, counting;
    const changed = () => {
      if (!canvas) {
        const found = root.querySelector("img");
        if (found && found !== image) (image = found).decode().then(() => (image.ready = true), () => {});
        return image?.ready && shown !== (shown = image.src);
      }
      const { state, serial } = root.dataset; // set when all is drawn
      if (shown === (shown = `${serial}: ${state}`)) return false;
      return counting || drawn !== (drawn = pixels());
    };
    const inputs = [], changes = [];
    const note = (event) => inputs.push({ arrived: event.timeStamp, told: performance.now() });
    const kinds = ["pointermove", "keydown"];
    for (const kind of kinds) window.addEventListener(kind, note, true);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { // the frame is done: what it drew is handed over
      const done = performance.now();
      if (changed()) changes.push((fresh = { done }));
    };
    const turn = () => {
      if (fresh) fresh.after = performance.now();
      fresh = undefined;
      port2.postMessage(0);
      frame = requestAnimationFrame(turn);
    };
    turn();
    window.probe = {
      begin: (count) => { inputs.length = changes.length = 0; counting = count; },
      quiet: (wait) => new Promise((resolve) => {
        const start = performance.now();
        const check = () => {
          const now = performance.now();
          const latest = Math.max(start, inputs.at(-1)?.told ?? 0, changes.at(-1)?.done ?? 0);
          const answered = !inputs.length || changes.at(-1)?.after > inputs.at(-1).told;
          if ((answered && now - latest > wait) || now - start > 6000) resolve();
          else setTimeout(check, 10);
        };
        check();
      }),
      read: () => ({ inputs, changes }),
      stop: () => {
        cancelAnimationFrame(frame);
        for (const kind of kinds) window.removeEventListener(kind, note, true);
      },
    };
  }"""


class Native:
    """The explorer's own slider."""

    def __init__(self, slider):
        self.slider, self.mouse, self.keys = slider, slider.page.mouse, slider.page.keyboard

    def take(self):
        """Hold it, near its low end."""
        self.slider.scroll_into_view_if_needed()
        self.box = self.slider.bounding_box()
        self.to(0.1)
        self.mouse.down()

    def to(self, fraction, steps=1):
        """Move it, in so many inputs."""
        x = self.box["x"] + 8 + (self.box["width"] - 16) * fraction
        self.mouse.move(x, self.box["y"] + self.box["height"] / 2, steps=steps)

    def let_go(self):
        """Let it go."""
        self.mouse.up()


class Keys(Native):
    """The same by arrow keys."""

    def take(self):
        """Hold it, near its low end."""
        self.slider.scroll_into_view_if_needed()
        self.slider.focus()
        self.keys.press("Home")

    def to(self, fraction, steps=1):
        """Move it, in so many inputs."""
        for _ in range(steps):
            self.keys.press("ArrowRight")
            time.sleep(1 / 50 if steps > 1 else 0)  # about as fast as a keyboard repeats

    def let_go(self):
        """Nothing to do."""


class Widget(Native):
    """A slider of ipywidgets."""

    def take(self):
        """Hold it, near its low end."""
        handle = self.slider.locator(".noUi-handle")
        handle.scroll_into_view_if_needed()
        self.box = self.slider.locator(".noUi-target").bounding_box()
        grip = handle.bounding_box()
        self.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
        self.mouse.down()
        self.to(0.1)


def measure(page, root, hand, moves, pulls):
    """Latencies of single moves, then pictures a second and settle of a pull."""
    root.evaluate(PROBE)
    hand.take()
    page.evaluate("probe.begin(false)")
    page.evaluate("probe.quiet(400)")
    latencies = []
    for fraction in np.linspace(0.15, 0.9, moves):
        time.sleep(random.uniform(0.03, 0.06))
        page.evaluate("probe.begin(false)")
        hand.to(fraction)
        page.evaluate("probe.quiet(30)")
        seen = page.evaluate("probe.read()")
        if seen["inputs"] and seen["changes"]:
            latencies.append(seen["changes"][0]["after"] - seen["inputs"][0]["arrived"])
    hand.to(0.1)
    page.evaluate("probe.quiet(400)")
    page.evaluate("probe.begin(true)")
    for pull in range(pulls):
        hand.to((0.9, 0.1)[pull % 2], steps=100)
    page.evaluate("probe.quiet(600)")
    seen = page.evaluate("probe.read()")
    hand.let_go()
    page.evaluate("probe.stop()")
    changes, (first, *_, last) = [each["done"] for each in seen["changes"]], seen["inputs"]
    during = sum(change <= last["told"] + 17 for change in changes)
    rate = 1000 * during / (last["told"] - first["told"])
    return {"latencies": latencies, "rate": rate, "settle": changes[-1] - last["told"]}


@contextmanager
def desk_with(*cells):
    """A notebook of these cells, opened and run; complaints of the page are an error."""
    with tempfile.TemporaryDirectory() as folder:
        lab.write_notebook(Path(folder) / "sliders.ipynb", *cells)
        with lab.server(Path(folder)) as (url, token, log), lab.browser() as page:
            desk = lab.Desk(Path(folder), url, token, log, page, lab.listen(page))
            desk.open("sliders.ipynb")
            lab.run_all(page)
            yield desk
            if desk.problems():
                raise RuntimeError("\n".join(desk.problems()))


def row(name, *rounds):
    """A line of a table: what was measured in so many rounds."""
    latencies = np.concatenate([each["latencies"] for each in rounds])
    p50, p95 = np.percentile(latencies, [50, 95])
    rate, settle = (np.median([each[what] for each in rounds]) for what in ("rate", "settle"))
    return f"| {name} | {p50:.0f} / {p95:.0f} | {rate:.0f} | {settle:.0f} |"


def compare(rounds, moves):
    """All kinds of movement in turns, line by line."""
    results = {}
    with desk_with(SETUP, INTERACT) as desk:
        page, explorer = desk.page, lab.explorers(desk.page).first
        explorer.wait_for(state="attached")
        panel = page.locator(".widget-interact")
        panel.locator("img").wait_for(state="attached", timeout=60_000)
        own, controls = explorer.locator(".ef-axis input"), page.locator(".widget-hbox .widget-slider")
        hands = {
            "axis, mouse": (explorer, Native(own)),
            "axis, keys": (explorer, Keys(own)),
            "kernel control, mouse": (explorer, Widget(controls.nth(0))),
            "the same, new background": (explorer, Widget(controls.nth(1))),
            "`interact`, mouse": (panel, Widget(panel.locator(".widget-slider"))),
        }
        for turn in range(rounds + 1):  # the first warms up
            for kind, (root, hand) in hands.items():
                found = measure(page, root, hand, moves if turn else 3, 2)
                if turn:
                    results.setdefault(kind, []).append(found)
    yield "| | latency, p50 / p95 ms | pictures a second | settle, ms |"
    yield "|---|---|---|---|"
    yield from (row(kind, *found) for kind, found in results.items())
    medians = {kind: np.median([each["latencies"] for each in found]) for kind, found in results.items()}
    ratio = medians["`interact`, mouse"] / medians["axis, mouse"]
    yield f"\n`interact` takes {ratio:.0f} times as long as an axis (medians of {rounds} × {moves} movements).\n"


def scenes(moves):
    """Every axis of every scene, line by line."""
    yield "| scene: axis | latency, p50 / p95 ms | pictures a second | settle, ms | first picture, s | packed, kB |"
    yield "|---|---|---|---|---|---|"
    cells = [GALLERY.format(tests=str(Path(lab.__file__).parent))]
    with desk_with(*cells, *(SCENE.format(name=name) for name in gallery.BARE)) as desk:
        took = desk.ask("import json; print(json.dumps(took))")
        for place, name in enumerate(gallery.BARE):
            cell = desk.page.locator(".jp-CodeCell").nth(place + 1)
            cell.scroll_into_view_if_needed()
            explorer = cell.locator(".ef-explorer[data-serial]")
            explorer.wait_for(state="attached", timeout=60_000)
            sliders = explorer.locator(".ef-axis input").all()
            for axis, slider in zip(gallery.shown(name)[0].axes, sliders, strict=True):
                found = measure(desk.page, explorer, Native(slider), moves, 1)
                first, packed = took[name]
                yield f"{row(f'{name}: {axis.label}', found)} {first:.1f} | {packed:.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--moves", type=int, default=12, help="single movements a round")
    options = parser.parse_args()
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}; JupyterLab {version('jupyterlab')}\n")
    for line in chain(compare(options.rounds, options.moves), scenes(options.moves)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
