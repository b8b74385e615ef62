"""Functions of a linear map: quadratics, bowls in the plane, norms."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.problems.problem import Data, Parameters, Problem, normal

EPSILON = 1e-6
"""Keeps the slopes of powers below 1, and of logarithms, finite."""


def noise_suffix(noise: float) -> str:
    """What a noisy problem's name ends in.

    >>> noise_suffix(0.5), noise_suffix(0)
    ('-noise-0.5', '')
    """
    return f"-noise-{noise:g}" if noise else ""


class _Linear(Problem):
    """A function of W x - y, with W (n, n) and y of N(0, 1); as W has an inverse, W x = y has a solution."""

    def __init__(self, name: str, family: str, n: int, minimum: float, noise: float) -> None:
        if n < 1:
            raise UserError(f"{family}: expected at least 1 dimension, got {n}")
        shapes = {"weight": (n, n), "target": (n, 1)}
        super().__init__(name + noise_suffix(noise), family, [(n, 1)], minimum, noise, shapes)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        return {name: normal((batch, *shape), generator) for name, shape in self.data_shapes.items()}

    @staticmethod
    def residual(parameters: Parameters, data: Data) -> Float[Tensor, "B n 1"]:
        """W x - y."""
        return torch.baddbmm(data["target"], data["weight"], parameters[0], beta=-1)


class Quadratic(_Linear):
    r"""$f(x) = \tfrac12 \lVert W x - y \rVert^2$, W (n, n) and y (n) of N(0, 1), start N(0, 1).

    Args:
        n: parameters.
        noise: standard deviation on the gradient.

    >>> generator = torch.Generator().manual_seed(0)
    >>> instances = Quadratic(20, noise=0.5).draw(3, generator)
    >>> start = instances.initial(generator)
    >>> start[0].shape, instances.loss(start).shape, instances.gradient(start, generator)[0].shape
    (torch.Size([3, 20, 1]), torch.Size([3]), torch.Size([3, 20, 1]))

    Wichrowska et al., 2017 (arXiv 1703.04813): quadratic bowls with random coupling; released class Quadratic.
    """

    def __init__(self, n: int, noise: float = 0.0) -> None:
        super().__init__(f"quadratic-{n}", "quadratic", n, 0.0, noise)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """Half the squared length of the residual."""
        return 0.5 * self.residual(parameters, data).square().sum((1, 2))


class Norm(_Linear):
    r"""$f(x) = (\sum_i (|W x - y|_i + \epsilon)^p)^{1/p}$, $\epsilon = 10^{-6}$; lowest value
    $\epsilon n^{1/p}$.

    Args:
        n: parameters.
        power: p, at least 1.
        noise: standard deviation on the gradient.

    Raises:
        UserError: a power below 1.

    >>> Norm(25, 2).name, f"{Norm(25, 2).minimum:.1e}"
    ('norm-25-power-2', '5.0e-06')

    Wichrowska et al., 2017 (arXiv 1703.04813), released class Norm.
    """

    def __init__(self, n: int, power: float, noise: float = 0.0) -> None:
        if power < 1:
            raise UserError(f"norm: expected a power >= 1, got {power}")
        self.power = power
        super().__init__(f"norm-{n}-power-{power:g}", "norm", n, EPSILON * n ** (1 / power), noise)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The norm of the residual."""
        length = self.residual(parameters, data).abs() + EPSILON
        return (length**self.power).sum((1, 2)) ** (1 / self.power)


class Bowl(Problem):
    r"""$f(x) = \tfrac12 \lVert \sqrt{\mathrm{diag}(c, 1)}\, R(\alpha)\, x \rVert^2$ in the plane.

    Args:
        condition: c.
        angle: $\alpha$ in radians.
        noise: standard deviation on the gradient.

    Raises:
        UserError: a condition that is not positive.

    >>> Bowl(5, math.pi / 4).name
    'bowl-5-rotated'

    Wichrowska et al., 2017 (arXiv 1703.04813), released class Bowl.
    """

    def __init__(self, condition: float, angle: float = 0.0, noise: float = 0.0) -> None:
        if condition <= 0:
            raise UserError(f"bowl: expected a condition > 0, got {condition}")
        self.condition, self.angle = condition, angle
        name = f"bowl-{condition:g}{'-rotated' if angle else ''}{noise_suffix(noise)}"
        super().__init__(name, "bowl", [(2, 1)], 0.0, noise, {"matrix": (2, 2)})

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """The same matrix for every copy."""
        cosine, sine, root = math.cos(self.angle), math.sin(self.angle), math.sqrt(self.condition)
        rows = [[root * cosine, -root * sine], [sine, cosine]]
        return {"matrix": torch.tensor(rows, device=generator.device).repeat(batch, 1, 1)}

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """Half the squared length."""
        return 0.5 * (data["matrix"] @ parameters[0]).square().sum((1, 2))
