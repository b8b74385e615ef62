"""From scores to ids: greedy, temperature, top-k, and guidance by a condition.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factotum.core.checks import UserError


@dataclass(frozen=True)
class Sampling:
    """How an id is drawn from scores.

    Args:
        temperature: 0 takes the likeliest id; above 0 divides the scores.
        top_k: only the k likeliest ids can be drawn; None allows all.

    Raises:
        UserError: a negative or infinite temperature, or a top_k below 1.
    """

    temperature: float = 0.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature: expected a finite number >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k: expected at least 1, got {self.top_k}")


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by what one component knows.

    Args:
        condition: name of the component that the unconditional pass is not given.
        weight: w; 0 is the plain conditional model, -1 the unconditional one, above 0 follows the condition more.

    Raises:
        UserError: a weight that is not finite.
    """

    condition: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.weight) < float("inf"):
            raise UserError(f"guidance: expected a finite weight, got {self.weight}")


def guide(
    with_BV: Float[Tensor, "B V"], without_BV: Float[Tensor, "B V"], weight: float
) -> Float[Tensor, "B V"]:
    r"""Scores pushed along what the condition changes: $l_c + w (l_c - l_u)$.

    The paper binds actions to the instruction so (by a secondary source); the form is the usual one of
    classifier-free guidance (arXiv 2207.12598) for scores of discrete ids.

    >>> guide(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), 2.0)
    tensor([[3., 0.]])
    """
    given = with_BV.float()
    return given + weight * (given - without_BV.float())


def choose(
    scores_BV: Float[Tensor, "B V"], sampling: Sampling, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """One id a row.

    Raises:
        UserError: sampling without a generator, or scores that are not numbers.

    >>> scores = torch.tensor([[0.0, 2.0, 1.0]])
    >>> choose(scores, Sampling()).item()
    1
    >>> draw = Sampling(temperature=1.0, top_k=1)
    >>> choose(scores, draw, torch.Generator().manual_seed(0)).item()
    1
    """
    if bool(scores_BV.isnan().any()):
        raise UserError("scores: expected numbers, got NaN")
    if sampling.temperature == 0.0:
        return scores_BV.argmax(-1)
    if generator is None:
        raise UserError("sampling at a temperature above 0: expected a generator, got None")
    scores_BV = scores_BV.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores_BV.shape[-1]:
        least_B1 = scores_BV.topk(sampling.top_k, -1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, float("-inf"))
    weights_BV = scores_BV.softmax(-1).to(generator.device)
    return torch.multinomial(weights_BV, 1, generator=generator)[:, 0].to(scores_BV.device)
