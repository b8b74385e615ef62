"""What the generalist costs: counted parameters, FLOP from above, and what is refused."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from factotum.core.checks import UserError
from factotum.gato import Gato
from factotum.gato.embedding import PatchEmbedding
from factotum.recipes.generalist import Args, make_plan
from factotum.recipes.generalist_budget import MOST_BYTES, SETTINGS, Budget, budget, patch_products
from factotum.worlds.suites import registry


def test_every_size_keeps_to_the_limits_and_only_the_largest_is_not_shipped():
    plans = {name: make_plan(Args(size=name)) for name in SETTINGS}
    counts = [plan.budget.parameters for plan in plans.values()]
    assert counts == sorted(counts)
    for name, plan in plans.items():
        plan.budget.check(ship=name != "25m")
    assert plans["20m"].budget.bytes <= MOST_BYTES < plans["25m"].budget.bytes
    with pytest.raises(UserError, match="leave the stage ship out"):
        plans["25m"].budget.check(ship=True)
    assert all(plan.budget.flop < 1e18 for plan in plans.values())


def test_parameters_are_the_models_own():
    config = SETTINGS["1m"].size.config()
    found = budget(config, 1, [(registry.task("gym/Taxi"), 1.0)])
    assert found.parameters == sum(parameter.numel() for parameter in Gato(config).parameters())


def test_flop_are_those_of_parameters_attention_and_pictures():
    config = SETTINGS["1m"].size.config()
    blind = budget(config, 1000, [(registry.task("gym/Taxi"), 1.0)])
    attention = 12 * config.layers * config.context * config.heads * config.head_size
    assert blind.flop == pytest.approx(1000 * (6 * blind.parameters + attention))
    half = budget(config, 1000, [(registry.task("gym/Taxi"), 1.0), (registry.task("atari/Pong"), 1.0)])
    assert half.flop - blind.flop == pytest.approx(6 * 1000 * 0.5 * 25 / 3 * patch_products(config))


def test_products_of_a_patch_are_those_that_torch_counts():
    config = SETTINGS["5m"].size.config()
    module = PatchEmbedding(config.patch, config.patch_channels, config.patch_positions, 2 * config.code)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 16, 16, 4, dtype=torch.uint8))
    assert counter.get_total_flops() == 2 * patch_products(config)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Budget(25_000_001, 1, 1.0), "at most 25 M parameters"),
        (Budget(1, 1, 1.1e18), r"at most 1e\+18 FLOP, got 1\.10e\+18"),
        (Budget(21_000_000, 1, 1.0), r"at most 40 MB .* got 42\.0 MB"),
    ],
)
def test_more_than_allowed_is_refused(found, message):
    with pytest.raises(UserError, match=message):
        found.check(ship=True)


def test_what_it_will_cost_is_said_before_it_starts(tmp_path, capsys):
    from factotum.recipes import generalist

    args = Args(run=tmp_path / "run", data=tmp_path / "data", stages=("ship",), scale=0.01)
    with pytest.raises(UserError, match="run the stage evaluate first"):
        generalist.main(args)
    assert "122 tasks, size 5m: 5.66 M parameters (11.3 MB" in capsys.readouterr().out
