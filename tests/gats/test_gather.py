"""The closed-form mask against the definition, element by element; and against what gradients say."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.gats import GATS, Component
from factotum.gats.gather import arrivals, index, plan
from tests.gats.families import Rowwise, wake


def draw(seed: int):
    """Times of three components in a batch of two, ragged, with ties within and between components; NaN is absent."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, count in (("text", 5), ("image", 6), ("action", 8)):
        times = torch.randint(0, 5, (2, count), generator=generator).double().sort(1).values
        if name == "image":
            times = times[:, ::3].repeat_interleave(3, 1)
        absent = torch.rand(2, count, generator=generator) < (0.2 * (seed % 3))
        found[name] = times.masked_fill(absent, torch.nan)
    windows = {name: int(torch.randint(1, 5, (), generator=generator)) for name in found}
    return found, windows


def sequence(times, b: int):
    """The interleaved sequence of one batch element: (time, component, place), in order."""
    elements = [
        (float(time), m, s)
        for m, name in enumerate(times)
        for s, time in enumerate(times[name][b])
        if not torch.isnan(time)
    ]
    return sorted(elements)


def gathered(elements, windows, horizon: int):
    """The definition: the maximal subsequence of x_1..x_h with at most N_m of each m, closed under recency."""
    left, kept = dict(enumerate(windows.values())), set()
    for element in reversed(elements[: horizon + 1]):
        if left[element[1]]:
            left[element[1]] -= 1
            kept.add(element[1:])
    return kept


def brute_force(times, windows, whole: set[str]):
    """For each element of each batch element, what it gathers, as (component, place) pairs."""
    found = {}
    for b in range(2):
        elements = sequence(times, b)
        for p, (time, m, s) in enumerate(elements):
            horizon = p
            if list(times)[m] in whole:
                horizon = max(q for q, other in enumerate(elements) if other[:2] == (time, m))
            found[b, m, s] = gathered(elements, windows, horizon)
    return found


def order_of(times, windows, whole):
    rows = {"image": 3}
    return {
        name: arrivals(
            name,
            when,
            2 * when.shape[1] // rows.get(name, 1),
            rows.get(name, 1),
            window=windows[name],
            bidirectional=name in whole,
        )
        for name, when in times.items()
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("whole", [set(), {"image"}], ids=["causal", "encoder"])
def test_the_mask_is_the_definition(seed, whole):
    times, windows = draw(seed)
    found = plan(order_of(times, windows, whole), list(times)).mask_B1TS[:, 0]
    places = [(m, s) for m, name in enumerate(times) for s in range(times[name].shape[1])]
    expected = brute_force(times, windows, whole)
    for b in range(2):
        for t, query in enumerate(places):
            kept = expected.get((b, *query), set())
            assert {places[s] for s in found[b, t].nonzero()[:, 0]} == kept, (b, query)


@pytest.mark.parametrize("seed", range(6))
def test_places_in_the_sequence_are_those_of_the_definition(seed):
    times, windows = draw(seed)
    every = list(order_of(times, windows, set()).values())
    for b in range(2):
        for place, (_, m, s) in enumerate(sequence(times, b)):
            assert index(every, m)[b, s] == place


def test_another_components_window_changes_nothing_of_what_is_kept_of_one():
    times, windows = draw(0)
    masks = [plan(order_of(times, {**windows, "text": n}, set()), ["action"]).mask_B1TS for n in (1, 2, 5)]
    assert all(torch.equal(mask[..., 5:], masks[0][..., 5:]) for mask in masks)
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("positions", ["index", "time", "none"])
def test_gradients_reach_what_is_gathered_and_nothing_else(seed, positions):
    """With one layer and blocks that mix nothing, an output depends on its own element and on G(t)."""
    times, windows = draw(seed)
    whole = {"image"}
    model = GATS(
        {
            name: Component(Rowwise(), window=windows[name], steered=True, bidirectional=name in whole)
            for name in times
        },
        layers=1, width=16, heads=2, positions=positions,
    )  # fmt: skip
    wake(model.double())
    x = {name: torch.randn(*times[name].shape, 6, dtype=torch.float64) for name in times}
    rows = {name: x[name].unflatten(1, (-1, 3)).flatten(0, 1) if name in whole else x[name] for name in times}
    rows = {name: value.requires_grad_() for name, value in rows.items()}
    outputs = model({name: {"x": value} for name, value in rows.items()}, times)
    expected = brute_force(times, windows, whole)
    for m, name in enumerate(times):
        logits = outputs[name]["logits"].reshape(2, -1, 3)
        for t in range(logits.shape[1]):
            grads = torch.autograd.grad(logits[:, t].sum(), list(rows.values()), retain_graph=True)
            for b in range(2):
                reached = {
                    (n, int(s))
                    for n, grad in enumerate(grads)
                    for s in grad.reshape(2, -1, 6)[b].abs().amax(-1).nonzero()[:, 0]
                }
                assert reached == expected.get((b, m, t), set()) | {(m, t)}


def test_times_may_be_given_for_rows_and_as_whole_numbers():
    each = arrivals("image", torch.tensor([[1, 1, 1, 4, 4, 4]]), 2, 3, window=2)
    rows = arrivals("image", torch.tensor([[1, 4]]), 2, 3, window=2)
    assert torch.equal(each.time_BS, rows.time_BS)
    present = arrivals("image", torch.tensor([[1, 4]]), 2, 3, window=2, present=torch.tensor([[1, 0]]))
    assert present.rank_BS.tolist() == [[1, 2, 3, 3, 3, 3]]
    absent_first = arrivals("image", torch.tensor([[torch.nan, 4.0]]), 2, 3, window=2)
    assert absent_first.rank_BS.tolist() == [[0, 0, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([[1.0, 0.5]]), "run backwards: element 2 of batch element 0 arrives at 0.5, after one at 1"),
        (torch.tensor([[1.0, torch.nan, 0.5, 2.0]]), "element 2 of batch element 0"),
        (torch.tensor([1.0, 2.0]), "expected a batch that divides its 2 rows"),
        (torch.zeros(3, 2), "expected a batch that divides its 2 rows"),
        (torch.zeros(1, 3), r"expected shape \(1, 4\) \(each element\) or \(1, 2\)"),
    ],
)  # fmt: skip
def test_times_that_make_no_sense_are_refused_with_the_components_name(times, message):
    with pytest.raises(UserError, match=f"component 'eyes'.*{message}"):
        arrivals("eyes", times, 2, 2, window=1)
