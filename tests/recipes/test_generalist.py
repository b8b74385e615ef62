"""The generalist from end to end at tiny scale: what is made, that it is made once, and what is refused."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.data.store import list_datasets, open_dataset
from factotum.distill.config import PolicyConfig
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import save_policy
from factotum.gato import Gato
from factotum.recipes import collect, evaluate, generalist, train
from factotum.recipes.generalist_plan import STAGES
from factotum.training.records import checkpoint_hash, read_episodes
from tests.recipes.generalist_toys import TASKS, arguments, patched, whole


@pytest.fixture
def tiny(monkeypatch):
    patched(monkeypatch)


@pytest.fixture
def place(tiny, tmp_path):
    """A finished one, to be changed."""
    shutil.copytree(whole(), tmp_path / "place")
    return tmp_path / "place"


def files(folder: Path) -> dict[str, int]:
    """When each file that a stage should leave alone was last written."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".hdf5", ".npy")]
    assert kept
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in kept}


def plan_of(place, **changes):
    return generalist.make_plan(arguments(place, **changes))


def test_datasets_are_those_of_the_tasks_and_the_left_out_ones_lie_elsewhere(tiny):
    expert = {f"{task}/expert-v0" for task in TASKS}
    rounds = {"gym/FrozenLake/dagger-1-v0", "babyai/GoToLocal/dagger-1-v0"}
    assert set(list_datasets(whole() / "data")) == expert | rounds | {"babyai/GoToLocal/words-v0"}
    assert list_datasets(whole() / "data-left-out") == ["gym/FrozenLake8x8Firm/expert-v0"]
    said = open_dataset("babyai/GoToLocal/words-v0", whole() / "data")
    assert said.own_metadata["settings"]["words"] == "training"
    labelled = open_dataset("babyai/GoToLocal/dagger-1-v0", whole() / "data")
    assert labelled.own_metadata["settings"]["labeller"] == "expert"
    assert max(labelled.lengths) <= 30
    seeds = {
        episode.seed
        for name in list_datasets(whole() / "data")
        for episode in open_dataset(name, whole() / "data")
    }
    assert max(seeds) < 1_000_000_000  # where evaluation's begin


def test_a_round_goes_on_from_the_weights_tokenizer_and_statistics_of_the_one_before(tiny):
    plan = plan_of(whole())
    first, second = plan.checkpoint(0), plan.checkpoint(1)
    for name in ("tokenizer.json", "statistics.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    settings = read_json(second / "training_state.json")["settings"]
    assert settings["start"] == checkpoint_hash(first)
    assert settings["data"]["babyai/GoToLocal"][0] == 12  # expert's, in other words, and of the round
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    moved = max(np.abs(before[name] - after[name]).max() for name in before)
    assert 0 < moved < 0.05


def test_everything_was_played_and_shipped_as_it_was_played(tiny):
    run, shipped = whole() / "run", whole() / "shipped"
    played = read_episodes(run / "evaluation")
    count = {
        agent: sum(line["agent"] == agent for line in played) for agent in ("random", "retrieve", "gato")
    }
    assert count == dict.fromkeys(count, 2 * len(TASKS))
    assert min(line["seed"] for line in played) >= 1_000_000_000
    assert {line["agent"] for line in read_episodes(run / "left-out/evaluation")} == {
        "random", "retrieve", "gato", "gato+prompt",
    }  # fmt: skip
    words = {line["agent"] for line in read_episodes(run / "words/evaluation")}
    assert words == {
        "gato",
        *(f"gato, words: {split}" for split in ("training", "order", "words", "held-out")),
    }
    assert sorted(path.name for path in shipped.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "statistics.json", "tokenizer.json", "training_tasks.json",
    ]  # fmt: skip
    assert evaluate.trained_tasks(shipped) == list(plan_of(whole()).tasks)
    weights = load_file(shipped / "model.safetensors")
    assert {str(array.dtype) for array in weights.values()} == {"float16"}
    assert {line["checkpoint"] for line in played if line["agent"] == "gato"} == {checkpoint_hash(shipped)}
    assert Gato.from_pretrained(shipped).config == plan_of(whole()).size.config()


def test_the_report_joins_the_rounds(tiny):
    lines = read_json_lines(whole() / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines][-1] == 30
    assert sorted(line["step"] for line in lines) == [line["step"] for line in lines]
    seconds = [line["timing"]["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert "Learning curves" in (whole() / "run" / "report.html").read_text()


def test_the_card_says_what_was_measured_and_how(tiny):
    text = (whole() / "shipped" / "README.md").read_text()
    for task in TASKS:
        assert f"| {task} |" in text
    for words in (
        "Asked and measured",
        "Beside JAT",
        "Where it fails",
        "in other words",
        "left out of training",
    ):
        assert words in text
    assert "FrozenLake8x8Firm: the rule of one task" in text
    assert "Meta-World, mean success | 0.85 | – | not measured |" in text
    assert f"factotum evaluate {whole()}/run/model {' '.join(TASKS_IN_ORDER)} --episodes 2" in text
    assert "0.07 M parameters" in text


TASKS_IN_ORDER = ("babyai/GoToLocal", "gym/FrozenLake", "scenes/color")


def test_what_is_done_is_not_done_again(place, monkeypatch):
    def never(*given, **named):
        raise AssertionError("played again")

    before, commands = files(place), len(read_json_lines(place / "run" / "commands.jsonl"))
    card = (place / "shipped" / "README.md").read_text()
    monkeypatch.setattr(collect, "collect", never)
    args = arguments(place, stages=tuple(stage for stage in STAGES if stage not in ("evaluate", "ship")))
    generalist.main(args)
    assert files(place) == before
    assert len(read_json_lines(place / "run" / "commands.jsonl")) > commands
    assert (place / "shipped" / "README.md").read_text() == card


def test_a_stage_that_was_cut_off_goes_on(place):
    plan = plan_of(place)
    wanted = (plan.checkpoint(1) / "model.safetensors").read_bytes()
    shutil.rmtree(plan.checkpoint(1))
    shutil.rmtree(place / "data/gym/FrozenLake/dagger-1-v0")
    generalist.main(arguments(place, stages=("dagger",)))
    assert (plan.checkpoint(1) / "model.safetensors").read_bytes() == wanted


def test_settings_that_would_change_what_is_there_are_refused(place):
    with pytest.raises(UserError, match=r"cannot resume: settings\.adaptivity was 0\.0 and is now 0\.5"):
        generalist.main(arguments(place, adaptivity=0.5, stages=("collect",)))
    with pytest.raises(UserError, match=r"settings\.steps was 20 and is now 40"):
        generalist.main(arguments(place, steps=40, stages=("train",)))
    generalist.main(arguments(place, rounds=2, jobs=2, stages=("train",)))  # one more round is none of that


def test_a_stage_before_its_time_says_which_is_first(tiny, tmp_path):
    with pytest.raises(UserError, match=r"step-00000020, got none; run the stage train first"):
        generalist.main(arguments(tmp_path, stages=("dagger",)))
    with pytest.raises(UserError, match="run the stage evaluate first"):
        generalist.main(arguments(tmp_path, stages=("ship",)))


def test_weights_that_were_not_played_are_not_shipped(place):
    for path in (place / "run/evaluation").glob("gym*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match=r"expected 2 episodes of gym/FrozenLake by .* found 0"):
        generalist.main(arguments(place, stages=("ship",)))


def test_too_much_is_refused_before_anything_is_done(tiny, tmp_path):
    with pytest.raises(UserError, match=r"at most 1e\+18 FLOP"):
        generalist.main(arguments(tmp_path, steps=10**13))
    with pytest.raises(UserError, match=r"at most 40 MB .* to ship, got 4\d\.\d MB; leave the stage ship"):
        generalist.main(arguments(tmp_path, size="25m"))
    with pytest.raises(UserError, match="unknown task of the generalist 'minatar'"):
        generalist.main(arguments(tmp_path, tasks=("minatar",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", 0.0, "more than 0"),
        ("scale", 2.0, "at most 1"),
        ("rounds", -1, "0 or more"),
        ("episodes", 0, "1 or more"),
    ],
)
def test_values_that_cannot_be_are_named(name, value, message):
    with pytest.raises(UserError, match=f"{name}: expected .*{message}"):
        generalist.Args(**{name: value})


def test_a_policy_shows_a_game_and_labels_it_in_further_rounds(tiny, tmp_path):
    game, policy = "minatar/breakout", str(tmp_path / "policy")
    torch.manual_seed(0)
    save_policy(PolicyNetwork(PolicyConfig((4, 10, 10), {game: 3}, scale=1.0, hidden=(8,))), policy)
    generalist.main(
        arguments(tmp_path, tasks=(game,), teachers=(policy,), stages=("collect", "train", "dagger"))
    )
    plan = plan_of(tmp_path, tasks=(game,), teachers=(policy,))
    assert plan.last_checkpoint() == plan.checkpoint(1)
    for name in ("expert", "dagger-1"):
        made = open_dataset(f"{game}/{name}-v0", tmp_path / "data").own_metadata["settings"]
        assert made["expert"].startswith("policy policy sha256:")
    assert made["actor"].startswith("checkpoint ")


def test_the_learned_optimizer_and_scalar_tokens_are_passed_on(tiny):
    learned = plan_of(Path("somewhere"), optimizer="hierarchical-rnn").training(0)
    assert learned.optimizer == "hierarchical-rnn"
    assert (learned.training.learning_rate, learned.training.warmup_steps) == (1.0, 0)
    scalar = plan_of(Path("somewhere"), tokens="scalar")
    assert scalar.size.config().tokens == "scalar"
    assert scalar.rows * scalar.size.config().context >= scalar.setting.rows * scalar.setting.size.context
    assert isinstance(scalar.training(0), train.Args)


def test_evaluation_again_plays_nothing(place, monkeypatch):
    began = time.time()

    def never(*given, **named):
        raise AssertionError("played again")

    monkeypatch.setattr(evaluate.AgentSpec, "play", never)
    for args in generalist.generalist_evaluate.main_evaluations(plan_of(place)):
        evaluate.main(args)
    summary = read_json(place / "run/evaluation/summary.json")
    assert summary["agent"] == "gato"
    assert (place / "run/evaluation/summary.json").stat().st_mtime >= began
