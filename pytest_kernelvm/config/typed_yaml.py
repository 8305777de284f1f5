"""YAML read by what is expected at each place, so that every complaint has file, line and column.

A value's type is decided by the schema and never by YAML's own guesses: `version: 6.10` stays the
text `6.10`, `on` is no boolean, and a key given twice is an error.
"""

from __future__ import annotations

import abc
import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import read_regular

# The largest vm-config that we know has 5 KB, 150 values and 6 levels.
MOST_BYTES = 256 << 10
MOST_NODES = 6_000
MOST_DEPTH = 32
MOST_SHOWN = 200
# One screen of complaints; who has more has begun with the wrong file.
MOST_COMPLAINTS = 20
# An escape in double quotes makes these; no name, path or option has them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
# What each value says of itself anyhow.
_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where something stands in a user's file; lines and columns count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Complaints:
    """What is wrong with one file, collected so that all of it is reported at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: list[str] = []

    def place(self, node: Node) -> Place:
        """Return where a node begins."""
        mark = node.start_mark
        return Place(file=self.file, line=mark.line + 1, column=mark.column + 1)

    def add(self, node: Node, text: str) -> None:
        """Note one complaint about a node."""
        self._found.append(f"{self.place(node)}: {text}")

    def __len__(self) -> int:
        return len(self._found)

    def _shown(self) -> list[str]:
        if len(self._found) <= MOST_COMPLAINTS:
            return self._found
        return [*self._found[:MOST_COMPLAINTS], f"and {len(self._found) - MOST_COMPLAINTS} more"]

    def raise_if_any(self) -> None:
        """Raise BadInput with all complaints, if there are any."""
        if self._found:
            count = len(self._found)
            raise BadInput(
                f"{self.file.name} has {count} mistake{'s' if count > 1 else ''}",
                Evidence(
                    excerpt="\n".join(self._shown()),
                    next_step="`kernelvm schema` prints all that such a file may say",
                ),
            )


def _shown(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    assert isinstance(node, ScalarNode)
    return _quoted(str(node.value)) if node.value else "nothing"


def _quoted(text: str) -> str:
    if len(text) > MOST_SHOWN:
        return f"{text[:MOST_SHOWN]!r}… ({len(text)} characters)"
    return repr(text)


class Expected(abc.ABC):
    """What a place in a file may hold."""

    @abc.abstractmethod
    def read(self, node: Node, complaints: Complaints) -> Any:
        """Return the value of a node; what does not fit is noted in `complaints`."""

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of this place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Expected):
    """A scalar kept as the text that stands there.

    allowed: the only values, if not empty. pattern: what the whole text must match.
    shape: the pattern in words.
    """

    doc: str
    allowed: Collection[str] = ()
    pattern: str = ""
    shape: str = ""

    def read(self, node: Node, complaints: Complaints) -> str:
        """Return the text."""
        if not isinstance(node, ScalarNode):
            complaints.add(node, f"expected a text, not {_shown(node)}")
            return ""
        text = str(node.value)
        if _CONTROL.search(text):
            complaints.add(node, f"a control character in {_shown(node)}")
        elif self.allowed and text not in self.allowed:
            near = difflib.get_close_matches(text, self.allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            complaints.add(node, f"{_quoted(text)}: {hint}allowed: {', '.join(self.allowed)}")
        elif self.pattern and not re.fullmatch(self.pattern, text):
            complaints.add(node, f"expected {self.shape}, not {_shown(node)}")
        return text

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema; YAML editors see `6.1` as a number, so that is allowed too."""
        if self.allowed:
            return {"description": self.doc, "enum": list(self.allowed)}
        found: dict[str, Any] = {"description": self.doc, "type": ["string", "number", "boolean"]}
        if self.pattern:
            found["pattern"] = f"^(?:{self.pattern})$"
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Number(Expected):
    """A number between two bounds; `whole` ones are ints, others seconds as float."""

    doc: str
    least: float
    most: float
    whole: bool

    def read(self, node: Node, complaints: Complaints) -> float | int:
        """Return the number."""
        kind = "a whole number" if self.whole else "a number"
        try:
            if not isinstance(node, ScalarNode) or node.style in ("'", '"'):
                raise ValueError
            value = int(node.value, 10) if self.whole else float(node.value)
            if math.isnan(value) or not self.least <= value <= self.most:
                raise ValueError
        except ValueError:
            complaints.add(
                node, f"expected {kind} from {self.least:g} to {self.most:g}, not {_shown(node)}"
            )
            return self.least
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        kind = "integer" if self.whole else "number"
        return {
            "description": self.doc,
            "type": kind,
            "minimum": self.least,
            "maximum": self.most,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag(Expected):
    """true or false, in these words alone."""

    doc: str

    def read(self, node: Node, complaints: Complaints) -> bool:
        """Return the truth value."""
        if not isinstance(node, ScalarNode) or node.value not in ("true", "false"):
            complaints.add(node, f"expected true or false, not {_shown(node)}")
            return False
        return bool(node.value == "true")

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"description": self.doc, "type": "boolean"}


@dataclass(frozen=True, slots=True)
class Located:
    """A text and where it stands."""

    text: str
    place: Place
    quoted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed(Expected):
    """A text whose place is kept, for complaints that come later."""

    text: Text

    def read(self, node: Node, complaints: Complaints) -> Located:
        """Return the text with its place."""
        quoted = isinstance(node, ScalarNode) and node.style in ("'", '"')
        return Located(self.text.read(node, complaints), complaints.place(node), quoted)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return self.text.schema()


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOf(Expected):
    """A list of like values; `or_one` allows a single one without the brackets."""

    item: Expected
    doc: str
    or_one: bool = False

    def read(self, node: Node, complaints: Complaints) -> tuple[Any, ...]:
        """Return the values."""
        if isinstance(node, SequenceNode):
            return tuple(self.item.read(child, complaints) for child in node.value)
        if self.or_one and isinstance(node, ScalarNode):
            return (self.item.read(node, complaints),)
        complaints.add(node, f"expected a list, not {_shown(node)}")
        return ()

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        many = {"description": self.doc, "type": "array", "items": self.item.schema()}
        return {"anyOf": [many, self.item.schema()]} if self.or_one else many


@dataclass(frozen=True, kw_only=True, slots=True)
class ByShape(Expected):
    """A place that holds different things as a scalar, as a mapping and as a list.

    sequence: None where a list is not allowed.
    """

    scalar: Expected
    mapping: Expected
    sequence: Expected | None = None

    def read(self, node: Node, complaints: Complaints) -> Any:
        """Return what the expectation for this shape returns."""
        if isinstance(node, MappingNode):
            return self.mapping.read(node, complaints)
        if isinstance(node, SequenceNode) and self.sequence:
            return self.sequence.read(node, complaints)
        return self.scalar.read(node, complaints)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        shapes = [self.scalar, self.mapping, *([self.sequence] if self.sequence else [])]
        return {"anyOf": [shape.schema() for shape in shapes]}


@dataclass(frozen=True, kw_only=True, slots=True)
class MapOf(Expected):
    """A mapping from names that the user invents to like values."""

    key: Text
    value: Expected
    doc: str

    def read(self, node: Node, complaints: Complaints) -> dict[str, Any]:
        """Return the mapping."""
        return {
            self.key.read(key, complaints): self.value.read(value, complaints)
            for key, value in _pairs(node, complaints)
        }

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {
            "description": self.doc,
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key.pattern})$"},
            "additionalProperties": self.value.schema(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Expected):
    """A mapping with known keys.

    keys: what may stand in it. required: what must. one_of: keys of which exactly one must.
    along: keys that stand only beside another, each with that one.
    """

    keys: Mapping[str, Expected]
    doc: str
    required: Sequence[str] = field(default_factory=tuple)
    one_of: Sequence[str] = field(default_factory=tuple)
    along: Mapping[str, str] = field(default_factory=dict)

    def read(self, node: Node, complaints: Complaints) -> dict[str, Any]:
        """Return the values of the keys that are there."""
        found: dict[str, Any] = {}
        for key, value in _pairs(node, complaints):
            name = str(key.value)
            if name in self.keys:
                found[name] = self.keys[name].read(value, complaints)
            else:
                near = difflib.get_close_matches(name, self.keys, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                complaints.add(
                    key, f"unknown key {_quoted(name)}: {hint}allowed: {', '.join(self.keys)}"
                )
        if isinstance(node, MappingNode):
            for name in self.required:
                if name not in found:
                    complaints.add(node, f"the key {name!r} is missing here")
            if self.one_of and sum(name in found for name in self.one_of) != 1:
                complaints.add(node, f"expected exactly one of: {', '.join(self.one_of)}")
            for name, other in self.along.items():
                if name in found and other not in found:
                    complaints.add(node, f"{name!r} says more about {other!r}, which is not here")
        return found

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        found: dict[str, Any] = {
            "description": self.doc,
            "type": "object",
            "additionalProperties": False,
            "properties": {name: value.schema() for name, value in self.keys.items()},
        }
        if self.required:
            found["required"] = list(self.required)
        if self.one_of:
            found["oneOf"] = [{"required": [name]} for name in self.one_of]
        if self.along:
            found["dependentRequired"] = {name: [other] for name, other in self.along.items()}
        return found


def _pairs(node: Node, complaints: Complaints) -> list[tuple[ScalarNode, Node]]:
    if not isinstance(node, MappingNode):
        complaints.add(node, f"expected a mapping, not {_shown(node)}")
        return []
    first: dict[str, Place] = {}
    pairs = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            complaints.add(key, f"a key must be a text, not {_shown(key)}")
            continue
        name = str(key.value)
        if name in first:
            complaints.add(
                key, f"the key {_quoted(name)} stands here already, in line {first[name].line}"
            )
            continue
        first[name] = complaints.place(key)
        pairs.append((key, value))
    return pairs


def compose(file: Path) -> Node:
    """Return the root node of a YAML file.

    Raises BadInput if the file can't be read, isn't one YAML document, or is larger, deeper or has
    more in it than anybody writes by hand.
    """
    text = _text_of(file)
    try:
        root = _Composing(file, text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise BadInput(f"not YAML: {error.problem}", Evidence(where=(place,))) from None
    except ReaderError as error:
        place = _place_at(file, text, error.position)
        raise BadInput(f"not YAML: {error.reason}", Evidence(where=(place,))) from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"not YAML: {error}", Evidence(where=(str(file),))) from None
    if root is None:
        raise BadInput(f"{file} is empty", Evidence(where=(f"{file}:1:1",)))
    return root


def _text_of(file: Path) -> str:
    data = read_regular(file, MOST_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        place = _place_at(file, data[: error.start].decode(), error.start)
        raise BadInput(
            f"cannot read {file}: no UTF-8", Evidence(seen=str(error), where=(place,))
        ) from None


def _place_at(file: Path, text: str, position: int) -> str:
    before = text[:position]
    line = before.count("\n") + 1
    return f"{file}:{line}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"


class _Composing(yaml.SafeLoader):
    """Composes nodes as long as there are not too many; a deep text is not read to its end."""

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(text)
        self._file = file
        self._depth = 0
        # How many nodes there are in each one that has an anchor, for those that stand for it.
        self._sizes: dict[int, int] = {}
        self._count = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Return the next node, as the overridden one does."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!" and tag not in _TAGS:
            self._refuse(mark, f"the tag {tag[:60]!r}", "a file without tags")
        if self._depth >= MOST_DEPTH:
            self._refuse(mark, "deeper than that", f"at most {MOST_DEPTH} levels")
        anchor = event.anchor if isinstance(event, yaml.AliasEvent) else None
        if anchor is not None:
            self._check_alias(mark, anchor)
        before = self._count
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        # What stands for others is read as often as they are.
        self._count += self._sizes[id(node)] if anchor is not None else 1
        if self._count > MOST_NODES:
            self._refuse(mark, "more than that", f"at most {MOST_NODES:,} values")
        self._sizes.setdefault(id(node), self._count - before)
        return node

    def _check_alias(self, mark: Any, anchor: str) -> None:
        node = self.anchors.get(anchor)
        if node is not None and id(node) not in self._sizes:
            self._refuse(mark, f"*{anchor[:60]} stands for what it is part of", "no such circle")

    def _refuse(self, mark: Any, seen: str, expected: str) -> NoReturn:
        raise BadInput(
            f"{self._file.name} is nothing that is read here",
            Evidence(
                expected=expected,
                seen=seen,
                where=(f"{self._file}:{mark.line + 1}:{mark.column + 1}",),
            ),
        )
