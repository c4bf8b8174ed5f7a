"""Proof that the tests bite: apply each error of mutants.toml to a copy of the project, and see the named test go red.

A mutant is a file, a text in it that occurs once, what it becomes, and the tests that must find it. It is killed if
these fail, and not killed if they pass, find nothing to run, or cannot be collected.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "_site", "dist", "__pycache__", ".*_cache", ".hypothesis")
FAILED = 1  # what pytest exits with if tests ran and some failed


def run(copy, tests, options=()):
    """pytest on the copy: its exit status, and its last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options, *tests]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    return result.returncode, (result.stdout.strip().splitlines() or [result.stderr.strip()])[-1]


def survives(copy, mutant):
    """Why a mutant is not killed; "" if it is."""
    path = copy / mutant["file"]
    original = path.read_text()
    if (count := original.count(mutant["before"])) != 1:
        return f"its text occurs {count} times in {mutant['file']}"
    path.write_text(original.replace(mutant["before"], mutant["after"]))
    try:
        status, last = run(copy, mutant["tests"], mutant.get("options", ()))
    finally:
        path.write_text(original)
    return "" if status == FAILED else f"pytest exits with {status}: {last}"


def main(chosen):
    """Every mutant whose name contains one of the chosen words; all if there are none."""
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    mutants = [each for each in mutants if not chosen or any(word in each["name"] for word in chosen)]
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        for mutant in mutants:
            why = survives(copy, mutant)
            alive += [mutant["name"]] * bool(why)
            print(
                f"{'SURVIVES' if why else 'killed':9} {mutant['name']}: {why or ' '.join(mutant['tests'])}",
                flush=True,
            )
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants killed")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
