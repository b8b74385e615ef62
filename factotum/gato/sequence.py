"""Timesteps to sequences of positions: observation tokens, separator, action tokens, timestep after timestep.

Two layouts of a timestep, one result (`Batch`). "scalar" is the paper's: text, patches, tensors, separator, then
each action token, one position each (arXiv 2205.06175, sections 2.1-2.2, appendix B). "fused" has one position for
each modality of a timestep and one for its action; text actions stay one position a token.

Letters: G rows, R timesteps of a row, P positions of a timestep, T positions of a row, n elements, K text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from factotum.gato.batch import ABSENT, IGNORED_SLOT, Batch, Block, merge_blocks
from factotum.gato.config import GatoConfig
from factotum.gato.mulaw import compand, to_bins


@dataclass
class Steps:
    """Timesteps of one task, G rows of R each, padded by ABSENT where text is shorter.

    Args:
        text: `G R K` ids. images: arrays `G R height width channels`. discrete: `G R n` ids.
        continuous: `G R n` raw numbers. standardised: the same, by the body's statistics.
        tensors: order of the tensors: (kind, width) by sorted key.
        actions: `G R A` ids. present: `G R`, whether the timestep is there. segments: `G R`.
        trained: `G R`, whether the action is a target; None: all. hidden: `G R`, whether a fused action is kept from
            the steps after it; None: none.
    """

    text: np.ndarray
    images: list[np.ndarray]
    discrete: np.ndarray
    continuous: np.ndarray
    standardised: np.ndarray
    tensors: list[tuple[str, int]]
    actions: np.ndarray
    text_action: bool
    present: np.ndarray
    segments: np.ndarray
    trained: np.ndarray | None = None
    hidden: np.ndarray | None = None


@dataclass
class _Part:
    """A run of positions inside each timestep: which are there, and what goes to them."""

    name: str
    valid: np.ndarray
    values: Any = None


def _observation_parts(steps: Steps, config: GatoConfig) -> list[_Part]:
    return _scalar_parts(steps, config) if config.tokens == "scalar" else _fused_parts(steps)


def _scalar_parts(steps: Steps, config: GatoConfig) -> list[_Part]:
    G, R = steps.present.shape
    parts = [_Part("token", steps.text != ABSENT, steps.text)]
    for image in steps.images:
        height, width = image.shape[2:4]
        patches = -(-height // config.patch) * -(-width // config.patch)
        parts.append(_Part("image", np.ones((G, R, patches), bool), image))
    tensors = _tensor_ids(steps, config)
    parts.append(_Part("token", np.ones(tensors.shape, bool), tensors))
    parts.append(_Part("separator", np.ones((G, R, 1), bool)))
    return parts


def _tensor_ids(steps: Steps, config: GatoConfig) -> np.ndarray:
    bins = to_bins(compand(steps.continuous, config.vocabulary), config.vocabulary)
    taken = {"discrete": 0, "continuous": 0}
    columns = [np.zeros((*steps.present.shape, 0), np.int64)]
    for kind, width in steps.tensors:
        source = steps.discrete if kind == "discrete" else bins
        columns.append(source[..., taken[kind] : taken[kind] + width])
        taken[kind] += width
    return np.concatenate(columns, -1)


def _fused_parts(steps: Steps) -> list[_Part]:
    one = np.ones((*steps.present.shape, 1), bool)
    parts = []
    if steps.text.shape[-1]:
        parts.append(_Part("text", one, steps.text))
    parts += [_Part("image", one, image) for image in steps.images]
    if steps.discrete.shape[-1]:
        parts.append(_Part("discrete", one, steps.discrete))
    if steps.continuous.shape[-1]:
        parts.append(_Part("continuous", one, steps))
    return parts


def _action_part(steps: Steps, config: GatoConfig) -> _Part:
    if config.tokens == "fused" and not steps.text_action:
        seen = (
            steps.actions
            if steps.hidden is None
            else np.where(steps.hidden[..., None], ABSENT, steps.actions)
        )
        return _Part("action", np.ones((*steps.present.shape, 1), bool), seen)
    return _Part("action_token", steps.actions != ABSENT, steps.actions)


def positions_per_step(steps: Steps, config: GatoConfig) -> float:
    """Mean number of positions of the given timesteps."""
    parts = [*_observation_parts(steps, config), _action_part(steps, config)]
    return float(sum(part.valid.sum(-1) for part in parts)[steps.present].mean())


def lay_out(
    steps: Steps,
    config: GatoConfig,
    *,
    row: int = 0,
    length: int | None = None,
    action_first: bool = False,
    with_action: np.ndarray | None = None,
) -> tuple[list[Block], np.ndarray, dict[str, np.ndarray]]:
    """Place timesteps on rows [row, row + G) of a batch of `length` positions.

    Args:
        action_first: the action precedes its observation (acting: the last action, then what it led to).
        with_action: `G R`, whether the action is placed at all; None: everywhere.

    Returns:
        blocks; `G T` segments (-1 where nothing is); targets: where, slot, ids (flat), none if `action_first`.
    """
    action, observation = _action_part(steps, config), _observation_parts(steps, config)
    if with_action is not None:
        action.valid = action.valid & with_action[..., None]
    placed = _place([action, *observation] if action_first else [*observation, action], steps, row, length)
    made = (
        _block(part, placed.flat_GRP[..., at], placed.local_GRP[..., at], placed.valid_GRP[..., at], config)
        for part, at in placed.parts
    )
    blocks = [block for block in made if block is not None]
    return blocks, placed.segments_GT, {} if action_first else _targets(steps, config, placed)


@dataclass
class _Placed:
    """Where each position of each timestep is: in its row, in the batch, in its observation."""

    parts: list[tuple[_Part, slice]]
    valid_GRP: np.ndarray
    index_GRP: np.ndarray
    flat_GRP: np.ndarray
    local_GRP: np.ndarray
    segments_GT: np.ndarray


def _place(parts: list[_Part], steps: Steps, row: int, length: int | None) -> _Placed:
    valid_GRP = np.concatenate([part.valid for part in parts], -1) & steps.present[..., None]
    G, R, P = valid_GRP.shape
    T = R * P if length is None else length
    index_GRP = valid_GRP.reshape(G, R * P).cumsum(-1).reshape(G, R, P) - 1
    valid_GRP &= (index_GRP.max(-1) < T)[..., None]  # a timestep that does not fit is left out whole
    starts = np.cumsum([0] + [part.valid.shape[-1] for part in parts])
    slices = [slice(int(start), int(stop)) for start, stop in pairwise(starts)]
    seen = np.concatenate(
        [np.full(part.valid.shape[-1], not part.name.startswith("action")) for part in parts]
    )
    rows_GRP = np.broadcast_to(np.arange(G)[:, None, None], valid_GRP.shape)
    segments_GT = np.full((G, T), -1, np.int64)
    segment_GRP = np.broadcast_to(steps.segments[..., None], valid_GRP.shape)
    segments_GT[rows_GRP[valid_GRP], index_GRP[valid_GRP]] = segment_GRP[valid_GRP]
    return _Placed(
        parts=list(zip(parts, slices, strict=True)),
        valid_GRP=valid_GRP,
        index_GRP=index_GRP,
        flat_GRP=index_GRP + (row + rows_GRP) * T,
        local_GRP=(valid_GRP & seen).cumsum(-1) - 1,
        segments_GT=segments_GT,
    )


def _block(
    part: _Part, where: np.ndarray, local: np.ndarray, valid: np.ndarray, config: GatoConfig
) -> Block | None:
    if not valid.any():
        return None
    if part.name in ("token", "action_token"):
        ids = torch.from_numpy(part.values[valid].astype(np.int64))
        position = np.full(len(ids), IGNORED_SLOT) if part.name == "action_token" else local[valid]
        return Block(
            "token", ids, torch.from_numpy(where[valid]), torch.from_numpy(position.astype(np.int64))
        )
    if part.name == "separator":
        return Block("separator", torch.zeros(0), torch.from_numpy(where[valid]))
    steps_GR = valid[..., 0]  # the other parts are there with all their positions or with none
    at, inside = torch.from_numpy(where[steps_GR]), torch.from_numpy(local[steps_GR])
    if part.name == "image":
        return Block("image", torch.from_numpy(np.ascontiguousarray(part.values[steps_GR])), at, inside)
    if part.name == "continuous":
        raw, scaled = part.values.continuous[steps_GR], part.values.standardised[steps_GR]
        values = np.stack([scaled, compand(raw, config.vocabulary)], -1).astype(np.float32)
        return Block("continuous", torch.from_numpy(values), at[:, 0])
    return Block(part.name, torch.from_numpy(part.values[steps_GR].astype(np.int64)), at[:, 0])


def _targets(steps: Steps, config: GatoConfig, placed: _Placed) -> dict[str, np.ndarray]:
    """Each target is predicted at the position before its own."""
    trained = steps.present if steps.trained is None else steps.trained
    action, at = placed.parts[-1]
    shape = steps.actions.shape
    valid = np.broadcast_to(placed.valid_GRP[..., at] & trained[..., None], shape)
    where = np.broadcast_to(placed.flat_GRP[..., at] - 1, shape)
    own_token = action.name == "action_token"
    slot = np.broadcast_to(IGNORED_SLOT if own_token else np.arange(shape[-1]), shape)
    found = [(where[valid], slot[valid], steps.actions[valid])]
    if (
        config.tokens == "scalar"
    ):  # the paper's mask: text observations are targets too, images and tensors are not
        at = placed.parts[0][1]
        valid = placed.valid_GRP[..., at] & (placed.index_GRP[..., at] > 0) & trained[..., None]
        where = placed.flat_GRP[..., at][valid] - 1
        found.append((where, np.full(len(where), IGNORED_SLOT), steps.text[valid]))
    columns = (np.concatenate(column) for column in zip(*found, strict=True))
    return dict(zip(("where", "slot", "ids"), columns, strict=True))


def join(groups: list[tuple[str, Steps]], config: GatoConfig, length: int | None = None) -> Batch:
    """One batch of rows of several tasks, each a named `Steps`, for training."""
    T = config.context if length is None else length
    blocks: list[Block] = []
    segments, where, slot, ids, task = [], [], [], [], []
    row = 0
    for number, (_, steps) in enumerate(groups):
        made, segments_GT, targets = lay_out(steps, config, row=row, length=T)
        blocks += made
        segments.append(segments_GT)
        where.append(targets["where"])
        slot.append(targets["slot"])
        ids.append(targets["ids"])
        task.append(np.full(len(targets["where"]), number))
        row += len(segments_GT)
    segments_BT = torch.from_numpy(np.concatenate(segments))
    split = bool(((segments_BT != segments_BT[:, :1]) & (segments_BT >= 0)).any())
    return Batch(
        rows=row,
        length=T,
        blocks=merge_blocks(blocks),
        segments_BT=segments_BT if split else None,
        target_where_M=torch.from_numpy(np.concatenate(where)),
        target_slot_M=torch.from_numpy(np.concatenate(slot)),
        target_ids_M=torch.from_numpy(np.concatenate(ids)),
        target_task_M=torch.from_numpy(np.concatenate(task)),
        tokens=int((segments_BT >= 0).sum()),
        task_names=[name for name, _ in groups],
        task_rows=[len(steps.present) for _, steps in groups],
    )
