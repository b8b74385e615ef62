"""Functions of two variables: textbook values, lowest points, starts."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems.plane import PLANE_FUNCTIONS, TwoDimensional

VALUES = {  # at (1, 2), from the textbook formulas in plain Python
    "ackley": 20 + math.e - 20 * math.exp(-0.2 * math.sqrt(2.5)) - math.exp(1.0),
    "beale": (1.5 - 1 + 2) ** 2 + (2.25 - 1 + 4) ** 2 + (2.625 - 1 + 8) ** 2,
    "booth": (1 + 4 - 7) ** 2 + (2 + 2 - 5) ** 2,
    "branin": (2 - 5.1 / (4 * math.pi**2) + 5 / math.pi - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(1) + 10,
    "log-sum-exp": math.log(math.exp(6.9) + math.exp(-5.1) + math.exp(-1.1) + 1),
    "matyas": 0.26 * 5 - 0.48 * 2,
    "michalewicz": 2 - math.sin(1) * math.sin(1 / math.pi) ** 10 - math.sin(2) * math.sin(8 / math.pi) ** 10,
    "rosenbrock": 100.0,
    "styblinski-tang": 0.5 * (1 - 16 + 5 + 16 - 64 + 10) + 80,
}  # fmt: skip

LOWEST = {
    "ackley": (0.0, 0.0),
    "beale": (3.0, 0.5),
    "booth": (1.0, 3.0),
    "branin": (math.pi, 2.275),
    "log-sum-exp": (-math.log(2) / 2, 0.0),
    "matyas": (0.0, 0.0),
    "rosenbrock": (1.0, 1.0),
    "styblinski-tang": (-2.903534027771, -2.903534027771),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def values(name, points):
    return TwoDimensional(name).draw(len(points), seeded(), points.dtype).loss([points])


@pytest.mark.parametrize("name", PLANE_FUNCTIONS)
def test_textbook_values(name):
    found = values(name, torch.tensor([[1.0, 2.0]], dtype=torch.float64)).item()
    assert found == pytest.approx(VALUES[name], rel=1e-9)


@pytest.mark.parametrize("name", LOWEST)
def test_the_minimum_is_reached(name):
    found = values(name, torch.tensor([LOWEST[name]], dtype=torch.float64)).item()
    assert found == pytest.approx(PLANE_FUNCTIONS[name].minimum, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PLANE_FUNCTIONS)
def test_nothing_is_lower_than_the_minimum(name, dtype):
    directions = torch.randn(20_000, 2, generator=seeded(), dtype=dtype)
    centre = torch.tensor(LOWEST.get(name, (2.2029, 1.5708)), dtype=dtype)
    minimum = PLANE_FUNCTIONS[name].minimum
    for reach in (1e-8, 1e-4, 1e-2, 1.0, 10.0):
        # nor by rounding, where the minimum is 0
        assert values(name, centre + reach * directions).min().item() >= minimum * (1 - 4e-6)
    assert values(name, centre.expand(2, 2)).min().item() >= minimum * (1 - 4e-6)


def test_michalewicz_has_its_textbook_minimum_in_the_square_of_its_starts():
    square = math.pi * torch.rand(200_000, 2, generator=seeded(), dtype=torch.float64)
    assert 0.19338 < values("michalewicz", square).min().item() < 0.1945
    far = torch.tensor([[60.5 * math.pi, math.pi / 2]], dtype=torch.float64)
    walk = far + torch.linspace(-0.1, 0.1, 10_001, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0])
    assert values("michalewicz", walk).min().item() < 0.01  # lower outside, and ever closer to 0


@pytest.mark.parametrize("name", PLANE_FUNCTIONS)
def test_starts_fill_their_box(name):
    function = PLANE_FUNCTIONS[name]
    (start,) = TwoDimensional(name).draw(5000, seeded()).initial(seeded(1))
    if function.lowest is None:
        torch.testing.assert_close(start.std(0), torch.ones(2), rtol=0.05, atol=0)
        return
    low, high = torch.tensor(function.lowest), torch.tensor(function.highest)
    share = (start - low) / (high - low)
    assert ((share >= 0) & (share <= 1)).all()
    torch.testing.assert_close(share.mean(0), torch.full((2,), 0.5), rtol=0, atol=0.02)
    torch.testing.assert_close(share.std(0), torch.full((2,), 1 / math.sqrt(12)), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", LOWEST)
def test_gradients_at_the_lowest_point_are_finite(name):
    at = torch.tensor([LOWEST[name]])
    instances = TwoDimensional(name).draw(1, seeded())
    assert instances.gradient([at], seeded())[0].abs().max() < 1e-2


def test_far_away_values_do_not_overflow_where_they_need_not():
    far = torch.tensor([[200.0, 0.0], [-200.0, 0.0]])
    torch.testing.assert_close(values("log-sum-exp", far), torch.tensor([199.9 + math.log(2), 199.9]))
    assert values("ackley", 1e4 * far).isfinite().all()


def test_unknown_functions_are_refused():
    with pytest.raises(UserError, match="did you mean rosenbrock"):
        TwoDimensional("rosenbrok")
