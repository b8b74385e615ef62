"""PQN: known Q-values, targets written out step by step, checkpoints, precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.pqn import PQNConfig, PQNLearner
from tests.distill.q_worlds import Chain, Moved, Wage, play

SMALL = PQNConfig(
    environments=8,
    rollout=8,
    minibatches=4,
    learning_rate=3e-3,
    discount=0.9,
    first_epsilon=1.0,
    last_epsilon=0.3,
)


def make(config, features, steps, actions=2, seed=0, layer_norm=True):
    torch.manual_seed(seed)
    network = PolicyNetwork(mlp(features, (32,), actions, layer_norm=layer_norm))
    return PQNLearner(network, config, steps=steps, seed=seed)


def q_of(learner, observations):
    with torch.no_grad():
        return learner.network(torch.as_tensor(observations)).numpy()


def test_one_step_targets_find_the_known_q():
    """Off-policy play at random: one-step targets go to the best policy's Q all the same."""
    world = Chain(8, length=4, longest=20)
    learner = make(replace(SMALL, lam=0.0, last_epsilon=1.0), 5, 12_000)
    play(learner, world, 12_000)
    np.testing.assert_allclose(q_of(learner, np.eye(5, dtype=np.float32)[:4]), world.best_q(0.9), atol=0.03)


def test_lambda_returns_find_the_best_policy():
    world = Chain(8, length=4, longest=20)
    learner = make(SMALL, 5, 12_000)
    play(learner, world, 12_000)
    q = q_of(learner, np.eye(5, dtype=np.float32)[:4])
    assert (q.argmax(1) == 1).all()
    # what follows the other action is played with drawn actions among it, so it is worth less than at best
    assert (q <= world.best_q(0.9) + 0.03).all()
    assert q[3, 1] == pytest.approx(1.0, abs=0.03)


def test_a_time_limit_is_no_end():
    """1 a step for ever is worth 10, although play stops after 5; a dummy step's -50 is never learnt."""
    learner = make(replace(SMALL, lam=0.65, last_epsilon=1.0), 1, 12_000)
    play(learner, Wage(8, longest=5), 12_000)
    np.testing.assert_allclose(q_of(learner, np.ones((1, 1), np.float32)), 10.0, rtol=0.03)


def test_an_end_is_one():
    """Where the episode ends after one step, the step's wage is all there is."""
    learner = make(replace(SMALL, last_epsilon=1.0), 1, 8000)
    play(learner, Wage(8, longest=1, ends=True), 8000)
    np.testing.assert_allclose(q_of(learner, np.ones((1, 1), np.float32)), 1.0, rtol=0.03)


def by_hand(config, rewards, values, following, terminated, truncated, begun):
    """The returns of one row, forwards from each step until the piece or the episode ends."""
    values = [*values, following]
    returns = []
    for start in range(len(rewards)):
        total, weight = 0.0, 1.0
        for t in range(start, len(rewards)):
            total += weight * min(1.0, max(-1.0, rewards[t])) if config.clip_rewards else weight * rewards[t]
            weight *= config.discount
            stop = t == len(rewards) - 1 or truncated[t]
            if terminated[t]:
                break
            if stop:
                total += weight * values[t + 1]
                break
            total += weight * (1 - config.lam) * values[t + 1]
            weight *= config.lam
        returns.append(total)
    return [value for value, dummy in zip(returns, begun, strict=True) if not dummy]


@pytest.mark.parametrize("clip", [False, True])
def test_targets_written_out(clip):
    """Two rows; the first ends for good and begins anew, the second is stopped; observations are as values say."""
    config = replace(SMALL, environments=2, rollout=6, clip_rewards=clip, minibatches=1)
    learner = make(config, 3, 1000)
    draw = np.random.default_rng(0)
    terminated, truncated, begun = np.zeros((3, 6, 2), bool)
    terminated[1, 0], begun[2, 0], truncated[3, 1], begun[4, 1] = True, True, True, True
    rewards = draw.normal(size=(6, 2)).astype(np.float32) * 3
    seen = draw.normal(size=(7, 2, 3)).astype(np.float32)
    learner.learn = lambda following: {"targets": learner.targets(following)}  # type: ignore[method-assign]
    for t in range(6):
        learner.act(seen[t])
        got = learner.observe(Moved(seen[t + 1], rewards[t], terminated[t], truncated[t], begun[t]))
    values = np.stack([q_of(learner, seen[t]).max(1) for t in range(7)])
    for row in range(2):
        flags = (terminated[:, row], truncated[:, row], begun[:, row])
        expected = by_hand(config, rewards[:, row], values[:6, row], values[6, row], *flags)
        kept = got["targets"][:, row].numpy()[~begun[:, row]]
        np.testing.assert_allclose(kept, expected, rtol=1e-5)


def test_every_step_but_dummies_comes_once_in_a_pass():
    learner = make(replace(SMALL, epochs=2), 5, 1000)
    kept = np.array([i for i in range(64) if i % 9])  # 56 of 64
    chunks = learner._minibatches(kept, 16)
    assert [len(chunk) for chunk in chunks] == [16] * 8
    for number in range(2):
        drawn = torch.cat(chunks[4 * number : 4 * number + 4]).tolist()
        assert sorted(set(drawn)) == kept.tolist()
        assert len(drawn) == 64
    assert torch.cat(chunks[:4]).tolist() != torch.cat(chunks[4:]).tolist()


def test_bf16_learns_the_same_to_its_precision():
    learners = [make(replace(SMALL, precision=precision), 5, 6000) for precision in ("fp32", "bf16")]
    for learner in learners:
        play(learner, Chain(8, length=4, longest=20), 6000)
    states = np.eye(5, dtype=np.float32)[:4]
    assert not np.array_equal(*(q_of(learner, states) for learner in learners))
    np.testing.assert_allclose(*(q_of(learner, states) for learner in learners), atol=0.1)


def test_taken_up_it_learns_as_if_it_had_not_stopped():
    """The world here is carried on; so the weights are equal, bit for bit."""

    def advance(learner, world, observation, until):
        while learner.steps < until or not learner.at_rest:
            moved = world.step(learner.act(observation))
            learner.observe(moved)
            observation = moved.observation
        return observation

    whole, world = make(SMALL, 5, 4000), Chain(8, longest=20)
    observation = advance(whole, world, world.reset(), 2000)
    assert whole.at_rest
    first = make(SMALL, 5, 4000, seed=9)
    first.network.load_state_dict(whole.network.state_dict())
    tensors = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    first.load(tensors, whole.state())
    first.explorer.generator.bit_generator.state = whole.state()["generators"]["explore"]
    place, age, over = world.place.copy(), world.age.copy(), world.over.copy()
    advance(whole, world, observation, 4000)
    world.place, world.age, world.over = place, age, over
    advance(first, world, observation, 4000)
    assert first.steps == whole.steps
    for one, other in zip(first.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_it_measures_and_how_rates_fall():
    learner = make(SMALL, 5, 640)
    world, seen = Chain(8), []
    observation = world.reset()
    while learner.steps < 640:
        moved = world.step(learner.act(observation))
        observation = moved.observation
        seen += [found for found in [learner.observe(moved)] if found]
    assert len(seen) == 10
    assert sorted(seen[0]) == ["epsilon", "gradient_norm", "learning_rate", "loss", "q"]
    rates = [found["learning_rate"] for found in seen]
    np.testing.assert_allclose(rates, 3e-3 * (1 - np.arange(10) / 10))
    assert seen[0]["epsilon"] == pytest.approx(0.3)  # fell over the first 64 of 640 steps
    assert learner.updater.updates == 10 * SMALL.epochs * SMALL.minibatches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": 0}, "rollout: expected a whole number from 1 on, got 0"),
        ({"discount": 1.2}, "discount: expected a number from 0 to 1, got 1.2"),
        ({"precision": "fp16"}, "precision: expected fp32 or bf16, got fp16"),
    ],
)
def test_wrong_settings_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        PQNConfig(**changes)
