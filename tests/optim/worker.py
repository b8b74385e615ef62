"""What two processes do in tests/optim/test_distributed.py: `torchrun -m tests.optim.worker FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as checkpoint
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from factotum.core.checks import UserError
from factotum.optim.optimizer import HierarchicalRNN
from tests.optim.nets import CORE, X, Y, make_net

STEPS, MORE = 4, 2
OPTIONS = {"weights": CORE, "weight_decay": 0.1}


def part() -> slice:
    """Rows of the global batch that this process sees."""
    count, rank = distributed.get_world_size(), distributed.get_rank()
    return slice(rank * len(X) // count, (rank + 1) * len(X) // count)


def train(net: nn.Module, optimizer: HierarchicalRNN, steps: int, rows: slice = slice(None)) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (net(X[rows]) - Y[rows]).square().mean().backward()
        optimizer.step()


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def everything(net: nn.Module, optimizer: HierarchicalRNN) -> dict[str, torch.Tensor]:
    """Parameters and state by name, whole."""
    found = {}
    for name, parameter in net.named_parameters():
        name = name.removeprefix("module.")
        found[name] = full(parameter.detach()).clone()
        found |= {f"{name}/{key}": full(value).clone() for key, value in optimizer.state[parameter].items()}
    return found


def sharded_net() -> nn.Module:
    """Five rows and single biases over two processes: uneven and empty parts."""
    net = make_net()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    return fully_shard(net, mesh=mesh)


def copied(folder: Path) -> dict[str, torch.Tensor]:
    """DDP."""
    net = nn.parallel.DistributedDataParallel(make_net())
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS)
    train(net, optimizer, STEPS, part())
    return everything(net, optimizer)


def sharded(folder: Path, **options) -> dict[str, torch.Tensor]:
    """FSDP2; halfway the state is saved for `resumed`."""
    net = sharded_net()
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS, **options)
    train(net, optimizer, STEPS, part())
    weights, state = get_state_dict(net, optimizer)
    checkpoint.save({"net": weights, "optimizer": state}, checkpoint_id=folder / "saved")
    found = everything(net, optimizer)
    train(net, optimizer, MORE, part())
    return found | {f"later/{key}": value for key, value in everything(net, optimizer).items()}


def resumed(folder: Path) -> dict[str, torch.Tensor]:
    net = sharded_net()
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS)
    weights, state = get_state_dict(net, optimizer)
    place = {"net": weights, "optimizer": state}
    checkpoint.load(place, checkpoint_id=folder / "saved")
    set_state_dict(net, optimizer, model_state_dict=place["net"], optim_state_dict=place["optimizer"])
    train(net, optimizer, MORE, part())
    return everything(net, optimizer)


def from_one_process(folder: Path) -> dict[str, torch.Tensor]:
    """Whole state of one process, gone on from in two."""
    options = StateDictOptions(full_state_dict=True)
    saved = torch.load(folder / "alone.pt", weights_only=True)
    net = sharded_net()
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS)
    set_state_dict(
        net, optimizer, model_state_dict=saved["net"], optim_state_dict=saved["optimizer"], options=options
    )
    train(net, optimizer, MORE, part())
    return everything(net, optimizer)


def by_columns(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors split along the second dimension, as tensor parallelism does."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(3, 5, generator=generator), torch.randn(4, generator=generator)]
    gradients = [torch.randn(3, 5, generator=generator), torch.randn(4, generator=generator)]
    parameters = [nn.Parameter(distribute_tensor(whole[0], mesh, [Shard(1)])), nn.Parameter(whole[1])]
    optimizer = HierarchicalRNN(parameters, **OPTIONS)
    for _ in range(STEPS):
        parameters[0].grad = distribute_tensor(gradients[0], mesh, [Shard(1)])
        parameters[1].grad = gradients[1]
        optimizer.step()
    return {"0": full(parameters[0].detach()), "1": parameters[1].detach()}


def refused(folder: Path) -> dict[str, torch.Tensor]:
    """A gradient that is not finite in one process is an error in both, and nothing is changed."""
    net = sharded_net()
    optimizer = HierarchicalRNN(net.parameters(), **OPTIONS)
    train(net, optimizer, 1, part())
    before = everything(net, optimizer)
    (net(X[part()]) - Y[part()]).square().mean().backward()
    if distributed.get_rank() == 1:
        net[0].weight.grad.to_local()[0] = torch.nan
    message = ""
    try:
        optimizer.step()
    except UserError as error:
        message = str(error)
    after = everything(net, optimizer)
    same = all(torch.equal(before[key], after[key]) for key in before)
    return {"refused": torch.tensor("gradient of parameter 0" in message), "same": torch.tensor(same)}


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    runs = {
        "copied": copied,
        "sharded": sharded,
        "resumed": resumed,
        "from_one_process": from_one_process,
        "plain": lambda folder: sharded(folder / "plain", fused=False),
        "by_columns": by_columns,
        "refused": refused,
    }
    for name, run in runs.items():
        save_file(run(folder), folder / f"{name}.{distributed.get_rank()}.safetensors")
    distributed.destroy_process_group()


def load(folder: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
