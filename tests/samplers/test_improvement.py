"""The objective against its definition, that it teaches, and every way in which it refuses."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.samplers import acquisition
from factotum.samplers.acquisition import AcquisitionCore, Choice
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation, first_observation
from factotum.samplers.improvement import ImprovementObjective, improvement, prediction_error
from factotum.samplers.objective import MetaBatch
from factotum.samplers.rollout import make_turns, rollout
from factotum.samplers.surrogate import Posterior, fit, view
from factotum.worlds.gp import broad_prior, draw_functions, paper_prior


class Bowls:
    """One bowl a row, with a diary of what was asked."""

    def __init__(self, centre_BD, noise_B=None):
        self.centre_BD, self.asked, self.candidates = centre_BD, [], []
        if noise_B is not None:
            self.noise_B = noise_B

    def __call__(self, x_BD):
        self.asked.append(x_BD)
        return self._values(x_BD[:, None])[:, 0]

    def many(self, x_BCD):
        self.candidates.append(x_BCD)
        return self._values(x_BCD)

    def _values(self, x_BCD):
        return (x_BCD - self.centre_BD[:, None].to(x_BCD)).square().sum(-1)


def small_core(seed=0, std=0.0):
    torch.manual_seed(seed)
    core = AcquisitionCore(SamplerConfig(core="acquisition", width=8, dimensions=6, candidates=24))
    for name, parameter in core.named_parameters():
        if std and not name.startswith("prior"):
            torch.nn.init.normal_(parameter, std=std)
    return core


def bowls(noise=None):
    centre_BD = torch.tensor([[0.2, 0.7], [0.9, 0.4], [0.5, 0.1]])
    return Bowls(centre_BD, noise)


def batch(functions=None, evaluations=8, seed=0, workers=1):
    return MetaBatch(functions or bowls(), 3, 2, evaluations, workers, seed)


# -- the gain


def test_improvement_is_what_it_says():
    """Seventeen values: the best eighth ends at the fourth, three quarters at the thirteenth."""
    value_BN = torch.arange(17.0).double()[None].flip(1)
    found = improvement(torch.tensor([[5.0, 0.0, -1.0, -30.0]]).double(), value_BN)
    expected = torch.tensor([[0.0, 0.0, math.log1p(1 / 3), math.log1p(30 / 3)]]).double()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("coarseness", "unit"), [(0.02, 2.0), (0.5, 50.0), (0.0, 1e-4)])
def test_unit_of_the_improvement_has_a_floor(coarseness, unit):
    value_BN = torch.cat([torch.zeros(8), torch.full((8,), 100.0)]).double()[None]
    found = improvement(torch.tensor([[-2.0]]).double(), value_BN, coarseness)
    assert float(found) == pytest.approx(math.log1p(2.0 / unit))


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0]])
def test_improvement_of_equal_values_is_finite(values):
    found = improvement(torch.tensor([[2.0, 1.0, 0.0]]).double(), torch.tensor([values]).double())
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, math.log(2)]]).double())


@pytest.mark.parametrize("a", [1e-3, 1.0, 1e3])
def test_improvement_has_no_scale(a):
    generator = torch.Generator().manual_seed(0)
    value_BN = torch.randn(4, 11, generator=generator).double()
    true_BC = torch.randn(4, 6, generator=generator).double() - 2
    torch.testing.assert_close(improvement(true_BC, value_BN), improvement(a * true_BC - 3, a * value_BN - 3))


# -- the prediction


def choice_at(true_BC, shift):
    """Of two candidates each, predicted to be in the views where they are, but for a shift in deviations."""
    x_BND = torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(0)).double()
    y_BN = x_BND.sum(-1)
    views = view(y_BN)
    surrogate = fit(x_BND, views.seen_BVN, torch.zeros(2, 2).double(), torch.full((2,), -3.0).double())
    share_BC = torch.full((2, 2), 0.5).double()
    deviation_BVC = (
        (share_BC.square() + surrogate.noise_B[:, None])[:, None] * surrogate.amplitude_BV[..., None]
    ).sqrt()
    mean_BVC = torch.zeros_like(deviation_BVC)
    mean_BVC[:, :-1] = views.of(true_BC) + shift * deviation_BVC[:, :-1]
    posterior = Posterior(mean_BVC, share_BC, share_BC)
    return Choice(x_BND[:, :2], share_BC, posterior, surrogate, views), deviation_BVC[:, :-1]


@pytest.mark.parametrize("shift", [-2.0, 4.0, 10.0])
def test_prediction_error_is_laplace_at_its_best_scale(shift):
    true_BC = torch.tensor([[0.7, 1.0], [0.9, 1.2]]).double()
    choice, deviation_BVC = choice_at(true_BC, shift)
    weight_BC = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).double()
    error_B = prediction_error(choice, true_BC, weight_BC)
    scales = torch.linspace(0.01, 20.0, 4000).double()[:, None, None, None]
    z_BVC = abs(shift) * torch.ones_like(deviation_BVC)
    costs = z_BVC / scales + (scales * deviation_BVC).log()
    best_BV = (costs * weight_BC[:, None]).sum(-1).amin(0)
    torch.testing.assert_close(error_B, best_BV.mean(1) - 1, atol=1e-4, rtol=0)


def test_right_shape_beats_right_size_of_deviations():
    """Errors in the proportions of the deviations cost least; the same factor on all deviations costs nothing."""
    true_BC = torch.tensor([[0.7, 1.0], [0.9, 1.2]]).double()
    choice, _ = choice_at(true_BC, 2.0)
    even_BC = torch.full((2, 2), 0.5).double()
    posterior = choice.posterior
    quiet = choice.surrogate._replace(noise_B=torch.zeros(2).double())
    error_B = prediction_error(choice._replace(surrogate=quiet), true_BC, even_BC)
    wider = choice._replace(surrogate=quiet, posterior=posterior._replace(share_BC=3 * posterior.share_BC))
    torch.testing.assert_close(prediction_error(wider, true_BC, even_BC), error_B, atol=1e-4, rtol=0)
    askew_BC = posterior.share_BC * torch.tensor([3.0, 1 / 3])
    askew = choice._replace(surrogate=quiet, posterior=posterior._replace(share_BC=askew_BC))
    assert (prediction_error(askew, true_BC, even_BC) > error_B).all()


# -- the whole


def by_hand(objective, core, the_batch, seed):
    """Gain and error, candidate by candidate, in a search that `consider` alone makes."""
    generator, T = torch_generator(seed, "search"), the_batch.evaluations
    make_turns(T, 1, generator)
    torch.randn(3, T, generator=generator)  # of the noise, which is none
    state = core.initial_state(3, 2, generator)
    x_BD, _ = core.step(first_observation(3, 2, float(T)), state)
    steps = objective._steps(the_batch, generator)
    told, values, gains, errors = first_observation(3, 2, float(the_batch.evaluations)), [], [], []
    for step in range(the_batch.evaluations):
        choice, state = core.consider(told, state)
        if choice is not None:
            x_BD = choice.candidates_BCD[torch.arange(3), choice.score_BC.argmax(1)].float()
        if step in steps:
            true_BC = the_batch.functions.many(choice.candidates_BCD.float()).double()
            p_BC = choice.score_BC.softmax(1)
            weight_BC = 0.5 / true_BC.shape[1] + 0.5 * p_BC
            errors += prediction_error(choice, true_BC, weight_BC).tolist()
            for b in range(3):
                seen = sorted(float(value_B[b]) for value_B in values)
                N = len(seen)
                floor = 0.02 * (1 - N / the_batch.evaluations) ** 2 * (seen[3 * N // 4] - seen[0])
                unit = max(seen[min(N - 1, 1 + N // 8)] - seen[0], floor) or 1.0
                p = choice.score_BC[b].softmax(0)
                C = len(p)
                gain = [math.log1p(max(seen[0] - float(f), 0.0) / unit) for f in true_BC[b]]
                gains.append(sum(float(p[c]) * gain[c] for c in range(C)))
        values.append(the_batch.functions(x_BD))
        told = Observation(x_BD, values[-1], torch.ones(3) > 0, told.remaining_B - 1)
    return sum(gains) / len(gains), sum(errors) / len(errors), torch.stack(values, 1)


@torch.no_grad()
@pytest.mark.parametrize("prediction", [0.0, 0.3])
def test_the_loss_is_its_definition(prediction):
    objective, core = ImprovementObjective(windows=2, window=2, prediction=prediction), small_core(std=0.2)
    loss, weight, metrics = objective(core, batch(seed=5))
    gain, error, value_BT = by_hand(objective, core, batch(seed=5), 5)
    assert weight == 3.0
    assert float(metrics["gain"]) == pytest.approx(gain, rel=1e-4)
    assert float(metrics["error"]) == pytest.approx(error, rel=1e-4)
    assert float(loss) == pytest.approx(prediction * error - gain, rel=1e-4)
    assert float(metrics["value/mean"]) == pytest.approx(float(value_BT.mean()), rel=1e-4)
    assert float(metrics["value/best"]) == pytest.approx(float(value_BT.amin(1).mean()), rel=1e-4)


def test_gradient_in_the_scores_is_that_of_the_expectation():
    """d/ds_j of sum p g is p_j (g_j - mean): what improves more than expected is pushed up."""
    objective, functions = ImprovementObjective(prediction=0.0), bowls()
    x_BND = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1))
    value_BN = functions.many(x_BND)
    choice, _ = choice_at(torch.ones(2, 2).double(), 0.0)
    candidates_BCD = torch.rand(3, 9, 2, generator=torch.Generator().manual_seed(2)).double()
    score_BC = torch.randn(3, 9, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    posterior = Posterior(torch.zeros(3, 3, 9).double(), torch.ones(3, 9).double(), torch.ones(3, 9).double())
    scale_BD = torch.zeros(3, 2).double()
    views = view(value_BN.double())
    surrogate = fit(x_BND.double(), views.seen_BVN, scale_BD, torch.full((3,), -3.0).double())
    choice = Choice(candidates_BCD, score_BC, posterior, surrogate, views)
    gain, _ = objective._losses(choice, value_BN, batch(functions, evaluations=10))
    gain.backward()
    p_BC = score_BC.detach().softmax(1)
    gain_BC = improvement(functions.many(candidates_BCD), value_BN.double(), 0.02 * 0.5**2)
    expected_BC = p_BC * (gain_BC - (p_BC * gain_BC).sum(1, keepdim=True)) / 3
    torch.testing.assert_close(score_BC.grad, expected_BC, atol=1e-6, rtol=1e-4)


def test_equal_seeds_give_equal_losses():
    objective, core = ImprovementObjective(), small_core()
    first, again, other = (objective(core, batch(seed=seed))[0].item() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_weight_gets_a_finite_gradient():
    core = small_core(std=0.2)
    loss, _, _ = ImprovementObjective()(core, batch(evaluations=10))
    loss.backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a constant in all scores changes no choice
        assert name == "output.bias" or parameter.grad.any(), name


def test_noise_is_told_but_not_scored():
    """With noise the search sees other values; the gain counts those without."""
    core, objective = small_core(), ImprovementObjective()
    quiet, noisy = bowls(), bowls(torch.full((3,), 5.0))
    for functions in (quiet, noisy):
        objective(core, batch(functions, 6))
    assert torch.equal(quiet.asked[1], noisy.asked[1])  # a single value tells nothing
    assert not torch.equal(quiet.asked[4], noisy.asked[4])
    _, _, metrics = objective(core, batch(bowls(torch.full((3,), 1e3)), 6))
    assert float(metrics["value/mean"]) < 3.0


@pytest.mark.parametrize(("evaluations", "workers"), [(2, 1), (3, 1), (12, 1), (3, 2), (12, 8)])
@pytest.mark.parametrize(("windows", "window"), [(1, 1), (2, 3), (5, 4)])
def test_windows_lie_in_the_search_and_never_where_nothing_is_known(evaluations, workers, windows, window):
    objective = ImprovementObjective(windows=windows, window=window)
    the_batch, seen = batch(evaluations=evaluations, workers=workers), set()
    for seed in range(60):
        steps = objective._steps(the_batch, torch.Generator().manual_seed(seed))
        assert steps
        assert steps <= set(range(workers, evaluations))
        seen |= steps
    assert max(seen) == evaluations - 1
    loss, _, _ = objective(small_core(), the_batch)
    assert loss.isfinite()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_it_trains_on_the_searches_that_users_see(workers):
    core, trained, used = small_core(std=0.2), bowls(torch.full((3,), 0.1)), bowls()
    ImprovementObjective()(core, batch(trained, 9, seed=4, workers=workers))
    with torch.no_grad():
        rollout(
            core, used, 9, batch_size=3, dimensions=2, workers=workers,
            generator=torch_generator(4, "search"), noise_B=trained.noise_B,
        )  # fmt: skip
    torch.testing.assert_close(torch.stack(trained.asked), torch.stack(used.asked), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        *({"windows": 0}, {"window": 0}),
        *({name: bad} for name in ("prediction", "coarseness") for bad in (-0.1, math.inf, math.nan)),
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="windows, window, prediction, coarseness: expected"):
        ImprovementObjective(**options)


@pytest.mark.parametrize("prior", [broad_prior(), paper_prior()])
def test_losses_on_real_priors_are_finite(prior):
    functions = draw_functions(prior, 4, 3, torch.Generator().manual_seed(0))
    core = small_core(std=0.2)
    loss, _, _ = ImprovementObjective()(core, MetaBatch(functions, 4, 3, 9))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def gain_and_error(core, objective, seed):
    """After four random points on steep bowls, so that every core is asked the same."""
    generator = torch.Generator().manual_seed(seed)
    functions = Bowls(torch.rand(16, 2, generator=generator))
    state, values = core.initial_state(16, 2, generator), []
    for x_BD in torch.rand(4, 16, 2, generator=generator):
        values.append(functions(x_BD))
        told = Observation(x_BD, values[-1], torch.ones(16) > 0, torch.full((16,), 94.0))
        choice, state = core.consider(told, state)
    return objective._losses(choice, torch.stack(values, 1), batch(functions, evaluations=100))


@pytest.mark.parametrize("part", [0, 1])
def test_training_raises_the_gain_or_lowers_the_error(part, monkeypatch):
    core, objective = small_core(), ImprovementObjective()
    if part:
        # candidates lie at distances of lengthscales: the error is that of points which stay where they are
        points_BCD = torch.rand(16, 40, 2, generator=torch.Generator().manual_seed(3)).double()
        monkeypatch.setattr(acquisition, "spread", lambda *_: points_BCD)
        monkeypatch.setattr(acquisition, "closer", lambda *_: points_BCD)
    with torch.no_grad():
        before = gain_and_error(core, objective, 1000)[part]
    optimizer = torch.optim.Adam(core.parameters(), 0.03)
    for _ in range(12):
        gain, error = gain_and_error(core, objective, 1000)
        optimizer.zero_grad()
        (error if part else -gain).backward()
        optimizer.step()
    with torch.no_grad():
        after = gain_and_error(core, objective, 1000)[part]
    assert after < before - 0.005 if part else after > before + 0.1
