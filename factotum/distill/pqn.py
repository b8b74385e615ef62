"""PQN: Q-learning without replay and without a target network, on many environments at once.

Layer norm keeps it stable; lambda returns over short pieces of play take the replay's place. What it does not
know: environments. Letters: T steps of a piece, B environments, N = T B.

Gallici et al., 2024, "Simplifying Deep Temporal Difference Learning" (arXiv 2407.04811).
"""

from __future__ import annotations

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
from factotum.losses.q_learning import lambda_returns, taken


@dataclass(frozen=True)
class PQNConfig:
    """How PQN learns.

    >>> PQNConfig(lam=1.5)
    Traceback (most recent call last):
    factotum.core.checks.UserError: PQNConfig.lam: expected a number from 0 to 1, got 1.5
    """

    environments: int = 128
    """environments played at once (B)"""
    rollout: int = 32
    """steps of each between two rounds of updates (T)"""
    epochs: int = 2
    """passes over a piece of play"""
    minibatches: int = 32
    """updates in a pass"""
    learning_rate: float = 5e-4
    """at the start; falls along a line to `final_learning_rate_ratio` of it"""
    final_learning_rate_ratio: float = 0.0
    """last learning rate over first"""
    gradient_clip: float = 10.0
    """largest norm of the gradient"""
    discount: float = 0.99
    """gamma"""
    lam: float = 0.65
    """lambda of the returns"""
    first_epsilon: float = 1.0
    """share of drawn actions at the start"""
    last_epsilon: float = 0.05
    """share of drawn actions later"""
    epsilon_share: float = 0.1
    """share of all steps over which it falls"""
    clip_rewards: bool = False
    """rewards beyond -1 and 1 count as -1 and 1 in training, as for Atari"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: gradients of the layers before the last in bfloat16; acting and targets stay in fp32"""

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("environments", "rollout", "epochs", "minibatches"), 1)
        shares = ("discount", "lam", "first_epsilon", "last_epsilon", "epsilon_share")
        require_numbers("PQNConfig", self, whole=whole, shares=(*shares, "final_learning_rate_ratio"))
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"PQNConfig.precision: expected fp32 or bf16, got {self.precision}")


class PQNLearner:
    """Learns Q of one task; fulfils `QLearner`.

    Args:
        network: gives (B, A) Q-values for (B, ...) observations; changed in place.
        config: how to learn.
        steps: environment steps of the whole training, which the schedules are shares of.
        seed: of what is drawn.
        task: the network's head, where it has several.
    """

    def __init__(
        self, network: PolicyNetwork, config: PQNConfig, *, steps: int, seed: int = 0, task: str | None = None
    ) -> None:
        self.network, self.config, self.total, self.task = network, config, steps, task
        self.device = next(network.parameters()).device
        fall = config.epsilon_share * steps
        self.explorer = Explorer(config.first_epsilon, config.last_epsilon, fall, seed)
        self.generator = numpy_generator(seed, "minibatches")
        self.updater = Updater(network, config.learning_rate, config.gradient_clip)
        self.steps, self.filled = 0, 0
        shape = (config.rollout, config.environments)
        self.observation_TB: Tensor | None = None
        self.action_TB = torch.zeros(shape, dtype=torch.int64)
        self.value_TB = torch.zeros(shape, device=self.device)
        self.reward_TB = torch.zeros(shape)
        self.terminated_TB, self.last_TB, self.begun_TB = torch.zeros((3, *shape), dtype=torch.bool)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint loses nothing: between two pieces of play."""
        return self.filled == 0

    def act(self, observation_B: np.ndarray) -> np.ndarray:
        """Actions, greedy but for a share that is drawn."""
        seen_B = to_tensor(observation_B, self.device)
        if self.observation_TB is None:
            shape = (self.config.rollout, *seen_B.shape)
            self.observation_TB = torch.empty(shape, dtype=seen_B.dtype, device=self.device)
        self.observation_TB[self.filled] = seen_B
        with torch.no_grad():
            q_BA = self.network(seen_B, self.task)
            self.value_TB[self.filled], greedy_B = q_BA.max(1)
        action_B = self.explorer.choose(greedy_B.cpu().numpy(), q_BA.shape[1], self.steps)
        self.action_TB[self.filled] = torch.from_numpy(action_B)
        return action_B

    def observe(self, moved: Moved) -> dict[str, Tensor | float]:
        """Take note of what came of the actions; learn when a piece of play is full."""
        t = self.filled
        self.reward_TB[t] = torch.from_numpy(moved.reward)
        self.terminated_TB[t] = torch.from_numpy(moved.terminated)
        self.last_TB[t] = torch.from_numpy(moved.terminated | moved.truncated)
        self.begun_TB[t] = torch.from_numpy(moved.begun)
        self.filled += 1
        self.steps += len(moved.reward)
        if self.filled < self.config.rollout:
            return {}
        self.filled = 0
        with torch.no_grad():
            following_B = self.network(to_tensor(moved.observation, self.device), self.task).amax(1)
        return self.learn(following_B)

    def targets(self, following_B: Tensor) -> Tensor:
        """The returns (T, B) of the piece of play, `following_B` being the values of what is seen after it.

        The value of an observation is known from when it was acted upon: of an episode's last one too, since a
        row's dummy step follows it.
        """
        config = self.config
        reward_TB = self.reward_TB.clamp(-1, 1) if config.clip_rewards else self.reward_TB
        next_TB = torch.cat([self.value_TB[1:], following_B[None]])
        discount_TB = config.discount * (~self.terminated_TB).float()
        on = self.device
        return lambda_returns(reward_TB.to(on), discount_TB.to(on), next_TB, config.lam, self.last_TB.to(on))

    def learn(self, following_B: Tensor) -> dict[str, Tensor | float]:
        """Several passes over the piece of play in random minibatches, dummy steps left out."""
        assert self.observation_TB is not None
        config, share = self.config, self._learning_rate_share()
        target_N = self.targets(following_B).flatten()
        observation_N, action_N = self.observation_TB.flatten(0, 1), self.action_TB.flatten().to(self.device)
        kept_N = (~self.begun_TB).flatten().nonzero()[:, 0].numpy()
        size = max(1, self.begun_TB.numel() // config.minibatches)
        losses, norms = [], []
        for index in self._minibatches(kept_N, size):
            q_BA = q_values(self.network, observation_N[index], self.task, config.precision == "bf16")
            error_B = taken(q_BA, action_N[index]) - target_N[index]
            loss = 0.5 * error_B.square().mean()
            norms.append(self.updater.update(loss, share))
            losses.append(loss.detach())
        return {
            "loss": torch.stack(losses).mean(),
            "gradient_norm": torch.stack(norms).mean(),
            "q": target_N.mean(),
            "epsilon": self.explorer.epsilon(self.steps),
            "learning_rate": config.learning_rate * share,
        }

    def _minibatches(self, kept_N: np.ndarray, size: int) -> list[Tensor]:
        """Indices of all updates, each of the same size: where rows were left out, some come twice in a pass."""
        count = self.config.minibatches * size
        chosen = [np.resize(self.generator.permutation(kept_N), count) for _ in range(self.config.epochs)]
        return list(torch.from_numpy(np.concatenate(chosen)).to(self.device).split(size))

    def _learning_rate_share(self) -> float:
        done = min(1.0, (self.steps - self.begun_TB.numel()) / self.total)
        return 1 - done * (1 - self.config.final_learning_rate_ratio)

    # -- checkpoints: taken between pieces of play, whose beginning is lost with a kill

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's moments."""
        return self.updater.tensors()

    def state(self) -> dict[str, Any]:
        """Counts and the states of what draws."""
        generators = {"explore": self.explorer.generator, "minibatches": self.generator}
        drawn = {name: generator.bit_generator.state for name, generator in generators.items()}
        return {"steps": self.steps, "updates": self.updater.updates, "generators": drawn}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, goes_on: bool = False) -> None:
        """Go on from a checkpoint; what was played of an unfinished piece is dropped."""
        self.steps, self.filled = state["steps"], 0
        self.updater.load(tensors, state["updates"])
        self.explorer.generator.bit_generator.state = state["generators"]["explore"]
        self.generator.bit_generator.state = state["generators"]["minibatches"]


def default_pqn(observation_shape: tuple[int, ...]) -> PQNConfig:
    """Settings that suit observations: of Atari (pictures from 36 x 36 on), MinAtar (smaller ones), vectors.

    Atari's are those of the paper's authors with the fewer environments of CleanRL's version, MinAtar's were found by
    trying, see docs/distill.md.
    """
    if len(observation_shape) == 1:
        return PQNConfig(environments=16, minibatches=8, epochs=4, lam=0.95)
    if min(observation_shape[1:]) >= 36:
        return PQNConfig(
            environments=32,
            rollout=32,
            minibatches=8,
            learning_rate=2.5e-4,
            last_epsilon=0.01,
            clip_rewards=True,
        )
    return PQNConfig(environments=64, rollout=16, epochs=3, minibatches=8, learning_rate=1e-3)
