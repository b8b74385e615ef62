"""`factotum collect`: an actor plays, episodes of enough score become one dataset for each task."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

from factotum import __version__
from factotum.core.checks import UserError
from factotum.data.packing import StoredEpisode, unpack
from factotum.data.store import Dataset, dataset_path, list_datasets, write_dataset
from factotum.distill.store import find_policy
from factotum.recipes.player import Player
from factotum.recipes.policy_expert import task_of
from factotum.training.collect import Collected, collect, return_threshold
from factotum.training.parts import exclusive, settings_difference
from factotum.worlds.paraphrase import Split
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Reference, Task

KEEP = 0.8
"""Share of the expert's score from which an expert's episode is kept, as in the paper."""


@dataclass(frozen=True)
class Args:
    """Collect demonstrations. Run again, it goes on where it stopped, or extends what is there.

    Differs from a plain recording in who acts: `--actor CHECKPOINT` lets a trained agent act while the
    expert labels every step (DAgger); `--noise` lets random actions push the expert off its path.
    """

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Suites (babyai), globs ("babyai/GoTo*"), names (metaworld/reach), captions:FOLDER or text:FOLDER."""
    episodes: int = 100
    """Episodes to have for each task in the end, after the filter."""
    data: Path = Path("data")
    """Folder of datasets; each goes to <task>/<name>-v0 below it."""
    actor: str = "expert"
    """Who acts: expert, random, or the folder of a checkpoint (then the expert labels)."""
    expert: str = ""
    """Folder of a trained policy (train-teacher, distill) in place of the task's own expert, or where it has none."""
    name: str | None = None
    """Name of the datasets; by default expert, random or dagger after the actor."""
    noise: float = 0.0
    """With the expert: share of steps that execute a random action instead; the expert's is stored."""
    expert_share: float = 0.0
    """With a checkpoint: share of episodes that the expert plays itself (DAgger's beta)."""
    keep: float | None = None
    """Keep episodes of at least this share of the expert's score, 0 all; default 0.8 if the expert acts."""
    words: Split = "plain"
    """Words in which BabyAI's missions of one clause are said: plain as the level has them."""
    longest: int | None = None
    """Cut episodes after so many steps, where the task allows more."""
    seed: int = 0
    """Seed of the first episode; the next ones count up."""
    jobs: int | None = None
    """Processes; by default one for each core."""
    chunk: int = 16
    """Episodes that a process plays and hands over at once."""
    episode_seconds: float = 300.0
    """An episode that takes longer is discarded."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError(
                "tasks: expected at least one suite, glob or task name; `factotum tasks` lists them"
            )
        for option, least in (("episodes", 1), ("chunk", 1), ("seed", 0)):
            if getattr(self, option) < least:
                raise UserError(f"--{option}: expected {least} or more, got {getattr(self, option)}")
        for option in ("noise", "expert_share", "keep"):
            value = getattr(self, option)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--{option.replace('_', '-')}: expected a number from 0 to 1, got {value}")
        if self.longest is not None and self.longest < 1:
            raise UserError(f"--longest: expected 1 or more, got {self.longest}")
        if self.jobs == 0:
            raise UserError("--jobs: expected a number of processes (or -1 for all cores), got 0")
        if not self.episode_seconds > 0:
            raise UserError(f"--episode-seconds: expected more than 0, got {self.episode_seconds}")
        self._check_actor()

    def _check_actor(self) -> None:
        if self.uses_checkpoint and not (Path(self.actor) / "model.safetensors").is_file():
            raise UserError(f"--actor: expected expert, random or a checkpoint's folder, got {self.actor!r}")
        if self.noise and self.actor != "expert":
            raise UserError(f"--noise: works with --actor expert, got --actor {self.actor}")
        if self.expert and self.actor == "random":
            raise UserError("--expert: works where an expert acts or labels, got --actor random")
        if self.expert_share and not self.uses_checkpoint:
            raise UserError(f"--expert-share: works with a checkpoint as --actor, got --actor {self.actor}")

    @property
    def uses_checkpoint(self) -> bool:
        """Whether a trained agent acts."""
        return self.actor not in ("expert", "random")

    @property
    def share(self) -> float:
        """Of the expert's score, from which an episode is kept; 0 keeps all."""
        return self.keep if self.keep is not None else KEEP if self.actor == "expert" else 0.0


def main(args: Args) -> list[str]:
    """Collect each task in turn; returns the ids of the datasets."""
    return [_collect_task(task, args) for task in _tasks(args)]


def _tasks(args: Args) -> list[Task]:
    """The tasks asked for; one without an expert is an error if it was named, else left out with a note."""
    tasks = [task_of(name, args.expert) for name in registry.expand(list(args.tasks))]
    for name in sorted({task.name.partition("/")[0] for task in tasks} & registry.suites().keys()):
        command = registry.suites()[name].missing()
        if command:
            raise UserError(f"suite {name} is not installed: run  {command}")
    if args.actor == "random":
        return tasks
    lacking = [task.name for task in tasks if task.make_expert is None]
    named = sorted(set(lacking) & set(args.tasks))
    if named or len(lacking) == len(tasks):
        raise UserError(f"{', '.join(named or lacking)}: no expert there; --actor random works without one")
    if lacking:
        print(f"left out, since they have no expert: {', '.join(lacking)}")
    return [task for task in tasks if task.make_expert is not None]


def dataset_id(task_name: str, name: str) -> str:
    """The id of a task's dataset; what Minari does not allow in ids becomes a short hash.

    >>> dataset_id("babyai/GoToLocal", "expert"), dataset_id("babyai/GoToLocal", "second-v3")
    ('babyai/GoToLocal/expert-v0', 'babyai/GoToLocal/second-v3')
    >>> dataset_id("captions:/some/my pictures", "expert")
    'captions/my-pictures-6d0d3432/expert-v0'
    """
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*", task_name, re.ASCII):
        kind, _, rest = task_name.partition(":")
        slug = re.sub(r"[^\w-]+", "-", Path(rest).name, flags=re.ASCII).strip("-") or "folder"
        task_name = f"{kind}/{slug}-{hashlib.sha256(task_name.encode()).hexdigest()[:8]}"
    return f"{task_name}/{name}" if re.search(r"-v\d+$", name) else f"{task_name}/{name}-v0"


def _collect_task(task: Task, args: Args) -> str:
    name = args.name or ("dagger" if args.uses_checkpoint else args.actor)
    identity = dataset_id(task.name, name)
    path = dataset_path(args.data, identity)
    folder = args.data / ".collect" / identity
    with exclusive(folder):
        existing = Dataset(path) if identity in list_datasets(args.data) else None
        settings = _settings(task, args)
        if existing is not None:
            _check_same(existing, settings)
        if existing is None or len(existing) < args.episodes:
            _extend(task, args, identity, existing, settings, folder)
        else:
            print(f"{identity}: {len(existing)} episodes are there already")
        shutil.rmtree(folder)
    return identity


def _settings(task: Task, args: Args) -> dict[str, Any]:
    """All that decides what the dataset holds, its size aside."""
    return {
        "task": task.name,
        "actor": _actor_name(args),
        "labeller": "expert" if args.uses_checkpoint or args.noise else None,
        "noise": args.noise,
        "expert_share": args.expert_share,
        "keep": args.share,
        "first_seed": args.seed,
        "code_version": __version__,
        # Named where they are used, so that datasets from before they were there can be extended.
        **({"words": args.words} if args.words != "plain" else {}),
        **({"longest": args.longest} if args.longest is not None else {}),
        **(
            {"expert": _weights_name("policy", find_policy(args.expert) or Path(args.expert))}
            if args.expert
            else {}
        ),
    }


def _actor_name(args: Args) -> str:
    return _weights_name("checkpoint", Path(args.actor)) if args.uses_checkpoint else args.actor


def _weights_name(kind: str, folder: Path) -> str:
    with open(folder / "model.safetensors", "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{kind} {folder.name} sha256:{digest[:16]}"


def _check_same(existing: Dataset, settings: dict[str, Any]) -> None:
    found = existing.own_metadata.get("settings")
    if found is None:
        raise UserError(
            f"{existing.path}: this dataset was not made by `factotum collect`: choose another --name"
        )
    if found != settings:
        difference = settings_difference(found, settings)
        raise UserError(f"{existing.path} was collected with {difference}: choose another --name")


def _extend(
    task: Task, args: Args, identity: str, existing: Dataset | None, settings: dict[str, Any], folder: Path
) -> None:
    """Play what is missing and write the dataset anew with it, old episodes first."""
    before = existing.own_metadata if existing else {}
    expert = before["filter"]["expert_return"] if existing else task.expert.score if task.expert else None
    threshold = return_threshold(expert, args.share) if args.share and expert is not None else None
    result = collect(
        Player(
            task.name,
            args.actor,
            args.noise,
            args.expert_share,
            args.episode_seconds,
            threshold,
            args.words,
            args.longest,
            args.expert,
        ),
        folder=folder,
        settings=settings,
        episodes=args.episodes - (len(existing) if existing else 0),
        first_seed=before.get("next_seed", args.seed),
        chunk=args.chunk,
        jobs=args.jobs,
        expert=expert,
        share=args.share,
        chunk_seconds=args.episode_seconds * args.chunk + 300,
        title=task.name,
    )
    metadata = _metadata(task, settings, args.share, result, before)
    episodes = _stored(existing, result)
    path = write_dataset(args.data, identity, episodes, task.observation_space, task.action_space, metadata)
    print(_summary(Dataset(path)))


def _stored(existing: Dataset | None, result: Collected) -> Iterator[StoredEpisode]:
    if existing is not None and existing.data_file is not None:
        yield from unpack(existing.data_file)
    kept = set(result.kept)
    for part in result.parts:
        if any(outcome.seed in kept for outcome in part.outcomes):
            yield from (stored for stored in unpack(part.read()) if stored.seed in kept)


def _metadata(
    task: Task, settings: dict[str, Any], share: float, result: Collected, before: dict[str, Any]
) -> dict[str, Any]:
    def as_dict(reference: Reference | None) -> dict[str, Any] | None:
        return None if reference is None else {"score": reference.score, "source": reference.source}

    discarded = [[outcome.seed, outcome.score, outcome.reason] for outcome in result.discarded]
    return {
        "task": task.name,
        "instruction": task.instruction,
        "body": task.body,
        "measure": task.measure,
        "max_steps": task.max_steps,
        "random": as_dict(task.random),
        "expert": as_dict(task.expert),
        "actor": settings["actor"],
        "labeller": settings["labeller"],
        "settings": settings,
        "filter": {"share": share, "expert_return": result.expert_return, "threshold": result.threshold},
        "discarded": before.get("discarded", []) + discarded,
        "next_seed": result.next_seed,
        "versions": {name: version(name) for name in ("gymnasium", "minari", "numpy")},
    }


def _summary(dataset: Dataset) -> str:
    own = dataset.own_metadata
    mean = sum(own["scores"]) / len(own["scores"])
    line = f"{dataset.id}: {len(dataset)} episodes, {dataset.lengths.sum()} steps, mean score {mean:.3g}"
    threshold = own["filter"]["threshold"]
    reasons = Counter(reason or f"scored below {threshold:.3g}" for _, _, reason in own["discarded"])
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return f"{line}; discarded: {why}" if why else line
