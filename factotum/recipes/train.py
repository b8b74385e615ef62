"""`factotum train`: one Gato on all datasets given, resumable, from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from gymnasium import spaces

from factotum.core.checks import UserError, unknown
from factotum.core.config import to_json_dict
from factotum.data.store import Dataset, list_datasets, open_dataset
from factotum.data.windows import Shard
from factotum.gato.config import PRESETS, GatoConfig
from factotum.gato.dataset import GatoBatches, TaskData, pool_statistics, train_tokenizer, write_task_shard
from factotum.gato.model import Gato
from factotum.gato.objective import GatoObjective
from factotum.gato.text import TextTokenizer
from factotum.recipes.train_start import OptimizerName, Start, choose_optimizer, optimizer_identity
from factotum.training.config import TrainConfig
from factotum.training.distributed import make_accelerator
from factotum.training.provenance import record_command
from factotum.training.train import TrainResult, train


@dataclass(frozen=True)
class Size:
    """How big the model is; what is not given is the preset's."""

    preset: Literal["small", "79m", "364m", "1b"] = "small"
    """small: fused tokens, rotary positions, for a laptop; the others are the paper's"""
    tokens: Literal["scalar", "fused"] | None = None
    """one position a token (the paper's), or one a modality and timestep"""
    positions: Literal["rotary", "relative"] | None = None
    """rotary (fast path) or relative (Transformer-XL, the paper's)"""
    context: int | None = None
    """positions that attention sees and a training sequence has"""
    layers: int | None = None
    """transformer blocks"""
    width: int | None = None
    """width of the residual stream"""
    heads: int | None = None
    """attention heads"""
    head_size: int | None = None
    """width of a head"""
    feed_forward: int | None = None
    """width before the GEGLU gate halves it"""
    text_size: int | None = None
    """largest number of subwords, at least `bins`"""
    bins: int | None = None
    """bins of a continuous value, and largest number of discrete values"""
    observation_slots: int | None = None
    """most tokens of one modality in a timestep"""
    code: int | None = None
    """features of a token before a modality is fused"""
    patch_slots: int | None = None
    """most patches of an image (fused tokens)"""
    patch_channels: int | None = None
    """channels of the block that embeds image patches"""
    stochastic_depth: float | None = None
    """share of branches dropped in training"""

    def config(self) -> GatoConfig:
        """The model's configuration."""
        given = {name: value for name, value in vars(self).items() if value is not None and name != "preset"}
        ids = {name: given.pop(name) for name in ("text_size", "bins") if name in given}
        config = PRESETS[self.preset](**given)
        return replace(config, vocabulary=replace(config.vocabulary, **ids))


@dataclass(frozen=True)
class Args:
    """Train one Gato on datasets of many tasks; run again, it goes on where it stopped."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of the run; an existing one is resumed"""
    datasets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN")] = ("*",)
    """dataset ids or patterns such as babyai/*; all by default"""
    data: Path = Path("data")
    """folder with the datasets"""
    rows: int = 16
    """sequences in a micro batch"""
    prompt_share: float = 0.25
    """share of sequences with a demonstration in front"""
    weights: tuple[tuple[str, float], ...] = ()
    """mixture weights as PATTERN WEIGHT pairs; 1 for tasks that match none"""
    adaptivity: float = 0.0
    """0 keeps the mixture fixed; above, tasks whose loss falls least are drawn more"""
    action_dropout: float = 0.0
    """share of past actions hidden from later steps (fused tokens), so that it looks rather than repeats itself"""
    target_spread: float = 0.0
    """bins by which a continuous target spreads over its neighbours; 0 is the paper's one-hot"""
    balanced: bool = True
    """each task's mean loss counts by its rows; otherwise every token counts the same, as in the paper"""
    start: Path | None = None
    """a checkpoint of the same size whose weights, tokenizer and statistics a new run starts from"""
    optimizer: OptimizerName = "adamw"
    """hierarchical-rnn is the learned one; the learning rate then multiplies its own step (1 leaves it)"""
    size: Size = field(default_factory=Size)
    training: TrainConfig = field(default_factory=TrainConfig)


def main(args: Args) -> TrainResult:
    """Prepare columns once, then train."""
    config = args.size.config()
    start = Start.read(args.start, config) if args.start is not None else None
    make_optimizer = choose_optimizer(args.optimizer, args.training)
    record_command(args.run)
    accelerator = make_accelerator(args.training.device)
    if accelerator.is_main_process:
        prepare(args)
    accelerator.wait_for_everyone()
    shards, text_actions = prepare(args)
    tokenizer = _tokenizer(args.run, shards, config, start) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    tokenizer = tokenizer or _tokenizer(args.run, shards, config, start)
    statistics = pool_statistics(shards)
    if start is not None:
        statistics = start.statistics.completed(statistics)
    tasks = [
        TaskData.open(shard, is_text, config, tokenizer, statistics)
        for shard, is_text in zip(shards, text_actions, strict=True)
    ]
    batches = GatoBatches(
        tasks,
        config,
        rows=args.rows,
        seed=args.training.seed,
        prompt_share=args.prompt_share,
        weights=_weights(args.weights, [task.name for task in tasks]),
        adaptivity=args.adaptivity,
        action_dropout=args.action_dropout,
    )
    objective = GatoObjective(config.vocabulary.continuous_start, args.target_spread, args.balanced)

    def make_model() -> Gato:
        model = Gato(config, tokenizer, statistics)
        return model if start is None else start.load_into(model)

    return train(
        make_model=make_model,
        batch_source=batches,
        objective=objective,
        config=args.training,
        run=args.run,
        save_model=lambda model, folder: model.save_folder(folder),  # type: ignore[operator]
        load_model=lambda model, folder: model.load_weights(Path(folder) / "model.safetensors"),  # type: ignore[operator]
        feedback=batches.mixture if args.adaptivity else None,
        settings=_settings(args, config, shards) | ({} if start is None else {"start": start.hash}),
        make_optimizer=make_optimizer,
    )


def prepare(args: Args) -> tuple[list[Shard], list[bool]]:
    """Columns of every task, written once and kept under DATA/.columns; whether each acts by text.

    Raises:
        UserError: no dataset matches, two datasets of a task differ in their spaces, or bad data.
    """
    shards, text_actions = [], []
    for task, parts in sorted(_by_task(args.datasets, args.data).items()):
        first = parts[0]
        for other in parts[1:]:
            if (other.observation_space, other.action_space) != (first.observation_space, first.action_space):
                raise UserError(
                    f"{other.id}: expected the spaces of {first.id}, which is of the same task {task}"
                )
        shards.append(_columns(task, parts, args.data / ".columns"))
        text_actions.append(isinstance(first.action_space, spaces.Text))
    return shards, text_actions


def _by_task(patterns: Sequence[str], root: Path) -> dict[str, list[Dataset]]:
    known = list_datasets(root)
    if not known:
        raise UserError(f"data: expected datasets in {root}, found none; `factotum collect` makes them")
    chosen: dict[str, list[Dataset]] = {}
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            raise unknown(f"dataset in {root}", pattern, known)
    for name in known:
        if any(fnmatch(name, pattern) for pattern in patterns):
            dataset = open_dataset(name, root)
            chosen.setdefault(dataset.metadata["task"], []).append(dataset)
    return chosen


def _columns(task: str, parts: list[Dataset], folder: Path) -> Shard:
    place = folder / "+".join(part.id.replace("/", "__") for part in parts)
    stamp = str(
        [(part.id, len(part), part.raw_metadata.get("total_steps"), _changed(part)) for part in parts]
    )
    if (place / "index.json").exists() and Shard(place).information.get("fingerprint") == stamp:
        return Shard(place)
    first = parts[0]
    return write_task_shard(
        place,
        chain.from_iterable(parts),
        task=task,
        body=first.metadata["body"],
        observation_space=first.observation_space,
        action_space=first.action_space,
        fingerprint=stamp,
    )


def _changed(dataset: Dataset) -> int:
    return max(file.stat().st_mtime_ns for file in dataset.path.rglob("*") if file.is_file())


def _tokenizer(
    run: Path, shards: list[Shard], config: GatoConfig, start: Start | None
) -> TextTokenizer | None:
    path, texts = run / "tokenizer.json", any(shard.information["texts"] for shard in shards)
    if start is not None:
        start.give_tokenizer(run, texts)
    if not texts and (start is None or not path.exists()):
        return None
    if not path.exists():
        train_tokenizer(shards, config.vocabulary.text_size).save(path)
    return TextTokenizer.load(path)


def _weights(pairs: Sequence[tuple[str, float]], names: Sequence[str]) -> dict[str, float]:
    weights = {}
    for pattern, weight in pairs:
        matching = [name for name in names if fnmatch(name, pattern)]
        if not matching:
            raise unknown("task in weights", pattern, names)
        weights.update(dict.fromkeys(matching, weight))
    return weights


def _settings(args: Args, config: GatoConfig, shards: list[Shard]) -> dict[str, Any]:
    names = ("rows", "prompt_share", "adaptivity", "action_dropout", "target_spread", "balanced")
    chosen = {name: getattr(args, name) for name in names}
    data = {shard.information["task"]: [shard.episodes, len(shard)] for shard in shards}
    return {
        "model": to_json_dict(config),
        "weights": [list(pair) for pair in args.weights],
        "data": data,
        **chosen,
        **optimizer_identity(args.optimizer),
    }


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    found = sorted((run / "checkpoints").glob("step-*"))
    if not found:
        raise UserError(f"expected checkpoints in {run}/checkpoints, found none; `factotum train` makes them")
    return found[-1]
