"""Finds suites and tasks by name: ours, those of installed packages, and folders of a user's."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from factotum.core.checks import UserError, unknown
from factotum.worlds.suites import (
    atari,
    babyai,
    box2d,
    classic,
    digits,
    folders,
    metaworld,
    metaworld_cameras,
    minatar,
    mujoco,
    pixels,
    scenes,
)
from factotum.worlds.suites.task import Suite, Task

GROUP = "factotum.suites"
"""Entry point group: a zero-argument callable that returns a `Suite` or a list of them."""

BUILT_IN = (
    babyai.SUITE,
    metaworld.SUITE,
    atari.SUITE,
    mujoco.SUITE,
    classic.SUITE,
    box2d.SUITE,
    pixels.SUITE,
    scenes.SUITE,
    digits.SUITE,
    minatar.SUITE,
    metaworld_cameras.SUITE,
)

FOLDERS = {"captions": folders.captions_task, "text": folders.text_task}
"""Kinds of task made from a path: "captions:<folder>", "text:<folder>"."""


@lru_cache(maxsize=1)
def _all_suites() -> dict[str, Suite]:
    found = {suite.name: suite for suite in BUILT_IN}
    for point in entry_points(group=GROUP):
        for suite in _load(point):
            if suite.name in found:
                raise UserError(f"entry point {point.name!r}: a suite {suite.name!r} exists already")
            found[suite.name] = suite
    return found


def _load(point: EntryPoint) -> list[Suite]:
    """The suites of one entry point; a broken one is named, not skipped."""
    try:
        made = point.load()()
    except Exception as error:
        raise UserError(f"entry point {point.name!r} of group {GROUP} failed: {error!r}") from error
    given = made if isinstance(made, list | tuple) else [made]
    for suite in given:
        if not isinstance(suite, Suite):
            raise UserError(f"entry point {point.name!r}: expected a Suite or a list of them, got {suite!r}")
    return list(given)


def suites() -> dict[str, Suite]:
    """All suites by name, built-in first, whether or not what they need is installed.

    >>> "babyai" in suites()
    True
    """
    return dict(_all_suites())


def task(name: str) -> Task:
    """The task of a full name.

    Args:
        name: "suite/Task", or "captions:<folder>" / "text:<folder>".

    Raises:
        ValueError: no such task; the message names the closest ones.

    >>> task("babyai/GoToLocal").measure
    'return'
    """
    kind, colon, folder = name.partition(":")
    if colon and kind in FOLDERS:
        return FOLDERS[kind](folder)
    suite = _all_suites().get(name.partition("/")[0])
    if suite is None or name not in suite.names:
        raise unknown("task", name, _known())
    return suite.task(name)


def expand(patterns: list[str]) -> list[str]:
    """Full task names for suite names, globs and exact names, in order and each once.

    Args:
        patterns: "babyai" (the whole suite), "babyai/GoTo*", "babyai/GoToLocal", "text:<folder>".

    Raises:
        ValueError: a pattern matches nothing.

    >>> expand(["babyai/GoToRedBall*", "babyai/GoToRedBall"])
    ['babyai/GoToRedBall', 'babyai/GoToRedBallGrey', 'babyai/GoToRedBallNoDists']
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        names.update(dict.fromkeys(_matches(pattern)))
    return list(names)


def _matches(pattern: str) -> list[str]:
    kind, colon, _ = pattern.partition(":")
    if colon and kind in FOLDERS:
        return [pattern]
    if pattern in _all_suites():
        return list(_all_suites()[pattern].names)
    found = [name for name in _all_names() if fnmatchcase(name, pattern)]
    if not found:
        raise unknown("task", pattern, _known())
    return found


def _all_names() -> list[str]:
    return [name for suite in _all_suites().values() for name in suite.names]


def _known() -> list[str]:
    return [*_all_suites(), *_all_names()]
