"""Time of one decision: students through ONNX Runtime beside the teacher in eager torch, both on one thread.

    python benchmarks/student_latency.py

Networks are untrained, as time does not depend on weights; they are written by the code behind `factotum export`,
which checks the file against the network first. A decision is a batch of one observation. CPU time is measured, in
which waiting for the machine's other work does not count.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from _measure import interleaved, ratio, report

from factotum.distill.config import preset
from factotum.distill.model import PolicyNetwork
from factotum.recipes.export import Args as Export
from factotum.recipes.export import OneTask, export_task
from factotum.recipes.export_check import Run, input_type, observations, on_arrays, onnx_runner

SHAPES = {"atari": ((4, 84, 84), 18), "minatar": ((4, 10, 10), 6)}
"""Observations and number of actions."""
STUDENTS = ("net1", "net2", "net3")
ASKED = {("atari", "net3"): 10.0}
"""How many times as fast as the teacher."""


@dataclass(frozen=True)
class Args:
    """Measure a decision's time."""

    repeats: int = 30
    """rounds that count"""
    calls: int = 50
    """decisions of each contestant in a round"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/student_latency.json"""


def main(args: Args) -> None:
    """Export, measure, report."""
    torch.set_num_threads(1)
    contestants, ratios = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for world, (shape, actions) in SHAPES.items():
            draw = None
            for size in ("teacher", *STUDENTS):
                network = PolicyNetwork(preset(size, shape, {world: actions})).eval()
                draw = draw or observations(network, input_type(network))
                runs = {f"{world} {size}, eager": on_arrays(OneTask(network, world).eval())}
                if size in STUDENTS:
                    file = export_task(
                        network, world, Path(folder) / world / size, Export(run=Path(folder))
                    ).file
                    runs[f"{world} {size}, ONNX Runtime"] = onnx_runner(file)
                contestants |= {name: _rate(run, draw(1), args.calls) for name, run in runs.items()}
        rates = interleaved(contestants, args.repeats)
    for world in SHAPES:
        for size in STUDENTS:
            of, over = f"{world} {size}, ONNX Runtime", f"{world} teacher, eager"
            ratios.append(ratio(rates, of, over, ASKED.get((world, size))))
    report("student_latency", "decisions/s", rates, ratios, args.output)


def _rate(run: Run, observation_B: np.ndarray, calls: int) -> Callable[[], float]:
    def play() -> float:
        start = time.process_time()
        for _ in range(calls):
            run(observation_B)
        return calls / (time.process_time() - start)

    return play


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
