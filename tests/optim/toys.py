"""Small problems and cores for the tests of the learned optimizer."""

import torch

from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots


def make_core(config=None, seed=0, dtype=torch.float32):
    """Untrained."""
    torch.manual_seed(seed)
    return HierarchicalRNNCore(HierarchicalRNNConfig() if config is None else config).to(dtype)


def wild_core(config=None, seed=0, dtype=torch.float32):
    """Weights so large that everything depends on everything, also what begins as 0."""
    core = make_core(config, seed, dtype)
    for weight in (core.readout, core.tensor_to_parameter.weight, core.global_to_parameter.weight):
        torch.nn.init.normal_(weight, std=0.6)
    return core


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Bowls:
    """B bowls in 2 dimensions, c x^2 + y^2 with another c each; noise on request. A `Tasks`."""

    def __init__(self, slopes, noise=0.0):
        self.slopes_B, self.noise = torch.as_tensor(slopes), noise
        self.layout = Layout((2,) * len(slopes), tuple(range(len(slopes))))

    def loss(self, parameters_P):
        x_B2 = parameters_P.view(-1, 2).square()
        return self.slopes_B * x_B2[:, 0] + x_B2[:, 1]

    def gradient(self, parameters_P, generator, create_graph=False):
        with torch.enable_grad():
            at = parameters_P if create_graph else parameters_P.detach().requires_grad_()
            slope_P = torch.autograd.grad(self.loss(at).sum(), at, create_graph=create_graph)[0]
        return slope_P + self.noise * torch.randn(slope_P.shape, generator=generator, dtype=slope_P.dtype)


def drive(core, layout, gradients, state):
    """Steps from given gradients: all updates, and the last state."""
    updates = []
    for gradient_P in gradients:
        step, state = core.step(gradient_P, state, layout)
        updates.append(step.update_P)
    return torch.stack(updates), state


def joined(first, second):
    """The states of two layouts behind each other."""
    slots = Slots(*(torch.cat(pair) for pair in zip(first.slots, second.slots, strict=True)))
    upper = (torch.cat([first[i], second[i]]) for i in (1, 2, 3))
    return OptimizerState(slots, *upper)


def permuted(state, scalars, tensors=None):
    """The state of the same problem with scalars and tensors in another order."""
    slots = Slots(*(slot[scalars] for slot in state.slots))
    tensors = slice(None) if tensors is None else tensors
    return OptimizerState(slots, state.tensor_NT[tensors], state.global_BG, state.pace_N5[tensors])


def noise(steps, scalars, seed=0, dtype=torch.float64):
    """Gradients of nothing."""
    return torch.randn(steps, scalars, generator=generator(seed), dtype=dtype)
