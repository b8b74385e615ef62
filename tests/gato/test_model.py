"""Published sizes, files that come back, and files that are refused."""

from unittest.mock import patch

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.gato import Gato, GatoConfig, gato_1b, gato_79m, gato_364m
from factotum.gato.config import PRESETS
from factotum.gato.statistics import Statistics
from tests.gato.samples import make_model, small


@pytest.mark.parametrize(("preset", "millions"), [(gato_79m, 79), (gato_364m, 364), (gato_1b, 1180)])
def test_published_sizes_within_one_and_a_half_percent(preset, millions):
    with torch.device("meta"), patch.object(Gato, "initialise"):
        count = sum(parameter.numel() for parameter in Gato(preset()).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.015)


def test_every_preset_is_valid():
    assert all(isinstance(preset(), GatoConfig) for preset in PRESETS.values())


@pytest.mark.parametrize("tokens", ["scalar", "fused"])
def test_saved_model_comes_back_bit_equal(tokens, tokenizer, statistics, tmp_path):
    model = make_model(tokens, tokenizer, statistics)
    model.save_pretrained(tmp_path / "model")
    back = Gato.from_pretrained(tmp_path / "model")
    assert back.config == model.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True)
    )
    assert back.tokenizer.to_json() == tokenizer.to_json()
    assert back.statistics.to_json() == statistics.to_json()


def test_half_precision_file_is_half_the_size(tokenizer, statistics, tmp_path):
    model = make_model("fused", tokenizer, statistics)
    model.save_folder(tmp_path / "full")
    model.save_folder(tmp_path / "half", torch.bfloat16)
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    assert Gato.load_folder(tmp_path / "half").table.weight.dtype == torch.float32


def edit(folder, **changes):
    write_json_atomic(folder / "config.json", {**read_json(folder / "config.json"), **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: edit(f, format_version=99),
            "expected a checkpoint of system 'gato', version 1, got 'gato', version 99",
        ),
        (lambda f: edit(f, system="other"), "got 'other'"),
        (lambda f: edit(f, config={"layers": 2, "colour": "red"}), "unknown keys .'colour'."),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON in"),
        (lambda f: (f / "statistics.json").unlink(), "expected a file"),
        (lambda f: (f / "model.safetensors").unlink(), "found no such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234567890"), "does not parse"),
        (lambda f: make_wider(f), "other shapes"),
        (lambda f: drop_weight(f), "missing .'decoder.norm.bias'."),
    ],
)
def test_damaged_checkpoints_are_refused(damage, message, tokenizer, statistics, tmp_path):
    make_model("fused", tokenizer, statistics).save_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        Gato.load_folder(tmp_path)


def make_wider(folder):
    config = read_json(folder / "config.json")["config"]
    edit(folder, config={**config, "code": config["code"] * 2})


def drop_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v.clone() for k, v in weights.items() if k != "decoder.norm.bias"}, folder / "model.safetensors"
    )


def test_pixels_are_scaled_as_in_the_paper():
    from factotum.gato.embedding import PatchEmbedding

    embedding = PatchEmbedding(16, 8, 128, 4).eval()
    seen = []
    embedding.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(torch.tensor([0, 255], dtype=torch.uint8).repeat(128)[None].view(1, 16, 16, 1))
    assert seen[0][:, 0].unique().tolist() == [-0.25, 0.25]


@pytest.mark.parametrize("channels", [16, 32, 64])
def test_plain_colours_are_told_apart(channels):
    """A norm over a patch of one colour would leave nothing of it."""
    from factotum.gato.embedding import PatchEmbedding

    torch.manual_seed(0)
    embedding = PatchEmbedding(16, channels, 128, 8).eval()
    dark, light = (embedding(torch.full((1, 16, 16, 3), level, dtype=torch.uint8)) for level in (20, 240))
    assert (dark - light).abs().mean() > 0.01


def test_too_many_tokens_in_an_observation_are_refused(tokenizer, statistics):
    from factotum.gato.batch import Block

    model = make_model("scalar", tokenizer, statistics, observation_slots=4)
    block = Block("token", torch.tensor([1]), torch.tensor([0]), torch.tensor([4]))
    with pytest.raises(UserError, match="expected at most 4 tokens a timestep"):
        model.embed([block], 1, 2)


def test_tokenizer_larger_than_the_vocabulary_is_refused(statistics):
    from factotum.gato.text import TextTokenizer

    tokenizer = TextTokenizer.train(["some words here to merge"] * 3, 300)
    with pytest.raises(UserError, match="expected at most text_size"):
        Gato(small("fused", vocabulary=GatoConfig().vocabulary.__class__(text_size=260, bins=256)), tokenizer)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": "words"},
        {"positions": "absolute"},
        {"layers": 0},
        {"head_size": 15},
        {"width": 48, "positions": "relative"},
    ],
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(UserError):
        GatoConfig(**{"width": 32, "heads": 2, "head_size": 16, **changes})


def test_statistics_pool_over_a_body_and_refuse_strangers():
    import numpy as np

    statistics = Statistics()
    statistics.add("reach", "arm", count=2, total=np.array([2.0, 0.0]), squares=np.array([4.0, 8.0]))
    statistics.add("push", "arm", count=2, total=np.array([2.0, 0.0]), squares=np.array([4.0, 8.0]))
    expected = [[(3 - 1) / 1.0, 1 / 2.0]]
    np.testing.assert_allclose(statistics.standardise("push", np.array([[3.0, 1.0]])), expected)
    with pytest.raises(UserError, match="expected statistics of its observations, got none for this task"):
        statistics.standardise("walk", np.zeros((1, 2)))
    with pytest.raises(UserError, match="expected 2 continuous dimensions, got 3"):
        statistics.standardise("push", np.zeros((1, 3)))
    with pytest.raises(UserError, match="expected 2 continuous dimensions for the body 'arm', got 1"):
        statistics.add("other", "arm", count=1, total=np.zeros(1), squares=np.zeros(1))
