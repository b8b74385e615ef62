"""Recurrent cores: a stack of LSTM layers, and a differentiable neural computer around one.

What it is: modules with `initial_state(batch_size)` and `step(inputs_BF, state) -> (outputs, state)`. A step
changes nothing in place, so an old state can be stepped from again.
What it does not know: what inputs and outputs mean.

Letters: B batch, F features, D width, N memory rows, W their length, R read heads; a second N is marked M.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LSTMState(NamedTuple):
    """Hidden and cell state of each layer."""

    hidden: tuple[Float[Tensor, "B D"], ...]
    cell: tuple[Float[Tensor, "B D"], ...]


class LSTM(nn.Module):
    r"""Layers of LSTM cells (Hochreiter and Schmidhuber 1997), one step at a time.

    $i, f, g, o = W x + U h + b$; $c' = \sigma(f) c + \sigma(i) \tanh(g)$; $h' = \sigma(o) \tanh(c')$.

    Args:
        features: F, of the inputs.
        width: D, of every layer.
        layers: how many.

    >>> lstm = LSTM(features=3, width=8, layers=2)
    >>> outputs, state = lstm.step(torch.zeros(5, 3), lstm.initial_state(5))
    >>> outputs.shape, len(state.hidden)
    (torch.Size([5, 8]), 2)

    Differs from the paper: the forget gate's bias starts at 1 (Gers et al. 2000).
    """

    def __init__(self, features: int, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.cells = nn.ModuleList(nn.LSTMCell(features if i == 0 else width, width) for i in range(layers))
        for cell in self.cells:
            open_forget_gate(cell)

    def initial_state(self, batch_size: int) -> LSTMState:
        """All zero."""
        zeros = next(self.parameters()).new_zeros(batch_size, self.width)
        return LSTMState((zeros,) * len(self.cells), (zeros,) * len(self.cells))

    def step(
        self, inputs_BF: Float[Tensor, "B F"], state: LSTMState
    ) -> tuple[Float[Tensor, "B D"], LSTMState]:
        """The last layer's hidden state, and the next state."""
        hidden, cell = [], []
        below = inputs_BF
        for layer, h_BD, c_BD in zip(self.cells, state.hidden, state.cell, strict=True):
            below, c_BD = lstm_cell(layer, below, h_BD, c_BD)
            hidden.append(below)
            cell.append(c_BD)
        return below, LSTMState(tuple(hidden), tuple(cell))


def lstm_cell(cell: Any, x_BF: Tensor, h_BD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an `nn.LSTMCell`, without the checks of `nn.LSTMCell.forward`, which cost as much as a small one."""
    return torch.lstm_cell(x_BF, (h_BD, c_BD), cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)


def open_forget_gate(cell: Any) -> None:
    """Biases of an `nn.LSTMCell`: 0, that of the forget gate 1, so that a new cell remembers."""
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    nn.init.ones_(cell.bias_ih[cell.hidden_size : 2 * cell.hidden_size])


class Interface(NamedTuple):
    r"""What the controller tells the memory in one step, $\xi_t$, each part within its bounds."""

    read_keys_BRW: Float[Tensor, "B R W"]
    read_strengths_BR: Float[Tensor, "B R"]
    write_key_BW: Float[Tensor, "B W"]
    write_strength_B: Float[Tensor, " B"]
    erase_BW: Float[Tensor, "B W"]
    write_BW: Float[Tensor, "B W"]
    free_BR: Float[Tensor, "B R"]
    allocate_B: Float[Tensor, " B"]
    gate_B: Float[Tensor, " B"]
    modes_BR3: Float[Tensor, "B R 3"]
    """backward, content, forward"""


class MemoryState(NamedTuple):
    """The memory and who wrote and read where."""

    memory_BNW: Float[Tensor, "B N W"]
    usage_BN: Float[Tensor, "B N"]
    write_BN: Float[Tensor, "B N"]
    reads_BRN: Float[Tensor, "B R N"]
    precedence_BN: Float[Tensor, "B N"]
    links_BNM: Float[Tensor, "B N M"]
    """[i, j] near 1: row i was written right after row j"""


class DNCState(NamedTuple):
    """State of a `DNC`."""

    controller: LSTMState
    memory: MemoryState
    read_BRW: Float[Tensor, "B R W"]


class DNC(nn.Module):
    r"""A differentiable neural computer (Graves et al. 2016, Nature 538, 471-476).

    A controller reads $\chi_t = [x_t; r^1_{t-1}; \dots; r^R_{t-1}]$ and gives $v_t$ and the interface $\xi_t$; the
    memory answers with $r^i_t = M_t^\top w^{r,i}_t$; $y_t = v_t + W_r [r^1_t; \dots; r^R_t]$.

    Args:
        features: F, of the inputs.
        width: D, of the controller's layers and of the outputs.
        layers: of the controller.
        slots: N, rows of the memory.
        slot_width: W, their length.
        heads: R, read heads.

    >>> dnc = DNC(features=3, width=8, layers=1, slots=5, slot_width=4, heads=2)
    >>> outputs, state = dnc.step(torch.zeros(6, 3), dnc.initial_state(6))
    >>> outputs.shape, state.memory.links_BNM.shape
    (torch.Size([6, 8]), torch.Size([6, 5, 5]))

    Differs from the paper: the controller's layers are stacked plainly, without connections from the input to
    every layer and from every layer to the output; usage stays 1e-6 away from 0 (`allocation`).
    """

    def __init__(
        self, features: int, width: int, layers: int, *, slots: int, slot_width: int, heads: int
    ) -> None:
        super().__init__()
        self.slots, self.slot_width, self.heads = slots, slot_width, heads
        self.controller = LSTM(features + heads * slot_width, width, layers)
        W, R = slot_width, heads
        self.parts = [W * R, R, W, 1, W, W, R, 1, 1, 3 * R]
        self.interface = nn.Linear(width, sum(self.parts))
        self.output = nn.Linear(width, width)
        self.read = nn.Linear(heads * slot_width, width, bias=False)

    def initial_state(self, batch_size: int) -> DNCState:
        """All zero: an empty memory."""
        zeros = self.read.weight.new_zeros
        B, N, W, R = batch_size, self.slots, self.slot_width, self.heads
        memory = MemoryState(
            zeros(B, N, W), zeros(B, N), zeros(B, N), zeros(B, R, N), zeros(B, N), zeros(B, N, N)
        )
        return DNCState(self.controller.initial_state(B), memory, zeros(B, R, W))

    def step(self, inputs_BF: Float[Tensor, "B F"], state: DNCState) -> tuple[Float[Tensor, "B D"], DNCState]:
        """Outputs $y_t$ and the next state."""
        h_BD, controller = self.controller.step(
            torch.cat([inputs_BF, state.read_BRW.flatten(1)], 1), state.controller
        )
        read_BRW, memory = access(self._interface(h_BD), state.memory)
        outputs_BD = self.output(h_BD) + self.read(read_BRW.flatten(1))
        return outputs_BD, DNCState(controller, memory, read_BRW)

    def _interface(self, h_BD: Tensor) -> Interface:
        keys, strengths, key, strength, erase, write, free, allocate, gate, modes = self.interface(
            h_BD
        ).split(self.parts, -1)
        return Interface(
            keys.unflatten(-1, (self.heads, self.slot_width)), 1 + F.softplus(strengths),
            key, 1 + F.softplus(strength[:, 0]), erase.sigmoid(), write, free.sigmoid(),
            allocate[:, 0].sigmoid(), gate[:, 0].sigmoid(), modes.unflatten(-1, (self.heads, 3)).softmax(-1),
        )  # fmt: skip


def access(xi: Interface, state: MemoryState) -> tuple[Float[Tensor, "B R W"], MemoryState]:
    r"""One write, then one read by each head (Methods, "Memory addressing").

    $M_t = M_{t-1} \circ (E - w^w_t e_t^\top) + w^w_t v_t^\top$ with
    $w^w_t = g^w_t [g^a_t a_t + (1 - g^a_t) c^w_t]$;
    $w^{r,i}_t = \pi^i_t[1] L_t^\top w^{r,i}_{t-1} + \pi^i_t[2] c^{r,i}_t + \pi^i_t[3] L_t w^{r,i}_{t-1}$.

    Args:
        xi: what the controller asks for.
        state: the memory before.

    Returns:
        What the heads read, and the memory after.
    """
    usage_BN = used(state, xi.free_BR)
    found_BN = content(state.memory_BNW, xi.write_key_BW[:, None], xi.write_strength_B[:, None])[:, 0]
    where_BN = torch.lerp(found_BN, allocation(usage_BN), xi.allocate_B[:, None])
    write_BN = xi.gate_B[:, None] * where_BN
    kept_BNW = state.memory_BNW * (1 - write_BN[..., None] * xi.erase_BW[:, None])
    memory_BNW = kept_BNW + write_BN[..., None] * xi.write_BW[:, None]
    links_BNM, precedence_BN = link(write_BN, state)
    looked_BRN = content(memory_BNW, xi.read_keys_BRW, xi.read_strengths_BR)
    backward_BRN, forward_BRN = state.reads_BRN @ links_BNM, state.reads_BRN @ links_BNM.transpose(1, 2)
    ways_BR3N = torch.stack([backward_BRN, looked_BRN, forward_BRN], 2)
    reads_BRN = (xi.modes_BR3[..., None] * ways_BR3N).sum(2)
    after = MemoryState(memory_BNW, usage_BN, write_BN, reads_BRN, precedence_BN, links_BNM)
    return reads_BRN @ memory_BNW, after


def content(
    memory_BNW: Float[Tensor, "B N W"], keys_BRW: Float[Tensor, "B R W"], strengths_BR: Float[Tensor, "B R"]
) -> Float[Tensor, "B R N"]:
    r"""Weights by likeness: $C(M, k, \beta)[i] \propto \exp(\beta \cos(k, M[i]))$; an empty row has cosine 0.

    >>> content(torch.eye(2)[None], torch.tensor([[[3.0, 0.0]]]), torch.tensor([[50.0]])).round()
    tensor([[[1., 0.]]])
    """
    lengths_BRN = keys_BRW.norm(dim=-1)[..., None] * memory_BNW.norm(dim=-1)[:, None]
    cosine_BRN = keys_BRW @ memory_BNW.transpose(1, 2) / (lengths_BRN + 1e-6)
    return (strengths_BR[..., None] * cosine_BRN).softmax(-1)


def used(state: MemoryState, free_BR: Float[Tensor, "B R"]) -> Float[Tensor, "B N"]:
    r"""Usage $u_t = (u_{t-1} + w^w_{t-1} - u_{t-1} \circ w^w_{t-1}) \circ \prod_i (1 - f^i_t w^{r,i}_{t-1})$."""
    retained_BN = (1 - free_BR[..., None] * state.reads_BRN).prod(1)
    return (state.usage_BN + (1 - state.usage_BN) * state.write_BN) * retained_BN


def allocation(usage_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    r"""Weights of free rows, least used first: $a[\phi_j] = (1 - u[\phi_j]) \prod_{i<j} u[\phi_i]$.

    The products are sums of logarithms, of a usage 1e-6 away from 0: quicker to differentiate, and finite.

    >>> allocation(torch.tensor([[1.0, 0.0, 0.5]])).round()
    tensor([[0., 1., 0.]])
    """
    usage_BN = 1e-6 + (1 - 1e-6) * usage_BN
    ascending_BN, order_BN = usage_BN.sort(dim=-1, stable=True)
    log_BN = ascending_BN.log()
    before_BN = (log_BN.cumsum(-1) - log_BN).exp()
    return torch.zeros_like(usage_BN).scatter(-1, order_BN, (1 - ascending_BN) * before_BN)


def link(
    write_BN: Float[Tensor, "B N"], state: MemoryState
) -> tuple[Float[Tensor, "B N M"], Float[Tensor, "B N"]]:
    r"""Which row was written after which, and how much each was the last one written.

    $L_t[i, j] = (1 - w_i - w_j) L_{t-1}[i, j] + w_i\, p_{t-1}[j]$ with $L_t[i, i] = 0$;
    $p_t = (1 - \sum_i w_i)\, p_{t-1} + w$.
    """
    w_BN1, w_B1N = write_BN[..., None], write_BN[:, None]
    links_BNM = (1 - w_BN1 - w_B1N) * state.links_BNM + w_BN1 * state.precedence_BN[:, None]
    diagonal_NM = torch.eye(write_BN.shape[-1], dtype=torch.bool, device=write_BN.device)
    precedence_BN = (1 - write_BN.sum(-1, keepdim=True)) * state.precedence_BN + write_BN
    return links_BNM.masked_fill(diagonal_NM, 0.0), precedence_BN
