"""Programs and files of a guest: how they end, what they say, and what goes wrong with them."""

from __future__ import annotations

import dataclasses
import errno
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.errors import (
    CommandFailed,
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    HarnessError,
    KernelvmError,
    SyscallFailed,
)
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.machine.vm import Vm
from tests.fake_guest import (
    ACTS_PROGRAM,
    BOOT,
    PANIC,
    RESET,
    WARNING,
    do,
    fake_bootable,
    fake_guest,
)
from tests.fake_guest import fake_qemu as fake_qemu

pytestmark = pytest.mark.usefixtures("fake_qemu")

# More than comes with a program's status, and than is read at once.
LONG_BYTES = 100_000


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    with fake_guest(tmp_path) as guest:
        yield guest


@dataclass(frozen=True, kw_only=True)
class End:
    """A program and its end. acts: what it does. status, output, errors: of its result."""

    name: str
    acts: tuple[str, ...]
    status: int
    output: str = ""
    errors: str = ""


ENDS = [
    End(name="well", acts=(), status=0),
    End(name="with output", acts=("output hello",), status=0, output="hello"),
    End(
        name="with both streams",
        acts=("output out", "errors err", "status 1"),
        status=1,
        output="out",
        errors="err",
    ),
    End(name="badly", acts=("status 7",), status=7),
    End(name="by a signal", acts=(f"die {signal.SIGSEGV:d}",), status=-signal.SIGSEGV),
    End(
        name="with more than comes at once",
        acts=(f"flood {LONG_BYTES}",),
        status=0,
        output="x" * LONG_BYTES,
    ),
    End(
        name="with exactly what comes at once",
        acts=(f"flood {32 * 1024}",),
        status=0,
        output="x" * 32 * 1024,
    ),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_how_programs_end(end: End, vm: Vm) -> None:
    result = vm.run(ACTS_PROGRAM, *end.acts)
    assert (result.status, result.output, result.errors) == (end.status, end.output, end.errors)
    # What it had open is closed with the next request.
    assert vm.read("/proc/version")


def test_a_program_that_is_not_there(vm: Vm) -> None:
    result = vm.run("nosuch")
    assert (result.status, result.errno) == (127, errno.ENOENT)
    assert "could not start: No such file" in str(result)


def test_a_program_is_looked_for_in_path(vm: Vm) -> None:
    assert vm.run("act", "output found").output == "found"


def test_a_program_that_should_succeed_fails(vm: Vm) -> None:
    with pytest.raises(CommandFailed, match="act status 3 errors no failed") as failed:
        vm.succeed("act", "status 3", "errors no")
    assert failed.value.evidence.seen == "status 3"
    assert failed.value.evidence.excerpt == "no"


def test_a_program_that_should_fail_succeeds(vm: Vm) -> None:
    assert vm.fail("act", "status 3").status == 3
    with pytest.raises(CommandFailed, match="act output yes succeeded"):
        vm.fail("act", "output yes")


def test_no_program_at_all(vm: Vm) -> None:
    with pytest.raises(TypeError, match="wants a program"):
        vm.run()


def test_a_program_whose_time_is_up_is_killed(vm: Vm) -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0.3 s and was killed") as killed:
        vm.run("act", "run-on", timeout_s=0.3)
    assert "longer timeout_s" in killed.value.evidence.next_step
    assert vm.run("act", "output again").output == "again"
    assert vm.control.conclude("the test", ask=True) is None


@dataclass(frozen=True, kw_only=True)
class Break:
    """A program that breaks its guest. acts: what it does. error, summary: the verdict."""

    name: str
    acts: tuple[str, ...]
    error: type[KernelvmError]
    summary: str


BREAKS = [
    Break(
        name="panics it",
        acts=("log working", *PANIC, *RESET),
        error=GuestPanic,
        summary="sysrq triggered crash",
    ),
    Break(
        name="has it fall silent",
        acts=("mute",),
        error=GuestHang,
        summary="no answer within 0.3 s",
    ),
    Break(
        name="cannot be killed",
        acts=("mute", "run-on"),
        error=GuestHang,
        summary="no answer within 0.3 s",
    ),
    Break(
        name="ends QEMU",
        acts=(f"kill {signal.SIGKILL:d}",),
        error=GuestDied,
        summary="QEMU was killed by SIGKILL",
    ),
    Break(name="provokes a splat", acts=WARNING, error=GuestSplat, summary="WARNING: CPU"),
]


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: row.name)
def test_programs_that_break_their_guest(row: Break, vm: Vm) -> None:
    with pytest.raises(row.error) as broken:
        vm.run("act", *row.acts, timeout_s=0.3)
    assert row.summary in broken.value.summary


def test_a_splat_ends_the_wait_for_a_program(vm: Vm) -> None:
    """The program is killed when the guest is used again."""
    with pytest.raises(GuestSplat):
        vm.run("act", *WARNING, "run-on", timeout_s=60)
    assert vm.control.transactions.program_pending
    assert vm.run("act", "output again").output == "again"
    assert not vm.control.transactions.program_pending


def test_an_allowed_splat_ends_no_wait(vm: Vm) -> None:
    with vm.allow_splats("WARNING", reason="provoked") as allowed:
        assert vm.run("act", *WARNING, "output done").output == "done"
    assert [splat.kind for splat in allowed.splats] == ["WARNING"]


def test_a_file_that_a_program_needs_cannot_be_made(vm: Vm) -> None:
    do(vm, "refuse unlinkat 30")
    with pytest.raises(SyscallFailed, match="run act: Read-only file system") as failed:
        vm.run("act", "output x")
    assert failed.value.errno == errno.EROFS


def test_the_terminal_program_reports_no_end(tmp_path: Path) -> None:
    """As if it was killed: there is no word of how that which it ran ended."""
    terminal = tmp_path / "terminal"
    terminal.write_bytes(b"a program")
    bootable = dataclasses.replace(fake_bootable(tmp_path), terminal=terminal)
    with (
        boot_guest(bootable, tmp_path) as vm,
        pytest.raises(HarnessError, match="did not report its end"),
    ):
        vm.run(ACTS_PROGRAM, tty=True)


# Files


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file may hold."""

    name: str
    content: bytes


CONTENTS = [
    Content(name="nothing", content=b""),
    Content(name="a text", content=b"hello\n"),
    Content(name="all bytes", content=bytes(range(256))),
    Content(name="more than goes at once", content=b"0123456789" * 10_000),
]


@pytest.mark.parametrize("row", CONTENTS, ids=lambda row: row.name)
def test_what_is_written_is_read(row: Content, vm: Vm) -> None:
    vm.write("/file", row.content)
    assert vm.read_bytes("/file") == row.content
    assert vm.stat("/file").size_bytes == len(row.content)


def test_a_file_is_added_to_and_written_anew(vm: Vm) -> None:
    vm.write("/file", "one")
    vm.write("/file", " two", append=True)
    assert vm.read("/file") == "one two"
    vm.write("/file", "3")
    assert vm.read("/file") == "3"


def test_directories(vm: Vm) -> None:
    vm.mkdir("/there")
    assert vm.stat("/there").is_directory
    vm.write("/there/b", "")
    vm.write("/there/a", "")
    assert vm.list("/there") == ("a", "b")
    vm.unlink("/there/a")
    assert (vm.exists("/there/a"), vm.exists("/there/b")) == (False, True)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that the kernel refuses. acts: what makes it so. use: of the guest."""

    name: str
    acts: tuple[str, ...]
    use: Callable[[Vm], object]
    number: int
    told: str


FAILURES = [
    Failure(
        name="a file that is not there",
        acts=(),
        use=lambda vm: vm.read("/nosuch"),
        number=errno.ENOENT,
        told="open /nosuch: No such file or directory",
    ),
    Failure(
        name="a file that cannot be opened",
        acts=("refuse openat 13",),
        use=lambda vm: vm.read("/proc/version"),
        number=errno.EACCES,
        told="open /proc/version: Permission denied",
    ),
    Failure(
        name="a file that cannot be read",
        acts=("refuse read 5",),
        use=lambda vm: vm.read("/proc/version"),
        number=errno.EIO,
        told="read /proc/version: Input/output error",
    ),
    Failure(
        name="a full disk",
        acts=("refuse write 28",),
        use=lambda vm: vm.write("/file", "x"),
        number=errno.ENOSPC,
        told="write /file: No space left on device",
    ),
    Failure(
        name="a status that is refused",
        acts=("refuse statx 13",),
        use=lambda vm: vm.exists("/file"),
        number=errno.EACCES,
        told="stat /file: Permission denied",
    ),
    Failure(
        name="a file system that the kernel lacks",
        acts=("refuse mount 19",),
        use=lambda vm: vm.mount("none", "/mnt", "nosuch"),
        number=errno.ENODEV,
        told="No such device",
    ),
]


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row.name)
def test_what_the_kernel_refuses(row: Failure, vm: Vm) -> None:
    if row.acts:
        do(vm, *row.acts)
    with pytest.raises(SyscallFailed) as failed:
        row.use(vm)
    assert failed.value.errno == row.number
    assert row.told in failed.value.summary
    vm.ping()


def test_a_call_that_the_headers_do_not_know(vm: Vm) -> None:
    with pytest.raises(HarnessError, match="have no system call 'nosuch'"):
        vm.syscall("nosuch")
    vm.ping()


def test_what_the_kernel_says_of_itself(vm: Vm) -> None:
    vm.write("/proc/modules", "dummy 16384 0 - Live 0x0\n")
    vm.write("/proc/cmdline", "console=ttyAMA0 quiet\n")
    do(vm, "log one", "log two")
    assert vm.uname.release == "6.12.0"
    assert vm.cmdline == ("console=ttyAMA0", "quiet")
    assert [module.name for module in vm.modules] == ["dummy"]
    assert [record.text for record in vm.dmesg][-2:] == ["one", "two"]
    assert len(vm.dmesg.matching("Linux version")) == len([act for act in BOOT if "Linux" in act])
