"""Problems that can only be solved slowly, and quadratics that are known only through minibatches.

Local letters: B copies, N samples, n parameters.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.problems.problem import Data, Parameters, Problem, normal, picked_rows, uniform
from factotum.worlds.problems.quadratics import EPSILON

FLOOR = 1e-12
"""What losses whose lowest value would be 0 have there."""


class MinMaxWell(Problem):
    r"""$f(x) = \max_i x_i^2 + 1 / \min_i x_i^2 - 2 + 10^{-12}$: only two entries have a gradient.

    Args:
        n: parameters.

    >>> MinMaxWell(20).draw(1, torch.Generator()).loss([torch.ones(1, 20)]) == FLOOR
    tensor([True])

    Wichrowska et al., 2017 (arXiv 1703.04813): slow convergence; released class MinMaxWell.
    """

    def __init__(self, n: int) -> None:
        super().__init__(f"min-max-well-{n}", "slow", [(n,)], FLOOR)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The same number as max - min + (min - 1)^2 / min, which rounding does not take below 0."""
        low_B, high_B = torch.aminmax(parameters[0].square(), dim=-1)
        return (high_B - low_B) + (low_B - 1).square() / low_B + FLOOR


class DependencyChain(Problem):
    r"""$f(x) = x_0^2 + \sum_{i=1}^n x_i^2 / (x_{i-1}^2 + 10^{-6})$: each entry can only go to 0 after the one
    before it.

    Args:
        n: links, one fewer than parameters.

    >>> DependencyChain(20).shapes
    ((21,),)

    Wichrowska et al., 2017 (arXiv 1703.04813): slow convergence; released class DependencyChain, whose data
    set is not used.
    """

    def __init__(self, n: int) -> None:
        super().__init__(f"dependency-chain-{n}", "slow", [(n + 1,)], 0.0)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The sum over the chain."""
        square = parameters[0].square()
        return square[:, 0] + (square[:, 1:] / (square[:, :-1] + EPSILON)).sum(-1)


class _Sampled(Problem):
    """f depends on the samples (N, n) only through a mean over them, `statistic`, so that alone is computed."""

    def __init__(
        self, kind: str, family: str, n: int, samples: int, batch: int, shape: tuple[int, ...], minimum: float
    ) -> None:
        if batch < 1 or samples < 2 or samples % 2:
            raise UserError(
                f"{kind}: expected an even number of samples and a batch >= 1, got {samples}, {batch}"
            )
        self.n, self.samples, self.samples_a_batch = n, samples, batch
        data_shapes = {"samples": self.stored_shape(), "mean": (n,)}
        super().__init__(f"{kind}-{n}-batch-{batch}", family, [shape], minimum, 0.0, data_shapes)

    def stored_shape(self) -> tuple[int, ...]:
        return (self.samples, self.n)

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        rows = picked_rows(self.samples_a_batch, self.samples, data["mean"], generator)
        return {"mean": self.statistic(data["samples"][rows].to(data["mean"]))}

    def statistic(self, samples: Float[Tensor, "B N n"]) -> Float[Tensor, "B n"]:
        return samples.mean(1)


class OutwardSnake(_Sampled):
    r"""$f(x) = \overline{d_0} / (\lVert x \rVert + 10^{-6}) + \sum_i \overline{d_{i+1}} (x_{i+1} - \pi \cos x_i)^2$

    with d random bits: a winding path out to infinity, where the step length that is best stays the same.

    Args:
        n: parameters.
        samples: N, even.
        batch: samples of a minibatch.

    >>> OutwardSnake(20, 1000, 100).name
    'outward-snake-20-batch-100'

    Wichrowska et al., 2017 (arXiv 1703.04813): slow convergence; released class OutwardSnake.

    Differs from the released code: the mean over the samples, not their sum, so that a minibatch's gradient has
    the right expectation whatever its size.
    """

    def __init__(self, n: int, samples: int, batch: int) -> None:
        super().__init__("outward-snake", "slow", n, samples, batch, (n,), 0.0)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Random bits, kept as such."""
        bits = uniform((batch, self.samples, self.n), generator) < 0.5
        return {"samples": bits, "mean": self.statistic(bits.float())}

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """Pressure outward, and the walls."""
        x = parameters[0]
        outward_B = data["mean"][:, 0] / (torch.linalg.vector_norm(x, dim=-1) + EPSILON)
        wall = (x[:, 1:] - math.pi * x[:, :-1].cos()).square()
        return outward_B + (wall * data["mean"][:, 1:]).sum(-1)


class _Symmetric(_Sampled):
    """Samples z of N(0, 1) and all -z; only one half is kept."""

    def stored_shape(self) -> tuple[int, ...]:
        return (self.samples // 2, self.n)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        half = normal((batch, *self.stored_shape()), generator)
        return {"samples": half, "mean": self.mean_of_all(half)}

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        rows, index = picked_rows(self.samples_a_batch, self.samples, data["mean"], generator)
        half = self.samples // 2
        sign = torch.where(index < half, 1.0, -1.0).to(data["mean"])
        return {"mean": self.statistic(data["samples"][rows, index % half] * sign[..., None])}

    def mean_of_all(self, half: Float[Tensor, "B N n"]) -> Float[Tensor, "B n"]:
        return self.statistic(half)


class SumOfQuadratics(_Symmetric):
    r"""$f(x) = \overline{\lVert x - z \rVert^2 - \lVert z \rVert^2} + 10^{-12}$ over samples z and -z: on all
    of them $\lVert x \rVert^2$, on a minibatch a quadratic with its lowest point elsewhere.

    Args:
        n: parameters.
        samples: N, even.
        batch: samples of a minibatch.

    >>> SumOfQuadratics(3, 10, 5).draw(1, torch.Generator()).loss([torch.ones(1, 1, 3)]).item()
    3.0

    Wichrowska et al., 2017 (arXiv 1703.04813): minibatch problems; released class SumOfQuadratics.

    Differs from the released code: the mean over the samples, not their sum; multiplied out, so that it is not
    the small difference of large numbers.
    """

    def __init__(self, n: int, samples: int, batch: int) -> None:
        super().__init__("sum-of-quadratics", "minibatch", n, samples, batch, (1, n), FLOOR)

    def mean_of_all(self, half: Float[Tensor, "B N n"]) -> Float[Tensor, "B n"]:
        """Exactly 0."""
        return torch.zeros_like(half[:, 0])

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The mean over the samples."""
        x = parameters[0][:, 0]
        return x.square().sum(-1) - 2 * (x * data["mean"]).sum(-1) + FLOOR


class ProjectionQuadratic(_Symmetric):
    r"""$f(x) = \overline{\sum_i (x_i z_i)^2}$: each sample is a direction to probe.

    Args:
        n: parameters.
        samples: N, even.
        batch: samples of a minibatch.

    >>> ProjectionQuadratic(20, 1000, 100).shapes
    ((1, 20),)

    Wichrowska et al., 2017 (arXiv 1703.04813): minibatch problems; released class ProjectionQuadratic.

    Differs from the released code: the mean over the samples, not their sum.
    """

    def __init__(self, n: int, samples: int, batch: int) -> None:
        super().__init__("projection-quadratic", "minibatch", n, samples, batch, (1, n), 0.0)

    def statistic(self, samples: Float[Tensor, "B N n"]) -> Float[Tensor, "B n"]:
        """The mean square of each entry."""
        return samples.square().mean(1)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The mean over the samples."""
        return (parameters[0][:, 0].square() * data["mean"]).sum(-1)
