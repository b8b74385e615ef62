"""Retrieve-and-play: does what the demonstrations did in the most similar situation.

Source: REGENT (ICLR 2025), baseline "R&P". Differs: distances by kind of observation (`features`),
where REGENT compares state vectors and ResNet embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.training.features import ObservationFeatures, at, leaf_spaces


class RetrieveAgent:
    """One nearest neighbour over all stored steps, whose action is played.

    Among equally near steps the first stored one wins, whatever the batch.

    Args:
        episodes: demonstrations with `observations` (tree, leading T+1) and `actions` (tree, leading T).
        observation_space: of the task.
        action_space: of the task.
        capacity: steps stored at most; the first ones given.

    Raises:
        UserError: no steps given.

    >>> from types import SimpleNamespace
    >>> seen = {"state": np.array([[0.0], [1.0], [2.0]])}
    >>> shown = SimpleNamespace(observations=seen, actions=np.array([1, 0]))
    >>> space = spaces.Dict({"state": spaces.Box(-9, 9, (1,))})
    >>> agent = RetrieveAgent([shown], space, spaces.Discrete(2))
    >>> agent.step(([{"state": np.array([0.8], np.float32)}], [True]), agent.initial_state(1))[0]
    [0]
    """

    def __init__(
        self,
        episodes: Iterable[Any],
        observation_space: spaces.Space,
        action_space: spaces.Space,
        capacity: int = 50_000,
    ) -> None:
        trees, actions = _read(episodes, observation_space, action_space, capacity)
        if not actions:
            raise UserError("retrieve-and-play: expected demonstrations with at least one step, got none")
        self._features = ObservationFeatures(observation_space)
        self._stored = self._features.fit(trees)
        self._norms = np.einsum("nf,nf->n", self._stored, self._stored)
        self._actions = actions

    def __len__(self) -> int:
        """Steps stored."""
        return len(self._actions)

    def initial_state(self, batch_size: int) -> None:
        """Nothing is carried from step to step."""
        return

    def step(self, inputs: tuple[list[Any], list[bool]], state: None) -> tuple[list[Any], None]:
        """For each row the action of the nearest stored step."""
        return [self._actions[index] for index in self.nearest(inputs[0])], None

    def nearest(self, observations: list[Any]) -> list[int]:
        """Index of the nearest stored step for each observation."""
        queries = self._features(observations)
        distances = self._norms - 2 * queries @ self._stored.T
        slack = 1e-5 * (1 + np.einsum("bf,bf->b", queries, queries) + self._norms.max())
        rows = zip(queries, distances, slack, strict=True)
        return [self._exact(query, np.flatnonzero(row <= row.min() + gap)) for query, row, gap in rows]

    def _exact(self, query: np.ndarray, candidates: np.ndarray) -> int:
        """Settle near-ties in float64, so that rounding in the matrix product decides nothing."""
        if len(candidates) > 1:
            apart = self._stored[candidates].astype(np.float64) - query
            candidates = candidates[np.einsum("nf,nf->n", apart, apart).argmin(keepdims=True)]
        return int(candidates[0])


def _read(
    episodes: Iterable[Any], observation_space: spaces.Space, action_space: spaces.Space, capacity: int
) -> tuple[list[dict], list[Any]]:
    """Observation trees and one action a step, up to `capacity` steps."""
    paths = [path for path, _ in leaf_spaces(observation_space)]
    trees: list[Any] = []
    actions: list[Any] = []
    for episode in episodes:
        taken = _actions(episode.actions, action_space)[: capacity - len(actions)]
        if taken:
            trees.append(_cut(episode.observations, paths, len(taken)))
            actions.extend(taken)
        if len(actions) >= capacity:
            break
    return trees, actions


def _cut(observations: Any, paths: list[tuple], length: int) -> Any:
    """The first `length` observations, copied so that a streamed episode can be let go."""
    if paths == [()]:
        return observations[:length]
    tree: dict[Any, Any] = {}
    for path in paths:
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        leaf = at(observations, path)[:length]
        inner[path[-1]] = list(leaf) if isinstance(leaf, list) else np.array(leaf)
    return tree


def _actions(actions: Any, space: spaces.Space) -> list[Any]:
    """One legal action a step."""
    if isinstance(space, spaces.Dict):
        columns = {key: _actions(actions[key], space[key]) for key in space}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if isinstance(space, spaces.Tuple):
        return list(
            zip(*(_actions(part, inner) for part, inner in zip(actions, space, strict=True)), strict=True)
        )
    if isinstance(space, spaces.Text):
        return list(actions)
    if isinstance(space, spaces.Discrete):
        return [int(action) for action in np.asarray(actions)]
    return list(np.asarray(actions, space.dtype))
