"""A teacher's play: a bounded window of the newest steps, each picture stored once and stacked when drawn.

A ring of slots in memory-mapped files (or in memory). A slot holds the newest frames of an observation, the teacher's
label, action, reward, and the numbers of the slots before and after it in its episode; stacks are put together along
those links, so that none crosses an episode's beginning. Beyond the window lie `spare` slots: what is written after a
flush never overwrites what the flush promised, so a kill costs what came since, and nothing else.
Letters: B environments, A numbers of a label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from factotum.core.checks import UserError, require_finite
from factotum.distill.objective import DistillationBatch
from factotum.distill.q_learning import Moved
from factotum.distill.replay_files import Layout, ReplayFiles, read_head
from factotum.distill.replay_ring import DRAWN, NONE, TERMINATED, Ring
from factotum.distill.transitions import TransitionBatch


class TeacherReplay:
    """The newest `capacity` steps of any number of environments of one task.

    Args:
        folder: of the files, made or taken up; None keeps all in memory.
        capacity: the paper's ten hours are 540,000 steps.
        observation_shape: of one environment.
        frame_channels: the newest entries of the first axis, last in it, where observations are stacks of frames;
            None where they are none.
        actions: numbers of a label; 0 for a replay without labels.
        dtype: of observations: uint8, bool or float32.
        action_shape: () for discrete actions.
        task: what batches say they are of.
        spare: slots that may be written between two flushes; before there are more it flushes itself. By default an
            eighth of the capacity: more than the tenth, an hour, after which the paper trains.

    Raises:
        UserError: sizes that make no sense, a folder that holds another replay, is damaged or in use, a full disk.

    >>> from types import SimpleNamespace
    >>> replay = TeacherReplay(None, 10, (3,), None, 2, dtype="float32")
    >>> no = np.array([False])
    >>> moved = SimpleNamespace(reward=np.ones(1), terminated=no, truncated=no, begun=no)
    >>> replay.append(np.ones((1, 3), np.float32), ~no, np.array([[0.0, 1.0]]), np.array([1]), moved)
    >>> replay.sample(2, np.random.default_rng(0)).label.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        folder: Path | str | None,
        capacity: int,
        observation_shape: tuple[int, ...],
        frame_channels: int | None,
        actions: int,
        *,
        dtype: str = "uint8",
        action_shape: tuple[int, ...] = (),
        task: str | None = None,
        spare: int | None = None,
    ) -> None:
        channels = frame_channels or observation_shape[0]
        spare = spare or max(1024, capacity // 8)
        shape = tuple(observation_shape)
        self.layout = Layout(capacity, spare, shape, channels, actions, str(dtype), tuple(action_shape), task)
        self._files = ReplayFiles(None if folder is None else Path(folder), self.layout)
        self._ring = Ring(self._files)
        self._stand_at(self._files.head)

    @classmethod
    def open(cls, folder: Path | str) -> TeacherReplay:
        """The replay that a folder holds.

        Raises:
            UserError: it holds none, or a damaged one.
        """
        layout, _ = read_head(Path(folder))
        return cls(
            folder,
            layout.capacity,
            layout.observation_shape,
            layout.frame_channels,
            layout.actions,
            dtype=layout.dtype,
            action_shape=layout.action_shape,
            task=layout.task,
            spare=layout.spare,
        )

    def _stand_at(self, position: dict[str, Any]) -> None:
        """Make a position that of the ring, its last slots checked."""
        self._ring.total, self._ring.low = self._flushed, _ = position["total"], position["low"]
        self._last = np.array(position["last"], np.int64)
        self._files.verify(self._ring.low, self._ring.total)

    def __len__(self) -> int:
        """Slots of the window: at most `capacity`."""
        return self._ring.total - self._ring.low

    @property
    def total(self) -> int:
        """Slots ever written."""
        return self._ring.total

    def __enter__(self) -> TeacherReplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and let the files go."""
        self.flush()
        self._files.close()

    def flush(self) -> None:
        """Promise all that was appended: neither a kill nor a power cut takes it away."""
        self._files.sync()
        self._files.write_head(self.position())
        self._flushed = self.total

    def position(self) -> dict[str, Any]:
        """How far it is, JSON values; see `go_back`."""
        return {"total": self.total, "low": self._ring.low, "last": self._last.tolist()}

    def go_back(self, position: dict[str, Any]) -> None:
        """Forget what was appended after a position was noted, as when a run goes on from its checkpoint.

        Where more than `spare` slots were written since, the oldest are gone, and the window is shorter than it was.

        Raises:
            UserError: the position lies ahead, or the window is damaged.
        """
        if position["total"] > self.total:
            raise UserError(f"replay: expected a position up to {self.total}, got {position['total']}")
        low = max(position["low"], self._ring.written() - self.layout.slots)
        self._stand_at({**position, "low": min(low, position["total"])})
        self._files.write_head(self.position())

    def append(
        self,
        observation_B: np.ndarray,
        first_B: np.ndarray,
        label_BA: np.ndarray | None,
        action_B: np.ndarray,
        moved: Moved,
        left_out_B: np.ndarray | None = None,
    ) -> None:
        """Store a step of B environments; their dummy steps (`moved.begun`) are left out.

        Args:
            observation_B: what was seen.
            first_B: rows whose observation begins an episode.
            label_BA: what the teacher put out for it; None where the replay has no labels.
            action_B: what was done.
            moved: what came of it.
            left_out_B: rows that are not to be learnt from either, such as those without a label.

        Raises:
            UserError: other shapes or types, labels that are not finite, stacks that do not go on from the step before.
        """
        observation_B, first_B = np.asarray(observation_B), np.asarray(first_B, bool)
        action_B = np.asarray(action_B)
        self._require(observation_B, label_BA, action_B)
        if len(self._last) != len(observation_B):
            self._last = np.full(len(observation_B), NONE, np.int64)
        self._last[first_B] = NONE
        if self.total + len(observation_B) * self.layout.stack - self._flushed > self.layout.spare:
            self.flush()
        out_B = moved.begun if left_out_B is None else moved.begun | left_out_B
        if self.layout.stack > 1:
            self._require_stacks(observation_B)
            self._store_pasts(observation_B, out_B)
        # a dummy step's observation is kept where its episode was cut: a value may still be learnt from it
        kept = np.flatnonzero(~out_B | (self._last != NONE))
        flags = np.where(out_B, 0, DRAWN + TERMINATED * moved.terminated)[kept]
        fields = {"reward": moved.reward[kept], "action": action_B[kept]}
        if label_BA is not None:
            fields["label"] = label_BA[kept]
        newest_B = observation_B[:, -self.layout.frame_channels :]
        frames = newest_B if len(kept) == len(newest_B) else newest_B[kept]
        numbers = self._ring.write(frames, flags, self._last[kept], **fields)
        self._last[:] = NONE
        self._last[kept] = np.where(flags == DRAWN, numbers, NONE)

    def _require(self, observation_B: np.ndarray, label_BA: np.ndarray | None, action_B: np.ndarray) -> None:
        layout, count = self.layout, len(observation_B)
        if (observation_B.shape[1:], str(observation_B.dtype)) != (layout.observation_shape, layout.dtype):
            raise UserError(
                f"replay: expected observations of {layout.dtype} {layout.observation_shape}, "
                f"got {observation_B.dtype} {observation_B.shape[1:]}"
            )
        shape = (count, layout.actions) if layout.actions else None
        if shape != (got := None if label_BA is None else np.shape(label_BA)):
            raise UserError(f"replay: expected labels of shape {shape}, got {got}")
        if action_B.shape != (count, *layout.action_shape):
            raise UserError(
                f"replay: expected actions of shape {(count, *layout.action_shape)}, got {action_B.shape}"
            )
        if label_BA is not None:
            require_finite("labels", np.asarray(label_BA))
        if count * layout.stack > layout.spare:
            raise UserError(
                f"replay: expected spare for {count * layout.stack} slots a step, got {layout.spare}"
            )

    def _require_stacks(self, observation_B: np.ndarray) -> None:
        """The last but newest frame must be the newest of the step before: it is not stored again."""
        known = np.flatnonzero(self._last >= self._ring.low)
        channels = self.layout.frame_channels
        before = observation_B[known, -2 * channels : -channels]
        if not np.array_equal(self._ring.frames[self._last[known] % self.layout.slots], before):
            raise UserError("replay: expected stacks whose older frames are those of the step before")

    def _store_pasts(self, observation_B: np.ndarray, begun_B: np.ndarray) -> None:
        """Slots that are never drawn, for the older frames of observations whose past is not in the ring."""
        for row in np.flatnonzero((self._last == NONE) & ~begun_B):
            older = observation_B[row, : -self.layout.frame_channels]
            if not older.any():
                continue
            frames = older.reshape(self.layout.stack - 1, *self.layout.frame_shape)
            before = [NONE, *range(self.total, self.total + len(frames) - 1)]
            self._last[row] = self._ring.write(frames, 0, before)[-1]

    def sample(self, batch: int, generator: np.random.Generator) -> DistillationBatch:
        """Observations and labels drawn with equal chances, with replacement.

        Raises:
            UserError: nothing to draw, or a replay without labels.
        """
        if not self.layout.actions:
            raise UserError("replay: expected one with labels, got one for transitions alone")
        number_N = self._ring.draw(batch, generator, self._ring.whole)
        label = torch.from_numpy(self._ring.records_of(number_N)["label"].copy())
        return DistillationBatch(torch.from_numpy(self._ring.stacked(number_N)), label, self.layout.task)

    def sample_transitions(self, batch: int, generator: np.random.Generator) -> TransitionBatch:
        """Steps with what was seen after them; where the episode ended there, with their own observation again.

        Raises:
            UserError: nothing to draw.
        """
        ring = self._ring
        number_N = ring.draw(batch, generator, lambda number: ring.whole(number) & ring.followed(number))
        records = ring.records_of(number_N)
        terminated = records["flags"] & TERMINATED > 0
        action = records["action"] if self.layout.action_shape else records["action"].astype(np.int64)
        after = ring.stacked(np.where(terminated, number_N, records["next"]))
        arrays = (ring.stacked(number_N), action.copy(), records["reward"].copy(), after, terminated)
        return TransitionBatch(*map(torch.from_numpy, arrays))
