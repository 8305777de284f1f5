"""Splats: what a kernel prints when it finds something wrong, from the first line to the last."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# The words that printk puts in front of a line: level, time, caller (kernel/printk/printk.c).
PREFIX = re.compile(
    r"(?:<\d+>)?(?:\[ *(?P<seconds>\d+\.\d+)\](?: *\[ *[TC]\d+\])? ?)?"
    r"(?P<words>[^\n]*?)\r?(?P<end>\n|\Z)"
)

# Kind, how its text ends, and its telling line; the first that fits decides. From kernel/panic.c,
# kernel/locking/lockdep.c, kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h,
# kernel/sched/core.c, mm/kasan/report.c, mm/slub.c, lib/ubsan.c, lib/list_debug.c and
# arch/*/kernel/traps.c, arch/*/mm/fault.c.
MARK, FRAME, TRACE = "an end mark", "a second frame", "the call trace's end"
KINDS = (
    ("panic", MARK, r"Kernel panic - not syncing: .*"),
    ("KASAN", FRAME, r"BUG: KASAN: .*"),
    ("KCSAN", FRAME, r"BUG: KCSAN: .*"),
    ("KMSAN", FRAME, r"BUG: KMSAN: .*"),
    ("KFENCE", FRAME, r"BUG: KFENCE: .*"),
    ("UBSAN", MARK, r"UBSAN: .*"),
    (
        "lockdep",
        TRACE,
        r"WARNING: (?:possible (?:circular|recursive|irq lock)|inconsistent lock state"
        r"|\S+-safe -> \S+-unsafe lock order|Nested lock was not taken|bad (?:unlock|contention)"
        r"|held lock freed|lock held when returning|suspicious RCU usage|chain_key collision).*"
        r"|\[ BUG: .* \]|BUG: MAX_LOCK.* too low!|INFO: trying to register non-static key\."
        r"|BUG: key \S+ has not been registered!",
    ),
    ("RCU stall", TRACE, r"(?:rcu: )?INFO: \w+ (?:self-)?detected (?:expedited )?stalls?\b.*"),
    ("hung task", TRACE, r"INFO: task .* blocked for more than \d+ seconds\."),
    ("soft lockup", TRACE, r"(?:watchdog: )?BUG: soft lockup - .*"),
    ("hard lockup", TRACE, r"(?:NMI )?(?:watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP.*"),
    ("workqueue lockup", TRACE, r"(?:workqueue: )?BUG: workqueue lockup - .*"),
    (
        "atomic context",
        TRACE,
        r"BUG: (?:scheduling (?:while atomic|in a non-blocking section): |sleeping function called"
        r" |assuming (?:atomic|non migratable) context |using \S+ in preemptible ).*"
        r"|(?:workqueue: )?BUG: workqueue leaked .*",
    ),
    ("list corruption", MARK, r"list_(?:add|del) (?:double add|corruption).*"),
    ("slab corruption", TRACE, r"BUG \S+ \(.*\): .*"),
    ("damaged initramfs", TRACE, r"Initramfs unpacking failed: .*"),
    ("memory leak", TRACE, r"kmemleak: \d+ new suspected memory leaks.*"),
    ("WARNING", MARK, r"WARNING: CPU: \d+ PID: \d+ at .*|WARNING: \S+:\d+ at .*, CPU#\d+: .*"),
    (
        "oops",
        MARK,
        r"Unable to handle kernel .*|CPU \d+ Unable to handle kernel .*"
        r"|BUG: (?:unable to handle|kernel NULL pointer) .*|Internal error: .*"
        r"|Insufficient stack space to handle exception!|SError Interrupt on CPU\d+.*"
        r"|(?!Kernel bug detected)[A-Z][\w ]{0,60}\[#\d+\]:?.*|Oops: .*",
    ),
    ("BUG", MARK, r"kernel BUG at .*|Kernel bug detected\[#\d+\]:"),
    ("BUG", TRACE, r"BUG: .*"),
)
SPLAT = re.compile("|".join(f"(?P<k{at}>{line})" for at, (_kind, _end, line) in enumerate(KINDS)))
# What any of the telling lines holds: to pass over text without looking at each of its lines.
HINT = re.compile(
    r"BUG|WARNING: |INFO: |panic - |UBSAN|Unable to handle|Internal error|\[#\d|Oops|LOCKUP"
    r"|corruption|kmemleak|unpacking failed|Insufficient stack|SError"
)

_CUT_HERE = re.compile(r"-+\[ cut here \]-+")
_FRAME = re.compile(r"={20,}")
_END_MARK = re.compile(r"---\[ end (?:trace|Kernel panic).*")
_TRACE_HEAD = re.compile(r"Call [Tt]race:.*")
_TRACE_LINE = re.compile(r"[ \t].*|\[<[0-9a-f]+>\].*||Code: .*|</?\w+>|\.\.\.|\(.*\)")

# The same event may be told in several lines that each look like the first one.
_ONE_EVENT = frozenset(("oops", "BUG", "list corruption", "WARNING"))

# How far above the telling line `cut here` may stand: a WARN's own message is in between.
_MESSAGE_LINES = 12
# A call trace that comes at all begins within so many lines.
_HEAD_LINES = 40
# No splat is longer: other CPUs may talk in between.
_MOST_LINES = 200
# What comes so much later in the guest's time belongs to something else.
_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Splat:
    """One thing that the kernel found wrong.

    kind: `WARNING`, `oops`, `soft lockup`, … title: its telling line without the time.
    text: all its lines. start, end: where they are in the text that was read.
    complete: whether its last line was recognised; else it may go on.
    guest_time_s: of its first line, None where lines carry no time.
    """

    kind: str
    title: str
    text: str
    start: int
    end: int
    complete: bool
    guest_time_s: float | None

    @property
    def fatal(self) -> bool:
        """Whether the guest cannot go on."""
        return self.kind == "panic"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    start: int
    end: int
    words: str
    seconds: float | None


def kind_of(words: str) -> str:
    """Return the kind of splat that a line without its time begins, empty if it begins none."""
    return _kind_and_end(words)[0]


def _kind_and_end(words: str) -> tuple[str, str]:
    found = SPLAT.fullmatch(words)
    return KINDS[int(found.lastgroup[1:])][:2] if found and found.lastgroup else ("", "")


def guest_seconds(line: str) -> float | None:
    """Return the time that a line of the kernel's carries, None if it carries none."""
    found = PREFIX.match(line)
    return float(found["seconds"]) if found and found["seconds"] else None


def _lines(text: str, at: int) -> Iterator[_Line]:
    while at < len(text):
        found = PREFIX.match(text, at)
        assert found
        seconds = found["seconds"]
        yield _Line(
            start=at,
            end=found.end(),
            words=found["words"].rstrip("\r"),
            seconds=float(seconds) if seconds else None,
        )
        at = found.end()


def read_splats(text: str, start: int = 0) -> tuple[Splat, ...]:
    """Return the splats of a console or a kernel log.

    start: where to begin to read, at the beginning of a line. Ends of lines may be CR LF.
    """
    if not HINT.search(text, start):
        return ()
    lines = list(_lines(text, start))
    splats: list[Splat] = []
    at = free = 0
    while at < len(lines):
        kind, end = _kind_and_end(lines[at].words)
        if not kind:
            at += 1
            continue
        first = _first(lines, at, free, end)
        last, complete = _LASTS[end](lines, at, kind)
        splats.append(
            Splat(
                kind=kind,
                title=lines[at].words,
                text=text[lines[first].start : lines[last].end].replace("\r", "").rstrip("\n"),
                start=lines[first].start,
                end=lines[last].end,
                complete=complete,
                guest_time_s=lines[first].seconds,
            )
        )
        at = free = last + 1
    return tuple(splats)


def _first(lines: Sequence[_Line], at: int, free: int, end: str) -> int:
    """Return where a splat begins whose telling line is at `at`; not above `free`."""
    if at > free and _FRAME.fullmatch(lines[at - 1].words):
        return at - 1
    if end == MARK:
        for above in range(at - 1, max(free, at - _MESSAGE_LINES) - 1, -1):
            if _CUT_HERE.fullmatch(lines[above].words):
                return above
    return at


def _last_by_mark(lines: Sequence[_Line], at: int, kind: str) -> tuple[int, bool]:
    """Return the last line of a splat that ends with a mark, and whether it is known to be that.

    A panic is what follows it.
    """
    in_trace = False
    for here in range(at + 1, len(lines) if kind == "panic" else _limit(lines, at)):
        words = lines[here].words
        if _END_MARK.fullmatch(words):
            return here, True
        if kind == "panic":
            continue
        # lib/list_debug.c tells what it found, and then that it is a BUG or WARNING.
        heads = kind == "list corruption" and here == at + 1 and _CUT_HERE.fullmatch(words)
        if not heads and _is_another(lines, here, kind, in_trace):
            return here - 1, True
        in_trace = in_trace or bool(_TRACE_HEAD.fullmatch(words))
    return _cut_off(lines, at, kind)


def _last_by_frame(lines: Sequence[_Line], at: int, kind: str) -> tuple[int, bool]:
    for here in range(at + 1, _limit(lines, at)):
        if _FRAME.fullmatch(lines[here].words):
            return here, True
        if _is_another(lines, here, kind, in_trace=False):
            return here - 1, True
    return _cut_off(lines, at, kind)


def _last_by_trace(lines: Sequence[_Line], at: int, kind: str) -> tuple[int, bool]:
    """Without a call trace it is the telling line and what is indented below it."""
    in_trace = False
    for here in range(at + 1, _limit(lines, at)):
        words = lines[here].words
        if _is_another(lines, here, kind, in_trace):
            return (here - 1 if in_trace else _last_indented(lines, at)), True
        if in_trace and not _TRACE_LINE.fullmatch(words):
            return here - 1, True
        if not in_trace and here - at > _HEAD_LINES:
            return _last_indented(lines, at), True
        in_trace = in_trace or bool(_TRACE_HEAD.fullmatch(words))
    if in_trace:
        return _cut_off(lines, at, kind)
    return _last_indented(lines, at), False


_LASTS = {MARK: _last_by_mark, FRAME: _last_by_frame, TRACE: _last_by_trace}


def _limit(lines: Sequence[_Line], at: int) -> int:
    return min(len(lines), at + _MOST_LINES)


def _cut_off(lines: Sequence[_Line], at: int, kind: str) -> tuple[int, bool]:
    """The text ended before the splat did, or the splat is too long to be one."""
    limit = len(lines) if kind == "panic" else _limit(lines, at)
    return limit - 1, limit < len(lines)


def _last_indented(lines: Sequence[_Line], at: int) -> int:
    while at + 1 < len(lines) and lines[at + 1].words[:1] in (" ", "\t"):
        at += 1
    return at


def _is_another(lines: Sequence[_Line], here: int, kind: str, in_trace: bool) -> bool:
    """Whether a line is of something else: another splat, or much later."""
    now, before = lines[here].seconds, lines[here - 1].seconds
    if now is not None and before is not None and now - before > _PAUSE_S:
        return True
    words = lines[here].words
    other = kind_of(words)
    if not other:
        return bool(_CUT_HERE.fullmatch(words))
    return in_trace or not {kind, other} <= _ONE_EVENT
