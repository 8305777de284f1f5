"""What goes wrong with a guest while somebody waits for something of it."""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pytest_kernelvm.vm.deadlines import GuestDeadline, work_of
from pytest_kernelvm.vm.splats import HINT, Splat, read_splats
from pytest_kernelvm.vm.streams import LOOK_S, Streams
from pytest_kernelvm.vm.transcript import HALTED

# A splat without an end mark is whole when nothing more came for so long, at the latest so long
# after its beginning: a guest that spins may go on talking.
QUIET_S = 0.25
LONGEST_S = 0.5
# A text that goes on for longer is read as what comes behind it.
LONGEST_BYTES = 1 << 16
# So much of the console is read at once.
STEP_BYTES = 1 << 20
# A WARN's message and `cut here` stand so many lines above the line that is looked for.
LINES_ABOVE = 14
# A process is stopped for good, not by a debugger that looks at it, after so many looks.
STOPPED_LOOKS = 2

# What a guest that does not get on tells again and again, with other figures.
REPEATED = frozenset(
    ("soft lockup", "hard lockup", "RCU stall", "hung task", "workqueue lockup", "atomic context")
)

# These kill the task under which they happen; what comes within so many seconds of the guest's time
# is their aftermath.
TASK_ENDS = frozenset(("oops", "BUG", "list corruption"))
AFTERMATH_S = 1.0

_HINT = re.compile(HINT.pattern.encode())
_HALTED = re.compile(HALTED.pattern.encode())


class Trouble(enum.Enum):
    """Why it is no use to wait any longer."""

    PANIC = "the kernel panicked"
    HALTED = "the machine halted"
    ENDED = "QEMU closed the console"
    STOPPED = "a signal stopped QEMU"
    STREAMS = "a task of ours failed"
    SPLAT = "the kernel found something wrong"
    FLOOD = "the console said more than is kept"


@dataclass(kw_only=True, slots=True)
class Allowance:
    """Splats that a test provokes.

    patterns: of which one must be found in a splat's text. reason: why they are no failure.
    start, end: offsets into the console's text between which they must begin.
    splats: those that were allowed so far.
    """

    patterns: tuple[re.Pattern[str], ...]
    reason: str
    start: int = 0
    end: int | None = None
    splats: list[Splat] = field(default_factory=list)

    def covers(self, splat: Splat) -> bool:
        """Whether it allows a splat of the console."""
        return (
            self.start <= splat.start
            and (self.end is None or splat.start < self.end)
            and self.fits(splat)
        )

    def fits(self, splat: Splat) -> bool:
        """Whether one of the patterns is in a splat's text."""
        return any(pattern.search(splat.text) for pattern in self.patterns)


def allowance(patterns: str | Iterable[str], reason: str, start: int = 0) -> Allowance:
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
    return Allowance(patterns=compiled, reason=reason, start=start)


class Watch:
    """Looks at all that comes out of one guest.

    pid: QEMU's. start: the offset into the console's text from which on it is looked at.
    refusing: whether a splat that nobody allowed ends a wait.
    """

    def __init__(self, streams: Streams, pid: int, start: int) -> None:
        self.refusing = False
        self.allowances: list[Allowance] = []
        self._streams = streams
        self._pid = pid
        self._splats: list[Splat] = []
        self._going_on: Splat | None = None
        self._floor = start
        self._searched = self._seen = start
        self._halted = self._panicked = False
        self._stopped_looks = 0
        self._looked = 0.0
        self._deadline: GuestDeadline | None = None
        self._told: list[Splat] = []

    @property
    def splats(self) -> tuple[Splat, ...]:
        """All splats so far, allowed or not."""
        self._read()
        return (*self._splats, *((self._going_on,) if self._going_on else ()))

    def look(self) -> Trouble | None:
        """Return what is wrong, if anything; call it with the streams' lock held."""
        self._read()
        if self._panicked or (self._going_on and self._going_on.fatal):
            return Trouble.PANIC
        if self._halted:
            return Trouble.HALTED
        if self._streams.console_ended:
            return Trouble.ENDED
        if self._streams.troubles:
            return Trouble.STREAMS
        if self.stopped:
            return Trouble.STOPPED
        if self.refusing and self.is_refused:
            return Trouble.SPLAT
        if self._streams.said.is_cut:
            return Trouble.FLOOD
        return None

    @property
    def is_refused(self) -> bool:
        """Whether there is a whole splat that nobody allowed."""
        return any(splat is not self._going_on or not self.is_going_on for splat in self.refused)

    def begin(self, deadline: GuestDeadline) -> None:
        """Look anew, and keep a deadline's figures; a command that does not last needs none."""
        self._deadline = deadline
        self._looked = time.monotonic()
        self._stopped_looks = 0

    @property
    def stopped(self) -> bool:
        """Whether a signal holds QEMU."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            work = work_of(self._pid)
            if self._deadline:
                self._deadline.note(work)
            self._stopped_looks = self._stopped_looks + 1 if work and work.stopped else 0
        return self._stopped_looks >= STOPPED_LOOKS

    @property
    def is_going_on(self) -> bool:
        """Whether the last splat is still being printed."""
        if not self._going_on or not self._streams.console_times:
            return False
        now = time.monotonic()
        begun = self._streams.arrival_of(self._going_on.start)
        return now - self._streams.console_times[-1][0] < QUIET_S and now - begun < LONGEST_S

    @property
    def refused(self) -> tuple[Splat, ...]:
        """The splats that nobody allowed and that no error has told yet."""
        return tuple(splat for splat in self.splats if not self._is_fine(splat))

    def _is_fine(self, splat: Splat) -> bool:
        for allowed in self.allowances:
            if allowed.covers(splat):
                if splat.start not in [other.start for other in allowed.splats]:
                    allowed.splats.append(splat)
                return True
        return any(
            told.start <= splat.start < told.end
            or (splat.kind in REPEATED and _without_figures(splat) == _without_figures(told))
            or _follows(told, splat)
            for told in self._told
        ) or any(_follows(provoked, splat) for each in self.allowances for provoked in each.splats)

    def not_allowed(self, splats: Iterable[Splat]) -> tuple[Splat, ...]:
        """Return those splats of another text than the console's that no pattern allows."""
        return tuple(
            splat for splat in splats if not any(allowed.fits(splat) for allowed in self.allowances)
        )

    def tell(self, splats: Iterable[Splat]) -> None:
        """Note the splats that an error shows, so that they fail nothing a second time."""
        self._told += splats

    def look_from(self, start: int) -> None:
        """Look at the console's text from an earlier offset on."""
        self._splats.clear()
        self._going_on = None
        self._panicked = False
        self._floor = self._searched = self._seen = start

    def _read(self) -> None:
        """Find the splats in what the console has said since the last look."""
        while (whole := self._whole_lines()) > self._searched:
            self._read_to(whole)

    def _whole_lines(self) -> int:
        """Return up to where the console is to be read now: an end of a line, if there is one."""
        text = self._streams.console_text
        size = len(text)
        limit = min(size, self._searched + STEP_BYTES)
        # What was looked at before has no more ends of lines.
        whole = text.rfind(b"\n", max(self._seen, self._searched), limit) + 1
        self._seen = limit
        is_last = limit == size and self._streams.console_ended
        is_too_long = limit < size and whole <= self._searched
        return limit if is_last or is_too_long else whole

    def _read_to(self, whole: int) -> None:
        text = self._streams.console_text
        self._halted = self._halted or bool(_HALTED.search(text, self._searched, whole))
        hint = _HINT.search(text, self._searched, whole)
        if not self._going_on and not hint:
            self._searched = whole
            return
        start = self._going_on.start if self._going_on else self._above(self._searched)
        self._searched = whole
        self._going_on = None
        for splat in read_splats(bytes(text[start:whole]).decode("latin-1")):
            found = _moved(splat, start, text)
            if found.complete or found.end - found.start > LONGEST_BYTES:
                self._splats.append(found)
                self._panicked = self._panicked or found.fatal
                self._floor = found.end
            else:
                self._going_on = found

    def _above(self, offset: int) -> int:
        """Return where the line begins that is LINES_ABOVE above an offset, or not far above it."""
        floor = max(self._floor, offset - LONGEST_BYTES)
        for _line in range(LINES_ABOVE):
            above = self._streams.console_text.rfind(b"\n", floor, max(floor, offset - 1))
            if above < 0:
                return floor
            offset = above + 1
        return offset


def _follows(oops: Splat, splat: Splat) -> bool:
    """Whether a splat may come of an oops.

    The kernel kills the task and goes on with whatever that had not put back: on arm64, the next
    idle CPU warns of the context tracking of an exception that never returned.
    """
    if oops.kind not in TASK_ENDS or not oops.start < splat.start or splat.fatal:
        return False
    if oops.guest_time_s is None or splat.guest_time_s is None:
        return False
    return splat.guest_time_s - oops.guest_time_s < AFTERMATH_S


def _without_figures(splat: Splat) -> str:
    return re.sub(r"\d+", "#", splat.title)


def _moved(splat: Splat, by: int, text: bytearray) -> Splat:
    """Return a splat that was read from bytes of the console, with its text and its place there."""
    start, end = splat.start + by, splat.end + by
    said = bytes(text[start:end]).decode(errors="replace").replace("\r", "").rstrip("\n")
    title = splat.title.encode("latin-1").decode(errors="replace")
    return replace(splat, start=start, end=end, text=said, title=title)
