"""The optimizer beside the rule that it applies, and what `torch.optim` asks of any optimizer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from factotum.optim import blocks, native
from factotum.optim.optimizer import HierarchicalRNN
from factotum.optim.store import shipped_cores
from tests.optim.nets import (
    CORE,
    by_the_core,
    flat,
    loss_of,
    make_net,
    make_optimizer,
    same,
    snapshot,
    train,
    trained,
)
from tests.optim.toys import make_core, wild_core

TIGHT = {"rtol": 2e-5, "atol": 1e-7}


WAYS = {
    "together": {},
    "one by one": {"foreach": False},
    "capturable": {"capturable": True},
    "native": {"fused": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_those_of_the_core(way):
    net, _ = trained(5, **WAYS[way])
    expected, _ = by_the_core(make_net(), 5)
    torch.testing.assert_close(flat(net), expected, **TIGHT)
    assert (flat(net) - flat(make_net())).abs().max() > 1e-3


def test_pieces_of_any_size_give_the_same(monkeypatch):
    whole, _ = trained(4)
    for limit in (1, 7):
        monkeypatch.setattr(blocks, "block_limit", lambda device, scalars, limit=limit: limit)
        pieces, _ = trained(4)
        torch.testing.assert_close(flat(pieces), flat(whole), **TIGHT)


def test_it_learns():
    net = make_net()
    before = loss_of(net).item()
    train(net, make_optimizer(net.parameters(), weights=make_core(seed=1), lr=4.0), 80)
    assert loss_of(net).item() < 0.8 * before


def test_lr_multiplies_the_step_and_zero_moves_nothing():
    start = flat(make_net())
    full = flat(trained(1)[0]) - start
    torch.testing.assert_close(flat(trained(1, lr=0.25)[0]) - start, 0.25 * full, rtol=1e-4, atol=1e-7)
    for way in WAYS.values():
        net, optimizer = trained(3, lr=0.0, weight_decay=0.1, **way)
        assert torch.equal(flat(net), start)
        assert optimizer.state[net[0].weight]["step"] == 3


@pytest.mark.parametrize("way", WAYS)
def test_lr_may_be_a_tensor_that_is_changed_in_place(way):
    lr = torch.tensor(1.0)
    net, optimizer = trained(2, lr=lr, **WAYS[way])
    twin, other = trained(2, lr=1.0, **WAYS[way])
    lr.fill_(0.5)
    other.param_groups[0]["lr"] = 0.5
    assert torch.equal(flat(train(net, optimizer, 2)), flat(train(twin, other, 2)))


@pytest.mark.parametrize("way", WAYS)
def test_weight_decay_shrinks_a_tensor_by_its_learned_rate(way):
    plain, optimizer = trained(1, lr=0.5, **WAYS[way])
    decayed, _ = trained(1, lr=0.5, weight_decay=0.1, **WAYS[way])
    start = make_net()
    for name, parameter in plain.named_parameters():
        rate = (optimizer.state[parameter]["log_rate_mean"] + CORE.step_offset).exp()
        expected = parameter - 0.5 * 0.1 * rate * start.get_parameter(name)
        torch.testing.assert_close(decayed.get_parameter(name), expected, **TIGHT)
    assert not torch.equal(flat(plain), flat(decayed))


@pytest.mark.parametrize("way", WAYS)
def test_maximize_is_the_negated_gradient(way):
    net, _ = trained(3, maximize=True, **WAYS[way])
    twin = make_net()
    optimizer = make_optimizer(twin.parameters(), **WAYS[way])
    for _ in range(3):
        optimizer.zero_grad()
        (-loss_of(twin)).backward()
        optimizer.step()
    assert torch.equal(flat(net), flat(twin))


def test_tensors_without_gradient_are_left_out():
    net, optimizer = trained(2)
    before = snapshot(optimizer)
    optimizer.zero_grad()
    loss_of(net).backward()
    net[0].weight.grad = None
    optimizer.step()
    after = snapshot(optimizer)
    assert torch.equal(before[0][0], after[0][0])
    state = [part[1]["state"][0] for part in (before, after)]
    assert all(torch.equal(state[0][key], state[1][key]) for key in state[0] if key != "global")
    assert not torch.equal(state[0]["global"], state[1]["global"])
    assert not torch.equal(before[0][1], after[0][1])
    assert optimizer.state[net[0].bias]["step"] == 3


def test_a_step_without_any_gradient_does_nothing():
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    optimizer.step()
    assert torch.equal(flat(net), flat(make_net()))
    assert not optimizer.state


def test_a_group_that_is_added_joins_the_problem():
    """Log rates are relative to the mean of the problem, so a newcomer moves those that were there."""
    net, optimizer = trained(2)
    twin, other = copy.deepcopy((net, optimizer))
    assert other.param_groups[0]["params"][0] is twin[0].weight
    extra = nn.Parameter(torch.ones(4))
    other.add_param_group({"params": [extra], "lr": 0.5})
    extra.grad = torch.ones(4)
    loss_of(twin).backward(), loss_of(net).backward()
    optimizer.step(), other.step()
    assert not torch.equal(flat(net), flat(twin))
    assert (extra != 1).all()
    assert other.state[extra]["step"] == 1
    assert other.state[twin[0].weight]["step"] == 3
    assert sum("global" in state for state in other.state.values()) == 1


def test_groups_have_options_of_their_own():
    net = make_net()
    groups = [
        {"params": net[0].parameters(), "lr": 0.0},
        {"params": net[2].parameters(), "weight_decay": 0.5},
    ]
    train(net, make_optimizer(groups), 2)
    start = make_net()
    assert torch.equal(flat(net[0]), flat(start[0]))
    assert not torch.equal(flat(net[2]), flat(start[2]))


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    net = make_net()
    optimizer = make_optimizer(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure=closure)
    torch.testing.assert_close(loss.item(), loss_of(make_net()).item())
    assert torch.equal(flat(net), flat(trained(1)[0]))


def test_initial_rates_come_from_the_seed():
    one, same_seed, other = (flat(trained(1, seed=s)[0]) for s in (0, 0, 1))
    assert torch.equal(one, same_seed)
    assert not torch.equal(one, other)
    seeded = [make_optimizer(make_net().parameters(), seed=s) for s in (0, 0, 5)]
    assert [o.param_groups[0]["seed"] for o in seeded] == [0, 0, 5]


@pytest.mark.parametrize("way", WAYS)
def test_scalars_and_empty_tensors_take_part(way):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in ((), (0,), (2, 0), (3,))]
    optimizer = make_optimizer(parameters, **WAYS[way])
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
    assert all(p.isfinite().all() for p in parameters)
    assert parameters[0] != 1
    assert (parameters[3] != 1).all()
    assert all(t.isfinite().all() for state in optimizer.state.values() for t in state.values())


@pytest.mark.parametrize("way", ["together", "native"])
def test_strided_parameters_step_as_contiguous_ones(way):
    def run(convert):
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=convert)
        optimizer = make_optimizer(layer.parameters(), **WAYS[way])
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.ones(1, 3, 5, 5)).square().sum().backward()
            optimizer.step()
        return layer.weight

    plain, strided = run(torch.contiguous_format), run(torch.channels_last)
    assert not strided.is_contiguous()
    torch.testing.assert_close(plain.contiguous(), strided.contiguous(), **TIGHT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("way", ["together", "native"])
def test_other_types_have_their_mathematics_in_single_precision(dtype, way):
    net, optimizer = trained(2, dtype, **WAYS[way])
    assert all(t.dtype == torch.float32 for state in optimizer.state.values() for t in state.values())
    assert net[0].weight.dtype == dtype
    torch.testing.assert_close(flat(net).float(), flat(trained(2)[0]), rtol=0.05, atol=0.02)
    assert not torch.equal(flat(net), flat(make_net(dtype=dtype)))


@pytest.mark.parametrize("way", ["together", "one by one", "native"])
def test_state_in_half_the_memory_follows_that_in_full(way):
    half, optimizer = trained(30, state_dtype=torch.bfloat16, weights=make_core(), **WAYS[way])
    full, _ = trained(30, weights=make_core())
    start = flat(make_net())
    moved, expected = flat(half) - start, flat(full) - start
    assert (moved - expected).norm() < 0.05 * expected.norm()
    state = optimizer.state[half[0].weight]
    assert {str(state[key].dtype) for key in ("hidden", "square", "log_rate")} == {"torch.bfloat16"}
    assert state["tensor"].dtype == torch.float32


def test_the_kernel_is_used_where_it_fits(monkeypatch):
    calls = []
    if not native.available(CORE.config):
        pytest.skip(native.why_not(CORE.config))
    plain = native.sweep_
    monkeypatch.setattr(native, "sweep_", lambda *a, **k: calls.append(1) or plain(*a, **k))
    trained(2, fused=None), trained(1, fused=True)
    assert len(calls) == 3
    trained(2, fused=False), trained(2, torch.float64, fused=None), trained(2, fused=None, capturable=True)
    assert len(calls) == 3


def test_copies_go_on_as_the_original():
    for way in WAYS.values():
        net, optimizer = trained(2, **way)
        for twin, other in (copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))):
            train(twin, other, 2)
            reference, first = copy.deepcopy((net, optimizer))
            train(reference, first, 2)
            assert torch.equal(flat(twin), flat(reference))
            assert same(snapshot(other), snapshot(first))
            assert not torch.equal(flat(twin), flat(net))


def test_trained_weights_come_with_the_package():
    if "hierarchical-rnn" not in shipped_cores():
        pytest.skip("no trained weights yet")
    net = make_net()
    optimizer = HierarchicalRNN(net.parameters())
    before = loss_of(net).item()
    train(net, optimizer, 60)
    assert loss_of(net).item() < 0.5 * before


def test_the_given_core_is_copied():
    core = wild_core()
    net = make_net()
    optimizer = make_optimizer(net.parameters(), weights=core)
    with torch.no_grad():
        core.readout.zero_()
    train(net, optimizer, 2)
    assert torch.equal(flat(net), flat(trained(2)[0]))


def test_schedules_act_on_lr():
    from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR, StepLR

    makers = [
        lambda o: StepLR(o, 1, 0.5),
        lambda o: CosineAnnealingLR(o, 3),
        lambda o: OneCycleLR(o, 1.0, total_steps=4, cycle_momentum=False),
        lambda o: CyclicLR(o, 0.1, 1.0, step_size_up=2, cycle_momentum=False),
    ]
    for make in makers:
        net = make_net()
        optimizer = make_optimizer(net.parameters())
        schedule = make(optimizer)
        rates = []
        for _ in range(3):
            before = flat(net)
            train(net, optimizer, 1)
            schedule.step()
            assert not torch.equal(flat(net), before)
            rates.append(optimizer.param_groups[0]["lr"])
        assert len(set(rates)) > 1
