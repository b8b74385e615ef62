"""Episodes to memory-mapped columns, and columns to training batches that are a pure function of (seed, step).

What it does not know: environments, loops, where datasets come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.data.mixture import Mixture, draw_tasks
from factotum.data.windows import Shard, Span, fill_row, write_shard
from factotum.gato.batch import ABSENT, Batch
from factotum.gato.columns import first_steps, step_columns
from factotum.gato.config import GatoConfig, Vocabulary
from factotum.gato.mulaw import to_bins
from factotum.gato.sequence import Steps, join, positions_per_step
from factotum.gato.statistics import Statistics
from factotum.gato.text import TextTokenizer
from factotum.gato.tokens import encode_steps, legal_ranges


class TextTable:
    """Each different text once; stands in for a tokenizer while columns are written.

    >>> table = TextTable(); table.encode("a"), table.encode("b"), table.encode("a")
    ((0,), (1,), (0,))
    """

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """The index of a text."""
        return (self.texts.setdefault(text, len(self.texts)),)


def continuous_actions(space: spaces.Space) -> list[bool]:
    """For each scalar of an action whether it is continuous; one False for a text.

    >>> continuous_actions(spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]))
    [False, True, True]
    """
    if isinstance(space, spaces.Text):
        return [False]
    vocabulary = Vocabulary()
    return [start >= vocabulary.continuous_start for start, _ in legal_ranges(space, vocabulary)]


def write_task_shard(
    folder: Path | str,
    episodes: Iterable[Any],
    *,
    task: str,
    body: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    fingerprint: str = "",
) -> Shard:
    """Stream the episodes of one task into columns that any Gato can be trained on.

    Raises:
        UserError: a value outside its space, or no episode; what stood at `folder` is unharmed.
    """
    table, vocabulary = TextTable(), Vocabulary()
    information: dict[str, Any] = {
        "task": task,
        "body": body,
        "fingerprint": fingerprint,
        "texts": [],
        "continuous_actions": continuous_actions(action_space),
    }

    def columns() -> Iterable[dict[str, np.ndarray]]:
        for episode in episodes:
            made, order = _episode_columns(episode, observation_space, action_space, vocabulary, table)
            information["tensors"] = order
            yield made
        information["texts"] = list(table.texts)

    return write_shard(folder, columns(), information)


def _episode_columns(
    episode: Any,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    vocabulary: Vocabulary,
    table: TextTable,
) -> tuple[dict[str, np.ndarray], list[tuple[str, int]]]:
    steps = len(episode.rewards)
    observations = first_steps(observation_space, episode.observations, steps)
    coded = encode_steps(
        observation_space, observations, vocabulary, role="observation", tokenizer=table, path="observation"
    )
    text, images, discrete, continuous, order = step_columns(coded)
    columns: dict[str, np.ndarray] = {
        "text": text.astype(np.int32),
        "discrete": discrete.astype(np.int16),
        "continuous": continuous.astype(np.float32),
    }
    columns |= {f"image{k}": image for k, image in enumerate(images)}
    actions = encode_steps(
        action_space, episode.actions, vocabulary, role="action", tokenizer=table, path="action"
    )
    if isinstance(action_space, spaces.Text):
        columns["action"] = actions[0].ids[:, :1].astype(np.int32)
    else:
        parts = [leaf.ids if leaf.values is None else leaf.values for leaf in actions]
        columns["action"] = np.concatenate(parts, -1).astype(np.float32)
    return columns, order


@dataclass
class TaskData:
    """One task's shard, ready to be cut into rows.

    Args:
        text_ids: `texts K` ids of each text of the shard. action_ids: the same with an end, for text actions.
    """

    name: str
    shard: Shard
    text_action: bool
    text_ids: np.ndarray
    action_ids: np.ndarray
    vocabulary: Vocabulary
    statistics: Statistics

    @classmethod
    def open(
        cls,
        shard: Shard,
        text_action: bool,
        config: GatoConfig,
        tokenizer: TextTokenizer | None,
        statistics: Statistics,
    ) -> TaskData:
        """Tokenise a shard's texts for one model."""
        texts = shard.information["texts"]
        bins, largest = config.vocabulary.bins, _largest(shard.columns["discrete"])
        if largest >= bins:
            raise UserError(f"{shard.folder}: expected discrete values below bins = {bins}, got {largest}")
        if texts and tokenizer is None:
            raise UserError(f"{shard.folder}: text needs a tokenizer, got none")
        coded = [tokenizer.encode(text) for text in texts] if tokenizer else []
        longest = config.action_slots if config.tokens == "fused" else config.context
        return cls(
            name=shard.information["task"],
            shard=shard,
            text_action=text_action,
            text_ids=_pad([ids[:longest] for ids in coded]),
            action_ids=_pad([(*ids[: longest - 1], 0) for ids in coded]),
            vocabulary=config.vocabulary,
            statistics=statistics,
        )

    def steps(self, at_GR: np.ndarray, present_GR: np.ndarray, segments_GR: np.ndarray) -> Steps:
        """Gather timesteps of the shard."""
        columns = {name: column[at_GR] for name, column in self.shard.columns.items()}
        names = sorted(name for name in columns if name.startswith("image"))
        text = columns["text"]
        continuous = columns["continuous"]
        return Steps(
            text=self.text_ids[text].reshape(*at_GR.shape, -1) if text.shape[-1] else text.astype(np.int64),
            images=[columns[name] for name in names],
            discrete=columns["discrete"].astype(np.int64),
            continuous=continuous,
            standardised=self.statistics.standardise(self.name, continuous),
            tensors=[(kind, width) for kind, width in self.shard.information["tensors"]],
            actions=self._actions(columns["action"]),
            text_action=self.text_action,
            present=present_GR,
            segments=segments_GR,
        )

    def _actions(self, stored: np.ndarray) -> np.ndarray:
        if self.text_action:
            return self.action_ids[stored[..., 0]]
        continuous = np.array(self.shard.information["continuous_actions"])
        return np.where(continuous, to_bins(stored, self.vocabulary), stored.astype(np.int64))

    def row_steps(self, config: GatoConfig) -> int:
        """Timesteps that fill a row, from the mean over the shard's start."""
        sample = np.arange(min(64, len(self.shard)))[:, None]
        steps = self.steps(sample, np.ones_like(sample, bool), np.zeros_like(sample))
        mean = positions_per_step(steps, config)
        if mean > config.context:
            raise UserError(
                f"{self.name}: expected a context that holds a timestep of {mean:.0f} positions, got {config.context}"
            )
        return int(config.context / mean)


def _largest(column: np.ndarray) -> int:
    return int(column.max()) if column.size else 0


def _pad(coded: Sequence[Sequence[int]]) -> np.ndarray:
    width = max((len(ids) for ids in coded), default=0)
    table = np.full((len(coded), width), ABSENT, np.int64)
    for row, ids in enumerate(coded):
        table[row, : len(ids)] = ids
    return table


def pool_statistics(shards: Iterable[Shard]) -> Statistics:
    """Statistics of the continuous observations of every body in the shards."""
    statistics = Statistics()
    for shard in shards:
        column = shard.columns["continuous"]
        if column.shape[1] == 0:
            continue
        total, squares = np.zeros(column.shape[1]), np.zeros(column.shape[1])
        for start in range(0, len(column), 65_536):
            part = np.asarray(column[start : start + 65_536], np.float64)
            total, squares = total + part.sum(0), squares + (part**2).sum(0)
        information = shard.information
        statistics.add(
            information["task"], information["body"], count=len(column), total=total, squares=squares
        )
    return statistics


def train_tokenizer(shards: Iterable[Shard], size: int) -> TextTokenizer:
    """A tokenizer of all texts of the shards."""
    return TextTokenizer.train((text for shard in shards for text in shard.information["texts"]), size)


class GatoBatches:
    """Batches of `rows` rows: tasks by mixture weight, windows and prompts at random (section 2.2).

    A batch is a pure function of (seed, step, rank, micro step) and of the mixture's weights.

    Args:
        prompt_share: share of windows that a prompt precedes; 0.25 in the paper.
        action_dropout: share of timesteps whose fused action later steps do not see, so that the model cannot learn to
            repeat itself in place of looking; 0 in the paper.
    """

    def __init__(
        self,
        tasks: Sequence[TaskData],
        config: GatoConfig,
        *,
        rows: int,
        seed: int,
        prompt_share: float = 0.25,
        weights: Mapping[str, float] | None = None,
        adaptivity: float = 0.0,
        action_dropout: float = 0.0,
    ) -> None:
        if not tasks:
            raise UserError("expected at least one task to train on, got none")
        self.tasks, self.config, self.rows = list(tasks), config, rows
        self.seed, self.prompt_share, self.action_dropout = seed, prompt_share, action_dropout
        self.mixture = Mixture({task.name: (weights or {}).get(task.name, 1.0) for task in tasks}, adaptivity)
        self.row_steps = [task.row_steps(config) for task in tasks]

    def __call__(self, step: int, rank: int = 0, world_size: int = 1, micro_step: int = 0) -> Batch:
        """The batch of one micro step; ranks draw different rows."""
        generator = numpy_generator(self.seed, "batch", step, rank, world_size, micro_step)
        drawn = draw_tasks(generator, self.mixture.weights(), self.rows)
        groups = []
        for task in np.unique(drawn):
            spans = [
                fill_row(generator, self.tasks[task].shard.offsets, self.row_steps[task], self.prompt_share)
                for _ in range(int((drawn == task).sum()))
            ]
            steps = self.tasks[task].steps(*_indices(spans))
            if self.action_dropout:
                steps.hidden = generator.random(steps.present.shape) < self.action_dropout
            groups.append((self.tasks[task].name, steps))
        return join(groups, self.config)


def _indices(rows: Sequence[Sequence[Span]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timestep index, presence and segment of each place, `G R`, from spans."""
    length = max(sum(span.stop - span.start for span in spans) for spans in rows)
    at = np.zeros((len(rows), length), np.int64)
    present = np.zeros((len(rows), length), bool)
    segments = np.full((len(rows), length), -1, np.int64)
    for row, spans in enumerate(rows):
        place = 0
        for span in spans:
            there = slice(place, place + span.stop - span.start)
            at[row, there] = np.arange(span.start, span.stop)
            present[row, there], segments[row, there] = True, span.segment
            place = there.stop
    return at, present, segments
