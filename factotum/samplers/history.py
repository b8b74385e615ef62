"""What does the search know of the values? Features that no rescaling y -> a y + b, a > 0, can change.

What it does not know: networks, where values come from, how many evaluations are left.
Local letters: B functions in a batch, D dimensions, T steps so far, F features.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FEATURES = 9
"""rank, staleness; excess, improvement; magnitudes of both and of half, eighth and all values"""

SMALLEST = 1e-8
"""Ratios below it look alike to the features of magnitude."""


class Observation(NamedTuple):
    """What a core is told in one step: $(\\tilde x_{t-1}, \\tilde y_{t-1}, o_{t-1})$ and the budget.

    The first step tells nothing: x is the centre .5 and `observed_B` is False. A point that is still being
    evaluated comes with its own x and `observed_B` False. The order of steps is that of completion.
    """

    x_BD: Float[Tensor, "B D"]
    """where, in the unit cube"""
    y_B: Float[Tensor, " B"]
    """raw value, anything where not observed; double precision keeps small differences of large values"""
    observed_B: Bool[Tensor, " B"]
    """the paper's o_t"""
    remaining_B: Float[Tensor, " B"]
    """evaluations left, counting the one now to be proposed"""


class History(NamedTuple):
    """What has been seen; never changed in place."""

    sorted_BT: Float[Tensor, "B T"]
    """values in ascending order without gradient, inf for steps without a value"""
    count_B1: Float[Tensor, "B 1"]
    """values seen"""
    best_B1: Float[Tensor, "B 1"]
    """least value seen, inf where there is none"""
    best_x_BD: Float[Tensor, "B D"]
    """where it was seen first, the centre where there is none"""
    stale_B1: Float[Tensor, "B 1"]
    """values seen since the last improvement"""


def initial_history(batch_size: int, dimensions: int, device: torch.device | str | None = None) -> History:
    """Nothing seen yet.

    >>> initial_history(2, 3).best_x_BD.shape
    torch.Size([2, 3])
    """
    zero_B1 = torch.zeros(batch_size, 1, device=device)
    centre_BD = torch.full((batch_size, dimensions), 0.5, device=device)
    return History(zero_B1[:, :0], zero_B1, zero_B1 + torch.inf, centre_BD, zero_B1)


def first_observation(
    batch_size: int, dimensions: int, evaluations: int | float, device: torch.device | str | None = None
) -> Observation:
    """What the first step of a search is told.

    >>> told = first_observation(1, 2, 30.0)
    >>> told.x_BD.tolist(), told.observed_B.tolist(), told.remaining_B.tolist()
    ([[0.5, 0.5]], [False], [30.0])
    """
    zero_B = torch.zeros(batch_size, device=device)
    centre_BD = torch.full((batch_size, dimensions), 0.5, device=device)
    return Observation(centre_BD, zero_B, zero_B > 0, zero_B + evaluations)


def observe(observation: Observation, history: History) -> tuple[Float[Tensor, "B F"], History]:
    r"""Features of a new value among all values seen, and the history with it.

    With $v_{(1)} \le \dots \le v_{(n)}$ the values seen, the new one $y$ included, $m$ the best one before it and
    the unit $u = \max(v_{(\lfloor n/2 \rfloor + 1)} - v_{(1)},\ 2^{-10} (v_{(n)} - v_{(1)}))$:
    rank $(\#\{v < y\} - \#\{v > y\}) / (n - 1)$; staleness $\log(1 + s) / 5$ for s values since the last
    improvement; excess $\log(1 + (y - v_{(1)}) / u)$ and improvement $\log(1 + (m - v_{(1)}) / u)$; and the magnitudes
    $1 + \log(r / u + 10^{-8}) / \log 10^8$ of five lengths r: excess, improvement, and how far the best half, the best
    eighth and all values reach from $v_{(1)}$. All features are 0 in a step without a value.

    Where a y + b is free of rounding the features are the same bit by bit; else they differ as its rounding does.
    Gradients reach y and earlier best values through excess and improvement alone: the unit and the magnitudes are
    seen without gradient, which would grow like 1 / u as the search converges.

    Args:
        observation: of one step; y may be NaN where it is not observed.
        history: of the steps before.

    Returns:
        Features in the precision of x; the next history.

    >>> history = initial_history(1, 1)
    >>> for y in (3.0, 1.0, 2.0):
    ...     told = Observation(torch.tensor([[y / 10]]), torch.tensor([y]), torch.tensor([True]), torch.ones(1))
    ...     features, history = observe(told, history)
    >>> [round(float(f), 3) for f in features[0, [0, 2, 3]]]  # between the others, a unit above the best, no better
    [0.0, 0.693, 0.0]
    >>> history.best_B1.item(), round(history.best_x_BD.item(), 3)
    (1.0, 0.1)

    Reference: online normalisation as in RNN-Opt (arXiv 1907.06901), in another form.
    Differs from the paper (1611.03824), which feeds y as it is and so works at the training scale alone.
    """
    x_BD, y_B, observed_B, _ = observation
    observed_B1 = observed_B.unsqueeze(1)
    one_B1 = observed_B1.to(x_BD.dtype)
    y_B1 = y_B.unsqueeze(1).masked_fill(~observed_B1, torch.inf)
    better_B1 = y_B1 < history.best_B1
    after = History(
        torch.cat([history.sorted_BT, y_B1.detach()], 1).sort(1).values,
        history.count_B1 + one_B1,
        torch.minimum(history.best_B1, y_B1),
        torch.where(better_B1, x_BD, history.best_x_BD),
        (history.stale_B1 + one_B1).masked_fill(better_B1, 0.0),
    )
    gaps_B2 = (torch.cat([y_B1, history.best_B1], 1) - after.best_B1).nan_to_num(0.0, 0.0, 0.0)
    position_B2 = torch.cat([_rank(y_B1.detach(), history), after.stale_B1.log1p() * 0.2], 1)
    features_BF = torch.cat([position_B2, _lengths(gaps_B2, after, x_BD.dtype)], 1)
    return features_BF.masked_fill(~observed_B1, 0.0), after


def _rank(y_B1: Tensor, history: History) -> Tensor:
    """-1 best, 1 worst, 0 alone or equal to all."""
    sorted_BT = history.sorted_BT.to(y_B1.dtype)
    below_B1 = torch.searchsorted(sorted_BT, y_B1)
    not_above_B1 = torch.searchsorted(sorted_BT, y_B1, right=True)
    return (below_B1 + not_above_B1 - history.count_B1) / history.count_B1.clamp(min=1.0)


def _lengths(gaps_B2: Tensor, history: History, dtype: torch.dtype) -> Tensor:
    """Logarithms of gaps (with gradient) and of how far the values reach (without) in the unit u."""
    slope_3, offset_3, weight_3 = _orders(gaps_B2.device)
    order_B3 = torch.addcmul(offset_3, history.count_B1, slope_3).long()
    reach_B3 = history.sorted_BT.gather(1, order_B3) - history.best_B1.detach()
    unit_B1 = (reach_B3 * weight_3).amax(1, keepdim=True)
    unit_B1 = torch.where(unit_B1 > 0, unit_B1, 1.0)  # also where nothing was seen and reach is NaN
    lengths_B5 = (torch.cat([gaps_B2, reach_B3], 1) / unit_B1).to(dtype)
    magnitudes_B5 = (lengths_B5.detach() + SMALLEST).log() * (-1.0 / math.log(SMALLEST)) + 1.0
    return torch.cat([lengths_B5[:, :2].log1p(), magnitudes_B5], 1)


@cache
@torch.inference_mode(False)
def _orders(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Slope and offset of the order (0 is least) in n, rounded down, and weight in the unit: half, eighth, last."""
    numbers = [[0.5, 0.125, 1.0], [0.0, 0.75, -0.5], [1.0, 0.0, 2.0**-10]]
    return torch.tensor(numbers, device=device).unbind()  # type: ignore[return-value]
