"""Columns on disk: whole or not at all; windows stay inside episodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.data.windows import Shard, fill_row, write_shard


def episode(start, length):
    x = np.arange(start, start + length, dtype=np.float32)
    return {"x": np.stack([x, -x], 1), "image": np.zeros((length, 2, 2, 1), np.uint8)}


def test_columns_come_back(tmp_path):
    shard = write_shard(tmp_path / "a", [episode(0, 3), episode(3, 5)], {"task": "t"})
    assert shard.offsets.tolist() == [0, 3, 8]
    assert shard.columns["x"][:, 0].tolist() == list(range(8))
    assert shard.columns["image"].shape == (8, 2, 2, 1)
    assert shard.information == {"task": "t"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failure_leaves_the_old_shard(tmp_path):
    write_shard(tmp_path / "a", [episode(0, 3)])

    def failing():
        yield episode(0, 3)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        write_shard(tmp_path / "a", failing())
    assert len(Shard(tmp_path / "a")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_unequal_or_no_episodes_are_refused(tmp_path):
    with pytest.raises(UserError, match="episode 1: expected columns"):
        write_shard(tmp_path / "a", [episode(0, 3), {"x": np.zeros((2, 3))}])
    with pytest.raises(UserError, match="at least one episode"):
        write_shard(tmp_path / "a", [])


def test_other_versions_and_missing_rows_are_refused(tmp_path):
    write_shard(tmp_path / "a", [episode(0, 3)])
    index = read_json(tmp_path / "a" / "index.json")
    write_json_atomic(tmp_path / "a" / "index.json", {**index, "offsets": [0, 4]})
    with pytest.raises(UserError, match="expected 4 rows, got 3"):
        Shard(tmp_path / "a")
    write_json_atomic(tmp_path / "a" / "index.json", {**index, "format_version": 7})
    with pytest.raises(UserError, match="expected shard version 1, got 7"):
        Shard(tmp_path / "a")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 50),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_spans_stay_inside_episodes_and_fit_the_row(lengths, steps, share, seed):
    offsets = np.cumsum([0, *lengths])
    spans = fill_row(np.random.default_rng(seed), offsets, steps, share)
    assert 0 < sum(span.stop - span.start for span in spans) <= steps
    for span in spans:
        number = np.searchsorted(offsets, span.start, side="right") - 1
        assert offsets[number] <= span.start < span.stop <= offsets[number + 1]
    for segment in {span.segment for span in spans}:
        assert sum(span.segment == segment for span in spans) <= 2
