"""A teacher from nothing to a folder: kills, worlds that cannot be restored, what is written, wrong use."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factotum.cli import main as command_line
from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.distill.agent import PolicyAgent
from factotum.distill.store import load_policy
from factotum.recipes import teacher_loop
from factotum.recipes.play_vector import play_episodes
from factotum.recipes.teacher_choice import Changes, configure
from factotum.recipes.train_teacher import FINAL_BLOCK, Args, main
from factotum.training.checkpoint import latest_checkpoint
from factotum.worlds.vector import make_vector

ROOT = Path(__file__).parents[2]
PQN = Changes(environments=4, rollout=8, minibatches=2)
DQN = Changes(environments=4, batch=8, capacity=300, learning_starts=40, target_every=4)


def arguments(run, name="minatar/breakout", steps=640, **changes):
    options = {
        "settings": PQN,
        "network": "net3",
        "evaluate_every": 160,
        "checkpoint_every": 96,
        "episodes": 3,
        "final_episodes": 4,
        "device": "cpu",
        "threads": 1,
    }
    return Args(name=name, out=run, steps=steps, **{**options, **changes})


def untimed(run):
    lines = read_json_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def without_time(state):
    return {name: value for name, value in state.items() if name not in ("seconds", "files")}


@pytest.mark.parametrize("algorithm", ["pqn", "dqn"])
def test_killed_and_resumed_is_bit_equal(algorithm, tmp_path):
    """SIGKILL in the middle; then stopped between a checkpoint and its evaluation. MinAtar's games can be restored."""
    options = {"algorithm": algorithm, "steps": 1600, "settings": {"pqn": PQN, "dqn": DQN}[algorithm]}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(arguments(whole, **options))

    program = (
        "import sys; from pathlib import Path; from tests.recipes import test_train_teacher as t;"
        f"t.main(t.arguments(Path(sys.argv[1]), algorithm={algorithm!r}, steps=1600,"
        f" settings=t.{algorithm.upper()}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000192").is_dir():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "policy").exists()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_loop._Loop, "_evaluate", _stop_at_960(teacher_loop._Loop._evaluate))
        with pytest.raises(KeyboardInterrupt):
            main(arguments(killed, **options))
    assert max(line["step"] for line in untimed(killed) if "evaluation" in line) < 960
    assert latest_checkpoint(killed).name == "step-00000960"
    assert main(arguments(killed, **options)).finished

    assert untimed(killed) == untimed(whole)
    assert sum("evaluation" in line for line in untimed(whole)) == 10
    mine, theirs = latest_checkpoint(killed), latest_checkpoint(whole)
    assert mine.name == theirs.name == "step-00001600"
    for file in ("model.safetensors", "training_state.safetensors"):
        assert (mine / file).read_bytes() == (theirs / file).read_bytes()
    states = [without_time(read_json(folder / "training_state.json")) for folder in (mine, theirs)]
    assert states[0] == states[1]
    for folder in ("best", "policy"):
        assert weights(killed / folder) == weights(whole / folder)
    assert read_json(killed / "evaluation.json") == read_json(whole / "evaluation.json")
    assert len(read_json_lines(killed / "commands.jsonl")) == 3


def _stop_at_960(evaluate):
    def stop(self, checkpoint, log):
        if self.learner.steps == 960:
            raise KeyboardInterrupt
        evaluate(self, checkpoint, log)

    return stop


@pytest.mark.parametrize("algorithm", ["pqn", "dqn"])
def test_a_world_that_cannot_be_restored_begins_new_episodes(algorithm, tmp_path):
    options = {"algorithm": algorithm, "settings": {"pqn": PQN, "dqn": DQN}[algorithm]}
    args = arguments(tmp_path, "gym/CartPole-v1", **options)
    first = main(replace(args, time_limit_s=0.0))
    assert not first.finished
    assert not (tmp_path / "evaluation.json").exists()
    assert "Not finished yet" in (tmp_path / "report.html").read_text()
    assert load_policy(tmp_path / "policy").tasks == ("gym/CartPole-v1",)
    result = main(args)
    assert (result.finished, result.step) == (True, 640)
    assert result.seconds > first.seconds
    steps = [line["step"] for line in untimed(tmp_path) if "loss" in line]
    assert steps == sorted(set(steps))
    assert read_json(tmp_path / "evaluation.json")["policy"]["mean"] > 0
    assert main(args).step == 640  # finished before: nothing is trained


def test_it_learns(tmp_path):
    settings = Changes(environments=8, rollout=16, minibatches=4, learning_rate=2e-3)
    args = arguments(tmp_path, "gym/CartPole-v1", 30_000, settings=settings, network="mlp-64", epsilon=0.0)
    args = replace(args, evaluate_every=5000, checkpoint_every=5000, episodes=8, final_episodes=16)
    main(args)
    evaluation = read_json(tmp_path / "evaluation.json")
    assert evaluation["policy"]["mean"] > 4 * evaluation["random"]["mean"]


def test_the_best_policy_is_kept_and_measured_on_other_starts(tmp_path):
    args = arguments(tmp_path, steps=1600)
    main(args)
    judged = [line for line in untimed(tmp_path) if "evaluation" in line]
    best = read_json(tmp_path / "best" / "made_by.json")
    assert best["evaluation"] == max(line["evaluation"] for line in judged)
    assert best["step"] == [line["step"] for line in judged if line["best"]][-1]
    assert weights(tmp_path / "policy") == weights(tmp_path / "best")
    world = make_vector("minatar/breakout", 4)
    scores = play_episodes(world, PolicyAgent(load_policy(tmp_path / "policy"), seed=0), 4, FINAL_BLOCK)
    evaluation = read_json(tmp_path / "evaluation.json")
    assert evaluation["policy"]["scores"] == scores.tolist()
    main(replace(args, keep="last"))
    assert weights(tmp_path / "policy") == weights(latest_checkpoint(tmp_path))


def test_scores_are_those_of_the_game(tmp_path):
    """Mean score and length of training episodes beside a second count of the same play."""
    played, world = [], make_vector("minatar/breakout", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(world), "step", _listening(type(world).step, played))
        main(arguments(tmp_path, evaluate_every=10_000, checkpoint_every=10_000))
    moves = [moved for count, moved in played[:160] if count == 4]  # what came after is evaluation
    assert len(moves) == 160
    lengths, scores = [], []
    for row in range(4):
        length, score = 0, 0.0
        for moved in moves:
            if not moved.begun[row]:
                length, score = length + 1, score + float(moved.reward[row])
            if moved.terminated[row] or moved.truncated[row]:
                lengths.append(length)
                scores.append(score)
                length, score = 0, 0.0
    lines = [line for line in untimed(tmp_path) if line.get("episodes")]
    assert sum(line["episodes"] for line in lines) == len(scores) > 5
    for name, values in (("score", scores), ("length", lengths)):
        mean = sum(line[name] * line["episodes"] for line in lines) / len(values)
        assert mean == pytest.approx(np.mean(values))


def _listening(step, played):
    def listen(self, action):
        moved = step(self, action)
        played.append((self.count, moved))
        return moved

    return listen


def test_what_a_run_leaves(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train-teacher", "minatar-breakout", "--out", str(run), "--steps", "640", "--network", "net3"]
    words += ["--settings.environments", "4", "--settings.rollout", "8", "--settings.minibatches", "2"]
    words += ["--episodes", "2", "--final-episodes", "3", "--seed", "5", "--device", "cpu", "--threads", "1"]
    assert command_line(words) == 0
    assert str(run / "policy") in capsys.readouterr().out
    made_by = read_json(run / "policy" / "made_by.json")
    assert made_by["seed"] == 5
    assert made_by["settings"]["learning"]["minibatches"] == 2
    assert made_by["evaluation"]["episodes"] == 3
    assert len(made_by["commands"]) == 1
    network = load_policy(run / "policy")
    assert network.config.layer_norm
    assert network.config.actions == {"minatar/breakout": 3}
    report = (run / "report.html").read_text()
    for part in ("Score over training", "random play", "How it learnt", "Learning curves", "Rollouts"):
        assert part in report
    assert "<img" in report
    assert "http://" not in report
    assert command_line(["report", str(run), "--title", "Again"]) == 0
    again = (run / "report.html").read_text()
    assert "Again" in again
    assert "Score over training" in again
    assert len(again) > 0.9 * len(report)


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    args = replace(arguments(tmp_path), time_limit_s=0.0)
    main(args)
    for wrong, what in (
        (replace(args, steps=1280), "config.steps"),
        (replace(args, seed=3), "config.seed"),
        (replace(args, settings=replace(PQN, lam=0.5)), "settings.learning.lam"),
        (replace(args, network="net2"), "settings.network"),
        (replace(args, name="minatar/asterix"), "settings.name"),
    ):
        with pytest.raises(UserError, match=what):
            main(wrong)
    assert main(replace(args, time_limit_s=None, checkpoint_every=200)).finished


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["minatar/brekout"], "did you mean minatar/breakout"),
        (["Pendulum-v1"], "expected numbered actions"),
        (["CartPole-v1", "--settings.batch", "8"], "batch: expected a setting of pqn"),
        (["CartPole-v1", "--algorithm", "dqn", "--settings.lam", "0.5"], "lam: expected a setting of dqn"),
        (["CartPole-v1", "--settings.discount", "2"], "discount: expected a number from 0 to 1"),
        (["CartPole-v1", "--steps", "-5"], "steps: expected 1 or more"),
        (["CartPole-v1", "--episodes", "0"], "episodes: expected 1 or more"),
        (["CartPole-v1", "--network", "net9"], "unknown network"),
    ],
)
def test_wrong_use_is_told_in_a_line(words, message, tmp_path, capsys):
    assert command_line(["train-teacher", *words, "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("factotum train-teacher: error:")
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_not_finite_stop_a_run(tmp_path):
    settings = replace(PQN, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(UserError, match="expected finite"):
        main(arguments(tmp_path, settings=settings))


@pytest.mark.parametrize("shape", [(4,), (4, 10, 10), (4, 84, 84)])
def test_settings_suit_the_world(shape):
    pqn, dqn = (configure(algorithm, shape, Changes()) for algorithm in ("pqn", "dqn"))
    assert pqn.clip_rewards == dqn.clip_rewards == (shape == (4, 84, 84))
    assert configure("dqn", shape, Changes(batch=7)) == replace(dqn, batch=7)
