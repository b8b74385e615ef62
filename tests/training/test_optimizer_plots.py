"""Figures show what they are given, also where training diverged or losses are negative."""

import matplotlib
import numpy as np
import pytest

from factotum.training.optimizer_plots import curves_figure, sweep_figure
from factotum.training.report_plots import svg


def test_curves_stand_at_their_steps_with_the_mean_over_seeds():
    axes = curves_figure({"ours": (10, np.array([[4.0, 2.0], [2.0, 1.0]]))}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [10, 20]
    assert axes.lines[0].get_ydata().tolist() == [3.0, 1.5]
    assert axes.get_yscale() == "log"


def test_a_variant_is_dashed_in_the_colour_of_its_own():
    curves = {name: (1, np.ones((1, 2))) for name in ("ours", "adam", "adam, untuned", "sgd")}
    ours, adam, untuned, sgd = curves_figure(curves).axes[0].lines
    assert adam.get_color() == untuned.get_color()
    assert len({line.get_color() for line in (ours, adam, sgd)}) == 3
    assert (adam.get_linestyle(), untuned.get_linestyle()) == ("-", "--")


def test_both_figures_give_a_name_one_colour():
    curves = curves_figure({name: (1, np.ones((1, 2))) for name in ("ours", "adam", "sgd")}).axes[0]
    rates = sweep_figure({"adam": {0.1: 1.0}, "sgd": {0.1: 1.0}}, {"ours": 1.0}).axes[0]
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in (curves, rates)]
    assert colours[0] == colours[1]


@pytest.mark.parametrize(
    "losses",
    [np.array([[1.0, np.nan], [1.0, 0.5]]), np.full((2, 3), np.nan), np.array([[1.0, -2.0]])],
    ids=["one seed diverged", "all diverged", "negative"],
)
def test_odd_losses_are_drawn(losses):
    with np.errstate(all="raise"):
        figure = curves_figure({"bad": (1, losses), "good": (1, np.ones((1, 3)))})
    assert "<svg" in svg(figure)
    assert figure.axes[0].get_yscale() == ("linear" if np.nanmin([*losses.ravel(), 1]) < 0 else "log")


def test_a_diverged_rate_is_no_point():
    axes = sweep_figure({"adam": {0.1: 2.0, 1.0: np.inf, 10.0: 3.0}}, {}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0.1, 10.0]


def test_drawing_leaves_the_users_style_alone():
    before = matplotlib.rcParams["font.size"]
    sweep_figure({"adam": {0.1: 2.0}}, {"ours": 1.0})
    curves_figure({"ours": (1, np.ones((1, 2)))})
    assert matplotlib.rcParams["font.size"] == before
