"""Datasets on disk: Minari's, ours and a user's. The only door to minari. Knows no task.

A root folder holds datasets under their ids, "babyai/GoToLocal/expert-v0". What Minari has no place for
(task, references, actor, filter, seeds, scores) lies under the key "factotum" of a dataset's metadata.json.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import Space
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import MinariStorage

from factotum.core.checks import UserError, unknown
from factotum.core.files import read_json, replace_folder
from factotum.data.episode import Episode
from factotum.data.packing import FileIndex, StoredEpisode, write_file

KEY = "factotum"
FORMAT_VERSION = 1
DATA_FILE = "main_data.hdf5"

READ_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    AssertionError,
    TypeError,
    IndexError,
    AttributeError,
)
"""What minari, h5py and pyarrow raise on files that are cut short, altered or not theirs."""


class Dataset:
    """A Minari dataset, read episode by episode.

    Args:
        path: its folder, the one that holds `data/`.

    Raises:
        UserError: nothing there, not a Minari dataset, or of a version that cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()  # minari joins a relative path to itself
        folder = self.path / "data" if (self.path / "data").is_dir() else self.path
        raw = read_json(folder / "metadata.json")
        if not isinstance(raw, dict):
            raise UserError(f"{folder / 'metadata.json'}: expected a JSON object, got {type(raw).__name__}")
        self.raw_metadata: dict[str, Any] = raw
        try:
            self._minari = minari.MinariDataset(folder)
        except ImportError as error:
            raise UserError(f"{path}: {error}") from error
        except READ_ERRORS as error:
            raise UserError(f"{path}: expected a Minari dataset, got {error!r}") from error
        self.id: str = self._minari.id
        self.observation_space: Space = self._minari.observation_space
        self.action_space: Space = self._minari.action_space

    def __repr__(self) -> str:
        return f"Dataset({self.id!r}, {len(self)} episodes)"

    def __len__(self) -> int:
        return len(self._minari)

    def __iter__(self) -> Iterator[Episode]:
        """All episodes in order, one in memory at a time."""
        return self.episodes(range(len(self)))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What is known of the data: task, instruction, body, measure, random, expert; more if it is ours.

        For a foreign dataset the task is its id, the instruction its description, and the references
        are Minari's `ref_min_score` and `ref_max_score`, each a dict of score and source, or None.
        """
        raw = self.raw_metadata
        return {
            "task": self.id,
            "instruction": raw.get("description") or "",
            "body": self.id,
            "measure": "return",
            "random": _reference(raw.get("ref_min_score")),
            "expert": _reference(raw.get("ref_max_score")),
            **self.own_metadata,
        }

    @property
    def is_ours(self) -> bool:
        """Whether `write_dataset` made it."""
        return KEY in self.raw_metadata

    @property
    def own_metadata(self) -> dict[str, Any]:
        """Our part of metadata.json as it stands there, empty for a foreign dataset."""
        return self.raw_metadata.get(KEY, {})

    @property
    def data_file(self) -> Path | None:
        """The HDF5 file with all episodes; None in other formats."""
        file = self._minari.storage.data_path / DATA_FILE
        return file if file.is_file() else None

    @cached_property
    def lengths(self) -> np.ndarray:
        """T of every episode, (N,) int64."""
        known = self.metadata.get("lengths")
        if known is None:
            known = [entry["total_steps"] for entry in self.episode_metadata(range(len(self)))]
        return np.asarray(known, np.int64)

    def episode(self, index: int) -> Episode:
        """Episode number `index`; see `episodes`."""
        return next(self.episodes([index]))

    def episodes(self, indices: Sequence[int]) -> Iterator[Episode]:
        """The episodes of the given numbers, one in memory at a time.

        Raises:
            IndexError: there is no such episode.
            UserError: the file is damaged there; the message says which episode of which dataset.
        """
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"{self.id}: expected an episode from 0 to {len(self) - 1}, got {index}")
        # HDF5 files are opened once for many episodes; arrow has a file for each.
        block = 64 if self.raw_metadata.get("data_format", "hdf5") == "hdf5" else 1
        for start in range(0, len(indices), block):
            wanted = indices[start : start + block]
            parts, entries = self._parts(wanted), iter(self.episode_metadata(wanted))
            for index in wanted:
                try:
                    entry = next(entries)
                    yield Episode(**next(parts), seed=entry.get("seed"), score=entry.get("score"))
                except READ_ERRORS as error:
                    raise UserError(f"{self.id}, episode {index}: {one_line(error)}") from error

    def episode_parts(self, index: int) -> dict[str, Any]:
        """Observations, actions, rewards, terminated and truncated as they stand on disk, unchecked."""
        return next(self._parts([index]))

    def _parts(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        for raw in self._minari.storage.get_episodes(indices):
            yield {
                "observations": raw["observations"],
                "actions": raw["actions"],
                "rewards": np.asarray(raw["rewards"]).reshape(-1),
                "terminated": np.asarray(raw["terminations"]).reshape(-1),
                "truncated": np.asarray(raw["truncations"]).reshape(-1),
            }

    def episode_metadata(self, indices: Iterable[int]) -> Iterable[dict[str, Any]]:
        """Per episode what Minari keeps beside the arrays: id, total_steps, seed, score."""
        return self._minari.storage.get_episode_metadata(indices)


def open_dataset(path_or_id: Path | str, root: Path | str = "data") -> Dataset:
    """A dataset by its folder or by its id under a root folder.

    Raises:
        UserError: neither exists (the message names similar ids), or it cannot be read.
    """
    for path in (Path(root) / path_or_id, Path(path_or_id)):
        _recover(path)
        if _is_dataset(path):
            return Dataset(path)
    raise unknown(f"dataset in {root}", str(path_or_id), list_datasets(root))


def list_datasets(root: Path | str) -> list[str]:
    """Ids of all datasets under a root folder, sorted.

    >>> list_datasets("/nowhere")
    []
    """
    root = Path(root)
    return sorted(path.relative_to(root).as_posix() for path in _walk(root))


def _walk(folder: Path) -> Iterator[Path]:
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        if child.is_dir() and not child.name.startswith("."):
            if _is_dataset(child):
                yield child
            else:
                yield from _walk(child)


def _is_dataset(path: Path) -> bool:
    return any(
        (path / name).is_file() for name in ("data/metadata.json", f"data/{DATA_FILE}", "metadata.json")
    )


def write_dataset(
    root: Path | str,
    dataset_id: str,
    episodes: Iterable[Episode | StoredEpisode],
    observation_space: Space,
    action_space: Space,
    metadata: dict[str, Any],
) -> Path:
    """Stream episodes into a Minari dataset; an older one of that id is replaced at the very end.

    Args:
        root: folder of datasets.
        dataset_id: "namespace/name-v0".
        episodes: one at a time in memory; stored ones are copied without being decoded.
        observation_space: of every observation.
        action_space: of every action.
        metadata: JSON values; task, instruction, body, measure, random, expert, actor and what else is known.
            "seeds", "scores" and "lengths" are filled in here.

    Returns:
        The dataset's folder.

    Raises:
        UserError: bad id, no episodes, a space that Minari cannot describe, or a full disk; what stood
            there before is unharmed.
    """
    final = dataset_path(root, dataset_id).absolute()  # minari joins a relative path to itself
    _recover(final)
    temporary = final.with_name(f".{final.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "data").mkdir(parents=True)
        storage = _new_storage(temporary / "data", observation_space, action_space)
        index = write_file(temporary / "data" / DATA_FILE, episodes)
        if not index.lengths:
            raise UserError(f"{dataset_id}: expected at least one episode, got none")
        storage.update_metadata(_minari_metadata(storage, dataset_id, metadata, index))
        _sync(temporary / "data")
        replace_folder(temporary, final)
    except OSError as error:
        raise UserError(f"cannot write {final}: {one_line(error)}; what was there is unchanged") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def dataset_path(root: Path | str, dataset_id: str) -> Path:
    """Where a dataset lies.

    Raises:
        UserError: not an id that Minari accepts.

    >>> dataset_path("data", "babyai/GoToLocal/expert-v0").as_posix()
    'data/babyai/GoToLocal/expert-v0'
    """
    match = DATASET_ID_RE.fullmatch(dataset_id)
    if match is None or match.group("version") is None:
        raise UserError(
            "expected a dataset id such as namespace/name-v0, of letters, digits, _ and -, the namespace "
            f"of two or more, got {dataset_id!r}"
        )
    if "data" in dataset_id.split("/")[:-1]:
        raise UserError(f"dataset id {dataset_id!r}: minari takes a folder named 'data' for the end of an id")
    return Path(root) / dataset_id


def _new_storage(folder: Path, observation_space: Space, action_space: Space) -> MinariStorage:
    try:
        return MinariStorage.new(
            folder, observation_space, action_space, data_format="hdf5", jpeg_encoding=False
        )
    except NotImplementedError as error:
        raise UserError(str(error)) from error


def _minari_metadata(
    storage: MinariStorage, dataset_id: str, metadata: dict[str, Any], index: FileIndex
) -> dict[str, Any]:
    references = {"ref_min_score": metadata.get("random"), "ref_max_score": metadata.get("expert")}
    known = {key: value["score"] for key, value in references.items() if value is not None}
    return {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "total_episodes": len(index.lengths),
        "total_steps": sum(index.lengths),
        "dataset_size": float(storage.get_size()),
        "description": metadata.get("instruction", ""),
        "algorithm_name": str(metadata.get("actor", "unknown")),
        **(known if len(known) == 2 else {}),
        KEY: {"format_version": FORMAT_VERSION, **metadata, **vars(index)},
    }


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _recover(final: Path) -> None:
    """Put back the older dataset that a kill between the two renames of `replace_folder` left aside."""
    aside = final.with_name(f".{final.name}.old")
    if aside.exists() and not final.exists():
        os.replace(aside, final)


def _reference(score: float | None) -> dict[str, Any] | None:
    return None if score is None else {"score": float(score), "source": "minari metadata"}


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; its type where it has no message."""
    return " ".join((str(error) or type(error).__name__).split())
