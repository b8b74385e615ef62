"""Drawn scenes as ids: captions as words, pictures as codes; kept as columns, and drawn as batches for both directions.

Letters: B rows, E ids of a caption with its ends, P codes of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from factotum.core.seeding import numpy_generator
from factotum.data.windows import Shard, write_shard
from factotum.gats.feeds import pixels
from factotum.gats.objective import IGNORED, GATSBatch
from factotum.gats.picture_codes import PictureCodes
from factotum.gats.store import weights_hash
from factotum.gats.words import WordTable, padded
from factotum.worlds.suites.scenes import captioned, plain_sentence

Direction = Literal["caption", "draw"]
FIRST_EVALUATION_SEED = 1_000_000_000
BEHIND = 100.0
"""When what is written begins to arrive; what it is about comes from 0 on."""


@lru_cache(maxsize=1)
def scene_words() -> WordTable:
    """All words of sentences about scenes."""
    generator = np.random.default_rng(0)
    return WordTable.of(plain_sentence(generator) for _ in range(4000))


def begin_id() -> int:
    """The id with which a sentence begins; the one after it ends it."""
    return scene_words().size


def vocabulary() -> int:
    """V, ids of the text model."""
    return scene_words().size + 2


def sentence_ids(sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids with begin and end, and which of them are there, `B E`."""
    table, begin = scene_words(), begin_id()
    rows = []
    for sentence in sentences:
        ids, _ = table([sentence])
        rows.append([begin, *ids[0].tolist(), begin + 1])
    return padded(rows, table.length + 2)


def sentence_of(ids: Sequence[int]) -> str:
    """Words up to the end.

    >>> ids, _ = sentence_ids(["a red ring at the left"])
    >>> sentence_of(ids[0, 1:].tolist())
    'a red ring at the left'
    """
    table, words = scene_words(), []
    for one in ids:
        if one >= begin_id():
            break
        words.append(table.words[one - 2] if one >= 2 else "?")
    return " ".join(words)


def pictures_of(seeds: Sequence[int]) -> Tensor:
    """The pictures of some seeds, numbers from -1 to 1."""
    return pixels(np.stack([captioned(seed)[2] for seed in seeds]), 64)


def scene_shard(folder: Path, codes: PictureCodes, count: int, block: int = 64) -> Shard:
    """Codes and captions of the scenes of seeds 0 to count - 1; written once for each autoencoder."""
    place = folder / ".scenes" / f"{count}-{weights_hash(codes)[:12]}"
    if (place / "index.json").is_file():
        return Shard(place)
    texts: dict[str, int] = {}
    known: dict[str, Any] = {}

    def columns() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, count, block):
            seeds = range(start, min(count, start + block))
            for row, seed in zip(codes.encode(pictures_of(seeds)), seeds, strict=True):
                text = texts.setdefault(captioned(seed)[1], len(texts))
                yield {"codes": row[None].numpy().astype(np.int32), "text": np.array([text], np.int32)}
        known["texts"] = list(texts)

    return write_shard(place, columns(), known)


class SceneBatches:
    """A batch source: rows of each direction, what is read before what is written.

    Args:
        shard: codes and captions.
        begin: the id with which a picture begins.
        rows: B.
        seed: of what is drawn.
        directions: of which rows are made in turn.
    """

    def __init__(
        self, shard: Shard, begin: int, rows: int, seed: int, directions: Sequence[Direction]
    ) -> None:
        self.shard, self.begin, self.rows, self.seed = shard, begin, rows, seed
        self.directions = tuple(directions)

    def __call__(self, step: int, rank: int = 0, world_size: int = 1, micro: int = 0) -> GATSBatch:
        """The batch of one micro step."""
        generator = numpy_generator(self.seed, "scenes", step, rank, micro)
        chosen = np.sort(generator.integers(len(self.shard), size=self.rows))
        texts = [self.shard.information["texts"][i] for i in self.shard.columns["text"][chosen]]
        codes_BP = torch.from_numpy(np.asarray(self.shard.columns["codes"][chosen], np.int64))
        order = [self.directions[int(i)] for i in generator.integers(len(self.directions), size=self.rows)]
        return scene_batch(texts, codes_BP, order, self.begin)


def scene_batch(
    texts: Sequence[str], codes_BP: Tensor, directions: Sequence[Direction], begin: int
) -> GATSBatch:
    """Captions and pictures, each row in its direction; what is written is taught."""
    ids_BE, there_BE = sentence_ids(texts)
    draws_B1 = torch.tensor([direction == "draw" for direction in directions])[:, None]
    begin_B1 = torch.full_like(codes_BP[:, :1], begin)
    read_BQ = torch.cat([begin_B1, codes_BP], 1)
    text_times = torch.arange(ids_BE.shape[1], dtype=torch.float64) + BEHIND * ~draws_B1
    code_times = torch.arange(read_BQ.shape[1], dtype=torch.float64) + BEHIND * draws_B1
    said_BE = torch.cat([ids_BE[:, 1:], torch.full_like(ids_BE[:, :1], IGNORED)], 1)
    taught_BE = torch.cat([there_BE[:, 1:], torch.zeros_like(there_BE[:, :1])], 1) & ~draws_B1
    drawn_BQ = torch.cat([codes_BP, torch.full_like(begin_B1, IGNORED)], 1)
    inputs = {"pictures": {"input_ids": read_BQ}, "text": {"input_ids": ids_BE}}
    times = {"pictures": code_times, "text": text_times.masked_fill(~there_BE, float("nan"))}
    targets = {
        "pictures": drawn_BQ.masked_fill(~draws_B1, IGNORED),
        "text": said_BE.masked_fill(~taught_BE, IGNORED),
    }
    written = {name: target for name, target in targets.items() if bool((target != IGNORED).any())}
    return GATSBatch(inputs, times, written)
