"""A composition's networks: read or made anew, then joined in the way that the file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from factotum.core.checks import UserError
from factotum.gats.actions import ActionTokens
from factotum.gats.agent import GATSAgent
from factotum.gats.baselines import at_parameters, fine_tuned, make_joined, trained_parameters
from factotum.gats.component import Component
from factotum.gats.feeds import Feed, observe_with
from factotum.gats.model import GATS
from factotum.gats.parts import PartConfig, load_package, load_part, make_part
from factotum.gats.sampling import Guidance
from factotum.gats.store import load_trained, read_trained
from factotum.recipes.compose_file import ComponentSection, Composition, Mode

KINDS: dict[Mode, str] = {
    "gats": "gats",
    "cross-attention": "cross-attention",
    "late-fusion": "late-fusion",
    "action-alone": "alone",
    "full-fine-tuning": "gats",
}
"""Kinds of `factotum.gats.baselines` by what a file calls them."""


def make_composition(file: Composition, sizes: Callable[[str], Mapping[str, Any]]) -> GATS:
    """A model whose trained part is new; draws from torch's generator.

    Args:
        file: the composition.
        sizes: from a component's name to what a new network of it has to fit.

    Raises:
        UserError: a source that cannot be read or is of another kind, or what `GATS` raises.
    """
    loaded: dict[str, tuple[nn.Module, PartConfig]] = {}
    components = {name: _component(name, part, sizes(name), loaded) for name, part in file.components.items()}
    kind, config = KINDS[file.join.mode], file.join.config()
    if file.join.parameters:
        config = at_parameters(kind, components, config, file.join.parameters)
    if file.join.mode == "full-fine-tuning":
        components = fine_tuned(components)
    return make_joined(kind, components, config)


def _component(
    name: str,
    part: ComponentSection,
    sizes: Mapping[str, Any],
    loaded: dict[str, tuple[nn.Module, PartConfig]],
) -> Component:
    """One network; two components of one source are one module."""
    try:
        module, config = loaded[part.source] if part.source in loaded else _module(part, sizes)
    except UserError as error:
        raise UserError(f"components.{name}: {error}") from error
    if part.source != "new":
        loaded[part.source] = module, config
    if config.kind != part.kind:
        raise UserError(f"components.{name}: expected a {part.kind} in {part.source}, got a {config.kind}")
    wrong = [
        f"{key} {value}"
        for key, value in sizes.items()
        if key not in ("length", "vocabulary") and getattr(config, key) != value
    ]
    if wrong:
        raise UserError(
            f"components.{name}: expected a network for {', '.join(wrong)}, got one for "
            f"{', '.join(str(getattr(config, text.split()[0])) for text in wrong)}"
        )
    return Component(
        module, part.window, frozen=part.is_frozen, steered=part.is_steered, bidirectional=part.kind != "decoder",
        source=part.source,
    )  # fmt: skip


def _module(part: ComponentSection, sizes: Mapping[str, Any]) -> tuple[nn.Module, PartConfig]:
    if part.source.startswith("package:"):
        return load_package(part.source.removeprefix("package:"))
    if part.source != "new":
        return load_part(part.source)
    config = PartConfig(part.kind, width=part.width, depth=part.depth, heads=part.heads)
    given: dict[str, Any] = {**sizes, **({"patch": part.patch} if part.kind == "vision-encoder" else {})}
    config = replace(config, **given)
    return make_part(config), config


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put what `save_pretrained` wrote into a model of the same file, bit-equal.

    Raises:
        UserError: other frozen weights, or files that do not fit.
    """
    assert isinstance(model, GATS)
    stored = read_trained(folder, {name: tower.module for name, tower in model.towers.items()})
    load_trained(model, model.towers, stored)


def make_agent(
    model: GATS, file: Composition, tokens: ActionTokens, feeds: Mapping[str, Feed], guidance: float = 0.0
) -> GATSAgent:
    """The agent that acts with a trained model."""
    return GATSAgent(
        model, observe_with(feeds, next(model.parameters()).device), tokens, component=file.acts,
        guidance=Guidance(file.evaluation.condition, guidance) if guidance else None,
        context={file.acts: file.data.steps * tokens.numbers},
    )  # fmt: skip


def sizes_of_model(model: GATS) -> dict[str, Any]:
    """How many numbers there are, and how many of them are trained."""
    total, trained = sum(p.numel() for p in model.parameters()), trained_parameters(model)
    acting = {n: sum(p.numel() for p in t.module.parameters()) for n, t in model.towers.items()}
    return {"parameters": total, "trained": trained, "share": trained / total, "components": acting}
