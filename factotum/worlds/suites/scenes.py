"""Vision and language over rendered scenes whose truth is known: captions, and questions on one attribute.

Each seed draws its own picture, so training and evaluation never share one when their seeds differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from factotum.core.checks import unknown
from factotum.core.seeding import numpy_generator
from factotum.worlds.suites.common import text_space, with_instruction
from factotum.worlds.suites.one_step import Example, OneStepEnv, exact, truth_expert
from factotum.worlds.suites.scenes_render import COLORS, PLACES, SHAPES, SIZE, Thing, draw_things, render
from factotum.worlds.suites.task import Reference, Suite, Task

NUMBERS = ("one", "two", "three")

Question = Callable[[np.random.Generator], tuple[list[Thing], str, str]]
"""Draws (things in the picture, instruction, answer)."""


@dataclass(frozen=True)
class _Kind:
    """What distinguishes the tasks of this suite."""

    question: Question
    score: Callable[[str, str], float]
    instruction: str
    answer_length: int
    random: Reference


def caption(things: list[Thing]) -> str:
    """What the picture shows, in the one wording that counts as true.

    >>> caption([Thing("red", "circle", "top")])
    'a red circle at the top'
    >>> caption([Thing("blue", "square", "right"), Thing("orange", "ring", "left")])
    'an orange ring left of a blue square'
    """
    if len(things) == 1:
        return f"{_named(things[0])} at the {things[0].place}"
    first, second = sorted(things, key=lambda thing: thing.place in ("right", "bottom"))
    return f"{_named(first)} {'left of' if first.place == 'left' else 'above'} {_named(second)}"


def _named(thing: Thing) -> str:
    return f"{'an' if thing.color[0] in 'aeiou' else 'a'} {thing.color} {thing.shape}"


_PATTERN = re.compile(
    r"an? (?P<color>\w+) (?P<shape>\w+)"
    r"( at the (?P<place>\w+)| (?P<relation>left of|above) an? (?P<other_color>\w+) (?P<other_shape>\w+))?$"
)


def caption_score(given: str, truth: str) -> float:
    """Share of the caption's attributes that are right.

    Attributes are colour, shape and place of one thing, or colour, shape, relation, colour and
    shape of two; naming more than there is counts against the caption. What is no caption scores 0.

    >>> caption_score("a red circle left of a blue cross", "a red circle left of a blue square")
    0.8
    """
    claims, facts = _attributes(given), _attributes(truth)
    right = sum(facts.get(name) == word for name, word in claims.items())
    return right / max(len(claims), len(facts))


def _attributes(text: str) -> dict[str, str]:
    match = _PATTERN.match(text.strip().lower())
    return {name: word for name, word in match.groupdict().items() if word} if match else {}


def captioned(seed: int) -> tuple[list[Thing], str, np.ndarray]:
    """The things, the caption and the picture that "scenes/caption" shows for a seed.

    >>> captioned(3)[1] == caption(captioned(3)[0])
    True
    """
    generator = numpy_generator("scenes/caption", seed)
    things, _, words = _ask_caption(generator)
    return things, words, render(things, generator)


def plain_sentence(generator: np.random.Generator) -> str:
    """A sentence about shapes that no picture goes with: text to learn the language from.

    >>> plain_sentence(np.random.default_rng(0))
    'is the blue ring right of the purple square ?'
    """
    first, second = draw_things(generator, 2)
    relation = ("left of", "above", "right of", "below")[int(generator.integers(4))]
    forms = (
        caption([first]),
        f"{_named(first)} {relation} {_named(second)}",
        f"the {first.shape} is {first.color}",
        f"is the {first.color} {first.shape} {relation} the {second.color} {second.shape} ?",
        f"no {first.shape} is {second.color} , but {_named(first)} is at the {first.place}",
        f"there are {NUMBERS[int(generator.integers(3))]} shapes and the {first.shape} is at the {first.place}",
    )
    return forms[int(generator.integers(len(forms)))]


def _ask_caption(generator: np.random.Generator) -> tuple[list[Thing], str, str]:
    things = draw_things(generator, int(generator.integers(1, 3)))
    if len(things) == 2:
        pair = (("left", "right"), ("top", "bottom"))[int(generator.integers(2))]
        things = [Thing(thing.color, thing.shape, place) for thing, place in zip(things, pair, strict=True)]
    return things, "describe the picture", caption(things)


def _ask_count(generator: np.random.Generator) -> tuple[list[Thing], str, str]:
    things = draw_things(generator, int(generator.integers(1, 4)))
    return things, "how many shapes are there?", NUMBERS[len(things) - 1]


def _ask_color(generator: np.random.Generator) -> tuple[list[Thing], str, str]:
    things = draw_things(generator, int(generator.integers(1, 4)))
    return things, f"what color is the {things[0].shape}?", things[0].color


def _ask_shape(generator: np.random.Generator) -> tuple[list[Thing], str, str]:
    things = draw_things(generator, int(generator.integers(1, 4)))
    return things, f"what shape is {things[0].color}?", things[0].shape


def _ask_position(generator: np.random.Generator) -> tuple[list[Thing], str, str]:
    things = draw_things(generator, int(generator.integers(1, 4)))
    return things, f"where is the {things[0].color} {things[0].shape}?", things[0].place


def _guess(options: int) -> Reference:
    return Reference(1 / options, f"exact: one of the {options} possible answers at random")


_KINDS = {
    "scenes/caption": _Kind(
        _ask_caption,
        caption_score,
        "describe the picture",
        48,
        Reference(0.138, "measured: the caption of another random scene, 20,000 scenes"),
    ),
    "scenes/color": _Kind(_ask_color, exact, "what color is the shape?", 16, _guess(len(COLORS))),
    "scenes/shape": _Kind(_ask_shape, exact, "what shape is it?", 16, _guess(len(SHAPES))),
    "scenes/count": _Kind(_ask_count, exact, "how many shapes are there?", 16, _guess(len(NUMBERS))),
    "scenes/position": _Kind(_ask_position, exact, "where is the shape?", 16, _guess(len(PLACES))),
}


def _task(name: str) -> Task:
    if name not in _KINDS:
        raise unknown("task", name, _KINDS)
    kind = _KINDS[name]
    observation_space = with_instruction(64, image=spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8))
    action_space = text_space(kind.answer_length)

    def draw(seed: int) -> Example:
        generator = numpy_generator(name, seed)
        things, instruction, answer = kind.question(generator)
        return Example({"instruction": instruction, "image": render(things, generator)}, answer)

    return Task(
        name=name,
        make=lambda: OneStepEnv(observation_space, action_space, draw, kind.score),
        observation_space=observation_space,
        action_space=action_space,
        instruction=kind.instruction,
        body=name,
        measure="return",
        max_steps=1,
        make_expert=truth_expert,
        random=kind.random,
        expert=Reference(1.0, "exact: the ground truth"),
    )


SUITE = Suite("scenes", "Captions and questions over rendered scenes", tuple(_KINDS), _task)
