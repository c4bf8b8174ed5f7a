"""What learners cost a server, one and ten at once: `python benchmarks/classroom.py [--seconds 60] [--out FILE]`.

One Jupyter server, started through `binder/start` as on Binder and on the hubs of `binder/hub/`.

*A notebook*: every notebook of the course, its stored cells run one after the other in a kernel of its own.

*One learner* is a page of a real Chromium. For a minute each: nothing; an axis dragged to and fro without a pause; a
kernel control (the budget of the ellipsoid); the slider of `ipywidgets.interact` that redraws the same figure by
matplotlib. Counted: CPU seconds of the server and of the kernel, bytes over the page's websockets.

*Ten at once*: ten kernels of that server. Two learners are pages of Chromium. Eight are websocket clients in this
process, without a browser: they run the same cells by `execute_request` and move the same widgets by `comm_msg`, as
ipywidgets does in a browser: one message on its way, and after its answer the latest value. The server and the kernels
do the same work for both. All ten open the notebook at once, then all move at once. At the end the state of every
kernel must be the last that its learner sent, and the last answer of its explorer must have come. *Answer*: from
sending to the kernel's "idle", for the eight.

The browser and the clients run on the same machine as the server: its times are worse for it, its CPU seconds are not.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import struct
import tempfile
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import nbformat
import numpy as np
import sliders  # which also shows the way to tests/lab.py
import websocket

lab = sliders.lab
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "classroom.json"
PAGES, CLIENTS = 2, 8
CELLS = (sliders.SETUP, sliders.INTERACT)
PULL = 2.0  # seconds from one end of a slider to the other
RATE = 50  # movements a second
IDS = """
import gc, json, os
swept, = [each for each in gc.get_objects() if type(each) is ipywidgets.FloatSlider and each.description == "turn"]
print(json.dumps([os.getpid(), *(each.model_id for each in (explorer, budget, swept))]))
"""
STATE = "print(json.dumps([explorer.turn, budget.value, swept.value, explorer._serial]))"
# How the eight move: the widget (as IDS lists them), its value's name, its ends, its step, and the seconds from one
# message to the next, as in static/explorer.js (ipywidgets' own sliders wait for the answer only).
MOVES = {
    "axis": (0, "turn", -180, 180, 1, 0.2),
    "kernel control": (1, "value", 0.001, 0.04, 0.0001, 0.0),
    "interact": (2, "value", -180, 180, 1, 0.0),
}


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


def place(seconds: float) -> float:
    """Where a hand is that pulls to and fro, in [0, 1]."""
    return abs((seconds / PULL + 1) % 2 - 1)


class Server:
    """The server's REST interface."""

    def __init__(self, folder, url, token):
        self.url, self.token = url, token
        self.pid = json.loads(next((folder / ".runtime").glob("jpserver-*.json")).read_text())["pid"]

    def call(self, method, where, **body):
        """A request; gives the answer."""
        request = urllib.request.Request(
            f"{self.url}api/{where}?token={self.token}",
            json.dumps(body).encode() if body else None,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or "null")

    def client(self, notebook):
        """A client with a new kernel, which starts where the notebook lies."""
        return Client(self, self.call("POST", "kernels", name="python3", path=notebook)["id"])


class Client:
    """A websocket to a kernel: runs code, and moves widgets."""

    def __init__(self, server, kernel):
        self.kernel, self.serial = kernel, 0
        address = f"ws{server.url.removeprefix('http')}api/kernels/{kernel}/channels?token={server.token}"
        self.socket = websocket.create_connection(address)
        self.messages = Queue()
        Thread(target=self.listen, daemon=True).start()  # who does not listen is cut off by the server

    def send(self, kind, content, metadata=None):
        """Send a message to the kernel; gives its id."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "class", "username": "", "version": "5.3",
                  "date": datetime.datetime.now(datetime.UTC).isoformat()}  # fmt: skip
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": metadata or {}}
        self.socket.send(json.dumps(message | {"content": content, "buffers": []}))
        return header["msg_id"]

    def listen(self):
        """Take in what comes, until the connection ends."""
        with suppress(websocket.WebSocketException, OSError):
            while data := self.socket.recv():
                if isinstance(data, bytes):  # with buffers behind: how many parts, where each begins
                    parts = struct.unpack_from("!I", data)[0]
                    begin, *later = struct.unpack_from(f"!{parts}I", data, 4)
                    data = data[begin : later[0] if later else None]
                message = json.loads(data)
                answer = message["content"].get("data", {}) if message["msg_type"] == "comm_msg" else {}
                self.serial = max(self.serial, answer.get("state", {}).get("reply", {}).get("serial", 0))
                self.messages.put(message)

    def receive(self, timeout):
        """The next message; None if none comes in time."""
        try:
            return self.messages.get(timeout=max(timeout, 1e-4))
        except Empty:
            return None

    def idle(self, message, sent):
        """Whether a message says that the kernel is done with the one that was sent."""
        done = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        return done and message["parent_header"].get("msg_id") == sent

    def run(self, code, cell="class"):
        """Run a cell; gives what it prints."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                   "allow_stdin": False, "stop_on_error": False}  # fmt: skip
        sent, printed = self.send("execute_request", content, {"cellId": cell}), ""
        while not self.idle(message := self.messages.get(timeout=600), sent):
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(message["content"]["traceback"]))
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed += message["content"]["text"]
        return printed

    def begin(self):
        """Run the cells of the class; and ask who is who."""
        start = time.perf_counter()
        for number, cell in enumerate(CELLS):
            self.run(cell, str(number))
        self.took = time.perf_counter() - start
        return self.meet()

    def meet(self):
        """Ask the kernel for its process, and for the names of its widgets."""
        self.pid, *self.comms = json.loads(self.run(IDS))
        return self

    def move(self, kind, seconds):
        """Move a widget for so long; gives its last value, and the seconds that each answer took."""
        which, name, low, high, step, pause = MOVES[kind]
        start = now = asked = time.perf_counter()
        value = said = sent = None
        answers = []
        for tick in count():
            if (elapsed := now - start) < seconds:
                value = round(low + step * round((high - low) / step * place(elapsed)), 6)
            if sent is None and value == said and elapsed >= seconds:
                return value, answers
            if sent is None and value != said and now >= asked + pause:
                data = {"method": "update", "state": {name: value}, "buffer_paths": []}
                sent, said, asked = (
                    self.send("comm_msg", {"comm_id": self.comms[which], "data": data}),
                    value,
                    now,
                )
            while (now := time.perf_counter()) < start + (tick + 1) / RATE:
                message = self.receive(start + (tick + 1) / RATE - now)
                if sent and message and self.idle(message, sent):
                    answers.append(time.perf_counter() - asked)
                    sent = None
        raise AssertionError


class Page:
    """A learner at a real page: the notebook of the class in JupyterLab."""

    def __init__(self, server, page, name):
        self.page, self.name, self.bytes = page, name, 0
        page.on("websocket", self.watch)
        start = time.perf_counter()
        lab.open_notebook(page, server.url, server.token, name)
        lab.run_all(page)
        self.explorer = lab.explorers(page).first
        self.explorer.wait_for(state="attached")
        panel = page.locator(".widget-interact")
        panel.locator("img").wait_for(state="attached", timeout=120_000)
        self.took = time.perf_counter() - start
        self.control, self.swept = (
            page.locator(".widget-hbox .widget-slider").first,
            panel.locator(".widget-slider"),
        )
        self.hands = {
            "axis": sliders.Native(self.explorer.locator(".ef-axis input")),
            "kernel control": sliders.Widget(self.control),
            "interact": sliders.Widget(self.swept),
        }
        sessions = server.call("GET", "sessions")
        kernel = next(each["kernel"]["id"] for each in sessions if each["path"] == name)
        self.client = Client(server, kernel).meet()  # a second client of this kernel, to ask it
        self.pid = self.client.pid

    def watch(self, socket):
        """Count what goes over a websocket."""

        def add(data):
            self.bytes += len(data)

        socket.on("framesent", add)
        socket.on("framereceived", add)

    def last(self):
        """What the page shows, as STATE says it of the kernel."""
        seen = lab.read(self.explorer)
        control, swept = (
            float(each.locator(".widget-readout").text_content().replace("−", "-"))
            for each in (self.control, self.swept)
        )
        return [seen["state"][0] * MOVES["axis"][4] + MOVES["axis"][2], control, swept, seen["serial"]]


def pull(pages, kind, seconds):
    """Move the same slider of several pages for so long."""
    hands = [each.hands[kind] for each in pages]
    for hand in hands:
        hand.take()
    start, moved = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        for hand in hands:
            hand.to(0.1 + 0.8 * place(elapsed))
        moved += 1
        pages[0].page.wait_for_timeout(max(0, 1000 * (moved / RATE - (time.perf_counter() - start))))
    for hand in hands:
        hand.let_go()
    return moved / seconds


def course(server, folder):
    """Memory and CPU seconds of every notebook of the course, run as it is stored."""
    found = {}
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        print(path.stem, flush=True)
        client = server.client(f"notebooks/{path.name}")
        pid = json.loads(client.run("import os; print(os.getpid())"))
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                client.run(cell.source, cell.id)
        found[path.stem] = memory(pid) | {"cpu": worked(pid)}
        server.call("DELETE", f"kernels/{client.kernel}")
    return found


def differs(learner):
    """What the kernel of a learner has, and what the learner sent last, if they differ; waits for both to agree."""
    client = getattr(learner, "client", learner)
    has, sent = [], []

    def agree():
        has[:] = json.loads(client.run(STATE))
        sent[:] = learner.last() if isinstance(learner, Page) else [*learner.sent, learner.serial]
        return np.allclose(has, sent)

    return None if lab.until(agree, timeout=20) else {"kernel": [*has], "learner": [*sent]}


def phases(server, learners, seconds):
    """All learners idle, then move each kind of slider at once; for each, CPU seconds, bytes, answers."""
    pages = [each for each in learners if isinstance(each, Page)]
    clients = [each for each in learners if not isinstance(each, Page)]
    pids, found = [each.pid for each in learners], {}
    for client in clients:
        client.sent = [None] * len(MOVES)
    for kind in ("nothing", *MOVES):
        print(f"{len(learners)}: {kind}", flush=True)
        time.sleep(2)
        sent = [each.bytes for each in pages]
        before = worked(server.pid), worked(*pids)
        start, answers, rate = time.perf_counter(), [], 0
        with ThreadPoolExecutor(len(learners)) as pool:
            moving = [pool.submit(client.move, kind, seconds) for client in clients if kind in MOVES]
            if kind in MOVES:
                rate = pull(pages, kind, seconds)
            else:
                pages[0].page.wait_for_timeout(1000 * seconds)
            for client, each in zip(clients, moving, strict=False):
                client.sent[[*MOVES].index(kind)], took = each.result()
                answers += took
        pages[0].page.wait_for_timeout(500)
        took = time.perf_counter() - start
        minute = 60 / took / len(learners)  # of one learner
        found[kind] = {
            "server": (worked(server.pid) - before[0]) * minute,
            "kernel": (worked(*pids) - before[1]) * minute,
            "bytes": sum(each.bytes for each in pages) - sum(sent),
            "movements": rate,
        }
        found[kind]["bytes"] *= 60 / took / len(pages)
        if answers:
            found[kind]["answers"] = len(answers) / len(clients) * 60 / took
            found[kind] |= {"median": float(np.median(answers)), "slowest": max(answers)}
    return found


def measure(seconds):
    """The whole run."""
    results = {"date": datetime.date.today().isoformat(), "seconds": seconds, "load": [os.getloadavg()[0]]}
    with tempfile.TemporaryDirectory() as place_of_all:
        folder = Path(place_of_all)
        shutil.copytree(ROOT / "notebooks", folder / "notebooks")
        for number in range(1 + PAGES):
            lab.write_notebook(folder / f"class{number}.ipynb", *CELLS)
        with lab.server(folder) as (url, token, log), lab.browser() as page:
            server = Server(folder, url, token)
            start = worked(server.pid)
            learner = Page(server, page, "class0.ipynb")
            results["one"] = {"opening": {"server": worked(server.pid) - start, "kernel": worked(learner.pid),
                                          "seconds": learner.took}}  # fmt: skip
            results["one"] |= {"phases": phases(server, [learner], seconds), "kernel": memory(learner.pid)}
            lost = [differs(learner)]
            for session in server.call("GET", "sessions"):
                server.call("DELETE", f"sessions/{session['id']}")
            page.goto("about:blank")
            start = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                coming = [pool.submit(server.client(f"class{PAGES}.ipynb").begin) for _ in range(CLIENTS)]
                window = page.context.browser
                fresh = [window.new_page(viewport={"width": 1500, "height": 1000}) for _ in range(PAGES)]
                pages = [Page(server, each, f"class{1 + number}.ipynb") for number, each in enumerate(fresh)]
                learners = [*pages, *(each.result() for each in coming)]
            ten = {"pages": PAGES, "clients": CLIENTS, "opening": time.perf_counter() - start}
            ten["first"] = min(each.took for each in learners)
            ten["phases"] = phases(server, learners, seconds)
            lost += [differs(each) for each in learners]
            kernels = [memory(each.pid) for each in learners]
            ten["kernel"] = {name: [each[name] for each in kernels] for name in kernels[0]}
            ten["server"] = memory(server.pid)
            results |= {"ten": ten, "lost": [each for each in lost if each]}
            for each in fresh:
                each.close()
            for kernel in server.call("GET", "kernels"):
                server.call("DELETE", f"kernels/{kernel['id']}")
            results["notebooks"] = course(server, folder)
            errors = [line for line in log.read_text().splitlines() if re.search(r"^\[E |Traceback", line)]
            if errors:
                raise RuntimeError("\n".join(errors))
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    names = ("jupyterlab", "jupyter-server", "ipykernel", "ipywidgets", "anywidget", "jax", "matplotlib")
    return results | {
        "device": processor[1] if processor else "unknown",
        "cores": os.cpu_count(),
        "load": [*results["load"], os.getloadavg()[0]],
        "versions": {name: version(name) for name in names},
    }


def tables(results):
    """All in Markdown."""
    yield "| notebook, run once | kernel, MiB | at its peak | CPU, s |"
    yield "|---|---|---|---|"
    for name, about in results["notebooks"].items():
        yield f"| {name} | {about['resident']:.0f} | {about['peak']:.0f} | {about['cpu']:.1f} |"
    one, ten = results["one"], results["ten"]
    for title, phases_of in (("one learner", one["phases"]), ("ten at once, each", ten["phases"])):
        yield f"\n| a minute of, {title} | kernel, CPU s | server, CPU s | kB | answers | median, ms | slowest, ms |"
        yield "|---|---|---|---|---|---|---|"
        for kind, about in phases_of.items():
            told = [f"{about[name]:.0f}" if name in about else "" for name in ("answers",)]
            told += [f"{1000 * about[name]:.0f}" if name in about else "" for name in ("median", "slowest")]
            yield (
                f"| {kind} | {about['kernel']:.2f} | {about['server']:.2f} | {about['bytes'] / 1000:.0f} "
                f"| {' | '.join(told)} |"
            )
    opening = one["opening"]
    yield (
        f"\nOpening and running the class's notebook: {opening['kernel']:.1f} s of CPU in the kernel, "
        f"{opening['server']:.1f} s in the server, {opening['seconds']:.0f} s in all; "
        f"ten at once: {ten['opening']:.0f} s."
    )
    mean = {name: np.mean(values) for name, values in ten["kernel"].items()}
    yield (
        f"A kernel of the ten: {mean['resident']:.0f} MiB resident, {mean['share']:.0f} MiB its share, "
        f"{max(ten['kernel']['peak']):.0f} MiB at the peak; the server: {ten['server']['peak']:.0f} MiB."
    )
    yield f"States lost: {len(results['lost'])} {results['lost'] or ''}"
    names = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    yield (
        f"\n{results['date']}; {results['device']}, {results['cores']} cores, load {results['load'][0]:.1f} before and "
        f"{results['load'][1]:.1f} after; {names}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each movement; fewer store nothing")
    parser.add_argument("--out", type=Path, help="where the results go, if not to benchmarks/results")
    parser.add_argument(
        "--show", action="store_true", help="measure nothing: the tables of the stored results"
    )
    options = parser.parse_args()
    if options.show:
        results = json.loads((options.out or RESULTS).read_text())
    else:
        results = measure(options.seconds)
        if out := options.out or (RESULTS if options.seconds >= 30 else None):
            out.write_text(json.dumps(results, indent=1) + "\n")
    print(*tables(results), sep="\n")
    if results["lost"]:
        raise SystemExit("States were lost.")


if __name__ == "__main__":
    main()
