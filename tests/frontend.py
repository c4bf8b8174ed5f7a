"""Stand in for a front end: send messages to widgets, run cells; and a scene that costs next to nothing."""

from types import SimpleNamespace

import ipywidgets
import jax.numpy as jnp
import numpy as np

from efisher_teach.browser import rerun
from efisher_teach.figures.ink import DATA
from efisher_teach.figures.marks import dots
from efisher_teach.figures.scenes import Axis, Scene


def tell(widget, **message):
    """Send a widget what a button or a form in the browser would send."""
    widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": message}}, "buffers": []})


def run_cell(monkeypatch, cell, run):
    """Make widgets from now on in this run of this cell."""
    message = {"metadata": {"cellId": cell}, "header": {"msg_id": run}}
    monkeypatch.setattr(rerun, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: message))


TURN = Axis("turn", "turn", np.arange(-180.0, 181.0, 5.0), 0.0, "{:.0f}°".format)


def respond(data, state):
    """A point that goes round a circle."""
    angle, radius = jnp.deg2rad(state["turn"]), jnp.sqrt(data["budget"])
    return {"tip": radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])[None], "spent": radius}


def frame(panels, background):
    top = float(background["top"])
    panels["A"].set(xlim=(-top, top), ylim=(-top, top))


def background(data):
    return {"top": data["top"]}


def scene(budget=0.01, top=0.3):
    if budget > 0.04:
        raise ValueError("`budget` must be at most 0.04")
    return Scene(
        title="Does it move?",
        axes=(TURN,),
        data={"budget": jnp.float32(budget), "top": jnp.float32(top)},
        background=background,
        respond=respond,
        words="Turned {turn}, the step spends √c = {spent:.3f}.",
        size=(4.0, 3.0),
        narrow=(3.0, 4.0),
        marks={"tip": dots("A", DATA)},
        still=frame,
    )


def budget_slider():
    return ipywidgets.FloatSlider(0.01, min=0.001, max=0.1, description="c")
