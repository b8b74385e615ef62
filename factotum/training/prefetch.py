"""One batch ahead: a background thread makes the next batch while this one is used. Knows no model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Position = tuple[int, int]


class Prefetcher:
    """Takes batches (step, micro step) in order, makes one ahead, and times the waiting.

    The thread is idle whenever `before_step` runs, so a sampler changed there changes batches at a definite
    place, and a resumed run sees the same ones.

    Args:
        make: makes the batch of (step, micro step); its exception is raised by `take`.
        start: the first step.
        stop: the step after the last one.
        micro_steps: batches in a step.
        before_step: called with a step before its first batch is asked for.

    >>> with Prefetcher(lambda step, micro: (step, micro), 0, 2, 2) as batches:
    ...     [batches.take() for _ in range(4)]
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """

    def __init__(
        self,
        make: Callable[[int, int], Any],
        start: int,
        stop: int,
        micro_steps: int = 1,
        before_step: Callable[[int], None] = lambda step: None,
    ):
        self.make, self.stop, self.micro_steps, self.before_step = make, stop, micro_steps, before_step
        self.waited = 0.0
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self.next: Position = (start, 0)
        self.future: Future[Any] | None = None

    def take(self) -> Any:
        """The next batch; asks for the one after it."""
        if self.future is None:
            self._request()
        assert self.future is not None, "took more batches than there are"
        started = time.perf_counter()
        batch = self.future.result()
        self.waited += time.perf_counter() - started
        self.future = None
        self._request()
        return batch

    def _request(self) -> None:
        step, micro = self.next
        if step >= self.stop:
            return
        if micro == 0:
            self.before_step(step)
        self.future = self.pool.submit(self.make, step, micro)
        self.next = (step, micro + 1) if micro + 1 < self.micro_steps else (step + 1, 0)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
