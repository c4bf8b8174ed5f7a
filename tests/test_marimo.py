"""marimo shows no ipywidgets: there, an explorer shows its controls itself."""

import os
import socket
import subprocess
from pathlib import Path

import lab
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.heavy]
NOTEBOOK = Path(__file__).with_name("marimo_notebook.py")


@pytest.fixture
def address(tmp_path):
    if not (marimo := os.environ.get("EFISHER_TEACH_MARIMO")):
        pytest.skip("marimo has an environment of its own: make test-marimo")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [marimo, "run", NOTEBOOK, "--headless", "--no-token", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    assert lab.until(lambda: "URL" in log.read_text(), 60), log.read_text()
    yield f"http://localhost:{port}"
    process.terminate()
    process.wait(20)


def test_controls_of_an_explorer_move_it_and_follow_python(address):
    with lab.browser() as page:
        troubles = lab.listen(page)
        page.goto(address)
        explorer = page.locator(".ef-explorer[data-serial]")
        explorer.wait_for(timeout=120_000)

        def says(budget, root):
            lab.read_when(explorer, lambda seen: f"√c = {root}." in seen["words"] and not seen["busy"])
            assert lab.until(lambda: explorer.locator(".ef-control output").inner_text() == budget)

        slider, view = explorer.locator(".ef-control input"), explorer.locator(".ef-control select")
        says("0.01", "0.100")
        for _ in range(3):  # faster than the kernel answers: the last one counts
            slider.press("ArrowRight")
        says("0.025", "0.158")
        before = lab.read(explorer)
        view.select_option("far")
        lab.read_when(explorer, lambda seen: seen["pixels"] != before["pixels"])
        page.locator("marimo-slider").get_by_role("slider").press("ArrowRight")
        says("0.015", "0.122")
        slider.press("End")  # refused, and set back
        assert lab.until(lambda: "`budget` must be at most 0.04" in lab.read(explorer)["error"], 30)
        says("0.015", "0.122")
        with page.expect_download() as download:
            explorer.get_by_role("button", name="save as SVG").click()
        assert "<svg" in Path(download.value.path()).read_text()
        assert troubles == []
