"""Frozen dataclasses to JSON and back, strict about unknown and missing keys."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from factotum.core.checks import UserError

Config = TypeVar("Config")


def to_json_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values.

    A field with `metadata={"added": True}` is left out while it has its default, so that what was stored before there
    was the field stays equal to what is stored now.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Size:
    ...     width: int = 8
    >>> to_json_dict(Size())
    {'width': 8}
    """
    added = {field.name: field.default for field in dataclasses.fields(config) if "added" in field.metadata}
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in added or value != added[name]}


def from_json_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    """Build `cls` from what `to_json_dict` gave; nested dataclasses and tuples come back as such.

    Raises:
        UserError: unknown or missing keys, all named.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"expected a dataclass, got {cls}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(name for name, field in fields.items() if name not in values and _required(field))
    if unknown or missing:
        raise UserError(f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}")
    hints = typing.get_type_hints(cls)
    return typing.cast(Config, cls(**{name: _build(hints[name], value) for name, value in values.items()}))


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _build(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return value if value is None or len(options) != 1 else _build(options[0], value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_json_dict(hint, value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        return tuple(_build(inner[0], item) for item in value) if inner[1:] == (...,) else tuple(value)
    return value
