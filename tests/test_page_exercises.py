"""Exercises on the pages: the judge gives the same verdicts there, where NumPy stands in for JAX, and the page says so.

Run as a script, this file prints the verdicts of whatever calls itself `jax`.
"""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOT_HERE = "is not on this page"


def answers(exercise):
    """The stub, the solution, a mistake that nobody has named, one that raises; another style, each known mistake."""
    from styles import STYLES, on_paper, remembered

    from efisher_teach.lessons.course import stub

    mistakes, room = remembered(exercise.mistakes), {}
    exec("import jax.numpy as jnp, numpy as np\n" + stub(exercise), room)
    yield "stub", room[exercise.name]
    yield "solution", on_paper(exercise, exercise.solution)
    yield "unnamed", lambda *_: np.array([[0.125, -1.0]])
    yield "raises", lambda *_: [][1]
    if exercise.name in STYLES:
        yield "style", STYLES[exercise.name]
    for says in mistakes(*exercise.draw(np.random.default_rng(0), 0)):
        yield says, on_paper(exercise, lambda *arguments, says=says: mistakes(*arguments)[says])


def verdicts(left_out, first=None):
    """Judge all answers, or the first few, to all exercises but those that are left out."""
    from efisher_teach.lessons.course import EXERCISES, judge

    return {
        f"{name}: {kind}": list(judge(exercise, answer))
        for name, exercise in EXERCISES.items()
        if name not in left_out
        for kind, answer in islice(answers(exercise), first)
    }


if __name__ == "__main__":
    print(json.dumps(verdicts(json.loads(sys.argv[1]))))
    raise SystemExit

import exercises  # noqa: E402
import lab  # noqa: E402


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    """The Python files of the page."""
    folder = tmp_path_factory.mktemp("page")
    exercises.write(folder)
    return folder


def in_page(folder, code, *arguments):
    """Run code under the files of the page, where JAX cannot be had; gives what it prints."""
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
        style = kind == "style"
        if style and verdict[0] == "stopped" and NOT_HERE in verdict[1]:
            lacking.append(answer)
            continue
        known = real[f"{name}: solution"] if style else ["wrong", kind, ""]
        assert verdict == real.get(answer, known), answer
    assert len(real) < len(page) > 20 * len(lacking)


def test_code_is_run_as_a_cell_would_run_it(page_folder):
    """The function is found, or missed; an error names its line."""
    head = "def mean_gradient(G):\n    return"
    codes = {
        "right": f"import jax.numpy as jnp\n{head} jnp.mean(G, 0)",
        "There is no function": "def mean(G):\n    return 1",
        "SyntaxError": "def mean_gradient(G:\n    return 1",
        "In line 2: return G.nothing": f"{head} G.nothing",
        "it is not finite": f"{head} G[0] + jnp.linalg.inv(jnp.zeros((1, 1)))[0, 0]",
        "`jax.grad` is not on this page": f"{head} jax.grad(G)",
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
    import build

    lab.chromium()
    out = tmp_path_factory.mktemp("site")
    writer = build.Writer(out)
    writer.materials()
    writer.notebook(ROOT / "notebooks" / "01_every_example_pulls.ipynb", [])
    return out


@pytest.fixture(scope="module")
def chromium():
    with lab.browser() as page:
        yield page.context.browser


@pytest.mark.browser
def test_an_answer_is_written_and_judged_by_keys_alone(site, page_folder, chromium):
    """The Python that judges is CPython here: the worker's place is taken, its files are the same."""
    run = "import on_page; print(on_page.check(*sys.argv[1:]))"
    with chromium.new_page(color_scheme="dark") as page:
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


PYODIDE = (
    "pyodide",
    exercises.VERSION,
    "0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A==",
)


@pytest.mark.browser
@pytest.mark.parametrize("other", ["", "pyodide.mjs", "python_stdlib.zip"])
def test_python_comes_at_the_first_check_and_only_as_it_is_pinned(site, chromium, other):
    """As far as its core: NumPy for browsers is not to be had from npm, so here it is what fails, and is said to."""
    core, asked = lab.from_npm(*PYODIDE), []

    def answer(route):
        """Stand for the host that Python comes from, and give another file for one."""
        name = route.request.url.rpartition("/")[2]
        asked.append(name)
        path = core / ("package.json" if name == other else name)
        given = {"path": path} if path.exists() else {"status": 404}
        route.fulfill(**given, headers={"Access-Control-Allow-Origin": "*"})

    with chromium.new_page() as page:
        page.context.route("https://cdn.jsdelivr.net/**", answer)
        page.goto((site / "01_every_example_pulls.html").as_uri())
        form = page.locator("form.ef-exercise").first
        assert asked == []
        form.get_by_role("button", name="Check").click()
        said = form.get_by_text("nothing was checked")
        said.wait_for(timeout=60_000)
        wheel = next(name for name in exercises.PINNED if name.endswith(".whl"))
        assert f"{other or wheel} did not come, or is another file" in said.inner_text()
        assert form.get_by_role("link", name="run it for real").is_visible()
        assert other or {*asked} == {*exercises.PINNED}
