"""Ids from scores: greedy, temperature, top-k, guidance."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.gats.sampling import Guidance, Sampling, choose, guide


def test_greedy_takes_the_likeliest_and_draws_nothing():
    scores = torch.randn(50, 7, generator=torch_generator(0))
    generator = torch_generator(1)
    before = generator.get_state()
    assert torch.equal(choose(scores, Sampling(), generator), scores.argmax(-1))
    assert torch.equal(generator.get_state(), before)


def test_draws_follow_the_tempered_softmax():
    scores = torch.tensor([1.0, 0.0, -1.0, 2.0])
    drawn = choose(scores.expand(40_000, 4), Sampling(temperature=2.0), torch_generator(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(shares, (scores / 2.0).softmax(-1), atol=0.01)


def test_top_k_draws_among_the_best_alone_and_with_their_odds():
    scores = torch.tensor([1.0, 0.0, -1.0, 2.0])
    drawn = choose(scores.expand(40_000, 4), Sampling(temperature=1.0, top_k=2), torch_generator(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[1] == shares[2] == 0
    assert shares[3] == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.01)
    assert choose(scores[None], Sampling(1.0, top_k=99), torch_generator(0)).shape == (1,)


def test_the_same_generator_gives_the_same_ids():
    scores = torch.randn(20, 9, generator=torch_generator(0))
    first, second, other = (choose(scores, Sampling(1.0), torch_generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_guidance_is_linear_in_its_weight():
    given, free = torch.randn(2, 3, 5, generator=torch_generator(0))
    assert torch.equal(guide(given, free, 0.0), given)
    assert torch.allclose(guide(given, free, -1.0), free)
    assert torch.allclose(guide(given, free, 2.0), 3 * given - 2 * free)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sampling(temperature=-1.0), "temperature"),
        (lambda: Sampling(temperature=float("nan")), "temperature"),
        (lambda: Sampling(top_k=0), "top_k"),
        (lambda: Guidance("text", float("inf")), "weight"),
        (lambda: choose(torch.zeros(1, 2), Sampling(1.0)), "generator"),
        (lambda: choose(torch.tensor([[float("nan"), 0.0]]), Sampling()), "NaN"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
