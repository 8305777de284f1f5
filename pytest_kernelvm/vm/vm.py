"""A booted guest, as tests see it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_kernelvm.errors import CommandFailed, Evidence, GuestDied, KernelvmError
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import Batch, Reply
from pytest_kernelvm.process import Deadline, quoted, tail
from pytest_kernelvm.vm.channel import Channel, NoReply
from pytest_kernelvm.vm.console import Console
from pytest_kernelvm.vm.diagnosis import Symptoms, diagnose
from pytest_kernelvm.vm.journal import Exchange, Journal
from pytest_kernelvm.vm.launch import Launch, launch
from pytest_kernelvm.vm.network import Network
from pytest_kernelvm.vm.programs import Programs
from pytest_kernelvm.vm.qemu_argv import BY_HAND, Boot, Memory, qemu_argv
from pytest_kernelvm.vm.qmp import Qmp
from pytest_kernelvm.vm.restoring import (
    asks_for_clock,
    bring_in,
    clock_offset_s,
    hold_panicked,
    refreshed,
    write_out,
)
from pytest_kernelvm.vm.results import (
    UTSNAME_BYTES,
    KernelLog,
    LoadedModule,
    Uname,
    parse_kmsg,
    parse_proc_modules,
    parse_utsname,
)
from pytest_kernelvm.vm.services import ServiceCatalogue, Services
from pytest_kernelvm.vm.snapshot import (
    CONSOLE,
    MEMORY,
    STATE,
    Snapshot,
    SnapshotUnusable,
    write_sparse,
)
from pytest_kernelvm.vm.transcript import HALTED, PANIC

# include/uapi/linux/reboot.h
REBOOT_MAGIC = (0xFEE1DEAD, 672274793)
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567

# A panic's last lines arrive late.
GRACE_S = 1.0
# QEMU closes its streams before it ends; writing a core file in between takes time.
END_S = 30.0
# How long a guest may take to kill a program; a spinning one leaves it little time.
CANCEL_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds that a guest gets: launch to ready, and one command."""

    boot_s: float
    command_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootable:
    """All that it takes to have a guest.

    label: for messages. boot: what QEMU boots. abi: the numbers of the kernel's headers.
    by_hand: the command that boots the same guest interactively. services: its cell's.
    """

    label: str
    boot: Boot
    abi: Abi
    limits: Limits
    by_hand: str
    services: ServiceCatalogue


class Vm(Programs):
    """A guest under test; a context manager that boots it and leaves nothing behind.

    bootable: what it is made of. directory: where its logs go.
    snapshot: what it is restored from instead of being booted.
    memory: the file that is its memory; None where no snapshot is to be taken.
    link: its end of the cable to another guest.
    Its journal has all that is done with it. `on_failed_start` is called with a guest that does
    not get ready, before it is ended.
    """

    def __init__(
        self,
        bootable: Bootable,
        directory: Path,
        *,
        snapshot: Snapshot | None = None,
        memory: Path | None = None,
        link: socket.socket | None = None,
    ) -> None:
        super().__init__(bootable.abi, bootable.boot.arch.endianness)
        self.label = bootable.label
        self.boot = bootable.boot
        self.limits = bootable.limits
        self.by_hand = bootable.by_hand
        self.directory = directory
        self.snapshot = snapshot
        self.services = Services(self, bootable.services)
        self.network = Network(
            self,
            self._byteorder,
            self.boot.arch.network_modules,
            kind=self.boot.network,
            restored=lambda: self.snapshot is not None,
        )
        self.ready_s = 0.0
        self.journal = Journal(directory / "journal.jsonl")
        self.on_failed_start: Callable[[Vm], None] = lambda _vm: None
        self._memory = Memory(path=memory, written=True) if memory else None
        self._link = link
        self._stack = contextlib.ExitStack()
        self._started = 0.0
        self._refreshing = Batch()
        self._scanned = 0
        self._doomed = False
        self._held = False
        self._ready = False
        self._launch: Launch
        self._channel: Channel
        self.console: Console
        self.qmp: Qmp
        # Set by the cell, which knows them.

    # Life

    def start(self) -> None:
        """Launch QEMU and let it boot or restore by itself; entering the context waits for it.

        Only the main thread may do this: QEMU dies with the thread that started it.
        """
        self._started = time.monotonic()
        self._launch = self._stack.enter_context(
            launch(
                self.boot,
                self.directory,
                memory=self._memory,
                snapshot=self.snapshot,
                link=self._link,
            )
        )
        streams = self._launch.streams
        self._scanned = len(streams.console_text)
        self.console = Console(
            streams, self._launch.console_log, self.limits.command_s, self.journal.typed
        )
        self.qmp = Qmp(streams, self.journal.ordered)
        self._channel = Channel(
            streams,
            self.boot.arch,
            self.abi.syscalls,
            self._gone,
            last_id=self.snapshot.request_id if self.snapshot else 0,
            boot_id=self.snapshot.boot_id if self.snapshot else 0,
        )
        if self.snapshot and self._launch.state_descriptor is not None:
            self._bring_in(self.snapshot, self._launch.state_descriptor)

    def _bring_in(self, snapshot: Snapshot, descriptor: int) -> None:
        """Have QEMU load the snapshot's state, and the guest refreshed as soon as it runs."""
        streams, ahead_s = self._launch.streams, snapshot.clock_offset_s
        refreshed(self._refreshing, self.abi, self._byteorder, ahead_s)
        frame = self._channel.first_frame(self._refreshing)
        streams.begin(bring_in(streams, descriptor, frame))

    def __enter__(self) -> Vm:
        if self._ready:
            return self
        try:
            if not self._started:
                self.start()
            if self.snapshot:
                self._await_restored()
            else:
                self._await_booted()
        except BaseException as error:
            if isinstance(error, KernelvmError):
                self.on_failed_start(self)
            self._stack.close()
            raise
        self._ready = True
        self.ready_s = time.monotonic() - self._started
        return self

    def _await_booted(self) -> None:
        try:
            self._channel.wait_ready(Deadline(self.limits.boot_s))
        except NoReply:
            raise self._diagnosis(self.limits.boot_s, "the agent to answer") from None

    def _await_restored(self) -> None:
        try:
            reply = self._channel.collect(self._refreshing, Deadline(self.limits.boot_s))
        except NoReply:
            troubles = "; ".join(self._launch.streams.troubles)
            said = tail(self._launch.qemu_log) or troubles or "the restored guest is silent"
            raise SnapshotUnusable(said) from None
        for step, result in zip(self._refreshing.steps, reply.results, strict=True):
            if result < 0:
                number = self.abi.host_errno(-result)
                raise SnapshotUnusable(f"{step.call} failed: {os.strerror(number)}")

    def save(self, entry: Path) -> dict[str, Any]:
        """Write the guest as it is into the directory of a snapshot's entry, and end it.

        Returns what Snapshot is to know of it. Raises HarnessError if QEMU refuses.
        """
        assert self._memory is not None
        streams = self._launch.streams
        batch = Batch()
        asks_for_clock(batch, self.abi)
        ahead_s = clock_offset_s(self._succeed(batch, "clock_gettime"), self._byteorder)
        self.write_state(entry)
        self._launch.process.kill()
        streams.wait_for(lambda: streams.console_ended or None, Deadline(END_S))
        now = time.monotonic()
        write_sparse(self._memory.path, entry / MEMORY)
        return self.note_state(entry, ahead_s, now)

    def note_state(self, entry: Path, ahead_s: float, stopped: float) -> dict[str, Any]:
        """Add to a guest's written state what is ours of it; return what Snapshot is to know.

        ahead_s: of its clock. stopped: when, on the monotonic clock.
        """
        streams = self._launch.streams
        (entry / CONSOLE).write_bytes(streams.console_text)
        return {
            "request_id": self._channel.last_id,
            "boot_id": self._channel.boot_id,
            "clock_offset_s": ahead_s,
            "console_ages_s": [(stopped - at, offset) for at, offset in self.console.times],
        }

    def write_state(self, entry: Path) -> None:
        """Have QEMU write the state of a stopped guest into a directory.

        Raises HarnessError if it refuses, GuestDied if it is gone.
        """
        self.qmp.perform(write_out(self._launch.streams, entry / STATE))

    @property
    def started(self) -> float:
        """When it was launched, on the monotonic clock."""
        return self._started

    @property
    def ended(self) -> bool:
        """Whether QEMU has ended, or was never launched."""
        return not self._started or self._launch.process.poll() is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._launch.process.pid

    @property
    def logs(self) -> tuple[Path, ...]:
        """The console's and QEMU's log."""
        return self._launch.console_log, self._launch.qemu_log

    @property
    def argv_by_hand(self) -> str:
        """The QEMU command that boots the same with its console on the terminal."""
        return quoted(qemu_argv(self.boot, BY_HAND))

    def _gone(self) -> bool:
        """Whether the guest will never answer again; called with the streams' lock held."""
        streams = self._launch.streams
        if not self._doomed and len(streams.console_text) > self._scanned:
            fresh = streams.console_text[max(0, self._scanned - 200) :].decode(errors="replace")
            self._scanned = len(streams.console_text)
            self._doomed = bool(PANIC.search(fresh) or HALTED.search(fresh))
        return self._doomed or streams.console_ended or bool(streams.troubles)

    def _diagnosis(self, waited_s: float, for_what: str) -> KernelvmError:
        streams = self._launch.streams
        if self._doomed or streams.console_ended:
            streams.wait_for(lambda: streams.console_ended or None, Deadline(GRACE_S))
        status = self._launch.process.wait(END_S) if streams.console_ended else None
        return diagnose(
            Symptoms(
                label=self.label,
                ready=self._ready,
                console=self.console.text,
                console_log=self._launch.console_log,
                qemu_log=self._launch.qemu_log,
                status=status,
                waited_s=waited_s,
                for_what=for_what,
                oddities=self._channel.oddities,
                began_anew=self._channel.began_anew,
                by_hand=self.by_hand,
                argv=self.argv_by_hand,
            )
        )

    def transact(self, batch: Batch, timeout_s: float | None = None, what: str = "") -> Reply:
        """Have the agent make a batch of system calls; see Requests.transact."""
        return self._exchange(batch, timeout_s, what or "a system call", cancel=False)

    def _transact_program(self, batch: Batch, what: str, timeout_s: float | None) -> Reply:
        return self._exchange(batch, timeout_s, what, cancel=True)

    def _exchange(self, batch: Batch, timeout_s: float | None, what: str, *, cancel: bool) -> Reply:
        """Transact; without a reply, have the program killed if there is one, and say what died."""
        limit_s = self.limits.command_s if timeout_s is None else timeout_s
        self._close_stale(batch)
        reply = None
        noted = self.journal.begin(batch, what, limit_s, program=cancel)
        try:
            reply = self._channel.transact(batch, Deadline(limit_s))
            return reply
        except NoReply:
            if cancel and not self._is_gone():
                self._cancel(what, limit_s)
            raise self._diagnosis(limit_s, what) from None
        finally:
            self.journal.end(noted, reply)

    def repeat(self, exchange: Exchange) -> Reply:
        """Make the exchange of another guest's journal with this one; raises as `transact`."""
        return self._exchange(
            exchange.batch, exchange.timeout_s, exchange.what, cancel=exchange.program
        )

    def _is_gone(self) -> bool:
        return bool(self._launch.streams.wait_for(self._gone, Deadline(0)))

    def _cancel(self, what: str, limit_s: float) -> None:
        """Have the agent kill the program; return only if the guest does not even do that."""
        with contextlib.suppress(NoReply):
            self._channel.cancel(Deadline(CANCEL_S))
            raise CommandFailed(
                f"{self.label}: {what} did not end within {limit_s:g} s and was killed",
                Evidence(next_step="give it a longer timeout_s"),
            )

    # The kernel

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """What /proc/modules says, latest loaded first."""
        return parse_proc_modules(self.read("/proc/modules"))

    @property
    def dmesg(self) -> KernelLog:
        """The kernel's log, record by record."""
        flags = os.O_RDONLY | os.O_NONBLOCK
        raw = b"".join(self._chunks("/dev/kmsg", flags, "read", until_empty=True))
        return parse_kmsg(raw.decode("utf-8", "replace"))

    @property
    def cmdline(self) -> tuple[str, ...]:
        """The words of /proc/cmdline."""
        return tuple(self.read("/proc/cmdline").split())

    @property
    def uname(self) -> Uname:
        """What uname(2) says."""
        batch = Batch()
        buffer = batch.space(UTSNAME_BYTES)
        batch.call("uname", buffer, out=(0, UTSNAME_BYTES))
        return parse_utsname(self._succeed(batch, "uname").outputs[0])

    # Ends

    def power_off(self, timeout_s: float = 20.0) -> None:
        """Switch the machine off; QEMU ends with status 0."""
        self._reboot(REBOOT_POWER_OFF, timeout_s, "power off")

    def reboot(self, timeout_s: float = 20.0) -> None:
        """Restart the machine; QEMU runs with -no-reboot and ends with status 0."""
        self._reboot(REBOOT_RESTART, timeout_s, "reboot")

    def _reboot(self, command: int, timeout_s: float, what: str) -> None:
        batch = Batch()
        batch.call("sync")
        batch.call("reboot", *REBOOT_MAGIC, command, 0)
        streams = self._launch.streams
        noted = self.journal.begin(batch, what, timeout_s, program=False)
        reply = None
        with contextlib.suppress(NoReply):
            reply = self._channel.transact(batch, Deadline(timeout_s))
        self.journal.end(noted, reply)
        if reply:
            self._syscall_failed(what, -reply.results[1])
        ended = streams.wait_for(lambda: streams.console_ended or None, Deadline(timeout_s))
        status = self._launch.process.wait(END_S) if ended else None
        if status != 0:
            raise self._diagnosis(timeout_s, what)

    def wait_end(self, timeout_s: float) -> int | None:
        """Wait for QEMU's end; return its status (minus the signal), None if it goes on."""
        if self._held and self._is_gone():
            with contextlib.suppress(GuestDied):
                self.qmp.query("quit")
        return self._launch.process.wait(timeout_s)

    def hold_panicked(self) -> None:
        """Have QEMU stay, with a guest that panicked, until somebody asks for its end."""
        if self._held:
            return
        self._held = True
        self._launch.streams.begin(hold_panicked(self._launch.streams))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send QEMU a signal."""
        self.journal.signalled(number)
        os.kill(self.pid, number)
