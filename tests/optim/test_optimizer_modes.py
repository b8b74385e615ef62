"""Captured, compiled, differentiable, scaled, attended and memory-bounded steps."""

from __future__ import annotations

import copy

import jaxtyping
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from factotum.core.checks import UserError
from factotum.optim import blocks
from factotum.optim.config import shipped_config
from tests.optim.nets import (
    CORE,
    NoReads,
    by_the_core,
    flat,
    loss_of,
    make_net,
    make_optimizer,
    same,
    snapshot,
    train,
    trained,
)  # fmt: skip
from tests.optim.peak import Peak
from tests.optim.toys import wild_core

ATTENTION = wild_core(shipped_config(attention=True))
WAYS = {"plain": {}, "capturable": {"capturable": True}, "native": {"fused": None}}


def test_capturable_steps_read_nothing_from_the_device():
    for options in ({}, {"weight_decay": 0.1}, {"state_dtype": torch.bfloat16}, {"lr": torch.tensor(0.5)}):
        _, optimizer = trained(1, capturable=True, **options)
        with NoReads():
            optimizer.step()
    _, optimizer = trained(1)
    with NoReads(), pytest.raises(RuntimeError, match="reads from the device"):
        optimizer.step()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_capturable_steps_with_bad_gradients_change_nothing(value):
    net, optimizer = trained(2, capturable=True, weight_decay=0.1)
    before = snapshot(optimizer)
    net[0].weight.grad[0, 0] = value
    optimizer.step()
    assert same(before, snapshot(optimizer))
    train(net, optimizer, 1)
    assert torch.equal(flat(net), flat(trained(3, capturable=True, weight_decay=0.1)[0]))


def test_a_step_compiles_whole(monkeypatch):
    """Also the first one, which makes the state. Checks of shapes while tests run cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    compiled, plain = (make_optimizer([nn.Parameter(torch.ones(5))]) for _ in range(2))
    step = torch.compile(compiled.step, fullgraph=True, backend="eager")
    for _ in range(2):
        for optimizer, advance in ((compiled, step), (plain, plain.step)):
            optimizer.param_groups[0]["params"][0].grad = torch.linspace(-1, 1, 5)
            advance()
    assert same(snapshot(compiled), snapshot(plain))


def differentiable(parameters, **options):
    return make_optimizer(parameters, differentiable=True, **options)


def test_differentiable_steps_are_the_same_steps():
    plain, _ = trained(3, weight_decay=0.1)
    theta = [p.detach().clone().requires_grad_().clone() for p in make_net().parameters()]
    net, other = make_net(), differentiable(theta, weight_decay=0.1)
    for _ in range(3):
        nn.utils.vector_to_parameters(torch.cat([p.detach().flatten() for p in theta]), net.parameters())
        net.zero_grad()
        loss_of(net).backward()
        for parameter, source in zip(theta, net.parameters(), strict=True):
            parameter.grad = source.grad.clone()
        other.step()
    found = torch.cat([p.detach().flatten() for p in theta])
    torch.testing.assert_close(found, flat(plain), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("core", [CORE, ATTENTION], ids=["plain", "attention"])
def test_gradients_flow_through_a_step(core):
    core = copy.deepcopy(core).double()
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.double) for shape in ((3, 2), (3, 2), ())]

    def step(start, gradient, lr):
        parameter = start.clone()
        parameter.grad = gradient
        optimizer = differentiable(
            [parameter], weights=core, lr=lr.abs(), weight_decay=0.1, state_dtype=torch.double,
            attention=core.config.attention,
        )  # fmt: skip
        optimizer.step()
        optimizer.step()
        state = optimizer.state[parameter]
        return parameter, state["hidden"], state["square"], state["global"]

    assert torch.autograd.gradcheck(step, [value.requires_grad_() for value in values])


def test_gradients_flow_to_the_weights():
    core = copy.deepcopy(CORE)
    parameter = torch.ones(3, requires_grad=True).clone()
    parameter.grad = torch.ones(3)
    differentiable([parameter], weights=core).step()
    parameter.square().sum().backward()
    assert core.readout.grad.abs().sum() > 0


def test_a_gradient_scaler_leaves_out_bad_steps():
    """The scaler finds them itself; scaled and unscaled steps are the same."""
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for scale in (1.0, torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(loss_of(net, scale)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0
    assert optimizer.state[net[0].weight]["step"] == 2
    torch.testing.assert_close(flat(net), flat(trained(2)[0]), rtol=1e-5, atol=1e-7)


def test_a_loop_that_hands_over_its_closure():
    """As Lightning does: the closure zeroes, evaluates and differentiates; the optimizer may be wrapped."""
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    losses = []

    def closure():
        loss = loss_of(net)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(3):
        returned = optimizer.step(closure=closure)
        assert returned.item() == losses[-1]
    assert torch.equal(flat(net), flat(trained(3)[0]))


def test_accelerate_prepares_it():
    accelerator = Accelerator(cpu=True)
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    net, optimizer, schedule = accelerator.prepare(net, optimizer, schedule)
    for _ in range(2):
        optimizer.zero_grad()
        accelerator.backward(loss_of(net))
        optimizer.step()
        schedule.step()
    assert torch.equal(flat(net), flat(trained(2)[0]))


@pytest.mark.parametrize("way", WAYS)
def test_attended_and_true_parameters_change_places(way):
    net, optimizer = trained(3, weights=ATTENTION, attention=True, **WAYS[way])
    attended = flat(net)
    optimizer.eval()
    true = flat(net)
    assert (attended - true).abs().max() > 1e-4
    optimizer.eval()
    assert torch.equal(flat(net), true)
    loss_of(net).backward()
    with pytest.raises(UserError, match=r"call optimizer.train\(\) after eval"):
        optimizer.step()
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    optimizer.train()
    assert torch.equal(flat(net), attended)

    twin = make_net()
    twin.load_state_dict(weights)
    other = make_optimizer(twin.parameters(), weights=ATTENTION, attention=True, **WAYS[way])
    other.load_state_dict(saved)
    other.train()
    train(net, optimizer, 2), train(twin, other, 2)
    assert torch.equal(flat(net), flat(twin))


@pytest.mark.parametrize("way", WAYS)
def test_true_parameters_step_by_gradients_at_attended_ones(way):
    net, optimizer = trained(3, weights=ATTENTION, attention=True, **WAYS[way])
    attended, true = by_the_core(make_net(), 3, ATTENTION)
    torch.testing.assert_close(flat(net), attended, rtol=2e-5, atol=1e-7)
    optimizer.eval()
    torch.testing.assert_close(flat(net), true, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_decay_shrinks_the_true_parameters(way):
    outcomes = []
    for decay in (0.0, 0.1):
        net, optimizer = trained(1, weights=ATTENTION, attention=True, weight_decay=decay, **WAYS[way])
        attended = flat(net)
        optimizer.eval()
        outcomes.append((attended, flat(net), optimizer.state[net[0].weight]["log_rate_mean"]))
    (attended, true, rate), (same_attended, shrunk, _) = outcomes
    assert torch.equal(attended, same_attended)
    taken = (true - shrunk)[:30]
    expected = 0.1 * (rate + ATTENTION.step_offset).exp() * flat(make_net())[:30]
    torch.testing.assert_close(taken, expected, rtol=1e-3, atol=1e-7)


def test_train_and_eval_do_nothing_without_attention():
    net, optimizer = trained(2)
    before = flat(net)
    optimizer.eval()
    assert torch.equal(flat(net), before)
    train(net, optimizer, 1)
    optimizer.train()
    train(net, optimizer, 1)
    assert torch.equal(flat(net), flat(trained(4)[0]))


SHAPES = {"one tensor": [(256, 128)], "many": [(128, 128), (64, 128), *[(100,)] * 80]}


@pytest.mark.parametrize(
    ("way", "state_dtype"), [("plain", torch.float32), ("native", torch.float32), ("native", torch.bfloat16)]
)
@pytest.mark.parametrize("shapes", SHAPES)
def test_a_step_takes_a_quarter_of_its_state_at_most(monkeypatch, shapes, way, state_dtype):
    """Blocks are to these 32 thousand scalars as they usually are to one million."""
    monkeypatch.setattr(blocks, "block_limit", lambda device, scalars: 512)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES[shapes]]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(parameters, state_dtype=state_dtype, **WAYS[way])
    with Peak() as first:
        optimizer.step()
    state = sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    assert state == pytest.approx(sum(p.numel() for p in parameters) * 21 * state_dtype.itemsize, rel=0.05)
    with Peak() as second:
        optimizer.step()
    assert second.most < 0.25 * state
    assert state <= first.most < 1.25 * state
