"""The floor under learned rates: its equation, that rates keep to it, and that it keeps the rule from stalling."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.optim import HierarchicalRNN, HierarchicalRNNConfig, load_core
from factotum.optim.optimizer_state import new_state
from factotum.optim.pace import RISE, first_pace, floor, next_pace
from tests.optim.toys import generator

CONFIG = HierarchicalRNNConfig(floor_steps=10)


def test_the_floor_by_hand():
    pace = first_pace(2, torch.zeros(()))
    for size in (4.0, 4.0, 1.0):
        pace = next_pace(pace, torch.tensor([-5.0, -6.0]), torch.tensor([size, 2.0]))
    weight = (1 / 16) / (1 - (15 / 16) ** 3)
    average = torch.tensor([4.0 + weight * (1.0 - 4.0), 2.0])
    fallen = (average / torch.tensor([4.0, 2.0])).log()
    expected = torch.tensor([-5.0, -6.0]) - torch.tensor(1.3).log() + fallen
    torch.testing.assert_close(floor(pace, CONFIG), expected)


def test_the_greatest_rate_and_size_are_kept():
    pace = first_pace(1, torch.zeros(()))
    for rate, size in ((-3.0, 8.0), (-9.0, 1.0), (-4.0, 1.0)):
        pace = next_pace(pace, torch.tensor([rate]), torch.tensor([size]))
    assert pace[0, 0] == -3.0
    assert pace[0, 2] == 8.0
    assert pace[0, 4] == 3.0


def test_a_growing_gradient_raises_it_slowly():
    pace = first_pace(1, torch.zeros(()))
    for size in [1.0] * 200 + [0.01] * 200:
        pace = next_pace(pace, torch.tensor([-5.0]), torch.tensor([size]))
    low = pace[0, 3].item()
    assert low < -4
    for step in range(1, 101):
        pace = next_pace(pace, torch.tensor([-5.0]), torch.tensor([1.0]))
        assert pace[0, 3].item() == pytest.approx(low + step * RISE, abs=1e-4)


def test_there_is_none_without_steps_and_none_to_speak_of_before_the_first():
    assert floor(torch.ones(3, 5), replace(CONFIG, floor_steps=0)).tolist() == [-torch.inf] * 3
    assert floor(first_pace(1, torch.zeros(())), CONFIG).item() == -33.0


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e18])
def test_any_size_of_gradients_gives_numbers(size):
    pace = first_pace(1, torch.zeros(()))
    for _ in range(1000):
        pace = next_pace(pace, torch.tensor([-5.0]), torch.tensor([size]))
        assert floor(pace, CONFIG).isfinite().all()
    torch.testing.assert_close(floor(pace, CONFIG), -5.0 - torch.tensor([1 + 1000 / 10]).log())


@pytest.mark.parametrize("bad", [-1, 1.5, True])
@pytest.mark.parametrize("name", ["floor_steps", "fan_in"])
def test_other_numbers_are_refused(name, bad):
    with pytest.raises(UserError, match=f"{name}: expected a whole number of at least 0"):
        HierarchicalRNNConfig(**{name: bad})


@pytest.mark.parametrize(
    ("shape", "lower"), [((5, 64), 2.0), ((5, 4, 16), 2.0), ((64, 5), 1.0), ((64,), 1.0), ((), 1.0)]
)
def test_initial_rates_are_lower_for_units_of_many_inputs(shape, lower):
    def mean(fan_in):
        core = load_core("hierarchical-rnn")
        core.config = replace(core.config, fan_in=fan_in)
        return new_state(core, torch.zeros(shape), (0,), torch.float32)["log_rate_mean"]

    torch.testing.assert_close(mean(0) - mean(16), torch.tensor(lower).log())


def digits_run(steps, floor_steps, fused=None):
    """Losses of a network on minibatches of digits, whose noise the rule takes for the end, and the optimizer."""
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    core = load_core("hierarchical-rnn")
    core.config = replace(core.config, floor_steps=floor_steps)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = HierarchicalRNN(model.parameters(), weights=core, fused=fused)
    draw, losses = generator(1), []
    for _ in range(steps):
        chosen = torch.randint(len(labels), (64,), generator=draw)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer


@pytest.mark.parametrize("fused", [False, None])
def test_no_rate_is_below_the_floor_of_the_step_before(fused):
    _, optimizer = digits_run(60, 5, fused)
    before = [floor(state["pace"][None], optimizer.core.config) for state in optimizer.state.values()]
    optimizer.step()
    for least, state in zip(before, optimizer.state.values(), strict=True):
        assert state["log_rate"].min() >= least - 1e-5
        assert state["pace"][4] == 61


def test_it_keeps_the_rule_from_stalling():
    with_floor, without = (sum(digits_run(600, steps)[0][-100:]) for steps in (300, 0))
    assert with_floor < 0.1 * without
