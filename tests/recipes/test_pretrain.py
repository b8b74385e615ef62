"""A vision encoder learns to paint frames of a toy; it is read as a component; resumed it is bit-equal."""

import sys
from pathlib import Path

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.gats.parts import load_part
from factotum.recipes import compose, pretrain
from factotum.worlds.suites import registry
from tests.recipes import compose_toys as toys

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    info = tmp_path / "site" / "look_suite-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: look-suite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(toys.ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{ROOT}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    registry._all_suites.cache_clear()
    yield tmp_path
    registry._all_suites.cache_clear()


def args(place, name, **changes):
    sizes = {"width": 16, "depth": 1, "heads": 2, "episodes": 16, "batch": 16, "device": "cpu", "rate": 1e-2}
    given = {"tasks": ("look/Colours",), "data": place / "data", **sizes, "steps": 60, **changes}
    return pretrain.Args("vision", place / name, **given)


def test_frames_are_learnt_and_the_encoder_is_a_component(place):
    folder = pretrain.main(args(place, "vision"))
    losses = [line["loss"] for line in read_json_lines(place / "vision" / "metrics.jsonl")]
    module, config = load_part(folder)
    assert (config.kind, config.image, config.patch, config.channels) == ("vision-encoder", 16, 8, 3)
    assert losses[-1] < 0.5  # 0.6 for a constant grey, 0.2 where the side is told from what is seen
    assert "What it paints in" in (place / "vision" / "report.html").read_text()
    short = ("training.steps=2", "evaluation.episodes=2", "components.vision.patch=4")
    source = f"components.vision.source={folder}"
    found = compose.main(compose.Args(toys.write_file(place), place / "run", (*short, source)))
    assert found["model"]["components"]["vision"] == sum(p.numel() for p in module.parameters())
    with pytest.raises(UserError, match=r"components\.text: expected a sentence-encoder in"):
        compose.main(
            compose.Args(place / "look.toml", place / "wrong", (*short, f"components.text.source={folder}"))
        )


def test_resumed_is_bit_equal(place):
    short = {"steps": 4, "checkpoint_every": 2}
    whole = pretrain.main(args(place, "whole", **short))
    assert pretrain.main(args(place, "stopped", **short, time_limit_s=0.0)) == place / "stopped"
    stopped = pretrain.main(args(place, "stopped", **short))
    for name in ("model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    state = torch.random.get_rng_state()
    load_part(whole)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 1.0}, r"--hidden: expected a share in \(0, 1\), got 1.0"),
        ({"image": 32}, "--image: expected at most 16, got 32"),
        ({"patch": 5}, "image: expected a multiple of the patch of 5, got 16"),
        ({"keys": ("depth",)}, "expected observations with 'depth', got image, instruction, state"),
        ({"keys": ("state",)}, "--keys: expected pictures of one number of channels at state"),
    ],
)
def test_wrong_options_are_named(changes, message, place):
    with pytest.raises(UserError, match=message):
        pretrain.main(args(place, "run", **changes))
