"""Every episode's raw score on disk: one JSON line each, appended as it ends, never played twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json_lines
from factotum.training.evaluate import EpisodeResult


def episode_file(folder: Path | str, task: str) -> Path:
    """Where the episodes of a task are recorded.

    >>> str(episode_file("evaluation", "babyai/GoToLocal"))
    'evaluation/babyai__GoToLocal.jsonl'
    """
    return Path(folder) / f"{task.replace('/', '__')}.jsonl"


def play_missing(
    folder: Path | str,
    *,
    task: str,
    agent: str,
    checkpoint: str,
    seeds: Sequence[int],
    play: Callable[..., list[EpisodeResult]],
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Play the seeds not yet on record and append each episode as it ends, so that a kill loses none.

    Args:
        folder: the run's "evaluation" folder.
        task: full name.
        agent: who plays ("random", "expert", "retrieve", or a label of one's own).
        checkpoint: what exactly plays (`checkpoint_hash`); episodes of another are not reused.
        seeds: wanted episodes.
        play: `play(seeds=..., on_episode=...)`, for example a partial `evaluate`; not called when
            nothing is missing.
        on_episode: called after each new episode has been recorded.

    Returns:
        One result a seed, old and new, in the order of `seeds`.
    """
    path = episode_file(folder, task)
    key = {"task": task, "agent": agent, "checkpoint": checkpoint}

    def record(result: EpisodeResult) -> None:
        append_json_line(path, {**key, **asdict(result)})
        if on_episode is not None:
            on_episode(result)

    done = _recorded(path, key)
    missing = [seed for seed in seeds if seed not in done]
    if missing:
        done |= {result.seed: result for result in play(seeds=missing, on_episode=record)}
    return [done[seed] for seed in seeds]


def _recorded(path: Path, key: dict[str, str]) -> dict[int, EpisodeResult]:
    lines = [line for line in read_json_lines(path) if all(line.get(name) == key[name] for name in key)]
    results = (EpisodeResult(**{name: line[name] for name in line if name not in key}) for line in lines)
    return {result.seed: result for result in results}


def checkpoint_hash(folder: Path | str) -> str:
    """Twelve hex digits that change with any file a checkpoint acts by (training state apart).

    Raises:
        UserError: the folder holds no model.
    """
    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"expected a checkpoint folder with model.safetensors, got {folder}")
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if (
            file.is_file()
            and file.suffix in (".json", ".safetensors")
            and not file.name.startswith("training_")
        ):
            digest.update(file.name.encode())
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def read_episodes(folder: Path | str) -> list[dict[str, Any]]:
    """All recorded episodes of an "evaluation" folder, files by name, lines in order."""
    return [line for file in sorted(Path(folder).glob("*.jsonl")) for line in read_json_lines(file)]
