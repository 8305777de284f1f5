"""Commands and the kernel's log on one console: nothing is lost, misread or done twice."""

import fcntl
import os
import random
import re
from collections.abc import Iterator

import pytest

from pytest_kernelvm import BootVm, Cell
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.vm.agent.files import AT_FDCWD

COMMANDS = 10_000
MOST_BYTES = 600
# A guest that gets no processor for a while makes up for no more lines than this at a time: they
# would take all it gets later.
AT_ONCE = 2
# A line for so many milliseconds, in a process that stays when the program ends.
CHATTER = """
#ifndef __NR_clock_gettime64
#define __NR_clock_gettime64 __NR_clock_gettime
#endif

static long long now_ms(void)
{
	long long now[2] = { 0, 0 };

	my_syscall2(__NR_clock_gettime64, 1, now);
	return now[0] * 1000 + (unsigned int)now[1] / 1000000;
}

int main(void)
{
	int log = open("/dev/kmsg", O_WRONLY);
	long long begun, said;

	if (log < 0 || fork())
		return log < 0;
	begun = now_ms();
	for (said = 0;;) {
		int at_once;

		for (at_once = 0; at_once < AT_ONCE && said < (now_ms() - begun) / PERIOD_MS; at_once++) {
			char line[32] = "<5>chatter ";
			int at = strlen(line);
			long long rest = ++said;
			char digits[20];
			int length = 0;

			do
				digits[length++] = '0' + (int)(rest % 10);
			while (rest /= 10);
			while (length)
				line[at++] = digits[--length];
			write(log, line, at);
		}
		usleep(1000);
	}
}
"""


def appended(content: bytes, flags: int) -> Batch:
    """Return a command that appends to a file and reads that back."""
    batch = Batch()
    where = batch.text("/file")
    given = batch.data(content)
    back = batch.space(max(1, len(content)))
    opened = batch.call("openat", AT_FDCWD, where, flags, 0o600)
    batch.call("write", opened, given, len(content), loop=bool(content))
    batch.call("lseek", opened, -len(content), os.SEEK_END)
    batch.call("read", opened, back, len(content), out=(1, None), loop=bool(content))
    batch.call("close", opened, always=True)
    return batch


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One such test at a time: two of them leave commands no time beside the lines."""
    base = tmp_path_factory.getbasetemp()
    with (
        (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)
        .joinpath("alone")
        .open("w") as lock
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_ten_thousand_commands_beside_a_thousand_lines_a_second(new_vm: BootVm, cell: Cell) -> None:
    # With icount a busy guest has several seconds in one of ours.
    period_ms = 5 if cell.config.arch.fast_boot_argv else 1
    figures = f"#define PERIOD_MS {period_ms}\n#define AT_ONCE {AT_ONCE}\n"
    program = cell.compile_program(figures + CHATTER)
    vm = new_vm(modules=(), files={"/chatter": program}, shared_console=True)
    vm.succeed("/chatter")
    flags = vm.abi.guest_open_flags(os.O_RDWR | os.O_CREAT | os.O_APPEND)
    sizes = random.Random(5)
    written = bytearray()
    for number in range(COMMANDS):
        content = os.urandom(int(MOST_BYTES ** sizes.random()) - 1)
        reply = vm.control.transact(appended(content, flags), what=f"command {number}")
        assert min(reply.results) >= 0, (number, reply.results)
        assert b"".join(reply.outputs) == content, number
        written += content
    assert vm.read_bytes("/file") == written
    lines = [int(line) for line in re.findall(r"\] chatter (\d+)\n", vm.console.text)]
    assert lines == sorted(set(lines))
    # Where the console cannot keep up, the kernel leaves out lines, and says how many; where we
    # cannot, it writes over what is in the port's FIFO after 10 ms of its time.
    dropped = re.findall(r"\*\* (\d+) printk messages dropped \*\*", vm.console.text)
    assert lines[-1] - len(lines) <= sum(map(int, dropped)) + len(lines) // 1000
    assert len(lines) > COMMANDS
