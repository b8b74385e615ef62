"""A distilled student goes on by reinforcement learning, held by its teacher less and less. Knows no environments.

L = L_RL + w_k L_distillation, with w_k falling along a line to 0 over a share of all steps (kickstarting with a fixed
schedule). A student with logits is improved by clipped policy gradients beside a critic of its own, which first learns
alone; one with Q-values by lambda returns, as PQN. What is distilled is labelled on what the student itself meets.

Letters: T steps of a piece, B environments, N = T B, A actions.
Schmitt et al., 2018 (arXiv 1803.03835); Schulman et al., 2017 (arXiv 1707.06347); Gallici et al., 2024 (2407.04811).
Differs: the weight follows a line, theirs is adapted by population-based training. The paper of policy distillation
has no fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.distill.model import PolicyNetwork
from factotum.distill.objective import DistillationObjective
from factotum.distill.q_learning import Moved, Updater, require_numbers, to_tensor
from factotum.losses.policy_gradient import clipped_surrogate, entropy
from factotum.losses.q_learning import lambda_returns, taken

Label = Callable[[np.ndarray], np.ndarray]
"""Observations (N, ...) to what the teacher puts out, (N, A)."""


@dataclass(frozen=True)
class FineTuneConfig:
    """How a student goes on.

    >>> FineTuneConfig(anneal_share=2.0)
    Traceback (most recent call last):
    factotum.core.checks.UserError: FineTuneConfig.anneal_share: expected a number from 0 to 1, got 2.0
    """

    rollout: int = 32
    """steps of each environment between two rounds of updates (T)"""
    epochs: int = 2
    """passes over a piece of play"""
    minibatches: int = 4
    """updates in a pass"""
    learning_rate: float = 2.5e-4
    """at the start; falls along a line to 0"""
    gradient_clip: float = 1.0
    """largest norm of the gradient"""
    discount: float = 0.99
    """gamma"""
    lam: float = 0.9
    """lambda of returns and advantages"""
    clip: float = 0.2
    """how far policy gradients may move the ratio of policies from 1"""
    value_weight: float = 0.5
    """of the critic's squared error"""
    entropy_weight: float = 0.01
    """of the policy's entropy"""
    distill_weight: float = 1.0
    """of the distillation loss at the start"""
    anneal_share: float = 0.5
    """share of all steps over which that weight falls to 0"""
    warm_up_share: float = 0.05
    """share of all steps in which the critic learns alone"""
    epsilon: float = 0.05
    """share of drawn actions of students with Q-values"""

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("rollout", "epochs", "minibatches"), 1)
        shares = ("discount", "lam", "anneal_share", "warm_up_share", "epsilon")
        require_numbers("FineTuneConfig", self, whole=whole, shares=shares)


class FineTuner:
    """Fulfils `QLearner`: acts, is shown what came of it, and learns after each piece of play.

    Args:
        network: the student, of one task, with "logits" or "q" as outputs; changed in place.
        label: the teacher.
        objective: the distillation loss.
        config: how to learn.
        environments: B.
        steps: environment steps in all, which the schedules are shares of.
        seed: of what is drawn, and of the critic's first weights.

    Raises:
        UserError: outputs that are neither logits nor Q-values, or others than the objective is for.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        label: Label,
        objective: DistillationObjective,
        config: FineTuneConfig,
        *,
        environments: int,
        steps: int,
        seed: int = 0,
    ) -> None:
        outputs = network.config.outputs
        if outputs not in ("logits", "q") or len(network.tasks) != 1 or objective.outputs != outputs:
            raise UserError(
                f"fine-tuning: expected a student of one task with logits or Q-values and a loss for these, got "
                f"{outputs!r} of {len(network.tasks)} tasks and the loss {objective.loss!r}"
            )
        self.network, self.label, self.objective, self.config = network, label, objective, config
        self.total, self.q = steps, outputs == "q"
        self.device = network.device
        self.generator = numpy_generator(seed, "fine-tune")
        self.critic = None if self.q else make_critic(network, seed)
        learnt = nn.ModuleList([network] if self.critic is None else [network, self.critic])
        self.updater = Updater(learnt, config.learning_rate, config.gradient_clip)
        self.steps, self.filled = 0, 0
        shape = (config.rollout, environments)
        self.observation_TB: Tensor | None = None
        self.action_TB = torch.zeros(shape, dtype=torch.int64)
        self.log_policy_TB, self.value_TB, self.reward_TB = torch.zeros((3, *shape))
        self.terminated_TB, self.last_TB, self.begun_TB = torch.zeros((3, *shape), dtype=torch.bool)

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint loses nothing: between pieces of play."""
        return self.filled == 0

    @property
    def distill_weight(self) -> float:
        """w_k at this step."""
        span = self.config.anneal_share * self.total
        return self.config.distill_weight * (max(0.0, 1 - self.steps / span) if span else 0.0)

    @torch.no_grad()
    def act(self, observation_B: np.ndarray) -> np.ndarray:
        """Actions drawn from the policy; of Q-values the best, but for a share that is drawn."""
        seen_B = to_tensor(observation_B, self.device)
        if self.observation_TB is None:
            shape = (self.config.rollout, *seen_B.shape)
            self.observation_TB = torch.empty(shape, dtype=seen_B.dtype, device=self.device)
        self.observation_TB[self.filled] = seen_B
        output_BA = self.network(seen_B).cpu()
        action_B = self._choose(output_BA)
        self.action_TB[self.filled] = action_B
        self.value_TB[self.filled] = self._value(seen_B, output_BA)
        self.log_policy_TB[self.filled] = taken(output_BA.log_softmax(1), action_B)
        return action_B.numpy()

    def _choose(self, output_BA: Tensor) -> Tensor:
        B, A = output_BA.shape
        if not self.q:
            # the largest of logits with Gumbel noise is a draw from their softmax
            return (output_BA + torch.from_numpy(self.generator.gumbel(size=(B, A))).float()).argmax(1)
        chance_B = self.generator.random(B) < self.config.epsilon
        greedy_B, drawn_B = output_BA.argmax(1).numpy(), self.generator.integers(A, size=B)
        return torch.from_numpy(np.where(chance_B, drawn_B, greedy_B))

    def _value(self, observation_B: Tensor, output_BA: Tensor) -> Tensor:
        return output_BA.amax(1) if self.critic is None else self.critic(observation_B)[:, 0].cpu()

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
            seen_B = to_tensor(moved.observation, self.device)
            return self._learn(self._value(seen_B, self.network(seen_B).cpu()))

    def returns(self, following_B: Tensor) -> Tensor:
        """Lambda returns (T, B), `following_B` being the values of what is seen after the piece of play.

        The value of an episode's last observation is known too, since a row's dummy step follows it.
        """
        next_TB = torch.cat([self.value_TB[1:], following_B[None]])
        discount_TB = self.config.discount * (~self.terminated_TB).float()
        return lambda_returns(self.reward_TB, discount_TB, next_TB, self.config.lam, self.last_TB)

    @torch.enable_grad()
    def _learn(self, following_B: Tensor) -> dict[str, Tensor | float]:
        assert self.observation_TB is not None
        config, done = self.config, min(1.0, (self.steps - self.begun_TB.numel()) / self.total)
        return_N = self.returns(following_B).flatten()
        observation_N = self.observation_TB.flatten(0, 1)
        label_NA = to_tensor(np.asarray(self.label(observation_N.cpu().numpy()), np.float32), self.device)
        kept_N = (~self.begun_TB).flatten().nonzero()[:, 0].numpy()
        size = -(-len(kept_N) // config.minibatches)
        noted: dict[str, list[Tensor]] = {}
        for _ in range(config.epochs):
            for part in np.array_split(self.generator.permutation(kept_N), -(-len(kept_N) // size)):
                rows = torch.from_numpy(part)
                loss, metrics = self._loss(observation_N, return_N, label_NA, rows)
                metrics["gradient_norm"] = self.updater.update(loss, 1 - done)
                for name, value in metrics.items():
                    noted.setdefault(name, []).append(value.detach())
        means: dict[str, Tensor | float] = {
            name: torch.stack(values).mean() for name, values in noted.items()
        }
        return {**means, "distill_weight": self.distill_weight, "return": return_N.mean()}

    def _loss(
        self, observation_N: Tensor, return_N: Tensor, label_NA: Tensor, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        on = self.device
        output_BA, return_B = self.network(observation_N[rows.to(on)]), return_N[rows].to(on)
        action_B = self.action_TB.flatten()[rows].to(on)
        distilled = self.objective.rows(output_BA, label_NA[rows.to(on)]).mean()
        if self.critic is None:
            learnt = 0.5 * (taken(output_BA, action_B) - return_B).square().mean()
            loss = learnt + self.distill_weight * distilled
            return loss, {"loss": learnt, "distillation": distilled}
        value_B = self.critic(observation_N[rows.to(on)])[:, 0]
        value_loss = self.config.value_weight * (value_B - return_B).square().mean()
        metrics = {"value_loss": value_loss, "distillation": distilled}
        if self.steps <= self.config.warm_up_share * self.total:
            return value_loss, metrics
        advantage_B = return_B - self.value_TB.flatten()[rows].to(on)
        advantage_B = (advantage_B - advantage_B.mean()) / (advantage_B.std(correction=0) + 1e-8)
        old_B = self.log_policy_TB.flatten()[rows].to(on)
        log_B = taken(output_BA.log_softmax(1), action_B)
        learnt = clipped_surrogate(log_B, old_B, advantage_B, self.config.clip).mean()
        spread = entropy(output_BA).mean()
        loss = learnt + value_loss - self.config.entropy_weight * spread + self.distill_weight * distilled
        return loss, {**metrics, "loss": learnt, "entropy": spread}

    # -- checkpoints: taken between pieces of play, whose beginning is lost with a kill

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's moments, and the critic."""
        critic = {} if self.critic is None else self.critic.state_dict()
        return {**self.updater.tensors(), **{f"critic.{name}": value for name, value in critic.items()}}

    def state(self) -> dict[str, Any]:
        """Counts, and the state of what draws."""
        drawn = self.generator.bit_generator.state
        return {"steps": self.steps, "updates": self.updater.updates, "generator": drawn}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, goes_on: bool = False) -> None:
        """Go on from a checkpoint, which lies between pieces of play: whether the world goes on makes no difference."""
        self.steps, self.filled = state["steps"], 0
        self.updater.load(tensors, state["updates"])
        self.generator.bit_generator.state = state["generator"]
        if self.critic is not None:
            own = {name: tensors[f"critic.{name}"] for name in self.critic.state_dict()}
            self.critic.load_state_dict(own)


def make_critic(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """A network like the student that gives one value an observation.

    >>> from factotum.distill.config import mlp
    >>> make_critic(PolicyNetwork(mlp(4, (8,), 2, outputs="logits")))(torch.zeros(3, 4)).shape
    torch.Size([3, 1])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = replace(network.config, actions=dict.fromkeys(network.tasks, 1), outputs="continuous")
        return PolicyNetwork(config).to(network.device)
