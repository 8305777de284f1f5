"""Splats: what a kernel prints when it finds something wrong, from the first line to the last.

splat_table.py has what it prints, splat_lines.py how its lines are told from those of programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pytest_kernelvm.vm.splat_lines import ConsoleLines, Line, LogLines, guest_seconds
from pytest_kernelvm.vm.splat_table import (
    BEFORE_CUT,
    CAUSE,
    DUMP_HEAD,
    EXPLAINED,
    HINT,
    NAME_FOLLOWS,
    ONE_EVENT,
    SAID_AGAIN,
    STALL_LINE,
    STALLS,
    TRACE_HEAD,
    End,
    row_of,
)

__all__ = [
    "HINT",
    "LINES_ABOVE",
    "Splat",
    "belongs_to",
    "guest_seconds",
    "kind_of",
    "read_log_splats",
    "read_splats",
]

_CUT_HERE = re.compile(r"-+\[ cut here \]-+|8<--- cut here ---")
_FRAME = re.compile(r"={20,}")
_END_MARK = re.compile(r"---\[ end (?:trace|Kernel panic).*")
# Frames, what arm64, mips, s390, arm and powerpc print among them, and x86's registers.
_TRACE_LINE = re.compile(
    r"[ \t].*|\(?\[<[0-9a-f]+>\].*||Code: .*|</?[\w#]+>|\.\.\.|\(.*\)|-{3,} interrupt: .*"
    r"|(?:NIP|LR|REGS|MSR|CFAR|GPR\d\d)[: ].*|(?:[RE][A-Z]{2}|R\d\d|[A-Z]S|CR\d|ORIG_RAX): .*"
)
_KILLED = re.compile(r"(?:Memory cgroup o|O)ut of memory: Kill.*|Out of memory and no killable .*")

# How far above the telling line `cut here` may stand: a WARN's own message is in between.
_MESSAGE_LINES = 12
# A call trace that comes at all begins within so many lines; so far above its head stands what it
# is for. Who reads a part of a text gives so many lines above what is new.
LINES_ABOVE = 40
# How far above die()'s line the cause is told, and over how many lines names with newlines go.
_CAUSE_LINES = 3
_NAME_LINES = 3
# No splat is longer: other CPUs may talk in between.
_MOST_LINES = 200
# What comes so much later in the guest's time belongs to something else.
_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Splat:
    """One thing that the kernel found wrong.

    kind: `WARNING`, `oops`, `soft lockup`, … title: its telling line without the time, the kernel's
    words alone. text: all its lines. start, end: where they are in the text that was read, or of a
    log which records, the end not included. complete: whether its last line was recognised; else it
    may go on. guest_time_s: of its first line, None where lines carry no time. cpu, pid, task: on
    which CPU and under which task it came, None and empty if it does not say.
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


def kind_of(words: str) -> str:
    """Return the kind of splat that a line without its time begins, empty if it begins none."""
    row = row_of(words)
    return row.kind if row else ""


def read_splats(text: str, start: int = 0, *, stamped: bool | None = None) -> tuple[Splat, ...]:
    """Return the splats of a console or of a log that was made text.

    start: where to begin to read, at the beginning of a line. Ends of lines may be CR LF.
    stamped: whether the kernel's lines carry time stamps, so that a line without one is a
    program's; None to find out from what stands above each line. A splat begins where the kernel's
    words begin, which may be behind what a program left unfinished.
    """
    return tuple(_Reader(ConsoleLines(text, stamped), start).splats())


def read_log_splats(text: str) -> tuple[Splat, ...]:
    """Return the splats of the kernel's own log.

    text: of its records and no program's, each as kernel_log.shown() gives it.
    """
    return tuple(_Reader(LogLines(text)).splats())


class _Window:
    """The lines around one that tells something, read as they are asked for.

    Counted from that one, which is 0; those above it are -1, -2, …
    """

    def __init__(self, source: ConsoleLines, telling: Line, begin: int, floor: int) -> None:
        self._source = source
        self._begin = begin
        self._floor = floor
        self._above: list[Line] = []
        self._lines = [telling]

    def __getitem__(self, here: int) -> Line:
        return self._lines[here] if here >= 0 else self._above[-here - 1]

    def above(self, most: int, start: int = -1) -> Iterator[tuple[int, Line]]:
        """Give the lines above, from `start` upwards, with their numbers, at most down to -most."""
        for here in range(start, -most - 1, -1):
            if not self._has_above(here):
                return
            yield here, self[here]

    def below(self, most: int) -> Iterator[tuple[int, Line]]:
        """Give the lines below the one that tells it, with their numbers, up to `most`."""
        for here in range(1, most + 1):
            if not self._reaches(here):
                return
            yield here, self._lines[here]

    def last_of(self, most: int) -> tuple[Line, bool]:
        """Return the last line, and whether the text ends later than after `most` lines."""
        here = 0
        while here < most and self._reaches(here + 1):
            here += 1
        return self[here], here == most

    def end_of_panic(self) -> tuple[Line, bool]:
        """Return the last line of a panic: what follows it is a part of it."""
        text, at = self._source.text, self[0].end
        while (at := text.find("---[ end Kernel panic", at)) >= 0:
            line = self._source.next(self._source.beginning(at, self[0].end))
            if line and _END_MARK.fullmatch(line.words):
                return line, True
            at += 1
        last = self._source.next(self._source.beginning(len(text) - 1, self[0].start))
        return last if last and last.start > self[0].start else self[0], False

    def pauses_before(self, here: int) -> bool:
        """Whether a line came so much later than the one above it that it is of something else."""
        now, before = self[here].seconds, self[here - 1].seconds
        return now is not None and before is not None and now - before > _PAUSE_S

    def is_of_same_caller(self, here: int) -> bool:
        """Whether a line is of the task or CPU that told it, as far as lines say so."""
        one, other = self[0].caller, self[here].caller
        return not one or not other or one == other

    def text(self, first: int, last: Line) -> str:
        """Return the text from a line to another."""
        whole = self._source.text[self[first].start : last.end]
        return whole.replace("\r", "").rstrip("\n")

    def own_words(self, first: int, last: Line) -> str:
        """Return the words from a line to another, without those of other tasks and CPUs."""
        lines = [self[here] for here in range(first, 1) if self.is_of_same_caller(here)]
        for here, line in self.below(_MOST_LINES):
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
            line = self._source.next(self._lines[-1].end)
            if not line:
                return False
            self._lines.append(line)
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Telling:
    """What a line tells: kind, how it ends, and its words, with those of the lines over which a
    task's name goes.
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
        """Give one after the other."""
        text, at = self._source.text, self._floor
        died: Splat | None = None
        while hint := HINT.search(text, at):
            begin = self._source.beginning(hint.start(), self._floor)
            splat = self._splat_on(begin)
            if splat:
                self._floor = splat.end
                died = splat if _has_died(splat) else died
                # The end of the task is part of the event, which its oops tells.
                if not (died and splat.title.startswith("note: ") and belongs_to(died, splat)):
                    yield splat
            at = splat.end if splat else text.find("\n", hint.end()) + 1 or len(text)

    def _splat_on(self, begin: int) -> Splat | None:
        """Return the splat of which the line that begins at an offset tells."""
        found = self._source.telling(begin)
        if found:
            line, row = found
            told = _Telling(line=line, kind=row.kind, end=row.end, title=line.words)
        elif over_lines := self._over_lines(begin):
            told = over_lines
        else:
            return None
        window = _Window(self._source, told.line, begin, self._floor)
        if told.is_bare_trace and _is_explained(window):
            return None
        first, title = _first(window, told)
        last, complete = _LASTS[told.end](window, told.kind)
        return _splat(window, replace(told, title=title), first, last, complete)

    def _over_lines(self, begin: int) -> _Telling | None:
        """Return what a line tells in which a task's name has newlines."""
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
                return _Telling(line=line, kind=row.kind, end=row.end, title=words)
        return None


def _first(window: _Window, told: _Telling) -> tuple[int, str]:
    """Return the line with which a splat begins, and the title."""
    if told.is_bare_trace:
        for above, line in window.above(_MESSAGE_LINES):
            if window.pauses_before(above + 1):
                break
            if DUMP_HEAD.fullmatch(line.words):
                return above, line.words
        return 0, told.title
    if any(_FRAME.fullmatch(line.words) for _, line in window.above(1)):
        return -1, told.title
    if told.end is not End.MARK:
        return 0, told.title
    first, title = 0, told.title
    if told.kind == "oops":
        causes = (each for each in window.above(_CAUSE_LINES) if CAUSE.fullmatch(each[1].words))
        first, title = next(((at, line.words) for at, line in causes), (first, title))
    for above, line in window.above(_MESSAGE_LINES, first - 1):
        if _CUT_HERE.fullmatch(line.words):
            return above, title
    return first, title


def _is_explained(window: _Window) -> bool:
    """Whether somebody asked for a call trace, or it is a test's, by what stands above its head."""
    for above, line in window.above(LINES_ABOVE):
        if window.pauses_before(above + 1) or TRACE_HEAD.fullmatch(line.words):
            return False
        if EXPLAINED.fullmatch(line.words):
            return True
    return False


def _last_by_mark(window: _Window, kind: str) -> tuple[Line, bool]:
    """Return the last line of a splat that ends with a mark, and whether it is known to be that."""
    if kind == "panic":
        return window.end_of_panic()
    in_trace = False
    framed = any(_FRAME.fullmatch(line.words) for _, line in window.above(1))
    for here, line in window.below(_MOST_LINES - 1):
        if _END_MARK.fullmatch(line.words) or (framed and _FRAME.fullmatch(line.words)):
            return line, True
        heads = kind in BEFORE_CUT and here == 1 and bool(_CUT_HERE.fullmatch(line.words))
        if not heads and _is_another(window, here, kind, in_trace):
            return window[here - 1], True
        in_trace = in_trace or bool(TRACE_HEAD.fullmatch(line.words))
    return window.last_of(_MOST_LINES - 1)


def _last_by_frame(window: _Window, kind: str) -> tuple[Line, bool]:
    for here, line in window.below(_MOST_LINES - 1):
        if _FRAME.fullmatch(line.words):
            return line, True
        if _is_another(window, here, kind, in_trace=False):
            return window[here - 1], True
    return window.last_of(_MOST_LINES - 1)


def _last_by_trace(window: _Window, kind: str) -> tuple[Line, bool]:
    """Without a call trace it is the telling line and what is indented below it."""
    in_trace = bool(TRACE_HEAD.fullmatch(window[0].words))
    last, announced = (window[0], 0) if in_trace else (None, 0)
    for here, line in window.below(_MOST_LINES - 1):
        if last and kind == "duplicate name" and SAID_AGAIN.fullmatch(line.words):
            return line, True
        if _is_another(window, here, kind, in_trace) or _is_next_one(line, kind):
            return last or _last_indented(window), True
        if TRACE_HEAD.fullmatch(line.words):
            in_trace, last = True, line
        elif kind in STALLS and in_trace and EXPLAINED.fullmatch(line.words):
            in_trace, announced = False, here
        elif in_trace and (_goes_on(line, kind) or not window.is_of_same_caller(here)):
            last = line
        elif in_trace or here - announced > LINES_ABOVE:
            return last or _last_indented(window), True
    if last and in_trace:
        return window.last_of(_MOST_LINES - 1)
    return last or _last_indented(window), False


def _goes_on(line: Line, kind: str) -> bool:
    """Whether a line may stand in or below a call trace of its splat."""
    return bool(
        _TRACE_LINE.fullmatch(line.words) or (kind in STALLS and STALL_LINE.fullmatch(line.words))
    )


def _is_next_one(line: Line, kind: str) -> bool:
    """Whether another splat of the same kind begins, where one event has one telling line."""
    return kind in ONE_EVENT and kind_of(line.words) == kind


def _last_by_kill(window: _Window, kind: str) -> tuple[Line, bool]:
    """The OOM killer tells what memory is used for before it says what it killed."""
    if _KILLED.fullmatch(window[0].words):
        return window[0], True
    for here, line in window.below(_MOST_LINES - 1):
        if _KILLED.fullmatch(line.words):
            return line, True
        if _is_another(window, here, kind, in_trace=False):
            return window[here - 1], True
    return window.last_of(_MOST_LINES - 1)


_LASTS = {
    End.MARK: _last_by_mark,
    End.FRAME: _last_by_frame,
    End.TRACE: _last_by_trace,
    End.KILL: _last_by_kill,
}


def _last_indented(window: _Window) -> Line:
    last = window[0]
    for _here, line in window.below(_MOST_LINES - 1):
        if line.words[:1] not in (" ", "\t"):
            break
        last = line
    return last


def _is_another(window: _Window, here: int, kind: str, in_trace: bool) -> bool:
    """Whether a line is of something else: another splat, or much later."""
    if window.pauses_before(here):
        return True
    words = window[here].words
    other = kind_of(words)
    if not other:
        return bool(_CUT_HERE.fullmatch(words))
    if TRACE_HEAD.fullmatch(words) or other == kind == "RCU stall":
        return False
    if not window.is_of_same_caller(here):
        return True
    return in_trace or not {kind, other} <= ONE_EVENT


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


def _splat(window: _Window, told: _Telling, first: int, last: Line, complete: bool) -> Splat:
    text = window.text(first, last)
    own = window.own_words(first, last)
    cpu = next((int(found[1]) for each in _CPUS if (found := each.search(own))), None)
    by = next((found for each in _TASKS if (found := each.search(own))), None)
    caller = told.line.caller
    if cpu is None and caller.startswith("C"):
        cpu = int(caller[1:])
    pid = int(by["pid"]) if by else int(caller[1:]) if caller.startswith("T") else None
    return Splat(
        kind=told.kind,
        title=told.title,
        text=text,
        start=window[first].start,
        end=last.end,
        complete=complete,
        guest_time_s=window[first].seconds,
        cpu=cpu,
        pid=pid,
        task=by["task"] if by else "",
    )


# die() counts its oopses in its first line, but on m68k.
_DIED = re.compile(r"\[#\d+\]")
# On arm64, the CPU of an exception that never returned warns of its context tracking when it is
# idle the next time, or goes back to a program (kernel/context_tracking.c; before 6.0 in
# kernel/rcu/tree.c, rcu_eqs_enter()).
_CONTEXT_TRACKING = re.compile(
    r"WARNING: .*\bkernel/(?:context_tracking|rcu/tree|entry/common)\.c:\d+ "
)


def _has_died(splat: Splat) -> bool:
    """Whether it ended the task under which it came."""
    return splat.kind == "oops" or bool(_DIED.search(splat.text))


def belongs_to(oops: Splat, splat: Splat) -> bool:
    """Return whether a splat comes of an oops that was before it.

    The kernel kills the task and goes on with whatever that had not put back. What that task itself
    says while it is ended belongs to the oops, and the warning about context tracking on its CPU;
    nothing that another task or CPU says does, however soon it comes. A panic is never aftermath.
    """
    if not _has_died(oops) or splat.start < oops.end or splat.fatal:
        return False
    if splat.pid is not None and splat.pid == oops.pid and oops.pid != 0:
        return True
    same_cpu = splat.cpu is not None and splat.cpu == oops.cpu
    return same_cpu and bool(_CONTEXT_TRACKING.search(splat.title))
