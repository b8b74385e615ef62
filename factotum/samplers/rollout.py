"""The closed loop of a core and a batch of functions, with one worker or several that finish in any order.

Local letters: B functions in a batch, D dimensions, T evaluations.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.samplers.history import Observation


class Turn(NamedTuple):
    """What is known when a proposal is made; evaluations are numbered in the order of their proposals."""

    finished: tuple[int, ...]
    """evaluations that ended since the proposal before, in the order in which they ended"""
    pending: tuple[int, ...]
    """evaluations that still run, in the order of their proposals"""


def make_turns(evaluations: int, workers: int, generator: torch.Generator) -> list[Turn]:
    """When is what proposed, if `workers` evaluate at once and run times are U(0.5, 1.5)?

    Args:
        evaluations: T.
        workers: each takes a new proposal when its evaluation ends; the first are made before any ended.
        generator: draws the run times.

    Returns:
        One turn a proposal. The evaluations that still run after the last proposal end in no turn.

    Raises:
        UserError: less than one evaluation or worker.

    >>> make_turns(3, 1, torch.Generator())
    [Turn(finished=(), pending=()), Turn(finished=(0,), pending=()), Turn(finished=(1,), pending=())]
    """
    if evaluations < 1 or workers < 1:
        raise UserError(f"expected 1 or more evaluations and workers, got {evaluations} and {workers}")
    times = (0.5 + torch.rand(evaluations, generator=generator)).tolist()
    running: list[tuple[float, int]] = []
    turns, now = [], 0.0
    for proposal in range(evaluations):
        finished: tuple[int, ...] = ()
        if len(running) == workers:
            now, ended = heapq.heappop(running)
            finished = (ended,)
        turns.append(Turn(finished, tuple(sorted(number for _, number in running))))
        heapq.heappush(running, (now + times[proposal], proposal))
    return turns


class Rollout(NamedTuple):
    """What was proposed and what came of it, in the order of the proposals.

    Attributes:
        x_BTD: the points.
        y_BT: the values that the core was told, with noise.
        value_BT: the values without noise.
    """

    x_BTD: Float[Tensor, "B T D"]
    y_BT: Float[Tensor, "B T"]
    value_BT: Float[Tensor, "B T"]


def rollout(
    core: nn.Module,
    function: Callable[[Tensor], Tensor],
    evaluations: int,
    *,
    batch_size: int,
    dimensions: int,
    generator: torch.Generator,
    workers: int = 1,
    noise_B: Float[Tensor, " B"] | None = None,
    truncation: int = 0,
    gradient_limit: float = 0.0,
) -> Rollout:
    r"""Closed loop of a core and B functions: $(h_t, x_t) = RNN(h_{t-1}, o_{t-1}, x_{t-1}, y_{t-1})$.

    With several workers a proposal is made from the state after all evaluations that ended, in the order in
    which they ended (o = 1, x fed back with y), followed by those that still run, each at its own point (o = 0).
    The state after the former is what is carried on, so every evaluation enters it once.

    Args:
        core: a core of `factotum.samplers.model`.
        function: x_BD in the unit cube -> value_B, to be minimised.
        evaluations: T.
        batch_size: B.
        dimensions: D.
        generator: on the CPU; draws the core's start, run times and noise.
        workers: simultaneous evaluations; their run times are the same for all functions of a batch.
        noise_B: standard deviation of what is added to the values that the core is told; none by default.
        truncation: evaluations after which gradients are cut, 0 for never.
        gradient_limit: largest norm of a function's gradient that flows into one proposal, 0 for no limit.

    Returns:
        Points and values, differentiable in the core's weights.

    Chen et al., 2017 (arXiv 1611.03824), sections 2 and 2.3.

    Differs from the paper: pending points are told at their own places, as often as they are pending, and the
    number of workers may change; there, N constant dummies are fed once and pending points live in the state.
    """
    like = next(core.parameters(), torch.empty(0))
    turns = make_turns(evaluations, workers, generator)
    noise_BT = torch.randn(batch_size, evaluations, generator=generator).to(like)
    state = core.initial_state(batch_size, dimensions, generator)  # type: ignore[operator]
    told = _Told(core, state, evaluations, like.new_full((batch_size, dimensions), 0.5))
    points: list[Tensor] = []
    answers: list[Tensor] = []
    values: list[Tensor] = []
    for turn in turns:
        x_BD = told.propose(turn)
        if gradient_limit > 0 and x_BD.requires_grad:
            x_BD.register_hook(lambda slope_BD: limited(slope_BD, gradient_limit))
        value_B = function(x_BD)
        y_B = value_B if noise_B is None else value_B + noise_B * noise_BT[:, len(values)]
        told.note(x_BD, y_B)
        points.append(x_BD)
        answers.append(y_B)
        values.append(value_B)
        if truncation and len(values) % truncation == 0:
            told.cut()
    return Rollout(torch.stack(points, 1), torch.stack(answers, 1), torch.stack(values, 1))


class _Told:
    """The core's side of a rollout: its state after all that ended, and what it was told."""

    def __init__(self, core: nn.Module, state: Any, evaluations: int, centre_BD: Tensor):
        self.core, self.left = core, evaluations
        self.yes_B = torch.ones(len(centre_BD), dtype=torch.bool, device=centre_BD.device)
        self.no_B, self.zero_B = ~self.yes_B, centre_BD.new_zeros(len(centre_BD))
        self.points: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.proposal_BD, self.state = self._step(centre_BD, None, self.left, state)

    def propose(self, turn: Turn) -> Tensor:
        for number in turn.finished:
            self.left -= 1
            x_BD, y_B = self.points[number], self.answers[number]
            self.proposal_BD, self.state = self._step(x_BD, y_B, self.left, self.state)
        x_BD, ahead = self.proposal_BD, self.state
        for place, number in enumerate(turn.pending, 1):
            x_BD, ahead = self._step(self.points[number], None, self.left - place, ahead)
        return x_BD

    def note(self, x_BD: Tensor, y_B: Tensor) -> None:
        self.points.append(x_BD)
        self.answers.append(y_B)

    def cut(self) -> None:
        """No gradient flows from here on into what was before."""
        self.state = detached(self.state)
        self.points = [x_BD.detach() for x_BD in self.points]
        self.answers = [y_B.detach() for y_B in self.answers]

    def _step(self, x_BD: Tensor, y_B: Tensor | None, left: int, state: Any) -> tuple[Tensor, Any]:
        answer_B, observed_B = (self.zero_B, self.no_B) if y_B is None else (y_B, self.yes_B)
        seen = Observation(x_BD, answer_B, observed_B, torch.full_like(self.zero_B, left))
        return self.core.step(seen, state)  # type: ignore[operator]


def limited(slope_BD: Float[Tensor, "B D"], largest: float) -> Float[Tensor, "B D"]:
    """Each row scaled to a norm of at most `largest`; rows that are not finite become 0.

    >>> limited(torch.tensor([[3.0, 4.0], [0.3, 0.4], [torch.inf, 0.0]]), 1.0).tolist()
    [[0.6..., 0.8...], [0.3..., 0.4...], [0.0, 0.0]]
    """
    norm_B1 = slope_BD.norm(dim=1, keepdim=True)
    scaled_BD = slope_BD * (largest / norm_B1.clamp(min=largest))
    return torch.where(norm_B1.isfinite(), scaled_BD, 0.0)


def detached(state: Any) -> Any:
    """A state without gradients: nested tuples, named tuples, lists and dictionaries of tensors.

    >>> detached((torch.ones(1, requires_grad=True) * 2, [3]))
    (tensor([2.]), [3])
    """
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {name: detached(part) for name, part in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*map(detached, state))
    return type(state)(map(detached, state)) if isinstance(state, tuple | list) else state
