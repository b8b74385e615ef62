"""`factotum export`: a policy as one file that runs without this package, checked by running it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table
from torch import Tensor, nn

from factotum.core.checks import UserError, missing_extra
from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import load_policy
from factotum.recipes.export_check import (
    Run,
    input_type,
    largest_difference,
    median_latencies,
    observations,
    on_arrays,
    onnx_runner,
)
from factotum.recipes.tables import console
from factotum.training.provenance import versions

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
ACT = {
    "q": "the index of the largest output", "logits": "the index of the largest output",
    "gaussian": "the first half of the outputs, the means", "continuous": "the outputs themselves",
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Write a policy's network as a file for ONNX Runtime or for torch alone; one file a task."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """a run that ended with a policy, or a policy's folder"""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, or an archive of torch.export that torch.export.load reads"""
    out: Path | None = None
    """folder for the files; by default RUN/export"""
    task: str | None = None
    """one task of a network that has several; by default all"""
    input_type: Literal["uint8", "bool", "float32"] | None = None
    """type of observations; by default uint8 for pictures of bytes, bool for MinAtar's, float32 for vectors"""
    tolerance: float = 1e-4
    """largest difference of outputs from the network's, as a share of the largest output (at least of 1)"""
    repeats: int = 300
    """calls of which the latency is the median"""
    threads: int = 1
    """CPU threads of both while latency is measured"""


@dataclass(frozen=True)
class Exported:
    """One file and what was measured of it.

    Attributes:
        file: where it is; the file with .json behind its name says what goes in and comes out.
        parameters: of what the task needs, without other tasks' heads.
        difference: largest difference from the network's outputs over the batches that were run.
        latency: median seconds of a call with one observation.
        eager_latency: the network's own.
    """

    file: Path
    parameters: int
    difference: float
    latency: float
    eager_latency: float


def main(args: Args) -> list[Exported]:
    """Export every task, check each file, print what it costs."""
    if args.format == "onnx":
        require_onnx()
    if args.repeats < 1 or args.threads < 1 or not args.tolerance > 0:
        raise UserError(
            f"expected repeats and threads from 1 on and a tolerance above 0, got {args.repeats}, {args.threads}, "
            f"{args.tolerance}"
        )
    network, before = load_policy(args.run), torch.get_num_threads()
    out = args.out or args.run / "export"
    tasks = network.tasks if args.task is None else (network.tasks[network.head(args.task)],)
    torch.set_num_threads(args.threads)
    try:
        done = [export_task(network, task, out, args) for task in tasks]
    finally:
        torch.set_num_threads(before)
    console().print(_table(tasks, done))
    print(f"written to {out}")
    return done


def require_onnx() -> None:
    """Refuse early where ONNX cannot be written or run."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise missing_extra("onnx", module)


class OneTask(nn.Module):
    """A network with one of its heads."""

    def __init__(self, network: PolicyNetwork, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task
        parts = (network.features, network.heads[network.head(task)])
        self.parameter_count = sum(weight.numel() for part in parts for weight in part.parameters())

    def forward(self, observation: Tensor) -> Tensor:
        """Outputs, `B A`."""
        return self.network(observation, self.task)


def export_task(network: PolicyNetwork, task: str, out: Path, args: Args) -> Exported:
    """Write, check and measure one task's file; a file that fails its check is not left behind.

    Raises:
        UserError: outputs differ from the network's by more than the tolerance.
    """
    name = "policy" if len(network.tasks) == 1 else f"policy-{task.replace('/', '-')}"
    module, file = OneTask(network, task).eval(), out / f"{name}{SUFFIX[args.format]}"
    kind = args.input_type or input_type(network)
    draw = observations(network, kind)
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{name}.{os.getpid()}{file.suffix}"
    try:
        run = _write(module, torch.from_numpy(draw(2)), temporary, args)
        eager = on_arrays(module)
        difference = largest_difference(run, eager, draw, args.tolerance)
        latency, eager_latency = median_latencies((run, eager), draw(1), args.repeats)
        write_bytes_atomic(file, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    exported = Exported(file, module.parameter_count, difference, latency, eager_latency)
    write_json_atomic(out / f"{file.name}.json", _description(network, task, kind, exported, args))
    return exported


def _write(module: nn.Module, observation: Tensor, path: Path, args: Args) -> Run:
    """Write a file and load it again: what it computes."""
    # two rows, as torch.export takes a batch of one for a constant
    shapes = {"observation": {0: torch.export.Dim("batch")}}
    with _quiet():
        if args.format == "torch":
            torch.export.save(torch.export.export(module, (observation,), dynamic_shapes=shapes), path)
            return on_arrays(torch.export.load(path).module())
        program = torch.onnx.export(
            module, (observation,), dynamo=True, dynamic_shapes=shapes, verbose=False,
            input_names=["observation"], output_names=["outputs"],
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)
    return onnx_runner(path, args.threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about libraries that are not there and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _description(
    network: PolicyNetwork, task: str, kind: str, exported: Exported, args: Args
) -> dict[str, Any]:
    config = network.config
    return {
        "file": exported.file.name,
        "format": args.format,
        "task": task,
        "input": {"name": "observation", "shape": ["batch", *config.observation_shape], "type": kind},
        "output": {"name": "outputs", "shape": ["batch", config.actions[task]], "type": "float32"},
        "outputs": config.outputs,
        "action": ACT[config.outputs],
        "parameters": exported.parameters,
        "largest_difference": exported.difference,
        "latency": {
            "exported_seconds": exported.latency,
            "eager_seconds": exported.eager_latency,
            "batch": 1,
            "repeats": args.repeats,
            "threads": args.threads,
        },
        "versions": versions(),
    }


def _table(tasks: tuple[str, ...], done: list[Exported]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "file", "kB", "parameters", "largest difference", "µs a call", "µs, torch eager"):
        table.add_column(name, justify="left" if name in ("task", "file") else "right", no_wrap=True)
    for task, one in zip(tasks, done, strict=True):
        table.add_row(
            task,
            one.file.name,
            f"{one.file.stat().st_size / 1000:.0f}",
            f"{one.parameters:,}",
            f"{one.difference:.1e}",
            f"{one.latency * 1e6:.0f}",
            f"{one.eager_latency * 1e6:.0f}",
        )
    return table
