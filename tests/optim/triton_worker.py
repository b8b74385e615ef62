"""What the kernels of a GPU find, beside the rule in plain torch: run by itself, as Triton's interpreter
must be switched on before Triton is loaded.

    TRITON_INTERPRET=1 python -m tests.optim.triton_worker FOLDER

Where there is a GPU the kernels are compiled and run on it. The interpreter takes a second for a block, so everything
is small: each case leaves the numbers that it found, and those that were expected.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch import nn

from factotum.optim import fused, triton_passes, triton_tables
from factotum.optim.blocks import Share, Work, cut
from factotum.optim.config import HierarchicalRNNConfig, paper_config
from factotum.optim.optimizer_state import SCALAR_SLOTS, new_state
from factotum.optim.passes import TorchPasses
from tests.optim.nets import loss_of, make_net, make_optimizer, snapshot, train
from tests.optim.toys import generator, wild_core

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Both:
    """Tensors in two copies, one for the kernels and one for plain torch.

    Args:
        shapes: of the tensors.
        config: of the core.
        gradients, parameters: types, in turn.
        slot: type of the state.
    """

    def __init__(self, shapes, config=None, gradients=(torch.float32,), parameters=None, slot=torch.float32):
        self.core = wild_core(config).to(DEVICE)
        self.ours, self.theirs = [], []
        draw = generator(1)
        for n, shape in enumerate(shapes):
            parameter = torch.randn(shape, generator=draw).to((parameters or gradients)[n % len(gradients)])
            gradient = torch.randn(shape, generator=draw).to(gradients[n % len(gradients)])
            state = new_state(self.core, parameter, (0, n), slot)
            for name in ("gradient_decay", "square_decay"):
                state[name].copy_(torch.rand(shape, generator=draw))
            for name in ("hidden", "gradient", "square"):
                state[name].copy_(torch.randn(state[name].shape, generator=draw).abs())
            state["step"] = torch.tensor(3.0 + n)
            for works in (self.ours, self.theirs):
                own = {key: value.to(DEVICE, copy=True) for key, value in state.items()}
                works.append(
                    Work(f"{n}", parameter.to(DEVICE, copy=True), gradient.to(DEVICE), own, parameter.numel(), (),
                         1.0, 0.1, n % 2 == 1)
                )  # fmt: skip
        blocks = cut([work.count for work in self.ours], 1 << 16, True)
        self.share = Share(DEVICE, slice(0, len(shapes)), blocks)
        self.program = triton_passes.Program(self.core, DEVICE)

    @torch.no_grad()
    def run(self, sound=None):
        """Both passes of both: (found, expected)."""
        results = []
        flag = None if sound is None else torch.tensor(sound, device=DEVICE)
        for works in (self.ours, self.theirs):
            if works is self.ours:
                passes = triton_passes.TritonPasses(self.program, works, flag)
            else:
                passes = TorchPasses(self.core, works, self.share, flag)
            rows = [row.to(DEVICE) for row in self.rows()]
            sums_NK = passes.first(*rows[:3])
            passes.second(*rows[3:])
            state = [torch.cat([w.state[name].float().flatten() for w in works]) for name in SCALAR_SLOTS]
            parameters = torch.cat([work.parameter.float().flatten() for work in works])
            found = dict(zip(SCALAR_SLOTS, state, strict=True)) | {"parameters": parameters}
            results.append({name: x.cpu() for name, x in found.items()} | {"sums": sums_NK.cpu()})
        return results

    def rows(self):
        """What passes are told of each tensor; a floor that is above some scalars' rates and below others'."""
        N, draw = len(self.ours), generator(2)
        bias_NE = torch.randn(N, 3 * self.core.config.parameter_units, generator=draw)
        mean_N, floor_N = torch.full((2, N), -9.0)
        return bias_NE, mean_N, floor_N, 0.01 * torch.rand(N, generator=draw) + 0.01, torch.full((N,), 0.25)


def sizes():
    """Tensors that are empty, of no dimension, of a whole block, with a tail, of several groups of blocks."""
    triton_passes.BLOCK, triton_passes.FINISH_BLOCK, triton_tables.GROUP, triton_passes.TILE = 32, 64, 2, 2
    found = Both([(), (0,), (5, 7), (96,), (3, 33)]).run()
    triton_passes.BLOCK, triton_passes.FINISH_BLOCK, triton_tables.GROUP, triton_passes.TILE = (
        256,
        1024,
        256,
        64,
    )
    return found


def narrow():
    """Types of gradients and parameters in one step, extreme numbers among the gradients."""
    both = Both([(40,), (30,), (50,)], gradients=(torch.float16, torch.bfloat16, torch.float32))
    for works in (both.ours, both.theirs):
        extreme = torch.tensor([0.0, -0.0, 6e-8, 65504.0, float("inf"), -float("inf")])
        works[0].gradient[:6] = extreme
        works[2].gradient[:4] = torch.tensor([1e30, -1e30, 1e-30, 0.0])
    return both.run()


def half_state():
    """State in bfloat16, rounded by chance: the same chance as plain torch's."""
    return Both([(40,), (3, 50)], slot=torch.bfloat16).run()


def paper():
    """The paper's reading without attention, two scales and odd units."""
    config = HierarchicalRNNConfig(
        **{**vars(paper_config(attention=False)), "parameter_units": 3, "scales": 2}
    )
    return Both([(40,)], config).run()


def one_scale():
    """No magnitudes to compare."""
    return Both([(40,)], HierarchicalRNNConfig(parameter_units=2, scales=1)).run()


def unsound():
    """A step that must not change anything."""
    both = Both([(40,)])
    before = {name: both.ours[0].state[name].flatten().cpu().clone() for name in SCALAR_SLOTS}
    before["parameters"] = both.ours[0].parameter.cpu().clone()
    found, expected = both.run(sound=False)
    return found, {**before, "sums": expected["sums"]}


def steps(**options):
    """Several steps of the optimizer itself."""
    results = []
    for wanted in (None, False):
        net = make_net().to(DEVICE)
        optimizer = make_optimizer(net.parameters(), fused=wanted, weight_decay=0.1, **options)
        train_there(net, optimizer, 3)
        assert (wanted is None) == bool(optimizer._programs._on_gpu)
        parameters, state = snapshot(optimizer)
        numbers = {f"{n}/{key}": x for n, kept in state["state"].items() for key, x in kept.items()}
        numbers |= {f"parameter {n}": x for n, x in enumerate(parameters)}
        results.append({key: x.float().cpu() for key, x in numbers.items()})
    return results


def train_there(net, optimizer, count):
    """`train` on the device."""
    if DEVICE.type == "cpu":
        train(net, optimizer, count)
        return
    for _ in range(count):
        optimizer.zero_grad()
        twin = copy.deepcopy(net).cpu()
        loss_of(twin).backward()
        for parameter, other in zip(net.parameters(), twin.parameters(), strict=True):
            parameter.grad = other.grad.to(DEVICE)
        optimizer.step()


def kernels_of(parameter, **options):
    """Whether an optimizer steps a parameter by the kernels."""
    optimizer = make_optimizer([nn.Parameter(parameter.to(DEVICE))], fused=None, **options)
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return torch.tensor(bool(optimizer._programs._on_gpu))


def chosen():
    """Where the kernels are used of their own accord."""
    attending = wild_core(HierarchicalRNNConfig(attention=True))
    found = {
        "strided": kernels_of(torch.ones(2, 3).T),
        "double": kernels_of(torch.ones(2, dtype=torch.float64)),
        "attention": kernels_of(torch.ones(2), weights=attending, attention=True),
    }
    return found, dict.fromkeys(found, torch.tensor(False))


CASES = {
    "sizes": sizes,
    "narrow": narrow,
    "half state": half_state,
    "paper": paper,
    "one scale": one_scale,
    "unsound": unsound,
    "steps": lambda: steps(maximize=True),
    "capturable": lambda: steps(capturable=True),
    "chosen": chosen,
}


def main(folder: Path) -> None:
    """Run every case."""
    fused.GPU = DEVICE.type
    reason = triton_passes.why_not(DEVICE.type)
    assert reason is None, reason
    for name, case in CASES.items():
        torch.save(case(), folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
