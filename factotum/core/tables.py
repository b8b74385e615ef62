"""Tables of a file to dataclasses; wrong fields are named, with what was expected and what came."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from factotum.core.checks import UserError, unknown


def read_table(cls: Any, values: Any, where: str = "") -> Any:
    """A dataclass from a table of a file; types are checked, nested tables too.

    Raises:
        UserError: unknown, missing or wrong fields, by their dotted name.

    >>> @dataclasses.dataclass
    ... class Join:
    ...     layers: int = 4
    >>> read_table(Join, {"layers": 6}, "join").layers
    6
    >>> read_table(Join, {"layers": "six"}, "join")
    Traceback (most recent call last):
    factotum.core.checks.UserError: join.layers: expected a whole number, got 'six'
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a table, got {values!r}")
    fields, hints = {f.name: f for f in dataclasses.fields(cls)}, typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise unknown(
                "field", f"{where}.{name}".lstrip("."), [f"{where}.{f}".lstrip(".") for f in fields]
            )
    for name, one in fields.items():
        if name not in values and one.default is one.default_factory is dataclasses.MISSING:
            raise UserError(f"expected a field {f'{where}.{name}'.lstrip('.')!r}, found none")
    read = {name: _value(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()}
    try:
        return cls(**read)
    except UserError as error:
        raise UserError(f"{where}.{error}" if where else str(error)) from error


_SIMPLE = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _value(inner[0], value, where)
    if dataclasses.is_dataclass(hint):
        return read_table(hint, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a table, got {value!r}")
        return {name: _value(inner[1], one, f"{where}.{name}") for name, one in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, got {value!r}")
        return tuple(_value(inner[0], one, f"{where}[{place}]") for place, one in enumerate(value))
    if origin is Literal:
        if value not in inner:
            raise UserError(f"{where}: expected one of {', '.join(map(str, inner))}, got {value!r}")
        return value
    fits = isinstance(value, (int, float) if hint is float else hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {_SIMPLE[hint]}, got {value!r}")
    return float(value) if hint is float else value
