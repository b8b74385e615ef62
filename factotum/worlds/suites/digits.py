"""Scans of handwritten digits, to be named in words: real images that scikit-learn carries in its package.

1,797 scans of 8x8 pixels (UCI, "Optical recognition of handwritten digits"), enlarged fourfold.
A fifth of them, fixed once, is held out: seeds from `one_step.FIRST_EVALUATION_SEED` (1,000,000,000) on
show only these, lower seeds never do.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from gymnasium import spaces

from factotum.core.checks import unknown
from factotum.worlds.suites.common import require, text_space, with_instruction
from factotum.worlds.suites.one_step import (
    Example,
    OneStepEnv,
    exact,
    held_out_split,
    item_of_seed,
    truth_expert,
)
from factotum.worlds.suites.task import Reference, Suite, Task

NAME = "digits/name"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 32
"""Height and width of an image: a multiple of the 16-pixel patches."""

_INSTRUCTION = "which digit is this?"
_OBSERVATIONS = with_instruction(32, image=spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8))
_ANSWERS = text_space(8)


@lru_cache(maxsize=1)
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 32, 32, 1) uint8 and digits (1797,)."""
    require("sklearn", "digits")
    from sklearn.datasets import load_digits

    scans = load_digits()
    enlarged = np.kron(scans.images, np.ones((SIZE // 8, SIZE // 8)))  # grey levels 0..16
    return (enlarged * 255 / 16).round().astype(np.uint8)[..., None], scans.target


@lru_cache(maxsize=1)
def split() -> tuple[list[int], list[int]]:
    """Indices of the scans for training and of those held out."""
    return held_out_split(range(len(_scans()[1])), NAME)


def _draw(seed: int) -> Example:
    images, digits = _scans()
    index = item_of_seed(split(), seed)
    return Example({"instruction": _INSTRUCTION, "image": images[index]}, WORDS[digits[index]])


def _make() -> OneStepEnv:
    _scans()  # a missing package is reported here, not at the first reset
    return OneStepEnv(_OBSERVATIONS, _ANSWERS, _draw, exact)


def _task(name: str) -> Task:
    if name != NAME:
        raise unknown("task", name, [NAME])
    return Task(
        name=NAME,
        make=_make,
        observation_space=_OBSERVATIONS,
        action_space=_ANSWERS,
        instruction=_INSTRUCTION,
        body=NAME,
        measure="return",
        max_steps=1,
        make_expert=truth_expert,
        random=Reference(0.1, "exact: one of the ten words at random"),
        expert=Reference(1.0, "exact: the label"),
    )


SUITE = Suite("digits", "Handwritten digits named in words", (NAME,), _task, ("sklearn",), "digits")
