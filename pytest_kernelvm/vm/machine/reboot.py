"""Ends of a guest by reboot(2): power off, restart, and the entry of another kernel."""

from __future__ import annotations

import contextlib

from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.vm.agent.channel import NoReply
from pytest_kernelvm.vm.agent.requests import syscall_failed
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.control import GuestControl
from pytest_kernelvm.vm.verdict.guest_end import END_S

# include/uapi/linux/reboot.h
REBOOT_MAGIC = (0xFEE1DEAD, 672274793)
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567
REBOOT_KEXEC = 0x45584543

# syslog(2): sets the console's level; with this one it shows all that is logged
# (include/linux/kern_levels.h, CONSOLE_LOGLEVEL_MOTORMOUTH).
SYSLOG_ACTION_CONSOLE_LEVEL = 8
LOUDEST = 8


def _last_words(command: int, *, sync: bool) -> Batch:
    """Return the batch that ends a kernel; its last step is reboot(2)."""
    batch = Batch()
    # From now on only the console shows what the kernel finds wrong: it must show all.
    batch.call("syslog", SYSLOG_ACTION_CONSOLE_LEVEL, 0, LOUDEST, always=True)
    if sync:
        batch.call("sync", always=True)
    batch.call("reboot", *REBOOT_MAGIC, command, 0, always=True)
    return batch


def end_by_reboot(control: GuestControl, command: int, timeout_s: float, what: str) -> None:
    """Have a guest end itself, and QEMU with it, with status 0.

    Raises SyscallFailed if the kernel refuses, what it found wrong before, and what became of the
    guest if QEMU does not end so.

    Args:
        control: Of the guest.
        command: Of reboot(2).
        timeout_s: Seconds of the guest's own time.
        what: The end in words.
    """
    control.report_before_end(what)
    batch = _last_words(command, sync=True)
    streams = control.launch.streams
    deadline = control.collector.command_deadline(control.bootable.limits, timeout_s)
    noted = control.journal.begin(batch, what, timeout_s, program=False)
    reply = None
    with contextlib.suppress(NoReply):
        reply = control.channel.transact(batch, deadline)
    control.journal.end(noted, reply)
    if reply:
        syscall_failed(control.abi, what, -reply.results[-1])
    ended = streams.wait_for(lambda: streams.console_ended or None, deadline)
    status = control.launch.process.wait(END_S) if ended else None
    if status != 0:
        raise control.collector.verdict(deadline, what)
    control.let_go()


def enter_loaded_kernel(control: GuestControl, second: Bootable) -> None:
    """Have a guest enter the kernel that it has loaded, and wait for the agent there.

    Raises SyscallFailed if there is none, what the first kernel found wrong before, and what a boot
    raises.

    Args:
        control: Of the guest.
        second: What that kernel is of.
    """
    control.report_before_end("kexec")
    batch = _last_words(REBOOT_KEXEC, sync=False)
    control.collector.begin_anew(second.boot.image)
    deadline = control.collector.boot_deadline(second.limits)
    noted = control.journal.begin(batch, "kexec", deadline.timeout_s, program=False)
    reply = None
    try:
        reply = control.channel.hand_over(batch, deadline)
    except NoReply:
        raise control.collector.verdict(deadline, "the second kernel's agent to answer") from None
    finally:
        control.journal.end(noted, reply)
    control.collector.ready = True
    if reply:
        syscall_failed(control.abi, "kexec", -reply.results[-1])
    control.run_other_kernel(second)
