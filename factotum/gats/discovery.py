"""What a component is made of, found by its structure: its blocks, their width, whether it looks ahead.

Models of transformers need no help; of any other module the user names what cannot be found.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from factotum.core.checks import UserError

NAMES = ("layers", "layer", "h", "blocks", "block", "resblocks")
"""What lists of blocks are called."""

PREFIXES = ("cls_token", "class_embedding", "distillation_token", "register_tokens", "reg_token")
"""Parameters that stand in front of an image's patches."""


def find_blocks(name: str, module: nn.Module, given: str | None) -> tuple[str, list[nn.Module]]:
    """The dotted name of the list of blocks, and the blocks.

    Args:
        name: of the component, for errors.
        given: the dotted name, where the user said it.

    Raises:
        UserError: no such attribute, no list, or several and none named.

    >>> find_blocks("action", nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 3), None)[0]
    'layers'
    """
    if given is not None:
        return given, _named_blocks(name, module, given)
    lists = [path for path, found in _outermost_lists(module) if path.rpartition(".")[2] in NAMES] or [
        path for path, _ in _outermost_lists(module)
    ]
    if len(lists) == 1:
        return lists[0], _named_blocks(name, module, lists[0])
    if not lists:
        raise UserError(
            f"component {name!r}: found no list of blocks in {type(module).__name__}: name it, "
            "for instance Component(..., blocks='encoder.blocks')"
        )
    raise UserError(
        f"component {name!r}: found several lists of blocks in {type(module).__name__}, {', '.join(lists)}: "
        f"name one, for instance Component(..., blocks={lists[0]!r})"
    )


def _named_blocks(name: str, module: nn.Module, path: str) -> list[nn.Module]:
    try:
        found = module.get_submodule(path)
    except AttributeError as error:
        raise UserError(
            f"component {name!r}: {type(module).__name__} has no {path!r} to find blocks in"
        ) from error
    blocks = list(found.children()) if isinstance(found, nn.ModuleList | nn.Sequential) else []
    if not blocks:
        raise UserError(
            f"component {name!r}: expected a list of blocks at {path!r}, got {type(found).__name__}"
        )
    return blocks


def _outermost_lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Lists of modules of one class that lie in no other list."""
    for key, child in module.named_children():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(child, nn.ModuleList | nn.Sequential) and _uniform(child):
            yield here, child
        else:
            yield from _outermost_lists(child, here)


def _uniform(modules: nn.Module) -> bool:
    children = list(modules.children())
    same = len({type(child) for child in children}) == 1
    return same and next(children[0].parameters(), None) is not None


def find_width(name: str, blocks: list[nn.Module], given: int | None) -> int:
    """D_m, the width of the residual stream: that of the outermost normalisation of a block.

    Raises:
        UserError: a block without one, and none given.
    """
    if given is not None:
        return given
    level = [blocks[0]]
    while level:
        for module in level:
            weight = getattr(module, "weight", None)
            if "norm" in type(module).__name__.lower() and weight is not None and weight.dim() == 1:
                return len(weight)
        level = [child for module in level for child in module.children()]
    raise UserError(
        f"component {name!r}: found no normalisation in {type(blocks[0]).__name__} that tells the width: "
        "say it, Component(..., width=...)"
    )


def find_bidirectional(
    name: str, module: nn.Module, path: str, blocks: list[nn.Module], given: bool | None
) -> bool:
    """Whether an element sees later ones of its own row inside the component, as in encoders.

    transformers' attentions say whether they are causal; text towers (CLIP, SigLIP) do not: some are made causal
    by a mask.

    Raises:
        UserError: it cannot be told and the user did not say.
    """
    if given is not None:
        return given
    said = [
        part.is_causal for part in blocks[0].modules() if isinstance(getattr(part, "is_causal", None), bool)
    ]
    if any(said) or any(word in type(module).__name__ for word in ("CausalLM", "LMHead")):
        return False
    names = f"{type(module).__name__} {type(blocks[0]).__name__} {path}".lower()
    if said and "text" not in names:
        return True
    raise UserError(
        f"component {name!r}: cannot tell whether {type(module).__name__} looks ahead (an encoder) or not (a "
        "decoder): say it, Component(..., bidirectional=True) or False"
    )


def find_skip(module: nn.Module, path: str, given: int | None) -> int:
    """How many positions stand in front of an image's patches: class token, registers.

    >>> find_skip(nn.Linear(2, 2), "", None)
    0
    """
    if given is not None:
        return given
    around = path.split(".")[0]
    names = [n for n, _ in module.named_parameters() if n.rpartition(".")[2] in PREFIXES]
    near = [n for n in names if n.startswith(f"{around}.")] or [
        n for n in names if n.split(".")[0] == "embeddings" or "." not in n
    ]
    counts = []
    for parameter_name in near:
        parameter = module.get_parameter(parameter_name)
        counts.append(parameter.shape[-2] if parameter.dim() > 1 else 1)
    return sum(counts)
