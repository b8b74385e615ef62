"""One core for every number of dimensions that chooses among candidates by a learned improvement.

Its state holds the points and values, and lengthscales and noise that a small network moves with every new value.
What it does not know: functions, losses, search spaces. Local letters as in `factotum.samplers.surrogate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation
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

Snap = Callable[[Tensor], Tensor]
"""Points of the cube, `... D`, to the nearest ones that can be evaluated."""

CLOSER = 48
"""Points around the best candidate among which the choice is refined."""

KNOWN = 1e-10
"""Squared distance in lengthscales at which a candidate is a point seen."""


class AcquisitionState(NamedTuple):
    """State of `AcquisitionCore`; never changed in place."""

    x_BND: Float[Tensor, "B N D"]
    y_BN: Float[Tensor, "B N"]
    pending_BPD: Float[Tensor, "B P D"]
    log_lengthscale_BD: Float[Tensor, "B D"]
    log_noise_B: Float[Tensor, " B"]
    seed: int
    """with the number of the step, it draws the candidates"""
    steps: int
    snap: Snap | None


class Choice(NamedTuple):
    """Candidates of one step with their scores, and what the scores were made from."""

    candidates_BCD: Float[Tensor, "B C D"]
    score_BC: Float[Tensor, "B C"]
    posterior: Posterior
    surrogate: Surrogate
    views: Views


class Scene(NamedTuple):
    """What all candidates of a step are judged by."""

    surrogate: Surrogate
    views: Views
    best_BV1: Float[Tensor, "B V 1"]
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
    $\pi$ read off how well each view predicts. Lengthscales and noise are carried state: each step moves them by
    learned functions of the slope of the evidence, as a learned optimizer does. Before training, s is
    $\log \mathrm{EI}$ and the moves follow the slopes.

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

    SHARPNESS = 3.0

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.prior_lengthscale = nn.Parameter(torch.tensor([math.log(0.45), 0.25]))
        self.prior_noise = nn.Parameter(torch.tensor(-10.0))
        self.trust = nn.Linear(SHARED_FEATURES, VIEWS)
        self.move = nn.Sequential(nn.Linear(SLOPE_FEATURES, 16), nn.GELU(), nn.Linear(16, 1))
        self.move_noise = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 1))
        self.own = nn.Linear(CANDIDATE_FEATURES, config.width)
        self.shared = nn.Linear(SHARED_FEATURES, config.width)
        self.hidden = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, 1)
        self.initialise()

    def initialise(self) -> None:
        """All initialisation: plain expected improvement."""
        for last in (self.trust, self.move[-1], self.move_noise[-1], self.output):
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
        empty_B0D = self.prior_noise.new_zeros(batch_size, 0, dimensions, dtype=torch.float64)
        log_lengthscale_BD = self._typical_lengthscale(dimensions).expand(batch_size, dimensions)
        log_noise_B = self.prior_noise.double().expand(batch_size)
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
        scene, state = self._look(state, observation.remaining_B)
        u_BCD1, n_BCD = self._draws(state)
        candidates_BCD = self._candidates(scene, state, u_BCD1[:, :-CLOSER], n_BCD[:, :-CLOSER])
        score_BC, _ = self._score(scene, candidates_BCD)
        x_BD = _best(candidates_BCD, score_BC)
        closer_BCD = self._closer(scene, state, x_BD, u_BCD1[:, -CLOSER:], n_BCD[:, -CLOSER:])
        score_BC, _ = self._score(scene, closer_BCD)
        return _best(closer_BCD, score_BC).to(observation.x_BD.dtype), state

    def consider(
        self, observation: Observation, state: AcquisitionState
    ) -> tuple[Choice | None, AcquisitionState]:
        """What `step` chooses from, with gradients; None while nothing has been seen."""
        state = note(observation, state)
        if state.x_BND.shape[1] == 0:
            return None, state
        scene, state = self._look(state, observation.remaining_B)
        u_BCD1, n_BCD = self._draws(state)
        with torch.no_grad():
            candidates_BCD = self._candidates(scene, state, u_BCD1[:, :-CLOSER], n_BCD[:, :-CLOSER])
            x_BD = _best(candidates_BCD, self._score(scene, candidates_BCD)[0])
            closer_BCD = self._closer(scene, state, x_BD, u_BCD1[:, -CLOSER:], n_BCD[:, -CLOSER:])
            candidates_BCD = torch.cat([candidates_BCD, closer_BCD], 1)
        score_BC, posterior = self._score(scene, candidates_BCD)
        return Choice(candidates_BCD, score_BC, posterior, scene.surrogate, scene.views), state

    def _typical_lengthscale(self, dimensions: int) -> Tensor:
        return (self.prior_lengthscale[0] + self.prior_lengthscale[1] * math.log(dimensions)).double()

    def _generator(self, state: AcquisitionState) -> torch.Generator:
        device = state.x_BND.device
        return torch.Generator(device=device).manual_seed((state.seed * 1_000_003 + state.steps) % 2**62)

    def _blind(self, state: AcquisitionState) -> Tensor:
        """Before any value: in the middle half of every coordinate."""
        B, _, D = state.x_BND.shape
        draws = torch.rand(
            B, D, generator=self._generator(state), dtype=torch.float64, device=state.x_BND.device
        )
        return _snapped(0.25 + 0.5 * draws, state.snap)

    def _look(self, state: AcquisitionState, remaining_B: Tensor) -> tuple[Scene, AcquisitionState]:
        """Fit, gather what is shared, and move the lengthscales for the next step."""
        views = view(state.y_BN)
        surrogate = fit(state.x_BND, views.seen_BVN, state.log_lengthscale_BD, state.log_noise_B)
        best_B = state.y_BN.argmin(1)
        shared_BF = self._shared_features(state, surrogate, views, best_B, remaining_B)
        rows = torch.arange(len(best_B), device=best_B.device)
        lengthscale_BD = state.log_lengthscale_BD.exp()
        pending = state.pending_BPD / lengthscale_BD[:, None] if state.pending_BPD.shape[1] else None
        scene = Scene(
            surrogate, views, views.seen_BVN[rows, :, best_B][..., None], state.x_BND[rows, best_B],
            lengthscale_BD, pending, shared_BF, self.trust(shared_BF).softmax(-1).double()[..., None],
        )  # fmt: skip
        return scene, self._moved(state, surrogate)

    def _shared_features(
        self, state: AcquisitionState, surrogate: Surrogate, views: Views, best_B: Tensor, remaining_B: Tensor
    ) -> Tensor:
        _, N, D = state.x_BND.shape
        better_BN = state.y_BN <= state.y_BN.median(1, keepdim=True).values
        weight_B1N = (better_BN / better_BN.sum(1, keepdim=True))[:, None]
        error_BV = (leave_one_out(surrogate).square() * weight_B1N).sum(-1)
        centred_BVN = views.seen_BVN - (views.seen_BVN * weight_B1N).sum(-1, keepdim=True)
        spread_BV = (centred_BVN.square() * weight_B1N).sum(-1)
        left_B, stale_B = remaining_B.clamp(min=1.0), (N - 1 - best_B).to(remaining_B)
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
        """Lengthscales and noise a step up the evidence, as far as the learned functions let them."""
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
        learned_BD = self.move(features_BD7.to(self.prior_noise))[..., 0].tanh()
        moved_BD = state.log_lengthscale_BD + 0.4 * (0.4 * total_BD).tanh() + 0.3 * learned_BD
        off_B = state.log_noise_B - self.prior_noise
        total_B = slope_B - off_B / 4.0
        features_B4 = torch.stack(
            [total_B.tanh(), slope_B.asinh(), off_B / 4, torch.full_like(off_B, math.log(N) / 3)], -1
        )
        learned_B = self.move_noise(features_B4.to(self.prior_noise))[..., 0].tanh()
        noise_B = state.log_noise_B + 0.5 * (0.4 * total_B).tanh() + 0.5 * learned_B
        return state._replace(log_lengthscale_BD=moved_BD.clamp(-4, 4), log_noise_B=noise_B.clamp(-16, 0))

    def _draws(self, state: AcquisitionState) -> tuple[Tensor, Tensor]:
        B, _, D = state.x_BND.shape
        generator, C = self._generator(state), self.config.candidates + CLOSER
        like, device = torch.float64, state.x_BND.device
        return (
            torch.rand(B, C, D + 1, generator=generator, dtype=like, device=device),
            torch.randn(B, C, D, generator=generator, dtype=like, device=device),
        )

    def _candidates(self, scene: Scene, state: AcquisitionState, u_BCD1: Tensor, n_BCD: Tensor) -> Tensor:
        """A third spread over the cube, half around the best point, a sixth around the five best."""
        D, N, C = n_BCD.shape[-1], state.x_BND.shape[1], n_BCD.shape[1]
        wide, near = C // 3, C // 2
        share_C, low_C, high_C = _recipe(C - wide, D, n_BCD.device)
        places_BK = state.y_BN.topk(min(5, N), 1, largest=False).indices
        order = torch.cat([places_BK[:, :1].expand(-1, near), _cycled(places_BK, C - wide - near)], 1)
        centre_BLD = state.x_BND.gather(1, order[..., None].expand(-1, -1, D))
        scale_BL1 = torch.lerp(low_C, high_C, u_BCD1[:, wide:, -1:]).exp()
        kept_BLD = n_BCD[:, wide:] * (u_BCD1[:, wide:, :-1] < share_C)
        local_BLD = centre_BLD + scale_BL1 * scene.lengthscale_BD.clamp(max=1.0)[:, None] * kept_BLD
        points_BCD = torch.cat([u_BCD1[:, :wide, :-1], local_BLD.clamp(0.0, 1.0)], 1)
        return _snapped(points_BCD, state.snap)

    def _closer(
        self, scene: Scene, state: AcquisitionState, x_BD: Tensor, u_BCD1: Tensor, n_BCD: Tensor
    ) -> Tensor:
        """A point, and others around it."""
        share_C, _, _ = _recipe(CLOSER, x_BD.shape[1], x_BD.device)
        scale_BC1 = (-6.0 + 5.5 * u_BCD1[..., -1:]).exp()
        moves_BCD = n_BCD * (u_BCD1[..., :-1] < share_C) * scene.lengthscale_BD.clamp(max=1.0)[:, None]
        points_BCD = (x_BD[:, None] + scale_BC1 * moves_BCD).clamp(0.0, 1.0)
        return torch.cat([x_BD[:, None], _snapped(points_BCD, state.snap)], 1)

    def _score(self, scene: Scene, candidates_BCD: Tensor) -> tuple[Tensor, Posterior]:
        surrogate = scene.surrogate
        scaled_BCD = candidates_BCD / scene.lengthscale_BD[:, None]
        posterior = predict(surrogate, scaled_BCD, scene.pending_BPD)
        mean_BVC, share_BC, nearest_BC = posterior
        deviation_BVC = share_BC[:, None] * surrogate.amplitude_BV.sqrt()[..., None]
        gain_BVC, z_BVC = log_expected_improvement(scene.best_BV1, mean_BVC, deviation_BVC)
        gain_BVC = (gain_BVC - gain_BVC.detach().amax(2, keepdim=True)).clamp(min=-12.0)
        away_BC = (candidates_BCD - scene.best_x_BD[:, None]).square().sum(-1)
        features_BFC = torch.cat(
            [
                gain_BVC / 4,
                z_BVC.asinh(),
                mean_BVC.tanh(),
                torch.stack([share_BC, share_BC.log() / 4, _order(nearest_BC), _order(away_BC)], 1),
            ],
            1,
        )
        own_BCH = self.own(features_BFC.transpose(1, 2).to(self.prior_noise))
        hidden_BCH = F.gelu(own_BCH + self.shared(scene.shared_BF)[:, None])
        learned_BC = self.output(F.gelu(self.hidden(hidden_BCH)))[..., 0]
        score_BC = self.SHARPNESS * ((scene.trust_BV1 * gain_BVC).sum(1) + learned_BC)
        return score_BC - 1e6 * (nearest_BC < KNOWN), posterior


def note(observation: Observation, state: AcquisitionState) -> AcquisitionState:
    """The state with what was told; the very first step tells nothing."""
    x_BD, y_B, observed_B, _ = observation
    told: Bool[Tensor, ""] = observed_B[0]
    x_B1D = x_BD.detach().to(state.x_BND)[:, None]
    steps = state.steps + 1
    if bool(told):
        y_BN = torch.cat([state.y_BN, y_B.detach().to(state.y_BN)[:, None]], 1)
        return state._replace(x_BND=torch.cat([state.x_BND, x_B1D], 1), y_BN=y_BN, steps=steps)
    if state.steps == 0:
        return state._replace(steps=steps)
    return state._replace(pending_BPD=torch.cat([state.pending_BPD, x_B1D], 1), steps=steps)


def _snapped(x: Tensor, snap: Snap | None) -> Tensor:
    return x if snap is None else snap(x)


def _best(candidates_BCD: Tensor, score_BC: Tensor) -> Tensor:
    rows = torch.arange(len(score_BC), device=score_BC.device)
    return candidates_BCD[rows, score_BC.argmax(1)]


def _cycled(places_BK: Tensor, count: int) -> Tensor:
    K = places_BK.shape[1]
    return places_BK.repeat(1, -(-count // K))[:, :count]


def _order(squared: Tensor) -> Tensor:
    return (squared + 1e-12).log() / 8


def _recipe(count: int, dimensions: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For local candidates: share of coordinates that move, and between which log scales (in lengthscales)."""
    index = torch.arange(count, device=device)
    share = torch.where(index % 2 == 0, 1.0, max(1.5 / dimensions, 0.3)).double()[:, None]
    low = torch.where(index < 3 * count // 4, -7.0, -3.0).double()[:, None]
    return share, low, torch.full_like(low, 0.5)
