"""How big? Sizes of policy networks: the paper's (arXiv 1511.06295, tables in its appendix), MinAtar's, vectors'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from factotum.core.checks import UserError, unknown

SINGLE = "task"
"""Name of the task of a network that was given a bare number of actions."""

OUTPUTS = ("q", "logits", "gaussian", "continuous")

Actions = int | Mapping[str, int]


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of one network: convolutions, dense layers that all tasks share, and a head for each task.

    Args:
        observation_shape: (C, H, W) of pictures or (F,) of vectors.
        actions: for each task how many numbers its head puts out: one an action for "q" and "logits", a mean and a
            logarithm of a deviation for each number of an action for "gaussian", the action itself for "continuous".
        convolutions: (channels, kernel, stride) each; () for vectors.
        hidden: widths of the shared dense layers.
        head_hidden: widths of each task's own dense layers, (128,) in the paper's multi-task networks.
        layer_norm: after each convolution and each dense layer but the last, as in PQN (arXiv 2407.04811).
        outputs: what the numbers mean.
        scale: observations are multiplied by it.
        standardise: each entry of a vector comes less its mean, over its deviation, as seen in training: for robots'
            positions, which differ by centimetres.

    Raises:
        UserError: sizes that do not fit each other.
    """

    observation_shape: tuple[int, ...]
    actions: dict[str, int] = field(hash=False)
    convolutions: tuple[tuple[int, int, int], ...] = ()
    hidden: tuple[int, ...] = ()
    head_hidden: tuple[int, ...] = ()
    layer_norm: bool = False
    outputs: Literal["q", "logits", "gaussian", "continuous"] = "q"
    scale: float = 1 / 255
    standardise: bool = field(default=False, metadata={"added": True})

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise unknown("outputs", str(self.outputs), OUTPUTS)
        dimensions = 3 if self.convolutions else 1
        if len(self.observation_shape) not in (dimensions, 3) or min(self.observation_shape) < 1:
            wanted = "(C, H, W)" if self.convolutions else "(F,) or (C, H, W)"
            raise UserError(f"observation_shape: expected {wanted}, got {self.observation_shape}")
        if not self.actions or min(self.actions.values()) < 1:
            raise UserError(f"actions: expected tasks with at least one action each, got {self.actions}")
        if self.outputs == "gaussian" and any(count % 2 for count in self.actions.values()):
            raise UserError(
                f"actions: expected even numbers (means and deviations) for gaussian outputs, got {self.actions}"
            )
        if min((1, *self.hidden, *self.head_hidden)) < 1:
            raise UserError(f"hidden: expected widths from 1 on, got {self.hidden} and {self.head_hidden}")
        if not 0 < self.scale < float("inf"):
            raise UserError(f"scale: expected a number above 0, got {self.scale}")
        if self.standardise and len(self.observation_shape) != 1:
            raise UserError(f"standardise: expected vectors, got observations {self.observation_shape}")
        self.convolved_shapes()

    def convolved_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """What each convolution puts out, (channels, height, width).

        >>> dqn_teacher(4).convolved_shapes()
        ((32, 20, 20), (64, 9, 9), (64, 7, 7))
        """
        shapes, size = [], self.observation_shape[1:]
        for channels, kernel, stride in self.convolutions:
            if min(channels, kernel, stride) < 1 or min(size) < kernel:
                raise UserError(
                    f"convolutions: expected channels, kernel and stride from 1 on and kernels within the picture, "
                    f"got {(channels, kernel, stride)} on {size}"
                )
            size = tuple((length - kernel) // stride + 1 for length in size)
            shapes.append((channels, *size))
        return tuple(shapes)  # type: ignore[arg-type]


def _tasks(actions: Actions) -> dict[str, int]:
    return {SINGLE: actions} if isinstance(actions, int) else dict(actions)


def _atari(channels: tuple[int, int, int], width: int, actions: Actions, **other: object) -> PolicyConfig:
    convolutions = tuple(zip(channels, (8, 4, 3), (4, 2, 1), strict=True))
    return PolicyConfig((4, 84, 84), _tasks(actions), convolutions, (width,), **other)  # type: ignore[arg-type]


def dqn_teacher(actions: Actions) -> PolicyConfig:
    """DQN's network: 1,693,362 parameters for 18 actions."""
    return _atari((32, 64, 64), 512, actions)


def pqn_teacher(actions: Actions) -> PolicyConfig:
    """DQN's network with layer norm, which lets Q-learning go without a target network (arXiv 2407.04811)."""
    return _atari((32, 64, 64), 512, actions, layer_norm=True)


def net1(actions: Actions) -> PolicyConfig:
    """The paper's student of a quarter of the teacher's size: 427,874 parameters for 18 actions."""
    return _atari((16, 32, 32), 256, actions)


def net2(actions: Actions) -> PolicyConfig:
    """The paper's student of 7 %: 113,346 parameters for 18 actions."""
    return _atari((16, 16, 16), 128, actions)


def net3(actions: Actions) -> PolicyConfig:
    """The paper's student of 4 %: 61,954 parameters for 18 actions."""
    return _atari((16, 16, 16), 64, actions)


def multitask_3(actions: Mapping[str, int]) -> PolicyConfig:
    """One network for three games: 1,882,668 parameters where they have 12 actions in all."""
    return _atari((32, 64, 64), 512, actions, head_hidden=(128,))


def multitask_10(actions: Mapping[str, int]) -> PolicyConfig:
    """One network for ten games: 6,756,721 parameters where they have 85 actions in all."""
    return _atari((64, 64, 64), 1500, actions, head_hidden=(128,))


MINATAR = {100: (16, 128), 25: (8, 63), 7: (4, 33), 4: (4, 18)}
"""Channels and dense width of MinAtar networks by their share of the teacher's parameters, in per cent."""


def minatar_teacher(channels: int, actions: Actions) -> PolicyConfig:
    """MinAtar's own DQN (arXiv 1903.03176): one convolution of 3 x 3 and a dense layer, 132,566 to 133,430 parameters
    for 4 to 10 channels and 6 actions."""
    return minatar_net(100, channels, actions)


def minatar_net(share: Literal[100, 25, 7, 4], channels: int, actions: Actions) -> PolicyConfig:
    """Students of about 25 %, 7 % and 4 % of MinAtar's network; what the paper's networks are to DQN's.

    For 4 to 10 channels and 6 actions: 32,999 to 33,431 (24.9 to 25.1 %), 8,833 to 9,049 (6.7 to 6.8 %),
    4,888 to 5,104 parameters (3.7 to 3.8 %). They save channels before units: with 16 and 32 in place of 8 and 63, or
    8 and 9 in place of 4 and 18, a student agrees less with its teacher (LOG.md).
    """
    if share not in MINATAR:
        raise UserError(f"share: expected one of {list(MINATAR)} per cent, got {share}")
    convolved, width = MINATAR[share]
    return PolicyConfig((channels, 10, 10), _tasks(actions), ((convolved, 3, 1),), (width,), scale=1.0)


def mlp(features: int, hidden: tuple[int, ...], actions: Actions, **other: object) -> PolicyConfig:
    """A dense network on vectors."""
    return PolicyConfig((features,), _tasks(actions), (), hidden, scale=1.0, **other)  # type: ignore[arg-type]


SIZES = {
    "teacher": ("the teacher's", 100), "pqn-teacher": ("the teacher's, with layer norm", 100), "net1": ("25 %", 25),
    "net2": ("7 %", 7), "net3": ("4 %", 4), "multitask-3": ("the teacher's with heads", 100),
    "multitask-10": ("four times the teacher's with heads", 400),
}  # fmt: skip
"""Names of presets, what they are, and about which share of the teacher's parameters they have."""

ATARI = {
    "teacher": dqn_teacher, "pqn-teacher": pqn_teacher, "net1": net1, "net2": net2, "net3": net3,
    "multitask-3": multitask_3, "multitask-10": multitask_10,
}  # fmt: skip
CNN = re.compile(r"cnn(-\d+x\d+)+(-\d+)*")
"""Names of networks that say their convolutions (channels x kernel) and dense widths."""

SMALLEST = 36
"""Smallest height and width of pictures for Atari's convolutions; smaller ones get MinAtar's."""

VECTOR = {100: 256, 25: 128, 7: 64, 4: 48, 400: 512}
"""Width of both dense layers by share."""


def preset(
    name: str,
    observation_shape: tuple[int, ...],
    actions: Actions,
    outputs: Literal["q", "logits", "gaussian", "continuous"] = "q",
) -> PolicyConfig:
    """A network by name, of sizes that suit the observations.

    Args:
        name: one of `SIZES`, for vectors also `mlp-64`, `mlp-64-64` and the like, for pictures `cnn-32x1-16x3-64` and
            the like: 32 channels of kernel 1, 16 of kernel 3, a dense layer of 64.
        observation_shape: (C, H, W) from 36 x 36 on gives the paper's networks, smaller pictures MinAtar's, (F,) two
            dense layers.
        actions: of the one task, or of each by name.
        outputs: what the numbers mean.

    Raises:
        UserError: an unknown name, or observations that no network is for.

    >>> preset("net3", (4, 84, 84), 6) == net3(6)
    True
    >>> preset("net3", (7, 10, 10), 3).hidden, preset("net3", (4,), 2).hidden, preset("mlp-32", (4,), 2).hidden
    ((18,), (48, 48), (32,))
    >>> preset("cnn-32x1-16x3-64", (7, 10, 10), 3).convolutions
    ((32, 1, 1), (16, 3, 1))
    """
    shape = tuple(int(length) for length in observation_shape)
    if len(shape) == 1:
        config = _vector_preset(name, shape[0], actions)
    elif len(shape) != 3:
        raise UserError(f"observations: expected shape (F,) or (C, H, W), got {shape}")
    elif CNN.fullmatch(name):
        config = _cnn(name, shape, actions)
    elif name not in SIZES:
        raise unknown("network for pictures", name, [*SIZES, "cnn-16x3-64", "cnn-32x1-16x3-64"])
    elif min(shape[1:]) >= SMALLEST:
        config = replace(ATARI[name](_tasks(actions)), observation_shape=shape)
    else:
        config = replace(_minatar_preset(name, actions), observation_shape=shape)
    return replace(config, outputs=outputs)


def _cnn(name: str, shape: tuple[int, ...], actions: Actions) -> PolicyConfig:
    parts = name.split("-")[1:]
    convolutions = tuple((*map(int, part.split("x")), 1) for part in parts if "x" in part)
    hidden = tuple(int(part) for part in parts if "x" not in part)
    return PolicyConfig(shape, _tasks(actions), convolutions, hidden)  # type: ignore[arg-type]


def _minatar_preset(name: str, actions: Actions) -> PolicyConfig:
    share = SIZES[name][1]
    if share == 400:
        wide = minatar_net(100, 10, actions)
        return replace(wide, convolutions=((32, 3, 1),), hidden=(256,), head_hidden=(32,))
    config = minatar_net(share, 10, actions)  # type: ignore[arg-type]
    return replace(config, **_variant(name, (32,)))


def _vector_preset(name: str, features: int, actions: Actions) -> PolicyConfig:
    kind, _, widths = name.partition("-")
    if kind == "mlp" and widths and all(width.isdecimal() for width in widths.split("-")):
        return mlp(features, tuple(int(width) for width in widths.split("-")), actions)
    if name not in SIZES:
        raise unknown("network for vectors", name, [*SIZES, "mlp-64", "mlp-64-64"])
    width = VECTOR[SIZES[name][1]]
    return mlp(features, (width, width), actions, **_variant(name, (64,)))


def _variant(name: str, head: tuple[int, ...]) -> dict[str, Any]:
    return {
        "layer_norm": name == "pqn-teacher",
        "head_hidden": head if name.startswith("multitask") else (),
    }
