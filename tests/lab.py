"""A real JupyterLab in a real Chromium, for the browser tests and the benchmark."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha512 as sha512_of
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import matplotlib.image
import nbformat
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from jupyter_client import BlockingKernelClient
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright
from scipy import ndimage

BRISK = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")  # what makes tests brisk is not what learners have
WINDOW = {"width": 1500, "height": 1000}
# Without these, Chromium looks for the network at its start.
FEATURES = ("quic", "background-networking", "component-update", "sync", "gpu")
QUIET = [*(f"--disable-{feature}" for feature in FEATURES), "--no-first-run", "--no-sandbox"]


def installed(*names: str) -> str:
    """A browser of the system, by one of its names. Tests are skipped without it, unless a browser is required."""
    for name in names:
        if found := shutil.which(name):
            return found
    stop = pytest.fail if os.environ.get("EFISHER_TEACH_REQUIRE_BROWSER") else pytest.skip
    stop(f"these tests need {names[0]} on the PATH (Debian: apt install {names[0]})")


def chromium() -> str:
    """The system's Chromium."""
    return installed("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def server(folder: Path):
    """JupyterLab on `folder`, started as on Binder; gives its address, the token, and the log's path."""
    runtime = folder / ".runtime"
    environment = {name: value for name, value in os.environ.items() if name not in BRISK} | {
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_DIR": str(runtime / "config"),
    }
    settings = runtime / "config/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    no_news = '{"fetchNews": "false", "checkForUpdates": false}'  # else a question lies over the notebook
    (settings / "notification.jupyterlab-settings").write_text(no_news)
    log = folder / "server.log"
    start = Path(__file__).parents[1] / "binder" / "start"
    options = {"root_dir": folder, "ip": "127.0.0.1", "port": 0}
    command = ["bash", start, sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
    try:
        deadline = time.monotonic() + 90
        while not (found := [path for path in runtime.glob("jpserver-*.json") if path.stat().st_size]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        info = json.loads(found[0].read_text())
        yield info["url"], info["token"], log
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def browser(scale: float = 1, **options: Any):
    """A Chromium window with `scale` device pixels a CSS pixel."""
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield window.new_page(viewport=WINDOW, device_scale_factor=scale, **options)
        window.close()


def listen(page: Page, from_disk: bool = False) -> list[str]:
    """All that goes wrong in the page from now on: errors, and requests to a host if it should come from disk alone."""
    troubles: list[str] = []

    def note(message):
        if message.type == "error":
            troubles.append(f"console: {message.text}")

    def note_request(request):
        if from_disk and not request.url.startswith(("file:", "blob:", "data:")):
            troubles.append(f"asks for {request.url}")

    page.on("pageerror", lambda error: troubles.append(f"page: {error}"))
    page.on("console", note)
    page.on("request", note_request)
    return troubles


def open_notebook(
    page: Page, url: str, token: str, name: str, front_end: str = "lab", workspace: str = ""
) -> None:
    """Open a notebook as if for the first time, in JupyterLab or in Notebook 7, and wait for its kernel."""
    if front_end == "notebook":
        page.goto(f"{url}notebooks/{name}?token={token}")
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
        return
    page.goto(f"{url}lab/workspaces/{workspace or Path(name).stem}/tree/{name}?reset&token={token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=60_000)


ALL_RUN = """() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)")];
    return Boolean(prompts.length) && prompts.every((prompt) => /\\[\\d+\\]/.test(prompt.textContent));
  }"""


def run_all(page: Page, timeout: float = 480) -> None:
    """Clear what is stored, run all cells by the menu, and wait until the last one has run."""
    for menu, item in (("Edit", "Clear Outputs of All Cells"), ("Run", "Run All Cells")):
        page.get_by_role("menuitem", name=menu, exact=True).click()
        page.get_by_role("menuitem", name=item, exact=True).click()
    page.wait_for_function(ALL_RUN, timeout=1000 * timeout)


def guess_all(page: Page) -> None:
    """Answer every question of the notebook: the figures behind them open."""
    form = page.locator(".ef-ask").first
    while form.count():
        asked = form.element_handle()
        if form.get_by_role("radio").count():
            form.get_by_role("radio").first.check()
        form.get_by_role("button").click()
        page.wait_for_function("(node) => !node.isConnected", arg=asked, timeout=20_000)


def explorers(page: Page) -> Locator:
    """The live explorers of the notebook that is open."""
    return page.locator(".jp-OutputArea .ef-explorer[data-serial]")


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook with these code cells."""
    kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)


class Desk(NamedTuple):
    """A server on a folder, and a page to open its notebooks in, one at a time."""

    folder: Path
    url: str
    token: str
    log: Path
    page: Page
    troubles: list[str]

    def open(self, name: str, front_end: str = "lab") -> None:
        """Open a notebook of the folder; the kernel of the one before is ended."""
        for session in json.loads(self.call("GET", "sessions")):
            self.call("DELETE", f"sessions/{session['id']}")
        open_notebook(self.page, self.url, self.token, name, front_end)

    def call(self, method: str, path: str) -> bytes:
        """Ask the server's REST interface."""
        request = urllib.request.Request(f"{self.url}api/{path}?token={self.token}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def problems(self) -> list[str]:
        """All that went wrong so far, in the page, its console, or the server's log (where kernels log too)."""
        ended_at_its_start = r"Traceback \(most recent call last\):\n(  .*\n)+KeyboardInterrupt\n"
        lines = re.sub(ended_at_its_start, "", self.log.read_text()).splitlines()
        return self.troubles + [line for line in lines if re.search(r"^\[E |\bERROR\b|Traceback", line)]

    def ask(self, code: str) -> Any:
        """Run code in the only kernel there is, as a second client; gives what it prints, read as JSON."""
        return ask(next((self.folder / ".runtime").glob("kernel-*.json")), code)


def ask(connection: Path, code: str) -> Any:
    """Run code in the kernel of a connection file, as a second client; gives what it prints, read as JSON."""
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    messages: list[dict] = []
    try:
        client.execute_interactive(code, timeout=60, store_history=False, output_hook=messages.append)
    finally:
        client.stop_channels()
    for message in messages:
        if message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))
    printed = [each["content"]["text"] for each in messages if each["msg_type"] == "stream"]
    return json.loads("".join(printed) or "null")


# Of an explorer: a number for what its canvas shows; and, once the next frame is on the screen, all that is seen of it.
HASH = """(root) => {
    const canvas = root.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let pixels = 0;
    for (const word of new Uint32Array(data.buffer)) pixels = (Math.imul(pixels, 31) + word) | 0;
    return pixels;
  }"""
READ = f"""(root) => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done({{
    pixels: ({HASH})(root),
    words: root.querySelector(".ef-words").textContent,
    label: root.querySelector(".ef-figure").getAttribute("aria-label"),
    said: [...root.querySelectorAll("output")].map((output) => output.textContent),
    places: [...root.querySelectorAll(".ef-axis input")].map((input) => input.valueAsNumber),
    state: root.dataset.state.split(",").map(Number),
    serial: Number(root.dataset.serial),
    error: root.querySelector(".ef-error").textContent,
    busy: root.classList.contains("ef-busy"),
  }}))))"""


def read(explorer: Locator) -> dict:
    """Read what an explorer shows now: a hash of the canvas, the words, what its sliders say, its state."""
    return explorer.evaluate(READ)


def until(ready: Callable[[], Any], timeout: float = 10) -> bool:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout
    while not (done := ready()) and time.monotonic() < deadline:
        time.sleep(0.03)
    return bool(done)


def read_when(explorer: Locator, ready: Callable[[dict], Any]) -> dict:
    """Read an explorer until `ready` says yes to what it shows; it must."""
    seen: list[dict] = []

    def look():
        seen[:] = [read(explorer)]
        return ready(seen[0])

    assert until(look), f"not in time: {seen}"
    return seen[0]


def read_at(explorer: Locator, *state: int) -> dict:
    """Read an explorer when it has come to a state."""
    return read_when(explorer, lambda seen: seen["state"] == [*state])


def read_png(data: bytes) -> np.ndarray:
    """A picture, (height, width, 3) in [0, 1]."""
    return matplotlib.image.imread(BytesIO(data))[..., :3]


def photograph(figure: Locator) -> np.ndarray:
    """A figure as it is on the screen, (height, width, 3) in [0, 1], moved to where it begins at a whole pixel."""
    figure.scroll_into_view_if_needed()
    figure.evaluate("(node) => { node.style.top = `${-(node.getBoundingClientRect().y % 1)}px`; }")
    shot = figure.page.screenshot(clip=figure.bounding_box())
    figure.evaluate("(node) => { node.style.top = ''; }")
    return read_png(shot)


def unlike(picture, other, radius=2, tolerance=0.1):
    """Spots of `picture` whose colour lies outside the range of colours that `other` has within a CSS pixel.

    Two device pixels are one CSS pixel. A spot is at least 2 × 2 device pixels: thinner differences are two renderers'
    ways to smooth an edge, or to round the frame that they clip at.
    """
    outside = (np.abs(picture - other) > tolerance).any(axis=-1)  # elsewhere its own neighbour is like it
    rows, columns = np.nonzero(outside)
    padded = np.pad(other, [(radius, radius), (radius, radius), (0, 0)], mode="edge")
    around = sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1), (0, 1))[rows, columns]
    low, high = around.min(axis=(-2, -1)) - tolerance, around.max(axis=(-2, -1)) + tolerance
    spot = picture[rows, columns]
    outside[rows, columns] = ((spot < low) | (spot > high)).any(axis=-1)
    return ndimage.binary_opening(outside, np.ones((2, 2)))


def apart(picture, other, tolerance=0.1) -> int:
    """Count the device pixels of the spots in which a picture and another one, scaled to its size, are unlike."""
    other = np.asarray(Image.fromarray(np.uint8(255 * other)).resize(picture.shape[1::-1])) / 255
    return max(unlike(*pair, tolerance=tolerance).sum() for pair in ((picture, other), (other, picture)))


def press(explorer: Locator, slider: Locator, key: str) -> dict:
    """Press a key on a slider of an explorer, and read what comes of it."""
    slider.focus()
    slider.page.keyboard.press(key)
    return read(explorer)


def settled_box(element: Locator) -> dict[str, float]:
    """Wait until an element stays where it is: JupyterLab draws the cells above it when they come into view."""
    boxes: list[Any] = [None]

    def look():
        element.page.wait_for_timeout(200)
        element.scroll_into_view_if_needed()
        boxes.append(element.bounding_box())
        return boxes[-1] == boxes[-2]

    assert until(look), f"it never stands still: {boxes}"
    return boxes[-1]


def drag(slider: Locator, moves: int = 12) -> Iterator[int]:
    """Drag a native slider with the mouse from end to end; stops after each move."""
    box, mouse = settled_box(slider), slider.page.mouse
    half = 8  # of Chromium's thumb
    for move in range(moves):
        fraction = move / (moves - 1)
        mouse.move(box["x"] + half + (box["width"] - 2 * half) * fraction, box["y"] + box["height"] / 2)
        if move == 0:
            mouse.down()
        yield move
    mouse.up()


class Touch:
    """A finger, moved as Playwright moves a mouse, by the browser's own touch events. One that is up does not move."""

    def __init__(self, page: Page):
        self.session, self.is_down, self.place = page.context.new_cdp_session(page), False, {}

    def move(self, x: float, y: float) -> None:
        self.place = {"x": x, "y": y}
        if self.is_down:
            self._send("touchMove", self.place)

    def down(self) -> None:
        self._send("touchStart", self.place)

    def up(self) -> None:
        self._send("touchEnd")

    def _send(self, kind: str, *points: dict) -> None:
        self.is_down = bool(points)
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


WCAG = {"wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"}
LARGE = (320, "light")  # a window of 1280 pixels at 400 %


def await_frame(page: Page) -> None:
    """Wait until what was done so far is on the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def barriers(page: Page, *looks: tuple[int, str], within: dict | None = None) -> list[str]:
    """Ask axe-core what it finds against WCAG 2.2 AA, or else calls serious, in some widths and themes.

    By default in three: narrow and dark, wide and light, and at 400 %. `within` is a context of axe-core, or all.
    """
    found = []
    for width, scheme in looks or ((390, "dark"), (1500, "light"), LARGE):
        page.set_viewport_size({"width": width, "height": 900 if width > 320 else 256})
        page.emulate_media(color_scheme=scheme)
        await_frame(page)
        options = {"resultTypes": ["violations"], "preload": False}  # the styles are in the page
        options["rules"] = {"target-size": {"enabled": True}}  # off in axe-core, where it is not asked for
        for rule in Axe().run(page, within, options).response["violations"]:
            for node in rule["nodes"]:
                if WCAG & {*rule["tags"]} or rule["impact"] in ("serious", "critical"):
                    found.append(f"{width} {scheme} {rule['id']}, {rule['help']}: {node['html'][:200]}")
    return found


def from_npm(name: str, version: str, sha512: str) -> Path:
    """The files of a package of npm, by the hash of its archive; kept beside the packages of this environment."""
    folder = Path(sys.prefix) / ".npm" / f"{name.replace('/', '+')}@{version}"
    if folder.exists():
        return folder
    if not (npm := shutil.which("npm")):
        pytest.skip(f"{name} comes by npm, which is not here.")
    with TemporaryDirectory(dir=sys.prefix) as beside:
        command = [npm, "pack", "--silent", f"{name}@{version}"]
        packed = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=120)
        if packed.returncode:
            pytest.skip(f"npm gives no {name}: {packed.stderr[-300:]}")
        data = (Path(beside) / packed.stdout.strip()).read_bytes()
        assert b64encode(sha512_of(data).digest()).decode() == sha512, f"npm gives another {name}"
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            archive.extractall(beside, filter="data")
        folder.parent.mkdir(exist_ok=True)
        (Path(beside) / "package").replace(folder)
    return folder


READER = (
    "@guidepup/virtual-screen-reader",
    "0.33.0",
    "CXMkIx19oFZ7BS7TcvDibXn6A2RsEs8nVX9IijHW7HQ0qTGHgc2WErkaMi12YPQi1Zypxr36NfRYWgBxUNvMtQ==",
)
LOAD = """async (code) => {
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    window.reader = (await import(address)).virtual;
  }"""
HEAR = """async (root, change) => {
    const bare = root !== document.body && !root.hasAttribute("role");
    if (bare) root.setAttribute("role", "group"); // so that its end is heard
    await reader.start({ container: root });
    const [first] = await reader.spokenPhraseLog();
    const read = async () => (await reader.lastSpokenPhrase()) !== `end of ${first}`;
    for (let i = 0; i < 9000 && (await read()); i++) await reader.next();
    const before = (await reader.spokenPhraseLog()).length;
    if (change) {
      eval(change)(root);
      await new Promise((done) => setTimeout(done, 1500)); // live regions wait for the hand to rest
    }
    const log = await reader.spokenPhraseLog();
    await reader.stop();
    if (bare) root.removeAttribute("role");
    return change ? log.slice(before) : log;
  }"""


def hear(element: Locator, change: str = "") -> list[str]:
    """Let a virtual screen reader say an element, from its beginning to its end; or a change in it alone."""
    code = (from_npm(*READER) / "lib" / "esm" / "index.browser.js").read_text()
    if not element.page.evaluate("'reader' in window"):
        element.page.evaluate(LOAD, code)
    return element.evaluate(HEAR, change)


SIGNS = """(root) => {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
      for (const { index, 0: number } of texts.currentNode.data.matchAll(/[−-]\\d+/g)) {
        const [sign, digit] = [index, index + 1].map((at) => {
          const range = document.createRange();
          range.setStart(texts.currentNode, at);
          range.setEnd(texts.currentNode, at + 1);
          return range.getBoundingClientRect();
        });
        if (sign.width) found.push([number, sign.left < digit.left || sign.top !== digit.top]);
      }
    }
    return found;
  }"""


def turned_signs(element: Locator) -> list[str]:
    """Numbers whose sign does not stand before them, where all around goes from right to left; some must have one."""
    element.page.evaluate("document.documentElement.dir = 'rtl'")
    found = element.evaluate(SIGNS)
    element.page.evaluate("document.documentElement.dir = ''")
    assert found, "no number has a sign"
    return [number for number, stands_before in found if not stands_before]
