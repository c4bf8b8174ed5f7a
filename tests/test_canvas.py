"""matplotlib's canvas, made faster, still draws what matplotlib draws."""

from io import BytesIO

import gallery
import matplotlib.pyplot as plt
import numpy as np
import pytest
from frontend import scene
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.image import imread

from efisher_teach.figures.canvas import Renderer, still_picture
from efisher_teach.figures.paint import paint, write
from efisher_teach.figures.table import tabulate


@pytest.mark.parametrize("angle", [0, 30, 90])
@pytest.mark.parametrize(
    ("text", "ismath"), [("Change of each loss, gᵢ", False), (r"$10^{-3}$", True), (" ", False)]
)
def test_a_text_is_drawn_as_matplotlib_draws_it(text, ismath, angle):
    drawn = []
    for kind in (RendererAgg, Renderer):
        renderer = kind(700, 600, 200)
        for place in ((90, 500), (300, 550)):  # the second one is copied
            gc = renderer.new_gc()
            gc.set_foreground((0.2, 0.4, 0.6))
            gc.set_alpha(0.8)
            renderer.draw_text(gc, *place, text, FontProperties(size=11), angle, ismath)
        drawn.append(np.asarray(renderer.buffer_rgba()).astype(float))
    usual, quick = (each[..., :3] * each[..., 3:] for each in drawn)
    assert np.abs(quick - usual).max() <= 2 * 255  # of 255²
    assert (usual.max() > 0) == (text != " ")


# 10.2 inches of 200 pixels are 2039.9999999.
@pytest.mark.parametrize("size", [(4.0, 3.0), (4.8, 10.2)])
def test_a_still_picture_is_pixel_by_pixel_what_matplotlib_saves(size):
    drawn = scene()._replace(size=size)
    figure = paint(drawn, tabulate(drawn), (0,)).figure
    quick, usual = (imread(BytesIO(draw(figure))) for draw in (still_picture, write))
    np.testing.assert_array_equal(quick, usual[..., :3])
    assert usual[..., 3].min() == 1
    assert imread(BytesIO(still_picture(figure, 100))).shape == (usual.shape[0] // 2, usual.shape[1] // 2, 3)
    np.testing.assert_array_equal(imread(BytesIO(still_picture(figure))), quick)


def test_figures_are_the_same_whatever_style_a_reader_has():
    def drawn():
        return still_picture(paint(*gallery.shown("the_best_step"), (0,)).figure)

    usual = drawn()
    with plt.style.context(["dark_background", "ggplot", {"font.family": "serif", "axes.labelsize": 30}]):
        assert drawn() == usual
