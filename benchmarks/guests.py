"""Figures of guests: booting, restoring, talking, and many small tests."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measuring import compared, line, paired, scratch, timed
from pytest_kernelvm.guest.frames import encode_frame
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.process import run, spawn
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.qemu.argv import Backends, Boot, qemu_argv

LAST_LINE_BEFORE_INIT = b"Run /init as init process"
PATIENCE_S = 30.0

# Processors that were idle wake up slowly in the first tenth of a second; so many each round last
# longer.
ROUND_TRIPS = 400
# What is sent to and fro is as long as the agent's frames of an empty request.
ECHO_BYTES = 16
ECHO = r"""
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/fcntl.h>

int main(void)
{
	static char buffer[4096];
	struct termios line = {
		.c_cflag = B115200 | CS8 | CREAD | CLOCAL, .c_cc[VMIN] = 1,
	};
	long got, channel = -1;

	my_syscall3(__NR_mkdirat, AT_FDCWD, "/dev", 0755);
	my_syscall5(__NR_mount, "d", "/dev", "devtmpfs", 0, 0);
	while (channel < 0)
		channel = my_syscall4(__NR_openat, AT_FDCWD, CHANNEL, O_RDWR | O_NOCTTY, 0);
	my_syscall3(__NR_ioctl, channel, TCSETS, &line);
	for (;;) {
		got = my_syscall3(__NR_read, channel, buffer, sizeof(buffer));
		if (got > 0)
			my_syscall3(__NR_write, channel, buffer, got);
	}
}
"""


def bench_boots(cells: Sequence[Cell], rounds: int) -> None:
    """Compare boots with plain QEMU's."""
    for cell in cells:
        pair = paired(partial(_boot_ours, cell), partial(_boot_plain, cell), rounds)
        compared(f"boot to ready, {cell.config.id}", *pair)


def _boot_ours(cell: Cell) -> float:
    """Return the seconds from launch to the agent's answer."""
    with scratch() as directory:
        guest = boot_guest(cell.bootable(modules=()), directory)
        started = time.perf_counter()
        with guest:
            return time.perf_counter() - started


def _boot_plain(cell: Cell) -> float:
    """Return the seconds from launch to init's start with plain QEMU and its default flags."""
    machine = dataclasses.replace(cell.config.machine, fast_boot=False)
    boot = dataclasses.replace(cell.boot(cell.initramfs(cell.closure(()))), machine=machine)
    with scratch() as directory:
        log = directory / "console"
        argv = qemu_argv(boot, Backends(console=f"file,path={log}", channel="null"))
        started = time.perf_counter()
        with spawn(argv, output=directory / "qemu.log"):
            while not (log.exists() and LAST_LINE_BEFORE_INIT in log.read_bytes()):
                time.sleep(0.002)
            return time.perf_counter() - started


def bench_restores(cells: Sequence[Cell], rounds: int) -> None:
    """Compare restoring to the first answer with QEMU's own -incoming, and with a guest ahead."""
    for cell in cells:
        bootable = cell.bootable(modules=())
        with scratch() as directory:
            guests = _guests(directory)
            with guests.restored(bootable):
                pass
            stream = directory / "stream"
            _migrate(cell, directory, stream)

            plain = partial(_incoming, cell, bootable.boot, stream)
            pair = paired(partial(_restored, guests, bootable), plain, 2 * rounds)
            compared(f"restore to first answer, {cell.config.id}", *pair)
            waited_s = statistics.median(_ahead(guests, bootable) for _round in range(rounds))
            line(f"the same, restored ahead, {cell.config.id}", f"{waited_s:.3f} s")


def _restored(guests: Guests, bootable: Bootable) -> float:
    started = time.perf_counter()
    with guests.restored(bootable) as vm:
        vm.ping()
        return time.perf_counter() - started


def _ahead(guests: Guests, bootable: Bootable) -> float:
    """Return what a test waits whose guest was restored while another one ran for half a second."""
    guests.restore_ahead(bootable)
    time.sleep(0.5)
    return _restored(guests, bootable)


def _guests(directory: Path) -> Guests:
    numbers = iter(range(10**6))

    def new_directory() -> Path:
        made = directory / f"guest-{next(numbers)}"
        made.mkdir()
        return made

    return Guests(Store(directory / "store", Silent()), new_directory)


def _migrate(cell: Cell, directory: Path, stream: Path) -> None:
    """Write a whole migration stream, memory included, as QEMU does by itself."""
    bootable = cell.bootable(modules=())
    machine = dataclasses.replace(bootable.boot.machine, sandbox=False)
    bootable = dataclasses.replace(
        bootable, boot=dataclasses.replace(bootable.boot, machine=machine)
    )
    with boot_guest(bootable, directory) as vm:
        vm.qmp.execute("migrate-set-parameters", max_bandwidth=1 << 40)
        vm.qmp.execute("migrate", uri=f"exec:cat > {stream}")
        while vm.qmp.execute("query-migrate")["status"] != "completed":
            time.sleep(0.01)


@contextlib.contextmanager
def _bare(boot: Boot, *extra: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Start QEMU with nothing of ours around it; give the channel's and QMP's sockets."""
    pairs = [socket.socketpair() for _ in range(2)]
    numbers = [pair[1].fileno() for pair in pairs]
    machine = dataclasses.replace(boot.machine, sandbox=False)
    ends = Backends(
        console="null", channel=f"socket,fd={numbers[0]}", qmp=f"socket,fd={numbers[1]}"
    )
    argv = qemu_argv(dataclasses.replace(boot, machine=machine), ends)
    with scratch() as directory:
        with spawn([*argv, *extra], pass_fds=numbers, output=directory / "qemu.log"):
            for ours, theirs in pairs:
                theirs.close()
                ours.settimeout(PATIENCE_S)
            yield pairs[0][0], pairs[1][0]
        for ours, _theirs in pairs:
            ours.close()


def _incoming(cell: Cell, boot: Boot, stream: Path) -> float:
    """Return the seconds from launch to the first byte of an answer."""
    order = cell.config.arch.endianness
    question = encode_frame(Batch().encode(1 << 20, order, {}), order)
    started = time.perf_counter()
    with _bare(boot, "-incoming", f"exec:cat {stream}") as (channel, qmp):
        qmp.sendall(b'{"execute": "qmp_capabilities"}')
        said = b""
        while b"RESUME" not in said:
            said += qmp.recv(4096)
        channel.sendall(question)
        channel.recv(1)
        return time.perf_counter() - started


def bench_agent(cells: Sequence[Cell], rounds: int) -> None:
    """Compare round trips with those of an echo; measure transfers and sizes."""
    content = bytes(range(256)) * 400
    for cell in cells:
        echo = cell.bootable(modules=(), files={"/echo": cell.compile_program(ECHO)}).boot
        echo = dataclasses.replace(echo, cmdline=f"{echo.cmdline} rdinit=/echo")
        with (
            scratch() as directory,
            boot_guest(cell.bootable(modules=()), directory) as vm,
            _bare(echo) as (channel, _qmp),
        ):
            _await_echo(channel)
            pair = paired(
                partial(timed, vm.ping),
                partial(timed, partial(_echoed, channel)),
                ROUND_TRIPS * rounds,
            )
            write_s = timed(partial(vm.write, "/file", content))
            read_s = timed(partial(vm.read_bytes, "/file"))
            vm.write("/large", 10 * content)
            large_s = timed(partial(vm.read_bytes, "/large"))
        compared(f"agent round trip, plain: echo, {cell.config.id}", *pair)
        line(f"100 kB from the guest, {cell.config.id}", f"{read_s:.3f} s")
        line(f"1 MB from the guest, {cell.config.id}", f"{large_s:.3f} s")
        line(f"100 kB to the guest, {cell.config.id}", f"{write_s:.3f} s")
        size = cell.initramfs(cell.closure(())).size_bytes
        line(f"agent-only initramfs, {cell.config.id}", f"{size} bytes")


def _await_echo(channel: socket.socket) -> None:
    """Send until the echo is there, and take what comes back; a port not open yet loses bytes."""
    channel.settimeout(0.2)
    answered = False
    while not answered:
        channel.send(b"?")
        with contextlib.suppress(TimeoutError):
            while channel.recv(4096):
                answered = True
    channel.settimeout(PATIENCE_S)


def _echoed(channel: socket.socket) -> None:
    channel.sendall(b"x" * ECHO_BYTES)
    left = ECHO_BYTES
    while left:
        left -= len(channel.recv(left))


def bench_many(cells: Sequence[Cell], tests: int = 200) -> None:
    """Measure many tests of one command each, with one and with two workers."""
    for cell in cells:
        with scratch() as directory:
            (directory / "test_many.py").write_text(
                f"import pytest\n\n@pytest.mark.parametrize('n', range({tests}))\n"
                "def test_it(vm, n):\n    assert vm.read('/proc/version')\n"
            )

            def pytest(workers: int, cell: Cell = cell, directory: Path = directory) -> float:
                argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
                argv += [f"--kernelvm-configs={cell.config.file.parent.absolute()}"]
                argv += [f"--kernelvm-config={cell.config.id}", f"-n{workers}"]
                return timed(lambda: run(argv, cwd=directory, timeout_s=600))

            pytest(1)
            pair = pytest(2), pytest(1)
        compared(f"{tests} tests, 2 workers, plain: 1, {cell.config.id}", *pair)
        line(f"the same, a minute, {cell.config.id}", f"{60 * tests / pair[0]:.0f} tests")
