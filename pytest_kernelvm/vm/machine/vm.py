"""A guest, as tests see it."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pytest_kernelvm.guest.protocol import READ_BYTES, RECORD_BYTES, Batch
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.vm.agent.network import Network
from pytest_kernelvm.vm.agent.programs import Programs
from pytest_kernelvm.vm.agent.results import (
    UTSNAME_BYTES,
    LoadedModule,
    Uname,
    parse_proc_modules,
    parse_utsname,
)
from pytest_kernelvm.vm.agent.services import Services
from pytest_kernelvm.vm.bootpath.kexec import load, with_root_of
from pytest_kernelvm.vm.klog.kmsg import KernelLog, LogRecord, parse_kmsg
from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.machine.bootable import Bootables
from pytest_kernelvm.vm.machine.console import Console
from pytest_kernelvm.vm.machine.control import GuestControl
from pytest_kernelvm.vm.machine.reboot import (
    REBOOT_POWER_OFF,
    REBOOT_RESTART,
    end_by_reboot,
    enter_loaded_kernel,
)
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.snapshot import Snapshot
from pytest_kernelvm.vm.verdict.allowance import Allowance


class Vm(Programs):
    """A guest under test, whose QEMU runs; start.py has the functions that make one.

    It ends with the context of these functions, or before with a `with` block of its own.

    Args:
        control: The harness' side of it.

    Attributes:
        control: The harness' side of it, which tests do not need.
        services: Those of its vm-config.
        network: Its network card.
    """

    def __init__(self, control: GuestControl) -> None:
        bootable = control.bootable
        super().__init__(control, bootable.terminal)
        self.control = control
        self.services = Services(self, bootable.services)
        self.network = Network(
            self,
            control,
            bootable.boot.arch.network_modules,
            kind=bootable.boot.network,
            restored=control.snapshot is not None,
        )

    def __enter__(self) -> Vm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.control.end(look=kind is None)

    # What it is

    @property
    def boot(self) -> Boot:
        """What was booted; after a kexec, what was entered."""
        return self.control.bootable.boot

    @property
    def directory(self) -> Path:
        """Where its logs go."""
        return self.control.directory

    @property
    def snapshot(self) -> Snapshot | None:
        """What it was restored from, None if it was booted."""
        return self.control.snapshot

    @property
    def ready_s(self) -> float:
        """Seconds from the launch to its agent's first answer; 0 before that."""
        return self.control.readiness.ready_s

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self.control.pid

    @property
    def console(self) -> Console:
        """The kernel's console."""
        return self.control.console

    @property
    def qmp(self) -> Qmp:
        """QEMU's machine protocol."""
        return self.control.qmp

    # Splats

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel found wrong so far, allowed or not, by its log and console."""
        return self.control.splats

    @contextlib.contextmanager
    def allow_splats(self, *patterns: str, reason: str) -> Iterator[Allowance]:
        """Allow what the commands inside provoke.

        Args:
            *patterns: Regular expressions, of which one must be found in a splat's text.
            reason: Why it is no failure.

        Yields:
            The allowance, whose `splats` are those that it allowed.
        """
        with self.control.allow_splats(patterns, reason) as allowed:
            yield allowed

    # The kernel

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """What /proc/modules says, latest loaded first."""
        return parse_proc_modules(self.read("/proc/modules"))

    @property
    def dmesg(self) -> KernelLog:
        """What the kernel's log has by now, record by record, what programs wrote included."""
        found: dict[int, LogRecord] = {}
        # /dev/kmsg drops a record that does not fit into the rest of a buffer (devkmsg_read in
        # kernel/printk/printk.c): with buffers of another size other records are dropped.
        for size in (READ_BYTES, READ_BYTES - RECORD_BYTES, READ_BYTES - 2 * RECORD_BYTES):
            chunks = self._chunks(
                "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK, "read", until_empty=True, size=size
            )
            for record in parse_kmsg(b"".join(chunks).decode("utf-8", "replace")):
                found.setdefault(record.sequence, record)
            if not found or len(found) == max(found) - min(found) + 1:
                break
        return KernelLog(tuple(found[sequence] for sequence in sorted(found)))

    @property
    def cmdline(self) -> tuple[str, ...]:
        """The words of /proc/cmdline."""
        return tuple(self.read("/proc/cmdline").split())

    @property
    def uname(self) -> Uname:
        """What the kernel says of itself: its name, release, version and machine."""
        batch = Batch()
        buffer = batch.space(UTSNAME_BYTES)
        batch.call("uname", buffer, out=(0, UTSNAME_BYTES))
        return parse_utsname(self._succeed(batch, "uname").outputs[0])

    @property
    def configuration(self) -> dict[str, str]:
        """The running kernel's configuration, values by symbol without CONFIG_.

        Raises SyscallFailed where it has no /proc/config.gz.
        """
        return parse_config(gzip.decompress(self.read_bytes("/proc/config.gz")).decode())

    @property
    def device_tree(self) -> bytes:
        """The flat tree that the kernel was booted with, after the board's code changed it.

        Raises SyscallFailed where there is none.
        """
        return self.read_bytes("/sys/firmware/fdt")

    # Ends

    def power_off(self, timeout_s: float = 20.0) -> None:
        """Switch the machine off; QEMU ends with status 0.

        Args:
            timeout_s: Seconds of the guest's own time.
        """
        end_by_reboot(self.control, REBOOT_POWER_OFF, timeout_s, "power off")

    def reboot(self, timeout_s: float = 20.0) -> None:
        """Restart the machine; QEMU runs with -no-reboot and ends with status 0.

        Args:
            timeout_s: Seconds of the guest's own time.
        """
        end_by_reboot(self.control, REBOOT_RESTART, timeout_s, "reboot")

    def kexec(
        self,
        kernel: Bootables,
        *,
        cmdline: str = "",
        cookie: bool = True,
        device_tree: bytes = b"",
    ) -> None:
        """Have the guest's kernel load another one and enter it; its agent answers then.

        The guest is then like one that was just booted, on another kernel. Raises SyscallFailed if
        the kernel cannot do it, and what a boot raises.

        Args:
            kernel: The cell whose kernel and default initramfs it is.
            cmdline: Words for the second kernel's command line.
            cookie: Whether the second kernel obeys them.
            device_tree: Passed in the registers instead of a command line; for MIPS, by a kernel
                that has the patch mips-kexec-tree.
        """
        second = kernel.bootable(cmdline=cmdline, cookie=cookie)
        second = replace(second, boot=with_root_of(second.boot, self.boot))
        load(self, second.boot, device_tree)
        enter_loaded_kernel(self.control, second)
        self._forget_other_kernel(second.terminal)
        self.services = Services(self, second.services)

    def wait_end(self, timeout_s: float) -> int | None:
        """Wait for QEMU's end.

        Args:
            timeout_s: Seconds on the host's clock.

        Returns:
            Its status, minus the signal that ended it; None if it goes on.
        """
        return self.control.wait_end(timeout_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send QEMU a signal.

        Args:
            number: Of the signal.
        """
        self.control.kill(number)
