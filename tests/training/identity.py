"""A world whose answer is its question, learnt in seconds; also run alone, to be killed or under torchrun.

`python -m tests.training.identity PLAN.json`: each entry of the plan is the arguments of `train_identity`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.distributed.tensor import DTensor

from factotum.core.seeding import torch_generator
from factotum.training.config import TrainConfig
from factotum.training.distributed import is_main_process
from factotum.training.train import TrainResult, train

WIDTH = 4


@dataclasses.dataclass
class Batch:
    """`mask` says which rows count; `picture` is there in every other batch only."""

    x: torch.Tensor
    mask: torch.Tensor
    picture: bool
    step: int
    level: float = 0.0

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    def to(self, device: torch.device) -> Batch:
        return dataclasses.replace(self, x=self.x.to(device), mask=self.mask.to(device))


class Model(nn.Module):
    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, WIDTH))
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.picture = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, picture: bool = False) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x) + self.picture(self.norm(x)) * picture if picture else self.head(x)


def batch_at(step: int, part: int, level: float = 0.0) -> Batch:
    """Part 0 or 1 of a global batch; the parts count very different numbers of rows."""
    generator = torch_generator(0, "identity", step, part)
    x = torch.randn(8, WIDTH, generator=generator) * (1 + level)
    rows = 8 if part == 0 else 2
    return Batch(x, torch.arange(8) < rows, picture=part == 1, step=step, level=level)


def joined(step: int) -> Batch:
    """Both parts as one batch."""
    parts = [batch_at(step, part) for part in (0, 1)]
    return Batch(torch.cat([p.x for p in parts]), torch.cat([p.mask for p in parts]), False, step)


def objective(model: nn.Module, batch: Batch):
    error = (model(batch.x, batch.picture) - batch.x).square().mean(-1)
    weight = batch.mask.sum()
    loss = (error * batch.mask).sum() / weight
    return loss, weight, {"worst": (error * batch.mask).amax(), "level": (batch.level, 1.0)}


class Levels:
    """Feedback that makes later batches depend on earlier losses."""

    def __init__(self):
        self.level = 0.0

    def __call__(self, metrics: dict[str, float]) -> None:
        self.level = 0.5 * self.level + 0.5 * min(metrics["loss"], 1.0)

    def state_dict(self) -> dict:
        return {"level": self.level}

    def load_state_dict(self, state: dict) -> None:
        self.level = state["level"]


def save(model: nn.Module, folder: Path) -> None:
    save_model(model, str(folder / "model.safetensors"))


def load(model: nn.Module, folder: Path) -> None:
    load_model(model, str(folder / "model.safetensors"))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_identity(
    run: Path | str,
    *,
    dropout: float = 0.0,
    adaptive: bool = False,
    kill_in_update: int = -1,
    kill_in_checkpoint: int = -1,
    forget: int = -1,
    **config,
) -> TrainResult:
    """Train in `run`; `forget` removes that checkpoint first, `kill_...` ends the process like `kill -9`."""
    feedback = Levels() if adaptive else None
    config = TrainConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, "tensorboard": False, **config})

    def source(step: int, rank: int, world_size: int, micro: int) -> Batch:
        parts = world_size * config.gradient_accumulation
        return batch_at(step, (micro * world_size + rank) % parts, feedback.level if feedback else 0.0)

    def killable_objective(model: nn.Module, batch: Batch):
        if batch.step == kill_in_update:
            kill()
        # Blocks are whole only while they compute.
        assert isinstance(model.blocks[0][0].weight, DTensor) == config.sharded
        return objective(model, batch)

    def killable_save(model: nn.Module, folder: Path) -> None:
        save(model, folder)
        if folder.name.startswith(f"step-{kill_in_checkpoint:08d}"):
            kill()

    if forget >= 0 and is_main_process():
        shutil.rmtree(Path(run) / "checkpoints" / f"step-{forget:08d}")
    return train(
        make_model=lambda: Model(dropout),
        batch_source=source,
        objective=killable_objective,
        config=config,
        run=Path(run),
        save_model=killable_save,
        load_model=load,
        feedback=feedback,
    )


if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        if "betas" in arguments:
            arguments["betas"] = tuple(arguments["betas"])
        train_identity(**arguments)
