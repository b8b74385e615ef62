"""The replay against a list of all that was ever appended; kills, resumes and damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factotum.core.checks import UserError
from factotum.distill import replay_files
from factotum.distill.replay import TeacherReplay
from tests.distill.plays import Play

ROOT = Path(__file__).parents[2]


def replay_for(play, folder=None, capacity=50, **options):
    return TeacherReplay(folder, capacity, play.shape, play.frame[0], 2, dtype=play.dtype, **options)


def drawn(replay, play, count=800):
    """Numbers of the steps that come in so many draws, each equal to what was appended."""
    batch = replay.sample(count, np.random.default_rng(1))
    numbers = batch.label[:, 0].long().tolist()
    expected = np.stack([play.truths[number].observation for number in numbers])
    assert np.array_equal(batch.observation.numpy(), expected)
    assert batch.observation.numpy().dtype == expected.dtype
    return set(numbers)


def same(one, other):
    return torch.equal(one.observation, other.observation) and torch.equal(one.label, other.label)


plays = st.builds(
    Play,
    rows=st.integers(1, 4),
    stack=st.integers(1, 4),
    frame=st.sampled_from([(1, 2, 2), (2, 3), (3,)]),
    dtype=st.sampled_from(["uint8", "bool", "float32"]),
    filled=st.booleans(),
    seed=st.integers(0, 99),
)


@given(play=plays, capacity=st.integers(17, 60), steps=st.integers(1, 60))
@settings(max_examples=60)
def test_what_is_drawn_is_what_was_seen_and_the_newest_stay(play, capacity, steps):
    replay = replay_for(play, capacity=capacity)
    play.steps(replay, steps)
    numbers, count = drawn(replay, play), len(play.truths)
    assert len(replay) <= capacity
    if not play.filled:
        # slots beside steps: cut episodes' last observations; a stack needs its older frames
        cut = sum(truth.after is not None for truth in play.truths)
        assert numbers >= set(
            range(max(0, count - (capacity - min(cut, capacity) - play.stack * play.rows)), count)
        )
    assert min(numbers) >= count - capacity
    assert count - 1 in numbers


@given(play=plays, steps=st.integers(2, 60))
@settings(max_examples=60)
def test_transitions_are_what_happened_those_of_cut_episodes_among_them(play, steps):
    replay = replay_for(play, capacity=1000)
    play.steps(replay, steps)
    batch = replay.sample_transitions(3000, np.random.default_rng(0))
    numbers = {np.float32(truth.reward): number for number, truth in enumerate(play.truths)}
    found = [numbers[reward] for reward in batch.reward.numpy()]
    truths = [play.truths[number] for number in found]
    assert np.array_equal(batch.observation, [truth.observation for truth in truths])
    assert batch.action.tolist() == [truth.action for truth in truths]
    assert batch.terminated.tolist() == [truth.terminated for truth in truths]
    after = [truth.observation if truth.terminated else truth.after for truth in truths]
    assert np.array_equal(batch.next_observation, after)
    # what comes after the newest steps is not known yet, where an episode was cut one dummy step more
    assert set(range(len(play.truths) - 2 * play.rows)) <= set(found)


def test_every_step_has_the_same_chance():
    play = Play(rows=3, seed=5)
    replay = replay_for(play, capacity=40)
    play.steps(replay, 80)
    numbers = replay.sample(40_000, np.random.default_rng(0)).label[:, 0].long()
    counts = torch.bincount(numbers)
    counts = counts[counts > 0].double()
    expected = 40_000 / len(counts)
    assert len(counts) > 20
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 5 * (2 * len(counts)) ** 0.5


def test_frames_are_stored_once(tmp_path):
    play = Play(rows=4, stack=4, frame=(1, 32, 32), seed=1)
    with replay_for(play, tmp_path, capacity=1000, spare=1000) as replay:
        play.steps(replay, 100)
        assert len(replay) < 1.2 * len(play.truths)
    assert (tmp_path / "frames.bin").stat().st_size == 2000 * 32 * 32


@given(play=plays, capacity=st.integers(5, 40), pieces=st.lists(st.integers(0, 15), min_size=1, max_size=5))
@settings(max_examples=40)
def test_reopening_keeps_all_and_draws_the_same(tmp_path_factory, play, capacity, pieces):
    folder = tmp_path_factory.mktemp("replay")
    play.steps(replay := replay_for(play, folder, capacity, spare=16), 1)
    for steps in pieces:
        play.steps(replay, steps)
        expected = replay.sample(64, np.random.default_rng(3)) if steps else None
        position, length = replay.position(), len(replay)
        replay.close()
        replay = TeacherReplay.open(folder)
        assert (replay.position(), len(replay)) == (position, length)
        if expected is not None:
            assert same(replay.sample(64, np.random.default_rng(3)), expected)
            drawn(replay, play, 200)
    replay.close()


KILLED = """
import os, signal, sys
from tests.distill.plays import Play
from tests.distill.test_replay import replay_for
folder, before, after = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
play = Play(rows=3, seed=2)
replay = replay_for(play, folder, capacity=60, spare=24)
play.steps(replay, before)
replay.flush()
print(replay.position()["total"], flush=True)
play.steps(replay, after)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("before", "after"), [(10, 0), (10, 5), (60, 6), (60, 8), (60, 40), (61, 200)])
def test_a_kill_costs_what_came_since_the_last_flush_at_most(tmp_path, before, after):
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(before), str(after)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    twin, play = Play(rows=3, seed=2), Play(rows=3, seed=2)
    reference = replay_for(twin, capacity=60, spare=24)
    twin.steps(reference, before)
    with TeacherReplay.open(tmp_path) as replay:
        assert replay.total >= int(ran.stdout)
        while reference.total < replay.total:
            twin.step(reference)
        assert replay.position() == reference.position()
        draw = replay.sample(500, np.random.default_rng(0))
        assert same(draw, reference.sample(500, np.random.default_rng(0)))
        # a new life: what the killed one wrote beyond the flush is not taken for a past or a future
        play.truths = list(twin.truths)
        play.restart()
        play.steps(replay, 3)
        drawn(replay, play)
        transitions = replay.sample_transitions(500, np.random.default_rng(0))
        going = ~transitions.terminated
        assert torch.equal(transitions.observation[going][:, 1:], transitions.next_observation[going][:, :-1])


def test_going_back_is_as_if_what_followed_had_not_been(tmp_path):
    play, twin = Play(seed=3), Play(seed=3)
    replay, straight = replay_for(play, tmp_path, spare=32), replay_for(twin)
    for each, kept in ((play, replay), (twin, straight)):
        each.steps(kept, 40)
    position = json.loads(json.dumps(replay.position()))
    detour = Play(seed=4)
    detour.steps(replay, 12)
    replay.go_back(position)
    for each, kept in ((play, replay), (twin, straight)):
        each.steps(kept, 10)
    assert replay.position() == straight.position()
    assert same(replay.sample(300, np.random.default_rng(0)), straight.sample(300, np.random.default_rng(0)))
    with pytest.raises(UserError, match="expected a position up to"):
        replay.go_back({"total": 10**6, "low": 0, "last": []})


def test_going_far_back_keeps_what_is_still_there(tmp_path):
    play = Play(seed=3)
    replay = replay_for(play, tmp_path, spare=16)
    play.steps(replay, 40)
    position, count = replay.position(), len(play.truths)
    Play(seed=4).steps(replay, 20)
    replay.go_back(position)
    assert 0 < len(replay) < 50
    assert count - 1 in drawn(replay, play)
    replay.close()
    assert count - 1 in drawn(TeacherReplay.open(tmp_path), play)


def test_going_back_after_a_kill_knows_what_was_written_over(tmp_path):
    play = Play(seed=3)
    replay = replay_for(play, tmp_path, spare=16)
    play.steps(replay, 40)
    position, count = replay.position(), len(play.truths)
    play.steps(replay, 6)
    replay.flush()
    play.steps(replay, 7)
    replay._files.close()  # what a kill leaves
    replay = TeacherReplay.open(tmp_path)
    replay.go_back(position)
    assert 30 < len(replay) < 50
    assert count - 1 in drawn(replay, play)


def test_the_number_of_rows_may_change():
    play = Play(rows=2)
    replay = replay_for(play)
    play.steps(replay, 5)
    more = Play(rows=5, seed=1, truths=play.truths)
    more.steps(replay, 4)
    play.restart()
    play.steps(replay, 3)
    numbers = drawn(replay, play)
    assert min(numbers) < 10
    assert len(play.truths) - 1 in numbers


def filled_folder(folder):
    play = Play(seed=1)
    with replay_for(play, folder, spare=16) as replay:
        play.steps(replay, 60)
    return folder


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(folder, **changes):
    path = folder / "replay.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda f: [flip(f / "frames.bin", n) for n in range(0, 66 * 4, 4)],
            r"slot \d+ \(step \d+\) is damaged",
        ),
        (lambda f: [flip(f / "records.bin", 40 + n) for n in range(0, 66 * 56, 56)], "is damaged; remove"),
        (lambda f: os.truncate(f / "frames.bin", 100), r"frames.bin: expected 264 bytes, got 100 bytes"),
        (lambda f: (f / "records.bin").unlink(), r"records.bin: expected [\d,]+ bytes, got no file; remove"),
        (lambda f: (f / "replay.json").unlink(), "expected replay.json beside frames.bin|expected a file"),
        (lambda f: (f / "replay.json").write_text("{"), "expected JSON"),
        (lambda f: edit(f, format_version=99), "expected format version 1, got 99"),
        (lambda f: edit(f, total=10**9), "expected a replay's description"),
        (lambda f: edit(f, total="many"), "expected a replay's description"),
        (lambda f: edit(f, layout={"capacity": 3}), "expected a replay's description, got Layout"),
    ],
)
def test_damage_gives_one_clear_error(tmp_path, damage, complaint):
    damage(filled_folder(tmp_path / "replay"))
    with pytest.raises(UserError, match=complaint):
        TeacherReplay.open(tmp_path / "replay")


def test_a_missing_description_is_not_taken_for_a_new_replay(tmp_path):
    (filled_folder(tmp_path) / "replay.json").unlink()
    with pytest.raises(UserError, match=r"expected replay.json beside frames.bin, found none; remove"):
        replay_for(Play(), tmp_path)


def test_a_slot_beyond_the_window_may_be_torn(tmp_path):
    replay = replay_for(Play(seed=1), tmp_path, spare=16)
    Play(seed=1).steps(replay, 3)
    total = replay.total
    replay.close()
    path = tmp_path / "records.bin"
    flip(path, replay_files.read_head(tmp_path)[0].record.itemsize * total + 20)
    assert TeacherReplay.open(tmp_path).total == total


def test_another_layout_is_refused(tmp_path):
    filled_folder(tmp_path)
    with pytest.raises(UserError, match=r"expected a replay of Layout\(capacity=51"):
        replay_for(Play(), tmp_path, capacity=51, spare=16)


def test_two_at_a_time_are_refused(tmp_path):
    filled_folder(tmp_path)
    replay = TeacherReplay.open(tmp_path)
    with pytest.raises(UserError, match="another process has this replay open"):
        TeacherReplay.open(tmp_path)
    replay.close()
    TeacherReplay.open(tmp_path).close()


def test_a_full_disk_is_told_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot reserve 0.00 GB for .*frames.bin: No space left on device"):
        replay_for(Play(), tmp_path)
    monkeypatch.undo()
    play = Play()
    play.steps(replay := replay_for(play, tmp_path), 3)
    drawn(replay, play, 20)


def test_bad_appends_are_refused_and_leave_no_trace():
    play = Play(rows=2)
    replay = replay_for(play)
    with pytest.raises(UserError, match="expected steps to draw from, found none"):
        replay.sample(1, np.random.default_rng(0))
    play.steps(replay, 2)
    seen, first = play.seen, np.zeros(2, bool)
    moved = type("Moved", (), {"reward": np.zeros(2, np.float32), **dict.fromkeys(
        ("terminated", "truncated", "begun"), np.zeros(2, bool))})  # fmt: skip
    label, action = np.zeros((2, 2), np.float32), np.zeros(2, int)
    before = replay.position()
    for wrong, complaint in [
        (
            (seen[:, :3], first, label, action),
            r"expected observations of uint8 \(4, 2, 2\), got uint8 \(3, 2, 2\)",
        ),
        ((seen.astype(float), first, label, action), r"expected observations of uint8 .* got float64"),
        ((seen, first, label[:, :1], action), r"expected labels of shape \(2, 2\), got \(2, 1\)"),
        ((seen, first, None, action), r"expected labels of shape \(2, 2\), got None"),
        ((seen, first, label * np.nan, action), "labels: expected finite numbers, got nan"),
        ((seen, first, label, action[:1]), r"expected actions of shape \(2,\), got \(1,\)"),
        ((seen ^ 1, first, label, action), "expected stacks whose older frames are those of the step before"),
    ]:
        with pytest.raises(UserError, match=complaint):
            replay.append(*wrong, moved)
    assert replay.position() == before
    drawn(replay, play, 50)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ((0, (4, 2, 2), 1, 2), "a capacity and a spare from 1 on"),
        ((10, (), 1, 2), "expected a shape of observations"),
        ((10, (4, 2, 2), 3, 2), "frame_channels that divide the first of"),
        ((10, (4, 2, 2), 1, -1), "labels of 0 numbers or more"),
    ],
)
def test_senseless_sizes_are_refused(sizes, complaint):
    with pytest.raises((UserError, IndexError), match=complaint):
        TeacherReplay(None, *sizes)


def test_without_labels_and_with_continuous_actions():
    replay = TeacherReplay(None, 20, (3,), None, 0, dtype="float32", action_shape=(2,))
    generator = np.random.default_rng(0)
    no = np.zeros(2, bool)
    moved = type("Moved", (), {"reward": np.ones(2), "terminated": no, "truncated": no, "begun": no})
    first = ~no
    for _ in range(5):
        replay.append(
            generator.normal(size=(2, 3)).astype(np.float32),
            first,
            None,
            generator.normal(size=(2, 2)),
            moved,
        )
        first = no
    batch = replay.sample_transitions(4, generator)
    assert (batch.action.shape, batch.action.dtype) == ((4, 2), torch.float32)
    with pytest.raises(UserError, match="expected one with labels"):
        replay.sample(1, generator)
