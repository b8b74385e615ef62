"""Teachers that see the environment: labels for what a world shows now, silence where they gave up."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill import PolicyNetwork, preset
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.distill.collect import Collector, replay_of
from factotum.distill.expert import WorldExpert, labels_for, seat
from factotum.distill.teacher import Teacher, as_teacher


class Counting:
    """Shows how many steps were made; the expert does the parity, and gives up in row 0 from `until` on."""

    name, newest = "counting", None
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, count=2, until=99, length=6, space=None):
        self.count, self.until, self.length = count, until, length
        self.action_space = space or spaces.Discrete(3)
        self.advised = 0
        self.taken = []

    def advise(self):
        self.advised += 1

    def reset(self, seed):
        self.time = 0
        return self._show()

    def step(self, action):
        self.taken.append(np.asarray(action).tolist())
        begun = np.full(self.count, self.time == self.length)
        self.time = 0 if begun[0] else self.time + 1
        ended = np.full(self.count, self.time == self.length)
        none = np.zeros(self.count, bool)
        return SimpleNamespace(
            observation=self._show(),
            reward=np.ones(self.count, np.float32),
            terminated=none,
            truncated=ended,
            begun=begun,
        )

    def _show(self):
        self.shown = np.full((self.count, 1), self.time, np.float32)
        self.lost = np.arange(self.count) < (self.time >= self.until)
        if isinstance(self.action_space, spaces.Box):
            self.advice = np.full((self.count, 2), self.time / 10, np.float32)
        else:
            self.advice = np.where(self.lost, 0, 1 + self.time % 2)
        return self.shown

    def snapshot(self):
        return None


def test_labels_are_for_what_the_world_shows():
    world = Counting()
    expert = WorldExpert(world)
    assert isinstance(expert, Teacher)
    assert (expert.kind, expert.actions, world.advised) == ("actions", 3, 1)
    seen = world.reset(0)
    assert expert.label(seen).tolist() == [[0, 1, 0]] * 2
    moved = world.step(np.zeros(2, int))
    assert expert.label(moved.observation.copy()).tolist() == [[0, 0, 1]] * 2
    for other in (seen, moved.observation[:1]):
        with pytest.raises(
            UserError, match="expert of counting: expected the observations that its world shows"
        ):
            expert.label(other)


def test_continuous_actions_are_labels_themselves():
    world = Counting(space=spaces.Box(-1, 1, (2,), np.float32))
    expert = WorldExpert(world)
    world.reset(0)
    seen = world.step(np.zeros((2, 2))).observation
    label = expert.label(seen)
    assert (expert.kind, expert.actions) == ("continuous", 2)
    assert label == pytest.approx(np.full((2, 2), 0.1))
    world.step(np.zeros((2, 2)))
    assert label == pytest.approx(np.full((2, 2), 0.1))  # what was given stays


def test_an_expert_takes_its_place_in_another_world():
    one, other = Counting(), Counting()
    expert, plain = WorldExpert(one), as_teacher(lambda x: x, kind="q", actions=1)
    assert seat(expert, one) is expert
    seated = seat(expert, other)
    assert isinstance(seated, WorldExpert)
    assert seated.world is other
    assert other.advised == 1
    assert seat(plain, other) is plain


def test_a_world_without_an_expert_is_refused():
    with pytest.raises(UserError, match="nothing: expected a world with an expert, this one has none"):
        WorldExpert(SimpleNamespace(name="nothing"))


def test_an_expert_plays_and_labels():
    world = Counting()
    expert = WorldExpert(world)
    replay = replay_of(world, expert, None, 100)
    play = Collector(world, TeacherAgent(expert, epsilon=0.0), expert, replay).play(12)
    assert world.taken[:6] == [[1, 1], [2, 2]] * 3
    assert play.steps == 12
    batch = replay.sample(200, np.random.default_rng(0))
    assert (batch.label.argmax(1) == 1 + batch.observation[:, 0] % 2).all()


def test_what_an_expert_is_silent_about_is_not_stored():
    world = Counting(until=2)
    expert = WorldExpert(world)
    replay = replay_of(world, expert, None, 1000)
    student = as_teacher(lambda x: np.full((len(x), 3), 0.1), kind="q", actions=3)
    play = Collector(world, TeacherAgent(student, epsilon=0.0), expert, replay).play(40)
    batch = replay.sample(2000, np.random.default_rng(0))
    time = batch.observation[:, 0].long()
    assert (batch.label.argmax(1) == 1 + time % 2).all()
    counts = np.bincount(time, minlength=6)
    assert counts[:2] == pytest.approx(np.full(2, 2 * counts[2:].mean()), rel=0.25)
    assert play.steps == 40
    assert set(play.lengths) == {6}
    transitions = replay.sample_transitions(500, np.random.default_rng(0))
    follows = transitions.next_observation[:, 0] - transitions.observation[:, 0]
    assert (follows == 1).all()


def test_silent_rows_are_not_asked_for():
    world = Counting(until=0)
    expert = WorldExpert(world)
    seen = world.reset(0)
    label, rows = labels_for(expert, seen, np.array([True, True]))
    assert (label.tolist(), rows.tolist()) == ([[0, 1, 0]], [False, True])
    label, rows = labels_for(expert, seen, np.array([True, False]))
    assert (label.shape, rows.any()) == ((0, 3), False)


def test_a_student_acts_and_the_expert_labels():
    world = Counting()
    expert = WorldExpert(world)
    replay = replay_of(world, expert, None, 100)
    student = PolicyAgent(PolicyNetwork(preset("mlp-4", (1,), 3, "logits")), epsilon=0.0)
    Collector(world, student, expert, replay, teacher_share=0.5, seed=1).play(40)
    assert len({tuple(action) for action in world.taken}) > 2
    batch = replay.sample(100, np.random.default_rng(0))
    assert (batch.label.argmax(1) == 1 + batch.observation[:, 0] % 2).all()
