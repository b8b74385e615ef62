from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest
import tyro

from factotum.core.checks import UserError
from factotum.data.store import Dataset, list_datasets
from factotum.data.validate import validate
from factotum.recipes import player
from factotum.recipes.collect import Args, dataset_id, main
from factotum.recipes.player import Player
from tests.recipes.toy_suite import STEPS

pytestmark = pytest.mark.usefixtures("toy_suite")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def collect(data: Path, *tasks: str, **options) -> Dataset:
    options = {"episodes": 12, "chunk": 3, "jobs": 1, **options}
    *_, identity = main(Args(tasks or ("toy/Balance",), data=data, **options))
    return Dataset(data / identity)


def digest(dataset: Dataset) -> tuple[str, ...]:
    names = ("main_data.hdf5", "metadata.json")
    return tuple(hashlib.sha256((dataset.path / "data" / name).read_bytes()).hexdigest() for name in names)


def test_a_dataset_holds_the_expert_and_says_how_it_was_made(data, capsys):
    dataset = collect(data)
    metadata = dataset.metadata
    assert dataset.id == "toy/Balance/expert-v0"
    assert len(dataset) == 12
    assert validate(dataset.path) == []
    assert metadata["seeds"] == [seed for seed in range(100) if seed % 7 != 6][:12]
    assert metadata["scores"] == [float(STEPS)] * 12
    assert [entry[0] for entry in metadata["discarded"]] == [6]
    assert metadata["next_seed"] == metadata["seeds"][-1] + 1
    assert metadata["filter"] == {"share": 0.8, "expert_return": 40.0, "threshold": pytest.approx(32.0)}
    assert metadata["random"] == {"score": 20.0, "source": "guess"}
    assert (metadata["task"], metadata["body"], metadata["measure"]) == ("toy/Balance", "toy/pole", "return")
    assert (metadata["actor"], metadata["labeller"]) == ("expert", None)
    for episode, seed in zip(dataset, metadata["seeds"], strict=True):
        assert set(episode.observations["seed"].tolist()) == {seed}
        assert episode.observations["instruction"][0] == "balance the pole"
        assert episode.score == episode.total_reward == STEPS
    assert "12 episodes, 480 steps, mean score 40; discarded: 1 scored below 32" in capsys.readouterr().out
    assert [path.name for path in data.iterdir() if path.name != "toy"] in ([], [".collect"])
    assert not list(data.rglob("*.part"))


def test_minari_finds_it(data, monkeypatch):
    collect(data)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data))
    assert minari.load_dataset("toy/Balance/expert-v0").total_episodes == 12
    assert list(minari.list_local_datasets()) == ["toy/Balance/expert-v0"]


def test_enough_is_enough(data, capsys):
    before = digest(collect(data))
    assert digest(collect(data, episodes=8)) == before
    assert "12 episodes are there already" in capsys.readouterr().out


def test_extending_equals_collecting_at_once(data, tmp_path):
    collect(data, episodes=5)
    assert digest(collect(data, episodes=20)) == digest(collect(tmp_path / "other", episodes=20))


def test_an_unmeasured_expert_is_judged_by_the_papers_return(data):
    dataset = collect(data, "toy/Unmeasured")
    assert dataset.metadata["expert"] is None
    assert dataset.metadata["filter"]["expert_return"] == STEPS
    extended = collect(data, "toy/Unmeasured", episodes=20)
    assert extended.metadata["filter"] == dataset.metadata["filter"]


def test_keep_zero_keeps_all(data):
    dataset = collect(data, keep=0.0)
    assert dataset.metadata["seeds"] == list(range(12))
    assert dataset.metadata["scores"][6] < 32


def test_other_settings_need_another_name(data):
    before = digest(collect(data))
    with pytest.raises(UserError, match=r"noise 0\.0 instead of 0\.5: choose another --name"):
        collect(data, noise=0.5)
    other = collect(data, noise=0.05, name="noisy", keep=0.0)
    assert other.id == "toy/Balance/noisy-v0"
    assert digest(Dataset(data / "toy/Balance/expert-v0")) == before


def test_a_foreign_dataset_is_not_touched(data):
    dataset = collect(data)
    file = dataset.path / "data" / "metadata.json"
    values = json.loads(file.read_text())
    del values["factotum"]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match="not made by `factotum collect`"):
        collect(data, episodes=20)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("Fails", "no plan"), ("Hangs", "no answer within"), ("Crashes", "RuntimeError: physics exploded")],
)
def test_episodes_that_go_wrong_are_discarded_with_the_reason(data, fault, reason, capsys):
    dataset = collect(data, f"toy/{fault}", episodes=4, episode_seconds=0.3)
    assert dataset.metadata["seeds"] == [0, 2, 3, 4]
    assert [entry[0] for entry in dataset.metadata["discarded"]] == [1]
    assert reason in dataset.metadata["discarded"][0][2]
    assert reason in capsys.readouterr().out


def test_values_outside_of_the_spaces_are_an_error_that_says_where(data):
    with pytest.raises(
        UserError, match=r"toy/Outside, seed 1, observations/state\[1, 0\]: expected a finite number, got nan"
    ):
        collect(data, "toy/Outside")
    assert list_datasets(data) == []


def test_a_hopeless_task_fails_clearly(data):
    with pytest.raises(
        UserError, match=r"toy/Hopeless: expected to keep at least 5%.*kept 0 of 100: 100 scored below 32"
    ):
        collect(data, "toy/Hopeless")


def test_chatter_of_environments_is_silenced(data, capsys):
    collect(data, "toy/Chatty")
    assert "Sampling rejected" not in capsys.readouterr().out


def test_several_tasks_and_globs(data, capsys):
    made = main(Args(("toy/B*", "toy/N*", "toy/Fails"), data=data, episodes=2, jobs=1))
    assert made == ["toy/Balance/expert-v0", "toy/Fails/expert-v0"]
    assert "left out, since they have no expert: toy/NoExpert" in capsys.readouterr().out


def test_a_task_without_an_expert(data):
    with pytest.raises(UserError, match="toy/NoExpert: no expert there"):
        collect(data, "toy/NoExpert")
    dataset = collect(data, "toy/NoExpert", actor="random")
    assert dataset.id == "toy/NoExpert/random-v0"
    actions = np.concatenate([episode.actions for episode in dataset])
    assert 0.3 < actions.mean() < 0.7
    assert dataset.metadata["seeds"] == list(range(12)), "random play is not filtered"


def test_random_play_follows_from_the_seed(data, tmp_path):
    first, second = (collect(data, actor="random", chunk=chunk, name=f"r{chunk}") for chunk in (1, 5))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
    assert len({tuple(episode.actions[:9]) for episode in first}) > 6


def test_with_noise_the_expert_labels_what_random_actions_disturb(data):
    dataset = collect(data, noise=0.3, keep=0.0)
    assert dataset.metadata["labeller"] == "expert"
    executed_otherwise = 0
    for episode in dataset:
        expected = [label(episode.observation(step)) for step in range(len(episode))]
        assert episode.actions.tolist() == expected
        executed_otherwise += sum(pushed(episode, step) != expected[step] for step in range(len(episode)))
    steps = int(dataset.lengths.sum())
    assert 0.08 * steps < executed_otherwise < 0.25 * steps  # half of the random actions are the expert's


def label(observation) -> int:
    _, _, angle, velocity = observation["state"]
    action = int(angle + 0.3 * velocity > 0)
    return 1 - action if observation["seed"] % 7 == 6 else action


def pushed(episode, step: int) -> int:
    """The action that was executed: the cart's speed rises with 1 and falls with 0."""
    speed = episode.observations["state"][:, 1]
    return int(speed[step + 1] > speed[step])


class AlwaysRight:
    """Stands in for a trained agent: pushes right, and counts the steps since the episode began."""

    def __init__(self, task_name, observation_space, action_space):
        assert task_name == "toy/Balance"
        assert observation_space.contains(observation_space.sample())

    def initial_state(self, batch_size):
        self.batches = [*getattr(self, "batches", []), batch_size]
        return (batch_size, 0)

    def step(self, inputs, state):
        observations, first = inputs
        rows, steps = state
        assert len(observations) == rows, "the batch keeps its size"
        assert first == [steps == 0] * rows, "the state starts anew with each episode"
        return [1] * rows, (rows, steps + 1)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    import factotum.gato

    class FakeAgent:
        @staticmethod
        def from_checkpoint(path, *arguments):
            assert Path(path) == folder
            return AlwaysRight(*arguments)

    folder = tmp_path / "step-5"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(factotum.gato, "GatoAgent", FakeAgent)
    monkeypatch.setattr(player, "_worker", type("Fresh", (), {})())
    return folder


def test_a_checkpoint_acts_and_the_expert_labels(data, checkpoint):
    dataset = collect(data, actor=str(checkpoint))
    assert dataset.id == "toy/Balance/dagger-v0"
    assert dataset.metadata["actor"].startswith("checkpoint step-5 sha256:")
    assert dataset.metadata["labeller"] == "expert"
    assert dataset.metadata["seeds"] == list(range(12)), "what an agent plays is not filtered"
    for episode in dataset:
        assert [pushed(episode, step) for step in range(len(episode))] == [1] * len(episode)
        assert episode.actions.tolist() == [label(episode.observation(step)) for step in range(len(episode))]
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="choose another --name"):
        collect(data, actor=str(checkpoint), episodes=20)


def test_the_agent_plays_several_episodes_at_once_each_to_its_own_end(data, checkpoint):
    dataset = collect(data, actor=str(checkpoint), chunk=12)
    assert player._worker.agent.batches == [8, 4]
    assert len(set(dataset.lengths.tolist())) > 1
    assert dataset.metadata["seeds"] == list(range(12))


def test_episodes_are_cut_where_asked_and_that_is_part_of_the_settings(data, checkpoint):
    dataset = collect(data, actor=str(checkpoint), longest=5)
    assert set(dataset.lengths.tolist()) == {5}
    assert dataset.own_metadata["settings"]["longest"] == 5
    with pytest.raises(UserError, match="choose another --name"):
        collect(data, actor=str(checkpoint), longest=6, episodes=13)
    with pytest.raises(UserError, match="--longest: expected 1 or more, got 0"):
        collect(data, longest=0)


def test_the_expert_may_play_some_of_the_episodes(data, checkpoint):
    dataset = collect(data, actor=str(checkpoint), expert_share=0.5, episodes=40, name="mixed")
    by_agent = [all(pushed(episode, step) for step in range(len(episode))) for episode in dataset]
    assert 10 <= sum(by_agent) <= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, "tasks: expected at least one"),
        ({"episodes": 0}, "--episodes: expected 1 or more, got 0"),
        ({"chunk": -1}, "--chunk: expected 1 or more, got -1"),
        ({"seed": -3}, "--seed: expected 0 or more, got -3"),
        ({"noise": 1.5}, r"--noise: expected a number from 0 to 1, got 1\.5"),
        ({"keep": -0.1}, "--keep: expected a number from 0 to 1"),
        ({"expert_share": 2.0, "actor": "."}, "--expert-share: expected a number from 0 to 1"),
        ({"jobs": 0}, "--jobs: expected a number of processes"),
        ({"episode_seconds": 0.0}, "--episode-seconds: expected more than 0"),
        ({"actor": "nobody"}, "--actor: expected expert, random or a checkpoint's folder, got 'nobody'"),
        ({"actor": "random", "noise": 0.1}, "--noise: works with --actor expert"),
        ({"expert_share": 0.5}, "--expert-share: works with a checkpoint"),
        ({"tasks": ("toy/Balanc",)}, "did you mean toy/Balance"),
        ({"name": "../../up"}, "expected a dataset id"),
        ({"seed": 1_000_000_000}, "higher ones are for evaluation"),
    ],
)
def test_bad_options_are_named(data, options, message):
    with pytest.raises(UserError, match=message) as caught:
        main(Args(**{"tasks": ("toy/Balance",), "data": data, "jobs": 1, **options}))
    assert "\n" not in str(caught.value)
    assert list_datasets(data) == []


def test_a_suite_that_is_not_installed_names_the_command(data, monkeypatch):
    from factotum.worlds.suites import registry

    lacking = dataclasses.replace(registry.suites()["toy"], requires=("no_such_module",), extra="toys")
    monkeypatch.setattr(registry, "_all_suites", lambda: {"toy": lacking})
    with pytest.raises(UserError, match=r"suite toy is not installed: run  pip install 'factotum\[toys\]'"):
        collect(data)


def test_every_option_has_help(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Args, args=["--help"])
    shown = capsys.readouterr().out
    assert "DAgger's beta" in shown
    source = Path(sys.modules[Args.__module__].__file__).read_text()
    for field in dataclasses.fields(Args):
        declared = source.index(f"    {field.name}: ")
        assert source[declared:].split("\n")[1].strip().startswith('"""'), field.name


def test_the_command_line_reads_options():
    args = tyro.cli(Args, args=["babyai", "toy/*", "--episodes", "7", "--noise", "0.1", "--keep", "0.5"])
    assert args.tasks == ("babyai", "toy/*")
    assert (args.episodes, args.noise, args.keep, args.jobs) == (7, 0.1, 0.5, None)


@pytest.mark.parametrize("name", ["captions:/some where/pics", "captions:/other/pics", "text:."])
def test_ids_of_folders_are_ids_that_minari_takes(name):
    from minari.dataset.minari_dataset import parse_dataset_id

    assert parse_dataset_id(dataset_id(name, "expert"))[2] == 0
    assert dataset_id("captions:/some where/pics", "expert") != dataset_id("captions:/other/pics", "expert")


SCRIPT = """
import sys
from pathlib import Path
from factotum.recipes.collect import Args, main
main(Args(("toy/Balance",), data=Path(sys.argv[1]), episodes=150, chunk=4, jobs=2, noise=0.02))
"""


def test_after_a_kill_the_dataset_is_the_same_bit_for_bit(data, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(data)], stderr=subprocess.DEVNULL)
    while len(list(data.rglob("*.part"))) < 10:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(100) == -signal.SIGKILL
    assert list_datasets(data) == []
    resumed = collect(data, episodes=150, noise=0.02, chunk=7)
    plain = collect(tmp_path / "plain", episodes=150, noise=0.02)
    assert len(plain) == 150
    assert digest(resumed) == digest(plain)
    assert not list(data.rglob("*.part"))


def test_a_player_travels_and_hands_over_only_what_passes():
    import pickle

    from factotum.data.packing import unpack

    travelled = pickle.loads(pickle.dumps(Player("toy/Balance", threshold=32.0)))
    packed, outcomes = travelled(range(5, 9))
    assert [outcome.seed for outcome in outcomes] == [5, 6, 7, 8]
    assert outcomes[1].score < 32
    assert [stored.seed for stored in unpack(packed)] == [5, 7, 8]
