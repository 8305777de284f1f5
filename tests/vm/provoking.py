"""Guests that go wrong on demand, for tests of what is said about it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.vm.deadlines import Limits, work_of
from pytest_kernelvm.vm.qemu_argv import Boot
from pytest_kernelvm.vm.vm import Bootable

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


def bare(cell: Cell, directory: Path, boot: Boot, boot_s: float = 30.0) -> Vm:
    """Return a guest that is booted from what the test changed."""
    bootable = Bootable(
        label=cell.config.id,
        boot=boot,
        abi=cell.programs.abi,
        limits=Limits(boot_s=boot_s, command_s=5.0),
        by_hand=f"kernelvm boot {cell.config.id}",
        services=cell.services,
    )
    return Vm(bootable, directory)


class Stopwatch:
    """Tells how long after an event something was done; made before the event.

    Time in which this process was kept from running is not counted.
    """

    def __init__(self) -> None:
        self._starved_s = self._starving_s()

    @staticmethod
    def _starving_s() -> float:
        work = work_of(os.getpid())
        return work.starved_s if work else 0.0

    def since(self, event: float) -> float:
        """Return the seconds since an event on the monotonic clock."""
        return time.monotonic() - event - (self._starving_s() - self._starved_s)
