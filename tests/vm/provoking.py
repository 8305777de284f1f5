"""Guests that go wrong on demand, for tests of what is said about it."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.verdict.deadlines import TimeLimits, work_of

CRASH = "/sys/kernel/debug/provoke-crash/DIRECT"

# Has LKDTM crash the kernel under a program: in PID 1 an oops would be a panic. With a second
# argument it does so some time after it has returned.
PROVOKE = f"""
int main(int argc, char **argv)
{{
	int file = open("{CRASH}", O_WRONLY);

	if (file < 0)
		return 3;
	if (argc > 2) {{
		if (fork())
			return 0;
		usleep(300000);
	}}
	write(file, argv[1], strlen(argv[1]));
	return 0;
}}
"""

SLEEPER = "int main(void) { for (;;) sleep(1000); }"


def ready_to_crash(vm: Vm, *parameters: str) -> Vm:
    """Load LKDTM into a guest, whose kernel then notices after a second or two what hangs."""
    vm.mount("debugfs", "/sys/kernel/debug", "debugfs")
    vm.modprobe("lkdtm", *parameters)
    vm.write("/proc/sys/kernel/watchdog_thresh", "1")
    vm.write("/proc/sys/kernel/hung_task_timeout_secs", "1")
    vm.write("/proc/sys/kernel/hung_task_check_interval_secs", "1")
    return vm


def bare(
    cell: Cell, directory: Path, boot: Boot, boot_s: float = 30.0
) -> AbstractContextManager[Vm]:
    """Return a guest that is booted from what the test changed."""
    bootable = Bootable(
        label=cell.config.id,
        boot=boot,
        abi=cell.programs.abi,
        limits=TimeLimits(boot_s=boot_s, command_s=5.0),
        boot_command=f"kernelvm boot {cell.config.id}",
        services=cell.services,
    )
    return boot_guest(bootable, directory)


class Stopwatch:
    """Tells how long after an event something was done; made before the event.

    Time in which this process was kept from running is not counted, and of the rest only that part
    which QEMU got of the time that it could have run: a verdict waits by the guest's time.
    qemu: its process, None where it is gone at the event.
    """

    def __init__(self, qemu: int | None = None) -> None:
        self._qemu = qemu
        self._before = work_of(os.getpid()), work_of(qemu) if qemu else None

    def since(self, event: float) -> float:
        """Return the seconds since an event on the monotonic clock."""
        ours, _theirs = self._before
        now = work_of(os.getpid())
        starved_s = now.starved_s - ours.starved_s if now and ours else 0.0
        return (time.monotonic() - event - starved_s) * self._share()

    def _share(self) -> float:
        """Which part of the time that QEMU could have run it ran."""
        _ours, before = self._before
        now = work_of(self._qemu) if self._qemu else None
        if not (now and before) or now.ran_s <= before.ran_s:
            return 1.0
        ran_s = now.ran_s - before.ran_s
        return ran_s / (ran_s + max(0.0, now.starved_s - before.starved_s))
