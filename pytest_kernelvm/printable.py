"""Text from elsewhere made safe to show: nothing in it commands a terminal or is invisible.

A guest writes what it likes on its console, into its files and into the names of its files; so do
the compilers and scripts of a kernel tree. Data that programs read stay as they are; whatever
becomes words for people passes through here.
"""

from __future__ import annotations

import functools
import re

# A line that is longer is cut; more lines than these are left out in the middle.
LINE_CHARACTERS = 1000
EXCERPT_LINES = 400

_END_OF_LINE = re.compile(r"\r+\n")
_DOUBTFUL = re.compile(r"[^\x20-\x7e\n\t]+")


def printable(text: str | bytes | bytearray) -> str:
    r"""Return a text in which all that is not visible is spelled out: `\x1b[31m`, `\u202e`.

    Ends of lines become LF; LF and tabs stay. What Python does not call printable is spelled out:
    control and format characters (C0, C1, DEL, those that change the direction of text), lone
    surrogates, separators of lines, and what Unicode does not define.

    Args:
        text: Bytes are taken as UTF-8; those that are not UTF-8 are spelled out as well.
    """
    if not isinstance(text, str):
        text = text.decode(errors="surrogateescape")
    return _DOUBTFUL.sub(_escaped, _END_OF_LINE.sub("\n", text))


def printable_line(text: str | bytes) -> str:
    """Return a text as `printable` does, in one line of at most LINE_CHARACTERS.

    Args:
        text: From a guest, a file or a program; it may contain anything.
    """
    if not isinstance(text, str):
        text = text.decode(errors="surrogateescape")
    return printable(clipped(text)).replace("\n", "\\n")


def printable_excerpt(text: str) -> list[str]:
    """Return the lines of a text as `printable` does, cut where they are too long or too many.

    Args:
        text: From a guest, a file or a program; it may contain anything.
    """
    return [
        printable(clipped(line))
        for line in _without_middle(_END_OF_LINE.sub("\n", text).split("\n"))
    ]


def clipped(line: str, characters: int = LINE_CHARACTERS) -> str:
    """Return a line cut to a number of characters, with a note of how many were cut off.

    Args:
        line: The line.
        characters: How many are left at most.
    """
    beyond = len(line) - characters
    return f"{line[:characters]}… {beyond} more characters" if beyond > 0 else line


def _without_middle(lines: list[str]) -> list[str]:
    left_out = len(lines) - EXCERPT_LINES
    if left_out <= 0:
        return lines
    half = EXCERPT_LINES // 2
    return [*lines[:half], f"… {left_out} lines are left out …", *lines[-half:]]


def _escaped(found: re.Match[str]) -> str:
    return "".join(map(_escaped_character, found[0]))


@functools.lru_cache(maxsize=4096)
def _escaped_character(character: str) -> str:
    if character.isprintable():
        return character
    # A byte that is no UTF-8 is decoded to a lone surrogate (PEP 383).
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
