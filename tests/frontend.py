"""Stand in for a front end: send messages to widgets, and run cells."""

from types import SimpleNamespace

from efisher_teach.browser import rerun


def tell(widget, **message):
    """Send a widget what a button or a form in the browser would send."""
    widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": message}}, "buffers": []})


def run_cell(monkeypatch, cell, run):
    """Make widgets from now on in this run of this cell."""
    message = {"metadata": {"cellId": cell}, "header": {"msg_id": run}}
    monkeypatch.setattr(rerun, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: message))
