from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, write_json_atomic
from factotum.training.evaluate import EpisodeResult
from factotum.training.provenance import read_commands, record_command
from factotum.training.records import episode_file, read_episodes
from factotum.training.report import write_report
from factotum.training.report_plots import collect_series, learning_curves, score_bars
from factotum.training.rollouts import Recorder
from factotum.training.summary import Yardstick, summarise

YARDSTICKS = {"random": Yardstick(0.0, "measured & stored"), "expert": Yardstick(1.0, "a paper")}
TASKS = ("babyai/GoTo", "gym/Taxi", "scenes/color")


def make_run(folder):
    for task in TASKS:
        for label in ("retrieve", "gato"):
            for seed in range(6):
                line = {
                    "task": task,
                    "agent": label,
                    "checkpoint": "abc",
                    "seed": seed,
                    "score": seed % 2,
                    "failed": False,
                }
                append_json_line(episode_file(folder / "evaluation", task), line)
        recorder = Recorder(0)
        for step in range(5):
            observation = {
                "instruction": "go to <the> ball",
                "image": np.full((16, 16, 3), 50 * step, np.uint8),
            }
            recorder(0, None, observation, step or None, 0.0, step == 4)
        recorder.save(folder / "videos", task, "gato", EpisodeResult(0, 0.5, 0.5, 4, True))
    for step in (10, 20, 30):
        losses = {f"loss/{task}": 3 / step for task in TASKS}
        timing = {"tokens_per_second": 1000.0, "data_wait_share": 0.01}
        append_json_line(
            folder / "metrics.jsonl", {"step": step, "loss": 3 / step, **losses, "timing": timing}
        )
    write_json_atomic(folder / "config.json", {"learning_rate": 0.125})
    record_command(folder, ["/usr/bin/factotum", "evaluate", "runs/a b"])
    references = dict.fromkeys(TASKS[:2], YARDSTICKS)
    return summarise(read_episodes(folder / "evaluation"), references, jat_score={"babyai/GoTo": 0.75}.get)


class Checker(HTMLParser):
    """Counts what is open and collects what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run-7")
    path = write_report(folder, make_run(folder), notes=["a note"])
    checker = Checker()
    checker.feed(path.read_text())
    return path.read_text(), checker


def test_well_formed_and_linked_to_nothing(report):
    text, checker = report
    assert checker.open == []
    assert all(link.startswith(("data:", "#")) for link in checker.links)
    assert not re.search(r"https?://|@import|<script", text)


def test_says_all_that_is_known(report):
    _, checker = report
    for words in (
        *("Learning curves", "Rollouts", "a note", "babyai/GoTo", "“go to <the> ball”", "0.75"),
        *("not normalised: no random and expert score known", "factotum evaluate 'runs/a b'"),
        *("0.125", "torch", "numpy", "measured & stored", "0 to 5", "2 tasks", "IQM"),
    ):
        assert words in checker.text, words


def test_every_family_has_its_pictures(report):
    _, checker = report
    pictures = [link[:15] for link in checker.links if link.startswith("data:")]
    assert pictures.count("data:image/png;") == len(TASKS)
    for family in ("babyai", "gym", "scenes"):
        assert f"{family}/" in checker.text


def test_the_normalised_score_and_its_interval_are_in_the_row(report):
    text, _ = report
    row = next(line for line in re.findall(r"<tr>.*?</tr>", text) if "gym/Taxi" in line)
    assert "0.50 <span" in row
    assert row.count("0.50") == 3  # retrieve, gato, normalised


def test_metrics_alone_or_episodes_alone_are_enough(tmp_path):
    append_json_line(tmp_path / "a" / "metrics.jsonl", {"step": 1, "loss": 1.0})
    assert "Not evaluated yet" in write_report(tmp_path / "a", None).read_text()
    line = {"task": "a/B", "agent": "gato", "checkpoint": "", "seed": 0, "score": 1.0}
    append_json_line(episode_file(tmp_path / "b" / "evaluation", "a/B"), line)
    text = write_report(tmp_path / "b", summarise([line], {}), out=tmp_path / "c.html").read_text()
    assert "raw scores only" in text
    assert not (tmp_path / "b" / "report.html").exists()


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path, None)
    with pytest.raises(UserError, match="found none at"):
        write_report(tmp_path / "absent", None)


def test_curves_leave_out_what_is_no_number():
    metrics = [
        {"step": 1, "loss": float("nan"), "note": "x", "timing": {"tokens_per_second": 2.0}},
        {"loss": 3.0},
    ]
    assert collect_series(metrics) == {"timing/tokens_per_second": ([1.0], [2.0])}
    assert learning_curves([{"step": 1, "other": 1.0}]) is None
    assert "<svg" in (learning_curves(metrics) or "")


def test_many_tasks_are_drawn_by_family():
    metrics = [
        {"step": s, "loss": 1.0, **{f"loss/{f}/{i}": 1.0 + i for f in "ab" for i in range(9)}} for s in (1, 2)
    ]
    drawn = learning_curves(metrics) or ""
    assert "a (mean)" in drawn  # matplotlib writes each text as a comment beside its glyphs
    assert "a/7" not in drawn


def test_no_bars_where_nothing_is_normalised():
    line = {"task": "a/B", "agent": "gato", "checkpoint": "", "seed": 0, "score": 1.0}
    assert score_bars(summarise([line], {})) is None


def test_provenance_is_kept_in_order(tmp_path):
    record_command(tmp_path, ["factotum", "train"])
    record_command(tmp_path, ["factotum", "evaluate"])
    assert [one["command"] for one in read_commands(tmp_path)] == ["factotum train", "factotum evaluate"]
    assert read_commands(tmp_path)[0]["versions"]["python"].count(".") == 2
