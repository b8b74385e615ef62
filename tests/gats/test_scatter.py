"""Updates start at nothing, learn from the first step, and keep to what is there and to its precision."""

import pytest
import torch

from factotum.gats import GATSConfig
from factotum.gats.scatter import Scatter

UPDATES = ["residual", "gated", "scaled"]


def scatter(update: str, awake: bool = False) -> Scatter:
    torch.manual_seed(0)
    found = Scatter(6, GATSConfig(width=16, heads=2, update=update))
    if awake:
        for parameter in found.parameters():
            parameter.data.normal_()
    return found


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_update_starts_at_nothing_and_has_a_gradient(update, dtype):
    module, x = scatter(update), torch.randn(2, 3, 6).to(dtype)
    y = module(x, torch.randn(2, 3, 16))
    assert y.dtype == dtype
    assert torch.equal(y, x)
    y.float().square().sum().backward()
    first = module.gate if update == "gated" else module.up.weight
    assert first.grad.abs().max() > 0


@pytest.mark.parametrize("update", UPDATES)
def test_absent_elements_stay_as_they_are(update):
    module, x, y = scatter(update, awake=True), torch.randn(2, 3, 6), torch.randn(2, 3, 16)
    present = torch.tensor([[True, False, True], [False, True, True]])
    changed = module(x, y, present)
    assert torch.equal(changed[~present], x[~present])
    assert torch.equal(changed[present], module(x, y)[present])
    assert (changed - x)[present].abs().amin() > 0


def test_known_values_of_each_form():
    x, y = torch.tensor([[[3.0, -3.0]]]), torch.ones(1, 1, 16)
    expected = {"residual": [4.6, -1.4], "gated": [3 + 1.6 * 0.7616, -3 + 1.6 * 0.7616], "scaled": [7.8, 1.8]}
    for update, values in expected.items():
        module = Scatter(2, GATSConfig(width=16, heads=2, update=update))
        module.up.weight.data.fill_(0.1)
        if update == "gated":
            module.gate.data.fill_(1.0)
        torch.testing.assert_close(module(x, y), torch.tensor([[values]]), atol=1e-4, rtol=1e-4)


def test_a_scaled_update_has_the_size_of_what_it_changes():
    module, x, y = scatter("scaled", awake=True), torch.randn(1, 1, 6), torch.randn(1, 1, 16)
    small, large = module(x, y) - x, module(100 * x, y) - 100 * x
    torch.testing.assert_close(large, 100 * small, rtol=1e-4, atol=1e-3)
