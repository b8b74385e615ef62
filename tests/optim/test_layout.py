"""Sums and means over tensors and problems, against loops; empty tensors, copies, errors."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factotum.core.checks import UserError
from factotum.optim.layout import LARGE, Layout

LAYOUTS = [
    Layout((3, 1, 0, 5), (0, 1, 0, 1)),
    Layout((4, 4, 4), (1, 0, 1)),  # even sizes take a path of their own
    Layout((0, 0), (0, 0)),
    Layout((1,), (0,)),
    Layout((LARGE, 2 * LARGE), (0, 0)),  # as do large tensors
    Layout((), ()),
]


def numbers(count, *columns):
    return torch.randn(count, *columns, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def mean(rows, like):
    return torch.stack(rows).mean(0) if len(rows) else torch.zeros_like(like[:1].sum(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [(), (3,)])
def test_means_are_those_of_a_loop(layout, columns):
    x = numbers(layout.scalar_count, *columns)
    parts = x.split(layout.sizes) if layout.sizes else []
    means, sums = layout.tensor_mean(x), layout.tensor_sum(x)
    assert means.shape == sums.shape == (layout.tensor_count, *columns)
    for i, part in enumerate(parts):
        torch.testing.assert_close(means[i], mean(list(part), x))
        torch.testing.assert_close(sums[i], part.sum(0))
    each = layout.problem_mean(means)
    for b in range(layout.problem_count):
        filled = [m for m, part, p in zip(means, parts, layout.problems, strict=True) if p == b and len(part)]
        torch.testing.assert_close(each[b], mean(filled, x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_problem_means_over_scalars(layout):
    x = numbers(layout.scalar_count)
    parts = x.split(layout.sizes) if layout.sizes else []
    for b, value in enumerate(layout.problem_scalar_mean(x)):
        own = torch.cat([part for part, p in zip(parts, layout.problems, strict=True) if p == b])
        torch.testing.assert_close(value, own.mean() if len(own) else torch.zeros((), dtype=x.dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [(), (2,)])
def test_spreading_is_the_transpose_of_summing(layout, columns):
    x, y = numbers(layout.scalar_count, *columns), numbers(layout.tensor_count, *columns)
    torch.testing.assert_close((layout.tensor_sum(x) * y).sum(), (layout.to_scalars(y) * x).sum())
    x, y = y, numbers(layout.problem_count, *columns)
    torch.testing.assert_close((layout.problem_sum(x) * y).sum(), (layout.to_tensors(y) * x).sum())


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_gradients(layout):
    x = numbers(layout.scalar_count, 2).requires_grad_()
    assert torch.autograd.gradcheck(layout.tensor_mean, (x,))
    assert torch.autograd.gradcheck(layout.to_scalars, (numbers(layout.tensor_count, 2).requires_grad_(),))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=6))
def test_each_problem_sees_its_own_tensors_alone(parts):
    used = sorted({problem for _, problem in parts})
    layout = Layout(tuple(size for size, _ in parts), tuple(used.index(problem) for _, problem in parts))
    x = torch.repeat_interleave(
        torch.tensor([problem for _, problem in parts], dtype=torch.float64), torch.tensor(layout.sizes)
    )
    filled = {problem for size, problem in parts if size}
    expected = [float(problem) if problem in filled else 0.0 for problem in used]
    assert layout.problem_scalar_mean(x).tolist() == expected
    assert layout.problem_mean(layout.tensor_mean(x)).tolist() == expected


def test_the_last_tensor_of_each_problem():
    layout = Layout((1, 1, 1, 0, 0), (0, 1, 0, 1, 2))
    assert layout.problem_last(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [3.0, 2.0, 5.0]


def test_copies_are_laid_out_as_flattened_batches():
    layout = Layout.copies([(2, 3), ()], 2)
    assert (layout.sizes, layout.problems) == ((6, 6, 1, 1), (0, 1, 0, 1))
    weights, scalars = numbers(2, 2, 3), numbers(2)
    means = layout.problem_scalar_mean(torch.cat([weights.flatten(), scalars]))
    torch.testing.assert_close(means[1], torch.cat([weights[1].flatten(), scalars[1:]]).mean())


def test_joined_layouts_number_problems_on():
    joined = Layout.joined([Layout.copies([(2,)], 2), Layout.single([3, 1])])
    assert (joined.sizes, joined.problems) == ((2, 2, 3, 1), (0, 1, 2, 2))
    assert (joined.scalar_count, joined.tensor_count, joined.problem_count) == (8, 4, 3)
    assert Layout.joined([]) == Layout((), ())


def test_layouts_are_values():
    layout = Layout.single([2, 3])
    layout.tensor_mean(torch.zeros(5))
    assert layout == Layout.single([2, 3]) == pickle.loads(pickle.dumps(layout)) == copy.deepcopy(layout)
    assert len({layout, Layout.single([2, 3]), Layout.single([3, 2])}) == 2


@pytest.mark.parametrize(
    ("sizes", "problems", "complaint"),
    [
        ((1, 2), (0,), "expected a problem for each of 2 tensors, got 1"),
        ((-1,), (0,), "expected sizes of 0 or more"),
        ((1.5,), (0,), "expected sizes of 0 or more"),
        ((1, 1), (0, 2), "expected problems numbered from 0"),
        ((1,), (1,), "expected problems numbered from 0"),
    ],
)
def test_bad_layouts_are_refused(sizes, problems, complaint):
    with pytest.raises(UserError, match=complaint):
        Layout(sizes, problems)
