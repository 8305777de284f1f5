"""How long a guest is waited for: by its own time, which stands still while the host is busy.

A guest that did not get a processor is not hung, and one that sleeps or spins is not excused by a
busy host: what counts is the time since the launch less the time that QEMU's threads stood in the
queue for a processor (/proc/PID/task/TID/schedstat, Documentation/scheduler/sched-stats.rst).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_kernelvm.process import Deadline

# A boot that gives no sign of life for this part of its whole limit is given up.
SILENT_PART = 1 / 6
# Before its console is there a kernel says nothing for some tenths of a second.
LEAST_SILENCE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How fast this machine runs a kind of guest.

    Attributes:
        factor: What a limit that suits the machine of arch/'s figures is multiplied with; at least
            1.
        description: How it was found, in words.
    """

    factor: float = 1.0
    description: str = "not measured"

    def scaled(self, limit_s: float) -> str:
        """Return a limit of this machine in words, and how it came about.

        Args:
            limit_s: Seconds that suit the machine of arch/'s figures.
        """
        if self.factor == 1.0:
            return f"{limit_s:g} s (this machine's speed: {self.description})"
        scaled_s = limit_s * self.factor
        return f"{scaled_s:.3g} s ({limit_s:g} s x {self.factor:g} for {self.description})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeLimits:
    """How long a guest may take.

    Attributes:
        boot_s: Seconds from launch to ready.
        command_s: Seconds of one command.
        calibration: By how much both are longer on this machine.
    """

    boot_s: float
    command_s: float
    calibration: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadTimes:
    """What a process has done.

    Attributes:
        ran_s: Seconds that its threads ran.
        starved_s: Seconds that its threads waited for a processor.
        stopped: Whether a signal holds it (proc(5), states T and t).
    """

    ran_s: float
    starved_s: float
    stopped: bool


def work_of(pid: int) -> ThreadTimes | None:
    """Return what a process has done so far.

    On a host without schedstat it never seems to have waited.

    Args:
        pid: Of the process.

    Returns:
        The figures; None once it is gone.
    """
    directory = Path("/proc", str(pid))
    ran_ns = starved_ns = 0
    try:
        state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    for thread in _threads(directory):
        try:
            ran, starved, _slices = (thread / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue
        ran_ns += int(ran)
        starved_ns += int(starved)
    return ThreadTimes(ran_s=ran_ns / 1e9, starved_s=starved_ns / 1e9, stopped=state in ("T", "t"))


def _threads(directory: Path) -> tuple[Path, ...]:
    try:
        return tuple((directory / "task").iterdir())
    except OSError:
        return ()


class GuestDeadline(Deadline):
    """A deadline on a guest's own time.

    Reading the figures of all threads takes longer than most commands do, so they are read with the
    first call of `note`, or when something is asked that they decide.

    Args:
        timeout_s: Seconds of the guest's own time.
        pid: QEMU's.
        limit: In words, how timeout_s came about; empty for the number alone.
    """

    def __init__(self, timeout_s: float, pid: int, limit: str = "") -> None:
        super().__init__(timeout_s)
        self.limit = limit or f"{timeout_s:g} s"
        self._pid = pid
        self._started = time.monotonic()
        self._frozen_at: float | None = None
        self._before: ThreadTimes | None = None
        self._latest: ThreadTimes | None = None

    def note(self, work: ThreadTimes | None) -> None:
        """Take figures that were just read.

        Args:
            work: QEMU's figures; None if it is gone.
        """
        if self._frozen_at is None and work:
            self._before = self._before or work
            self._latest = work

    @property
    def waited_s(self) -> float:
        """Seconds of the limit that passed."""
        return self.timeout_s

    def freeze(self) -> None:
        """Take the figures as they are now for later messages; the deadline is over."""
        if self._frozen_at is None:
            self._look()
            self._frozen_at = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds on the clock since it was set."""
        return (self._frozen_at or time.monotonic()) - self._started

    @property
    def ran_s(self) -> float:
        """Seconds that QEMU's threads ran since it was set."""
        before, now = self._look()
        return now.ran_s - before.ran_s

    @property
    def uncounted_s(self) -> float:
        """Seconds that do not count, as QEMU waited for a processor."""
        before, now = self._look()
        elapsed_s = self.elapsed_s
        starved_s = min(now.starved_s - before.starved_s, elapsed_s)
        # Threads may wait at the same time; time in which one of them ran does count.
        return min(starved_s, max(0.0, elapsed_s - (now.ran_s - before.ran_s)))

    def _look(self) -> tuple[ThreadTimes, ThreadTimes]:
        """Return the figures of the beginning and the last ones; a process that is gone keeps its.

        Threads that ended take their figures along.
        """
        if self._frozen_at is None:
            self.note(work_of(self._pid))
        nothing = ThreadTimes(ran_s=0.0, starved_s=0.0, stopped=False)
        before, now = self._before or nothing, self._latest or nothing
        return before, now if now.ran_s >= before.ran_s else before

    @property
    def remaining_s(self) -> float:
        """Seconds left at the least, never below 0."""
        left_s = super().remaining_s
        # If the clock says that there is time left, there is; that the time is up only the guest's
        # own time can tell.
        return left_s or max(0.0, self.timeout_s - self.elapsed_s + self.uncounted_s)

    @property
    def passed(self) -> bool:
        """Whether the guest had its time."""
        return super().passed and self.remaining_s == 0.0

    @property
    def description(self) -> str:
        """What was waited for how long, for an error."""
        uncounted_s = self.uncounted_s
        busy = (
            f", {uncounted_s:.1f} s of which QEMU got no processor and do not count"
            if uncounted_s >= 0.05
            else ""
        )
        return f"{self.elapsed_s:.1f} s{busy}; limit: {self.limit}"


class BootDeadline(GuestDeadline):
    """A deadline for a boot, which also passes when the guest gives no sign for part of it.

    Args:
        timeout_s: Seconds of the guest's own time.
        pid: QEMU's.
        sign: Returns the time of the last sign of life on the monotonic clock; 0 before the first.
        limit: In words, how timeout_s came about.
    """

    def __init__(self, timeout_s: float, pid: int, sign: Callable[[], float], limit: str) -> None:
        super().__init__(timeout_s, pid, limit)
        self._sign = sign
        self._seen = 0.0
        self._silence = self._listen()

    def _listen(self) -> GuestDeadline:
        silent_s = max(LEAST_SILENCE_S, self.timeout_s * SILENT_PART)
        limit = f"{silent_s:g} s without a sign of life ({self.limit} in all)"
        return GuestDeadline(silent_s, self._pid, limit)

    def note(self, work: ThreadTimes | None) -> None:
        """Take figures that were just read.

        Args:
            work: QEMU's figures; None if it is gone.
        """
        super().note(work)
        self._silence.note(work)

    def freeze(self) -> None:
        """Take the figures as they are now for later messages; the deadline is over."""
        super().freeze()
        self._silence.freeze()

    @property
    def remaining_s(self) -> float:
        """Seconds left at the least, never below 0."""
        sign = self._sign()
        if sign > self._seen:
            self._seen = sign
            self._silence = self._listen()
        return min(super().remaining_s, self._silence.remaining_s)

    @property
    def passed(self) -> bool:
        """Whether the guest had its time, or gave no sign for too long."""
        return self.remaining_s == 0.0

    @property
    def waited_s(self) -> float:
        """Seconds of the limit that passed: without a sign, or in all."""
        return self.timeout_s if super().remaining_s == 0.0 else self._silence.timeout_s

    @property
    def description(self) -> str:
        """What was waited for how long, for an error."""
        return super().description if super().remaining_s == 0.0 else self._silence.description
