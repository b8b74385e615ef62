"""Snapping many points at once is what the cube does with one."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from factotum.samplers import SamplerConfig, make_core
from factotum.samplers.cube import Cube
from factotum.samplers.replay import Replay, Told
from factotum.samplers.snap import Snap
from tests.samplers.test_cube import SPACES


@settings(max_examples=100, deadline=None)
@given(SPACES, st.integers(0, 10**6))
def test_it_is_the_cube_there_and_back(space, seed):
    for one in space.values():  # of equal choices only the first can come back
        if isinstance(one, CategoricalDistribution):
            assume([one.to_internal_repr(choice) for choice in one.choices] == list(range(len(one.choices))))
    cube = Cube.of_space(space)
    x = torch.rand(5, cube.dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = torch.tensor([cube.to_cube(cube.from_cube(point)) for point in x.tolist()], dtype=torch.float64)
    snapped = Snap(cube)(x)
    torch.testing.assert_close(snapped, wanted.view_as(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(Snap(cube)(snapped), snapped, atol=1e-9, rtol=0)


def test_a_continuous_space_needs_none():
    assert not Snap(Cube.of_space({"x": FloatDistribution(0, 1)})).needed
    assert Snap(Cube.of_space({"x": FloatDistribution(0, 1, step=0.25)})).needed


def test_a_core_that_chooses_proposes_cells_that_are_new():
    cube = Cube.of_space({"x": FloatDistribution(0, 1, step=0.25), "y": FloatDistribution(0, 1, step=0.5)})
    core = make_core(SamplerConfig(core="acquisition", width=8))
    replay = Replay(core, 2, 20, seed=0, snap=Snap(cube))
    points: list[list[float]] = []
    for _ in range(15):
        x, _ = replay.propose(range(len(points)), lambda i: Told(points[i], sum(points[i])))
        torch.testing.assert_close(cube.to_cube(cube.from_cube(x)), x, atol=1e-6, rtol=0)
        points.append(x)
    assert len({tuple(cube.from_cube(x).values()) for x in points}) == 15
