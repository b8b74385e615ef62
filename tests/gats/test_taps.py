"""Where components are touched: depths, outputs of all kinds, and components that wait for one another."""

import contextvars
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.gats.taps import grafts, hidden_of, lockstep, tapped, with_hidden

Pair = namedtuple("Pair", "hidden cache")


@dataclass
class Output:
    cache: str
    hidden: torch.Tensor


@pytest.mark.parametrize("rule", ["round", "floor"])
@pytest.mark.parametrize(("depth", "layers"), [(12, 6), (6, 12), (5, 3), (1, 4), (24, 5), (3, 3)])
def test_grafts_stand_at_proportional_depths_and_end_at_the_last_block(depth, layers, rule):
    found = grafts(depth, layers, rule)
    assert len(found) == layers
    assert list(found) == sorted(found)
    assert found[-1] == depth
    exact = [layer * depth / layers for layer in range(1, layers + 1)]
    slack = 0.5 if rule == "round" else 1.0
    assert all(abs(at - want) <= slack or at == 1 for at, want in zip(found, exact, strict=True))
    assert rule == "round" or all(at <= max(1, want) for at, want in zip(found, exact, strict=True))


def test_halves_go_up_and_never_to_even():
    assert grafts(5, 2) == (3, 5)
    assert grafts(1, 2) == (1, 1)
    assert grafts(3, 2) == (2, 3)


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 3),
        (torch.zeros(2, 3), "cache"),
        [torch.zeros(2, 3)],
        Pair(torch.zeros(2, 3), "cache"),
        {"cache": None, "hidden": torch.zeros(2, 3)},
        OrderedDict(hidden=torch.zeros(2, 3)),
        Output("cache", torch.zeros(2, 3)),
    ],
    ids=lambda output: type(output).__name__,
)
def test_activations_are_found_in_and_put_into_what_blocks_return(output):
    new = torch.ones(2, 3)
    changed = with_hidden(output, new)
    assert type(changed) is type(output)
    assert hidden_of("a", changed) is new
    assert torch.equal(hidden_of("a", output), torch.zeros(2, 3))
    if isinstance(output, Pair | Output):
        assert changed.cache == "cache"


def test_output_objects_of_transformers_too():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    found = with_hidden(
        outputs.BaseModelOutput(last_hidden_state=torch.zeros(1), attentions=None), torch.ones(1)
    )
    assert type(found) is outputs.BaseModelOutput
    assert found.last_hidden_state.item() == found["last_hidden_state"].item() == 1


def test_a_block_without_activations_is_told():
    with pytest.raises(UserError, match="component 'eyes': expected a block to give a tensor, got str"):
        hidden_of("eyes", "nothing")


class Chain(nn.Module):
    """Adds 1 in each block."""

    def __init__(self, depth: int, skip: int | None = None, twice: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.skip, self.twice = skip, twice

    def forward(self, x):
        for n, block in enumerate(self.blocks):
            if n != self.skip:
                x = block(x + 1)
                x = block(x) if self.twice else x
        return x


def run(chain, x, stop, layers=2):
    where = grafts(len(chain.blocks), layers)
    return tapped("a", partial(chain, torch.as_tensor(x)), list(chain.blocks), where, stop)


def test_activations_go_through_stop_and_hooks_go_away():
    chain, seen = Chain(4), []
    assert run(chain, 0, lambda layer, x: (seen.append((layer, int(x))), x * 10)[1]).item() == 220
    assert seen == [(0, 2), (1, 22)]
    assert chain(torch.tensor(0)).item() == 4
    with pytest.raises(ZeroDivisionError):
        run(chain, 0, lambda layer, x: 1 // 0)
    assert not any(block._forward_hooks for block in chain.blocks)


def test_several_layers_on_one_block_come_one_after_another():
    seen = []
    run(Chain(1), 0, lambda layer, x: (seen.append((layer, int(x))), x + 5)[1], layers=3)
    assert seen == [(0, 1), (1, 6), (2, 11)]


def test_blocks_that_do_not_run_or_run_twice_are_told():
    with pytest.raises(UserError, match="component 'a': block 4 of 4 was not run"):
        run(Chain(4, skip=3), 0, lambda layer, x: x)
    with pytest.raises(UserError, match="component 'a': block 4 of 4 ran where block 2 was due"):
        run(Chain(4, skip=1), 0, lambda layer, x: x)
    with pytest.raises(UserError, match="component 'a': block 1 of 2 ran where block 2 was due"):
        run(Chain(2, twice=True), 0, lambda layer, x: x)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_in_lockstep_each_layer_sees_all_components_at_its_depth(count):
    chains = {f"c{n}": Chain(n + 2) for n in range(count)}
    seen = []

    def exchange(layer, x):
        seen.append((layer, {name: int(value) for name, value in x.items()}))
        return {name: sum(x.values()) for name in x}

    before = threading.active_count()
    runs = {name: partial(run, chain, 0) for name, chain in chains.items()}
    outputs = lockstep(runs, exchange)
    assert threading.active_count() == before
    assert [layer for layer, _ in seen] == [0, 1]
    depth = {name: grafts(len(chain.blocks), 2) for name, chain in chains.items()}
    assert seen[0][1] == {name: at[0] for name, at in depth.items()}
    total = sum(at[0] for at in depth.values())
    assert seen[1][1] == {name: total + at[1] - at[0] for name, at in depth.items()}
    assert {int(output) for output in outputs.values()} == {sum(seen[1][1].values())}
    assert list(outputs) == list(chains)


@pytest.mark.parametrize("where", ["first", "last", "exchange"])
def test_an_error_in_one_ends_all_and_comes_out(where):
    def fail(layer, x):
        raise RuntimeError("here")

    def broken(stop):
        stop(0, torch.tensor(1))
        raise RuntimeError("here")

    fine = partial(run, Chain(2), 0)
    runs = {
        "first": broken if where == "first" else fine,
        "mid": fine,
        "last": broken if where == "last" else fine,
    }
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="here"):
        lockstep(runs, fail if where == "exchange" else lambda layer, x: x)
    assert threading.active_count() == before


SETTING = contextvars.ContextVar("SETTING", default=0)


def test_a_components_thread_has_the_callers_settings():
    seen = {}

    def look(name, stop):
        stop(0, torch.tensor(1.0))
        seen[name] = (
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"), torch.get_num_threads(), SETTING.get(),
        )  # fmt: skip

    def check():
        lockstep({"a": partial(look, "a"), "b": partial(look, "b")}, lambda layer, x: x)
        assert seen["a"] == seen["b"]
        return seen["a"]

    SETTING.set(3)
    assert check()[0] is True
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert check()[:4] == (False, False, True, torch.bfloat16)
    with torch.inference_mode():
        assert check()[1] is True
    assert check()[5] == 3


def test_random_draws_come_in_the_same_order_each_time():
    def noisy(stop):
        return stop(1, stop(0, torch.rand(1)) + torch.rand(1))

    def both():
        torch.manual_seed(0)
        return lockstep({"a": noisy, "b": noisy, "c": noisy}, lambda layer, x: x)

    first = both()
    assert all(both() == first for _ in range(20))
    assert first["a"] != first["b"]
