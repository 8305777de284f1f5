"""Every way a guest can go wrong is provoked, named and shown, soon after it happened."""

import contextlib
import dataclasses
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import (
    BootHang,
    CommandFailed,
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    KernelvmError,
    LaunchFailed,
    NoOutput,
    ToolMissing,
    Verdict,
)
from pytest_kernelvm.process import spawn
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.qemu.argv import Boot
from tests.vm.project import pytest_argv
from tests.vm.provoking import CRASH, PROVOKE, SLEEPER, Stopwatch, bare, ready_to_crash

pytestmark = pytest.mark.slow

# From the event's text, or the event itself, to the error.
PROMPT_S = 1.0


@pytest.fixture(scope="session")
def provoke(cell: Cell) -> bytes:
    """A program that crashes the kernel as its argument says."""
    return cell.compile_program(PROVOKE)


@pytest.fixture
def crashing(new_vm: BootVm, provoke: bytes) -> Callable[..., Vm]:
    """Gives a guest with LKDTM: parameters of the module, words of the command line."""

    def give(*parameters: str, cmdline: str = "") -> Vm:
        vm = new_vm(modules=["lkdtm"], files={"/provoke": provoke}, cmdline=cmdline)
        return ready_to_crash(vm, *parameters)

    return give


# Compilers make a loop of LKDTM's recursion.
OVERFLOW = """
#include <linux/module.h>

static noinline int deeper(int levels, volatile char *above)
{
	volatile char here[512];
	int at;

	for (at = 0; at < sizeof(here); at++)
		here[at] = above[0] + at;
	if (levels)
		at += deeper(levels - 1, here);
	return at + here[levels % sizeof(here)];
}

static int __init overflow_init(void)
{
	volatile char first[1] = { 1 };

	return deeper(1 << 18, first) ? -EINVAL : -EBUSY;
}
module_init(overflow_init);
MODULE_LICENSE("GPL");
"""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A way in which LKDTM makes the kernel go wrong, and what is said about it.

    summary, text: regular expressions found in the error's summary, and in its excerpt.
    """

    name: str
    error: type[KernelvmError]
    verdict: Verdict
    seen: str
    summary: str
    text: str


# Compilers put most of LKDTM's functions into the one that calls them.
INSIDE = r"(?:lkdtm_\w+|direct_entry)\+"

CRASHES = [
    Crash(
        name="PANIC",
        error=GuestPanic,
        verdict=Verdict.PANIC,
        seen="the kernel panicked while it was tested",
        summary=r": dumptest$",
        text=r"Kernel panic - not syncing: dumptest",
    ),
    Crash(
        name="BUG",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="BUG",
        summary=r"kernel BUG at drivers/misc/lkdtm/bugs\.c:\d+!$|Kernel bug detected\[#1\]:$",
        text=rf"{INSIDE}.*\[lkdtm\](?s:.*)---\[ end trace 0000000000000000 \]---$",
    ),
    Crash(
        name="WARNING",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="WARNING while it was tested",
        summary=rf"WARNING: CPU: 0 PID: \d+ at drivers/misc/lkdtm/bugs\.c:\d+ {INSIDE}",
        text=r"\[ cut here \](?s:.*)---\[ end trace 0000000000000000 \]---$",
    ),
    Crash(
        name="WARNING_MESSAGE",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="WARNING while it was tested",
        summary=rf"WARNING: CPU: 0 PID: \d+ at drivers/misc/lkdtm/bugs\.c:\d+ {INSIDE}",
        text=r"\[ cut here \](?s:.*)Warning message trigger count: 1(?s:.*)\[ end trace \w+ \]---$",
    ),
    Crash(
        name="REFCOUNT_INC_OVERFLOW",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="WARNING while it was tested",
        summary=r"WARNING: CPU: 0 PID: \d+ at lib/refcount\.c:\d+ ",
        text=r"refcount_t: saturated; leaking memory\.",
    ),
    Crash(
        name="EXCEPTION",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="oops while it was tested",
        summary=r"Unable to handle kernel (NULL pointer dereference|paging request) at virtual",
        text=rf"{INSIDE}(?s:.*)---\[ end trace 0000000000000000 \]---$",
    ),
    Crash(
        name="CORRUPT_STACK",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="oops while it was tested",
        summary=r"Unable to handle kernel |Internal error: ",
        text=r"Corrupting stack containing char array(?s:.*)---\[ end trace 0+ \]---$",
    ),
    Crash(
        name="SOFTLOCKUP",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="soft lockup",
        summary=r"watchdog: BUG: soft lockup - CPU#0 stuck for \d+s! \[provoke:\d+\]$",
        text=INSIDE,
    ),
    Crash(
        name="HUNG_TASK",
        error=GuestSplat,
        verdict=Verdict.SPLAT,
        seen="hung task while it was tested",
        summary=r"INFO: task provoke:\d+ blocked for more than 1 seconds\.$",
        text=INSIDE,
    ),
]


def assert_shown_whole(error: KernelvmError, vm: Vm) -> str:
    """Assert that the excerpt is the console's text; return its last line."""
    lines = error.evidence.excerpt.splitlines()
    console = vm.console.text
    assert [line for line in lines if line not in console and not line.startswith("…")] == []
    return lines[-1]


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.name)
def test_what_the_kernel_itself_notices(crash: Crash, crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    stopwatch = Stopwatch(vm.pid)
    with pytest.raises(KernelvmError) as raised:
        vm.run("/provoke", crash.name, timeout_s=60)
    error = raised.value
    late_s = stopwatch.since(vm.console.arrival(assert_shown_whole(error, vm)))
    assert (type(error), error.verdict) == (crash.error, crash.verdict)
    assert re.search(crash.summary, error.summary)
    assert error.evidence.seen.startswith(crash.seen)
    assert f"/provoke {crash.name}" in error.evidence.expected
    assert re.search(crash.text, error.evidence.excerpt)
    assert error.evidence.facts[0] == "reached: ready"
    assert re.match(
        r"time: guest \d+\.\d{6} s; host \d\d:\d\d:\d\d\.\d{3}, ", error.evidence.facts[1]
    )
    assert error.evidence.where[0] == str(vm.console.log)
    assert f"kernelvm boot {vm.label}" in error.evidence.next_step
    assert late_s <= PROMPT_S


def test_an_oops_that_panics_reports_both(crashing: Callable[..., Vm]) -> None:
    vm = crashing(cmdline="oops=panic")
    with pytest.raises(GuestPanic) as panic:
        vm.run("/provoke", "EXCEPTION")
    assert re.search("Fatal exception, after: .*Unable to handle kernel", panic.value.summary)
    assert "[lkdtm]" in panic.value.evidence.excerpt
    assert "Kernel panic - not syncing" in panic.value.evidence.excerpt
    assert "QEMU: ended with status 0, SHUTDOWN guest-reset" in panic.value.evidence.facts


def test_a_hard_lockup_is_a_hang_of_a_cpu_that_works(crashing: Callable[..., Vm]) -> None:
    """Nothing in these kernels sees it from outside."""
    vm = crashing()
    with pytest.raises(GuestHang) as hang:
        vm.run("/provoke", "HARDLOCKUP", timeout_s=2.0)
    assert hang.value.summary == f"{vm.label}: no answer within 2 s"
    facts = "\n".join(hang.value.evidence.facts)
    assert re.search(r"^CPU: works \(QEMU ran .* that it could\), at ", facts, re.MULTILINE)
    assert re.search(r"^waited: .*; limit: 2 s$", facts, re.MULTILINE)
    assert re.search(r"^last word: guest ", facts, re.MULTILINE)


@pytest.mark.kernelvm(modules=["overflow"], external={"overflow": OVERFLOW})
def test_no_guest_survives_a_stack_overflow(vm: Vm) -> None:
    """Without a guard page it destroys what lies below; how that ends is the kernel's affair."""
    with pytest.raises((GuestPanic, GuestSplat, GuestDied, GuestHang)):
        vm.run("modprobe", "overflow", timeout_s=2.0)


def test_after_a_warning_the_guest_goes_on(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    with pytest.raises(GuestSplat):
        vm.run("/provoke", "WARNING")
    assert vm.read("/proc/version")
    with pytest.raises(GuestSplat):
        vm.write(CRASH, "WARNING_MESSAGE")
    assert len(vm.splats) == 2


@pytest.mark.kernelvm_splats(allow="blocked for more than", reason="provoked")
def test_a_program_that_hangs_is_killed_before_the_next_command(
    crashing: Callable[..., Vm],
) -> None:
    """The splat came while it ran; it sleeps for ever then."""
    vm = crashing()
    vm.run("/provoke", "WARNING", "later")
    with pytest.raises(GuestSplat):
        vm.run("/provoke", "HUNG_TASK", timeout_s=60)
    assert [splat.kind for splat in vm.splats][:1] == ["WARNING"]


# Splats that are allowed


def test_an_allowed_splat_ends_no_command(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    with vm.allow_splats("lkdtm_WARNING", r"WARNING.*bugs\.c", reason="provoked") as allowed:
        assert vm.run("/provoke", "WARNING").status == 0
        assert vm.run("/provoke", "WARNING_MESSAGE").status == 0
    assert [splat.kind for splat in allowed.splats] == ["WARNING", "WARNING"]
    with pytest.raises(GuestSplat):
        vm.run("/provoke", "WARNING")


def test_a_splat_that_does_not_match_is_not_allowed(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    with pytest.raises(GuestSplat), vm.allow_splats("something else", reason="none"):
        vm.run("/provoke", "WARNING")


@pytest.mark.kernelvm_splats(allow=r"WARNING.*bugs\.c", reason="provoked")
def test_what_the_marker_allows(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    assert vm.run("/provoke", "WARNING").status == 0
    with pytest.raises(GuestSplat, match=r"kernel BUG at|Kernel bug detected"):
        vm.run("/provoke", "BUG")


def test_allowing_a_splat_requires_a_reason(vm: Vm) -> None:
    with pytest.raises(TypeError, match="reason"), vm.allow_splats("WARNING", reason=""):
        pass


# Waiting for the console


def test_a_splat_comes_before_what_is_waited_for(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    vm.run("/provoke", "WARNING", "later")
    stopwatch = Stopwatch(vm.pid)
    with pytest.raises(GuestSplat) as splat:
        vm.console.expect("this never comes", timeout_s=60)
    late_s = stopwatch.since(vm.console.arrival(assert_shown_whole(splat.value, vm)))
    assert "on the console: this never comes" in splat.value.evidence.expected
    assert late_s <= PROMPT_S


def test_what_is_waited_for_may_be_the_splats_first_line(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    with vm.allow_splats("WARNING", reason="waited for"):
        vm.run("/provoke", "WARNING", "later")
        assert vm.console.expect(r"WARNING: CPU: \d+ PID: \d+ at (\S+)", timeout_s=60)
        vm.console.expect("end trace", timeout_s=60)


def test_the_earlier_one_wins(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    vm.write("/dev/kmsg", "<4>before\n")
    vm.run("/provoke", "WARNING", "later")
    vm.console.expect("before")
    with pytest.raises(GuestSplat):
        vm.console.expect("end trace", timeout_s=60)


def test_a_panic_while_the_console_is_waited_for(crashing: Callable[..., Vm]) -> None:
    vm = crashing()
    vm.run("/provoke", "PANIC", "later")
    with pytest.raises(GuestPanic, match="dumptest"):
        vm.console.expect("this never comes", timeout_s=60)


def test_qemus_end_while_the_console_is_waited_for(vm: Vm) -> None:
    vm.kill()
    with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
        vm.console.expect("this never comes", timeout_s=60)


def test_a_console_that_says_something_else(vm: Vm) -> None:
    with pytest.raises(CommandFailed, match=r"nothing fitting within 0\.2 s") as failed:
        vm.console.expect("this never comes", timeout_s=0.2)
    assert failed.value.evidence.facts[0].startswith("waited: ")


# Ends of QEMU


@pytest.mark.parametrize(
    ("key", "words", "shutdown"),
    [
        ("o", "the guest switched itself off", "guest-shutdown"),
        ("b", "the guest restarted itself", "guest-reset"),
    ],
)
def test_power_off_and_reboot_in_the_middle(
    vm: Vm, cell: Cell, key: str, words: str, shutdown: str
) -> None:
    stopwatch = Stopwatch()
    with pytest.raises(GuestDied) as died:
        press_and_go_on(vm, key)
    late_s = stopwatch.since(vm.console.arrival(vm.console.text.rstrip("\n").splitlines()[-1]))
    assert died.value.summary == f"{cell.config.id}: {words} while it was tested"
    assert f"QEMU: ended with status 0, SHUTDOWN {shutdown}" in died.value.evidence.facts
    assert late_s <= PROMPT_S


def press_and_go_on(vm: Vm, key: str) -> None:
    vm.write("/proc/sysrq-trigger", key)
    while True:
        vm.read("/proc/version")


def test_a_killed_qemu(vm: Vm) -> None:
    stopwatch, killed = Stopwatch(), time.monotonic()
    vm.kill()
    with pytest.raises(GuestDied) as died:
        vm.read("/proc/version")
    late_s = stopwatch.since(killed)
    assert "QEMU: was killed by SIGKILL" in died.value.evidence.facts
    assert late_s <= PROMPT_S


def test_a_stopped_qemu_is_distinguished_from_a_silent_guest(vm: Vm) -> None:
    stopwatch, stopped = Stopwatch(), time.monotonic()
    vm.kill(signal.SIGSTOP)
    with pytest.raises(GuestHang, match="a signal stopped QEMU while it was tested") as hang:
        vm.read("/proc/version")
    late_s = stopwatch.since(stopped)
    assert "state T" in hang.value.evidence.seen
    assert late_s <= PROMPT_S
    vm.kill(signal.SIGCONT)
    assert vm.read("/proc/version")


# QEMU that does not start


def test_a_flag_that_qemu_does_not_know(cell: Cell, tmp_path: Path) -> None:
    boot = dataclasses.replace(cell.boot(cell.initramfs()), extra=("-no-such-flag",))
    with pytest.raises(LaunchFailed) as failed, bare(cell, tmp_path, boot):
        pass
    assert "-no-such-flag: invalid option" in failed.value.evidence.excerpt
    assert cell.config.arch.qemu_binary in failed.value.evidence.command


def test_a_qemu_that_is_not_installed(cell: Cell, tmp_path: Path) -> None:
    arch = dataclasses.replace(cell.config.arch, qemu_arch="nowhere")
    boot = dataclasses.replace(cell.boot(cell.initramfs()), arch=arch)
    with pytest.raises(ToolMissing, match="qemu-system-nowhere"), bare(cell, tmp_path, boot):
        pass


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Leaves this process so many descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def leave(number: int) -> None:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        if number > len(taken):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + number, before[1]))
        else:
            for _descriptor in range(number):
                os.close(taken.pop())

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for descriptor in taken:
        os.close(descriptor)


@pytest.mark.parametrize("left", [1, 8, 20])
def test_no_descriptors_left(
    cell: Cell, tmp_path: Path, few_descriptors: Callable[[int], None], left: int
) -> None:
    guest = bare(cell, tmp_path, cell.boot(cell.initramfs()))
    few_descriptors(left)
    with pytest.raises(LaunchFailed, match="Too many open files") as failed, guest:
        pass
    assert "ulimit -n" in failed.value.evidence.next_step


def test_a_full_disk_for_logs(cell: Cell, tmp_path: Path) -> None:
    """What the log lacks is kept in memory, and errors say that it lacks something."""
    (tmp_path / "console.log").symlink_to("/dev/full")
    with bare(cell, tmp_path, cell.boot(cell.initramfs())) as vm:
        assert "Linux version" in vm.console.text
        with pytest.raises(GuestPanic) as panic:
            vm.write("/proc/sysrq-trigger", "c")
    assert "sysrq triggered crash" in panic.value.evidence.excerpt
    assert panic.value.evidence.where[0].endswith("(incomplete: No space left on device)")


# Boots that lead nowhere


@pytest.fixture
def sleeper(cell: Cell) -> Boot:
    """A boot whose init never talks to anybody."""
    program = cell.compile_program(SLEEPER)
    return cell.boot(cell.initramfs(files={"/sleeper": program}), cmdline="rdinit=/sleeper")


def other_console(boot: Boot, *, early: bool) -> Boot:
    """Return a boot whose console= names a port that is not there.

    early: whether the kernel has an early console. A kernel that has one in any case has none if it
    is told of one that is not there (such as arch/mips/mti-malta/malta-init.c).
    """
    earlycon = boot.arch.for_tests.earlycon
    if earlycon is None:
        pytest.skip(f"the early console of {boot.arch.name} is not known")
    cmdline = boot.cmdline.replace(f"console={boot.arch.console}", "console=ttyS7")
    absent = "" if earlycon else "earlycon=pl011,0x9000000"
    cmdline = f"{cmdline} {earlycon if early else absent}".rstrip()
    return dataclasses.replace(boot, cmdline=cmdline)


def verdict_of(guest: AbstractContextManager[Vm]) -> KernelvmError:
    with pytest.raises(KernelvmError) as raised, guest:
        pass
    return raised.value


def test_a_late_console(cell: Cell, sleeper: Boot, tmp_path: Path) -> None:
    error = verdict_of(bare(cell, tmp_path, sleeper))
    assert type(error) is BootHang
    assert error.summary.endswith("the agent did not answer within 5 s")
    assert error.evidence.seen == "the guest came as far as: init"
    assert "Run /sleeper as init process" in error.evidence.excerpt


def test_an_early_console_alone(cell: Cell, sleeper: Boot, tmp_path: Path) -> None:
    error = verdict_of(bare(cell, tmp_path, other_console(sleeper, early=True)))
    assert type(error) is BootHang
    assert "; only its early console spoke" in error.evidence.seen
    assert "bootconsole" in (tmp_path / "console.log").read_text()


def test_a_kernel_that_has_no_console_shows_its_log(
    cell: Cell, sleeper: Boot, tmp_path: Path
) -> None:
    """The kernel runs: its log is in its memory."""
    error = verdict_of(bare(cell, tmp_path, other_console(sleeper, early=False)))
    assert type(error) is NoOutput
    assert "the kernel wrote a log into its memory" in error.evidence.seen
    assert "Run /sleeper as init process" in error.evidence.excerpt
    assert "console=" in error.evidence.next_step
    assert "CPU: sleeps" in str(error), str(error)


def test_without_console_on_the_command_line_the_agent_answers(cell: Cell, tmp_path: Path) -> None:
    """Malta's kernel then gives itself one, with its speed."""
    boot = cell.boot(cell.initramfs())
    word = f"console={boot.arch.console}"
    cmdline = " ".join(each for each in boot.cmdline.split() if each != word)
    with bare(cell, tmp_path, dataclasses.replace(boot, cmdline=cmdline)) as vm:
        assert word not in vm.cmdline


def test_a_kernel_for_another_cpu(cell: Cell, tmp_path: Path) -> None:
    cpu = cell.config.arch.for_tests.incompatible_cpu
    if not cpu:
        pytest.skip(f"no CPU is known on which kernels for {cell.config.arch.name} do not run")
    boot = cell.boot(cell.initramfs())
    boot = dataclasses.replace(boot, machine=dataclasses.replace(boot.machine, cpu=cpu))
    error = verdict_of(bare(cell, tmp_path, boot))
    assert type(error) is NoOutput
    assert "there is no kernel log in its memory" in error.evidence.seen
    assert "CPU: works" in str(error)
    assert f"-cpu {cpu}" in error.evidence.command


def test_a_kernel_of_the_other_endianness(cell: Cell, tmp_path: Path) -> None:
    """QEMU refuses an ELF file; of an Image it sees nothing but words, here those swapped."""
    boot = cell.boot(cell.initramfs())
    ours = boot.arch
    other = next(
        (
            arch
            for arch in ARCHES.values()
            if arch.machine == ours.machine and arch.endianness != ours.endianness
        ),
        None,
    )
    if other:
        error = verdict_of(bare(cell, tmp_path, dataclasses.replace(boot, arch=other)))
        assert type(error) is LaunchFailed
        assert "could not load kernel" in error.evidence.excerpt
        return
    raw = boot.image.read_bytes()
    words = memoryview(raw[: len(raw) // 4 * 4])
    swapped = bytearray(len(words))
    for place in range(4):
        swapped[place::4] = words[3 - place :: 4]
    (tmp_path / "Image").write_bytes(swapped)
    error = verdict_of(bare(cell, tmp_path, dataclasses.replace(boot, image=tmp_path / "Image")))
    assert type(error) is NoOutput


def test_too_little_memory(cell: Cell, tmp_path: Path) -> None:
    memory_mib = cell.config.arch.for_tests.too_little_memory_mib
    if not memory_mib:
        pytest.skip(f"how little is too little is not known for {cell.config.arch.name}")
    boot = cell.boot(cell.initramfs())
    machine = dataclasses.replace(boot.machine, memory_mib=memory_mib)
    error = verdict_of(bare(cell, tmp_path, dataclasses.replace(boot, machine=machine)))
    assert type(error) is GuestPanic
    assert "System is deadlocked on memory" in error.summary
    assert "give the guest more memory" in error.evidence.next_step


def test_an_initramfs_that_is_no_archive(cell: Cell, tmp_path: Path) -> None:
    damaged = tmp_path / "initramfs"
    damaged.write_bytes(b"\x1f\x8b\x08" + os.urandom(4000))
    boot = dataclasses.replace(cell.boot(cell.initramfs()), initramfs=damaged)
    error = verdict_of(bare(cell, tmp_path, boot))
    assert type(error) is GuestPanic
    assert "Unable to mount root fs" in error.summary
    assert "the initramfs is damaged" in error.evidence.next_step


def test_an_initramfs_that_is_damaged_behind_init(cell: Cell, tmp_path: Path) -> None:
    """The guest boots and may lack files; the kernel says so once."""
    initramfs = cell.initramfs()
    before, magic, trailer = initramfs.path.read_bytes().rpartition(b"070701")
    damaged = tmp_path / "initramfs"
    damaged.write_bytes(before + b"X" * len(magic) + trailer)
    with bare(cell, tmp_path, dataclasses.replace(cell.boot(initramfs), initramfs=damaged)) as vm:
        vm.control.answer_for(boot=True)
        error = vm.control.conclude("the boot", ask=True)
    assert type(error) is GuestSplat
    assert "Initramfs unpacking failed" in error.summary
    assert "the initramfs is damaged" in error.evidence.next_step


# Deadlines


def test_a_timeout_error_lists_the_parts_of_its_deadline(cell: Cell, tmp_path: Path) -> None:
    program = cell.compile_program(SLEEPER)
    bootable = cell.bootable(files={"/sleeper": program}, cmdline="rdinit=/sleeper")
    with pytest.raises(BootHang) as hang, boot_guest(bootable, tmp_path):
        pass
    [waited] = [fact for fact in hang.value.evidence.facts if fact.startswith("waited: ")]
    assert re.search(r"limit: \S+ s without a sign of life \(\S+ s .*loops a second here", waited)


# Tests that leave something behind

LEFT_BEHIND = """\
import pytest

CRASH = "/sys/kernel/debug/provoke-crash/DIRECT"

def provoke(vm):
    vm.mount("debugfs", "/sys/kernel/debug", "debugfs")
    vm.modprobe("lkdtm")
    vm.write(CRASH, "WARNING")

pytestmark = pytest.mark.kernelvm(modules=["lkdtm"])

def test_shown_on_the_console(vm):
    provoke(vm)

@pytest.mark.kernelvm(cmdline="loglevel=1")
def test_kept_from_the_console(vm):
    provoke(vm)
    assert "WARNING" not in vm.console.text
    print("all assertions passed")

@pytest.mark.kernelvm_splats(allow="lkdtm", reason="provoked")
def test_allowed(vm):
    provoke(vm)

@pytest.mark.kernelvm(cmdline="loglevel=1")
@pytest.mark.kernelvm_splats(allow="lkdtm", reason="provoked")
def test_allowed_and_kept_from_the_console(vm):
    provoke(vm)

def test_caught(vm):
    from pytest_kernelvm.errors import KernelvmError
    try:
        provoke(vm)
    except KernelvmError:
        pass

@pytest.fixture
def late(vm):
    yield
    provoke(vm)

def test_in_its_teardown(late):
    pass

def test_another(vm):
    assert vm.read("/proc/version")
"""

BOOT_SPLAT = '''\
from pathlib import Path

import pytest

WARNS = """
#include <linux/module.h>
static int __init start(void) { WARN(1, "at boot"); return 0; }
module_init(start);
MODULE_LICENSE("GPL");
"""

# In init's place: loads a module that warns, then becomes init.
EARLY = """
int main(int argc, char **argv, char **envp)
{
	int file = open("/early.ko", O_RDONLY);

	my_syscall3(__NR_finit_module, file, "", 0);
	execve("/init", argv, envp);
	return 1;
}
"""

@pytest.fixture
def boot(new_vm, cell, build_module):
    directory = Path(__file__).parent / "early"
    directory.mkdir(exist_ok=True)
    (directory / "early.c").write_text(WARNS)
    (directory / "Kbuild").write_text("obj-m := early.o")
    [module] = build_module(directory)
    files = {"/early": cell.compile_program(EARLY), "/early.ko": module.read_bytes()}
    return new_vm(files=files, cmdline="quiet rdinit=/early")

def test_first(boot):
    pass

def test_second(boot):
    pass
'''


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a test run with left behind splats ends. outcomes: of pytest's last line."""

    mode: str
    outcomes: str


def pytest_output(cell: Cell, tmp_path: Path, text: str, *options: str) -> str:
    """Run a file of tests in a process of its own; return what it said."""
    (tmp_path / "test_inner.py").write_text(text)
    inner = (f"--rootdir={tmp_path}", *options, str(tmp_path / "test_inner.py"))
    argv = pytest_argv(cell, tmp_path, *inner)
    output = tmp_path / "output"
    with spawn(argv, output=output) as child:
        assert child.wait(400) is not None, output.read_text()
    return output.read_text()


@pytest.mark.any_cell
@pytest.mark.parametrize(
    "run",
    [
        Run(mode="fail", outcomes="3 failed, 4 passed, 1 error"),
        Run(mode="warn", outcomes="7 passed, 4 warnings"),
        Run(mode="off", outcomes="7 passed"),
    ],
    ids=lambda run: run.mode,
)
def test_a_test_fails_for_splats_after_its_last_command(
    run: Run, cell: Cell, tmp_path: Path
) -> None:
    junit = tmp_path / "junit.xml"
    said = pytest_output(
        cell, tmp_path, LEFT_BEHIND, f"--kernelvm-splats={run.mode}", f"--junit-xml={junit}"
    )
    assert re.search(rf"= {run.outcomes} in ", said), said
    reported = said.count("seen: WARNING while it was tested")
    if run.mode == "fail":
        assert re.search(r"test_inner\.py:\d+: GuestSplat", said)
        assert "ERROR at teardown of test_in_its_teardown" in said
        assert 'name="kernelvm_verdict" value="splat"' in junit.read_text()
    assert reported == {"fail": 4, "warn": 4, "off": 0}[run.mode], said


@pytest.mark.any_cell
def test_splats_in_the_boot_of_a_snapshot_fail_one_test(cell: Cell, tmp_path: Path) -> None:
    for _run in range(2):
        said = pytest_output(cell, tmp_path, BOOT_SPLAT)
        assert re.search(r"= 1 passed, 1 error in ", said), said
        assert "splat: " in said
        assert re.search(r"WARNING: CPU: 0 PID: 1 at \S*early\.c:3 ", said), said
