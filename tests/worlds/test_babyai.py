import signal
import time

import gymnasium
import pytest

pytest.importorskip("minigrid")

from factotum.worlds.rollout import expert_actor, random_actor, rollout
from factotum.worlds.suites import babyai
from factotum.worlds.suites.common import time_limit
from factotum.worlds.suites.task import ExpertFailure


@pytest.fixture
def local():
    return babyai.task("babyai/GoToLocal")


def test_observation_is_what_minigrid_shows(local):
    env, bare = local.make(), gymnasium.make("BabyAI-GoToLocal-v0")
    ours, _ = env.reset(seed=3)
    theirs, _ = bare.reset(seed=3)
    assert ours["instruction"] == theirs["mission"]
    assert (ours["grid"] == theirs["image"]).all()
    assert ours["direction"] == theirs["direction"]


def test_seeds_give_different_missions(local):
    env = local.make()
    assert len({env.reset(seed=seed)[0]["instruction"] for seed in range(10)}) > 3


def test_bot_beats_random_by_far(local):
    env = local.make()

    def mean(make_actor):
        play = {"max_steps": local.max_steps, "measure": "return"}
        return sum(rollout(env, seed=seed, actor=make_actor(seed), **play).score for seed in range(10)) / 10

    bot = mean(lambda seed: expert_actor(env, local.make_expert))
    assert bot > 0.85
    assert mean(lambda seed: random_actor(local.action_space, seed)) < bot - 0.3


def test_bot_labels_while_another_acts(local):
    env = local.make()
    episode = rollout(
        env,
        seed=0,
        actor=random_actor(local.action_space, 0),
        labeller=expert_actor(env, local.make_expert),
        max_steps=20,
        measure="return",
    )
    assert all(action in local.action_space for action in episode.actions)
    assert len(set(map(int, episode.actions))) > 1


def test_hanging_planner_is_ended():
    chosen = babyai.task("babyai/UnlockToUnlock")
    env = chosen.make()
    actor = expert_actor(env, chosen.make_expert)
    with pytest.raises(ExpertFailure, match="lost"):  # this seed loops for ever when it is not bounded
        rollout(env, seed=4, actor=actor, max_steps=chosen.max_steps, measure="return")


def test_generation_is_silent(capfd):
    env = babyai.task("babyai/GoToImpUnlock").make()
    for seed in range(5):
        env.reset(seed=seed)
    assert capfd.readouterr().out == ""


def test_time_limit_ends_a_loop_and_restores_the_handler():
    before = signal.getsignal(signal.SIGALRM)

    def loop():
        with time_limit(0.05):
            while True:
                time.sleep(0.01)

    with pytest.raises(ExpertFailure, match="no answer"):
        loop()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_time_limit_leaves_an_outer_alarm_running():
    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    signal.setitimer(signal.ITIMER_REAL, 100.0)
    try:
        with time_limit(10.0):
            pass
        assert 90.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert not fired
