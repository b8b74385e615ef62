"""Training that starts from a checkpoint's weights, and training by the learned optimizer."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.data.store import write_dataset
from factotum.recipes import train
from factotum.recipes.train import newest_checkpoint
from factotum.recipes.train_start import Start
from factotum.training.config import TrainConfig
from tests.recipes.test_train import SPACES, episode

SIZE = train.Size(
    context=32, layers=1, width=16, heads=2, head_size=8, feed_forward=32, text_size=300, bins=64,
    patch_channels=8, observation_slots=16, patch_slots=4,
)  # fmt: skip


def add(root, kind, name, seed, count=12, space=None, body=None):
    generator = np.random.default_rng(seed)
    episodes = [episode(kind, generator, 1 if kind == "read" else 8) for _ in range(count)]
    known = {"task": f"toy/{kind}", "body": body or kind, "instruction": kind, "measure": "return"}
    write_dataset(
        root, f"toy/{kind}/{name}-v0", episodes, *SPACES[kind], {**known, "random": None, "expert": None}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, kind in enumerate(("echo", "copy")):
        add(root, kind, "expert", seed)
    return root


def arguments(data, run, steps=4, rate=3e-3, **changes):
    options = {
        "warmup_steps": 0,
        "log_every": 2,
        "checkpoint_every": 2,
        "keep_checkpoints": 0,
        "steps": steps,
    }
    training = TrainConfig(**options, learning_rate=rate, tensorboard=False, device="cpu")
    return train.Args(**{"run": run, "data": data, "rows": 2, "size": SIZE, **changes}, training=training)


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "first"
    train.main(arguments(data, run))
    return newest_checkpoint(run)


@pytest.fixture
def more(data, tmp_path):
    """More data of known tasks, whose statistics and texts would be others, and a new task."""
    root = tmp_path / "more"
    shutil.copytree(data, root)
    add(root, "copy", "dagger", 7, count=3)
    add(root, "read", "expert", 8)
    return root


def test_a_new_run_starts_with_the_very_weights_tokenizer_and_statistics(more, first, tmp_path):
    run = tmp_path / "second"
    train.main(arguments(more, run, steps=1, rate=0.0, start=first))  # a learning rate of 0 changes nothing
    found, wanted = (load_file(folder / "model.safetensors") for folder in (newest_checkpoint(run), first))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert (newest_checkpoint(run) / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    old, new = (read_json(folder / "statistics.json") for folder in (first, newest_checkpoint(run)))
    assert new["bodies"] == old["bodies"]  # also that of toy/copy, which has more data now
    assert new["tasks"] == {**old["tasks"]}


def test_training_goes_on_from_there_and_resumes_bit_equal(more, first, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train.main(arguments(more, whole, start=first))
    train.main(arguments(more, resumed, start=first))
    shutil.rmtree(newest_checkpoint(resumed))
    train.main(arguments(more, resumed, start=first))
    for name in ("model.safetensors", "training_state.safetensors"):
        one, two = (newest_checkpoint(run) / name for run in (whole, resumed))
        assert one.read_bytes() == two.read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (first, newest_checkpoint(whole)))
    assert any((before[name] != after[name]).any() for name in before)


def test_a_run_that_was_started_elsewhere_is_refused(more, first, tmp_path):
    run = tmp_path / "run"
    train.main(arguments(more, run, start=first))
    with pytest.raises(UserError, match=r"settings\.start was '\w+' and is now None"):
        train.main(arguments(more, run))
    with pytest.raises(UserError, match=r"settings\.start was '\w+' and is now '\w+'"):
        train.main(arguments(more, run, start=first.parent / "step-00000002"))


def test_what_does_not_fit_is_named(data, first, tmp_path):
    with pytest.raises(UserError, match=r"start: expected a checkpoint's folder .* got .*nowhere"):
        train.main(arguments(data, tmp_path / "a", start=tmp_path / "nowhere"))
    other = train.Size(**{**vars(SIZE), "layers": 2})
    with pytest.raises(UserError, match=r"of the run's size: size\.layers was 1 and is now 2"):
        train.main(arguments(data, tmp_path / "b", start=first, size=other))
    own = tmp_path / "c" / "tokenizer.json"
    own.parent.mkdir()
    own.write_text("{}")
    with pytest.raises(UserError, match=r"start: expected the tokenizer of .*step-00000004/tokenizer.json"):
        train.main(arguments(data, tmp_path / "c", start=first))
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_without_words_cannot_start_on_texts(data, first, tmp_path):
    mute = tmp_path / "mute"
    shutil.copytree(first, mute)
    (mute / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="start: expected a tokenizer for the texts"):
        train.main(arguments(data, tmp_path / "run", start=mute))


def test_a_body_of_another_size_is_refused(data, first, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(first, changed)
    statistics = read_json(changed / "statistics.json")
    for name in ("total", "squares"):
        statistics["bodies"]["copy"][name].append(1.0)
    write_json_atomic(changed / "statistics.json", statistics)
    assert Start.read(changed, SIZE.config()).statistics.bodies["copy"]["total"][-1] == 1.0
    with pytest.raises(UserError, match="expected 4 continuous dimensions for the known body 'copy', got 3"):
        train.main(arguments(data, tmp_path / "run", start=changed))


def test_the_learned_optimizer_trains_resumes_and_is_part_of_the_settings(data, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    learned = {"rate": 1.0, "optimizer": "hierarchical-rnn"}
    for run in (whole, resumed):
        assert train.main(arguments(data, run, **learned)).finished
    shutil.rmtree(newest_checkpoint(resumed))
    train.main(arguments(data, resumed, **learned))
    for name in ("model.safetensors", "training_state.safetensors"):
        one, two = (newest_checkpoint(run) / name for run in (whole, resumed))
        assert one.read_bytes() == two.read_bytes()
    with pytest.raises(UserError, match=r"settings\.optimizer was 'hierarchical-rnn \w{16}' and is now None"):
        train.main(arguments(data, whole, rate=1.0))
    with pytest.raises(UserError, match=r"a multiple of the learned step, such as 1, got 0\.003"):
        train.main(arguments(data, tmp_path / "run", optimizer="hierarchical-rnn"))
