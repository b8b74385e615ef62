"""Episodes of one step: one observation, one written answer, one reward. Knows no particular task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.worlds.suites.task import Expert

FIRST_EVALUATION_SEED = 1_000_000_000
"""In fixed collections, lower seeds show the training part, this seed and higher ones the held-out part."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Example:
    """A question with its true answer.

    Args:
        observation: member of the environment's observation space.
        answer: what a perfect agent would write.
        also: other answers that count as well.
    """

    observation: dict[str, Any]
    answer: str
    also: tuple[str, ...] = ()


class OneStepEnv(gymnasium.Env):
    """Shows an example, takes a text, pays `score(text, answer)` and ends.

    `info` carries "answer" (the truth) from `reset` on, and after the step "success": reward == 1.

    Args:
        observation_space: a Dict with "instruction", with or without "image" (H, W, C).
        action_space: Text.
        draw: the example of a seed; must depend on the seed alone.
        score: `score(given, truth)` in [0, 1]; of several true answers the nearest counts.

    >>> space = spaces.Dict({"instruction": spaces.Text(9, charset="1+=")})
    >>> env = OneStepEnv(space, spaces.Text(3), lambda seed: Example({"instruction": "1+1="}, "2"), exact)
    >>> env.reset(seed=0)[0]
    {'instruction': '1+1='}
    >>> env.step("2")[1:4]
    (1.0, True, False)
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 1}

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Text,
        draw: Callable[[int], Example],
        score: Callable[[str, str], float],
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = "rgb_array"
        self._draw = draw
        self._score = score
        self._example: Example | None = None
        self._first_seed = 0

    @property
    def answer(self) -> str:
        """The truth about the example shown last."""
        assert self._example is not None, "reset comes first"
        return self._example.answer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Show the example of a seed; without one, of a seed that follows from the last."""
        super().reset(seed=seed)
        if seed is None:  # follows from the last seed given, and stays on its side of the split
            seed = self._first_seed + int(self.np_random.integers(FIRST_EVALUATION_SEED))
        else:
            self._first_seed = FIRST_EVALUATION_SEED if seed >= FIRST_EVALUATION_SEED else 0
        self._example = self._draw(seed)
        return deepcopy(self._example.observation), {"answer": self._example.answer}

    def step(self, action: str) -> tuple[dict, float, bool, bool, dict]:
        """Pay for the answer and end."""
        if not isinstance(action, str):
            raise ValueError(f"expected a str as the answer, got {type(action).__name__}")
        example = self._example
        assert example is not None, "reset comes first"
        reward = max(float(self._score(action, truth)) for truth in (example.answer, *example.also))
        info = {"answer": example.answer, "success": reward == 1.0}
        return deepcopy(example.observation), reward, True, False, info

    def render(self) -> np.ndarray:
        """The image of the example as (H, W, 3) uint8; a blank one where there is only text."""
        image = None if self._example is None else self._example.observation.get("image")
        if image is None:
            return np.full((64, 64, 3), 255, np.uint8)
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def truth_expert(env: gymnasium.Env) -> Expert:
    """The expert that writes the true answer of the example a `OneStepEnv` shows.

    >>> env = OneStepEnv(spaces.Dict(), spaces.Text(3), lambda seed: Example({}, "yes"), exact)
    >>> _ = env.reset(seed=0)
    >>> truth_expert(env)({}, None)
    'yes'
    """
    answer = env.unwrapped.answer  # type: ignore[attr-defined]
    return lambda observation, last_action: answer


def exact(given: str, truth: str) -> float:
    """1.0 when the words are the same, capitals and outer blanks aside, else 0.0.

    >>> exact(" Red", "red"), exact("red blue", "red")
    (1.0, 0.0)
    """
    return float(given.strip().lower() == truth.strip().lower())


def word_f1(given: str, truth: str) -> float:
    r"""Overlap of two texts as bags of words.

    $F_1 = 2 |g \cap t| / (|g| + |t|)$, words counted with multiplicity, lower case.

    Returns:
        In [0, 1]; 1.0 for the same words, in any order.

    >>> word_f1("a red dog", "a red cat")
    0.6666666666666666
    """
    words = given.lower().split()
    missing = truth.lower().split()
    total = len(words) + len(missing)
    if total == 0:
        return 1.0
    shared = 0
    for word in words:
        if word in missing:
            missing.remove(word)
            shared += 1
    return 2 * shared / total


def held_out_split(items: Sequence[_Item], name: str, share: float = 0.2) -> tuple[list[_Item], list[_Item]]:
    """Cut a collection once and for all into a training and a held-out part, both shuffled.

    Args:
        items: in an order that does not change; the cut depends on their number alone.
        name: what they are, for the error.
        share: of the items to hold out.

    Returns:
        (training, held out); both hold at least one item.

    Raises:
        UserError: fewer than two items.

    >>> [len(part) for part in held_out_split(range(10), "doctest")]
    [8, 2]
    """
    if len(items) < 2:
        raise UserError(f"{name}: expected at least 2 items, to train and evaluate on, got {len(items)}")
    order = numpy_generator("held out", len(items)).permutation(len(items))
    held_out = max(1, round(share * len(items)))
    shuffled = [items[int(index)] for index in order]
    return shuffled[held_out:], shuffled[:held_out]


def item_of_seed(parts: tuple[list[_Item], list[_Item]], seed: int) -> _Item:
    """The item that a seed shows: seeds from `FIRST_EVALUATION_SEED` on show held-out items only.

    Consecutive seeds walk through the part in order, so that every item is shown equally often.

    >>> item_of_seed((["a", "b"], ["c"]), 3), item_of_seed((["a", "b"], ["c"]), FIRST_EVALUATION_SEED + 3)
    ('b', 'c')
    """
    training, held_out = parts
    if seed >= FIRST_EVALUATION_SEED:
        return held_out[(seed - FIRST_EVALUATION_SEED) % len(held_out)]
    return training[seed % len(training)]
