"""Time and memory of a step of the learned optimizer, beside torch's Adam: with the native kernel and in plain torch.

    python benchmarks/optim_speed.py --quick

Only `optimizer.step()` is timed, on parameters and gradients that lie ready: matrices of 1024 x 1024 with a bias
each. The weights are untrained, as time does not depend on them. Contestants take turns of equal length, so that on
a busy machine all are disturbed alike; the ratio of a round is that of the faster of Adam's two quick versions to
ours. CPU time, of all threads together, is given beside: waiting for others does not count in it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gc
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from _measure import Ratio, interleaved, ratio, report

from factotum.optim import HierarchicalRNN, HierarchicalRNNCore, shipped_config
from factotum.optim import native as kernel

SIDE = 1024
MOST = 25
"""Times of the faster Adam's that a step may take."""

ADAM: dict[str, dict[str, Any]] = {
    "adam for-loop": {"foreach": False},
    "adam foreach": {"foreach": True},
    "adam fused": {"fused": True},
}
OURS: dict[str, dict[str, Any]] = {
    "native": {"fused": True},
    "native bfloat16 state": {"fused": True, "state_dtype": torch.bfloat16},
    "torch": {"fused": False},
}
FASTER = "the faster adam"
CPU = "CPU time, "
TURN = 0.4
"""Seconds of a turn, or one step if that takes longer."""


@dataclass(frozen=True)
class Args:
    """Measure the optimizer's step."""

    millions: tuple[int, ...] = (1, 10, 100)
    """parameters, in units of 2^20; the largest needs 12 GiB"""
    repeats: int = 9
    """rounds that count"""
    threads: int = 2
    """CPU threads"""
    slow: int = 10
    """plain torch and the for-loop take part up to this many millions"""
    quick: bool = False
    """three rounds, no more than 10 millions"""
    memory: str | None = None
    """measure one contestant's memory alone, in this process (the benchmark calls itself)"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/optim_speed.json"""


def parameters(millions: int) -> list[torch.nn.Parameter]:
    """Matrices with a bias each, with gradients."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for shape in [(SIDE, SIDE), (SIDE,)] * millions:
        found.append(torch.nn.Parameter(torch.randn(shape, generator=draw)))
        found[-1].grad = torch.randn(shape, generator=draw)
    return found


def make(name: str, own: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """A contestant."""
    if name in ADAM:
        return torch.optim.Adam(own, lr=1e-6, **ADAM[name])
    torch.manual_seed(0)
    return HierarchicalRNN(own, lr=1e-6, weights=HierarchicalRNNCore(shipped_config()), **OURS[name])


def contestants(args: Args, millions: int) -> list[str]:
    """Who takes part at this size; a second state of 100 millions may not fit beside the first."""
    slow = {"adam for-loop", "torch"} if millions > args.slow else set()
    second = {"native bfloat16 state"} if millions > 50 else set()
    return [name for name in (*OURS, *ADAM) if name not in slow | second]


class Turn:
    """Steps of one contestant for a while: millions of parameters a second, by the clock and by CPU time."""

    def __init__(self, name: str, own: list[torch.nn.Parameter]) -> None:
        self.step = make(name, own).step
        self.millions = sum(parameter.numel() for parameter in own) / 1e6
        self.cpu: list[float] = []

    def __call__(self) -> float:
        """Take steps."""
        start, cpu, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < TURN or steps == 0:
            self.step()
            steps += 1
        self.cpu.append(steps * self.millions / (time.process_time() - cpu))
        return steps * self.millions / (time.perf_counter() - start)


def measure(args: Args, millions: int) -> dict[str, list[float]]:
    """Rates of all rounds, and of the faster of both quick Adams."""
    own = parameters(millions)
    turns = {name: Turn(name, own) for name in contestants(args, millions)}
    rates = interleaved(turns, args.repeats)
    rates |= {CPU + name: turn.cpu[-args.repeats :] for name, turn in turns.items()}
    for of in ("", CPU):
        pairs = zip(rates[f"{of}adam foreach"], rates[f"{of}adam fused"], strict=True)
        rates[of + FASTER] = [max(pair) for pair in pairs]
    del turns
    gc.collect()
    return {f"{name}, {millions} M": values for name, values in rates.items()}


def compare(args: Args, sizes: list[int], rates: dict[str, list[float]]) -> list[Ratio]:
    """Ours over the faster Adam, printed as times its time."""
    found = []
    for n in sizes:
        for name in (name for name in contestants(args, n) if name in OURS):
            for of in ("", CPU):
                target = 1 / MOST if (name, of) == ("native", "") else None
                found.append(ratio(rates, f"{of}{name}, {n} M", f"{of}{FASTER}, {n} M", target))
                low, high = (1 / x for x in (found[-1].high, found[-1].low))
                times = f"{1 / found[-1].median:.1f} ({low:.1f} to {high:.1f}) times"
                print(f"{of}{name}, {n} M: {times} that of {FASTER}")
    return found


def memory(name: str, millions: int) -> dict[str, float]:
    """Bytes of a parameter: of the state, and the most that making it and two more steps take beside it."""
    make(name, parameters(1)).step()  # what is loaded and compiled at first use does not count
    own = parameters(millions)
    count = sum(parameter.numel() for parameter in own)
    gc.collect()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    optimizer = make(name, own)
    for _ in range(3):
        optimizer.step()
    state = sum(
        value.numel() * value.element_size() for kept in optimizer.state.values() for value in kept.values()
    )
    return {"state": state / count, "beside": (_resident("VmHWM") - before - state) / count}


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024


def memories(names: list[str], threads: int) -> dict[str, dict[str, float]]:
    """`memory` at 10 millions, each contestant in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--memory", name, "--threads", str(threads)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(ran.stdout.splitlines()[-1])
        print(
            f"{name}: {found[name]['state']:.1f} bytes of state a parameter, {found[name]['beside']:.1f} beside"
        )
    return found


def main(args: Args) -> None:
    """Measure all sizes, then memory."""
    torch.set_num_threads(args.threads)
    if args.memory is not None:
        print(json.dumps(memory(args.memory, 10)))
        return
    if (reason := kernel.why_not()) is not None:
        raise SystemExit(f"there is no native kernel to measure: {reason}")
    args = Args(**{**vars(args), "repeats": 3 if args.quick else args.repeats})
    sizes = [n for n in args.millions if n <= 10 or not args.quick]
    rates: dict[str, list[float]] = {}
    for millions in sizes:
        rates |= measure(args, millions)
    ratios = compare(args, sizes, rates)
    held = {} if args.quick else memories([*OURS, "adam fused"], args.threads)
    report("optim_speed", "M parameters/s", rates, ratios, args.output, memory=held, most=MOST)


if __name__ == "__main__":
    main(tyro.cli(Args))
