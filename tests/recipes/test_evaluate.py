from __future__ import annotations

import json
import shutil

import pytest

from factotum import cli
from factotum.core.checks import UserError
from factotum.recipes import agents, evaluate
from factotum.recipes.evaluate import Args, main
from factotum.training.records import read_episodes
from factotum.training.rollouts import read_rollouts
from tests.recipes.runs import data_folder, tiny_run

LAKE, SCENE = "gym/FrozenLakeFirm", "scenes/color"


@pytest.fixture
def data():
    return data_folder()


@pytest.fixture
def trained():
    return tiny_run()


def run(agent, out, *tasks, **options):
    return main(Args(agent, tasks, **{"episodes": 5, "batch": 2, "out": out, **options}))


def test_random_and_expert_play_the_same_seeds(tmp_path, capsys):
    run("random", tmp_path, LAKE)
    summary = run("expert", tmp_path, LAKE)
    lines = read_episodes(tmp_path / "evaluation")
    seeds = {
        agent: [line["seed"] for line in lines if line["agent"] == agent] for agent in ("random", "expert")
    }
    assert sorted(seeds["random"]) == sorted(seeds["expert"]) == list(range(1_000_000_000, 1_000_000_005))
    scores = summary.rows[0].scores
    assert scores["expert"].raw == 1.0
    assert scores["random"].raw < 0.5
    assert scores["expert"].normalised == pytest.approx(1.0, abs=0.05)
    assert LAKE in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["agent"] == "expert"


def test_retrieval_copies_the_demonstrations_and_not_the_random_ones(tmp_path, data):
    summary = run("retrieve", tmp_path, LAKE, data=data)
    # the firm lake is deterministic and starts in one place: one demonstration solves it
    assert summary.rows[0].scores["retrieve"].raw == 1.0
    with pytest.raises(UserError, match=r"expected demonstrations of gym/Taxi .*factotum collect gym/Taxi"):
        run("retrieve", tmp_path, "gym/Taxi", data=data)


def test_random_answers_are_those_of_the_demonstrations(data):
    spec = agents.find_agent("random", data=data)
    agent = spec.make_agent(evaluate.registry.task(SCENE))
    answers = {answer for episode in agents.demonstrations(data, SCENE)[0] for answer in episode.actions}
    assert set(agent.answers) == answers
    assert spec.version(evaluate.registry.task(SCENE)) != spec.version(evaluate.registry.task(LAKE)) == ""


def test_a_checkpoint_plays_what_it_was_trained_on(tmp_path, data, trained):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    summary = main(Args(str(out), episodes=3, batch=2, data=data))
    assert [row.task for row in summary.rows] == [LAKE, SCENE]
    assert summary.agent == "gato"
    assert {rollout.agent for rollout in read_rollouts(out / "videos")} == {"gato"}
    assert len(read_episodes(out / "evaluation")) == 6
    prompted = main(Args(str(out), (LAKE,), episodes=2, batch=2, data=data, prompt_episodes=2))
    assert prompted.agent == "gato+prompt"
    run("random", out, LAKE)
    assert {rollout.agent for rollout in read_rollouts(out / "videos")} == {"gato", "gato+prompt"}
    assert evaluate.summarise_run(out, "random").agent == "gato", "it played both tasks"


def test_shipped_weights_are_left_as_they_are(tmp_path, data, trained, monkeypatch):
    shipped, names = (
        tmp_path / "checkpoints" / "small",
        ("config.json", "model.safetensors", "statistics.json"),
    )
    shipped.mkdir(parents=True)
    for name in (*names, "tokenizer.json"):
        shutil.copy(agents.find_checkpoint(trained) / name, shipped)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not say what it was trained on"):
        main(Args("checkpoints/small", data=data))
    (shipped / "training_tasks.json").write_text(f'["{LAKE}"]')
    before = sorted(tmp_path.glob("checkpoints/**/*"))
    assert [row.task for row in main(Args("checkpoints/small", episodes=2, data=data)).rows] == [LAKE]
    assert sorted(tmp_path.glob("checkpoints/**/*")) == before
    assert len(read_episodes(tmp_path / "runs" / "small" / "evaluation")) == 2


def test_what_is_on_record_is_not_played_again(tmp_path, data, trained, monkeypatch):
    first = main(Args(str(trained), (LAKE,), episodes=3, data=data, out=tmp_path))
    monkeypatch.setattr(agents, "evaluate", lambda *_, **__: pytest.fail("played again"))
    assert main(Args(str(trained), (LAKE,), episodes=3, data=data, out=tmp_path)) == first


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_versions_tell_settings_apart(data, trained, temperature):
    task = evaluate.registry.task(LAKE)
    plain = agents.find_agent(str(trained), data=data)
    other = agents.find_agent(str(trained), data=data, temperature=temperature, prompt_episodes=1)
    assert plain.version(task) != other.version(task)
    assert (other.label == "gato+prompt@1") == (temperature == 1.0)


def test_tasks_without_expert_are_named_and_left_out(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    real = evaluate.registry.task
    monkeypatch.setattr(
        evaluate.registry,
        "task",
        lambda name: replace(real(name), make_expert=None) if name == LAKE else real(name),
    )
    run("expert", tmp_path, LAKE, SCENE)
    assert f"no expert, left out: {LAKE}" in capsys.readouterr().out
    assert {line["task"] for line in read_episodes(tmp_path / "evaluation")} == {SCENE}
    with pytest.raises(UserError, match="none of these tasks has an expert"):
        run("expert", tmp_path, LAKE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["random", "gym/Taxy"], "gym/Taxi"),
        (["random"], "tasks: expected at least one for random"),
        (["no/such/run", "gym/Taxi"], "a checkpoint folder or a run with checkpoints, got no/such/run"),
        (["random", "gym/Taxi", "--episodes", "0"], "episodes: expected 1"),
        (["random", "gym/Taxi", "--batch", "0"], "batch_size"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_one(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *words]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert message in error[0]


def test_a_missing_extra_names_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setattr("factotum.worlds.suites.task.find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"run  pip install 'factotum\[babyai\]'"):
        run("random", tmp_path, "babyai/GoToLocal")


def test_other_words_reach_the_agent_and_make_a_row_of_their_own(tmp_path, monkeypatch):
    heard = set()

    class Listener(agents.RandomAgent):
        def step(self, inputs, state):
            heard.update(observation["instruction"] for observation in inputs[0])
            return super().step(inputs, state)

    monkeypatch.setattr(agents, "RandomAgent", Listener)
    run("random", tmp_path, "babyai/GoToLocal", episodes=2)
    plain = set(heard)
    summary = run("random", tmp_path, "babyai/GoToLocal", episodes=2, words="held-out")
    assert summary.labels == ("random", "random, words: held-out")
    assert all(mission.startswith("go to ") for mission in plain)
    assert all(not mission.startswith("go to ") for mission in heard - plain)
    assert len(heard - plain) >= 2
    with pytest.raises(UserError, match="expected a mission of one clause"):
        run("random", tmp_path, "gym/Taxi", episodes=1, words="held-out")


def test_only_the_datasets_asked_for_are_shown(tmp_path, data):
    summary = run("retrieve", tmp_path, LAKE, data=data, datasets=("*/expert-v0",))
    assert summary.rows[0].scores["retrieve"].raw == 1.0
    with pytest.raises(UserError, match=r"demonstrations of gym/FrozenLakeFirm of datasets \*/dagger-v0 in"):
        run("retrieve", tmp_path, LAKE, data=data, datasets=("*/dagger-v0",))
