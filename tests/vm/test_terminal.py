"""Programs on a terminal: `vm.run(…, tty=True)`."""

from __future__ import annotations

import time

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.errors import CommandFailed
from pytest_kernelvm.session.cleanliness import differences, guest_state

# Does as its first argument says.
PROGRAM = r"""
#include <asm/ioctls.h>
#include <asm/termios.h>

static char line[256];

static void flood(int bytes)
{
	static char block[1000];

	memset(block, 'x', sizeof(block));
	for (; bytes > 0; bytes -= sizeof(block))
		write(1, block, sizeof(block));
}

int main(int argc, char **argv)
{
	const char *what = argv[1];
	int fd, pid, size;

	if (!strcmp(what, "terminal")) {
		struct { unsigned short rows, columns, x, y; } window;
		char modes[256];
		int group = 0;

		for (fd = 0; fd < 3; fd++)
			printf("%d ", ioctl(fd, TCGETS, modes));
		fd = open("/dev/tty", O_RDWR);
		printf("%s ", fd < 0 ? "none" : "controlling");
		ioctl(0, TIOCGPGRP, &group);
		printf("%s ", group == getpid() ? "foreground" : "background");
		ioctl(0, TIOCGWINSZ, &window);
		printf("%d %d\n", window.rows, window.columns);
	} else if (!strcmp(what, "copy")) {
		while ((size = read(0, line, sizeof(line))) > 0)
			write(1, line, size);
		printf("end %d\n", size);
	} else if (!strcmp(what, "both")) {
		write(2, "errors\n", 7);
		write(1, "output\n", 7);
	} else if (!strcmp(what, "flood")) {
		flood(300000);
	} else if (!strcmp(what, "behind")) {
		pid = fork();
		if (!pid) {
			sleep(1000);
			return 0;
		}
		printf("behind\n");
	} else if (!strcmp(what, "closes")) {
		for (fd = 0; fd < 3; fd++)
			close(fd);
		usleep(300000);
		return 4;
	} else if (!strcmp(what, "dies")) {
		kill(getpid(), SIGUSR1);
	} else if (!strcmp(what, "types")) {
		fd = 0;
		write(1, "name? ", 6);
		size = read(0, line, sizeof(line));
		line[size > 0 ? size - 1 : 0] = 0;
		printf("hello %s\n", line);
	} else {
		for (;;)
			sleep(1000);
	}
	return 0;
}
"""


@pytest.fixture(scope="session")
def program(cell: Cell) -> bytes:
    return cell.compile_program(PROGRAM)


@pytest.fixture
def guest(boot_vm: BootVm, program: bytes) -> Vm:
    return boot_vm(files={"/program": program})


def test_all_that_makes_a_terminal(guest: Vm) -> None:
    result = guest.run("/program", "terminal", tty=True)
    assert result.output == "0 0 0 controlling foreground 24 80\n"
    assert (result.status, result.errors) == (0, "")
    # Without one as ever.
    assert guest.run("/program", "terminal").output.startswith("-1 -1 -1 none background")


def test_output_and_errors_are_one(guest: Vm) -> None:
    assert guest.run("/program", "both", tty=True).output == "errors\noutput\n"


@pytest.mark.parametrize(
    ("typed", "copied"),
    [
        (b"a line\n", "a line\nend 0\n"),
        (b"two\nlines", "two\nlinesend 0\n"),
        (b"".join(b"%d\n" % number for number in range(4000)), None),
        (b"erased\x15kept\n", "kept\nend 0\n"),
    ],
)
def test_what_is_typed(typed: bytes, copied: str | None, guest: Vm) -> None:
    """Nothing is echoed, and then comes the end of input; the terminal edits lines."""
    result = guest.run("/program", "copy", stdin=typed, tty=True)
    assert result.output == (copied if copied is not None else f"{typed.decode()}end 0\n")


def test_a_dialogue(guest: Vm) -> None:
    assert guest.succeed("/program", "types", stdin=b"Ada\n", tty=True) == "name? hello Ada\n"


def test_more_output_than_a_terminal_holds(guest: Vm) -> None:
    result = guest.run("/program", "flood", tty=True)
    assert result.raw_output == b"x" * 300000


@pytest.mark.parametrize(("what", "status"), [("both", 0), ("closes", 4)])
def test_the_exit_status_is_reported(what: str, status: int, guest: Vm) -> None:
    assert guest.run("/program", what, tty=True).status == status


def test_the_signal_that_ended_it_is_reported(guest: Vm) -> None:
    assert guest.run("/program", "dies", tty=True).status == -guest.boot.arch.sigusr1


def test_a_program_that_is_not_there(guest: Vm) -> None:
    result = guest.run("/nothing", tty=True)
    assert result.ended == "could not start: No such file or directory"
    assert guest.run("nothing", tty=True).status == 127


def test_a_program_is_killed_at_its_timeout(guest: Vm) -> None:
    before = guest_state(guest)
    with pytest.raises(CommandFailed, match=r"/program hangs did not end within 0\.5 s and was"):
        guest.run("/program", "hangs", tty=True, timeout_s=0.5)
    assert guest.run("/program", "both", tty=True).status == 0
    assert differences(guest, before) == []


def test_remaining_processes_of_the_terminal_get_sighup(guest: Vm) -> None:
    before = guest_state(guest)
    assert guest.run("/program", "behind", tty=True).output == "behind\n"
    deadline = time.monotonic() + 5
    while differences(guest, before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert differences(guest, before) == []


def test_a_terminal_leaves_nothing_behind(guest: Vm) -> None:
    """Nor does it mind that devpts is mounted already."""
    before = guest_state(guest)
    assert guest.succeed("/program", "both", tty=True)
    assert differences(guest, before) == []
    assert not guest.exists("/dev/pts")
    assert not guest.exists("/.terminal")
    guest.mkdir("/dev/pts")
    guest.mount("devpts", "/dev/pts", "devpts")
    assert guest.succeed("/program", "both", tty=True)
    assert "devpts /dev/pts" in guest.read("/proc/mounts")
