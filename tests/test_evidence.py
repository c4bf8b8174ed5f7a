"""The experiments of notebooks 08, 09 and 10: what they assert for a few draws holds for eight of all."""

import re
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.heavy
FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize(
    ("notebook", "needed"),
    [
        ("08_should_all_improve", ["04", "14", "16", "18", "20"]),
        ("09_a_real_network", ["22", "22b"]),
        ("10_which_matrix", ["18"]),
    ],
)
def test_experiments_hold_for_eight_draws(notebook, needed):
    cells = {cell.id: cell.source for cell in nbformat.read(FOLDER / f"{notebook}.ipynb", 4).cells}
    topic = notebook.split("_", 1)[1].replace("_", "-")
    code = "\n".join(cells[f"{topic}-{place}"] for place in needed)
    assert "assert " in code
    code, found = re.subn(r"range\(3\)", "range(8)", code)
    assert found == 1
    imports = re.findall(r"^(?:import|from) .*", cells[f"{topic}-02"], re.MULTILINE)
    exec("\n".join([*imports, code]), {})
