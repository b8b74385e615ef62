from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.training.evaluate import GIVE_UP, evaluate, evaluation_seeds
from factotum.training.legal import fault
from tests.training.toys import OBSERVATIONS, Countdown, Parity

SEEDS = evaluation_seeds(23)


def play(agent=None, make_env=Countdown, **options):
    return evaluate(
        make_env, agent or Parity(), **{"seeds": SEEDS, "max_steps": 100, "name": "toy/Count", **options}
    )


def by_hand(seed: int) -> tuple[float, int, bool]:
    """What Parity earns in Countdown, worked out without the library."""
    seen = total = 0
    for left in range(1 + seed % 7, 0, -1):
        seen += left + seed % 5
        total += (seed % 5) * (seen % 2)
    return float(total), 1 + seed % 7, total > 0


class Constant:
    def __init__(self, action):
        self.action = action

    def initial_state(self, batch_size):
        return None

    def step(self, inputs, state):
        return [self.action] * len(inputs[0]), None


@pytest.mark.parametrize("batch_size", [1, 2, 16, 23, 100])
def test_each_seed_scores_what_it_earns_whatever_the_batch(batch_size):
    results = play(batch_size=batch_size)
    assert [result.seed for result in results] == SEEDS
    assert [(r.score, r.length, r.success) for r in results] == [by_hand(seed) for seed in SEEDS]


def test_one_agent_call_serves_all_rows_and_rows_take_new_seeds():
    agent = Parity()
    results = play(agent, batch_size=4)
    assert set(agent.batches) == {4}
    steps = sum(result.length for result in results)
    assert steps / 4 <= len(agent.batches) - 1 < steps / 2, "rows stood idle while seeds were waiting"


def test_no_more_environments_than_seeds_and_all_are_closed():
    made = []

    def make():
        made.append(Countdown())
        return made[-1]

    play(make_env=make, seeds=SEEDS[:3], batch_size=16)
    assert len(made) == 3
    assert all(env.closed for env in made)


def test_success_is_the_score_where_success_is_measured():
    results = play(measure="success")
    assert [r.score for r in results] == [float(by_hand(seed)[2]) for seed in SEEDS]
    assert [r.total_reward for r in results] == [by_hand(seed)[0] for seed in SEEDS]


def test_max_steps_cuts_an_episode():
    assert {result.length for result in play(max_steps=2)} == {1, 2}


def test_giving_up_ends_the_episode_and_says_so():
    results = play(Constant(GIVE_UP), seeds=SEEDS[:5])
    assert [(r.failed, r.length, r.score) for r in results] == [(True, 0, 0.0)] * 5


def test_watch_sees_every_reset_and_step():
    seen = []

    def watch(seed, env, observation, action, reward, ended):
        assert observation["state"][0] == env.left
        seen.append((seed, action, reward, ended))

    results = play(seeds=SEEDS[:3], batch_size=2, watch=watch)
    for result in results:
        mine = [line[1:] for line in seen if line[0] == result.seed]
        assert mine[0] == (None, 0.0, False)
        assert [ended for *_, ended in mine] == [False] * result.length + [True]
        assert sum(reward for _, reward, _ in mine) == result.total_reward


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"toy/Count: observation 'state': expected finite numbers, got nan at index \(1,\)"),
        ("bounds", r"toy/Count: observation 'state': expected -100 to 100, got 101 at index \(0,\)"),
        ("key", r"toy/Count: observation: expected keys \['instruction', 'state'\], got \['state'\]"),
    ],
)
def test_a_bad_observation_is_one_clear_error(kind, message):
    env = Countdown(kind)
    with pytest.raises(UserError, match=message) as caught:
        play(make_env=lambda: env, batch_size=1)
    assert "\n" not in str(caught.value)
    assert env.closed


@pytest.mark.parametrize("action", [2, -1, "left", None, 0.5])
def test_an_illegal_action_is_one_clear_error(action):
    with pytest.raises(UserError, match=r"toy/Count: illegal action: expected Discrete\(2\), got"):
        play(Constant(action))


def test_a_reward_that_is_not_finite_is_an_error():
    class Broken(Countdown):
        def step(self, action):
            return self._observe(), math.nan, True, False, {}

    with pytest.raises(UserError, match="toy/Count: reward: expected a finite number, got nan at step 0"):
        play(make_env=Broken)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match="measure"):
        play(measure="fame")
    with pytest.raises(UserError, match="repeats"):
        play(seeds=[1, 1])
    with pytest.raises(UserError, match="episodes"):
        evaluation_seeds(0)
    with pytest.raises(UserError, match="seed"):
        evaluation_seeds(1, 1000)


def test_evaluation_seeds_start_apart_from_training_and_never_overlap():
    assert min(evaluation_seeds(50)) == 1_000_000_000
    assert not set(evaluation_seeds(1000, 0)) & set(evaluation_seeds(1000, 1))


@pytest.mark.parametrize(
    ("space", "value", "problem"),
    [
        (spaces.Box(0, 1, (2,)), np.zeros(2, np.float32), None),
        (spaces.Box(0, 1, (2,)), np.zeros(3, np.float32), ("", "expected shape (2,), got (3,)")),
        (spaces.Box(0, 1, (2,)), np.zeros(2, np.float64), ("", "expected float32 numbers, got float64")),
        (
            spaces.Box(-np.inf, np.inf, (1,)),
            np.array([np.inf], np.float32),
            ("", "expected finite numbers, got inf at index (0,)"),
        ),
        (spaces.Text(3), "abcd", ("", "expected 1 to 3 characters, got 4: 'abcd'")),
        (spaces.Text(3), "a?", ("", "expected characters of the space's set, got '?' in 'a?'")),
        (spaces.Text(3), 5, ("", "expected text, got 5")),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
            (0, 3),
            ("1", "expected Discrete(2), got 3"),
        ),
        (
            spaces.Dict({"a": OBSERVATIONS}),
            {"a": {"instruction": "x", "state": None}},
            ("a/state", "expected shape (2,), got ()"),
        ),
    ],
)
def test_fault_names_the_place_and_the_reason(space, value, problem):
    assert fault(space, value) == problem
