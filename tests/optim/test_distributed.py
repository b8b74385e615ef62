"""Two processes on gloo beside one: copies (DDP), shards (FSDP2), checkpoints between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from factotum.optim.optimizer import HierarchicalRNN
from tests.optim.nets import make_net
from tests.optim.worker import MORE, OPTIONS, STEPS, everything, load, train

ROOT = Path(__file__).parents[2]
TOLERANCE = {"rtol": 2e-4, "atol": 1e-6}


def alone(folder: Path) -> dict[str, torch.Tensor]:
    """One process on the global batch; its state is saved half way."""
    net = make_net()
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS)
    train(net, optimizer, STEPS)
    weights, state = get_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=True))
    torch.save({"net": weights, "optimizer": state}, folder / "alone.pt")
    found = everything(net, optimizer)
    train(net, optimizer, MORE)
    return found | {f"later/{key}": value for key, value in everything(net, optimizer).items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Everything that needs two processes, in one launch."""
    folder = tmp_path_factory.mktemp("distributed")
    one = alone(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.optim.worker", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, one


def assert_close(two: dict[str, torch.Tensor], one: dict[str, torch.Tensor], prefix: str = "") -> None:
    wanted = {key.removeprefix(prefix): value for key, value in one.items() if key.startswith(prefix)}
    assert two.keys() <= wanted.keys()
    assert len(two) > 8
    for key, value in two.items():
        torch.testing.assert_close(value, wanted[key], **TOLERANCE, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["copied", "sharded", "plain"])
def test_two_processes_equal_one(runs, name, rank):
    folder, one = runs
    two = load(folder, name, rank)
    assert_close(two, one)
    assert (two["0.weight"] - make_net()[0].weight).abs().max() > 1e-3


def test_ranks_hold_the_same(runs):
    folder, _ = runs
    for name in ("copied", "sharded"):
        first, second = load(folder, name, 0), load(folder, name, 1)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_checkpoint_of_shards_is_gone_on_from_bit_by_bit(runs):
    folder, _ = runs
    resumed, through = load(folder, "resumed"), load(folder, "sharded")
    assert all(torch.equal(resumed[key], through[f"later/{key}"]) for key in resumed)


def test_two_processes_go_on_from_one(runs):
    folder, one = runs
    assert_close(load(folder, "from_one_process"), one, "later/")


def test_parts_of_columns_equal_the_whole(runs):
    folder, _ = runs
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(shape, generator=generator) for shape in ((3, 5), (4,)) * 2]
    parameters = [nn.Parameter(values) for values in numbers[:2]]
    optimizer = HierarchicalRNN(parameters, **OPTIONS)
    for _ in range(STEPS):
        for parameter, gradient in zip(parameters, numbers[2:], strict=True):
            parameter.grad = gradient
        optimizer.step()
    two = load(folder, "by_columns")
    for n, parameter in enumerate(parameters):
        torch.testing.assert_close(two[str(n)], parameter.detach(), **TOLERANCE)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bad_gradient_of_one_process_is_an_error_of_all(runs, rank):
    found = load(runs[0], "refused", rank)
    assert found["refused"]
    assert found["same"]
