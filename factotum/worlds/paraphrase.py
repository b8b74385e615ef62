"""BabyAI's missions in other words: synonyms of verbs, colours, objects and places, and clauses in another order.

Each list of synonyms is cut in two: words for training and words that are held out. A held-out sentence has no
content word (verb, colour, object, place) that training has, nor its order of clauses.
What it does not know: environments' rules, models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from factotum.core.checks import UserError, unknown
from factotum.core.seeding import numpy_generator

Split = Literal["plain", "training", "held-out", "words", "order"]
"""plain: as the level says it; words: held-out synonyms in the usual order; order: training's words, held-out order."""

Words = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

COLOURS: Words = {
    "red": (("red", "scarlet"), ("crimson", "ruby")),
    "green": (("green", "emerald"), ("lime", "jade")),
    "blue": (("blue", "azure"), ("navy", "cobalt")),
    "purple": (("purple", "violet"), ("lilac", "plum")),
    "yellow": (("yellow", "golden"), ("lemon", "blond")),
    "grey": (("grey", "gray"), ("silver", "ashen")),
}
"""For each colour of BabyAI the words of training, its own first, and those held out."""

KINDS: Words = {
    "ball": (("ball", "sphere"), ("orb", "globe")),
    "box": (("box", "crate"), ("chest", "carton")),
    "key": (("key", "latchkey"), ("passkey", "unlocker")),
    "door": (("door", "gate"), ("doorway", "portal")),
    "object": (("object", "thing"), ("item", "article")),
}

VERBS: Words = {
    "go to": (("go to", "walk to", "move to"), ("head over to", "approach", "travel to")),
    "pick up": (("pick up", "take", "grab"), ("lift", "collect", "fetch")),
    "open": (("open", "open up"), ("unlatch", "swing wide")),
    "put": (("put", "place"), ("set down", "position")),
}

PLACES: Words = {
    "in front of you": (("in front of you", "ahead of you"), ("before your eyes", "facing you")),
    "behind you": (("behind you", "to your rear"), ("at your back", "in back of you")),
    "on your left": (("on your left", "to your left"), ("at your left hand", "leftward")),
    "on your right": (("on your right", "to your right"), ("at your right hand", "rightward")),
}

BESIDE = (("next to", "beside"), ("alongside", "adjacent to"))

_THING = r"(?P<article{n}>a|an|the) (?:(?P<colour{n}>" + "|".join(COLOURS) + r") )?(?P<kind{n}>"
_THING += "|".join(KINDS) + r")(?: (?P<place{n}>" + "|".join(PLACES) + r"))?"
_MISSION = re.compile(rf"(?P<verb>{'|'.join(VERBS)}) {_THING.format(n=1)}(?: next to {_THING.format(n=2)})?$")


@dataclass(frozen=True)
class Thing:
    """One thing of a mission, in BabyAI's words."""

    article: str
    colour: str | None
    kind: str
    place: str | None


@dataclass(frozen=True)
class Mission:
    """What is to be done, with what, and beside what."""

    verb: str
    thing: Thing
    beside: Thing | None


def parse(sentence: str) -> Mission:
    """A mission of one clause.

    Raises:
        UserError: another sentence.

    >>> parse("put the red ball next to a key").beside
    Thing(article='a', colour=None, kind='key', place=None)
    """
    found = _MISSION.match(sentence)
    if found is None:
        raise UserError(
            f"paraphrase: expected a mission of one clause such as 'pick up the red ball', got {sentence!r}"
        )
    thing, beside = (
        Thing(*(found[f"{part}{n}"] for part in ("article", "colour", "kind", "place"))) for n in (1, 2)
    )
    return Mission(found["verb"], thing, beside if beside.kind else None)


def paraphrase(sentence: str, split: Split, generator: np.random.Generator) -> str:
    """The same mission in words of a split.

    Args:
        sentence: a mission as the level says it.
        split: "training" draws words of training in the usual order; "held-out" others, in another order.

    Raises:
        UserError: a mission that is not understood, or an unknown split.

    >>> paraphrase("pick up the red ball", "held-out", np.random.default_rng(0))
    'the globe of ruby colour, collect it'
    """
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    if split == "plain":
        return sentence
    mission, held_out, turned = (
        parse(sentence),
        split in ("held-out", "words"),
        split in ("held-out", "order"),
    )

    def say(table: Words, word: str) -> str:
        words = table[word][held_out]
        return words[int(generator.integers(len(words)))]

    thing = _say_thing(mission.thing, say, turned)
    verb = say(VERBS, mission.verb)
    if mission.beside is None:
        return f"{thing}, {_with_it(verb)}" if turned else f"{verb} {thing}"
    near, other = BESIDE[held_out], _say_thing(mission.beside, say, turned)
    beside = near[int(generator.integers(len(near)))]
    return f"{beside} {other}, {verb} {thing}" if turned else f"{verb} {thing} {beside} {other}"


def _with_it(verb: str) -> str:
    """A verb with "it" where it belongs: pick it up, but go to it."""
    head, _, rest = verb.rpartition(" ")
    return f"{head} it {rest}" if head and rest in ("up", "down", "wide") else f"{verb} it"


def _say_thing(thing: Thing, say: Any, turned: bool) -> str:
    kind, place = say(KINDS, thing.kind), f" {say(PLACES, thing.place)}" if thing.place else ""
    colour = say(COLOURS, thing.colour) if thing.colour else ""
    if turned:
        return f"{_article(thing, kind)} {kind}{f' of {colour} colour' if colour else ''}{place}"
    named = f"{colour} {kind}".strip()
    return f"{_article(thing, named)} {named}{place}"


def _article(thing: Thing, following: str) -> str:
    if thing.article == "the":
        return "the"
    return "an" if following[0] in "aeiou" else "a"


def every_word(split: Literal["training", "held-out"]) -> set[str]:
    """All content words of a split.

    >>> "orb" in every_word("held-out"), "orb" in every_word("training")
    (True, False)
    """
    which = split == "held-out"
    tables = (COLOURS, KINDS, VERBS, PLACES)
    said = [phrase for table in tables for both in table.values() for phrase in both[which]] + [
        *BESIDE[which]
    ]
    return {word for phrase in said for word in phrase.split()}


class Paraphrased(gymnasium.Wrapper):
    """An environment whose instruction is said in the words of a split, drawn by the episode's seed."""

    def __init__(self, env: gymnasium.Env, split: Split) -> None:
        super().__init__(env)
        if split not in get_args(Split):
            raise unknown("split", split, get_args(Split))
        self.split = split
        self._said = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Begin an episode; its mission is said in one way to its end."""
        observation, info = self.env.reset(seed=seed, options=options)
        generator = numpy_generator("paraphrase", self.split, -1 if seed is None else seed)
        self._said = paraphrase(observation["instruction"], self.split, generator)
        return {**observation, "instruction": self._said}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """The environment's own step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return {**observation, "instruction": self._said}, reward, terminated, truncated, info
