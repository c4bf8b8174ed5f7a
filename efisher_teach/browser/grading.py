"""One table of a class, from the files that `ef.lab_record` writes.

    python -m efisher_teach.browser.grading FOLDER class.csv

A line for each learner and exercise: file, name, exercise, verdict, attempts, hints. A file that is no lab record has
one line that says so. What is in the files is the learners' own: run their code again where it counts.
"""

import argparse
import csv
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

from efisher_teach.browser.record import write_whole

COLUMNS = ("file", "name", "exercise", "verdict", "attempts", "hints")
KEPT = re.compile(r'<script type="application/json" id="record">(.*?)</script>', re.DOTALL)


def read(path: Path) -> dict[str, Any] | None:
    """Read a lab record, .html or .json; None if the file is none."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".html":
        found = KEPT.search(text)
        text = found[1] if found else ""
    try:
        record = json.loads(text)
        parts = record["attempts"], record["hints"], *record["attempts"].values()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if "name" in record and all(isinstance(part, dict) for part in parts) else None


def table(folder: Path) -> str:
    """All lab records of a folder as CSV."""
    out = StringIO()
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(COLUMNS)
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".html", ".json")):
        record = read(path)
        if record is None:
            sheet.writerow([path.name, "", "", "not a lab record", "", ""])
            continue
        attempts, hints = record["attempts"], record["hints"]
        for exercise in dict.fromkeys([*attempts, *hints]) or [""]:
            made = attempts.get(exercise, {})
            verdict = "right" if made.get("passed") else made.get("state", "not tried")
            cells = (record["name"], exercise, verdict, made.get("tries", 0), hints.get(exercise, 0))
            sheet.writerow([path.name, *map(_harmless, cells)])
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    """A learner's text, so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if str(cell).startswith(("=", "+", "-", "@")) else cell


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m efisher_teach.browser.grading", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("csv", type=Path)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"FOLDER must be a folder of lab records; got '{options.folder}'.")
    write_whole(options.csv, "\ufeff" + table(options.folder))  # the mark tells Excel that it is UTF-8
