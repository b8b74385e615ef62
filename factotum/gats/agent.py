"""Who calls it? A batch of environments: observations in, actions out, rings and caches as carried state.

`GATSAgent` fulfils `factotum.core.step.Core`: `initial_state(batch_size)`, `step((observations, first), state)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.gats.actions import ActionTokens
from factotum.gats.decode import GATSDecoder, Moment
from factotum.gats.generate import Scores, Writer, WriterState, logits_of
from factotum.gats.model import GATS
from factotum.gats.sampling import Guidance, Sampling, choose

Observe = Callable[[Sequence[Any], np.ndarray], Moment]
"""`observe(observations, steps)`: what the components but the acting one get, from B observations and the number of
each row's step, 0 where an episode begins. What is observed at step k arrives at times in [k, k + 1 / (A + 1))."""


@dataclass
class AgentState:
    """The carried state: what was seen, and what is not yet among it: the last id of each row's last action."""

    seen: WriterState
    pending_B: np.ndarray
    steps_B: np.ndarray


class GATSAgent:
    """Acts in many environments at once.

    Args:
        model: a trained model.
        observe: from observations to what arrives.
        actions: ids of the action space.
        component: that acts, trained on `ActionTokens.taught` at `ActionTokens.times`.
        sampling: greedy by default.
        guidance: for instance by the instruction.
        context: bounds of components' caches, as in `GATSDecoder`.
        scores: reads the acting component's output.
        argument: of its forward, for ids.

    Raises:
        UserError: as `GATSDecoder` and `Writer`.
    """

    def __init__(
        self,
        model: GATS,
        observe: Observe,
        actions: ActionTokens,
        *,
        component: str = "action",
        sampling: Sampling | None = None,
        guidance: Guidance | None = None,
        context: Mapping[str, int] | None = None,
        scores: Scores = logits_of,
        argument: str = "input_ids",
        seed: int = 0,
    ) -> None:
        self.writer = Writer(GATSDecoder(model, context), component, guidance=guidance, scores=scores)
        self.observe, self.actions, self.component, self.argument = observe, actions, component, argument
        self.sampling = sampling or Sampling()
        self.generator = torch_generator(seed, "act", component)

    def initial_state(self, batch_size: int) -> AgentState:
        """No episode begun in any of `batch_size` rows."""
        begin_B = np.full(batch_size, self.actions.begin, np.int64)
        return AgentState(self.writer.initial_state(batch_size), begin_B, np.zeros(batch_size, np.int64))

    def step(
        self, inputs: tuple[Sequence[Any], Sequence[bool]], state: AgentState
    ) -> tuple[list[Any], AgentState]:
        """Actions for B observations; `first` marks rows that begin an episode. Changes the state in place.

        Raises:
            UserError: what `observe` gives does not fit the model, or holds the acting component.
        """
        observations, first = inputs
        first_B = np.asarray(first, bool)
        self._begin(first_B, state)
        seen = self.observe(observations, state.steps_B)
        if self.component in seen.inputs:
            raise UserError(
                f"observe: expected inputs of other components than {self.component!r}, which acts"
            )
        times_BA = self.actions.times(torch.from_numpy(state.steps_B).double()[:, None])
        ids_B, chosen = state.pending_B, []
        for number, legal in enumerate(self.actions.counts):
            moment = self._read(seen if number == 0 else Moment({}, {}), ids_B, times_BA[:, number])
            scores_BV, state.seen = self.writer.step(moment, state.seen)
            assert scores_BV is not None
            ids_B = choose(scores_BV[:, :legal], self.sampling, self.generator).cpu().numpy()
            chosen.append(ids_B)
        state.pending_B, state.steps_B = ids_B, state.steps_B + 1
        return [self.actions.decode(ids) for ids in np.stack(chosen, -1)], state

    def _begin(self, first_B: np.ndarray, state: AgentState) -> None:
        rows = np.flatnonzero(first_B)
        if len(rows):
            state.seen.reset_rows(torch.from_numpy(rows).to(state.seen.given.device))
            state.pending_B = np.where(first_B, self.actions.begin, state.pending_B)
            state.steps_B = np.where(first_B, 0, state.steps_B)

    def _read(self, moment: Moment, ids_B: np.ndarray, time_B: Tensor) -> Moment:
        """What is observed, and behind it the last id."""
        device = self.writer.decoder.device
        ids = {self.argument: torch.from_numpy(ids_B)[:, None].to(device)}
        return moment._replace(
            inputs={**moment.inputs, self.component: ids},
            times={**moment.times, self.component: time_B[:, None].to(device)},
        )
