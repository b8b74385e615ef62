"""`factotum pretrain codes|text|pictures|judge --out RUN`: what reads, draws and judges scenes, each trained by itself.

codes: an autoencoder that makes ids of pictures; text: a decoder of sentences; pictures: a decoder of a picture's
codes; judge: a classifier of what stands where, which the others never see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.gats.generate import logits_of
from factotum.gats.objective import IGNORED
from factotum.gats.parts import PartConfig, load_weights, make_part, save_part, save_weights
from factotum.gats.picture_codes import CodesConfig, PictureCodes
from factotum.losses.likelihood import token_loss
from factotum.recipes.scene_data import (
    FIRST_EVALUATION_SEED,
    pictures_of,
    scene_shard,
    sentence_ids,
    vocabulary,
)
from factotum.recipes.scene_judge import Judge, slots_of
from factotum.training.config import TrainConfig
from factotum.training.provenance import record_command
from factotum.training.report import write_report
from factotum.training.train import train
from factotum.worlds.suites.scenes import captioned, plain_sentence


@dataclass(frozen=True)
class Args:
    """Train what a composition of text and pictures is made of. It ends in RUN/model."""

    what: Annotated[Literal["codes", "text", "pictures", "judge"], tyro.conf.Positional]
    """what is trained"""
    out: Path
    """folder of the run; an existing one is resumed"""
    codes: Path | None = None
    """of `pictures`: RUN/model of `pretrain codes`"""
    data: Path = Path("data")
    """of `pictures`: where scenes are kept as codes"""
    scenes: int = 20_000
    """of `pictures`: how many scenes"""
    width: int = 128
    """of the residual stream, or channels"""
    depth: int = 6
    """blocks of a decoder"""
    heads: int = 4
    """of attention"""
    steps: int = 5000
    """updates"""
    batch: int = 32
    """pictures or sentences in an update"""
    rate: float = 1e-3
    """highest learning rate"""
    seed: int = 0
    """of weights and draws"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""
    time_limit_s: float | None = None
    """seconds after which to write a checkpoint and stop"""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" keeps off an accelerator that is there"""

    def __post_init__(self) -> None:
        if self.what == "pictures" and self.codes is None:
            raise UserError("--codes: expected RUN/model of `factotum pretrain codes`, got none")


@dataclass
class Pair:
    """What is read and what is said of it."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Pair:
        """On a device."""
        return Pair(self.x.to(device), self.y.to(device))

    @property
    def tokens(self) -> int:
        """Rows."""
        return len(self.x)


@dataclass(frozen=True)
class Work:
    """How one of the networks is made, fed and taught."""

    make: Callable[[], nn.Module]
    batch: Callable[[np.random.Generator], Pair]
    objective: Callable[[nn.Module, Pair], tuple[Tensor, Any, dict[str, Tensor]]]
    save: Callable[[Any, Path], None]


def main(args: Args) -> Path:
    """Train, write the network and a report; the network's folder, or the run's where training is not over."""
    work = {"codes": _codes, "text": _text, "pictures": _pictures, "judge": _judge}[args.what](args)
    record_command(args.out)

    def batches(step: int, rank: int = 0, world_size: int = 1, micro: int = 0) -> Pair:
        return work.batch(numpy_generator(args.seed, args.what, step, rank, micro))

    result = train(
        make_model=work.make, batch_source=batches, objective=work.objective, run=args.out,
        config=TrainConfig(
            steps=args.steps, learning_rate=args.rate, warmup_steps=min(100, args.steps - 1), seed=args.seed,
            weight_decay=0.01, checkpoint_every=args.checkpoint_every, device=args.device,
            time_limit_s=args.time_limit_s,
        ),
        save_model=save_weights, load_model=load_weights,
        settings={
            name: getattr(args, name) for name in ("what", "width", "depth", "heads", "batch", "scenes")
        },
    )  # fmt: skip
    if not result.finished:
        print(f"stopped after {result.step} of {args.steps} updates; the same command goes on")
        return args.out
    model = work.make()
    load_weights(model, result.checkpoint)
    work.save(model, args.out / "model")
    if result.metrics:
        write_report(args.out, None)
    print(f"{args.what}: {args.out / 'model'}")
    return args.out / "model"


def _seeds(generator: np.random.Generator, count: int) -> list[int]:
    return [int(seed) for seed in generator.integers(FIRST_EVALUATION_SEED, size=count)]


def _codes(args: Args) -> Work:
    config = CodesConfig(width=args.width)

    def batch(generator: np.random.Generator) -> Pair:
        pixels = pictures_of(_seeds(generator, args.batch))
        return Pair(pixels, pixels)

    def objective(model: nn.Module, pair: Pair) -> tuple[Tensor, int, dict[str, Tensor]]:
        difference = model(pair.x) - pair.y
        return difference.abs().mean() + difference.square().mean(), len(pair.x), {}

    return Work(
        partial(PictureCodes, config), batch, objective, lambda model, folder: model.save_folder(folder)
    )


def _next_id(model: nn.Module, pair: Pair) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    scores, there = logits_of(model(input_ids=pair.x)), pair.y != IGNORED
    losses = token_loss(scores[there], pair.y[there])
    right = (scores[there].argmax(-1) == pair.y[there]).float().mean()
    return losses.mean(), there.sum(), {"accuracy": right}


def _decoder(args: Args, size: int, batch: Callable[[np.random.Generator], Pair]) -> Work:
    config = PartConfig("decoder", width=args.width, depth=args.depth, heads=args.heads, vocabulary=size)
    return Work(
        partial(make_part, config), batch, _next_id, lambda model, folder: save_part(model, config, folder)
    )


def _text(args: Args) -> Work:
    def batch(generator: np.random.Generator) -> Pair:
        ids, there = sentence_ids([plain_sentence(generator) for _ in range(args.batch)])
        return Pair(ids[:, :-1], ids[:, 1:].masked_fill(~there[:, 1:], IGNORED))

    return _decoder(args, vocabulary(), batch)


def _pictures(args: Args) -> Work:
    assert args.codes is not None
    codes = PictureCodes.load_folder(args.codes)
    shard, begin = scene_shard(args.data, codes, args.scenes), codes.config.vocabulary

    def batch(generator: np.random.Generator) -> Pair:
        chosen = np.sort(generator.integers(len(shard), size=args.batch))
        ids = torch.from_numpy(np.asarray(shard.columns["codes"][chosen], np.int64))
        return Pair(torch.cat([torch.full_like(ids[:, :1], begin), ids[:, :-1]], 1), ids)

    return _decoder(args, begin + 1, batch)


def _judge(args: Args) -> Work:
    def batch(generator: np.random.Generator) -> Pair:
        seeds = _seeds(generator, args.batch)
        return Pair(pictures_of(seeds), torch.tensor([slots_of(captioned(seed)[0]) for seed in seeds]))

    def objective(model: nn.Module, pair: Pair) -> tuple[Tensor, int, dict[str, Tensor]]:
        loss, right = model.judged(pair.x, pair.y)  # type: ignore[operator]
        return loss, len(pair.x), {"accuracy": right}

    return Work(partial(Judge, args.width), batch, objective, lambda model, folder: model.save_folder(folder))
