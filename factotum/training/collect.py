"""Gathers episodes over many processes, in parts that a kill cannot tear. Knows no task and no file format.

Seeds are worked off in chunks. Each finished chunk becomes one part file, written whole or not at all; a
later run takes up the parts it finds and plays only the seeds that are missing. What is kept depends on the
scores in the order of the seeds alone: not on the number of processes, the chunk size or interruptions.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from factotum.core.checks import UserError
from factotum.training.evaluate import FIRST_SEED
from factotum.training.parts import Outcome, Part, check_settings, read_parts, write_part
from factotum.training.progress import Progress

LEAST_KEPT = 0.05
"""Share of episodes that must pass the filter, or collecting fails."""

JUDGED_FROM = 100
"""Episodes after which that share is looked at."""

CHUNKS_A_WAVE = 32
"""Chunks handed out per process before their results are waited for: bounds what waits in memory."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Set for workers: two threads in each of two processes on two cores run several times slower than one."""


TIMEOUTS = (TimeoutError, multiprocessing.TimeoutError, concurrent.futures.TimeoutError)
"""What joblib's back ends raise when a result does not come in time."""

RunChunk = Callable[[Sequence[int]], tuple[bytes, list[Outcome]]]
"""Plays the episodes of some seeds; returns them packed in whatever format, and an outcome for each seed."""


@dataclass(frozen=True)
class Collected:
    """The result of `collect`.

    Args:
        parts: in the order of their seeds.
        kept: seeds of the episodes that passed the filter, ascending, as many as were asked for.
        discarded: outcomes of the other seeds below the last kept one.
        expert_return: what the filter compared with; None where nothing was filtered.
        threshold: least score that was kept; None where nothing was filtered.
        next_seed: where a later collection goes on.
    """

    parts: tuple[Part, ...]
    kept: tuple[int, ...]
    discarded: tuple[Outcome, ...]
    expert_return: float | None
    threshold: float | None
    next_seed: int


def expert_return(returns: Sequence[float]) -> float:
    r"""The best windowed mean return of a source agent.

    $\max_j \frac{1}{W} \sum_{i=j}^{j+W-1} R_i$, with $W = \min(1000, 0.1 N)$ and $N$ episodes in order.

    Args:
        returns: N returns.

    Returns:
        The expert return; W is rounded down and at least 1.

    Raises:
        ValueError: no returns.

    >>> expert_return([0.0] * 10 + [1.0, 2.0] + [0.0] * 8)
    1.5

    Reference: Reed et al., A Generalist Agent, arXiv 2205.06175, section on filtering by expert return.
    Differs from the paper: its text says "10 % of the episodes, or a minimum of 1000", its formula a minimum
    *of the two*; this is the formula.
    """
    if len(returns) == 0:
        raise ValueError("expected at least one return, got none")
    window = max(1, int(min(1000, 0.1 * len(returns))))
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(returns, np.float64)]))
    return float((sums[window:] - sums[:-window]).max() / window)


def return_threshold(expert: float, share: float) -> float:
    r"""Least return that the filter keeps, $E - (1 - \rho) |E|$: the paper's $\rho E$ where $E \ge 0$.

    Args:
        expert: expert return E.
        share: $\rho$, 0.8 in the paper.

    >>> return_threshold(100.0, 0.8), return_threshold(-100.0, 0.8)
    (80.0, -120.0)

    Differs from the paper: it does not say what happens below zero, where 0.8 E is *above* E.
    """
    return expert - (1.0 - share) * abs(expert)


def collect(
    run_chunk: RunChunk,
    *,
    folder: Path | str,
    settings: dict[str, Any],
    episodes: int,
    first_seed: int = 0,
    chunk: int = 16,
    jobs: int | None = None,
    expert: float | None = None,
    share: float = 0.0,
    chunk_seconds: float | None = None,
    title: str = "collect",
) -> Collected:
    """Play seeds from `first_seed` on until enough episodes pass the filter.

    The joblib back end is what `joblib.parallel_config` says outside: local processes, Dask or Ray.

    Args:
        run_chunk: plays one chunk; must be picklable.
        folder: where the parts lie.
        settings: all that decides what an episode looks like; parts of other settings are not taken up.
        episodes: how many to keep.
        first_seed: of the first episode.
        chunk: seeds in one part.
        jobs: processes; by default what `joblib.parallel_config` says, else all cores.
        expert: expert return for the filter; by default `expert_return` of the scores.
        share: least share of the expert return to keep an episode; 0 keeps all.
        chunk_seconds: longest time in which no chunk finishes before the run gives up.
        title: what the progress bar calls this.

    Returns:
        Which seeds are kept, and the parts that hold their episodes.

    Raises:
        UserError: fewer than 5 % of the episodes pass, parts of other settings are there, another process
            collects into the same folder, a worker died or hung, or the disk is full. Finished parts stay.
    """
    folder = Path(folder)
    check_settings(folder, settings)
    parts = read_parts(folder)
    threshold = return_threshold(expert, share) if share and expert is not None else None
    planned = min(episodes, JUDGED_FROM)
    while True:
        seeds = range(first_seed, first_seed + planned)
        _check_seeds(seeds)
        done = [outcome for part in parts for outcome in part.outcomes if outcome.seed in seeds]
        chunks = _chunks(sorted(set(seeds) - {outcome.seed for outcome in done}), chunk, jobs)
        kept = sum(_passes(outcome, threshold) for outcome in done)
        with Progress(planned, title, "episodes", done=len(done)) as bar:
            for payload, outcomes in _results(run_chunk, chunks, jobs, chunk_seconds, folder):
                parts.append(write_part(folder, payload, outcomes))
                kept += sum(_passes(outcome, threshold) for outcome in outcomes)
                bar.advance(len(outcomes), note=f"{kept} kept")
        result = _select(parts, seeds, episodes, expert, share)
        if len(result.kept) == episodes:
            return result
        planned += _more(result, planned, episodes, f"{title}: ", folder)


def _check_seeds(seeds: range) -> None:
    if seeds.start < 0 or seeds.stop > FIRST_SEED:
        raise UserError(
            f"expected training seeds from 0 to {FIRST_SEED - 1}, got {seeds.start} to {seeds.stop - 1}: "
            "higher ones are for evaluation"
        )


def _chunks(seeds: list[int], size: int, jobs: int | None) -> list[list[int]]:
    """Runs of consecutive seeds of at most `size`, as many for one process as for another."""
    processes = joblib.effective_n_jobs(_n_jobs(jobs))
    rounds = -(-len(seeds) // (size * processes))
    size = -(-len(seeds) // max(1, rounds * processes))
    chunks: list[list[int]] = []
    for seed in seeds:
        if chunks and len(chunks[-1]) < size and chunks[-1][-1] == seed - 1:
            chunks[-1].append(seed)
        else:
            chunks.append([seed])
    return chunks


def _n_jobs(jobs: int | None) -> int:
    configured = joblib.parallel.get_active_backend()[1]
    return jobs if jobs is not None else configured if configured is not None else -1


def _results(
    run_chunk: RunChunk, chunks: list[list[int]], jobs: int | None, seconds: float | None, folder: Path
) -> Iterator[tuple[bytes, list[Outcome]]]:
    """Results as they come, in waves that bound how many wait in memory."""
    backend = joblib.parallel.get_active_backend()[0]
    unordered = getattr(backend, "supports_return_generator", False)
    processes = joblib.effective_n_jobs(_n_jobs(jobs))
    wave = CHUNKS_A_WAVE * processes
    for start in range(0, len(chunks), wave):
        work = (
            joblib.delayed(_run_in_worker)(run_chunk, seeds, os.getpid())
            for seeds in chunks[start : start + wave]
        )
        parallel = joblib.Parallel(
            n_jobs=_n_jobs(jobs),
            batch_size=1,
            pre_dispatch="2 * n_jobs",
            return_as="generator_unordered" if unordered else "list",
            timeout=seconds if processes > 1 else None,
        )
        try:
            with _one_thread():
                yield from parallel(work)
        except TIMEOUTS as error:
            raise UserError(
                f"no chunk finished within {seconds:g} s; what finished is in {folder}, run again to go on"
            ) from error
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker died, out of memory perhaps; what finished is in {folder}, run again to go on"
            ) from error


_watching: list[threading.Thread] = []


def _run_in_worker(run_chunk: RunChunk, seeds: list[int], main_process: int) -> tuple[bytes, list[Outcome]]:
    """Play a chunk, in a process that ends with the one that started it (joblib's would wait 5 minutes)."""
    if os.getppid() == main_process and not _watching:
        _watching.append(threading.Thread(target=_end_with, args=(main_process,), daemon=True))
        _watching[0].start()
    return run_chunk(seeds)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start inside use one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _passes(outcome: Outcome, threshold: float | None) -> bool:
    return outcome.score is not None and (threshold is None or outcome.score >= threshold)


def _select(
    parts: Iterable[Part], seeds: range, episodes: int, expert: float | None, share: float
) -> Collected:
    """The first `episodes` of those seeds that pass, and what came before the last of them."""
    parts = tuple(sorted(parts, key=lambda part: part.outcomes[0].seed))
    outcomes = [outcome for part in parts for outcome in part.outcomes if outcome.seed in seeds]
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    if share and expert is None and scores:
        expert = expert_return(scores)
    compared = expert if share else None
    threshold = None if compared is None else return_threshold(compared, share)
    kept = [outcome.seed for outcome in outcomes if _passes(outcome, threshold)][:episodes]
    end = kept[-1] + 1 if len(kept) == episodes else seeds.stop
    passed = set(kept)
    discarded = [outcome for outcome in outcomes if outcome.seed < end and outcome.seed not in passed]
    return Collected(parts, tuple(kept), tuple(discarded), compared, threshold, end)


def _more(result: Collected, planned: int, episodes: int, title: str, folder: Path) -> int:
    """How many more seeds to play, by the share kept so far."""
    kept = len(result.kept)
    if planned >= JUDGED_FROM and kept < LEAST_KEPT * planned:
        raise UserError(f"{title}{_complaint(result, planned)}; what was played is in {folder}")
    more = math.ceil((episodes - kept) / max(kept / planned, LEAST_KEPT))
    return more if planned >= JUDGED_FROM else min(more, JUDGED_FROM - planned)


def _complaint(result: Collected, planned: int) -> str:
    low = sum(outcome.score is not None for outcome in result.discarded)
    reasons = Counter(outcome.reason for outcome in result.discarded if outcome.score is None)
    why = [f"{low} scored below {result.threshold:g}"] if low else []
    why += [f"{count} failed ({reason})" for reason, count in reasons.most_common(3)]
    kept = f"kept {len(result.kept)} of {planned}"
    return f"expected to keep at least {LEAST_KEPT:.0%} of the episodes, {kept}: {', '.join(why)}"
