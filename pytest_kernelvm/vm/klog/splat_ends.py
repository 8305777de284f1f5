"""Where a splat ends."""

from __future__ import annotations

import enum
import re

from pytest_kernelvm.vm.klog.splat_context import (
    BEFORE_CUT,
    BEFORE_TRACE,
    BEGINS_TO_DIE,
    DUMP_HEAD,
    EXPLAINED,
    FRAME,
    ONE_EVENT,
    SAID_AGAIN,
    STALL_LINE,
    STALLS,
    TRACE_HEAD,
)
from pytest_kernelvm.vm.klog.splat_kinds import End
from pytest_kernelvm.vm.klog.splat_lines import Line
from pytest_kernelvm.vm.klog.splat_table import kind_of
from pytest_kernelvm.vm.klog.splat_window import (
    CUT_HERE,
    END_MARK,
    LINES_ABOVE,
    MOST_LINES,
    SEPARATOR,
    Window,
)

# Frames, what arm64, mips, s390, arm and powerpc print among them, and x86's registers.
_TRACE_LINE = re.compile(
    r"Exception stack\(0x[0-9a-f]+ to 0x[0-9a-f]+\)|[0-9a-f]{4}: [ 0-9a-f?]*"
    r"|[ \t].*|\(?\[<[0-9a-f]+>\].*||Code: .*|</?[\w#]+>|\.\.\.|\(.*\)|-{3,} interrupt: .*"
    r"|(?:NIP|LR|REGS|MSR|CFAR|GPR\d\d)[: ].*|(?:[RE][A-Z]{2}|R\d\d|[A-Z]S|CR\d|ORIG_RAX): .*"
)
# What is of the splat of its task for sure, however long a slow guest took to print what is above.
_CERTAIN_LINE = re.compile(
    rf"{FRAME}|</?[\w#]+>|Code: .*"
    r"|(?:RIP|Hardware name|Modules linked in|pstate|pc|lr|sp|x\d+|epc|status) ?: ?.*"
    r"|(?:RSP|RAX|RDX|RBP|R10|R13|FS|CS|CR2|DR0|DR3): .*"
)
# So long may that take.
_SLOW_S = 10.0
_KILLED = re.compile(r"(?:Memory cgroup o|O)ut of memory: Kill.*|Out of memory and no killable .*")


def last_line(window: Window, end: End, kind: str) -> tuple[Line, bool]:
    """Return the last line of a splat, and whether it is known to be that.

    Args:
        window: The lines around its title line.
        end: How such a splat ends.
        kind: The kind of splat.
    """
    return _LAST_LINES[end](window, kind)


def _last_by_mark(window: Window, kind: str) -> tuple[Line, bool]:
    """Return the last line of a splat that ends with a mark, and whether it is known to be that."""
    if kind == "panic":
        return window.end_of_panic()
    in_trace = False
    framed = any(SEPARATOR.fullmatch(line.words) for _, line in window.above(1))
    for here, line in window.below(MOST_LINES - 1):
        if END_MARK.fullmatch(line.words) or (framed and SEPARATOR.fullmatch(line.words)):
            return line, True
        heads = kind in BEFORE_CUT and here == 1 and bool(CUT_HERE.fullmatch(line.words))
        if not heads and _is_another(window, here, kind, in_trace):
            return window[here - 1], True
        in_trace = in_trace or bool(TRACE_HEAD.fullmatch(line.words))
    return window.last_of(MOST_LINES - 1)


def _last_by_frame(window: Window, kind: str) -> tuple[Line, bool]:
    for here, line in window.below(MOST_LINES - 1):
        if SEPARATOR.fullmatch(line.words):
            return line, True
        if _is_another(window, here, kind, in_trace=False):
            return window[here - 1], True
    return window.last_of(MOST_LINES - 1)


def _last_by_trace(window: Window, kind: str) -> tuple[Line, bool]:
    return _WithTrace(window, kind).last_line()


class _LineKind(enum.Enum):
    """What a line is in a splat that ends with its call trace."""

    HEAD = "the head of a call trace"
    NEXT = "what says that another call trace follows"
    ABOVE = "what is surely of the report, above its call trace"
    TRACE = "a call trace, or what another CPU or task says meanwhile"
    OTHER = "something that may be of the report or not"


class _WithTrace:
    """A splat that ends with its call trace, read line by line.

    Without a call trace it is the title line and what is indented below it.
    """

    def __init__(self, window: Window, kind: str) -> None:
        self._window = window
        self._kind = kind
        self._in_trace = bool(TRACE_HEAD.fullmatch(window[0].words))
        self._last = window[0] if self._in_trace else None
        # The lines that do not count when a call trace is waited for.
        self._passed = 0

    def last_line(self) -> tuple[Line, bool]:
        """Return its last line, and whether it is known to be that."""
        for here, line in self._window.below(MOST_LINES - 1):
            if self._last and self._is_said_again(line):
                return line, True
            if _is_another(self._window, here, self._kind, self._in_trace):
                return self._last_before(here), True
            if _is_next_one(line, self._kind) or not self._takes(here, line):
                return self._so_far(), True
        if self._last and self._in_trace:
            return self._window.last_of(MOST_LINES - 1)
        return self._so_far(), False

    def _is_said_again(self, line: Line) -> bool:
        return self._kind == "duplicate name" and bool(SAID_AGAIN.fullmatch(line.words))

    def _so_far(self) -> Line:
        return self._last or _last_indented(self._window)

    def _last_before(self, here: int) -> Line:
        """Return the last line of a splat that another one follows, or a pause."""
        # All that lockdep says is of its report, even if an oops of the task breaks it off.
        is_whole = self._kind == "lockdep" and not self._window.pauses_before(here)
        return self._window[here - 1] if is_whole and not self._last else self._so_far()

    def _takes(self, here: int, line: Line) -> bool:
        """Take a line; return whether the splat goes on."""
        kind = self._kind_of_line(here, line)
        if kind is _LineKind.HEAD:
            self._in_trace, self._last = True, line
        elif kind is _LineKind.NEXT:
            self._in_trace, self._passed = False, here
        elif kind is _LineKind.ABOVE:
            self._passed += 1
        elif kind is _LineKind.TRACE:
            self._last = line
        else:
            return not self._in_trace and here - self._passed <= LINES_ABOVE
        return True

    def _kind_of_line(self, here: int, line: Line) -> _LineKind:
        if TRACE_HEAD.fullmatch(line.words):
            return _LineKind.HEAD
        if not self._in_trace:
            is_above = _is_before_trace(self._window, here, self._kind)
            return _LineKind.ABOVE if is_above else _LineKind.OTHER
        if self._kind in STALLS and _announces_trace(self._window, here, self._kind):
            return _LineKind.NEXT
        is_others = not self._window.is_of_same_caller(here)
        return _LineKind.TRACE if is_others or _goes_on(line, self._kind) else _LineKind.OTHER


def _announces_trace(window: Window, here: int, kind: str) -> bool:
    """Return whether a line in a report of a stall says that another call trace follows.

    For the CPU that reports the stall the trace comes as for any other (kernel/sched/core.c,
    dump_cpu_task()).
    """
    words = window[here].words
    if EXPLAINED.fullmatch(words) or words.startswith("rcu: Stack dump where "):
        return True
    is_same = kind == "RCU stall" and window.is_of_same_caller(here)
    return is_same and bool(DUMP_HEAD.fullmatch(words))


def _is_before_trace(window: Window, here: int, kind: str) -> bool:
    """Whether a line above a call trace is of its report, beyond doubt."""
    line = window[here]
    if not window.is_of_same_caller(here):
        return False
    in_whole = kind in ("lockdep", "workqueue lockup") and _goes_on(line, kind)
    return in_whole or bool(BEFORE_TRACE.fullmatch(line.words))


def _goes_on(line: Line, kind: str) -> bool:
    """Whether a line may stand in or below a call trace of its splat."""
    return bool(
        _TRACE_LINE.fullmatch(line.words) or (kind in STALLS and STALL_LINE.fullmatch(line.words))
    )


def _is_next_one(line: Line, kind: str) -> bool:
    """Whether another splat of the same kind begins, where one event has one title line."""
    return kind in ONE_EVENT and kind_of(line.words) == kind


def _last_by_kill(window: Window, kind: str) -> tuple[Line, bool]:
    """The OOM killer prints what memory is used for before it says what it killed."""
    if _KILLED.fullmatch(window[0].words):
        return window[0], True
    for here, line in window.below(MOST_LINES - 1):
        if _KILLED.fullmatch(line.words):
            return line, True
        if _is_another(window, here, kind, in_trace=False):
            return window[here - 1], True
    return window.last_of(MOST_LINES - 1)


def _last_by_indent(window: Window, _kind: str) -> tuple[Line, bool]:
    return _last_indented(window), True


_LAST_LINES = {
    End.MARK: _last_by_mark,
    End.FRAME: _last_by_frame,
    End.TRACE: _last_by_trace,
    End.KILL: _last_by_kill,
    End.LINE: _last_by_indent,
}


def _last_indented(window: Window) -> Line:
    last = window[0]
    for _here, line in window.below(MOST_LINES - 1):
        if line.words[:1] not in (" ", "\t"):
            break
        last = line
    return last


def _is_another(window: Window, here: int, kind: str, in_trace: bool) -> bool:
    """Whether a line is of something else: another splat, or much later."""
    if window.pauses_before(here):
        return not _goes_on_slowly(window, here, in_trace)
    words = window[here].words
    other = kind_of(words)
    if not other:
        return bool(CUT_HERE.fullmatch(words))
    if TRACE_HEAD.fullmatch(words) or other == kind == "RCU stall":
        return False
    if not window.is_of_same_caller(here):
        # A second task that begins to die prints its first lines, and the rest when the first one
        # is through with die() (arch/arm64/mm/fault.c, die_kernel_fault()).
        waits = kind == "oops" and BEGINS_TO_DIE.fullmatch(words)
        return in_trace or not waits
    return in_trace or not {kind, other} <= ONE_EVENT


def _goes_on_slowly(window: Window, here: int, in_trace: bool) -> bool:
    """Whether a line that came late is of the splat nevertheless: of its task, and never alone."""
    line = window[here]
    if not line.caller or line.caller != window[0].caller or window.pause_s(here) > _SLOW_S:
        return False
    # Behind a call trace, the head of one may be that of another event.
    goes_on = (_CERTAIN_LINE, END_MARK) if in_trace else (_CERTAIN_LINE, DUMP_HEAD, TRACE_HEAD)
    return any(each.fullmatch(line.words) for each in goes_on)
