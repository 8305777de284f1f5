"""The harness' side of one guest: how it starts and ends, and what is found wrong with it.

Tests use a Vm (vm.py). What watches over tests uses its `control`, which is here.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pytest_kernelvm.errors import GuestDied, KernelvmError
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import Batch, Reply
from pytest_kernelvm.vm.agent.channel import Channel
from pytest_kernelvm.vm.agent.journal import Journal
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.console import Console
from pytest_kernelvm.vm.machine.readiness import Readiness
from pytest_kernelvm.vm.machine.transactions import Transactions
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.migration import pause_on_panic
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.snapshot import Snapshot
from pytest_kernelvm.vm.verdict.allowance import Allowance
from pytest_kernelvm.vm.verdict.findings import Findings
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector

# How long a guest that the test has ended may take for it.
LET_GO_S = 2.0
# QMP commands that end QEMU or the guest's kernel.
ENDING_COMMANDS = ("quit", "system_reset", "system_powerdown")


class GuestControl:
    """The harness' side of a guest whose QEMU runs; it carries requests to the guest's agent.

    Args:
        bootable: What the guest is made of.
        directory: Where its logs go.
        launch: Its QEMU.
        release: Ends QEMU, once.
        started: When QEMU was launched, on the monotonic clock.
        snapshot: What the guest is restored from; None if it boots.

    Attributes:
        bootable: What the guest is made of now; a kexec changes that.
        journal: All that is done with the guest.
        channel: Its agent's.
        collector: Says what became of it.
        findings: What its kernel finds wrong.
        transactions: Makes the requests.
        readiness: The wait for the agent's first answer.
    """

    def __init__(
        self,
        bootable: Bootable,
        directory: Path,
        launch: Launch,
        release: Callable[[], None],
        *,
        started: float,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.bootable = bootable
        self.started = started
        self.directory = directory
        self.launch = launch
        self.snapshot = snapshot
        self.journal = Journal(directory / "journal.jsonl")
        self.qmp = Qmp(launch.streams, self._note_command)
        self.channel = Channel(
            launch.streams,
            bootable.boot.arch,
            bootable.abi.syscalls,
            self._is_gone,
            last_id=snapshot.request_id if snapshot else 0,
            boot_id=snapshot.boot_id if snapshot else 0,
        )
        log = LogCopy.read_before(snapshot.log) if snapshot else LogCopy()
        self.collector = self._new_collector(log)
        self.findings = self._new_findings(log)
        self.console = self._new_console()
        self.transactions = self._new_transactions()
        self.readiness = Readiness(
            bootable, launch, self.channel, self.collector, snapshot, started=started
        )
        self._release = release
        self._is_held = False
        # Whether splats count; how many requests there were when the log was last read to its end.
        self._answers = False
        self._looked_after = -1
        self._taken = 0
        self._has_ended = self._is_let_go = False

    def _is_gone(self) -> bool:
        return self.collector.gone()

    def _new_collector(self, log: LogCopy) -> VerdictCollector:
        return VerdictCollector(
            self,
            self.launch,
            self.channel,
            self.qmp,
            self.bootable.boot.arch,
            self.bootable.boot.image,
            start=len(self.snapshot.console) if self.snapshot else 0,
            log=log,
            log_start=len(log.text),
        )

    def _new_findings(self, log: LogCopy) -> Findings:
        taint = self.snapshot.taint if self.snapshot else 0
        streams, limits = self.launch.streams, self.bootable.limits
        return Findings(self.collector, self.channel, streams, log, taint, limits)

    def _new_console(self) -> Console:
        return Console(
            self.launch.streams,
            self.launch.console_log,
            self.bootable.limits.command_s,
            self.collector,
            self.journal.typed,
            self.findings.confirm,
        )

    def _new_transactions(self) -> Transactions:
        return Transactions(
            lambda: self.bootable,
            self.launch.streams,
            self.journal,
            self.channel,
            self.collector,
            self.findings,
        )

    # What it is

    @property
    def label(self) -> str:
        """The guest's name in messages."""
        return self.bootable.label

    @property
    def abi(self) -> Abi:
        """The numbers of the headers of the kernel that runs."""
        return self.bootable.abi

    @property
    def byteorder(self) -> Literal["big", "little"]:
        """The guest's byte order."""
        return self.bootable.boot.arch.endianness

    @property
    def boot_command(self) -> str:
        """The command that boots the same guest interactively."""
        return self.bootable.boot_command

    @property
    def quoted_argv(self) -> str:
        """The QEMU command that boots the same with its console on the terminal."""
        return self.bootable.quoted_argv

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self.launch.process.pid

    @property
    def logs(self) -> tuple[Path, ...]:
        """The console's and QEMU's log."""
        return self.launch.console_log, self.launch.qemu_log

    @property
    def ended(self) -> bool:
        """Whether QEMU has ended."""
        return self.launch.process.poll() is not None

    # Requests

    def transact(
        self,
        batch: Batch,
        timeout_s: float | None = None,
        what: str = "",
        *,
        program: bool = False,
    ) -> Reply:
        """Have the agent make a batch of system calls; see Transactions.transact.

        Args:
            batch: The calls and their data.
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.
            what: The request in words, for messages and the journal.
            program: Whether the batch runs a program, which is killed when its time is up.

        Returns:
            The result and the output of each call.
        """
        return self.transactions.transact(batch, timeout_s, what, program=program)

    def run_other_kernel(self, second: Bootable) -> None:
        """Go on with a guest whose agent answered from another kernel.

        Args:
            second: What that kernel is of; label and limits stay those of the first.
        """
        self.collector.ready = True
        self.findings.begin_anew()
        self.channel.numbers = second.abi.syscalls
        self.bootable = replace(
            self.bootable,
            boot=second.boot,
            abi=second.abi,
            services=second.services,
            terminal=second.terminal,
        )

    # Splats

    @property
    def splats(self) -> tuple[Splat, ...]:
        """What the kernel found wrong so far, allowed or not, by its log and console."""
        self.launch.streams.drain()
        return self.collector.watch.splats

    @contextlib.contextmanager
    def allow_splats(self, patterns: tuple[str, ...], reason: str) -> Iterator[Allowance]:
        """Allow what the commands inside provoke.

        Args:
            patterns: As Vm.allow_splats takes them.
            reason: As Vm.allow_splats takes it.

        Yields:
            The allowance, whose `splats` are those that it allowed.
        """
        with self.findings.allow(patterns, reason, ask=self._can_be_asked) as allowed:
            yield allowed

    def answer_for(
        self, allowances: Iterable[Allowance] = (), *, boot: bool = False, refuse: bool = True
    ) -> None:
        """Have splats from now on count, but for those that are allowed.

        Args:
            allowances: Those that the whole test has.
            boot: Whether splats of the boot count as well.
            refuse: Whether each ends what is waited for; else only `conclude` reports them.
        """
        self._answers = True
        self._taken = 0
        self.findings.answer_for(allowances, boot=boot, refuse=refuse)

    @property
    def _can_be_asked(self) -> bool:
        return self.readiness.is_ready and not self._has_ended and not self.journal.pending

    def conclude(self, for_what: str, *, ask: bool) -> KernelvmError | None:
        """Return the error of what is wrong with this guest and was not reported yet.

        Args:
            for_what: The moment, in words.
            ask: Whether the guest is asked for its log, its taint and a sign of life. Where no
                request was made since it was last asked so, it is not asked again.

        Returns:
            The error; None if all is well.
        """
        if not self.readiness.is_ready:
            return None
        ask = self._is_worth_asking() and ask
        if ask:
            self._go_on()
            self.transactions.end_program()
        error = self.findings.conclude(for_what, ask=ask, aside=self.transactions.program_pending)
        self._looked_after = self.transactions.made
        # A flooded console fails even a test that caught the error which reported it.
        is_flooded = self.collector.is_flooded and (ask or not self.collector.reported_flood)
        if not error and is_flooded:
            return self.collector.flood_verdict(self.collector.deadline(0.0), for_what)
        return error

    def _is_worth_asking(self) -> bool:
        """Whether the guest can answer, and was not yet asked since its last request."""
        is_fresh = self._looked_after != self.transactions.made
        is_fresh = is_fresh or self.collector.trouble() is not None
        if self._is_let_go:
            self.launch.process.wait(LET_GO_S)
        return is_fresh and self._can_be_asked and not (self._is_let_go and self.ended)

    def take_raised(self) -> tuple[KernelvmError, ...]:
        """Give the verdicts on this guest that were raised since the last call.

        Returns:
            The errors, in their order.
        """
        raised = tuple(self.collector.raised[self._taken :])
        self._taken = len(self.collector.raised)
        return raised

    def _go_on(self) -> None:
        """Let a guest run that QMP's stop holds: its log is to be read."""
        if self.collector.is_paused():
            with contextlib.suppress(KernelvmError):
                self.qmp.query("cont")

    # Ends

    def look_before_end(self) -> None:
        """Look once more at a guest that is about to end, if it answers."""
        if self._answers and self._can_be_asked and not self.ended:
            self._go_on()
            self.findings.may_look()

    def report_before_end(self, what: str) -> None:
        """Raise what the kernel found wrong before the test ends it.

        Args:
            what: The end, in words.
        """
        if self._answers:
            self.transactions.read_log(self.findings.look)
            self.findings.refuse(self.collector.deadline(0.0), what)

    def let_go(self) -> None:
        """Note that the test has ended the guest."""
        self._is_let_go = True

    def _note_command(self, command: str, arguments: dict[str, Any]) -> None:
        """Note a QMP command of the test's before it is run."""
        if command in ENDING_COMMANDS:
            self.look_before_end()
            self.let_go()
        self.journal.ordered(command, arguments)

    def wait_end(self, timeout_s: float) -> int | None:
        """Wait for QEMU's end.

        Args:
            timeout_s: Seconds on the host's clock.

        Returns:
            Its status, minus the signal that ended it; None if it goes on.
        """
        self.look_before_end()
        if self._is_held and self.collector.trouble():
            with contextlib.suppress(GuestDied):
                self.qmp.query("quit")
        status = self.launch.process.wait(timeout_s)
        if status is not None:
            self.let_go()
        return status

    def hold_panicked(self) -> None:
        """Have QEMU stay, with a guest that panicked, until somebody asks for its end."""
        if self._is_held:
            return
        self._is_held = True
        self.launch.streams.begin(pause_on_panic(self.launch.streams))

    def kill(self, number: int) -> None:
        """Send QEMU a signal.

        Args:
            number: Of the signal; all but SIGSTOP and SIGCONT are taken for its end.
        """
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self.look_before_end()
            self.let_go()
        self.journal.signalled(number)
        os.kill(self.pid, number)

    def end(self, *, look: bool) -> None:
        """End QEMU and leave nothing behind, unless that was done already.

        Args:
            look: Whether the log is read once more before, where requests were made since it was.
        """
        try:
            if look and self._looked_after != self.transactions.made:
                self.look_before_end()
        finally:
            self._has_ended = True
            self._release()
