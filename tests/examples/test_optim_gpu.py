"""The script for a GPU works, as far as that can be seen without one: everything tiny, runs that go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """The benchmark, which imports what lies beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import optim_gpu

    return optim_gpu


def test_it_says_where_there_is_no_gpu(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a GPU"):
        script.main(script.Args(out=tmp_path / "none"))
    assert "no GPU here" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_small_figures_are_complete(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script.main(script.Args(parts=("check", "speed"), out=tmp_path, small=True, turn=0.001))
    checked = json.loads((tmp_path / "check.json").read_text())
    assert all(case["right"] and case["repeats"] for case in checked["result"].values())
    measured = json.loads((tmp_path / "speed.json").read_text())
    assert measured["gpu"] is None
    for found in measured["result"].values():
        assert found["failed"] == {}
        assert found["nanoseconds"].keys() == {script.COPY, *script.OURS, *script.ADAM}
        assert all(time > 0 for time in found["nanoseconds"].values())


def test_a_copy_moves_what_a_step_does(script):
    moved = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.copy_.default:
                moved.extend(tensor.numel() for tensor in args[:2])
            return function(*args, **(kwargs or {}))

    copy = script.copying(1000, torch.device("cpu"))
    with Counting():
        copy()
    assert sum(moved) == script.BYTES * 1000


def test_networks_have_their_full_size(script):
    counts = {}
    for name, (build, side) in script.NETWORKS.items():
        with torch.device("meta"):
            model = build(1.0)
            assert model(torch.empty(2, 3, side, side)).shape == (2, 1000)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == {"inception-v3": 23_834_568, "resnet-v2-50": 25_549_352}


def test_a_killed_run_goes_on(script, tmp_path):
    asked = script.Training(
        "resnet-v2-50", tmp_path / "whole", 4, 2, 1 / 32, 33, 2, torch.device("cpu"), None, False
    )
    whole = script.train(asked)
    script.train(replace(asked, folder=tmp_path / "cut", steps=2))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:  # written after the last checkpoint
        file.write(json.dumps({"step": 4, "loss": 0.0}) + "\n")
    assert script.train(replace(asked, folder=tmp_path / "cut")) == whole
    losses = {
        name: [
            json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    }
    assert losses["whole"] == losses["cut"]
    assert whole["finite"]
    assert whole["steps"] == 4
    with pytest.raises(SystemExit, match="another run"):
        script.train(replace(asked, folder=tmp_path / "cut", batch=3))
