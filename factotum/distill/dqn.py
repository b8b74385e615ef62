"""DQN: Q-learning from a replay of past steps, towards a copy of the network that stays behind.

What it does not know: environments. Letters: B environments, N steps drawn.

Mnih et al., 2015, "Human-level control through deep reinforcement learning"; what Policy Distillation's teachers are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.distill.model import PolicyNetwork
from factotum.distill.q_learning import Explorer, Moved, Updater, q_values, require_numbers, to_tensor
from factotum.distill.replay import TeacherReplay
from factotum.distill.transitions import TransitionBatch
from factotum.losses.q_learning import huber, taken, td_target


@dataclass(frozen=True)
class DQNConfig:
    """How DQN learns; the defaults are those of the common implementations, for Atari.

    >>> DQNConfig(batch=0)
    Traceback (most recent call last):
    factotum.core.checks.UserError: DQNConfig.batch: expected a whole number from 1 on, got 0
    """

    environments: int = 8
    """environments played at once (B)"""
    capacity: int = 1_000_000
    """environment steps that the replay keeps"""
    learning_starts: int = 80_000
    """environment steps before the first update"""
    update_every: int = 4
    """environment steps an update"""
    batch: int = 32
    """steps drawn for an update (N)"""
    target_every: int = 250
    """updates after which the target network is taken anew"""
    learning_rate: float = 1e-4
    """constant"""
    gradient_clip: float = 10.0
    """largest norm of the gradient"""
    discount: float = 0.99
    """gamma"""
    first_epsilon: float = 1.0
    """share of drawn actions at the start"""
    last_epsilon: float = 0.01
    """share of drawn actions later"""
    epsilon_share: float = 0.1
    """share of all steps over which it falls"""
    double: bool = False
    """the online network chooses the next action, the target network values it (arXiv 1509.06461)"""
    clip_rewards: bool = False
    """rewards beyond -1 and 1 count as -1 and 1 in training, as for Atari"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: gradients of the layers before the last in bfloat16; acting and targets stay in fp32"""

    def __post_init__(self) -> None:
        least_1 = ("environments", "capacity", "update_every", "batch", "target_every")
        whole = {**dict.fromkeys(least_1, 1), "learning_starts": 0}
        shares = ("discount", "first_epsilon", "last_epsilon", "epsilon_share")
        require_numbers("DQNConfig", self, whole=whole, shares=shares)
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"DQNConfig.precision: expected fp32 or bf16, got {self.precision}")


class DQNLearner:
    """Learns Q of one task; fulfils `QLearner`.

    Args:
        network: gives (B, A) Q-values for (B, ...) observations; changed in place.
        replay: keeps the steps; it holds no labels.
        config: how to learn.
        steps: environment steps of the whole training, which exploration is a share of.
        seed: of what is drawn.
        task: the network's head, where it has several.
        updater: of the network, shared by the learners of several tasks; one of its own where None.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        replay: TeacherReplay,
        config: DQNConfig,
        *,
        steps: int,
        seed: int = 0,
        task: str | None = None,
        updater: Updater | None = None,
    ) -> None:
        self.network, self.replay, self.config, self.task = network, replay, config, task
        self.device = next(network.parameters()).device
        self.target = copy.deepcopy(network).requires_grad_(False)
        fall = config.epsilon_share * steps
        self.explorer = Explorer(config.first_epsilon, config.last_epsilon, fall, seed)
        self.generator = numpy_generator(seed, "replay")
        self.updater = updater or Updater(network, config.learning_rate, config.gradient_clip)
        self.steps, self.updates = 0, 0
        self.acted: tuple[np.ndarray, np.ndarray] | None = None
        self.first_B = np.ones(config.environments, bool)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint loses nothing: always."""
        return True

    def act(self, observation_B: np.ndarray) -> np.ndarray:
        """Actions, greedy but for a share that is drawn."""
        with torch.no_grad():
            q_BA = self.network(to_tensor(observation_B, self.device), self.task)
        greedy_B = q_BA.argmax(1).cpu().numpy()
        action_B = self.explorer.choose(greedy_B, q_BA.shape[1], self.steps)
        self.acted = observation_B, action_B
        return action_B

    def observe(self, moved: Moved) -> dict[str, Tensor | float]:
        """Keep what came of the actions and make the updates that are due."""
        assert self.acted is not None, "act comes first"
        observation_B, action_B = self.acted
        self.replay.append(observation_B, self.first_B, None, action_B, moved)
        self.first_B = moved.begun
        self.steps += len(moved.reward)
        due = max(0, self.steps - self.config.learning_starts) // self.config.update_every - self.updates
        learnt = [
            self.learn(self.replay.sample_transitions(self.config.batch, self.generator)) for _ in range(due)
        ]
        if not learnt:
            return {}
        means = {name: torch.stack([one[name] for one in learnt]).mean() for name in learnt[0]}
        rate = self.config.learning_rate
        return {**means, "epsilon": self.explorer.epsilon(self.steps), "learning_rate": rate}

    def targets(self, batch: TransitionBatch) -> Tensor:
        """What Q of the drawn steps should be (N,)."""
        config = self.config
        reward_N = batch.reward.clamp(-1, 1) if config.clip_rewards else batch.reward
        discount_N = config.discount * (~batch.terminated).float()
        with torch.no_grad():
            next_NA = self.target(batch.next_observation, self.task)
            if config.double:
                chosen_N = self.network(batch.next_observation, self.task).argmax(1)
                next_NA = taken(next_NA, chosen_N)[:, None]
        return td_target(reward_N, discount_N, next_NA)

    def learn(self, batch: TransitionBatch) -> dict[str, Tensor]:
        """One update from steps that were drawn."""
        config = self.config
        batch = TransitionBatch(*(part.to(self.device) for part in batch))
        target_N = self.targets(batch)
        q_NA = q_values(self.network, batch.observation, self.task, config.precision == "bf16")
        loss = huber(taken(q_NA, batch.action) - target_N).mean()
        norm = self.updater.update(loss)
        self.updates += 1
        if self.updates % config.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return {"loss": loss.detach(), "gradient_norm": norm, "q": target_N.mean()}

    # -- checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's moments and the target network."""
        target = {f"target.{name}": tensor for name, tensor in self.target.state_dict().items()}
        return {**self.updater.tensors(), **target}

    def state(self) -> dict[str, Any]:
        """Counts and the states of what draws."""
        self.replay.flush()
        generators = {"explore": self.explorer.generator, "replay": self.generator}
        drawn = {name: generator.bit_generator.state for name, generator in generators.items()}
        counts = {"steps": self.steps, "updates": self.updates, "updater": self.updater.updates}
        replay = {"position": self.replay.position(), "first": self.first_B.tolist()}
        return {**counts, "generators": drawn, "replay": replay}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, goes_on: bool = False) -> None:
        """Go on from a checkpoint; the replay forgets what came after it."""
        self.replay.go_back(state["replay"]["position"])
        self.first_B = np.array(state["replay"]["first"]) | (not goes_on)
        self.steps, self.updates = state["steps"], state["updates"]
        self.updater.load(tensors, state["updater"])
        own = {name.removeprefix("target."): t for name, t in tensors.items() if name.startswith("target.")}
        self.target.load_state_dict(own)
        self.explorer.generator.bit_generator.state = state["generators"]["explore"]
        self.generator.bit_generator.state = state["generators"]["replay"]


def default_dqn(observation_shape: tuple[int, ...]) -> DQNConfig:
    """Settings that suit observations: of Atari (pictures from 36 x 36 on), MinAtar (smaller ones), vectors."""
    if len(observation_shape) == 1:
        return DQNConfig(capacity=50_000, learning_starts=1000, learning_rate=1e-3)
    if min(observation_shape[1:]) >= 36:
        return DQNConfig(clip_rewards=True)
    return DQNConfig(capacity=100_000, learning_starts=5000, learning_rate=2.5e-4, last_epsilon=0.05)
