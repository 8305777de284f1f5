"""Patterns of the lines above and below a splat's title: causes, call traces, registers."""

from __future__ import annotations

import re

# The line above die()'s that says what happened (arch/mips/kernel/traps.c, do_be();
# arch/arm/mm/fault.c, do_DataAbort(); arch/m68k/kernel/traps.c, bad_super_trap()). A process gets a
# signal under the same line.
CAUSE = re.compile(
    r"(?:Data|Instruction) bus error, epc == .*|Unhandled (?:fault|prefetch abort): .*"
    r"|Bad mode in .* handler detected|\*\*\* .* \*\*\* +FORMAT=\w+"
)

# Before 6.9 arm's has none, but for its first frame (arch/arm/kernel/unwind.c).
TRACE_HEAD = re.compile(
    r"(?:Call [Tt]race|Backtrace): ?.*| [\w.]+(?: \[\w+\])? from [\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+.*"
)
# A line of a call trace.
FRAME = r"\s+(?:\? )?[\w.$<>: ]+\+0x[0-9a-f]+/0x[0-9a-f]+.*"
# What stands between a title line and its call trace for as long as it likes: frames of other
# traces (mm/page_owner.c, mm/slub.c, kernel/locking/lockdep.c), an object's bytes, queued work.
BEFORE_TRACE = re.compile(
    rf"{FRAME}|(?:Object|Redzone|Padding|Bytes b4) +[0-9a-f]+: .*|workqueue \S.*: flags=.*"
)
# dump_stack() begins so (lib/dump_stack.c, dump_stack_print_info()).
DUMP_HEAD = re.compile(r"CPU: \d+ (?:UID: \d+ )?PID: \d+ Comm: .*")
# Who asked for a stack may have it: drivers/tty/sysrq.c, kernel/sched/core.c, sched_show_task();
# lib/nmi_backtrace.c, lib/fault-inject.c, kernel/backtracetest.c, mm/slub.c, trace().
EXPLAINED = re.compile(
    r"sysrq: .*|task:.* state:.*|NMI backtrace for cpu \d+.*|FAULT_INJECTION: forcing a failure\..*"
    r"|The following trace is a kernel self test and not a bug!|TRACE \S+ (?:alloc|free) 0x.*"
)

# lib/string_helpers.c, fortify_panic() before 6.9; net/core/skbuff.c, skb_panic();
# rust/kernel/lib.rs, panic(): what the BUG below is about.
ABOVE_CUT = re.compile(r"detected buffer overflow in \w+|skbuff: skb_(?:over|under)_panic: .*")
RUST_BUG = re.compile(r"kernel BUG at \S*rust/helpers\S*\.c:\d+!")
RUST_PANIC = re.compile(r"rust_kernel: panicked at .*")

# Who had a name refused says so too, below sysfs's call trace (lib/kobject.c).
SAID_AGAIN = re.compile(r"(?:kobject: )?kobject_add_internal failed for .* with -EEXIST, .*")

# The lines that report a CPU or task that does not get on; a report may have several call traces.
STALLS = frozenset(("RCU stall", "hung task", "soft lockup", "hard lockup", "workqueue lockup"))
STALL_LINE = re.compile(
    r"rcu: .*|task:.* state:.*|Task dump for CPU \d+:|Sending NMI .*|NMI backtrace .*|Showing .*"
    r"|pool \d+:.*|Workqueue: .*|Unless \w+ kthread gets .*|INFO: task .* is blocked on .*"
)

# The beginnings of title lines in which a task's name, and so a newline, may stand.
NAME_FOLLOWS = re.compile(r"(?:INFO: task|WARNING:) .{0,40}")

# What is printed before die(), which may have to wait for another task's.
BEGINS_TO_DIE = re.compile(
    r"(?:CPU \d+ )?Unable to handle kernel .*"
    r"|BUG: (?:[Uu]nable to handle|[Kk]ernel NULL pointer) .*"
)
# die() counts its oopses in its first line, but on m68k.
DIES = re.compile(r"\[#\d+\]")

# Several title lines of these kinds may be one event.
ONE_EVENT = frozenset(
    ("oops", "BUG", "list corruption", "memory corruption", "use count", "WARNING", "UBSAN")
)
# include/linux/bug.h, CHECK_DATA_CORRUPTION(): what was found, and then that it is a BUG or WARN.
BEFORE_CUT = frozenset(("list corruption", "memory corruption", "use count"))
