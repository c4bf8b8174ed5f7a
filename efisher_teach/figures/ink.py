"""Colours and style: one meaning for each colour in every figure, and a style that never touches the reader's own."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

DPI = 200.0  # device pixels an inch: two for each CSS pixel, so that figures are sharp on every screen
NARROW = 6  # inches: a figure that is less wide is for a phone, or for half a screen
# All that matplotlib can be told of a look: what a reader has set for figures of their own changes none of ours.
STYLE: Any = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
STYLE |= mpl.rc_params_from_file(Path(__file__).with_name("efisher.mplstyle"), use_default_template=False)

# Okabe and Ito's colours, which colour-blind readers can tell apart.
EMPIRICAL_FISHER = "#0072B2"
UNDAMPED = "#88B7D5"  # a tint of it: the same step at ε = 0
DESCENT = "#D55E00"
CONSTRAINT = "#444444"
CANDIDATE = "#CC79A7"  # what the reader holds, or has marked
NATURAL = "#E69F00"  # the Fisher and the natural gradient
TRUTH = "#009E73"  # the true loss, and its Hessian
DATA = "#56B4E9"
OTHER = "#7A7A7A"  # what the course is not about
FAINT = "#C8C8C8"

# Words in a colour are set in a darker one of its hue: WCAG 2.2 asks text for a contrast of 4.5.
INK = {
    UNDAMPED: "#5A798D",
    DESCENT: "#C05500",
    CANDIDATE: "#A26085",
    NATURAL: "#9C6C00",
    TRUTH: "#008561",
    DATA: "#3B7BA0",
    OTHER: "#757575",
}
