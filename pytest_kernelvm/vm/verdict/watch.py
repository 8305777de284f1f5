"""What goes wrong with a guest while somebody waits for something of it."""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Collection, Iterable, Iterator

from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.klog.splat_reader import SplatReader
from pytest_kernelvm.vm.klog.splats import Splat, belongs_to, read_log_splats
from pytest_kernelvm.vm.klog.transcript import HALTED
from pytest_kernelvm.vm.qemu.streams import LOOK_S, Streams
from pytest_kernelvm.vm.verdict.allowance import Allowance, TextSource, is_same_event
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline, work_of

# A splat without an end mark is whole when nothing came for QUIET_S, and at the latest LONGEST_S
# after its beginning: a guest that spins may go on printing.
QUIET_S = 0.25
LONGEST_S = 0.5
# After so many looks a process is stopped for good, and not for a moment by a debugger.
STOPPED_LOOKS = 2

# Splats that a guest which hangs prints again and again, with other figures.
REPEATED = frozenset(
    ("soft lockup", "hard lockup", "RCU stall", "hung task", "workqueue lockup", "atomic context")
)

_HALTED = re.compile(HALTED.pattern.encode())


class Trouble(enum.Enum):
    """Why it is no use to wait any longer."""

    PANIC = "the kernel panicked"
    HALTED = "the machine halted"
    ENDED = "QEMU closed the console"
    STOPPED = "a signal stopped QEMU"
    STREAMS = "a task of ours failed"
    SPLAT = "the kernel found something wrong"
    FLOOD = "the console printed more than is kept"


class Watch:
    """Looks at all that comes out of one guest.

    As long as the agent hands over the kernel's log, that decides what is a splat: what the console
    shows beside it may be quoted by a program. A splat of the console counts only if it came after
    the last reading of the log (`settle`), or while the log had a gap.

    Args:
        streams: The guest's.
        pid: QEMU's.
        start: The offset into the console's text from which on it is looked at.
        log: The copy of the kernel's log.
        log_start: The offset into that copy's text likewise.

    Attributes:
        refusing: Whether a splat that nobody allowed ends a wait.
        allowances: Those that count now.
    """

    def __init__(
        self, streams: Streams, pid: int, start: int, log: LogCopy, log_start: int = 0
    ) -> None:
        self.refusing = False
        self.allowances: list[Allowance] = []
        self._streams = streams
        self._pid = pid
        self._console = SplatReader(streams.console_text, start, see=self._look_for_halt)
        self._log_copy = log
        self._log = SplatReader(log.text, log_start, find=read_log_splats)
        self._of_ours: list[Splat] = []
        self._settled = 0
        self._halted = False
        self._stopped_looks = 0
        self._looked = 0.0
        self._deadline: GuestDeadline | None = None
        self._reported: list[tuple[TextSource, Splat]] = []
        # Splats that are no failure. They stay so until `answer_for`: there are only more
        # allowances and more that was reported.
        self._fine: set[tuple[TextSource, int, int, str]] = set()

    @property
    def console_splats(self) -> tuple[Splat, ...]:
        """The splats that the console shows, allowed or not."""
        self._read()
        return self._console.splats

    @property
    def log_splats(self) -> tuple[Splat, ...]:
        """The splats of the kernel's log, and what is wrong with the log itself, in its order."""
        self._read()
        found = (*self._log.splats, *self._of_ours)
        return tuple(sorted(found, key=lambda splat: splat.start))

    @property
    def splats(self) -> tuple[Splat, ...]:
        """All splats so far, allowed or not: the log's, and those that only the console shows."""
        logged = self.log_splats
        alone = (each for each in self.console_splats if not self._is_among(each, logged))
        return (*logged, *alone)

    def look(self) -> Trouble | None:
        """Give what is wrong, if anything; call it with the streams' lock held.

        Returns:
            Why it is no use to wait any longer; None if it is.
        """
        self._read()
        if any(splat.fatal for splat in self._unsettled()):
            return Trouble.PANIC
        if trouble := self.end_of_guest():
            return trouble
        if self.refusing and self.is_refused:
            return Trouble.SPLAT
        return Trouble.FLOOD if self._streams.console.is_cut else None

    def end_of_guest(self) -> Trouble | None:
        """Give the reason why the guest cannot answer, by what is not its kernel's text.

        Returns:
            The reason; None if it can.
        """
        if self._halted:
            return Trouble.HALTED
        if self._streams.console_ended:
            return Trouble.ENDED
        if self._streams.troubles:
            return Trouble.STREAMS
        if self.stopped:
            return Trouble.STOPPED
        return None

    @property
    def is_refused(self) -> bool:
        """Whether there is a whole splat that nobody allowed."""
        return any(
            splat is not self._console.unfinished or not self.is_going_on
            for splat in self.refused_on_console
        ) or any(
            splat is not self._log.unfinished or not self.is_logging
            for splat in self.refused_in_log
        )

    def begin(self, deadline: GuestDeadline) -> None:
        """Look anew, and keep a deadline's figures; a command that does not last needs none.

        Args:
            deadline: Gets QEMU's figures as they are read.
        """
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
        """Whether the console's last splat is still being printed."""
        going_on = self._console.unfinished
        if not going_on or not self._streams.console_times:
            return False
        now = time.monotonic()
        begun = self._streams.arrival_of(going_on.start)
        return now - self._streams.console_times[-1][0] < QUIET_S and now - begun < LONGEST_S

    @property
    def is_logging(self) -> bool:
        """Whether the last splat of the log is still being written."""
        quiet_s = time.monotonic() - self._log_copy.grew_at_s
        return self._log.unfinished is not None and quiet_s < QUIET_S

    @property
    def refused(self) -> tuple[Splat, ...]:
        """The splats that nobody allowed and that no error has reported yet, of log and console."""
        return (*self.refused_in_log, *self.refused_on_console)

    @property
    def refused_in_log(self) -> tuple[Splat, ...]:
        """Those that the log shows."""
        return tuple(splat for splat in self.log_splats if not self._is_fine(TextSource.LOG, splat))

    @property
    def refused_on_console(self) -> tuple[Splat, ...]:
        """Those that only the console shows, where it counts."""
        self._read()
        logged = self._log.splats
        return tuple(
            splat
            for splat in self._unsettled()
            if not self._is_among(splat, logged) and not self._is_fine(TextSource.CONSOLE, splat)
        )

    def _unsettled(self) -> Iterator[Splat]:
        """Give the console's splats that the log has not decided on."""
        for splat in self._console.splats:
            time_s = splat.guest_time_s
            in_gap = time_s is not None and any(
                gap.after_s <= time_s <= gap.before_s for gap in self._log_copy.gaps
            )
            if in_gap or splat.start >= self._settled:
                yield splat

    def settle(self, offset: int) -> None:
        """Have the log decide on the console's text up to an offset: it was read after that.

        Args:
            offset: Into the console's text.
        """
        self._settled = max(self._settled, offset)

    @staticmethod
    def _is_among(splat: Splat, others: Iterable[Splat]) -> bool:
        return any(is_same_event(splat, other) for other in others)

    def _is_fine(self, source: TextSource, splat: Splat) -> bool:
        """Whether a splat is no failure, or one that is reported already."""
        place = (source, splat.start, splat.end, splat.title)
        if place not in self._fine and self._is_allowed_or_reported(source, splat):
            self._fine.add(place)
        return place in self._fine

    def _is_allowed_or_reported(self, source: TextSource, splat: Splat) -> bool:
        for allowed in self.allowances:
            if allowed.covers(source, splat):
                allowed.note(source, splat)
                return True
        if any(
            self._has_reported(source, where, reported, splat) for where, reported in self._reported
        ):
            return True
        provoked = (pair for each in self.allowances for pair in each.read)
        return any(self._has_led_to(source, where, oops, splat) for where, oops in provoked)

    def _has_reported(
        self, source: TextSource, where: TextSource, reported: Splat, splat: Splat
    ) -> bool:
        """Whether an error that showed one splat has reported another one as well.

        Args:
            source: Where the other one was read.
            where: Where the one that was shown was read.
            reported: The one that was shown.
            splat: The other one.

        Returns:
            Whether the other one needs no report.
        """
        return (
            (source is where and reported.start <= splat.start < reported.end)
            or (source is not where and is_same_event(reported, splat))
            or is_repetition(splat, reported)
            or self._has_led_to(source, where, reported, splat)
        )

    def _has_led_to(self, source: TextSource, where: TextSource, oops: Splat, splat: Splat) -> bool:
        """Whether a splat of a source comes of an oops that was read in the same or the other."""
        if source is where:
            return belongs_to(oops, splat)
        of_source = self._log.splats if source is TextSource.LOG else self._console.splats
        return any(is_same_event(oops, twin) and belongs_to(twin, splat) for twin in of_source)

    def find(self, kind: str, title: str, place: tuple[int, int] | None = None) -> None:
        """Note what the kernel does not say itself: a taint, or records that are lost.

        Args:
            kind: The splat's.
            title: In words.
            place: Of a line about it in the log's text; None for a new line.
        """
        start, end = place or self._log_copy.note(title)
        self._of_ours.append(
            Splat(
                kind=kind,
                title=title,
                text=title,
                start=start,
                end=end,
                complete=True,
                guest_time_s=None,
            )
        )

    def mark_reported(self, source: TextSource, splats: Iterable[Splat]) -> None:
        """Note the splats that an error shows, so that they fail nothing a second time.

        Args:
            source: Where they were read.
            splats: The splats.
        """
        self._reported += [(source, splat) for splat in splats]

    def has_reported_any(self, kinds: Collection[str]) -> bool:
        """Whether an error has reported a splat of some kinds.

        Args:
            kinds: Of splats.

        Returns:
            Whether one of them was reported.
        """
        return any(splat.kind in kinds for _source, splat in self._reported)

    def answer_for(self, allowances: Iterable[Allowance], *, refusing: bool) -> None:
        """Have only these allowances count from now on.

        Args:
            allowances: Those that the whole test has.
            refusing: Whether a splat that nobody allowed ends a wait.
        """
        self.allowances = list(allowances)
        self.refusing = refusing
        self._fine.clear()

    def look_from(self, start: int, log_start: int) -> None:
        """Look at the texts of console and log from earlier offsets on.

        Args:
            start: Into the console's text.
            log_start: Into the log's text.
        """
        self._fine.clear()
        self._console.look_from(start)
        self._log.look_from(log_start)

    def _read(self) -> None:
        """Find the splats in what came since the last look."""
        self._console.read(ended=self._streams.console_ended)
        self._log.read(ended=False)

    def _look_for_halt(self, start: int, end: int) -> None:
        text = self._streams.console_text
        self._halted = self._halted or bool(_HALTED.search(text, start, end))


def is_repetition(splat: Splat, reported: Splat) -> bool:
    """Whether a guest that does not get on says the same once more, with other figures.

    Args:
        splat: What it says.
        reported: What it said before.

    Returns:
        Whether they are the same.
    """
    return splat.kind in REPEATED and _without_figures(splat) == _without_figures(reported)


def _without_figures(splat: Splat) -> str:
    return re.sub(r"\d+", "#", splat.title)
