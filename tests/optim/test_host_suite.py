"""The cases of PyTorch's own optimizer tests (test/test_optim.py) that apply to a dense optimizer.

The table of options, the errors and the tracker are those that ship with torch; the bodies, which do not ship, are
written again after it, under their names. Left out: what is for accelerators only, LBFGS's closures, sparse gradients,
complex numbers (refused, see test_optimizer_refusals.py), and `test_step_is_noop_for_zero_grads`: the learned rule
moves a tensor by its RNN's state also where its gradient is 0.
"""

from __future__ import annotations

import functools
import io
import sys
import types
import unittest
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from factotum.optim.optimizer import HierarchicalRNN
from tests.optim.nets import CORE

HRNN = functools.partial(HierarchicalRNN, weights=CORE)


@pytest.fixture(scope="module", autouse=True)
def host():
    """torch's test helpers; what they import for expected outputs is not needed here."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            import expecttest  # noqa: F401
        except ImportError:
            stub = types.ModuleType("expecttest")
            stub.TestCase = unittest.TestCase
            patch.setitem(sys.modules, "expecttest", stub)
        from torch.testing._internal import common_optimizers

        return common_optimizers


OPTIONS = [
    {},
    {"lr": 0.01},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"weight_decay": 0.1, "maximize": True},
    {"lr": torch.tensor(0.01)},
    {"capturable": True},
    {"lr": torch.tensor(0.001), "weight_decay": 0.1, "capturable": True},
]
"""As `optim_inputs_func_adam` and the like, with the options that this optimizer has."""

PROGRAMS = [{"foreach": False}, {"foreach": True}, {"fused": False}, {"fused": None}]

every_option = pytest.mark.parametrize("options", OPTIONS, ids=[",".join(o) or "default" for o in OPTIONS])


def with_gradients(shapes=((2, 3), (4,)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def stepped(options, steps=3):
    parameters = with_gradients()
    optimizer = HRNN(parameters, **options)
    for _ in range(steps):
        optimizer.step()
    return parameters, optimizer


def test_errors(host):
    inputs = host.get_error_inputs_for_all_optims("cpu", torch.float32)
    assert len(inputs) > 4
    for wrong in inputs:
        given = wrong.optimizer_error_input
        params = [Parameter(torch.randn(1, 1))] if given.params is None else given.params
        if issubclass(wrong.error_type, Warning):
            with pytest.warns(wrong.error_type, match=wrong.error_regex):
                HRNN(params, **given.kwargs)
        else:
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                HRNN(params, **given.kwargs)


def test_optimizer_info_takes_it(host):
    info = host.OptimizerInfo(
        HierarchicalRNN,
        optim_inputs_func=lambda device, dtype=None: [host.OptimizerInput(None, dict(o)) for o in OPTIONS],
        optim_error_inputs_func=host.get_error_inputs_for_all_optims,
        supported_impls=("foreach", "differentiable"),
        has_capturable_arg=True,
        supports_complex=False,
    )
    inputs = host._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info)
    assert len(inputs) > len(OPTIONS)
    for given in inputs:
        if not (given.kwargs.get("differentiable") and given.kwargs.get("capturable")):
            HRNN([Parameter(torch.ones(2))], **given.kwargs)


@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_param_groups(option):
    weight, bias = Parameter(torch.randn(10, 5)), Parameter(torch.zeros(10))
    x = torch.randn(5)
    optimizer = HRNN([{"params": [weight]}, {"params": [bias], option: 0.5}], lr=1.0)
    before = None
    for _ in range(20):
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        before = loss.item() if before is None else before
        loss.backward()
        optimizer.step()
    assert optimizer.param_groups[1][option] == 0.5
    assert loss.item() < before


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    "schedules", [[], [StepLR], [ReduceLROnPlateau], [StepLR, ReduceLROnPlateau]], ids=str
)
def test_forloop_goes_right_direction(contiguous, schedules, program):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(10, 5, 2, generator=generator)
    weight = Parameter(data[..., 0].contiguous() if contiguous else data[..., 0])
    bias = Parameter(data[:, 0, 1].contiguous() if contiguous else data[:, 0, 1])
    x = torch.randn(5, generator=generator)
    optimizer = HRNN([weight, bias], **program)
    made = [StepLR(optimizer, 10, 0.9) if s is StepLR else s(optimizer) for s in schedules]

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        for schedule in made:
            schedule.step(loss) if isinstance(schedule, ReduceLROnPlateau) else schedule.step()
    assert closure().item() < before


@every_option
def test_tensor_lr(options):
    for lr in (torch.tensor(0.01), torch.tensor([0.01])):
        number, _ = stepped({**options, "lr": 0.01})
        tensor, optimizer = stepped({**options, "lr": lr})
        assert all(torch.equal(a, b) for a, b in zip(number, tensor, strict=True))
        assert optimizer.param_groups[0]["lr"] is lr


@every_option
def test_foreach_matches_forloop(host, options):
    """Also with tensors of other types, an empty one, and a scalar."""
    shapes = [(2, 3), (), (3, 0), (4,), (2, 3), (1, 1)]
    types = [torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float64, torch.float16]
    tracker, case = host.TensorTracker({"rtol": 1e-5, "atol": 1e-6, "exact_dtype": True}), host_case(host)
    for program in ({"foreach": False}, {"foreach": True}):
        parameters = [Parameter(p.detach().to(t)) for p, t in zip(with_gradients(shapes), types, strict=True)]
        optimizer = HRNN(parameters, **options, **program)
        for n in range(3):
            for parameter, source in zip(parameters, with_gradients(shapes, n), strict=True):
                parameter.grad = source.grad.to(parameter.dtype)
            parameters[3].grad = None if n == 1 else parameters[3].grad
            optimizer.step()
            for parameter in parameters:
                for tensor in (parameter, *optimizer.state[parameter].values()):
                    if program["foreach"]:
                        tracker.pop_check_set(tensor, case)
                    else:
                        tracker.add(tensor)
    assert tracker.all_popped()


def host_case(host):
    from torch.testing._internal.common_utils import TestCase

    return TestCase()


@every_option
def test_set_default_dtype_works_with_foreach(options):
    expected, _ = stepped(options)
    try:
        torch.set_default_dtype(torch.float64)
        for program in PROGRAMS:
            parameters = with_gradients()
            plain = [Parameter(a.detach().float()) for a in parameters]
            assert parameters[0].dtype == torch.float64
            optimizer = HRNN(plain, **options, **({} if options.get("capturable") else program))
            torch.set_default_dtype(torch.float32)
            for parameter, source in zip(plain, with_gradients(), strict=True):
                with torch.no_grad():
                    parameter.copy_(source)
                parameter.grad = source.grad.clone()
            torch.set_default_dtype(torch.float64)
            for _ in range(3):
                optimizer.step()
            for found, wanted in zip(plain, expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@every_option
def test_step_is_noop_when_params_have_no_grad(options):
    parameters = [Parameter(torch.randn(2, 3)) for _ in range(2)]
    before = [p.detach().clone() for p in parameters]
    HRNN(parameters, **options).step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


@every_option
def test_empty_grad(options):
    parameters = [Parameter(torch.randn(5, 1, 0)), Parameter(torch.randn(0))]
    optimizer = HRNN(parameters, **options)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(s["hidden"].numel() == 0 for s in optimizer.state.values())


def test_optimizer_can_be_printed():
    optimizer = HRNN(
        [{"params": [Parameter(torch.randn(2))]}, {"params": [Parameter(torch.randn(2))], "lr": 0.5}]
    )
    assert "Parameter Group 1" in repr(optimizer)
    assert "lr: 0.5" in repr(optimizer)
    optimizer.__repr__()


@every_option
def test_state_dict_deterministic(options):
    """Loading into a fresh optimizer goes on as the first did."""
    parameters, optimizer = stepped(options)
    twins = [Parameter(p.detach().clone()) for p in parameters]
    for twin, parameter in zip(twins, parameters, strict=True):
        twin.grad = parameter.grad.clone()
    other = HRNN(twins, **options)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(), other.step()
        assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))
    assert str(other.state_dict()) == str(optimizer.state_dict())


@every_option
def test_can_load_older_state_dict(host, options):
    _, optimizer = stepped(options)
    old = deepcopy(optimizer.state_dict())
    for flag in ("foreach", "differentiable", "maximize", "capturable"):
        for group in old["param_groups"]:
            group.pop(flag)
    optimizer.load_state_dict(old)
    optimizer.step()
    assert optimizer.param_groups[0]["foreach"] is None


@pytest.mark.parametrize("named", [(True, False), (False, True), (True, True)], ids=str)
def test_can_load_from_to_named_state_dict(named):
    def make(with_names, prefix):
        parameters = with_gradients()
        given = [(f"{prefix}{n}", p) for n, p in enumerate(parameters)] if with_names else parameters
        optimizer = HRNN(given)
        optimizer.step()
        return optimizer

    saved, loading = make(named[0], "old"), make(named[1], "new")
    loading.load_state_dict(deepcopy(saved.state_dict()))
    loading.step()
    names = loading.param_groups[0].get("param_names")
    assert names == (["old0", "old1"] if named[0] else ["new0", "new1"])


@every_option
def test_save_load_equality_with_weights_only(options):
    _, optimizer = stepped(options)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert str(loaded) == str(optimizer.state_dict())


@every_option
def test_load_nontensor_step(options):
    parameters, optimizer = stepped(options)
    saved = deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[parameters[0]]["step"] == 4


@every_option
def test_deepcopy_copies_all_public_attrs(options):
    _, optimizer = stepped(options)
    public = {name for name in optimizer.__dict__ if not name.startswith("_")}
    assert "core" in public
    assert public == {name for name in deepcopy(optimizer).__dict__ if not name.startswith("_")}


def test_step_hooks_run_in_order():
    """test_step_pre_hook, test_step_post_hook, test_step_all_hooks."""
    parameters = with_gradients()
    optimizer = HRNN(parameters)
    data: list[int] = []
    handles = [
        register_optimizer_step_pre_hook(lambda o, args, kwargs: data.append(1)),
        optimizer.register_step_pre_hook(lambda o, args, kwargs: data.append(2)),
        optimizer.register_step_post_hook(lambda o, args, kwargs: data.append(3)),
        register_optimizer_step_post_hook(lambda o, args, kwargs: data.append(4)),
    ]
    optimizer.step()
    assert data == [1, 2, 3, 4]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert data == [1, 2, 3, 4]


def test_state_dict_hooks_run_in_order():
    """test_state_dict_pre_hook, ..._post_hook, test_load_state_dict_pre_hook_prepends and the like."""
    _, optimizer = stepped({})
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "mark": 1})
    saved = optimizer.state_dict()
    assert calls == ["first", "pre"]
    assert saved.pop("mark") == 1
    optimizer.register_load_state_dict_pre_hook(lambda o, saved: calls.append("load"))
    optimizer.register_load_state_dict_pre_hook(lambda o, saved: calls.append("before"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("after"))
    optimizer.load_state_dict(saved)
    assert calls == ["first", "pre", "before", "load", "after"]


def test_non_empty_state():
    parameters, optimizer = stepped({}, steps=1)
    for parameter in parameters:
        assert len(optimizer.state[parameter]) > 0


def test_profile_names_the_step():
    parameters = with_gradients()
    optimizer = HRNN(parameters)
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert any(event.name == "Optimizer.step#HierarchicalRNN.step" for event in profile.events())


def test_zero_grad_makes_gradients_none_or_zero():
    parameters = with_gradients()
    optimizer = HRNN(parameters, foreach=True)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.abs().sum() == 0 for p in parameters)
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)


def test_non_leaf_parameters_are_refused():
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        HRNN([Parameter(torch.ones(2)) * 2])
    with pytest.raises(ValueError, match="empty parameter list"):
        HRNN([])
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors"):
        HRNN([nn.Linear(1, 1)])
