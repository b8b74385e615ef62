"""Many problems of many kinds in one flat vector: what a core that knows only gradients is trained and measured on.

Local letters: P scalars, N tensors, B problems (copies of all kinds), K kinds (blocks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator, torch_generator
from factotum.optim import Layout
from factotum.worlds.problems.problem import Instances, Problem


class Block(NamedTuple):
    """Copies of one kind of problem."""

    problem: Problem
    copies: int


class Evaluation(NamedTuple):
    """Every problem at one place.

    Attributes:
        loss_B: on all data, without noise, less the known minimum: 0 or more.
        slope_P: its gradient.
        measured_B: whether it was measured: where gradients are of minibatches, that costs more than they do.
        gradient_P: what an optimizer sees, of a minibatch and with noise.
    """

    loss_B: Tensor
    measured_B: Tensor
    slope_P: Tensor
    gradient_P: Tensor


class FlatProblems:
    """Blocks of problems side by side in one flat vector; tensors of a block's copies lie behind each other.

    Args:
        blocks: kinds and numbers of copies.
        device: where they are.

    Attributes:
        layout: which tensor and problem each scalar is of.
        block_of_B: which block each problem is of.
        problem_of_P: which problem each scalar is of.

    >>> from factotum.worlds.problems.quadratics import Bowl, Quadratic
    >>> problems = FlatProblems([Block(Bowl(5), 3), Block(Quadratic(20, noise=0.5), 2)])
    >>> problems.draw((1, 2))
    >>> start_P = problems.initial(0)
    >>> start_P.shape, problems.evaluate(start_P, torch_generator(0)).loss_B.shape
    (torch.Size([46]), torch.Size([5]))
    """

    def __init__(self, blocks: Sequence[Block], device: torch.device | str = "cpu"):
        self.blocks, self.device = tuple(blocks), torch.device(device)
        self.layout = Layout.joined(Layout.copies(problem.shapes, copies) for problem, copies in blocks)
        counts = torch.tensor([copies for _, copies in blocks])
        self.block_of_B = torch.repeat_interleave(torch.arange(len(blocks)), counts).to(self.device)
        self.problem_of_P = self.layout.problem_of_N(self.device)[self.layout.tensor_of_P(self.device)]
        self.shapes = [
            [torch.Size((copies, *shape)) for shape in problem.shapes] for problem, copies in blocks
        ]
        self.sizes = [copies * problem.size for problem, copies in blocks]
        self.exact = [
            type(problem).disturb is Problem.disturb and not any(problem.noise) for problem, _ in blocks
        ]
        lows = [problem.minimum or 0.0 for problem, _ in blocks]
        self.minimum_B = torch.tensor(lows, device=self.device)[self.block_of_B]
        self.seeds: tuple[int, ...] = ()
        self.instances: list[Instances] = []

    def draw(self, seeds: Sequence[int]) -> None:
        """Draw the data of each block from its seed, where it is not what is there already."""
        old = self.seeds or (None,) * len(seeds)
        made = []
        for index, (block, seed) in enumerate(zip(self.blocks, seeds, strict=True)):
            if seed == old[index]:
                made.append(self.instances[index])
            else:
                generator = torch_generator(seed, "data", device=str(self.device))
                made.append(block.problem.draw(block.copies, generator))
        self.instances, self.seeds = made, tuple(seeds)

    def initial(self, seed: int) -> Tensor:
        """Starting parameters of all problems, (P,)."""
        generator = torch_generator(seed, "start", device=str(self.device))
        return torch.cat([part.reshape(-1) for one in self.instances for part in one.initial(generator)])

    def views(self, flat_P: Tensor) -> list[list[Tensor]]:
        """Each block's parameters, (copies, *shape) each."""
        return [self._view(part, index) for index, part in enumerate(flat_P.split(self.sizes))]

    def _view(self, part: Tensor, index: int) -> list[Tensor]:
        """A block's part of a flat vector as parameters."""
        shapes = self.shapes[index]
        if len(shapes) == 1:
            return [part.view(shapes[0])]
        pieces = part.split([math.prod(shape) for shape in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def loss(self, theta_P: Tensor) -> Tensor:
        """Losses of all problems, (B,), less their minima."""
        pairs = zip(self.instances, self.views(theta_P), strict=True)
        loss_B = torch.cat([one.problem.loss(part, one.data) for one, part in pairs])
        # rounding may take a loss below its minimum; its gradient stays
        return _not_negative(loss_B - self.minimum_B)

    def evaluate(
        self,
        theta_P: Tensor,
        generator: torch.Generator,
        at_P: Tensor | None = None,
        *,
        everything: bool = True,
    ) -> Evaluation:
        """Losses and both gradients, by one backward pass.

        Args:
            theta_P: parameters.
            generator: of minibatches and noise.
            at_P: where the optimizer's gradient is taken, if not at `theta_P`.
            everything: measure also the losses that the optimizer's gradients are not those of.
        """
        with torch.enable_grad():
            leaf_P, seen_P = (
                x.detach().requires_grad_() for x in (theta_P, theta_P if at_P is None else at_P)
            )
            own, seen_parts = [], seen_P.split(self.sizes)
            losses, seen = [], []
            for index, (one, part) in enumerate(zip(self.instances, leaf_P.split(self.sizes), strict=True)):
                data = one.problem.minibatch(one.data, generator)
                own.append(at_P is not None or any(data[name] is not one.data.get(name) for name in data))
                if everything or not own[-1]:
                    losses.append(one.problem.loss(self._view(part, index), one.data))
                else:
                    losses.append(theta_P.new_zeros(one.batch))
                if own[-1]:
                    seen.append(one.problem.loss(self._view(seen_parts[index], index), data))
            loss_B = torch.cat(losses)
            slope_P, seen_slope_P = torch.autograd.grad(
                torch.cat([loss_B, *seen]).sum(), [leaf_P, seen_P], allow_unused=True, materialize_grads=True
            )
        gradient_P = self._disturbed(slope_P, seen_slope_P, own, generator)
        measured_K = torch.tensor([everything or not one for one in own], device=self.device)
        # rounding may take a loss below its minimum
        loss_B = (loss_B.detach() - self.minimum_B).clamp_min(0)
        return Evaluation(loss_B, measured_K[self.block_of_B], slope_P, gradient_P)

    def _disturbed(
        self, slope_P: Tensor, seen_slope_P: Tensor, own: Sequence[bool], generator: torch.Generator
    ) -> Tensor:
        parts: list[Tensor] = []
        pairs = zip(slope_P.split(self.sizes), seen_slope_P.split(self.sizes), strict=True)
        for index, (full, seen) in enumerate(pairs):
            chosen, problem = seen if own[index] else full, self.blocks[index].problem
            if self.exact[index]:
                parts.append(chosen)
            else:
                disturbed = problem.disturb(self._view(chosen, index), generator)
                parts += [part.reshape(-1) for part in disturbed]
        return torch.cat(parts)

    def gradient(self, theta_P: Tensor, generator: torch.Generator, create_graph: bool = True) -> Tensor:
        """What the optimizer sees, (P,), by default with a graph to `theta_P`."""
        parts: list[Tensor] = []
        for one, part in zip(self.instances, self.views(theta_P), strict=True):
            parts += one.gradient(part, generator, create_graph)
        return torch.cat([part.reshape(-1) for part in parts])


def _not_negative(x: Tensor) -> Tensor:
    return x + (x.clamp_min(0) - x).detach()


@dataclass(frozen=True)
class Dealing:
    """How many copies of each kind of problem run, and which kinds make a group.

    Args:
        kinds: of problems in a group, about.
        scalars: of a block at most, if one copy is not larger.
        copies: of a block at most.
        data: numbers in a block's data at most, if one copy has not more.
        rounds: how often every kind is dealt out, each time into other groups.
        large: kinds with more scalars, or more data than a block may have, make groups of their own ...
        large_weight: ... which are chosen that often, relative to others.
    """

    kinds: int = 6
    scalars: int = 800
    copies: int = 32
    data: int = 500_000
    rounds: int = 1
    large: int = 800
    large_weight: float = 0.2

    def __post_init__(self) -> None:
        for name in ("kinds", "scalars", "copies", "data", "rounds", "large"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not 0 < self.large_weight < math.inf:
            raise UserError(f"large_weight: expected a number above 0, got {self.large_weight}")

    def block(self, problem: Problem) -> Block:
        """So many copies as there is room for.

        >>> from factotum.worlds.problems.quadratics import Quadratic
        >>> [Dealing().block(Quadratic(n)).copies for n in (2, 100, 2048)]
        [32, 8, 1]
        """
        room = min(self.scalars // max(1, problem.size), self.data // max(1, data_size(problem)), self.copies)
        return Block(problem, max(1, room))

    def is_large(self, problem: Problem) -> bool:
        """Whether a problem is kept out of ordinary groups, which it would slow down."""
        return problem.size > self.large or data_size(problem) > self.data


def data_size(problem: Problem) -> int:
    """Numbers in the data of one copy."""
    return sum(math.prod(shape) for shape in problem.data_shapes.values())


def deal(problems: Sequence[Problem], dealing: Dealing, seed: int) -> list[tuple[list[Block], float]]:
    """Groups of blocks with the weights of the groups: kinds shuffled, large ones apart.

    >>> from factotum.worlds.problems import corpus
    >>> groups = deal(corpus("code"), Dealing(rounds=1), seed=0)
    >>> len(groups), sum(len(blocks) for blocks, _ in groups)
    (17, 101)
    """
    found: list[tuple[list[Block], float]] = []
    for turn in range(dealing.rounds):
        for large in (False, True):
            mine = [problem for problem in problems if dealing.is_large(problem) == large]
            order = numpy_generator(seed, "deal", turn).permutation(len(mine))
            count = math.ceil(len(mine) / dealing.kinds)
            blocks = [dealing.block(mine[index]) for index in order]
            weight = dealing.large_weight if large else 1.0
            found += [(blocks[start::count], weight) for start in range(count)]
    return found
