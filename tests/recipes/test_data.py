from __future__ import annotations

from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import tyro
from minari.data_collector import EpisodeBuffer

from factotum.core.checks import UserError
from factotum.data.store import write_dataset
from factotum.recipes.data import Args, ListArgs, ShowArgs, ValidateArgs, main
from tests.data.examples import ACTIONS, OBSERVATIONS, make_episode

NAME = "toys/All/expert-v0"
METADATA = {
    "task": "toys/All",
    "instruction": "do [it] all",
    "body": "toys/All",
    "measure": "success",
    "random": None,
    "expert": {"score": 3.0, "source": "counted"},
    "actor": "expert",
    "discarded": [[3, 0.1, ""], [4, None, "hung"]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (NAME, "toys/Other/expert-v0"):
        write_dataset(
            tmp_path, name, map(make_episode, range(3)), OBSERVATIONS, ACTIONS["discrete"], METADATA
        )
    return tmp_path


def damage(root: Path) -> None:
    with h5py.File(root / NAME / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/rewards"][2] = np.nan


def test_list_has_a_line_for_each_dataset(root, capsys):
    main(Args(ListArgs(root)))
    lines = [line for line in capsys.readouterr().out.splitlines() if "expert-v0" in line]
    assert len(lines) == 2
    for word in (NAME, "3", "12", "0.143", "expert"):
        assert word in lines[0]


def test_list_shows_what_cannot_be_read(root, capsys):
    (root / NAME / "data" / "metadata.json").write_text("{")
    main(ListArgs(root))
    shown = capsys.readouterr().out
    assert "cannot be read" in shown
    assert "toys/Other/expert-v0" in shown


def test_list_of_nothing(tmp_path, capsys):
    main(ListArgs(tmp_path / "no"))
    assert "no datasets in" in capsys.readouterr().out


def test_show_tells_spaces_scores_and_steps(root, capsys):
    main(Args(ShowArgs(NAME, root, episode=1, steps=2)))
    shown = capsys.readouterr().out
    for words in (
        "do [it] all",
        "image: Box(40, 36, 3) uint8",
        "Discrete 5",
        "3 of mean 4",
        "12 in all",
        "success: mean 0.143 (min 0, quartiles 0.0714 0.143 0.214, max 0.286)",
        "3 (counted)",
        "1 score below the filter, 1 hung",
        "episode 1, seed 1",
        "(7, 7, 3) int64 from",
        "instruction ''",
    ):
        assert words in shown, words


def test_show_takes_the_path_of_a_foreign_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episode = make_episode(0)
    buffer = EpisodeBuffer(
        observations=episode.observations["state"],
        actions=episode.actions,
        rewards=episode.rewards.tolist(),
        terminations=episode.terminated.tolist(),
        truncations=episode.truncated.tolist(),
    )
    minari.create_dataset_from_buffers(
        "theirs/thing-v0", [buffer], observation_space=OBSERVATIONS["state"], action_space=ACTIONS["discrete"]
    )
    main(ShowArgs(str(tmp_path / "theirs/thing-v0"), tmp_path / "elsewhere"))
    assert "theirs/thing-v0" in capsys.readouterr().out
    main(ValidateArgs((str(tmp_path / "theirs/thing-v0"),), tmp_path / "elsewhere"))
    assert "sound" in capsys.readouterr().out


@pytest.mark.parametrize("episode", [-1, 3])
def test_show_refuses_an_episode_that_is_not_there(root, episode):
    with pytest.raises(UserError, match=f"--episode: expected 0 to 2, got {episode}"):
        main(ShowArgs(NAME, root, episode=episode))


def test_validate_passes_sound_datasets(root, capsys):
    main(Args(ValidateArgs((), root)))
    assert capsys.readouterr().out.splitlines() == [f"{NAME}: sound", "toys/Other/expert-v0: sound"]


def test_validate_says_where_and_fails(root, capsys):
    damage(root)
    with pytest.raises(UserError, match="1 of 2 datasets have problems"):
        main(ValidateArgs((), root))
    shown = capsys.readouterr().out
    assert f"{NAME}: 1 problem\n" in shown
    assert f"  {NAME}, episode 1, rewards[2]: expected a finite number, got nan" in shown
    assert "toys/Other/expert-v0: sound" in shown
    main(ValidateArgs(("toys/Other/expert-v0",), root))


def test_validate_finds_what_cannot_even_be_opened(root, capsys):
    (root / NAME / "data" / "metadata.json").unlink()
    with pytest.raises(UserError, match="1 of 2 datasets"):
        main(ValidateArgs((), root))
    assert "metadata.json" in capsys.readouterr().out


def test_validate_does_not_drown_the_reader(tmp_path, capsys):
    write_dataset(tmp_path, NAME, map(make_episode, range(60)), OBSERVATIONS, ACTIONS["discrete"], METADATA)
    with h5py.File(tmp_path / NAME / "data" / "main_data.hdf5", "a") as file:
        for index in range(60):
            file[f"episode_{index}/rewards"][0] = np.inf
    with pytest.raises(UserError):
        main(ValidateArgs((), tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{NAME}: 60 problems"
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 52


@pytest.mark.parametrize("command", [ShowArgs("toys/Al/expert-v0"), ValidateArgs(("toys/Al/expert-v0",))])
def test_unknown_datasets_are_named_with_similar_ones(root, command):
    with pytest.raises(UserError, match="did you mean toys/All/expert-v0"):
        main(Args(type(command)(**{**vars(command), "data": root})))


def test_validate_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--data: expected a folder with datasets"):
        main(ValidateArgs((), tmp_path))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list", "--data", "x"], ListArgs(Path("x"))),
        (["show", "a/b-v0", "--steps", "5"], ShowArgs("a/b-v0", steps=5)),
        (["validate", "a", "b"], ValidateArgs(("a", "b"))),
        (["validate"], ValidateArgs()),
    ],
)
def test_the_command_line_reads_subcommands(words, expected):
    assert tyro.cli(Args, args=words).command == expected


@pytest.mark.parametrize(
    ("command", "words"), [("list", "Folder of datasets"), ("show", "first steps"), ("validate", "exit code")]
)
def test_every_subcommand_has_help(command, words, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Args, args=[command, "--help"])
    assert words in capsys.readouterr().out
