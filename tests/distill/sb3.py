"""Archives in Stable-Baselines3's layout, made here: a `data` file whose pickled parts nobody may open, and tensors."""

import base64
import io
import json
import pickle
import zipfile

import torch
from torch import nn


class Bomb:
    """Its pickle writes a file when it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def serialized(fields, pickled=b""):
    """What the library writes in place of what is no JSON: a pickle, and readable fields beside it."""
    return {":type:": "<class 'dict'>", ":serialized:": base64.b64encode(pickled).decode(), **fields}


def box(shape, low=-1.0, high=1.0, dtype="float32"):
    fields = {"dtype": dtype, "_shape": list(shape), "low": f"[{low}]", "high": f"[{high}]", "low_repr": None}
    return serialized(fields) | {":type:": "<class 'gymnasium.spaces.box.Box'>"}


def discrete(count, start=0):
    fields = {"n": str(count), "start": str(start), "_shape": [], "dtype": "int64"}
    return serialized(fields) | {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}


def bytes_picture(shape):
    """A space of pictures as arrays print: cut short."""
    zeros, full = "[[[0 0 ... 0 0]\n  ...\n  [0 0 ... 0 0]]]", "[[[255 255 ... 255]\n  ...]]"
    return box(shape, dtype="uint8") | {"low": zeros, "high": full}


def mlp(*widths, activation=nn.ReLU, last=True):
    """Dense layers with activations between; after the last one too where `last` is false."""
    layers = []
    for made, width in zip(widths[1:], widths, strict=False):
        layers += [nn.Linear(width, made), activation()]
    return nn.Sequential(*(layers[:-1] if last else layers))


def nature(channels=4, side=36, features=32):
    """The library's extractor for pictures: `cnn` and `linear`."""
    cnn = nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    flat = cnn(torch.zeros(1, channels, side, side)).shape[1]
    return nn.ModuleDict({"cnn": cnn, "linear": nn.Sequential(nn.Linear(flat, features), nn.ReLU())})


def tensors(**modules):
    """Tensors of modules under their names; `__` stands for a dot."""
    found = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            found[f"{name.replace('__', '.')}.{key}"] = value
    return found


def archive(path, weights, observations, actions, options=None, weights_bytes=None, data=None):
    """Write an archive as `model.save(path)` does."""
    stream = io.BytesIO()
    torch.save(weights, stream)
    fields = {
        "policy_class": serialized({"__module__": "stable_baselines3.common.policies"}),
        "verbose": 0,
        "policy_kwargs": {} if options is None else serialized(options),
        "num_timesteps": 100,
        "observation_space": observations,
        "action_space": actions,
        "lr_schedule": serialized({}, pickle.dumps(1)),
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps(fields, indent=4) if data is None else data)
        file.writestr("pytorch_variables.pth", b"")
        file.writestr("policy.pth", stream.getvalue() if weights_bytes is None else weights_bytes)
        file.writestr("_stable_baselines3_version", "2.9.2")
    return path
