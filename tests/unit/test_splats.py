"""Splats from their first to their last line.

consoles/lkdtm_*.txt are recorded, consoles/splat_*.txt composed from the formats in the kernel's
source, each between two ordinary lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.vm.splats import Splat, guest_seconds, kind_of, read_splats

CONSOLES = Path(__file__).parent / "consoles"


def console(name: str) -> str:
    return (CONSOLES / f"{name}.txt").read_text()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A console with one splat: its kind, how its title begins, how its first and last line end."""

    console: str
    kind: str
    title: str
    first: str = ""
    last: str
    complete: bool = True


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
]


def test_every_recorded_splat_has_its_row() -> None:
    named = {row.console for row in ROWS}
    assert {path.stem for path in CONSOLES.glob("splat_*.txt")} <= named
    assert {path.stem for path in CONSOLES.glob("lkdtm_*.txt")} <= named


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
    title = text.index(whole.title)
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


def test_one_after_the_other() -> None:
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


@pytest.mark.parametrize(
    "prefix", ["", "[   12.345678] ", "[   12.345678][    T1] ", "<4>[    1.0] "]
)
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("INFO: task modprobe:31 blocked for more than 120 seconds.", "hung task"),
        ("BUG: soft lockup - CPU#0 stuck for 26s! [modprobe:31]", "soft lockup"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 3", "hard lockup"),
        ("kernel BUG at mm/slub.c:4385!", "BUG"),
        ("Unhandled kernel unaligned access[#1]:", "oops"),
        ("Oops: 0002 [#1] PREEMPT SMP", "oops"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000000", "oops"),
        ("SError Interrupt on CPU0, code 0x00000000bf000002 -- SError", "oops"),
        ("WARNING: inconsistent lock state", "lockdep"),
        ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "lockdep"),
        (
            "BUG: using smp_processor_id() in preemptible [00000000] code: insmod/61",
            "atomic context",
        ),
        ("workqueue: BUG: workqueue leaked atomic, lock or RCU: kworker/0:1[9]", "atomic context"),
        ("rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: {", "RCU stall"),
        ("list_del corruption, ffff000003a1c000->next is LIST_POISON1", "list corruption"),
    ],
)
def test_first_lines(line: str, kind: str, prefix: str) -> None:
    assert kind_of(line) == kind
    [splat] = read_splats(f"{prefix}{line}\n")
    assert (splat.kind, splat.title) == (kind, line)


@pytest.mark.parametrize(
    "line",
    [
        "pci 0000:00:00.0: [Firmware Bug]: BAR 1: invalid; can't size",
        "test: this is not a BUG: really",
        "WARNING: this is not the kernel's",
        "printk: legacy bootconsole [uart8250] enabled",
        "rcu: INFO: Stall ended before state dump start",
        "INFO: lockdep is turned off.",
        "lkdtm: Performing direct entry BUG",
        "Warning: unable to open an initial console.",
        "usb 1-1: new device[#2] found",
        "systemd[1]: Kernel panic is not what this is",
    ],
)
def test_harmless_lines(line: str) -> None:
    assert read_splats(f"[    0.430218] {line}\n") == ()


def test_nothing_shows_nothing() -> None:
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
    assert splat.text.count("\n") == 199


def test_only_a_panic_is_the_end() -> None:
    assert [splat.fatal for splat in read_splats(console("malta_oops_panic"))] == [False, True]


def test_the_time_of_a_line() -> None:
    assert guest_seconds("[    2.266223] words") == 2.266223
    assert guest_seconds("[12345.000001][  T123] words") == 12345.000001
    assert guest_seconds("words") is None
    assert isinstance(read_splats(console("splat_rss"))[0], Splat)
