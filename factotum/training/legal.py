"""Says in one line what is wrong with an observation or an action, naming the task and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError


def check_observation(task: str, space: spaces.Space, observation: Any) -> None:
    """Refuse an observation that its space does not hold, or that is not finite.

    Raises:
        UserError: naming the task, the key and the value.

    >>> space = spaces.Dict({"state": spaces.Box(-1, 1, (2,))})
    >>> check_observation("toy/1", space, {"state": np.array([0, np.nan], np.float32)})
    Traceback (most recent call last):
    ...
    factotum.core.checks.UserError: toy/1: observation 'state': expected finite numbers, got nan at index (1,)
    """
    problem = fault(space, observation)
    if problem is not None:
        key, what = problem
        raise UserError(f"{task}: observation {key!r}: {what}" if key else f"{task}: observation: {what}")


def check_action(task: str, space: spaces.Space, action: Any) -> None:
    """Refuse an action that its space does not hold.

    Raises:
        UserError: naming the task and the action.

    >>> check_action("toy/One", spaces.Discrete(2), 1)
    """
    problem = fault(space, action)
    if problem is not None:
        key, what = problem
        raise UserError(f"{task}: illegal action{f' {key!r}' if key else ''}: {what}")


def fault(space: spaces.Space, value: Any, key: str = "") -> tuple[str, str] | None:
    """Where and why `value` is not in `space`; None where it is and all its numbers are finite.

    >>> fault(spaces.Dict({"a": spaces.Discrete(2)}), {"a": 2})
    ('a', 'expected Discrete(2), got 2')
    """
    if isinstance(space, spaces.Dict):
        return _dict_fault(space, value, key)
    if isinstance(space, spaces.Tuple):
        return _tuple_fault(space, value, key)
    if isinstance(space, spaces.Box):
        what = _box_fault(space, value)
        return None if what is None else (key, what)
    if value in space:
        return None
    if isinstance(space, spaces.Text) and isinstance(value, str):
        return key, _text_fault(space, value)
    return key, f"expected {_short(space)}, got {_short(value)}"


def _dict_fault(space: spaces.Dict, value: Any, key: str) -> tuple[str, str] | None:
    if not isinstance(value, Mapping) or set(value) != set(space):
        got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        return key, f"expected keys {sorted(space)}, got {got}"
    found = (fault(space[name], value[name], f"{key}/{name}" if key else name) for name in space)
    return next((problem for problem in found if problem is not None), None)


def _tuple_fault(space: spaces.Tuple, value: Any, key: str) -> tuple[str, str] | None:
    if not isinstance(value, (tuple, list)) or len(value) != len(space):
        return key, f"expected {len(space)} parts, got {_short(value)}"
    pairs = enumerate(zip(space, value, strict=True))
    found = (fault(part, item, f"{key}/{i}" if key else str(i)) for i, (part, item) in pairs)
    return next((problem for problem in found if problem is not None), None)


def _box_fault(space: spaces.Box, value: Any) -> str | None:
    """Shape, dtype, finiteness and bounds of an array, the first that fails."""
    array = np.asarray(value)
    if array.shape != space.shape:
        return f"expected shape {space.shape}, got {array.shape}"
    if not np.can_cast(array.dtype, space.dtype):
        return f"expected {space.dtype} numbers, got {array.dtype}"
    bad = ~np.isfinite(array)
    if bad.any():
        return f"expected finite numbers, got {_first(array, bad)}"
    bad = (array < space.low) | (array > space.high)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        return f"expected {space.low[index]:g} to {space.high[index]:g}, got {_first(array, bad)}"
    return None


def _text_fault(space: spaces.Text, value: str) -> str:
    if not space.min_length <= len(value) <= space.max_length:
        return (
            f"expected {space.min_length} to {space.max_length} characters, got {len(value)}: {_short(value)}"
        )
    strange = next(letter for letter in value if letter not in space.character_set)
    return f"expected characters of the space's set, got {strange!r} in {_short(value)}"


def _first(array: np.ndarray, bad: np.ndarray) -> str:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{array[index]:g} at index {index}"


def _short(value: Any, length: int = 80) -> str:
    text = "text" if isinstance(value, spaces.Text) else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
