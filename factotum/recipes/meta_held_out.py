"""Held-out problems that say how well a core optimizes, beside itself untrained, Adam and RMSProp.

Local letters: P scalars, B problems, T steps, R rivals (an optimizer at a rate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factotum.core.files import read_json, write_json_atomic
from factotum.core.seeding import numpy_generator, torch_generator
from factotum.optim import load_core
from factotum.optim.model import HierarchicalRNNCore
from factotum.recipes.meta_objective import log_loss
from factotum.recipes.meta_problems import Block, FlatProblems
from factotum.training.checkpoint import require_same
from factotum.worlds.problems import Problem

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Learning rates of the rivals; each family takes the best."""
WORST = -math.log(1e-6)
"""Log losses count no more than this, also where a loss is not finite; the least is -WORST by its epsilon."""

Rule = Callable[[Tensor], Tensor]
"""Gradients (P,) to changes of the parameters (P,); keeps its state to itself."""


@dataclass(frozen=True)
class HeldOut:
    """Problems that training never meets: kinds as in training, but other data, starts and noise.

    Attributes:
        kinds: of problems.
        copies: of each kind.
        steps: T.
        run: folder whose `rivals.json` keeps what does not change.
        device: where it runs.
        seed: of the problems.
    """

    kinds: Sequence[Problem]
    copies: int
    steps: int
    run: Path
    device: torch.device | str = "cpu"
    seed: int = 0

    def measure(self, checkpoint: Path, step: int, untrained: HierarchicalRNNCore) -> dict[str, Any]:
        """Mean log losses, lower is better, of a checkpoint's core beside the others on the same problems.

        Args:
            checkpoint: folder with the core's files.
            step: updates made.
            untrained: the core before any.

        Returns:
            JSON values: `held_out`, family -> name -> mean log loss over the steps; `final`, the same of the
            last step; `curves`, family -> name -> mean log loss after each step; `rates`, family -> rival -> its
            best rate.
        """
        lines = self.rivals(untrained)
        problems = self._problems(1)
        core = load_core(checkpoint).to(self.device)
        mine = self._families(self._core_curves(core, problems))
        curves = {family: {"core": mine[family], **lines["curves"][family]} for family in mine}
        mean = {family: {name: sum(c) / len(c) for name, c in of.items()} for family, of in curves.items()}
        final = {family: {name: curve[-1] for name, curve in of.items()} for family, of in curves.items()}
        return {"step": step, "held_out": mean, "final": final, "curves": curves, "rates": lines["rates"]}

    def rivals(self, untrained: HierarchicalRNNCore) -> dict[str, Any]:
        """What does not change over training: computed once for a run.

        Raises:
            UserError: the run has those of other problems.
        """
        path, names = self.run / "rivals.json", ",".join(kind.name for kind in self.kinds)
        own = {"kinds": names, "copies": self.copies, "steps": self.steps, "seed": self.seed}
        if path.is_file():
            found = read_json(path)
            require_same(found["of"], own, where=str(path))
            return found
        curves, rates = self._rivals(untrained.to(self.device))
        found = {"of": own, "curves": curves, "rates": rates}
        write_json_atomic(path, found)
        return found

    def _rivals(self, untrained: HierarchicalRNNCore) -> tuple[dict[str, Any], dict[str, Any]]:
        """Curves, family -> name -> log losses, and rates, family -> rival -> its best one."""
        plain = self._families(self._core_curves(untrained, self._problems(1)))
        curves = {family: {"untrained": curve} for family, curve in plain.items()}
        rates: dict[str, dict[str, float]] = {family: {} for family in curves}
        for name, moments in (("Adam", (0.9, 0.999)), ("RMSProp", (0.0, 0.9))):
            problems = self._problems(len(RATES))
            copies = problems.layout.problem_count // len(RATES)
            rate_B = torch.tensor(RATES, device=self.device).repeat(copies)
            curve_TB = self._run(adam(rate_B[problems.problem_of_P], *moments), problems)
            for index, rate in enumerate(RATES):
                for family, curve in self._families(curve_TB[:, index :: len(RATES)]).items():
                    best = curves[family].get(name)
                    if best is None or sum(curve) < sum(best):
                        curves[family][name], rates[family][name] = curve, rate
        return curves, rates

    def _problems(self, repeats: int) -> FlatProblems:
        """The held-out problems; each so many times in a row."""
        problems = FlatProblems([Block(kind, self.copies * repeats) for kind in self.kinds], self.device)
        made = []
        for kind in self.kinds:
            generator = torch_generator(self.seed, "held out", kind.name, device=str(self.device))
            tensors = kind.draw(self.copies, generator).tensors()
            repeated = {name: tensor.repeat_interleave(repeats, 0) for name, tensor in tensors.items()}
            made.append(kind.restore(repeated))
        problems.instances = made
        return problems

    def _start(self, problems: FlatProblems) -> Tensor:
        parts = []
        for kind, block in zip(self.kinds, problems.blocks, strict=True):
            generator = torch_generator(self.seed, "held out start", kind.name, device=str(self.device))
            for part in kind.start(self.copies, generator):
                parts.append(part.repeat_interleave(block.copies // self.copies, 0).reshape(-1))
        return torch.cat(parts)

    @torch.no_grad()
    def _core_curves(self, core: HierarchicalRNNCore, problems: FlatProblems) -> Tensor:
        generator = torch_generator(self.seed, "held out rates", device=str(self.device))
        state = core.initial_state(problems.layout, generator)
        attended: list[Tensor | None] = [None]

        def rule(gradient_P: Tensor) -> Tensor:
            nonlocal state
            done, state = core.step(gradient_P, state, problems.layout)
            attended[0] = done.attended_P
            return done.update_P

        return self._run(rule, problems, lambda: attended[0])

    @torch.no_grad()
    def _run(
        self, rule: Rule, problems: FlatProblems, attended: Callable[[], Tensor | None] = lambda: None
    ) -> Tensor:
        """Log losses after each step, (T, B)."""
        theta_P, at_P = self._start(problems), None
        generator = torch_generator(self.seed, "held out noise", device=str(self.device))
        losses = []
        for _ in range(self.steps):
            seen = problems.evaluate(theta_P, generator, at_P)
            losses.append(seen.loss_B)
            update_P, ahead_P = rule(seen.gradient_P.nan_to_num(0.0, 0.0, 0.0)), attended()
            at_P = None if ahead_P is None else theta_P + ahead_P
            theta_P = theta_P + update_P
        losses.append(problems.loss(theta_P))
        log_TB = log_loss(torch.stack(losses[1:]), losses[0])
        return log_TB.nan_to_num(WORST, WORST, -WORST).clamp(-WORST, WORST)

    def _families(self, log_TB: Tensor) -> dict[str, list[float]]:
        """Means over copies, then over the kinds of a family; after each step."""
        log_TK = log_TB.double().unflatten(1, (len(self.kinds), -1)).mean(2)
        found: dict[str, list[float]] = {}
        for family in dict.fromkeys(kind.family for kind in self.kinds):
            mine = [index for index, kind in enumerate(self.kinds) if kind.family == family]
            found[family] = log_TK[:, mine].mean(1).tolist()
        return found


def adam(rate_P: Tensor, first: float, second: float) -> Rule:
    """Adam with a learning rate for each scalar; RMSProp without its first moment.

    >>> rule = adam(torch.tensor([0.1]), 0.9, 0.999)
    >>> rule(torch.tensor([5.0])).tolist()
    [-0.1...]
    """
    mean_P, square_P, step = torch.zeros_like(rate_P), torch.zeros_like(rate_P), 0

    def rule(gradient_P: Tensor) -> Tensor:
        nonlocal mean_P, square_P, step
        step += 1
        mean_P = torch.lerp(gradient_P, mean_P, first)
        square_P = torch.lerp(gradient_P.square(), square_P, second)
        corrected_P = square_P / (1 - second**step)
        return -rate_P * (mean_P / (1 - first**step)) / (corrected_P.sqrt() + 1e-8)

    return rule


def few_of_each(problems: Sequence[Problem], count: int, seed: int = 0) -> list[Problem]:
    """At most so many kinds of each family, always the same ones.

    >>> from factotum.worlds.problems import corpus
    >>> len(few_of_each(corpus("code"), 2))
    22
    """
    order = numpy_generator(seed, "held out kinds").permutation(len(problems))
    chosen: dict[str, list[int]] = {}
    for index in order:
        mine = chosen.setdefault(problems[index].family, [])
        if len(mine) < count:
            mine.append(int(index))
    return [problems[index] for index in sorted(one for mine in chosen.values() for one in mine)]
