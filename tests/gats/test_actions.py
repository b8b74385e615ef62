"""Actions as ids and back."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from factotum.core.checks import UserError
from factotum.gats.actions import ActionTokens

SPACES = [
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 7]),
    spaces.MultiDiscrete([3, 7], start=[2, -4]),
    spaces.MultiBinary(4),
    spaces.Box(-1.0, 1.0, (3,)),
    spaces.Box(np.array([[0.0], [-5.0]], np.float32), np.array([[0.5], [20.0]], np.float32)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@given(seed=st.integers(0, 1000))
def test_back_and_forth(space, seed):
    tokens = ActionTokens(space, bins=64)
    space.seed(seed)
    action = space.sample()
    ids = tokens.encode(action)
    assert ((ids >= 0) & (ids < np.array(tokens.counts))).all()
    back = tokens.decode(ids)
    assert space.contains(back)
    if isinstance(space, spaces.Box):
        assert (np.abs(back - action) <= (space.high - space.low) / 64 / 2 + 1e-6).all()
    else:
        assert np.array_equal(back, action)
    assert np.array_equal(tokens.encode(back), ids)


def test_edges_of_a_box_and_what_lies_beyond():
    tokens = ActionTokens(spaces.Box(-1.0, 1.0, (1,)), bins=4)
    assert [tokens.encode([x])[0] for x in (-9.0, -1.0, -0.5, 0.0, 0.99, 1.0, 9.0)] == [0, 0, 1, 2, 3, 3, 3]


def test_what_is_read_and_said():
    tokens = ActionTokens(spaces.MultiDiscrete([4, 4]))
    ids = torch.tensor([[[0, 1], [2, 3], [1, 1]]])
    read, said = tokens.taught(ids)
    assert read.tolist() == [[4, 0, 1, 2, 3, 1]]
    assert said.tolist() == [[0, 1, 2, 3, 1, 1]]
    read, _ = tokens.taught(ids, torch.tensor([[True, False, True]]))
    assert read.tolist() == [[4, 0, 1, 2, 4, 1]]
    times = tokens.times(torch.arange(3.0)[None])
    assert (times.diff() > 0).all()
    assert (times.floor() == torch.tensor([[0, 0, 1, 1, 2, 2]])).all()
    assert not (times == times.floor()).any(), "observations come first"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ActionTokens(spaces.Text(3)), "Text"),
        (lambda: ActionTokens(spaces.Box(-np.inf, np.inf, (1,))), "finite"),
        (lambda: ActionTokens(spaces.Box(0.0, 1.0, (1,)), bins=1), "bins"),
        (lambda: ActionTokens(spaces.Discrete(3)).encode(3), "expected one of"),
        (lambda: ActionTokens(spaces.Discrete(3)).encode([1, 2]), "1 numbers, got 2"),
        (lambda: ActionTokens(spaces.Box(0.0, 1.0, (1,))).encode([np.nan]), "finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
