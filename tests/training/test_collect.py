from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest

from factotum.core import files
from factotum.core.checks import UserError
from factotum.training import collect as module
from factotum.training.collect import Collected, collect, expert_return, return_threshold
from factotum.training.evaluate import FIRST_SEED
from factotum.training.parts import Outcome, exclusive, read_parts, write_part


def score_of(seed: int) -> float | None:
    """Every fifth seed fails; the others score 0.0 to 0.9."""
    return None if seed % 5 == 4 else (seed * 7 % 10) / 10


def play(seeds: Sequence[int], log: Path | None = None, pause: float = 0.0) -> tuple[bytes, list[Outcome]]:
    time.sleep(pause)
    if log is not None:
        with open(log, "a") as file:
            file.write("".join(f"{seed}\n" for seed in seeds))
    outcomes = [Outcome(seed, score_of(seed), "" if score_of(seed) is not None else "hung") for seed in seeds]
    return b"".join(b"<%d>" % seed for seed in seeds if score_of(seed) is not None), outcomes


def run(folder: Path, episodes: int = 30, run_chunk=play, **options) -> Collected:
    options = {"jobs": 1, "chunk": 4, "settings": {"task": "toy"}, **options}
    return collect(run_chunk, folder=folder, episodes=episodes, **options)


def essence(result: Collected) -> tuple:
    kept = set(result.kept)
    packed = b"".join(part.read() for part in result.parts)
    episodes = [seed for seed in map(int, packed.decode().strip("<>").split("><")) if seed in kept]
    return result.kept, result.discarded, result.threshold, result.expert_return, result.next_seed, episodes


def test_the_first_episodes_that_pass_are_kept_in_order(tmp_path):
    result = run(tmp_path, expert=1.0, share=0.5)
    passing = [seed for seed in range(200) if score_of(seed) is not None and score_of(seed) >= 0.5]
    assert list(result.kept) == passing[:30]
    assert result.next_seed == passing[29] + 1
    below = [seed for seed in range(result.next_seed) if seed not in result.kept]
    assert [outcome.seed for outcome in result.discarded] == below
    assert {outcome.reason for outcome in result.discarded if outcome.score is None} == {"hung"}
    assert essence(result)[-1] == passing[:30]


def test_nothing_is_filtered_without_a_share(tmp_path):
    result = run(tmp_path)
    assert list(result.kept) == [seed for seed in range(200) if score_of(seed) is not None][:30]
    assert result.threshold is None
    assert result.expert_return is None


def test_without_a_reference_the_papers_expert_return_is_used(tmp_path):
    result = run(tmp_path, share=0.8)
    planned = max(outcome.seed for part in result.parts for outcome in part.outcomes) + 1
    scores = [score_of(seed) for seed in range(planned) if score_of(seed) is not None]
    assert result.expert_return == expert_return(scores)
    assert result.threshold == return_threshold(result.expert_return, 0.8)
    assert min(score_of(seed) for seed in result.kept) >= result.threshold


@pytest.mark.parametrize("options", [{"jobs": 2}, {"jobs": 2, "chunk": 1}, {"chunk": 7}, {"chunk": 1000}])
@pytest.mark.parametrize("expert", [None, 1.0])
def test_the_result_does_not_depend_on_processes_or_chunks(tmp_path, options, expert):
    plain = run(tmp_path / "plain", episodes=60, expert=expert, share=0.7)
    other = run(tmp_path / "other", episodes=60, expert=expert, share=0.7, **options)
    assert essence(plain) == essence(other)


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_the_back_end_comes_from_outside(tmp_path, backend):
    seen = tmp_path / "seen"
    with joblib.parallel_config(backend=backend, n_jobs=2):
        result = run(tmp_path / "a", jobs=None, run_chunk=partial(note_worker, seen))
    workers = {tuple(map(int, line.split())) for line in seen.read_text().splitlines()}
    if backend == "threading":
        assert {pid for pid, _ in workers} == {os.getpid()}
        assert threading.get_ident() not in {thread for _, thread in workers}
    else:
        assert os.getpid() not in {pid for pid, _ in workers}
    assert essence(result) == essence(run(tmp_path / "b"))


def note_worker(path: Path, seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {threading.get_ident()}\n")
    return play(seeds)


def test_workers_use_one_thread_each(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen = tmp_path / "seen"
    run(tmp_path / "a", run_chunk=partial(note_threads, seen), jobs=2)
    assert set(seen.read_text().splitlines()) == {"1 PASSIVE"}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def note_threads(path: Path, seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    with open(path, "a") as file:
        file.write(f"{os.environ['OMP_NUM_THREADS']} {os.environ['OMP_WAIT_POLICY']}\n")
    return play(seeds)


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from tests.training.test_collect import play, run
from factotum.training import collect as module
count = 0
real = module.write_part
def write_part(*arguments):
    global count
    part = real(*arguments)
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return part
module.write_part = write_part
run(Path(sys.argv[1]), 60, partial(play, log=Path(sys.argv[2])), expert=1.0, share=0.7, jobs=int(sys.argv[4]))
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_kill_nothing_finished_is_lost_or_played_twice(tmp_path, jobs):
    folder, log = tmp_path / "parts", tmp_path / "log"
    for kills in (3, 5):
        arguments = [folder, log, str(kills), str(jobs)]
        with open(tmp_path / "errors", "wb") as errors:  # not a pipe: a worker may outlive the killed process
            command = [sys.executable, "-c", KILLED, *arguments]
            killed = subprocess.run(command, check=False, stdout=errors, stderr=errors, timeout=100)
        assert killed.returncode == -signal.SIGKILL, (tmp_path / "errors").read_text()
    parts = read_parts(folder)
    assert len(parts) == 8
    finished = [outcome.seed for part in parts for outcome in part.outcomes]
    assert len(set(finished)) == len(finished)
    again = tmp_path / "again"  # not the same log: an orphaned worker may still write into that one
    resumed = run(folder, 60, partial(play, log=again), expert=1.0, share=0.7)
    played = [int(line) for line in again.read_text().split()]
    assert not set(played) & set(finished)
    assert len(played) == len(set(played))
    assert essence(resumed) == essence(run(tmp_path / "plain", 60, expert=1.0, share=0.7))


def test_a_second_call_plays_nothing(tmp_path):
    first = run(tmp_path)
    log = tmp_path / "log"
    assert essence(run(tmp_path, run_chunk=partial(play, log=log))) == essence(first)
    assert not log.exists()


def test_a_full_disk_leaves_the_parts_before(tmp_path, monkeypatch):
    real, count = files.os.replace, 0

    def replace(source, target):
        nonlocal count
        count += str(target).endswith(".part")
        if count > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(UserError, match="No space left on device"):
            run(tmp_path / "a")
    assert len(read_parts(tmp_path / "a")) == 3
    assert not list((tmp_path / "a").glob("*.tmp"))
    assert essence(run(tmp_path / "a")) == essence(run(tmp_path / "b"))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-2], lambda data: data[:10], lambda data: b"", lambda data: data + b"x"]
)
def test_a_damaged_part_is_played_again(tmp_path, damage):
    whole = essence(run(tmp_path))
    path = sorted(tmp_path.glob("*.part"))[2]
    path.write_bytes(damage(path.read_bytes()))
    log = tmp_path / "log"
    assert essence(run(tmp_path, run_chunk=partial(play, log=log))) == whole
    assert [int(line) for line in log.read_text().split()] == [8, 9, 10, 11]


def test_torn_temporary_files_are_removed(tmp_path):
    (tmp_path / ".0000000000.part.123.tmp").write_bytes(b"half")
    run(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_parts_of_other_settings_are_not_taken_up(tmp_path):
    run(tmp_path, settings={"noise": 0.0})
    with pytest.raises(UserError, match=r"noise 0\.0 instead of 0\.5"):
        run(tmp_path, settings={"noise": 0.5})


def test_two_processes_do_not_share_a_folder(tmp_path):
    with exclusive(tmp_path), pytest.raises(UserError, match="another process"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def bad(seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    return b"", [Outcome(seed, 0.1 if seed % 3 else None, "" if seed % 3 else "hung") for seed in seeds]


@pytest.mark.parametrize("episodes", [1, 50, 100_000])
def test_a_task_that_hardly_ever_passes_fails_early_and_clearly(tmp_path, episodes):
    with pytest.raises(UserError) as caught:
        run(tmp_path, episodes, bad, expert=1.0, share=0.8, title="toy")
    message = str(caught.value)
    assert "toy: expected to keep at least 5% of the episodes, kept 0 of 100" in message
    assert "66 scored below 0.8" in message
    assert "34 failed (hung)" in message
    assert sum(len(part.outcomes) for part in read_parts(tmp_path)) == 100


def test_six_percent_is_enough(tmp_path):
    def rare(seeds):
        return b"", [Outcome(seed, float(seed % 16 == 0)) for seed in seeds]

    assert run(tmp_path, 20, rare, expert=1.0, share=0.8).kept == tuple(range(0, 320, 16))


@pytest.mark.parametrize("first", [-1, FIRST_SEED - 5, FIRST_SEED])
def test_seeds_for_evaluation_are_never_played(tmp_path, first):
    with pytest.raises(UserError, match="expected training seeds from 0 to 999999999"):
        run(tmp_path, first_seed=first)
    assert read_parts(tmp_path) == []


def test_the_first_seed_is_where_it_starts(tmp_path):
    assert run(tmp_path, 3, first_seed=1000).kept == (1000, 1001, 1002)


def hang(seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    time.sleep(0 if seeds[0] < 8 else 600)
    return play(seeds)


def test_a_hung_worker_is_bounded_and_what_finished_stays(tmp_path):
    with pytest.raises(UserError, match=r"no chunk finished within 2 s.*run again"):
        run(tmp_path, run_chunk=hang, jobs=2, chunk_seconds=2)
    assert len(read_parts(tmp_path)) >= 1
    assert essence(run(tmp_path)) == essence(run(tmp_path / "plain"))


def die(seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    if seeds[0] >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return play(seeds)


def test_a_worker_that_dies_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"a worker died.*run again"):
        run(tmp_path, run_chunk=die, jobs=2)
    assert essence(run(tmp_path)) == essence(run(tmp_path / "plain"))


def refuse(seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
    raise UserError("the suite is wrong")


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_workers_come_through(tmp_path, jobs):
    with pytest.raises(UserError, match="the suite is wrong"):
        run(tmp_path, run_chunk=refuse, jobs=jobs)


def test_results_that_wait_are_bounded(tmp_path, monkeypatch):
    """While a result is being written, at most a wave of chunks has been played."""
    played, written = [], []
    real = module.write_part

    def count_play(seeds):
        played.append(seeds)
        return play(seeds)

    def slow_write(*arguments):
        time.sleep(0.01)
        written.append(len(played) - len(written))
        return real(*arguments)

    monkeypatch.setattr(module, "write_part", slow_write)
    monkeypatch.setattr(module, "CHUNKS_A_WAVE", 4)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        run(tmp_path, 160, count_play, jobs=None, chunk=1)
    assert len(written) >= 200
    assert max(written) <= 8


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([3.0], 3.0),
        ([1.0] * 9 + [5.0], 5.0),  # W = 1
        ([0.0] * 18 + [4.0, 2.0], 3.0),  # W = 2
        (list(range(100)), np.mean(range(90, 100))),  # W = 10
        ([1.0] * 5000 + [0.0] * 15000, 1.0),  # W = 1000
        ([0.0] * 10000 + [1.0] * 500 + [0.0] * 9500, 0.5),  # W = 1000, and not 2000
        ([-5.0, -3.0, -4.0], -3.0),
    ],
)
def test_expert_return_is_the_best_windowed_mean(returns, expected):
    assert expert_return(returns) == pytest.approx(expected)


def test_expert_return_agrees_with_the_definition():
    returns = np.random.default_rng(0).normal(size=237)
    window = 23
    naive = max(returns[j : j + window].mean() for j in range(len(returns) - window + 1))
    assert expert_return(returns) == pytest.approx(naive)


def test_expert_return_of_nothing():
    with pytest.raises(ValueError, match="at least one return"):
        expert_return([])


def test_the_threshold_lies_below_the_expert_on_both_sides_of_zero():
    assert return_threshold(10.0, 0.8) == pytest.approx(8.0)
    assert return_threshold(-10.0, 0.8) == pytest.approx(-12.0)
    assert return_threshold(0.0, 0.8) == 0.0


def test_a_part_gives_back_what_was_written(tmp_path):
    payload = bytes(range(256)) * 3
    write_part(tmp_path, payload, [Outcome(3, 0.1 + 0.2), Outcome(4, None, 'odd "reason"\n')])
    (part,) = read_parts(tmp_path)
    assert part.read() == payload
    assert part.outcomes == (Outcome(3, 0.1 + 0.2), Outcome(4, None, 'odd "reason"\n'))


@pytest.mark.parametrize(("count", "size"), [(100, 16), (16, 16), (3, 16), (1, 16), (97, 5), (0, 16)])
def test_chunks_are_as_many_for_one_process_as_for_another(count, size):
    seeds = list(range(7, 7 + count))
    chunks = module._chunks(seeds, size, 2)
    assert [seed for chunk in chunks for seed in chunk] == seeds
    assert all(len(chunk) <= size for chunk in chunks)
    assert len(chunks) % 2 == 0 or count < 2
