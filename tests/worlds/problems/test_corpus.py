"""The corpus has every problem of the released code, under names of their own."""

from collections import Counter

import pytest

from factotum.core.checks import UserError
from factotum.worlds.problems import (
    all_problems,
    corpus,
    find,
    noisy_parities,
    plain_quadratics,
    small_networks,
    softmax_regression,
)

CODE = {
    "quadratic": 7,
    "bowl": 8,
    "softmax": 8,
    "two-dimensional": 18,
    "mlp": 12,
    "matmul": 10,
    "log": 6,
    "rescale": 9,
    "norm": 6,
    "sum": 8,
    "sparse": 9,
}
WITHOUT_CLASSIFIERS = {family: n for family, n in CODE.items() if family not in ("softmax", "mlp")}


def names(problems):
    return [problem.name for problem in problems]


def families(problems):
    return dict(Counter(problem.family for problem in problems))


def test_the_released_code_trains_on_101():
    assert len(corpus("code")) == 101
    assert families(corpus("code")) == CODE


def test_the_paper_has_no_classifier_but_slow_problems():
    assert families(corpus("paper")) == {**WITHOUT_CLASSIFIERS, "sparse": 6, "slow": 20, "minibatch": 20}
    assert len(corpus("paper")) == 118
    classifiers = {*names(softmax_regression()), *names(small_networks()), *names(noisy_parities())}
    assert len(classifiers) == 8 + 15 + 2
    assert not classifiers & {*names(corpus("paper"))}
    assert set(names(corpus("code"))) - set(names(corpus("paper"))) == classifiers - {
        *names(noisy_parities())
    }


def test_every_problem_has_a_name_of_its_own():
    for problems in (corpus("code"), corpus("paper"), all_problems()):
        assert len(set(names(problems))) == len(problems)
    assert families(all_problems()) == {**CODE, "quadratic": 10, "slow": 20, "minibatch": 20, "parity": 2}
    assert len(all_problems()) == 146
    assert names([find(name) for name in names(all_problems())]) == names(all_problems())
    shared = {*names(plain_quadratics())} & {*names(corpus("code"))}
    assert shared == {"quadratic-25"}  # the noiseless one of the noisy set


@pytest.mark.parametrize(
    ("name", "size", "noise"),
    [
        ("quadratic-20-noise-0.5", 20, 0.5),
        ("quadratic-25", 25, 0.0),
        ("quadratic-50-noise-1", 50, 1.0),
        ("quadratic-100-noise-2", 100, 2.0),
        ("quadratic-2048", 2048, 0.0),
        ("bowl-5-rotated-noise-0.1", 2, 0.1),
        ("softmax-10-noise-0.5", 22, 0.5),
        ("softmax-256-noise-0.5", 514, 0.5),
        ("rosenbrock-noise-1", 2, 1.0),
        ("norm-23-power-3-noise-0.1", 23, 0.1),
        ("mlp-8-32-64", 8 * 32 + 32 + 32 * 64 + 64 + 64 * 2 + 2, 0.0),
        ("matmul-3-24", 2 * 9 * 24, 0.0),
        ("norm-18-power-1-scale-1000", 18, 0.0),
        ("quadratic-100-scale-132", 100, 0.0),
        ("sum-quadratics-7", 60, 0.0),
        ("sum-norm-quadratic-rosenbrock", 45, 0.0),
        ("sum-two-dimensional-9-quadratics-2", 36, 0.0),
        ("dependency-chain-64", 65, 0.0),
        ("outward-snake-13-batch-32", 13, 0.0),
    ],
)
def test_sizes_and_noise_of_the_table(name, size, noise):
    problem = find(name)
    assert (problem.size, set(problem.noise)) == (size, {noise})


def test_minibatches_of_the_table():
    assert [p.samples_a_batch for p in softmax_regression()] == 2 * [100, 50, 20, 100]
    assert [p.samples_a_batch for p in small_networks()[:12]] == 2 * [10, 200, 100, 64, 128, 16]
    assert [p.inner.name for p in small_networks()[12:]] == names(small_networks())[:3]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown problem 'rosenbrok': did you mean rosenbrock"):
        find("rosenbrok")
    with pytest.raises(UserError, match="'code' or 'paper', got 'both'"):
        corpus("both")
