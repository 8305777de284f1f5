"""Splats: what a kernel prints when it finds something wrong, from the first line to the last.

splat_table.py has the lines that begin a splat; splat_lines.py tells the kernel's lines from those
of programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pytest_kernelvm.vm.klog.splat_context import (
    ABOVE_CUT,
    CAUSE,
    DIES,
    DUMP_HEAD,
    EXPLAINED,
    NAME_FOLLOWS,
    RUST_BUG,
    RUST_PANIC,
    TRACE_HEAD,
)
from pytest_kernelvm.vm.klog.splat_ends import last_line
from pytest_kernelvm.vm.klog.splat_kinds import End
from pytest_kernelvm.vm.klog.splat_lines import STAMP, ConsoleLines, Line, LogLines, guest_seconds
from pytest_kernelvm.vm.klog.splat_table import HINT, row_of
from pytest_kernelvm.vm.klog.splat_window import (
    CUT_HERE,
    LINES_ABOVE,
    SEPARATOR,
    Window,
    is_replayed,
)

__all__ = [
    "HINT",
    "LINES_ABOVE",
    "Splat",
    "belongs_to",
    "guest_seconds",
    "read_log_splats",
    "read_splats",
]

# How far above the title line `cut here` may stand: a WARN's own message is in between.
_MESSAGE_LINES = 12
# How far above die()'s line the cause stands, and over how many lines names with newlines go.
_CAUSE_LINES = 3
_NAME_LINES = 3
# Reports that have a call trace in their midst, and how soon after their beginning its rest comes.
_REPORTS = frozenset(("KASAN", "KCSAN", "KMSAN", "KFENCE", "lockdep"))
_REST_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Splat:
    """One thing that the kernel found wrong.

    Attributes:
        kind: `WARNING`, `oops`, `soft lockup` and so on; splat_table.py has them all.
        title: Its title line without the time.
        text: All its lines.
        start: Where it begins in the text that was read; of a log, which record it is.
        end: Where it ends, likewise, the end not included.
        complete: Whether its last line was recognised; else it may go on.
        guest_time_s: The time of its first line since the boot, None where lines carry no time.
        cpu: The CPU that it came on, None if it does not say.
        pid: The process of the task that it came under, None if it does not say.
        task: The name of that task, empty if it does not say.
    """

    kind: str
    title: str
    text: str
    start: int
    end: int
    complete: bool
    guest_time_s: float | None
    cpu: int | None = None
    pid: int | None = None
    task: str = ""

    @property
    def fatal(self) -> bool:
        """Whether the guest cannot go on."""
        return self.kind == "panic"


def read_splats(text: str, start: int = 0, *, stamped: bool | None = None) -> tuple[Splat, ...]:
    """Return the splats of a console, or of a log that was made text.

    A splat begins where the kernel's words begin, which may be behind what a program left
    unfinished on the line. Ends of lines may be CR LF.

    Args:
        text: What is read.
        start: Where to begin to read, at the beginning of a line.
        stamped: Whether the kernel's lines carry time stamps, so that a line without one is a
            program's; None to find out from what stands above each line.
    """
    return tuple(_Reader(ConsoleLines(text, stamped), start).splats())


def read_log_splats(text: str) -> tuple[Splat, ...]:
    """Return the splats of the kernel's own log.

    Args:
        text: The kernel's records and no program's, each as kernel_log.console_lines() gives it.
    """
    return tuple(_Reader(LogLines(text)).splats())


@dataclass(frozen=True, kw_only=True, slots=True)
class _TitleLine:
    """The line with a splat's title: kind, how it ends, and its words.

    title: with the words of the lines over which a task's name goes.
    """

    line: Line
    kind: str
    end: End
    title: str

    @property
    def is_bare_trace(self) -> bool:
        """Whether it is only the head of a call trace."""
        return bool(TRACE_HEAD.fullmatch(self.title))


class _Reader:
    """Finds the splats of a text."""

    def __init__(self, source: ConsoleLines, start: int = 0) -> None:
        self._source = source
        self._floor = start

    def splats(self) -> Iterator[Splat]:
        """Give one event after the other."""
        died: Splat | None = None
        before: Splat | None = None
        broken: Splat | None = None
        for splat in self._pieces():
            died = splat if _has_died(splat) else died
            if before and splat.start == before.end and _lacks_trace(before):
                broken = before
            before = splat
            # The end of the task is part of the event that its oops begins.
            is_end = splat.title.startswith("note: ") and died and belongs_to(died, splat)
            if broken and _is_rest_of(broken, splat):
                broken = None
            elif not is_end:
                yield splat

    def _pieces(self) -> Iterator[Splat]:
        """Give what looks like a splat of its own."""
        text, at = self._source.text, self._floor
        while hint := HINT.search(text, at):
            begin = self._source.beginning(hint.start(), self._floor)
            splat = self._splat_on(begin)
            if splat:
                self._floor = splat.end
                yield splat
            at = splat.end if splat else text.find("\n", hint.end()) + 1 or len(text)

    def _splat_on(self, begin: int) -> Splat | None:
        """Return the splat whose title line begins at an offset, None if it is no title line."""
        found = self._source.title_line(begin)
        if found:
            line, row = found
            if is_replayed(self._source.text, line):
                return None
            title_line = _TitleLine(line=line, kind=row.kind, end=row.end, title=line.words)
        elif over_lines := self._title_over_lines(begin):
            title_line = over_lines
        else:
            return None
        window = Window(self._source, title_line.line, begin, self._floor)
        if title_line.is_bare_trace and _is_explained(window):
            return None
        if title_line.end is End.TRACE and _is_message(window):
            return None
        first, title = _beginning(window, title_line)
        last, complete = last_line(window, title_line.end, title_line.kind)
        return _splat(window, replace(title_line, title=title), first, last, complete)

    def _title_over_lines(self, begin: int) -> _TitleLine | None:
        """Return a title line in which a task's name has newlines."""
        line = self._source.next(begin)
        if not line or not NAME_FOLLOWS.fullmatch(line.words):
            return None
        if not line.stamped and self._source.has_stamps_above(begin):
            return None
        words, below = line.words, line
        for _more in range(_NAME_LINES):
            more = self._source.next(below.end)
            if not more or more.seconds != line.seconds:
                return None
            words, below = f"{words}\\x0a{more.words}", more
            row = row_of(words)
            if row:
                return _TitleLine(line=line, kind=row.kind, end=row.end, title=words)
        return None


def _beginning(window: Window, title_line: _TitleLine) -> tuple[int, str]:
    """Return the line with which a splat begins, and the title."""
    if title_line.is_bare_trace:
        return _dump_head_above(window) or (0, title_line.title)
    if any(SEPARATOR.fullmatch(line.words) for _, line in window.above(1)):
        return -1, title_line.title
    if title_line.end is not End.MARK:
        return 0, title_line.title
    cause = _cause_above(window) if title_line.kind == "oops" else None
    first, title = cause or (0, title_line.title)
    for above, line in window.above(_MESSAGE_LINES, first - 1):
        if CUT_HERE.fullmatch(line.words):
            return _above_cut(window, above, title)
    return first, title


def _dump_head_above(window: Window) -> tuple[int, str] | None:
    """Return the line above a bare call trace with which dump_stack() begins, and its words."""
    for above, line in window.above(_MESSAGE_LINES):
        if window.pauses_before(above + 1):
            return None
        if DUMP_HEAD.fullmatch(line.words):
            return above, line.words
    return None


def _cause_above(window: Window) -> tuple[int, str] | None:
    """Return the line above die()'s that says what happened, and its words."""
    for above, line in window.above(_CAUSE_LINES):
        if CAUSE.fullmatch(line.words):
            return above, line.words
    return None


def _above_cut(window: Window, cut: int, title: str) -> tuple[int, str]:
    """Return the line with which a splat begins that has `cut here`, and the title.

    cut: the number of that line. A line above it may say what it is about.
    """
    for above, line in window.above(-cut + 1, cut - 1):
        if ABOVE_CUT.fullmatch(line.words) and window.is_of_same_caller(above):
            return above, line.words
    if RUST_BUG.fullmatch(title):
        for above, line in window.above(_MESSAGE_LINES, cut - 1):
            if RUST_PANIC.fullmatch(line.words) and window.is_of_same_caller(above):
                said = (
                    window[here] for here in range(above, cut) if window.is_of_same_caller(here)
                )
                return above, " ".join(each.words for each in said)
    return cut, title


def _is_message(window: Window) -> bool:
    """Whether a line is the message of a WARN or a BUG, whose title line is below."""
    if not any(CUT_HERE.fullmatch(line.words) for _, line in window.above(1)):
        return False
    for here, line in window.below(_MESSAGE_LINES):
        if window.pauses_before(here) or CUT_HERE.fullmatch(line.words):
            return False
        row = row_of(line.words) if window.is_of_same_caller(here) else None
        if row and row.end is End.MARK:
            return True
    return False


def _lacks_trace(splat: Splat) -> bool:
    """Whether it is a report without its call trace."""
    words = (STAMP.sub("", line, count=1) for line in splat.text.split("\n"))
    return splat.kind in _REPORTS and not any(TRACE_HEAD.fullmatch(each) for each in words)


def _is_rest_of(broken: Splat, splat: Splat) -> bool:
    """Whether a call trace of its own is that of a report in which another splat stands."""
    now, before = splat.guest_time_s, broken.guest_time_s
    soon = now is None or before is None or now - before <= _REST_S
    is_same = splat.pid is not None and splat.pid == broken.pid
    return splat.kind == "call trace" and is_same and soon


def _is_explained(window: Window) -> bool:
    """Whether somebody asked for a call trace, or it is a test's, by what stands above its head."""
    for above, line in window.above(LINES_ABOVE):
        # Directly above, the head of a trace is that of the same one.
        if window.pauses_before(above + 1) or (above < -1 and TRACE_HEAD.fullmatch(line.words)):
            return False
        if EXPLAINED.fullmatch(line.words):
            return True
    return False


# Where a splat says on which CPU and under which task it came; the first that is found counts.
_CPUS = (
    re.compile(r"CPU: (\d+) (?:UID: \d+ )?PID: \d+"),
    re.compile(r"CPU#(\d+)[: ]"),
    re.compile(r"^CPU (\d+) Unable to handle", re.MULTILINE),
    re.compile(r"on (?:cpu|CPU) ?(\d+)"),
)
_TASKS = (
    re.compile(r"INFO: task (?P<task>.{1,80}):(?P<pid>\d+) blocked ", re.DOTALL),
    re.compile(r"CPU#\d+ stuck for \d+s! \[(?P<task>.*):(?P<pid>\d+)\]", re.DOTALL),
    re.compile(r"note: (?P<task>.*)\[(?P<pid>\d+)\] exited with", re.DOTALL),
    re.compile(
        r"CPU: \d+ (?:UID: \d+ )?PID: (?P<pid>\d+) Comm: (?P<task>.*?)"
        r"(?: Kdump: loaded)?(?: Not tainted| Tainted: |$)",
        re.MULTILINE,
    ),
    re.compile(r"WARNING: CPU: \d+ PID: (?P<pid>\d+) at (?P<task>)"),
    re.compile(r"WARNING: .*, CPU#\d+: (?P<task>.*)/(?P<pid>\d+)$", re.MULTILINE),
    re.compile(r"BUG: scheduling .*: (?P<task>.*)/(?P<pid>\d+)/"),
    re.compile(r"pid: (?P<pid>\d+), name: (?P<task>.*)"),
    re.compile(r"^Process (?P<task>.*) \(pid: (?P<pid>\d+),", re.MULTILINE),
    re.compile(r" by task (?P<task>.*)/(?P<pid>\d+)"),
    re.compile(r"(?P<task>\S+)/(?P<pid>\d+) (?:is trying|still has locks|is freeing|is leaving)"),
    re.compile(r"Killed process (?P<pid>\d+) \((?P<task>.*?)\)"),
)


def _splat(window: Window, title_line: _TitleLine, first: int, last: Line, complete: bool) -> Splat:
    text = window.text(first, last)
    own = window.own_words(first, last)
    cpu = next((int(found[1]) for each in _CPUS if (found := each.search(own))), None)
    by = next((found for each in _TASKS if (found := each.search(own))), None)
    caller = title_line.line.caller
    if cpu is None and caller.startswith("C"):
        cpu = int(caller[1:])
    pid = int(by["pid"]) if by else int(caller[1:]) if caller.startswith("T") else None
    return Splat(
        kind=title_line.kind,
        title=title_line.title,
        text=text,
        start=window[first].start,
        end=last.end,
        complete=complete,
        guest_time_s=window[first].seconds,
        cpu=cpu,
        pid=pid,
        task=by["task"] if by else "",
    )


# On arm64, the CPU of an exception that never returned warns of its context tracking when it is
# idle the next time, or goes back to a program (kernel/context_tracking.c; before 6.0 in
# kernel/rcu/tree.c, rcu_eqs_enter()).
_CONTEXT_TRACKING = re.compile(
    r"WARNING: .*\bkernel/(?:context_tracking|rcu/tree|entry/common)\.c:\d+ "
)


def _has_died(splat: Splat) -> bool:
    """Whether it ended the task under which it came."""
    return splat.kind == "oops" or bool(DIES.search(splat.text))


def belongs_to(oops: Splat, splat: Splat) -> bool:
    """Return whether a splat is a consequence of an oops that came before it.

    The kernel kills the task and goes on without what that task had not given back. What the task
    itself prints while it is ended belongs to the oops, and so does the warning about context
    tracking on its CPU. Nothing that another task or CPU prints does, however soon it comes. A
    panic never does.

    Args:
        oops: The earlier one; if it ended no task, nothing belongs to it.
        splat: The later one.
    """
    if not _has_died(oops) or splat.start < oops.end or splat.fatal:
        return False
    if splat.pid is not None and splat.pid == oops.pid and oops.pid != 0:
        return True
    same_cpu = splat.cpu is not None and splat.cpu == oops.cpu
    return same_cpu and bool(_CONTEXT_TRACKING.search(splat.title))
