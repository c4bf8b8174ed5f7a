"""The cost of learners to a server, one and ten at once: `make bench-class`.

*A notebook*: every notebook of the course, its stored cells run one after the other in a kernel of its own.

*One learner* is a page of a real Chromium with one figure, on a Jupyter server that is started as on
Binder. For half a minute each: nothing; an axis dragged to and fro without a pause; a kernel control (the budget); the
slider of `ipywidgets.interact` that redraws the same figure by matplotlib. Counted: CPU seconds of server and kernel,
bytes over the page's websockets.

*Ten at once*: ten such pages, each with its kernel, on one server. All open the notebook one after the other, then all
move at once. *Settled*: the seconds from the last movement until every page shows what its kernel has; a state that a
page and its kernel do not agree on after 20 s is lost.

The browser runs on the same machine as the server: waiting times are worse for it, CPU seconds are not.
"""

import argparse
import json
import os
import re
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sliders  # which also shows the way to tests/lab.py
import start
from turns import about, store

lab = sliders.lab
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "classroom.json"
LEARNERS = 10
PULL = 2.0  # seconds from one end of a slider to the other
RATE = 50  # movements a second
SETUP = f"""
{sliders.UNDER_INTERACT}
import efisher_teach as ef

problem = ef.descend(ef.breast_cancer(), steps=3)
budget = ipywidgets.FloatSlider(value=0.01, min=0.001, max=0.04, step=0.0001, readout_format=".4f")
explorer = ef.Explorer(lambda budget: ef.scenes.the_best_step(problem, budget=budget), budget=budget)
explorer
"""
SWEPT = """
import gc, json, os
swept, = [each for each in gc.get_objects() if type(each) is ipywidgets.IntSlider and each.description == "place"]
print(json.dumps(os.getpid()))
"""
STATE = "print(json.dumps([explorer.turn, budget.value, swept.value, explorer.reply['serial']]))"
KINDS = ("nothing", "axis", "kernel control", "interact")


def memory(pid: int) -> dict[str, float]:
    """MiB of a process: resident, its share (what n processes map counts 1/n to each), and resident at its peak."""
    about = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
    names = {"resident": "VmRSS", "share": "Pss", "peak": "VmHWM"}
    found = {name: re.search(rf"^{key}:\s+(\d+) kB", about, re.MULTILINE) for name, key in names.items()}
    return {name: int(match[1]) / 1024 for name, match in found.items()}


def worked(*pids: int) -> float:
    """CPU seconds of processes, so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def server_of(folder: Path) -> int:
    """The process of the server that runs on a folder."""
    return json.loads(next((folder / ".runtime").glob("jpserver-*.json")).read_text())["pid"]


class Learner:
    """A page with a notebook of one figure, run, and a second client of its kernel, to ask it."""

    def __init__(self, desk, page, name):
        self.page, self.bytes = page, 0
        page.on("websocket", self.count)
        lab.write_notebook(desk.folder / name, SETUP, "under_interact(explorer)")
        lab.open_notebook(page, desk.url, desk.token, name)
        lab.run_all(page)
        self.explorer = lab.explorers(page).first
        self.explorer.wait_for(state="attached")
        self.control = page.locator(".widget-hbox .widget-slider").first
        self.swept = page.locator(".widget-interact .widget-slider")
        page.locator(".widget-interact img").wait_for(state="attached", timeout=120_000)
        axis = sliders.Native(self.explorer.locator(".ef-axis input"))
        widgets = map(sliders.Widget, (self.control, self.swept))
        self.hands = dict(zip(KINDS[1:], (axis, *widgets), strict=True))
        sessions = json.loads(desk.call("GET", "sessions"))
        kernel = next(each["kernel"]["id"] for each in sessions if each["path"] == name)
        self.connection = desk.folder / ".runtime" / f"kernel-{kernel}.json"
        self.pid = lab.ask(self.connection, SWEPT)

    def count(self, socket):
        """Count what goes over a websocket."""

        def add(data):
            self.bytes += len(data)

        socket.on("framesent", add)
        socket.on("framereceived", add)

    def agrees(self):
        """Compare what the page shows with what its kernel has."""
        seen = lab.read(self.explorer)
        readouts = (each.locator(".widget-readout").text_content() for each in (self.control, self.swept))
        control, swept = (float(text.replace("−", "-")) for text in readouts)
        shown = [
            seen["state"][0] - 180,
            control,
            swept,
            seen["serial"],
        ]  # the axis begins at -180, by degrees
        return np.allclose(shown, lab.ask(self.connection, STATE))


def pull(learners, kind, seconds):
    """Move a slider of every page to and fro, for so long."""
    hands = [each.hands[kind] for each in learners]
    for hand in hands:
        hand.take()
    start = time.perf_counter()
    moved = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        for hand in hands:
            hand.to(0.1 + 0.8 * abs((elapsed / PULL + 1) % 2 - 1))
        moved += 1
        learners[0].page.wait_for_timeout(max(0, 1000 * (moved / RATE - (time.perf_counter() - start))))
    for hand in hands:
        hand.let_go()


def phases(server, learners, seconds):
    """All rest, then move each kind of slider at once: CPU seconds, bytes (a learner's minute), and what was lost."""
    pids, found, lost = [each.pid for each in learners], {}, 0
    for kind in KINDS:
        time.sleep(2)
        sent = sum(each.bytes for each in learners)
        before, start = (worked(server), worked(*pids)), time.perf_counter()
        if kind == "nothing":
            learners[0].page.wait_for_timeout(1000 * seconds)
        else:
            pull(learners, kind, seconds)
        stopped = time.perf_counter()
        agreed = [lab.until(each.agrees, timeout=20) for each in learners]
        minute = 60 / (time.perf_counter() - start) / len(learners)
        lost += agreed.count(False)
        found[kind] = {
            "server": (worked(server) - before[0]) * minute,
            "kernel": (worked(*pids) - before[1]) * minute,
            "bytes": (sum(each.bytes for each in learners) - sent) * minute,
            "settled": time.perf_counter() - stopped,
        }
        print(f"{len(learners)}: {kind}: {found[kind]}", flush=True)
    return found, lost


def at_once(number, seconds):
    """So many learners on one server."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with lab.server(folder) as (url, token, log), lab.browser() as page:
            desk, server = lab.Desk(folder, url, token, log, page, lab.listen(page)), server_of(folder)
            new = page.context.browser.new_page
            pages = [page, *(new(viewport=page.viewport_size) for _ in range(number - 1))]
            before, start = worked(server), time.perf_counter()
            learners = [Learner(desk, each, f"class{i}.ipynb") for i, each in enumerate(pages)]
            opening = {"seconds": time.perf_counter() - start, "server": worked(server) - before}
            opening["kernel"] = worked(*(each.pid for each in learners)) / number
            found, lost = phases(server, learners, seconds)
            kernels = [memory(each.pid) for each in learners]
            if desk.problems():
                raise RuntimeError("\n".join(desk.problems()))
            return {
                "opening": opening,
                "phases": found,
                "lost": lost,
                "kernel": {name: float(np.mean([each[name] for each in kernels])) for name in kernels[0]},
                "server": memory(server),
            }


def course():
    """Memory and CPU seconds of every notebook of the course, run as it is stored."""
    found = {}
    for name, cells in start.books().items():
        found[name] = start.run(cells)
        print(name, found[name], flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of each movement; fewer store nothing")
    parser.add_argument("--notebooks", action="store_true", help="only the notebooks; the rest stays")
    options = parser.parse_args()
    names = ("jupyterlab", "jupyter-server", "ipykernel", "ipywidgets", "anywidget", "jax", "matplotlib")
    run = about() | {"versions": {name: version(name) for name in names}}
    results = json.loads(RESULTS.read_text())
    if not options.notebooks:
        parts = {"one": at_once(1, options.seconds), "ten": at_once(LEARNERS, options.seconds)}
        results = {**run, "seconds": options.seconds, **parts}
    results["notebooks"] = run | {"each": course()}
    run["load"].append(os.getloadavg()[0])
    if options.notebooks or options.seconds >= 30:
        store(results, RESULTS)
    if not options.notebooks and (results["one"]["lost"] or results["ten"]["lost"]):
        raise SystemExit("States were lost.")


if __name__ == "__main__":
    main()
