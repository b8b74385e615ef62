"""How big? Sizes and readings of the hierarchical RNN (arXiv 1703.04813, section 3 and appendix)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from factotum.core.checks import UserError

Squash = Literal["asinh", "ratio"]
Normalise = Literal["rms", "norm"]
RelativeRate = Literal["problem", "tensor"]
GlobalInput = Literal["mean", "last"]


@dataclass(frozen=True)
class HierarchicalRNNConfig:
    """Sizes, and the choices in which the paper and its released code differ.

    Args:
        parameter_units: H, of the RNN that every scalar has a state of.
        tensor_units: of the RNN that every tensor has a state of.
        global_units: of the RNN that every problem has a state of.
        scales: S, averages of the gradient, each twice as long as the one before.
        gradient_products: products of neighbouring scaled averages are features too (released code).
        squash: "asinh" of the scaled averages (released code), or their plain "ratio" (paper).
        gradient_shortcut: the scaled averages add to the direction past the RNN (released code).
        normalise: divide the direction by its root mean square over the tensor ("rms", released code), or by its
            norm over the number of entries ("norm", paper).
        relative_rate: the mean that log learning rates are relative to, of the whole "problem" or of the "tensor".
        global_input: "mean" over tensors (paper), or the "last" tensor alone (released code, a slip).
        attention: gradients are taken at a location of its own (paper; off in the released code).
        least_rate: lower end of the random initial learning rates.
        greatest_rate: upper end.
        floor_steps: τ, steps after which learned rates may have fallen to a half, see `factotum.optim.pace`; 0 for no
            floor under them (paper, released code).
        fan_in: inputs of a unit above which the initial learning rates of its weights are lower in use, as the square
            root of their number; 0 for the same rates everywhere (paper, released code).

    Raises:
        UserError: a size below 1, an unknown choice, or rates that are not 0 < least <= greatest.

    >>> HierarchicalRNNConfig().features, HierarchicalRNNConfig(gradient_products=False).features
    (12, 9)
    """

    parameter_units: int = 10
    tensor_units: int = 20
    global_units: int = 20
    scales: int = 4
    gradient_products: bool = True
    squash: Squash = "asinh"
    gradient_shortcut: bool = True
    normalise: Normalise = "rms"
    relative_rate: RelativeRate = "problem"
    global_input: GlobalInput = "mean"
    attention: bool = False
    least_rate: float = 1e-6
    greatest_rate: float = 1e-2
    floor_steps: int = 0
    fan_in: int = 0

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("parameter_units", "tensor_units", "global_units", "scales"), 1)
        for name, least in {**sizes, "floor_steps": 0, "fan_in": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        for name in ("gradient_products", "gradient_shortcut", "attention"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        for name, choice in CHOICES.items():
            if getattr(self, name) not in get_args(choice):
                known = ", ".join(get_args(choice))
                raise UserError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        rates = (self.least_rate, self.greatest_rate)
        if not (
            all(isinstance(rate, int | float) for rate in rates) and 0 < rates[0] <= rates[1] < float("inf")
        ):
            raise UserError(
                f"rates: expected 0 < least_rate <= greatest_rate, got {rates[0]!r} and {rates[1]!r}"
            )

    @property
    def features(self) -> int:
        """F: scaled averages, their products, relative log magnitudes, relative log learning rate."""
        products = self.scales - 1 if self.gradient_products else 0
        return 2 * self.scales + products + 1


CHOICES = {
    "squash": Squash,
    "normalise": Normalise,
    "relative_rate": RelativeRate,
    "global_input": GlobalInput,
}


def code_config(*, attention: bool = False) -> HierarchicalRNNConfig:
    """The reading of the released code: 8,349 weights, 8,363 with attention.

    >>> code_config().global_input
    'last'
    """
    return HierarchicalRNNConfig(global_input="last", attention=attention)


def paper_config(*, attention: bool = True) -> HierarchicalRNNConfig:
    """The reading of the paper: 8,085 weights, 8,075 without attention.

    >>> paper_config().features
    9
    """
    return HierarchicalRNNConfig(
        gradient_products=False,
        squash="ratio",
        gradient_shortcut=False,
        normalise="norm",
        attention=attention,
    )


def shipped_config(*, attention: bool = False) -> HierarchicalRNNConfig:
    """What the shipped weights are trained with: the released code's features, the paper's global input.

    Initial learning rates are higher than the paper's, whose first forty steps went by until they had grown, but
    lower for units of many inputs; a floor under learned rates keeps it from stalling.

    >>> shipped_config().least_rate, shipped_config().greatest_rate, shipped_config().floor_steps
    (0.001, 0.1, 300)
    """
    return HierarchicalRNNConfig(
        attention=attention, least_rate=1e-3, greatest_rate=1e-1, floor_steps=300, fan_in=16
    )
