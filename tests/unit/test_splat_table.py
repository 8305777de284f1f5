"""What a kernel prints when it finds something wrong, and what only looks like it."""

from __future__ import annotations

import pytest

from pytest_kernelvm.vm.klog.splat_table import HINT, ROWS, kind_of, row_of
from pytest_kernelvm.vm.klog.splats import read_splats

# Composed from the formats in the kernel's source that the table names, by kind.
EXAMPLES = {
    "panic": [
        "Kernel panic - not syncing: Fatal exception in interrupt",
        "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: provoke+0x1",
        "PANIC: early exception 0x0d IP 10:ffffffff81a2 error 0 cr2 0x0",
        "PANIC: early exception 0005 PSW: 0000000000000000 0000000000000000",
    ],
    "KASAN": [
        "BUG: KASAN: slab-use-after-free in provoke_init+0x20/0x1000 [provoke]",
        "BUG: KASAN: invalid-access",
    ],
    "KCSAN": ["BUG: KCSAN: data-race in provoke_read / provoke_write"],
    "KMSAN": ["BUG: KMSAN: uninit-value in provoke_init+0x20/0x1000 [provoke]"],
    "KFENCE": ["BUG: KFENCE: memory corruption in provoke_init+0x20/0x1000 [provoke]"],
    "UBSAN": [
        "UBSAN: array-index-out-of-bounds in drivers/misc/provoke.c:17:9",
        "UBSAN: Undefined behaviour in drivers/misc/provoke.c:17:9",
        "UBSAN: integer subtraction overflow at provoke_init+0x20/0x1000 [provoke]",
    ],
    "lockdep": [
        "WARNING: possible circular locking dependency detected",
        "WARNING: possible recursive locking detected",
        "WARNING: possible irq lock inversion dependency detected",
        "WARNING: inconsistent lock state",
        "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
        "WARNING: Nested lock was not taken",
        "WARNING: bad unlock balance detected!",
        "WARNING: bad contention detected!",
        "WARNING: held lock freed!",
        "WARNING: lock held when returning to user space!",
        "WARNING: suspicious RCU usage",
        "WARNING: chain_key collision",
        "WARNING: insmod/61 still has locks held!",
        "WARNING: kworker/u4:1/61 still has locks held!",
        "[ BUG: Invalid wait context ]",
        "[ INFO: possible recursive locking detected ]",
        "BUG: MAX_LOCKDEP_CHAINS too low!",
        "BUG: MAX_LOCK_DEPTH too low!",
        "BUG: MAX_STACK_TRACE_ENTRIES too low!",
        "BUG: looking up invalid subclass: 9",
        "BUG: key ffff000003a1c000 has not been registered!",
        "INFO: trying to register non-static key.",
    ],
    "RCU stall": [
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: {",
        "rcu: INFO: rcu_sched detected stall, but suppressed full report due to a stuck CSD-lock.",
        "INFO: rcu_tasks detected stalls on tasks:",
        "INFO: rcu_tasks_trace detected stalls? (Late IPI?)",
        "rcu: rcu_sched kthread starved for 10500 jiffies! g989 f0x0 RCU_GP_WAIT_FQS(5)",
    ],
    "hung task": [
        "INFO: task modprobe:31 blocked for more than 120 seconds.",
        "INFO: task mount:61 blocked in I/O wait for more than 120 seconds.",
        "INFO: task a b:c:61 blocked for more than 1 seconds.",
        "Freezing of tasks failed after 20.003 seconds (1 tasks refusing to freeze, wq_busy=0):",
        "Freezing user space processes failed after 20.003 seconds (1 tasks refusing to freeze):",
    ],
    "soft lockup": [
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [modprobe:31]",
        "BUG: soft lockup - CPU#0 stuck for 26s! [modprobe:31]",
    ],
    "hard lockup": [
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 3",
        "watchdog: CPU 3 self-detected hard LOCKUP @ provoke_init+0x20/0x1000 [provoke]",
        "watchdog: CPU 1 detected hard LOCKUP on other CPUs 3",
        "watchdog: CPU 3 Hard LOCKUP",
        "smp: csd: Detected non-responsive CSD lock (#1) on CPU#0, waiting 5000006 ns for CPU#1",
    ],
    "workqueue lockup": [
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 34s!"
    ],
    "atomic context": [
        "BUG: scheduling while atomic: insmod/61/0x00000002",
        "BUG: scheduling in a non-blocking section: insmod/61/1",
        "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585",
        "BUG: assuming atomic context at drivers/misc/provoke.c:17",
        "BUG: assuming non migratable context at drivers/misc/provoke.c:17",
        "BUG: using smp_processor_id() in preemptible [00000000] code: insmod/61",
        "BUG: using __this_cpu_add() in preemptible [00000000] code: insmod/61",
        "workqueue: BUG: workqueue leaked atomic, lock or RCU: kworker/0:1[9]",
        "BUG: workqueue leaked lock or atomic: kworker/0:1/0x00000001/9",
        "note: insmod[61] exited with preempt_count 1",
        "note: insmod[61] exited with irqs disabled",
        "softirq: huh, entered softirq 3 NET_RX c0a1 with preempt_count 101, exited with 0?",
        "bad: scheduling from the idle thread!",
    ],
    "list corruption": [
        "list_add corruption. prev->next should be next (c0a1), but was 00000000. (prev=c0a2).",
        "list_add double add: new=ffff000003a1c000, prev=ffff000003a1c000, next=ffff000003a1c010.",
        "list_del corruption, ffff000003a1c000->next is LIST_POISON1 (dead000000000100)",
    ],
    "slab corruption": [
        "BUG kmalloc-64 (Not tainted): Poison overwritten",
        "BUG provoke cache (Tainted: G    B   W  O      ): Object already free",
        "Slab corruption (Not tainted): kmalloc-64 start=c0a1c000, len=64",
        "slab error in verify_redzone_free(): cache `kmalloc-64': double free detected",
        "kmem_cache_destroy provoke: Slab cache still has objects",
        "pagealloc: memory corruption",
        "pagealloc: single bit error",
    ],
    "memory corruption": [
        "usercopy: Kernel memory overwrite attempt detected to SLUB object 'kmalloc-64'!",
        "memcpy: detected buffer overflow: 8 byte write of buffer size 4",
        "insmod: Corrupted page table at address 7f19da578b50",
        "get_swap_device: Bad swap file entry 3ffffffffffff",
        "_swap_info_get: Unused swap offset entry 0000003f",
    ],
    "damaged initramfs": [
        "Initramfs unpacking failed: invalid magic at start of compressed archive"
    ],
    "memory leak": [
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "kmemleak: unreferenced object 0xffff000003a1c000 (size 64):",
        "kmemleak: Cannot insert 0xffff000003a1c000 into the object search tree (overlaps)",
        "kmemleak: Found object by alias at 0xffff000003a1c000",
    ],
    "out of memory": [
        "a b invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "Out of memory: Killed process 61 (provoke) total-vm:80068kB, anon-rss:71992kB",
        "Memory cgroup out of memory: Killed process 61 (provoke) total-vm:80068kB",
        "Out of memory and no killable processes...",
        "insmod: page allocation failure: order:10, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
        "insmod: page allocation stall for 10000 secs: order:10, mode:0xcc0 nodemask=(null)",
        "insmod: vmalloc error: size 4096, failed to allocate pages, mode:0xcc0(GFP_KERNEL)",
        "percpu: allocation failed, size=4096 align=8 atomic=0, alloc from reserved chunk failed",
    ],
    "WARNING": [
        "WARNING: CPU: 0 PID: 61 at drivers/misc/provoke.c:17 provoke_init+0x20/0x1000 [provoke]",
        "WARNING: CPU: 0 PID: 61 at provoke_init+0x20/0x1000 [provoke]",
        "WARNING: drivers/misc/provoke.c:17 at provoke_init+0x20/0x40, CPU#0: insmod/61",
        "WARNING: [n > 3] drivers/misc/provoke.c:17 at provoke_init+0x20/0x40, CPU#0: insmod/61",
        "WARNING: [a[3] == b] drivers/misc/provoke.c:17 at provoke_init+0x2/0x4, CPU#10: a b/61",
        "WARNING: at provoke_init+0x20/0x1000 [provoke], CPU#0: insmod/61",
        "WARNING: kernel stack regs at c0a1c000 in insmod:61 has bad 'bp' value 00000000",
        "WARNING: stack recursion on stack type 4",
        "WARNING: can't access registers at asm_exc_page_fault+0x22/0x30",
    ],
    "oops": [
        # arm64
        "Unable to handle kernel paging request at virtual address dead000000000108",
        "Unable to handle kernel execution of user memory at virtual address 0000000000401d38",
        "Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP",
        "Internal error: synchronous external abort: 0000000096000210 [#1] SMP",
        "SError Interrupt on CPU0, code 0x00000000bf000002 -- SError",
        "Unhandled 64-bit el1h sync exception on CPU0, ESR 0x02000000 -- Unknown/Uncategorized",
        "Bad mode in Error handler detected on CPU0, code 0xbf000002 -- SError",
        "Insufficient stack space to handle exception!",
        # arm
        "Internal error: Oops: 5 [#1] SMP ARM",
        "Internal error: Oops - undefined instruction: 0 [#1] ARM",
        "Internal error: : 1406 [#1] SMP ARM",
        # mips
        "CPU 0 Unable to handle kernel paging request at virtual address 00000000, epc == c0a20010",
        "Oops[#1]:",
        "Unhandled kernel unaligned access[#1]:",
        "Kernel unaligned instruction access[#1]:",
        "Reserved instruction in kernel code[#2]:",
        "Unaligned FP access in kernel code[#1]:",
        "Math emu break/trap[#1]:",
        "do_cpu invoked from kernel context![#1]:",
        "COP2: Unhandled kernel unaligned access or invalid instruction[#1]:",
        "CoreHi interrupt[#1]:",
        # loongarch
        "Oops - BUG[#1]:",
        "Kernel ale access[#1]:",
        # x86
        "BUG: unable to handle page fault for address: ffffffffc0405000",
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "BUG: stack guard page was hit at c0a1 (stack is c0a2..c0a3)",
        "BUG: TASK stack guard page was hit at c0a1 (stack is c0a2..c0a3)",
        "kernel tried to execute NX-protected page - exploit attempt? (uid: 0)",
        "unable to execute userspace code (SMEP?) (uid: 0)",
        "Oops: 0002 [#1] PREEMPT SMP",
        "Oops: Oops: 0002 [#1] SMP NOPTI",
        "general protection fault: 0000 [#1] SMP",
        "Oops: general protection fault, maybe for address 0xffffc900001a7e40: 0000 [#1] SMP",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "divide error: 0000 [#1] PREEMPT SMP NOPTI",
        "stack segment: 0000 [#1] SMP",
        "traps: PANIC: double fault, error_code: 0x0",
        "Fixing recursive fault but reboot is needed!",
        # s390
        "Unable to handle kernel pointer dereference in virtual kernel address space",
        "Oops: 0004 ilc:2 [#1]SMP ",
        "illegal operation: 0001 ilc:1 [#1]SMP ",
        "specification exception: 0006 ilc:3 [#1] PREEMPT SMP",
        "Kernel stack overflow.",
        "Kernel stack pointer invalid",
        # powerpc
        "BUG: Unable to handle kernel data access on read at 0xdead000000000108",
        "BUG: Kernel NULL pointer dereference on write at 0x00000000",
        "Kernel attempted to write user page (0) - exploit attempt? (uid: 0)",
        "kernel tried to execute exec-protected page (c0a1) - exploit attempt? (uid: 0)",
        "Oops: Kernel access of bad area, sig: 11 [#1]",
        "Oops: Exception in kernel mode, sig: 5 [#1]",
        "Machine check in kernel mode.",
        "Unrecoverable exception 380 at c0a1 (msr=8000)",
        "Unrecoverable VSX Unavailable Exception f40 at c0a1",
        "Bad kernel stack pointer c0a1 at c0a2",
        "Facility 'TM' unavailable (5) exception in kernel mode at c0a1",
        "Unexpected TM Bad Thing exception at c0a1 (msr 0x8000) tm_scratch=0",
        # riscv
        "Oops [#1]",
        "Oops - illegal instruction [#1]",
        "Oops - load address misaligned [#1]",
        # m68k
        "Oops: 00000000",
        "BAD KERNEL TRAP: 00000000",
        "BAD KERNEL BUSERR",
    ],
    "BUG": [
        "kernel BUG at mm/slub.c:4385!",
        "Kernel BUG at provoke_init+0x20/0x1000 [verbose debug info unavailable]",
        "Kernel BUG [#1]",
        "Kernel bug detected[#1]:",
        "BUG: Bad page state in process insmod  pfn:44a1c",
        "BUG: Bad page map in process insmod  pte:800000 pmd:44a1c067",
        "BUG: Bad page map in process insmod  pte:800000",
        "BUG: Bad rss-counter state mm:00000000f1a2b3c4 type:MM_ANONPAGES val:1",
        "BUG: non-zero pgtables_bytes on freeing mm: 4096",
        "BUG: Dentry 00000000f1a2b3c4{i=1,n=a}  still in use (1) [unmount of tmpfs tmpfs]",
        "BUG: spinlock bad magic on CPU#0, insmod/61",
        "BUG: rwlock wrong owner on CPU#0, insmod/61, 00000000f1a2b3c4",
        "BUG: of a driver",
        "IPv6: BUG: Address 2001:db8::1 on device lo is missing its host route.",
        "provoke_driver: BUG: of a driver",
    ],
    "machine check": [
        "mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 0: b200000000000005",
        "mcck: Terminating task because of machine malfunction (code 0x0000000000000000).",
    ],
    "duplicate name": [
        "sysfs: cannot create duplicate filename '/kernel/provoke'",
        "kobject: kobject_add_internal failed for provoke (error: -2 parent: kernel)",
    ],
    "use count": [
        "unregister_netdevice: waiting for provoke0 to become free. Usage count = 2",
        "VFS: Busy inodes after unmount of vda. Self-destruct in 5 seconds.  Have a nice day...",
        "VFS: Busy inodes after unmount of vda (ext4)",
        "VFS: Close: file count is 0 (f_op=provoke_fops [provoke])",
        "dst_release: dst:00000000f1a2b3c4 refcnt:-1",
    ],
    "device timeout": [
        "provoke 0000:00:01.0 eth0: NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out 5001 ms"
    ],
    "call trace": [
        'irq 23: nobody cared (try booting with the "irqpoll" option)',
        "irq event 23: bogus return value c0a1",
        "do_init_module: 'provoke'->init suspiciously returned 1, it should follow 0/-E convention",
        "schedule_timeout: wrong timeout value ffffffffffffffff",
        "unchecked MSR access error: RDMSR from 0x10a at rIP: 0xffffffff81a2 (native_read_msr+0x4)",
        "eth0: hw csum failure",
        "Destroying alive neighbour 00000000f1a2b3c4",
        "NEIGH: BUG, double timer add, state is 8",
        "Unexpected gfp: 0x4 (GFP_DMA32). Fixing up to gfp: 0xcc0 (GFP_KERNEL). Fix your code!",
        "kobject: (c0a1): tried to init an initialized object, something is seriously wrong.",
        "getblk(): invalid block size 3 requested",
        "Call trace:",
        "Call Trace:",
        "Call Trace: <IRQ>",
        "Backtrace: ",
    ],
}
LINES = [(kind, line) for kind, lines in EXAMPLES.items() for line in lines]

PREFIXES = [
    "[   12.345678] ",
    "[   12.345678][    T1] ",
    "[   12.345678] [   C0] ",
    "[    C10] ",
    "<4>[    1.0] ",
    "[12345.000001][T12345] ",
    "login: [    5.4] ",
    "",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_title_lines_have_their_kind(kind: str, prefix: str) -> None:
    for line in EXAMPLES[kind]:
        assert (line, kind_of(line)) == (line, kind)
        found = [(splat.kind, splat.title) for splat in read_splats(f"{prefix}{line}\n")]
        assert found == [(kind, line)]


def test_every_row_has_an_example() -> None:
    assert {row_of(line) for _kind, line in LINES} == set(ROWS)


def test_no_hint_begins_with_a_small_letter_or_a_blank() -> None:
    assert not [hint for row in ROWS for hint in row.hints if hint[0].islower() or hint[0] == " "]
    assert all(HINT.fullmatch(hint) for row in ROWS for hint in row.hints)


HARMLESS = [
    # Boots.
    "Kernel command line: console=ttyS0 panic=-1 oops=panic BUG: slub_debug=FZP",
    'Unknown kernel command line parameters "BUG WARNING: cookie", will be passed to user space.',
    "pci 0000:00:00.0: [Firmware Bug]: BAR 1: invalid; can't size",
    "Warning: unable to open an initial console.",
    "WARNING: 'bootconfig' found on the kernel command line but CONFIG_BOOT_CONFIG is not set.",
    "WARNING: Unprivileged eBPF is enabled, data leaks possible via Spectre v2 BHB attacks!",
    "WARNING: Spectre v2 mitigation leaves CPU vulnerable",
    "WARNING: Flushing system-wide workqueues will be prohibited in near future.",
    "WARNING: The mand mount option has been deprecated and",
    "WARNING: retbleed=stuff depends on retpoline",
    "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
    "printk: legacy bootconsole [uart8250] enabled",
    "ODEBUG: selftest passed",
    "KASAN: KernelAddressSanitizer initialized (generic)",
    "kcsan: enabled early",
    "kfence: initialized - using 2097152 bytes for 255 objects",
    "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "watchdog: Delayed init of the lockup detector failed: -19",
    "kmemleak: Kernel memory leak detector initialized (mem pool available: 15862)",
    "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
    "debug: BUG_ON enabled",
    "mce: CPU0: Thermal monitoring enabled (TM1)",
    "Kernel Offset: disabled",
    "Memory: 121792K/131068K available (4688K kernel code, 568K rwdata)",
    "Initramfs unpacking took 1.2 s",
    "PM: suspend entry (deep)",
    "Freezing user space processes completed (elapsed 0.001 seconds)",
    "random: crng init done",
    "rcu: INFO: Stall ended before state dump start",
    "INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.2 msecs",
    "INFO: task mount:61 is blocked on a mutex likely owned by task insmod:62.",
    "[U] BUG: through /dev/ttyprintk",
    "rcu: Adjusting geometry for rcu_fanout_leaf=16, nr_cpu_ids=1",
    "INFO: lockdep is turned off.",
    "sched: RT throttling activated",
    "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
    "perf: interrupt took too long (2511 > 2500), lowering kernel.perf_event_max_sample_rate",
    # Names of devices and modules.
    "usb 1-1: new device[#2] found",
    "usb 1-1: Product: BUG: the device",
    "usb 1-1: Manufacturer: WARNING: CPU: 0 PID: 1 at",
    "input: BUG: keyboard as /devices/platform/soc/input/input0",
    "scsi 0:0:0:0: Direct-Access     BUG:     Kernel panic     1.0  PQ: 0 ANSI: 5",
    "provoke: loading out-of-tree module taints kernel.",
    "provoke: module verification failed: signature and/or required key missing - tainting kernel",
    "provoke BUG: is my name",
    "device-mapper: table: 253:0: BUG: Unknown target type",
    "eth0: renamed from BUG",
    "bug: the module bug has no BUG",
    "Modules linked in: bug warning oops panic(O)",
    "lkdtm: Performing direct entry BUG",
    "lkdtm: Performing direct entry PANIC",
    "lkdtm: Performing direct entry WARNING",
    # Tests.
    "ok 1 - BUG: handling",
    "not ok 2 WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2",
    "# provoke: BUG: is expected",
    "    # test_bug: pass:1 fail:0 skip:0 total:1",
    "    ok 1 kernel BUG at a.c:1!",
    "    KTAP version 1",
    "# selftests: net: unregister_netdevice: waiting",
    "kunit: test: BUG is not called",
    "test: this is not a BUG: really",
    "rcu-torture: !!! kthread starved no more",
    # What programs say.
    "WARNING: this is not the kernel's",
    "WARNING: could not open /etc/modprobe.d: No such file or directory",
    "modprobe: WARNING: Module provoke not found in directory /lib/modules/6.12.117",
    "depmod: WARNING: could not open modules.builtin at .: No such file or directory",
    "udevd[61]: WARNING: at line 3",
    "systemd[1]: Kernel panic is not what this is",
    "sshd[61]: error: Oops",
    "Nov 25 16:01:19 host kernel: BUG: of yesterday",
    "[Wed Nov 25 16:01:19 2026] BUG: of yesterday",
    "4,321,5400000,-;BUG: of the log",
    'echo "BUG: soft lockup"',
    "> BUG: quoted",
    "+ echo WARNING: CPU: 0 PID: 1 at a.c:1",
    "sh: BUG:: not found",
    "make: *** [Makefile:1: BUG] Error 1",
    "segfault at 0 ip 00007f19da578b50 sp 00007ffe67327788 error 4 in provoke[400000+1000]",
    "provoke[61]: segfault at 0 ip 00007f19da578b50 sp 00007ffe67327788 error 4",
    "traps: provoke[61] general protection fault ip:401000 sp:7ffe67327788 error:0 in provoke",
    "traps: provoke[61] trap invalid opcode ip:401000 sp:7ffe67327788 error:0",
    "provoke[61]: unhandled exception: DABT (lower EL), ESR 0x0000000092000046, level 2",
    "provoke: unhandled page fault (11) at 0x00000000, code 0x005",
    "do_page_fault(): sending SIGSEGV to provoke for invalid read access from 00000000",
    "User process fault: interruption code 0004 ilc:2 in provoke[1000000+1000]",
    "Data bus error, epc == 00401d38, ra == 004027b4",
    "Unhandled fault: external abort on non-linefetch (0x1008) at 0xb6f5d000",
    "8<--- cut here ---",
    "------------[ cut here ]------------",
    "---[ end trace 0000000000000000 ]---",
    # Lines that stand in splats and begin none.
    "Showing all locks held in the system:",
    "CPU: 0 PID: 61 Comm: insmod Not tainted 6.1.140 #1",
    "Tainted: G        W          6.1.140 #1",
    "Oops - is what it says",
    "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 61, name: insmod",
    "Disabling lock debugging due to kernel taint",
    "page_owner tracks the page as allocated",
    "oom_reaper: reaped process 61 (provoke), now anon-rss:0kB",
    "insmod (61) used greatest stack depth: 12000 bytes left",
]


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines(line: str) -> None:
    for prefix in (
        "[    0.430218] ",
        "[    0.430218][   T61] ",
        "<6>[    1.0] ",
        "login: [    1.0] ",
    ):
        assert read_splats(f"{prefix}{line}\n") == ()


@pytest.mark.parametrize("before", ["", "> ", "ok 1 - ", "4,321,5400000,-;", "[Wed Nov 25 2026] "])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_programs_line_is_no_splat_where_the_kernel_stamps_its_lines(
    kind: str, before: str
) -> None:
    for line in EXAMPLES[kind]:
        quoted = f"[    1.0] eth0: up\n{before}{line}\n[    1.1] eth0: down\n"
        assert (line, read_splats(quoted)) == (line, ())
