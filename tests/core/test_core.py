"""The ground floor: trees, seeds, configurations, files that a kill or a full disk cannot tear."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError, require_finite, unknown
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import (
    append_json_line,
    read_json,
    read_json_lines,
    replace_folder,
    write_json_atomic,
    write_text_atomic,
)
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.core.step import Core, World, interact, unroll
from factotum.core.trees import tree_items, tree_leaves, tree_map, tree_stack


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    pair: tuple[float, float] = (0.9, 0.95)
    many: tuple[Inner, ...] = ()
    limit: float | None = None


class Leaky:
    """s' = decay s + x; its output is s'."""

    def __init__(self, decay):
        self.decay = decay

    def initial_state(self):
        return torch.zeros(())

    def step(self, inputs, state):
        state = self.decay * state + inputs
        return state, state


class Constant:
    """Answers every action with itself."""

    def reset(self, generator):
        return torch.rand((), generator=generator), None

    def step(self, action, state):
        return action, state


def test_protocols_are_promises_not_parents():
    assert isinstance(Leaky(0.5), Core)
    assert isinstance(Constant(), World)
    assert not isinstance(Constant(), Core)


def test_unroll_equals_steps_and_is_differentiable():
    core = Leaky(torch.tensor(0.5, requires_grad=True))
    outputs, state = unroll(core, torch.tensor([1.0, 1.0, 1.0]), core.initial_state())
    assert outputs.tolist() == [1.0, 1.5, 1.75]
    state.backward()
    assert core.decay.grad.item() == pytest.approx(1 + 2 * 0.5)  # d(1 + d + d^2)/dd


def test_interact_is_a_pure_function_of_its_generator():
    core = Leaky(0.0)
    seen = [
        interact(
            core, Constant(), 3, generator=torch.Generator().manual_seed(1), core_state=core.initial_state()
        )[0]
        for _ in range(2)
    ]
    assert torch.equal(*seen)
    assert len(set(seen[0].tolist())) == 1


def test_trees_walk_by_sorted_key_and_refuse_other_structures():
    tree = {"b": (1, [2]), "a": 3}
    assert tree_leaves(tree) == [3, 1, 2]
    assert [path for path, _ in tree_items(tree)] == ["a", "b/0", "b/1/0"]
    with pytest.raises(ValueError):
        tree_map(lambda x, y: x, (1, 2), (1,))
    with pytest.raises(KeyError):
        tree_map(lambda x, y: x, {"a": 1}, {"b": 1})


def test_stack_keeps_tensors_and_none():
    stacked = tree_stack([{"a": torch.ones(2), "b": None, "c": 1.0}] * 3)
    assert stacked["a"].shape == (3, 2)
    assert stacked["b"] is None
    assert isinstance(stacked["c"], np.ndarray)
    with pytest.raises(ValueError, match="at least one"):
        tree_stack([])


def test_seeds_differ_by_every_part_and_by_its_kind():
    parts = [(0,), (1,), ("0",), (0, 0), ("a", "b"), ("ab",), ("a\x1fs:b",), ("b", "a")]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derive_seed(*part) < 2**63 for part in parts)


def test_seeds_are_the_same_in_another_process():
    code = "from factotum.core.seeding import derive_seed; print(derive_seed(7, 'x'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(other) == derive_seed(7, "x")
    assert numpy_generator(1).random() != numpy_generator(2).random()


def test_config_round_trip_through_json(tmp_path):
    config = Outer("x", Inner(5), (0.1, 0.2), (Inner(1), Inner(2)), 3.0)
    write_json_atomic(tmp_path / "c.json", to_json_dict(config))
    assert from_json_dict(Outer, read_json(tmp_path / "c.json")) == config


def test_config_names_every_unknown_and_missing_key():
    with pytest.raises(UserError, match=r"Outer: unknown keys \['x', 'y'\], missing keys \['name'\]"):
        from_json_dict(Outer, {"y": 1, "x": 2})
    with pytest.raises(UserError, match=r"Inner: unknown keys \['width'\]"):
        from_json_dict(Outer, {"name": "a", "inner": {"width": 1}})


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(UserError, match="No space left on device; what was there is unchanged"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_torn_last_line_is_left_out_and_not_glued_to_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    append_json_line(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    assert read_json_lines(path) == [{"step": 1}]
    append_json_line(path, {"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_folder_replaces_an_older_one(tmp_path):
    write_text_atomic(tmp_path / "final" / "old.txt", "old")
    write_text_atomic(tmp_path / "new" / "new.txt", "new")
    replace_folder(tmp_path / "new", tmp_path / "final")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")] == ["final/new.txt"]


def test_errors_name_what_came():
    with pytest.raises(UserError, match=r"state: expected finite numbers, got nan at index \(1,\)"):
        require_finite("state", np.array([0.0, np.nan]))
    assert "expected one of a, b" in str(unknown("task", "zzzz", ["a", "b"]))
    with pytest.raises(UserError, match="expected a file"):
        read_json("/nowhere/at/all.json")
