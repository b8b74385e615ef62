"""Recorded episodes as batches for an acting composition: windows of steps, drawn anew for every update.

What it does not know: models, environments. Letters: B rows, T steps of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.data.windows import Shard, write_shard
from factotum.gats.feeds import ActionFeed, Feed, PictureFeed, Windows
from factotum.gats.objective import GATSBatch

Rewrite = Callable[[str, np.random.Generator], str]
"""Says an instruction in other words."""

Span = tuple[Shard, int, int]
"""Rows of a shard that are one window: from, to."""

GROUP = 8
"""Updates whose windows are drawn together and dealt out by length: a row is as long as the longest of its batch."""


def write_episodes(
    folder: Path | str, episodes: Iterable[Any], keys: Sequence[str], information: Mapping[str, Any]
) -> Shard:
    """Stream the episodes of one task into columns.

    Args:
        folder: of the shard.
        episodes: with `observations`, `actions` and a length (`factotum.data.episode.Episode`).
        keys: of the observations that are kept, beside the instruction.
        information: JSON values kept with it, such as the task.

    Raises:
        UserError: an episode without instruction or without one of the keys.

    >>> import tempfile
    >>> from factotum.data.episode import Episode
    >>> seen = {"instruction": ["go", "go"], "state": np.zeros((2, 3))}
    >>> with tempfile.TemporaryDirectory() as root:
    ...     episode = Episode(seen, np.array([1]), [0.0], [True], [False])
    ...     shard = write_episodes(f"{root}/a", [episode], ["state"], {"task": "toy"})
    ...     shard.information["texts"], shard.columns["state"].shape
    (['go'], (1, 3))
    """
    texts: dict[str, int] = {}
    known: dict[str, Any] = dict(information)

    def columns() -> Iterator[dict[str, np.ndarray]]:
        for episode in episodes:
            for key in ("instruction", *keys):
                if key not in episode.observations:
                    raise UserError(
                        f"{information.get('task')}: expected observations with {key!r}, got "
                        f"{', '.join(sorted(episode.observations))}"
                    )
            steps = len(episode)
            text = texts.setdefault(episode.observations["instruction"][0], len(texts))
            seen = {key: np.asarray(episode.observations[key][:steps]) for key in keys}
            yield {**seen, "action": np.asarray(episode.actions), "text": np.full(steps, text, np.int32)}
        known["texts"] = list(texts)

    return write_shard(folder, columns(), known)


class EpisodeBatches:
    """A batch source for `factotum.training.train.train`: a pure function of seed and step.

    Windows begin where pictures are taken. Those of a batch are about as long, so that little of it is padding.

    Args:
        shards: one a task; each is drawn equally often.
        feeds: what each component reads, by name; those of `acts` are taught.
        acts: the component that acts.
        rows: B.
        steps: T, longest window.
        seed: of what is drawn.
        rewrite: says instructions in other words.

    Raises:
        UserError: no shards, no rows or no steps.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        feeds: Mapping[str, Feed],
        *,
        acts: str = "action",
        rows: int = 16,
        steps: int = 64,
        seed: int = 0,
        rewrite: Rewrite | None = None,
    ) -> None:
        if not shards or rows < 1 or steps < 1:
            raise UserError(
                f"expected shards, rows >= 1 and steps >= 1, got {len(shards)} shards, {rows} rows, {steps} steps"
            )
        acting = feeds[acts]
        assert isinstance(acting, ActionFeed)
        self.shards, self.feeds, self.acts, self.acting = list(shards), dict(feeds), acts, acting
        self.rows, self.steps, self.seed, self.rewrite = rows, steps, seed, rewrite
        self.stride = math.lcm(*(feed.every for feed in feeds.values() if isinstance(feed, PictureFeed)))

    def __call__(self, step: int, rank: int = 0, world_size: int = 1, micro: int = 0) -> GATSBatch:
        """The batch of one micro step; all ranks get long ones at the same steps."""
        group, place = divmod(step, GROUP)
        spans = self._spans(GROUP * self.rows, numpy_generator(self.seed, "windows", group, rank, micro))
        part = int(numpy_generator(self.seed, "lengths", group, micro).permutation(GROUP)[place])
        spans = sorted(spans, key=_length)[part * self.rows : (part + 1) * self.rows]
        return self.batch(self._windows(spans, numpy_generator(self.seed, "texts", step, rank, micro)))

    def windows(self, generator: np.random.Generator) -> Windows:
        """Draw B windows."""
        return self._windows(self._spans(self.rows, generator), generator)

    def _windows(self, spans: list[Span], generator: np.random.Generator) -> Windows:
        lengths_B = np.array([_length(span) for span in spans])
        texts = [self._text(shard, start, generator) for shard, start, _ in spans]
        names = [name for name in self.shards[0].columns if name != "text"]
        columns = {name: self._column(name, spans, int(lengths_B.max())) for name in names}
        return Windows(texts, lengths_B, columns)

    def batch(self, windows: Windows) -> GATSBatch:
        """What all components read, and what the acting one should say."""
        given = {name: feed.taught(windows) for name, feed in self.feeds.items()}
        inputs = {name: inputs for name, (inputs, _) in given.items()}
        times = {name: times for name, (_, times) in given.items()}
        return GATSBatch(inputs, times, {self.acts: self.acting.targets(windows)})

    def _spans(self, count: int, generator: np.random.Generator) -> list[Span]:
        return [self._span(generator) for _ in range(count)]

    def _span(self, generator: np.random.Generator) -> Span:
        shard = self.shards[int(generator.integers(len(self.shards)))]
        episode = int(generator.integers(shard.episodes))
        start, stop = int(shard.offsets[episode]), int(shard.offsets[episode + 1])
        start += self.stride * int(generator.integers(max(0, stop - start - self.steps) // self.stride + 1))
        return shard, start, min(stop, start + self.steps)

    def _text(self, shard: Shard, start: int, generator: np.random.Generator) -> str:
        text = shard.information["texts"][int(shard.columns["text"][start])]
        return self.rewrite(text, generator) if self.rewrite else text

    def _column(self, name: str, spans: list[Span], steps: int) -> np.ndarray:
        first = spans[0][0].columns[name]
        column = np.zeros((len(spans), steps, *first.shape[1:]), first.dtype)
        for row, (shard, start, stop) in enumerate(spans):
            column[row, : stop - start] = shard.columns[name][start:stop]
        return column


def _length(span: Span) -> int:
    return span[2] - span[1]


def moments(shards: Sequence[Shard], name: str, most: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of a column over all shards, for `StateFeed`; a number that never changes has spread 1."""
    values = np.concatenate([np.asarray(shard.columns[name][:most], np.float64) for shard in shards])
    spread = values.std(0)
    return values.mean(0), np.where(spread > 1e-4, spread, 1.0)
