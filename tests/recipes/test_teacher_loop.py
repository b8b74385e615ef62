"""The teacher's loop on worlds made for it: lost lives, time limits, what happens between checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import load_policy
from factotum.recipes.teacher_best import best_score
from factotum.recipes.teacher_loop import LoopConfig, train_teacher
from factotum.training.checkpoint import latest_checkpoint, list_checkpoints
from factotum.training.metrics import read_metrics
from factotum.worlds.vector import Transition, make_vector


class Lives:
    """Games of three lives, one lost every second step; a step pays 2; the game ends with the last life."""

    name, count, newest = "toy/lives", 2, None
    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, seed):
        self.age, self.over = np.zeros(2, int), np.zeros(2, bool)
        self.lives = np.full(2, 3)
        return np.zeros((2, 1), np.float32)

    def step(self, action):
        begun = self.over
        self.age = np.where(begun, 0, self.age + 1)
        self.lives = 3 - self.age // 2
        self.over = ~begun & (self.lives == 0)
        reward = np.where(begun, 0, 2).astype(np.float32)
        never = np.zeros(2, bool)
        return Transition(np.zeros((2, 1), np.float32), reward, self.over, never, begun)

    def snapshot(self):
        return None

    def close(self):
        pass


class Listener:
    """A learner that only listens; its network changes by 1 a step, so that checkpoints differ."""

    at_rest = True

    def __init__(self):
        self.network = PolicyNetwork(mlp(1, (4,), {"toy/lives": 2}))
        self.steps, self.heard, self.goes_on = 0, [], None

    def act(self, observation):
        return np.zeros(len(observation), np.int64)

    def observe(self, moved):
        self.heard.append(moved)
        self.steps += len(moved.reward)
        with torch.no_grad():
            self.network.heads[0][-1].bias += 1
        return {"loss": 0.5}

    def tensors(self):
        return {}

    def state(self):
        return {"steps": self.steps}

    def load(self, tensors, state, *, goes_on=False):
        self.steps, self.goes_on = state["steps"], goes_on


def run(folder, steps=28, scores=(), learner=None, **options):
    """Evaluations score what `scores` says, in turn."""
    learner, told = learner or Listener(), iter(scores)
    config = LoopConfig(steps=steps, **{"checkpoint_every": 1000, "evaluate_every": 1000, **options})
    result = train_teacher(
        Lives(), learner, config, Path(folder), evaluate=lambda network: np.array([next(told, 0.0)])
    )
    return learner, result


def test_a_lost_life_ends_an_episode_to_the_learner_alone(tmp_path):
    learner, _ = run(tmp_path)
    ends = [moved.terminated[0] for moved in learner.heard]
    begun = [moved.begun[0] for moved in learner.heard]
    #        three lives of two steps, a dummy step, and again
    assert ends == [0, 1, 0, 1, 0, 1, 0] * 2
    assert begun == [0, 0, 0, 0, 0, 0, 1] * 2
    lines = [line for line in read_metrics(tmp_path) if "score" in line]
    assert [(line["score"], line["length"], line["episodes"]) for line in lines] == [(12.0, 6.0, 4)]


def test_whole_games_where_that_is_asked_for(tmp_path):
    learner, _ = run(tmp_path, lost_lives_end=False)
    assert [moved.terminated[0] for moved in learner.heard] == [0, 0, 0, 0, 0, 1, 0] * 2


def test_atari_counts_lives():
    pytest.importorskip("ale_py")
    world = make_vector("atari/Breakout", 2, threads=1)
    world.reset(0)
    assert world.lives.tolist() == [5, 5]
    draw, seen = np.random.default_rng(0), [world.lives]
    ended = np.zeros(2, bool)
    while not ended.any():
        moved = world.step(draw.integers(4, size=2))
        ended = moved.terminated
        seen.append(world.lives)
    row = int(ended.argmax())
    assert [lives for lives, before in zip((one[row] for one in seen[1:]), (one[row] for one in seen), strict=False)
            if lives != before] == [4, 3, 2, 1, 0]  # fmt: skip


def test_the_best_is_the_highest_and_of_equals_the_latest(tmp_path):
    scores = [1.0, 3.0, 2.0, 3.0, 0.0]
    _, result = run(tmp_path, 20, scores, checkpoint_every=4, evaluate_every=4, keep_checkpoints=0)
    judged = [line for line in read_metrics(tmp_path) if "evaluation" in line]
    assert [(line["step"], line["best"]) for line in judged] == [
        (4, True), (8, True), (12, False), (16, True), (20, False),
    ]  # fmt: skip
    assert best_score(tmp_path) == 3.0
    bias = load_policy(tmp_path / "best").heads[0][-1].bias
    saved = load_policy(list_checkpoints(tmp_path)[3]).heads[0][-1].bias
    assert torch.equal(bias, saved)
    assert bias[0] == 8.0
    assert result.checkpoint.name == "step-00000020"


def test_evaluations_may_be_rarer_than_checkpoints(tmp_path):
    run(tmp_path, 40, checkpoint_every=4, evaluate_every=10, keep_checkpoints=0)
    judged = [line["step"] for line in read_metrics(tmp_path) if "evaluation" in line]
    assert judged == [12, 20, 32, 40]
    assert len(list_checkpoints(tmp_path)) == 10


def test_the_time_limit_stops_with_a_checkpoint_and_later_the_rest_is_played(tmp_path):
    learner, first = run(tmp_path, 40, time_limit_s=0.0)
    assert (first.finished, first.step, learner.steps) == (False, 2, 2)
    again, second = run(tmp_path, 40, learner=Listener())
    assert (second.finished, second.step, again.goes_on) == (True, 40, False)
    assert len(again.heard) == 19
    assert second.seconds > first.seconds > 0


def test_a_finished_run_plays_no_more(tmp_path):
    run(tmp_path, 8)
    learner, result = run(tmp_path, 8, learner=Listener())
    assert (learner.heard, result.finished, result.checkpoint) == ([], True, latest_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"checkpoint_every": 0}, "checkpoint_every"), ({"keep_checkpoints": -1}, "keep_checkpoints")],
)
def test_wrong_settings_are_told(options, message):
    with pytest.raises(UserError, match=message):
        LoopConfig(steps=10, **options)
