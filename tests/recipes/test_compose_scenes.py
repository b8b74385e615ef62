"""Scenes as ids and back; what is generated is what was taught; both decoders stay what they are."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from factotum.cli import main as command
from factotum.core.checks import UserError
from factotum.core.files import read_json
from factotum.gats.generate import logits_of
from factotum.gats.objective import IGNORED
from factotum.gats.parts import load_part
from factotum.gats.picture_codes import PictureCodes
from factotum.gats.store import weights_hash
from factotum.recipes import compose, compose_scenes, pretrain_scenes, report
from factotum.recipes.compose_file import read_values
from factotum.recipes.scene_data import (
    BEHIND,
    SceneBatches,
    pictures_of,
    scene_batch,
    scene_shard,
    sentence_ids,
    sentence_of,
)
from factotum.recipes.scene_evaluate import captions, drawings
from factotum.recipes.scene_file import read_scenes
from factotum.recipes.scene_judge import attributes_right, slots_of
from factotum.training.checkpoint import list_checkpoints
from factotum.worlds.suites.scenes import captioned
from tests.gats.families import wake

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
FILE = """
[scenes]
codes = "PLACE/codes/model"
text = "PLACE/text/model"
pictures = "PLACE/pictures/model"
judge = "PLACE/judge/model"
folder = "PLACE"
count = 12

[join]
layers = 2
width = 16
heads = 2

[training]
steps = 4
batch = 4
warmup = 1
checkpoint_every = 2
log_every = 1
device = "cpu"
hidden = { text = 0.2 }

[evaluation]
episodes = 3
batch = 2
guidance = [0.0, 1.0]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    small = {"width": 8, "depth": 2, "heads": 2, "steps": 2, "batch": 4, "device": "cpu", "scenes": 12}
    for what in ("codes", "text", "judge", "pictures"):
        codes = folder / "codes" / "model" if what == "pictures" else None
        pretrain_scenes.main(pretrain_scenes.Args(what, folder / what, codes, folder, **small))
    (folder / "scenes.toml").write_text(FILE.replace("PLACE", str(folder)))
    return folder


@pytest.fixture(scope="module")
def file(place):
    return read_scenes(place / "scenes.toml", read_values(place / "scenes.toml"))


@pytest.fixture(scope="module")
def codes(place):
    return PictureCodes.load_folder(place / "codes" / "model")


def test_from_file_to_report(place):
    run = place / "run"
    assert command(["compose", str(place / "scenes.toml"), "--out", str(run)]) == 0
    found = read_json(run / "evaluation.json")
    assert list(found["arms"]) == ["caption", "codes", "draw", "draw w=1"]
    assert found["perplexity"]["same"]
    stored = read_json(run / "model" / "config.json")["components"]
    for name in ("text", "pictures"):
        assert stored[name]["hash"] == weights_hash(load_part(place / name / "model")[0])
    page = (run / "report.html").read_text()
    assert "Captions and drawings" in page
    parts = re.compile("<h2>.*?</h2>|<svg|<img")
    assert parts.findall(report.main(report.Args(run)).read_text()) == parts.findall(page)


def test_resumed_is_bit_equal(place):
    stopped = place / "stopped"
    assert compose.main(compose.Args(place / "scenes.toml", stopped, time_limit_s=0.0)) is None
    assert len(list_checkpoints(stopped)) == 1
    compose.main(compose.Args(place / "scenes.toml", stopped, evaluate=False))
    whole = place / "run" / "model" / "model.safetensors"
    assert (stopped / "model" / "model.safetensors").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_generated_is_what_was_taught(seed, file, codes):
    torch.manual_seed(seed)
    model, seeds = wake(compose_scenes.make_scenes(file, codes), std=0.3).eval(), [5, 6, 7]
    said = captions(model, codes, seeds)
    ids_BP = codes.encode(pictures_of(seeds))
    said_ids, there = sentence_ids([words or "?" for words in said])
    for row, words in enumerate(said):
        if not words or "?" in words:
            continue
        batch = scene_batch([words], ids_BP[row : row + 1], ["caption"], codes.config.vocabulary)
        with torch.no_grad():
            scores = logits_of(model(batch.inputs, batch.times)["text"])[0]
        count = int(there[row].sum()) - 2
        assert scores[:count].argmax(-1).tolist() == said_ids[row, 1 : count + 1].tolist()
    drawn_BP = drawings(file, model, codes, seeds)
    batch = scene_batch([captioned(one)[1] for one in seeds], drawn_BP, ["draw"] * 3, codes.config.vocabulary)
    with torch.no_grad():
        scores = logits_of(model(batch.inputs, batch.times)["pictures"])
    assert torch.equal(scores[:, :-1, : codes.config.vocabulary].argmax(-1), drawn_BP)


def test_each_row_is_taught_in_its_direction(codes, tmp_path):
    shard = scene_shard(tmp_path, codes, 8)
    assert [shard.information["texts"][i] for i in shard.columns["text"]] == [
        captioned(k)[1] for k in range(8)
    ]
    batch = SceneBatches(shard, codes.config.vocabulary, 6, 0, ("caption", "draw"))(0)
    for row in range(6):
        says = bool((batch.targets["text"][row] != IGNORED).any())
        draws = bool((batch.targets["pictures"][row] != IGNORED).any())
        assert says != draws
        first = {name: batch.times[name][row, 0].item() for name in ("text", "pictures")}
        assert first == ({"text": BEHIND, "pictures": 0.0} if says else {"text": 0.0, "pictures": BEHIND})
        if says:
            words = batch.inputs["text"]["input_ids"][row, 1:]
            assert (batch.targets["text"][row, :-1] == words)[
                batch.targets["text"][row, :-1] != IGNORED
            ].all()
    again = SceneBatches(shard, codes.config.vocabulary, 6, 0, ("caption", "draw"))(0)
    assert torch.equal(again.targets["pictures"], batch.targets["pictures"])


def test_words_and_truth():
    sentence = "an orange ring left of a blue square"
    ids, there = sentence_ids([sentence, "a red ring at the top"])
    assert sentence_of(ids[0, 1:].tolist()) == sentence
    assert there.sum(1).tolist() == [10, 8]
    things, words, _ = captioned(12)
    truth = slots_of(things)
    assert sum(answer > 0 for answer in truth) == 2 * len(things)
    assert attributes_right(truth, truth) == 1.0
    assert attributes_right([0] * 8, truth) == 0.0
    assert words


def test_codes_learn_and_their_ids_come_back(codes):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(codes.config.vocabulary, (2, 64), generator=generator)
    assert codes.decode(ids).shape == (2, 3, 64, 64)
    x = torch.rand(2, 3, 64, 64, generator=generator)
    assert torch.allclose(codes.decode(codes.encode(x)), codes(x), atol=1e-5)
    codes(x).sum().backward()
    assert codes.encoder[0].weight.grad.abs().sum() > 0  # through the rounding
    assert np.unique(codes.encode(pictures_of(range(8)))).size > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scenes.text=PLACE/pictures/model", "scenes.text: expected a decoder of"),
        ("scenes.codes=PLACE/text/model", "expected weights of system 'gats-codes'"),
        ("scenes.judge=PLACE/none", "expected a file"),
        ("scenes.directions=[]", r"scenes\.directions: expected caption, draw or both"),
        ('scenes.directions=["paint"]', r"scenes\.directions\[0\]: expected one of caption, draw"),
        ("training.hidden.sound=0.1", "training.hidden: expected text or pictures, got 'sound'"),
        ("training.remember=1.0", "training.remember: expected 0, decoders are not kept, got 1.0"),
        ("training.remember=-1.0", "remember: expected 0 or more, got -1.0"),
    ],
)
def test_a_wrong_field_is_named(change, message, place, tmp_path):
    with pytest.raises(UserError, match=message):
        compose.main(
            compose.Args(
                place / "scenes.toml", tmp_path, (change.replace("PLACE", str(place)),), evaluate=False
            )
        )


@pytest.mark.parametrize("direction", ["caption", "draw"])
def test_one_direction_by_cross_attention(direction, place):
    fields = (f'scenes.directions=["{direction}"]', "join.mode=cross-attention", "training.steps=2")
    found = compose.main(compose.Args(place / "scenes.toml", place / direction, fields))
    assert direction in found["arms"]


def test_the_example_is_read():
    path = ROOT / "examples" / "gats" / "scenes.toml"
    assert read_scenes(path, read_values(path)).scenes.steered == {"text", "pictures"}


def test_pictures_need_codes(tmp_path):
    with pytest.raises(UserError, match="--codes: expected RUN/model of `factotum pretrain codes`, got none"):
        pretrain_scenes.Args("pictures", tmp_path)
