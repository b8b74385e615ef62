"""A progress bar with rate and time left; plain lines where there is no terminal. Knows no model."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows how far long work is, how fast it goes and how long it still takes.

    Args:
        total: steps in all.
        title: what is going on.
        unit: what the rate counts, for example "tokens"; steps when `advance` is given no amount.
        done: steps that an earlier run made.
        stream: where to; standard error by default.
        plain_every: seconds between lines where the stream is no terminal.
        quiet: show nothing (ranks other than the main one).
        clock: seconds, for tests.

    >>> with Progress(2, "train", "tokens", stream=sys.stdout, plain_every=0) as bar:  # doctest: +ELLIPSIS
    ...     bar.advance(amount=100, note="loss 0.5")
    train 1/2 ... loss 0.5
    train 1/2 ... loss 0.5
    """

    def __init__(
        self,
        total: int,
        title: str,
        unit: str = "steps",
        *,
        done: int = 0,
        stream: TextIO | None = None,
        plain_every: float = 10.0,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.title, self.unit, self.done = total, title, unit, done
        self.stream = sys.stderr if stream is None else stream
        self.plain_every, self.quiet, self.clock = plain_every, quiet, clock
        self.note, self.amount, self.last_line = "", 0.0, clock()
        self.history = deque([(clock(), done, 0.0)], maxlen=50)
        self.bar = self._rich() if not quiet and self.stream.isatty() else None

    def _rich(self) -> RichProgress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
        )
        bar = RichProgress(*columns, console=Console(file=self.stream))
        bar.add_task(self.title, total=self.total, completed=self.done, status="")
        return bar

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif not self.quiet:
            self._print()

    def advance(self, steps: int = 1, *, amount: float | None = None, note: str | None = None) -> None:
        """Count finished steps.

        Args:
            steps: how many.
            amount: what was worked off, in `unit`; the steps themselves by default.
            note: text shown last; the one before stays when None.
        """
        self.done += steps
        self.amount += steps if amount is None else amount
        self.note = self.note if note is None else note
        now = self.clock()
        # The rate is over about the last minute: points at least a second apart, fifty of them.
        if now - self.history[-1][0] >= 1.0 or len(self.history) == 1:
            self.history.append((now, self.done, self.amount))
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, status=self.status())
        elif not self.quiet and now - self.last_line >= self.plain_every:
            self.last_line = now
            self._print()

    def rates(self) -> tuple[float, float]:
        """Steps and units a second, lately; zeros before the first step."""
        started, done, amount = self.history[0]
        seconds = max(self.clock() - started, 1e-9)
        return (self.done - done) / seconds, (self.amount - amount) / seconds

    def status(self) -> str:
        """Rate, time left and note in one line."""
        steps_rate, rate = self.rates()
        left = duration((self.total - self.done) / steps_rate) if steps_rate else "?"
        return f"{rate:,.{0 if rate >= 100 else 1}f} {self.unit}/s  {left} left  {self.note}".rstrip()

    def _print(self) -> None:
        print(f"{self.title} {self.done}/{self.total}  {self.status()}", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds as text.

    >>> duration(9), duration(75), duration(7384)
    ('9 s', '1 min 15 s', '2 h 03 min')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02d} min"
    return f"{minute} min {second:02d} s" if minute else f"{second} s"
