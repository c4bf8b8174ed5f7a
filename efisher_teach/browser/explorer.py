"""What makes a scene live: the widget, its picture and its words, and the page that needs no kernel.

The whole table goes to the browser once (`_pack`), and the browser (static/explorer.js) moves what moves. So a drag
never waits for the kernel, and picture, words and browser show one table.
"""

import inspect
import json
from base64 import b64encode
from collections.abc import Callable
from math import isclose
from pathlib import Path
from threading import RLock, Thread
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets

from efisher_teach.browser.packing import RATIO, Shown, draw_whole, pack, prepare
from efisher_teach.browser.rerun import settle
from efisher_teach.figures.ink import DPI
from efisher_teach.figures.scene import Scene
from efisher_teach.figures.table import Table, tabulate

STATIC = Path(__file__).with_name("static")
KINDS = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}


class _Place(traitlets.Float):
    """A place on an axis: any finite number, which stands for the table's nearest value."""

    def validate(self, obj, value):
        value = super().validate(obj, value)
        if not np.isfinite(value):
            raise traitlets.TraitError(
                f"`{self.name}` must be finite; got {value}. Its axis takes numbers only."
            )
        return value


class _Cancelled(Exception):  # noqa: N818  # nothing went wrong: the reader has asked for something else
    """Raised in a builder by `progress`."""


class Explorer(anywidget.AnyWidget):
    """A scene that answers at the speed of the hand. Its axes are traits, its controls are ipywidgets.

    Each axis of the scene is a trait of the same name that can be read, set, observed and `jslink`ed. `controls` are
    ordinary ipywidgets; when one changes, `scene(**values)` is called in the kernel and its table replaces the old
    one. Shown alone, an explorer brings its controls along; inside a box, `explorer.panel` does. When the cell that
    made an explorer runs again, the old one is closed and frees what it holds.

    Args:
        scene: A `Scene`, or a function of the controls' values that returns one. If the function has an argument
            `progress`, it runs beside the notebook: it calls `progress(part)` with the part done, in [0, 1], and the
            reader sees a bar and may cancel.
        **controls: ipywidgets with a `value`, by the name of the function's argument.

    Raises:
        TypeError: Controls are given but `scene` is not a function.
        ValueError: The packed table is larger than 1 MB; the largest array is named. An axis has the name of something
            that every explorer has, such as "words".

    Examples:
        >>> import efisher_teach as ef
        >>> problem = ef.descend(ef.breast_cancer(), steps=3)
        >>> explorer = ef.Explorer(ef.scenes.the_best_step(problem))
        >>> explorer.turn = 25
        >>> explorer.words.split(",")[0]
        'Turned 25° from the step along −g'
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    _reply = traitlets.Dict().tag(sync=True)
    _busy = traitlets.Int(0).tag(sync=True)
    _progress = traitlets.Float(-1).tag(sync=True)
    _asked = traitlets.Unicode("wide").tag(sync=True)

    controls: dict[str, Any] = {}  # noqa: RUF012  # of one that failed to come to life, too, `close` is called
    panel = _row = None
    _shown: Shown | None = None

    def __init__(self, scene: Scene | Callable[..., Scene], **controls: Any):
        if isinstance(scene, Scene) and controls:
            raise TypeError(
                "`scene` must be a function of the controls' values, as controls are given; got a Scene."
            )
        self._build = (lambda: scene) if isinstance(scene, Scene) else scene
        self._slow = "progress" in inspect.signature(self._build).parameters
        self._lock = RLock()  # JupyterLab may call from several threads
        self._serial = self._turn = 0
        self.controls = controls
        self._good = self._first = {name: control.value for name, control in controls.items()}
        first = self._build(**self._good, **({"progress": lambda part: None} if self._slow else {}))
        self._shown = prepare(first, tabulate(first), ("wide",))
        for axis in first.axes:
            if hasattr(Explorer, axis.name):
                raise ValueError(
                    f"`{axis.name}` cannot name an axis: explorers have that already. Rename it."
                )
        # No echo: one of where the reader was a moment ago would pull back the hand that has gone on.
        place = {"sync": True, "echo_update": False}
        self.add_traits(**{axis.name: _Place(axis.default).tag(**place) for axis in first.axes})
        super().__init__(_reply=self._answer(self._shown))
        self._row = ipywidgets.HBox([*controls.values()], layout={"flex_flow": "row wrap"})
        self.panel = ipywidgets.VBox([self._row, self]) if controls else self
        for control in controls.values():
            control.observe(self._recompute, names="value")
        self.observe(self._reform, names="_asked")
        self.on_msg(self._told)
        settle(self)

    def _now(self) -> Shown:
        if not self._shown:
            raise RuntimeError("This explorer is closed: its cell ran again. Use the new one.")
        return self._shown

    @property
    def scene(self) -> Scene:
        """The scene that is shown now."""
        return self._now().scene

    @property
    def table(self) -> Table:
        """The whole response of the scene over its axes."""
        return self._now().table

    @property
    def indices(self) -> tuple[int, ...]:
        """The place of the current state on each axis: the nearest value that the table has."""
        return tuple(axis.nearest(getattr(self, axis.name)) for axis in self.scene.axes)

    @property
    def state(self) -> dict[str, float]:
        """The current state, as the table has it: {axis: value}."""
        return {
            axis.name: float(axis.values[i]) for axis, i in zip(self.scene.axes, self.indices, strict=True)
        }

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the current state."""
        return {name: float(array) for name, array in self.table.at(self.indices).items() if array.ndim == 0}

    @property
    def words(self) -> str:
        """The current state in words, the same that the browser shows."""
        return self._now().say(self.indices)

    def restore(self, **state: Any) -> None:
        """Set axes and controls by name; "Copy state" below the figure gives the line that restores what it shows.

        Raises:
            ValueError: A name is neither an axis nor a control.
        """
        axes = [axis.name for axis in self.scene.axes]
        for name, value in state.items():
            if name not in axes and name not in self.controls:
                known = ", ".join([*axes, *self.controls])
                raise ValueError(f"`{name}` must be an axis or a control of this explorer; it has: {known}.")
            if name in self.controls:
                self.controls[name].value = value
            else:
                setattr(self, name, value)

    def link(self, other: "Explorer", *names: str) -> None:
        """Let axes of two explorers move together, in the browser: those named, or all that both have.

        Raises:
            ValueError: An explorer lacks the axis, or they have none in common.
        """
        mine, its = ([axis.name for axis in each.scene.axes] for each in (self, other))
        names = names or tuple(name for name in mine if name in its)
        if not names or not {*names} <= {*mine} & {*its}:
            raise ValueError(
                f"`names` must be axes of both explorers; got {', '.join(names) or 'none in common'}. "
                f"They have {', '.join(mine)} and {', '.join(its)}."
            )
        for name in names:
            ipywidgets.jslink((self, name), (other, name))

    def to_png(self, *, ratio: float = RATIO, caption: bool = False) -> bytes:
        """The whole figure in the current state, drawn by matplotlib, as PNG.

        Args:
            ratio: Pixels a CSS pixel.
            caption: Whether the words stand below the picture.
        """
        with self._lock:
            caption_words = self.words if caption else ""
            return draw_whole(self._now(), self.indices, "png", DPI * ratio / RATIO, caption_words)

    def save(self, path: str | Path) -> None:
        """Write the figure in its current state, drawn by matplotlib; or, as .html, the live page of `to_html`.

        Args:
            path: Ends in .png, .svg, .pdf or .html.

        Raises:
            ValueError: Another ending.
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".").lower()
        if kind == "html":
            return self.to_html(path)
        if kind not in KINDS:
            raise ValueError(
                f"`path` must end in .png, .svg, .pdf or .html; got '{path.name}'. Rename the file."
            )
        with self._lock:
            path.write_bytes(draw_whole(self._now(), self.indices, kind, DPI))

    def to_html(self, path: str | Path) -> None:
        """Write a page that holds this explorer, with no kernel behind it and no request to any host.

        Its axes are live; controls of the kernel are said as they stand.
        """
        page = (STATIC / "page.html").read_text()
        # one pass over the template: what is put in may itself contain a mark
        parts = {
            "title": self.scene.title,
            "css": (STATIC / "explorer.css").read_text(),
            "js": (STATIC / "explorer.js").read_text(),
            "reply": self._for_page(),
        }
        for piece in page.split("<!--")[1:]:
            name = piece.partition("-->")[0]
            page = page.replace(f"<!--{name}-->", parts[name], 1)
        Path(path).write_text(page, encoding="utf-8")

    def _for_page(self) -> str:
        """All that `mount` in static/explorer.js needs, as JSON that may stand in a script of a page."""
        with self._lock:
            shown = prepare(self.scene, self.table, self._forms(narrow=True), self._shown)
            reply = pack(shown) | {
                "serial": 1,
                "error": "",
                "controls": self._said(),
                "state": self.state,
            }
        return json.dumps(reply, default=lambda data: b64encode(data).decode()).replace("</", "<\\/")

    def close(self) -> None:
        """End the widget, and free the table and the figures."""
        for control in self.controls.values():
            control.unobserve(self._recompute, names="value")
        for box in {self._row, self.panel} - {self, None}:
            box.layout.close()
            box.close()
        self.layout.close()
        super().close()
        self._shown = None
        self.set_trait("_reply", {})

    def _repr_mimebundle_(self, **kwargs) -> Any:
        """The live widget; the picture and the words where there is no kernel; the words for the tests."""
        shown: Any = super() if self.panel is self else self.panel
        view = shown._repr_mimebundle_(**kwargs)
        data, metadata = view if isinstance(view, tuple) else (view, {})
        title = self.scene.title
        words = f"{title}{'' if title.endswith('?') else '.'} {self.words}"
        picture = {"width": int(100 * self.scene.size[0]), "alt": words}
        stored = {"text/plain": words, "image/png": self.to_png(caption=True)}
        return data | stored, metadata | {"image/png": picture}

    def _recompute(self, _change) -> None:
        """A control has moved: compute its scene, beside the notebook if that is slow."""
        with self._lock:
            values = {name: control.value for name, control in self.controls.items()}
            if all(_same(value, self._good[name]) for name, value in values.items()):
                return
            self._turn += 1
            self._busy = self._serial + 1
            job = (values, self._turn)
        if self._slow:
            Thread(target=self._compute, args=job, daemon=True).start()
        else:
            self._compute(*job)

    def _compute(self, values: dict[str, Any], turn: int) -> None:
        """Answer a control with one atomic reply, or say what is wrong and set the controls back."""

        def progress(part: float) -> None:
            if turn != self._turn:
                raise _Cancelled
            self._progress = float(part)

        try:
            scene = self._build(**values, **({"progress": progress} if self._slow else {}))
            table = tabulate(scene)
            with self._lock:
                if turn != self._turn:
                    return
                shown = prepare(scene, table, self._forms(), self._shown)
                reply = self._answer(shown, values)
                self._good, self._shown, self._progress, self._reply = values, shown, -1.0, reply
        except _Cancelled:
            return
        except Exception as error:  # whatever the builder raises is for the reader, not for a log
            with self._lock:
                if turn == self._turn:
                    self._go_back(f"{type(error).__name__}: {error}")

    def _go_back(self, error: str) -> None:
        """Say what is wrong, and set the controls back to what is shown."""
        self._serial += 1
        self._progress = -1.0
        self._reply = self._reply | {"serial": self._serial, "error": error}
        for name, value in self._good.items():
            self.controls[name].value = value

    def _reform(self, _change) -> None:
        """A view is narrow: draw that form too, from now on."""
        with self._lock:
            self._shown = prepare(self.scene, self.table, self._forms(), self._shown)
            self._reply = self._answer(self._shown)

    def _forms(self, *, narrow: bool = False) -> tuple[str, ...]:
        return (
            ("wide", "narrow")
            if self._now().scene.narrow and (narrow or self._asked == "narrow")
            else ("wide",)
        )

    def _told(self, _widget, message: dict[str, Any], _buffers) -> None:
        """What the bar of buttons asks of the kernel."""
        if kind := message.get("save"):
            with self._lock:
                data = draw_whole(self._now(), self.indices, kind, DPI)
            self.send({"file": f"figure.{kind}", "kind": KINDS[kind]}, [data])
        elif message.get("reset"):
            for name, value in self._first.items():
                self.controls[name].value = value
        elif message.get("cancel"):
            with self._lock:
                self._turn += 1  # what still computes learns of it at its next `progress`
                self._go_back("")

    def _said(self, values: dict[str, Any] | None = None) -> list[dict[str, str]]:
        """The controls: how each is named, how it stands, and its value as Python."""
        found = []
        for name, value in (values or self._good).items():
            label = self.controls[name].description or name
            said = getattr(self.controls[name], "label", None) or f"{value}"
            found.append({"name": name, "label": label, "said": said, "code": repr(value)})
        return found

    def _answer(self, shown: Shown, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything that the browser needs to show a scene, in one message."""
        reply = pack(shown)
        self._serial += 1
        return reply | {"serial": self._serial, "error": "", "controls": self._said(values)}


def _same(value: Any, other: Any) -> bool:
    """Whether a control stands where it stood: a slider in the browser answers 0.01 with 0.009999999999999998."""
    if isinstance(value, float) and isinstance(other, float):
        return isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)
    return value == other
