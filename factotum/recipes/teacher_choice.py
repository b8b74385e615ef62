"""Which network, which settings: what `train-teacher` takes for a world where nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed
from factotum.distill.config import PolicyConfig, preset
from factotum.distill.dqn import DQNConfig, DQNLearner, default_dqn
from factotum.distill.model import PolicyNetwork
from factotum.distill.pqn import PQNConfig, PQNLearner, default_pqn
from factotum.distill.q_learning import QLearner
from factotum.distill.replay import TeacherReplay
from factotum.worlds.vector import VectorWorld

Algorithm = Literal["pqn", "dqn"]


@dataclass(frozen=True)
class Changes:
    """Settings of the algorithm; what is not given is what suits the world."""

    environments: int | None = None
    """environments played at once"""
    discount: float | None = None
    """gamma"""
    learning_rate: float | None = None
    """at the start"""
    gradient_clip: float | None = None
    """largest norm of the gradient"""
    first_epsilon: float | None = None
    """share of drawn actions at the start"""
    last_epsilon: float | None = None
    """share of drawn actions later"""
    epsilon_share: float | None = None
    """share of all steps over which it falls"""
    clip_rewards: bool | None = None
    """rewards beyond -1 and 1 count as -1 and 1 in training"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the gradients of all layers but the last"""
    rollout: int | None = None
    """pqn: steps of each environment between two rounds of updates"""
    epochs: int | None = None
    """pqn: passes over a piece of play"""
    minibatches: int | None = None
    """pqn: updates in a pass"""
    lam: float | None = None
    """pqn: lambda of the returns"""
    final_learning_rate_ratio: float | None = None
    """pqn: last learning rate over first"""
    capacity: int | None = None
    """dqn: environment steps that the replay keeps"""
    learning_starts: int | None = None
    """dqn: environment steps before the first update"""
    update_every: int | None = None
    """dqn: environment steps an update"""
    batch: int | None = None
    """dqn: steps drawn for an update"""
    target_every: int | None = None
    """dqn: updates after which the target network is taken anew"""
    double: bool | None = None
    """dqn: the online network chooses the next action, the target network values it"""


def configure(
    algorithm: Algorithm, observation_shape: tuple[int, ...], changes: Changes
) -> PQNConfig | DQNConfig:
    """The algorithm's settings for a world's observations, with what was asked for.

    Raises:
        UserError: a setting that the algorithm does not have, or cannot have.

    >>> configure("pqn", (4, 10, 10), Changes(lam=0.8)).lam
    0.8
    """
    config = default_pqn(observation_shape) if algorithm == "pqn" else default_dqn(observation_shape)
    given = {name: value for name, value in vars(changes).items() if value is not None}
    own = [field.name for field in fields(config)]
    for name in given:
        if name not in own:
            raise UserError(f"{name}: expected a setting of {algorithm}, got one that it does not have")
    return replace(config, **given)


def teacher_network(
    algorithm: Algorithm, size: str, world: VectorWorld, seed: int, device: torch.device
) -> PolicyNetwork:
    """An untrained network for a world; PQN's has layer norm whatever its size.

    Raises:
        UserError: an unknown size, or a world without numbered actions.
    """
    if not isinstance(world.action_space, spaces.Discrete):
        raise UserError(f"{world.name}: expected numbered actions for Q-learning, got {world.action_space}")
    actions = {world.name: int(world.action_space.n)}
    shape = world.observation_space.shape
    config: PolicyConfig = preset(size, shape, actions)
    config = replace(config, layer_norm=config.layer_norm or algorithm == "pqn")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "network"))
        return PolicyNetwork(config).to(device)


def make_learner(
    config: PQNConfig | DQNConfig,
    network: PolicyNetwork,
    world: VectorWorld,
    *,
    steps: int,
    seed: int,
    replay: Path,
) -> QLearner:
    """What learns; `replay` is where DQN keeps its steps."""
    if isinstance(config, PQNConfig):
        return PQNLearner(network, config, steps=steps, seed=seed)
    space, newest = world.observation_space, world.newest
    frame_channels = None if newest is None else newest.stop - newest.start
    capacity = min(config.capacity, steps)
    kept = TeacherReplay(replay, capacity, space.shape, frame_channels, 0, dtype=str(space.dtype))
    return DQNLearner(network, kept, config, steps=steps, seed=seed)
