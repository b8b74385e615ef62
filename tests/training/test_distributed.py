"""Two processes on gloo: DDP and FSDP beside one process on the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from factotum.training.distributed import (
    is_main_process,
    load_optimizer_tensors,
    make_accelerator,
    optimizer_tensors,
    parallelise,
)
from factotum.training.metrics import read_metrics
from tests.training.identity import train_identity
from tests.training.test_train import checkpoint_bytes, run_alone, untimed

COMMON = {"steps": 6, "checkpoint_every": 3, "keep_checkpoints": 0, "log_every": 2, "device": "cpu"}
# A large epsilon makes AdamW nearly linear in the gradient, so that a wrong scale of it would show and
# rounding is not blown up where a gradient is nearly zero.
STEPPED = {**COMMON, "eps": 1e-2, "learning_rate": 0.05, "ema_decay": 0.9}
TOLERANCE = 2e-6  # weights are of size 0.1 to 1, a step moves them by 1e-3 to 5e-2


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Everything that needs two processes, in one launch: DDP and FSDP, each resumed from half way."""
    folder = tmp_path_factory.mktemp("distributed")
    plan = []
    for name, changes in (("ddp", {}), ("fsdp", {"sharded": True}), ("more", {"gradient_accumulation": 2})):
        plan.append({"run": str(folder / name), **STEPPED, **changes, "adaptive": name == "more"})
    for name, changes in (("ddp", {}), ("fsdp", {"sharded": True})):
        resumed = {"run": str(folder / f"{name}-resumed"), **STEPPED, **changes}
        plan += [resumed, {**resumed, "forget": 6}]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run_alone(plan, folder, *launcher)
    assert done.returncode == 0, done.stderr[-4000:]
    train_identity(folder / "alone", **STEPPED, gradient_accumulation=2)
    return folder


def final(folder: Path) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "step-00000006"
    return {**load_file(last / "model.safetensors"), **load_file(last / "training_state.safetensors")}


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs, name):
    """The ranks' batches count 8 and 2 rows, and only one of them uses the picture's parameters."""
    one, two = final(runs / "alone"), final(runs / name)
    assert sorted(one) == sorted(two)
    for key, tensor in one.items():
        torch.testing.assert_close(
            two[key], tensor, rtol=1e-4, atol=TOLERANCE, msg=lambda m, key=key: f"{key}: {m}"
        )
    moved = one["picture.weight"] - one["weights/picture.weight"]
    assert moved.abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_metrics_are_those_of_all_ranks(runs, name):
    one, two = read_metrics(runs / "alone"), read_metrics(runs / name)
    assert [line["step"] for line in two] == [2, 4, 6]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
        assert b["tokens"] == a["tokens"]


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_resumed_is_bit_equal(runs, name):
    last = Path("checkpoints") / "step-00000006"
    assert checkpoint_bytes(runs / f"{name}-resumed" / last) == checkpoint_bytes(runs / name / last)
    assert untimed(runs / f"{name}-resumed") == untimed(runs / name)


def test_accumulation_and_feedback_run_on_two_processes(runs):
    lines = read_metrics(runs / "more")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["level"] > 0


def test_another_number_of_processes_is_refused(runs):
    with pytest.raises(ValueError, match="the number of processes was 2 and is now 1"):
        train_identity(runs / "ddp", **STEPPED)


def test_sharding_needs_several_processes():
    with pytest.raises(ValueError, match="expected several processes"):
        parallelise(make_accelerator("cpu"), nn.Linear(1, 1), sharded=True)


def test_the_main_process_is_the_first(monkeypatch):
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def stepped() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 2, 3, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_optimizer_state_comes_back_with_the_strides_of_its_parameter():
    model, optimizer = stepped()
    tensors = {name: t.clone().contiguous() for name, t in optimizer_tensors(model, optimizer).items()}
    fresh = torch.optim.AdamW(model.parameters(), fused=True)
    load_optimizer_tensors(model, fresh, tensors)
    weight = model[0].weight
    assert fresh.state[weight]["exp_avg"].stride() == weight.stride()
    assert torch.equal(fresh.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])
    assert fresh.state[weight]["step"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optimizer/1.weight/exp_avg", "got '1.weight'"),
        ("optimizer/0.bias/exp_avg", r"expected shape \(3,\)"),
    ],
)
def test_optimizer_state_of_another_model_is_refused(name, message):
    model, optimizer = stepped()
    with pytest.raises(ValueError, match=message):
        load_optimizer_tensors(model, optimizer, {name: torch.zeros(2, 2)})
