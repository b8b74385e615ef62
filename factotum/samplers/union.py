"""Which parameters have a study's trials used? All of them, and those that every one used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any


class Union:
    """The newest distribution of every parameter of the finished trials, found without looking at a trial twice.

    >>> from types import SimpleNamespace as Trial
    >>> union = Union()
    >>> union.update([0], [Trial(distributions={"a": 1, "b": 2})])
    >>> union.update([0, 1], [Trial(distributions={"a": 1, "b": 2}), Trial(distributions={"a": 3})])
    >>> union.space, union.common()
    ({'a': 3, 'b': 2}, {'a': 3})
    """

    def __init__(self) -> None:
        self.space: dict[str, Any] = {}
        """by name, in alphabetical order"""
        self._keys: list[Hashable] = []
        self._uses: Counter[str] = Counter()
        self._trials = 0

    def update(self, keys: list[Hashable], trials: Sequence[Any]) -> None:
        """Look at trials that are new.

        Args:
            keys: one a finished trial; equal keys: the same trial.
            trials: with their distributions.
        """
        if self._keys != keys[: len(self._keys)]:
            self.__init__()  # type: ignore[misc]
        for trial in trials[len(self._keys) :]:
            if trial.distributions:
                self._trials += 1
                self._uses.update(trial.distributions.keys())
                if self.space.items() != trial.distributions.items():
                    self.space = dict(sorted({**self.space, **trial.distributions}.items()))
        self._keys = list(keys)

    def common(self) -> dict[str, Any]:
        """The part of the space that all trials with any parameter used."""
        return {name: one for name, one in self.space.items() if self._uses[name] == self._trials}
