"""What the papers of the project say is true: the README's example runs, links lead on."""

import importlib.util
import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import efisher_teach as ef

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_examples(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    names = {}
    for example in examples:  # the second goes on where the first ended
        assert len(example.strip().splitlines()) <= 12
        exec(example, names)
        assert capsys.readouterr().out
    assert abs(float(names["step"].budget_spent) - 0.01) < 1e-6
    report = names["report"]
    assert max(float(report.budget_spent) / 0.01, float(report.length) / 0.1) == pytest.approx(1, abs=1e-4)


def test_readme_fits_one_screen():
    assert len(README.splitlines()) <= 75


PAPERS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", PAPERS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), link


def test_tables_are_those_of_code_and_measurements():
    """A second run of `make tables` changes nothing."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    assert sum(page.count("<!-- table:") for page in pages) == 9
    assert pages == [tables.filled(page) for page in pages]


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "efisher_teach/__init__.py"
    assert version("efisher_teach") == ef.__version__
    assert f"version: {ef.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{ef.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_call_make_targets():
    """They have nothing of their own: what fails there can be run here."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")
    }
    assert set(files) == {"ci", "release", "site", "weekly"}
    matrix = files["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert {"lint", "test-units", "test-notebooks", "test-browser"} <= set(matrix["target"]) <= targets
    runs = {
        name: re.findall(
            r"make ([a-z-]+)",
            " ".join(step.get("run", "") for job in file["jobs"].values() for step in job["steps"]),
        )
        for name, file in files.items()
    }
    assert {"test-all", "mutants"} <= {
        *runs["weekly"],
        *files["weekly"]["jobs"]["all"]["strategy"]["matrix"]["target"],
    }
    assert "test-all" in runs["release"]
    assert {each for called in runs.values() for each in called} <= targets


def test_make_targets_named_in_papers_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^)make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    )
    assert {"lab", "test"} <= named <= targets


@pytest.mark.parametrize("paper", ["README.md", "docs/teaching.md"])
def test_every_notebook_is_listed_with_its_minutes(paper):
    text = (ROOT / paper).read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = json.loads(path.read_text())["cells"][0]["source"]
        title, minutes = re.search(r"# ([^:\n]+).*?\*\*(\d+) minutes", "".join(first), re.DOTALL).groups()
        assert re.search(
            rf"\[{path.name[:2]} {re.escape(title)}\]\(\S*{path.name}\) \| {minutes} \|", text
        ), path.name


def test_the_views_that_teachers_are_told_of_exist():
    scenes = "".join(
        path.read_text() for path in (ROOT / "efisher_teach" / "figures" / "scenes").glob("*.py")
    )
    table = (ROOT / "docs" / "teaching.md").read_text().partition("## The notebooks")[2].partition("##")[0]
    named = re.findall(r"\*([^*|]+)\*", table)
    assert len(named) > 10
    assert [name for name in named if not re.search(rf'Preset\(\s*"{re.escape(name)}"', scenes)] == []
