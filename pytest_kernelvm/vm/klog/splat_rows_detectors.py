"""Rows of the splat table: panics, and reports of sanitizers, lockdep, watchdogs, allocators."""

from __future__ import annotations

from pytest_kernelvm.vm.klog.splat_kinds import Certainty, End, row

_MARK, _FRAME, _TRACE, _KILL, _LINE = End.MARK, End.FRAME, End.TRACE, End.KILL, End.LINE
_ANYWHERE, _AT_START = Certainty.ANYWHERE, Certainty.AT_START

# The first that fits decides; those of splat_rows_faults.py come behind these.
DETECTORS = (
    # kernel/panic.c, vpanic(). The early ones: arch/x86/mm/extable.c, early_fixup_exception();
    # arch/s390/kernel/early.c, do_early_exception(); nothing runs after them.
    row("panic", _MARK, _ANYWHERE, r"Kernel panic - not syncing: .*", "- not syncing"),
    row("panic", _MARK, _ANYWHERE, r"PANIC: early exception .*", "PANIC: "),
    # mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c
    row("KASAN", _FRAME, _ANYWHERE, r"BUG: KASAN: .*", "BUG"),
    row("KCSAN", _FRAME, _ANYWHERE, r"BUG: KCSAN: .*", "BUG"),
    row("KMSAN", _FRAME, _ANYWHERE, r"BUG: KMSAN: .*", "BUG"),
    row("KFENCE", _FRAME, _ANYWHERE, r"BUG: KFENCE: .*", "BUG"),
    # lib/ubsan.c, ubsan_prologue(); arch/x86/kernel/traps.c, handle_bug()
    row("UBSAN", _MARK, _AT_START, r"(?:traps: )?UBSAN: .*", "UBSAN: "),
    # kernel/locking/lockdep.c
    row(
        "lockdep",
        _TRACE,
        _AT_START,
        r"WARNING: (?:possible (?:circular|recursive|irq lock)|inconsistent lock state"
        r"|\S+-safe -> \S+-unsafe lock order|Nested lock was not taken|bad (?:unlock|contention)"
        r"|held lock freed|lock held when returning|suspicious RCU usage|chain_key collision).*"
        r"|WARNING: .*/\d+ still has locks held!",
        "WARNING: ",
    ),
    row(
        "lockdep",
        _TRACE,
        _AT_START,
        r"\[ (?:BUG|INFO): .* \]|BUG: MAX_\w+ too low!|BUG: looking up invalid subclass: .*"
        r"|BUG: key \S+ has not been registered!",
        "BUG",
        "INFO: ",
    ),
    row("lockdep", _TRACE, _ANYWHERE, r"INFO: trying to register non-static key\.", "INFO: "),
    # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
    row(
        "RCU stall",
        _TRACE,
        _ANYWHERE,
        r"(?:rcu: )?INFO: \w+ (?:self-)?detected (?:expedited )?stalls?\b.*",
        "INFO: ",
    ),
    row("RCU stall", _TRACE, _AT_START, r"(?:rcu: )?\w+ kthread starved for .*! g.*", "! g"),
    # kernel/hung_task.c, check_hung_task(); the second form since 7.1
    row(
        "hung task",
        _TRACE,
        _ANYWHERE,
        r"INFO: task .* blocked (?:in I/O wait )?for more than \d+ seconds\.",
        "INFO: ",
    ),
    # kernel/power/process.c, try_to_freeze_tasks()
    row(
        "hung task",
        _TRACE,
        _AT_START,
        r"(?:PM: )?Freezing .* failed after \S+ seconds \(\d+ tasks refusing to freeze.*",
        "Freezing ",
    ),
    # kernel/watchdog.c
    row("soft lockup", _TRACE, _ANYWHERE, r"(?:watchdog: )?BUG: soft lockup - .*", "BUG"),
    # kernel/watchdog_hld.c and kernel/watchdog.c; arch/powerpc/kernel/watchdog.c
    row(
        "hard lockup",
        _TRACE,
        _ANYWHERE,
        r"(?:NMI )?(?:watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP.*"
        r"|(?:watchdog: )?CPU \d+ (?:self-detected h|detected h|H)ard LOCKUP.*",
        "LOCKUP",
    ),
    # kernel/smp.c, csd_lock_wait_toolong()
    row(
        "hard lockup",
        _TRACE,
        _ANYWHERE,
        r"(?:smp: )?csd: Detected non-responsive CSD lock .*",
        "CSD lock",
    ),
    # kernel/workqueue.c, wq_watchdog_timer_fn()
    row(
        "workqueue lockup", _TRACE, _ANYWHERE, r"(?:workqueue: )?BUG: workqueue lockup - .*", "BUG"
    ),
    # kernel/sched/core.c, lib/smp_processor_id.c, kernel/workqueue.c
    row(
        "atomic context",
        _TRACE,
        _ANYWHERE,
        r"BUG: (?:scheduling (?:while atomic|in a non-blocking section): |sleeping function called"
        r" |assuming (?:atomic|non migratable) context |using \S+ in preemptible ).*"
        r"|(?:workqueue: )?BUG: workqueue leaked .*",
        "BUG",
    ),
    # kernel/exit.c, make_task_dead(); kernel/softirq.c, handle_softirqs(); kernel/sched/idle.c
    row(
        "atomic context",
        _TRACE,
        _AT_START,
        r"note: .*\[\d+\] exited with (?:preempt_count \d+|irqs disabled)"
        r"|(?:softirq: )?huh, entered softirq .*|bad: scheduling from the idle thread!",
        "] exited with ",
        ", entered softirq",
        ": scheduling from the idle",
    ),
    # lib/list_debug.c
    row(
        "list corruption",
        _MARK,
        _AT_START,
        r"list_(?:add double add|(?:add|del) corruption).*",
        "_add double",
        "_add corruption",
        "_del corruption",
    ),
    # mm/slub.c, slab_bug(); mm/slab.c; mm/slab_common.c; mm/page_poison.c
    row(
        "slab corruption",
        _TRACE,
        _AT_START,
        r"BUG \S.* \((?:Not tainted|Tainted: .*)\): .*",
        "BUG",
    ),
    row(
        "slab corruption",
        _TRACE,
        _AT_START,
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
    row(
        "memory corruption",
        _MARK,
        _AT_START,
        r"usercopy: Kernel memory \w+ attempt detected .*"
        r"|\S+: detected buffer overflow: .*",
        "Kernel memory ",
        ": detected buffer overflow",
    ),
    # arch/x86/mm/fault.c, pgtable_bad(); mm/swapfile.c
    row(
        "memory corruption",
        _MARK,
        _AT_START,
        r".*: Corrupted page table at address .*",
        "Corrupted page table",
    ),
    row(
        "memory corruption",
        _LINE,
        _AT_START,
        r"(?:\S+: )?(?:Bad|Unused) swap (?:file|offset) entry [0-9a-f]+",
        "Bad swap ",
        "Unused swap ",
    ),
    # init/initramfs.c
    row(
        "damaged initramfs",
        _TRACE,
        _AT_START,
        r"Initramfs unpacking failed: .*",
        "Initramfs unpacking",
    ),
    # mm/kmemleak.c
    row(
        "memory leak",
        _TRACE,
        _AT_START,
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
    row(
        "out of memory",
        _KILL,
        _AT_START,
        r".* invoked oom-killer: gfp_mask=.*|(?:Memory cgroup o|O)ut of memory: Killed process .*"
        r"|Out of memory and no killable processes\.\.\.",
        "-killer: gfp_mask",
        ": Killed process ",
        "Out of memory and no killable",
    ),
    # mm/page_alloc.c, warn_alloc(); mm/vmalloc.c; mm/percpu.c
    row(
        "out of memory",
        _TRACE,
        _AT_START,
        r".*: (?:page allocation (?:failure: order:|stall for )|vmalloc error: size )\d+.*"
        r"|percpu: allocation failed, size=.*",
        ": page allocation ",
        ": vmalloc error: ",
        ": allocation failed, size=",
    ),
)
