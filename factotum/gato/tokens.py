"""What one value of a Gymnasium space is in tokens, and back (arXiv 2205.06175, section 2.1, appendix B).

`encode` and `decode` are verbs over spaces; composite spaces are walked by sorted key. `encode_steps` does many
timesteps at once; `encode` is its case of one. An image is kept as pixels: its patches are embedded, never coded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, require_finite
from factotum.gato.batch import ABSENT
from factotum.gato.config import Vocabulary
from factotum.gato.mulaw import compand, expand, from_bins, to_bins
from factotum.gato.text import TextTokenizer


class TextCoder(Protocol):
    """What turns a text into ids."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without an end."""


Role = Literal["observation", "action"]


@dataclass
class Tokens:
    """One leaf of a space over N timesteps.

    Args:
        kind: text, image, discrete or continuous.
        ids: `N n` vocabulary ids; ABSENT pads text; for images `N 0`.
        values: continuous: `N n` numbers (actions scaled to [-1, 1]); images: `N height width channels` uint8.
    """

    kind: Literal["text", "image", "discrete", "continuous"]
    ids: np.ndarray
    values: np.ndarray | None = None


def is_image(space: spaces.Space) -> bool:
    """Whether a space holds pixels: Box, uint8, 0 to 255, `height width channels` with 1, 3 or 4 channels.

    >>> is_image(spaces.Box(0, 255, (64, 64, 3), np.uint8)), is_image(spaces.Box(0, 1, (64, 64, 3)))
    (True, False)
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return space.shape[-1] in (1, 3, 4) and bool((space.low == 0).all() and (space.high == 255).all())


def leaves(space: spaces.Space, path: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """Leaf spaces with their paths, by sorted key.

    >>> [path for path, _ in leaves(spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple([spaces.Discrete(3)])))]
    ['a/0', 'b']
    """
    if isinstance(space, spaces.Dict):
        children: list[tuple[Any, spaces.Space]] = [(key, space[key]) for key in sorted(space)]
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space))
    else:
        yield path or "value", space
        return
    for key, child in children:
        yield from leaves(child, f"{path}/{key}" if path else str(key))


def encode(
    space: spaces.Space,
    value: Any,
    vocabulary: Vocabulary,
    *,
    role: Role,
    tokenizer: TextCoder | None = None,
    path: str = "",
) -> list[Tokens]:
    """Tokens of one value, a `Tokens` of N = 1 for each leaf by sorted key.

    Raises:
        UserError: the value is not of the space (NaN included), or the space cannot be written in tokens.

    >>> [tokens.ids.tolist() for tokens in encode(spaces.MultiDiscrete([3, 5]), np.array([2, 4]), Vocabulary(),
    ...     role="observation")]
    [[[2, 4]]]
    """
    return encode_steps(space, _one_step(space, value), vocabulary, role=role, tokenizer=tokenizer, path=path)


def _one_step(space: spaces.Space, value: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _one_step(space[key], _child(value, key)) for key in space}
    if isinstance(space, spaces.Tuple):
        return tuple(_one_step(child, _child(value, index)) for index, child in enumerate(space))
    return [value] if isinstance(space, spaces.Text) else np.asarray(value)[None]


def _child(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"expected a value with {key!r} in it, got {type(value).__name__}") from error


@singledispatch
def encode_steps(
    space: spaces.Space,
    values: Any,
    vocabulary: Vocabulary,
    *,
    role: Role,
    tokenizer: TextCoder | None = None,
    path: str = "",
) -> list[Tokens]:
    """Tokens of N timesteps: `values` holds arrays with a leading N (lists of strings for text)."""
    raise UserError(
        f"{path or role}: expected Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple, got {space}"
    )


@encode_steps.register
def _(space: spaces.Dict, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    parts = []
    for key in sorted(space):
        below = f"{path}/{key}" if path else key
        parts += encode_steps(
            space[key], _child(values, key), vocabulary, role=role, tokenizer=tokenizer, path=below
        )
    return parts


@encode_steps.register
def _(space: spaces.Tuple, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    parts = []
    for index, child in enumerate(space):
        below = f"{path}/{index}" if path else str(index)
        parts += encode_steps(
            child, _child(values, index), vocabulary, role=role, tokenizer=tokenizer, path=below
        )
    return parts


@encode_steps.register
def _(space: spaces.Discrete, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    ids = np.asarray(values).reshape(len(values), 1).astype(np.int64) - int(space.start)
    return [_discrete(ids, np.array([space.n]), vocabulary, path or role)]


@encode_steps.register
def _(space: spaces.MultiDiscrete, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    ids = np.asarray(values, np.int64).reshape(len(values), -1) - space.start.reshape(-1)
    return [_discrete(ids, space.nvec.reshape(-1), vocabulary, path or role)]


@encode_steps.register
def _(space: spaces.MultiBinary, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    ids = np.asarray(values).reshape(len(values), -1).astype(np.int64)
    return [_discrete(ids, np.full(ids.shape[1], 2), vocabulary, path or role)]


@encode_steps.register
def _(space: spaces.Text, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    if tokenizer is None:
        raise UserError(f"{path or role}: text needs a tokenizer, got none")
    end = (0,) if role == "action" else ()
    coded = [tokenizer.encode(str(text)) + end for text in values]
    ids = np.full((len(coded), max((len(tokens) for tokens in coded), default=0)), ABSENT, np.int64)
    for row, tokens in enumerate(coded):
        ids[row, : len(tokens)] = tokens
    return [Tokens("text", ids)]


@encode_steps.register
def _(space: spaces.Box, values, vocabulary, *, role, tokenizer=None, path=""):  # type: ignore[no-untyped-def]
    array = np.asarray(values)
    name = path or role
    if array.shape[1:] != space.shape:
        raise UserError(f"{name}: expected shape {space.shape}, got {array.shape[1:]}")
    if is_image(space):
        return [Tokens("image", np.zeros((len(array), 0), np.int64), array.astype(np.uint8, copy=False))]
    array = array.reshape(len(array), -1).astype(np.float32)
    require_finite(name, array)
    if role == "observation":
        return [Tokens("continuous", to_bins(compand(array, vocabulary), vocabulary), array)]
    low, high = _bounds(space, name)
    scaled = (np.clip(array, low, high) - low) / (high - low) * 2.0 - 1.0
    return [Tokens("continuous", to_bins(scaled, vocabulary), scaled)]


def _discrete(ids: np.ndarray, counts: np.ndarray, vocabulary: Vocabulary, name: str) -> Tokens:
    if counts.max() > vocabulary.bins:
        raise UserError(f"{name}: expected at most {vocabulary.bins} values, got {counts.max()}")
    if ids.shape[1] != len(counts):
        raise UserError(f"{name}: expected {len(counts)} integers, got {ids.shape[1]}")
    outside = (ids < 0) | (ids >= counts)
    if outside.any():
        raise UserError(f"{name}: expected integers from 0 below {counts.max()}, got {ids[outside][0]}")
    return Tokens("discrete", ids)


def _bounds(space: spaces.Box, name: str) -> tuple[np.ndarray, np.ndarray]:
    low, high = space.low.reshape(-1).astype(np.float32), space.high.reshape(-1).astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
        raise UserError(f"{name}: expected a Box with finite bounds for actions, got {space}")
    return low, high


@singledispatch
def decode(
    space: spaces.Space,
    ids: Sequence[int] | np.ndarray,
    vocabulary: Vocabulary,
    *,
    role: Role = "action",
    tokenizer: TextTokenizer | None = None,
) -> Any:
    """The value that ids stand for: bin centres for continuous ones. Images cannot be decoded.

    >>> decode(spaces.Discrete(4), [2], Vocabulary())
    np.int64(2)
    >>> decode(spaces.Box(-2, 2, (1,)), [32512], Vocabulary()).round(2).tolist()
    [0.0]
    """
    raise UserError(f"{role}: cannot decode {space}")


@decode.register
def _(space: spaces.Discrete, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    return np.int64(int(ids[0]) + int(space.start))


@decode.register
def _(space: spaces.MultiDiscrete, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    return (np.asarray(ids).reshape(space.shape) + space.start).astype(space.dtype)


@decode.register
def _(space: spaces.MultiBinary, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    return np.asarray(ids).reshape(space.shape).astype(space.dtype)


@decode.register
def _(space: spaces.Text, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    if tokenizer is None:
        raise UserError(f"{role}: text needs a tokenizer, got none")
    text = tokenizer.decode([int(token) for token in ids if token != ABSENT])
    legal = "".join(char for char in text if char in space.character_set)[: space.max_length]
    return legal.ljust(space.min_length, " " if " " in space.character_set else space.character_list[0])


@decode.register
def _(space: spaces.Box, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    if is_image(space):
        raise UserError(f"{role}: an image cannot be decoded from ids")
    y = from_bins(np.asarray(ids), vocabulary)
    if role == "observation":
        return expand(y, vocabulary).reshape(space.shape).astype(space.dtype)
    low, high = _bounds(space, role)
    return ((y + 1.0) / 2.0 * (high - low) + low).reshape(space.shape).astype(space.dtype)


@decode.register
def _(space: spaces.Dict, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    parts = _split(space, ids)
    return {
        key: decode(space[key], part, vocabulary, role=role, tokenizer=tokenizer)
        for key, part in zip(sorted(space), parts, strict=True)
    }


@decode.register
def _(space: spaces.Tuple, ids, vocabulary, *, role="action", tokenizer=None):  # type: ignore[no-untyped-def]
    return tuple(
        decode(child, part, vocabulary, role=role, tokenizer=tokenizer)
        for child, part in zip(space, _split(space, ids), strict=True)
    )


def _split(space: spaces.Dict | spaces.Tuple, ids: Sequence[int] | np.ndarray) -> list[Any]:
    children = [space[key] for key in sorted(space)] if isinstance(space, spaces.Dict) else list(space)
    stops = np.cumsum([len(legal_ranges(child, Vocabulary())) for child in children])
    return [list(part) for part in np.split(np.asarray(ids), stops[:-1])]


def legal_ranges(space: spaces.Space, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """For each action token its legal ids [start, stop); only these can be decoded.

    >>> legal_ranges(spaces.MultiDiscrete([3, 5]), Vocabulary())
    [(0, 3), (0, 5)]
    """
    ranges: list[tuple[int, int]] = []
    for path, leaf in leaves(space):
        if isinstance(leaf, spaces.Discrete):
            ranges.append((0, int(leaf.n)))
        elif isinstance(leaf, spaces.MultiDiscrete):
            ranges += [(0, int(n)) for n in leaf.nvec.reshape(-1)]
        elif isinstance(leaf, spaces.MultiBinary):
            ranges += [(0, 2)] * int(np.prod(leaf.shape))
        elif isinstance(leaf, spaces.Box) and not is_image(leaf):
            ranges += [(vocabulary.continuous_start, vocabulary.size)] * int(np.prod(leaf.shape))
        else:
            raise UserError(f"{path}: expected a discrete or continuous action, got {leaf}")
    return ranges
