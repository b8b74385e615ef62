"""One-step episodes: the protocol, the scores, the split."""

from __future__ import annotations

import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from factotum.training import evaluate
from factotum.worlds.suites.common import text_space, with_instruction
from factotum.worlds.suites.one_step import (
    FIRST_EVALUATION_SEED,
    Example,
    OneStepEnv,
    exact,
    held_out_split,
    item_of_seed,
    truth_expert,
    word_f1,
)


def _echo(also: tuple[str, ...] = ()) -> OneStepEnv:
    return OneStepEnv(
        with_instruction(32),
        text_space(32),
        lambda seed: Example({"instruction": "say"}, f"no {seed}", also),
        word_f1,
    )


def test_gymnasium_accepts_the_environment() -> None:
    check_env(_echo(), skip_render_check=True)


def test_the_seed_is_the_example() -> None:
    env = _echo()
    assert env.reset(seed=41)[1] == {"answer": "no 41"}
    assert truth_expert(env)({}, None) == "no 41"


@pytest.mark.parametrize("seed", [3, FIRST_EVALUATION_SEED + 3])
def test_unseeded_resets_stay_on_the_side_of_the_last_seed(seed: int) -> None:
    env = _echo()
    env.reset(seed=seed)
    for _ in range(20):
        drawn = int(env.reset()[1]["answer"].split()[1])
        assert (drawn >= FIRST_EVALUATION_SEED) == (seed >= FIRST_EVALUATION_SEED)


def test_the_nearest_of_several_truths_counts() -> None:
    env = _echo(also=("perhaps so",))
    env.reset(seed=1)
    assert env.step("perhaps so")[1] == 1.0
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step("perhaps")
    assert reward == pytest.approx(2 / 3)
    assert terminated
    assert not truncated
    assert info == {"answer": "no 1", "success": False}


@pytest.mark.parametrize(
    ("given", "truth", "score"),
    [
        ("a b", "a b", 1),
        ("b A", "a b", 1),
        ("a a", "a b", 0.5),
        ("", "a", 0),
        ("", "", 1),
        ("a b c d", "a", 0.4),
    ],
)
def test_word_f1(given: str, truth: str, score: float) -> None:
    assert word_f1(given, truth) == pytest.approx(score) == pytest.approx(word_f1(truth, given))


def test_exact() -> None:
    assert exact("Two ", "two") == 1
    assert exact("two!", "two") == 0


def test_split_covers_all_items_once_and_does_not_change() -> None:
    training, held_out = held_out_split(range(50), "a")
    assert sorted(training + held_out) == list(range(50))
    assert len(held_out) == 10
    assert held_out_split(range(50), "b") == (training, held_out)
    assert held_out != sorted(held_out)
    assert [len(part) for part in held_out_split("xy", "a")] == [1, 1]
    with pytest.raises(ValueError, match="a: expected at least 2 items, to train and evaluate on, got 1"):
        held_out_split("x", "a")


def test_consecutive_seeds_show_every_item_equally_often() -> None:
    parts = held_out_split(range(10), "a")
    assert sorted(item_of_seed(parts, seed) for seed in range(16)) == sorted(parts[0] * 2)
    assert sorted(item_of_seed(parts, FIRST_EVALUATION_SEED + seed) for seed in range(4)) == sorted(
        parts[1] * 2
    )


def test_text_only_examples_render_blank() -> None:
    env = OneStepEnv(spaces.Dict(), text_space(4), lambda seed: Example({}, "a"), exact)
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)
    assert env.render().min() == 255


def test_evaluation_begins_where_held_out_examples_do() -> None:
    assert evaluate.FIRST_SEED == FIRST_EVALUATION_SEED
