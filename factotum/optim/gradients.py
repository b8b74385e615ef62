"""What gradients must be like before a step may begin; nothing is changed by looking.

What it does not know: state, the learned rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim import native
from factotum.optim.sharding import check_placements, groups_of, is_split, like_parameter, sum_over_ranks


class Given(NamedTuple):
    """A parameter with its gradient, and the group it is of."""

    name: str
    parameter: Tensor
    gradient: Tensor
    """this process's part"""
    group: int


def check_gradient(parameter: Tensor, name: str) -> Tensor:
    """This process's part of a parameter's gradient.

    Raises:
        UserError: a sparse or complex gradient, or one of another shape.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> w.sum().backward()
    >>> check_gradient(w, "w")
    tensor([1., 1.])
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout != torch.strided:
        kind = "sparse" if gradient.is_sparse else str(gradient.layout)
        raise UserError(
            f"{name}: expected a dense gradient, got a {kind} one (an embedding with sparse=True?)"
        )
    if not gradient.is_floating_point() or not parameter.is_floating_point():
        raise UserError(
            f"{name}: expected real floating-point numbers, got {parameter.dtype} with a gradient of {gradient.dtype}"
            " (complex parameters: optimize torch.view_as_real of them)"
        )
    if gradient.shape != parameter.shape:
        shapes = f"{tuple(parameter.shape)}, got {tuple(gradient.shape)}"
        raise UserError(f"{name}: expected a gradient of the parameter's shape {shapes}")
    check_placements(parameter, name)
    if is_split(gradient) != is_split(parameter):
        raise UserError(f"{name}: expected parameter and gradient to be both DTensors or none, got one")
    return like_parameter(gradient, parameter)


def all_finite(givens: Sequence[Given]) -> Bool[Tensor, ""]:
    """Whether all gradients of all processes are finite, on the device of the first."""
    return _unsound(givens).sum() == 0


def require_finite(givens: Sequence[Given], kernel: native.Kernel | None = None) -> None:
    """Refuse gradients that are not finite; one read of the device.

    Args:
        givens: the gradients.
        kernel: looks at those that it can work on, in less time.

    Raises:
        UserError: naming the first tensor.
    """
    bad = _unsound(givens, kernel).tolist()
    names = [given.name for given, unsound in zip(givens, bad, strict=True) if unsound]
    if names:
        others = f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
        raise UserError(
            f"gradient of {names[0]}{others}: expected finite numbers, got NaN or infinity; "
            "parameters and state are as before"
        )


@torch.no_grad()
def _unsound(givens: Sequence[Given], kernel: native.Kernel | None = None) -> Tensor:
    """For each tensor, in how many processes its gradient is not finite."""
    home = givens[0].gradient.device
    filled = [given.gradient for given in givens if given.gradient.numel()]
    if kernel is not None and native.fits(*filled):
        sound = iter(native.finite(kernel, filled).unbind())
    else:
        # The largest magnitude is infinite or NaN exactly where an entry is.
        sound = iter(
            [norm.isfinite() for norm in torch._foreach_norm(filled, float("inf"))] if filled else []
        )
    flags = [
        (~next(sound)).to(home, torch.float32)
        if given.gradient.numel()
        else torch.zeros((), dtype=torch.float32, device=home)
        for given in givens
    ]
    flags_N1 = torch.stack(flags)[:, None]
    sum_over_ranks(flags_N1, [groups_of(given.parameter) for given in givens])
    return flags_N1[:, 0]
