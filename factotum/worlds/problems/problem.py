"""What a training problem is: B copies of one kind, drawn, started, measured and differentiated together.

It knows no optimizer. Local letters: B copies, N samples, F features; a problem's other letters are its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError

Data = dict[str, Tensor]
Parameters = Sequence[Tensor]
Shape = tuple[int, ...]

COPIES = "copies"
"""The tensor (zeros, one a copy) from which instances without data know their number, type and device."""


class Problem(ABC):
    r"""A kind of training problem: what it consists of, not one draw of it.

    Each copy is a function $f(\theta; d)$ of parameter tensors $\theta$ and its own random data d. Users call
    `draw`; a new kind overrides `loss` and, where it needs them, `data`, `start` and `minibatch`.

    Args:
        name: unique, as "quadratic-50-noise-1".
        family: which part of the corpus it belongs to.
        shapes: of the parameter tensors of one copy.
        minimum: greatest lower bound of f over all parameters, the same for every draw; None where it depends
            on the data and is not known, and then it is not negative.
        noise: standard deviation of the Gaussian noise on each entry of the gradient, one for all tensors
            or one a tensor.
        data_shapes: of the tensors that `data` returns, without the leading B.

    Attributes:
        size: scalars of one copy.

    Raises:
        UserError: negative noise, or not one value a tensor.

    Wichrowska et al., 2017 (arXiv 1703.04813): the ensemble of small training problems, and its released code
    (tensorflow/models, research/learned_optimizer/problems).
    """

    def __init__(
        self,
        name: str,
        family: str,
        shapes: Sequence[Shape],
        minimum: float | None = None,
        noise: float | Sequence[float] = 0.0,
        data_shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        self.name, self.family, self.minimum = name, family, minimum
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.noise = (float(noise),) * len(self.shapes) if isinstance(noise, int | float) else tuple(noise)
        self.data_shapes = dict(data_shapes or {})
        self.size = sum(torch.Size(shape).numel() for shape in self.shapes)
        if len(self.noise) != len(self.shapes) or min(self.noise, default=0.0) < 0:
            raise UserError(f"{name}: expected {len(self.shapes)} noise levels >= 0, got {self.noise}")

    def __repr__(self) -> str:
        return f"<{self.family} problem {self.name}: {self.size} parameters>"

    def draw(self, batch: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Instances:
        """Random copies: a pure function of the generator's state.

        Args:
            batch: B.
            generator: source of all randomness; the copies live on its device.
            dtype: of data and parameters; the draw is made in single precision and converted.

        Returns:
            B copies.

        Raises:
            UserError: no copies, or a type that is not floating.
        """
        if batch < 1:
            raise UserError(f"{self.name}: expected at least 1 copy, got {batch}")
        if not dtype.is_floating_point:
            raise UserError(f"{self.name}: expected a floating type, got {dtype}")
        copies_B = torch.zeros(batch, device=generator.device)
        return Instances(self, {COPIES: copies_B, **self.data(batch, generator)}).to(dtype=dtype)

    def restore(self, tensors: Mapping[str, Tensor]) -> Instances:
        """The instances that `Instances.tensors` were taken of.

        Raises:
            UserError: tensors that are not this problem's.
        """
        expected = {COPIES: (), **self.data_shapes}
        if set(tensors) != set(expected):
            raise UserError(f"{self.name}: expected tensors {sorted(expected)}, got {sorted(tensors)}")
        for name, shape in expected.items():
            whole = (*tensors[COPIES].shape[:1], *shape)
            if tuple(tensors[name].shape) != whole:
                raise UserError(
                    f"{self.name}: expected {name} of shape {whole}, got {tuple(tensors[name].shape)}"
                )
        # in memory of their own: rounding may depend on how a file's bytes were aligned
        return Instances(self, {name: tensor.clone() for name, tensor in tensors.items()})

    # -- what a kind of problem says of itself; each is a pure function, its randomness the generator's

    @abstractmethod
    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """f on the data, which are all of a copy's data or a minibatch of them."""

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Random data of B copies, on the generator's device; none by default."""
        return {}

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random parameters of B copies, on the generator's device: N(0, 1) by default."""
        return tuple(normal((batch, *shape), generator) for shape in self.shapes)

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        """The part of the data that one gradient sees; all by default."""
        return data

    def disturb(self, gradients: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
        """What is done to a gradient before an optimizer sees it: noise, by default."""
        return tuple(
            gradient + level * normal(gradient.shape, generator).to(gradient) if level else gradient
            for gradient, level in zip(gradients, self.noise, strict=True)
        )


class Instances:
    """B copies of one problem, each with data of its own; never changed.

    Args:
        problem: what they are copies of.
        data: tensors with leading B.

    Attributes:
        batch: B.
    """

    def __init__(self, problem: Problem, data: Data) -> None:
        self.problem, self.data, self.batch = problem, data, len(data[COPIES])

    def initial(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random start parameters, each (B, *shape), of the instances' type and device."""
        return tuple(part.to(self.data[COPIES]) for part in self.problem.start(self.batch, generator))

    def loss(self, parameters: Parameters) -> Float[Tensor, " B"]:
        """f on all data, without noise; differentiable twice.

        Args:
            parameters: one tensor (B, *shape) for each of the problem's shapes.

        Raises:
            UserError: other shapes.
        """
        self._require_shapes(parameters)
        return self.problem.loss(parameters, self.data)

    def gradient(
        self, parameters: Parameters, generator: torch.Generator, create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        r"""What an optimizer sees: $\nabla f$ on a random minibatch, with the problem's noise and sparsity.

        Args:
            parameters: as for `loss`; need not require gradients, and gradients may be switched off.
            generator: source of minibatch, noise and zeros.
            create_graph: keep the graph, so that the result can be differentiated by the parameters.

        Returns:
            One tensor for each parameter tensor.

        Raises:
            UserError: other shapes.
        """
        self._require_shapes(parameters)
        with torch.enable_grad():
            at = [p if create_graph and p.requires_grad else p.detach().requires_grad_() for p in parameters]
            loss_B = self.problem.loss(at, self.problem.minibatch(self.data, generator))
            gradients = torch.autograd.grad(
                loss_B.sum(), at, create_graph=create_graph, materialize_grads=True
            )
            return self.problem.disturb(gradients, generator)

    def tensors(self) -> dict[str, Tensor]:
        """All that is to be kept of them, each with leading B, so that rows can be picked and joined."""
        return dict(self.data)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Instances:
        """The same copies elsewhere or in another floating type."""
        moved = {
            name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            for name, tensor in self.data.items()
        }
        return Instances(self.problem, moved)

    def _require_shapes(self, parameters: Parameters) -> None:
        shapes = tuple(tuple(p.shape) for p in parameters)
        expected = tuple((self.batch, *shape) for shape in self.problem.shapes)
        if shapes != expected:
            raise UserError(f"{self.problem.name}: expected parameters of shapes {expected}, got {shapes}")


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """N(0, 1) on the generator's device.

    >>> normal((2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """U(0, 1) on the generator's device.

    >>> bool(uniform((100,), torch.Generator().manual_seed(0)).max() < 1)
    True
    """
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


def picked_rows(count: int, rows: int, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices that pick `count` random samples, with replacement, of `rows` for each copy of (B, N, ...) data.

    With replacement, because a gradient is a function of its generator alone: there are no epochs to keep.

    >>> data = torch.arange(6).view(2, 3)
    >>> data[picked_rows(5, 3, data, torch.Generator().manual_seed(0))].shape
    torch.Size([2, 5])
    """
    index_BM = torch.randint(rows, (len(like), count), generator=generator, device=generator.device)
    return torch.arange(len(like), device=like.device)[:, None], index_BM.to(like.device)
