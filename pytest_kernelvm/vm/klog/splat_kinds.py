"""What a row of the splat table is: kind, pattern, how it ends, where it is believed."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class End(enum.Enum):
    """How one tells where a splat ends."""

    MARK = "an end mark"
    FRAME = "a second frame"
    TRACE = "the call trace's end"
    LINE = "itself and what is indented below it"
    KILL = "what the OOM killer killed"


class Certainty(enum.Enum):
    """How sure it is that the kernel said it, on a console where lines carry no time.

    ANYWHERE: nobody else says it; it is believed behind an unfinished line too.
    AT_START: nobody else begins a line so. DOUBTFUL: programs may say it as well.
    """

    ANYWHERE = "only the kernel says it"
    AT_START = "only the kernel begins a line with it"
    DOUBTFUL = "programs may say it as well"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A kind of splat: the pattern of its whole title line, without time.

    kind: its name; several rows may be of one kind. end: how one tells where it ends.
    certainty: whether others might say the same. hints: of which the title line holds one, to find
    lines without trying each pattern.
    """

    kind: str
    end: End
    certainty: Certainty
    pattern: str
    hints: tuple[str, ...]


def row(kind: str, end: End, certainty: Certainty, pattern: str, *hints: str) -> Row:
    """Return a row; the arguments are its fields."""
    return Row(kind=kind, end=end, certainty=certainty, pattern=pattern, hints=hints)
