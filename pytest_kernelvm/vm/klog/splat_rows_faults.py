"""Rows of the splat table: WARN, BUG, oopses, and other reports that dump a stack."""

from __future__ import annotations

from pytest_kernelvm.vm.klog.splat_kinds import Certainty, End, row

_MARK, _TRACE, _LINE = End.MARK, End.TRACE, End.LINE
_ANYWHERE, _AT_START, _DOUBTFUL = Certainty.ANYWHERE, Certainty.AT_START, Certainty.DOUBTFUL

# The first that fits decides.
FAULTS = (
    # kernel/panic.c, __warn(); the second form since 6.19, with the condition of
    # CONFIG_DEBUG_BUGVERBOSE_DETAILED since 7.0; without a known place the third
    row(
        "WARNING",
        _MARK,
        _ANYWHERE,
        r"WARNING: CPU: \d+ PID: \d+ at .*|WARNING: (?:\[.*\] )?\S+:\d+ at .*, CPU#\d+: .*"
        r"|WARNING: (?:\[.*\] )?at .*, CPU#\d+: .*",
        "WARNING: ",
    ),
    # arch/x86/kernel/unwind_frame.c, unwind_orc.c, arch/x86/kernel/dumpstack.c
    row(
        "WARNING",
        _TRACE,
        _AT_START,
        r"WARNING: (?:kernel stack (?:regs|frame pointer) at \S+ in .* has bad"
        r"|unrecognized kernel stack return address|stack (?:recursion on|going in the wrong)"
        r"|can't (?:access|dereference) (?:iret )?registers).*",
        "WARNING: ",
    ),
    # arch/*/mm/fault.c and arch/*/kernel/traps.c: arm, arm64, loongarch, m68k, mips, riscv, s390;
    # arch/x86/mm/fault.c; arch/powerpc/mm/fault.c
    row(
        "oops",
        _MARK,
        _ANYWHERE,
        r"(?:CPU \d+ )?Unable to handle kernel .*",
        "Unable to handle",
    ),
    row(
        "oops",
        _MARK,
        _ANYWHERE,
        r"BUG: (?:[Uu]nable to handle|[Kk]ernel NULL pointer) .*"
        r"|BUG: .*stack guard page was hit at .*",
        "BUG",
    ),
    row(
        "oops",
        _MARK,
        _AT_START,
        r"[Kk]ernel (?:tried to execute|attempted to \w+ user page) .* - exploit attempt\?.*"
        r"|unable to execute userspace code \(SMEP\?\).*",
        "- exploit attempt?",
        "(SMEP?)",
    ),
    # arch/{arm,arm64}/kernel/traps.c, __die(), bad_mode(), arm64_serror_panic()
    row("oops", _MARK, _ANYWHERE, r"Internal error: .* \[#\d+\].*", "Internal error"),
    row(
        "oops",
        _MARK,
        _ANYWHERE,
        r"SError Interrupt on CPU\d+.*|Unhandled .* exception on CPU\d+, ESR .*"
        r"|Bad mode in .* handler detected on CPU\d+.*",
        "SError",
        "Unhandled ",
        "Bad mode in",
    ),
    row(
        "oops",
        _MARK,
        _ANYWHERE,
        r"Insufficient stack space to handle exception!.*|Kernel stack (?:overflow|pointer invalid)"
        r"\.?",
        "Insufficient stack",
        "Kernel stack ",
    ),
    # arch/powerpc/kernel/traps.c, before die()
    row(
        "oops",
        _MARK,
        _AT_START,
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
    row("BUG", _MARK, _ANYWHERE, r"[Kk]ernel BUG (?:at .*|\[#\d+\])", "BUG"),
    row("BUG", _MARK, _ANYWHERE, r"Kernel bug detected\[#\d+\]:", "Kernel bug detected"),
    # die(): mips and loongarch end with `[#1]:`, riscv with ` [#1]`, x86 has the error code before
    # it, s390 the instruction's length, powerpc the signal
    row("oops", _MARK, _ANYWHERE, r"Oops: .*\[#\d+\].*", "Oops"),
    row(
        "oops",
        _MARK,
        _AT_START,
        r"[A-Za-z][\w ,!:/()&'#*-]{0,120}(?:\[#\d+\]:|: [0-9a-f]{4}(?: ilc:\d)? \[#\d+\].*)"
        r"|[A-Z][\w ,!:/()-]{0,80} \[#\d+\]",
        "[#",
    ),
    # arch/x86/kernel/traps.c, exc_double_fault(); kernel/exit.c, make_task_dead()
    row("oops", _MARK, _AT_START, r"(?:traps: )?PANIC: double fault.*", "PANIC: "),
    row(
        "oops",
        _MARK,
        _AT_START,
        r"Fixing recursive fault but reboot is needed!",
        "Fixing recursive",
    ),
    # arch/m68k/kernel/traps.c, die_if_kernel(), buserr_c()
    row(
        "oops",
        _MARK,
        _AT_START,
        r"(?:Oops|BAD KERNEL TRAP): [0-9a-f]{8}|BAD KERNEL BUSERR",
        "Oops",
        "BAD KERNEL",
    ),
    # arch/x86/kernel/cpu/mce/core.c, print_mce(); arch/s390/kernel/nmi.c
    row(
        "machine check",
        _TRACE,
        _AT_START,
        r"mce: \[Hardware Error\]: CPU \d+: Machine Check.*|mcck: Terminating task because of .*",
        "[Hardware Error]",
        "Terminating task because",
    ),
    # fs/sysfs/dir.c, sysfs_warn_dup(); lib/kobject.c, kobject_add_internal(), kobject_init()
    row(
        "duplicate name",
        _TRACE,
        _AT_START,
        r"sysfs: cannot create duplicate filename .*"
        r"|(?:kobject: )?kobject_add_internal failed for .*",
        ": cannot create duplicate filename",
        "_add_internal failed",
    ),
    # net/core/dev.c, netdev_wait_allrefs_any(); fs/super.c, generic_shutdown_super(); fs/open.c,
    # filp_flush(); net/core/dst.c, dst_release() before 6.6
    row(
        "use count",
        _LINE,
        _AT_START,
        r"unregister_netdevice: waiting for .* to become free\..*|dst_release: dst:\S+ refcnt:-\d+",
        ": waiting for ",
        "_release: dst:",
    ),
    row(
        "use count",
        _LINE,
        _AT_START,
        r"VFS: Busy inodes after unmount of .*\. Self-destruct in 5 seconds\..*"
        r"|VFS: Close: file count is \S+",
        "VFS: Busy",
        "VFS: Close",
    ),
    row(
        "use count",
        _MARK,
        _AT_START,
        r"VFS: Busy inodes after unmount .*|VFS: Close: file count is \S+ .*",
        "VFS: Busy",
        "VFS: Close",
    ),
    # net/sched/sch_generic.c, dev_watchdog(): since 6.5 it is no longer a WARN
    row(
        "device timeout",
        _TRACE,
        _AT_START,
        r".*: NETDEV WATCHDOG: CPU: \d+: transmit queue \d+ timed out .*",
        "NETDEV WATCHDOG",
    ),
    # Complaints that dump a stack under another word: kernel/irq/spurious.c; kernel/module/main.c,
    # do_init_module(); kernel/time/timer.c; arch/x86/mm/extable.c; net/core/dev.c and neighbour.c;
    # lib/kobject.c; mm/slab_common.c; fs/buffer.c
    row(
        "call trace",
        _TRACE,
        _AT_START,
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
    row(
        "BUG",
        _TRACE,
        _ANYWHERE,
        r"BUG: (?:Bad (?:page|rss-counter)|non-zero pgtables_bytes on freeing mm: |Dentry "
        r"|(?:spin|rw)lock .* on CPU#).*",
        "BUG",
    ),
    # Behind pr_fmt()'s prefix too. drivers/input/input.c tells devices under their own names.
    row("BUG", _TRACE, _DOUBTFUL, r"(?:(?!input: )[\w-]+: )?BUG: .*", "BUG"),
    # The head of a call trace that nothing above explains (show_stack() of each architecture).
    row(
        "call trace",
        _TRACE,
        _DOUBTFUL,
        r"(?:Call [Tt]race|Backtrace): ?.*| (?:unwind|dump)_backtrace from show_stack\+.*",
        "_backtrace from show_stack",
        "Call T",
        "Call t",
        "Backtrace: ",
    ),
)
