"""The papers of the project say what is true: the README's example runs, links lead on."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import tables
import yaml

import efisher_teach as ef

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


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


PAPERS = [path for kind in ("*.md", "docs/*.md", "notebooks/*.ipynb") for path in ROOT.glob(kind)]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.stem)
def test_links_lead_somewhere(paper):
    for link in re.findall(r"\]\(([^)#]+)\)", paper.read_text()):
        assert link.startswith("https://") or (paper.parent / link).exists(), link


def test_tables_are_those_of_code_and_measurements():
    """A second run of `make tables` changes nothing."""
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
    runs = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        steps = " ".join(step.get("run", "") for job in jobs for step in job["steps"])
        matrices = [job.get("strategy", {}).get("matrix", {}).get("target", []) for job in jobs]
        runs[path.stem] = set(re.findall(r"make ([a-z-]+)", steps)).union(*matrices)
    assert runs == {
        "ci": {"lint", "test-units", "test-notebooks", "test-browser"},
        "weekly": {"test-newest", "test-all", "mutants"},
        "release": {"test-all"},
        "site": {"site"},
    }
    assert set().union(*runs.values()) <= TARGETS


def test_make_targets_named_in_papers_exist():
    papers = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert {"lab", "test"} <= set(re.findall(r"(?:`|^)make ([a-z-]+)", papers, re.MULTILINE)) <= TARGETS


@pytest.mark.parametrize("paper", ["README.md", "docs/teaching.md"])
def test_every_notebook_is_listed_with_its_minutes(paper):
    text = (ROOT / paper).read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = json.loads(path.read_text())["cells"][0]["source"]
        title, minutes = re.search(r"# ([^:\n]+).*?\*\*(\d+) minutes", "".join(first), re.DOTALL).groups()
        row = rf"\[{path.name[:2]} {re.escape(title)}\]\(\S*{path.name}\) \| {minutes} \|"
        assert re.search(row, text), path.name


def test_the_views_that_teachers_are_told_of_exist():
    scenes = "".join(path.read_text() for path in ROOT.glob("efisher_teach/figures/scenes/*.py"))
    table = (ROOT / "docs" / "teaching.md").read_text().partition("## The notebooks")[2].partition("##")[0]
    named = re.findall(r"\*([^*|]+)\*", table)
    assert len(named) > 10
    assert [name for name in named if not re.search(rf'Preset\(\s*"{re.escape(name)}"', scenes)] == []
