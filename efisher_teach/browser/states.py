"""The states of an explorer's controls as a page without a kernel has them: computed beforehand, loaded on demand.

The protocol, between here and `mount` in static/explorer.js. A reply for a page has besides what every reply has:

- `controls`: of each its name, label and value. One that moves on the page has `choices`, each as it is said and as it
  is in Python, the place `chosen` of the one that the page begins with, and `is_list`.
- `together`: whether every combination of choices is there. If not, one control moves, the others are as they began.
- `states`: for all but the first state a reply of its own, by the places of the choices, "2,0,1". A picture that is
  the same as in the first is null. A state that fails has only its `error`.
- `note`: what is combined, thinned or fixed, in words.

Any state, table or picture may be a list of files that hold it in pieces. `fetch` is forbidden on a page from a disk,
so each is a script: `document.currentScript.part = "…"`. A page of one file (`Explorer.to_html`) has them in it.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

import numpy as np

from efisher_teach.browser.controls import describe, say
from efisher_teach.browser.packing import Shown, pack, prepare
from efisher_teach.figures.scene import Scene
from efisher_teach.figures.table import tabulate

Builder = Callable[..., Scene]
MOST_CHOICES = 12  # of a control, and of all combinations of several


def choices(control: Any, value: Any, most: int = MOST_CHOICES) -> tuple[list[tuple[str, Any]], int]:
    """List the values that a control can have on a page, `value` among them, as (said, value); and count all it has.

    Sliders are thinned to `most` values from end to end. What has no finite list gives none.

    Examples:
        >>> import ipywidgets
        >>> from efisher_teach.browser.states import choices
        >>> choices(ipywidgets.IntSlider(4, min=0, max=99), 4)[0][:3]
        [('0', 0), ('4', 4), ('18', 18)]
    """
    if hasattr(control, "options"):
        given = control.options
        options = [*(given.items() if isinstance(given, Mapping) else given)]
        if not all(isinstance(each, list | tuple) and len(each) == 2 for each in options):
            options = [(str(each), each) for each in options]
        found = [(str(said), each) for said, each in options]
        return (found, len(found)) if sum(each == value for _, each in found) == 1 else ([], 0)
    if isinstance(value, bool):
        return [("no", False), ("yes", True)], 2
    if not isinstance(value, int | float) or not hasattr(control, "min"):
        return [], 0
    low, high, step = control.min, control.max, control.step or (control.max - control.min) / 100
    count = round((high - low) / step) + 1
    places = np.unique(np.rint(np.linspace(0, count - 1, min(count, most))).astype(int))
    base = getattr(control, "base", 0)  # of a slider whose steps are those of a logarithm
    grid = [type(value)(base ** (low + place * step) if base else low + place * step) for place in places]
    at = int(np.argmin(np.abs(np.array(grid) - value)))
    if len(grid) > 2 and not np.isclose(grid[at], value):
        at = min(max(at, 1), len(grid) - 2)  # the ends stay
    grid[at] = value
    return [(say(each), each) for each in grid], count


def offer(about: dict[str, Any], control: Any, found: list[tuple[str, Any]], value: Any) -> None:
    """Add to the description of a control what `buildControls` in static/explorer.js needs to show it."""
    about["chosen"] = next(i for i, (_, each) in enumerate(found) if each == value)
    about["choices"] = [{"said": said, "code": repr(each)} for said, each in found]
    about["is_list"] = hasattr(control, "options") or isinstance(value, bool)


class _Menu:
    """The controls of an explorer as a page has them: their description, and the states to compute."""

    def __init__(self, controls: dict[str, Any], values: dict[str, Any], is_slow: bool):
        self.described, self.values = describe(controls, values), values
        self.live: dict[str, list[tuple[str, Any]]] = {}
        thinned, fixed = [], []
        for about in self.described:
            name, label = about["name"], about["label"]
            found, count = ([], 0) if is_slow else choices(controls[name], values[name])
            if len(found) < 2:
                fixed.append(f"{label} {about['said']}")
                continue
            self.live[name] = found
            offer(about, controls[name], found, values[name])
            if count > len(found):
                thinned.append(f"{len(found)} of the {count} values of {label}")
        self.together = prod(map(len, self.live.values())) <= MOST_CHOICES
        parts = [f"This page has {', '.join(thinned)}."] if thinned else []
        if not self.together and len(self.live) > 1:
            parts.append(
                "Move one of the lists and sliders above at a time: the others go back to where they began."
            )
            parts.append("All combinations need a kernel.")
        parts += [f"Fixed on this page: {', '.join(fixed)}. A kernel can change it."] if fixed else []
        self.note = " ".join(parts)

    def states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every state but the first: its key, and the values of all controls."""
        start = [about["chosen"] for about in self.described if about["name"] in self.live]
        for places in product(*(range(len(found)) for found in self.live.values())):
            moved = sum(place != first for place, first in zip(places, start, strict=True))
            if moved == 0 or (moved > 1 and not self.together):
                continue
            chosen = {name: self.live[name][place][1] for name, place in zip(self.live, places, strict=True)}
            yield ",".join(map(str, places)), self.values | chosen


def on_page(shown: Shown, state: dict, controls: dict, values: dict, build: Builder, is_slow: bool) -> dict:
    """The reply for a page: a scene in its state, and `build(**values)` for other values, unless that is slow."""
    menu, base, states = _Menu(controls, values, is_slow), pack(shown), {}
    for key, others in menu.states():
        try:
            scene = build(**others)
            reply = pack(prepare(scene, tabulate(scene), tuple(shown.forms), shown))
        except Exception as error:  # as with a kernel: the reason is for the reader
            states[key] = {"error": f"{type(error).__name__}: {error}"}
            continue
        for name, form in reply["forms"].items():
            if form["picture"] == base["forms"][name]["picture"]:
                form["picture"] = None
        states[key] = reply | {"error": ""}
    about = {"controls": menu.described, "together": menu.together, "note": menu.note, "states": states}
    return base | {"serial": 1, "error": "", "state": state} | about
