"""What the documentation shows as to be typed: fenced blocks, as commands, files and examples.

How a page marks its blocks:

    ```sh                           commands; those of `console` have `$ ` before them, and below
    ```console                      them what they print, where `...` stands for anything
    ```python title="test_it.py"    a file, of any language, which the reader writes
    ```python                       an example: tests that pass by themselves
    <!-- status: 1 -->              with what the next block's last command ends
    <!-- not run: REASON -->        the next block is not run, and why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
COMMANDS = ("sh", "console")
# The pages that are followed by hand, in the order in which they are read.
FOLLOWED = (ROOT / "README.md", TUTORIAL, *sorted((DOCS / "how-to").glob("*.md")))
PAGES = (*FOLLOWED, *sorted({*DOCS.rglob("*.md")} - {*FOLLOWED}))
PROMPT = "$ "
CONTINUATION = "> "
ANYTHING = "..."

_FENCE = re.compile(r"( *)```(\w*)(?: +title=\"([^\"]+)\")? *\n(.*?)^\1``` *$", re.M | re.S)
_MARK = re.compile(r"<!-- (?P<kind>status|not run): (?P<words>.+?) -->\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    title: the file that the reader writes, else empty. status: of its last command.
    reason: why it is not run, else empty. line: where it begins in its page.
    """

    language: str
    title: str
    text: str
    status: int
    reason: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, the status that it must end with, and a pattern of what it must print."""

    command: str
    status: int
    printed: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    end = 0
    for found in _FENCE.finditer(page):
        mark = _MARK.search(page, end, found.start())
        kind, words = (mark["kind"], mark["words"]) if mark else ("", "")
        indent, language, title, text = found.groups()
        yield Block(
            language=language,
            title=title or "",
            text=re.sub(f"^{indent}", "", text, flags=re.M),
            status=int(words) if kind == "status" else 0,
            reason=words if kind == "not run" else "",
            line=page.count("\n", 0, found.start()) + 1,
        )
        end = found.end()


def steps(block: Block) -> list[Step]:
    """Return the commands of a block, each with what is shown below it."""
    if block.language == "sh":
        return [Step(command=block.text, status=block.status, printed="")]
    typed: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith(PROMPT):
            typed.append(([line.removeprefix(PROMPT)], []))
        elif line.startswith(CONTINUATION):
            typed[-1][0].append(line.removeprefix(CONTINUATION))
        else:
            typed[-1][1].append(line)
    last = len(typed) - 1
    return [
        Step(
            command="\n".join(command),
            status=block.status if number == last else 0,
            printed=pattern(shown) if shown else "",
        )
        for number, (command, shown) in enumerate(typed)
    ]


def pattern(shown: list[str]) -> str:
    """Return a pattern of the whole output that some lines show.

    A line that is `...` stands for any number of lines, `...` in a line for any text.
    """
    parts = [
        r"(?:.*\n)*?" if line.strip() == ANYTHING else _line_pattern(line) + r"[ \t]*\n"
        for line in shown
    ]
    return "".join(parts)


def _line_pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split(ANYTHING))
