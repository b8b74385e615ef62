"""The cell against its equations, its relatives, and what its biases do."""

import pytest
import torch

from factotum.nn.gated import BiasedGRUCell


def cell_and_inputs(seed=0):
    torch.manual_seed(seed)
    return BiasedGRUCell(3, 5, scale=2.0).double(), torch.randn(4, 3).double(), torch.randn(4, 5).double()


@torch.no_grad()
def test_the_equations():
    cell, x, h = cell_and_inputs()
    bias = torch.randn(4, 15, dtype=torch.float64)
    W, U = cell.input, cell.gates
    r = (x @ W[:5].T + h @ U[:5].T + bias[:, :5]).sigmoid()
    u = (x @ W[5:10].T + h @ U[5:].T + bias[:, 5:10]).sigmoid()
    c = (x @ W[10:].T + (r * h) @ cell.candidate.T + bias[:, 10:]).tanh()
    torch.testing.assert_close(cell(x, h, bias), u * h + (1 - u) * c)


@torch.no_grad()
def test_it_is_torchs_cell_where_nothing_is_reset_and_not_elsewhere():
    cell, x, h = cell_and_inputs()
    host = torch.nn.GRUCell(3, 5).double()
    host.weight_ih.copy_(cell.input)
    host.weight_hh.copy_(torch.cat([cell.gates, cell.candidate]))
    host.bias_hh.zero_()
    for reset, same in [(1e3, True), (0.0, False)]:
        bias = torch.cat([torch.full((5,), reset, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)])
        host.bias_ih.copy_(bias)
        assert torch.allclose(cell(x, h, bias), host(x, h)) is same


@torch.no_grad()
def test_the_update_gate_keeps():
    cell, x, h = cell_and_inputs()
    keep = torch.cat([torch.zeros(5), torch.full((5,), 1e3), torch.zeros(5)]).double()
    torch.testing.assert_close(cell(x, h, keep), h)
    assert cell(x, h, -keep).abs().max() <= 1


def test_gates_begin_open():
    cell, x, h = cell_and_inputs()
    assert cell.bias.tolist() == pytest.approx([2.2] * 10 + [0.0] * 5)
    weights = (cell.input, cell.gates, cell.candidate)
    bias = cell.bias.detach().expand(4, 15).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: cell(x, h, bias), (*weights, bias))
