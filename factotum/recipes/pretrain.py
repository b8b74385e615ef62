"""`factotum pretrain vision --out RUN`: a vision encoder from frames alone, resumable; then it can be joined frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.seeding import numpy_generator
from factotum.data.windows import Shard
from factotum.gats.feeds import pixels
from factotum.gats.parts import PartConfig, load_weights, make_masked_part, save_part, save_weights
from factotum.recipes.compose_data import task_shard
from factotum.recipes.compose_file import DataSection
from factotum.training.config import TrainConfig
from factotum.training.pretrain_report import write_pretrain_report
from factotum.training.provenance import record_command
from factotum.training.train import train
from factotum.worlds.suites import registry


@dataclass(frozen=True)
class Args:
    """Train a vision transformer to paint in hidden patches of frames. It ends in RUN/model, a component's source.

    What reads, draws and judges scenes has options of its own: `factotum pretrain codes --help`, and so `text`,
    `pictures`, `judge`.

    Source: SimMIM (arXiv 2111.09886): hidden patches are one learnt vector, the head is linear, the loss is the
    mean absolute difference of hidden pixels.
    """

    what: Annotated[Literal["vision"], tyro.conf.Positional]
    """what is trained"""
    out: Path
    """folder of the run; an existing one is resumed"""
    tasks: tuple[str, ...]
    """whose frames, as in `factotum tasks`; demonstrations are collected where they are missing"""
    data: Path = Path("data")
    """folder of datasets"""
    name: str = "expert"
    """of the datasets"""
    episodes: int = 1000
    """of each task"""
    keys: tuple[str, ...] = ("image",)
    """of the observations' pictures"""
    image: int = 0
    """height and width that is seen, the upper left part; 0 for all"""
    patch: int = 8
    """side of a patch"""
    width: int = 96
    """of the residual stream"""
    depth: int = 4
    """blocks"""
    heads: int = 4
    """of attention"""
    hidden: float = 0.5
    """share of patches that are hidden"""
    steps: int = 10_000
    """updates"""
    batch: int = 128
    """frames in an update"""
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
        if not 0.0 < self.hidden < 1.0:
            raise UserError(f"--hidden: expected a share in (0, 1), got {self.hidden}")
        if self.batch < 1:
            raise UserError(f"--batch: expected 1 or more, got {self.batch}")


@dataclass
class Frames:
    """Pictures, and which patches of each are hidden."""

    pixels_RCHW: Tensor
    hidden_RP: Tensor

    def to(self, device: torch.device | str) -> Frames:
        """On a device."""
        return Frames(self.pixels_RCHW.to(device), self.hidden_RP.to(device))

    @property
    def tokens(self) -> int:
        """Patches."""
        return self.hidden_RP.numel()


class FrameBatches:
    """A batch source: frames of all tasks, each task equally often."""

    def __init__(self, shards: Sequence[Shard], config: PartConfig, args: Args) -> None:
        self.columns = [shard.columns[key] for shard in shards for key in args.keys]
        self.config, self.args = config, args

    def __call__(self, step: int, rank: int = 0, world_size: int = 1, micro: int = 0) -> Frames:
        """The batch of one micro step."""
        generator, size = numpy_generator(self.args.seed, "frames", step, rank, micro), self.config.image
        frames = []
        for _ in range(self.args.batch):
            column = self.columns[int(generator.integers(len(self.columns)))]
            frames.append(np.asarray(column[int(generator.integers(len(column)))])[:size, :size])
        patches = (size // self.config.patch) ** 2
        count = max(1, round(self.args.hidden * patches))
        order = generator.random((len(frames), patches)).argsort(1)
        return Frames(pixels(np.stack(frames), size), torch.from_numpy(order < count))


def paint(model: nn.Module, batch: Frames) -> tuple[Tensor, int, dict[str, Tensor]]:
    """Mean absolute difference of hidden pixels, and its weight."""
    output = model(pixel_values=batch.pixels_RCHW, bool_masked_pos=batch.hidden_RP)
    return output.loss, len(batch.pixels_RCHW), {}


def main(args: Args) -> Path:
    """Train, write the encoder and a report; the folder of the encoder, or of the run where training is not over.

    Raises:
        UserError: unknown tasks, observations without pictures, sizes that do not fit, or as `train`.
    """
    section = DataSection(args.tasks, str(args.data), args.name, args.episodes)
    tasks = [registry.task(name) for name in registry.expand(list(args.tasks))]
    shards = [task_shard(task, section, args.keys) for task in tasks]
    config = _config(args, shards)
    record_command(args.out)
    batches = FrameBatches(shards, config, args)
    result = train(
        make_model=partial(make_masked_part, config),
        batch_source=batches,
        objective=paint,
        config=TrainConfig(
            steps=args.steps, learning_rate=args.rate, warmup_steps=min(200, args.steps - 1), seed=args.seed,
            weight_decay=0.05, checkpoint_every=args.checkpoint_every, device=args.device,
            time_limit_s=args.time_limit_s,
        ),
        run=args.out,
        save_model=save_weights,
        load_model=load_weights,
        settings={"part": to_json_dict(config), "tasks": list(args.tasks), "batch": args.batch, "hidden": args.hidden},
    )  # fmt: skip
    if not result.finished:
        print(f"stopped after {result.step} of {args.steps} updates; the same command goes on")
        return args.out
    model: Any = make_masked_part(config)
    load_weights(model, result.checkpoint)
    save_part(model.vit, config, args.out / "model", without=("embeddings.mask_token",))
    write_pretrain_report(args.out, *shown(model.eval(), batches(args.steps), config.patch))
    print(f"encoder: {args.out / 'model'}")
    return args.out / "model"


def _config(args: Args, shards: Sequence[Shard]) -> PartConfig:
    shapes = {shard.columns[key].shape[1:] for shard in shards for key in args.keys}
    if len({shape[2:] for shape in shapes}) > 1 or any(len(shape) != 3 for shape in shapes):
        raise UserError(
            f"--keys: expected pictures of one number of channels at {', '.join(args.keys)}, got {shapes}"
        )
    least = min(min(shape[:2]) for shape in shapes)
    if args.image > least:
        raise UserError(f"--image: expected at most {least}, got {args.image}")
    return PartConfig(
        "vision-encoder", width=args.width, depth=args.depth, heads=args.heads, image=args.image or least,
        patch=args.patch, channels=int(next(iter(shapes))[2]),
    )  # fmt: skip


@torch.no_grad()
def shown(model: Any, batch: Frames, patch: int, count: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some frames, what the model saw of them, and what it painted, `R H W C` from 0 to 1."""
    few = Frames(batch.pixels_RCHW[:count], batch.hidden_RP[:count])
    painted = model(pixel_values=few.pixels_RCHW, bool_masked_pos=few.hidden_RP).reconstruction
    side = few.pixels_RCHW.shape[-1] // patch
    mask = few.hidden_RP.reshape(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    seen, filled = few.pixels_RCHW.masked_fill(mask, 0.0), torch.where(mask, painted, few.pixels_RCHW)
    frames, hidden, whole = (
        (x.permute(0, 2, 3, 1).clamp(-1, 1).numpy() + 1) / 2 for x in (few.pixels_RCHW, seen, filled)
    )
    return frames, hidden, whole
