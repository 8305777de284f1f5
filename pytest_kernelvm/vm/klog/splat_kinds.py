"""What a row of the splat table is: kind, pattern, how it ends, where it is believed."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class End(enum.Enum):
    """How one recognises where a splat ends."""

    MARK = "an end mark"
    FRAME = "a second frame"
    TRACE = "the call trace's end"
    LINE = "itself and what is indented below it"
    KILL = "what the OOM killer killed"


class Certainty(enum.Enum):
    """How certain it is that the kernel printed a line, on a console where lines carry no time.

    Attributes:
        ANYWHERE: Nobody else prints it; it is believed behind an unfinished line too.
        AT_START: Nobody else begins a line with it.
        DOUBTFUL: Programs may print it as well.
    """

    ANYWHERE = "only the kernel says it"
    AT_START = "only the kernel begins a line with it"
    DOUBTFUL = "programs may say it as well"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplatRow:
    """A kind of splat: the pattern of its whole title line, without time.

    Attributes:
        kind: Its name; several rows may be of one kind.
        end: How one recognises where it ends.
        certainty: Whether others might print the same.
        pattern: A regular expression for the whole line.
        hints: Texts of which the title line holds one, to find lines without trying each pattern.
    """

    kind: str
    end: End
    certainty: Certainty
    pattern: str
    hints: tuple[str, ...]


def row(kind: str, end: End, certainty: Certainty, pattern: str, *hints: str) -> SplatRow:
    """Return a row.

    Args:
        kind: As of Row, like the others.
        end: How one recognises where it ends.
        certainty: Whether others might print the same.
        pattern: A regular expression for the whole line.
        *hints: Texts of which the title line holds one.
    """
    return SplatRow(kind=kind, end=end, certainty=certainty, pattern=pattern, hints=hints)
