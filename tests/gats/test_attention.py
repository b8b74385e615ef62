"""Weights shown are those that the layer uses; looking changes nothing."""

import pytest
import torch

from factotum.gats import GATS, Component
from factotum.gats.attention import attention_weights
from factotum.gats.baselines import Alone, CrossAttention
from tests.gats.families import Rowwise, wake


def make_model(kind=GATS):
    torch.manual_seed(0)
    parts = {
        "eyes": Component(Rowwise(), window=3, bidirectional=False),
        "hands": Component(Rowwise(), window=2, bidirectional=False, steered=True, frozen=False),
    }
    return wake(kind(parts, layers=2, width=16, heads=2), std=0.5).eval()


def given():
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    times = {"eyes": torch.arange(5.0).expand(2, -1), "hands": torch.arange(5.0).expand(2, -1) + 0.5}
    return {"eyes": {"x": x}, "hands": {"x": x.flip(1)}}, times


@pytest.mark.parametrize("kind", [GATS, CrossAttention])
def test_weights_are_those_of_what_is_seen(kind):
    model, (inputs, times) = make_model(kind), given()
    before = model(inputs, times)["hands"]["logits"]
    layers = attention_weights(model.train(), inputs, times)
    assert model.training
    assert torch.equal(model.eval()(inputs, times)["hands"]["logits"], before)
    assert len(layers) == 2
    for layer in layers:
        whole = torch.cat([layer["eyes"], layer["hands"]], -1)
        assert whole.shape == (2, 5, 10)
        assert torch.allclose(whole.sum(-1), torch.ones(2, 5))
        for t in range(5):
            seen = (layer["eyes"][:, t] > 0).nonzero()[:, 1].unique().tolist()
            assert seen == list(range(max(0, t - 2), t + 1))
            own = (layer["hands"][:, t] > 0).nonzero()[:, 1].unique().tolist()
            assert own == ([] if kind is CrossAttention else list(range(max(0, t - 1), t + 1)))


def test_nothing_is_attended_to_alone():
    inputs, times = given()
    assert attention_weights(make_model(Alone), inputs, times) == []
