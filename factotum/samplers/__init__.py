"""A learned optimizer of black-box functions for small budgets (arXiv 1611.03824)."""

from typing import TYPE_CHECKING, Any

from factotum.samplers.config import SamplerConfig as SamplerConfig
from factotum.samplers.minimize import minimize as minimize
from factotum.samplers.model import load_core as load_core
from factotum.samplers.model import make_core as make_core
from factotum.samplers.model import save_core as save_core

if TYPE_CHECKING:
    from factotum.samplers.sampler import RNNSampler as RNNSampler


def __getattr__(name: str) -> Any:
    """`RNNSampler` when it is asked for: the rest needs no Optuna."""
    if name == "RNNSampler":
        from factotum.samplers.sampler import RNNSampler

        return RNNSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
