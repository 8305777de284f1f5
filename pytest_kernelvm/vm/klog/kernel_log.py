"""The host's copy of a guest's kernel log, record by record, whatever the console shows of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kernelvm.guest.protocol import LOG_BYTES, RECORD_BYTES
from pytest_kernelvm.vm.klog.kmsg import LogRecord, parse_kmsg

# What the agent writes before it reads the log for the last time: the kernel's own last record can
# be added to (pr_cont), and is not readable, until the next one begins. Known by its facility, as
# the agent hands over no words of programs (LOG_LOCAL7 in syslog(3), shifted, and level 7).
MARK_FACILITY = 23
MARK_RECORD = b"<191>kernelvm: the log so far\n"

# A kernel that says more of its own is not read any further.
LIMIT_BYTES = 8 << 20
# So much is kept of what the agent handed over; the oldest goes first.
RAW_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LogGap:
    """Records that the kernel dropped before they were read.

    Attributes:
        lost: How many records.
        after_s: The time of the record before them, in seconds since the boot; below 0 if there is
            none.
        before_s: The time of the record behind them.
        start: Where the line that reports it begins in the text of the log's copy.
        end: Where that line ends.
    """

    lost: int
    after_s: float
    before_s: float
    start: int
    end: int


class LogCopy:
    """What was read of one kernel's log so far.

    Attributes:
        raw: The last bytes of /dev/kmsg, without the words of programs.
        marks: How many records that the agent wrote as marks were read.
        text: The kernel's own records as a console would show them, and lines of ours that say what
            is missing. Offsets into it stay valid.
        gaps: What was lost.
        trouble: Why the log cannot be read; empty if it can.
        is_full: Whether it became too long, so that the rest is not kept.
        grew_at_s: When a record came last, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.raw = bytearray()
        self.text = bytearray()
        self.gaps: list[LogGap] = []
        self.trouble = ""
        self._next_sequence = 0
        self._last_time_s = -1.0
        self.is_full = False
        self.marks = 0
        self.grew_at_s = 0.0

    def add(self, raw: bytes, *, stop_at_gap: bool = False) -> bool:
        """Take the next bytes of /dev/kmsg; records that are known are passed over.

        Args:
            raw: Whole records.
            stop_at_gap: Whether to stop before records whose predecessors are not known.

        Returns:
            Whether all was taken.
        """
        for lines in _records(raw):
            for record in parse_kmsg(lines.decode("utf-8", "replace")):
                if record.sequence > self._next_sequence and stop_at_gap:
                    return False
                if record.sequence >= self._next_sequence:
                    self._take(record, lines)
        return True

    def _take(self, record: LogRecord, raw: bytes) -> None:
        if record.sequence > self._next_sequence:
            self._note_gap(record)
        self._next_sequence = record.sequence + 1
        self._last_time_s = record.time_s
        self._append_raw(raw)
        self.marks += record.facility == MARK_FACILITY
        if record.facility == 0 and not self.is_full:
            self.grew_at_s = time.monotonic()
            self.text += console_lines(record).encode()
            self.is_full = len(self.text) > LIMIT_BYTES

    def _append_raw(self, raw: bytes) -> None:
        self.raw += raw
        if len(self.raw) > RAW_BYTES:
            # In pieces, as each time moves the rest.
            del self.raw[: self.raw.index(b"\n", RAW_BYTES // 8) + 1]

    def _note_gap(self, record: LogRecord) -> None:
        lost = record.sequence - self._next_sequence
        records = "1 record" if lost == 1 else f"{lost} records"
        start, end = self.note(f"{records} of the kernel's log were lost before they were read")
        self.gaps.append(
            LogGap(
                lost=lost,
                after_s=self._last_time_s,
                before_s=record.time_s,
                start=start,
                end=end,
            )
        )

    def note(self, words: str) -> tuple[int, int]:
        """Add a line of ours to the text.

        Args:
            words: The line, without the `kernelvm: ` that is put in front of it.

        Returns:
            The offsets where it begins and ends.
        """
        start = len(self.text)
        self.text += f"kernelvm: {words}\n".encode()
        return start, len(self.text)

    @classmethod
    def read_before(cls, raw: bytes) -> LogCopy:
        """Return the copy of a log of which these bytes were read; a new one at each call.

        Args:
            raw: Whole records, as a snapshot has them.
        """
        parsed = _parsed(raw)
        copy = cls()
        copy.raw += parsed.raw
        copy.text += parsed.text
        copy.gaps = list(parsed.gaps)
        copy._next_sequence, copy._last_time_s = parsed._next_sequence, parsed._last_time_s
        copy.is_full = parsed.is_full
        return copy

    def begin_anew(self) -> None:
        """Go on with the log of another kernel; the text stays, the records do not."""
        self.raw.clear()
        self._next_sequence, self._last_time_s = 0, -1.0


def _records(raw: bytes) -> Iterator[bytes]:
    """Give the lines of each record; those of its dictionary begin with a space."""
    begin = 0
    while begin < len(raw):
        end = raw.find(b"\n", begin) + 1 or len(raw)
        while raw[end : end + 1] == b" ":
            end = raw.find(b"\n", end) + 1 or len(raw)
        yield raw[begin:end]
        begin = end


@functools.lru_cache(maxsize=8)
def _parsed(raw: bytes) -> LogCopy:
    """All guests of a snapshot begin with the same log, and parsing it takes as long as a test."""
    copy = LogCopy()
    copy.add(raw)
    return copy


def may_be_incomplete(log_bytes: int) -> bool:
    """Return whether an answer of the agent may have left some of the log for the next one.

    Args:
        log_bytes: How much of the log the answer had.
    """
    return log_bytes > LOG_BYTES - RECORD_BYTES


def console_lines(record: LogRecord) -> str:
    """Return a record as lines of a console (record_print_text in kernel/printk/printk.c)."""
    caller = f"[{record.caller:>6}]" if record.caller else ""
    stamp = f"[{record.time_s:12.6f}]{caller} "
    return "".join(f"{stamp}{line}\n" for line in record.text.rstrip("\n").split("\n"))
