"""What a meta-training batch is: reproducible, of the shapes asked for, from the process that it names."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.recipes.meta_batches import HeldOut, MetaBatches, Searches, largest_horizon, process_of
from factotum.samplers import SamplerConfig, make_core, save_core
from factotum.worlds.gp import draw_functions, paper_prior

AXIAL = SamplerConfig(dimensions=6, budget=40, width=8)
LSTM = SamplerConfig(core="lstm", dimensions=3, budget=40, width=8)


def make(config=AXIAL, prior="broad", steps=100, seed=0, **changes):
    return MetaBatches(prior, config, Searches(**{"functions": 3, **changes}), steps, seed)


def shape(batch):
    return batch.dimensions, batch.evaluations, batch.workers


def values(batch):
    return batch.functions(torch.full((batch.batch_size, batch.dimensions), 0.3))


def test_a_batch_depends_on_its_place_alone():
    first, again = make()(5, 0, 2, 1), make()(5, 0, 2, 1)
    assert shape(first) == shape(again)
    assert torch.equal(values(first), values(again))
    assert first.seed == again.seed
    other_rank = make()(5, 1, 2, 1)
    assert shape(other_rank) == shape(first)
    for other in (other_rank, make()(6, 0, 2, 1), make()(5, 0, 2, 0), make(seed=1)(5, 0, 2, 1)):
        assert other.seed != first.seed


def test_shapes_are_those_asked_for():
    shapes = [shape(make(workers=5, parallel=0.3, smallest=4)(step, 0, 1, 0)) for step in range(100)]
    assert {d for d, _, _ in shapes} == set(range(1, 7))
    assert {w for _, _, w in shapes} == set(range(1, 6))
    assert 0.5 < sum(w == 1 for _, _, w in shapes) / 100 < 0.85
    for step, (_, evaluations, workers) in enumerate(shapes):
        assert 4 <= evaluations <= largest_horizon(Searches(smallest=4), 40, step / 100)
        assert workers < evaluations
    assert max(t for _, t, _ in shapes[50:]) > 30
    assert min(t for _, t, _ in shapes[50:]) < 10


def test_the_papers_cores_have_one_dimension_and_may_have_one_horizon():
    batches = make(LSTM, horizon="largest", parallel=0.0, smallest=10)
    assert [shape(batches(step, 0, 1, 0)) for step in (0, 25, 50, 99)] == [
        (3, 10, 1),
        (3, 25, 1),
        (3, 40, 1),
        (3, 40, 1),
    ]


def test_a_budget_below_the_smallest_number_of_evaluations():
    config = SamplerConfig(dimensions=1, budget=3, width=8)
    assert {make(config, parallel=1.0)(step, 0, 1, 0).evaluations for step in range(20)} == {3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functions": 0}, "functions: expected 1 or more, got 0"),
        ({"workers": 1}, "workers: expected 2 or more, got 1"),
        ({"parallel": 1.5}, "parallel: expected a share between 0 and 1, got 1.5"),
    ],
)
def test_wrong_searches_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Searches(**changes)


def test_functions_come_from_the_process_that_the_batch_names():
    """Covariance over draws at three points against the kernel that expected improvement uses."""
    batch = make(prior="paper").batch(2, 10, 1, 4000, seed=0)
    x_ND = torch.tensor([[0.1, 0.2], [0.3, 0.3], [0.9, 0.6]])
    y_BN = batch.functions.many(x_ND.expand(4000, 3, 2))
    kernel, scale_BD, variance_B = batch.process
    expected = variance_B[0] * kernel(x_ND[None], x_ND[None], scale_BD[:1])[0]
    torch.testing.assert_close(y_BN.mean(0), torch.zeros(3), atol=0.07, rtol=0)
    torch.testing.assert_close(torch.cov(y_BN.T), expected, atol=0.1, rtol=0)
    assert process_of(make().prior, 3, 2) is None


def test_held_out_functions_are_the_same_each_time_and_never_trained_on(tmp_path):
    torch.manual_seed(0)
    save_core(make_core(AXIAL), tmp_path)
    found = [HeldOut(make(seed=seed, prior="paper"), 5).measure(tmp_path, 7) for seed in (0, 1)]
    assert found[0] == found[1]
    assert found[0]["step"] == 7
    names = [f"{d}d/{t}" for d in (2, 4, 6) for t in (10, 20, 40)]
    assert list(found[0]["held_out"]) == list(found[0]["random"]) == names
    trained = {make(seed=seed)(step, 0, 1, 0).seed for seed in range(3) for step in range(50)}
    held_out = HeldOut(make(), 5)
    assert not trained & {held_out._batch(d, 10).seed for d in (2, 4, 6)}


def test_random_search_is_measured_right(tmp_path):
    torch.manual_seed(0)
    save_core(make_core(LSTM), tmp_path)
    measured = HeldOut(make(LSTM, prior="paper"), 300).measure(tmp_path, 0)
    functions = draw_functions(paper_prior(), 2000, 3, torch_generator(99))
    expected = functions.many(torch.rand(2000, 40, 3, generator=torch_generator(98))).amin(1).mean().item()
    assert measured["random"]["3d/40"] == pytest.approx(expected, abs=0.15)
    curve = measured["curves"]["3d"]
    assert curve["random"][39] == measured["random"]["3d/40"]
    assert curve["core"][39] == measured["held_out"]["3d/40"]
    for best in curve.values():
        assert len(best) == 40
        assert best == sorted(best, reverse=True)
