"""The kernels of a GPU beside plain torch: in Triton's interpreter, or on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from factotum.core.checks import UserError
from factotum.optim import fused, native, triton_passes
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.triton_tables import GROUP, KEPT, Tables, cut_into_blocks
from tests.optim.nets import make_net, make_optimizer
from tests.optim.triton_worker import CASES

ROOT = Path(__file__).parents[2]

TIGHT = {"rtol": 2e-5, "atol": 5e-6}
TOLERANCE = {
    "narrow": {
        "rtol": 2**-7,
        "atol": 1e-4,
    },  # parameters of two bytes, of which one may round to the other side
    "half state": {"rtol": 2**-7, "atol": 1e-4},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Every case of the worker, in a process of its own."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "tests.optim.triton_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_kernels_find_what_torch_does(results, name):
    found, expected = torch.load(results / f"{name}.pt")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        tolerance = TOLERANCE.get(name, TIGHT)
        if key == "sums":
            tolerance = {"rtol": 2e-4, "atol": 1e-3}
        torch.testing.assert_close(
            found[key], value, **tolerance, msg=lambda message, key=key: f"{key}: {message}"
        )


def test_slots_are_rounded_by_the_same_chance(results):
    found, expected = torch.load(results / "half state.pt")
    for key in ("hidden", "gradient", "square", "log_rate", "gradient_decay", "square_decay"):
        assert (found[key] != expected[key]).float().mean() < 0.02, key


def test_cases_move_something_and_reach_the_floor(results):
    found, _ = torch.load(results / "sizes.pt")
    unsound, _ = torch.load(results / "unsound.pt")
    assert 0.1 < (found["log_rate"] == -9.0).float().mean() < 0.9
    assert found["hidden"].std() > 0.1
    assert unsound["hidden"].abs().sum() > 0


@pytest.mark.parametrize("block", [1, 4, 256])
def test_blocks_and_groups_cover_every_tensor_once(block):
    sizes = [3, 0, 1, 4 * GROUP * block + 1, GROUP * block, 7]
    blocks = cut_into_blocks(sizes, block, torch.device("cpu"))
    counts = [-(-size // block) for size in sizes]
    assert torch.bincount(blocks.tensor_M, minlength=len(sizes)).tolist() == counts
    for n, count in enumerate(counts):
        groups = range(int(blocks.group_N[n]), int(blocks.group_N[n] + blocks.groups_N[n]))
        rows = [int(blocks.row_G[g]) + i for g in groups for i in range(int(blocks.rows_G[g]))]
        assert rows == list(range(int(blocks.first_N[n]), int(blocks.first_N[n]) + count))


def test_few_tables_are_kept():
    tables = Tables(torch.device("cpu"))
    first = tables.put([0])
    for number in range(KEPT - 1):
        tables.put([number])
    assert tables.put([0]) is first
    for number in range(KEPT):
        tables.put([100 + number])
    assert tables.put([0]) is not first
    assert len(tables._kept) == KEPT


def test_without_triton_plain_torch_is_used(monkeypatch):
    monkeypatch.setattr(fused, "GPU", "cpu")
    monkeypatch.setattr(triton_passes, "why_not", lambda kind: "Triton is not installed")
    net = make_net()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(net.parameters(), fused=None, capturable=True)
    optimizer.step()
    assert not optimizer._programs._on_gpu
    assert optimizer.state[net[0].weight]["step"] == 1


def test_fused_insists_on_it(monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda config: "no compiler")
    monkeypatch.setattr(triton_passes, "why_not", lambda kind: "Triton is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="no compiler; on a GPU: Triton is not installed"):
        make_optimizer(make_net().parameters(), fused=True)
    monkeypatch.setattr(triton_passes, "why_not", lambda kind: None)
    attending = HierarchicalRNNConfig(attention=True)
    assert fused.why_not(HierarchicalRNNConfig()) is None
    assert "attention" in fused.why_not(attending)
    net = make_net()
    optimizer = make_optimizer(net.parameters(), fused=True)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(UserError, match=r"kernel for cpu \(fused=True\), there is none: no compiler"):
        optimizer.step()
    assert not optimizer.state


def test_the_reason_is_told_where_triton_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "factotum.optim.triton_kernel", raising=False)
    assert triton_passes.why_not.__wrapped__("cpu") == "Triton is not installed"
    monkeypatch.setenv("FACTOTUM_NATIVE", "0")
    assert "switched off" in triton_passes.why_not.__wrapped__("cpu")
