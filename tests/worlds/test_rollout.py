import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from factotum.worlds.rollout import expert_actor, random_actor, rollout, rollouts
from factotum.worlds.suites.task import ExpertFailure


class Counter(gymnasium.Env):
    """Counts to three; action 1 at the second step is a success."""

    observation_space = spaces.Discrete(10)
    action_space = spaces.Discrete(2)

    def __init__(self, ends=True):
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        self.seed, self.count = seed, 0
        return 0, {}

    def step(self, action):
        self.count += 1
        success = self.count == 2 and action == 1
        return self.count, 0.5, self.ends and self.count == 3, False, {"success": success}


def play(env=None, **options):
    settings = {"seed": 5, "actor": lambda observation, last: 0, "max_steps": 10, "measure": "return"}
    return rollout(env or Counter(), **{**settings, **options})


def test_records_one_more_observation_than_actions():
    episode = play()
    assert episode.observations == [0, 1, 2, 3]
    assert episode.actions == [0, 0, 0]
    assert episode.rewards == [0.5, 0.5, 0.5]
    assert (episode.terminated, episode.truncated, episode.seed) == (True, False, 5)
    assert episode.score == episode.total_reward == 1.5


def test_success_counts_once_seen():
    winner = play(actor=lambda observation, last: int(observation == 1), measure="success")
    assert (winner.score, winner.success, winner.total_reward) == (1.0, True, 1.5)
    assert play(measure="success").score == 0.0


def test_step_limit_truncates():
    episode = play(Counter(ends=False), max_steps=4)
    assert len(episode.actions) == 4
    assert (episode.terminated, episode.truncated) == (False, True)


def test_labels_are_stored_and_the_actors_actions_executed():
    env, seen = Counter(), []

    def labeller(observation, last_action):
        seen.append(last_action)
        return 1

    episode = play(env, labeller=labeller, measure="success")
    assert episode.actions == [1, 1, 1]
    assert not episode.success  # the actor's 0 was executed
    assert seen == [None, 0, 0]


def test_expert_is_made_anew_for_each_episode():
    env, made = Counter(), []

    def make_expert(given):
        assert given is env
        assert given.count == 0, "made before the reset"
        made.append(given.seed)
        return lambda observation, last_action: 0

    actor = expert_actor(env, make_expert)
    play(env, seed=1, actor=actor)
    play(env, seed=2, actor=actor)
    assert made == [1, 2]


def test_failure_of_the_expert_is_passed_on():
    def lost(observation, last_action):
        raise ExpertFailure("lost")

    with pytest.raises(ExpertFailure, match="lost"):
        play(actor=lost)


def test_random_actor_repeats_by_seed_and_leaves_the_space_alone():
    space = spaces.Box(-1, 1, (3,), np.float32)
    space.seed(0)
    expected = space.sample()
    space.seed(0)
    first = [random_actor(space, 4)(None, None) for _ in range(2)]
    assert np.array_equal(*first)
    assert not np.array_equal(first[0], random_actor(space, 5)(None, None))
    assert np.array_equal(space.sample(), expected)


def test_random_actions_do_not_follow_the_environments_own_draws():
    space = spaces.Discrete(1000)
    space.seed(7)
    assert random_actor(space, 7)(None, None) != space.sample()


class Asked:
    """Acts by what it sees; notes how many it was asked about, and who began."""

    def __init__(self):
        self.calls = []

    def __call__(self, observations, first):
        self.calls.append((len(observations), tuple(first)))
        return [int(seen == 1) for seen in observations]


def play_together(envs, labellers=None, **options):
    labellers = labellers or [lambda observation, last: 10 + observation for _ in envs]
    settings = {"seeds": range(len(envs)), "act": Asked(), "max_steps": 5, "measure": "success"}
    return rollouts(envs, labellers=labellers, **{**settings, **options})


def test_episodes_side_by_side_are_those_played_alone():
    asked, ends = Asked(), (True, False, True)
    together = play_together([Counter(end) for end in ends], act=asked)
    for seed, (episode, end) in enumerate(zip(together, ends, strict=True)):
        alone = play(
            Counter(end), seed=seed, actor=lambda seen, last: int(seen == 1), measure="success", max_steps=5,
            labeller=lambda seen, last: 10 + seen,
        )  # fmt: skip
        assert episode == alone
    assert [episode.truncated for episode in together] == [False, True, False]
    assert together[0].actions == [10, 11, 12]
    assert together[0].success  # by the action executed, not by the label
    assert asked.calls == [(3, (True,) * 3), *[(3, (False,) * 3)] * 4]


def test_who_fails_fails_alone():
    def lost(observation, last_action):
        raise ExpertFailure("lost")

    class Broken(Counter):
        def reset(self, *, seed=None, options=None):
            raise RuntimeError("no level")

    label = lambda observation, last: 0  # noqa: E731
    one, two, three = play_together([Counter(), Counter(), Broken()], [lost, label, label])
    assert isinstance(one, ExpertFailure)
    assert two.rewards == [0.5] * 3
    assert isinstance(three, RuntimeError)
    assert [str(one) for one in play_together([Broken()], [label])] == ["no level"]


def test_the_guard_is_around_every_step_of_every_row():
    entered = []

    class Guard:
        def __enter__(self):
            entered.append(1)

        def __exit__(self, *error):
            return

    play_together([Counter(), Counter()], guard=Guard)
    assert len(entered) == 2 * (1 + 3)
