"""Rounding to bfloat16 that is right on average, so that slow averages in half of the memory still move.

An average with decay .99 changes by a hundredth of its distance; bfloat16 keeps 8 bits, and rounding to the nearest
would lose most such changes. Here a number is rounded up with the probability of what it lies above the lower one.
The random bits are a hash of position and step: the same after resuming, and free of generators.
What it does not know: what is rounded.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def round_randomly(
    x_LP: Float[Tensor, "*L P"], step_P: Float[Tensor, " P"], offset: int, stream: int
) -> Float[Tensor, "*L P"]:
    """Round single precision numbers to ones that bfloat16 can hold.

    Args:
        x_LP: finite numbers, positions in the last dimension.
        step_P: step count at each position.
        offset: position of the first.
        stream: another number gives other bits for the same positions and steps.

    >>> x = torch.full((100_000,), 1 + 2**-10)
    >>> rounded = round_randomly(x, torch.zeros(100_000), 0, 0)
    >>> sorted(set(rounded.tolist())), round(rounded.double().mean().item(), 4)
    ([1.0, 1.0078125], 1.001)
    """
    position_P = torch.arange(offset, offset + x_LP.shape[-1], device=x_LP.device)
    bits_P = _hash(position_P * 2654435761 + step_P.long() * 40503 + stream * 7919)
    rows = (
        torch.arange(x_LP[..., 0].numel(), device=x_LP.device) if x_LP.dim() > 1 else position_P.new_zeros(())
    )
    noise_LP = _hash(bits_P + rows.reshape(*x_LP.shape[:-1], 1) * 97) if x_LP.dim() > 1 else bits_P
    low_LP = (noise_LP & 0xFFFF).to(torch.int32)
    whole = x_LP.float().contiguous().view(torch.int32) + low_LP
    return (whole & -0x10000).view(torch.float32)


def _hash(x: Tensor) -> Tensor:
    """32 well mixed bits of whole numbers (the finaliser of MurmurHash3)."""
    x = x & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x
