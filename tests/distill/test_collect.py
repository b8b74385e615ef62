"""Who plays, who labels, what is kept; resumes that cannot be told from not having stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.distill.collect import Collector, best_actions, replay_of
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.replay import TeacherReplay
from factotum.distill.teacher import as_teacher
from factotum.worlds.vector import make_vector
from factotum.worlds.vector_base import Transition


class Counting:
    """B counters: an episode of row b lasts b + 2 steps, each pays its number times 3."""

    name, newest = "counting", None
    observation_space = spaces.Box(0, 1000, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, count=3):
        self.count, self.seeds, self.taken = count, [], []

    def reset(self, seed):
        self.seeds.append(seed)
        self.time, self.over = np.zeros(self.count, int), np.zeros(self.count, bool)
        return self._seen()

    def _seen(self):
        return np.stack([np.arange(self.count), self.time], 1).astype(np.float32)

    def step(self, action):
        self.taken.append(action)
        begun = self.over
        self.time = np.where(begun, 0, self.time + 1)
        self.over = (self.time >= np.arange(self.count) + 2) & ~begun
        reward = np.where(begun, 0, 3 * self.time).astype(np.float32)
        cut = np.arange(self.count) % 2 == 1
        return Transition(self._seen(), reward, self.over & ~cut, self.over & cut, begun)

    def snapshot(self):
        return None

    def restore(self, snapshot):
        raise AssertionError("no snapshot to restore")


class Asked:
    """A teacher that counts how often it is asked and puts out what it sees."""

    kind, actions = "q", 3

    def __init__(self):
        self.times = 0

    def label(self, observation_B):
        self.times += 1
        row, time = observation_B.T
        return np.stack([row, time, (row + time) % 5], 1).astype(np.float32)


def collector(world=None, epsilon=0.05, **options):
    world, teacher = world or Counting(), Asked()
    replay = replay_of(world, teacher, None, 1000)
    return Collector(world, TeacherAgent(teacher, epsilon), teacher, replay, **options)


def everything(replay, count=4000):
    batch = replay.sample(count, np.random.default_rng(0))
    rows = torch.cat([batch.observation.flatten(1).float(), batch.label], 1)
    return rows.unique(dim=0)


def test_the_teacher_plays_and_labels_in_one_pass():
    made = collector(epsilon=0.0)
    play = made.play(60)
    assert made.teacher.times == len(made.world.taken)
    rows = everything(made.replay).numpy()
    assert np.array_equal(Asked().label(rows[:, :2]), rows[:, 2:])
    assert {tuple(row[:2]) for row in rows} == {(b, t) for b in range(3) for t in range(b + 2)}
    label = Asked().label(np.array([[0, 0], [1, 0], [2, 0]], np.float32))
    assert made.world.taken[0].tolist() == label.argmax(1).tolist()
    assert play.steps == made.steps


def test_scores_are_whole_episodes_returns():
    play = collector().play(200)
    known = {2: 9.0, 3: 18.0, 4: 30.0}
    assert set(play.lengths) == set(known)
    assert [known[length] for length in play.lengths] == list(play.scores)


def test_steps_do_not_drift_and_dummies_do_not_count():
    made, told = collector(), []
    for calls in range(1, 11):
        made.play(7, told.append)
        assert 7 * calls <= made.steps < 7 * calls + 3
    assert sum(told) == made.steps
    assert made.steps < 3 * len(made.world.taken)
    cut = made.replay.total - made.steps  # what was seen where episodes were cut is kept beside the steps
    assert 0 < cut < made.steps / 3


def test_epsilon_is_the_share_of_random_actions():
    made = collector(Counting(50), epsilon=0.3)
    made.play(5000)
    greedy = []
    world = Counting(50)
    observation = world.reset(0)
    for action in made.world.taken:
        greedy.append((Asked().label(observation).argmax(1) == action).mean())
        observation = world.step(action).observation
    assert np.mean(greedy) == pytest.approx(1 - 0.3 * 2 / 3, abs=0.02)


class Always:
    """A student that always does the same, and carries how often it was asked."""

    def __init__(self, action):
        self.action, self.firsts = action, []

    def initial_state(self, batch_size):
        return 0

    def step(self, inputs, state):
        observations, first = inputs
        self.firsts.append(np.array(first))
        return np.full(len(observations), self.action), state + 1


def test_the_student_plays_and_the_teacher_labels():
    world, teacher = Counting(), Asked()
    student = Always(2)
    made = Collector(world, student, teacher, replay_of(world, teacher, None, 1000))
    made.play(100)
    assert {int(action) for taken in world.taken for action in taken} == {2}
    assert made._state == len(world.taken)
    firsts = np.array(student.firsts)
    assert firsts[0].all()
    assert np.flatnonzero(firsts[:, 0]).tolist() == list(range(0, len(firsts), 3))
    rows = everything(made.replay).numpy()
    assert np.array_equal(Asked().label(rows[:, :2]), rows[:, 2:])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_steps_is_the_teacher_s(share):
    world, teacher = Counting(40), Asked()
    made = Collector(world, Always(0), teacher, replay_of(world, teacher, None, 100), teacher_share=share)
    made.play(8000)
    twin, told = Counting(40), []
    observation = twin.reset(0)
    for action in world.taken:
        best = teacher.label(observation).argmax(1)
        told.append((action == best)[best != 0])
        assert set(action[action != best]) <= {0}
        observation = twin.step(action).observation
    assert np.concatenate(told).mean() == pytest.approx(share, abs=0.02)


def minatar_collector(folder):
    pytest.importorskip("minatar")
    world = make_vector("minatar/breakout", 4)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(400, 3))
    teacher = as_teacher(lambda x: network(torch.as_tensor(x).float()), kind="q", actions=3)
    replay = replay_of(world, teacher, folder, 300, spare=400)
    return Collector(world, TeacherAgent(teacher, 0.5), teacher, replay, teacher_share=0.3, seed=5)


def test_going_on_is_bit_equal_to_not_having_stopped(tmp_path):
    straight = minatar_collector(tmp_path / "straight")
    first = straight.play(333)
    straight.state_dict()
    whole = straight.play(222)
    stopped = minatar_collector(tmp_path / "stopped")
    assert stopped.play(333) == first
    state = json.loads(json.dumps(stopped.state_dict()))
    stopped.play(100)  # lost
    stopped.replay.close()
    resumed = minatar_collector(tmp_path / "stopped")
    resumed.load_state_dict(state)
    assert resumed.play(222) == whole
    assert resumed.state_dict() == straight.state_dict()
    one, other = (each.replay.sample(500, np.random.default_rng(1)) for each in (straight, resumed))
    assert torch.equal(one.observation, other.observation)
    assert torch.equal(one.label, other.label)


def test_where_there_is_no_snapshot_new_episodes_begin(tmp_path):
    def make():
        world, teacher = Counting(), Asked()
        replay = replay_of(world, teacher, tmp_path, 1000)
        return Collector(world, TeacherAgent(teacher), teacher, replay, seed=1)

    made = make()
    made.play(20)
    state = json.loads(json.dumps(made.state_dict()))
    made.replay.close()
    resumed = make()
    resumed.load_state_dict(state)
    play = resumed.play(100)
    assert resumed.steps == made.steps + play.steps
    assert resumed.world.seeds != made.world.seeds
    assert set(play.lengths) == {2, 3, 4}
    transitions = resumed.replay.sample_transitions(2000, np.random.default_rng(0))
    going = ~transitions.terminated
    assert torch.equal(transitions.next_observation[going][:, 0], transitions.observation[going][:, 0])
    assert torch.equal(transitions.next_observation[going][:, 1], transitions.observation[going][:, 1] + 1)


def test_atari_s_stacks_come_back_as_they_were_seen(monkeypatch):
    pytest.importorskip("ale_py")
    monkeypatch.setattr("factotum.worlds.vector_atari.MAX_FRAMES", 60)
    world = make_vector("atari/Breakout", 3)
    seen = {}

    def label(observation_B):
        for row in observation_B:
            seen[row.tobytes()] = hash(row.tobytes()) % 1000
        return np.array([[seen[row.tobytes()], 0, 0, 0] for row in observation_B], np.float32)

    teacher = as_teacher(label, kind="q", actions=4)
    made = Collector(world, TeacherAgent(teacher, 1.0), teacher, replay_of(world, teacher, None, 90))
    made.play(200)
    batch = made.replay.sample(300, np.random.default_rng(0))
    assert batch.observation.shape == (300, 4, 84, 84)
    assert [seen[row.numpy().tobytes()] for row in batch.observation] == batch.label[:, 0].tolist()


def test_continuous_teachers():
    space = spaces.Box(-1, 1, (2,), np.float32)
    gaussian = as_teacher(lambda x: x, kind="gaussian", actions=4)
    label = np.array([[2.0, -0.5, 7.0, 7.0]], np.float32)
    assert best_actions(gaussian, label, space).tolist() == [[1.0, -0.5]]
    world = make_vector("gym/Pendulum-v1", 2)
    teacher = as_teacher(lambda x: x[:, :1], kind="continuous", actions=1)
    made = Collector(
        world, TeacherAgent(teacher, 0.0), teacher, replay_of(world, teacher, None, 50), teacher_share=0.5
    )
    made.play(20)
    batch = made.replay.sample(10, np.random.default_rng(0))
    assert torch.equal(batch.label, batch.observation[:, :1])
    assert made.replay.sample_transitions(5, np.random.default_rng(0)).action.shape == (5, 1)


def test_a_student_of_ours_plays():
    world = make_vector("gym/CartPole-v1", 3)
    teacher = as_teacher(lambda x: x[:, :2], kind="q", actions=2)
    agent = PolicyAgent(PolicyNetwork(mlp(4, (8,), 2)), epsilon=0.1)
    made = Collector(world, agent, teacher, replay_of(world, teacher, None, 100))
    assert made.play(50).steps >= 50


def test_misfits_are_refused():
    world, teacher = Counting(), Asked()
    replay = replay_of(world, teacher, None, 50)
    agent = TeacherAgent(teacher)
    four = as_teacher(lambda x: x, kind="q", actions=4)
    with pytest.raises(UserError, match="counting: expected a teacher of 3 outputs for Discrete"):
        Collector(world, agent, four, replay)
    with pytest.raises(UserError, match=r"expected a teacher for Discrete.*, got one of kind 'continuous'"):
        Collector(world, agent, as_teacher(lambda x: x, kind="continuous", actions=3), replay)
    with pytest.raises(UserError, match=r"expected a replay of float32 \(2,\) with labels of 3 numbers"):
        Collector(world, agent, teacher, TeacherReplay(None, 50, (3,), None, 3, dtype="float32"))
    world.newest = slice(0, 1)
    with pytest.raises(UserError, match="expected the newest frame last"):
        replay_of(world, teacher, None, 50)
