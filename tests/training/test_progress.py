from __future__ import annotations

import io

import pytest

from factotum.training.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_ten_seconds_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "train", "tokens", stream=stream, clock=clock) as bar:
        for _ in range(50):
            clock.now += 0.5
            bar.advance(amount=500, note="loss 0.25")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "train 20/100  1,000 tokens/s  40 s left  loss 0.25"
    assert lines[-1] == "train 50/100  1,000 tokens/s  25 s left  loss 0.25"


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress(10, "collect", "episodes", stream=stream) as bar:
        bar.advance(10)
    assert "collect" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "episodes/s" in stream.getvalue()


def test_what_an_earlier_run_did_is_not_in_the_rate():
    clock = Clock()
    bar = Progress(100, "train", done=90, stream=io.StringIO(), clock=clock)
    clock.now = 2.0
    bar.advance(4)
    assert bar.rates() == (2.0, 2.0)
    assert bar.status() == "2.0 steps/s  3 s left"


def test_the_rate_follows_a_change():
    clock = Clock()
    bar = Progress(10_000, "train", stream=io.StringIO(), clock=clock)
    for rate in (1, 100):
        for _ in range(100):
            clock.now += 1.0
            bar.advance(rate)
    assert bar.rates()[0] == pytest.approx(100)


def test_quiet_shows_nothing():
    stream = io.StringIO()
    with Progress(1, "train", stream=stream, plain_every=0, quiet=True) as bar:
        bar.advance()
    assert stream.getvalue() == ""


def test_before_the_first_step_the_time_left_is_unknown():
    assert Progress(5, "train", stream=io.StringIO(), clock=Clock()).status() == "0.0 steps/s  ? left"


def test_durations():
    assert [duration(s) for s in (0, 59.4, 60, 3600)] == ["0 s", "59 s", "1 min 00 s", "1 h 00 min"]
