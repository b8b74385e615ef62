import itertools

import gymnasium
import numpy as np
import pytest

from factotum.worlds.rollout import expert_actor, rollout
from factotum.worlds.suites import box2d, classic
from factotum.worlds.suites.classic_experts import blackjack_action, value_iteration


def expert_scores(chosen, seeds):
    env = chosen.make()
    actor = expert_actor(env, chosen.make_expert)
    play = {"max_steps": chosen.max_steps, "measure": chosen.measure}
    return [rollout(env, seed=seed, actor=actor, **play).score for seed in seeds]


@pytest.mark.parametrize(
    ("name", "worst"),
    [
        ("FrozenLakeFirm", 1.0),
        ("FrozenLake8x8Firm", 1.0),
        ("CliffWalking", -13.0),
        ("CartPole", 500.0),
        ("MountainCar", -110.0),
        ("MountainCarContinuous", 95.0),
        ("Acrobot", -160.0),
    ],
)
def test_expert_solves_every_seed(name, worst):
    assert min(expert_scores(classic.task(f"gym/{name}"), range(8))) >= worst


def test_pendulum_is_held_up():
    assert np.mean(expert_scores(classic.task("gym/Pendulum"), range(15))) > -170  # best known are about -145


def test_taxi_takes_the_shortest_way():
    """No policy is better: compare with breadth-first distances from the same starts."""
    chosen = classic.task("gym/Taxi")
    env = chosen.make()
    transitions = env.unwrapped.P

    def shortest(state):
        frontier, seen = {state}, {state}
        for steps in itertools.count(1):
            outcomes = [transitions[s][a][0] for s in frontier for a in range(6)]
            if any(over for *_, over in outcomes):
                return steps
            frontier = {after for _, after, _, _ in outcomes} - seen
            seen |= frontier

    for seed, score in enumerate(expert_scores(chosen, range(5))):
        env.reset(seed=seed)
        assert score == 21 - shortest(env.unwrapped.s)


def test_state_numbers_are_taken_apart():
    env = classic.make("Taxi")
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        parts = [int(observation[key]) for key in ("row", "column", "passenger", "destination")]
        assert parts == [int(part) for part in env.unwrapped.decode(env.unwrapped.s)]


def test_value_iteration_reaches_the_known_value_of_the_slippery_lake():
    env = gymnasium.make("FrozenLake-v1")
    plan = value_iteration(env.unwrapped.P)
    chosen = [env.unwrapped.P[state][action] for state, action in enumerate(plan)]
    reach = np.zeros(16)
    for _ in range(5000):  # chance to reach the goal under the plan, without a time limit
        reach = np.array([sum(p * (r if over else reach[s]) for p, s, r, over in row) for row in chosen])
    assert reach[0] == pytest.approx(14 / 17, abs=1e-6)


def test_blackjack_follows_basic_strategy():
    for dealer in range(1, 11):
        assert blackjack_action(11, dealer, False) == 1
        assert blackjack_action(17, dealer, False) == 0
        assert blackjack_action(17, dealer, True) == 1
        assert blackjack_action(19, dealer, True) == 0
        assert blackjack_action(16, dealer, False) == int(dealer in (1, 7, 8, 9, 10))
        assert blackjack_action(12, dealer, False) == int(dealer not in (4, 5, 6))
        assert blackjack_action(18, dealer, True) == int(dealer in (1, 9, 10))


@pytest.mark.parametrize(("name", "least"), [("LunarLander", 200.0), ("LunarLanderContinuous", 240.0)])
def test_landers_land(name, least):
    pytest.importorskip("Box2D")
    assert np.mean(expert_scores(box2d.task(f"box2d/{name}"), range(4))) > least


def test_walkers_do_not_share_a_gait():
    pytest.importorskip("Box2D")
    chosen = box2d.task("box2d/BipedalWalker")
    env = chosen.make()
    observation, _ = env.reset(seed=0)
    one, two = chosen.make_expert(env), chosen.make_expert(env)
    alone = chosen.make_expert(env)(observation, None)
    one(observation, None)
    assert np.array_equal(two(observation, None), alone)
