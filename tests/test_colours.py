"""Colours: dark enough on their paper, in both themes, and apart for colour-blind readers."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from gallery import contrast
from matplotlib import rc_params_from_file
from matplotlib.colors import to_rgb

from efisher_teach.figures import ink

PACKAGE = Path(ink.__file__).parents[1]
COLOURS = {name: value for name, value in vars(ink).items() if re.fullmatch("#[0-9A-F]{6}", str(value))}
PAPER = ("#ffffff", "#17181a")  # of the pages, light and dark; figures keep the white one
SHEETS = [PACKAGE.parent / "site/site.css", *(PACKAGE / "browser/static").glob("*.css")]
CSS = "\n".join(path.read_text() for path in SHEETS)
EYES = ("all cones", "protanomaly", "deuteranomaly", "tritanomaly")
TEXT, LINE = 4.5, 3.0  # what WCAG 2.2 asks for: 1.4.3, 1.4.11
APART = 10.0  # CAM02-UCS; half of it tells areas side by side apart, but does not let a colour be known again

# Below 3 on white. Each is named by a word of the figure, and what it shows is said below the figure.
PALE_LINES = {
    "UNDAMPED",  # the end of a range whose other end is dark: pale is its meaning
    "NATURAL",  # thick, and alone of its warmth
    "DATA",  # dots and bars, many of them
    "FAINT",  # zero lines and grids
}
# Nearer than APART for some eye, and in one scene: what else tells them apart.
NEAR = {
    ("UNDAMPED", "DATA"): "an arrow or a line against bars; in your_model a dotted line against a dashed one",
    ("TRUTH", "OTHER"): "lines or dots that are whole, against a dotted line or written formulas",
}


def seen(colour, eye):
    """A colour as an eye without one kind of cones sees it (Machado, Oliveira and Fernandes 2009)."""
    if eye == "all cones":
        return to_rgb(colour)
    space = {"name": "sRGB1+CVD", "cvd_type": eye, "severity": 100}
    return np.clip(cspace_convert(to_rgb(colour), space, "sRGB1"), 0, 1)


def test_contrast_is_measured_as_wcag_defines_it():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)  # the well-known near miss


def test_words_of_figures():
    inks = {name: ink.INK.get(colour, colour) for name, colour in COLOURS.items()}
    assert {name for name, colour in inks.items() if contrast(colour, "white") < TEXT} == {"FAINT"}
    for colour, darker in ink.INK.items():
        assert contrast(colour, "white") < TEXT, f"{colour} needs no darker ink"
        hue, other = (cspace_convert(to_rgb(each), "sRGB1", "JCh")[2] for each in (colour, darker))
        assert colour == ink.OTHER or abs((hue - other + 180) % 360 - 180) < 12, f"{darker} is of another hue"
    style = rc_params_from_file(PACKAGE / "figures" / "efisher.mplstyle", use_default_template=False)
    for what in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"):
        assert contrast(f"#{style[what].lstrip('#')}", "white") >= TEXT, what


def test_lines_of_figures():
    assert {name for name, colour in COLOURS.items() if contrast(colour, "white") < LINE} == PALE_LINES


@pytest.mark.parametrize("paper", PAPER)
def test_marks_of_pages(paper):
    """The colours that stand alone: of a slider, of the ring about what has the focus, of a verdict.

    Those of words are measured where they stand, by axe-core.
    """
    for colour in set(re.findall(r"(?<!dark\()(?<!, )#[0-9a-f]{3,6}\b", CSS)):
        assert contrast(colour, paper) >= LINE, colour


def distance(pair, eye):
    return deltaE(*(seen(COLOURS[name], eye) for name in pair), input_space="sRGB1")


@pytest.mark.parametrize("eye", EYES)
def test_colours_of_one_scene_are_apart(eye):
    for path in (PACKAGE / "figures" / "scenes").glob("[a-z]*.py"):
        used = [name for name in COLOURS if re.search(rf"\b{name}\b", path.read_text())]
        for pair in combinations(used, 2):
            assert distance(pair, eye) >= (5 if pair in NEAR else APART), f"{path.stem}: {pair}"


def test_near_pairs_are_near():
    """None is excused that needs no excuse."""
    for pair in NEAR:
        assert min(distance(pair, eye) for eye in EYES) < APART
