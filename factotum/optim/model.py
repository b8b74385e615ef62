r"""What does one step compute? From gradients the change of the parameters, and three levels of carried state.

A GRU for every scalar, one for every tensor and one for every problem; averages of states go up, biases come down.
Everything lies flat, see `factotum.optim.layout`. `step` is made of four parts that can be used one by one, where
the scalars are too many for one piece or a faster program does `sweep`:
`biases` (what the upper levels tell the scalars), `sweep` (all that happens per scalar, and sums of it),
`finish` (the normalised step) and `upward` (the upper levels' next states).

What it does not know: parameters, losses, problems, `torch.optim`.
Letters: P scalars, N tensors, B problems, H units of the parameter RNN, S time scales, F features, G global units,
T tensor units, K sums.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.nn.gated import BiasedGRUCell
from factotum.optim.bounds import GREATEST_DECAY as GREATEST_DECAY
from factotum.optim.bounds import LEAST_DECAY as LEAST_DECAY
from factotum.optim.bounds import LOG_STEP_LIMIT as LOG_STEP_LIMIT
from factotum.optim.bounds import decay, straight_through_clip, straight_through_floor
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.features import LARGEST, average, feature_names, features
from factotum.optim.layout import Layout
from factotum.optim.pace import first_pace, floor, next_pace
from factotum.optim.state import OptimizerState as OptimizerState
from factotum.optim.state import Slots as Slots
from factotum.optim.state import Step as Step
from factotum.optim.state import Sweep as Sweep


class HierarchicalRNNCore(nn.Module):
    r"""The update rule: features of gradients through three levels of GRUs to directions and log step lengths.

    For each scalar, with h its new state, m its scaled gradients and $\bar\eta$ its averaged log learning rate,
    $$d = w_d^\top h + w_m^\top m,\quad \hat d = d / \sqrt{\mathrm{mean}\,d^2 + 10^{-16}},\quad
    \eta = \mathrm{clip}(\bar\eta + w_\eta^\top h + b_\eta, \pm 33),$$
    $$\theta \leftarrow \theta - e^{\eta + c}\,\hat d,\quad
    \bar\eta \leftarrow \max(k \bar\eta + (1 - k) \eta, \mathrm{floor}) .$$
    The floor is that of `factotum.optim.pace`, if the configuration wants one. The mean goes over the scalars of the
    tensor; gradients pass the clip and the floor unchanged. Decays of the next step's averages are sigmoids of affine
    functions of h, and 0 in the first step.

    Args:
        config: sizes and choices; torch's global generator draws the weights.

    >>> core = HierarchicalRNNCore(HierarchicalRNNConfig())
    >>> layout = Layout.single([3, 2])
    >>> state = core.initial_state(layout, torch.Generator().manual_seed(0))
    >>> step, state = core.step(torch.ones(5), state, layout)
    >>> bool((step.update_P < 0).all()), state.tensor_NT.shape
    (True, torch.Size([2, 20]))

    Wichrowska et al., 2017 (arXiv 1703.04813), section 3.

    Differs from the paper: the configuration says where it follows the released code; learned decays stay within
    [1e-30, 1 - 2^-20]; empty tensors do not count in the global mean.
    """

    def __init__(self, config: HierarchicalRNNConfig) -> None:
        super().__init__()
        self.config = config
        H, T, G, F = config.parameter_units, config.tensor_units, config.global_units, config.features
        self.parameter_rnn = BiasedGRUCell(F, H)
        self.tensor_rnn = BiasedGRUCell(F + H, T)
        self.global_rnn = BiasedGRUCell(T, G)
        self.tensor_to_parameter = nn.Linear(T, 3 * H)
        self.global_to_parameter = nn.Linear(G, 3 * H)
        self.global_to_tensor = nn.Linear(G, 3 * T)
        self.parameter_start = nn.Parameter(torch.empty(H))
        self.tensor_start = nn.Parameter(torch.empty(T))
        self.global_start = nn.Parameter(torch.empty(G))
        directions = 2 if config.attention else 1
        self.readout = nn.Parameter(torch.empty(3 + directions, H))
        """rows: log rate change, gradient decay, square decay, direction, attended direction"""
        self.readout_bias = nn.Parameter(torch.empty(3))
        shortcuts = directions if config.gradient_shortcut else 0
        self.shortcut = nn.Parameter(torch.empty(shortcuts, config.scales)) if shortcuts else None
        self.rate_momentum = nn.Parameter(torch.empty(()))
        """logit of k"""
        self.step_offset = nn.Parameter(torch.empty(()))
        """c"""
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """All initialisation but that of the cells, as in the released code."""
        for start in (self.parameter_start, self.tensor_start, self.global_start):
            nn.init.uniform_(start, -1.0, 1.0)
        for affine in (self.tensor_to_parameter, self.global_to_parameter, self.global_to_tensor):
            nn.init.normal_(affine.weight, std=0.5 / math.sqrt(affine.in_features))
            nn.init.zeros_(affine.bias)
        nn.init.normal_(self.readout, std=0.5 / math.sqrt(self.config.parameter_units))
        self.readout[0].zero_()
        if self.config.attention:
            self.readout[4].copy_(self.readout[3])
        self.readout_bias.copy_(torch.tensor([0.0, 2.2, 3.2]))
        if self.shortcut is not None:
            S = self.config.scales
            nn.init.normal_(self.shortcut, mean=1 / S, std=0.1 / math.sqrt(S))
        self.rate_momentum.fill_(3.2)
        self.step_offset.fill_(-1.0)

    def sum_names(self) -> tuple[str, ...]:
        """What the K sums of a sweep are of, in order.

        >>> names = HierarchicalRNNCore(HierarchicalRNNConfig()).sum_names()
        >>> len(names), names[0], names[10], names[-2:]
        (25, 'hidden_0', 'scaled_0', ('log_rate', 'gradient_size'))
        """
        hidden = (f"hidden_{i}" for i in range(self.config.parameter_units))
        attended = ("attended_squared",) if self.config.attention else ()
        return (
            *hidden,
            *feature_names(self.config),
            "direction_squared",
            "log_rate",
            *attended,
            "gradient_size",
        )

    def initial_state(self, layout: Layout, generator: torch.Generator | None) -> OptimizerState:
        """Learned states for everything, random learning rates.

        Args:
            layout: tensors and problems.
            generator: draws the learning rates; None is torch's global generator.
        """
        P, N, B = layout.scalar_count, layout.tensor_count, layout.problem_count
        zeros_P = self.parameter_start.new_zeros(P)
        zeros_PS = zeros_P.new_zeros(P, self.config.scales)
        slots = Slots(
            self.parameter_start.repeat(P, 1), zeros_PS, zeros_PS, zeros_P, zeros_P,
            self.initial_log_rates(layout, generator),
        )  # fmt: skip
        upper = self.tensor_start.repeat(N, 1), self.global_start.repeat(B, 1)
        return OptimizerState(slots, *upper, first_pace(N, self.step_offset.detach()))

    def initial_log_rates(self, layout: Layout, generator: torch.Generator | None) -> Float[Tensor, " P"]:
        r"""$u_1 + u_2$ with $u_1$ per scalar and $u_2$ per tensor, both $U(\frac12 \log r_-, \frac12 \log r_+)$."""
        device = None if generator is None else generator.device
        low, high = (0.5 * math.log(r) for r in (self.config.least_rate, self.config.greatest_rate))
        own_P = torch.rand(layout.scalar_count, generator=generator, device=device)
        shared_N = torch.rand(layout.tensor_count, generator=generator, device=device)
        uniform_P = own_P.to(self.step_offset) + layout.to_scalars(shared_N.to(self.step_offset))
        return 2 * low + (high - low) * uniform_P

    def step(
        self, gradient_P: Float[Tensor, " P"], state: OptimizerState, layout: Layout
    ) -> tuple[Step, OptimizerState]:
        """One step, differentiable in gradients, state and weights.

        Args:
            gradient_P: gradients, at the attended location with attention.
            state: of the step before.
            layout: which tensor and problem each scalar is of.

        Returns:
            The change of the parameters, and the next state.

        Raises:
            UserError: gradient, state and layout do not fit each other.
        """
        self._check(gradient_P, state, layout)
        bias_NE = self.biases(state.tensor_NT, state.global_BG, layout)
        mean_N = self.mean_log_rates(state.slots.log_rate_P, layout)
        floor_N = floor(state.pace_N5, self.config)
        swept = self.sweep(gradient_P, state.slots, bias_NE, mean_N, floor_N, layout)
        counts_N = layout.counts_N(swept.sums_NK)
        rms_N, attended_rms_N = self.scales(swept.sums_NK, counts_N)
        update_P = self.finish(swept.direction_P, swept.log_step_P, layout.to_scalars(rms_N))
        attended_P = None
        if swept.attended_P is not None and attended_rms_N is not None:
            attended_P = _move(swept.attended_P, swept.log_step_P, layout.to_scalars(attended_rms_N))
        upper = self.upward(swept.sums_NK, counts_N, state, layout)
        pace_N5 = self.paces(swept.sums_NK, counts_N, state.pace_N5)
        return Step(update_P, attended_P), OptimizerState(swept.slots, *upper, pace_N5)

    def _check(self, gradient_P: Tensor, state: OptimizerState, layout: Layout) -> None:
        got = (gradient_P.numel(), len(state.slots.hidden_PH), len(state.tensor_NT), len(state.global_BG))
        P = layout.scalar_count
        if gradient_P.dim() != 1 or got != (P, P, layout.tensor_count, layout.problem_count):
            raise UserError(
                f"step: expected gradients and state for {P} scalars, {layout.tensor_count} tensors, "
                f"{layout.problem_count} problems, got a gradient {tuple(gradient_P.shape)} and a state of "
                f"{got[1]}, {got[2]}, {got[3]}"
            )

    def biases(
        self, tensor_NT: Float[Tensor, "N T"], global_BG: Float[Tensor, "B G"], layout: Layout
    ) -> Float[Tensor, "N E"]:
        """The parameter RNN's whole biases (reset, update, candidate; E = 3H), one row for each tensor."""
        from_tensor_NE = self.tensor_to_parameter(tensor_NT) + self.parameter_rnn.bias
        return from_tensor_NE + layout.to_tensors(self.global_to_parameter(global_BG))

    def mean_log_rates(self, log_rate_P: Float[Tensor, " P"], layout: Layout) -> Float[Tensor, " N"]:
        """The mean that log learning rates are relative to: of the whole problem, or of the tensor."""
        if self.config.relative_rate == "tensor":
            return layout.tensor_mean(log_rate_P)
        return layout.to_tensors(layout.problem_scalar_mean(log_rate_P))

    def sweep(
        self,
        gradient_P: Float[Tensor, " P"],
        slots: Slots,
        bias_NE: Float[Tensor, "N E"],
        mean_log_rate_N: Float[Tensor, " N"],
        floor_N: Float[Tensor, " N"],
        layout: Layout,
    ) -> Sweep:
        """Everything that happens per scalar; may be called for parts of a tensor, sums then add up.

        Args:
            gradient_P: gradients, any floating type.
            slots: of the step before.
            bias_NE: of `biases`.
            mean_log_rate_N: of `mean_log_rates`.
            floor_N: of `factotum.optim.pace.floor`.
            layout: which tensor each scalar is of (problems are not looked at).
        """
        config, dtype = self.config, self.readout.dtype
        slots = Slots._make(slot.to(dtype) for slot in slots)
        averages = average(gradient_P.to(dtype), *slots[1:5])
        relative_P = slots.log_rate_P - layout.to_scalars(mean_log_rate_N)
        x_PF = features(*averages, relative_P, config)
        h_PH = self.parameter_rnn(x_PF, slots.hidden_PH, layout.to_scalars(bias_NE))
        change_P, gradient_logit_P, square_logit_P, direction_P, attended_P = self._read(h_PH, x_PF)
        log_step_P = straight_through_clip(slots.log_rate_P + change_P)
        momentum = self.rate_momentum.sigmoid()
        log_rate_P = straight_through_floor(
            torch.lerp(log_step_P, slots.log_rate_P, momentum), layout.to_scalars(floor_N.to(dtype))
        )
        after = Slots(h_PH, *averages, decay(gradient_logit_P), decay(square_logit_P), log_rate_P)
        columns = [direction_P.square(), log_rate_P]
        if attended_P is not None:
            columns.append(attended_P.square())
        columns.append(gradient_P.to(dtype).abs().clamp(max=LARGEST))
        summed_PK = torch.cat([h_PH, x_PF, torch.stack(columns, 1)], 1)
        return Sweep(direction_P, attended_P, log_step_P, after, layout.tensor_sum(summed_PK))

    def _read(self, h_PH: Tensor, x_PF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Log rate change, logits of both decays, direction, attended direction."""
        out = self.readout @ h_PH.T
        direction = out[3:]
        if self.shortcut is not None:
            direction = torch.addmm(direction, self.shortcut, x_PF[:, : self.config.scales].T)
        change, gradient_decay, square_decay = (out[:3] + self.readout_bias[:, None]).unbind()
        attended = direction[1] if self.config.attention else None
        return change, gradient_decay, square_decay, direction[0], attended

    def scales(
        self, sums_NK: Float[Tensor, "N K"], counts_N: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
        """What directions, and attended directions, are divided by."""
        column = self.config.parameter_units + self.config.features
        rms_N = self._scale(sums_NK[:, column], counts_N)
        return rms_N, self._scale(sums_NK[:, column + 2], counts_N) if self.config.attention else None

    def _scale(self, squares_N: Tensor, counts_N: Tensor) -> Tensor:
        counts_N = counts_N.clamp_min(1)
        rms_N = (squares_N / counts_N + 1e-16).sqrt()
        return rms_N if self.config.normalise == "rms" else rms_N * counts_N.rsqrt()

    def log_rates(self, sums_NK: Float[Tensor, "N K"], counts_N: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Means of the averaged log learning rates, from sums of `sweep`."""
        return sums_NK[:, self.config.parameter_units + self.config.features + 1] / counts_N.clamp_min(1)

    def paces(
        self, sums_NK: Float[Tensor, "N K"], counts_N: Float[Tensor, " N"], pace_N5: Float[Tensor, "N 5"]
    ) -> Float[Tensor, "N 5"]:
        """What the next floor is made of, from sums of `sweep`."""
        size_N = sums_NK[:, -1] / counts_N.clamp_min(1)
        return next_pace(pace_N5, self.log_rates(sums_NK, counts_N), size_N)

    def finish(
        self,
        direction_P: Float[Tensor, " P"],
        log_step_P: Float[Tensor, " P"],
        scale_P: Float[Tensor, " ..."],
    ) -> Float[Tensor, " P"]:
        r"""The change of the parameters, $-e^{\eta + c}\,d / \mathrm{scale}$.

        Args:
            direction_P: of `sweep`.
            log_step_P: of `sweep`.
            scale_P: of `scales`, for each scalar or one for all.
        """
        return _move(direction_P, log_step_P + self.step_offset, scale_P)

    def upward(
        self,
        sums_NK: Float[Tensor, "N K"],
        counts_N: Float[Tensor, " N"],
        state: OptimizerState,
        layout: Layout,
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "B G"]]:
        """Next states of the tensor and global RNNs.

        Args:
            sums_NK: of `sweep`.
            counts_N: numbers of scalars of the tensors.
            state: of the step before; its slots are not looked at.
            layout: which problem each tensor is of.
        """
        inputs = self.config.parameter_units + self.config.features
        mean_NF = sums_NK[:, :inputs] / counts_N.clamp_min(1)[:, None]
        bias_BE = self.global_to_tensor(state.global_BG) + self.tensor_rnn.bias
        tensor_NT = self.tensor_rnn(mean_NF, state.tensor_NT, layout.to_tensors(bias_BE))
        pool = layout.problem_mean if self.config.global_input == "mean" else layout.problem_last
        return tensor_NT, self.global_rnn(pool(tensor_NT), state.global_BG, self.global_rnn.bias)


def _move(direction_P: Tensor, log_step_P: Tensor, scale_P: Tensor) -> Tensor:
    return -log_step_P.exp() * direction_P / scale_P
