"""Rows: a key of a YAML mapping is one field of a dataclass, with all that is known about it.

    @yaml_mapping
    class Machine:
        memory_mib: int = key(WholeNumber(doc="Memory in MiB.", least=32, most=4096), default=128)

From that row come the attribute of the value, the check of what is written, its place in the JSON
Schema and its line in the reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform, overload

from yaml.nodes import MappingNode, Node

from pytest_kernelvm.config.typed_yaml.expected import Context, Expected
from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes, none_of
from pytest_kernelvm.config.typed_yaml.nodes import pairs

S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# What is written in a mapping, by key.
Written = Mapping[str, Any]

_ROW = "row"
_GIVEN = "given"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One key of a mapping.

    Attributes:
        key: The key as it is written.
        field: The attribute that gets the value.
        expected: Its type and check.
        convert: Makes the attribute from the value that was read and the context; None if the
            attribute is that value.
        default: The attribute's default, MISSING if it has none.
        default_from: Makes the default from all that is written in the mapping and the context;
            None if it does not depend on them.
        default_text: The default as a user would write it or say it, empty if it goes without
            saying.
        beside: Another key that must be there if this one is, empty for none.
    """

    key: str = ""
    field: str = ""
    expected: Expected[Any]
    convert: Callable[[Any, Any], Any] | None
    default: Any
    default_from: Callable[[Written, Any], Any] | None
    default_text: str
    beside: str

    @property
    def required(self) -> bool:
        """Whether the key must be there."""
        return self.default is MISSING and self.default_from is None

    @property
    def doc(self) -> str:
        """What the key is, and its default."""
        if not self.default_text:
            return self.expected.doc
        return f"{self.expected.doc} Default: {self.default_text}."

    def value(self, written: Any, context: Context) -> Any:
        """Return the attribute for what is written.

        Args:
            written: What `expected.read` returned.
            context: What the value depends on besides.
        """
        value = self.expected.value(written, context)
        return self.convert(value, context) if self.convert else value


@overload
def key(
    expected: Expected[T],
    *,
    default: T = ...,
    default_from: Callable[[Written, Any], T] = ...,
    default_text: str = ...,
    name: str = ...,
    beside: str = ...,
) -> T: ...


@overload
def key(
    expected: Expected[S],
    *,
    convert: Callable[[S, Any], T],
    default: T = ...,
    default_from: Callable[[Written, Any], T] = ...,
    default_text: str = ...,
    name: str = ...,
    beside: str = ...,
) -> T: ...


def key(
    expected: Expected[Any],
    *,
    convert: Callable[[Any, Any], Any] | None = None,
    default: Any = MISSING,
    default_from: Callable[[Written, Any], Any] | None = None,
    default_text: str | None = None,
    name: str = "",
    beside: str = "",
) -> Any:
    """Declare a field that is a key of a YAML mapping.

    The field is required if it has neither `default` nor `default_from`.

    Args:
        expected: Its type and check.
        convert: As in Row.
        default: As in Row.
        default_from: As in Row.
        default_text: As in Row; None for `default` as YAML spells it.
        name: The key, if it is not the field's name.
        beside: As in Row.

    Returns:
        What `dataclasses.field` returns; type checkers take it for the field's value.
    """
    row = Row(
        key=name,
        expected=expected,
        convert=convert,
        default=default,
        default_from=default_from,
        default_text=_in_yaml(default) if default_text is None else default_text,
        beside=beside,
    )
    return dataclasses.field(default=default, metadata={_ROW: row})


def _in_yaml(default: Any) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, (int, float)):
        return f"{default:g}"
    return default if isinstance(default, str) else ""


def given(source: Callable[[Written, Any], T], *, default: T | Any = MISSING) -> T:
    """Declare a field that is no key.

    Args:
        source: Makes the attribute from all that is written in the mapping, and the context.
        default: For values that code makes and not a file.

    Returns:
        What `dataclasses.field` returns.
    """
    field: T = dataclasses.field(default=default, metadata={_GIVEN: source})
    return field


@cache
def rows_of(cls: type[Any]) -> Mapping[str, Row]:
    """Return the rows of a class by key, in the order of its fields."""
    found = {}
    for field in dataclasses.fields(cls):
        row = field.metadata.get(_ROW)
        if row:
            named = dataclasses.replace(row, key=row.key or field.name, field=field.name)
            found[named.key] = named
    return found


def _given_fields(cls: type[Any]) -> Iterator[tuple[str, Callable[[Written, Any], Any]]]:
    for field in dataclasses.fields(cls):
        if source := field.metadata.get(_GIVEN):
            yield field.name, source


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Expected[T_co]):
    """A mapping with known keys, which becomes a value of a class.

    Attributes:
        cls: The class; its rows are the keys.
        one_of: Keys of which exactly one must be there, empty if there is no such rule.
        bare: The key whose value may be written instead of the whole mapping, empty for none.
        bare_as: What may be written instead, None for the same as behind the key.
        check: Called with each new value, what is written for it, and the context; raises BadInput
            for what cannot be.
    """

    cls: type[T_co]
    one_of: tuple[str, ...] = ()
    bare: str = ""
    bare_as: Expected[Any] | None = None
    check: Callable[[Any, Written, Any], None] | None = None

    @property
    def rows(self) -> Mapping[str, Row]:
        """Its rows, by key."""
        # mypy takes the method __hash__ of instances for that of the class.
        return rows_of(self.cls)  # type: ignore[arg-type]

    @property
    def scalar(self) -> Expected[Any] | None:
        """What may be written instead of the mapping, None if nothing may."""
        if not self.bare:
            return None
        return self.bare_as or self.rows[self.bare].expected

    def read(self, node: Node, mistakes: Mistakes) -> Written:
        """Return what is written, by key."""
        if self.scalar and not isinstance(node, MappingNode):
            return {self.bare: self.scalar.read(node, mistakes)}
        written: dict[str, Any] = {}
        for found, value in pairs(node, mistakes):
            row = self.rows.get(str(found.value))
            if row:
                written[row.key] = row.expected.read(value, mistakes)
            else:
                mistakes.add(found, f"unknown key {none_of(str(found.value), self.rows)}")
        if isinstance(node, MappingNode):
            for fault in self._faults(written):
                mistakes.add(node, fault)
        return written

    def _faults(self, written: Written) -> Iterator[str]:
        for row in self.rows.values():
            if row.required and row.key not in written:
                yield f"the key {row.key!r} is missing here"
        if self.one_of and len(written.keys() & set(self.one_of)) != 1:
            yield f"expected exactly one of: {', '.join(self.one_of)}"
        for row in self.rows.values():
            if row.beside and row.key in written and row.beside not in written:
                yield f"{row.key!r} says more about {row.beside!r}, which is not here"

    def value(self, written: Any, context: Context) -> T_co:
        """Return the value of the class.

        BadInput is raised if a row's `convert`, the class or `check` refuses what is written.

        Args:
            written: What `read` returned, without mistakes.
            context: What the value depends on besides.
        """
        values: dict[str, Any] = {}
        for row in self.rows.values():
            if row.key in written:
                values[row.field] = row.value(written[row.key], context)
            elif row.default_from:
                values[row.field] = row.default_from(written, context)
        for field, source in _given_fields(self.cls):
            values[field] = source(written, context)
        value = self.cls(**values)
        if self.check:
            self.check(value, written, context)
        return value

    def value_of(self, key: str, written: Written, context: Context) -> Any:
        """Return the attribute of one key alone.

        Args:
            key: A key whose row has a default.
            written: What `read` returned for the mapping.
            context: What the value depends on besides.
        """
        row = self.rows[key]
        return row.value(written[key], context) if key in written else row.default

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        mapping: dict[str, Any] = {
            "description": self.doc,
            "type": "object",
            "additionalProperties": False,
            "properties": {
                row.key: {**row.expected.schema(), "description": row.doc}
                for row in self.rows.values()
            },
        }
        if required := [row.key for row in self.rows.values() if row.required]:
            mapping["required"] = required
        if self.one_of:
            mapping["oneOf"] = [{"required": [name]} for name in self.one_of]
        if beside := {row.key: [row.beside] for row in self.rows.values() if row.beside}:
            mapping["dependentRequired"] = beside
        return {"anyOf": [self.scalar.schema(), mapping]} if self.scalar else mapping

    def summary(self) -> str:
        """Return that it is a mapping, and what may be written instead."""
        return f"{self.scalar.summary()}, or a mapping" if self.scalar else "a mapping"

    def parts(self) -> Iterator[tuple[str, Expected[Any]]]:
        """Yield what is expected behind each key."""
        for row in self.rows.values():
            yield f".{row.key}", row.expected


def section(cls: type[T], doc: str) -> T:
    """Declare a field that is a mapping; without it, all its keys have their defaults.

    Args:
        cls: The class of its value; none of its keys is required.
        doc: One line of documentation for users.

    Returns:
        What `dataclasses.field` returns.
    """
    record = Record(cls=cls, doc=doc)
    return key(record, default_from=lambda _written, context: record.value({}, context))


def place_of(name: str, *, default: str | Any = MISSING) -> str:
    """Declare a field that is the place of another key's value.

    Args:
        name: A key that is read with its place (TextWithPlace).
        default: For values that code makes and not a file.

    Returns:
        What `dataclasses.field` returns.
    """
    place: str = given(lambda written, _context: str(written[name].place), default=default)
    return place


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(key, given, place_of, section)
)
def yaml_mapping(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are keys of a YAML mapping."""
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)
