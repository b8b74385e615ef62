"""What holds for every task of every suite; a new suite is covered by being registered."""

import string

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.trees import tree_leaves
from factotum.worlds.rollout import expert_actor, random_actor, rollout
from factotum.worlds.suites.metaworld_cameras import can_render
from factotum.worlds.suites.registry import expand, suites, task
from factotum.worlds.suites.task import ExpertFailure

NAMES = expand(list(suites()))
EPISODES = {"gym/Blackjack": 400, "gym/FrozenLake": 100, "gym/FrozenLake8x8": 100}  # luck decides; others: 4


@pytest.fixture(params=NAMES)
def chosen(request):
    return task(request.param)


@pytest.fixture
def env(chosen):
    suite = suites()[chosen.name.partition("/")[0]]
    if suite.missing():
        pytest.skip(suite.missing())
    if suite.name == "cameras" and not can_render():
        pytest.skip("no renderer")
    made = chosen.make()
    yield made
    made.close()


def same(one, other):
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_declaration(chosen):
    assert isinstance(chosen.observation_space, spaces.Dict)
    text = chosen.observation_space["instruction"]
    assert isinstance(text, spaces.Text)
    assert chosen.instruction
    assert set(chosen.instruction) <= set(string.printable)
    assert len(chosen.instruction) <= text.max_length
    assert isinstance(chosen.action_space, spaces.Discrete | spaces.Box | spaces.Text)
    if isinstance(chosen.action_space, spaces.Box):
        assert chosen.action_space.is_bounded()
    assert chosen.measure in ("return", "success")
    assert chosen.max_steps >= 1
    for score in (chosen.random, chosen.expert):
        assert score is None or (np.isfinite(score.score) and score.source)


def test_plays_as_declared(chosen, env):
    assert env.observation_space == chosen.observation_space
    assert env.action_space == chosen.action_space

    def play():
        actor = random_actor(chosen.action_space, 7)
        return rollout(env, seed=7, actor=actor, max_steps=min(chosen.max_steps, 12), measure=chosen.measure)

    first, again = play(), play()
    for observation in first.observations:
        assert observation in chosen.observation_space
        assert observation["instruction"]
    assert same(first.observations, again.observations)
    assert first.rewards == again.rewards


def test_same_seed_same_start_in_another_environment(chosen, env):
    other = chosen.make()
    other.reset(seed=12)
    assert same(env.reset(seed=11)[0], other.reset(seed=11)[0])
    other.close()


def expert_episodes(chosen, env, count, max_steps):
    """Episodes from seed 100 on, without those on which the expert gave up."""
    for seed in range(100, 100 + count):
        actor = expert_actor(env, chosen.make_expert)
        try:
            yield rollout(env, seed=seed, actor=actor, max_steps=max_steps, measure=chosen.measure)
        except ExpertFailure:
            continue


def test_expert_acts_legally(chosen, env):
    if chosen.make_expert is None:
        pytest.skip("no expert")
    assert chosen.expert is not None, "an expert without a reference score"
    episode = next(expert_episodes(chosen, env, 4, min(chosen.max_steps, 10)))
    assert all(action in chosen.action_space for action in episode.actions)


def test_expert_reaches_its_reference(chosen, env):
    if chosen.make_expert is None:
        pytest.skip("no expert")
    if chosen.name.startswith("atari/"):
        pytest.skip(
            "it searches the emulator for minutes an episode; benchmarks/measure_references.py plays it"
        )
    episodes = list(expert_episodes(chosen, env, EPISODES.get(chosen.name, 4), chosen.max_steps))
    assert max(len(episode.actions) for episode in episodes) <= chosen.max_steps
    random = chosen.random.score if chosen.random else 0.0
    reached = np.mean([episode.score for episode in episodes])
    assert reached >= random + 0.5 * (chosen.expert.score - random)
