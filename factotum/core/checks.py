"""Errors that a user can cause, said in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np


class UserError(ValueError):
    """Something a user can put right; the command line prints the message alone and exits with 1."""


def missing_extra(extra: str, module: str) -> UserError:
    """The error for an optional dependency that is not installed.

    >>> print(missing_extra("babyai", "minigrid"))
    minigrid is not installed: run  pip install 'factotum[babyai]'
    """
    return UserError(f"{module} is not installed: run  pip install 'factotum[{extra}]'")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not there, with the nearest ones that are.

    >>> print(unknown("task", "babyai/GotoLocal", ["babyai/GoToLocal"]))
    unknown task 'babyai/GotoLocal': did you mean babyai/GoToLocal?
    """
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(names[:8]) or '(none)'}"
    )
    return UserError(f"unknown {kind} {name!r}: {hint}")


def require_finite(name: str, value: np.ndarray) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: naming the value and the first bad index.
    """
    bad = ~np.isfinite(value)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(f"{name}: expected finite numbers, got {value[index]} at index {index}")
