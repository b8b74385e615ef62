"""DQN: known Q-values from drawn steps, targets by hand, when it updates, checkpoints, several tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.distill.config import mlp
from factotum.distill.dqn import DQNConfig, DQNLearner
from factotum.distill.model import PolicyNetwork
from factotum.distill.q_learning import Updater
from factotum.distill.replay import TeacherReplay
from factotum.distill.transitions import TransitionBatch
from tests.distill.q_worlds import Chain, Wage, play

SMALL = DQNConfig(
    environments=4,
    capacity=4000,
    learning_starts=200,
    update_every=4,
    target_every=20,
    learning_rate=3e-3,
    discount=0.9,
    last_epsilon=1.0,
)


def make(config, features, steps, seed=0, actions=2, **options):
    torch.manual_seed(seed)
    network = PolicyNetwork(mlp(features, (32,), actions))
    replay = TeacherReplay(None, config.capacity, (features,), None, 0, dtype="float32")
    return DQNLearner(network, replay, config, steps=steps, seed=seed, **options)


def q_of(learner, observations):
    with torch.no_grad():
        return learner.network(torch.as_tensor(observations)).numpy()


@pytest.mark.parametrize("double", [False, True])
def test_it_finds_the_known_q(double):
    world = Chain(4, length=4, longest=20)
    learner = make(replace(SMALL, double=double), 5, 6000)
    measured = play(learner, world, 6000)
    np.testing.assert_allclose(q_of(learner, np.eye(5, dtype=np.float32)[:4]), world.best_q(0.9), atol=0.05)
    assert sorted(measured) == ["epsilon", "gradient_norm", "learning_rate", "loss", "q"]


def test_a_time_limit_is_no_end():
    learner = make(SMALL, 1, 8000)
    play(learner, Wage(4, longest=5), 8000)
    np.testing.assert_allclose(q_of(learner, np.ones((1, 1), np.float32)), 10.0, rtol=0.05)


def drawn():
    seen = torch.tensor([[1.0], [2.0], [3.0]])
    ends = torch.tensor([False, True, False])
    return TransitionBatch(seen, torch.tensor([0, 1, 1]), torch.tensor([5.0, -5.0, 0.5]), -seen, ends)


@pytest.mark.parametrize("clip", [False, True])
def test_targets_by_hand(clip):
    learner = make(replace(SMALL, clip_rewards=clip), 1, 100)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.normal_()
    batch = drawn()
    old, new = learner.target(batch.next_observation), learner.network(batch.next_observation)
    assert not torch.allclose(old, new)  # the copy stays behind
    paid = [1.0, -1.0, 0.5] if clip else [5.0, -5.0, 0.5]
    expected = [paid[0] + 0.9 * old[0].max(), paid[1], paid[2] + 0.9 * old[2].max()]
    torch.testing.assert_close(learner.targets(batch), torch.tensor(expected))
    learner.config = replace(learner.config, double=True)
    chosen = old.gather(1, new.argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(learner.targets(batch)[2], paid[2] + 0.9 * chosen[2])


def test_the_gradient_is_clipped_errors_of_taken_actions():
    learner = make(SMALL, 1, 100)
    head = learner.network.heads[0][-1]
    batch = drawn()
    error = learner.network(batch.observation).gather(1, batch.action[:, None])[:, 0] - learner.targets(batch)
    learner.updater.update = lambda loss: (loss.backward(), torch.zeros(()))[1]  # type: ignore[method-assign]
    learner.learn(batch)
    clipped = error.detach().clamp(-1, 1) / 3
    expected = torch.stack([clipped[0], clipped[1] + clipped[2]])
    torch.testing.assert_close(head.bias.grad, expected)


def test_updates_come_when_they_are_due_and_the_copy_follows():
    learner = make(replace(SMALL, learning_starts=40, update_every=8, target_every=3), 5, 1000)
    world = Chain(4, length=4)
    observation, seen = world.reset(), []
    while learner.steps < 120:
        moved = world.step(learner.act(observation))
        learner.observe(moved)
        observation = moved.observation
        same = torch.equal(learner.target.heads[0][-1].bias, learner.network.heads[0][-1].bias)
        seen.append((learner.steps, learner.updates, same))
    assert [updates for _, updates, _ in seen] == [max(0, steps - 40) // 8 for steps, _, _ in seen]
    assert all(same == (updates % 3 == 0) for _, updates, same in seen if updates > 6)


def test_taken_up_it_learns_as_if_it_had_not_stopped(tmp_path):
    """Killed after more was kept: the replay goes back, and the weights are equal, bit for bit."""

    def fresh(name, seed):
        torch.manual_seed(seed)
        replay = TeacherReplay(tmp_path / name, 400, (5,), None, 0, dtype="float32")
        network = PolicyNetwork(mlp(5, (16,), 2))
        return DQNLearner(network, replay, replace(SMALL, capacity=400), steps=2000, seed=seed)

    def advance(learner, world, observation, until):
        while learner.steps < until:
            moved = world.step(learner.act(observation))
            learner.observe(moved)
            observation = moved.observation
        return observation

    learner, world = fresh("a", 0), Chain(4, longest=7)
    observation = advance(learner, world, world.reset(), 800)
    weights = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    tensors, state = {name: t.clone() for name, t in learner.tensors().items()}, learner.state()
    stood = world.place.copy(), world.age.copy(), world.over.copy()
    advance(learner, world, observation, 1000)
    ended = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    learner.replay.close()

    again = fresh("a", 5)
    again.network.load_state_dict(weights)
    again.load(tensors, state, goes_on=True)
    world.place, world.age, world.over = stood
    advance(again, world, observation, 1000)
    assert all(torch.equal(ended[name], tensor) for name, tensor in again.network.state_dict().items())


def test_after_a_kill_new_episodes_are_not_joined_to_old_ones():
    learner, world = make(SMALL, 5, 1000), Chain(4, length=4)
    play(learner, world, 400)
    state, tensors = learner.state(), learner.tensors()
    learner.load(tensors, state)
    world.reset()
    learner.act(np.roll(world.observe(), 1, 1))  # nothing like what came before
    learner.observe(world.step(np.ones(4, int)))
    batch = learner.replay.sample_transitions(5000, np.random.default_rng(0))
    moved = (batch.next_observation.argmax(1) - batch.observation.argmax(1)).abs()
    assert moved[~batch.terminated].max() <= 1


def test_two_tasks_share_one_network_and_its_updates():
    torch.manual_seed(0)
    network = PolicyNetwork(mlp(5, (32,), {"right": 2, "left": 2}))
    updater = Updater(network, 3e-3, 10.0)
    learners = []
    for task in ("right", "left"):
        replay = TeacherReplay(None, 4000, (5,), None, 0, dtype="float32", task=task)
        learners.append(DQNLearner(network, replay, SMALL, steps=4000, task=task, updater=updater))
    for until in range(200, 4001, 200):
        play(learners[0], Chain(4, length=4, longest=20), until)
        play(learners[1], Mirrored(4, length=4, longest=20), until)
    states = torch.eye(5)[:4]
    best = Chain(4, length=4).best_q(0.9)
    with torch.no_grad():
        np.testing.assert_allclose(network(states, "right").numpy(), best, atol=0.1)
        np.testing.assert_allclose(network(states, "left").numpy(), best[:, ::-1], atol=0.1)
    assert updater.updates == sum(learner.updates for learner in learners)


class Mirrored(Chain):
    """A chain with the actions exchanged."""

    def step(self, action):
        return super().step(1 - action)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 0}, "batch: expected"), ({"last_epsilon": -0.1}, "last_epsilon: expected")],
)
def test_wrong_settings_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        DQNConfig(**changes)
