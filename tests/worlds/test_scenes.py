"""Rendered scenes: the truth is right, the reward is just, a seed gives one scene."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from factotum.core.seeding import numpy_generator
from factotum.worlds.suites import scenes
from factotum.worlds.suites.scenes_render import COLORS, PLACES, SHAPES, Thing, draw_things, render

NAMES = scenes.SUITE.names


@pytest.mark.parametrize("name", NAMES)
def test_declared_spaces_hold_what_the_environment_gives(name: str) -> None:
    task = scenes.SUITE.task(name)
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        assert observation in task.observation_space
        assert info["answer"] in task.action_space


@pytest.mark.parametrize("name", NAMES)
def test_expert_scores_one_and_nonsense_zero(name: str) -> None:
    task = scenes.SUITE.task(name)
    env = task.make()
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        answer = task.make_expert(env)(observation, None)
        after, reward, terminated, truncated, info = env.step(answer)
        assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
        assert after["instruction"] == observation["instruction"]
        env.reset(seed=seed)
        _, reward, _, _, info = env.step("xyzzy")
        assert (reward, info["success"], info["answer"]) == (0.0, False, answer)


def test_a_seed_fixes_the_scene_and_another_changes_it() -> None:
    env = scenes.SUITE.task("scenes/caption").make()
    first, again, other = (env.reset(seed=seed)[0]["image"] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_seed_the_scenes_go_on_and_repeat_after_the_same_seed() -> None:
    env = scenes.SUITE.task("scenes/color").make()

    def three() -> list[str]:
        return [env.reset(seed=1)[1]["answer"], env.reset()[1]["answer"], env.reset()[1]["answer"]]

    assert three() == three()
    env.reset(seed=1)
    assert len({env.reset()[0]["image"].tobytes() for _ in range(5)}) == 5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_a_thing_is_painted_in_its_colour_at_its_place(shape: str, place: str) -> None:
    for color, value in COLORS.items():
        picture = render([Thing(color, shape, place)], numpy_generator(color, shape, place)).astype(int)
        near = abs(picture - np.array(value)).max(axis=2) < 45
        assert near.sum() > 25
        rows, columns = np.nonzero(near)
        x, y = PLACES[place]
        assert abs(columns.mean() - 31.5 - x) < 4
        assert abs(rows.mean() - 31.5 - y) < 4


def test_questions_have_one_answer_and_cover_all_of_them() -> None:
    for ask, expected in (
        (scenes._ask_color, set(COLORS)),
        (scenes._ask_shape, set(SHAPES)),
        (scenes._ask_count, set(scenes.NUMBERS)),
        (scenes._ask_position, set(PLACES)),
    ):
        drawn = [ask(numpy_generator("test", seed)) for seed in range(400)]
        counts = Counter(answer for _, _, answer in drawn)
        assert set(counts) == expected
        assert min(counts.values()) > 0.5 * 400 / len(expected)
        for things, _, _ in drawn[:50]:
            for attribute in ("color", "shape", "place"):
                assert len({getattr(thing, attribute) for thing in things}) == len(things)


def test_the_answers_agree_with_the_things() -> None:
    for seed in range(100):
        things, instruction, answer = scenes._ask_position(numpy_generator(seed))
        color, shape = instruction.rstrip("?").split()[-2:]
        assert [thing.place for thing in things if (thing.color, thing.shape) == (color, shape)] == [answer]
        things, _, answer = scenes._ask_count(numpy_generator(seed))
        assert scenes.NUMBERS.index(answer) + 1 == len(things)
        things, _, answer = scenes._ask_caption(numpy_generator(seed))
        assert all(f"{thing.color} {thing.shape}" in answer for thing in things)


TWO = "a red circle left of a blue square"


@pytest.mark.parametrize(
    ("given", "truth", "score"),
    [
        (TWO, TWO, 1.0),
        (TWO.upper() + " ", TWO, 1.0),
        ("a red circle above a blue square", TWO, 0.8),
        ("a blue square left of a red circle", TWO, 0.2),
        ("a red circle at the left", TWO, 0.4),
        ("a red circle", TWO, 0.4),
        ("a red circle at the top", "a red circle at the top", 1.0),
        ("a red circle at the left", "a red circle at the top", 2 / 3),
        (TWO, "a red circle at the left", 0.4),
        ("", TWO, 0.0),
        ("red circle blue square left of", TWO, 0.0),
        (TWO + " " + TWO, TWO, 0.0),
    ],
)
def test_caption_score(given: str, truth: str, score: float) -> None:
    assert scenes.caption_score(given, truth) == pytest.approx(score)


def test_random_caption_reference_is_what_a_random_caption_scores() -> None:
    answers = [scenes._ask_caption(numpy_generator("reference", seed))[2] for seed in range(4000)]
    scores = [scenes.caption_score(one, other) for one, other in itertools.pairwise(answers)]
    assert np.mean(scores) == pytest.approx(scenes.SUITE.task("scenes/caption").random.score, abs=0.015)


def test_render_shows_the_picture_and_things_can_be_four() -> None:
    env = scenes.SUITE.task("scenes/count").make()
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), observation["image"])
    assert len(draw_things(np.random.default_rng(0), 4)) == 4


def test_errors() -> None:
    with pytest.raises(ValueError, match="unknown task 'scenes/captions': did you mean scenes/caption"):
        scenes.SUITE.task("scenes/captions")
    env = scenes.SUITE.task("scenes/count").make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected a str as the answer, got int"):
        env.step(3)
