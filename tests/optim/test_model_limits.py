"""The update rule where numbers end: empty tensors, zeros for thousands of steps, gradients of 1e20 and 1e-20."""

import pytest
import torch

from factotum.optim.config import code_config, paper_config, shipped_config
from factotum.optim.layout import Layout
from tests.optim.toys import drive, generator, noise, wild_core

CONFIGS = [shipped_config(), code_config(), paper_config(), code_config(attention=True)]


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS)
def test_empty_tensors_change_nothing(config):
    core, gradients = wild_core(config, dtype=torch.float64), noise(10, 4)
    plain, with_empty = Layout.single([3, 1]), Layout.single([0, 3, 1, 0])
    state = core.initial_state(plain, generator())
    upper = {"tensor_NT": core.tensor_start.repeat(4, 1), "pace_N5": state.pace_N5[[0, 0, 1, 1]]}
    updates, last = drive(core, plain, gradients, state)
    same, same_last = drive(core, with_empty, gradients, state._replace(**upper))
    torch.testing.assert_close(same, updates)
    torch.testing.assert_close(same_last.global_BG, last.global_BG)
    assert same_last.tensor_NT.isfinite().all()


@torch.no_grad()
def test_nothing_but_empty_tensors_and_single_scalars():
    core = wild_core()
    for sizes in [(0,), (0, 0), (1,), ()]:
        layout = Layout.single(sizes)
        updates, state = drive(
            core, layout, noise(5, sum(sizes), dtype=torch.float32), core.initial_state(layout, None)
        )
        assert updates.shape == (5, sum(sizes))
        assert all(part.isfinite().all() for part in (updates, *state.slots, *state[1:]))


@torch.no_grad()
@pytest.mark.parametrize(("config", "steps"), [(shipped_config(), 2000), (paper_config(), 300)])
def test_thousands_of_zero_gradients(config, steps):
    core, layout = wild_core(config), Layout.single([3, 2])
    zeros = torch.zeros(steps, 5)
    updates, state = drive(core, layout, zeros, core.initial_state(layout, generator()))
    assert updates.isfinite().all()
    assert all(part.isfinite().all() for part in (*state.slots, *state[1:]))
    torch.testing.assert_close(state.slots.square_PS, torch.full((5, 4), 1e-12), rtol=1e-2, atol=0)
    updates, _ = drive(core, layout, noise(20, 5, dtype=torch.float32), state)  # and back to life
    assert updates.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("square", [0.0, 1e-45, 1e-12])
@pytest.mark.parametrize("decay", [0.0, 1e-30, 1 - 2**-20, 1.0])
def test_averages_at_their_floor(square, decay):
    core, layout = wild_core(), Layout.single([4])
    state = core.initial_state(layout, generator())
    decay_P = torch.full((4,), decay)
    slots = state.slots._replace(
        square_PS=torch.full((4, 4), square), gradient_decay_P=decay_P, square_decay_P=decay_P
    )
    for gradient in (0.0, 1e-20, 1.0, 1e20):
        step, after = core.step(torch.full((4,), gradient), state._replace(slots=slots), layout)
        assert step.update_P.isfinite().all()
        assert all(part.isfinite().all() for part in (*after.slots, *after[1:]))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_extreme_gradients_and_their_meta_gradients(config, size):
    core, layout = wild_core(config), Layout.single([3, 2])
    gradients = size * noise(8, 5, dtype=torch.float32)
    gradients[4] = 1.0
    updates, state = drive(core, layout, gradients, core.initial_state(layout, generator()))
    assert updates.isfinite().all()
    assert all(part.isfinite().all() for part in (*state.slots, *state[1:]))
    updates.square().sum().backward()
    assert all(
        w.grad is not None and w.grad.isfinite().all() for n, w in core.named_parameters() if "start" in n
    )


@torch.no_grad()
def test_log_steps_are_clipped():
    core, layout = wild_core(), Layout.single([4])
    state = core.initial_state(layout, generator())
    for bias in (1e6, -1e6):
        core.readout_bias[0] = bias
        step, after = core.step(torch.ones(4), state, layout)
        assert step.update_P.isfinite().all()
        assert after.slots.log_rate_P.abs().max() <= 33
