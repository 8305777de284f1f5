"""Splats in shapes that real kernels print: long, interleaved, broken off, slow."""

from __future__ import annotations

import pytest

from pytest_kernelvm.vm.klog.splat_reader import SplatReader
from pytest_kernelvm.vm.klog.splats import Splat, read_log_splats, read_splats


def stamped(text: str, caller: str = "", begin_s: float = 5.0) -> str:
    """Return lines as a kernel prints them, a millisecond apart."""
    mark = f"[{caller:>6}]" if caller else ""
    lines = text.strip("\n").split("\n")
    return "".join(
        f"[{begin_s + number / 1000:12.6f}]{mark} {line}\n" for number, line in enumerate(lines)
    )


def mixed(*lines: tuple[int, str]) -> str:
    """Return lines of several tasks, by number, a millisecond apart."""
    return "".join(
        f"[{5 + number / 1000:12.6f}][{f'T{pid}':>6}] {line}\n"
        for number, (pid, line) in enumerate(lines)
    )


def kinds(text: str) -> list[str]:
    """Return the kinds of a console's splats, which a log that says the same has as well."""
    found = [splat.kind for splat in read_splats(text)]
    assert [splat.kind for splat in read_log_splats(text)] == found
    return found


def only(text: str) -> Splat:
    [splat] = read_splats(text)
    return splat


DUMP = """\
CPU: 0 UID: 0 PID: 52 Comm: prober Not tainted 6.12.0 #1
Hardware name: board (DT)
Call trace:
 show_stack+0x18/0x24
 provoke+0x1/0x2"""
FRAMES = "\n".join(f"       step{number}+0x{number:x}/0x99" for number in range(60))


# A trace that comes long after the title line

LONG = {
    "lockdep": f"""\
WARNING: possible circular locking dependency detected
6.12.0 #1 Not tainted
------------------------------------------------------
prober/52 is trying to acquire lock:
-> #1 (&first){{+.+.}}-{{4:4}}:
{FRAMES}
-> #0 (&second){{+.+.}}-{{4:4}}:
{FRAMES}

stack backtrace:
{DUMP}""",
    "slab corruption": f"""\
BUG kmalloc-64 (Not tainted): Right Redzone overwritten
-----------------------------------------------------------------------------
Allocated in provoke+0x1/0x2 age=1 cpu=0 pid=52
{FRAMES}
Freed in provoke+0x1/0x2 age=1 cpu=0 pid=52
{FRAMES}
Object   00000000a1b2c3d4: 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b a5  kkkkkkkkkkkkkkk.
{DUMP}""",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("caller", ["", "T52"])
def test_a_call_trace_far_below_belongs_to_its_report(kind: str, caller: str) -> None:
    text = stamped(LONG[kind], caller)
    assert kinds(text) == [kind]
    splat = only(text)
    assert splat.text.endswith("provoke+0x1/0x2")
    assert (splat.pid, splat.cpu) == (52, 0)


def test_a_workqueues_lockup_goes_on_to_its_traces() -> None:
    queues = "\n".join(
        f"workqueue queue{number}: flags=0x0\n"
        f"  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=1/256 refcnt=2\n"
        f"    pending: work{number}"
        for number in range(20)
    )
    text = stamped(
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!\n"
        f"Showing busy workqueues and worker pools:\n{queues}\n"
        "pool 0: cpus=0 node=0 flags=0x0 nice=0 hung=31s workers=3 idle: 9 8\n"
        "Showing backtraces of running workers in stalled CPU-bound worker pools:\n"
        "pool 0:\ntask:kworker/0:1 state:R  running task stack:0 pid:52\nCall trace:\n"
        " provoke+0x1/0x2"
    )
    assert only(text).text.endswith("provoke+0x1/0x2")


@pytest.mark.parametrize("line", ["driver: another line", "    ok 1 a_test_of_somebody"])
def test_a_call_trace_far_below_other_lines_is_its_own(line: str) -> None:
    said = "\n".join([line] * 60)
    assert kinds(stamped(f"provoke: BUG: odd\n{said}\n{DUMP}"))[-1] == "call trace"


def test_a_report_without_a_trace_takes_no_other_one() -> None:
    said = "\n".join(["driver: another line"] * 60)
    text = f"""\
================================================
WARNING: lock held when returning to user space!
6.12.0 #1 Not tainted
------------------------------------------------
prober/52 is leaving the kernel with locks still held!
1 lock held by prober/52:
 #0: 00000000a1b2c3d4 (provoked){{+.+.}}-{{4:4}}, at: provoke+0x1/0x2
{said}
{DUMP}"""
    assert kinds(stamped(text)) == ["lockdep", "call trace"]


# Stalls: several traces, the last one like anybody's

STALL = f"""\
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
rcu: \t0-...!: (1 GPs behind) idle=9a2c/1/0x4000000000000000 softirq=77/77 fqs=0
rcu: rcu_preempt kthread starved for 2100 jiffies! g-123 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0
rcu: RCU grace-period kthread stack dump:
task:rcu_preempt     state:R  running task     stack:0     pid:15    ppid:2      flags:0x00000008
Call trace:
 schedule+0x1/0x2
rcu: Stack dump where RCU GP kthread last ran:
{DUMP}"""


@pytest.mark.parametrize("caller", ["", "C0"])
def test_the_trace_of_the_cpu_that_reports_a_stall_belongs_to_it(caller: str) -> None:
    assert kinds(stamped(STALL, caller)) == ["RCU stall"]
    assert only(stamped(STALL, caller)).text.endswith("provoke+0x1/0x2")


def test_a_trace_behind_a_soft_lockup_is_its_own() -> None:
    text = f"watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [prober:52]\n{DUMP}\n{DUMP}"
    assert kinds(stamped(text)) == ["soft lockup", "call trace"]


# Two at once

HEAD = "Unable to handle kernel paging request at virtual address 0000000000000abc"
DIES = [
    "Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP",
    *DUMP.split("\n"),
    "---[ end trace 0000000000000000 ]---",
]


def test_the_first_lines_of_a_second_oops_do_not_cut_the_first_one() -> None:
    text = mixed((52, HEAD), (77, HEAD), *((52, line) for line in DIES))
    splat = only(text)
    assert splat.pid == 52
    assert splat.text.endswith("---[ end trace 0000000000000000 ]---")


def test_a_second_oops_is_found_when_it_goes_on() -> None:
    text = mixed(
        (52, HEAD),
        (77, HEAD),
        *((52, line) for line in DIES),
        *((77, line.replace("PID: 52", "PID: 77")) for line in DIES),
    )
    assert [(splat.kind, splat.pid) for splat in read_splats(text)] == [("oops", 52), ("oops", 77)]


@pytest.mark.parametrize(
    "line",
    ["Fixing recursive fault but reboot is needed!", "Oops: 00000000", "SError Interrupt on CPU1"],
)
def test_a_splat_of_another_task_within_an_oops_counts_unless_it_begins_to_die(line: str) -> None:
    text = mixed((52, HEAD), (77, line), *((52, each) for each in DIES))
    assert [splat.title for splat in read_splats(text)][:2] == [HEAD, line]


@pytest.mark.parametrize("first", ["use count", "memory corruption"])
@pytest.mark.parametrize("caller", ["", "T52"])
def test_a_complaint_of_one_line_takes_nothing_of_what_follows(first: str, caller: str) -> None:
    line = {
        "use count": "VFS: Close: file count is 0",
        "memory corruption": "_swap_info_get: Unused swap file entry 4000000000000abc",
    }[first]
    text = stamped("\n".join([line, *["driver: a line"] * 20, HEAD, *DIES]), caller)
    assert kinds(text) == [first, "oops"]
    assert read_splats(text)[0].text.endswith(line)


@pytest.mark.parametrize(
    "line",
    [
        "unregister_netdevice: waiting for dummy0 to become free. Usage count = 2",
        "VFS: Busy inodes after unmount of sda1. Self-destruct in 5 seconds.  Have a nice day...",
    ],
)
def test_a_complaint_of_one_line_takes_no_trace_below_other_lines(line: str) -> None:
    assert kinds(stamped(f"{line}\ndriver: a line\n{DUMP}")) == ["use count", "call trace"]


def test_a_busy_inode_that_is_a_bug_is_one_event() -> None:
    text = stamped(
        "VFS: Busy inodes after unmount of sda1 (ext4)\n"
        "------------[ cut here ]------------\nkernel BUG at fs/super.c:650!\n" + "\n".join(DIES)
    )
    assert kinds(text) == ["use count"]


def test_what_lockdep_said_before_the_task_died_is_kept() -> None:
    text = mixed(
        (52, "=================================="),
        (52, "WARNING: Nested lock was not taken"),
        (52, "6.12.0 #1 Not tainted"),
        (52, "----------------------------------"),
        (52, "prober/52 is trying to lock:"),
        (52, "but this task is not holding:"),
        (52, HEAD),
        *((52, line) for line in DIES),
    )
    lockdep, oops = read_splats(text)
    assert (lockdep.kind, lockdep.pid, oops.kind) == ("lockdep", 52, "oops")
    assert lockdep.text.endswith("but this task is not holding:")


def test_a_report_in_which_another_splat_stands_has_its_own_trace() -> None:
    warning = [
        "------------[ cut here ]------------",
        "WARNING: CPU: 1 PID: 77 at a.c:3 other+0x1/0x2",
        "Call trace:",
        " other+0x1/0x2",
        "---[ end trace 0000000000000000 ]---",
    ]
    report = [
        "==================================================================",
        "BUG: KASAN: out-of-bounds in provoke+0x1/0x2",
        "Write of size 8 at addr ffff000000000abc by task prober/52",
    ]
    interrupted = [*((52, line) for line in report), *((77, line) for line in warning)]
    rest = [*DUMP.split("\n"), "=" * 66]
    assert kinds(mixed(*interrupted, *((52, line) for line in rest))) == ["KASAN", "WARNING"]
    others = [line.replace("PID: 52", "PID: 78") for line in rest]
    assert kinds(mixed(*interrupted, *((78, line) for line in others))) == [
        "KASAN",
        "WARNING",
        "call trace",
    ]


# A console that is taken over, and lines of others

REPLAYED = "** replaying previous printk message **\n"


@pytest.mark.parametrize("cut", ["BUG: K", "BUG: KASAN: slab-use-af"])
def test_a_replayed_line_counts_once(cut: str) -> None:
    whole = stamped(f"BUG: KASAN: slab-use-after-free in provoke+0x1/0x2\n{DUMP}", "T52")
    stamp = whole[: whole.index("BUG")]
    splat = only(f"{stamp}{cut}\n{REPLAYED}{whole}")
    assert splat.title == "BUG: KASAN: slab-use-after-free in provoke+0x1/0x2"


def test_a_complete_line_above_a_replayed_one_counts() -> None:
    text = stamped("WARNING: CPU: 0 PID: 52 at a.c:1 provoke+0x1/0x2", "T52")
    [splat] = read_splats(f"{text}{REPLAYED}{stamped('driver: another line', 'T77')}")
    assert splat.kind == "WARNING"


@pytest.mark.parametrize(
    "line", ["** 34 printk messages dropped **", "a program's own words", "[ 5.0 a program's"]
)
def test_a_line_without_a_stamp_ends_no_trace(line: str) -> None:
    text = stamped(f"BUG: sleeping function called from invalid context at a/b.c:9\n{DUMP}\n more")
    head, frame, rest = text.partition(" show_stack")
    above, _, begun = head.rpartition("\n")
    [splat] = read_splats(f"{above}\n{line}\n{begun}{frame}{rest}{stamped('driver: x', '', 5.1)}")
    assert splat.text.endswith(" more")
    assert line in splat.text


# A guest that is slow

SLOW_WARNING = [
    (10.0, "WARNING: CPU: 0 PID: 52 at a/b.c:1 provoke+0x1/0x2"),
    (10.1, "CPU: 0 PID: 52 Comm: prober Not tainted 6.12.0 #1"),
    (11.4, "Call trace:"),
    (11.5, " provoke+0x1/0x2"),
    (13.7, " caller+0x1/0x2"),
    (13.8, "---[ end trace 0000000000000000 ]---"),
]


def at(lines: list[tuple[float, str]], caller: str) -> str:
    mark = f"[{caller:>6}]" if caller else ""
    return "".join(f"[{seconds:12.6f}]{mark} {line}\n" for seconds, line in lines)


def test_a_pause_within_the_trace_of_a_task_ends_no_splat() -> None:
    text = at(SLOW_WARNING, "T52")
    assert kinds(text) == ["WARNING"]
    assert only(text).text.endswith("---[ end trace 0000000000000000 ]---")


@pytest.mark.parametrize(
    "words", ["Call trace:", "CPU: 0 PID: 52 Comm: prober Not tainted 6.12.0 #1"]
)
def test_a_trace_of_the_task_that_comes_later_is_another_event(words: str) -> None:
    first = [(10.0, "BUG: sleeping function called from invalid context at a/b.c:9")]
    first += [(10.1, "Call trace:"), (10.2, " provoke+0x1/0x2")]
    later = [(13.0, words), (13.1, "Call trace:"), (13.2, " other+0x1/0x2")]
    assert kinds(at(first + later, "T52")) == ["atomic context", "call trace"]


def test_without_callers_a_pause_ends_a_splat() -> None:
    assert kinds(at(SLOW_WARNING, "")) == ["WARNING", "call trace"]


@pytest.mark.parametrize("late", ["other words", "WARNING: CPU: 0 PID: 52 at c.c:2 x+0x1/0x2"])
def test_other_words_after_a_pause_are_another_event(late: str) -> None:
    first = at(SLOW_WARNING[:2], "T52")
    assert read_splats(first + at([(11.4, late)], "T52"))[0].text.count("\n") == 1


# arm

ARM_FRAMES = """\
 unwind_backtrace from show_stack+0x10/0x14
 show_stack from dump_stack_lvl+0x28/0x34
 dump_stack_lvl from __might_resched+0x1/0x2
Exception stack(0xdf801f60 to 0xdf801fa8)
1f60: 00000001 00000001 83369b00 00000000 826e3020 0162f70c 8129e7ac 000002c5
 __might_resched from provoke+0x1/0x2"""
ARM_DUMP = f"CPU: 0 PID: 52 Comm: prober Not tainted 6.1.0 #1\nHardware name: board\n{ARM_FRAMES}"


@pytest.mark.parametrize("head", ["", "Call trace: \n"])
def test_a_dump_of_arm_before_and_after_6_9(head: str) -> None:
    dump = ARM_DUMP.replace(" unwind", f"{head} unwind")
    text = "BUG: sleeping function called from invalid context at a/b.c:9"
    splat = only(stamped(f"{text}\n{dump}\ndriver: a line"))
    assert splat.text.endswith("provoke+0x1/0x2")
    assert (splat.kind, splat.pid, splat.complete) == ("atomic context", 52, True)
    assert kinds(stamped(f"driver: odd\n{dump}")) == ["call trace"]
    assert kinds(stamped(f"sysrq: Show backtrace of all active CPUs\n{dump}")) == []
    assert kinds(stamped(f"NMI backtrace for cpu 0\n{dump}")) == []


def test_a_division_by_zero_of_arm() -> None:
    assert kinds(stamped(f"Division by zero in kernel.\n{ARM_DUMP}")) == ["call trace"]


@pytest.mark.parametrize(
    "line",
    [
        "Division by zero in kernel.c line 3",
        "awk: Division by zero",
        " unwind_backtrace from show_stack of mine",
        "Unused swap partition found",
        "prober: Unused swap file entry",
        "Exception stack overflow in a program",
    ],
)
def test_lines_that_only_look_like_splats(line: str) -> None:
    assert kinds(stamped(line)) == []


# What a WARN or BUG is about


def test_a_warning_whose_message_begins_like_a_bug_is_one_splat() -> None:
    message = "BUG: Dentry 00000000a1b2c3d4{i=1,n=x}  still in use (1) [unmount of ramfs ramfs]"
    cut = "------------[ cut here ]------------"
    warning = "WARNING: CPU: 0 PID: 52 at fs/dcache.c:1616 umount_check+0x1/0x2"
    rest = "\n".join([warning, *DIES[1:]])
    text = stamped(f"{cut}\n{message}\n{rest}")
    assert kinds(text) == ["WARNING"]
    assert message in only(text).text
    assert kinds(stamped(message)) == ["BUG"]


@pytest.mark.parametrize("size", [1, 50, 200])
def test_reading_it_in_pieces_finds_the_same_splat(size: int) -> None:
    message = "BUG: Dentry 00000000a1b2c3d4{i=1,n=x}  still in use (1) [unmount of ramfs ramfs]"
    warning = "WARNING: CPU: 0 PID: 52 at fs/dcache.c:1616 umount_check+0x1/0x2"
    lines = ["------------[ cut here ]------------", message, warning, *DIES[1:]]
    raw, text = stamped("\n".join(lines)).encode(), bytearray()
    reader = SplatReader(text)
    for begin in range(0, len(raw), size):
        text += raw[begin : begin + size]
        reader.read(ended=False)
    assert [splat.kind for splat in reader.splats] == ["WARNING"]


@pytest.mark.parametrize(
    "cause", ["detected buffer overflow in strlen", "skbuff: skb_over_panic: text:ffff len:9 put:9"]
)
def test_a_message_above_cut_here_becomes_the_title(cause: str) -> None:
    cut = "------------[ cut here ]------------"
    bug = "\n".join([cut, "kernel BUG at lib/string_helpers.c:1027!", *DIES])
    splat = only(stamped(f"{cause}\n{bug}"))
    assert splat.title == cause
    assert splat.text.count("\n") == bug.count("\n") + 1
    assert only(stamped(f"{cause}\ndriver: a line\n{bug}")).title.startswith("kernel BUG at")
    assert kinds(stamped(cause)) == []


def test_the_title_of_a_rust_panic_has_its_reason() -> None:
    bug = ["------------[ cut here ]------------", "kernel BUG at rust/helpers/bug.c:7!", *DIES]
    text = mixed(
        (52, "rust_kernel: panicked at drivers/x.rs:1:2:"),
        (52, "attempt to add with overflow"),
        (77, "driver: a line"),
        *((52, line) for line in bug),
    )
    title = "rust_kernel: panicked at drivers/x.rs:1:2: attempt to add with overflow"
    assert only(text).title == title
