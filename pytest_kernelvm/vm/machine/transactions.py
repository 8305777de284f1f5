"""Requests to the agent of one guest: each is noted, has a deadline, and ends with a verdict."""

from __future__ import annotations

from collections.abc import Callable

from pytest_kernelvm.errors import CommandFailed, Evidence
from pytest_kernelvm.guest.protocol import Batch, Reply, without_log
from pytest_kernelvm.vm.agent.channel import Channel, NoReply
from pytest_kernelvm.vm.agent.journal import Exchange, Journal
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.qemu.streams import Streams
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline
from pytest_kernelvm.vm.verdict.findings import Findings
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector
from pytest_kernelvm.vm.verdict.watch import Trouble

LONGER = "give it a longer timeout_s"
# How long a guest may take to kill a program; a spinning one leaves it little time.
CANCEL_S = 5.0


class Transactions:
    """Makes requests to the agent of one guest.

    Args:
        bootable: Returns what the guest is made of now; a kexec changes that.
        streams: The guest's.
        journal: Notes each request.
        channel: Carries them.
        collector: Says what became of a guest that does not answer.
        findings: Takes what of the kernel's log comes with a reply.

    Attributes:
        made: How many requests were made.
        program_pending: Whether the agent still waits for the end of a program that was given up.
    """

    def __init__(
        self,
        bootable: Callable[[], Bootable],
        streams: Streams,
        journal: Journal,
        channel: Channel,
        collector: VerdictCollector,
        findings: Findings,
    ) -> None:
        self._bootable = bootable
        self._streams = streams
        self._journal = journal
        self._channel = channel
        self._collector = collector
        self._findings = findings
        self.made = 0
        self.program_pending = False

    def transact(
        self,
        batch: Batch,
        timeout_s: float | None = None,
        what: str = "",
        *,
        program: bool = False,
    ) -> Reply:
        """Have the agent make a batch of system calls and return the reply.

        A reply does not count where the kernel found something wrong that it may not. Raises
        GuestPanic, GuestDied, GuestHang or GuestSplat, with evidence; CommandFailed if a program
        was killed.

        Args:
            batch: The calls and their data.
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.
            what: The request in words, for messages and the journal.
            program: Whether the batch runs a program, which is killed when its time is up.

        Returns:
            The result and the output of each call.
        """
        what = what or "a system call"
        if self.program_pending and not self.cancel():
            deadline = self._collector.deadline(CANCEL_S)
            raise self._collector.verdict(deadline, "the end of the program before")
        deadline = self._collector.command_deadline(self._bootable().limits, timeout_s)
        self.made += 1
        reply = None
        noted = self._journal.begin(batch, what, deadline.timeout_s, program=program)
        try:
            reply = self._with_log(batch, deadline)
        except NoReply:
            raise self._unanswered(deadline, what, program=program) from None
        finally:
            self._journal.end(noted, reply)
        self._findings.refuse(deadline, what)
        return reply

    def _unanswered(self, deadline: GuestDeadline, what: str, *, program: bool) -> Exception:
        """Return the error of a request without a reply; its program is killed, if there is one."""
        deadline.freeze()
        trouble = self._collector.trouble()
        self.program_pending = program and trouble in (None, Trouble.SPLAT)
        if program and trouble is None and self.cancel():
            return CommandFailed(
                f"{self._bootable().label}: {what} did not end within {deadline.timeout_s:g} s "
                "and was killed",
                Evidence(facts=(f"waited: {deadline.description}",), next_step=LONGER),
            )
        return self._collector.verdict(deadline, what)

    def _with_log(self, batch: Batch, deadline: GuestDeadline) -> Reply:
        """Have a batch made, and take what of the kernel's log comes with the reply.

        Args:
            batch: The calls.
            deadline: For the reply.

        Returns:
            The reply to the batch alone. NoReply is raised if none comes.
        """
        # Where the console is the agent's channel too, it shows all, and the log would fill it.
        longer = None if self._bootable().boot.shared_console else batch.with_log()
        seen_bytes = len(self._streams.console_text)
        reply = self._findings.transact(longer or batch, deadline)
        if longer:
            reply, result, raw = without_log(reply)
            self._findings.take(result, raw, seen_bytes)
        return reply

    def repeat(self, exchange: Exchange) -> Reply:
        """Make the exchange of another guest's journal with this one; raises as `transact`.

        Args:
            exchange: Of the journal.

        Returns:
            This guest's reply.
        """
        return self.transact(
            exchange.batch, exchange.timeout_s, exchange.what, program=exchange.program
        )

    def cancel(self) -> bool:
        """Have the agent kill the program that runs; False if the guest does not even do that."""
        try:
            self._channel.cancel(self._collector.deadline(CANCEL_S))
        except NoReply:
            return False
        self.program_pending = False
        return True

    def end_program(self) -> None:
        """Have a program killed that was given up."""
        if self.program_pending:
            self.cancel()

    def read_log(self, read: Callable[[GuestDeadline], None]) -> None:
        """Read the guest's log.

        Raises what became of the guest if it does not answer.

        Args:
            read: Reads it within a deadline, or raises NoReply.
        """
        self.end_program()
        deadline = self._collector.command_deadline(self._bootable().limits)
        try:
            read(deadline)
        except NoReply:
            raise self._collector.verdict(deadline, "its kernel's log") from None
