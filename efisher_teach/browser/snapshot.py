"""A scene in one state, to read and to draw: what an explorer is, before anything answers."""

from typing import Any

import anywidget

from efisher_teach.browser.packing import RATIO, Shown, draw_whole
from efisher_teach.figures.ink import DPI
from efisher_teach.figures.scene import Scene
from efisher_teach.figures.table import Table


class Snapshot(anywidget.AnyWidget):
    """A scene in its current state: as values, as numbers, in words, as a picture."""

    _shown: Shown | None = None  # so, too, where `__init__` of an explorer has failed
    _lock: Any
    """JupyterLab may call from several threads."""

    @property
    def shown(self) -> Shown:
        """The scene of this moment, its table, its drawings and its words."""
        if not self._shown:
            raise RuntimeError("This explorer is closed: its cell ran again. Use the new one.")
        return self._shown

    @property
    def scene(self) -> Scene:
        """The scene that is shown."""
        return self.shown.scene

    @property
    def table(self) -> Table:
        """The whole response of the scene over its axes."""
        return self.shown.table

    @property
    def indices(self) -> tuple[int, ...]:
        """The place of the current state on each axis: the nearest value that the table has."""
        return tuple(axis.nearest(getattr(self, axis.name)) for axis in self.scene.axes)

    @property
    def state(self) -> dict[str, float]:
        """The current state, as the table has it: {axis: value}."""
        places = zip(self.scene.axes, self.indices, strict=True)
        return {axis.name: float(axis.values[place]) for axis, place in places}

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the current state."""
        return {name: float(array) for name, array in self.table.at(self.indices).items() if array.ndim == 0}

    @property
    def words(self) -> str:
        """The current state in words, the same that the browser shows."""
        return self.shown.say(self.indices)

    def to_png(self, *, ratio: float | int = RATIO, caption: bool = False) -> bytes:
        """The whole figure in the current state, drawn by matplotlib, as PNG.

        Args:
            ratio: Pixels a CSS pixel.
            caption: Whether the words stand below the picture.
        """
        return self._as_file("png", DPI * ratio / RATIO, self.words if caption else "")

    def _as_file(self, kind: str, dpi: float = DPI, caption: str = "") -> bytes:
        with self._lock:
            return draw_whole(self.shown, self.indices, kind, dpi, caption)
