"""As a new user would: a function of mine, a command, a table and a report; run again; and what can be got wrong."""

import re
import sys

import pytest
import torch

from factotum.cli import main as cli
from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.optim import HierarchicalRNNCore, save_core, shipped_config
from factotum.recipes.bench import Args, main
from factotum.recipes.bench_rivals import SWEPT

MODULE = """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    def batches(generator):
        return torch.randn(8, 3, generator=generator)
    def loss(model, x):
        return (model(x) - x.sum(1, keepdim=True)).square().mean()
    return model, batches, loss

class Own(nn.Linear):
    def forward(self, x, y):
        return (super().forward(x) - y).square().mean()

def own_loss():
    return Own(2, 1), torch.utils.data.DataLoader([(torch.ones(2), torch.ones(1))] * 5, batch_size=2)

def linear():
    return nn.Linear(2, 1), [torch.ones(4, 2)], lambda model, x: model(x).square().mean()

def two(): return nn.Linear(1, 1), 7, print
def one(): return nn.Linear(1, 1)
def five(): return (1, 2, 3, 4, 5)
def no_model(): return 1, [], print
def frozen(): return nn.Linear(1, 1).requires_grad_(False), [], print
def no_loss(): return nn.Linear(1, 1), [], 3
def empty(): return nn.Linear(1, 1), [], lambda model, x: model(x)
def vector(): return nn.Linear(1, 1), [torch.ones(2, 1)], lambda model, x: model(x)
def float_loss(): return nn.Linear(1, 1), [torch.ones(2, 1)], lambda model, x: 0.5
def detached(): return nn.Linear(1, 1), [torch.ones(2, 1)], lambda model, x: x.sum()
def infinite(): return nn.Linear(1, 1), [torch.ones(1, 1)], lambda model, x: model(x).sum() * float("nan")
def with_arguments(width): return None
def broken(): return [1, 2, 3].nothing
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder, with weights and a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    torch.manual_seed(0)
    save_core(HierarchicalRNNCore(shipped_config()), tmp_path / "weights")
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


def args(**options):
    given = {"steps": 12, "seeds": 2, "rates": 2, "finalists": 1, "weights": ("weights",), "device": "cpu"}
    return Args("optimizer", **{"model": "mine:build", **given, **options})


def test_a_command_then_again_then_more(here, capsys):
    options = [
        "--model",
        "mine:build",
        "--steps",
        "12",
        "--rates",
        "2",
        "--finalists",
        "1",
        "--device",
        "cpu",
    ]
    line = ["bench", "optimizer", *options, "--weights", "weights", "--seeds"]
    assert cli([*line, "2"]) == 0
    out = capsys.readouterr().out
    folder = here / "bench-mine-build"
    rows = read_json_lines(folder / "runs.jsonl")
    labels = {row["rival"].partition("-")[0] for row in rows}
    assert labels == {"hierarchical", *SWEPT}
    ours = [row for row in rows if row["rival"].startswith("hierarchical")]
    assert [(row["rate"], row["seed"]) for row in ours] == [(None, 0), (None, 1)]
    assert {row["seed"] for row in rows if row["rate"] == 1e-3} == {0, 1}  # Adam as nobody tuned it
    table = out.splitlines()[2:-1]
    assert len(table) == len(SWEPT) + 2
    lasts = [float(line.split("±")[0].split()[-1]) for line in table]
    assert lasts == sorted(lasts)
    assert "adam, untuned" in out
    assert cli([*line, "2"]) == 0
    assert read_json_lines(folder / "runs.jsonl") == rows  # nothing was run twice
    assert cli([*line, "3"]) == 0
    more = read_json_lines(folder / "runs.jsonl")
    assert more[: len(rows)] == rows
    assert {row["seed"] for row in more[len(rows) :]} == {2}


def test_the_report_is_whole_and_offline(here):
    path = main(args(rivals=("adam", "sgd")))
    page = path.read_text()
    assert path.name == "report.html"
    for title in ("Losses", "Training curves", "Learning rates", "How this was made"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 2
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "hierarchical-rnn-" in page
    assert "adam, untuned" in page
    assert (path.parent / "commands.jsonl").exists()


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("mine", "model: expected MODULE:FUNCTION, got 'mine'"),
        ("nowhere_at_all:build", "model: cannot import nowhere_at_all"),
        ("mine:biuld", "unknown function in mine 'biuld': did you mean build?"),
        ("mine:one", "expected a tuple (model, batches, loss) or (model, batches), got Linear"),
        ("mine:five", "got tuple of 5"),
        ("mine:no_model", "expected a torch.nn.Module first, got int"),
        ("mine:frozen", "expected a model with trainable parameters, got none"),
        ("mine:two", "expected batches second, a function of a generator or an iterable, got int"),
        ("mine:no_loss", "expected loss(model, batch) third, got int"),
        ("mine:empty", "got one that gave no batch"),
        ("mine:vector", "expected a scalar tensor, got a tensor of shape (2, 1)"),
        ("mine:float_loss", "expected a scalar tensor, got float"),
        ("mine:detached", "expected a value that depends on the parameters"),
        ("mine:infinite", "expected a finite value before training, got nan"),
        ("mine:with_arguments", "build: expected a function without arguments"),
    ],
)
def test_a_wrong_build_is_said_in_one_line(here, model, complaint, capsys):
    assert cli(["bench", "optimizer", "--model", model, "--weights", "weights"]) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not list(here.glob("bench-*"))


def test_an_error_of_the_users_own_comes_through(here):
    with pytest.raises(AttributeError, match="nothing"):
        main(args(model="mine:broken"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rivals": ("adm",)}, "unknown rival 'adm': did you mean adam?"),
        ({"weights": ("nowhere",)}, "unknown weights 'nowhere'"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"rates": 0}, "rates: expected at least 1, got 0"),
        ({"rivals": (), "weights": ()}, "rivals: expected at least one"),
    ],
)
def test_wrong_options_make_no_folder(here, options, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        main(args(**options))
    assert not list(here.glob("bench-*"))


def test_runs_of_another_model_are_refused(here):
    main(args(rivals=(), out=here / "out"))
    before = (here / "out" / "runs.jsonl").read_bytes()
    with pytest.raises(UserError, match="expected runs on a model that begins with loss"):
        main(args(model="mine:linear", rivals=(), out=here / "out"))
    assert (here / "out" / "runs.jsonl").read_bytes() == before


def test_what_cannot_run_is_left_out_with_the_reason(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    page = main(args(model="mine:linear", rivals=("adam", "schedulefree", "muon"))).read_text()
    error = capsys.readouterr().err
    assert (
        "left out: schedulefree: schedulefree is not installed: run  pip install 'factotum[schedulefree]'"
        in error
    )
    assert "left out: muon: muon: expected a model with hidden 2-D weights, got none" in error
    assert "factotum[schedulefree]" in page


def test_a_model_may_compute_its_own_loss_of_a_loader(here):
    main(args(model="mine:own_loss", rivals=("sgd",), rates=4, seeds=1, weights=()))
    rows = read_json_lines(here / "bench-mine-own_loss" / "runs.jsonl")
    assert min(row["last"] for row in rows if row["rival"] == "sgd") < 0.5 * rows[0]["first"]
