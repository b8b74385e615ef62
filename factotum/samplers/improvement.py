"""What is `AcquisitionCore` trained to do? Choose the candidate that improves most, and predict the values of all.

The observed improvement of the paper with a choice in place of a point: on a training function the improvement of
every candidate is known, so the expectation over choices is exact and needs no gradient through the function.
Local letters: B functions, C candidates, D dimensions, N values seen, V views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.samplers.acquisition import Choice
from factotum.samplers.acquisition_state import note
from factotum.samplers.history import Observation, first_observation
from factotum.samplers.objective import MetaBatch
from factotum.samplers.rollout import Turn, make_turns


@dataclass(frozen=True)
class ImprovementObjective:
    r"""$-\sum_j p_j \log\big(1 + \max(m - f(c_j), 0) / u\big) + w E$, p the softmax of the scores.

    m is the best value so far, u the distance of the best eighth of the values from it: a unit that shrinks as the
    search closes in, known before the choice is made, so that late improvements count as early ones do; but no
    less than $k r^2$ of how far three quarters of the values reach, with r the share of the evaluations that is
    left, or only what is near would count from the start. E is the error of what the views predict of them, half
    over all of them, half as p chooses. A search follows the highest score; a few windows of it are trained on,
    through the moves of lengthscales and noise inside a window.

    Args:
        windows: windows of a search that are trained on.
        window: steps of one.
        prediction: w.
        coarseness: k.

    Returns of a call: mean loss over functions, its weight B, metrics.

    Chen et al., 2017 (arXiv 1611.03824), section 2.1: the observed improvement, with its incumbent detached.

    Differs from the paper: a choice among candidates, a unit, windows in place of the whole search, and the
    prediction of values as an auxiliary loss.
    """

    windows: int = 2
    window: int = 3
    prediction: float = 0.1
    coarseness: float = 0.02

    def __post_init__(self) -> None:
        weights = (self.prediction, self.coarseness)
        if min(self.windows, self.window) < 1 or not all(0 <= weight < float("inf") for weight in weights):
            raise UserError(
                "windows, window, prediction, coarseness: expected 1 or more, 1 or more, 0 or more, 0 or more, got "
                f"{self.windows}, {self.window}, {self.prediction}, {self.coarseness}"
            )

    def __call__(self, model: nn.Module, batch: MetaBatch) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Loss of one batch."""
        core: Any = model
        generator = torch_generator(batch.seed, "search")
        turns = make_turns(batch.evaluations, batch.workers, generator)
        told = _Told(core, batch, generator, next(model.parameters()))
        steps = self._steps(batch, generator)
        losses: list[tuple[Tensor, Tensor]] = []
        for step, turn in enumerate(turns):
            if step in steps and step - 1 not in steps:
                told.cut()
            with torch.set_grad_enabled(step in steps):
                x_BD, choice = told.propose(turn)
            if step in steps:
                assert choice is not None
                losses.append(self._losses(choice, torch.stack(told.values, 1), batch))
            told.evaluate(x_BD)
        value_BT = torch.stack(told.values, 1)
        gain, error = torch.stack([torch.stack(pair) for pair in losses]).mean(0)
        metrics = {
            "gain": gain.detach(),
            "error": error.detach(),
            "value/mean": value_BT.mean(),
            "value/best": value_BT.amin(1).mean(),
        }
        return self.prediction * error - gain, float(batch.batch_size), metrics

    def _steps(self, batch: MetaBatch, generator: torch.Generator) -> set[int]:
        """Which steps are trained on; never those before any value is known."""
        last = max(batch.evaluations - self.window, batch.workers)
        starts = torch.randint(batch.workers, last + 1, (self.windows,), generator=generator).tolist()
        every = {start + offset for start in starts for offset in range(self.window)}
        return every & set(range(batch.evaluations))

    def _losses(self, choice: Choice, value_BN: Tensor, batch: MetaBatch) -> tuple[Tensor, Tensor]:
        """Expected improvement of the choice, and the error of what was predicted."""
        points_BCD = choice.candidates_BCD.to(value_BN.dtype)
        with torch.no_grad():
            true_BC = batch.functions.many(points_BCD).double()
        probability_BC = choice.score_BC.softmax(1)
        left = 1.0 - value_BN.shape[1] / batch.evaluations
        gain_BC = improvement(true_BC, value_BN.double(), self.coarseness * left**2)
        gain = (probability_BC * gain_BC).sum(1).mean()
        weight_BC = 0.5 / true_BC.shape[1] + 0.5 * probability_BC.detach()
        return gain, prediction_error(choice, true_BC, weight_BC).mean()


def improvement(
    true_BC: Float[Tensor, "B C"], value_BN: Float[Tensor, "B N"], coarseness: float = 0.0
) -> Float[Tensor, "B C"]:
    r"""$\log(1 + \max(m - f, 0) / u)$.

    >>> seen = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    >>> improvement(torch.tensor([[3.0, 0.0, -1.0]], dtype=torch.float64), seen).exp()
    tensor([[1., 1., 2.]], dtype=torch.float64)
    """
    N = value_BN.shape[1]
    sorted_BN = value_BN.sort(1).values
    best_B1 = sorted_BN[:, :1]
    reach_B1 = sorted_BN[:, min(N - 1, 1 + N // 8), None] - best_B1
    whole_B1 = sorted_BN[:, 3 * N // 4, None] - best_B1
    unit_B1 = torch.maximum(reach_B1, max(coarseness, 1e-6) * whole_B1)
    unit_B1 = torch.where(unit_B1 > 0, unit_B1, 1.0)
    return ((best_B1 - true_BC).clamp(min=0.0) / unit_B1).log1p()


def prediction_error(
    choice: Choice, true_BC: Float[Tensor, "B C"], weight_BC: Float[Tensor, "B C"]
) -> Float[Tensor, " B"]:
    r"""$\log \sum_j w_j |z_j| + \sum_j w_j \log \sigma_j$, mean over the views that are functions of the value.

    The negative log-likelihood of Laplace's distribution at its best scale: deviations need to be right up to a
    factor. What no stationary process explains would else shorten lengthscales, or pass for noise.

    Args:
        choice: candidates and what was predicted of them.
        true_BC: their values.
        weight_BC: w, 1 in all for each function.
    """
    seen_BWC = choice.views.of(true_BC).clamp(-6.0, 6.0)
    W = seen_BWC.shape[1]
    share_B1C = (choice.posterior.share_BC.square() + choice.surrogate.noise_B[:, None])[:, None]
    deviation_BWC = (share_B1C * choice.surrogate.amplitude_BV[:, :W, None]).sqrt()
    z_BWC = ((seen_BWC - choice.posterior.mean_BVC[:, :W]) / deviation_BWC).abs()
    weight_B1C = weight_BC[:, None]
    scale_BW = (weight_B1C * z_BWC).sum(2) + 1e-6
    return (scale_BW.log() + (weight_B1C * deviation_BWC.log()).sum(2)).mean(1)


class _Told:
    """The searches of a batch: what the core was told, and what came of its choices."""

    def __init__(self, core: Any, batch: MetaBatch, generator: torch.Generator, like: Tensor):
        self.core, self.batch = core, batch
        B, D, T = batch.batch_size, batch.dimensions, batch.evaluations
        noise_BT, noise_B = (
            torch.randn(B, T, generator=generator).to(like),
            getattr(batch.functions, "noise_B", None),
        )
        self.noise_BT = 0.0 * noise_BT if noise_B is None else noise_B[:, None] * noise_BT
        first, start = first_observation(B, D, float(T), like.device), core.initial_state(B, D, generator)
        self.first_BD, self.state = core.step(first, start)
        self.points: list[Tensor] = []
        self.values: list[Tensor] = []

    def propose(self, turn: Turn) -> tuple[Tensor, Choice | None]:
        """After what ended, which is carried on, and beside what still runs, which is not."""
        choice, x_BD = None, self.first_BD
        for number in turn.finished:
            choice, self.state = self.core.consider(self._observation(number, True), self.state)
        ahead = self.state
        for number in turn.pending[:-1]:
            ahead = note(self._observation(number, False), ahead)
        if turn.pending:
            last = self._observation(turn.pending[-1], False)
            choice, _ = self.core.consider(last, ahead)
            x_BD = self.core.step(last, ahead)[0] if choice is None else x_BD
        return (x_BD, None) if choice is None else (_chosen(choice), choice)

    def evaluate(self, x_BD: Tensor) -> None:
        self.points.append(x_BD)
        self.values.append(self.batch.functions(x_BD))

    def cut(self) -> None:
        """No gradient flows from here on into what was before."""
        scale_BD, noise_B = self.state.log_lengthscale_BD.detach(), self.state.log_noise_B.detach()
        self.state = self.state._replace(log_lengthscale_BD=scale_BD, log_noise_B=noise_B)

    def _observation(self, number: int, observed: bool) -> Observation:
        y_B = self.values[number] + self.noise_BT[:, number]
        left_B = torch.full_like(y_B, self.batch.evaluations - len(self.points))
        return Observation(self.points[number], y_B, torch.full_like(y_B, observed, dtype=torch.bool), left_B)


def _chosen(choice: Choice) -> Tensor:
    rows = torch.arange(len(choice.score_BC), device=choice.score_BC.device)
    return choice.candidates_BCD[rows, choice.score_BC.argmax(1)].float()
