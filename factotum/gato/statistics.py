"""Mean and spread of the continuous observations of each body; saved with the model, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from factotum.core.checks import UserError


class Statistics:
    """Per-dimension statistics of bodies, and which task has which body.

    >>> statistics = Statistics()
    >>> statistics.add("reach", "arm", count=2, total=np.array([2.0]), squares=np.array([4.0]))
    >>> statistics.standardise("reach", np.array([[3.0]])).tolist()
    [[2.0]]
    """

    SMALLEST = 1e-2

    def __init__(
        self, bodies: Mapping[str, Any] | None = None, tasks: Mapping[str, str] | None = None
    ) -> None:
        self.bodies: dict[str, dict[str, Any]] = {name: dict(body) for name, body in (bodies or {}).items()}
        self.tasks: dict[str, str] = dict(tasks or {})
        self._ready: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, task: str, body: str, *, count: int, total: np.ndarray, squares: np.ndarray) -> None:
        """Pool one dataset's sums (over timesteps) into its body.

        Raises:
            UserError: the body has another number of dimensions.
        """
        self.tasks[task] = body
        self._ready.clear()
        old = self.bodies.get(body, {"count": 0, "total": [0.0] * len(total), "squares": [0.0] * len(total)})
        if len(old["total"]) != len(total):
            raise UserError(
                f"{task}: expected {len(old['total'])} continuous dimensions for the body {body!r}, got {len(total)}"
            )
        self.bodies[body] = {
            "count": old["count"] + count,
            "total": (np.asarray(old["total"]) + total).tolist(),
            "squares": (np.asarray(old["squares"]) + squares).tolist(),
        }

    def completed(self, other: Statistics) -> Statistics:
        """These, with the tasks and bodies that only `other` has: weights mean something to these numbers alone.

        Raises:
            UserError: a body has another number of dimensions in `other`.

        >>> one, more = Statistics(), Statistics()
        >>> one.add("reach", "arm", count=2, total=np.array([2.0]), squares=np.array([4.0]))
        >>> more.add("push", "arm", count=1, total=np.array([9.0]), squares=np.array([81.0]))
        >>> more.add("walk", "leg", count=1, total=np.array([5.0]), squares=np.array([25.0]))
        >>> both = one.completed(more)
        >>> both.bodies["arm"]["count"], sorted(both.bodies), sorted(both.tasks)
        (2, ['arm', 'leg'], ['push', 'reach', 'walk'])
        """
        for name in self.bodies.keys() & other.bodies.keys():
            known, got = (len(each.bodies[name]["total"]) for each in (self, other))
            if known != got:
                raise UserError(
                    f"expected {known} continuous dimensions for the known body {name!r}, got {got}"
                )
        return Statistics({**other.bodies, **self.bodies}, {**other.tasks, **self.tasks})

    def standardise(self, task: str, values: np.ndarray) -> np.ndarray:
        """(x - mean) / max(spread, 0.01), over the last axis.

        Raises:
            UserError: no statistics for the task, or another number of dimensions.
        """
        if values.shape[-1] == 0:
            return values
        mean, spread = self._of(task)
        if values.shape[-1] != len(mean):
            raise UserError(f"{task}: expected {len(mean)} continuous dimensions, got {values.shape[-1]}")
        return ((values - mean) / spread).astype(np.float32)

    def _of(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        if task not in self._ready:
            if task not in self.tasks:
                raise UserError(f"{task}: expected statistics of its observations, got none for this task")
            body = self.bodies[self.tasks[task]]
            mean = np.asarray(body["total"]) / body["count"]
            variance = np.asarray(body["squares"]) / body["count"] - mean**2
            self._ready[task] = (mean, np.maximum(np.sqrt(np.maximum(variance, 0.0)), self.SMALLEST))
        return self._ready[task]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"bodies": self.bodies, "tasks": self.tasks}
