"""The pool of running worlds: which group goes on, which of its blocks start anew, what a checkpoint needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from factotum.core.seeding import derive_seed
from factotum.training.meta_config import MetaConfig
from factotum.training.meta_gradient import Call, Running, State, Worlds


class Pool:
    """Groups of worlds with their states.

    Args:
        worlds: the groups.
        parameters: of the model, which pes keeps sums of perturbations for.
        config: how to meta-train.
    """

    def __init__(self, worlds: Sequence[Worlds], parameters: Sequence[nn.Parameter], config: MetaConfig):
        self.worlds, self.config, self.device = list(worlds), config, parameters[0].device
        weights = np.array([one.weight for one in self.worlds], dtype=np.float64)
        self.chances = weights / weights.sum()
        self.running = [self._fresh(one.blocks, parameters) for one in self.worlds]

    def _fresh(self, blocks: int, parameters: Sequence[nn.Parameter]) -> Running:
        persistent = self.config.estimator == "pes"
        states: list[State] = [{} for _ in range(2 if persistent else 1)]
        running = Running(states, draws=[0] * blocks, left=[0] * blocks, age=[0] * blocks)
        if persistent:
            running.sum_KM = parameters[0].new_zeros(blocks, sum(p.numel() for p in parameters)).detach()
        return running

    def begin(self, draw: np.random.Generator, done: float, seed: int) -> tuple[Worlds, Running, Call]:
        """Choose a group and how it goes on.

        Args:
            draw: of the choice and of lengths.
            done: share of training that is done, for the curriculum.
            seed: of what is random in the unroll.
        """
        index = int(draw.choice(len(self.worlds), p=self.chances))
        running = self.running[index]
        starts = self._start(running, draw, done)
        seeds = tuple(
            derive_seed(self.config.seed, "worlds", index, block, count)
            for block, count in enumerate(running.draws)
        )
        return self.worlds[index], running, Call(self.config.unrolls.steps(draw), starts, seeds, seed)

    def _start(self, running: Running, draw: np.random.Generator, done: float) -> tuple[bool, ...]:
        """Which blocks start anew; their runs get lengths."""
        starts = tuple(left == 0 for left in running.left)
        for block, new in enumerate(starts):
            length = self.config.unrolls.run_unrolls(done, draw)
            if new:
                running.draws[block] += 1
                running.left[block], running.age[block] = length, 0
        return starts

    def runs(self) -> list[dict[str, list[int]]]:
        """What is counted, as JSON values."""
        return [{"draws": one.draws, "left": one.left, "age": one.age} for one in self.running]

    def tensors(self) -> dict[str, Tensor]:
        """What is carried, by name."""
        found: dict[str, Tensor] = {}
        for index, running in enumerate(self.running):
            for sign, state in enumerate(running.states):
                found |= {f"pool/{index}/{sign}/{name}": tensor for name, tensor in state.items()}
            if running.sum_KM.numel():
                found[f"pool/{index}/sum"] = running.sum_KM
        return found

    def load(self, tensors: Mapping[str, Tensor], runs: Sequence[Mapping[str, list[int]]]) -> None:
        """Take up what `tensors` and `runs` gave."""
        for running, counts in zip(self.running, runs, strict=True):
            running.draws, running.left, running.age = counts["draws"], counts["left"], counts["age"]
        for path, tensor in tensors.items():
            if path.startswith("pool/"):
                _, index, part, *name = path.split("/", 3)
                running = self.running[int(index)]
                if part == "sum":
                    running.sum_KM.copy_(tensor)
                else:
                    running.states[int(part)][name[0]] = tensor.to(self.device)
