from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch

from factotum.core.checks import UserError
from factotum.training.checkpoint import (
    STATE,
    TENSORS,
    checkpoint_folder,
    latest_checkpoint,
    list_checkpoints,
    locked,
    read_checkpoint,
    remove_temporary,
    require_same,
    warn_of_versions,
    write_checkpoint,
)


def write(run: Path, step: int = 1, keep: int = 0, write_model=None, numbers: int = 4) -> Path:
    return write_checkpoint(
        run,
        step,
        write_model=write_model or (lambda folder: (folder / "model.bin").write_bytes(b"weights")),
        tensors={"optimizer/a/exp_avg": torch.arange(numbers).float()},
        state={"feedback": {"level": 0.1}},
        keep=keep,
    )


def test_what_is_written_is_read_back(tmp_path):
    folder = write(tmp_path, 1000)
    assert folder == tmp_path / "checkpoints" / "step-00001000"
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", STATE, TENSORS]
    tensors, state = read_checkpoint(folder)
    assert tensors["optimizer/a/exp_avg"].tolist() == [0, 1, 2, 3]
    assert (state["step"], state["format_version"], state["feedback"]) == (1000, 1, {"level": 0.1})
    assert state["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_the_newest_few_stay(tmp_path):
    for step in (1, 2, 10, 300):
        write(tmp_path, step, keep=2)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000300"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000300"]
    assert latest_checkpoint(tmp_path) == checkpoint_folder(tmp_path, 300)


def test_without_checkpoints_there_is_no_latest(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_what_a_kill_left_is_ignored_and_removed(tmp_path):
    folder = write(tmp_path, 1)
    for name in ("step-00000002.tmp", ".step-00000001.old"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / STATE).write_text("{}")
    assert list_checkpoints(tmp_path) == [folder]
    remove_temporary(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == [folder]


@pytest.mark.parametrize("name", [STATE, TENSORS, "model.bin"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    path = write(tmp_path) / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(UserError) as caught:
        read_checkpoint(path.parent)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_format_version_is_refused(tmp_path):
    path = write(tmp_path) / STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(UserError, match="expected format_version 1, got 2"):
        read_checkpoint(path.parent)


def full_disk(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"wei")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.bin"))


def test_a_full_disk_is_one_line_and_harms_nothing(tmp_path):
    earlier = write(tmp_path, 1)
    with pytest.raises(UserError) as caught:
        write(tmp_path, 2, keep=1, write_model=full_disk)
    message = str(caught.value)
    assert "step-00000002: No space left on device" in message
    assert message.endswith("step-00000001 is unharmed")
    assert "\n" not in message
    read_checkpoint(earlier)
    assert list((tmp_path / "checkpoints").iterdir()) == [earlier]


def test_tensors_that_do_not_fit_are_one_line_too(tmp_path):
    """A real failing write: the system refuses files above a size."""
    earlier = write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*step-00000002: .*unharmed"):
            write(tmp_path, 2, numbers=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "checkpoints").iterdir()) == [earlier]


def test_an_error_of_the_model_is_not_taken_for_the_disks(tmp_path):
    def broken(folder: Path) -> None:
        raise KeyError("norm.weight")

    with pytest.raises(KeyError):
        write(tmp_path, 1, write_model=broken)


def test_missing_and_new_fields_count_as_changes():
    with pytest.raises(UserError, match=r"config\.width was None and is now 8"):
        require_same({}, {"width": 8}, where="config")
    with pytest.raises(UserError, match=r"config\.width was 8 and is now None"):
        require_same({"width": 8}, {}, where="config")
    require_same({"width": 8, "threads": 1}, {"width": 8, "threads": 2}, ignored=frozenset({"threads"}))


def test_other_versions_are_warned_of(tmp_path):
    _, state = read_checkpoint(write(tmp_path))
    with pytest.warns(UserWarning, match=r"written with torch 0\.1"):
        warn_of_versions({**state["versions"], "torch": "0.1"}, tmp_path)


def test_a_lock_ends_with_its_block(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(UserError, match="another process"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass
