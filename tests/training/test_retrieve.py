from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.training.evaluate import evaluate, evaluation_seeds
from factotum.training.features import ObservationFeatures
from factotum.training.retrieve import RetrieveAgent
from tests.training.toys import OBSERVATIONS, Countdown, Parity


def episode(observations, actions):
    return SimpleNamespace(observations=observations, actions=actions)


def demonstrations(seeds):
    """Episodes of Parity in Countdown, as the data store gives them."""
    for seed in seeds:
        env, agent = Countdown(), Parity()
        observation, _ = env.reset(seed=seed)
        seen, actions, state, done = [observation], [], agent.initial_state(1), False
        while not done:
            (action,), state = agent.step(([observation], [not actions]), state)
            observation, _, done, _, _ = env.step(action)
            seen.append(observation)
            actions.append(action)
        states = np.stack([one["state"] for one in seen])
        yield episode(
            {"instruction": [one["instruction"] for one in seen], "state": states}, np.array(actions)
        )


def retrieve(space, observations, actions=None, **options):
    count = len(next(iter(observations.values()))) - 1
    actions = np.arange(count) if actions is None else actions
    return RetrieveAgent(
        [episode(observations, actions)], spaces.Dict(space), spaces.Discrete(1000), **options
    )


def ask(agent, *observations):
    return agent.step((list(observations), [True] * len(observations)), None)[0]


def test_replays_the_demonstrations_on_their_own_seeds():
    seeds = range(1, 7)
    agent = RetrieveAgent(demonstrations(seeds), OBSERVATIONS, spaces.Discrete(2))
    assert len(agent) == sum(1 + seed % 7 for seed in seeds)
    # (left, worth) tells which of these episodes it is and where, so the copy earns what was shown
    assert evaluate(Countdown, agent, seeds=[*seeds], max_steps=9) == evaluate(
        Countdown, Parity(), seeds=[*seeds], max_steps=9
    )


def test_results_do_not_depend_on_the_batch():
    agent = RetrieveAgent(demonstrations(range(3)), OBSERVATIONS, spaces.Discrete(2))
    runs = [
        evaluate(Countdown, agent, seeds=evaluation_seeds(20), max_steps=9, batch_size=b) for b in (1, 3, 20)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_nearest_equals_brute_force_in_float64():
    generator = np.random.default_rng(0)
    states = generator.normal(size=(301, 6)).astype(np.float32) * [1, 10, 100, 0.1, 1, 1]
    agent = retrieve({"state": spaces.Box(-9e9, 9e9, (6,))}, {"state": states})
    queries = generator.normal(size=(50, 6)) * [1, 10, 100, 0.1, 1, 1]
    scale = states[:-1].astype(np.float64).std(0)
    distances = (((queries[:, None] - states[None, :-1]) / scale) ** 2).sum(-1)
    assert ask(agent, *({"state": query} for query in queries)) == distances.argmin(1).tolist()


def test_every_dimension_counts_alike_however_large_its_numbers():
    # near in the large dimension, far in the small one: the small one must be heard
    states = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 0.01], [1000.0, 0.01], [0, 0]], np.float32)
    agent = retrieve({"state": spaces.Box(-9e9, 9e9, (2,))}, {"state": states})
    assert ask(agent, {"state": np.array([300.0, 0.009])}) == [2]


def test_distance_of_discrete_parts_is_the_hamming_distance():
    space = spaces.Dict({"grid": spaces.MultiDiscrete(np.full((3, 3, 2), 9)), "turn": spaces.Discrete(4)})
    generator = np.random.default_rng(0)
    grids, turns = generator.integers(9, size=(40, 3, 3, 2)), generator.integers(4, size=40)
    features = ObservationFeatures(space)
    stored = features.fit([{"grid": grids, "turn": turns}])
    query = features([{"grid": grids[7], "turn": turns[8]}])
    hamming = (grids != grids[7]).sum((1, 2, 3)) + (turns != turns[8])
    np.testing.assert_allclose(((stored - query) ** 2).sum(1), hamming, atol=1e-4)


def test_unseen_symbols_change_no_ranking():
    agent = retrieve(
        {"grid": spaces.MultiDiscrete([9, 9])}, {"grid": np.array([[0, 1], [0, 2], [0, 3], [0, 0]])}
    )
    assert ask(agent, {"grid": np.array([8, 2])}, {"grid": np.array([0, 8])}) == [1, 0]


def test_another_instruction_is_further_than_another_scene():
    space = {"instruction": spaces.Text(64), "grid": spaces.MultiDiscrete(np.full((7, 7, 3), 11))}
    grids = np.random.default_rng(0).integers(11, size=(3, 7, 7, 3))
    words = ["go to the red ball", "go to the blue ball", ""]
    agent = retrieve(space, {"instruction": words, "grid": grids})
    assert ask(agent, {"instruction": "go to the red ball", "grid": grids[1]}) == [0]
    assert ask(agent, {"instruction": "go to the blue ball", "grid": grids[0]}) == [1]
    assert ask(agent, {"instruction": "go to the blue key", "grid": grids[0]}) == [1], "nearest words win"


@pytest.mark.parametrize("shape", [(84, 84, 4), (8, 8, 1), (50, 70, 3)])
def test_images_are_compared_by_their_average_colours(shape):
    generator = np.random.default_rng(0)
    images = np.stack([np.full(shape, value) for value in (0, 100, 200, 0)]).astype(np.uint8)
    agent = retrieve({"image": spaces.Box(0, 255, shape, np.uint8)}, {"image": images})
    noisy = (images[:3] + generator.integers(0, 40, size=(3, *shape))).astype(np.uint8)
    assert ask(agent, *({"image": image} for image in noisy)) == [0, 1, 2]


def test_first_stored_wins_among_equals():
    agent = retrieve(
        {"turn": spaces.Discrete(4)}, {"turn": np.array([1, 2, 1, 2, 0])}, actions=np.array([7, 8, 9, 10])
    )
    assert ask(agent, {"turn": 1}, {"turn": 2}) == [7, 8]


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Text(9), ["two", "three"]),
        (spaces.Box(-1, 1, (2,)), np.array([[0.5, -1], [0, 1]])),
        (
            spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Text(4)}),
            {"a": np.array([2, 1]), "b": ["x", "y"]},
        ),
    ],
)
def test_actions_are_legal_whatever_their_kind(space, actions):
    shown = episode({"turn": np.array([0, 1, 0])}, actions)
    agent = RetrieveAgent([shown], spaces.Dict({"turn": spaces.Discrete(2)}), space)
    first, second = ask(agent, {"turn": 0}, {"turn": 1})
    assert first in space
    assert second in space
    assert str(first) != str(second)


def test_stores_at_most_its_capacity_and_reads_no_further():
    read = []

    def stream():
        for number in range(100):
            read.append(number)
            yield episode({"turn": np.array([0, 1, 2, 3])}, np.array([0, 1, 2]))

    agent = RetrieveAgent(stream(), spaces.Dict({"turn": spaces.Discrete(4)}), spaces.Discrete(3), capacity=7)
    assert len(agent) == 7
    assert read == [0, 1, 2]


def test_no_demonstrations_is_an_error():
    with pytest.raises(UserError, match="at least one step"):
        RetrieveAgent([], OBSERVATIONS, spaces.Discrete(2))
