from __future__ import annotations

import json

import pytest

from factotum.core.checks import UserError
from factotum.training.evaluate import evaluate, evaluation_seeds
from factotum.training.records import checkpoint_hash, episode_file, play_missing, read_episodes
from tests.training.toys import Countdown, Parity

SEEDS = evaluation_seeds(9)


def run(folder, seeds=SEEDS, checkpoint="c0", agent="gato", **options):
    played: list[int] = []

    def play(*, seeds, on_episode):
        played.extend(seeds)
        return evaluate(Countdown, Parity(), seeds=seeds, max_steps=9, batch_size=2, on_episode=on_episode)

    results = play_missing(
        folder, task="toy/Count", agent=agent, checkpoint=checkpoint, seeds=seeds, play=play, **options
    )
    return results, played


def test_seeds_on_record_are_not_played_again(tmp_path):
    first, played = run(tmp_path, SEEDS[:4])
    assert played == SEEDS[:4]
    both, played = run(tmp_path)
    assert played == SEEDS[4:]
    assert both[:4] == first
    assert both == evaluate(Countdown, Parity(), seeds=SEEDS, max_steps=9)
    assert run(tmp_path) == (both, [])


def test_another_checkpoint_or_agent_is_played_afresh(tmp_path):
    run(tmp_path)
    assert run(tmp_path, checkpoint="c1")[1] == SEEDS
    assert run(tmp_path, agent="random")[1] == SEEDS
    lines = read_episodes(tmp_path)
    assert len(lines) == 3 * len(SEEDS)
    assert {line["agent"] for line in lines} == {"gato", "random"}


def test_a_kill_loses_no_finished_episode_and_a_torn_line_is_played_again(tmp_path):
    def stop(result, seen=[]):  # noqa: B006  (counts over calls)
        seen.append(result)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_episode=stop)
    file = episode_file(tmp_path, "toy/Count")
    assert len(file.read_text().splitlines()) == 3
    file.write_text(file.read_text()[:-20])
    results, played = run(tmp_path)
    assert len(played) == len(SEEDS) - 2
    assert results == evaluate(Countdown, Parity(), seeds=SEEDS, max_steps=9)
    assert sorted({line["seed"] for line in read_episodes(tmp_path)}) == SEEDS


def test_each_line_names_task_agent_seed_and_score(tmp_path):
    run(tmp_path, SEEDS[:1])
    line = json.loads(episode_file(tmp_path, "toy/Count").read_text())
    assert set(line) == {
        "task",
        "agent",
        "checkpoint",
        "seed",
        "score",
        "total_reward",
        "length",
        "success",
        "failed",
    }


def test_checkpoint_hash_follows_the_files_that_act(tmp_path):
    with pytest.raises(UserError, match=r"model.safetensors"):
        checkpoint_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "statistics.json").write_text("{}")
    before = checkpoint_hash(tmp_path)
    (tmp_path / "training_state.json").write_text("{}")
    assert checkpoint_hash(tmp_path) == before
    (tmp_path / "statistics.json").write_text('{"mean": 1}')
    assert checkpoint_hash(tmp_path) != before
