"""From recorded episodes to a table: raw and normalised scores of each task, and all tasks in few numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from factotum.core.checks import UserError
from factotum.training import statistics

BASELINES: Final = ("random", "expert", "retrieve")
"""Labels of agents that others are compared with."""

MEASURED: Final = "measured in this run"
"""How the source of a yardstick begins that is not a stored one."""


@dataclass(frozen=True)
class Yardstick:
    """A mean raw score that scores are normalised by, and where it is from."""

    score: float
    source: str


@dataclass(frozen=True)
class Score:
    """How one agent did on one task.

    Args:
        raw: mean score of its episodes.
        episodes: how many count.
        failed: how many it gave up on; they do not count.
        normalised: (raw - random) / (expert - random), None where that is refused.
        low: lower end of the 95 % bootstrap interval of `normalised`.
        high: upper end.
    """

    raw: float
    episodes: int
    failed: int = 0
    normalised: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TaskRow:
    """One task: who scored what, by which yardsticks.

    Args:
        task: full name.
        scores: by label of agent.
        random: yardstick 0, None where unknown.
        expert: yardstick 1, None where unknown.
        jat: published normalised score of JAT, None where JAT has no such task.
        refused: why nothing is normalised here, None where it is.
    """

    task: str
    scores: dict[str, Score]
    random: Yardstick | None
    expert: Yardstick | None
    jat: float | None = None
    refused: str | None = None

    @property
    def family(self) -> str:
        """The suite's name.

        >>> TaskRow("babyai/GoTo", {}, None, None).family, TaskRow("text:/my/folder", {}, None, None).family
        ('babyai', 'text')
        """
        return family_of(self.task)


@dataclass(frozen=True)
class Aggregate:
    """All normalisable tasks of one agent in few numbers; intervals are 95 % stratified bootstrap.

    Args:
        label: the agent.
        tasks: how many are counted.
        mean: of the tasks' normalised scores, with its interval.
        median: of the tasks' normalised scores, with its interval.
        interquartile_mean: over tasks x episodes, with its interval.
        half: share of tasks at or above half of the expert, with its interval.
    """

    label: str
    tasks: int
    mean: tuple[float, float, float]
    median: tuple[float, float, float]
    interquartile_mean: tuple[float, float, float]
    half: tuple[float, float, float]


@dataclass(frozen=True)
class Summary:
    """What an evaluation found.

    Args:
        agent: label of the agent that this is about.
        labels: all agents, baselines first.
        rows: one a task, by name.
        aggregates: one an agent that has normalised scores.
        worst: the ten tasks where `agent` is lowest.
        jat: (mean of `agent`, mean of JAT, number of tasks) on shared tasks, or None.
    """

    agent: str
    labels: tuple[str, ...]
    rows: tuple[TaskRow, ...]
    aggregates: tuple[Aggregate, ...]
    worst: tuple[tuple[str, float], ...]
    jat: tuple[float, float, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def readable(value: float | None) -> str:
    """A score for reading; "–" where there is none.

    >>> readable(0.5), readable(-1234.5), readable(-0.001), readable(None)
    ('0.50', '−1,234', '0.00', '–')
    """
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def family_of(task: str) -> str:
    """The suite in a task's full name."""
    return task.split("/")[0].split(":")[0]


def summarise(
    lines: Iterable[Mapping[str, Any]],
    references: Mapping[str, Mapping[str, Yardstick]],
    *,
    agent: str | None = None,
    jat_score: Callable[[str], float | None] = lambda task: None,
) -> Summary:
    """Sum up recorded episodes.

    The yardsticks are the stored `references`, so that runs compare, or else what the agents "random"
    and "expert" scored here. Of an agent recorded with several checkpoints the last recorded counts.

    Args:
        lines: episodes as `records.read_episodes` gives them.
        references: by task, "random" and "expert" where known.
        agent: label that the summary is about; by default the one with most tasks that is no baseline.
        jat_score: published normalised score of JAT on a task, None where there is none.

    Raises:
        UserError: nothing recorded, or nothing of `agent`.

    >>> line = {"task": "a/B", "agent": "gato", "checkpoint": "", "seed": 1, "score": 0.5, "failed": False}
    >>> yardsticks = {"a/B": {"random": Yardstick(0.0, "paper"), "expert": Yardstick(1.0, "paper")}}
    >>> summarise([line], yardsticks).aggregates[0].mean
    (0.5, 0.5, 0.5)
    """
    scores = _raw_scores(lines)
    labels = _labels(scores)
    agent = agent or _main_label(labels, scores)
    if agent not in labels:
        raise UserError(f"expected recorded episodes of agent {agent!r}, found those of {', '.join(labels)}")
    rows = tuple(
        _row(task, scores[task], references.get(task, {}), jat_score(task)) for task in sorted(scores)
    )
    normalised = {label: _normalised(rows, scores, label) for label in labels}
    aggregates = tuple(_aggregate(label, tasks) for label, tasks in normalised.items() if tasks)
    mine = {row.task: score for row in rows if (score := _normalised_of(row, agent)) is not None}
    worst = tuple(statistics.worst(mine))
    return Summary(agent, labels, rows, aggregates, worst, _beside_jat(rows, mine))


def _raw_scores(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, bool]]]]:
    """task -> label -> (score, failed) of the checkpoint recorded last, one a seed."""
    found: dict[str, dict[str, dict[str, dict[int, tuple[float, bool]]]]] = {}
    for line in lines:
        checkpoints = found.setdefault(line["task"], {}).setdefault(line["agent"], {})
        # Moved to the end, so that the checkpoint recorded last is the last one.
        episodes = checkpoints[line["checkpoint"]] = checkpoints.pop(line["checkpoint"], {})
        episodes[line["seed"]] = (float(line["score"]), bool(line.get("failed", False)))
    if not found:
        raise UserError("expected recorded episodes, found none: run `factotum evaluate` first")
    return {
        task: {label: list(list(checkpoints.values())[-1].values()) for label, checkpoints in labels.items()}
        for task, labels in found.items()
    }


def _labels(scores: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    found = dict.fromkeys(label for labels in scores.values() for label in labels)
    others = [label for label in found if label not in BASELINES]
    return tuple([label for label in BASELINES if label in found] + others)


def _main_label(labels: tuple[str, ...], scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Of those that are no baseline the one with most tasks, the last of equals."""
    others = [label for label in labels if label not in BASELINES] or list(labels)
    return max(reversed(others), key=lambda label: sum(label in agents for agents in scores.values()))


def _row(
    task: str, agents: Mapping[str, list], stored: Mapping[str, Yardstick], jat: float | None
) -> TaskRow:
    random, expert = (_yardstick(agents, stored, label) for label in ("random", "expert"))
    refused = _refusal(random, expert)
    scores = {
        label: _score(episodes, None if refused else (random, expert))
        for label, episodes in agents.items()
        if _counted(episodes).size
    }
    # Without a scale JAT's published 1.0 says nothing either.
    return TaskRow(task, scores, random, expert, None if refused else jat, refused)


def _counted(episodes: list[tuple[float, bool]]) -> np.ndarray:
    return np.array([score for score, failed in episodes if not failed])


def _yardstick(agents: Mapping[str, list], stored: Mapping[str, Yardstick], label: str) -> Yardstick | None:
    """What is stored, else what was measured here."""
    counted = _counted(agents.get(label, []))
    if label in stored or not counted.size:
        return stored.get(label)
    return Yardstick(float(counted.mean()), f"{MEASURED}, {counted.size} episodes")


def _refusal(random: Yardstick | None, expert: Yardstick | None) -> str | None:
    if random is None or expert is None:
        missing = " and ".join(name for name, one in (("random", random), ("expert", expert)) if one is None)
        return f"no {missing} score known"
    if not statistics.can_normalise(random.score, expert.score):
        return f"expert ({expert.score:.4g}) not above random ({random.score:.4g})"
    return None


def _score(episodes: list[tuple[float, bool]], scale: Any) -> Score:
    counted = _counted(episodes)
    raw, failed = float(counted.mean()), len(episodes) - len(counted)
    if scale is None:
        return Score(raw, len(counted), failed)
    normalised = statistics.normalised_score(counted, scale[0].score, scale[1].score)
    low, high = statistics.stratified_bootstrap([normalised], statistics.mean)
    return Score(raw, len(counted), failed, float(normalised.mean()), low, high)


def _normalised(
    rows: tuple[TaskRow, ...], scores: Mapping[str, Mapping[str, list]], label: str
) -> list[np.ndarray]:
    """Normalised scores of the episodes of one agent, one array a task that can be normalised."""
    tasks = []
    for row in rows:
        if row.refused is None and label in row.scores and row.random and row.expert:
            counted = _counted(scores[row.task][label])
            tasks.append(statistics.normalised_score(counted, row.random.score, row.expert.score))
    return tasks


def _aggregate(label: str, tasks: list[np.ndarray]) -> Aggregate:
    numbers = []
    for statistic in (
        statistics.mean,
        statistics.median,
        statistics.interquartile_mean,
        statistics.share_at_least,
    ):
        low, high = statistics.stratified_bootstrap(tasks, statistic)
        numbers.append((float(statistic(tasks)), low, high))
    return Aggregate(label, len(tasks), *numbers)


def _normalised_of(row: TaskRow, label: str) -> float | None:
    return row.scores[label].normalised if label in row.scores else None


def _beside_jat(rows: tuple[TaskRow, ...], mine: Mapping[str, float]) -> tuple[float, float, int] | None:
    shared = [(mine[row.task], row.jat) for row in rows if row.jat is not None and row.task in mine]
    if not shared:
        return None
    ours, theirs = zip(*shared, strict=True)
    return float(np.mean(ours)), float(np.mean(theirs)), len(shared)
