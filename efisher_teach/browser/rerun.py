"""A cell that runs again closes the widgets that its earlier run has made: they would never be seen again."""

from typing import Any
from weakref import WeakSet

from IPython.core.getipython import get_ipython

_LIVING: dict[str, tuple[str, WeakSet]] = {}  # by cell: the run that made them, and its widgets


def settle(widget: Any) -> None:
    """Close what an earlier run of the same cell has made, and remember `widget` for the next one."""
    parent = getattr(get_ipython(), "get_parent", dict)()  # a kernel knows the message that it answers
    cell, run = parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id")
    if not cell:
        return
    last, widgets = _LIVING.get(cell, (run, WeakSet()))
    if last != run:
        for old in list(widgets):
            old.close()
        widgets = WeakSet()
    widgets.add(widget)
    _LIVING[cell] = run, widgets
