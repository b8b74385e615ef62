"""Policies of Stable-Baselines3 from their .zip archives, without that library and without unpickling.

An archive holds `data`, a JSON file whose pickled parts are left alone here (their readable fields are beside them),
and `policy.pth`, tensors that `torch.load(weights_only=True)` reads. Names and shapes of the tensors say what the
network is. What does not fit a layout known here is refused, never guessed.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.distill.foreign_layers import Scale, Unscale, WithDeviations, mean_of_quantiles

ACTIVATIONS = {
    name: getattr(nn, name) for name in ("ReLU", "Tanh", "ELU", "LeakyReLU", "GELU", "SiLU", "Sigmoid")
}
NATURE = {"cnn.0": (8, 4), "cnn.2": (4, 2), "cnn.4": (3, 1)}
"""Kernel and stride of the one extractor for pictures."""
UNUSED = re.compile(
    r"(vf_features_extractor|value_net|mlp_extractor\.value_net|critic|critic_target|actor_target|\w+_net_target)\."
)
"""Tensors that do not act."""


@dataclass(frozen=True)
class StableBaselinesPolicy:
    """What an archive holds.

    Attributes:
        network: from `B C H W` or `B F` to `B A`.
        kind: "q" (DQN, QR-DQN: the mean of quantiles), "logits" (PPO, A2C), "gaussian" (the same on continuous
            actions), or "continuous": the deterministic action of SAC, TD3, DDPG, and of policies with gSDE.
        actions: A.
        observation_shape: of one observation; channels come first, as the library has it after its own transposing.
            What `VecNormalize` did is not in the archive: it has to be done to observations before.
    """

    network: nn.Module
    kind: str
    actions: int
    observation_shape: tuple[int, ...]


def read_stable_baselines(path: Path | str) -> StableBaselinesPolicy:
    """The policy of an archive.

    Raises:
        UserError: no archive of Stable-Baselines3, or a policy whose layout is not known here.
    """
    path = Path(path)
    data, weights = _read(path)
    try:
        return _Builder(data, weights).build()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            data, weights = archive.read("data"), archive.read("policy.pth")
    except FileNotFoundError as error:
        raise UserError(f"expected an archive {path}, found none") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(
            f"{path}: expected a Stable-Baselines3 archive with data and policy.pth, got {error}"
        ) from error
    try:
        # map_location: archives made on a GPU are read without one
        tensors = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        parsed = json.loads(data)
    except Exception as error:  # torn bytes raise whatever torch stumbles over
        said = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: expected JSON and plain tensors, got what does not parse: {said}"
        ) from error
    named = isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values())
    if not isinstance(parsed, dict) or not named:
        raise UserError(f"{path}: expected JSON with keys and tensors with names, got others")
    return parsed, dict(tensors)


class _Builder:
    """One archive on its way to a network; `used` are the tensors that have found their place."""

    def __init__(self, data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: value for name, value in weights.items() if not UNUSED.match(name)}
        self.used: set[str] = set()
        self.options = _object(data, "policy_kwargs")
        self.observations, self.actions = _object(data, "observation_space"), _object(data, "action_space")
        if ".Box" not in str(self.observations.get(":type:")):
            raise UserError(f"expected observations in a Box, got {self.observations.get(':type:')}")
        self.shape = tuple(int(number) for number in _numbers(self.observations.get("_shape")))

    def build(self) -> StableBaselinesPolicy:
        network, kind, count = self._policy()
        left = sorted(set(self.weights) - self.used)
        if left:
            raise UserError(f"expected a policy of known layout, got tensors besides: {', '.join(left[:4])}")
        wanted = self._action_count()
        if count != (2 * wanted if kind == "gaussian" else wanted):
            raise UserError(f"expected outputs for {wanted} actions, got {count}")
        return StableBaselinesPolicy(network.eval().requires_grad_(False), kind, count, self.shape)

    # -- which algorithm

    def _policy(self) -> tuple[nn.Module, str, int]:
        if self._has("q_net.q_net."):
            return self._q_network("q_net.q_net")
        if self._has("quantile_net.quantile_net."):
            return self._q_network("quantile_net.quantile_net")
        if self._has("action_net."):
            return self._actor_critic()
        if self._has("actor.mu."):
            return self._deterministic()
        raise UserError(
            f"expected a policy of DQN, QR-DQN, PPO, A2C, SAC, TD3 or DDPG, got tensors {sorted(self.weights)[:4]}"
        )

    def _q_network(self, prefix: str) -> tuple[nn.Module, str, int]:
        *hidden, head = self._linears(prefix)
        wanted = self._action_count()
        if prefix.startswith("quantile") and head.out_features % wanted == 0:
            head = mean_of_quantiles(head, wanted)
        features = self._features(f"{prefix.split('.')[0]}.features_extractor")
        return nn.Sequential(*features, *self._activated(hidden, nn.ReLU), head), "q", head.out_features

    def _actor_critic(self) -> tuple[nn.Module, str, int]:
        hidden = [
            layer
            for name in ("shared_net", "policy_net")
            if self._has(f"mlp_extractor.{name}.")
            for layer in self._linears(f"mlp_extractor.{name}")
        ]
        head = self._linear("action_net")
        # both are there where policy and value share one
        features = self._features("pi_features_extractor", "features_extractor")
        layers = [*features, *self._activated(hidden, nn.Tanh), head]
        if "log_std" not in self.weights:
            return nn.Sequential(*layers), "logits", head.out_features
        self.used.add("log_std")
        log_deviation = self.weights["log_std"]
        if self.options.get("squash_output") is True:
            return nn.Sequential(*layers, nn.Tanh(), self._unscale()), "continuous", head.out_features
        if log_deviation.dim() != 1:
            return nn.Sequential(*layers), "continuous", head.out_features
        return nn.Sequential(*layers, WithDeviations(log_deviation)), "gaussian", 2 * head.out_features

    def _deterministic(self) -> tuple[nn.Module, str, int]:
        if self._has("actor.latent_pi.") and "actor.mu.weight" not in self.weights:
            raise UserError("expected SAC without gSDE, got one with it")
        if "actor.mu.weight" in self.weights:
            hidden, head = self._linears("actor.latent_pi"), self._linear("actor.mu")
            self.used |= {"actor.log_std.weight", "actor.log_std.bias"} & set(self.weights)
        else:
            *hidden, head = self._linears("actor.mu")
        features = self._features("actor.features_extractor")
        layers = [*features, *self._activated(hidden, nn.ReLU), head, nn.Tanh(), self._unscale()]
        return nn.Sequential(*layers), "continuous", head.out_features

    # -- parts

    def _features(self, *prefixes: str) -> list[nn.Module]:
        """From observations to a vector, by the first prefix that has tensors; those of the others are the same."""
        kind = str(self.options.get("features_extractor_class", "NatureCNN"))
        found = [prefix for prefix in prefixes if self._has(f"{prefix}.")]
        self.used |= {name for name in self.weights for prefix in found[1:] if name.startswith(f"{prefix}.")}
        scale: list[nn.Module] = [Scale(1 / 255 if self._is_picture() else 1.0)]
        if not found:
            return [*scale, nn.Flatten()]
        if "NatureCNN" not in kind or len(self.shape) != 3:
            raise UserError(
                f"expected the features extractor NatureCNN on pictures, got {kind} on {self.shape}"
            )
        layers = [*scale]
        for name, (kernel, stride) in NATURE.items():
            layers += [self._convolution(f"{found[0]}.{name}", kernel, stride), nn.ReLU()]
        return [*layers, nn.Flatten(), self._linear(f"{found[0]}.linear.0"), nn.ReLU()]

    def _linears(self, prefix: str) -> list[nn.Linear]:
        """Dense layers by their numbers, at least one."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.weight")
        found = sorted(int(match[1]) for match in map(pattern.fullmatch, self.weights) if match)
        if not found:
            raise UserError(f"expected tensors {prefix}.0.weight and so on, found none")
        return [self._linear(f"{prefix}.{number}") for number in found]

    def _activated(self, layers: list[nn.Linear], default: type[nn.Module]) -> list[nn.Module]:
        """An activation after each."""
        said = str(self.options.get("activation_fn", default.__name__))
        name = re.search(r"(\w+)'?>?$", said)
        if name is None or name[1] not in ACTIVATIONS:
            raise unknown("activation", said, ACTIVATIONS)
        return [part for layer in layers for part in (layer, ACTIVATIONS[name[1]]())]

    def _linear(self, name: str) -> nn.Linear:
        weight, bias = self._pair(name, 2)
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    def _convolution(self, name: str, kernel: int, stride: int) -> nn.Conv2d:
        weight, bias = self._pair(name, 4)
        if tuple(weight.shape[2:]) != (kernel, kernel):
            raise UserError(
                f"{name}: expected a kernel of {kernel} x {kernel}, got {tuple(weight.shape[2:])}"
            )
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride)
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    def _pair(self, name: str, dimensions: int) -> tuple[Tensor, Tensor]:
        names = [f"{name}.weight", f"{name}.bias"]
        missing = [each for each in names if each not in self.weights]
        if missing:
            raise UserError(f"expected a tensor {missing[0]}, found none")
        weight, bias = (self.weights[each] for each in names)
        if weight.dim() != dimensions or bias.shape != weight.shape[:1]:
            raise UserError(
                f"{name}: expected a layer, got weights {tuple(weight.shape)}, {tuple(bias.shape)}"
            )
        self.used |= set(names)
        return weight, bias

    def _unscale(self) -> nn.Module:
        return Unscale(*(torch.tensor(_numbers(self.actions.get(side))) for side in ("low", "high")))

    # -- spaces

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.weights)

    def _is_picture(self) -> bool:
        """Whether the library would divide by 255."""
        bounds = [set(_numbers(self.observations.get(side))) for side in ("low", "high")]
        of_bytes = self.observations.get("dtype") == "uint8" and bounds == [{0.0}, {255.0}]
        return of_bytes and len(self.shape) == 3 and self.options.get("normalize_images") is not False

    def _action_count(self) -> int:
        kind = str(self.actions.get(":type:"))
        count = _numbers(self.actions.get("n" if ".Discrete" in kind else "_shape"))
        counted = ".Box" in kind or (".Discrete" in kind and str(self.actions.get("start", 0)) == "0")
        if counted and len(count) == 1:
            return int(count[0])
        raise UserError(f"expected actions in a Discrete from 0 on or a Box of one axis, got {kind}")


def _object(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise UserError(f"data: expected a key {name!r} with fields, got {type(value).__name__}")
    return value


def _numbers(value: object) -> list[float]:
    """Numbers of a list, or of an array's printed form."""
    return [float(number) for number in re.findall(r"-?(?:inf|\d+(?:\.\d*)?(?:e[+-]?\d+)?)", str(value))]
