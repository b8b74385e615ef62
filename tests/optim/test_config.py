"""The three readings, and what a configuration refuses."""

import pytest

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.optim.config import HierarchicalRNNConfig, code_config, paper_config, shipped_config


def test_the_readings_differ_where_paper_and_code_do():
    code, paper, shipped = code_config(), paper_config(), shipped_config()
    assert (code.features, paper.features, shipped.features) == (12, 9, 12)
    assert (code.global_input, paper.global_input, shipped.global_input) == ("last", "mean", "mean")
    assert (code.attention, paper.attention, shipped.attention) == (False, True, False)
    assert (paper.squash, paper.normalise, paper.gradient_shortcut) == ("ratio", "norm", False)
    assert code_config(attention=True).attention
    assert shipped_config(attention=True).attention
    assert not paper_config(attention=False).attention


@pytest.mark.parametrize("config", [code_config(), paper_config(), HierarchicalRNNConfig(scales=2)])
def test_json_round_trip(config):
    assert from_json_dict(HierarchicalRNNConfig, to_json_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"parameter_units": 0}, "parameter_units: expected a whole number of at least 1, got 0"),
        ({"scales": 2.0}, "scales: expected a whole number of at least 1, got 2.0"),
        ({"tensor_units": True}, "tensor_units: expected a whole number"),
        ({"squash": "tanh"}, "squash: expected one of asinh, ratio, got 'tanh'"),
        ({"global_input": "first"}, "global_input: expected one of mean, last"),
        ({"normalise": None}, "normalise: expected one of rms, norm"),
        ({"relative_rate": "global"}, "relative_rate: expected one of problem, tensor"),
        ({"attention": 1}, "attention: expected true or false, got 1"),
        ({"least_rate": 0.0}, "rates: expected 0 < least_rate <= greatest_rate, got 0.0 and 0.01"),
        ({"least_rate": 0.1}, "rates: expected"),
        ({"greatest_rate": float("inf")}, "rates: expected"),
        ({"greatest_rate": "high"}, "rates: expected"),
    ],
)
def test_bad_values_are_named(values, complaint):
    with pytest.raises(UserError, match=complaint):
        HierarchicalRNNConfig(**values)
