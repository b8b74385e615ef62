from __future__ import annotations

import json
import math

import torch

from factotum.core.files import append_json_line
from factotum.training.metrics import (
    MetricsLog,
    WeightedMeans,
    join_metrics,
    means_of,
    read_metrics,
    truncate_metrics,
)


def test_a_restored_window_goes_on_bit_equal():
    torch.manual_seed(0)
    values = torch.rand(9)
    whole, first = WeightedMeans(), WeightedMeans()
    for value in values[:4]:
        first.add("loss", value, 0.1)
    second = WeightedMeans(json.loads(json.dumps(first.settled())))
    for value in values[4:]:
        second.add("loss", value, 0.1)
    for value in values:
        whole.add("loss", value, 0.1)
    assert whole.settled() == second.settled()


def test_a_metric_may_bring_its_own_weight_and_may_be_missing():
    means = WeightedMeans()
    means.add_all({"loss": 1.0, "atari": (10.0, 1)}, torch.tensor(2.0))
    means.add_all({"loss": torch.tensor(4.0), "atari": (torch.tensor(20.0), 3)}, 1.0)
    means.add_all({"loss": 4.0}, 3)
    assert means.means() == {"atari": 17.5, "loss": 3.0}


def test_a_value_that_counts_nothing_may_be_nan():
    means = WeightedMeans()
    means.add("loss", float("nan"), 0)
    assert math.isnan(means.means()["loss"])
    means.add("loss", 2.0, 1)
    assert means.means() == {"loss": 2.0}
    means.add("loss", float("nan"), 1)
    assert math.isnan(means.means()["loss"])


def test_gradients_are_not_held():
    means = WeightedMeans()
    means.add("loss", torch.ones((), requires_grad=True) * 2)
    assert not means.pending[0][1].requires_grad


def test_ranks_count_by_weight():
    parts = [{"a": (6.0, 2.0), "b": (1.0, 1.0)}, {"a": (6.0, 4.0)}]
    assert means_of(parts) == {"a": 2.0, "b": 1.0}


def test_later_and_torn_lines_are_cut_off_and_earlier_bytes_stay(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.1 * step, "timing": {"seconds": 1.5}})
    whole = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(whole) + '{"step": 4, "lo')
    truncate_metrics(log.path, 2)
    assert log.path.read_text() == "".join(whole[:2])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_runs_one_after_the_other_are_joined_as_one(tmp_path):
    for name, lines in (("a", [(2, 10, 1.0), (4, 20, 2.0)]), ("b", [(1, 5, 0.5)]), ("empty", [])):
        (tmp_path / name).mkdir()
        for step, tokens, seconds in lines:
            timing = {"seconds": seconds, "steps_per_second": 3.0}
            line = {"step": step, "loss": 1.0, "tokens": tokens, "timing": timing}
            append_json_line(tmp_path / name / "metrics.jsonl", line)
    for _ in range(2):  # written anew each time
        join_metrics([tmp_path / name for name in ("a", "empty", "b")], tmp_path)
    joined = read_metrics(tmp_path)
    assert [(line["step"], line["tokens"], line["timing"]["seconds"]) for line in joined] == [
        (2, 10, 1.0),
        (4, 20, 2.0),
        (5, 25, 2.5),
    ]
    assert joined[-1]["timing"]["steps_per_second"] == 3.0
