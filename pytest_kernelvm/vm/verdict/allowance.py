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
    """Offsets into the texts of the sources between which something lies.

    Attributes:
        start: By source; 0 where there is none.
        end: By source; to the end of the text where there is none.
    """

    start: dict[TextSource, int] = field(default_factory=dict)
    end: dict[TextSource, int] = field(default_factory=dict)

    def hold(self, source: TextSource, offset: int) -> bool:
        """Whether an offset into a source's text lies between them.

        Args:
            source: Whose text it is.
            offset: Into that text.

        Returns:
            Whether it does.
        """
        end = self.end.get(source)
        return self.start.get(source, 0) <= offset and (end is None or offset < end)


@dataclass(kw_only=True, slots=True)
class Allowance:
    """Splats that a test provokes.

    Attributes:
        patterns: Of which one must be found in a splat's text.
        reason: Why they are no failure.
        places: Where they must begin.
        splats: Those that were allowed so far, each once.
        read: The same, each as often as it was read, with where.
    """

    patterns: tuple[re.Pattern[str], ...]
    reason: str
    places: SourceOffsets = field(default_factory=SourceOffsets)
    splats: list[Splat] = field(default_factory=list)
    read: list[tuple[TextSource, Splat]] = field(default_factory=list)

    def covers(self, source: TextSource, splat: Splat) -> bool:
        """Whether it allows a splat.

        Args:
            source: Where the splat was read.
            splat: The splat.

        Returns:
            Whether a pattern and the place fit.
        """
        fits = any(pattern.search(splat.text) for pattern in self.patterns)
        return fits and self.places.hold(source, splat.start)

    def note(self, source: TextSource, splat: Splat) -> None:
        """Keep a splat that was allowed, once; as the log shows it, where both show it.

        Args:
            source: Where the splat was read.
            splat: The splat.
        """
        if (source, splat) not in self.read:
            self.read.append((source, splat))
        for number, other in enumerate(self.splats):
            if is_same_event(splat, other):
                if source is TextSource.LOG:
                    self.splats[number] = splat
                return
        self.splats.append(splat)


def allowance(patterns: str | Iterable[str], reason: str) -> Allowance:
    """Return the allowance of splats in whose text one of the regular expressions is found.

    Args:
        patterns: One or several.
        reason: Why such splats are no failure.

    Returns:
        The allowance, for all of the guest's texts.

    Raises:
        TypeError: For what is no regular expression, or without a reason.
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
    """Whether two splats are one event, which both console and log show.

    Lines of a console may lack the time.

    Args:
        splat: One of them.
        other: The other one.

    Returns:
        Whether title and time are the same.
    """
    times = splat.guest_time_s, other.guest_time_s
    return splat.title == other.title and (None in times or times[0] == times[1])
