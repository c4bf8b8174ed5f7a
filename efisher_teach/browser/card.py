"""A card: a piece of a lesson that follows the record of what a learner did, until its cell runs again."""

from collections.abc import Callable
from typing import Any

import anywidget
import ipywidgets
import traitlets

from efisher_teach.browser.page import TEMPLATES, bundle, static
from efisher_teach.browser.record import RECORD
from efisher_teach.browser.rerun import close_widgets_of_earlier_run

HTML: Any = TEMPLATES.get_template("cards.html").module  # its macros, as functions


class Follower(ipywidgets.DOMWidget):
    """A widget that follows a part of the record until it is closed, as it is when its cell runs again."""

    _stop_following: Callable | None = None

    def follow(self, part: str, react: Callable[[], None]) -> None:
        """Call `react()` now, and whenever that part of the record changes."""

        def on_change(_change):
            react()

        RECORD.observe(on_change, part)
        self._stop_following = lambda: RECORD.unobserve(on_change, part)
        close_widgets_of_earlier_run(self)
        react()

    def close(self) -> None:
        """End the widget."""
        if self._stop_following:
            self._stop_following()
            self._stop_following = None
        super().close()


class Card(anywidget.AnyWidget, Follower):
    """A piece of a lesson: safe HTML, and maybe a form. Its words are also its text and its HTML without a kernel."""

    _esm, _css = static("lesson.js"), static("lesson.css")
    html = traitlets.Unicode().tag(sync=True)
    """The content. Whoever sets it has escaped what is not ours."""
    form = traitlets.Dict().tag(sync=True)
    """Empty, or what the browser asks: options or a range, and what stands on the button."""
    state = traitlets.Unicode().tag(sync=True)
    seen = traitlets.Dict().tag(sync=True)
    """The browser's own report of where it runs."""
    words = folded = ""

    @traitlets.validate("html")
    def _as_text(self, proposal: Any) -> str:
        """Markup is a text with methods of its own, which marimo sends as an object."""
        return "".join(proposal["value"])

    def for_page(self) -> dict[str, Any]:
        """Nothing: the stored HTML is all that a page needs."""
        return {}

    def _repr_mimebundle_(self, **kwargs) -> Any:
        stored = {"text/plain": self.words, "text/html": f"<div>{self.folded or self.html}</div>"}
        return bundle(self, super()._repr_mimebundle_(**kwargs), stored)


def plain(words: str, state: str) -> Card:
    """A card that says a few words."""
    card = Card(html=HTML.plain(words), state=state)
    card.words = words
    return card
