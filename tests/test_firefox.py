"""Smoke: what the other tests hold in Chromium holds in Firefox, on a page and in JupyterLab.

It is driven through WebDriver BiDi, which it speaks itself. Playwright speaks it too, but opens no window without
`emulation.setMediaFeaturesOverride`, which Firefox 153 ESR has not.
"""

import json
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import gallery
import lab
import pytest
from test_page import drawn
from websocket import create_connection

pytestmark = pytest.mark.browser
START = Path(__file__).parents[1] / "notebooks" / "00_start_here.ipynb"
LIVE = ".ef-explorer[data-serial]"
KEYS = {"Home": "\ue011", "End": "\ue010", "PageUp": "\ue00e", "ArrowRight": "\ue014"}
WINDOW = {"viewport": lab.WINDOW, "devicePixelRatio": 2}
LISTEN = """(node) => {
    node.focus();
    window.heard = false;
    node.addEventListener("keydown", () => (window.heard = true), { once: true, capture: true });
  }"""


class Firefox:
    """A window, one page at a time. Whatever a page logs as an error is in `troubles`."""

    def __init__(self, address: str):
        self.socket = create_connection(f"{address}/session", suppress_origin=True, timeout=120)
        self.asked, self.troubles = 0, []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded"])
        self.page = {"context": self.send("browsingContext.create", type="window")["context"]}
        self.send("browsingContext.activate", **self.page)  # else it has no focus
        self.send("browsingContext.setViewport", **self.page, **WINDOW)

    def send(self, method: str, **params: Any) -> Any:
        """Ask the browser, and wait for its answer."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.asked:
            if answer.get("params", {}).get("level") == "error":
                self.troubles.append(answer["params"]["text"])
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['message']}")
        return answer["result"]

    def open(self, url: str) -> None:
        """Go to a page."""
        self.send("browsingContext.navigate", **self.page, url=url, wait="complete")

    def ask(self, function: str, selector: str = "html") -> Any:
        """Give what a function of JavaScript makes of the first element of a selector, as JSON; it may be a promise."""
        code = f"Promise.resolve(({function})(document.querySelector({json.dumps(selector)}))).then(JSON.stringify)"
        answer = self.send("script.evaluate", expression=code, target=self.page, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{selector}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"].get("value", "null"))

    def wait_for(self, selector: str) -> None:
        """Wait for an element."""
        assert lab.until(lambda: self.ask("(node) => Boolean(node)", selector), 180), f"no {selector}"

    def act(self, kind: str, *actions: dict) -> None:
        """Let a device act: "key" or "pointer"."""
        device = {"type": kind, "id": kind, "actions": actions}
        self.send("input.performActions", **self.page, actions=[device])

    def click(self, selector: str) -> None:
        """Click the middle of an element, when it is there."""
        self.wait_for(selector)
        middle = "({ x, y, width, height }) => [Math.round(x + width / 2), Math.round(y + height / 2)]"
        x, y = self.ask(f"(node) => ({middle})(node.getBoundingClientRect())", selector)
        press = ({"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0})
        self.act("pointer", {"type": "pointerMove", "x": x, "y": y}, *press)

    def moved(self, key: str) -> dict:
        """Press a key on the slider, and read what comes of it: a window that is still opening keeps its first keys."""
        before, slider = self.ask(lab.READ, LIVE)["state"], f"{LIVE} .ef-axis input"
        for _ in range(3):
            self.ask(LISTEN, slider)
            self.act("key", *({"type": way, "value": KEYS[key]} for way in ("keyDown", "keyUp")))
            if lab.until(lambda: self.ask("() => window.heard"), 3):
                break
            self.send("browsingContext.activate", **self.page)
        assert lab.until(lambda: self.ask(lab.READ, LIVE)["state"] != before, 30), (key, before)
        return self.ask(lab.READ, LIVE)


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    """Firefox with a new profile."""
    folder, found = tmp_path_factory.mktemp("profile"), lab.installed("firefox-esr", "firefox")
    command = [found, "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log)
    port = folder / "WebDriverBiDiServer.json"
    try:
        assert lab.until(lambda: port.exists() and port.read_text().endswith("}"), 60), (
            folder / "log"
        ).read_text()
        about = json.loads(port.read_text())
        yield Firefox(f"ws://{about['ws_host']}:{about['ws_port']}")
    finally:
        process.terminate()
        process.wait(20)


def test_a_page_draws_its_picture_and_says_its_words(fox, tmp_path):
    name = "the_best_step"
    shown = gallery.explorer(name).shown
    gallery.explorer(name).to_html(tmp_path / "page.html")
    fox.open((tmp_path / "page.html").as_uri())
    fox.wait_for(LIVE)
    seen = [fox.ask(lab.READ, LIVE), *map(fox.moved, ("Home", "ArrowRight", "PageUp"))]
    for moment in seen:
        assert moment["words"] == shown.say(tuple(moment["state"]))
        assert moment["label"].endswith(moment["words"])
    assert len({moment["pixels"] for moment in seen}) == len({moment["words"] for moment in seen}) == 4
    clip = {"type": "box"} | fox.ask("(node) => node.getBoundingClientRect()", ".ef-figure")
    shot = fox.send("browsingContext.captureScreenshot", **fox.page, clip=clip)
    ours, theirs = lab.read_png(b64decode(shot["data"])), drawn(name, tuple(seen[-1]["state"]), "wide")
    assert lab.apart(ours, theirs) <= 4
    assert fox.troubles == []


@pytest.mark.heavy
def test_jupyterlab_runs_a_lesson_whose_figure_moves(fox, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(START, tmp_path / "notebooks")
    with lab.server(tmp_path) as (url, token, log):
        fox.open(f"{url}lab/workspaces/fox/tree/notebooks/00_start_here.ipynb?reset&token={token}")
        # Before its kernel is there, JupyterLab passes over cells without running them.
        idle = "(page) => page.textContent.includes('(ipykernel) | Idle')"
        assert lab.until(lambda: fox.ask(idle), 180)
        fox.click(".jp-MarkdownCell")
        fox.click(".lm-MenuBar-item:nth-child(4)")
        fox.click(".lm-Menu-item:not(.lm-mod-disabled)[data-command='runmenu:run-all']")
        fox.wait_for(".ef-ask")
        assert lab.until(lambda: fox.ask(lab.ALL_RUN), 120)
        for part in ("label", "button"):
            fox.ask("(node) => node.click()", f".ef-ask {part}")
        fox.wait_for(LIVE)
        seen = [*map(fox.moved, ("Home", "PageUp", "End"))]
        assert len({moment["pixels"] for moment in seen}) == len({moment["words"] for moment in seen}) == 3
        desk = lab.Desk(tmp_path, url, token, log, None, fox.troubles)
        words = "import json; print(json.dumps(explorer.words))"
        assert lab.until(lambda: desk.ask(words) == seen[-1]["words"])
        assert desk.problems() == []
