"""The compiled step for meta-training equals the plain one: values, states and gradients."""

import pytest
import torch

from factotum.optim import HierarchicalRNNConfig, HierarchicalRNNCore, Layout, code_config, paper_config
from factotum.optim.training_core import TrainingCore, why_not

CONFIGS = {
    "shipped": HierarchicalRNNConfig(),
    "code": code_config(),
    "paper": paper_config(attention=False),
    "small": HierarchicalRNNConfig(parameter_units=3, scales=2, tensor_units=5, relative_rate="tensor"),
}
LAYOUTS = {
    "mixed": Layout((2, 2, 40, 0, 1, 7, 33), (0, 1, 2, 2, 2, 3, 1)),
    "many": Layout.copies([(2, 1)], 150),
    "one": Layout.single([300]),
    "scalar": Layout.single([1]),
}
pytestmark = pytest.mark.skipif(why_not(CONFIGS["shipped"]) is not None, reason="no C++ compiler")


def cores(config):
    torch.manual_seed(0)
    fast = TrainingCore(config)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    plain = HierarchicalRNNCore(config)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def unrolled(core, layout, steps=6, scale=2.0):
    """Updates, last state and all gradients of a sum over both with random weights."""
    draw = torch.Generator().manual_seed(1)
    state = core.initial_state(layout, torch.Generator().manual_seed(2))
    updates = []
    for _ in range(steps):
        size = (scale * torch.randn(layout.scalar_count, generator=draw)).exp()
        done, state = core.step(size * torch.randn(layout.scalar_count, generator=draw), state, layout)
        updates.append(done.update_P)
    outcome = [torch.stack(updates), *state.slots, state.tensor_NT, state.global_BG]
    # squared averages of large gradients would drown all others
    parts = [one.clamp(max=1e3) for one in outcome]
    total = sum((part * torch.randn(part.shape, generator=draw)).sum() for part in parts)
    core.zero_grad()
    total.backward()
    return outcome, {name: p.grad for name, p in core.named_parameters()}


def close(one, other, tolerance=1e-4):
    return (one - other).norm() <= tolerance * other.norm() + 1e-6


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_plain_core(config, layout):
    fast, plain = cores(CONFIGS[config])
    values, gradients = unrolled(fast, LAYOUTS[layout])
    expected, expected_gradients = unrolled(plain, LAYOUTS[layout])
    assert all(close(*pair) for pair in zip(values, expected, strict=True))
    for name, gradient in expected_gradients.items():
        assert close(gradients[name], gradient), name


def test_the_compiled_step_is_what_runs():
    fast, _ = cores(CONFIGS["shipped"])
    state = fast.initial_state(LAYOUTS["one"], None)
    done, _ = fast.step(torch.ones(300), state, LAYOUTS["one"])
    assert type(done.update_P.grad_fn).__name__ == "_PassBackward"
    fast.native = False
    done, _ = fast.step(torch.ones(300), state, LAYOUTS["one"])
    assert type(done.update_P.grad_fn).__name__ != "_PassBackward"


def test_extreme_gradients_stay_finite():
    fast, plain = cores(CONFIGS["shipped"])
    layout = Layout.single([4])
    gradient = torch.tensor([1e20, -1e-20, 0.0, 1e-38])
    with torch.no_grad():
        states = [core.initial_state(layout, torch.Generator().manual_seed(0)) for core in (fast, plain)]
        for _ in range(50):
            (one, states[0]), (other, states[1]) = (
                core.step(gradient, state, layout) for core, state in zip((fast, plain), states, strict=True)
            )
            assert one.update_P.isfinite().all()
            assert close(one.update_P, other.update_P, 1e-3)


def test_first_step_as_the_paper_derives():
    """All scaled averages are asinh(1) with the gradient's sign."""
    fast, _ = cores(CONFIGS["shipped"])
    layout = Layout.single([2])
    _, state = fast.step(torch.tensor([3.0, -5.0]), fast.initial_state(layout, None), layout)
    assert torch.allclose(state.slots.gradient_PS, torch.tensor([[3.0], [-5.0]]).expand(2, 4))
    assert torch.allclose(state.slots.square_PS, torch.tensor([[9.0], [25.0]]).expand(2, 4))


def test_another_type_or_attention_takes_the_plain_step():
    layout = Layout.single([3])
    double = TrainingCore(CONFIGS["shipped"]).double()
    done, _ = double.step(torch.ones(3).double(), double.initial_state(layout, None), layout)
    assert done.update_P.dtype == torch.float64
    attending = TrainingCore(HierarchicalRNNConfig(attention=True))
    done, _ = attending.step(torch.ones(3), attending.initial_state(layout, None), layout)
    assert done.attended_P is not None
    seen = torch.ones(3, requires_grad=True)
    core = TrainingCore(CONFIGS["shipped"])
    done, _ = core.step(seen, core.initial_state(layout, None), layout)
    assert torch.autograd.grad(done.update_P.sum(), seen)[0].abs().sum() > 0


def test_states_of_one_core_serve_the_other():
    fast, plain = cores(CONFIGS["shipped"])
    layout = LAYOUTS["mixed"]
    gradient = torch.randn(layout.scalar_count, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, state = fast.step(gradient, fast.initial_state(layout, torch.Generator()), layout)
        one, other = (core.step(gradient, state, layout)[0].update_P for core in (fast, plain))
    assert close(one, other)
