"""When teachers play and when the student learns: the paper's hours, scaled down by one setting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from factotum.core.checks import UserError


@dataclass(frozen=True)
class Schedule:
    """After each further hour of play so many updates; the replay keeps the last hours.

    The paper's hour is 54,000 control steps (15 a second); its appendix gives 10,000 updates an hour and a replay of
    ten hours. How many hours it went on is not stated; re-implementations take 500. With `scale` an hour is that share
    of its steps, updates and replay: 0.1 makes hours of 5,400 steps and 1,000 updates and a replay of 54,000 steps.
    With several teachers each plays the hour, and there are that many times the updates.

    >>> small = Schedule(hours=4, scale=0.01)
    >>> small.steps, small.updates, small.capacity
    (540, 100, 5400)
    >>> Schedule(scale=0.0)
    Traceback (most recent call last):
    factotum.core.checks.UserError: scale: expected a number above 0, got 0.0
    """

    hours: int = 50
    """hours of play and of updates in all"""
    steps_per_hour: int = 54_000
    """steps of each teacher in an hour"""
    updates_per_hour: int = 10_000
    """updates for each hour that a teacher plays"""
    replay_hours: float = 10.0
    """the replay of each teacher keeps its last hours"""
    scale: float = 1.0
    """share of an hour's steps, updates and replay that is taken: the one setting that makes all of it smaller"""

    def __post_init__(self) -> None:
        for name in ("hours", "steps_per_hour", "updates_per_hour"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("replay_hours", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: expected a number above 0, got {getattr(self, name)}")

    @property
    def steps(self) -> int:
        """Steps of one teacher in an hour, scaled."""
        return max(1, round(self.scale * self.steps_per_hour))

    @property
    def updates(self) -> int:
        """Updates for an hour of one teacher, scaled."""
        return max(1, round(self.scale * self.updates_per_hour))

    @property
    def capacity(self) -> int:
        """Steps that the replay of one teacher keeps."""
        return max(1, round(self.replay_hours * self.steps))


def best_by(share: float, scores: list[tuple[int, float]]) -> int | None:
    """The step of the best score within a share of all steps; of equal ones the earliest, None if there is none.

    Args:
        share: of the last step.
        scores: (step, score) in any order.

    >>> best_by(0.5, [(10, 1.0), (20, 3.0), (30, 2.0), (40, 9.0)])
    20
    """
    last = max((step for step, _ in scores), default=0)
    known = [(score, -step) for step, score in scores if step <= share * last and math.isfinite(score)]
    return -max(known)[1] if known else None
