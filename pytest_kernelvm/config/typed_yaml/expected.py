"""What a place in a YAML file may hold: read, checked, described.

A value's type is decided by what is expected at its place and never by YAML's own guesses:
`version: 6.10` stays the text `6.10`, and `on` is no boolean.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from yaml.nodes import Node, ScalarNode, SequenceNode

from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes, Place, none_of, shown
from pytest_kernelvm.config.typed_yaml.nodes import pairs

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# An escape in double quotes makes these; no name, path or option has them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What values depend on besides what is written at their place.

    file: the YAML file. names: the keys, invented by the user, of the mappings around the place.
    """

    file: Path
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key of the innermost mapping whose keys the user invents."""
        return self.names[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected(abc.ABC, Generic[T_co]):
    """What a place in a file may hold, and which value it stands for.

    doc: one line of documentation.
    """

    doc: str

    @abc.abstractmethod
    def read(self, node: Node, mistakes: Mistakes) -> Any:
        """Return what is written at a node; what does not fit is noted in `mistakes`."""

    def value(self, written: Any, _context: Context) -> T_co:
        """Return the value that something written stands for, which `read` found no fault with."""
        found: T_co = written
        return found

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of this place."""

    @abc.abstractmethod
    def summary(self) -> str:
        """Return in a few words what this place may hold."""

    def parts(self) -> Iterator[tuple[str, Expected[Any]]]:
        """Yield what is expected further inside, and how a path to it goes on."""
        yield from ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Expected[str]):
    """A scalar kept as the text that stands there.

    allowed: the only values, if not empty. pattern: what the whole text must match.
    shape: the pattern in words.
    """

    allowed: tuple[str, ...] = ()
    pattern: str = ""
    shape: str = ""

    def read(self, node: Node, mistakes: Mistakes) -> str:
        """Return the text."""
        if not isinstance(node, ScalarNode):
            mistakes.add(node, f"expected a text, not {shown(node)}")
            return ""
        text = str(node.value)
        if _CONTROL.search(text):
            mistakes.add(node, f"a control character in {shown(node)}")
        elif self.allowed and text not in self.allowed:
            mistakes.add(node, none_of(text, self.allowed))
        elif self.pattern and not re.fullmatch(self.pattern, text):
            mistakes.add(node, f"expected {self.shape}, not {shown(node)}")
        return text

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema; YAML editors see `6.1` as a number, so that is allowed too."""
        if self.allowed:
            return {"description": self.doc, "enum": list(self.allowed)}
        found: dict[str, Any] = {"description": self.doc, "type": ["string", "number", "boolean"]}
        if self.pattern:
            found["pattern"] = f"^(?:{self.pattern})$"
        return found

    def summary(self) -> str:
        """Return the allowed values, or the shape."""
        return ", ".join(f"`{each}`" for each in self.allowed) or self.shape or "a text"


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A text, where it stands, and whether in quotes."""

    text: str
    place: Place
    quoted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWithPlace(Expected[PlacedText]):
    """A text whose place is remembered, for mistakes that are found later."""

    text: Text

    def read(self, node: Node, mistakes: Mistakes) -> PlacedText:
        """Return the text with its place."""
        return PlacedText(self.text.read(node, mistakes), mistakes.place(node), _in_quotes(node))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return self.text.schema()

    def summary(self) -> str:
        """Return what the text may be."""
        return self.text.summary()


def placed(
    doc: str, *, allowed: tuple[str, ...] = (), pattern: str = "", shape: str = ""
) -> TextWithPlace:
    """Return the expectation of a text whose place is remembered; see Text."""
    return TextWithPlace(doc=doc, text=Text(doc=doc, allowed=allowed, pattern=pattern, shape=shape))


def _in_quotes(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style in ("'", '"')


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeNumber(Expected[int]):
    """A whole number between two bounds, which it may equal."""

    least: int
    most: int

    def read(self, node: Node, mistakes: Mistakes) -> int:
        """Return the number."""
        return _number(node, int, "a whole number", self.least, self.most, mistakes)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return _number_schema(self.doc, "integer", self.least, self.most)

    def summary(self) -> str:
        """Return the bounds."""
        return _range("a whole number", self.least, self.most)


@dataclass(frozen=True, kw_only=True, slots=True)
class Number(Expected[float]):
    """A number between two bounds, which it may equal."""

    least: float
    most: float

    def read(self, node: Node, mistakes: Mistakes) -> float:
        """Return the number."""
        return _number(node, float, "a number", self.least, self.most, mistakes)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return _number_schema(self.doc, "number", self.least, self.most)

    def summary(self) -> str:
        """Return the bounds."""
        return _range("a number", self.least, self.most)


N = TypeVar("N", int, float)


def _number(
    node: Node, parse: Callable[[str], N], kind: str, least: N, most: N, mistakes: Mistakes
) -> N:
    try:
        if not isinstance(node, ScalarNode) or _in_quotes(node):
            raise ValueError
        value = parse(node.value)
        if math.isnan(value) or not least <= value <= most:
            raise ValueError
    except ValueError:
        mistakes.add(node, f"expected {_range(kind, least, most)}, not {shown(node)}")
        return least
    return value


def _range(kind: str, least: float, most: float) -> str:
    return f"{kind} from {least} to {most}"


def _number_schema(doc: str, kind: str, least: float, most: float) -> dict[str, Any]:
    return {"description": doc, "type": kind, "minimum": least, "maximum": most}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag(Expected[bool]):
    """true or false, in these words alone."""

    def read(self, node: Node, mistakes: Mistakes) -> bool:
        """Return the truth value."""
        if not isinstance(node, ScalarNode) or node.value not in ("true", "false"):
            mistakes.add(node, f"expected true or false, not {shown(node)}")
            return False
        return bool(node.value == "true")

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"description": self.doc, "type": "boolean"}

    def summary(self) -> str:
        """Return the two words."""
        return "`true`, `false`"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOf(Expected[tuple[T_co, ...]]):
    """A list of like values.

    one: what may stand there instead of a list, for a list of one; None if nothing may.
    chosen: whether an item counts, by what is written and the context; None if all do.
    """

    item: Expected[T_co]
    one: Expected[T_co] | None = None
    chosen: Callable[[Any, Any], bool] | None = None

    def read(self, node: Node, mistakes: Mistakes) -> tuple[Any, ...]:
        """Return what is written for each item."""
        if isinstance(node, SequenceNode):
            return tuple(self.item.read(child, mistakes) for child in node.value)
        if self.one:
            return (self.one.read(node, mistakes),)
        mistakes.add(node, f"expected a list, not {shown(node)}")
        return ()

    def value(self, written: Any, context: Context) -> tuple[T_co, ...]:
        """Return the items' values."""
        counting = (each for each in written if not self.chosen or self.chosen(each, context))
        return tuple(self.item.value(each, context) for each in counting)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        many = {"description": self.doc, "type": "array", "items": self.item.schema()}
        return {"anyOf": [many, self.one.schema()]} if self.one else many

    def summary(self) -> str:
        """Return what a list has, and what may stand instead."""
        item = self.item.summary()
        if self.one == self.item:
            return f"{item}; or a list of these"
        return f"{self.one.summary()}; or a list of: {item}" if self.one else f"a list of: {item}"

    def parts(self) -> Iterator[tuple[str, Expected[Any]]]:
        """Yield the item."""
        yield "[]", self.item


@dataclass(frozen=True, kw_only=True, slots=True)
class MapOf(Expected[dict[str, T]]):
    """A mapping from names that the user invents to like values.

    placeholder: what stands for such a name in documentation.
    """

    key: Text
    item: Expected[T]
    placeholder: str

    def read(self, node: Node, mistakes: Mistakes) -> dict[str, Any]:
        """Return what is written for each name."""
        return {
            self.key.read(key, mistakes): self.item.read(value, mistakes)
            for key, value in pairs(node, mistakes)
        }

    def value(self, written: Any, context: Context) -> dict[str, T]:
        """Return the values by name; each one's context has its name."""
        return {
            name: self.item.value(each, replace(context, names=(*context.names, name)))
            for name, each in written.items()
        }

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {
            "description": self.doc,
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key.pattern})$"},
            "additionalProperties": self.item.schema(),
        }

    def summary(self) -> str:
        """Return what may stand behind each name."""
        return f"for each `{self.placeholder}` ({self.key.shape}): {self.item.summary()}"

    def parts(self) -> Iterator[tuple[str, Expected[Any]]]:
        """Yield the item."""
        yield f".{self.placeholder}", self.item
