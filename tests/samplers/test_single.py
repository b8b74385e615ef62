"""The fast paths for one function, compiled and in NumPy, are the core's own step, part by part and as a whole."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factotum.samplers import native, single, single_surrogate, surrogate
from factotum.samplers.acquisition import AcquisitionCore
from factotum.samplers.acquisition_state import note
from factotum.samplers.candidates import draw, spread
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation, first_observation


def wild(seed=0, candidates=40):
    torch.manual_seed(seed)
    core = AcquisitionCore(SamplerConfig(core="acquisition", width=8, candidates=candidates))
    for name, parameter in core.named_parameters():
        if not name.startswith("prior"):
            torch.nn.init.normal_(parameter, std=0.3)
    return core


def observation(x_BD, y_B, observed=True, left=12.0):
    return Observation(x_BD, y_B, torch.tensor([observed]), torch.tensor([left]))


def nearly_tied(core, told, state, *points_BD):
    """Whether candidates score the same up to rounding, which machines and libraries do differently."""
    scene, _ = core._look(note(told, state), told)
    judged = core._judge(scene, torch.stack([x_BD.double() for x_BD in points_BD], 1))
    score_B2 = core._score(scene, judged, judged.gain_BVC.amax(2, keepdim=True))
    return float(score_B2.detach().diff().abs()) < 1e-2


def both(core, told, state):
    """With and without gradients: the batched path and those for single functions."""
    with torch.enable_grad():
        slow = core.step(told, state)
    for path in [single, native] if native.ready(core) and len(slow[1].y_BN[0]) else [core]:
        with torch.no_grad():
            fast = path.step(core, told, note(told, state)) if path is not core else core.step(told, state)
        same = torch.allclose(fast[0], slow[0], atol=1e-6)
        assert same or nearly_tied(core, told, state, fast[0], slow[0])
        for name in ("x_BND", "y_BN", "pending_BPD", "log_lengthscale_BD", "log_noise_B"):
            a, b = getattr(fast[1], name), getattr(slow[1], name).detach()
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)
        assert fast[1].steps == slow[1].steps
    return fast


def search(core, function, points, pending, dimensions=3, snap=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = core.initial_state(1, dimensions, generator, snap)
    _, state = both(core, first_observation(1, dimensions, 30.0), state)
    for count in range(points + pending):
        x_BD = torch.rand(1, dimensions, generator=generator)
        x_BD = x_BD if snap is None else snap(x_BD)
        _, state = both(core, observation(x_BD, function(x_BD.double()), count < points), state)


@pytest.mark.parametrize("dimensions", [1, 5, 20])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - 0.3).square().sum(1),
        lambda x: (5 * x[:, 0]).floor(),
        lambda x: 0 * x[:, 0] + 7,
        lambda x: (-50 * x[:, 0]).exp() * 1e200,
    ],
)
def test_one_step_is_the_same(dimensions, function):
    search(wild(), function, 14, 2, dimensions)


def test_long_searches_are_the_same():
    """Here products are large enough for PyTorch."""
    core, generator = wild(candidates=128), torch.Generator().manual_seed(0)
    state = core.initial_state(1, 10, generator)
    points_BND = torch.rand(1, 150, 10, generator=generator).double()
    state = state._replace(x_BND=points_BND, y_BN=points_BND.square().sum(-1), steps=150)
    for observed in (True, False):
        both(core, observation(torch.rand(1, 10), torch.rand(1).double(), observed), state)


def test_what_can_be_evaluated_is_the_same():
    search(wild(), lambda x: (x - 0.3).square().sum(1), 12, 3, 2, snap=lambda x: (4 * x).round() / 4)


@settings(deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=15))
def test_views_are_the_same(values):
    y_N = np.array(values, dtype=np.float64)
    views, (seen_VN, order_N) = surrogate.view(torch.from_numpy(y_N)[None]), single_surrogate.view(y_N)
    torch.testing.assert_close(torch.from_numpy(seen_VN), views.seen_BVN[0])
    assert order_N.tolist() == views.order_BN[0].tolist()


@pytest.mark.parametrize(("N", "D"), [(1, 1), (2, 3), (40, 4), (160, 20)])
def test_fits_and_slopes_are_the_same(N, D):
    generator = torch.Generator().manual_seed(N)
    x_BND = torch.rand(1, N, D, generator=generator, dtype=torch.float64)
    seen_BVN = surrogate.view(torch.rand(1, N, generator=generator, dtype=torch.float64)).seen_BVN
    scale_BD, noise_B = 0.5 * torch.randn(1, D, generator=generator).double(), torch.tensor([-5.0]).double()
    fitted = surrogate.fit(x_BND, seen_BVN, scale_BD, noise_B)
    scaled_ND = (x_BND / scale_BD.exp()[:, None] * 5**0.5)[0].numpy()
    found = single_surrogate.fit(scaled_ND, seen_BVN[0].numpy(), float(noise_B.exp()))
    pairs = [
        (found.inverse_NN, fitted.inverse_BNN[0]),
        (found.slope_NN * (-5 / 6), fitted.slope_BNN[0]),
        (found.level_V1[:, 0], fitted.level_BV[0]),
        (found.weights_VN, fitted.weights_BVN[0]),
        (found.amplitude_V, fitted.amplitude_BV[0]),
    ]
    slope_D, slope = single_surrogate.evidence_slopes(found)
    slope_BD, slope_B = surrogate.evidence_slopes(fitted)
    for a, b in [*pairs, (slope_D, slope_BD[0]), (np.array([slope]), slope_B)]:
        torch.testing.assert_close(torch.from_numpy(np.asarray(a)), b, atol=1e-8, rtol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), st.floats(1e-5, 10))
def test_expected_improvements_are_the_same(means, deviation):
    mean = torch.tensor([means], dtype=torch.float64)
    expected, z = surrogate.log_expected_improvement(
        torch.zeros_like(mean), mean, torch.full_like(mean, deviation)
    )
    found = single_surrogate.log_expected_improvement(z.numpy(), np.full(z.shape, deviation))
    torch.testing.assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize(("N", "C", "D"), [(1, 3, 1), (3, 40, 2), (30, 128, 7)])
def test_candidates_are_the_same(N, C, D):
    x_BND = torch.rand(1, N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    order_N = np.arange(N)[::-1].copy()
    scale_BD, draws = torch.linspace(0.2, 3.0, D)[None].double(), draw(3, (1, C, D), single.CPU)
    expected = spread(x_BND, torch.from_numpy(order_N[None, : single.CENTRES]), scale_BD, draws)
    uniform_CF, normal_LD = draws.uniform_BCD1[0, :C].numpy(), draws.normal_BLD[0, : C - C // 3].numpy()
    reach_D = np.minimum(scale_BD[0].numpy(), 1.0)
    found = single._spread(x_BND[0].numpy(), order_N, reach_D, uniform_CF, normal_LD)
    torch.testing.assert_close(torch.from_numpy(found), expected[0])


def test_changed_weights_are_seen():
    """In place, loaded, assigned, copied or sent: the arrays are never those of before."""
    core, other = wild(), wild(seed=1)
    told = observation(torch.full((1, 2), 0.3), torch.tensor([0.5]))
    state = core.initial_state(1, 2, torch.Generator().manual_seed(0))
    for _ in range(4):
        state = both(core, told._replace(x_BD=torch.rand(1, 2)), state)[1]
    before = both(core, told, state)[1].log_lengthscale_BD
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.mul_(1.01)
    changed = both(core, told, state)[1].log_lengthscale_BD
    assert not torch.equal(before, changed)
    for copied in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
        assert copied.kept is None
        assert copied.ready is None
        copied.load_state_dict(other.state_dict())
        both(copied, told, state)
    assert torch.equal(changed, both(core, told, state)[1].log_lengthscale_BD)
    core.load_state_dict(other.state_dict(), assign=True)
    assert not torch.equal(changed, both(core, told, state)[1].log_lengthscale_BD)
