"""What does one step compute? Convolutions, dense layers, one head a task: an observation to a number for each action.

Local letters: O axes of an observation, which are C channels, H height, W width of a picture, or F of a vector.
Observations are of any type; the network scales them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.distill.config import PolicyConfig

LEAST_VARIANCE = 1e-4
"""Added to variances, so that what hardly varies is not blown up: a hundredth counts as one."""

MOST_DEVIATIONS = 5.0
"""Standardised entries are cut here: what varies for the first time must not tear what was learnt before."""


class PolicyNetwork(nn.Module):
    """The paper's networks: what the tasks share (`features`) and a head for each of them.

    Args:
        config: sizes.

    >>> from factotum.distill.config import net3
    >>> network = PolicyNetwork(net3({"Pong": 6, "Breakout": 4}))
    >>> network(torch.zeros(2, 4, 84, 84, dtype=torch.uint8), "Breakout").shape
    torch.Size([2, 4])

    Rusu et al., 2015 (arXiv 1511.06295), appendix.

    Differs from the paper: weights start orthogonal, with gain sqrt(2) before a ReLU and 1 at the outputs; it says
    nothing about them. Layer norm, for teachers trained without a target network, is not the paper's.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.tasks = tuple(config.actions)
        self.features, width = _features(config)
        self.heads = nn.ModuleList(_head(config, width, count) for count in config.actions.values())
        initialise(self)

    def forward(self, observation: Shaped[Tensor, " B *O"], task: str | None = None) -> Float[Tensor, "B A"]:
        """Numbers for each action of a task, `B A`.

        Args:
            observation: `B C H W` or `B F`. To a network of several tasks, pictures with fewer channels than its own
                may be given: the missing ones are zeros, since MinAtar's games differ in channels.
            task: whose head; may be left out where there is one.

        Raises:
            UserError: an unknown task, or observations of another shape.
        """
        x = self._fitting(observation)
        return self.heads[self.head(task)](self.features(x.float() * self.config.scale))

    def head(self, task: str | None) -> int:
        """The index of a task's head.

        Raises:
            UserError: an unknown task, or none where there are several.
        """
        if task is None and len(self.tasks) == 1:
            return 0
        if task is None:
            raise UserError(f"task: expected one of {', '.join(self.tasks)}, got none")
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        return self.tasks.index(task)

    @property
    def parameter_count(self) -> int:
        """All weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _fitting(self, observation: Tensor) -> Tensor:
        expected, got = self.config.observation_shape, tuple(observation.shape[1:])
        if got == expected:
            return observation
        if len(self.tasks) > 1 and len(got) == 3 and got[1:] == expected[1:] and got[0] < expected[0]:
            return F.pad(observation, (0, 0, 0, 0, 0, expected[0] - got[0]))
        raise UserError(
            f"observations: expected shape (B, {str(expected)[1:]}, got {tuple(observation.shape)}"
        )


class Standardise(nn.Module):
    """Entries of a vector less their mean, over their deviation: running ones of all that was seen in training.

    y_f = (x_f - m_f) / sqrt(v_f + 1e-4), cut to [-5, 5]

    Args:
        features: F.

    >>> layer = Standardise(1)
    >>> layer(torch.tensor([[1.0], [3.0]])).round(decimals=3).tolist(), layer.eval()(torch.tensor([[2.0]])).item()
    ([[-1.0], [1.0]], 0.0)
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BF: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """The standardised entries, `B F`; in training they count first."""
        if self.training:
            self._count(x_BF.detach())
        standard_BF = (x_BF - self.mean) / (self.variance + LEAST_VARIANCE).sqrt()
        return standard_BF.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)

    @torch.no_grad()
    def _count(self, x_BF: Tensor) -> None:
        """Merge the mean and the variance of a batch into those of all before (Chan et al., 1979)."""
        self.seen += len(x_BF)
        share = len(x_BF) / self.seen
        apart_F = x_BF.mean(0) - self.mean
        spread_F = x_BF.var(0, unbiased=False) - self.variance
        self.variance += share * (spread_F + (1 - share) * apart_F.square())
        self.mean += share * apart_F


def _features(config: PolicyConfig) -> tuple[nn.Sequential, int]:
    channels = config.observation_shape[0]
    layers: list[nn.Module] = [Standardise(channels)] if config.standardise else []
    for (made, kernel, stride), shape in zip(config.convolutions, config.convolved_shapes(), strict=True):
        layers.append(nn.Conv2d(channels, made, kernel, stride))
        layers += [nn.LayerNorm(shape), nn.ReLU()] if config.layer_norm else [nn.ReLU()]
        channels = made
    if len(config.observation_shape) == 3:
        layers.append(nn.Flatten())
    width = math.prod(config.convolved_shapes()[-1] if config.convolutions else config.observation_shape)
    layers += _dense(width, config.hidden, config.layer_norm)
    return nn.Sequential(*layers), (width, *config.hidden)[-1]


def _head(config: PolicyConfig, width: int, count: int) -> nn.Sequential:
    hidden = _dense(width, config.head_hidden, config.layer_norm)
    return nn.Sequential(*hidden, nn.Linear((width, *config.head_hidden)[-1], count))


def _dense(width: int, hidden: tuple[int, ...], layer_norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for made in hidden:
        layers.append(nn.Linear(width, made))
        layers += [nn.LayerNorm(made), nn.ReLU()] if layer_norm else [nn.ReLU()]
        width = made
    return layers


def initialise(network: PolicyNetwork) -> None:
    """Draw all weights anew from torch's global generator."""
    outputs = {id(head[-1]) for head in network.heads}  # type: ignore[index]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight, 1.0 if id(module) in outputs else math.sqrt(2))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
