"""What is saved is what is gone on from, bit by bit; what does not fit is refused and changes nothing."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from tests.optim.nets import flat, make_net, make_optimizer, same, snapshot, train, trained
from tests.optim.test_optimizer import WAYS
from tests.optim.toys import wild_core

BFLOAT = torch.bfloat16


def resumed(net, optimizer, saved, **options):
    """Another process's network and optimizer, gone on from what was saved."""
    twin = make_net(dtype=next(net.parameters()).dtype)
    twin.load_state_dict(copy.deepcopy(net.state_dict()))
    other = make_optimizer(twin.parameters(), **options)
    other.load_state_dict(saved)
    return twin, other


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT], ids=str)
@pytest.mark.parametrize("state_dtype", [torch.float32, BFLOAT], ids=str)
def test_resumed_is_bit_equal(way, dtype, state_dtype):
    net, optimizer = trained(3, dtype, state_dtype=state_dtype, **WAYS[way])
    twin, other = resumed(
        net, optimizer, copy.deepcopy(optimizer.state_dict()), state_dtype=state_dtype, **WAYS[way]
    )
    assert other.state[twin[0].weight]["hidden"].dtype == state_dtype
    train(net, optimizer, 3), train(twin, other, 3)
    assert torch.equal(flat(net), flat(twin))
    assert same(snapshot(optimizer), snapshot(other))


def test_a_file_without_pickled_code_holds_everything():
    net, optimizer = trained(2, BFLOAT)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin, other = resumed(net, optimizer, torch.load(file, weights_only=True))
    train(net, optimizer, 2), train(twin, other, 2)
    assert torch.equal(flat(net), flat(twin))


def test_two_optimizers_do_not_share_state():
    net, optimizer = trained(2)
    twin, other = resumed(net, optimizer, optimizer.state_dict())
    before = snapshot(optimizer)
    train(twin, other, 2)
    assert same(before, snapshot(optimizer))


def test_options_come_back():
    net, optimizer = trained(1, lr=0.5, weight_decay=0.1, seed=7)
    _, other = resumed(net, optimizer, optimizer.state_dict())
    group = other.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["seed"]) == (0.5, 0.1, 7)


def test_the_program_is_the_loading_machine_s():
    net, optimizer = trained(2, capturable=True, foreach=True)
    twin, other = resumed(net, optimizer, copy.deepcopy(optimizer.state_dict()), fused=None)
    group = other.param_groups[0]
    assert (group["capturable"], group["foreach"], group["fused"]) == (False, None, None)
    train(twin, other, 2), train(net, optimizer, 2)
    torch.testing.assert_close(flat(twin), flat(net), rtol=2e-5, atol=1e-7)


def test_tensors_that_join_after_resuming_begin_as_they_would_have():
    def later(net, optimizer):
        extra = nn.Parameter(torch.ones(3))
        optimizer.add_param_group({"params": [extra]})
        extra.grad = torch.ones(3)
        optimizer.step()
        return extra.detach()

    net, optimizer = trained(2, seed=3)
    twin, other = resumed(net, optimizer, copy.deepcopy(optimizer.state_dict()))
    net.zero_grad()
    assert torch.equal(later(net, optimizer), later(twin, other))


def test_names_are_kept():
    net = make_net()
    optimizer = make_optimizer(net.named_parameters())
    train(net, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    other = make_optimizer(make_net().named_parameters())
    saved["param_groups"][0].pop("param_names")
    other.load_state_dict(saved)
    assert other.param_groups[0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_hooks_may_change_what_is_loaded():
    _, optimizer = trained(1)
    twin = make_net()
    other = make_optimizer(twin.parameters())
    done = []

    def before(_, state_dict):
        groups = [{**group, "lr": 0.125} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    other.register_load_state_dict_pre_hook(before)
    other.register_load_state_dict_post_hook(lambda o: done.append(o))
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.125
    assert done == [other]


def adam(saved):
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer, 1)
    return optimizer.state_dict()


def changed(path, value):
    """A state dict with one entry set to a value, or removed (None)."""

    def change(saved):
        *way, last = path
        place = saved
        for key in way:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return saved

    return change


BROKEN = {
    "another optimizer's": (adam, "expected one of HierarchicalRNN"),
    "other weights": (lambda saved: trained(1, weights=wild_core(seed=9))[1].state_dict(), "other weights"),
    "fewer groups": (changed(("param_groups",), []), "parameter groups"),
    "fewer parameters": (changed(("param_groups", 0, "params"), [0, 1]), "parameter groups"),
    "no state": (changed(("state",), None), "'state' and 'param_groups'"),
    "missing slot": (changed(("state", 1, "square"), None), "missing .'square'."),
    "unknown slot": (changed(("state", 1, "exp_avg"), torch.zeros(5)), "unknown .'exp_avg'."),
    "another shape": (changed(("state", 2, "hidden"), torch.zeros(10, 1, 4)), "hidden of shape .10, 1, 5."),
    "truncated tensor": (changed(("state", 0, "tensor"), torch.zeros(19)), "tensor of shape .20,."),
    "unknown parameter": (changed(("state", 17), {}), r"got \[17\]"),
    "no global": (changed(("state", 0, "global"), None), "one parameter with the key 'global', got 0"),
    "two globals": (changed(("state", 1, "global"), torch.zeros(20)), "got 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_refused_and_changes_nothing(case):
    change, message = BROKEN[case]
    saved = change(copy.deepcopy(trained(2)[1].state_dict()))
    net, optimizer = trained(3)
    before = snapshot(optimizer)
    with pytest.raises(UserError, match=message):
        optimizer.load_state_dict(saved)
    assert same(before, snapshot(optimizer))
    train(net, optimizer, 1)
    assert torch.equal(flat(net), flat(trained(4)[0]))
