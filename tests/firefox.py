"""A real Firefox, driven through WebDriver BiDi, which it speaks itself: for what must not hold in Chromium alone."""

import json
import subprocess
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lab
from websocket import create_connection

KEYS = {"Home": "\ue011", "End": "\ue010", "PageUp": "\ue00e", "ArrowRight": "\ue014", "Enter": "\ue007"}
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
        self.send("browsingContext.setViewport", **self.page, viewport=lab.WINDOW, devicePixelRatio=2)
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

    def press(self, selector: str, key: str) -> None:
        """Press a key on an element, which must hear it: a window that is still opening keeps its first keys."""
        keys = [{"type": way, "value": KEYS.get(key, key)} for way in ("keyDown", "keyUp")]
        for _ in range(3):
            self.send("browsingContext.activate", **self.page)  # else it has no focus
            self.ask(LISTEN, selector)
            self.send(
                "input.performActions", **self.page, actions=[{"type": "key", "id": "", "actions": keys}]
            )
            if lab.until(lambda: self.ask("() => window.heard"), 3):
                return
        raise RuntimeError(f"{selector} does not hear {key}")

    def photograph(self, selector: str) -> Any:
        """An element as it is on the screen, (height, width, 3) in [0, 1]."""
        clip = {"type": "box"} | self.ask("(node) => node.getBoundingClientRect().toJSON()", selector)
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
