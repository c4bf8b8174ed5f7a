"""Exercises on the pages: the judge gives the same verdicts there, where NumPy stands in for JAX, and the page says so.

Run as a script, this file prints the verdicts of whatever calls itself `jax`.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOT_HERE = "is not on this page"


def answers(exercise, styles):
    """The stub, the solution, a mistake that nobody has named, one that raises; other styles, each known mistake."""
    from efisher_teach.lessons.course import stub

    arguments = exercise.draw(np.random.default_rng(0), 0)
    tables: dict = {}

    def mistakes(*arguments):
        key = repr(arguments)
        return tables.setdefault(key, tables.get(key) or exercise.mistakes(*arguments))

    def on_paper(answer):
        return partial(answer, *arguments) if exercise.by_hand else answer

    room: dict = {}
    exec("import jax.numpy as jnp, numpy as np\n" + stub(exercise), room)
    yield "stub", room[exercise.name]
    yield "solution", on_paper(exercise.solution)
    yield "unnamed", lambda *_: np.array([[0.125, -1.0]])
    yield "raises", lambda *_: [][1]
    yield from ((f"style {place}", style) for place, style in enumerate(styles))
    for says in exercise.mistakes(*arguments):
        yield says, on_paper(lambda *arguments, says=says: mistakes(*arguments)[says])


def verdicts(left_out, first=None):
    """Judge all answers, or the first few, to all exercises but those that are left out."""
    from styles import STYLES

    from efisher_teach.lessons.course import EXERCISES, judge

    return {
        f"{name}: {kind}": list(judge(exercise, answer))
        for name, exercise in EXERCISES.items()
        if name not in left_out
        for kind, answer in islice(answers(exercise, STYLES.get(name, ())), first)
    }


if __name__ == "__main__":
    print(json.dumps(verdicts(json.loads(sys.argv[1]))))
    raise SystemExit

import lab  # noqa: E402

sys.path.append(str(ROOT / "site"))
import exercises  # noqa: E402


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    """The Python files of the page."""
    folder = tmp_path_factory.mktemp("page")
    exercises.write(folder)
    return folder


def in_page(folder, code, *arguments):
    """What code prints under the files of the page, where JAX cannot be had."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT / 'tests')!r}]; {code}"
    command = [sys.executable, "-P", "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_what_needs_jax_is_left_out():
    assert exercises.left_out() == {
        "choose_damping": "`ef.damping_path` is not on this page.",
        "weighted_backward": "`jax.grad` is not on this page.",
        "wide_direction": "Its bug shows in single precision, which is not on this page.",
    }


def test_verdicts_are_those_of_the_notebook(page_folder):
    """Word for word and number for number, unless the answer asks for what is not there, and is told so.

    That JAX calls each style right, and each mistake by its name, is tested with the exercises.
    """
    run = "import runpy; runpy.run_path(sys.argv[2], run_name='__main__')"
    page = json.loads(in_page(page_folder, run, json.dumps(exercises.left_out()), __file__))
    real = verdicts(exercises.left_out(), first=4)
    lacking = []
    for answer, verdict in page.items():
        name, _, kind = answer.partition(": ")
        style = kind.startswith("style ")
        if style and verdict[0] == "stopped" and NOT_HERE in verdict[1]:
            lacking.append(answer)
            continue
        known = real[f"{name}: solution"] if style else ["wrong", kind, ""]
        assert verdict == real.get(answer, known), answer
    assert len(real) < len(page) > 20 * len(lacking)


def test_code_is_run_as_a_cell_would_run_it(page_folder):
    """What is asked for is found, or missed; an error names its line."""
    codes = {
        "right": "import jax.numpy as jnp\ndef mean_gradient(G):\n    return jnp.mean(G, 0)",
        "There is no function": "def mean(G):\n    return 1",
        "SyntaxError": "def mean_gradient(G:\n    return 1",
        "In line 2: return G.nothing": "def mean_gradient(G):\n    return G.nothing",
        "it is not finite": "def mean_gradient(G):\n    return G[0] + jnp.linalg.inv(jnp.zeros((1, 1)))[0, 0]",
        "`jax.grad` is not on this page": "def mean_gradient(G):\n    return jax.grad(G)",
    }
    run = "import json, on_page; [print(on_page.check('mean_gradient', each)) for each in json.loads(sys.argv[1])]"
    said = in_page(page_folder, run, json.dumps([*codes.values()])).splitlines()
    assert [words for words, line in zip(codes, said, strict=True) if words not in line] == []


PYTHON_BESIDE = """
window.Worker = class {
  async postMessage(data) {
    if (data.sources) this.onmessage({ data: { ready: true } });
    else if (!data.code.includes("while True"))
      this.onmessage({ data: { verdict: JSON.parse(await window.judged(data.name, data.code)) } });
  }
  terminate() {}
};
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One page, its figures as they are stored, and Python as it would come from its host: the core, from npm."""
    from test_site import build

    lab.chromium()
    out = tmp_path_factory.mktemp("site")
    writer = build.Writer(out)
    writer.materials()
    writer.notebook(ROOT / "notebooks" / "01_every_example_pulls.ipynb", [])
    return out


@pytest.mark.browser
def test_an_answer_is_written_and_judged_by_keys_alone(site, page_folder):
    """The Python that judges is CPython here: the worker's place is taken, its files are the same."""
    run = "import on_page; print(on_page.check(*sys.argv[1:]))"
    with lab.browser(color_scheme="dark") as page:
        troubles = lab.listen(page, from_disk=True)
        page.expose_function("judged", lambda name, code: in_page(page_folder, run, name, code))
        page.add_init_script(PYTHON_BESIDE)
        page.clock.install()
        page.goto((site / "01_every_example_pulls.html").as_uri())
        form = page.locator("form", has_text="kept_by_the_mean").first
        answer, said = form.get_by_label("Your answer"), form.locator(".ef-said")
        assert "return ..." in answer.input_value()
        answer.press("Control+Enter")
        said.get_by_text("… kept_by_the_mean").wait_for()
        answer.fill("")
        page.keyboard.type("def kept_by_the_mean(G):\ng = G.mean(axis=0)\nreturn jnp.sqrt(g @ g / jnp.mean(")
        page.keyboard.type("jnp.sum(G**2, 1)))")
        assert "\n    g = G.mean(axis=0)\n    return" in answer.input_value()
        for key in ("Tab", "Enter"):
            page.keyboard.press(key)
        said.get_by_text("✗ kept_by_the_mean").wait_for()
        form.get_by_role("button", name="hint 1 of 3").press("Enter")
        assert "Hint 1: " in said.inner_text()
        assert lab.barriers(page) == []
        answer.fill(answer.input_value().replace("jnp.sqrt(g", "(g"))
        answer.press("Control+Enter")
        said.get_by_text("Right, on 5 instances.").wait_for()
        page.reload()
        assert "return (g @ g" in answer.input_value()
        answer.fill("while True: pass")
        answer.press("Control+Enter")
        said.get_by_text("Checking").wait_for()
        page.clock.fast_forward(31_000)
        said.get_by_text("It did not end within 30 seconds.").wait_for()
        form.get_by_role("button", name="Start again").press("Enter")
        assert "return ..." in answer.input_value()
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert troubles == []


@pytest.fixture(scope="module")
def core():
    """Python for browsers, as npm has it; kept beside the packages of this environment."""
    folder = Path(sys.prefix) / ".pyodide" / exercises.VERSION
    if not folder.exists():
        npm = shutil.which("npm")
        if not npm:
            pytest.skip("Python for browsers comes by npm, which is not here.")
        beside = folder.with_name(f"{folder.name}.new")
        beside.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", f"pyodide@{exercises.VERSION}"]
        packed = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=120)
        if packed.returncode:
            pytest.skip(f"npm gives no Python for browsers: {packed.stderr[-300:]}")
        with tarfile.open(beside / packed.stdout.strip()) as archive:
            archive.extractall(beside, filter="data")
        (beside / "package").replace(folder)
        shutil.rmtree(beside)
    return folder


class Host(SimpleHTTPRequestHandler):
    """Stands for the host that Python comes from; notes what it was asked for, and may give another file."""

    def guess_type(self, path):
        """Scripts as such; a browser takes no other modules."""
        return "text/javascript" if str(path).endswith("js") else "application/wasm"

    def do_GET(self):
        self.server.asked.append(self.path[1:])
        if self.path[1:] == self.server.other:
            self.path = "/package.json"
        super().do_GET()

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.browser
@pytest.mark.parametrize("other", ["", "pyodide.mjs", "python_stdlib.zip"])
def test_python_comes_at_the_first_check_and_only_as_it_is_pinned(site, core, other):
    """As far as its core: NumPy for browsers is not to be had from npm, so here it is what fails, and is said to."""
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=core))
    host.asked, host.other = [], other
    threading.Thread(target=host.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{host.server_port}/"
    lessons = exercises.lessons().replace(exercises.CORE, here).replace(exercises.NUMPY, here)
    (site / "assets" / "lessons.js").write_text(lessons)
    with lab.browser() as page:
        page.goto((site / "01_every_example_pulls.html").as_uri())
        form = page.locator("form.ef-exercise").first
        assert host.asked == []
        form.get_by_role("button", name="Check").click()
        said = form.get_by_text("nothing was checked")
        said.wait_for(timeout=60_000)
        wheel = next(name for name in exercises.PINNED if name.endswith(".whl"))
        assert f"{other or wheel} did not come, or is another file" in said.inner_text()
        assert form.get_by_role("link", name="run it for real").is_visible()
        assert other or {*host.asked} == {*exercises.PINNED}
    host.shutdown()
