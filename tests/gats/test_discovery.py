"""Blocks, width, direction and class tokens are found by structure; what cannot be found is asked for."""

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.gats import Component
from factotum.gats.component import Tower
from tests.gats.families import BY_NAME, IMAGE, SIZES, TOKENS, Rowwise

FOUND = {
    "llama": ("model.layers", 16, 3, False, 0),
    "gpt2": ("transformer.h", 24, 5, False, 0),
    "qwen3": ("model.layers", 16, 3, False, 0),
    "bert": ("encoder.layer", 16, 3, True, 0),
    "whisper-encoder": ("layers", 16, 3, True, 0),
    "whisper-decoder": ("decoder.layers", 16, 4, False, 0),
    "plain": ("blocks", 12, 5, False, 0),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_of_each_family(name):
    tower = Tower("a", BY_NAME[name].component(), layers=2)
    assert (tower.path, tower.width, tower.depth, tower.bidirectional, tower.skip) == FOUND[name]


@pytest.mark.parametrize("name", ["vit", "clip-vision"])
def test_image_encoders_have_a_class_token_in_front(name):
    tower = Tower("a", BY_NAME[name].component(), layers=2)
    assert (tower.width, tower.depth, tower.bidirectional, tower.skip) == (16, 3, True, 1)
    assert Tower("a", BY_NAME[name].component(skip=0), layers=2).skip == 0


def test_registers_are_counted_and_towers_do_not_get_each_others_tokens():
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(**SIZES, **IMAGE, num_register_tokens=3)
    found = Tower("a", Component(transformers.Dinov2WithRegistersModel(config), window=4), layers=2)
    assert found.skip == 4
    assert found.bidirectional
    text = {**SIZES, **TOKENS, "max_position_embeddings": 16}
    both = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config={**SIZES, **IMAGE}))
    with pytest.raises(
        UserError, match=r"component 'a': found several .*text_model.*vision_model.*: name one"
    ):
        Tower("a", Component(both, window=4), layers=2)
    texts, images = "text_model.encoder.layers", "vision_model.encoder.layers"
    assert Tower("a", Component(both, window=4, blocks=texts, bidirectional=False), layers=2).skip == 0
    assert Tower("a", Component(both, window=4, blocks=images), layers=2).skip == 1
    with pytest.raises(UserError, match="component 'a': cannot tell whether CLIPModel looks ahead"):
        Tower("a", Component(both, window=4, blocks=texts), layers=2)


def test_wrapped_models_are_looked_into():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = BY_NAME["gpt2"].module()

    assert Tower("a", Component(Wrapped(), window=4), layers=2).path == "inner.transformer.h"


def test_modules_of_torch_and_lists_within_lists():
    layer = nn.TransformerEncoderLayer(8, 2)
    assert (
        Tower("a", Component(nn.TransformerEncoder(layer, 2), window=4, bidirectional=True), layers=2).depth
        == 2
    )

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(9))

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.ModuleList(Experts() for _ in range(2))
            self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    assert Tower("a", Component(Mixture(), window=4, bidirectional=False), layers=2).path == "trunk"


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.LayerNorm(4)


CASES = [
    (nn.Linear(2, 2), {}, "found no list of blocks in Linear: name it"),
    (Rowwise(), {"blocks": "layers"}, "Rowwise has no 'layers'"),
    (Rowwise(), {"blocks": "head"}, "expected a list of blocks at 'head', got Linear"),
    (Rowwise(), {}, "cannot tell whether Rowwise looks ahead"),
    (Bare(), {"bidirectional": False}, "found no normalisation in Linear that tells the width"),
    (Rowwise(), {"window": None}, "expected a window"),
    (Rowwise(), {"window": -1}, r"expected a window, .*got -1"),
    (Rowwise(), {"window": 0}, "a window of 0 and not steered"),
    (Rowwise(), {"layout": "BT", "bidirectional": False}, "layout: expected different letters"),
]


@pytest.mark.parametrize(("module", "choices", "message"), CASES, ids=[case[2] for case in CASES])
def test_what_cannot_be_found_is_asked_for_with_the_components_name(module, choices, message):
    with pytest.raises(UserError, match=f"component 'eyes'.*{message}"):
        Tower("eyes", Component(module, **{"window": 3, **choices}), layers=2)


def test_what_the_user_says_goes_first():
    tower = Tower("a", Component(Bare(), window=1, width=4, bidirectional=True, skip=2), layers=2)
    assert (tower.width, tower.bidirectional, tower.skip) == (4, True, 2)


def test_a_width_that_is_not_the_activations_is_told_when_they_come():
    tower = Tower("eyes", Component(Rowwise(), window=1, width=9, bidirectional=False), layers=2)
    with pytest.raises(
        UserError, match=r"component 'eyes': expected activations of width 9 at blocks, got 6: say"
    ):
        tower({"x": torch.zeros(1, 2, 6)}, lambda layer, x: x)
