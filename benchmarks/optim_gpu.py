"""The learned optimizer on a GPU: is it right, how fast is its step, does it train full-size networks?

    python benchmarks/optim_gpu.py --out runs/optim-gpu
    python benchmarks/optim_gpu.py --parts tune                  # other shapes of the kernel
    python benchmarks/optim_gpu.py --small --out runs/small     # whether this script works; on a CPU, too

`check`: the Triton kernels beside plain torch from equal states. `speed`: time of `optimizer.step()` at 1, 10 and 100
million parameters beside torch's Adam and beside a copy of as many bytes as a step must move (188 a parameter);
contestants take turns. `train`: Inception V3 and ResNet V2 50, 10,000 steps; a killed run goes on when the same
command is given again.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from _measure import interleaved, machine
from optim_gpu_networks import NETWORKS
from optim_gpu_train import Training, train
from torch import nn

from factotum.core.files import write_json_atomic
from factotum.optim import HierarchicalRNN, HierarchicalRNNCore, shipped_config, triton_passes

BYTES = 188
"""Of a parameter and step: 21 numbers of state read and written, gradient, the parameter twice, its step twice."""

PUBLISHED = (1.15, 1.31)
"""Nanoseconds a parameter that PyLO's authors give for their kernels of two other learned optimizers (2025)."""

MOST = 2.0
"""Times the copy's time that a step may take."""

OURS: dict[str, dict[str, Any]] = {
    "triton": {"fused": True},
    "triton, bfloat16 state": {"fused": True, "state_dtype": torch.bfloat16},
    "triton, in a graph": {"capturable": True},
    "torch": {"fused": False},
}
ADAM: dict[str, dict[str, Any]] = {"adam foreach": {"foreach": True}, "adam fused": {"fused": True}}
COPY = "copy"


@dataclass(frozen=True)
class Args:
    """Measure the learned optimizer on a GPU."""

    parts: tuple[str, ...] = ("check", "speed", "train")
    """of check, speed, tune, train"""
    out: Path = Path("runs/optim-gpu")
    """folder of metrics, checkpoints and results"""
    millions: tuple[int, ...] = (1, 10, 100)
    """parameters, in units of 2^20; 100 need 40 GiB of the device"""
    repeats: int = 9
    """rounds that count"""
    turn: float = 0.3
    """seconds of a turn"""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """to train"""
    steps: int = 10_000
    """of training"""
    batch: int = 64
    """pictures in a batch"""
    every: int = 50
    """steps of a line of metrics"""
    width: float = 1.0
    """of the networks"""
    side: int | None = None
    """of pictures, by default the network's"""
    half: bool = True
    """bfloat16 activations"""
    small: bool = False
    """everything tiny, also on a CPU: shows that the script works and nothing else"""


def sizes(args: Args) -> tuple[int, ...]:
    """Parameters of each measurement."""
    return (4096,) if args.small else tuple(n << 20 for n in args.millions)


def parameters(count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Matrices with a bias each, with gradients."""
    draw, side = torch.Generator(device).manual_seed(0), 1024 if count >= 1 << 20 else 32
    found = []
    for shape in [(side, side), (side,)] * max(1, count // side**2):
        found.append(nn.Parameter(torch.randn(shape, generator=draw, device=device).to(dtype)))
        found[-1].grad = torch.randn(shape, generator=draw, device=device).to(dtype)
    return found


def make(name: str, own: list[nn.Parameter]) -> torch.optim.Optimizer:
    """A contestant; without a GPU ours is whatever there is."""
    if name in ADAM:
        return torch.optim.Adam(own, lr=1e-6, **ADAM[name])
    options = dict(OURS[name])
    if own[0].device.type != "cuda" and options.get("fused"):
        del options["fused"]
    torch.manual_seed(0)
    return HierarchicalRNN(own, lr=1e-6, weights=HierarchicalRNNCore(shipped_config()), **options)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------- is it right?


def check(device: torch.device) -> dict[str, Any]:
    """Twenty steps by kernels and by plain torch, from equal parameters and gradients."""
    found = {}
    for dtype, state in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32),
                         (torch.float32, torch.bfloat16)):  # fmt: skip
        moved = [_moved(name, device, dtype, state) for name in ("triton", "torch")]
        again = _moved("triton", device, dtype, state)
        far = float((moved[0] - moved[1]).norm() / moved[1].norm())
        name = f"{dtype} parameters, {state} state".replace("torch.", "")
        limit = 1e-4 if (dtype, state) == (torch.float32, torch.float32) else 2e-2
        same = bool(torch.equal(moved[0], again))
        found[name] = {"difference": far, "limit": limit, "right": far <= limit, "repeats": same}
        print(f"{name}: differs by {far:.2e} of the way (at most {limit:g}), the same again: {same}")
    return found


def _moved(name: str, device: torch.device, dtype: torch.dtype, state: torch.dtype) -> torch.Tensor:
    """How far the parameters went."""
    draw = torch.Generator(device).manual_seed(1)
    shapes = [(257, 33), (1024,), (), (0,), (3, 5, 7)]
    own = [nn.Parameter(torch.randn(shape, generator=draw, device=device).to(dtype)) for shape in shapes]
    start = torch.cat([parameter.detach().float().flatten() for parameter in own])
    options = {**OURS[name], "state_dtype": state}
    if device.type != "cuda":
        options.pop("fused")
    optimizer = HierarchicalRNN(own, **options)
    for _ in range(20):
        for parameter in own:
            noise = torch.randn(parameter.shape, generator=draw, device=device)
            parameter.grad = (parameter.detach().float() + 0.3 * noise).to(dtype)
        optimizer.step()
    return torch.cat([parameter.detach().float().flatten() for parameter in own]) - start


# ------------------------------------------------------------------------------------------- how fast?


def turn(step: Callable[[], Any], count: int, device: torch.device, seconds: float) -> float:
    """Nanoseconds a parameter, of steps for a while."""
    wait(device)
    step()
    wait(device)
    start, steps, together = time.perf_counter(), 0, 1
    while time.perf_counter() - start < seconds:
        for _ in range(together):
            step()
        wait(device)
        steps += together
        together = min(2 * together, 64)
    return 1e9 * (time.perf_counter() - start) / steps / count


def captured(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """A step as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


def copying(count: int, device: torch.device) -> Callable[[], Any]:
    """A copy that reads half of the bytes of a step and writes as many; in pieces of 1 GiB at most."""
    half = count * BYTES // 2
    pieces = -(-half // (1 << 30))
    source = torch.zeros(half // pieces, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(pieces):
            target.copy_(source)

    return copy


def speed(args: Args, device: torch.device) -> dict[str, Any]:
    """Times at every size, beside Adam's and the copy's."""
    found = {}
    for count in sizes(args):
        own = parameters(count, device)
        exact = sum(parameter.numel() for parameter in own)
        turns: dict[str, Callable[[], float]] = {}
        failed, memory = {}, {}
        steps: dict[str, Callable[[], Any]] = {COPY: copying(exact, device)}
        for name in (*OURS, *ADAM):
            try:
                memory[name], steps[name] = _prepared(name, own, exact, device)
            except Exception as error:  # the others are measured all the same
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"{name}: not measured: {failed[name]}")
        for name, step in steps.items():
            turns[name] = partial(turn, step, exact, device, args.turn)
        times = interleaved(turns, 1 if args.small else args.repeats)
        found[str(exact)] = summary(times) | {"memory": memory, "failed": failed, "times": times}
        del steps, turns, own
        gc.collect()
    return found


def _prepared(
    name: str, own: list[nn.Parameter], count: int, device: torch.device
) -> tuple[dict[str, float] | None, Callable[[], Any]]:
    """A contestant's memory in bytes a parameter, and its step."""
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    optimizer = make(name, own)
    for _ in range(3):
        optimizer.step()
    wait(device)
    state = sum(
        value.numel() * value.element_size() for kept in optimizer.state.values() for value in kept.values()
    )
    memory = None
    if on_gpu:
        beside = torch.cuda.max_memory_allocated(device) - before - state
        memory = {"state": state / count, "beside": beside / count}
    return memory, captured(optimizer) if on_gpu and name == "triton, in a graph" else optimizer.step


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and ratios within rounds."""
    found: dict[str, Any] = {
        "nanoseconds": {},
        "times the copy": {},
        "times adam fused": {},
        "times adam foreach": {},
    }
    for name, own in times.items():
        found["nanoseconds"][name] = statistics.median(own)
        for other, key in ((COPY, "times the copy"), *((adam, f"times {adam}") for adam in ADAM)):
            if other in times:
                pairs = zip(own, times[other], strict=True)
                found[key][name] = statistics.median(a / b for a, b in pairs)
        others = ", ".join(f"{found[key].get(name, 0):.2f} {key}" for key in list(found)[1:])
        print(f"{name}: {found['nanoseconds'][name]:.3f} ns a parameter, {others}")
    found["asked"] = {"times the copy": MOST, "met": found["times the copy"].get("triton", MOST + 1) <= MOST}
    return found


def tune(args: Args, device: torch.device) -> dict[str, float]:
    """Nanoseconds a parameter with blocks of other shapes."""
    found, count = {}, sizes(args)[0] if args.small else 10 << 20
    asked = triton_passes.BLOCK, triton_passes.WARPS
    for block, warps in (
        (64, 1),
        (64, 2),
        (128, 1),
        (128, 2),
        (128, 4),
        (256, 2),
        (256, 4),
        (256, 8),
        (512, 4),
        (512, 8),
    ):
        triton_passes.BLOCK, triton_passes.WARPS = block, warps
        own = parameters(count, device)
        step = make("triton", own).step
        exact = sum(parameter.numel() for parameter in own)
        name = f"{block} scalars, {warps} warps"
        found[name] = min(turn(step, exact, device, args.turn) for _ in range(3))
        print(f"{name}: {found[name]:.3f} ns a parameter")
    triton_passes.BLOCK, triton_passes.WARPS = asked
    return found


# ------------------------------------------------------------------------------------------- all of it


def training(args: Args, device: torch.device) -> list[dict[str, Any]]:
    """A run of every network."""
    small = args.small
    runs = (
        Training(
            network, args.out / network, 6 if small else args.steps, 4 if small else args.batch,
            1 / 32 if small else args.width, 75 if small else args.side, 2 if small else args.every, device,
            True if device.type == "cuda" else None, args.half and not small,
        )
        for network in args.networks
    )  # fmt: skip
    return [train(asked) for asked in runs]


def main(args: Args) -> None:
    """Do the parts that are asked for."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        print(
            "There is no GPU here (torch.cuda.is_available() is False): nothing about a GPU can be measured."
        )
        if not args.small:
            raise SystemExit("optim_gpu: expected a GPU; --small shows on a CPU that the script itself works")
    elif (reason := triton_passes.why_not()) is not None:
        raise SystemExit(f"optim_gpu: expected the Triton kernels, there are none: {reason}")
    if on_gpu:
        torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(device) if on_gpu else None
    print(f"on {name or 'a CPU: the figures mean nothing'}; torch {torch.__version__}")
    parts: dict[str, Callable[[], Any]] = {
        "check": lambda: check(device),
        "speed": lambda: speed(args, device),
        "tune": lambda: tune(args, device),
        "train": lambda: training(args, device),
    }
    if unknown := sorted(set(args.parts) - set(parts)):
        raise SystemExit(f"parts: expected some of {', '.join(parts)}, got {', '.join(unknown)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        about = {"part": part, "gpu": name, "small": args.small, "machine": machine(), "published": PUBLISHED}
        write_json_atomic(args.out / f"{part}.json", {**about, "result": parts[part]()})
        print(f"written to {args.out / f'{part}.json'}")


if __name__ == "__main__":
    main(tyro.cli(Args))
