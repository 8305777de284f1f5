"""The lines around a splat's title line, read as they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_kernelvm.vm.klog.splat_lines import ConsoleLines, Line

CUT_HERE = re.compile(r"-+\[ cut here \]-+|8<--- cut here ---")
SEPARATOR = re.compile(r"={20,}")
END_MARK = re.compile(r"---\[ end (?:trace|Kernel panic).*")
# kernel/printk/nbcon.c: the console was taken from who printed a line, which is printed once more.
_REPLAYED = re.compile(r"\*\* replaying previous printk message \*\*\r*\n")

# A call trace that comes at all begins within so many lines; so far above its head stands what it
# is for. Who reads a part of a text gives so many lines above what is new.
LINES_ABOVE = 40
# No splat is longer: other CPUs may talk in between.
MOST_LINES = 1000
# What comes so much later in the guest's time belongs to something else.
_PAUSE_S = 1.0


class Window:
    """The lines around a title line, read as they are asked for.

    Lines are counted from the title line, which is 0; those above it are -1, -2, …

    Args:
        source: The lines.
        title_line: The title line.
        begin: The offset where the line begins of which the title line may be only the end.
        floor: The offset above which no line is read.
    """

    def __init__(self, source: ConsoleLines, title_line: Line, begin: int, floor: int) -> None:
        self._source = source
        self._begin = begin
        self._floor = floor
        self._above: list[Line] = []
        self._lines = [title_line]
        self._read_to = title_line.end

    def __getitem__(self, here: int) -> Line:
        return self._lines[here] if here >= 0 else self._above[-here - 1]

    def above(self, most: int, start: int = -1) -> Iterator[tuple[int, Line]]:
        """Yield the lines above with their numbers.

        Args:
            most: The number of the highest line, without its sign.
            start: The number of the first one.
        """
        for here in range(start, -most - 1, -1):
            if not self._has_above(here):
                return
            yield here, self[here]

    def below(self, most: int) -> Iterator[tuple[int, Line]]:
        """Yield the lines below the title line with their numbers, up to `most`.

        Args:
            most: How many lines.
        """
        for here in range(1, most + 1):
            if not self._reaches(here):
                return
            yield here, self._lines[here]

    def last_of(self, most: int) -> tuple[Line, bool]:
        """Return the last line, and whether the text goes on behind `most` lines.

        Args:
            most: How many lines below the title line are looked at.
        """
        here = 0
        while here < most and self._reaches(here + 1):
            here += 1
        return self[here], here == most

    def end_of_panic(self) -> tuple[Line, bool]:
        """Return the last line of a panic, which goes on to its end mark, and if that is there."""
        text, at = self._source.text, self[0].end
        while (at := text.find("---[ end Kernel panic", at)) >= 0:
            line = self._source.next(self._source.beginning(at, self[0].end))
            if line and END_MARK.fullmatch(line.words):
                return line, True
            at += 1
        last = self._source.next(self._source.beginning(len(text) - 1, self[0].start))
        return last if last and last.start > self[0].start else self[0], False

    def pauses_before(self, here: int) -> bool:
        """Return whether a line came too late after the one above it to belong to the same event.

        Args:
            here: The line's number; the title line is 0.
        """
        return self.pause_s(here) > _PAUSE_S

    def pause_s(self, here: int) -> float:
        """Return how long after the line above it a line came; 0 where lines carry no time.

        Args:
            here: The line's number; the title line is 0.
        """
        now, before = self[here].seconds, self[here - 1].seconds
        return now - before if now is not None and before is not None else 0.0

    def is_of_same_caller(self, here: int) -> bool:
        """Return whether a line is of the task or CPU of the title line, as far as lines say so.

        Args:
            here: The line's number; the title line is 0.
        """
        one, other = self[0].caller, self[here].caller
        return not one or not other or one == other

    def text(self, first: int, last: Line) -> str:
        """Return the text from a line to another.

        Args:
            first: The number of the first line.
            last: The last line.
        """
        whole = self._source.text[self[first].start : last.end]
        return whole.replace("\r", "").rstrip("\n")

    def own_words(self, first: int, last: Line) -> str:
        """Return the words from a line to another, without those of other tasks and CPUs.

        Args:
            first: The number of the first line.
            last: The last line.
        """
        lines = [self[here] for here in range(first, 1) if self.is_of_same_caller(here)]
        for here, line in self.below(MOST_LINES):
            if line.start > last.start:
                break
            if self.is_of_same_caller(here):
                lines.append(line)
        return "\n".join(line.words for line in lines)

    def _has_above(self, here: int) -> bool:
        while len(self._above) < -here:
            if self._begin <= self._floor:
                return False
            self._begin = self._source.beginning(self._begin - 1, self._floor)
            line = self._source.next(self._begin)
            assert line
            self._above.append(line)
        return True

    def _reaches(self, here: int) -> bool:
        while here >= len(self._lines):
            line = self._source.next(self._read_to)
            if not line:
                return False
            self._read_to = line.end
            # Where lines carry time stamps, one without is a program's, or says what was dropped.
            is_others = self[0].stamped and not line.stamped
            if not is_others and not is_replayed(self._source.text, line):
                self._lines.append(line)
        return True


def is_replayed(text: str, line: Line) -> bool:
    """Return whether a line of a console is broken off, and printed once more below.

    The kernel does so where another CPU took the console over (kernel/printk/nbcon.c).

    Args:
        text: The console's.
        line: The line.
    """
    marker = _REPLAYED.match(text, line.end)
    if not marker:
        return False
    return text.startswith(text[line.start : line.end].rstrip("\r\n"), marker.end())
