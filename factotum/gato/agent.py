"""Who calls it? A batch of environments: observations in, legal actions out, a cached window as carried state.

`GatoAgent` fulfils `factotum.core.step.Core`: `initial_state(batch_size)`, `step((observations, first), state)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.gato.batch import ABSENT, IGNORED_SLOT, Block
from factotum.gato.columns import first_steps, merge_steps, step_columns
from factotum.gato.model import Gato
from factotum.gato.sequence import Steps, lay_out
from factotum.gato.tokens import decode, encode, encode_steps, legal_ranges
from factotum.nn.blocks import Cache


@dataclass
class AgentState:
    """The carried state: keys and values, and the action tokens of the last step that are not yet among them."""

    cache: Cache
    pending_BA: np.ndarray


class GatoAgent:
    """Acts in many environments of one task at once.

    Args:
        model: a trained Gato.
        task: name, for the statistics of its body.
        prompts: demonstrations (episodes); each new episode starts after the first steps of one of them.
        temperature: 0 takes the likeliest id, for continuous ones the median; above 0 samples.

    Raises:
        UserError: statistics are missing, a space cannot be decoded, or a prompt does not fit the context.
    """

    def __init__(
        self,
        model: Gato,
        task: str,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        prompts: Sequence[Any] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.task = model.eval(), task
        self.observation_space, self.action_space = observation_space, action_space
        self.vocabulary = model.config.vocabulary
        self.temperature = temperature
        self.generator = torch_generator(seed, "act", task)
        self.text_action = isinstance(action_space, spaces.Text)
        self.ranges = [] if self.text_action else legal_ranges(action_space, self.vocabulary)
        self.prompts = [self._prompt(episode) for episode in prompts]

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        task: str,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        **options: Any,
    ) -> GatoAgent:
        """An agent from a checkpoint folder."""
        return cls(Gato.load_folder(path), task, observation_space, action_space, **options)

    def initial_state(self, batch_size: int) -> AgentState:
        """No episode begun in any of `batch_size` rows."""
        return AgentState(self.model.initial_state(batch_size), np.full((batch_size, 1), ABSENT, np.int64))

    @torch.no_grad()
    def step(
        self, inputs: tuple[Sequence[Any], Sequence[bool]], state: AgentState
    ) -> tuple[list[Any], AgentState]:
        """Actions for B observations; `first` marks rows that begin an episode. Changes the state in place.

        Raises:
            UserError: an observation outside its space.
        """
        observations, first = inputs
        first_B = np.asarray(first, bool)
        self._begin(first_B, state.cache)
        steps = self._steps(observations, state.pending_BA, ~first_B)
        h_BD = self._append(steps, state.cache, with_action=(~first_B)[:, None])
        if self.text_action:
            ids_BA, state.pending_BA = self._write(h_BD, state.cache)
        elif self.model.config.tokens == "fused":
            ids_BA = state.pending_BA = self._ask(h_BD)
        else:
            ids_BA, state.pending_BA = self._spell(h_BD, state.cache)
        actions = [
            decode(self.action_space, ids, self.vocabulary, role="action", tokenizer=self.model.tokenizer)
            for ids in ids_BA
        ]
        return actions, state

    def _begin(self, first_B: np.ndarray, cache: Cache) -> None:
        for row in np.flatnonzero(first_B):
            rows = torch.tensor([row])
            if self.prompts:
                chosen = int(torch.randint(len(self.prompts), (1,), generator=self.generator))
                cache.copy_row(rows, self.prompts[chosen])
            else:
                cache.reset_rows(rows)

    def _steps(self, observations: Sequence[Any], pending_BA: np.ndarray, acted_B: np.ndarray) -> Steps:
        coded = [
            encode(
                self.observation_space,
                observation,
                self.vocabulary,
                role="observation",
                tokenizer=self.model.tokenizer,
                path=self.task,
            )
            for observation in observations
        ]
        text, images, discrete, continuous, order = step_columns(merge_steps(coded))
        return self._as_steps(text, images, discrete, continuous, order, pending_BA)

    def _as_steps(
        self,
        text: np.ndarray,
        images: list[np.ndarray],
        discrete: np.ndarray,
        continuous: np.ndarray,
        order: list[tuple[str, int]],
        actions: np.ndarray,
        as_row: bool = False,
    ) -> Steps:
        def shape(column: np.ndarray) -> np.ndarray:
            return column[None] if as_row else column[:, None]

        if self.model.config.tokens == "fused":
            text = text[:, : self.model.config.action_slots]
            standardised = self.model.statistics.standardise(self.task, continuous)
        else:
            standardised = continuous
        actions = shape(actions)
        return Steps(
            text=shape(text),
            images=[shape(image) for image in images],
            discrete=shape(discrete),
            continuous=shape(continuous),
            standardised=shape(standardised),
            tensors=order,
            actions=actions,
            text_action=self.text_action,
            present=np.ones(actions.shape[:2], bool),
            segments=np.zeros(actions.shape[:2], np.int64),
        )

    def _append(self, steps: Steps, cache: Cache, with_action: np.ndarray) -> Tensor:
        """Put positions into the cache; the output at each row's last one, `B D`."""
        blocks, segments_BT, _ = lay_out(steps, self.model.config, action_first=True, with_action=with_action)
        return self._run(blocks, torch.from_numpy(segments_BT >= 0), cache)

    def _run(self, blocks: list[Block], valid_BT: Tensor, cache: Cache) -> Tensor:
        B, T = valid_BT.shape
        x_BTD = self.model.embed(blocks, B, T)
        h_BTD, _ = self.model.step((x_BTD, valid_BT), cache)
        return h_BTD[torch.arange(B), valid_BT.sum(1) - 1]

    def _ask(self, h_BD: Tensor) -> np.ndarray:
        """All scalars of a fused action at once, `B A`."""
        A = len(self.ranges)
        slots = torch.arange(A).repeat(len(h_BD))
        logits = self.model.logits(h_BD.repeat_interleave(A, 0), slots).view(len(h_BD), A, -1)
        return np.stack([self._choose(logits[:, k], *legal) for k, legal in enumerate(self.ranges)], -1)

    def _spell(self, h_BD: Tensor, cache: Cache) -> tuple[np.ndarray, np.ndarray]:
        """Action tokens one after another; the last one stays pending."""
        chosen: list[np.ndarray] = []
        for number, legal in enumerate(self.ranges):
            if number:
                h_BD = self._push(chosen[-1], np.ones(len(h_BD), bool), cache)
            chosen.append(self._choose(self._token_logits(h_BD), *legal))
        return np.stack(chosen, -1), chosen[-1][:, None]

    def _write(self, h_BD: Tensor, cache: Cache) -> tuple[np.ndarray, np.ndarray]:
        """Text until each row has ended, at most `action_slots` tokens; the last token of each row stays pending."""
        assert self.model.tokenizer is not None
        assert isinstance(self.action_space, spaces.Text)
        limit = min(self.model.config.action_slots, self.action_space.max_length + 1)
        ids = self._choose(self._token_logits(h_BD), 0, self.model.tokenizer.size)
        chosen, last = [ids], ids
        while len(chosen) < limit and (last != 0).any():
            going = last != 0
            h_BD = self._push(np.where(going, last, 0), going, cache)
            ids = self._choose(self._token_logits(h_BD), 0, self.model.tokenizer.size)
            last = np.where(going, ids, 0)
            chosen.append(last)
        return np.stack(chosen, -1), last[:, None]

    def _push(self, ids_B: np.ndarray, valid_B: np.ndarray, cache: Cache) -> Tensor:
        where = torch.from_numpy(np.flatnonzero(valid_B))
        values = torch.from_numpy(ids_B[valid_B])
        block = Block("token", values, where, torch.full_like(where, IGNORED_SLOT))
        return self._run([block], torch.from_numpy(valid_B)[:, None], cache)

    def _token_logits(self, h_BD: Tensor) -> Tensor:
        return self.model.logits(h_BD, torch.full((len(h_BD),), IGNORED_SLOT))

    def _choose(self, logits_BV: Tensor, start: int, stop: int) -> np.ndarray:
        legal = logits_BV[:, start:stop].float()
        if self.temperature > 0:
            weights = (legal / self.temperature).softmax(-1)
            ids = torch.multinomial(weights, 1, generator=self.generator)[:, 0]
        elif start >= self.vocabulary.continuous_start:
            ids = (legal.softmax(-1).cumsum(-1) < 0.5).sum(-1).clamp(max=stop - start - 1)
        else:
            ids = legal.argmax(-1)
        return (ids + start).numpy()

    @torch.no_grad()
    def _prompt(self, episode: Any) -> Cache:
        """A one-row cache that has seen the first steps of a demonstration."""
        count = len(episode.rewards)
        observations = encode_steps(
            self.observation_space,
            first_steps(self.observation_space, episode.observations, count),
            self.vocabulary,
            role="observation",
            tokenizer=self.model.tokenizer,
            path=self.task,
        )
        actions = encode_steps(
            self.action_space, episode.actions, self.vocabulary, role="action", tokenizer=self.model.tokenizer
        )
        ids = np.concatenate([leaf.ids for leaf in actions], -1)
        steps = self._as_steps(*step_columns(observations), ids, as_row=True)
        length = self.model.config.context // 2  # as long as the longest prompt in training
        blocks, segments, _ = lay_out(steps, self.model.config, length=length)
        valid = torch.from_numpy(segments >= 0)
        if not valid.any():
            raise UserError(
                f"prompt for {self.task}: not one timestep fits half of the context, {length} positions"
            )
        cache = self.model.initial_state(1)
        self._run(blocks, valid, cache)
        return cache
