"""Weighted means over micro steps, ranks and steps, and the files they are logged to. Knows no model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import TensorBoardTracker
from torch import Tensor

from factotum.core.files import append_json_line, read_json_lines, write_text_atomic

Number = Tensor | float
Metric = Number | tuple[Number, Number]
Sums = dict[str, tuple[float, float]]


class WeightedMeans:
    """Running sums of value x weight and of weight, kept in float64; tensors are read in one transfer.

    When the sums are read makes no difference to them, so a saved and restored window goes on bit-equal.

    >>> means = WeightedMeans()
    >>> means.add("loss", torch.tensor(1.0), 1)
    >>> means.add("loss", 4.0, 2)
    >>> means.means()
    {'loss': 3.0}
    """

    def __init__(self, sums: Mapping[str, Iterable[float]] | None = None):
        self.sums: Sums = {name: (float(v), float(w)) for name, (v, w) in (sums or {}).items()}
        self.pending: list[tuple[str, Number, Number]] = []

    def add(self, name: str, value: Number, weight: Number = 1.0) -> None:
        """Count `value` with `weight`; does not wait for the device."""
        self.pending.append((name, _detached(value), _detached(weight)))

    def add_all(self, metrics: Mapping[str, Metric], weight: Number) -> None:
        """Count many; a metric that is a pair (value, weight) brings a weight of its own."""
        for name, metric in metrics.items():
            self.add(name, *(metric if isinstance(metric, tuple) else (metric, weight)))

    def settled(self) -> Sums:
        """The sums, name -> (value sum, weight sum), with all that was added."""
        tensors = [number for _, *pair in self.pending for number in pair if torch.is_tensor(number)]
        numbers = iter(torch.stack([t.double().reshape(()) for t in tensors]).tolist() if tensors else [])
        for name, *pair in self.pending:
            value, weight = (next(numbers) if torch.is_tensor(number) else float(number) for number in pair)
            value_sum, weight_sum = self.sums.get(name, (0.0, 0.0))
            # A value that counts nothing may be 0/0.
            self.sums[name] = (value_sum + (value * weight if weight else 0.0), weight_sum + weight)
        self.pending.clear()
        return self.sums

    def means(self) -> dict[str, float]:
        """Weighted mean of each name, sorted; NaN where nothing had weight."""
        return means_of([self.settled()])


def means_of(parts: Iterable[Sums]) -> dict[str, float]:
    """Weighted means over the sums of several ranks.

    >>> means_of([{"loss": (1.0, 1.0)}, {"loss": (8.0, 2.0)}])
    {'loss': 3.0}
    """
    totals: Sums = {}
    for sums in parts:
        for name, (value, weight) in sums.items():
            value_sum, weight_sum = totals.get(name, (0.0, 0.0))
            totals[name] = (value_sum + value, weight_sum + weight)
    return {name: v / w if w else float("nan") for name, (v, w) in sorted(totals.items())}


def _detached(number: Number) -> Number:
    return number.detach() if isinstance(number, Tensor) else number


class MetricsLog:
    """One JSON line a logging step in `metrics.jsonl`, and TensorBoard where it is installed.

    Args:
        run: the run's folder.
        step: updates made so far; lines of later steps, left by a run that was killed, are cut off.
        tensorboard: also write TensorBoard events to `<run>/tensorboard`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     MetricsLog(Path(run), tensorboard=False).write({"step": 1, "loss": 2.0})
    ...     read_metrics(Path(run))
    [{'step': 1, 'loss': 2.0}]
    """

    def __init__(self, run: Path, step: int = 0, tensorboard: bool = True):
        self.path = run / "metrics.jsonl"
        truncate_metrics(self.path, step)
        self.tracker: TensorBoardTracker | None = None
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            self.tracker = TensorBoardTracker("tensorboard", str(run), purge_step=step + 1)
            self.tracker.start()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line that has a `step`; nested values become `outer/inner` in TensorBoard.

        Raises:
            UserError: the disk is full.
        """
        append_json_line(self.path, line)
        if self.tracker is not None:
            self.tracker.log(dict(_flat(line)), step=line["step"])

    def close(self) -> None:
        """Write out what TensorBoard buffers."""
        if self.tracker is not None:
            self.tracker.finish()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines logged by a run so far."""
    return read_json_lines(run / "metrics.jsonl")


def join_metrics(parts: Sequence[Path], run: Path) -> None:
    """Write the metrics of runs that came one after the other as those of one run.

    Args:
        parts: their folders; steps, tokens and seconds are counted on from the one before.
        run: whose `metrics.jsonl` is written anew.
    """
    joined: list[str] = []
    steps, tokens, seconds = 0, 0, 0.0
    for part in parts:
        lines = read_metrics(part)
        for line in lines:
            timing = {**line["timing"], "seconds": line["timing"]["seconds"] + seconds}
            moved = {**line, "step": line["step"] + steps, "tokens": line["tokens"] + tokens}
            joined.append(json.dumps({**moved, "timing": timing}) + "\n")
        if lines:
            last = lines[-1]
            steps, tokens, seconds = steps + last["step"], tokens + last["tokens"], timing["seconds"]
    write_text_atomic(run / "metrics.jsonl", "".join(joined))


def truncate_metrics(path: Path, step: int) -> None:
    """Cut off lines after `step` updates, and a torn last line."""
    lines = read_json_lines(path)
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
        write_text_atomic(path, "".join(kept))


def _flat(line: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif name != "step":
            yield prefix + name, value
