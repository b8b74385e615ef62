"""Finds suites and tasks by name: ours, those of installed packages, and folders of a user's."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from factotum.core.checks import UserError
from factotum.worlds.suites import atari, babyai, classic, digits, folders, metaworld, mujoco, pixels, scenes
from factotum.worlds.suites.task import Suite, Task

GROUP = "factotum.suites"
"""Entry point group: a zero-argument callable that returns a `Suite` or a list of them."""

BUILT_IN = (
    babyai.SUITE,
    metaworld.SUITE,
    atari.SUITE,
    mujoco.SUITE,
    classic.SUITE,
    pixels.SUITE,
    scenes.SUITE,
    digits.SUITE,
)

FOLDERS = {"captions": folders.captions_task, "text": folders.text_task}
"""Kinds of task made from a path: "captions:<folder>", "text:<folder>"."""


@lru_cache(maxsize=1)
def _all_suites() -> dict[str, Suite]:
    found = {suite.name: suite for suite in BUILT_IN}
    for point in entry_points(group=GROUP):
        for suite in _load(point):
            if suite.name in found:
                raise UserError(f"entry point {point.name!r} registers suite {suite.name!r}, which exists already")
            found[suite.name] = suite
    return found


def _load(point: EntryPoint) -> list[Suite]:
    """The suites of one entry point; a broken one is named, not skipped."""
    try:
        made = point.load()()
    except Exception as error:
        raise UserError(f"entry point {point.name!r} of group {GROUP} failed: {error!r}") from error
    suites_made = [made] if isinstance(made, Suite) else list(made)
    for suite in suites_made:
        if not isinstance(suite, Suite):
            raise UserError(f"entry point {point.name!r}: expected a Suite or a list of them, got {type(suite)}")
    return suites_made


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
        raise UserError(f"unknown task {name!r}{_close(name)}")
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
        raise UserError(f"no task matches {pattern!r}{_close(pattern)}")
    return found


def _all_names() -> list[str]:
    return [name for suite in _all_suites().values() for name in suite.names]


def _close(name: str) -> str:
    known = {candidate.lower(): candidate for candidate in [*_all_suites(), *_all_names()]}
    close = get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(known[match] for match in close)}?" if close else ""
    return f"{hint or '; `factotum tasks` lists them'}"
