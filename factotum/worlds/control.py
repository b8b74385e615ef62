"""Particles that fall through a plane and are steered by two repellers: six numbers to be chosen, one score.

Local letters: P particles, R repellers, 2 coordinates of the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.worlds.functions import TestFunction


@dataclass(frozen=True)
class Particles:
    r"""Discrete dynamics of position p and velocity v, and a discounted reward.

    $v_{t+1} = (1 - c \Delta) v_t + \Delta (a + \sum_r k_r (p_t - q_r) / (|p_t - q_r|^2 + \epsilon^2)^{3/2}),
    \quad p_{t+1} = p_t + \Delta \, v_{t+1}, \quad r_t = \exp(-|p_t - g|^2 / 2 w^2)$

    Args:
        starts: p_0 of each particle; all start at rest, and rewards are averaged over them.
        goal: g.
        width: w.
        gravity: a.
        friction: c.
        softness: $\epsilon$, which keeps the force finite at a repeller.
        strength: k of a repeller whose third parameter is 1.
        interval: $\Delta$.
        steps: length of an episode.
        discount: of each step.
    """

    starts: tuple[tuple[float, float], ...] = ((0.25, 0.9), (0.3, 0.9), (0.35, 0.9))
    goal: tuple[float, float] = (0.75, 0.3)
    width: float = 0.25
    gravity: tuple[float, float] = (0.0, -1.0)
    friction: float = 1.0
    softness: float = 0.1
    strength: float = 0.1
    interval: float = 0.05
    steps: int = 60
    discount: float = 0.97

    def paths(
        self, place_NR2: Float[Tensor, "*N R 2"], strength_NR: Float[Tensor, "*N R"]
    ) -> tuple[Float[Tensor, "*N T P 2"], Float[Tensor, "*N T P 2"]]:
        """Positions and velocities of all particles after each step.

        Args:
            place_NR2: q of each repeller.
            strength_NR: k.

        Returns:
            Positions and velocities.
        """
        p = place_NR2.new_tensor(self.starts).expand(*place_NR2.shape[:-2], -1, -1)
        v = torch.zeros_like(p)
        gravity = place_NR2.new_tensor(self.gravity)
        positions, velocities = [], []
        for _ in range(self.steps):
            force = gravity + self._push(p, place_NR2, strength_NR)
            v = (1 - self.friction * self.interval) * v + self.interval * force
            p = p + self.interval * v
            positions.append(p)
            velocities.append(v)
        return torch.stack(positions, -3), torch.stack(velocities, -3)

    def _push(self, p_NP2: Tensor, place_NR2: Tensor, strength_NR: Tensor) -> Tensor:
        away_NPR2 = p_NP2[..., :, None, :] - place_NR2[..., None, :, :]
        cube_NPR = (away_NPR2.square().sum(-1) + self.softness**2) ** 1.5
        return ((strength_NR[..., None, :] / cube_NPR)[..., None] * away_NPR2).sum(-2)

    def cost(self, x: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N"]:
        r"""$-\sum_t \gamma^t r_t$, mean over particles, for parameters (x, y, strength) of each repeller in [0, 1].

        >>> Particles(steps=2).cost(torch.zeros(6)).shape
        torch.Size([])
        """
        parts_NR3 = x.unflatten(-1, (2, 3))
        positions, _ = self.paths(parts_NR3[..., :2], self.strength * parts_NR3[..., 2])
        square_NTP = (positions - x.new_tensor(self.goal)).square().sum(-1)
        reward_NT = torch.exp(-square_NTP / (2 * self.width**2)).mean(-1)
        discount_T = self.discount ** torch.arange(1, self.steps + 1, dtype=x.dtype, device=x.device)
        return -(reward_NT * discount_T).sum(-1)


REPELLERS = TestFunction(
    "Repellers",
    6,
    Particles().cost,
    -14.355219258127885,
    torch.tensor(
        [
            [0.12620586095737, 0.94923240261287, 1.0, 0.77715438743967, 0.05009340815887, 1.0],
            [0.77715438743967, 0.05009340815887, 1.0, 0.12620586095737, 0.94923240261287, 1.0],
        ],
        dtype=torch.float64,
    ),
    minimum_everywhere=False,
)
"""The problem with two repellers; its minimum is the best of 40,000 random points and 200 descents from them.

Chen et al., 2017, arXiv 1611.03824, control experiment, after Hoffman et al., 2009. Differs from the paper, which gives
neither dynamics nor reward: these are ours, chosen so that a random point is poor but not flat.
"""
