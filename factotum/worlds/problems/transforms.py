"""Problems made of others: in other units, of a logarithm, with most of the gradient missing, of a sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.problems.problem import Data, Parameters, Problem, uniform
from factotum.worlds.problems.quadratics import EPSILON


class _Transformed(Problem):
    """All but the loss and what happens to gradients is the inner problem's."""

    def __init__(self, name: str, family: str, inner: Problem, minimum: float | None) -> None:
        self.inner = inner
        super().__init__(name, family, inner.shapes, minimum, inner.noise, inner.data_shapes)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        return self.inner.data(batch, generator)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.inner.start(batch, generator)

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        return self.inner.minibatch(data, generator)

    def disturb(self, gradients: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.inner.disturb(gradients, generator)


class Rescaled(_Transformed):
    r"""$f(\theta) = g(\theta / s)$, started at s times g's start: the same problem in other units.

    Args:
        inner: g.
        scale: s, positive.

    Raises:
        UserError: a scale that is not positive.

    >>> from factotum.worlds.problems.quadratics import Quadratic
    >>> Rescaled(Quadratic(20), 0.1).name
    'quadratic-20-scale-0.1'

    Wichrowska et al., 2017 (arXiv 1703.04813): transformed problems; released class Rescale.
    """

    def __init__(self, inner: Problem, scale: float) -> None:
        if not scale > 0:
            raise UserError(f"{inner.name}: expected a scale > 0, got {scale}")
        self.scale = scale
        super().__init__(f"{inner.name}-scale-{scale:g}", "rescale", inner, inner.minimum)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The inner start, in the new units."""
        return tuple(part * self.scale for part in self.inner.start(batch, generator))

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The inner loss, in the old units."""
        return self.inner.loss([part / self.scale for part in parameters], data)


class LogObjective(_Transformed):
    r"""$f(\theta) = \log(g(\theta) + \epsilon) - \log \epsilon$, $\epsilon = 10^{-6}$.

    Args:
        inner: g, nowhere negative.

    >>> from factotum.worlds.problems.quadratics import Bowl
    >>> LogObjective(Bowl(5)).name
    'log-bowl-5'

    Wichrowska et al., 2017 (arXiv 1703.04813): transformed problems; released class LogObjective.
    """

    def __init__(self, inner: Problem) -> None:
        minimum = None if inner.minimum is None else math.log1p(inner.minimum / EPSILON)
        super().__init__(f"log-{inner.name}", "log", inner, minimum)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The logarithm of the inner loss."""
        return torch.log1p(self.inner.loss(parameters, data) / EPSILON)


class SparseGradient(_Transformed):
    """The inner problem, but each entry of each gradient is set to 0 with a probability (noise included).

    Args:
        inner: any problem.
        share: that probability.

    Raises:
        UserError: a share outside [0, 1].

    >>> from factotum.worlds.problems.quadratics import Quadratic
    >>> SparseGradient(Quadratic(50)).name
    'sparse-quadratic-50'

    Wichrowska et al., 2017 (arXiv 1703.04813): transformed problems; released class SparseProblem.
    """

    def __init__(self, inner: Problem, share: float = 0.99) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"{inner.name}: expected a share of zeros in [0, 1], got {share}")
        self.share = share
        super().__init__(f"sparse-{inner.name}", "sparse", inner, inner.minimum)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The inner loss."""
        return self.inner.loss(parameters, data)

    def disturb(self, gradients: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise, then zeros; also where the gradient is not finite."""
        noisy = self.inner.disturb(gradients, generator)
        return tuple(
            g.masked_fill((uniform(g.shape, generator) < self.share).to(g.device), 0.0) for g in noisy
        )


class SumTask(Problem):
    r"""$f(\theta_1, \dots, \theta_K) = \sum_k g_k(\theta_k)$: independent problems trained as one.

    Args:
        name: what it is called.
        parts: the $g_k$; each keeps its own noise, sparsity, data and start.

    Raises:
        UserError: no parts.

    >>> from factotum.worlds.problems.quadratics import Quadratic
    >>> SumTask("pair", [Quadratic(2), Quadratic(3)]).shapes
    ((2, 1), (3, 1))

    Wichrowska et al., 2017 (arXiv 1703.04813): transformed problems; released class SumTask.

    Differs from the released code: there the noise of the parts is forgotten, so that the noisy sums have none.
    """

    def __init__(self, name: str, parts: Sequence[Problem]) -> None:
        if not parts:
            raise UserError(f"{name}: expected at least one part, got none")
        self.parts = tuple(parts)
        known = [part.minimum for part in self.parts]
        super().__init__(
            name,
            "sum",
            [shape for part in self.parts for shape in part.shapes],
            None if None in known else math.fsum(low for low in known if low is not None),
            [level for part in self.parts for level in part.noise],
            {f"{k}/{key}": s for k, part in enumerate(self.parts) for key, s in part.data_shapes.items()},
        )

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Each part's, under its number."""
        drawn = [part.data(batch, generator) for part in self.parts]
        return {f"{k}/{key}": tensor for k, of_part in enumerate(drawn) for key, tensor in of_part.items()}

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Each part's, in turn."""
        return tuple(tensor for part in self.parts for tensor in part.start(batch, generator))

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        """Each part's own."""
        chosen = [
            part.minibatch(of_part, generator)
            for part, of_part in zip(self.parts, self._data_of_parts(data), strict=True)
        ]
        return {f"{k}/{key}": tensor for k, of_part in enumerate(chosen) for key, tensor in of_part.items()}

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The sum of the parts' losses."""
        groups = zip(self.parts, self._split(parameters), self._data_of_parts(data), strict=True)
        return torch.stack([part.loss(own, of_part) for part, own, of_part in groups]).sum(0)

    def disturb(self, gradients: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Each part's own noise and zeros."""
        groups = zip(self.parts, self._split(gradients), strict=True)
        return tuple(tensor for part, own in groups for tensor in part.disturb(own, generator))

    def _split(self, tensors: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        groups, begin = [], 0
        for part in self.parts:
            groups.append(tensors[begin : begin + len(part.shapes)])
            begin += len(part.shapes)
        return groups

    def _data_of_parts(self, data: Data) -> list[Data]:
        groups: list[Data] = [{} for _ in self.parts]
        for key, tensor in data.items():
            number, slash, rest = key.partition("/")
            if slash:
                groups[int(number)][rest] = tensor
        return groups
