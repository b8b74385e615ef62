"""Tasks of suites as vector worlds: scores as the task measures them, and experts that watch whoever acts."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds import vector_suite
from factotum.worlds.rollout import expert_actor, rollout
from factotum.worlds.suites import babyai
from factotum.worlds.suites.common import state_space, with_instruction
from factotum.worlds.suites.task import ExpertFailure, Suite, Task
from factotum.worlds.vector import make_vector, row_seeds, vector_name, vector_names

GOAL = 3


class Line(gymnasium.Env):
    """Steps right reach the goal; the reward is the place, whatever is measured."""

    observation_space = with_instruction(state=state_space(2))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.seed, self.place, self.done = seed, 0, []
        return self._seen(), {}

    def step(self, action):
        self.place += 1 if action else -1
        self.done.append(int(action))
        won = self.place == GOAL
        return self._seen(), float(self.place), won, False, {"success": won}

    def _seen(self):
        return {"instruction": "go", "state": np.array([self.place, self.seed % 1000], np.float32)}


def make_expert(env):
    """Goes right; it must be told what was done, and gives up left of -1."""
    told = []

    def act(observation, last_action):
        told.extend([] if last_action is None else [int(last_action)])
        assert told == env.done
        if env.place < -1:
            raise ExpertFailure("too far")
        return np.int64(1)

    return act


def line(measure, expert=make_expert):
    def task(name):
        return Task(
            name,
            Line,
            Line.observation_space,
            Line.action_space,
            "go",
            "line",
            measure,
            6,
            make_expert=expert,
        )

    return Suite("line", "Line", ("line/right",), task)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setitem(vector_suite.SUITES, "line", line("success"))
    return vector_suite.VectorSuite("line/right", 2)


def test_success_pays_one_once_and_returns_pay_the_reward(world, monkeypatch):
    def rewards(world):
        world.reset(0)
        steps = [world.step(np.ones(2, int)) for _ in range(GOAL + 1)]
        assert steps[GOAL - 1].terminated.all()
        assert steps[GOAL].begun.all()
        return [float(step.reward[0]) for step in steps]

    assert rewards(world) == [0.0, 0.0, 1.0, 0.0]
    monkeypatch.setitem(vector_suite.SUITES, "line", line("return"))
    assert rewards(vector_suite.VectorSuite("line/right", 2)) == [1.0, 2.0, 3.0, 0.0]


def test_the_tasks_limit_cuts_episodes_and_the_next_begin_anew(world):
    first = world.reset(0)
    moves = [np.array([step % 2, 0]) for step in range(7)]
    steps = [world.step(action) for action in moves]
    assert [step.truncated.all() for step in steps] == [False] * 5 + [True, False]
    assert not any(step.terminated.any() for step in steps)
    again = steps[-1].observation
    assert steps[-1].begun.all()
    assert not np.array_equal(first[:, 1], again[:, 1])  # another start
    world.reset(0)
    others = [world.step(np.array([1 - step % 2, 0])) for step in range(7)]
    assert np.array_equal(others[-1].observation, again)


def test_experts_watch_whoever_acts_and_may_give_up(world):
    world.reset(0)
    world.advise()
    world.reset(0)
    assert world.advice.tolist() == [1, 1]
    for _ in range(2):
        world.step(np.array([0, 1]))
    assert world.lost.tolist() == [True, False]
    assert world.advice.tolist() == [0, 1]
    world.step(np.array([1, 1]))  # back where it knew its way: it is not asked again
    assert world.lost.tolist() == [True, False]
    assert world.advice.tolist() == [0, 0]  # the second row's episode is over
    world.step(np.array([1, 0]))
    assert world.advice.tolist() == [0, 1]
    for _ in range(3):
        moved = world.step(np.array([0, 1]))
    assert moved.begun.tolist() == [True, False]
    assert world.lost.tolist() == [False, False]
    assert world.advice[0] == 1
    assert np.array_equal(world.shown, moved.observation)


def test_a_task_without_an_expert_says_so(monkeypatch):
    monkeypatch.setitem(vector_suite.SUITES, "line", line("return", None))
    with pytest.raises(UserError, match="line/right: expected a task with an expert, this one has none"):
        vector_suite.VectorSuite("line/right", 1).advise()


@pytest.mark.parametrize(
    ("text", "found"),
    [("babyai-gotolocal", "babyai/GoToLocal"), ("metaworld/drawer_open", "metaworld/drawer-open")],
)
def test_names(text, found):
    assert vector_name(text) == found
    assert found in vector_names()


def test_missions_of_several_objects_are_no_worlds():
    with pytest.raises(UserError, match="unknown world 'babyai/PutNext'"):
        make_vector("babyai/PutNext", 1)


def test_the_bots_advice_is_what_the_suites_rollouts_record():
    pytest.importorskip("minigrid")
    world = make_vector("babyai/GoToLocal", 3)
    world.advise()
    world.reset(4)
    generator = np.random.default_rng(0)
    done, advised, over = [], [], np.zeros(3, bool)
    for _ in range(12):
        advised.append(world.advice.copy())
        done.append(generator.integers(3, size=3))  # left, right, forward
        moved = world.step(done[-1])
        over |= moved.terminated
    assert not world.lost.any()
    task = babyai.task("babyai/GoToLocal")
    env = task.make()
    for row in np.flatnonzero(~over):
        actions = iter(action[row] for action in done)
        seed = row_seeds(4, 3)[row]
        label = expert_actor(env, task.make_expert)
        told = rollout(
            env,
            seed=seed,
            actor=lambda observation, last, actions=actions: next(actions),
            labeller=label,
            max_steps=12,
            measure="return",
        )
        assert [int(action) for action in told.actions] == [int(advice[row]) for advice in advised]


def test_the_bot_solves_what_it_is_asked():
    pytest.importorskip("minigrid")
    world = make_vector("babyai/GoToRedBallNoDists", 4)
    world.advise()
    world.reset(0)
    score, playing = np.zeros(4), np.ones(4, bool)
    for _ in range(64):
        moved = world.step(world.advice.copy())
        score += moved.reward * playing
        playing &= ~moved.terminated
    assert not playing.any()
    assert score.min() > 0.7


def test_meta_world_is_scored_by_success():
    pytest.importorskip("metaworld")
    world = make_vector("metaworld/reach", 1)
    assert (world.observation_space.shape, world.action_space.shape) == ((39,), (4,))
    world.advise()
    world.reset(0)
    rewards = []
    for _ in range(150):
        moved = world.step(world.advice.copy())
        rewards.append(float(moved.reward[0]))
        if moved.terminated[0]:
            break
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    world.close()


def test_every_world_of_a_suite_is_known_to_it():
    names = [name for suite in vector_suite.SUITES.values() for name in suite.names]
    assert set(vector_suite.suite_names()) < set(names)
    assert len(names) - len(vector_suite.suite_names()) == 12
