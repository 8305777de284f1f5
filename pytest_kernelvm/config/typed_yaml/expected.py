"""What a place in a YAML file may hold: read, checked, described.

A value's type is decided by what is expected at its place and never by YAML's own guesses:
`version: 6.10` stays the text `6.10`, and `on` is no boolean.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from yaml.nodes import Node, ScalarNode, SequenceNode

from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes, Place, none_of, shown
from pytest_kernelvm.config.typed_yaml.nodes import pairs

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Escapes in double quotes can make these characters; no name, path or option has them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What values depend on besides what is written at their place.

    Attributes:
        file: The YAML file.
        names: The names that the user chose for the mappings around the place, the outermost
            first: for a parameter of a service, the service's name and the parameter's.
    """

    file: Path
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The innermost of the names."""
        return self.names[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected(abc.ABC, Generic[T_co]):
    """What a place in a file may hold, and which value it stands for.

    Reading has two steps: `read` checks the whole file and collects all mistakes; only then does
    `value` make values, which may look at other files and depends on the kernel's version.

    Attributes:
        doc: One line of documentation for users.
    """

    doc: str

    @abc.abstractmethod
    def read(self, node: Node, mistakes: Mistakes) -> Any:
        """Return what is written at a node.

        Args:
            node: The place in the file.
            mistakes: Gets what does not fit. If it gets anything, the result means nothing.
        """

    def value(self, written: Any, _context: Context) -> T_co:
        """Return the value for what is written.

        Args:
            written: What `read` returned, without mistakes.
        """
        found: T_co = written
        return found

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of this place."""

    @abc.abstractmethod
    def summary(self) -> str:
        """Return in a few words what this place may hold."""

    def parts(self) -> Iterator[tuple[str, Expected[Any]]]:
        """Yield what is expected inside, each with what is added to the path of this place."""
        yield from ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Expected[str]):
    """A scalar, taken as the text that is written there.

    Attributes:
        allowed: The only values, if not empty.
        pattern: A regular expression that the whole text must match, empty for any text.
        shape: The pattern in words, for messages and documentation.
    """

    allowed: Collection[str] = ()
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
        """Return the JSON Schema; it allows numbers too, since editors take `6.1` for one."""
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
    """A text and its place.

    Attributes:
        text: The text without quotes.
        place: Where it begins.
        quoted: Whether it is written in quotes.
    """

    text: str
    place: Place
    quoted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWithPlace(Expected[PlacedText]):
    """A text whose place is remembered, for mistakes that are found later.

    Attributes:
        text: What the text may be.
    """

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
    doc: str, *, allowed: Collection[str] = (), pattern: str = "", shape: str = ""
) -> TextWithPlace:
    """Return what expects a text and remembers its place.

    Args:
        doc: One line of documentation for users.
        allowed: As in Text.
        pattern: As in Text.
        shape: As in Text.
    """
    return TextWithPlace(doc=doc, text=Text(doc=doc, allowed=allowed, pattern=pattern, shape=shape))


def _in_quotes(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style in ("'", '"')


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeNumber(Expected[int]):
    """A whole number.

    Attributes:
        least: The least number that is allowed.
        most: The greatest.
    """

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
    """A number, perhaps with a decimal fraction.

    Attributes:
        least: The least number that is allowed.
        most: The greatest.
    """

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
    """`true` or `false`, and no other word for them."""

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
    """A list of values of one kind.

    Attributes:
        item: What each item may be.
        one: What may be written instead of a list that has one item, None if that is not allowed.
        chosen: Called with what is written for an item, and the context; returns whether the item
            is used. None if all are.
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
    """A mapping from names that the user chooses to values of one kind.

    Attributes:
        key: What a name may be.
        item: What each value may be.
        placeholder: The word for such a name in documentation, in capitals.
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
