"""One core for every number of dimensions that chooses among candidates by a learned improvement.

Its state holds points and values, noise that follows the evidence, and lengthscales that a small network moves.
What it does not know: functions, losses, search spaces. Local letters as in `factotum.samplers.surrogate`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.samplers import native, single
from factotum.samplers.acquisition_state import AcquisitionState, note
from factotum.samplers.candidates import CENTRES, Draws, Snap, closer, draw, spread
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation
from factotum.samplers.single import KNOWN, PRIOR_LOG_NOISE, SHARPNESS
from factotum.samplers.surrogate import (
    VIEWS,
    Posterior,
    Surrogate,
    Views,
    evidence_slopes,
    fit,
    leave_one_out,
    log_expected_improvement,
    predict,
    view,
)


class Choice(NamedTuple):
    """Candidates of one step with their scores, and what the scores were made from."""

    candidates_BCD: Float[Tensor, "B C D"]
    score_BC: Float[Tensor, "B C"]
    posterior: Posterior
    surrogate: Surrogate
    views: Views


class Judged(NamedTuple):
    """Candidates one by one."""

    candidates_BCD: Float[Tensor, "B C D"]
    posterior: Posterior
    gain_BVC: Float[Tensor, "B V C"]
    """log improvement expected in each view"""
    z_BVC: Float[Tensor, "B V C"]
    away_BC: Float[Tensor, "B C"]
    """squared distance to the best point"""


class Scene(NamedTuple):
    """What all candidates of a step are judged by."""

    surrogate: Surrogate
    views: Views
    best_BV1: Float[Tensor, "B V 1"]
    places_BK: Int[Tensor, "B K"]
    """where the best values are"""
    best_x_BD: Float[Tensor, "B D"]
    lengthscale_BD: Float[Tensor, "B D"]
    pending_BPD: Float[Tensor, "B P D"] | None
    shared_BF: Float[Tensor, "B F"]
    trust_BV1: Float[Tensor, "B V 1"]


CANDIDATE_FEATURES = 3 * VIEWS + 4
"""log improvement, z and mean in each view; deviation and its logarithm, distances to the nearest and the best"""

SHARED_FEATURES = 6 + 2 * VIEWS
"""logarithms of N, D and what is left, its share, staleness, mean lengthscale; error and amplitude of each view"""

SLOPE_FEATURES = 7
"""of a lengthscale: slope of evidence and prior, both squashed; where it stands, alone and in the mean; N, D"""


class AcquisitionCore(nn.Module):
    r"""$x_t = \arg\max_j\ s(c_j)$ over candidates, s a learned improvement.

    $s = \tau \big(\sum_v \pi_v \log \mathrm{EI}_v(c) + \mathrm{MLP}(\text{features of } c)\big)$ with the expected
    improvements under a Gaussian process in three views of the values (`factotum.samplers.surrogate`), trusts
    $\pi$ read off how well each view predicts. Lengthscales and noise are carried state: each value moves the
    former by a learned function of the slope of the evidence, as a learned optimizer does, and the latter along
    it. Before training, s is $\log \mathrm{EI}$ and the moves follow the slopes.

    Candidates are spread over the cube, around the best point and around the five best, on all or few
    coordinates, at scales of many orders; `Snap` moves them to what can be evaluated, so that improvements are those
    of real points. Points seen, or pending, are not proposed again unless nothing else is left.

    Args:
        config: `dimensions` is the largest D; `width` of the MLP; `candidates`.

    >>> core = AcquisitionCore(SamplerConfig(core="acquisition", width=8))
    >>> state = core.initial_state(3, 5, torch.Generator().manual_seed(0))
    >>> from factotum.samplers.history import first_observation
    >>> core.step(first_observation(3, 5, 100.0), state)[0].shape
    torch.Size([3, 5])

    Differs from the paper (1611.03824), whose networks emit the point itself: a network of its kind keeps a
    compressed memory, this one all values. It is trained for the same observed improvement, see
    `factotum.samplers.improvement`.
    """

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.prior_lengthscale = nn.Parameter(torch.tensor([math.log(0.45), 0.25]))
        self.trust = nn.Linear(SHARED_FEATURES, VIEWS)
        self.move = nn.Sequential(nn.Linear(SLOPE_FEATURES, 16), nn.GELU(), nn.Linear(16, 1))
        self.own = nn.Linear(CANDIDATE_FEATURES, config.width)
        self.shared = nn.Linear(SHARED_FEATURES, config.width)
        self.hidden = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, 1)
        self.kept: tuple[int, single.Weights] | None = None
        self.ready: tuple[int, native.Ready | None] | None = None
        self.initialise()

    def __getstate__(self) -> dict[str, Any]:
        """Copies see their own weights."""
        return {**vars(self), "kept": None, "ready": None}

    def initialise(self) -> None:
        """All initialisation: plain expected improvement."""
        for last in (self.trust, self.move[-1], self.output):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def initial_state(
        self, batch_size: int, dimensions: int, generator: torch.Generator, snap: Snap | None = None
    ) -> AcquisitionState:
        """Nothing seen yet.

        Raises:
            UserError: more dimensions than the core was made for, or none.
        """
        if not 1 <= dimensions <= self.config.dimensions:
            raise UserError(
                f"dimensions: this acquisition core was made for 1 to {self.config.dimensions}, got {dimensions}"
            )
        seed = int(torch.randint(0, 2**40, (1,), generator=generator, device=generator.device))
        empty_B0D = self.output.weight.new_zeros(batch_size, 0, dimensions, dtype=torch.float64)
        log_lengthscale_BD = self._typical_lengthscale(dimensions).expand(batch_size, dimensions)
        log_noise_B = empty_B0D.new_full((batch_size,), PRIOR_LOG_NOISE)
        return AcquisitionState(
            empty_B0D, empty_B0D[..., 0], empty_B0D, log_lengthscale_BD, log_noise_B, seed, 0, snap
        )

    def step(
        self, observation: Observation, state: AcquisitionState
    ) -> tuple[Float[Tensor, "B D"], AcquisitionState]:
        """The next proposal; `state` stays valid."""
        state = note(observation, state)
        if state.x_BND.shape[1] == 0:
            return self._blind(state).to(observation.x_BD.dtype), state
        if len(state.y_BN) == 1 and state.y_BN.device.type == "cpu" and not torch.is_grad_enabled():
            path = native if native.ready(self) else single
            return path.step(self, observation, state)
        scene, state = self._look(state, observation)
        draws = self._draws(state)
        judged = self._judge(scene, self._spread(scene, state, draws))
        top_B1 = judged.gain_BVC.amax(2, keepdim=True)
        x_BD = _best(judged.candidates_BCD, self._score(scene, judged, top_B1))
        judged = self._judge(scene, closer(x_BD, scene.lengthscale_BD, draws, state.snap))
        top_B1 = torch.maximum(top_B1, judged.gain_BVC.amax(2, keepdim=True))
        return _best(judged.candidates_BCD, self._score(scene, judged, top_B1)).to(
            observation.x_BD.dtype
        ), state

    def consider(
        self, observation: Observation, state: AcquisitionState
    ) -> tuple[Choice | None, AcquisitionState]:
        """What `step` chooses from, with gradients; None while nothing has been seen."""
        state = note(observation, state)
        if state.x_BND.shape[1] == 0:
            return None, state
        scene, state = self._look(state, observation)
        draws = self._draws(state)
        judged = self._judge(scene, self._spread(scene, state, draws).detach())
        with torch.no_grad():
            score_BC = self._score(scene, judged, judged.gain_BVC.amax(2, keepdim=True))
            x_BD = _best(judged.candidates_BCD, score_BC)
            near_BCD = closer(x_BD, scene.lengthscale_BD, draws, state.snap)
        both = _joined(judged, self._judge(scene, near_BCD))
        score_BC = self._score(scene, both, both.gain_BVC.detach().amax(2, keepdim=True))
        return Choice(both.candidates_BCD, score_BC, both.posterior, scene.surrogate, scene.views), state

    def _typical_lengthscale(self, dimensions: int) -> Tensor:
        return (self.prior_lengthscale[0] + self.prior_lengthscale[1] * math.log(dimensions)).double()

    def _blind(self, state: AcquisitionState) -> Tensor:
        """Before any value: in the middle half of every coordinate."""
        (B, _, D), device = state.x_BND.shape, state.x_BND.device
        generator = torch.Generator(device=device).manual_seed(state.draw_seed)
        x_BD = 0.25 + 0.5 * torch.rand(B, D, generator=generator, dtype=torch.float64, device=device)
        return x_BD if state.snap is None else state.snap(x_BD)

    def _look(self, state: AcquisitionState, observation: Observation) -> tuple[Scene, AcquisitionState]:
        """Fit, gather what is shared, and, after a new value, move the lengthscales for the next step."""
        views = view(state.y_BN)
        surrogate = fit(state.x_BND, views.seen_BVN, state.log_lengthscale_BD, state.log_noise_B)
        shared_BF = self._shared_features(state, surrogate, views, observation.remaining_B)
        places_BK = views.order_BN[:, :CENTRES]
        # the process's means at the points seen: a lucky value is no improvement to beat
        means_BVN = views.seen_BVN - surrogate.noise_B[:, None, None] * surrogate.weights_BVN
        best_x_BD = state.x_BND[torch.arange(len(places_BK), device=places_BK.device), places_BK[:, 0]]
        lengthscale_BD = state.log_lengthscale_BD.exp()
        pending = state.pending_BPD / lengthscale_BD[:, None] if state.pending_BPD.shape[1] else None
        scene = Scene(
            surrogate, views, means_BVN.amin(2, keepdim=True), places_BK, best_x_BD, lengthscale_BD, pending, shared_BF,
            self.trust(shared_BF).softmax(-1).double()[..., None],
        )  # fmt: skip
        return scene, self._moved(state, surrogate) if bool(observation.observed_B[0]) else state

    def _shared_features(
        self, state: AcquisitionState, surrogate: Surrogate, views: Views, remaining_B: Tensor
    ) -> Tensor:
        _, N, D = state.x_BND.shape
        median_B1 = state.y_BN.gather(1, views.order_BN[:, (N - 1) // 2, None])
        better_BN = state.y_BN <= median_B1
        weight_B1N = (better_BN / better_BN.sum(1, keepdim=True))[:, None]
        error_BV = (leave_one_out(surrogate).square() * weight_B1N).sum(-1)
        centred_BVN = views.seen_BVN - (views.seen_BVN * weight_B1N).sum(-1, keepdim=True)
        spread_BV = (centred_BVN.square() * weight_B1N).sum(-1)
        left_B, stale_B = remaining_B.clamp(min=1.0), (N - 1 - views.order_BN[:, 0]).to(remaining_B)
        plain_B6 = torch.stack(
            [
                torch.full_like(left_B, math.log(N) / 4),
                torch.full_like(left_B, math.log(D) / 3),
                left_B.log() / 4,
                left_B / (left_B + N),
                stale_B.log1p() / 4,
                state.log_lengthscale_BD.mean(1).to(left_B),
            ],
            -1,
        )
        quality_BV = ((error_BV + 1e-6) / (spread_BV + 1e-3)).log() / 4
        return torch.cat([plain_B6, quality_BV, surrogate.amplitude_BV.log() / 2], -1).to(plain_B6)

    def _moved(self, state: AcquisitionState, surrogate: Surrogate) -> AcquisitionState:
        """Noise a step up the evidence, and lengthscales as far as the learned function lets them."""
        _, N, D = state.x_BND.shape
        slope_BD, slope_B = evidence_slopes(surrogate)
        away_BD = state.log_lengthscale_BD - self._typical_lengthscale(D)
        total_BD = slope_BD - away_BD / 0.64
        features_BD7 = torch.stack(
            [
                total_BD.tanh(),
                slope_BD.asinh(),
                away_BD,
                away_BD.mean(1, keepdim=True).expand_as(away_BD),
                slope_BD.asinh().mean(1, keepdim=True).expand_as(away_BD),
                torch.full_like(away_BD, math.log(N) / 3),
                torch.full_like(away_BD, math.log(D) / 2),
            ],
            -1,
        )
        learned_BD = self.move(features_BD7.to(self.output.weight))[..., 0].tanh()
        moved_BD = state.log_lengthscale_BD + 0.4 * (0.4 * total_BD).tanh() + 0.3 * learned_BD
        total_B = slope_B - (state.log_noise_B - PRIOR_LOG_NOISE) / 4.0
        noise_B = state.log_noise_B + 0.5 * (0.4 * total_B).tanh()
        return state._replace(log_lengthscale_BD=moved_BD.clamp(-4, 4), log_noise_B=noise_B.clamp(-16, 0))

    def _draws(self, state: AcquisitionState) -> Draws:
        B, _, D = state.x_BND.shape
        return draw(state.draw_seed, (B, self.config.candidates, D), state.x_BND.device)

    def _spread(self, scene: Scene, state: AcquisitionState, draws: Draws) -> Tensor:
        return spread(state.x_BND, scene.places_BK, scene.lengthscale_BD, draws, state.snap)

    def _judge(self, scene: Scene, candidates_BCD: Tensor) -> Judged:
        """All that is known of candidates one by one."""
        surrogate = scene.surrogate
        posterior = predict(surrogate, candidates_BCD / scene.lengthscale_BD[:, None], scene.pending_BPD)
        deviation_BVC = posterior.share_BC[:, None] * surrogate.amplitude_BV.sqrt()[..., None]
        gain_BVC, z_BVC = log_expected_improvement(scene.best_BV1, posterior.mean_BVC, deviation_BVC)
        away_BC = (candidates_BCD - scene.best_x_BD[:, None]).square().sum(-1)
        return Judged(candidates_BCD, posterior, gain_BVC, z_BVC, away_BC)

    def _score(self, scene: Scene, judged: Judged, top_BV1: Tensor) -> Tensor:
        """s, with log improvements counted from the best ones of this step."""
        _, (mean_BVC, share_BC, nearest_BC), gain_BVC, z_BVC, away_BC = judged
        gain_BVC = (gain_BVC - top_BV1).clamp(min=-12.0)
        orders_B2C = (torch.stack([nearest_BC, away_BC], 1) + 1e-12).log() / 8
        share_B1C = share_BC[:, None]
        features_BFC = torch.cat(
            [gain_BVC / 4, z_BVC.asinh(), mean_BVC.tanh(), share_B1C, share_B1C.log() / 4, orders_B2C], 1
        )
        own_BCH = self.own(features_BFC.transpose(1, 2).to(self.output.weight))
        hidden_BCH = F.gelu(own_BCH + self.shared(scene.shared_BF)[:, None])
        learned_BC = self.output(F.gelu(self.hidden(hidden_BCH)))[..., 0]
        score_BC = SHARPNESS * ((scene.trust_BV1 * gain_BVC).sum(1) + learned_BC)
        return score_BC - 1e6 * (nearest_BC < KNOWN)


def _joined(a: Judged, b: Judged) -> Judged:
    posterior = Posterior(*(torch.cat(pair, -1) for pair in zip(a.posterior, b.posterior, strict=True)))
    gain_BVC, z_BVC, away_BC = (torch.cat(pair, -1) for pair in zip(a[2:], b[2:], strict=True))
    return Judged(torch.cat([a.candidates_BCD, b.candidates_BCD], 1), posterior, gain_BVC, z_BVC, away_BC)


def _best(candidates_BCD: Tensor, score_BC: Tensor) -> Tensor:
    rows = torch.arange(len(score_BC), device=score_BC.device)
    return candidates_BCD[rows, score_BC.argmax(1)]
