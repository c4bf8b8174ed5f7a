"""A cell that runs again closes the widgets of its earlier run: nobody would ever see them again."""

from typing import Any
from weakref import WeakSet

from IPython.core.getipython import get_ipython

_WIDGETS: dict[str, tuple[str, WeakSet]] = {}  # by cell: its latest run, and the widgets made in it


def close_widgets_of_earlier_run(widget: Any) -> None:
    """Close what an earlier run of the current cell made, and remember `widget` as made by this run."""
    message = getattr(get_ipython(), "get_parent", dict)()  # a kernel knows the message that it answers
    cell, run = message.get("metadata", {}).get("cellId"), message.get("header", {}).get("msg_id")
    if not cell:
        return
    latest, widgets = _WIDGETS.get(cell, (run, WeakSet()))
    if latest != run:
        for old in list(widgets):
            old.close()
        widgets = WeakSet()
    widgets.add(widget)
    _WIDGETS[cell] = run, widgets
