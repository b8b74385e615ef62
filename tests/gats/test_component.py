"""Activations of any layout become rows of elements and go back; what is kept of a run."""

import copy

import pytest
import torch
from torch import nn

from factotum.gats import GATS, Component
from factotum.gats.component import Tower
from tests.gats.families import BY_NAME, PLAIN, Rowwise, wake

SHAPES = {
    "BTD": (2, 5, 6),
    "TBD": (5, 2, 6),
    "BDHW": (2, 6, 3, 4),
    "BHWD": (2, 3, 4, 6),
    "BD": (2, 6),
    "DB": (6, 2),
}


@pytest.mark.parametrize(("layout", "skip"), [*((layout, 0) for layout in SHAPES), ("BTD", 1), ("TBD", 1)])
def test_elements_of_any_layout_come_back_to_their_places(layout, skip):
    tower = Tower(
        "a", Component(Rowwise(), window=2, layout=layout, skip=skip, bidirectional=False), layers=2
    )
    hidden = torch.randn(SHAPES[layout])
    x = tower.elements(hidden)
    assert x.shape[0] == 2
    assert x.shape[2] == 6
    assert x.shape[1] * 2 * 6 == hidden.numel() - skip * 12
    assert torch.equal(tower.restore(hidden, x), hidden)
    changed = tower.restore(hidden, torch.zeros_like(x))
    assert (changed != 0).sum() == skip * 12
    number = tower.elements(tower.restore(hidden, torch.arange(float(x.numel())).view(x.shape)))
    assert torch.equal(number.flatten(), torch.arange(float(x.numel())))


def test_a_convolutional_network_is_a_component():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            return x + self.conv(self.norm(x).relu())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x):
            return self.blocks(x).mean((2, 3))

    torch.manual_seed(0)
    model = GATS(
        {
            "eyes": Component(Net(), window=16, layout="BDHW", bidirectional=True, steered=True),
            "hands": PLAIN.component(steered=True),
        },
        layers=2,
        width=16,
        heads=2,
    )
    inputs = {"eyes": {"x": torch.randn(2, 6, 4, 4)}, "hands": PLAIN.inputs(2)}
    times = {"eyes": torch.zeros(2, 1), "hands": PLAIN.times(2)}
    before = model(inputs, times)
    assert torch.equal(before["eyes"], model.towers["eyes"].module(**inputs["eyes"]))
    after = wake(model)(inputs, times)
    assert (after["hands"] - before["hands"]).abs().max() > 1e-3
    assert (after["eyes"] - before["eyes"]).abs().max() > 1e-3


def test_time_first_is_batch_first():
    def encoder(batch_first):
        torch.manual_seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=batch_first), 2)

    found = []
    for layout in ("BTD", "TBD"):
        torch.manual_seed(1)
        given = Component(encoder(layout == "BTD"), window=4, steered=True, bidirectional=True, layout=layout)
        model = wake(GATS({"a": given}, layers=2, width=16, heads=2))
        x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
        src = x if layout == "BTD" else x.transpose(0, 1)
        y = model({"a": {"src": src}}, {"a": torch.zeros(3, 1)})["a"]
        found.append(y if layout == "BTD" else y.transpose(0, 1))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_torchs_encoder_gives_up_its_fused_path_for_hooks_and_no_more_than_rounding():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
    model = GATS(
        {"a": Component(encoder, window=4, steered=True, bidirectional=True)}, layers=2, width=16, heads=2
    )
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        found = model.eval()({"a": {"src": x}}, {"a": torch.zeros(3, 1)})["a"]
        torch.testing.assert_close(found, encoder(x), atol=1e-6, rtol=1e-6)


def test_a_class_token_is_no_element_and_stays_as_it_was():
    vit = BY_NAME["vit"]
    model = GATS({"eyes": vit.component(steered=True)}, layers=1, width=16, heads=2)
    wake(model)
    inputs = {"eyes": vit.inputs(2)}
    seen = []
    last = model.towers["eyes"].blocks[-1]
    with torch.no_grad():
        model.towers["eyes"]({**inputs["eyes"]}, lambda layer, x: (seen.append(x), x)[1])
        alone = model.towers["eyes"].module(**inputs["eyes"]).last_hidden_state
        joined = model(inputs, {"eyes": vit.times(2)})["eyes"].last_hidden_state
    assert seen[0].shape == (4, 4, 16)
    assert not last._forward_hooks
    assert torch.equal(joined[:, 0], alone[:, 0])
    assert (joined[:, 1:] - alone[:, 1:]).abs().amin(-1).amax() > 0


def test_a_model_can_be_copied():
    model = wake(GATS({"a": PLAIN.component(steered=True)}, layers=2, width=16, heads=2))
    twin = copy.deepcopy(model)
    inputs, times = {"a": PLAIN.inputs(2)}, {"a": PLAIN.times(2)}
    expected = model(inputs, times)["a"]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(inputs, times)["a"], expected)
