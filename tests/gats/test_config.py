"""Sizes and choices are checked when they are given, and survive JSON."""

import pytest

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.gats import GATSConfig

WRONG = [
    ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
    ({"heads": True}, "heads: expected a whole number"),
    ({"width": 2.0}, "width: expected a whole number"),
    ({"width": 36, "heads": 4}, "width: expected a multiple of twice the 4 heads"),
    ({"positions": "rotary"}, "positions: expected one of index, time, none, got 'rotary'"),
    ({"graft": "ceil"}, "graft: expected one of round, floor"),
    ({"update": "add"}, "update: expected one of residual, gated, scaled"),
    ({"feed_forward": -1.0}, "feed_forward: expected a number from 0"),
    ({"rotary": 1.5}, "rotary: expected a number from 0 to 1"),
    ({"base": float("nan")}, "base: expected a number"),
    ({"time_scale": "1"}, "time_scale: expected a number"),
]


@pytest.mark.parametrize(("choices", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_sizes_are_refused(choices, message):
    with pytest.raises(UserError, match=message):
        GATSConfig(**choices)


def test_a_config_survives_json():
    config = GATSConfig(layers=3, width=64, positions="time", time_scale=0.1, update="gated")
    assert from_json_dict(GATSConfig, to_json_dict(config)) == config


def test_the_feed_forward_width_is_even():
    assert GATSConfig(width=24, heads=4, feed_forward=1.3).hidden == 32
    assert GATSConfig(feed_forward=0).hidden == 0
