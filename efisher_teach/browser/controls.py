"""Values that an explorer takes from outside: places on its axes, and the controls that recompute its scene."""

import sys
from math import isclose
from typing import Any

import numpy as np
import traitlets


class AxisValue(traitlets.Float):
    """Any finite number; it stands for the nearest value that the table has."""

    def validate(self, obj: Any, value: Any) -> float:
        """Refuse what is not finite."""
        value = super().validate(obj, value)
        if not np.isfinite(value):
            says = f"`{self.name}` must be finite; got {value}. Its axis takes numbers only."
            raise traitlets.TraitError(says)
        return value


class Cancelled(Exception):  # noqa: N818  # nothing went wrong: the reader has asked for something else
    """Raised in a builder of scenes by its argument `progress`."""


def unmoved(values: dict[str, Any], before: dict[str, Any]) -> bool:
    """Compare what controls say, up to rounding: a slider in the browser answers 0.01 with 0.009999999999999998."""

    def same(value: Any, other: Any) -> bool:
        floats = isinstance(value, float) and isinstance(other, float)
        return isclose(value, other, rel_tol=1e-9, abs_tol=1e-12) if floats else value == other

    return all(same(value, before[name]) for name, value in values.items())


def shown_by_explorers() -> bool:
    """Tell whether explorers show their controls themselves: marimo shows no ipywidgets."""
    marimo = sys.modules.get("marimo")
    return bool(marimo and marimo.running_in_notebook())


def say(value: Any) -> str:
    """A value of a control in words."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(controls: dict[str, Any], values: dict[str, Any]) -> list[dict[str, Any]]:
    """For each control: its name, its label, and its value in words and as Python."""
    return [
        {
            "name": name,
            "label": controls[name].description or name,
            "said": getattr(controls[name], "label", None) or say(value),
            "code": repr(value),
        }
        for name, value in values.items()
    ]
