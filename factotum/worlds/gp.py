"""Batches of random, differentiable functions on the unit cube: Gaussian processes and much else.

Local letters: B functions, N points, D dimensions, M cosines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.bowls import Bowls, draw_bowls
from factotum.worlds.exact import ExactDraws as ExactDraws
from factotum.worlds.prior import KINDS, FunctionPrior, chance, log_uniform, uniform
from factotum.worlds.prior import broad_prior as broad_prior
from factotum.worlds.prior import paper_prior as paper_prior
from factotum.worlds.search import FunctionWorld as FunctionWorld
from factotum.worlds.warps import Inputs, Outputs, draw_inputs, draw_steps
from factotum.worlds.waves import Waves, add_cosines, draw_waves

CHUNK = 1 << 17
"""Cosines at a time while a batch is standardised: they stay in the processor's cache."""


@dataclass(frozen=True)
class Functions:
    r"""A batch of B functions, to be minimised: $f(x) = (T(h(v) + g(v)) - m) / s$, v = x rounded and warped.

    h is a bowl, g a sum of cosines, T a monotone warp, m and s standardise. A part that no function of the
    batch has is None and costs nothing.

    Args:
        waves: g.
        bowls: h.
        inputs: how coordinates are rounded and warped.
        outputs: T, m and s.
        noise_B: standard deviation of the observation noise.
        dimensions: D.
    """

    waves: Waves | None
    bowls: Bowls | None
    inputs: Inputs
    outputs: Outputs
    noise_B: Float[Tensor, " B"]
    dimensions: int

    def __len__(self) -> int:
        return len(self.noise_B)

    def __call__(self, x_BD: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Each function at its point, without noise; differentiable once in x."""
        return self.many(x_BD[:, None])[:, 0]

    def many(self, x_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        """Each function at its N points."""
        return self.outputs(self.raw(x_BND))

    def raw(self, x_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        """h + g, before the outputs are warped and scaled."""
        v_BND = self.inputs(x_BND)
        if self.bowls is None:
            assert self.waves is not None
            return self.waves(v_BND)
        return self.bowls(v_BND) if self.waves is None else self.bowls(v_BND) + self.waves(v_BND)

    def observe(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> Float[Tensor, " B"]:
        """Each function at its point, with its noise."""
        shape, device = self.noise_B.shape, generator.device
        normal_B = torch.randn(shape, generator=generator, device=device)
        return self(x_BD) + self.noise_B * normal_B.to(self.noise_B)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Functions:
        """The same functions elsewhere, or with other precision."""
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def __getitem__(self, index: slice) -> Functions:
        """Some of the functions."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Functions:
        def each(part: Any) -> Any:
            if part is None:
                return None
            return type(part)(*(None if tensor is None else change(tensor) for tensor in part))

        return Functions(
            each(self.waves),
            each(self.bowls),
            each(self.inputs),
            each(self.outputs),
            change(self.noise_B),
            self.dimensions,
        )


@torch.no_grad()
def draw_functions(
    prior: FunctionPrior, batch_size: int, dimensions: int, generator: torch.Generator
) -> Functions:
    r"""Independent functions from the prior, on the device of the generator.

    Args:
        prior: which functions.
        batch_size: B.
        dimensions: D.
        generator: source of all randomness.

    Returns:
        B functions of D coordinates.

    Raises:
        UserError: a batch size or a number of dimensions below 1.

    >>> functions = draw_functions(broad_prior(), 3, 2, torch.Generator().manual_seed(0))
    >>> functions(torch.rand(3, 2)).shape, functions.many(torch.rand(3, 5, 2)).shape
    (torch.Size([3]), torch.Size([3, 5]))

    Chen et al., 2017, arXiv 1611.03824, training function distribution. Differs from the
    paper: random Fourier features in place of exact draws (`ExactDraws` has those), and all kinds but "gp" are ours.
    """
    if batch_size < 1 or dimensions < 1:
        raise UserError(
            f"functions: expected at least 1 of at least 1 dimension, got {batch_size}, {dimensions}"
        )
    kinds = _kinds(prior, batch_size, generator)
    active_BD = _active(prior, batch_size, dimensions, generator)
    waves, bowls = None, None
    if not (kinds["quadratic"] | kinds["valley"]).all():
        waves = draw_waves(prior, kinds, active_BD, generator)
    if not kinds["gp"].all():
        bowls = draw_bowls(prior, kinds, active_BD, generator)
        if kinds["multimodal"].any() and waves is not None:
            waves = add_cosines(prior, waves, kinds["multimodal"], bowls.axes_BDD, bowls.offset_BD, generator)
    inputs = draw_inputs(prior, batch_size, dimensions, generator)
    outputs = draw_steps(prior, batch_size, generator)
    noise_B = log_uniform(prior.noise, (batch_size,), generator) * chance(prior.noisy, batch_size, generator)
    functions = Functions(waves, bowls, inputs, outputs, noise_B, dimensions)
    return _standardised(functions, prior, kinds, generator)


def _kinds(
    prior: FunctionPrior, batch_size: int, generator: torch.Generator
) -> dict[str, Bool[Tensor, " B"]]:
    weights = torch.tensor([prior.weights.get(name, 0.0) for name in KINDS], device=generator.device)
    kind_B = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    return {name: kind_B == index for index, name in enumerate(KINDS)}


def _active(
    prior: FunctionPrior, batch_size: int, dimensions: int, generator: torch.Generator
) -> Float[Tensor, "B D"]:
    """1 where a function depends on a coordinate, else 0."""
    order_BD = torch.rand(batch_size, dimensions, generator=generator, device=generator.device).argsort(-1)
    share_B1 = uniform(prior.active, (batch_size, 1), generator)
    share_B1 = torch.where(chance(prior.sparse, batch_size, generator)[:, None], share_B1, 1.0)
    return (order_BD < (share_B1 * dimensions).round().clamp(min=1)).float()


def _standardised(
    functions: Functions, prior: FunctionPrior, kinds: dict[str, Tensor], generator: torch.Generator
) -> Functions:
    """Bowls of standard deviation 1 before the waves are added; then the warped sum, over the cube."""
    tail_B = uniform(prior.tail, (len(functions),), generator)
    tail_B = tail_B * chance(prior.output_warp, len(functions), generator)
    if functions.bowls is None and not prior.standardised and not tail_B.any():
        return functions
    shape = len(functions), prior.points, functions.dimensions
    v_BND = functions.inputs(torch.rand(shape, generator=generator, device=generator.device))
    raw_BN = torch.zeros(shape[:2], device=generator.device)
    if functions.bowls is not None:
        bowl_BN = functions.bowls(v_BND)
        height_B = ~kinds["gp"] / bowl_BN.std(-1).clamp(min=1e-9)
        functions = replace(functions, bowls=functions.bowls._replace(height_B=height_B))
        raw_BN = height_B[:, None] * bowl_BN
    if functions.waves is not None:
        raw_BN = raw_BN + _in_chunks(functions.waves, v_BND)
    outputs = functions.outputs.standardised(raw_BN, tail_B, functions.dimensions)
    if not prior.standardised:
        outputs = outputs._replace(mean_B=None, scale_B=None)
    return replace(functions, outputs=outputs)


def _in_chunks(waves: Waves, v_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    rows = max(1, CHUNK // (v_BND.shape[1] * waves.phases_BM.shape[1]))
    if v_BND.is_cuda:
        return waves(v_BND)
    pieces = [
        Waves(*(tensor[at : at + rows] for tensor in waves))(v_BND[at : at + rows])
        for at in range(0, len(v_BND), rows)
    ]
    return torch.cat(pieces)
