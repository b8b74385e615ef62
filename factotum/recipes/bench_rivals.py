"""Who is compared: the learned optimizer, which has nothing to tune, and five others at learning rates of a sweep.

All rivals have torch's defaults but for the learning rate, and no weight decay. Schedule-Free AdamW is an extra,
`pip install 'factotum[schedulefree]'`. What it does not know: tasks, results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from factotum.core.checks import UserError, missing_extra, unknown
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.optimizer import HierarchicalRNN
from factotum.optim.store import load_core, weights_hash

SWEPT = ("adam", "rmsprop", "sgd", "schedulefree", "muon")
UNTUNED = 1e-3
"""The learning rate of Adam that nobody tuned: torch's default."""

LOWEST = {"adam": 1e-5, "rmsprop": 1e-5, "sgd": 1e-4, "schedulefree": 1e-4, "muon": 1e-5}
DECADES = 4.5
"""A sweep's width: ten values are half a decade apart."""


class Optimizers:
    """One or several torch optimizers stepped together."""

    def __init__(self, *parts: Optimizer):
        self.parts = parts

    def step(self) -> None:
        """One update of everything."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()

    def mode(self, training: bool) -> None:
        """Tell the optimizers that keep other weights for use than for training (Schedule-Free does)."""
        for part in self.parts:
            switch = getattr(part, "train" if training else "eval", None)
            if switch is not None:
                switch()


Make = Callable[[nn.Module, float, int, int], Optimizers]


@dataclass(frozen=True)
class Rival:
    """A contestant.

    Args:
        label: its name in results.
        make: from model, learning rate, steps of the run and seed to its optimizer.
        rates: learning rates to try; none: it is run once a seed.
        always: rates that are run on every seed, whatever they reach.
    """

    label: str
    make: Make
    rates: tuple[float, ...] = ()
    always: tuple[float, ...] = ()


def sweep_rates(lowest: float, count: int, decades: float = DECADES) -> tuple[float, ...]:
    """Learning rates spread evenly over powers of ten.

    >>> sweep_rates(1e-5, 4, decades=3)
    (1e-05, 0.0001, 0.001, 0.01)
    """
    return tuple(rounded(rate) for rate in (lowest * torch.logspace(0, decades, count)).tolist())


def rounded(rate: float) -> float:
    """To three digits, so that a rate read from a file is the one that was written."""
    return float(f"{rate:.3g}")


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """What is trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def hidden_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices that Muon is for, and all the rest: embeddings, the output layer, what is no matrix.

    >>> hidden, rest = hidden_matrices(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)))
    >>> [tuple(p.shape) for p in hidden], len(rest)
    ([(4, 4)], 4)
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in parameters(model) if p.dim() == 2 and id(p) not in embeddings]
    hidden = {id(p) for p in matrices[:-1]}
    return matrices[:-1], [p for p in parameters(model) if id(p) not in hidden]


def _adam(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
    return Optimizers(torch.optim.Adam(parameters(model), lr=rate))


def _rmsprop(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
    return Optimizers(torch.optim.RMSprop(parameters(model), lr=rate))


def _sgd(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
    return Optimizers(torch.optim.SGD(parameters(model), lr=rate, momentum=0.9))


def _schedulefree(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
    import schedulefree

    # Its authors advise a warm-up; a twentieth of the run is theirs and AlgoPerf's.
    warmup = steps // 20
    return Optimizers(schedulefree.AdamWScheduleFree(parameters(model), lr=rate, warmup_steps=warmup))


def _muon(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
    hidden, rest = hidden_matrices(model)
    # Steps as long as Adam's, so that one learning rate serves both (Liu et al., 2025, arXiv 2502.16982).
    muon = torch.optim.Muon(hidden, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return Optimizers(muon, torch.optim.Adam(rest, lr=rate))


MAKERS: dict[str, Make] = {
    "adam": _adam,
    "rmsprop": _rmsprop,
    "sgd": _sgd,
    "schedulefree": _schedulefree,
    "muon": _muon,
}


def swept(name: str, rates: int = 10) -> Rival:
    """A rival by name with its sweep.

    Args:
        name: one of `SWEPT`.
        rates: how many learning rates.

    Raises:
        UserError: an unknown name, or its package is not installed.
    """
    if name not in MAKERS:
        raise unknown("rival", name, SWEPT)
    if name == "schedulefree":
        try:
            import schedulefree  # noqa: F401
        except ImportError as error:
            raise missing_extra("schedulefree", "schedulefree") from error
    always = (UNTUNED,) if name == "adam" else ()
    return Rival(name, MAKERS[name], sweep_rates(LOWEST[name], rates), always)


def check_fits(name: str, model: nn.Module) -> None:
    """Whether a rival can train a model at all.

    Raises:
        UserError: Muon, and there is no hidden matrix.
    """
    if name == "muon" and not hidden_matrices(model)[0]:
        raise UserError("muon: expected a model with hidden 2-D weights, got none")


def learned(weights: str | Path | HierarchicalRNNCore, name: str = "hierarchical-rnn") -> Rival:
    """The learned optimizer with certain weights, named by their hash.

    Args:
        weights: shipped weights by name, a folder, or a core.
        name: what stands before the hash.

    Raises:
        UserError: no such weights.
    """
    core = weights if isinstance(weights, HierarchicalRNNCore) else load_core(weights)

    def make(model: nn.Module, rate: float, steps: int, seed: int) -> Optimizers:
        return Optimizers(HierarchicalRNN(parameters(model), weights=core, seed=seed))

    return Rival(f"{name}-{weights_hash(core)[:8]}", make)


def choose(names: Iterable[str], rates: int, model: nn.Module) -> tuple[list[Rival], list[str]]:
    """The rivals that can run here, and one line for each that cannot.

    Raises:
        UserError: an unknown name.
    """
    found: list[Rival] = []
    left_out = []
    for name in names:
        if name not in MAKERS:
            raise unknown("rival", name, SWEPT)
        try:
            check_fits(name, model)
            found.append(swept(name, rates))
        except UserError as error:
            left_out.append(f"left out: {name}: {error}")
    return found, left_out
