"""The ring keeps each row's last elements, whatever the rates of the rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factotum.gats.ring import FREE, Ring


def row_lists(ring, arrival, keys_BHSK):
    """What each row can see: {running index: key} of every slot that is not free."""
    return [
        {int(i): keys_BHSK[b, 0, s, 0].item() for s, i in enumerate(index) if i != FREE}
        for b, index in enumerate(arrival.key_index_BS)
    ]


arrivals = st.lists(
    st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=5), max_size=8
)


@given(arrivals, st.integers(1, 4))
def test_joined_rings_show_the_last_elements_before_a_step_and_all_new_ones(steps, size):
    ring, seen, value = Ring.empty(2, size), [[], []], 0.0
    for step in steps:
        valid_BT = torch.tensor(step).T
        arrival = ring.arrive(valid_BT, joined=True)
        new = torch.arange(value, value + valid_BT.numel()).view(2, 1, -1, 1)
        value += valid_BT.numel()
        keys, values = ring.store(0, arrival, new, -new)
        assert torch.equal(keys, -values)
        for b, row in enumerate(row_lists(ring, arrival, keys)):
            fresh = new[b, 0, valid_BT[b], 0].tolist()
            expected = dict(enumerate(seen[b]))
            expected = {i: expected[i] for i in list(expected)[-size:]}
            expected |= {len(seen[b]) + i: v for i, v in enumerate(fresh)}
            assert row == expected
            seen[b] += fresh
    assert ring.count_B.tolist() == [len(row) for row in seen]
    assert ring.index_BS.shape == (2, size + 1)


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), max_size=12), st.integers(1, 4))
def test_one_by_one_the_ring_itself_is_enough(steps, size):
    ring, seen = Ring.empty(2, size), [[], []]
    for number, step in enumerate(steps):
        arrival = ring.arrive(torch.tensor(step)[:, None], joined=False)
        new = torch.full((2, 1, 1, 1), float(number))
        keys, _ = ring.store(0, arrival, new, new)
        for b in range(2):
            seen[b] += [float(number)] * step[b]
        rows = row_lists(ring, arrival, keys)
        assert rows == [dict(list(enumerate(row))[-size:]) for row in seen]


def test_a_ring_without_bound_grows_and_keeps_everything():
    ring, seen = Ring.empty(3, None), [[], [], []]
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        valid = torch.rand(3, 4, generator=generator) < torch.tensor([[0.9], [0.2], [0.0]])
        arrival = ring.arrive(valid, joined=True)
        new = torch.rand(3, 1, 4, 1, generator=generator)
        for layer in range(2):
            keys, _ = ring.store(layer, arrival, new + layer, new)
        for b in range(3):
            seen[b] += new[b, 0, valid[b], 0].tolist()
    for b, row in enumerate(row_lists(ring, arrival, keys)):
        assert [row[i] for i in range(len(row))] == pytest.approx([value + 1 for value in seen[b]])
    assert ring.index_BS.shape[1] - 1 < 4 * 60 * 2


@pytest.mark.parametrize("size", [3, None])
def test_rows_can_be_forgotten_copied_and_put(size):
    ring = Ring.empty(2, size)
    for value in range(70):
        arrival = ring.arrive(torch.tensor([[True], [value % 2 == 0]]), joined=False)
        ring.store(0, arrival, torch.full((2, 1, 1, 1), float(value)), torch.zeros(2, 1, 1, 1))
    twice = ring.select(torch.tensor([1, 1, 0]))
    assert twice.count_B.tolist() == [35, 35, 70]
    ring.reset_rows(torch.tensor([1]))
    assert ring.count_B.tolist() == [70, 0]
    assert (ring.index_BS[1] == FREE).all()
    assert twice.count_B.tolist() == [35, 35, 70], "a copy does not follow"
    other = Ring.empty(1, size)
    other.put(torch.tensor([0]), twice.select(torch.tensor([2])))
    kept = range(70) if size is None else range(67, 70)
    assert row_lists(other, other.here(), other.kept(0)[0]) == [{i: float(i) for i in kept}]
