"""A child that ended, and its end in words."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import Evidence
from pytest_kernelvm.process.programs import quoted

TAIL_LINES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A child that ended.

    Attributes:
        argv: What was run.
        status: Its exit status, or minus the signal that ended it.
        raw_stdout: Its standard output, empty where a log file took it.
        stderr: Its error output, likewise.
        elapsed_s: Wall time from start to end.
    """

    argv: tuple[str, ...]
    status: int
    raw_stdout: bytes
    stderr: str
    elapsed_s: float

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.raw_stdout.decode(errors="replace")


def failure(completed: Completed, log: Path | None = None) -> Evidence:
    """Return the evidence of a child that failed: its last lines, its log, its command.

    Args:
        completed: The child.
        log: The file that got its output; None where `completed` has it.
    """
    text = tail(log) if log else (completed.stderr or completed.stdout)
    return Evidence(
        seen=status_words(completed.status),
        where=(str(log),) if log else (),
        excerpt="\n".join(text.splitlines()[-TAIL_LINES:]),
        command=quoted(completed.argv),
    )


def status_words(status: int) -> str:
    """Return an exit status in words, such as `ended with status 1` or `was killed by SIGSEGV`.

    Args:
        status: Below zero it is minus the signal that ended the process.
    """
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text file; empty if it cannot be read.

    Args:
        path: The file.
        lines: How many lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
