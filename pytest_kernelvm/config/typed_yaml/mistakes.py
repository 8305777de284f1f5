"""What is wrong with a YAML file, with file, line and column."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pytest_kernelvm.errors import BadInput, Evidence

# Longer texts are cut in messages.
MOST_SHOWN = 200
# One screen of mistakes; who has more has begun with the wrong file.
MOST_MISTAKES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where something stands in a user's file.

    Attributes:
        file: The file, as the user named it.
        line: Counted from 1.
        column: Counted from 1.
    """

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Mistakes:
    """What is wrong with one file, collected so that all of it is reported at once.

    Attributes:
        file: The file that is read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: list[str] = []

    def place(self, node: Node) -> Place:
        """Return where a node begins.

        Args:
            node: One of this file.
        """
        mark = node.start_mark
        return Place(file=self.file, line=mark.line + 1, column=mark.column + 1)

    def add(self, node: Node, text: str) -> None:
        """Note one mistake.

        Args:
            node: Where it is.
            text: What was expected, and what is there.
        """
        self._found.append(f"{self.place(node)}: {text}")

    def _shown(self) -> list[str]:
        if len(self._found) <= MOST_MISTAKES:
            return self._found
        return [*self._found[:MOST_MISTAKES], f"and {len(self._found) - MOST_MISTAKES} more"]

    def raise_if_any(self) -> None:
        """Report the mistakes that were noted.

        Raises:
            BadInput: There are mistakes; the error shows up to MOST_MISTAKES of them.
        """
        if self._found:
            count = len(self._found)
            raise BadInput(
                f"{self.file.name} has {count} mistake{'s' if count > 1 else ''}",
                Evidence(
                    excerpt="\n".join(self._shown()),
                    next_step="`kernelvm schema` prints all that such a file may contain",
                ),
            )


def shown(node: Node) -> str:
    """Return what a message says about a node: its text in quotes, or what else it is.

    Args:
        node: A scalar, list or mapping.
    """
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    assert isinstance(node, ScalarNode)
    return quoted(str(node.value)) if node.value else "nothing"


def quoted(text: str) -> str:
    """Return a text in quotes; of a long one only the beginning and its length."""
    if len(text) > MOST_SHOWN:
        return f"{text[:MOST_SHOWN]!r}… ({len(text)} characters)"
    return repr(text)


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """Return the question whether another name was meant.

    Args:
        name: What the user wrote.
        known: The names that would have been right.
        show: How the name stands in the question, in quotes by default.

    Returns:
        `did you mean 'x'?`, or nothing if no known name is similar.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {show(near[0])}?" if near else ""


def none_of(text: str, known: Collection[str]) -> str:
    """Return what a message says about a text that is not allowed.

    Args:
        text: What the user wrote.
        known: What is allowed.

    Returns:
        The text, the one that was perhaps meant, and all that are allowed.
    """
    near = did_you_mean(text, known)
    return f"{quoted(text)}: {near and near + ' '}allowed: {', '.join(known)}"
