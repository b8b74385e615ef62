from __future__ import annotations

import threading

import pytest

from factotum.training.prefetch import Prefetcher


def test_one_batch_ahead_in_another_thread():
    made, release = [], threading.Event()

    def make(step: int, micro: int):
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 1:
            assert release.wait(60)
        return step

    with Prefetcher(make, 0, 5) as batches:
        assert batches.take() == 0  # although the next one is not done
        release.set()
        assert batches.take() == 1
        assert batches.take() == 2
    assert len(made) in (3, 4)
    assert not any(main for _, main in made)


def test_before_step_runs_while_the_thread_is_idle_two_takes_early():
    events = []

    def make(step: int, micro: int):
        events.append(("make", step, micro))
        return step, micro

    with Prefetcher(make, 3, 6, 2, lambda step: events.append(("before", step))) as batches:
        taken = [batches.take() for _ in range(6)]
    assert taken == [(step, micro) for step in (3, 4, 5) for micro in (0, 1)]
    expected = [[("before", step), ("make", step, 0), ("make", step, 1)] for step in (3, 4, 5)]
    assert events == [event for events in expected for event in events]


def test_an_exception_comes_out_of_take():
    def make(step: int, micro: int):
        if step == 1:
            raise KeyError("torn")
        return step

    with Prefetcher(make, 0, 3) as batches:
        assert batches.take() == 0
        with pytest.raises(KeyError, match="torn"):
            batches.take()


def test_waiting_is_timed():
    gate = threading.Event()
    with Prefetcher(lambda step, micro: gate.wait(0.5), 0, 1) as batches:
        batches.take()
        assert batches.waited >= 0.1
