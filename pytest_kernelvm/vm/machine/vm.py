"""A booted guest, as tests see it."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pytest_kernelvm.errors import CommandFailed, Evidence, GuestDied, KernelvmError
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import READ_BYTES, RECORD_BYTES, Batch, Reply, without_log
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.process import Deadline, quoted, tail
from pytest_kernelvm.vm.agent.channel import Channel, NoReply
from pytest_kernelvm.vm.agent.journal import Exchange, Journal
from pytest_kernelvm.vm.agent.network import Network
from pytest_kernelvm.vm.agent.programs import Programs
from pytest_kernelvm.vm.agent.results import (
    UTSNAME_BYTES,
    LoadedModule,
    Uname,
    parse_proc_modules,
    parse_utsname,
)
from pytest_kernelvm.vm.agent.services import ServiceCatalogue, Services
from pytest_kernelvm.vm.bootpath.kexec import load, with_root_of
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.klog.kmsg import KernelLog, LogRecord, parse_kmsg
from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.machine.console import Console
from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, Boot, MemoryFile, qemu_argv
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.launch import Launch, launch
from pytest_kernelvm.vm.qemu.migration import (
    add_clock_query,
    add_refresh,
    clock_offset_s,
    load_state,
    pause_on_panic,
    save_state,
)
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.snapshot import (
    CONSOLE,
    LOG,
    MEMORY,
    STATE,
    Snapshot,
    SnapshotUnusable,
    write_sparse,
)
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline, Limits
from pytest_kernelvm.vm.verdict.diagnosis import launch_failed
from pytest_kernelvm.vm.verdict.findings import Findings
from pytest_kernelvm.vm.verdict.verdict_collector import END_S, VerdictCollector
from pytest_kernelvm.vm.verdict.watch import Allowance, Trouble

# include/uapi/linux/reboot.h
REBOOT_MAGIC = (0xFEE1DEAD, 672274793)
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567
REBOOT_KEXEC = 0x45584543

# syslog(2): sets the console's level; with this one it shows all that is logged
# (include/linux/kern_levels.h, CONSOLE_LOGLEVEL_MOTORMOUTH).
SYSLOG_ACTION_CONSOLE_LEVEL = 8
LOUDEST = 8
# How long a guest that the test has ended may take for it.
LET_GO_S = 2.0
# QMP commands that end a guest, or what it runs.
ENDING_ORDERS = ("quit", "system_reset", "system_powerdown")
LONGER = "give it a longer timeout_s"
# How long a guest may take to kill a program; a spinning one leaves it little time.
CANCEL_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootable:
    """All that it takes to have a guest.

    label: for messages. boot: what QEMU boots. abi: the numbers of the kernel's headers.
    by_hand: the command that boots the same guest interactively. services: its cell's.
    terminal: the program that gives others a terminal, None without.
    """

    label: str
    boot: Boot
    abi: Abi
    limits: Limits
    by_hand: str
    services: ServiceCatalogue
    terminal: Path | None = None


class Bootables(Protocol):
    """What guests are made of: a cell."""

    def bootable(self, *, cmdline: str = "", cookie: bool = True) -> Bootable:
        """Return what one is made of."""


class Vm(Programs):
    """A guest under test; a context manager that boots it and leaves nothing behind.

    bootable: what it is made of. directory: where its logs go.
    snapshot: what it is restored from instead of being booted.
    memory: the file that is its memory; None where no snapshot is to be taken.
    link: its end of the cable to another guest.
    console_limit_bytes: how much of its console's text is kept; a guest that says more is flooding.
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
        console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
    ) -> None:
        super().__init__(bootable.abi, bootable.boot.arch.endianness)
        self.label = bootable.label
        self.boot = bootable.boot
        self.limits = bootable.limits
        self.by_hand = bootable.by_hand
        self.directory = directory
        self.snapshot = snapshot
        self.services = Services(self, bootable.services)
        self.terminal = bootable.terminal
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
        self._memory = MemoryFile(path=memory, shared=True) if memory else None
        self._link = link
        self._console_limit_bytes = console_limit_bytes
        self._stack = contextlib.ExitStack()
        self._started = 0.0
        self._refreshing = Batch()
        self._held = False
        self._ready = False
        self._owing = False
        # Whether it counts what the kernel finds wrong; when the guest was last asked for that.
        self._answers = False
        self._looked_after = -1
        self._exchanges = self._taken = 0
        self._was_ended = self._is_let_go = False
        self._collector: VerdictCollector
        self._launch: Launch
        self._channel: Channel
        self.findings: Findings
        self.console: Console
        self.qmp: Qmp

    # Life

    def start(self) -> None:
        """Launch QEMU and let it boot or restore by itself; entering the context waits for it.

        Only the main thread may do this: QEMU dies with the thread that started it.
        """
        started = time.monotonic()
        try:
            self._launch = self._stack.enter_context(
                launch(
                    self.boot,
                    self.directory,
                    memory=self._memory,
                    snapshot=self.snapshot,
                    link=self._link,
                    console_limit_bytes=self._console_limit_bytes,
                )
            )
        except OSError as error:
            raise launch_failed(self.label, error, self.argv_by_hand) from None
        self._started = started
        streams = self._launch.streams
        self.qmp = Qmp(streams, self._note_order)
        self._channel = Channel(
            streams,
            self.boot.arch,
            self.abi.syscalls,
            self._gone,
            last_id=self.snapshot.request_id if self.snapshot else 0,
            boot_id=self.snapshot.boot_id if self.snapshot else 0,
        )
        before = len(self.snapshot.console) if self.snapshot else 0
        log = LogCopy.read_before(self.snapshot.log) if self.snapshot else LogCopy()
        self._collector = VerdictCollector(
            self,
            self._launch,
            self._channel,
            self.qmp,
            self.boot.image,
            start=before,
            log=log,
            log_start=len(log.text),
        )
        taint = self.snapshot.taint if self.snapshot else 0
        self.findings = Findings(self._collector, self._channel, streams, log, taint, self.limits)
        self.console = Console(
            streams,
            self._launch.console_log,
            self.limits.command_s,
            self._collector,
            self.journal.typed,
            self.findings.confirm,
        )
        if self.snapshot and self._launch.state_descriptor is not None:
            self._bring_in(self.snapshot, self._launch.state_descriptor)

    def _bring_in(self, snapshot: Snapshot, descriptor: int) -> None:
        """Have QEMU load the snapshot's state, and the guest refreshed as soon as it runs."""
        streams = self._launch.streams

        def first_frame() -> bytes:
            add_refresh(self._refreshing, self.abi, self._byteorder, snapshot.clock_offset_s)
            return self._channel.first_frame(self._refreshing)

        streams.begin(load_state(streams, descriptor, first_frame))

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
            if isinstance(error, KernelvmError) and self._started:
                self.on_failed_start(self)
            self._stack.close()
            raise
        self._ready = self._collector.ready = True
        self.ready_s = time.monotonic() - self._started
        return self

    def _await_booted(self) -> None:
        deadline = self._collector.boot_deadline(self.limits)
        try:
            self._channel.wait_ready(deadline)
        except NoReply:
            raise self._collector.verdict(deadline, "the agent to answer") from None

    def _await_restored(self) -> None:
        try:
            reply = self._channel.collect(
                self._refreshing, self._collector.boot_deadline(self.limits)
            )
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
        self._read_log(self.findings.look)
        batch = Batch()
        add_clock_query(batch, self.abi)
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
        (entry / LOG).write_bytes(self.findings.copy.raw)
        return {
            "request_id": self._channel.last_id,
            "boot_id": self._channel.boot_id,
            "clock_offset_s": ahead_s,
            "taint": self.findings.reader.taint,
            "console_ages_s": [(stopped - at, offset) for at, offset in self.console.times],
        }

    def write_state(self, entry: Path) -> None:
        """Have QEMU write the state of a stopped guest into a directory.

        Raises HarnessError if it refuses, GuestDied if it is gone.
        """
        self.qmp.perform(save_state(self._launch.streams, entry / STATE))

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
        if kind is None and self._answers and self._looked_after != self._exchanges:
            self._look_before_end()
        self._was_ended = True
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
        return quoted(qemu_argv(self.boot, ON_TERMINAL))

    def _gone(self) -> bool:
        return self._collector.gone()

    def transact(self, batch: Batch, timeout_s: float | None = None, what: str = "") -> Reply:
        """Have the agent make a batch of system calls; see Requests.transact."""
        return self._exchange(batch, timeout_s, what or "a system call", cancel=False)

    def _transact_program(self, batch: Batch, what: str, timeout_s: float | None) -> Reply:
        return self._exchange(batch, timeout_s, what, cancel=True)

    def _exchange(self, batch: Batch, timeout_s: float | None, what: str, *, cancel: bool) -> Reply:
        """Transact; without a reply, have the program killed if there is one, and say what died.

        A reply does not count where the kernel found something wrong that it may not.
        """
        if self._owing and not self._cancel():
            raise self._collector.verdict(
                self._collector.deadline(CANCEL_S), "the end of the program before"
            )
        deadline = self._collector.command_deadline(self.limits, timeout_s)
        self._close_stale(batch)
        self._exchanges += 1
        reply = None
        noted = self.journal.begin(batch, what, deadline.timeout_s, program=cancel)
        try:
            reply = self._transact_with_log(batch, deadline)
        except NoReply:
            deadline.freeze()
            trouble = self._collector.trouble()
            self._owing = cancel and trouble in (None, Trouble.SPLAT)
            if cancel and trouble is None and self._cancel():
                raise CommandFailed(
                    f"{self.label}: {what} did not end within {deadline.timeout_s:g} s "
                    "and was killed",
                    Evidence(facts=(f"waited: {deadline.told}",), next_step=LONGER),
                ) from None
            raise self._collector.verdict(deadline, what) from None
        finally:
            self.journal.end(noted, reply)
        self.findings.refuse(deadline, what)
        return reply

    def _transact_with_log(self, batch: Batch, deadline: GuestDeadline) -> Reply:
        """Have a batch made, and take what of the kernel's log comes with the reply.

        Raises NoReply.
        """
        # A console that is the agent's channel as well has shown it all, and is busy enough.
        longer = None if self.boot.shared_console else batch.with_log()
        seen_bytes = len(self._launch.streams.console_text)
        reply = self._transact_or_resume(longer or batch, deadline)
        if longer:
            reply, result, raw = without_log(reply)
            self.findings.take(result, raw, seen_bytes)
        return reply

    def _transact_or_resume(self, batch: Batch, deadline: GuestDeadline) -> Reply:
        """Have a batch made; what the console alone shows, and not the log, ends no wait."""
        ask = self._channel.transact
        while True:
            try:
                return ask(batch, deadline)
            except NoReply:
                doubtful = self._collector.trouble() in (Trouble.SPLAT, Trouble.PANIC)
                if not doubtful or deadline.passed or self.findings.confirm():
                    raise
                ask = self._channel.resume

    def repeat(self, exchange: Exchange) -> Reply:
        """Make the exchange of another guest's journal with this one; raises as `transact`."""
        return self._exchange(
            exchange.batch, exchange.timeout_s, exchange.what, cancel=exchange.program
        )

    def _cancel(self) -> bool:
        """Have the agent kill the program that runs; False if the guest does not even do that."""
        try:
            self._channel.cancel(self._collector.deadline(CANCEL_S))
        except NoReply:
            return False
        self._owing = False
        return True

    # Splats

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel found wrong so far, allowed or not, as its log and console tell."""
        self._launch.streams.drain()
        return self._collector.watch.splats

    @contextlib.contextmanager
    def allow_splats(self, *patterns: str, reason: str) -> Iterator[Allowance]:
        """Allow what the commands inside provoke.

        patterns: regular expressions, of which one must be found in a splat's text.
        reason: why it is no failure. Gives the allowance, whose `splats` are those it allowed.
        """
        with self.findings.allow(patterns, reason, ask=self._can_be_asked) as allowed:
            yield allowed

    def answer_for(
        self, allowances: Iterable[Allowance] = (), *, boot: bool = False, refuse: bool = True
    ) -> None:
        """Have splats from now on count, but for those that are allowed.

        boot: whether those of the boot count as well. refuse: whether each ends what is waited
        for; else they are only told by `conclude`.
        """
        self._answers = True
        self._taken = 0
        self.findings.answer_for(allowances, boot=boot, refuse=refuse)

    @property
    def _can_be_asked(self) -> bool:
        return self._ready and not self._was_ended and not self.journal.pending

    def conclude(self, for_what: str, *, ask: bool) -> KernelvmError | None:
        """Return the error of what nobody was told of this guest yet, None if all is well.

        for_what: the moment, in words. ask: whether the guest is asked for its log, its taint and
        a sign of life; where nothing was asked of it since it was last asked so, it is not again.
        """
        if not self._ready:
            return None
        fresh = self._looked_after != self._exchanges or self._collector.trouble() is not None
        if self._is_let_go:
            self._launch.process.wait(LET_GO_S)
        ask = ask and fresh and self._can_be_asked and not (self._is_let_go and self.ended)
        if ask:
            self._go_on()
            self._end_program()
        error = self.findings.conclude(for_what, ask=ask, aside=self._owing)
        self._looked_after = self._exchanges
        # The end of a test that went well is not content with a flood that the test has swallowed.
        if not error and self._collector.is_flooded and (ask or not self._collector.told_flood):
            return self._collector.flood_verdict(self._collector.deadline(0.0), for_what)
        return error

    def take_raised(self) -> tuple[KernelvmError, ...]:
        """Return the verdicts on this guest that were raised since it was last asked for them."""
        if not self._started:
            return ()
        raised = tuple(self._collector.raised[self._taken :])
        self._taken = len(self._collector.raised)
        return raised

    def _end_program(self) -> None:
        """Have a program killed that was given up."""
        if self._owing:
            self._cancel()

    def _go_on(self) -> None:
        """Let a guest run that QMP's stop holds: its log is to be read."""
        if self._collector.is_paused():
            with contextlib.suppress(KernelvmError):
                self.qmp.query("cont")

    def _read_log(self, read: Callable[[GuestDeadline], None]) -> None:
        """Read the guest's log. Raises what became of the guest if it does not answer."""
        self._end_program()
        deadline = self._collector.command_deadline(self.limits)
        try:
            read(deadline)
        except NoReply:
            raise self._collector.verdict(deadline, "its kernel's log") from None

    def _look_before_end(self) -> None:
        """Look once more at a guest that is about to end, if it answers."""
        if self._answers and self._can_be_asked and not self.ended:
            self._go_on()
            self.findings.may_look()

    def _note_order(self, command: str, arguments: dict[str, Any]) -> None:
        """Note a QMP command of the test's before it is run."""
        if command in ENDING_ORDERS:
            self._look_before_end()
            self._is_let_go = True
        self.journal.ordered(command, arguments)

    # The kernel

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """What /proc/modules says, latest loaded first."""
        return parse_proc_modules(self.read("/proc/modules"))

    @property
    def dmesg(self) -> KernelLog:
        """What the kernel's log has by now, record by record, what programs wrote included."""
        found: dict[int, LogRecord] = {}
        # /dev/kmsg passes over a record for which what is left of a buffer has no room
        # (kernel/printk/printk.c, devkmsg_read): with buffers of another size that is another one.
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
        """What uname(2) says."""
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
        """Switch the machine off; QEMU ends with status 0."""
        self._reboot(REBOOT_POWER_OFF, timeout_s, "power off")

    def reboot(self, timeout_s: float = 20.0) -> None:
        """Restart the machine; QEMU runs with -no-reboot and ends with status 0."""
        self._reboot(REBOOT_RESTART, timeout_s, "reboot")

    def _reboot(self, command: int, timeout_s: float, what: str) -> None:
        self._tell_before_end(what)
        batch = Batch()
        # What is found wrong from now on is told by the console alone.
        batch.call("syslog", SYSLOG_ACTION_CONSOLE_LEVEL, 0, LOUDEST, always=True)
        batch.call("sync", always=True)
        batch.call("reboot", *REBOOT_MAGIC, command, 0, always=True)
        streams = self._launch.streams
        deadline = self._collector.command_deadline(self.limits, timeout_s)
        noted = self.journal.begin(batch, what, timeout_s, program=False)
        reply = None
        with contextlib.suppress(NoReply):
            reply = self._channel.transact(batch, deadline)
        self.journal.end(noted, reply)
        if reply:
            self._syscall_failed(what, -reply.results[2])
        ended = streams.wait_for(lambda: streams.console_ended or None, deadline)
        status = self._launch.process.wait(END_S) if ended else None
        if status != 0:
            raise self._collector.verdict(deadline, what)
        self._is_let_go = True

    def _tell_before_end(self, what: str) -> None:
        """Raise what the kernel found wrong before the test ends it."""
        if self._answers:
            self._read_log(self.findings.look)
            self.findings.refuse(self._collector.deadline(0.0), what)

    def kexec(
        self,
        kernel: Bootables,
        *,
        cmdline: str = "",
        cookie: bool = True,
        device_tree: bytes = b"",
    ) -> None:
        """Have the guest's kernel load another one and enter it; its agent answers then.

        kernel: the cell whose kernel and default initramfs it is, with words for its command line.
        device_tree: passed in the registers instead of a command line; for MIPS, by a kernel that
        has the patch mips-kexec-tree.
        Raises SyscallFailed if the kernel can't, and what a boot raises. The guest is like one
        that was just booted, on another kernel.
        """
        second = kernel.bootable(cmdline=cmdline, cookie=cookie)
        boot = with_root_of(second.boot, self.boot)
        load(self, boot, device_tree)
        self._tell_before_end("kexec")
        batch = Batch()
        batch.call("syslog", SYSLOG_ACTION_CONSOLE_LEVEL, 0, LOUDEST, always=True)
        batch.call("reboot", *REBOOT_MAGIC, REBOOT_KEXEC, 0, always=True)
        self._collector.begin_anew(second.boot.image)
        deadline = self._collector.boot_deadline(second.limits)
        noted = self.journal.begin(batch, "kexec", deadline.timeout_s, program=False)
        reply = None
        try:
            reply = self._channel.hand_over(batch, deadline)
        except NoReply:
            raise self._collector.verdict(deadline, "the second kernel's agent to answer") from None
        finally:
            self.journal.end(noted, reply)
        self._ready = self._collector.ready = True
        if reply:
            self._syscall_failed("kexec", -reply.results[1])
        self.findings.begin_anew()
        self.abi, self.boot, self._stale = second.abi, boot, []
        self.services, self.terminal = Services(self, second.services), second.terminal

    def wait_end(self, timeout_s: float) -> int | None:
        """Wait for QEMU's end; return its status (minus the signal), None if it goes on."""
        self._look_before_end()
        if self._held and self._collector.trouble():
            with contextlib.suppress(GuestDied):
                self.qmp.query("quit")
        status = self._launch.process.wait(timeout_s)
        self._is_let_go = self._is_let_go or status is not None
        return status

    def hold_panicked(self) -> None:
        """Have QEMU stay, with a guest that panicked, until somebody asks for its end."""
        if self._held:
            return
        self._held = True
        self._launch.streams.begin(pause_on_panic(self._launch.streams))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send QEMU a signal."""
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._look_before_end()
            self._is_let_go = True
        self.journal.signalled(number)
        os.kill(self.pid, number)
