"""Long runs of full-size networks with the learned optimizer, resumable."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optim_gpu_networks import CLASSES, NETWORKS, Pictures
from torch import nn
from torch.nn import functional

from factotum.core.files import write_json_atomic
from factotum.optim import HierarchicalRNN


@dataclass(frozen=True)
class Training:
    """A run of one network.

    Args:
        network: name in `NETWORKS`.
        folder: where metrics, the checkpoint and the result are.
        steps: in all.
        batch: pictures in a batch.
        width, side: of the network and its pictures, 1.0 and None for full size.
        every: steps of a line of metrics; a checkpoint is written every ten lines.
        device: where.
        fused: as for the optimizer.
        half: bfloat16 activations.
    """

    network: str
    folder: Path
    steps: int
    batch: int
    width: float
    side: int | None
    every: int
    device: torch.device
    fused: bool | None
    half: bool


class Run:
    """The state of a run, as it was left or from the start."""

    def __init__(self, asked: Training) -> None:
        build, side = NETWORKS[asked.network]
        self.asked, self.done = asked, 0
        torch.manual_seed(0)
        self.model: nn.Module = build(asked.width).to(asked.device)
        self.optimizer = HierarchicalRNN(self.model.parameters(), fused=asked.fused)
        self.pictures = Pictures(asked.batch, asked.side or side, asked.device)
        self.lines: list[dict[str, Any]] = []
        asked.folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self.asked.folder / "checkpoint.pt"

    @property
    def _metrics(self) -> Path:
        return self.asked.folder / "metrics.jsonl"

    def _settings(self) -> dict[str, Any]:
        asked = self.asked
        return {
            "network": asked.network, "batch": asked.batch, "width": asked.width, "side": self.pictures.side,
            "half": asked.half,
        }  # fmt: skip

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        kept = torch.load(self._checkpoint, map_location=self.asked.device, weights_only=True)
        if kept["settings"] != self._settings():
            raise SystemExit(
                f"{self.asked.folder}: holds another run, {kept['settings']}; expected {self._settings()}"
            )
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.pictures.generator.set_state(kept["generator"].cpu())
        self.done = kept["done"]
        lines = [json.loads(line) for line in self._metrics.read_text().splitlines()]
        self.lines = [line for line in lines if line["step"] <= self.done]
        self._metrics.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        kept = {
            "settings": self._settings(), "done": self.done, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "generator": self.pictures.generator.get_state(),
        }  # fmt: skip
        fresh = self._checkpoint.with_suffix(".new")
        torch.save(kept, fresh)
        os.replace(fresh, self._checkpoint)

    def step(self) -> torch.Tensor:
        """One step; its loss, on the device."""
        x, label_B = self.pictures.draw()
        with torch.autocast(self.asked.device.type, torch.bfloat16, enabled=self.asked.half):
            loss = functional.cross_entropy(self.model(x).float(), label_B)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def stretch(self) -> None:
        """Steps of one line of metrics."""
        count = min(self.asked.every, self.asked.steps - self.done)
        start = time.perf_counter()
        losses = torch.stack([self.step() for _ in range(count)]).tolist()
        self.done += count
        line = {
            "step": self.done,
            "steps": count,
            "loss": sum(losses) / count,
            "greatest": max(losses, key=lambda loss: math.inf if math.isnan(loss) else loss),
            "finite": all(map(math.isfinite, losses)),
            "milliseconds": 1e3 * (time.perf_counter() - start) / count,
        }
        self.lines.append(line)
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"{self.asked.network} step {self.done}: loss {line['loss']:.4f}, {line['milliseconds']:.1f} ms"
        )


def train(asked: Training) -> dict[str, Any]:
    """Go on to the end; the result, which is written too.

    It is stable where every loss was finite, and learned where the mean loss of the last tenth is below that of the
    first tenth and of guessing.
    """
    run = Run(asked)
    error = None
    while run.done < asked.steps and error is None:
        try:
            run.stretch()
        except ValueError as refused:  # gradients that are not finite
            error = str(refused)
            break
        if len(run.lines) % 10 == 0 or run.done >= asked.steps:
            run.save()
    few = max(1, len(run.lines) // 10)
    first, last = (_mean(lines) for lines in (run.lines[:few], run.lines[-few:]))
    result = {
        "network": asked.network,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "steps": run.done,
        "first": first,
        "last": last,
        "greatest": max((line["greatest"] for line in run.lines), default=None),
        "finite": error is None and all(line["finite"] for line in run.lines),
        "falls": first is not None and last is not None and last < min(first, math.log(CLASSES)),
        "error": error,
    }
    write_json_atomic(asked.folder / "result.json", result)
    print(f"{asked.network}: {result}")
    return result


def _mean(lines: list[dict[str, Any]]) -> float | None:
    steps = sum(line["steps"] for line in lines)
    return sum(line["loss"] * line["steps"] for line in lines) / steps if steps else None
