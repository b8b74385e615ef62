"""What a run, a sweep and a table do, on problems whose answers are known."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.recipes import bench_rivals
from factotum.recipes.bench_rivals import Optimizers, Rival, choose, hidden_matrices, swept
from factotum.recipes.bench_runs import Protocol, Run, planned, play, require_same_task, sweep
from factotum.recipes.bench_summary import interval, standing, student, table_rows
from factotum.recipes.bench_task import Task, make_task


def quadratic():
    """Of one parameter at 1: Adam's and SGD's first steps are known."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, [torch.ones(1, 1)], lambda model, x: model(x).square().sum()


def test_a_run_trains_and_measures():
    row = play(swept("sgd"), Run(0.25, 0), make_task(quadratic, 0), steps=3)
    # with momentum .9: 1 -> .5 (velocity 2) -> -.2 (velocity 2.8) -> -.73
    assert (row["first"], row["every"], row["curve"]) == (1.0, 1, [1.0, 0.25, 0.04])
    assert row["last"] == 0.04
    assert row["after"] == pytest.approx(0.73**2)


def test_a_divergence_ends_the_run():
    counted = []
    row = play(swept("sgd"), Run(100.0, 0), make_task(quadratic, 0), 400, lambda: counted.append(1))
    assert row["last"] is None
    assert row["after"] is None
    assert len(counted) < 100
    assert json.loads(json.dumps(row)) == row


def test_an_optimizer_that_refuses_bad_gradients_has_diverged():
    class Refusing(torch.optim.SGD):
        def step(self):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            if not all(bool(g.isfinite().all()) for g in gradients):
                raise UserError("gradient: expected finite numbers")
            if self.param_groups[0]["lr"] < 0.05:
                raise UserError("another complaint")
            return super().step()

    def rival(rate):
        return Rival("x", lambda model, _, steps, seed: Optimizers(Refusing(model.parameters(), lr=rate)))

    row = play(rival(1e6), Run(None, 0), make_task(quadratic, 0), 40)
    assert row["last"] is None
    assert row["first"] == 1.0
    with pytest.raises(UserError, match="another complaint"):
        play(rival(0.01), Run(None, 0), make_task(quadratic, 0), 40)


def test_equal_seeds_are_equal_runs_whoever_drew_before():
    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        return model, lambda g: torch.randn(2, 4, generator=g), lambda model, x: model(x).square().mean()

    first = play(swept("adam"), Run(0.01, 3), make_task(build, 3), 20)
    torch.rand(5)
    again = play(swept("adam"), Run(0.01, 3), make_task(build, 3), 20)
    other = play(swept("adam"), Run(0.01, 4), make_task(build, 4), 20)
    assert first["curve"] == again["curve"] != other["curve"]


def test_weights_for_use_are_measured_after_training():
    switched = []

    class Switching(torch.optim.SGD):
        def train(self):
            switched.append("train")

        def eval(self):
            switched.append("eval")

    rival = Rival("x", lambda model, rate, steps, seed: Optimizers(Switching(model.parameters(), lr=0.1)))
    play(rival, Run(None, 0), make_task(quadratic, 0), 3)
    assert switched == ["train", "eval"]


def rows_at(losses, seed=0):
    return [{"rate": rate, "seed": seed, "last": loss} for rate, loss in losses.items()]


GRID = Rival("sgd", make=None, rates=(0.01, 0.1, 1.0, 10.0))


def test_a_sweep_grows_where_the_best_is_at_an_end():
    protocol = Protocol(steps=10, seeds=2, finalists=1)
    rows = rows_at({0.01: 4.0, 0.1: 3.0, 1.0: 2.0, 10.0: 1.0})
    assert planned(GRID, rows, protocol) == [Run(100.0, 0)]
    rows += rows_at({100.0: 1.5})
    assert planned(GRID, rows, protocol) == [Run(10.0, 1)]
    assert planned(GRID, rows + rows_at({10.0: 1.0}, seed=1), protocol) == []
    down = rows_at({0.01: 1.0, 0.1: 3.0, 1.0: 2.0, 10.0: None})
    assert planned(GRID, down, protocol) == [Run(0.001, 0)]


def test_a_sweep_grows_four_times_at_most():
    rows = rows_at({10.0**k: -k for k in range(-2, 6)})
    assert planned(GRID, rows, Protocol(steps=10, seeds=1)) == []


def test_finalists_and_the_untuned_rate_have_all_seeds():
    rival = Rival("adam", make=None, rates=GRID.rates, always=(0.01,))
    rows = rows_at({0.01: 4.0, 0.1: 1.0, 1.0: 2.0, 10.0: 3.0})
    runs = planned(rival, rows, Protocol(steps=10, seeds=2, finalists=2))
    assert runs == [Run(0.1, 1), Run(1.0, 1), Run(0.01, 1)]


def test_where_all_diverge_one_rate_is_still_run_with_all_seeds():
    rows = rows_at(dict.fromkeys(GRID.rates))
    while runs := planned(GRID, rows, Protocol(steps=10, seeds=3)):
        rows += rows_at({runs[0].rate: None}, runs[0].seed)
        assert len(rows) < 20
    found = standing("sgd", [{**row, "first": 1.0} for row in rows], 3)
    assert found.last[0] == math.inf
    assert found.diverged == 3


def row(rate, seed, last, label="adam"):
    made = {"rival": label, "rate": rate, "seed": seed, "last": last, "first": 2.0, "after": last, "ms": 1.0}
    return {**made, "steps": 4, "every": 1, "curve": [2.0, 1.0, 0.5, last]}


def test_the_best_rate_is_the_best_over_all_seeds():
    rows = [row(0.1, 0, 0.2), row(0.1, 1, 0.8), row(1.0, 0, 0.4), row(1.0, 1, 0.5), row(9.0, 0, 0.1)]
    found = standing("adam", rows, 2)
    assert found.rate == 1.0
    assert found.last[0] == pytest.approx(0.45)
    assert found.tried == pytest.approx({0.1: 0.5, 1.0: 0.45, 9.0: 0.1})
    assert standing("adam", rows, 3) is None


def test_the_table_says_how_soon_adams_loss_is_reached():
    adam = standing("adam", [row(0.1, 0, 0.6)], 1)
    ours = standing("ours", [row(None, 0, 0.3, "ours")], 1)
    slow = standing("slow", [{**row(1.0, 0, 0.9, "slow"), "curve": [2.0, 2.0, 2.0, 0.9]}], 1)
    rows = table_rows([adam, ours, slow])
    assert [(cells[0], cells[4]) for cells in rows] == [("ours", "3"), ("adam", "3"), ("slow", "–")]
    assert rows[0][1] == "none"


def test_intervals_are_students():
    values = [1.0, 2.0, 4.0, 7.0]
    mean, low, high = interval(values)
    assert mean == 3.5
    assert high - mean == pytest.approx(mean - low) == pytest.approx(3.182 * np.std(values, ddof=1) / 2)
    assert student(20) == pytest.approx(2.086, abs=1e-3)
    assert interval([1.0, math.inf])[0] == math.inf


def test_muon_gets_hidden_matrices_alone():
    model = nn.Sequential(
        nn.Embedding(7, 3), nn.Linear(3, 5), nn.Conv1d(5, 5, 1), nn.Linear(5, 5), nn.Linear(5, 7)
    )
    hidden, rest = hidden_matrices(model)
    assert [tuple(p.shape) for p in hidden] == [(5, 3), (5, 5)]
    assert {id(p) for p in hidden + rest} == {id(p) for p in model.parameters()}
    assert len(hidden) + len(rest) == len(list(model.parameters()))
    optimizer = bench_rivals.MAKERS["muon"](model, 0.1, 10, 0)
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "Adam"]


def test_rivals_have_the_rates_of_their_sweep():
    rivals, left_out = choose(["adam", "rmsprop", "sgd"], 10, nn.Linear(1, 1))
    assert left_out == []
    for rival in rivals:
        assert len(rival.rates) == 10
        assert np.diff(np.log10(rival.rates)) == pytest.approx(0.5, abs=0.002)
    assert rivals[0].always == (1e-3,)
    assert 1e-3 in rivals[0].rates


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd", "muon", "schedulefree"])
def test_every_rival_lowers_a_loss(name):
    if name == "schedulefree":
        pytest.importorskip("schedulefree")

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        return model, lambda g: torch.randn(16, 4, generator=g), loss

    def loss(model, x):
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    row = play(swept(name), Run(0.03, 0), make_task(build, 0), 80)
    assert row["last"] < 0.5 * row["first"]
    assert row["after"] < 0.5 * row["first"]


def test_batches_come_from_functions_iterators_and_lists():
    model, loss = nn.Linear(1, 1), lambda model, x: model(x).sum()

    def first(batches, count):
        stream = Task(model, batches, loss).stream()
        return [next(stream) for _ in range(count)]

    assert first([1, 2], 5) == [1, 2, 1, 2, 1]
    assert first(lambda generator: iter([1, 2]), 3) == [1, 2, 1]
    drawn = first(lambda generator: torch.rand(1, generator=generator), 2)
    assert drawn[0] != drawn[1]
    tuples = first(lambda generator: (torch.ones(1), 3), 1)
    assert tuples == [(torch.ones(1), 3)]
    with pytest.raises(UserError, match="gave 2 batches and then no more"):
        first(iter([1, 2]), 3)


def test_a_stopped_sweep_goes_on(tmp_path):
    file, protocol = tmp_path / "runs.jsonl", Protocol(steps=5, seeds=2, finalists=1)
    rival = Rival("sgd", swept("sgd").make, rates=(0.01, 0.1))
    sweep(file, quadratic, [rival], protocol, "x", quiet=True)
    whole = file.read_text().splitlines()
    file.write_text("\n".join(whole[:2]) + "\n" + whole[2][:20])  # as a kill leaves it
    require_same_task(file, quadratic)
    sweep(file, quadratic, [rival], protocol, "x", quiet=True)
    strip = [{k: v for k, v in line.items() if k != "ms"} for line in read_json_lines(file)]
    assert strip == [{k: v for k, v in json.loads(line).items() if k != "ms"} for line in whole]
