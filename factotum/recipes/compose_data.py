"""A composition's demonstrations: collected where they are missing, then kept as columns; and who is fed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.data.store import Dataset, list_datasets, open_dataset
from factotum.data.windows import Shard
from factotum.gats.actions import ActionTokens
from factotum.gats.episodes import EpisodeBatches, moments, write_episodes
from factotum.gats.feeds import ActionFeed, Feed, InstructionFeed, PictureFeed, StateFeed
from factotum.gats.parts import part_config
from factotum.gats.words import PackageWords, Words, WordTable
from factotum.recipes import collect
from factotum.recipes.compose_file import ComponentSection, Composition, DataSection
from factotum.worlds.paraphrase import every_word, paraphrase
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Task


@dataclass(frozen=True)
class Material:
    """What a composition learns from, and what its components have to fit.

    Args:
        tasks: by the order of the file.
        shards: of each task.
        tokens: ids of the actions.
        feeds: what each component reads.
    """

    tasks: list[Task]
    shards: list[Shard]
    tokens: ActionTokens
    feeds: dict[str, Feed]

    def batches(self, file: Composition) -> EpisodeBatches:
        """The batch source of training."""
        words = (
            (lambda text, generator: paraphrase(text, "training", generator))
            if file.data.paraphrase
            else None
        )
        return EpisodeBatches(
            self.shards, self.feeds, acts=file.acts, rows=file.training.batch, steps=file.data.steps,
            seed=file.training.seed, rewrite=words,
        )  # fmt: skip


def prepare(file: Composition, run: Path) -> Material:
    """Collect what is missing, write columns once, make the feeds.

    Args:
        file: the composition.
        run: where a table of words is kept.

    Raises:
        UserError: unknown tasks, tasks of several action spaces, observations that a component cannot read.
    """
    names = registry.expand(list(file.data.tasks))
    tasks = [registry.task(name) for name in names]
    for task in tasks:
        if task.action_space != tasks[0].action_space:
            raise UserError(
                f"data.tasks: expected tasks of one action space, got {tasks[0].action_space} of {tasks[0].name} "
                f"and {task.action_space} of {task.name}"
            )
    for task in tasks:
        for name, part in file.components.items():
            _check_reads(name, part, task)
    keys = sorted({key for part in file.components.values() if (key := part.input.partition(":")[2])})
    shards = [task_shard(task, file.data, keys) for task in tasks]
    tokens = ActionTokens(tasks[0].action_space, file.data.bins)
    feeds = {}
    for name, part in file.components.items():
        try:
            feeds[name] = _feed(part, tasks[0], shards, tokens, file, run)
        except UserError as error:
            raise UserError(f"components.{name}: {error}") from error
    return Material(tasks, shards, tokens, feeds)


def _check_reads(name: str, part: ComponentSection, task: Task) -> None:
    key = part.input.partition(":")[2]
    known = task.observation_space
    assert isinstance(known, spaces.Dict)
    if key and key not in known.spaces:
        raise UserError(
            f"components.{name}.reads: expected one of {', '.join(k for k in known if k != 'instruction')} "
            f"of {task.name}, got {key!r}"
        )


def task_shard(task: Task, data: DataSection, keys: Sequence[str]) -> Shard:
    """Columns of one task's demonstrations, under FOLDER/.compose.

    Raises:
        UserError: there are none and the task has no expert, or fewer than wanted in a dataset of another name.
    """
    dataset = demonstrations(task, data)
    place = Path(data.folder) / ".compose" / "+".join([dataset.id.replace("/", "__"), *keys])
    stamp = f"{len(dataset)} {data.episodes} {sorted(keys)} {_changed(dataset)}"
    if (place / "index.json").is_file():
        shard = Shard(place)
        if shard.information.get("fingerprint") == stamp:
            return shard
    episodes = dataset.episodes(range(min(len(dataset), data.episodes)))
    return write_episodes(place, episodes, keys, {"task": task.name, "fingerprint": stamp})


def demonstrations(task: Task, data: DataSection) -> Dataset:
    """A task's dataset; an expert's, or a random one, is collected or extended where it lacks episodes."""
    own = f"noise-{round(100 * data.noise)}" if data.noise else data.name
    name = f"{Path(data.expert).name}-{own}" if data.expert else own
    identity = collect.dataset_id(task.name, name)
    known = list_datasets(data.folder)
    dataset = open_dataset(identity, data.folder) if identity in known else None
    if data.name in ("expert", "random") and (dataset is None or len(dataset) < data.episodes):
        collect.main(
            collect.Args(
                tasks=(task.name,), episodes=data.episodes, data=Path(data.folder), actor=data.name,
                expert=data.expert, name=name, noise=data.noise, jobs=1,
            )
        )  # fmt: skip
        dataset = open_dataset(identity, data.folder)
    if dataset is None or len(dataset) < data.episodes:
        raise UserError(
            f"data: expected {data.episodes} episodes in {data.folder}/{identity}, "
            f"got {0 if dataset is None else len(dataset)}"
        )
    return dataset


def _changed(dataset: Dataset) -> int:
    return max(file.stat().st_mtime_ns for file in dataset.path.rglob("*") if file.is_file())


def _feed(
    part: ComponentSection,
    task: Task,
    shards: list[Shard],
    tokens: ActionTokens,
    file: Composition,
    run: Path,
) -> Feed:
    word, _, key = part.input.partition(":")
    if word == "action":
        return ActionFeed(tokens)
    if word == "instruction":
        return InstructionFeed(_words(part, shards, file, run), part.every)
    if word == "state":
        return StateFeed(key, *moments(shards, key))
    return PictureFeed(key, picture_size(part, task), max(1, part.every))


def picture_size(part: ComponentSection, task: Task) -> int:
    """Height and width of what a vision encoder sees.

    Raises:
        UserError: another number than its weights were made for, or more than the picture has.
    """
    key = part.input.partition(":")[2]
    shape = task.observation_space[key].shape  # type: ignore[index]
    size = part.image or (part_config(part.source).image if part.source != "new" else min(shape[:2]))
    if len(shape) != 3 or size > min(shape[:2]):
        raise UserError(f"expected pictures of at least {size} x {size}, got {shape} of {task.name}")
    return size


def _words(part: ComponentSection, shards: list[Shard], file: Composition, run: Path) -> Words:
    if part.source.startswith("package:"):
        return PackageWords(part.source.removeprefix("package:"))
    path = run / "words.json"
    if not path.is_file():
        sentences = [text for shard in shards for text in shard.information["texts"]]
        extra = sorted(every_word("training")) if file.data.paraphrase else []
        WordTable.of([*sentences, *extra]).save(path)
    return WordTable.load(path)


def sizes_of(name: str, material: Material) -> dict[str, Any]:
    """What a new network of a component has to fit: ids, numbers, pictures."""
    feed = material.feeds[name]
    if isinstance(feed, ActionFeed):
        return {"vocabulary": feed.tokens.size}
    if isinstance(feed, InstructionFeed):
        return {"vocabulary": feed.words.size, "length": 64}
    if isinstance(feed, StateFeed):
        return {"size": len(feed.mean_S)}
    assert isinstance(feed, PictureFeed)
    channels = material.shards[0].columns[feed.key].shape[-1]
    return {"image": feed.size, "channels": int(channels)}
