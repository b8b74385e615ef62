"""Missions in other words: nothing held out is ever said in training, and the meaning stays."""

import itertools

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.paraphrase import (
    COLOURS,
    KINDS,
    PLACES,
    VERBS,
    Paraphrased,
    every_word,
    paraphrase,
    parse,
)
from factotum.worlds.suites import pixels

MISSIONS = (
    [f"{verb} the {colour} {kind}" for verb in list(VERBS)[:3] for colour in COLOURS for kind in KINDS]
    + [f"pick up a {kind} {place}" for kind in KINDS for place in PLACES]
    + ["put the red ball next to the grey box", "put a key next to a purple door", "open a door"]
)
SHARED = {"a", "an", "the", "it", "of", "colour", "to", "you", "your", "in", "on", "left", "right"}
"""Words without which there is no sentence; a side's name has no synonym."""


def said(split, draws=6):
    generator = np.random.default_rng(0)
    return [paraphrase(mission, split, generator) for mission in MISSIONS for _ in range(draws)]


def words(sentences):
    return set(itertools.chain.from_iterable(sentence.replace(",", "").split() for sentence in sentences))


def test_held_out_words_are_not_said_in_training():
    training = words(said("training")) | words(MISSIONS)
    assert words(said("words")) & training <= SHARED
    assert words(said("held-out")) & training <= SHARED
    assert words(said("order")) - training == {"colour", "it"}


def test_every_synonym_is_said():
    assert every_word("training") <= words(said("training", draws=30))
    assert every_word("held-out") <= words(said("held-out", draws=30)) | words(said("words", draws=30))


def test_training_and_held_out_sentences_never_meet():
    seen = set(said("training")) | set(MISSIONS)
    for split in ("words", "order", "held-out"):
        assert not seen & set(said(split)), split


def test_a_sentence_says_the_same_thing():
    generator = np.random.default_rng(1)
    for mission in MISSIONS:
        wanted, words_said = parse(mission), paraphrase(mission, "words", generator)
        for table, word in ((VERBS, wanted.verb), (KINDS, wanted.thing.kind), (COLOURS, wanted.thing.colour)):
            if word is not None:
                assert any(synonym in words_said for synonym in table[word][1]), (mission, words_said)
                others = [s for other, both in table.items() if other != word for s in both[1]]
                if wanted.beside is None:
                    assert not any(f" {synonym} " in f" {words_said} " for synonym in others)


@pytest.mark.parametrize(
    ("mission", "turned"),
    [
        ("pick up the red ball", "the ball of red colour, pick it up"),
        ("put a key next to the green box", "next to the box of green colour, put a key"),
        ("go to an object on your left", "an object on your left, go to it"),
    ],
)
def test_clauses_in_another_order(mission, turned):
    class First(np.random.Generator):
        def integers(self, *given):
            return 0

    assert paraphrase(mission, "order", First(np.random.PCG64(0))) == turned
    assert paraphrase(mission, "training", First(np.random.PCG64(0))) == mission
    assert paraphrase(mission, "plain", First(np.random.PCG64(0))) == mission


@pytest.mark.parametrize("mission", ["dance", "go to the pink ball", "go to the ball and open the door"])
def test_what_is_not_understood_is_refused(mission):
    with pytest.raises(UserError, match="expected a mission of one clause"):
        paraphrase(mission, "training", np.random.default_rng(0))


def test_an_episode_is_said_in_one_way_by_its_seed():
    pytest.importorskip("minigrid")
    env, other = (Paraphrased(pixels.make("GoToLocal"), "held-out") for _ in range(2))
    first, _ = env.reset(seed=5)
    assert first["instruction"] == other.reset(seed=5)[0]["instruction"]
    assert first["instruction"] != pixels.make("GoToLocal").reset(seed=5)[0]["instruction"]
    assert env.step(2)[0]["instruction"] == first["instruction"]
    with pytest.raises(UserError, match="unknown split 'held_out'"):
        Paraphrased(env, "held_out")
