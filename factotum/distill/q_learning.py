"""What PQN and DQN share: how they explore, how their weights are updated, what a world tells them.

What it does not know: environments. Learners are given arrays, one row an environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.distill.model import PolicyNetwork


class Moved(Protocol):
    """What came of one action in each of B environments, numpy arrays; `worlds.vector.Transition` is one.

    Attributes:
        observation: (B, ...) what is seen after it.
        reward: (B,).
        terminated: (B,) the episode ended for good.
        truncated: (B,) the episode was stopped.
        begun: (B,) the row's action was ignored: its episode had ended before, `observation` begins another.
    """

    @property
    def observation(self) -> np.ndarray: ...  # noqa: D102
    @property
    def reward(self) -> np.ndarray: ...  # noqa: D102
    @property
    def terminated(self) -> np.ndarray: ...  # noqa: D102
    @property
    def truncated(self) -> np.ndarray: ...  # noqa: D102
    @property
    def begun(self) -> np.ndarray: ...  # noqa: D102


class QLearner(Protocol):
    """Learns Q from what it is shown: `act`, then `observe` what came of it, and again.

    Attributes:
        network: gives Q; changed in place.
        steps: environment steps observed, dummy rows too.
        at_rest: whether a checkpoint loses nothing that was observed.
    """

    network: PolicyNetwork
    steps: int

    @property
    def at_rest(self) -> bool: ...  # noqa: D102

    def act(self, observation_B: np.ndarray) -> np.ndarray:
        """Actions, greedy but for a share that is drawn."""
        ...

    def observe(self, moved: Moved) -> dict[str, Tensor | float]:
        """Take note of what came of the actions; learn when it is time. Metrics where it learnt, else none."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the network's weights, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """The same, as JSON values."""
        ...

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, goes_on: bool = False) -> None:
        """Go on from a checkpoint, the network's weights being loaded already.

        Args:
            tensors: by name.
            state: the rest.
            goes_on: the world stands where it stood; else all its rows begin new episodes.
        """
        ...


class Explorer:
    """Takes the greedy action but for a share epsilon, which falls along a line and then stays.

    Args:
        first: epsilon at the first step.
        last: epsilon from step `fall` on.
        fall: steps over which it falls.
        seed: of the drawing.

    >>> explorer = Explorer(1.0, 0.1, fall=10, seed=0)
    >>> [round(explorer.epsilon(step), 2) for step in (0, 5, 10, 99)]
    [1.0, 0.55, 0.1, 0.1]
    """

    def __init__(self, first: float, last: float, fall: float, seed: int) -> None:
        self.first, self.last, self.fall = first, last, fall
        self.generator = numpy_generator(seed, "explore")

    def epsilon(self, step: int) -> float:
        """Share of drawn actions at a step."""
        done = min(1.0, step / self.fall) if self.fall > 0 else 1.0
        return self.first + (self.last - self.first) * done

    def choose(self, greedy_B: np.ndarray, actions: int, step: int) -> np.ndarray:
        """The greedy actions, some of them replaced by drawn ones."""
        drawn_B = self.generator.integers(actions, size=len(greedy_B))
        return np.where(self.generator.random(len(greedy_B)) < self.epsilon(step), drawn_B, greedy_B)


class Updater:
    r"""Clips gradients and steps a rectified Adam (RAdam) by Adam's fused kernel.

    RAdam is Adam whose learning rate is multiplied by $r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
    {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}$, $\rho_t = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)$,
    $\rho_\infty = 2 / (1 - \beta_2) - 1$. Torch's own makes several passes over the weights for it, where one does.

    Args:
        network: what is updated.
        learning_rate: the highest.
        gradient_clip: largest norm of the gradient.

    Liu et al., 2020 (arXiv 1908.03265). Differs: the first updates, where $r_t$ has no real value, are left out
    (there it takes steps of plain momentum).
    """

    def __init__(self, network: nn.Module, learning_rate: float, gradient_clip: float) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.learning_rate, self.gradient_clip, self.updates = learning_rate, gradient_clip, 0
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, eps=1e-8, fused=True)

    def update(self, loss: Tensor, share: float = 1.0) -> Tensor:
        """One update along the gradient of a loss, at a share of the learning rate; the gradient's norm."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        self.updates += 1
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * share * rectification(self.updates)
        self.optimizer.step()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Both moments of each parameter."""
        state = self.optimizer.state
        names = ("exp_avg", "exp_avg_sq", "step")
        return {f"{n}.{i}": state[p][n] for i, p in enumerate(self.parameters) if p in state for n in names}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take them up again."""
        self.updates = updates
        for i, parameter in enumerate(self.parameters if updates else []):
            own = {name: tensors[f"{name}.{i}"].clone() for name in ("exp_avg", "exp_avg_sq", "step")}
            on = parameter.device
            self.optimizer.state[parameter] = {name: tensor.to(on) for name, tensor in own.items()}


def rectification(update: int, beta: float = 0.999) -> float:
    """RAdam's factor $r_t$ of the learning rate at the update of that number, from 1 on; 0 where it has none.

    >>> [round(rectification(update), 4) for update in (1, 6, 100, 100_000)]
    [0.0, 0.0258, 0.2153, 1.0]
    """
    longest = 2 / (1 - beta) - 1
    length = longest - 2 * update * beta**update / (1 - beta**update)
    if length <= 5:
        return 0.0
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt(ratio)


def q_values(network: PolicyNetwork, observation_B: Tensor, task: str | None, bf16: bool) -> Tensor:
    """Q in fp32; with `bf16` the layers before the head compute in bfloat16, twice as fast where processors have it.

    The head stays in fp32: actions often differ by less than the 0.4 % that bfloat16 rounds to.
    """
    if not bf16:
        return network(observation_B, task)
    with torch.autocast(observation_B.device.type, torch.bfloat16):
        features_BD = network.features(observation_B * network.config.scale)
    return network.heads[network.head(task)](features_BD.float())


def require_numbers(name: str, config: Any, *, whole: Mapping[str, int], shares: tuple[str, ...]) -> None:
    """Refuse a configuration with whole numbers below their least, or shares outside of 0 to 1.

    Raises:
        UserError: naming the field.
    """
    for field, least in whole.items():
        if not (isinstance(getattr(config, field), int) and getattr(config, field) >= least):
            raise UserError(
                f"{name}.{field}: expected a whole number from {least} on, got {getattr(config, field)}"
            )
    for field in shares:
        if not 0 <= getattr(config, field) <= 1:
            raise UserError(f"{name}.{field}: expected a number from 0 to 1, got {getattr(config, field)}")


def to_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A numpy array on a device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
