"""One episode as arrays over time. Knows neither files nor environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.trees import Tree


@dataclass
class Episode:
    r"""What happened from a reset to the end: $o_0, a_0, r_0, o_1, \dots, a_{T-1}, r_{T-1}, o_T$.

    Args:
        observations: tree (dict, tuple) of arrays with leading axis T + 1; a text is a list of T + 1 str.
        actions: tree of arrays with leading axis T; a text is a list of T str.
        rewards: (T,) float64.
        terminated: (T,) bool, true where the environment ended the episode.
        truncated: (T,) bool, true where a step limit ended it.
        seed: what the environment was reset with; None where nobody recorded it.
        score: what the task measures, success or return; None where nobody recorded it.

    Raises:
        ValueError: no step at all, or leaves whose lengths do not fit together.

    >>> episode = Episode({"state": np.zeros((3, 2))}, np.array([0, 1]), [0, 1], [False, True], [False] * 2)
    >>> len(episode), episode.total_reward
    (2, 1.0)
    """

    observations: Tree
    actions: Tree
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    seed: int | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        self.rewards = np.asarray(self.rewards, np.float64)
        self.terminated = np.asarray(self.terminated, bool)
        self.truncated = np.asarray(self.truncated, bool)
        problems = list(length_problems(vars(self), len(self.rewards)))
        if problems:
            raise ValueError("; ".join(f"{where}: {what}" for where, what in problems))

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_reward(self) -> float:
        """Undiscounted return."""
        return float(self.rewards.sum())

    @classmethod
    def from_steps(
        cls,
        observations: Sequence[Any],
        actions: Sequence[Any],
        rewards: Sequence[float],
        terminated: bool,
        truncated: bool,
        seed: int | None = None,
        score: float | None = None,
    ) -> Episode:
        """Stack the lists that a rollout gathers.

        Args:
            observations: T + 1 observations (dicts or tuples of arrays, numbers and str).
            actions: T actions.
            rewards: T numbers.
            terminated: whether the environment ended the episode with the last step.
            truncated: whether a limit cut it there.
            seed: of the reset.
            score: of the whole episode.

        >>> episode = Episode.from_steps([{"word": "a"}, {"word": "b"}], [1], [0.5], True, False)
        >>> episode.observations, episode.actions, episode.terminated
        ({'word': ['a', 'b']}, array([1]), array([ True]))
        """
        at_end = np.arange(len(rewards)) == len(rewards) - 1
        return cls(
            stack_steps(observations),
            stack_steps(actions),
            np.asarray(rewards, np.float64),
            at_end & bool(terminated),
            at_end & bool(truncated),
            seed,
            score,
        )

    def observation(self, step: int) -> Any:
        """The observation at `step`, as the environment gave it."""
        return step_of(self.observations, step)

    def action(self, step: int) -> Any:
        """The action at `step`, as the environment took it."""
        return step_of(self.actions, step)


def length_problems(parts: dict[str, Any], steps: int) -> Iterator[tuple[str, str]]:
    """Leaves that do not have T (observations: T + 1) entries, as (which leaf, what is wrong).

    Args:
        parts: observations, actions, terminated and truncated by name; other names are not looked at.
        steps: T, the number of rewards.

    >>> list(length_problems({"observations": {"state": np.zeros((2, 3))}}, 2))
    [('observations/state', 'expected 3 entries for 2 rewards, got 2')]
    """
    if steps == 0:
        yield "rewards", "expected an episode of at least one step, got none"
        return
    for name in ("observations", "actions", "terminated", "truncated"):
        for where, leaf in leaves_over_time(parts.get(name, ()), name):
            wanted = steps + 1 if name == "observations" else steps
            if len(leaf) != wanted:
                yield where, f"expected {wanted} entries for {steps} rewards, got {len(leaf)}"


def leaves_over_time(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays and lists of str with their paths; unlike `tree_items` it does not walk into lists.

    >>> list(leaves_over_time({"word": ["a", "b"], "pair": (1, 2)}))
    [('pair/0', 1), ('pair/1', 2), ('word', ['a', 'b'])]
    """
    if isinstance(tree, dict):
        children = [(key, tree[key]) for key in sorted(tree)]
    elif isinstance(tree, tuple):
        children = [(str(index), child) for index, child in enumerate(tree)]
    else:
        yield prefix, tree
        return
    for key, child in children:
        yield from leaves_over_time(child, f"{prefix}/{key}" if prefix else key)


def step_of(tree: Tree, step: int) -> Any:
    """Index every leaf of a tree over time, text leaves included.

    >>> step_of({"word": ["a", "b"], "pair": (np.array([3, 4]),)}, 1)
    {'word': 'b', 'pair': (np.int64(4),)}
    """
    if isinstance(tree, dict):
        return {key: step_of(value, step) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(step_of(value, step) for value in tree)
    return tree[step]


def as_space_types(space: spaces.Space, tree: Tree) -> Tree:
    """Arrays over time with the number types that their spaces declare; nothing is clipped or rounded.

    >>> as_space_types(spaces.Box(-1, 1, (1,), np.float32), np.array([[0.5]])).dtype
    dtype('float32')
    """
    if isinstance(space, spaces.Dict) and isinstance(tree, dict):
        known = space.spaces
        return {
            key: as_space_types(known[key], value) if key in known else value for key, value in tree.items()
        }
    if isinstance(space, spaces.Tuple) and isinstance(tree, tuple):
        return tuple(as_space_types(child, value) for child, value in zip(space.spaces, tree, strict=True))
    dtype = space.dtype
    if dtype is None or not isinstance(tree, np.ndarray):
        return tree
    same_kind = tree.dtype.kind in {"f": "f", "i": "iu", "u": "iu", "b": "b"}.get(dtype.kind, "")
    return tree.astype(dtype, copy=False) if same_kind and _fits(tree, dtype) else tree


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """False for integers that would wrap around, which are left for `validate` to find."""
    if dtype.kind not in "iu" or values.size == 0:
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= values.min() and values.max() <= limits.max)


def stack_steps(values: Sequence[Any]) -> Tree:
    """Turn a list of values of one space into a tree over time.

    Raises:
        ValueError: values that do not look alike.

    >>> stack_steps([(1, "a"), (2, "b")])
    (array([1, 2]), ['a', 'b'])
    """
    if len(values) == 0:
        return np.zeros(0)
    first = values[0]
    if isinstance(first, dict):
        if any(value.keys() != first.keys() for value in values):
            raise ValueError(f"expected the keys {sorted(first)} at every step")
        return {key: stack_steps([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack_steps(part) for part in zip(*values, strict=True))
    if isinstance(first, str):
        return list(values)
    return np.stack([np.asarray(value) for value in values])
