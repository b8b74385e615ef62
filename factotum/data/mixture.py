"""How often each task is drawn: fixed weights, or weights that follow the loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factotum.core.checks import UserError


def draw_tasks(generator: np.random.Generator, weights: np.ndarray, rows: int) -> np.ndarray:
    """A task index for each of `rows` rows, by systematic resampling: counts differ from rows * weight by < 1.

    >>> draw_tasks(np.random.default_rng(0), np.array([0.5, 0.25, 0.25]), 4).tolist()
    [0, 0, 1, 2]
    """
    edges = np.cumsum(weights / weights.sum())
    points = (np.arange(rows) + generator.random()) / rows
    return np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)


class Mixture:
    """Sampling weights over named tasks; adaptive ones move toward tasks whose loss falls least.

    $w_i \\propto b_i (\\bar\\ell_i / \\ell^0_i)^{\\alpha}$ with base weights b, a running mean of the loss and its
    first value; alpha = 0 is the paper's fixed mixture.

    >>> mixture = Mixture({"a": 1.0, "b": 1.0}, adaptivity=1.0)
    >>> mixture({"loss/a": 2.0, "loss/b": 2.0}); mixture({"loss/a": 0.0, "loss/b": 2.0})
    >>> weights = mixture.weights(); bool(weights[1] > weights[0])
    True

    Raises:
        UserError: no task, or a weight that is not positive.
    """

    def __init__(
        self, base: Mapping[str, float], adaptivity: float = 0.0, memory: float = 0.98, floor: float = 0.2
    ) -> None:
        bad = {name: weight for name, weight in base.items() if not weight > 0}
        if bad or not base:
            raise UserError(
                f"mixture weights: expected positive numbers for at least one task, got {bad or dict(base)}"
            )
        self.names = list(base)
        self.base = np.array([base[name] for name in self.names], float)
        self.adaptivity, self.memory, self.floor = adaptivity, memory, floor
        self.first: dict[str, float] = {}
        self.mean: dict[str, float] = {}

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Take in one step's metrics: each task's loss under "loss/<task>"."""
        for key, loss in metrics.items():
            name = key.removeprefix("loss/")
            if name in self.names and np.isfinite(loss):
                self.first.setdefault(name, max(loss, 1e-6))
                old = self.mean.get(name, loss)
                self.mean[name] = self.memory * old + (1.0 - self.memory) * loss

    def weights(self) -> np.ndarray:
        """Weights that sum to one; no task falls below `floor` of its base weight."""
        if self.adaptivity == 0.0:
            return self.base / self.base.sum()
        ratio = [self.mean.get(name, 1.0) / self.first.get(name, 1.0) for name in self.names]
        factor = np.maximum(np.array(ratio) ** self.adaptivity, self.floor)
        return self.base * factor / (self.base * factor).sum()

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What a resumed run needs."""
        return {"first": dict(self.first), "mean": dict(self.mean)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take up what `state_dict` gave."""
        self.first, self.mean = dict(state["first"]), dict(state["mean"])
