"""A real Firefox, driven through WebDriver BiDi, which it speaks itself: for what must not hold in Chromium alone."""

import json
import subprocess
import time
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lab
from websocket import create_connection

KEYS = {"Home": "\ue011", "End": "\ue010", "PageUp": "\ue00e", "ArrowRight": "\ue014"}


class Firefox:
    """A window, one page at a time. Whatever a page logs as an error is in `troubles`."""

    def __init__(self, address: str):
        self.socket = create_connection(f"{address}/session", suppress_origin=True, timeout=120)
        self.asked, self.troubles = 0, []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded"])
        self.page = {"context": self.send("browsingContext.create", type="window")["context"]}
        self.send("browsingContext.activate", **self.page)  # else it has no focus

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

    def open(self, url: str, width: int = 1500, height: int = 1000) -> None:
        """Go to a page."""
        size = {"viewport": {"width": width, "height": height}, "devicePixelRatio": 2}
        self.send("browsingContext.setViewport", **self.page, **size)
        self.send("browsingContext.navigate", **self.page, url=url, wait="complete")

    def ask(self, function: str, selector: str = "html") -> Any:
        """Give what a function of JavaScript makes of the first element of a selector, as JSON; it may be a promise."""
        code = f"Promise.resolve(({function})(document.querySelector({json.dumps(selector)}))).then(JSON.stringify)"
        answer = self.send("script.evaluate", expression=code, target=self.page, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{selector}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"].get("value", "null"))

    def wait_for(self, selector: str, text: str = "", timeout: float = 180) -> None:
        """Wait for an element that has this text."""
        has = f"(node) => Boolean(node?.textContent.includes({json.dumps(text)}))"
        assert lab.until(lambda: self.ask(has, selector), timeout), f"no {selector} with “{text}”"

    def act(self, kind: str, *actions: dict) -> None:
        """Let a device act: "key" or "pointer"."""
        device = {"type": kind, "id": kind, "actions": actions}
        self.send("input.performActions", **self.page, actions=[device])

    def press(self, selector: str, key: str) -> None:
        """Press a key on an element, which must hear it: a window that is still opening keeps its first keys."""
        listen = """(node) => {
            node.focus();
            window.heard = false;
            node.addEventListener("keydown", () => (window.heard = true), { once: true, capture: true });
          }"""
        for _ in range(3):
            self.ask(listen, selector)
            self.act("key", *({"type": way, "value": KEYS.get(key, key)} for way in ("keyDown", "keyUp")))
            if lab.until(lambda: self.ask("() => window.heard"), 3):
                return
            self.send("browsingContext.activate", **self.page)
        raise RuntimeError(f"{selector} does not hear {key}")

    def click(self, selector: str, text: str = "") -> None:
        """Click the middle of an element, when it stands still and nothing lies over it."""
        self.wait_for(selector, text)
        middle = """(node) => new Promise((done) => {
            node.scrollIntoView({ block: "center" });
            const where = () => {
              const box = node.getBoundingClientRect();
              return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)];
            };
            const before = where();
            const look = () => {
              const now = where();
              done(`${now}` === `${before}` && node.contains(document.elementFromPoint(...now)) && now);
            };
            setTimeout(look, 100);
          })"""
        deadline = time.monotonic() + 60
        while not (found := self.ask(middle, selector)):
            assert time.monotonic() < deadline, f"{selector} does not come to rest in view"
        x, y = found
        press = ({"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0})
        self.act("pointer", {"type": "pointerMove", "x": x, "y": y}, *press)

    def photograph(self, selector: str) -> Any:
        """An element as it is on the screen, (height, width, 3) in [0, 1]."""
        where = "(node) => JSON.parse(JSON.stringify(node.getBoundingClientRect()))"
        clip = {"type": "box"} | self.ask(where, selector)
        shot = self.send("browsingContext.captureScreenshot", **self.page, clip=clip)
        return lab.read_png(b64decode(shot["data"]))


@contextmanager
def browser(folder: Path):
    """Firefox with a new profile."""
    port, found = folder / "WebDriverBiDiServer.json", lab.installed("firefox-esr", "firefox")
    command = [found, "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log)
    try:
        if not lab.until(lambda: port.exists() and port.read_text().endswith("}"), 60):
            raise RuntimeError(f"Firefox did not start:\n{(folder / 'log').read_text()[-2000:]}")
        about = json.loads(port.read_text())
        fox = Firefox(f"ws://{about['ws_host']}:{about['ws_port']}")
        yield fox
        fox.send("browser.close")
    finally:
        process.terminate()
        process.wait(20)
