"""Splats that a test provokes: what it allows, and where."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_kernelvm.vm.klog.splats import Splat


class TextSource(enum.Enum):
    """Where a splat was read: the offsets of each source are its own."""

    CONSOLE = "the console"
    LOG = "the kernel's log"


@dataclass(kw_only=True, slots=True)
class SourceOffsets:
    """Offsets into the texts of the sources between which something lies; no end is None."""

    start: dict[TextSource, int] = field(default_factory=dict)
    end: dict[TextSource, int] = field(default_factory=dict)

    def hold(self, source: TextSource, offset: int) -> bool:
        """Whether an offset into a source's text lies between them."""
        end = self.end.get(source)
        return self.start.get(source, 0) <= offset and (end is None or offset < end)


@dataclass(kw_only=True, slots=True)
class Allowance:
    """Splats that a test provokes.

    patterns: of which one must be found in a splat's text. reason: why they are no failure.
    places: where they must begin. splats: those that were allowed so far. read: the same, each as
    often as it was read, with where.
    """

    patterns: tuple[re.Pattern[str], ...]
    reason: str
    places: SourceOffsets = field(default_factory=SourceOffsets)
    splats: list[Splat] = field(default_factory=list)
    read: list[tuple[TextSource, Splat]] = field(default_factory=list)

    def covers(self, source: TextSource, splat: Splat) -> bool:
        """Whether it allows a splat that was read in a source."""
        fits = any(pattern.search(splat.text) for pattern in self.patterns)
        return fits and self.places.hold(source, splat.start)

    def note(self, source: TextSource, splat: Splat) -> None:
        """Keep a splat that was allowed, once, though console and log tell of it."""
        if (source, splat) not in self.read:
            self.read.append((source, splat))
        if not any(is_same_event(splat, other) for other in self.splats):
            self.splats.append(splat)


def allowance(patterns: str | Iterable[str], reason: str) -> Allowance:
    """Return the allowance of splats in whose text one of the regular expressions is found.

    Raises TypeError for what is none, or without a reason.
    """
    given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not given or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise TypeError(f"allow is a regular expression or several, not {patterns!r}")
    if not isinstance(reason, str) or not reason.strip():
        raise TypeError("reason says why the splat is no failure")
    try:
        compiled = tuple(re.compile(pattern) for pattern in given)
    except re.error as error:
        raise TypeError(f"not a regular expression: {error.pattern!r}: {error}") from None
    return Allowance(patterns=compiled, reason=reason)


def is_same_event(splat: Splat, other: Splat) -> bool:
    """Whether two splats are one, told by console and log; lines of a console may lack the time."""
    times = splat.guest_time_s, other.guest_time_s
    return splat.title == other.title and (None in times or times[0] == times[1])
