"""What a kernel prints when it finds something wrong: kinds, words, sources.

Gathered from the sources of 6.1, 6.12 and 7.2: what calls dump_stack(), show_stack(), add_taint(),
WARN(), die() or panic(), and what is printed at the levels emergency and alert. What only comes as
the message of a WARN (refcount_t, ODEBUG, DMA-API, proc_dir_entry, DEBUG_LOCKS_WARN_ON, …) needs no
row of its own.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice


class End(enum.Enum):
    """How one tells where a splat ends."""

    MARK = "an end mark"
    FRAME = "a second frame"
    TRACE = "the call trace's end"
    LINE = "itself and what is indented below it"
    KILL = "what the OOM killer killed"


class Words(enum.Enum):
    """Who else might say the same on a console, where lines carry no time.

    SURE: nobody; it is found behind an unfinished line too. START: nobody begins a line so.
    PLAIN: others may.
    """

    SURE = "only the kernel"
    START = "only the kernel at the beginning of a line"
    PLAIN = "others as well"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A kind of splat: the pattern of its whole telling line, without time.

    hints: of which the telling line holds one, to find lines without trying each pattern.
    """

    kind: str
    end: End
    words: Words
    pattern: str
    hints: tuple[str, ...]


def _row(kind: str, end: End, words: Words, pattern: str, *hints: str) -> Row:
    return Row(kind=kind, end=end, words=words, pattern=pattern, hints=hints)


_MARK, _FRAME, _TRACE, _KILL = End.MARK, End.FRAME, End.TRACE, End.KILL
_SURE, _START, _PLAIN = Words.SURE, Words.START, Words.PLAIN

# The first that fits decides.
ROWS = (
    # kernel/panic.c, vpanic(). The early ones: arch/x86/mm/extable.c, early_fixup_exception();
    # arch/s390/kernel/early.c, do_early_exception(); nothing runs after them.
    _row("panic", _MARK, _SURE, r"Kernel panic - not syncing: .*", "- not syncing"),
    _row("panic", _MARK, _SURE, r"PANIC: early exception .*", "PANIC: "),
    # mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c
    _row("KASAN", _FRAME, _SURE, r"BUG: KASAN: .*", "BUG"),
    _row("KCSAN", _FRAME, _SURE, r"BUG: KCSAN: .*", "BUG"),
    _row("KMSAN", _FRAME, _SURE, r"BUG: KMSAN: .*", "BUG"),
    _row("KFENCE", _FRAME, _SURE, r"BUG: KFENCE: .*", "BUG"),
    # lib/ubsan.c, ubsan_prologue(); arch/x86/kernel/traps.c, handle_bug()
    _row("UBSAN", _MARK, _START, r"(?:traps: )?UBSAN: .*", "UBSAN: "),
    # kernel/locking/lockdep.c
    _row(
        "lockdep",
        _TRACE,
        _START,
        r"WARNING: (?:possible (?:circular|recursive|irq lock)|inconsistent lock state"
        r"|\S+-safe -> \S+-unsafe lock order|Nested lock was not taken|bad (?:unlock|contention)"
        r"|held lock freed|lock held when returning|suspicious RCU usage|chain_key collision).*"
        r"|WARNING: .*/\d+ still has locks held!",
        "WARNING: ",
    ),
    _row(
        "lockdep",
        _TRACE,
        _START,
        r"\[ (?:BUG|INFO): .* \]|BUG: MAX_\w+ too low!|BUG: looking up invalid subclass: .*"
        r"|BUG: key \S+ has not been registered!",
        "BUG",
        "INFO: ",
    ),
    _row("lockdep", _TRACE, _SURE, r"INFO: trying to register non-static key\.", "INFO: "),
    # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
    _row(
        "RCU stall",
        _TRACE,
        _SURE,
        r"(?:rcu: )?INFO: \w+ (?:self-)?detected (?:expedited )?stalls?\b.*",
        "INFO: ",
    ),
    _row("RCU stall", _TRACE, _START, r"(?:rcu: )?\w+ kthread starved for .*! g.*", "! g"),
    # kernel/hung_task.c, check_hung_task(); the second form since 7.1
    _row(
        "hung task",
        _TRACE,
        _SURE,
        r"INFO: task .* blocked (?:in I/O wait )?for more than \d+ seconds\.",
        "INFO: ",
    ),
    # kernel/power/process.c, try_to_freeze_tasks()
    _row(
        "hung task",
        _TRACE,
        _START,
        r"(?:PM: )?Freezing .* failed after \S+ seconds \(\d+ tasks refusing to freeze.*",
        "Freezing ",
    ),
    # kernel/watchdog.c
    _row("soft lockup", _TRACE, _SURE, r"(?:watchdog: )?BUG: soft lockup - .*", "BUG"),
    # kernel/watchdog_hld.c and kernel/watchdog.c; arch/powerpc/kernel/watchdog.c
    _row(
        "hard lockup",
        _TRACE,
        _SURE,
        r"(?:NMI )?(?:watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP.*"
        r"|(?:watchdog: )?CPU \d+ (?:self-detected h|detected h|H)ard LOCKUP.*",
        "LOCKUP",
    ),
    # kernel/smp.c, csd_lock_wait_toolong()
    _row(
        "hard lockup",
        _TRACE,
        _SURE,
        r"(?:smp: )?csd: Detected non-responsive CSD lock .*",
        "CSD lock",
    ),
    # kernel/workqueue.c, wq_watchdog_timer_fn()
    _row("workqueue lockup", _TRACE, _SURE, r"(?:workqueue: )?BUG: workqueue lockup - .*", "BUG"),
    # kernel/sched/core.c, lib/smp_processor_id.c, kernel/workqueue.c
    _row(
        "atomic context",
        _TRACE,
        _SURE,
        r"BUG: (?:scheduling (?:while atomic|in a non-blocking section): |sleeping function called"
        r" |assuming (?:atomic|non migratable) context |using \S+ in preemptible ).*"
        r"|(?:workqueue: )?BUG: workqueue leaked .*",
        "BUG",
    ),
    # kernel/exit.c, make_task_dead(); kernel/softirq.c, handle_softirqs(); kernel/sched/idle.c
    _row(
        "atomic context",
        _TRACE,
        _START,
        r"note: .*\[\d+\] exited with (?:preempt_count \d+|irqs disabled)"
        r"|(?:softirq: )?huh, entered softirq .*|bad: scheduling from the idle thread!",
        "] exited with ",
        ", entered softirq",
        ": scheduling from the idle",
    ),
    # lib/list_debug.c
    _row(
        "list corruption",
        _MARK,
        _START,
        r"list_(?:add double add|(?:add|del) corruption).*",
        "_add double",
        "_add corruption",
        "_del corruption",
    ),
    # mm/slub.c, slab_bug(); mm/slab.c; mm/slab_common.c; mm/page_poison.c
    _row(
        "slab corruption",
        _TRACE,
        _START,
        r"BUG \S.* \((?:Not tainted|Tainted: .*)\): .*",
        "BUG",
    ),
    _row(
        "slab corruption",
        _TRACE,
        _START,
        r"Slab corruption \(.*\): .*|slab error in \S+\(\): cache `.*"
        r"|kmem_cache_destroy \S+: Slab cache still has objects.*"
        r"|pagealloc: (?:single bit error|memory corruption)",
        "Slab corruption",
        "(): cache `",
        "Slab cache still has objects",
        ": single bit error",
        ": memory corruption",
    ),
    # mm/usercopy.c; lib/string_helpers.c, fortify_panic() since 6.8; the message of a BUG or WARN
    _row(
        "memory corruption",
        _MARK,
        _START,
        r"usercopy: Kernel memory \w+ attempt detected .*"
        r"|\S+: detected buffer overflow: .*",
        "Kernel memory ",
        ": detected buffer overflow",
    ),
    # arch/x86/mm/fault.c, pgtable_bad(); mm/swapfile.c
    _row(
        "memory corruption",
        _MARK,
        _START,
        r".*: Corrupted page table at address .*",
        "Corrupted page table",
    ),
    _row(
        "memory corruption",
        End.LINE,
        _START,
        r"(?:\S+: )?(?:Bad|Unused) swap (?:file|offset) entry [0-9a-f]+",
        "Bad swap ",
        "Unused swap ",
    ),
    # init/initramfs.c
    _row(
        "damaged initramfs",
        _TRACE,
        _START,
        r"Initramfs unpacking failed: .*",
        "Initramfs unpacking",
    ),
    # mm/kmemleak.c
    _row(
        "memory leak",
        _TRACE,
        _START,
        r"kmemleak: \d+ new suspected memory leaks \(see /sys/kernel/debug/kmemleak\)"
        r"|kmemleak: unreferenced object 0x.*"
        r"|kmemleak: (?:Cannot insert 0x|Freeing unknown object|Trying to color unknown"
        r"|Found object by alias).*",
        "(see /sys/kernel/debug/kmemleak",
        ": unreferenced object",
        "Cannot insert 0x",
        "Freeing unknown object",
        "Trying to color",
        "Found object by alias",
    ),
    # mm/oom_kill.c. A process that a test never looks at may be the one that is killed.
    _row(
        "out of memory",
        _KILL,
        _START,
        r".* invoked oom-killer: gfp_mask=.*|(?:Memory cgroup o|O)ut of memory: Killed process .*"
        r"|Out of memory and no killable processes\.\.\.",
        "-killer: gfp_mask",
        ": Killed process ",
        "Out of memory and no killable",
    ),
    # mm/page_alloc.c, warn_alloc(); mm/vmalloc.c; mm/percpu.c
    _row(
        "out of memory",
        _TRACE,
        _START,
        r".*: (?:page allocation (?:failure: order:|stall for )|vmalloc error: size )\d+.*"
        r"|percpu: allocation failed, size=.*",
        ": page allocation ",
        ": vmalloc error: ",
        ": allocation failed, size=",
    ),
    # kernel/panic.c, __warn(); the second form since 6.19, with the condition of
    # CONFIG_DEBUG_BUGVERBOSE_DETAILED since 7.0; without a known place the third
    _row(
        "WARNING",
        _MARK,
        _SURE,
        r"WARNING: CPU: \d+ PID: \d+ at .*|WARNING: (?:\[.*\] )?\S+:\d+ at .*, CPU#\d+: .*"
        r"|WARNING: (?:\[.*\] )?at .*, CPU#\d+: .*",
        "WARNING: ",
    ),
    # arch/x86/kernel/unwind_frame.c, unwind_orc.c, arch/x86/kernel/dumpstack.c
    _row(
        "WARNING",
        _TRACE,
        _START,
        r"WARNING: (?:kernel stack (?:regs|frame pointer) at \S+ in .* has bad"
        r"|unrecognized kernel stack return address|stack (?:recursion on|going in the wrong)"
        r"|can't (?:access|dereference) (?:iret )?registers).*",
        "WARNING: ",
    ),
    # arch/*/mm/fault.c and arch/*/kernel/traps.c: arm, arm64, loongarch, m68k, mips, riscv, s390;
    # arch/x86/mm/fault.c; arch/powerpc/mm/fault.c
    _row(
        "oops",
        _MARK,
        _SURE,
        r"(?:CPU \d+ )?Unable to handle kernel .*",
        "Unable to handle",
    ),
    _row(
        "oops",
        _MARK,
        _SURE,
        r"BUG: (?:[Uu]nable to handle|[Kk]ernel NULL pointer) .*"
        r"|BUG: .*stack guard page was hit at .*",
        "BUG",
    ),
    _row(
        "oops",
        _MARK,
        _START,
        r"[Kk]ernel (?:tried to execute|attempted to \w+ user page) .* - exploit attempt\?.*"
        r"|unable to execute userspace code \(SMEP\?\).*",
        "- exploit attempt?",
        "(SMEP?)",
    ),
    # arch/{arm,arm64}/kernel/traps.c, __die(), bad_mode(), arm64_serror_panic()
    _row("oops", _MARK, _SURE, r"Internal error: .* \[#\d+\].*", "Internal error"),
    _row(
        "oops",
        _MARK,
        _SURE,
        r"SError Interrupt on CPU\d+.*|Unhandled .* exception on CPU\d+, ESR .*"
        r"|Bad mode in .* handler detected on CPU\d+.*",
        "SError",
        "Unhandled ",
        "Bad mode in",
    ),
    _row(
        "oops",
        _MARK,
        _SURE,
        r"Insufficient stack space to handle exception!.*|Kernel stack (?:overflow|pointer invalid)"
        r"\.?",
        "Insufficient stack",
        "Kernel stack ",
    ),
    # arch/powerpc/kernel/traps.c, before die()
    _row(
        "oops",
        _MARK,
        _START,
        r"Unrecoverable .*[Ee]xception [0-9a-f]+ at [0-9a-f]+.*"
        r"|Bad kernel stack pointer [0-9a-f]+ at .*"
        r"|Machine check in kernel mode\.|Facility '.*' unavailable .* in kernel mode at .*"
        r"|Unexpected TM Bad Thing exception at .*",
        "Unrecoverable ",
        "Bad kernel stack",
        "Machine check in",
        "Facility '",
        "TM Bad Thing",
    ),
    # die() of riscv for a BUG without its place (arch/riscv/kernel/traps.c), of mips
    # (arch/mips/kernel/traps.c, do_trap_or_bp()); lib/bug.c, report_bug()
    _row("BUG", _MARK, _SURE, r"[Kk]ernel BUG (?:at .*|\[#\d+\])", "BUG"),
    _row("BUG", _MARK, _SURE, r"Kernel bug detected\[#\d+\]:", "Kernel bug detected"),
    # die(): mips and loongarch end with `[#1]:`, riscv with ` [#1]`, x86 has the error code before
    # it, s390 the instruction's length, powerpc the signal
    _row("oops", _MARK, _SURE, r"Oops: .*\[#\d+\].*", "Oops"),
    _row(
        "oops",
        _MARK,
        _START,
        r"[A-Za-z][\w ,!:/()&'#*-]{0,120}(?:\[#\d+\]:|: [0-9a-f]{4}(?: ilc:\d)? \[#\d+\].*)"
        r"|[A-Z][\w ,!:/()-]{0,80} \[#\d+\]",
        "[#",
    ),
    # arch/x86/kernel/traps.c, exc_double_fault(); kernel/exit.c, make_task_dead()
    _row("oops", _MARK, _START, r"(?:traps: )?PANIC: double fault.*", "PANIC: "),
    _row(
        "oops", _MARK, _START, r"Fixing recursive fault but reboot is needed!", "Fixing recursive"
    ),
    # arch/m68k/kernel/traps.c, die_if_kernel(), buserr_c()
    _row(
        "oops",
        _MARK,
        _START,
        r"(?:Oops|BAD KERNEL TRAP): [0-9a-f]{8}|BAD KERNEL BUSERR",
        "Oops",
        "BAD KERNEL",
    ),
    # arch/x86/kernel/cpu/mce/core.c, print_mce(); arch/s390/kernel/nmi.c
    _row(
        "machine check",
        _TRACE,
        _START,
        r"mce: \[Hardware Error\]: CPU \d+: Machine Check.*|mcck: Terminating task because of .*",
        "[Hardware Error]",
        "Terminating task because",
    ),
    # fs/sysfs/dir.c, sysfs_warn_dup(); lib/kobject.c, kobject_add_internal(), kobject_init()
    _row(
        "duplicate name",
        _TRACE,
        _START,
        r"sysfs: cannot create duplicate filename .*"
        r"|(?:kobject: )?kobject_add_internal failed for .*",
        ": cannot create duplicate filename",
        "_add_internal failed",
    ),
    # net/core/dev.c, netdev_wait_allrefs_any(); fs/super.c, generic_shutdown_super(); fs/open.c,
    # filp_flush(); net/core/dst.c, dst_release() before 6.6
    _row(
        "use count",
        End.LINE,
        _START,
        r"unregister_netdevice: waiting for .* to become free\..*|dst_release: dst:\S+ refcnt:-\d+",
        ": waiting for ",
        "_release: dst:",
    ),
    _row(
        "use count",
        End.LINE,
        _START,
        r"VFS: Busy inodes after unmount of .*\. Self-destruct in 5 seconds\..*"
        r"|VFS: Close: file count is \S+",
        "VFS: Busy",
        "VFS: Close",
    ),
    _row(
        "use count",
        _MARK,
        _START,
        r"VFS: Busy inodes after unmount .*|VFS: Close: file count is \S+ .*",
        "VFS: Busy",
        "VFS: Close",
    ),
    # net/sched/sch_generic.c, dev_watchdog(): since 6.5 it is no longer a WARN
    _row(
        "device timeout",
        _TRACE,
        _START,
        r".*: NETDEV WATCHDOG: CPU: \d+: transmit queue \d+ timed out .*",
        "NETDEV WATCHDOG",
    ),
    # Complaints that dump a stack under another word: kernel/irq/spurious.c; kernel/module/main.c,
    # do_init_module(); kernel/time/timer.c; arch/x86/mm/extable.c; net/core/dev.c and neighbour.c;
    # lib/kobject.c; mm/slab_common.c; fs/buffer.c
    _row(
        "call trace",
        _TRACE,
        _START,
        r"irq \d+: nobody cared .*|irq event \d+: bogus return value .*"
        r"|.*: '.*'->init suspiciously returned .*|schedule_timeout: wrong timeout value .*"
        r"|unchecked MSR access error: .*|.*: hw csum failure|Destroying alive neighbour .*"
        r"|NEIGH: BUG, double timer add, state is .*|Unexpected gfp: .* Fix your code!"
        r"|Division by zero in kernel\."
        r"|kobject: .*, something is seriously wrong\.|getblk\(\): invalid block size .*",
        ": nobody cared",
        ": bogus return value",
        "->init suspiciously returned",
        ": wrong timeout value",
        "MSR access error",
        ": hw csum failure",
        "Destroying alive",
        "BUG",
        "Unexpected gfp",
        ", something is seriously wrong",
        "Division by zero",
        "(): invalid block size",
    ),
    # mm/memory.c, mm/page_alloc.c, kernel/fork.c, kernel/locking/spinlock_debug.c, fs/dcache.c, and
    # whatever else calls itself one
    _row(
        "BUG",
        _TRACE,
        _SURE,
        r"BUG: (?:Bad (?:page|rss-counter)|non-zero pgtables_bytes on freeing mm: |Dentry "
        r"|(?:spin|rw)lock .* on CPU#).*",
        "BUG",
    ),
    # Behind pr_fmt()'s prefix too. drivers/input/input.c tells devices under their own names.
    _row("BUG", _TRACE, _PLAIN, r"(?:(?!input: )[\w-]+: )?BUG: .*", "BUG"),
    # The head of a call trace that nothing above explains (show_stack() of each architecture).
    _row(
        "call trace",
        _TRACE,
        _PLAIN,
        r"(?:Call [Tt]race|Backtrace): ?.*| (?:unwind|dump)_backtrace from show_stack\+.*",
        "_backtrace from show_stack",
        "Call T",
        "Call t",
        "Backtrace: ",
    ),
)

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
# What stands between a telling line and its call trace for as long as it likes: frames of other
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

# What a CPU or task that does not get on is told with; a report may have several call traces.
STALLS = frozenset(("RCU stall", "hung task", "soft lockup", "hard lockup", "workqueue lockup"))
STALL_LINE = re.compile(
    r"rcu: .*|task:.* state:.*|Task dump for CPU \d+:|Sending NMI .*|NMI backtrace .*|Showing .*"
    r"|pool \d+:.*|Workqueue: .*|Unless \w+ kthread gets .*|INFO: task .* is blocked on .*"
)

# The beginnings of telling lines in which a task's name, and so a newline, may stand.
NAME_FOLLOWS = re.compile(r"(?:INFO: task|WARNING:) .{0,40}")

# What is printed before die(), which may have to wait for another task's.
BEGINS_TO_DIE = re.compile(
    r"(?:CPU \d+ )?Unable to handle kernel .*"
    r"|BUG: (?:[Uu]nable to handle|[Kk]ernel NULL pointer) .*"
)
# die() counts its oopses in its first line, but on m68k.
DIES = re.compile(r"\[#\d+\]")

# Several telling lines of these kinds may be one event.
ONE_EVENT = frozenset(
    ("oops", "BUG", "list corruption", "memory corruption", "use count", "WARNING", "UBSAN")
)
# include/linux/bug.h, CHECK_DATA_CORRUPTION(): what was found, and then that it is a BUG or WARN.
BEFORE_CUT = frozenset(("list corruption", "memory corruption", "use count"))


def _hints() -> str:
    """Return a pattern of all hints, by their first character so that few are tried anywhere.

    None begins with a small letter, of which text is full.
    """
    by_first: dict[str, list[str]] = {}
    for hint in sorted({hint for row in ROWS for hint in row.hints}):
        by_first.setdefault(hint[0], []).append(re.escape(hint[1:]))
    return "|".join(
        f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in sorted(by_first.items())
    )


# What the telling line of a panic holds.
PANIC_HINT = re.compile("|".join(re.escape(h) for r in ROWS if r.kind == "panic" for h in r.hints))

# What any of the telling lines holds: to pass over text without looking at each of its lines.
HINT = re.compile(_hints())


def _by_hint(words: Iterable[Words]) -> dict[str, re.Pattern[str]]:
    """Return for each hint the alternatives of its rows, as groups named r0, r1, …"""
    chosen = set(words)
    return {
        hint: re.compile(
            "|".join(
                f"(?P<r{at}>{row.pattern})"
                for at, row in enumerate(ROWS)
                if hint in row.hints and row.words in chosen
            )
            or r"(?!)"
        )
        for hint in {hint for row in ROWS for hint in row.hints}
    }


_ANY_WORDS = _by_hint(Words)
_SURE_WORDS = _by_hint([Words.SURE])
# How far before its hint a telling line may begin that is believed anywhere, and how many hints of
# a line are looked at.
_BEFORE_HINT = 48
_MOST_HINTS = 16


def row_of(words: str) -> Row | None:
    """Return the row that a line without its time is of, None if it tells nothing."""
    if not HINT.search(words):
        return None
    hints = {hint[0] for hint in islice(HINT.finditer(words), _MOST_HINTS)}
    found = [match for hint in hints if (match := _ANY_WORDS[hint].fullmatch(words))]
    return ROWS[min(_row_number(match) for match in found)] if found else None


def kind_of(words: str) -> str:
    """Return the kind of splat that a line without its time begins, empty if it begins none."""
    row = row_of(words)
    return row.kind if row else ""


def sure_words(text: str) -> tuple[int, Row] | None:
    """Return from where on a line says what only a kernel says, and what that is of."""
    for hint in islice(HINT.finditer(text), _MOST_HINTS):
        for begin in range(max(0, hint.start() - _BEFORE_HINT), hint.start() + 1):
            match = _SURE_WORDS[hint[0]].match(text, begin)
            if match:
                return begin, ROWS[_row_number(match)]
    return None


def _row_number(match: re.Match[str]) -> int:
    assert match.lastgroup
    return int(match.lastgroup[1:])
