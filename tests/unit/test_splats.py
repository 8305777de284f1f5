"""Splats from their first to their last line.

consoles/lkdtm_*.txt are recorded, consoles/splat_*.txt composed from the formats in the kernel's
source, each between two ordinary lines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_kernelvm.vm.klog.kernel_log import console_lines
from pytest_kernelvm.vm.klog.kmsg import LogRecord
from pytest_kernelvm.vm.klog.splats import (
    Splat,
    belongs_to,
    guest_seconds,
    read_log_splats,
    read_splats,
)

CONSOLES = Path(__file__).parent / "consoles"


def console(name: str) -> str:
    return (CONSOLES / f"{name}.txt").read_text()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A console with one splat: its kind, how its title begins, how its first and last line end.

    reported_by: what tells it where the title stands above that.
    """

    console: str
    kind: str
    title: str
    first: str = ""
    last: str
    complete: bool = True
    reported_by: str = ""


TRACE_END = "el0t_64_sync+0x14c/0x150"
END_MARK = "---[ end trace 0000000000000000 ]---"
CUT_HERE = "------------[ cut here ]------------"
FRAME = "=" * 20

ROWS = [
    Row(
        console="lkdtm_aarch64_bug",
        kind="BUG",
        title="kernel BUG at drivers/misc/lkdtm/bugs.c:",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(
        console="lkdtm_aarch64_warning",
        kind="WARNING",
        title="WARNING: CPU: 0 PID: ",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(
        console="lkdtm_aarch64_null",
        kind="oops",
        title="Unable to handle kernel NULL pointer dereference at virtual address 000000000000000",
        last=END_MARK,
    ),
    Row(
        console="lkdtm_aarch64_soft_lockup",
        kind="soft lockup",
        title="watchdog: BUG: soft lockup - CPU#0 stuck for 3s! [provoke:",
        last=TRACE_END,
        complete=False,
    ),
    Row(
        console="lkdtm_aarch64_hung_task",
        kind="hung task",
        title="INFO: task provoke:32 blocked for more than 1 seconds.",
        last=TRACE_END,
        complete=False,
    ),
    Row(
        console="lkdtm_aarch64_panic",
        kind="panic",
        title="Kernel panic - not syncing: dumptest",
        last="Memory Limit: none",
        complete=False,
    ),
    Row(
        console="aarch64_oops",
        kind="oops",
        title="Unable to handle kernel NULL pointer dereference",
        last=END_MARK,
    ),
    Row(
        console="aarch64_warning",
        kind="WARNING",
        title="WARNING: CPU: 0 PID: 44 at net/netfilter/nf_conntrack_core.c:2689",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(console="malta_bug", kind="BUG", title="Kernel bug detected[#1]:", last=END_MARK),
    Row(
        console="splat_kasan",
        kind="KASAN",
        title="BUG: KASAN: slab-out-of-bounds in provoke_init",
        first=FRAME,
        last=FRAME,
    ),
    Row(
        console="splat_kcsan",
        kind="KCSAN",
        title="BUG: KCSAN: data-race in provoke_read / provoke_write",
        first=FRAME,
        last=FRAME,
    ),
    Row(
        console="splat_kfence",
        kind="KFENCE",
        title="BUG: KFENCE: use-after-free read in",
        first=FRAME,
        last=FRAME,
    ),
    Row(
        console="splat_ubsan",
        kind="UBSAN",
        title="UBSAN: shift-out-of-bounds in drivers/misc/provoke.c:17:9",
        first=CUT_HERE,
        last="---[ end trace ]---",
    ),
    Row(
        console="splat_lockdep_circular",
        kind="lockdep",
        title="WARNING: possible circular locking dependency detected",
        first=FRAME,
        last=TRACE_END,
    ),
    Row(
        console="splat_lockdep_wait_context",
        kind="lockdep",
        title="[ BUG: Invalid wait context ]",
        first=FRAME,
        last=TRACE_END,
    ),
    Row(
        console="splat_rcu_suspicious",
        kind="lockdep",
        title="WARNING: suspicious RCU usage",
        first=FRAME,
        last=TRACE_END,
    ),
    Row(
        console="splat_rcu_stall",
        kind="RCU stall",
        title="rcu: INFO: rcu_sched self-detected stall on CPU",
        last=TRACE_END,
    ),
    Row(
        console="splat_rcu_stall_others",
        kind="RCU stall",
        title="rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        last=TRACE_END,
    ),
    Row(
        console="splat_hard_lockup",
        kind="hard lockup",
        title="watchdog: Watchdog detected hard LOCKUP on cpu 1",
        last=TRACE_END,
    ),
    Row(
        console="splat_workqueue_lockup",
        kind="workqueue lockup",
        title="BUG: workqueue lockup - pool cpus=0",
        last="stuck for 34s!",
        complete=False,
    ),
    Row(
        console="splat_atomic",
        kind="atomic context",
        title="BUG: scheduling while atomic: insmod/61/0x00000002",
        last=TRACE_END,
    ),
    Row(
        console="splat_sleeping",
        kind="atomic context",
        title="BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585",
        last=TRACE_END,
    ),
    Row(
        console="splat_list",
        kind="list corruption",
        title="list_add corruption. prev->next should be next",
        last=END_MARK,
    ),
    Row(
        console="splat_slab",
        kind="slab corruption",
        title="BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
        first=FRAME,
        last=TRACE_END,
    ),
    Row(
        console="splat_leak",
        kind="memory leak",
        title="kmemleak: 3 new suspected memory leaks",
        last="(see /sys/kernel/debug/kmemleak)",
        complete=False,
    ),
    Row(
        console="splat_bad_page",
        kind="BUG",
        title="BUG: Bad page state in process insmod",
        last=TRACE_END,
    ),
    Row(
        console="splat_rss",
        kind="BUG",
        title="BUG: Bad rss-counter state",
        last="type:MM_ANONPAGES val:1",
        complete=False,
    ),
    Row(
        console="splat_new_warning",
        kind="WARNING",
        title="WARNING: drivers/misc/provoke.c:17 at provoke_init",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(
        console="splat_mips_die",
        kind="oops",
        title="Reserved instruction in kernel code[#1]:",
        last=END_MARK,
    ),
    Row(
        console="splat_sysfs_duplicate",
        kind="duplicate name",
        title="sysfs: cannot create duplicate filename '/kernel/provoke'",
        last=TRACE_END,
    ),
    Row(
        console="splat_kobject_duplicate",
        kind="duplicate name",
        title="sysfs: cannot create duplicate filename",
        last="register things with the same name in the same directory.",
    ),
    Row(
        console="splat_bare_trace",
        kind="call trace",
        title="CPU: 0 UID: 0 PID: 61 Comm: insmod Not tainted",
        last=TRACE_END,
        reported_by="Call trace:",
    ),
    Row(
        console="splat_locks_held",
        kind="lockdep",
        title="WARNING: insmod/61 still has locks held!",
        first=FRAME,
        last=TRACE_END,
    ),
    Row(
        console="splat_hung_io",
        kind="hung task",
        title="INFO: task provoke:61 blocked in I/O wait for more than 120 seconds.",
        last=TRACE_END,
    ),
    Row(
        console="splat_condition_warning",
        kind="WARNING",
        title="WARNING: [depth > 3] drivers/misc/provoke.c:17 at provoke_init",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(
        console="splat_mips_bus_error",
        kind="oops",
        title="Data bus error, epc == 803a1d38, ra == c00a2044",
        last=END_MARK,
        reported_by="Oops[#1]:",
    ),
    Row(
        console="splat_x86_protection",
        kind="oops",
        title="general protection fault, probably for non-canonical address",
        last=END_MARK,
    ),
    Row(
        console="splat_x86_page_fault",
        kind="oops",
        title="BUG: unable to handle page fault for address: ffffffffc0405000",
        last=END_MARK,
    ),
    Row(
        console="splat_x86_divide",
        kind="oops",
        title="Oops: divide error: 0000 [#1] PREEMPT SMP NOPTI",
        last=END_MARK,
    ),
    Row(
        console="splat_x86_bug",
        kind="BUG",
        title="kernel BUG at drivers/misc/provoke.c:17!",
        first=CUT_HERE,
        last=END_MARK,
    ),
    Row(
        console="splat_s390_pointer",
        kind="oops",
        title="Unable to handle kernel pointer dereference in virtual kernel address",
        last=END_MARK,
    ),
    Row(
        console="splat_s390_operation",
        kind="oops",
        title="illegal operation: 0001 ilc:1 [#1]SMP",
        last=END_MARK,
    ),
    Row(
        console="splat_powerpc_access",
        kind="oops",
        title="Kernel attempted to read user page (0) - exploit attempt?",
        last=END_MARK,
    ),
    Row(
        console="splat_riscv_fault",
        kind="oops",
        title="Unable to handle kernel NULL pointer dereference at virtual address",
        last=END_MARK,
    ),
    Row(
        console="splat_riscv_instruction",
        kind="oops",
        title="Oops - illegal instruction [#1]",
        last=END_MARK,
    ),
    Row(
        console="splat_arm_fault",
        kind="oops",
        title="Unable to handle kernel NULL pointer dereference",
        first="8<--- cut here ---",
        last=END_MARK,
    ),
    Row(
        console="splat_arm_abort",
        kind="oops",
        title="Unhandled fault: imprecise external abort (0x1406)",
        first="8<--- cut here ---",
        last=END_MARK,
        reported_by="Internal error: ",
    ),
    Row(
        console="splat_loongarch_fault",
        kind="oops",
        title="CPU 0 Unable to handle kernel paging request at virtual address",
        last=END_MARK,
    ),
    Row(
        console="splat_oom",
        kind="out of memory",
        title="provoke invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL)",
        last="UID:0 pgtables:180kB oom_score_adj:0",
    ),
    Row(
        console="splat_allocation",
        kind="out of memory",
        title="insmod: page allocation failure: order:10, mode:0xcc0",
        last=TRACE_END,
    ),
    Row(
        console="splat_unregister",
        kind="use count",
        title="unregister_netdevice: waiting for provoke0 to become free.",
        last="Usage count = 2",
    ),
    Row(
        console="splat_irq",
        kind="call trace",
        title="irq 23: nobody cared",
        last=TRACE_END,
    ),
    Row(
        console="splat_old_ubsan",
        kind="UBSAN",
        title="UBSAN: shift-out-of-bounds in drivers/misc/provoke.c:17:9",
        first=FRAME,
        last=FRAME,
    ),
    Row(
        console="splat_busy_inodes",
        kind="use count",
        title="VFS: Busy inodes after unmount of provoke (provokefs)",
        first=CUT_HERE,
        last=END_MARK,
    ),
]


def test_every_recorded_splat_has_its_row() -> None:
    named = {row.console for row in ROWS}
    assert {path.stem for path in CONSOLES.glob("splat_*.txt")} <= named
    assert {path.stem for path in CONSOLES.glob("lkdtm_*.txt")} <= named


# What programs, a terminal or the agent may leave in front of the kernel's words.
UNFINISHED = [
    "login: ",
    "/ # ",
    "working ... ",
    "\x1b[1;32mok\x1b[0m ",
    "\x1b[31m",
    "50 %\r",
    "\x01\xc5\xff\x81\x04",
    "\0\0",
    "[not a stamp] ",
    "[ 1.5 s] ",
    "x" * 100_000,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.console)
def test_what_a_program_left_unfinished_hides_nothing(row: Row) -> None:
    """In front of the first line, and of the title line."""
    text = console(row.console)
    [alone] = read_splats(text)
    told = text.index(row.reported_by or alone.title)
    told = text.rindex("\n", 0, told) + 1 if "\n" in text[:told] else 0
    for unfinished in UNFINISHED:
        before = text[: alone.start] + unfinished + text[alone.start :]
        assert [(splat.kind, splat.title, splat.text) for splat in read_splats(before)] == [
            (alone.kind, alone.title, alone.text)
        ]
        [splat] = read_splats(text[:told] + unfinished + text[told:])
        assert (splat.kind, splat.title) == (alone.kind, alone.title)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.console)
def test_a_splat_is_found_whole(row: Row, line_end: str) -> None:
    text = console(row.console).replace("\n", line_end)
    [splat] = read_splats(text)
    lines = splat.text.split("\n")
    assert splat.kind == row.kind
    assert splat.title.startswith(row.title)
    assert lines[0].endswith(row.first or splat.title)
    assert lines[-1].endswith(row.last)
    assert splat.complete is row.complete
    assert text[splat.start : splat.end].replace("\r", "").rstrip("\n") == splat.text
    assert splat.guest_time_s == guest_seconds(lines[0])
    assert "\r" not in splat.text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.console)
def test_a_splat_that_is_being_printed_is_found_and_goes_on(row: Row) -> None:
    """Whatever part of it has come: what is complete later was found at the same place before."""
    text = console(row.console)
    [whole] = read_splats(text)
    title = text.index(row.reported_by or whole.title)
    lines = text.splitlines(keepends=True)
    at = 0
    for line in lines:
        at += len(line)
        found = read_splats(text[:at])
        if at <= title:
            assert found == ()
        else:
            assert [splat.start for splat in found] == [whole.start]
            assert found[0].kind == whole.kind
            assert found[0].end == whole.end or not found[0].complete


def test_splats_in_a_row_are_found_one_by_one() -> None:
    names = [row.console for row in ROWS if row.kind != "panic"]
    assert [splat.title for splat in read_splats("".join(map(console, names)))] == [
        splat.title for name in names for splat in read_splats(console(name))
    ]


def test_an_oops_and_the_panic_that_follows_are_two() -> None:
    splats = read_splats(console("malta_oops_panic"))
    assert [(splat.kind, splat.complete) for splat in splats] == [("oops", True), ("panic", False)]
    assert splats[1].title == "Kernel panic - not syncing: Fatal exception"


def test_a_stack_overflow_ends_with_its_panic() -> None:
    splats = read_splats(console("stack_overflow"))
    assert [splat.kind for splat in splats] == ["oops", "panic"]
    assert splats[0].text.endswith("recursive_loop+0x10/0x60 [lkdtm]")
    assert splats[1].title == "Kernel panic - not syncing: kernel stack overflow"


def test_reading_begins_where_it_is_told_to() -> None:
    first, second = console("aarch64_warning"), console("splat_atomic")
    [splat] = read_splats(first + second, start=len(first))
    assert splat.kind == "atomic context"
    assert (first + second)[splat.start :].startswith("[    5.000100] BUG: scheduling")


def test_a_text_without_splats_has_none() -> None:
    assert read_splats("") == ()
    assert read_splats("\n\n") == ()


def test_a_warn_without_end_is_over_when_something_else_comes_later() -> None:
    """Its trace may have been cut off by whoever filtered the log."""
    text = "[    1.0] WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2\n[    1.1] Call trace:\n"
    [splat] = read_splats(f"{text}[    1.2]  c+0x1/0x2\n[    9.0] eth0: link is up\n")
    assert splat.complete
    assert splat.text.endswith("c+0x1/0x2")


def test_no_splat_swallows_a_whole_log() -> None:
    chatter = "".join(f"[    5.{number:06}] chatter\n" for number in range(1000))
    [splat] = read_splats(console("splat_rss") + chatter)
    assert splat.text.endswith("val:1")
    [splat] = read_splats("[    5.0] WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2\n" + chatter)
    assert splat.text.count("\n") == 999


def test_only_a_panic_is_fatal() -> None:
    assert [splat.fatal for splat in read_splats(console("malta_oops_panic"))] == [False, True]


def test_the_time_of_a_line() -> None:
    assert guest_seconds("[    2.266223] words") == 2.266223
    assert guest_seconds("[12345.000001][  T123] words") == 12345.000001
    assert guest_seconds("words") is None
    assert isinstance(read_splats(console("splat_rss"))[0], Splat)


def record(text: str, time_s: float = 5.0, caller: str = "") -> LogRecord:
    return LogRecord(priority=4, sequence=0, time_s=time_s, text=text, caller=caller)


def logged(text: str) -> str:
    """Return the kernel's lines of a console as its log has them."""
    found = (
        record(line[15:], seconds)
        for line in text.splitlines()
        if (seconds := guest_seconds(line)) is not None
    )
    return "".join(map(console_lines, found))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.console)
def test_log_and_console_have_the_same_splats(row: Row) -> None:
    text = console(row.console)
    [seen] = read_splats(text)
    [found] = read_log_splats(logged(text))
    assert (found.kind, found.title, found.complete) == (seen.kind, seen.title, seen.complete)
    assert (found.cpu, found.pid, found.task) == (seen.cpu, seen.pid, seen.task)
    assert found.guest_time_s == seen.guest_time_s
    assert [line[15:] for line in found.text.splitlines()] == [
        line[15:] for line in seen.text.splitlines() if line.startswith("[")
    ]


@pytest.mark.parametrize("text", ["login: [    5.4] BUG: x", "/ # BUG: soft lockup - CPU#0 stuck"])
def test_a_splat_within_a_records_text_is_none(text: str) -> None:
    assert read_log_splats(console_lines(record(text))) == ()


def test_a_record_may_have_several_lines() -> None:
    text = console_lines(record("a\nBUG: Bad page map in process x\n  y", caller="T61"))
    [splat] = read_log_splats(text)
    assert (
        splat.text
        == "[    5.000000][   T61] BUG: Bad page map in process x\n[    5.000000][   T61]   y"
    )
    assert (text[splat.start : splat.end].rstrip("\n"), splat.pid) == (splat.text, 61)
    assert read_log_splats("") == ()
    assert read_log_splats(console_lines(record(""))) == ()


@pytest.mark.parametrize(
    ("above", "line", "found"),
    [
        # With stamps on, what has none is a program's.
        ("[    5.0] eth0: up\n", "BUG: handling", ""),
        ("[    5.0] eth0: up\n", "WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2", ""),
        ("[    5.0] eth0: up\n", "login: Kernel panic - not syncing: x", ""),
        # Without them, what only a kernel says is its own wherever it stands …
        ("eth0: up\n", "BUG: a driver's", "BUG: a driver's"),
        ("eth0: up\n", "\x1b[0;32mBUG: a driver's", "BUG: a driver's"),
        ("eth0: up\n", "50 %\rBUG: a driver's", "BUG: a driver's"),
        ("eth0: up\n", "\x01\xc5\xff\x81\x04BUG: a driver's", "BUG: a driver's"),
        (
            "",
            "login: watchdog: BUG: soft lockup - CPU#0 stuck",
            "watchdog: BUG: soft lockup - CPU#0",
        ),
        ("", "/ # Kernel panic - not syncing: x", "Kernel panic - not syncing: x"),
        ("", "/ # Unable to handle kernel NULL pointer", "Unable to handle kernel NULL pointer"),
        ("", "x WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2", "WARNING: CPU: 0 PID: 1 at a.c:1"),
        # … and what others say too only at a line's beginning.
        ("", "working ... BUG: handling", ""),
        ("", "ok 1 - BUG: handling", ""),
        # A caller alone is a stamp too.
        ("[   T61] eth0: up\n", "[   T61] BUG: a driver's", "BUG: a driver's"),
        ("[   T61] eth0: up\n", "BUG: handling", ""),
        # A stamp that the kernel's own words quote is none.
        ("", '[    5.0] BUG: no room for "[    4.0] x"', 'BUG: no room for "[    4.0] x"'),
        ("", "[    4.0] half a line [    5.0] BUG: x", "BUG: x"),
    ],
)
def test_the_kernels_words_on_a_line_are_told_from_others(
    above: str, line: str, found: str
) -> None:
    splats = read_splats(above + line + "\n")
    assert [splat.title[: len(found)] for splat in splats] == ([found] if found else [])


def test_the_caller_may_say_whether_lines_are_stamped() -> None:
    assert read_splats("BUG: x\n", stamped=True) == ()
    assert len(read_splats("[    1.0] eth0: up\nBUG: x\n", stamped=False)) == 1


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\r\n"])
def test_the_last_line_needs_no_newline(end: str) -> None:
    [splat] = read_splats(f"[    5.0] eth0: up\n[    5.1] BUG: x{end}")
    assert (splat.title, splat.text, splat.complete) == ("BUG: x", "[    5.1] BUG: x", False)


@pytest.mark.parametrize(
    ("lines", "kind", "title"),
    [
        (
            [
                "INFO: task a",
                "b:61 blocked for more than 120 seconds.",
                "Call trace:",
                " c+0x1/0x2",
            ],
            "hung task",
            "INFO: task a\\x0ab:61 blocked for more than 120 seconds.",
        ),
        (["WARNING: a", "b/61 still has locks held!"], "lockdep", "WARNING: a\\x0ab/61 still has"),
        (
            ["INFO: task ", "", ":61 blocked for more than 120 seconds."],
            "hung task",
            "INFO: task \\x0a",
        ),
        (
            ["BUG: scheduling while atomic: a", "b/61/0x00000002"],
            "atomic context",
            "BUG: scheduling while atomic: a",
        ),
        (
            ["a", "b: page allocation failure: order:4, mode:0x"],
            "out of memory",
            "b: page allocation",
        ),
    ],
)
def test_a_newline_in_a_tasks_name(lines: list[str], kind: str, title: str) -> None:
    [seen] = read_splats("".join(f"[    5.000001] {line}\n" for line in lines))
    [bare] = read_splats("\n".join(lines))
    [found] = read_log_splats(console_lines(record("\n".join(lines))))
    for splat in (seen, bare, found):
        assert splat.kind == kind
        assert splat.title.startswith(title)


def test_a_title_line_is_not_made_of_what_others_say() -> None:
    """Words of two records with different times are no sentence."""
    assert (
        read_splats("[    5.1] INFO: task a\n[    5.2] b:1 blocked for more than 1 seconds.\n")
        == ()
    )


def stamped(lines: str, begin_s: float = 5.0) -> str:
    return "".join(
        f"[{begin_s + number / 1e4:12.6f}] {line}\n"
        for number, line in enumerate(lines.splitlines())
    )


def dump(pid: int, comm: str, cpu: int = 0) -> str:
    return (
        f"CPU: {cpu} UID: 0 PID: {pid} Comm: {comm} Not tainted 6.12.117 #1\n"
        "Call trace:\n provoke+0x1/0x2\n"
    )


END = "---[ end trace 0000000000000000 ]---\n"
OOPS = f"Internal error: Oops: 0000000096000004 [#1] SMP\n{dump(61, 'insmod')}{END}"
TRACKING = "WARNING: CPU: 0 PID: 0 at kernel/context_tracking.c:128 ct_kernel_exit+0x1/0x2\n"


@pytest.mark.parametrize(
    ("first", "second", "belongs"),
    [
        pytest.param(OOPS, f"{TRACKING}{dump(0, 'swapper/0')}{END}", True, id="idle, its CPU"),
        pytest.param(
            OOPS,
            "WARNING: kernel/context_tracking.c:128 at a+0x1/0x2, CPU#0: swapper/0/0\n",
            True,
            id="idle, its CPU, as 7.2 tells it",
        ),
        pytest.param(
            OOPS,
            f"{TRACKING.replace('CPU: 0', 'CPU: 1')}{dump(0, 'swapper/1', 1)}{END}",
            False,
            id="idle, another CPU",
        ),
        pytest.param(
            OOPS,
            f"WARNING: CPU: 0 PID: 0 at drivers/a.c:1 b+0x1/0x2\n{dump(0, 'swapper/0')}{END}",
            False,
            id="an interrupt's, on its CPU",
        ),
        pytest.param(
            OOPS,
            f"WARNING: CPU: 0 PID: 61 at kernel/exit.c:8 a+0x1/0x2\n{dump(61, 'insmod')}{END}",
            True,
            id="its task",
        ),
        pytest.param(
            OOPS,
            f"BUG: scheduling while atomic: insmod/61/0x00000002\n{dump(61, 'insmod')}",
            True,
            id="its task, in atomic context",
        ),
        pytest.param(
            OOPS,
            f"WARNING: CPU: 0 PID: 62 at a.c:1 b+0x1/0x2\n{dump(62, 'insmod')}{END}",
            False,
            id="another task of the same name",
        ),
        pytest.param(OOPS, "BUG: of somebody\n", False, id="of nobody knows whom"),
        pytest.param(OOPS, "Kernel panic - not syncing: x\n", False, id="a panic"),
        pytest.param(
            OOPS, "INFO: task mount:62 blocked for more than 1 seconds.\n", False, id="who waits"
        ),
        pytest.param(
            f"WARNING: CPU: 0 PID: 61 at a.c:1 b+0x1/0x2\n{dump(61, 'insmod')}{END}",
            f"BUG: scheduling while atomic: insmod/61/0x00000002\n{dump(61, 'insmod')}",
            False,
            id="after what ends no task",
        ),
        pytest.param(
            f"Internal error: Oops: 04 [#1] SMP\n{dump(0, 'swapper/0')}{END}",
            f"WARNING: CPU: 1 PID: 0 at a.c:1 b+0x1/0x2\n{dump(0, 'swapper/1', 1)}{END}",
            False,
            id="idle tasks are not one",
        ),
        pytest.param(
            f"------------[ cut here ]------------\nkernel BUG at a.c:1!\n{OOPS}",
            f"{TRACKING}{dump(0, 'swapper/0')}{END}",
            True,
            id="after a BUG",
        ),
    ],
)
@pytest.mark.parametrize("after_s", [0.01, 20.0])
def test_consequences_of_an_oops(first: str, second: str, belongs: bool, after_s: float) -> None:
    oops, splat = read_splats(stamped(first) + stamped(second, 5.0 + after_s))
    assert belongs_to(oops, splat) is belongs
    assert not belongs_to(splat, oops)
    assert not belongs_to(oops, oops)


def test_the_end_of_the_task_belongs_to_its_oops() -> None:
    end = stamped("note: insmod[61] exited with irqs disabled\n", 5.1)
    assert [splat.kind for splat in read_splats(stamped(OOPS) + end)] == ["oops"]
    other = end.replace("61", "62")
    oops, splat = read_splats(stamped(OOPS) + other)
    assert (splat.kind, splat.pid, splat.task) == ("atomic context", 62, "insmod")
    [alone] = read_splats(end)
    assert belongs_to(oops, replace(alone, start=oops.end, end=oops.end + 1))


def test_oopses_of_two_tasks_at_once_are_two() -> None:
    """As CONFIG_PRINTK_CALLER tells them apart."""
    texts = {task: OOPS.replace("61", str(task)).splitlines() for task in (61, 62)}
    lines = [
        f"[    5.{number:06}][   T{task}] {line}\n"
        for number, both in enumerate(zip(texts[61], texts[62], strict=True))
        for task, line in zip((61, 62), both, strict=True)
    ]
    assert [(splat.kind, splat.pid) for splat in read_splats("".join(lines))] == [
        ("oops", 61),
        ("oops", 62),
    ]


def test_a_line_of_another_task_does_not_end_a_call_trace() -> None:
    text = (
        "[    5.0][   T61] BUG: scheduling while atomic: insmod/61/0x00000002\n"
        "[    5.0][   T61] Call trace:\n[    5.0][   T61]  a+0x1/0x2\n"
        "[    5.0][   T76] eth0: up\n[    5.0][   T61]  b+0x1/0x2\n[    5.0][   T61] done\n"
    )
    [splat] = read_splats(text)
    assert splat.text.endswith("b+0x1/0x2")


@pytest.mark.parametrize(
    "explanation",
    [
        "sysrq: Show backtrace of all active CPUs",
        "sysrq: Show Blocked State",
        "task:init            state:S stack:0     pid:1     tgid:1     ppid:0",
        "NMI backtrace for cpu 0",
        "FAULT_INJECTION: forcing a failure.\nname failslab, interval 1, probability 0, space 0",
        "The following trace is a kernel self test and not a bug!\nTesting a backtrace.",
    ],
)
def test_a_call_trace_that_somebody_asked_for(explanation: str) -> None:
    assert read_splats(stamped(f"{explanation}\n{dump(61, 'x')}")) == ()
    [another] = read_splats(stamped(f"{explanation}\n{dump(61, 'x')}{dump(62, 'y')}"))
    assert (another.kind, another.pid) == ("call trace", 62)
    later = stamped(f"{explanation}\n") + stamped(dump(61, "x"), 9.0)
    assert [splat.kind for splat in read_splats(later)] == ["call trace"]


def test_a_stall_is_one_with_the_call_traces_below() -> None:
    task = "task:rcu_preempt     state:R stack:0     pid:17    tgid:17    ppid:2      flags:0x00"
    text = (
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n"
        "rcu: \tTasks blocked on level-0 rcu_node (CPUs 0-1): P61/1:b..l\n"
        f"{task}\nCall trace:\n a+0x1/0x2\n"
        "rcu: rcu_preempt kthread starved for 1005 jiffies! g13 f0x0 RCU_GP_WAIT_FQS(5)\n"
        f"rcu: RCU grace-period kthread stack dump:\n{task}\nCall trace:\n b+0x1/0x2\n"
        "Sending NMI from CPU 1 to CPUs 0:\nNMI backtrace for cpu 0\n"
        f"CPU: 0 PID: 94 Comm: x Not tainted 6.10 #1\npc : c+0x1/0x2\n{dump(94, 'x')}"
    )
    [splat] = read_splats(stamped(text))
    assert splat.kind == "RCU stall"
    assert "b+0x1/0x2" in splat.text


def flood(line: str) -> str:
    return "".join(f"[{number / 1e3:12.6f}] {line} {number}\n" for number in range(300_000))[
        :20_000_000
    ]


@pytest.mark.parametrize(
    ("text", "splats"),
    [
        pytest.param(
            flood("provoke: a packet of 1500 bytes is dropped, the queue is full:"), 0, id="log"
        ),
        pytest.param("\n" * 20_000_000 + "BUG: x\n", 1, id="newlines"),
        pytest.param("\0" * 20_000_000, 0, id="NUL"),
        pytest.param(bytes(range(256)).decode("latin-1") * 80_000, 0, id="all bytes"),
        pytest.param("x" * 1_000_000 + "[    5.0] BUG: x\n", 1, id="a line of 1 MB"),
        pytest.param("[    5.0] " * 100_000 + "BUG: x\n", 1, id="a line of stamps"),
        pytest.param("BUG: " * 200_000 + "\n", 1, id="a line of BUG"),
        pytest.param(("WARNING: [" + "] at " * 200 + "\n") * 300, 0, id="almost a WARN"),
        pytest.param(("INFO: task " + "blocked for " * 80 + "\n") * 300, 0, id="almost hung"),
        pytest.param(
            "[    5.0] Kernel panic - not syncing: x\n" + flood("more"), 1, id="after a panic"
        ),
        pytest.param("[" * 1_000_000, 0, id="brackets"),
    ],
)
def test_no_text_takes_long_to_read(text: str, splats: int) -> None:
    begun = time.process_time()
    assert len(read_splats(text)) == splats
    assert time.process_time() - begun < 1.0
