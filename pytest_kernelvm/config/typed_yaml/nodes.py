"""YAML files as trees of nodes, with limits so that a hostile file costs little time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes, Place, quoted, shown
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import read_regular

# The largest vm-config that we know has 5 KB, 150 values and 6 levels.
MOST_BYTES = 256 << 10
MOST_NODES = 6_000
MOST_DEPTH = 32
# The types that YAML itself gives to values; such a tag changes nothing.
_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)


def pairs(node: Node, mistakes: Mistakes) -> list[tuple[ScalarNode, Node]]:
    """Return the keys of a mapping with their values, in the order of the file.

    Args:
        node: What should be a mapping.
        mistakes: Gets what is wrong: no mapping, a key that is no text, a key that is there twice.
    """
    if not isinstance(node, MappingNode):
        mistakes.add(node, f"expected a mapping, not {shown(node)}")
        return []
    first: dict[str, Place] = {}
    found = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            mistakes.add(key, f"a key must be a text, not {shown(key)}")
            continue
        name = str(key.value)
        if name in first:
            mistakes.add(
                key, f"the key {quoted(name)} stands here already, in line {first[name].line}"
            )
            continue
        first[name] = mistakes.place(key)
        found.append((key, value))
    return found


def compose(file: Path) -> Node:
    """Return the root node of a YAML file.

    Raises:
        BadInput: The file can't be read, is empty, isn't one YAML document, or is larger, deeper
            or has more values than anybody writes by hand (MOST_BYTES, MOST_DEPTH, MOST_NODES).
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
            f"{self._file.name} is refused",
            Evidence(
                expected=expected,
                seen=seen,
                where=(f"{self._file}:{mark.line + 1}:{mark.column + 1}",),
            ),
        )
