"""Multi-DQN: games by turns, equal steps, one optimizer; a kill costs nothing where worlds can be restored."""

import os
import signal
import time

import pytest
import tyro

from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.recipes.distill import Args, main
from factotum.recipes.distill_baseline import Seat, _Run
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_tasks import find_lessons, make_objective, student_config
from factotum.recipes.distill_train import Learning, Student
from factotum.recipes.teacher_choice import Changes, configure
from factotum.training.checkpoint import latest_checkpoint
from tests.recipes.distill_toys import command, small, teacher

GAMES = ("minatar/asterix", "minatar/breakout")
DQN = (
    "--baseline",
    "multi-dqn",
    "--student",
    "multitask-3",
    "--dqn.batch",
    "8",
    "--dqn.learning-starts",
    "40",
)


@pytest.fixture
def teachers(tmp_path):
    return [teacher(tmp_path / name.replace("/", "-"), name) for name in GAMES]


def distil(*options):
    return main(tyro.cli(Args, args=[str(option) for option in options]))


def started(teachers, run, environments=3, steps=120):
    lessons = find_lessons([str(one) for one in teachers], (), None)
    objective = make_objective(lessons, {})
    schedule, play = Schedule(hours=1, steps_per_hour=steps), PlayConfig(environments=environments)
    config = student_config("multitask-3", lessons, objective)
    student = Student(run, config, objective, schedule, play, Learning())
    return _Run(student, lessons, configure("dqn", config.observation_shape, Changes(learning_starts=40)))


def test_the_game_changes_after_as_many_episodes_as_environments(teachers, tmp_path, monkeypatch):
    run, turns, step = started(teachers, tmp_path / "run", steps=600), [], Seat.step

    def noted(seat):
        metrics, scores = step(seat)
        if not turns or turns[-1][0] != seat.task:
            turns.append([seat.task, 0])
        turns[-1][1] += len(scores)
        return metrics, scores

    monkeypatch.setattr(Seat, "step", noted)
    while all(seat.learner.steps < 600 for seat in run.seats):
        run._step()
    assert len(turns) >= 4
    assert all(3 <= episodes <= 5 for _, episodes in turns[:-1])  # those of one step end together
    while any(seat.learner.steps < 600 for seat in run.seats):
        run._step()
    assert [seat.learner.steps for seat in run.seats] == [600, 600]
    run.close()


def test_games_share_the_network_and_the_optimizer_alone(teachers, tmp_path):
    run = started(teachers, tmp_path / "run")
    first, second = (seat.learner for seat in run.seats)
    assert first.network is second.network is run.network
    assert first.updater is second.updater
    assert first.replay is not second.replay
    assert first.target is not second.target
    run.close()


def test_frames_are_equal_and_scores_are_noted(teachers, tmp_path):
    run = tmp_path / "run"
    measured = distil(*small(run, *teachers, hours=2, steps=200), *DQN)
    assert set(measured["tasks"]) == set(GAMES)
    lines = read_json_lines(run / "metrics.jsonl")
    assert lines[-1]["step"] == 2 * 2 * 200
    assert {f"score/{name}" for name in GAMES} <= set().union(*lines)
    assert all(line["loss"] >= 0 for line in lines if "loss" in line)
    assert read_json(run / "policy" / "made_by.json")["system"] == "baseline multi-dqn"
    newest = latest_checkpoint(run)
    distil(*small(run, *teachers, hours=2, steps=200), *DQN)
    assert latest_checkpoint(run) == newest
    with pytest.raises(UserError, match="expected a distillation's run, got one of something else"):
        distil(*small(run, *teachers, hours=2, steps=200), "--student", "multitask-3")
    with pytest.raises(UserError, match=r"cannot resume: config\.dqn\.batch was 8 and is now 4"):
        distil(*small(run, *teachers, hours=2, steps=200), *DQN[:-3], "4", *DQN[-2:])


def test_a_kill_costs_nothing(teachers, tmp_path):
    sizes = {"hours": 2, "steps": 600}
    distil(*small(tmp_path / "whole", *teachers, **sizes), *DQN)
    process = command(*small(tmp_path / "killed", *teachers, **sizes), *DQN)
    while process.poll() is None and len(read_json_lines(tmp_path / "killed" / "metrics.jsonl")) < 50:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "policy").exists()
    distil(*small(tmp_path / "killed", *teachers, **sizes), *DQN)
    weights = [
        {path.name: path.read_bytes() for path in latest_checkpoint(tmp_path / name).glob("*.safetensors")}
        for name in ("whole", "killed")
    ]
    assert weights[0] == weights[1]
