from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.training.baselines import ExpertAgent, RandomAgent, evaluate_expert
from factotum.training.evaluate import evaluate, evaluation_seeds
from tests.training.toys import Countdown

SEEDS = evaluation_seeds(30)


def test_random_actions_do_not_depend_on_the_batch():
    space = Countdown().action_space
    runs = [
        evaluate(Countdown, RandomAgent(space, 3), seeds=SEEDS, max_steps=9, batch_size=b) for b in (1, 4, 30)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] != evaluate(Countdown, RandomAgent(space, 4), seeds=SEEDS, max_steps=9)


def drawn(space, count=400, **options):
    agent = RandomAgent(space, **options)
    state, actions = agent.initial_state(2), []
    for step in range(count // 2):
        both, state = agent.step(([None, None], [step % 5 == 0] * 2), state)
        actions += both
    return actions


def test_random_actions_are_uniform():
    counts = np.bincount(drawn(spaces.Discrete(4), 4000), minlength=4)
    assert (abs(counts - 1000) < 120).all()
    box = np.array(drawn(spaces.Box(-2, 4, (2,))))
    assert abs(box.mean() - 1) < 0.3
    assert box.min() >= -2
    assert box.max() <= 4


def test_random_text_is_an_answer_of_the_demonstrations_or_random_words():
    space = spaces.Text(12, charset="abc ")
    assert set(drawn(space, answers=["a b", "c"])) == {"a b", "c"}
    words = drawn(space)
    assert all(word in space for word in words)
    assert len(set(words)) > 100


class GaveUp(RuntimeError):
    pass


def test_the_expert_sees_the_environment_and_the_seeds_of_everyone_else():
    made, last_actions = [], []

    def make_expert(env):
        made.append((env.left, env.worth))

        def expert(observation, last_action):
            last_actions.append(last_action)
            assert observation["state"][0] == env.left
            return 1

        return expert

    results = evaluate_expert(
        Countdown, make_expert, failure=GaveUp, seeds=SEEDS[:7], max_steps=9, batch_size=16
    )
    assert [result.seed for result in results] == SEEDS[:7]
    assert [result.score for result in results] == [(1 + s % 7) * (s % 5) for s in SEEDS[:7]]
    assert made == [(1 + s % 7, s % 5) for s in SEEDS[:7]]
    assert last_actions.count(None) == 7


@pytest.mark.parametrize("when", ["made", "asked"])
def test_an_expert_that_gives_up_fails_that_episode_only(when):
    def make_expert(env):
        hopeless = env.left == 3
        if hopeless and when == "made":
            raise GaveUp

        def expert(observation, last_action):
            if hopeless and env.left == 2:
                raise GaveUp
            return 1

        return expert

    results = evaluate_expert(Countdown, make_expert, failure=GaveUp, seeds=SEEDS[:7], max_steps=9)
    failed = [(result.seed % 7, result.length) for result in results if result.failed]
    assert failed == [(2, 0 if when == "made" else 1)]


def test_an_expert_refuses_a_batch():
    agent = ExpertAgent(Countdown(), lambda env: None, GaveUp)
    with pytest.raises(UserError, match="one environment at a time"):
        agent.initial_state(2)
