"""Known values of the token layout and codec, and round trips for every space."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from factotum.core.checks import UserError
from factotum.gato.batch import ABSENT
from factotum.gato.config import Vocabulary
from factotum.gato.mulaw import compand, expand, from_bins, to_bins
from factotum.gato.text import TextTokenizer
from factotum.gato.tokens import (
    decode,
    encode,
    encode_steps,
    legal_ranges,
)

VOCABULARY = Vocabulary()
TOKENIZER = TextTokenizer.train(["go to the red ball", "open a door", "a blue square"], 400)
GOLDEN = {0.01: 0.068, 0.1: 0.236, 1.0: 0.455, 2.0: 0.523, 10.0: 0.681, 100.0: 0.907, 256.0: 1.0}


@pytest.mark.parametrize(("x", "y"), GOLDEN.items())
def test_mu_law_golden_values(x, y):
    assert compand(np.array([x, -x]), VOCABULARY) == pytest.approx([y, -y], abs=1e-3)


def test_values_in_unit_range_use_bins_279_to_744():
    bins = to_bins(compand(np.array([-1.0, 1.0]), VOCABULARY), VOCABULARY) - 32_000
    assert bins.tolist() == [279, 744]


def test_values_beyond_the_maximum_are_clipped():
    assert to_bins(compand(np.array([-1e6, 1e6]), VOCABULARY), VOCABULARY).tolist() == [32_000, 33_023]


@given(st.floats(-256, 256))
def test_compand_and_expand_are_inverse(x):
    assert expand(compand(np.array([x]), VOCABULARY), VOCABULARY)[0] == pytest.approx(x, rel=1e-9, abs=1e-12)


@given(st.integers(32_000, 33_023))
def test_bin_centres_come_back(token):
    assert to_bins(from_bins(np.array([token]), VOCABULARY), VOCABULARY).tolist() == [token]


def test_actions_are_not_companded():
    box = spaces.Box(-1, 1, (1,), np.float32)
    value = np.array([0.5], np.float32)
    action = encode(box, value, VOCABULARY, role="action")[0].ids.item()
    observation = encode(box, value, VOCABULARY, role="observation")[0].ids.item()
    assert action == 32_000 + 768
    assert observation == int(to_bins(compand(value, VOCABULARY), VOCABULARY)[0]) != action


def test_tensors_are_row_major_and_keys_sorted():
    space = spaces.Dict(
        z=spaces.MultiDiscrete([[9, 9], [9, 9]]),
        a=spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4, start=5)]),
    )
    value = {"z": np.array([[1, 2], [3, 4]]), "a": (2, 6)}
    ids = [leaf.ids[0].tolist() for leaf in encode(space, value, VOCABULARY, role="observation")]
    assert ids == [[2], [1], [1, 2, 3, 4]]


def test_discrete_ids_share_the_range_of_text():
    assert legal_ranges(spaces.Discrete(18), VOCABULARY) == [(0, 18)]
    assert legal_ranges(spaces.Box(-1, 1, (2,)), VOCABULARY) == [(32_000, 33_024)] * 2


SPACES = {
    "Discrete": spaces.Discrete(7),
    "Discrete start": spaces.Discrete(7, start=-3),
    "MultiDiscrete": spaces.MultiDiscrete([[3, 4], [5, 6]]),
    "MultiBinary": spaces.MultiBinary((2, 3)),
    "Box": spaces.Box(np.array([-2.0, 0.0]), np.array([3.0, 5.0]), dtype=np.float32),
    "Text": spaces.Text(24, min_length=0, charset="abcdefghijklmnopqrstuvwxyz "),
    "Dict": spaces.Dict(b=spaces.Discrete(5), a=spaces.Box(-1, 1, (2, 2), np.float32)),
    "Tuple": spaces.Tuple([spaces.MultiBinary(3), spaces.Dict(c=spaces.Discrete(2))]),
}


def bin_width(space):
    return {"Box": 5.0 / 1024}.get(space, 2.0 / 1024)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_actions_come_back(name, seed):
    space = SPACES[name]
    space.seed(seed)
    value = space.sample()
    coded = encode(space, value, VOCABULARY, role="action", tokenizer=TOKENIZER)
    ids = np.concatenate([leaf.ids[0] for leaf in coded])
    back = decode(space, ids, VOCABULARY, role="action", tokenizer=TOKENIZER)
    assert space.contains(back)
    assert_close(back, value, bin_width(name))
    if name != "Text":
        assert all(
            start <= token < stop
            for token, (start, stop) in zip(ids, legal_ranges(space, VOCABULARY), strict=True)
        )


def assert_close(got, expected, tolerance):
    if isinstance(expected, dict):
        for key in expected:
            assert_close(got[key], expected[key], tolerance)
    elif isinstance(expected, tuple):
        for mine, theirs in zip(got, expected, strict=True):
            assert_close(mine, theirs, tolerance)
    elif isinstance(expected, str):
        assert got == expected
    else:
        np.testing.assert_allclose(got, expected, atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-200, 200), min_size=3, max_size=3))
def test_observed_numbers_come_back_within_a_bin(numbers):
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    ids = encode(space, np.array(numbers), VOCABULARY, role="observation")[0].ids[0]
    back = decode(space, ids, VOCABULARY, role="observation")
    companded = compand(np.array(numbers, np.float32), VOCABULARY)
    np.testing.assert_allclose(compand(back, VOCABULARY), companded, atol=1.01 / 1024)


def test_many_steps_at_once_equal_one_by_one():
    space = spaces.Dict(text=SPACES["Text"], state=spaces.Box(-1, 1, (3,)), grid=SPACES["MultiDiscrete"])
    values = [space.sample() for _ in range(5)]
    together = {key: [value[key] for value in values] for key in values[0]}
    at_once = encode_steps(space, together, VOCABULARY, role="observation", tokenizer=TOKENIZER)
    for t, value in enumerate(values):
        alone = encode(space, value, VOCABULARY, role="observation", tokenizer=TOKENIZER)
        for all_steps, one in zip(at_once, alone, strict=True):
            row = all_steps.ids[t]
            assert row[row != ABSENT].tolist() == one.ids[0].tolist()


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(4), 4, "way: expected integers from 0 below 4, got 4"),
        (spaces.Discrete(5000), 4, "expected at most 1024 values, got 5000"),
        (spaces.Box(-1, 1, (2,)), np.array([0.0, np.inf]), "expected finite numbers, got inf at index"),
        (spaces.Box(-1, 1, (2,)), np.zeros(3), r"expected shape \(2,\), got \(3,\)"),
        (spaces.Box(-np.inf, np.inf, (2,)), np.zeros(2), "expected a Box with finite bounds for actions"),
        (spaces.Text(5), "abc", "text needs a tokenizer"),
        (spaces.Graph(spaces.Discrete(2), None), None, "expected Box, Discrete"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}, "expected a value with 'a' in it"),
    ],
)
def test_bad_values_are_named(space, value, message):
    with pytest.raises(UserError, match=message):
        encode(space, value, VOCABULARY, role="action", path="" if isinstance(space, spaces.Dict) else "way")


def test_text_vocabulary_below_the_bins_is_refused():
    with pytest.raises(UserError, match="text_size: expected at least bins"):
        Vocabulary(text_size=100)


def test_every_string_can_be_written():
    for text in ("", "zebra ÄÖ 你好 \n\t", "a" * 500):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_tokenizer_file_round_trip_and_damage(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert TextTokenizer.load(tmp_path / "tokenizer.json").encode("open a door") == TOKENIZER.encode(
        "open a door"
    )
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="expected a tokenizer"):
        TextTokenizer.load(tmp_path / "tokenizer.json")
