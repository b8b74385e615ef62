"""Plays episodes in a batch and keeps every raw score. Knows no model and no environment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from factotum.core.checks import UserError
from factotum.training.legal import check_action, check_observation

FIRST_SEED: Final = 1_000_000_000
"""Evaluation seeds start here; demonstrations are collected below."""

GIVE_UP: Final = object()
"""What an agent returns for a row that it cannot go on with: the episode ends, marked as failed."""


class Agent(Protocol):
    """Acts in B environments at once; a `core.step.Core` whose inputs are observations."""

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step of `batch_size` rows."""

    def step(self, inputs: tuple[list[Any], list[bool]], state: Any) -> tuple[list[Any], Any]:
        """Actions for (observations, first): `first[b]` is True where row b begins an episode."""


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode ended.

    Args:
        seed: what the environment was reset with.
        score: total reward, or 1.0 / 0.0 where success is what counts.
        total_reward: sum of rewards.
        length: steps taken.
        success: whether `info["success"]` was ever true.
        failed: the agent gave up (an expert that hangs): not to be counted.
    """

    seed: int
    score: float
    total_reward: float
    length: int
    success: bool
    failed: bool = False


Watch = Callable[[int, Any, Any, Any, float, bool], None]
"""`watch(seed, env, observation, action, reward, ended)`: called after each reset (action None) and step."""


def evaluation_seeds(count: int, repeat: int = 0) -> list[int]:
    """The seeds of an evaluation; another `repeat` gives others that never overlap.

    >>> evaluation_seeds(3)
    [1000000000, 1000000001, 1000000002]
    """
    if not 0 < count <= 1_000_000:
        raise UserError(f"episodes: expected 1 to 1000000, got {count}")
    if not 0 <= repeat < 1000:
        raise UserError(f"seed: expected 0 to 999, got {repeat}")
    start = FIRST_SEED + repeat * 1_000_000
    return list(range(start, start + count))


class _Row:
    """One environment and the episode it is in."""

    def __init__(self, env: Any, name: str, measure: str, max_steps: int, watch: Watch | None) -> None:
        self.env, self.name, self.measure, self.max_steps, self.watch = env, name, measure, max_steps, watch
        self.active = False

    def start(self, seed: int) -> None:
        self.seed, self.length, self.total_reward, self.success = seed, 0, 0.0, False
        self.observation, _ = self.env.reset(seed=seed)
        self.active = self.first = True
        check_observation(self.name, self.env.observation_space, self.observation)
        self._show(None, 0.0, False)

    def advance(self, action: Any) -> EpisodeResult | None:
        """Take one step; the result where it was the episode's last."""
        self.first = False
        if action is GIVE_UP:
            return self._result(failed=True)
        check_action(self.name, self.env.action_space, action)
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        check_observation(self.name, self.env.observation_space, self.observation)
        if not abs(float(reward)) < float("inf"):
            raise UserError(
                f"{self.name}: reward: expected a finite number, got {reward} at step {self.length}"
            )
        self.length += 1
        self.total_reward += float(reward)
        self.success |= bool(info.get("success", False))
        ended = bool(terminated or truncated or self.length >= self.max_steps)
        self._show(action, float(reward), ended)
        return self._result() if ended else None

    def _result(self, failed: bool = False) -> EpisodeResult:
        self.active = False
        score = float(self.success) if self.measure == "success" else self.total_reward
        return EpisodeResult(self.seed, score, self.total_reward, self.length, self.success, failed)

    def _show(self, action: Any, reward: float, ended: bool) -> None:
        if self.watch is not None:
            self.watch(self.seed, self.env, self.observation, action, reward, ended)


def evaluate(
    make_env: Callable[[], Any],
    agent: Agent,
    *,
    seeds: Sequence[int],
    max_steps: int,
    batch_size: int = 16,
    measure: str = "return",
    name: str = "environment",
    on_episode: Callable[[EpisodeResult], None] | None = None,
    watch: Watch | None = None,
) -> list[EpisodeResult]:
    """Play one episode a seed, `batch_size` environments side by side, one agent call for all rows.

    A row whose episode ended takes the next seed at once. With no seed left it idles: its last
    observation is passed on and its action ignored, so that the batch keeps its size.

    Args:
        make_env: builds one environment.
        agent: acts for all rows; where it is deterministic the results do not depend on `batch_size`.
        seeds: one episode each.
        max_steps: an episode is cut here if the environment does not end it before.
        batch_size: environments in this process.
        measure: "return" or "success".
        name: the task, for error messages.
        on_episode: called with each result as soon as it is known.
        watch: sees each reset and step of each row.

    Returns:
        One result a seed, in the order of `seeds`.

    Raises:
        UserError: a NaN or out-of-space observation, an illegal action, a reward that is not finite.
    """
    if measure not in ("return", "success"):
        raise UserError(f"measure: expected 'return' or 'success', got {measure!r}")
    if batch_size < 1 or len(set(seeds)) != len(seeds):
        raise UserError(
            f"expected batch_size >= 1 and seeds without repeats, got {batch_size} and {len(seeds)} seeds"
        )
    waiting, results, rows = deque(seeds), dict[int, EpisodeResult](), list[_Row]()
    try:
        for _ in range(min(batch_size, len(seeds))):
            rows.append(_Row(make_env(), name, measure, max_steps, watch))
            rows[-1].start(waiting.popleft())
        state = agent.initial_state(len(rows))
        while any(row.active for row in rows):
            inputs = [row.observation for row in rows], [row.first for row in rows]
            actions, state = agent.step(inputs, state)
            for row, action in zip(rows, actions, strict=True):
                result = row.advance(action) if row.active else None
                if result is None:
                    continue
                results[result.seed] = result
                if on_episode is not None:
                    on_episode(result)
                if waiting:
                    row.start(waiting.popleft())
    finally:
        for row in rows:
            row.env.close()
    return [results[seed] for seed in seeds]
