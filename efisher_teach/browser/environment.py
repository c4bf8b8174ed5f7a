"""The card that tells where a notebook runs, and what to do where widgets do not."""

import platform
from importlib.metadata import PackageNotFoundError, version

import jax

from efisher_teach.browser.card import HTML, Card

PACKAGES = ("efisher_teach", "jax", "numpy", "matplotlib", "ipywidgets", "anywidget")
FRONT_ENDS = ("jupyterlab", "notebook")
NO_WIDGETS = (
    "no answer yet. If this line stays, widgets do not run here: reload the page, run the cell again, or open it "
    "with `make lab` or on Binder. Pictures, words and folded answers need no widgets."
)

NOT_KEPT = (
    "not kept; with JAX_COMPILATION_CACHE_DIR set to a folder, the course starts sooner the second time"
)


def environment() -> Card:
    """Show versions, device and front end, whether widgets work, and what to do if they do not.

    Returns:
        A card; the browser adds what it sees.

    Examples:
        >>> print(ef.environment().words)
        Python: 3...
        jax: 0...
        computes on: ...
    """
    rows = {"Python": platform.python_version(), "system": platform.system()}
    for package in PACKAGES + FRONT_ENDS:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed here; the front end may bring its own"
    rows["computes on"] = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    cache = jax.config.values["jax_compilation_cache_dir"]
    rows["compiled programs"] = f"kept in {cache}" if cache else NOT_KEPT
    card = Card(state="right")
    card.words = "\n".join(f"{key}: {value}" for key, value in rows.items())

    def show(_change=None):
        widgets = f"they run, in {card.seen['front end']}" if card.seen else NO_WIDGETS
        card.html = HTML.table(rows | {"widgets": widgets})

    card.observe(show, "seen")
    show()
    return card
