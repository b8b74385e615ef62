"""A file's tables become dataclasses, or one line says which field is wrong."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from factotum.core.checks import UserError
from factotum.core.tables import read_table


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"
    rate: float = 1.0
    on: bool | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size: expected 1 or more, got {self.size}")


@dataclass(frozen=True)
class Outer:
    parts: dict[str, Inner]
    names: tuple[str, ...] = ()
    one: Inner = field(default_factory=lambda: Inner(3))


def test_nested_tables():
    values = {
        "parts": {"x": {"size": 2, "rate": 3, "on": True}},
        "names": ["p"],
        "one": {"size": 1, "kind": "b"},
    }
    assert read_table(Outer, values) == Outer({"x": Inner(2, "a", 3.0, True)}, ("p",), Inner(1, "b"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected a field 'parts', found none"),
        ({"parts": 3}, "parts: expected a table, got 3"),
        ({"parts": {"x": 3}}, "parts.x: expected a table, got 3"),
        ({"parts": {"x": {}}}, "expected a field 'parts.x.size', found none"),
        ({"parts": {"x": {"size": 0}}}, "parts.x.size: expected 1 or more, got 0"),
        ({"parts": {"x": {"size": 1.5}}}, "parts.x.size: expected a whole number, got 1.5"),
        ({"parts": {"x": {"size": True}}}, "parts.x.size: expected a whole number, got True"),
        ({"parts": {"x": {"size": 1, "rate": "fast"}}}, "parts.x.rate: expected a number, got 'fast'"),
        ({"parts": {"x": {"size": 1, "on": 1}}}, "parts.x.on: expected true or false, got 1"),
        ({"parts": {"x": {"size": 1, "kind": "c"}}}, "parts.x.kind: expected one of a, b, got 'c'"),
        (
            {"parts": {"x": {"size": 1, "knid": "a"}}},
            "unknown field 'parts.x.knid': did you mean parts.x.kind",
        ),
        ({"parts": {}, "names": "p"}, "names: expected a list, got 'p'"),
        ({"parts": {}, "names": ["p", 1]}, r"names\[1\]: expected text, got 1"),
    ],
)
def test_a_wrong_field_is_named(values, message):
    with pytest.raises(UserError, match=message):
        read_table(Outer, values)
