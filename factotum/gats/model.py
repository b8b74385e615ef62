"""What does one step compute? Components run together, GATS layers between their blocks (arXiv 2401.08525).

What it does not know: what components are for, environments, training, incremental decoding.

Letters: B batch, R rows of a component, E elements of a row, S elements of a batch element, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from factotum.core.checks import UserError, unknown
from factotum.gats.attend import GATSLayer, layer_angles
from factotum.gats.component import Component, Features, Tower
from factotum.gats.config import GATSConfig
from factotum.gats.gather import Arrivals, arrivals, plan
from factotum.gats.store import load_trained, read_trained, save_trained
from factotum.gats.taps import lockstep

Inputs = Mapping[str, Mapping[str, Any] | Features]


class GATS(nn.Module):
    """Networks joined by their activations (arXiv 2401.08525): frozen or trained, of any widths and depths.

    Args:
        components: by name; simultaneous elements stand in this order, so what is observed comes before what acts.
        config: sizes and choices, or give these one by one: `GATS(components, layers=6, width=256, heads=4)`.

    Raises:
        UserError: no component is steered; a component without window, blocks, width or direction.

    >>> from factotum.gats import Component
    >>> def encoder(): return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
    >>> model = GATS(
    ...     {"eyes": Component(encoder(), window=4, bidirectional=True),
    ...      "hands": Component(encoder(), window=2, bidirectional=True, steered=True, frozen=False)},
    ...     layers=2, width=16, heads=2)
    >>> inputs = {"eyes": {"src": torch.randn(3, 4, 8)}, "hands": {"src": torch.randn(3, 2, 8)}}
    >>> outputs = model(inputs, {"eyes": torch.zeros(3, 4), "hands": torch.ones(3, 2)})
    >>> outputs["hands"].shape
    torch.Size([3, 2, 8])

    Differs from the paper: whose sizes and details are not known; the choices are in docs/gats.md.
    """

    def __init__(
        self, components: Mapping[str, Component], config: GATSConfig | None = None, **choices: Any
    ) -> None:
        super().__init__()
        if config is not None and choices:
            raise UserError(f"expected a config or {', '.join(choices)}, got both")
        self.config = config or _config(choices)
        if not any(component.steered for component in components.values()):
            raise UserError("expected at least one component with steered=True: nothing would be changed")
        self.components = nn.ModuleDict()
        for name, component in components.items():
            if "." in name or hasattr(nn.ModuleDict, name):
                raise UserError(
                    f"component {name!r}: expected another name (this one has a meaning in torch)"
                )
            self.components[name] = Tower(name, component, self.config.layers, self.config.graft)
        _check_shared(components)
        widths = {name: tower.width for name, tower in self.towers.items()}
        self.layers = nn.ModuleList(
            GATSLayer(widths, self.steered, self.config) for _ in range(self.config.layers)
        )
        self.checkpointing = False
        for tower in self.towers.values():  # last, so that an error above leaves all modules as they were
            tower.freeze()

    @property
    def towers(self) -> dict[str, Tower]:
        """The components, with what was found about them, in order."""
        return {name: tower for name, tower in self.components.items() if isinstance(tower, Tower)}

    @property
    def steered(self) -> list[str]:
        """Names of the steered components, in order."""
        return [name for name, tower in self.towers.items() if tower.steered]

    def forward(
        self, inputs: Inputs, times: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Run the components on what is there, each element seeing what arrived before.

        Args:
            inputs: for each component that has elements, the keyword arguments of its forward, or the `Features`
                that `encode` gave. A two-dimensional `attention_mask` among them says which elements are there.
            times: when each of a component's elements (`B S`) or rows (`B R/B`) arrives; NaN where there is none.
            present: which of them are there, of the shape of `times`; where it is not said by NaN.

        Returns:
            What each component returned; of `Features`, the output that they keep.

        Raises:
            UserError: unknown components, missing times, times that run backwards, shapes that do not fit.
        """
        self._check(inputs, times, present or {})
        features = {
            name: given if isinstance(given, Features) else self.towers[name].features(given)
            for name, given in inputs.items()
            if not self.towers[name].steered
        }
        steered = [name for name in self.steered if name in inputs]
        if not steered:
            return {name: features[name].output for name in inputs}
        arrive = partial(self._arrivals, inputs=inputs, times=times, present=present or {})
        exchange = _Exchange(self, {name: f.hidden for name, f in features.items()}, arrive)
        runs = {name: partial(self.towers[name], inputs[name]) for name in steered}
        outputs = lockstep(runs, exchange) | {name: f.output for name, f in features.items()}
        return {name: outputs[name] for name in inputs}

    def encode(self, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Features]:
        """What frozen components that are not steered give, to be passed in place of their inputs.

        Raises:
            UserError: a component that is steered or trained: what it gives changes.
        """
        for name in inputs:
            tower = self._tower(name)
            if tower.steered or not tower.frozen:
                raise UserError(
                    f"component {name!r}: expected one that is frozen and not steered: what others give changes"
                )
        return {name: self.towers[name].features(given) for name, given in inputs.items()}

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the GATS layers; components stay as they are."""
        for layer in self.layers:
            layer.compile(*args, **options)

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Compute the GATS layers again in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what was trained, and what the frozen components are (`factotum.gats.store.save_trained`)."""
        save_trained(self, self.config, self.towers, folder)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: Path | str, components: Mapping[str, nn.Module], **hub: Any
    ) -> GATS:
        """Read what `save_pretrained` wrote and join the given modules (`factotum.gats.store.read_trained`).

        Raises:
            UserError: a module that is missing or unknown, frozen weights other than those it was trained with.
        """
        stored = read_trained(name_or_folder, components, **hub)
        model = cls(stored.components, stored.config)
        load_trained(model, model.towers, stored)
        return model

    def _tower(self, name: str) -> Tower:
        if name not in self.components:
            raise unknown("component", name, self.components)
        return self.towers[name]

    def _check(self, inputs: Inputs, times: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        for name in [*inputs, *times, *present]:
            tower = self._tower(name)
            if name not in inputs:
                raise UserError(f"component {name!r}: got times and no inputs")
            if name not in times:
                raise UserError(f"component {name!r}: expected times[{name!r}], when its elements arrive")
            if isinstance(inputs[name], Features) and tower.steered:
                raise UserError(f"component {name!r}: it is steered: expected its inputs, got features")
        batches = {name: len(times[name]) for name in inputs}
        if len(set(batches.values())) > 1:
            raise UserError(f"times: expected the same batch for all components, got {batches}")

    def _arrivals(
        self,
        name: str,
        x_RED: Tensor,
        inputs: Inputs,
        times: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
    ) -> Arrivals:
        tower, given, (rows, elements, _) = self.towers[name], inputs[name], x_RED.shape
        unpadded = given.unpadded_RE if isinstance(given, Features) else tower.unpadded(given, x_RED)
        when = (
            times[name] if unpadded is None else times[name].to(unpadded.device)
        )  # times at hand need no waiting
        there = present.get(name)
        found = arrivals(
            name, when, rows, elements, window=tower.window, bidirectional=tower.bidirectional,
            present=None if there is None else there.to(when.device), unpadded=unpadded,
        )  # fmt: skip
        return found.to(x_RED.device)


class _Exchange:
    """What happens at each GATS layer of one call: gather all activations, attend, give the steered ones back."""

    def __init__(
        self, model: GATS, features: dict[str, tuple[Tensor, ...]], arrive: Callable[..., Arrivals]
    ) -> None:
        self.model, self.features, self.arrive = model, features, arrive

    def __call__(self, layer: int, steered: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: hidden[layer] for name, hidden in self.features.items()} | steered
        rows = {name: rows[name] for name in self.model.components if name in rows}
        if layer == 0:
            self._plan(rows)
        x = {name: x_RED.reshape(self.batch, -1, x_RED.shape[-1]) for name, x_RED in rows.items()}
        run = self.model.layers[layer]
        if self.model.checkpointing and torch.is_grad_enabled():
            changed = checkpoint(run, x, self.angles, self.mask, self.present, use_reentrant=False)
        else:
            changed = run(x, self.angles, self.mask, self.present)
        return {name: changed[name].reshape(steered[name].shape) for name in steered}

    def _plan(self, rows: dict[str, Tensor]) -> None:
        order = {name: self.arrive(name, x_RED) for name, x_RED in rows.items()}
        self.batch = len(next(iter(order.values())).rank_BS)
        steered = [name for name in rows if name in self.model.steered]
        found = plan(order, steered, self.model.config.positions)
        self.angles = {
            name: layer_angles(where, self.model.config) for name, where in found.positions.items()
        }
        self.mask, self.present = found.mask_B1TS, found.present


def _config(choices: dict[str, Any]) -> GATSConfig:
    for name in choices:
        if name not in GATSConfig.__dataclass_fields__:
            raise unknown("choice", name, GATSConfig.__dataclass_fields__)
    return GATSConfig(**choices)


def _check_shared(components: Mapping[str, Component]) -> None:
    """One module may be several components (two cameras), but not both frozen and trained."""
    for name, component in components.items():
        for other, same in components.items():
            if component.module is same.module and component.frozen and not same.frozen:
                raise UserError(
                    f"components {name!r} and {other!r} are one module, frozen in one and not in the other"
                )
