"""Finds what is wrong in a dataset and says where. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from factotum.core.checks import UserError
from factotum.core.trees import Tree
from factotum.data.episode import Episode, length_problems
from factotum.data.packing import count_episodes
from factotum.data.store import READ_ERRORS, Dataset, one_line

TOLERANCE = 1e-5
"""How far, relative to the bound, a float may lie outside of a Box: rounding between float32 and float64."""

REQUIRED = ("task", "instruction", "body", "measure", "random", "expert", "seeds", "scores", "lengths")
"""Keys of our metadata; a dataset that is not ours need not have them."""

_Finding = tuple[str, str]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        where: dataset, episode, key and index, as far as they apply.
        what: what was expected and what is there.

    >>> print(Problem("a/b-v0, episode 3, rewards[5]", "expected a finite number, got nan"))
    a/b-v0, episode 3, rewards[5]: expected a finite number, got nan
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def validate(path: Path | str) -> list[Problem]:
    """Read a whole dataset, one episode in memory at a time, and list its problems.

    Args:
        path: the dataset's folder.

    Returns:
        At most one problem for each leaf of each episode; empty when all is well.
    """
    try:
        dataset = Dataset(path)
    except UserError as error:
        return [Problem(str(path), str(error))]
    problems = [Problem(f"{dataset.id}, {where}", what) for where, what in _dataset_problems(dataset)]
    for index in range(len(dataset)):
        where = f"{dataset.id}, episode {index}"
        for key, what in _read_problems(dataset, index):
            problems.append(Problem(f"{where}, {key}" if key else where, what))
    return problems


def episode_problems(episode: Episode, observation_space: Space, action_space: Space) -> list[_Finding]:
    """What in an episode lies outside of its spaces or is not finite, as (key and index, what).

    >>> episode = Episode({"state": np.array([[0.0], [np.nan]])}, np.array([3]), [0.0], [True], [False])
    >>> space = spaces.Dict({"state": spaces.Box(-1, 1, (1,))})
    >>> episode_problems(episode, space, spaces.Discrete(2))[0]
    ('observations/state[1, 0]', 'expected a finite number, got nan')
    """
    return list(_part_problems(vars(episode), observation_space, action_space))


def _part_problems(
    parts: dict[str, Any], observation_space: Space, action_space: Space
) -> Iterator[_Finding]:
    wrong_length = list(length_problems(parts, len(parts["rewards"])))
    if wrong_length:
        yield from wrong_length
        return
    yield from space_problems(observation_space, parts["observations"], "observations")
    yield from space_problems(action_space, parts["actions"], "actions")
    yield from _not_finite(parts["rewards"], "rewards")
    for key in ("terminated", "truncated"):
        early = np.flatnonzero(parts[key][:-1])
        if len(early):
            yield f"{key}[{early[0]}]", f"expected the end at the last step, {len(parts[key]) - 1}"


def _dataset_problems(dataset: Dataset) -> Iterator[_Finding]:
    raw = dataset.raw_metadata
    if len(dataset) == 0:
        yield "metadata", "expected at least one episode, got none"
    if dataset.path.parts[-dataset.id.count("/") - 1 :] != tuple(dataset.id.split("/")):
        yield "metadata", f"expected a folder that ends with the dataset's id, got {dataset.path}"
    try:
        stored = count_episodes(dataset.data_file) if dataset.data_file else len(dataset)
        if stored != len(dataset):
            yield "metadata", f"total_episodes is {len(dataset)}, but the data file holds {stored}"
        steps = sum(entry["total_steps"] for entry in dataset.episode_metadata(range(len(dataset))))
        if steps != raw.get("total_steps"):
            yield "metadata", f"total_steps is {raw.get('total_steps')}, but the episodes have {steps}"
    except READ_ERRORS as error:
        yield "metadata", f"the episodes cannot be counted: {one_line(error)}"
    if dataset.is_ours:
        yield from _own_metadata_problems(dataset)


def _own_metadata_problems(dataset: Dataset) -> Iterator[_Finding]:
    own = dataset.own_metadata
    missing = [key for key in REQUIRED if key not in own]
    if missing:
        yield "metadata", f"expected the keys {', '.join(missing)}, found none"
    for key in ("seeds", "scores", "lengths"):
        if key in own and len(own[key]) != len(dataset):
            yield "metadata", f"{key}: expected {len(dataset)}, one for each episode, got {len(own[key])}"
    counts = Counter(seed for seed in own.get("seeds", []) if seed is not None)
    repeated = [seed for seed, count in counts.items() if count > 1]
    if repeated:
        yield "metadata", f"expected each seed once, got {repeated[0]} {counts[repeated[0]]} times"


def _read_problems(dataset: Dataset, index: int) -> Iterator[_Finding]:
    try:
        parts = dataset.episode_parts(index)
        entry = next(iter(dataset.episode_metadata([index])))
    except KeyError as error:
        yield "", f"expected a key that is not there: {one_line(error)}"
        return
    except READ_ERRORS as error:
        yield "", f"cannot be read: {one_line(error)}"
        return
    yield from _part_problems(parts, dataset.observation_space, dataset.action_space)
    if dataset.is_ours:
        for key, many in (("seed", "seeds"), ("score", "scores"), ("total_steps", "lengths")):
            expected = dataset.own_metadata.get(many, [])
            if index < len(expected) and expected[index] != entry.get(key):
                yield key, f"expected {expected[index]} as in the metadata, got {entry.get(key)}"


@singledispatch
def space_problems(space: Space, values: Tree, key: str) -> Iterator[_Finding]:
    """Values over time that a space does not contain; at most one finding for each leaf.

    Args:
        space: of one step.
        values: tree over time.
        key: how findings call it.

    >>> list(space_problems(spaces.Discrete(2), np.array([0, 2, 5]), "actions"))
    [('actions[1]', 'expected an integer from 0 to 1, got 2 (2 values outside)')]
    """
    for step, value in enumerate(values):
        if not space.contains(value):
            yield f"{key}[{step}]", f"expected a member of {space}, got {value!r}"
            return


@space_problems.register
def _(space: spaces.Dict, values: Tree, key: str) -> Iterator[_Finding]:
    if not isinstance(values, dict):
        yield key, f"expected the keys {sorted(space.spaces)}, got {type(values).__name__}"
        return
    for name in sorted(space.spaces.keys() | values.keys()):
        if name not in values:
            yield f"{key}/{name}", "expected by the space, not in the data"
        elif name not in space.spaces:
            yield f"{key}/{name}", "in the data, but not in the space"
        else:
            yield from space_problems(space.spaces[name], values[name], f"{key}/{name}")


@space_problems.register
def _(space: spaces.Tuple, values: Tree, key: str) -> Iterator[_Finding]:
    if not isinstance(values, tuple) or len(values) != len(space.spaces):
        yield key, f"expected a tuple of {len(space.spaces)}, got {type(values).__name__}"
        return
    for index, (child, value) in enumerate(zip(space.spaces, values, strict=True)):
        yield from space_problems(child, value, f"{key}/{index}")


@space_problems.register
def _(space: spaces.Box, values: Tree, key: str) -> Iterator[_Finding]:
    kinds = "f" if space.dtype.kind == "f" else "iu"
    wrong = list(_wrong_array(values, space.shape, kinds, key)) or list(_not_finite(values, key))
    if wrong:
        yield from wrong
        return
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if kinds == "f":
        low, high = low - _slack(low), high + _slack(high)
    bad = (values < low) | (values > high)
    yield from _outside(bad, values, key, lambda at: f"a number from {space.low[at]:g} to {space.high[at]:g}")


@space_problems.register
def _(space: spaces.Discrete, values: Tree, key: str) -> Iterator[_Finding]:
    wrong = list(_wrong_array(values, (), "iu", key))
    if wrong:
        yield from wrong
        return
    last = space.start + space.n - 1
    bad = (values < space.start) | (values > last)
    yield from _outside(bad, values, key, lambda at: f"an integer from {space.start} to {last}")


@space_problems.register
def _(space: spaces.MultiDiscrete, values: Tree, key: str) -> Iterator[_Finding]:
    wrong = list(_wrong_array(values, space.shape, "iu", key))
    if wrong:
        yield from wrong
        return
    last = space.start.astype(np.int64) + space.nvec - 1
    bad = (values < space.start) | (values > last)
    yield from _outside(bad, values, key, lambda at: f"an integer from {space.start[at]} to {last[at]}")


@space_problems.register
def _(space: spaces.MultiBinary, values: Tree, key: str) -> Iterator[_Finding]:
    wrong = list(_wrong_array(values, space.shape, "iub", key))
    yield from wrong or _outside((values != 0) & (values != 1), values, key, lambda at: "0 or 1")


@space_problems.register
def _(space: spaces.Text, values: Tree, key: str) -> Iterator[_Finding]:
    if not isinstance(values, list):
        yield key, f"expected text, got {type(values).__name__}"
        return
    first_step = {text: step for step, text in reversed(list(enumerate(values)))}
    for text, step in sorted(first_step.items(), key=lambda item: item[1]):
        strange = sorted(set(text) - set(space.character_set))
        if strange:
            yield f"{key}[{step}]", f"expected characters of the space's charset, got {''.join(strange)!r}"
            return
        if not space.min_length <= len(text) <= space.max_length:
            wanted = f"{space.min_length} to {space.max_length} characters"
            yield f"{key}[{step}]", f"expected {wanted}, got {len(text)}: {text[:40]!r}"
            return


def _slack(bound: np.ndarray) -> np.ndarray:
    return TOLERANCE * np.maximum(1.0, np.abs(np.where(np.isfinite(bound), bound, 1.0)))


def _wrong_array(values: Tree, shape: tuple[int, ...], kinds: str, key: str) -> Iterator[_Finding]:
    """Not an array, of another shape or of another kind of number."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        yield key, f"expected numbers, got {getattr(values, 'dtype', type(values).__name__)}"
    elif values.shape[1:] != tuple(shape):
        yield key, f"expected shape {tuple(shape)} at each step, got {values.shape[1:]}"
    elif values.dtype.kind not in kinds:
        yield key, f"expected {'floats' if kinds == 'f' else 'integers'}, got {values.dtype}"


def _not_finite(values: np.ndarray, key: str) -> Iterator[_Finding]:
    if values.dtype.kind == "f":
        yield from _outside(~np.isfinite(values), values, key, lambda at: "a finite number")


def _outside(
    bad: np.ndarray, values: np.ndarray, key: str, wanted: Callable[[tuple], str]
) -> Iterator[_Finding]:
    """The first bad value, with its index, and how many there are."""
    count = int(bad.sum())
    if count:
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        more = f" ({count} values outside)" if count > 1 else ""
        index = ", ".join(map(str, first))
        yield f"{key}[{index}]", f"expected {wanted(first[1:])}, got {values[first]}{more}"
