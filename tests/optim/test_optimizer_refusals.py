"""Bad input is an error in one line; parameters and state are as before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.optim import native
from factotum.optim.config import code_config
from factotum.optim.optimizer import HierarchicalRNN
from factotum.optim.store import save_core
from tests.optim.nets import CORE, flat, loss_of, make_net, make_optimizer, same, snapshot, train, trained
from tests.optim.test_optimizer import WAYS
from tests.optim.toys import make_core


def poison(value):
    def change(net):
        net[0].weight.grad[1, 2] = value

    return change


def reshape(net):
    net[0].weight.data = torch.ones(6, 6)
    net[0].weight.grad = torch.ones(6, 6)


def thin(net):
    net[0].weight.grad = torch.ones(5, 6).to_sparse()


GRADIENTS = {
    "NaN": (poison(torch.nan), "gradient of 0.weight: expected finite"),
    "infinity": (poison(-torch.inf), "gradient of 0.weight: expected finite"),
    "another shape": (reshape, "0.weight: expected the shape .5, 6. of its first step, got .6, 6."),
    "sparse": (thin, "0.weight: expected a dense gradient, got a sparse one"),
}


@pytest.mark.parametrize("way", ["together", "native"])
@pytest.mark.parametrize("case", GRADIENTS)
def test_a_bad_gradient_changes_nothing(case, way):
    change, message = GRADIENTS[case]
    net = make_net()
    optimizer = make_optimizer(net.named_parameters(), **WAYS[way])
    train(net, optimizer, 2)
    loss_of(net).backward()
    change(net)
    before = snapshot(optimizer)
    with pytest.raises(UserError, match=message):
        optimizer.step()
    assert same(before, snapshot(optimizer))


def test_a_bad_first_gradient_makes_no_state():
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    loss_of(net).backward()
    net[2].bias.grad.fill_(torch.nan)
    with pytest.raises(UserError, match="gradient of parameter 3 of group 0"):
        optimizer.step()
    assert not optimizer.state
    assert torch.equal(flat(net), flat(make_net()))


def test_complex_parameters_are_refused():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(UserError, match=r"expected real floating-point numbers, got torch\.complex64"):
        make_optimizer([parameter]).step()


def test_an_embedding_with_sparse_gradients_is_refused():
    layer = nn.Embedding(4, 2, sparse=True)
    optimizer = make_optimizer(layer.parameters())
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse=True"):
        optimizer.step()
    assert not optimizer.state


def test_flattened_parameters_are_refused():
    parameter = nn.Parameter(torch.ones(3))
    parameter._fsdp_flattened = True
    parameter.grad = torch.ones(3)
    with pytest.raises(UserError, match="fully_shard"):
        make_optimizer([parameter]).step()


OPTIONS = {
    "negative lr": ({"lr": -1.0}, "Invalid learning rate: -1.0"),
    "lr that is no number": ({"lr": float("nan")}, "lr: expected a number"),
    "long lr": ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
    "negative decay": ({"weight_decay": -0.1}, "Invalid weight_decay value"),
    "integer state": ({"state_dtype": torch.int8}, "state_dtype: expected one of torch.float32"),
    "half state": ({"state_dtype": torch.float16}, "got torch.float16"),
    "two programs": ({"fused": True, "foreach": True}, "fused and foreach"),
    "kernel with gradients": ({"fused": True, "differentiable": True}, "fused and differentiable"),
    "attention": ({"attention": True}, "trained for .no attention., got True"),
    "unknown weights": ({"weights": "hierarchical-rn"}, "unknown weights 'hierarchical-rn'"),
    "missing file": ({"weights": "./nowhere/model.safetensors"}, "unknown weights"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_are_refused(case):
    options, message = OPTIONS[case]
    with pytest.raises(UserError, match=message):
        make_optimizer(make_net().parameters(), **options)


GROUPS = {
    "another optimizer's option": ({"betas": (0.9, 0.95)}, "got .'betas'."),
    "weights of its own": ({"weights": "other"}, "weights: expected one value for all groups"),
    "program of its own": ({"capturable": True}, "capturable: expected one value"),
    "negative lr": ({"lr": -1.0}, "Invalid learning rate"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups_that_cannot_be_are_refused(case):
    options, message = GROUPS[case]
    _, optimizer = trained(1)
    before = snapshot(optimizer)
    with pytest.raises(UserError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})
    assert same(before, snapshot(optimizer))


def test_weights_come_from_a_folder_or_its_file(tmp_path):
    save_core(CORE, tmp_path)
    expected = flat(trained(2)[0])
    for weights in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        assert torch.equal(flat(trained(2, weights=weights)[0]), expected)


def test_torn_and_foreign_weights_are_refused(tmp_path):
    save_core(CORE, tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="does not parse"):
        HierarchicalRNN(make_net().parameters(), weights=tmp_path)
    with pytest.raises(UserError, match="expected weights of system 'optim', version 1, got 'samplers'"):
        HierarchicalRNN(make_net().parameters(), weights="acquisition")


def test_the_kernel_may_be_insisted_on(monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda config=None: "no compiler")
    with pytest.raises(UserError, match="fused: expected a native kernel, there is none: no compiler"):
        make_optimizer(make_net().parameters(), fused=True)
    monkeypatch.setattr(native, "why_not", lambda config=None: None)
    with pytest.raises(UserError, match="single precision"):
        make_optimizer(make_net().parameters(), fused=True, state_dtype=torch.float64)
    net = make_net(dtype=torch.float64)
    optimizer = make_optimizer(net.parameters(), fused=True)
    loss_of(net).backward()
    with pytest.raises(UserError, match=r"expected dense float32.*got a dense torch.float64"):
        optimizer.step()
    assert not optimizer.state


def test_other_readings_of_the_system_work():
    for config in (code_config(), code_config(attention=True)):
        net, _ = trained(2, weights=make_core(config), attention=config.attention)
        assert flat(net).isfinite().all()
        assert not torch.equal(flat(net), flat(make_net()))
