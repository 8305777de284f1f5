"""The agent: any bytes in any length, statuses and outputs kept apart, whatever else is said."""

import errno
import os
import random

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.errors import CommandFailed, SyscallFailed

# Around the size of a chunk, and several of them.
LARGE = (49151, 49152, 49153, 100_000)

PROGRAM = r"""
static void say(int fd, const char *text) { write(fd, text, strlen(text)); }

int main(int argc, char **argv)
{
	static char buffer[4096];
	int at, got, lines;

	if (argc > 1 && argv[1][0] == 'e')	/* echo: input, arguments, status */
		for (at = 2; at < argc; at++) {
			say(1, argv[at]);
			say(2, "<"); say(2, argv[at]); say(2, ">");
		}
	if (argc > 1 && argv[1][0] == 'c')	/* copy input to output */
		while ((got = read(0, buffer, sizeof(buffer))) > 0)
			write(1, buffer, got);
	if (argc > 2 && argv[1][0] == 'f') {	/* show a file */
		at = open(argv[2], 0, 0);
		while ((got = read(at, buffer, sizeof(buffer))) > 0)
			write(1, buffer, got);
	}
	if (argc > 1 && argv[1][0] == 's')	/* sleep for ever */
		for (;;)
			sleep(1000);
	if (argc > 1 && argv[1][0] == 'k')	/* die of a signal */
		kill(getpid(), 9);
	if (argc > 1 && argv[1][0] == 'o')	/* leave orphans behind */
		for (at = 0; at < 20; at++)
			if (!fork()) {
				fork();
				return 0;
			}
	if (argc > 1 && argv[1][0] == 'l' && !fork()) {	/* log for ever, in the background */
		got = open("/dev/kmsg", 1, 0);
		for (lines = 0; ; lines++)
			say(got, "<4>noise that must do no harm to any frame on this line\n");
	}
	return argc > 1 && argv[1][0] == 'e' ? argc : 0;
}
"""


@pytest.fixture
def program(cell: Cell) -> bytes:
    return cell.compile_program(PROGRAM)


@pytest.fixture
def guest(new_vm: BootVm, program: bytes) -> Vm:
    return new_vm(modules=(), files={"/program": program})


@pytest.mark.parametrize(
    "size", [0, 1, 6, 7, 8, 4095, *(pytest.param(each, marks=pytest.mark.slow) for each in LARGE)]
)
def test_any_bytes_in_any_length(vm: Vm, size: int) -> None:
    content = random.Random(size).randbytes(size)
    vm.write("/file", content)
    assert vm.stat("/file").size_bytes == size
    assert vm.read_bytes("/file") == content


def test_every_byte_value(vm: Vm) -> None:
    content = bytes(range(256)) * 3
    vm.write("/file", content)
    assert vm.read_bytes("/file") == content


def test_append(vm: Vm) -> None:
    vm.write("/file", "one\n")
    vm.write("/file", "two\n", append=True)
    assert vm.read("/file") == "one\ntwo\n"


def test_directories(vm: Vm) -> None:
    vm.mkdir("/d")
    wanted = sorted(f"file-{number}-with-a-rather-long-name" for number in range(1000))
    for name in wanted[:300]:
        vm.write(f"/d/{name}", "")
    assert vm.list("/d") == tuple(wanted[:300])
    assert vm.stat("/d").is_directory
    vm.unlink(f"/d/{wanted[0]}")
    assert vm.list("/d") == tuple(wanted[1:300])


def test_mount(vm: Vm) -> None:
    vm.mkdir("/second-proc")
    vm.mount("proc", "/second-proc", "proc")
    assert vm.read("/second-proc/version") == vm.read("/proc/version")


def test_errors_are_the_hosts_numbers(vm: Vm) -> None:
    with pytest.raises(SyscallFailed) as missing:
        vm.read("/nosuch")
    assert missing.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="No such file or directory"):
        vm.read("/nosuch")
    # ENOSYS and EAFNOSUPPORT have other numbers on mips.
    with pytest.raises(SyscallFailed) as unsupported:
        vm.syscall("socket", 44, 1, 0)
    assert unsupported.value.errno == errno.EAFNOSUPPORT


def test_status_output_and_errors_are_kept_apart(guest: Vm) -> None:
    result = guest.run("/program", "echo", "a b", "ü", "")
    assert (result.status, result.errno) == (5, 0)
    assert result.output == "a bü"
    assert result.errors == "<a b><ü><>"


def test_program_that_cannot_start(guest: Vm) -> None:
    assert guest.run("/nosuch").errno == errno.ENOENT
    assert guest.run("/proc").errno == errno.EACCES
    guest.write("/text", "no program")
    guest.syscall("fchmodat", -100, "/text", 0o755)
    assert guest.run("/text").errno == errno.ENOEXEC


def test_program_that_dies_of_a_signal(guest: Vm) -> None:
    assert guest.run("/program", "killed").status == -9


@pytest.mark.parametrize("size", [0, 10, 4096, pytest.param(60_000, marks=pytest.mark.slow)])
def test_input_and_output_of_programs(guest: Vm, size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert guest.run("/program", "copy", stdin=content).raw_output == content


@pytest.mark.slow
def test_long_output_is_complete(guest: Vm, program: bytes) -> None:
    """Longer than the protocol's memory, and than what a request may bring along as input."""
    copies = 100_000 // len(program) + 1
    content = program * copies
    guest.write("/content", content)
    result = guest.run("/program", "file", "/content")
    assert result.raw_output == content


def test_program_that_does_not_end_is_killed(guest: Vm) -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.5 s and was killed"):
        guest.run("/program", "sleep", timeout_s=0.5)
    assert guest.run("/program", "echo").status == 2


def test_orphans_are_reaped(guest: Vm) -> None:
    guest.succeed("/program", "orphans")
    deadline_reads = 50
    for _try in range(deadline_reads):
        processes = [name for name in guest.list("/proc") if name.isdecimal()]
        zombies = [pid for pid in processes if ") Z " in _stat_of(guest, pid)]
        if not zombies:
            break
    assert not zombies


def _stat_of(guest: Vm, pid: str) -> str:
    try:
        return guest.read(f"/proc/{pid}/stat")
    except OSError:
        return ""


def test_succeed_and_fail(guest: Vm) -> None:
    assert guest.succeed("/program") == ""
    with pytest.raises(AssertionError, match="failed"):
        guest.succeed("/program", "echo")
    assert guest.fail("/program", "echo").status == 2
    with pytest.raises(AssertionError, match="succeeded"):
        guest.fail("/program")


@pytest.mark.slow
def test_kernel_log_in_the_middle_of_replies_does_no_harm(new_vm: BootVm, program: bytes) -> None:
    """The agent shares the console with a kernel that logs as fast as it can."""
    vm = new_vm(modules=(), files={"/program": program}, shared_console=True)
    vm.succeed("/program", "log")
    for number in range(30):
        content = os.urandom(500 + 17 * number)
        vm.write("/file", content)
        assert vm.read_bytes("/file") == content
    assert vm.console.text.count("must do no harm") > 100
