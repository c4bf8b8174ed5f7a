"""A scene: a figure as a function of the sliders, declared in one file.

A scene has two pure functions. `background(data)` gives what no slider moves (contours, limits). `respond(data, state)`
gives what does: points in data coordinates, which the marks show, and numbers, which the words say. `still` draws the
background, once; `marks` declare how each array of points is drawn. A slider is an axis of `respond`: `tabulate`
evaluates it over every value of every axis at once. Points may have three coordinates: then two axes of the scene turn
them (`Orbit`), and no table is needed for that.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes

from efisher_teach.figures.marks import Mark


class Axis(NamedTuple):
    """A slider: the values it takes.

    Examples:
        >>> turn = ef.scenes.Axis("turn", "turn it", np.array([0.0, 45.0, 90.0]), 0.0, lambda value: f"{value:.0f}°")
        >>> print(turn.say(turn.values[turn.nearest(50)]))
        45°
    """

    name: str
    label: str
    values: np.ndarray
    default: float
    say: Callable[[float], str]
    """A value in words, with its unit."""
    play: float = 0
    """Seconds that a play button takes from end to end; 0 for none."""

    def nearest(self, value: float | int) -> int:
        """The place of the nearest value."""
        return int(np.argmin(np.abs(self.values - value)))


class Handle(NamedTuple):
    """A point that the reader may drag: its one or two axes take the values whose point is nearest.

    Examples:
        >>> handle = ef.scenes.the_best_step(ef.breast_cancer()).handles[0]
        >>> print(f"dragging {handle.label} sets {', '.join(handle.axes)}")
        dragging the tip of the candidate sets turn
    """

    points: str
    """The array of the point, (2,)."""
    axes: tuple[str, ...]
    label: str
    """The thing that is dragged, for readers who do not see it."""


class Orbit(NamedTuple):
    """Two axes, in degrees, that turn all arrays whose points have three coordinates. `respond` does not use them.

    Examples:
        >>> scene = ef.scenes.solid(ef.logistic_regression(p=3))
        >>> print(scene.orbit.azimuth, scene.orbit.elevation)  # the two axes of it that only turn the picture
        azimuth elevation
    """

    azimuth: str
    elevation: str
    front: tuple[str, ...] = ()
    """Arrays of which only the part before the origin shows."""


class Preset(NamedTuple):
    """A state worth a look: the axes that it sets, one sentence, and a question to a class.

    Examples:
        >>> preset = ef.scenes.the_best_step(ef.breast_cancer()).presets[1]
        >>> print(preset.name, preset.state, preset.says)
        Uphill {'turn': 180.0} The constraint is even: it allows this step too.
    """

    name: str
    state: dict[str, float]
    says: str
    asks: str = ""


def nothing(panels: Mapping[str, Axes], background: Mapping[str, Any]) -> None:
    """Draw nothing that stands still."""


def empty(data: Any) -> dict[str, jax.Array]:
    """The background of a scene whose `still` needs no numbers."""
    return {}


class Scene(NamedTuple):
    """A figure as a function. `background`, `respond` and `still` are pure and module-level, so they are compiled once.

    Examples:
        >>> scene = ef.scenes.Scene(
        ...     title="What a step costs",
        ...     axes=(ef.scenes.Axis("length", "length", np.linspace(0.0, 2.0, 5), 1.0, "{:g}".format),),
        ...     data=jnp.array(3.0),  # C, for one parameter
        ...     background=lambda C: {},
        ...     respond=lambda C, state: {"cost": C * state["length"] ** 2},
        ...     words="A step of length {length} costs {cost:.2f}.",
        ...     size=(4.0, 3.0),
        ... )
        >>> explorer = ef.Explorer(scene)
        >>> explorer.length = 0.6  # the nearest that it has is 0.5
        >>> print(explorer.words)
        A step of length 0.5 costs 0.75.
    """

    title: str
    axes: tuple[Axis, ...]
    data: Any
    """A pytree: all that `background` and `respond` compute with."""
    background: Callable[[Any], dict[str, jax.Array]]
    respond: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
    words: str
    """The figure in words, a format string over the axes and the numbers of `respond`."""
    size: tuple[float, float]
    """Width and height in inches; 1 inch is 100 CSS pixels."""
    marks: Mapping[str, Mark] = {}  # never changed
    """The marks that show the arrays of points, from back to front."""
    still: Callable[[Mapping[str, Axes], Mapping[str, Any]], None] = nothing
    """`still(panels, background)` draws what does not move, into the panels by their letters."""
    mosaic: tuple[str, str] = ("A", "A")
    """The panels of a wide figure, such as "AAB;AAC", and of a narrow one, such as "A;A;B;C"."""
    narrow: tuple[float, float] | None = None
    """The size where there is room for less than 600 pixels; None: the same figure, scaled down."""
    labels: Mapping[str, Any] = {}  # never changed
    """Texts that `still` needs beside the arrays of the background: they join it under these names."""
    handles: tuple[Handle, ...] = ()
    orbit: Orbit | None = None
    presets: tuple[Preset, ...] = ()


def degrees(value: float | int) -> str:
    """An angle in words: −25°."""
    return f"{value:.0f}°".replace("-", "−")


def scientific(value: float | int) -> str:
    """A number in words, over many decades: 2.5×10⁻³."""
    return _power_of_ten(f"{value:.1e}")


def as_written(value: float, spec: str) -> str:
    """A number in a format, as people write it: 480 for 4.8e+02, 1.1×10⁻⁵ for 1.1e-05, and −1 with a true minus."""
    text = format(value, spec)
    if "e" in text:
        text = f"{Decimal(text):,f}" if 1 <= abs(float(text)) < 1e6 else _power_of_ten(text)
    return text.replace("-", "−")


def _power_of_ten(text):
    digits, exponent = text.split("e")
    return f"{digits}×10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
