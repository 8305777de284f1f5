"""The records of a kernel's log, read from what /dev/kmsg gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRecord:
    """One record of the kernel's log (Documentation/ABI/testing/dev-kmsg).

    Attributes:
        priority: 0 (emergency) to 7 (debug).
        sequence: The record's number, counted from the boot.
        time_s: Seconds since the boot.
        text: What it says; a newline in it is one of the kernel's.
        facility: 0 for what the kernel said; programs that write to /dev/kmsg cannot have it
            (kernel/printk/printk.c, devkmsg_write()).
        caller: `T61` for a task, `C0` for a CPU, empty in a kernel without PRINTK_CALLER.
    """

    priority: int
    sequence: int
    time_s: float
    text: str
    facility: int = 0
    caller: str = ""


@dataclass(frozen=True, slots=True)
class KernelLog:
    """The kernel's log: iterate over its records, or ask `"text" in log`.

    Attributes:
        records: In the order of the log.
    """

    records: tuple[LogRecord, ...]

    def __iter__(self) -> Iterator[LogRecord]:
        return iter(self.records)

    def __contains__(self, text: str) -> bool:
        return any(text in record.text for record in self.records)

    def __str__(self) -> str:
        return "\n".join(f"[{r.time_s:12.6f}] {r.text}" for r in self.records)

    def matching(self, pattern: str) -> tuple[LogRecord, ...]:
        """Return the records in which a regular expression is found.

        Args:
            pattern: It may match anywhere in the text.
        """
        return tuple(record for record in self.records if re.search(pattern, record.text))


# priority with facility, sequence number, microseconds, flag, further fields, text.
_RECORD = re.compile(
    r"(?P<priority>\d{1,10}),(?P<sequence>\d{1,20}),(?P<time_us>\d{1,20}),[^,;]*"
    r"(?:,caller=(?P<caller>[TC]\d{1,10}))?(?:,[^;]*)?;(?P<text>.*)",
    re.ASCII | re.DOTALL,
)


def parse_kmsg(text: str) -> KernelLog:
    """Return the records of what was read from /dev/kmsg; lines of continuation are left out.

    Args:
        text: Records as Documentation/ABI/testing/dev-kmsg describes them.
    """
    return KernelLog(
        tuple(
            LogRecord(
                priority=int(found["priority"]) & 7,
                sequence=int(found["sequence"]),
                time_s=int(found["time_us"]) / 1e6,
                text=_unescaped(found["text"]),
                facility=int(found["priority"]) >> 3,
                caller=found["caller"] or "",
            )
            for line in text.splitlines()
            if (found := _RECORD.fullmatch(line))
        )
    )


def _unescaped(text: str) -> str:
    """Undo the kernel's escapes, of which each stands for one byte of UTF-8."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return raw.decode(errors="replace")
