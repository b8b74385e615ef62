"""What an exported network computes beside its original, and how long both take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.distill.model import PolicyNetwork

Run = Callable[[np.ndarray], np.ndarray]

BATCHES = (1, 2, 37)
"""Batch sizes at which a file is run beside its network."""


def onnx_runner(path: Path, threads: int = 1) -> Run:
    """What an ONNX file computes, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda observation_B: session.run(None, {"observation": observation_B})[0]


def on_arrays(module: Callable[[Tensor], Tensor]) -> Run:
    """A torch module as a function of arrays."""

    @torch.no_grad()
    def run(observation_B: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(observation_B)).numpy()

    return run


def input_type(network: PolicyNetwork) -> str:
    """The type of a network's observations in the worlds that it is for."""
    config = network.config
    if len(config.observation_shape) == 1:
        return "float32"
    return "bool" if config.scale == 1.0 else "uint8"


def observations(network: PolicyNetwork, kind: str) -> Callable[[int], np.ndarray]:
    """Draws random observations of a type, given how many."""
    generator, shape = numpy_generator(0, "export"), network.config.observation_shape

    def draw(count: int) -> np.ndarray:
        if kind == "float32":
            return generator.standard_normal((count, *shape)).astype(np.float32)
        return generator.integers(2 if kind == "bool" else 256, size=(count, *shape)).astype(kind)

    return draw


def largest_difference(run: Run, eager: Run, draw: Callable[[int], np.ndarray], tolerance: float) -> float:
    """The largest difference of two functions' outputs over batches of several sizes.

    Raises:
        UserError: it is above the tolerance, or outputs differ in shape.
    """
    differences = []
    for count in BATCHES:
        observation_B = draw(count)
        got, wanted = run(observation_B), eager(observation_B)
        if got.shape != wanted.shape:
            raise UserError(f"exported network: expected outputs of shape {wanted.shape}, got {got.shape}")
        differences.append(float(np.abs(got - wanted).max()))
        if not differences[-1] <= tolerance * max(1.0, float(np.abs(wanted).max())):
            raise UserError(
                f"exported network: expected outputs within {tolerance:g} of the network's, got a difference of "
                f"{differences[-1]:g} at batch {count}"
            )
    return max(differences)


def median_latencies(runs: tuple[Run, ...], observation_B: np.ndarray, repeats: int) -> list[float]:
    """Median seconds of a call of each function, taken in turns so that what else the machine does hits all alike."""
    for run in runs:
        for _ in range(10):
            run(observation_B)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run(observation_B)
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]
