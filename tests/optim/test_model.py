"""The update rule: counts, known values, invariances, sums and parts."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.step import Core
from factotum.optim.config import HierarchicalRNNConfig, code_config, paper_config, shipped_config
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState
from tests.optim.toys import drive, generator, joined, make_core, noise, permuted, wild_core

CONFIGS = [shipped_config(), code_config(), paper_config(), code_config(attention=True)]
F64 = torch.float64


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (code_config(), 8349),
        (shipped_config(), 8349),
        (code_config(attention=True), 8363),
        (paper_config(attention=False), 8075),
        (paper_config(), 8085),
    ],
)
def test_the_number_of_weights(config, count):
    assert sum(weight.numel() for weight in make_core(config).parameters()) == count


def test_untrained_weights_are_as_in_the_released_code():
    core = make_core(code_config(attention=True))
    assert core.parameter_rnn.bias.tolist() == pytest.approx([2.2] * 20 + [0.0] * 10)
    assert core.readout[0].abs().max() == 0
    assert core.readout_bias.tolist() == pytest.approx([0.0, 2.2, 3.2])
    assert torch.equal(core.readout[3], core.readout[4])
    assert (core.rate_momentum.item(), core.step_offset.item()) == pytest.approx((3.2, -1.0))
    assert core.tensor_rnn.gates.std().item() == pytest.approx(0.5 / 42**0.5, rel=0.15)
    assert core.shortcut.mean().item() == pytest.approx(0.25, abs=0.1)


def test_a_core_is_a_core():
    assert isinstance(make_core(), Core)


def test_first_learning_rates_lie_where_they_should():
    layout = Layout.single([4000, 4000])
    rates = make_core(dtype=F64).initial_log_rates(layout, generator()).exp().view(2, -1)
    assert (rates > 1e-6).all()
    assert (rates < 1e-2).all()
    spread = rates.log().amax(1) - rates.log().amin(1)
    half = math.log(1e4) / 2
    assert ((spread > 0.98 * half) & (spread < half)).all()
    means = make_core().initial_log_rates(Layout.single([50] * 400), generator()).view(400, 50).mean(1)
    assert means.std().item() == pytest.approx(half / 12**0.5, rel=0.15)


def by_hand(core, gradient, state):
    """One step of one tensor of one problem, scalar by scalar, from the equations."""
    config, H = core.config, core.config.parameter_units
    W = {name: weight.detach() for name, weight in core.state_dict().items()}

    def cell(name, x, h, bias):
        width = len(h)
        pre, gates = W[f"{name}.input"] @ x + bias, W[f"{name}.gates"] @ h
        r, u = (pre[:width] + gates[:width]).sigmoid(), (pre[width : 2 * width] + gates[width:]).sigmoid()
        c = (pre[2 * width :] + W[f"{name}.candidate"] @ (r * h)).tanh()
        return u * h + (1 - u) * c

    slots, S = state.slots, config.scales
    tensor, whole = state.tensor_NT[0], state.global_BG[0]
    bias = W["parameter_rnn.bias"] + W["tensor_to_parameter.weight"] @ tensor + W["tensor_to_parameter.bias"]
    bias = bias + W["global_to_parameter.weight"] @ whole + W["global_to_parameter.bias"]
    hidden, inputs, direction, steps, rates = [], [], [], [], []
    for i, g in enumerate(gradient):
        roots = torch.stack([slots.gradient_decay_P[i] ** (2.0**-s) for s in range(S)])
        bar = roots * slots.gradient_PS[i] + (1 - roots) * g
        b = slots.square_decay_P[i]
        lam = b * slots.square_PS[i] + (1 - b) * (bar**2 + 1e-12)
        m, log = bar / (lam + 1e-16).sqrt(), (lam + 1e-16).log()
        m = m.asinh() if config.squash == "asinh" else m
        products = m[:-1] * m[1:] if config.gradient_products else m[:0]
        relative = slots.log_rate_P[i] - slots.log_rate_P.mean()
        x = torch.cat([m, products, log - log.mean(), relative[None]])
        h = cell("parameter_rnn", x, slots.hidden_PH[i], bias)
        out = W["readout"] @ h
        direction.append(out[3] + (W["shortcut"][0] @ m if config.gradient_shortcut else 0.0))
        steps.append((slots.log_rate_P[i] + out[0] + W["readout_bias"][0]).clamp(-33, 33))
        k = W["rate_momentum"].sigmoid()
        rates.append(k * slots.log_rate_P[i] + (1 - k) * steps[-1])
        hidden.append(h)
        inputs.append(x)
    d, eta = torch.stack(direction), torch.stack(steps)
    if config.normalise == "rms":
        d = d / (d.square().mean() + 1e-16).sqrt()
    else:
        d = d / ((d.square().mean() + 1e-16).sqrt() * len(d) ** 0.5 / len(d))
    update = -(eta + W["step_offset"]).exp() * d
    mean = torch.cat([torch.stack(hidden), torch.stack(inputs)], 1).mean(0)
    assert len(mean) == H + config.features
    bias = W["tensor_rnn.bias"] + W["global_to_tensor.weight"] @ whole + W["global_to_tensor.bias"]
    tensor = cell("tensor_rnn", mean, tensor, bias)
    return update, torch.stack(rates), tensor, cell("global_rnn", tensor, whole, W["global_rnn.bias"])


@torch.no_grad()
@pytest.mark.parametrize("config", [shipped_config(), code_config(), paper_config(attention=False)])
def test_a_step_is_what_the_equations_say(config):
    core, layout = wild_core(config, dtype=F64), Layout.single([5])
    gradients = noise(6, 5)
    _, state = drive(core, layout, gradients[:5], core.initial_state(layout, generator()))
    step, after = core.step(gradients[5], state, layout)
    update, rates, tensor, whole = by_hand(core, gradients[5], state)
    torch.testing.assert_close(step.update_P, update)
    torch.testing.assert_close(after.slots.log_rate_P, rates)
    torch.testing.assert_close(after.tensor_NT[0], tensor)
    torch.testing.assert_close(after.global_BG[0], whole)


@torch.no_grad()
def test_sums_are_of_what_their_names_say():
    core, layout = wild_core(code_config(attention=True), dtype=F64), Layout((3, 0, 4), (0, 0, 1))
    _, state = drive(core, layout, noise(3, 7), core.initial_state(layout, generator()))
    bias_NE = core.biases(state.tensor_NT, state.global_BG, layout)
    mean_N = core.mean_log_rates(state.slots.log_rate_P, layout)
    gradient_P, floor_N = noise(1, 7)[0], torch.tensor([-8.0, -8.0, -torch.inf], dtype=F64)
    swept = core.sweep(gradient_P, state.slots, bias_NE, mean_N, floor_N, layout)
    named = dict(zip(core.sum_names(), swept.sums_NK.T, strict=True))
    assert len(named) == 26
    for name, column in [
        ("hidden_0", swept.slots.hidden_PH[:, 0]),
        ("hidden_9", swept.slots.hidden_PH[:, 9]),
        ("direction_squared", swept.direction_P.square()),
        ("log_rate", swept.slots.log_rate_P),
        ("attended_squared", swept.attended_P.square()),
        ("gradient_size", gradient_P.abs()),
        ("relative_rate", state.slots.log_rate_P - mean_N.repeat_interleave(torch.tensor([3, 0, 4]))),
    ]:
        torch.testing.assert_close(named[name], layout.tensor_sum(column))


@torch.no_grad()
@pytest.mark.parametrize("parts", [(1, 6), (3, 3, 1), (7,)])
def test_a_tensor_may_be_swept_in_parts(parts):
    core, layout = wild_core(dtype=F64), Layout.single([7])
    _, state = drive(core, layout, noise(3, 7), core.initial_state(layout, generator()))
    gradient_P = noise(1, 7, seed=1)[0]
    bias_NE = core.biases(state.tensor_NT, state.global_BG, layout)
    mean_N = core.mean_log_rates(state.slots.log_rate_P, layout)
    swept, at, floor_N = [], 0, torch.tensor([-8.0], dtype=F64)
    for size in parts:
        own = slice(at, at := at + size)
        slots = type(state.slots)(*(slot[own] for slot in state.slots))
        swept.append(core.sweep(gradient_P[own], slots, bias_NE, mean_N, floor_N, Layout.single([size])))
    sums_NK = sum(part.sums_NK for part in swept)
    rms_N, _ = core.scales(sums_NK, torch.tensor([7.0], dtype=F64))
    update_P = torch.cat([core.finish(part.direction_P, part.log_step_P, rms_N) for part in swept])
    tensor_NT, global_BG = core.upward(sums_NK, layout.counts_N(sums_NK), state, layout)
    step, after = core.step(gradient_P, state, layout)
    torch.testing.assert_close(update_P, step.update_P)
    torch.testing.assert_close((tensor_NT, global_BG), (after.tensor_NT, after.global_BG))


@torch.no_grad()
def test_the_direction_has_root_mean_square_one():
    core, layout = wild_core(dtype=F64), Layout.single([30, 5])
    state = core.initial_state(layout, generator())
    # one log step length for all: what is left is the direction
    even = state.slots._replace(log_rate_P=torch.full((35,), -2.0, dtype=F64))
    core.readout[0] = 0.0
    core.readout_bias[0] = 0.0
    step, _ = core.step(noise(1, 35)[0], state._replace(slots=even), layout)
    direction_P = -step.update_P / torch.exp(torch.tensor(-2.0, dtype=F64) + core.step_offset)
    torch.testing.assert_close(layout.tensor_mean(direction_P.square()), torch.ones(2, dtype=F64))


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("factor", [1e-2, 1e4])
def test_rescaled_gradients_give_the_same_updates(config, factor):
    core, layout, gradients = wild_core(config, dtype=F64), Layout.single([4, 3]), 10 * noise(30, 7)
    updates, _ = drive(core, layout, gradients, core.initial_state(layout, generator()))
    rescaled, _ = drive(core, layout, factor * gradients, core.initial_state(layout, generator()))
    torch.testing.assert_close(rescaled, updates, rtol=1e-5, atol=0)  # but for the floor of 1e-12
    reversed_, _ = drive(core, layout, -gradients, core.initial_state(layout, generator()))
    assert not torch.allclose(reversed_, updates, rtol=1e-2)


@torch.no_grad()
def test_shifted_parameters_get_the_same_updates():
    """Gradients are all that is seen: the same bowl elsewhere is descended in the same way."""
    core, layout = wild_core(dtype=F64), Layout.single([6])
    paths = []
    for shift in (0.0, 1000.0):
        theta, state = torch.ones(6, dtype=F64) + shift, core.initial_state(layout, generator())
        for _ in range(30):
            step, state = core.step(theta - shift, state, layout)
            theta = theta + step.update_P
        paths.append(theta - shift)
    torch.testing.assert_close(*paths, rtol=1e-6, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS)
def test_permuted_scalars_get_permuted_updates(config):
    core, layout, gradients = wild_core(config, dtype=F64), Layout.single([6, 2]), noise(20, 8)
    order = torch.tensor([5, 0, 3, 1, 4, 2, 7, 6])
    state = core.initial_state(layout, generator())
    updates, last = drive(core, layout, gradients, state)
    moved, moved_last = drive(core, layout, gradients[:, order], permuted(state, order))
    torch.testing.assert_close(moved, updates[:, order])
    torch.testing.assert_close(moved_last.global_BG, last.global_BG)


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "same"), [(shipped_config(), True), (paper_config(), True), (code_config(), False)]
)
def test_the_order_of_tensors_matters_in_the_released_code_alone(config, same):
    core, layout, gradients = wild_core(config, dtype=F64), Layout.single([3, 5]), noise(20, 8)
    order = torch.tensor([3, 4, 5, 6, 7, 0, 1, 2])
    state = core.initial_state(layout, generator())
    updates, _ = drive(core, layout, gradients, state)
    swapped = permuted(state, order, torch.tensor([1, 0]))
    moved, _ = drive(core, Layout.single([5, 3]), gradients[:, order], swapped)
    assert torch.allclose(moved, updates[:, order], rtol=1e-9, atol=0) is same


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS)
def test_two_problems_at_once_are_two_runs(config):
    core, gradients = wild_core(config, dtype=F64), noise(20, 14)
    first, second = Layout.single([4, 3]), Layout.single([2, 2, 3])
    states = [core.initial_state(layout, generator(i)) for i, layout in enumerate((first, second))]
    together, last = drive(core, Layout.joined([first, second]), gradients, joined(*states))
    apart = [
        drive(core, layout, part, state)
        for layout, part, state in zip((first, second), gradients.split(7, 1), states, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat([updates for updates, _ in apart], 1))
    torch.testing.assert_close(last.global_BG, torch.cat([state.global_BG for _, state in apart]))


@torch.no_grad()
def test_any_floating_gradient_is_computed_in_single_precision():
    core, layout = wild_core(), Layout.single([6])
    state = core.initial_state(layout, generator())
    gradient_P = torch.tensor([1.0, -2.0, 0.5, 4.0, -0.25, 8.0])
    expected, after = core.step(gradient_P, state, layout)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        step, _ = core.step(gradient_P.to(dtype), state, layout)
        assert torch.equal(step.update_P, expected.update_P)
    assert {slot.dtype for slot in after.slots} == {torch.float32}


@torch.no_grad()
def test_a_step_changes_nothing_in_place():
    core, layout = wild_core(), Layout.single([3, 2])
    _, state = drive(core, layout, noise(2, 5, dtype=torch.float32), core.initial_state(layout, generator()))
    before, gradient_P = copy.deepcopy(state), torch.ones(5)
    first, _ = core.step(gradient_P, state, layout)
    again, _ = core.step(gradient_P, state, layout)
    assert torch.equal(first.update_P, again.update_P)
    for old, now in zip((*before.slots, *before[1:]), (*state.slots, *state[1:]), strict=True):
        assert torch.equal(old, now)


@torch.no_grad()
def test_attended_locations_are_further_out_by_the_offset():
    """Untrained, both readouts of the RNN agree; with equal shortcuts the attended step is e times as long."""
    core, layout = make_core(code_config(attention=True)), Layout.single([4, 2])
    core.shortcut[1] = core.shortcut[0]
    step, _ = core.step(noise(1, 6, dtype=torch.float32)[0], core.initial_state(layout, generator()), layout)
    torch.testing.assert_close(step.attended_P, step.update_P * torch.exp(torch.tensor(1.0)))
    assert (
        make_core().step(torch.ones(6), make_core().initial_state(layout, None), layout)[0].attended_P is None
    )


@torch.no_grad()
@pytest.mark.parametrize(("relative", "same"), [("problem", False), ("tensor", True)])
def test_what_learning_rates_are_relative_to(relative, same):
    core = wild_core(replace(shipped_config(), relative_rate=relative), dtype=F64)
    layout = Layout.single([3, 3])
    state = core.initial_state(layout, generator())
    raised = state.slots.log_rate_P + torch.tensor([2.0] * 3 + [0.0] * 3)
    x = []
    for slots in (state.slots, state.slots._replace(log_rate_P=raised)):
        mean_N = core.mean_log_rates(slots.log_rate_P, layout)
        x.append(slots.log_rate_P - layout.to_scalars(mean_N))
    assert torch.allclose(*x) is same


@torch.no_grad()
def test_an_untrained_core_descends():
    """Sixteen quadratics in 20 dimensions, each with random learning rates of its own."""
    core, layout = make_core(), Layout.copies([(20,)], 16)
    matrix = torch.randn(16, 20, 20, generator=generator(1))
    target, theta = torch.randn(2, 16, 20, generator=generator(2))
    state, losses = core.initial_state(layout, generator(3)), []
    for _ in range(300):
        residual = torch.einsum("bij,bj->bi", matrix, theta) - target
        losses.append(0.5 * residual.square().sum(1))
        step, state = core.step(torch.einsum("bij,bi->bj", matrix, residual).flatten(), state, layout)
        theta = theta + step.update_P.view(16, 20)
    share = losses[-1] / losses[0]
    assert (share < 1).all()
    assert share.min() < 0.85


@pytest.mark.parametrize("wrong", ["gradient", "matrix", "scalar", "slots", "tensor", "global"])
def test_what_does_not_fit_is_refused(wrong):
    core, layout = make_core(), Layout.single([3, 2])
    state, gradient_P = core.initial_state(layout, None), torch.ones(5)
    slots, tensor_NT, global_BG, pace_N5 = state
    if wrong == "gradient":
        gradient_P = torch.ones(4)
    elif wrong == "matrix":
        gradient_P = torch.ones(5, 1)
    elif wrong == "scalar":
        gradient_P = torch.ones(())
    elif wrong == "slots":
        slots = core.initial_state(Layout.single([4, 2]), None).slots
    elif wrong == "tensor":
        tensor_NT = tensor_NT[:1]
    else:
        global_BG = global_BG.repeat(2, 1)
    with pytest.raises(
        UserError, match="step: expected gradients and state for 5 scalars, 2 tensors, 1 problems"
    ):
        core.step(gradient_P, OptimizerState(slots, tensor_NT, global_BG, pace_N5), layout)


def test_other_sizes_work():
    config = HierarchicalRNNConfig(parameter_units=3, tensor_units=4, global_units=5, scales=1)
    core, layout = HierarchicalRNNCore(config), Layout.single([2])
    step, state = core.step(torch.ones(2), core.initial_state(layout, None), layout)
    assert (state.slots.hidden_PH.shape, state.tensor_NT.shape, state.global_BG.shape) == (
        (2, 3),
        (1, 4),
        (1, 5),
    )
    assert step.update_P.isfinite().all()
