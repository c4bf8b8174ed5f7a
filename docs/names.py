"""Write docs/names.md, the table of every public name with its room: `make names`."""

from pathlib import Path
from types import ModuleType

import efisher_teach as ef

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Every public name

What `import efisher_teach as ef` offers, with its room. Arguments, shapes and an example stand in each docstring
(`help(ef.gram)`), and on the site in the reference. Result types, such as `Step`, and machinery live in the modules.

| name | room | in one line |
|---|---|---|
"""


def row(name: str) -> str:
    """A name, the module where it lives, and the first line of its docstring."""
    value = getattr(ef, name)
    module = value.__name__ if isinstance(value, ModuleType) else value.__module__
    room = module.removeprefix("efisher_teach.")
    first = " ".join((value.__doc__ or "").partition("\n\n")[0].split())
    return f"| `ef.{name}` | `{room}` | {first.replace('|', '∣')} |"


def page() -> str:
    """The whole page."""
    rooms = ("core", "network", "figures", "lessons", "browser")
    rows = sorted(map(row, ef.__all__), key=lambda line: rooms.index(line.split("`")[3].partition(".")[0]))
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
