"""The widget that makes a scene live, its picture and its words.

The whole table goes to the browser once (`pack`), and the browser (static/explorer.js) moves what moves. So a drag
never waits for the kernel, and picture, words and browser show one table.
"""

import inspect
from functools import partial
from pathlib import Path
from threading import RLock, Thread
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import ipywidgets
import traitlets

from efisher_teach.browser.controls import AxisValue, Cancelled, describe, shown_by_explorers, unmoved
from efisher_teach.browser.packing import RATIO, Shown, pack, prepare
from efisher_teach.browser.page import TEMPLATES, bundle, static, without_bytes
from efisher_teach.browser.record import write_whole
from efisher_teach.browser.rerun import close_widgets_of_earlier_run
from efisher_teach.browser.snapshot import Snapshot
from efisher_teach.browser.states import Builder, choices, offer, on_page
from efisher_teach.figures.scene import Scene
from efisher_teach.figures.table import Table, tabulate
from efisher_teach.unswept import unswept

MOST_PLACES = 101  # of a slider that explorers show themselves
KINDS = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}


class Explorer(Snapshot):
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

    # As text: a path would be watched, and what watches it never lets go of a widget that is closed.
    _esm, _css = static("explorer.js"), static("explorer.css")
    reply = traitlets.Dict().tag(sync=True)
    """All that the browser shows, in one message that is replaced as a whole."""
    awaited = traitlets.Int(0).tag(sync=True)
    """The serial number of the reply that was last asked for."""
    progress = traitlets.Float(-1).tag(sync=True)
    """The part of a long computation that is done; −1 where none runs."""
    form = traitlets.Unicode("wide").tag(sync=True)
    """"narrow" from the moment when a view has no room for the wide form."""
    ratio = traitlets.Int(0).tag(sync=True)
    """Device pixels a CSS pixel of the sharpest view, 1 or 2, for all that is drawn from now on; 0 before any view."""
    hand = traitlets.Dict().tag(sync=True)
    """The last move of a reader: the window, the time, and the axes. Every other window of this kernel follows."""
    _boxes: tuple[Any, ...] = ()

    @unswept()
    def __init__(self, scene: Scene | Builder, **controls: Any):
        if isinstance(scene, Scene) and controls:
            raise TypeError("`scene` must be a function of the values of the controls given; got a Scene.")
        build: Builder = (lambda: scene) if isinstance(scene, Scene) else scene
        self._is_slow = "progress" in inspect.signature(build).parameters
        self._build: Builder = build if self._is_slow else lambda progress, **values: build(**values)
        self._lock = RLock()
        self._serial = self._request = 0
        self.linked: WeakKeyDictionary[Explorer, set[str]] = WeakKeyDictionary()
        self.links: WeakSet[Any] = WeakSet()
        self.controls = controls
        self._initial_values = self._values = {name: control.value for name, control in controls.items()}
        first = self._build(progress=lambda part: None, **self._values)
        self._shown = self._prepare(first, tabulate(first), "wide")
        if taken := [axis.name for axis in first.axes if hasattr(Explorer, axis.name)]:
            raise ValueError(f"`{taken[0]}` cannot name an axis: explorers have that already. Rename it.")
        # No echo: one of where the reader was a moment ago would take back the hand that has gone on.
        tags = {"sync": True, "echo_update": False}
        self.add_traits(**{axis.name: AxisValue(axis.default).tag(**tags) for axis in first.axes})
        super().__init__(reply=self._next_reply(self._shown, self._values))
        self.panel: Any = self
        if controls and not shown_by_explorers():
            row = ipywidgets.HBox([*controls.values()], layout={"flex_flow": "row wrap"})
            self.panel = ipywidgets.VBox([row, self]).add_class("ef-panel")
            self._boxes = row, self.panel
        for control in controls.values():
            control.observe(self._on_control, names="value")
        self.observe(self._on_view, names=["form", "ratio"])
        self.observe(self._on_hand, names="hand")
        self.on_msg(self._on_button)
        close_widgets_of_earlier_run(self)

    def restore(self, **state: Any) -> None:
        """Set axes and controls by name; the button "Copy state" gives the line that restores what is shown.

        Raises:
            ValueError: A name is neither an axis nor a control.
        """
        axes = [axis.name for axis in self.scene.axes]
        for name, value in state.items():
            if name in self.controls:
                self.controls[name].value = value
            elif name in axes:
                setattr(self, name, value)
            else:
                has = f"it has: {', '.join([*axes, *self.controls])}"
                raise ValueError(f"`{name}` must be an axis or a control of this explorer; {has}.")

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
        made = [ipywidgets.jslink((self, name), (other, name)) for name in names]
        for one, another in ((self, other), (other, self)):
            one.linked[another] = {*names} | one.linked.get(another, set())
            one.links.update(made)  # each would keep both alive, so it ends with the first that is closed

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
            raise ValueError(f"`path` must end in .png, .svg, .pdf or .html; got '{path.name}'. Rename it.")
        write_whole(path, self._as_file(kind))

    def to_html(self, path: str | Path) -> None:
        """Write a page with this explorer: axes and controls are live, with no kernel and no request to any host.

        The scene is computed once for each choice that the page has of the controls, and all of that lies in the one
        file: at most 12 values of a slider, and every combination if those are at most 12, else one control at a
        time. A control with no list of values stays as it is, and so do all where `scene` has an argument `progress`:
        the page says so. Where no script runs, it is the picture and its words.
        """
        about = self.for_page() | {"title": self.scene.title, "words": self.words}
        write_whole(Path(path), TEMPLATES.get_template("page.html").render(about))

    def for_page(self) -> dict[str, Any]:
        """All that a page without a kernel needs, as JSON: `reply` for static/explorer.js, `picture` until it runs.

        states.py says what `reply` holds of the controls.
        """
        build = partial(self._build, progress=lambda part: None)
        with self._lock:
            shown = self._prepare(self.scene, self.table, "narrow", RATIO)
            reply = on_page(shown, self.state, self.controls, self._values, build, self._is_slow)
            return without_bytes({"reply": reply, "picture": self.to_png(ratio=1)})

    def close(self) -> None:
        """End the widget, and free the table and the figures."""
        if not self._shown:
            return
        for control in self.controls.values():
            control.unobserve(self._on_control, names="value")
        for link in list(self.links):
            link.close()
        for box in self._boxes:
            box.layout.close()
            box.close()
        self.layout.close()
        super().close()
        self._shown = None
        self.set_trait("reply", {})

    def _repr_mimebundle_(self, **kwargs) -> Any:
        """The live widget; the picture and the words where there is no kernel; the words for the tests."""
        view: Any = super() if self.panel is self else self.panel
        title = self.scene.title
        words = f"{title}{'' if title.endswith('?') else '.'} {self.words}"
        picture = {"width": int(100 * self.scene.size[0]), "alt": words}
        stored = {"text/plain": words, "image/png": self.to_png(caption=True)}
        return bundle(self, view._repr_mimebundle_(**kwargs), stored, {"image/png": picture})

    def _on_control(self, _change) -> None:
        """Compute the scene for new values of the controls, beside the notebook if that takes long."""
        with self._lock:
            values = {name: control.value for name, control in self.controls.items()}
            if unmoved(values, self._values):
                return
            self._request += 1
            self.awaited = self._serial + 1
            job = Thread(target=self._compute, args=(values, self._request), daemon=True)
        job.start() if self._is_slow else unswept()(job.run)()

    def _compute(self, values: dict[str, Any], request: int) -> None:
        """Answer a control with one reply, unless there is a newer request; or say what is wrong."""

        def progress(part: float) -> None:
            if request != self._request:
                raise Cancelled
            self.progress = float(part)

        try:
            scene = self._build(progress=progress, **values)
            table = tabulate(scene)
            with self._lock:
                if request != self._request:
                    return
                shown = self._prepare(scene, table, self.form)
                reply = self._next_reply(shown, values)
                self._values, self._shown, self.progress, self.reply = values, shown, -1.0, reply
        except Cancelled:
            return
        except Exception as error:  # whatever the builder raises is for the reader, not for a log
            with self._lock:
                if request == self._request:
                    self._go_back(f"{type(error).__name__}: {error}")

    def _go_back(self, error: str) -> None:
        """Say what is wrong, and set the controls back to what is shown."""
        self._serial += 1
        self.progress = -1.0
        self.reply = self.reply | {"serial": self._serial, "error": error}
        for name, value in self._values.items():
            self.controls[name].value = value

    def _on_view(self, _change) -> None:
        """Draw what a view lacks: the narrow form, or sharper pictures."""
        with self._lock:
            shown = self._prepare(self.scene, self.table, self.form)
            if shown.forms != self.shown.forms:
                self._shown, self.reply = shown, self._next_reply(shown, self._values)

    def _on_hand(self, _change) -> None:
        """Pass on to explorers that are linked what a hand has moved: in another window, no link does.

        And answer where the axes are now: while its word was on the way, a cell may have moved them.
        """
        now = {name: getattr(self, name) for name in self.hand["moved"] if self.has_trait(name)}
        self.send({"by": self.hand["by"], "at": self.hand["at"], "now": now})
        for other, names in list(self.linked.items()):
            moved = {name: value for name, value in self.hand["moved"].items() if name in names}
            if moved and self.hand["at"] != other.hand.get("at"):
                other.hand = self.hand | {"moved": moved}

    def _prepare(self, scene: Scene, table: Table, smallest: str, ratio: int = 0) -> Shown:
        """Draw what stands still of a scene, in its forms down to the smallest that is asked for."""
        forms = ("wide", "narrow") if smallest == "narrow" and scene.narrow else ("wide",)
        return prepare(scene, table, forms, self._shown, ratio or self.ratio or RATIO)

    def _on_button(self, _widget, message: dict[str, Any], _buffers) -> None:
        """Do what a button of the bar asks of the kernel."""
        if kind := message.get("save"):
            self.send({"file": f"figure.{kind}", "kind": KINDS[kind]}, [self._as_file(kind)])
        elif message.get("reset"):
            self.restore(**self._initial_values)
        elif places := message.get("controls"):
            self.restore(**{name: self._offered(name)[place][1] for name, place in places.items()})
            self.send({"set": True})
        elif message.get("cancel"):
            with self._lock:
                self._request += 1  # what still computes learns of it at its next `progress`
                self._go_back("")

    def _offered(self, name: str, values: dict[str, Any] | None = None) -> list[tuple[str, Any]]:
        """The values of a control that explorers show themselves, each as (said, value)."""
        return choices(self.controls[name], (values or self._values)[name], MOST_PLACES)[0]

    def _next_reply(self, shown: Shown, values: dict[str, Any]) -> dict[str, Any]:
        """Everything that the browser needs to show a scene, in one message."""
        reply = pack(shown)
        self._serial += 1
        described = describe(self.controls, values)
        for name, about in zip(values, described, strict=True) if shown_by_explorers() else ():
            if found := self._offered(name, values):
                offer(about, self.controls[name], found, values[name])
        return reply | {"serial": self._serial, "error": "", "controls": described}
