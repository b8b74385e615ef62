from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from factotum.data.episode import Episode
from factotum.data.store import write_dataset
from factotum.data.validate import Problem, episode_problems, space_problems, validate
from tests.data.examples import ACTIONS, OBSERVATIONS, make_episode

NAME = "toys/All/expert-v0"
METADATA = {
    "task": "toys/All",
    "instruction": "",
    "body": "b",
    "measure": "return",
    "random": None,
    "expert": None,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    episodes = (make_episode(seed, 4, "box") for seed in range(4))
    return write_dataset(tmp_path, NAME, episodes, OBSERVATIONS, ACTIONS["box"], METADATA)


def change(path: Path, leaf: str, function) -> None:
    """Replace one array of episode 2 by what `function` makes of it."""
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        name = f"episode_2/{leaf}"
        value = file[name][()]
        del file[name]
        value = function(value)
        if value is not None:
            file[name] = value


def put(index, value):
    def function(array):
        array = array.copy()
        array[index] = value
        return array

    return function


def test_a_sound_dataset_has_no_problems(path):
    assert validate(path) == []


@pytest.mark.parametrize(
    ("leaf", "function", "key", "what"),
    [
        (
            "observations/state",
            lambda a: a[:-1],
            "observations/state",
            "expected 5 entries for 4 rewards, got 4",
        ),
        ("actions", lambda a: a[:-1], "actions", "expected 4 entries for 4 rewards, got 3"),
        ("terminations", lambda a: a[:-1], "terminated", "expected 4 entries"),
        ("observations/instruction", lambda a: a[:3], "observations/instruction", "expected 5 entries"),
        (
            "observations/state",
            put((3, 1), np.nan),
            "observations/state[3, 1]",
            "expected a finite number, got nan",
        ),
        (
            "observations/state",
            put((0, 0), np.inf),
            "observations/state[0, 0]",
            "expected a finite number, got inf",
        ),
        ("rewards", put(2, np.nan), "rewards[2]", "expected a finite number, got nan"),
        ("actions", put((1, 3), 1.5), "actions[1, 3]", "expected a number from -1 to 1, got 1.5"),
        (
            "observations/direction",
            put(4, 4),
            "observations/direction[4]",
            "expected an integer from 0 to 3, got 4",
        ),
        ("observations/grid", put((2, 6, 0, 1), 11), "observations/grid[2, 6, 0, 1]", "from 0 to 10, got 11"),
        ("observations/pair/_index_0", put((1, 2), 2), "observations/pair/0[1, 2]", "expected 0 or 1, got 2"),
        (
            "observations/instruction",
            put(1, "\u0100".encode()),
            "observations/instruction[1]",
            "charset, got '\u0100'",
        ),
        (
            "observations/state",
            lambda a: a[:, :3],
            "observations/state",
            "expected shape (5,) at each step, got (3,)",
        ),
        ("observations/state", lambda a: a.astype(int), "observations/state", "expected floats, got int64"),
        (
            "observations/direction",
            lambda a: a + 0.5,
            "observations/direction",
            "expected integers, got float64",
        ),
        ("terminations", put(1, True), "terminated[1]", "expected the end at the last step, 3"),
        (
            "observations/state",
            lambda a: None,
            "observations/state",
            "expected by the space, not in the data",
        ),
    ],
)
def test_what_is_wrong_is_found_and_said_where(path, leaf, function, key, what):
    change(path, leaf, function)
    problems = validate(path)
    assert [problem.where for problem in problems] == [f"{NAME}, episode 2, {key}"]
    assert what in problems[0].what
    assert "\n" not in str(problems[0])


@pytest.mark.parametrize("leaf", ["rewards", "truncations", "actions"])
def test_a_missing_array_is_named(path, leaf):
    change(path, leaf, lambda array: None)
    problems = validate(path)
    assert len(problems) == 1
    assert problems[0].where == f"{NAME}, episode 2"
    assert leaf in problems[0].what


def test_several_problems_are_all_found(path):
    change(path, "rewards", put(0, np.nan))
    change(path, "observations/direction", put(slice(None), 9))
    assert [problem.where.split(", ", 2)[2] for problem in validate(path)] == [
        "observations/direction[0]",
        "rewards[0]",
    ]
    assert "(5 values outside)" in validate(path)[0].what


def test_a_key_that_the_space_does_not_have(path):
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/observations/extra"] = np.zeros(5)
    assert [problem.where for problem in validate(path)] == [f"{NAME}, episode 1"]
    assert "extra" in validate(path)[0].what


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_found(path, share):
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    problems = validate(path)
    assert any("truncated" in str(problem) or "cannot" in str(problem) for problem in problems)


def test_a_missing_data_file_is_found(path):
    (path / "data" / "main_data.hdf5").unlink()
    assert "No data found" in validate(path)[0].what


def test_altered_compressed_bytes_are_found(path):
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        chunk = file["episode_3/observations/image"].id.get_chunk_info(0)
    with open(path / "data" / "main_data.hdf5", "r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff" * 8)
    assert [problem.where for problem in validate(path)] == [f"{NAME}, episode 3"]


def edit(path: Path, function) -> None:
    file = path / "data" / "metadata.json"
    values = json.loads(file.read_text())
    function(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda m: m.update(total_episodes=3), "total_episodes is 3, but the data file holds 4"),
        (lambda m: m.update(total_steps=1), "total_steps is 1, but the episodes have 16"),
        (lambda m: m.update(dataset_id="toys/Other/expert-v0"), "folder that ends with the dataset's id"),
        (lambda m: m["factotum"].pop("task"), "expected the keys task, found none"),
        (lambda m: m["factotum"]["seeds"].pop(), "seeds: expected 4, one for each episode, got 3"),
        (lambda m: m["factotum"].update(seeds=[0, 1, 2, 2]), "expected each seed once, got 2 2 times"),
        (lambda m: m["factotum"].update(scores=[9, 9, 9, 9]), "expected 9 as in the metadata, got 0.0"),
        (lambda m: m.pop("observation_space"), "Minari dataset"),
        (lambda m: m.pop("dataset_id"), "Minari dataset"),
        (lambda m: m.update(observation_space='{"type": "Box"}'), "Minari dataset"),
    ],
)
def test_wrong_metadata_is_found(path, function, what):
    edit(path, function)
    assert any(what in str(problem) for problem in validate(path)), validate(path)


def test_an_empty_dataset_is_found(path):
    edit(path, lambda m: m.update(total_episodes=0, total_steps=0))
    with h5py.File(path / "data" / "main_data.hdf5", "w"):
        pass
    assert any("at least one episode" in problem.what for problem in validate(path))


def test_nothing_there(tmp_path):
    assert "found none" in validate(tmp_path / "no")[0].what


def test_rounding_between_float_types_is_no_problem():
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    assert list(space_problems(space, np.array([[np.float32(0.1)]]).astype(np.float32), "x")) == []
    assert list(space_problems(space, np.array([[0.1002]]), "x")) != []


def test_unbounded_boxes_and_full_uint8_range():
    box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert list(space_problems(box, np.array([[1e30, -1e30]], np.float32), "x")) == []
    grid = spaces.MultiDiscrete(np.full((2,), 255), dtype=np.uint8)
    assert list(space_problems(grid, np.array([[254, 0]], np.uint8), "x")) == []
    assert list(space_problems(grid, np.array([[255, 0]], np.uint8), "x")) != []


def test_an_unknown_kind_of_space_is_asked_itself():
    class Even(spaces.Space):
        def contains(self, x):
            return x % 2 == 0

    assert [where for where, _ in space_problems(Even(), np.array([0, 2, 3]), "x")] == ["x[2]"]


def test_episode_problems_are_those_of_its_spaces():
    episode = make_episode(0, 3, "dict")
    assert episode_problems(episode, OBSERVATIONS, ACTIONS["dict"]) == []
    episode.actions["say"][2] = "x" * 13
    (problem,) = episode_problems(episode, OBSERVATIONS, ACTIONS["dict"])
    assert problem[0] == "actions/say[2]"
    assert "1 to 12 characters, got 13" in problem[1]
    plain = Episode(np.zeros((2, 1)), np.array([0]), [0.0], [True], [False])
    assert "expected the keys" in episode_problems(plain, OBSERVATIONS, spaces.Discrete(1))[0][1]


def test_a_problem_reads_as_a_sentence():
    assert str(Problem("a", "b")) == "a: b"
