"""The lines in which a kernel talks: on a console among what programs print, and in its log.

The kernel writes a line of its console in one go, so that what a program left unfinished stands in
front of it, never within. With printk's time stamps on, the stamp is where the kernel's words
begin, wherever on the line it is, and a line without one is a program's. Without stamps nothing
tells them apart but the words: those that only a kernel says are believed anywhere, others at a
line's beginning.

A program that shows dmesg's lines on the console is believed, as nothing tells them from the
kernel's: they have the time and the title of what the kernel's own log (LogLines) has, which cannot
be misled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kernelvm.vm.klog.splat_kinds import Certainty, SplatRow
from pytest_kernelvm.vm.klog.splat_table import row_of, title_anywhere

# What printk puts in front of a line: level, time, caller (kernel/printk/printk.c,
# info_print_prefix()).
_TIME = r"\[ {0,12}(?P<seconds>\d{1,12}\.\d{1,9})\]"
_TIME_AND_CALLER = _TIME + r"(?: {0,4}\[ {0,6}(?P<caller>[TC]\d{1,9})\])?"
STAMP = re.compile(
    rf"(?:<\d{{1,3}}>)?(?:{_TIME_AND_CALLER}|\[ {{0,6}}(?P<only_caller>[TC]\d{{1,9}})\]) ?"
)
_STAMPED_LINE = re.compile(rf"^{STAMP.pattern}", re.MULTILINE)
# Behind what a program left unfinished a caller alone would be too little.
_LATER_STAMP = re.compile(_TIME_AND_CALLER + " ?")

# What moves the cursor, colours, or was meant for the agent (a frame ends with EOT), and says
# nothing.
_UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]")
_LINE_BEGINS_ANEW = re.compile(r"[\r\x04]")

# A record holds at most 1,024 bytes (kernel/printk/printk.c, PRINTKRB_RECORD_MAX): the kernel's
# words are so near to the end of their line.
_LONGEST = 2048
# How far above a line one looks for the stamps of others.
_NEAR_BYTES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line, or the end of one from where the kernel's words begin.

    Attributes:
        start: The offset where it begins.
        end: The offset behind its newline.
        words: Its text without the stamp.
        seconds: Its time since the boot, None without a stamp.
        caller: `T61` or `C0` (CONFIG_PRINTK_CALLER), or empty.
        stamped: Whether it has a stamp.
    """

    start: int
    end: int
    words: str
    seconds: float | None
    caller: str
    stamped: bool


def _line(start: int, end: int, words: str, stamp: re.Match[str] | None) -> Line:
    seconds = stamp["seconds"] if stamp else None
    return Line(
        start=start,
        end=end,
        words=words,
        seconds=float(seconds) if seconds else None,
        caller=(stamp["caller"] or stamp.groupdict().get("only_caller") or "") if stamp else "",
        stamped=stamp is not None,
    )


def guest_seconds(line: str) -> float | None:
    """Return the time that a line of the kernel's carries, None if it carries none.

    Args:
        line: With its time stamp, if it has one.
    """
    found = STAMP.match(line)
    return float(found["seconds"]) if found and found["seconds"] else None


class ConsoleLines:
    """A console's lines.

    Args:
        text: All that the console printed.
        stamped: Whether the kernel's lines carry time stamps; None to look at the lines above each.
    """

    def __init__(self, text: str, stamped: bool | None = None) -> None:
        self.text = text
        self._stamped = stamped
        self._last_stamped = -_NEAR_BYTES - 1
        self._looked_to = 0

    def next(self, start: int) -> Line | None:
        """Return the line that begins at an offset, None at the text's end."""
        if start >= len(self.text):
            return None
        end = self.text.find("\n", start) + 1 or len(self.text)
        stop = self._stop(start, end)
        found = STAMP.match(self.text, start, stop)
        if not found:
            found = self._last_stamp(max(start, stop - _LONGEST), stop)
        if found:
            begin, stop = found.end(), min(stop, found.end() + _LONGEST)
            return _line(found.start(), end, self.text[begin:stop], found)
        words = self.text[start : min(stop, start + _LONGEST)]
        return _line(start, end, _UNSEEN.sub("", words), None)

    def beginning(self, offset: int, floor: int) -> int:
        """Return where a line begins.

        Args:
            offset: One that is in the line.
            floor: The least that is returned.
        """
        return max(floor, self.text.rfind("\n", floor, offset) + 1)

    def title_line(self, start: int) -> tuple[Line, SplatRow] | None:
        """Return the kernel's words on a line, if they are a title, and the row that they match.

        Args:
            start: The offset where the line begins.

        Returns:
            The words as a line, and the row; None if they are no title.
        """
        end = self.text.find("\n", start) + 1 or len(self.text)
        stop = self._stop(start, end)
        tail = max(start, stop - _LONGEST)
        stamps = [found for found in (STAMP.match(self.text, start, stop),) if found]
        stamps += _LATER_STAMP.finditer(
            self.text, max(tail, stamps[0].end() if stamps else 0), stop
        )
        for found in stamps:
            words = self.text[found.end() : min(stop, found.end() + _LONGEST)]
            row = row_of(words)
            if row:
                return _line(found.start(), end, words, found), row
        if stamps or self.has_stamps_above(start):
            return None
        return self._title_without_stamp(tail, stop, end)

    def _title_without_stamp(self, tail: int, stop: int, end: int) -> tuple[Line, SplatRow] | None:
        anew = [mark.end() for mark in _LINE_BEGINS_ANEW.finditer(self.text, tail, stop)]
        found: tuple[Line, SplatRow] | None = None
        for begin in (tail, *anew[-1:]):
            words = _UNSEEN.sub("", self.text[begin:stop])
            row = row_of(words)
            if row:
                found = _line(begin, end, words, None), row
        if found and found[1].certainty is not Certainty.DOUBTFUL:
            return found
        certain = title_anywhere(self.text[tail:stop])
        if not certain:
            return found
        begin = tail + certain[0]
        return _line(begin, end, self.text[begin:stop], None), certain[1]

    def _stop(self, start: int, end: int) -> int:
        """Return where a line's words end, before CR LF."""
        while end > start and self.text[end - 1] in "\r\n":
            end -= 1
        return end

    def _last_stamp(self, start: int, stop: int) -> re.Match[str] | None:
        found = [*_LATER_STAMP.finditer(self.text, start, stop)]
        return found[-1] if found else None

    def has_stamps_above(self, start: int) -> bool:
        """Whether the kernel's lines before an offset carry time stamps."""
        if self._stamped is not None:
            return self._stamped
        for found in _STAMPED_LINE.finditer(
            self.text, max(self._looked_to, start - _NEAR_BYTES), start
        ):
            self._last_stamped = found.start()
        self._looked_to = start
        return start - self._last_stamped <= _NEAR_BYTES


class LogLines(ConsoleLines):
    """The lines of the kernel's own log, of which each begins with its record's time.

    Args:
        text: As kernel_log.console_lines() gives it, record by record; no program's words are in
            it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, stamped=True)

    def next(self, start: int) -> Line | None:
        """Return the line that begins at an offset, None at the end."""
        if start >= len(self.text):
            return None
        end = self.text.find("\n", start) + 1 or len(self.text)
        stamp = STAMP.match(self.text, start, end)
        begin = stamp.end() if stamp else start
        return _line(start, end, self.text[begin : self._stop(begin, end)], stamp)

    def title_line(self, start: int) -> tuple[Line, SplatRow] | None:
        """Return the line that begins at an offset, if it is a title line."""
        line = self.next(start)
        row = row_of(line.words) if line and line.stamped else None
        return (line, row) if line and row else None
