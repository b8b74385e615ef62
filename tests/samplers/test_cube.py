"""Every value comes back from the cube, every place in the cube is a value, equal values have equal shares."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from factotum.core.checks import UserError
from factotum.samplers.cube import Cube, Ordered, Unordered, make_axis, new_point

UNIT = st.floats(0, 1)
WHOLE = st.integers(-(10**6), 10**6)


@st.composite
def floats(draw):
    if draw(st.booleans()):
        low = draw(st.floats(1e-9, 1e3))
        return FloatDistribution(low, low * draw(st.floats(1.001, 1e9)), log=True)
    low = draw(st.floats(-1e6, 1e6))
    width = draw(st.floats(1e-3, 1e6))
    step = draw(st.none() | st.floats(0.01, 0.5).map(lambda share: width * share))
    # Optuna takes a value for one of a grid only to 1e-8 of a step: doubles must lie closer than that
    assume(step is None or (abs(low) + width) * 2**-52 < 1e-9 * step)
    return FloatDistribution(low, low + width, step=step)


@st.composite
def ints(draw):
    if draw(st.booleans()):
        low = draw(st.integers(1, 1000))
        return IntDistribution(low, low + draw(st.integers(0, 10**6)), log=True)
    low = draw(WHOLE)
    return IntDistribution(low, low + draw(st.integers(0, 10**6)), step=draw(st.integers(1, 50)))


CHOICES = st.lists(st.text(max_size=3) | WHOLE | st.booleans() | st.none(), min_size=1, max_size=6)
SPACES = st.dictionaries(
    st.text(min_size=1, max_size=3),
    floats() | ints() | CHOICES.map(CategoricalDistribution),
    min_size=1,
    max_size=5,
)


def contains(distribution, value):
    return distribution._contains(distribution.to_internal_repr(value))


@settings(max_examples=150, deadline=None)
@given(SPACES, st.data())
def test_every_place_is_a_point_and_every_point_comes_back(space, data):
    cube = Cube.of_space(space)
    x = data.draw(st.lists(UNIT, min_size=cube.dimensions, max_size=cube.dimensions))
    params = cube.from_cube(x)
    assert params.keys() == space.keys()
    assert all(contains(distribution, params[name]) for name, distribution in space.items())
    place = cube.to_cube(params)
    assert len(place) == cube.dimensions
    assert all(0 <= u <= 1 for u in place)
    again = cube.from_cube(place)
    for name, distribution in space.items():
        if isinstance(distribution, FloatDistribution):
            assert again[name] == pytest.approx(
                params[name], rel=1e-6, abs=1e-6 * (distribution.high - distribution.low)
            )
        else:
            # by place: equal choices such as 1 and True are told apart by type
            assert distribution.to_internal_repr(again[name]) == distribution.to_internal_repr(params[name])


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (IntDistribution(-3, 3), 7),
        (IntDistribution(0, 10, step=4), 3),
        (FloatDistribution(0.0, 1.0, step=0.25), 5),
        (FloatDistribution(-10.2, 10.2, step=0.1), 205),
        (CategoricalDistribution((True, False)), 2),
        (CategoricalDistribution((16, 32, 64, 128)), 4),
    ],
)
def test_discrete_values_share_a_coordinate_evenly(distribution, values):
    axis = make_axis("a", distribution)
    assert axis.size == 1
    counts = Counter(axis.decode([(i + 0.5) / (40 * values)]) for i in range(40 * values))
    assert len(counts) == values
    assert set(counts.values()) == {40}


@pytest.mark.parametrize(
    "distribution", [FloatDistribution(1e-5, 0.1, log=True), IntDistribution(20, 10**5, log=True)]
)
def test_logarithmic_scale(distribution):
    axis = make_axis("a", distribution)
    low, high = math.log(distribution.low), math.log(distribution.high)
    for share in (0.25, 0.5, 0.75):
        assert math.log(axis.decode([share])) == pytest.approx(low + share * (high - low), abs=0.15)
    assert [axis.decode([0.0]), axis.decode([1.0])] == [distribution.low, distribution.high]


@pytest.mark.parametrize(
    ("choices", "kind"),
    [
        (("a", "b"), Ordered),
        ((0.1, 0.2, 0.5), Ordered),
        ((9, 3, 1), Ordered),
        ((1, 3, 2), Unordered),
        (("a", "b", "c"), Unordered),
        ((None, 1, 2), Unordered),
        ((False, True, 2), Unordered),
    ],
)
def test_choices_in_a_row_take_one_coordinate(choices, kind):
    axis = make_axis("a", CategoricalDistribution(choices))
    assert isinstance(axis, kind)
    assert axis.size == (1 if kind is Ordered else len(choices))
    assert [axis.decode(axis.encode(choice)) for choice in choices] == list(choices)


def test_a_choice_stands_at_the_mean_of_where_it_is_taken():
    draw, axis = Random(0), make_axis("a", CategoricalDistribution("abc"))
    places = [[draw.random() for _ in range(3)] for _ in range(20000)]
    taken = [place for place in places if axis.decode(place) == "b"]
    assert len(taken) == pytest.approx(20000 / 3, rel=0.03)
    means = [sum(column) / len(taken) for column in zip(*taken, strict=True)]
    assert means == pytest.approx(axis.encode("b"), abs=0.01)


def test_single_values_take_no_coordinate():
    cube = Cube.of_space(
        {"a": IntDistribution(3, 3), "b": FloatDistribution(0, 1), "c": CategoricalDistribution("x")}
    )
    assert cube.dimensions == 1
    assert cube.from_cube([0.25]) == {"a": 3, "b": 0.25, "c": "x"}


def test_what_a_point_lacks_is_nan_and_what_lies_outside_goes_to_the_end():
    cube = Cube.of_space(
        {"a": FloatDistribution(0, 1), "b": CategoricalDistribution("xyz"), "c": IntDistribution(0, 3)}
    )
    x = cube.to_cube({"a": 7.0, "b": "unknown"})
    assert x[0] == 1.0
    assert all(map(math.isnan, x[1:]))
    assert math.isnan(cube.to_cube({"a": math.nan})[0])


def test_numbers_are_plain_python():
    space = {"a": FloatDistribution(0, 1), "b": IntDistribution(0, 3), "c": IntDistribution(1, 9, log=True)}
    assert [type(value) for value in Cube.of_space(space).from_cube([0.5] * 3).values()] == [float, int, int]


def test_unknown_kind_is_refused():
    with pytest.raises(UserError, match="expected a float, int or categorical distribution for 'a', got"):
        Cube.of_space({"a": (0, 1)})


def test_new_point_finds_the_last_one_left_then_repeats():
    cube = Cube.of_space({"a": IntDistribution(0, 2), "b": CategoricalDistribution("xyz")})
    points = [{"a": a, "b": b} for a in range(3) for b in "xyz"]
    places = {tuple(cube.to_cube(point)) for point in points}
    for seed, left in enumerate(points):
        taken = places - {tuple(cube.to_cube(left))}
        assert new_point([0.1, 0.9, 0.2, 0.1], cube, [taken], Random(seed)) == left
    assert new_point([0.1, 0.9, 0.2, 0.1], cube, [places], Random(0)) == {"a": 0, "b": "x"}


def test_new_point_stays_near_where_it_can():
    cube = Cube.of_space({"a": FloatDistribution(0, 1)})
    point = new_point([1.0], cube, [{(1.0,)}], Random(0))
    assert 0 < 1 - point["a"] < 0.01
