from __future__ import annotations

import errno
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from factotum.core.checks import UserError
from factotum.data import packing
from factotum.data.episode import Episode, leaves_over_time
from factotum.data.packing import pack, unpack
from factotum.data.store import Dataset, dataset_path, list_datasets, open_dataset, write_dataset
from factotum.data.validate import validate
from tests.data.examples import ACTIONS, OBSERVATIONS, make_episode

METADATA = {
    "task": "toys/All",
    "instruction": "do it all",
    "body": "toys/All",
    "measure": "return",
    "random": {"score": -1.0, "source": "test"},
    "expert": {"score": 3.0, "source": "test"},
    "actor": "expert",
}


def write(root: Path, episodes, action: str = "discrete", name: str = "toys/All/expert-v0") -> Path:
    return write_dataset(root, name, episodes, OBSERVATIONS, ACTIONS[action], METADATA)


def assert_same(first: Episode, second: Episode) -> None:
    for part in ("observations", "actions"):
        leaves = zip(
            leaves_over_time(getattr(first, part)), leaves_over_time(getattr(second, part)), strict=True
        )
        for (name, a), (other, b) in leaves:
            assert name == other
            assert type(a) is type(b)
            if isinstance(a, list):
                assert a == b
            else:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    for part in ("rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    assert (first.seed, first.score) == (second.seed, second.score)


def test_a_relative_root_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    episodes = [make_episode(seed) for seed in range(3)]
    write(Path("data/mine"), episodes)
    assert_same(open_dataset("toys/All/expert-v0", "data/mine").episode(2), episodes[2])
    assert list_datasets("data/mine") == ["toys/All/expert-v0"]
    assert validate(Path("data/mine/toys/All/expert-v0")) == []


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_every_space_comes_back_exactly(tmp_path, action):
    episodes = [make_episode(seed, steps, action) for seed, steps in ((5, 1), (3, 9), (8, 4))]
    write(tmp_path, iter(episodes), action)
    dataset = open_dataset("toys/All/expert-v0", tmp_path)
    assert len(dataset) == 3
    assert dataset.observation_space == OBSERVATIONS
    assert dataset.action_space == ACTIONS[action]
    assert dataset.lengths.tolist() == [1, 9, 4]
    for written, read in zip(episodes, dataset, strict=True):
        assert_same(written, read)
    assert_same(episodes[1], dataset.episode(1))
    assert [episode.seed for episode in dataset.episodes([2, 0])] == [8, 5]


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_plain_minari_reads_ours(tmp_path, monkeypatch, action):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = [make_episode(seed, 3, action) for seed in range(4)]
    write(tmp_path, episodes, action)
    assert list(minari.list_local_datasets()) == ["toys/All/expert-v0"]
    theirs = minari.load_dataset("toys/All/expert-v0")
    assert theirs.total_episodes == 4
    assert theirs.total_steps == 12
    assert theirs.observation_space == OBSERVATIONS
    for ours, read in zip(episodes, theirs, strict=True):
        np.testing.assert_array_equal(read.observations["image"], ours.observations["image"])
        assert read.observations["instruction"] == ours.observations["instruction"]
        np.testing.assert_array_equal(read.rewards, ours.rewards)
    sampled = list(theirs.sample_episodes(2))
    assert len(sampled) == 2
    assert minari.get_normalized_score(theirs, np.array([3.0]))[0] == pytest.approx(1.0)


def test_plain_minari_can_add_to_ours(tmp_path):
    path = write(tmp_path, [make_episode(0)])
    more = make_episode(1)
    minari.MinariDataset(path / "data").update_dataset_from_buffer([buffer_of(more)])
    assert len(Dataset(path)) == 2
    np.testing.assert_array_equal(Dataset(path).episode(1).rewards, more.rewards)


def buffer_of(episode: Episode) -> EpisodeBuffer:
    return EpisodeBuffer(
        seed=episode.seed,
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards.tolist(),
        terminations=episode.terminated.tolist(),
        truncations=episode.truncated.tolist(),
        infos={},
    )


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_a_foreign_dataset_is_read(tmp_path, monkeypatch, data_format):
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    kept = ("instruction", "state", "direction")
    space = spaces.Dict({key: OBSERVATIONS[key] for key in kept})
    episodes = []
    for seed in range(3):
        episode = make_episode(seed, 2 + seed)
        episode.observations = {key: episode.observations[key] for key in space.spaces}
        episodes.append(episode)
    minari.create_dataset_from_buffers(
        "theirs/thing-v0",
        [buffer_of(episode) for episode in episodes],
        observation_space=space,
        action_space=ACTIONS["discrete"],
        data_format=data_format,
        description="walk",
    )
    dataset = open_dataset("theirs/thing-v0", tmp_path)
    assert not dataset.is_ours
    assert dataset.metadata == {
        "task": "theirs/thing-v0",
        "instruction": "walk",
        "body": "theirs/thing-v0",
        "measure": "return",
        "random": None,
        "expert": None,
    }
    assert dataset.lengths.tolist() == [2, 3, 4]
    for written, read in zip(episodes, dataset, strict=True):
        written.score = None
        assert_same(written, read)
    assert validate(dataset.path) == []


def test_a_missing_reader_of_a_format_is_named(tmp_path, monkeypatch):
    path = write(tmp_path, [make_episode(0)])
    change_metadata(path, data_format="arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "minari.dataset._storages.arrow_storage", raising=False)
    with pytest.raises(UserError, match=r"minari\[arrow\]"):
        Dataset(path)


def change_metadata(path: Path, **changes) -> None:
    file = path / "data" / "metadata.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_metadata_is_kept_with_seeds_scores_and_lengths(tmp_path):
    path = write(tmp_path, [make_episode(seed, 2) for seed in (4, 7)])
    metadata = Dataset(path).metadata
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["seeds"] == [4, 7]
    assert metadata["scores"] == [4 / 7, 1.0]
    assert metadata["lengths"] == [2, 2]


def test_images_and_grids_are_compressed_without_loss(tmp_path):
    episode = make_episode(0, steps=50)
    episode.observations["image"] = (
        np.zeros((51, 40, 36, 3), np.uint8) + np.arange(36, dtype=np.uint8)[:, None]
    )
    path = write(tmp_path, [episode])
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        image = file["episode_0/observations/image"]
        assert image.id.get_storage_size() < episode.observations["image"].nbytes / 10
    assert_same(episode, Dataset(path).episode(0))


def test_stored_episodes_are_copied_exactly(tmp_path):
    episodes = [make_episode(seed, 30) for seed in range(5)]
    packed = pack(episodes)
    kept = (stored for stored in unpack(packed) if stored.seed in {1, 3})
    copied = Dataset(write(tmp_path, kept))
    assert_same(copied.episode(0), episodes[1])
    assert_same(copied.episode(1), episodes[3])
    assert validate(copied.path) == []
    extended = write(tmp_path, chain_after(copied.data_file, episodes[4]), name="toys/All/more-v0")
    assert Dataset(extended).metadata["seeds"] == [1, 3, 4]


def chain_after(file: Path, episode: Episode):
    yield from unpack(file)
    yield episode


def test_writing_the_same_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, (make_episode(seed) for seed in range(3)))
    files = ["metadata.json", "main_data.hdf5"]
    for file in files:
        first, second = (tmp_path / name / "toys/All/expert-v0/data" / file for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path):
    def peak(count: int) -> int:
        episode = make_episode(0, 20)
        tracemalloc.start()
        write(tmp_path, (episode_with_seed(episode, seed) for seed in range(count)))
        for _ in Dataset(tmp_path / "toys/All/expert-v0"):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)  # imports
    one_episode = 21 * 40 * 36 * 3
    assert peak(40) < peak(10) + 3 * one_episode


def episode_with_seed(episode: Episode, seed: int) -> Episode:
    return Episode(
        {**episode.observations, "image": episode.observations["image"].copy()},
        episode.actions,
        episode.rewards,
        episode.terminated,
        episode.truncated,
        seed,
        1.0,
    )


@pytest.mark.parametrize(
    "dataset_id", ["noversion", "bad id-v0", "a/b", "../up-v0", "name space/x-v0", "data/x-v0", ""]
)
def test_bad_ids_are_refused(tmp_path, dataset_id):
    with pytest.raises(UserError, match="dataset id"):
        dataset_path(tmp_path, dataset_id)


def test_an_empty_dataset_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="at least one episode"):
        write(tmp_path, [])
    assert list(tmp_path.rglob("*.*")) == []
    assert list_datasets(tmp_path) == []


def test_text_that_hdf5_cannot_hold_is_refused(tmp_path):
    episode = make_episode(0)
    episode.observations["instruction"][1] = "a\0b"
    with pytest.raises(ValueError, match="NUL"):
        write(tmp_path, [episode])


def test_a_source_that_fails_leaves_the_older_dataset(tmp_path):
    path = write(tmp_path, [make_episode(0)])

    def failing():
        yield make_episode(1)
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        write(tmp_path, failing())
    assert_same(Dataset(path).episode(0), make_episode(0))
    assert [p.name for p in path.parent.iterdir()] == ["expert-v0"]


def test_a_full_disk_is_one_line_and_leaves_the_older_dataset(tmp_path, monkeypatch):
    path = write(tmp_path, [make_episode(0)])

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing, "_write_leaf", full)
    with pytest.raises(UserError, match=r"No space left on device.*unchanged") as caught:
        write(tmp_path, [make_episode(1)])
    assert "\n" not in str(caught.value)
    assert_same(Dataset(path).episode(0), make_episode(0))
    assert [p.name for p in path.parent.iterdir()] == ["expert-v0"]


FILL = """
import resource, signal, sys
from factotum.core.checks import UserError
from tests.data.test_store import write
from tests.data.examples import make_episode
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write(sys.argv[1], (make_episode(seed, 40) for seed in range(50)))
except UserError as error:
    print("refused:", error)
"""


def test_hdf5_that_cannot_grow_is_one_line(tmp_path):
    path = write(tmp_path, [make_episode(0)])
    result = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("refused: cannot write"), result.stderr
    assert len(result.stdout.strip().splitlines()) == 1
    assert_same(Dataset(path).episode(0), make_episode(0))
    assert [p.name for p in path.parent.iterdir()] == ["expert-v0"]


def test_a_kill_between_the_two_renames_is_healed(tmp_path):
    path = write(tmp_path, [make_episode(0)])
    path.rename(path.with_name(".expert-v0.old"))
    assert len(open_dataset("toys/All/expert-v0", tmp_path)) == 1


def test_leftovers_of_a_killed_writer_are_no_datasets(tmp_path):
    path = write(tmp_path, [make_episode(0)])
    leftover = path.with_name(".expert-v0.writing") / "data"
    leftover.mkdir(parents=True)
    (leftover / "metadata.json").write_text("{")
    assert list_datasets(tmp_path) == ["toys/All/expert-v0"]
    write(tmp_path, [make_episode(1)])
    assert not leftover.exists()


def test_unknown_datasets_are_named_with_similar_ones(tmp_path):
    write(tmp_path, [make_episode(0)])
    with pytest.raises(UserError, match="did you mean toys/All/expert-v0"):
        open_dataset("toys/All/exprt-v0", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "does not parse"), ("[]", "JSON object"), ("{}", "Minari dataset"), (None, "unknown dataset")],
)
def test_a_folder_that_is_no_dataset_is_refused(tmp_path, content, message):
    (tmp_path / "x" / "data").mkdir(parents=True)
    if content is not None:
        (tmp_path / "x" / "data" / "metadata.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "x", tmp_path)


def test_a_minari_version_that_is_not_known_is_refused(tmp_path):
    path = write(tmp_path, [make_episode(0)])
    change_metadata(path, minari_version="9.9.9")
    with pytest.raises(UserError, match=r"9\.9\.9"):
        Dataset(path)


def test_a_truncated_file_names_dataset_and_episode(tmp_path):
    path = write(tmp_path, [make_episode(seed) for seed in range(3)])
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="toys/All/expert-v0, episode 1: "):
        Dataset(path).episode(1)


def test_episodes_that_do_not_exist(tmp_path):
    dataset = Dataset(write(tmp_path, [make_episode(0)]))
    for index in (-1, 1):
        with pytest.raises(IndexError, match="expected an episode from 0 to 0"):
            dataset.episode(index)
