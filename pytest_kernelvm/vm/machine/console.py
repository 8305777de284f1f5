"""The guest's console: the kernel's serial stream, kept whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pexpect.fdpexpect

from pytest_kernelvm.errors import CommandFailed, Evidence
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.klog.transcript import around_end
from pytest_kernelvm.vm.qemu.streams import Streams
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector
from pytest_kernelvm.vm.verdict.watch import Trouble

# How often a wait for a pattern looks whether something went wrong.
LOOK_S = 0.1
# Of text that was searched without a match, pexpect keeps no more than this.
SEARCHED_CHARACTERS = 1 << 20


class Console:
    """The kernel's console of one guest.

    Args:
        streams: The guest's.
        log: The file with all its text.
        timeout_s: Seconds that is waited by default.
        collector: Says what became of the guest.
        typed: Told what is typed.
        confirm: Returns whether the kernel's log has what looks wrong here.

    Attributes:
        log: The file with all its text.
    """

    def __init__(
        self,
        streams: Streams,
        log: Path,
        timeout_s: float,
        collector: VerdictCollector,
        typed: Callable[[str], None],
        confirm: Callable[[], bool],
    ) -> None:
        self._streams = streams
        self._typed = typed
        self._timeout_s = timeout_s
        self._collector = collector
        self._confirm = confirm
        self._spawn: Any = None
        self._passed = 0
        self.log = log

    @property
    def text(self) -> str:
        """All that was written so far, with LF at the ends of lines."""
        return self._streams.console_text.decode(errors="replace").replace("\r\n", "\n")

    @property
    def times(self) -> Sequence[tuple[float, int]]:
        """When, on the monotonic clock, each piece of the text came, and where it begins.

        A serial port gives a few bytes at a time; those that came within a moment are one piece.
        """
        return self._streams.console_times[:]

    @property
    def raw(self) -> bytes:
        """All that was written so far, as it came."""
        return bytes(self._streams.console_text)

    @property
    def size_bytes(self) -> int:
        """How much of what was written is kept."""
        return len(self._streams.console_text)

    def part(self, start: int, end: int) -> bytes:
        """Return what was written between two offsets, as it came.

        Args:
            start: The first byte.
            end: The byte behind the last one.

        Returns:
            As much of it as there is.
        """
        return bytes(self._streams.console_text[start:end])

    def wait_beyond(
        self, length_bytes: int, timeout_s: float, most_bytes: int = 1 << 16
    ) -> bytes | None:
        """Wait for text beyond a length.

        Args:
            length_bytes: How much is known already.
            timeout_s: Seconds on the host's clock.
            most_bytes: No more is returned.

        Returns:
            What came, empty if nothing did; None where nothing comes any more: the console has
            ended, or its limit is reached.
        """
        streams = self._streams

        def look() -> tuple[bytes, bool] | None:
            fresh = self.part(length_bytes, length_bytes + most_bytes)
            ended = streams.console_ended or streams.console.is_cut
            return (fresh, ended) if fresh or ended else None

        fresh, ended = streams.wait_for(look, Deadline(timeout_s)) or (b"", False)
        return fresh if fresh or not ended else None

    def tail(self) -> str:
        """Return the last lines, from the first splat on if there is one."""
        splats = self._collector.watch.splats[-1:]
        return around_end(
            self._streams.console.excerpt(*((splat.start, splat.end) for splat in splats))
        )

    def arrival(self, text: str) -> float:
        """Return when the host had all of a text of the console.

        Raises ValueError if the console does not show it.

        Args:
            text: Without ends of lines.

        Returns:
            The time on the monotonic clock.
        """
        raw = text.encode()
        return self._streams.arrival_of(self._streams.console_text.index(raw) + len(raw) - 1)

    def write(self, text: str) -> None:
        """Type text on the console.

        Args:
            text: Sent as it is; a newline in it is the Enter key.
        """
        self._typed(text)
        self._streams.send_console(text.encode(), Deadline(self._timeout_s))

    @property
    def spawn(self) -> Any:
        """The console as a pexpect spawn; what it reads is kept here as well."""
        if self._spawn is None:
            self._spawn = pexpect.fdpexpect.fdspawn(
                self._streams.console_reader.fileno(),
                encoding="utf-8",
                codec_errors="replace",
                use_poll=True,
                timeout=self._timeout_s,
                maxread=8192,
                searchwindowsize=16384,
            )
            self._spawn.delaybeforesend = None
        return self._spawn

    def expect(self, patterns: str | Sequence[str], timeout_s: float | None = None) -> Any:
        """Wait until one of the patterns appears, as pexpect does; earlier text counts once.

        Raises what became of the guest if that comes first: a splat, a panic, QEMU's end.

        Args:
            patterns: Regular expressions.
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.

        Returns:
            The match.

        Raises:
            CommandFailed: If none appears in time, with the console's end.
        """
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = self._collector.deadline(limit_s)
        for_what = f"on the console: {' or '.join(wanted)}"
        while True:
            slice_s = min(LOOK_S, deadline.remaining_s)
            index = self.spawn.expect([*wanted, pexpect.TIMEOUT, pexpect.EOF], timeout=slice_s)
            begin = self._passed + len(self.spawn.before or "")
            if index < len(wanted):
                self._passed = begin + len(self.spawn.after)
                self._refuse(deadline, for_what, before=begin)
                return self.spawn.match
            self._refuse(deadline, for_what)
            trouble = self._collector.trouble()
            if trouble is Trouble.PANIC and not self._confirm():
                continue
            if trouble not in (None, Trouble.SPLAT) or index > len(wanted):
                raise self._collector.verdict(deadline, for_what)
            if deadline.passed:
                break
            self._forget()
        raise CommandFailed(
            f"nothing fitting within {limit_s:g} s",
            Evidence(
                expected=for_what,
                facts=(f"waited: {deadline.description}",),
                excerpt=self.tail(),
                where=(str(self.log),),
            ),
        )

    def _forget(self) -> None:
        """Have pexpect forget what it has searched in vain; it copies all of that at each look."""
        searched = self.spawn.before or ""
        if len(searched) > SEARCHED_CHARACTERS:
            window = searched[-self.spawn.searchwindowsize :]
            self._passed += len(searched) - len(window)
            self.spawn._before = self.spawn.buffer_type()
            self.spawn._before.write(window)

    def _refuse(self, deadline: GuestDeadline, for_what: str, before: int | None = None) -> None:
        """Raise what the kernel found wrong and printed above an offset of the console's text."""
        refused_at = self._collector.refused_at()
        if refused_at is not None and (before is None or refused_at < before) and self._confirm():
            raise self._collector.splat_verdict(deadline, for_what)
