"""What a guest's kernel finds wrong: read from its log, allowed by tests, reported as errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.guest.protocol import Batch, Reply
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.agent.channel import Channel, NoReply
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.qemu.streams import Streams
from pytest_kernelvm.vm.verdict.allowance import Allowance, SourceOffsets, TextSource, allowance
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline, TimeLimits
from pytest_kernelvm.vm.verdict.log_reader import LogReader
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector
from pytest_kernelvm.vm.verdict.watch import LONGEST_S, Trouble

# The guest's own time for its last answer; reading its log takes about 2 ms.
ANSWER_S = 2.0
# The guest's own time for its log's word on a splat of the console; a guest that spins gives none.
CONFIRM_S = 0.25
# How often the log is read while a splat is being written.
AGAIN_S = 0.02


class Findings:
    """Reads one guest's kernel log as the guest is used, and decides what of it counts.

    Args:
        collector: Says what became of the guest.
        channel: The agent's.
        streams: The guest's.
        copy: Of the log so far.
        taint: The kernel's so far.
        limits: The guest's.

    Attributes:
        copy: Of the log so far.
        reader: Keeps the copy up to date.
    """

    def __init__(
        self,
        collector: VerdictCollector,
        channel: Channel,
        streams: Streams,
        copy: LogCopy,
        taint: int,
        limits: TimeLimits,
    ) -> None:
        self.copy = copy
        self.reader = LogReader(streams, collector.watch, copy, taint)
        self._collector = collector
        self._watch = collector.watch
        self._channel = channel
        self._streams = streams
        self._limits = limits

    # Reading

    def _deadline(self) -> GuestDeadline:
        return self._collector.deadline(ANSWER_S * self._limits.calibration.factor)

    def transact(self, batch: Batch, deadline: Deadline) -> Reply:
        """Have a batch made; what the console alone shows, and not the log, ends no wait.

        Args:
            batch: The calls.
            deadline: For the reply.

        Returns:
            The reply.

        Raises:
            NoReply: If none comes.
        """
        ask = self._channel.transact
        while True:
            try:
                return ask(batch, deadline)
            except NoReply:
                is_doubtful = self._collector.trouble() in (Trouble.SPLAT, Trouble.PANIC)
                if not is_doubtful or deadline.passed or self.confirm():
                    raise
                ask = self._channel.resume

    def _ask(self, deadline: Deadline) -> Callable[[Batch], Reply]:
        return lambda batch: self.transact(batch, deadline)

    def _ask_aside(self, deadline: Deadline) -> Callable[[Batch], Reply]:
        def is_gone() -> bool:
            return self._watch.end_of_guest() is not None

        return lambda batch: self._channel.ask_aside(batch, deadline, is_gone)

    def _ask_despite_splats(self, deadline: Deadline) -> Callable[[Batch], Reply]:
        """Ask a guest whose console shows a splat that its log is to decide on."""

        def is_gone() -> bool:
            return self._watch.look() not in (None, Trouble.SPLAT)

        return lambda batch: self._channel.ask_aside(batch, deadline, is_gone)

    def take(self, result: int, raw: bytes, seen_bytes: int) -> None:
        """Take what of the log came with a reply, and read the rest of it.

        Raises NoReply.

        Args:
            result: As LogReader.take takes it.
            raw: As LogReader.take takes it.
            seen_bytes: As LogReader.take takes it.
        """
        if self.reader.take(result, raw, seen_bytes):
            self.reader.read(self._ask(self._deadline()))

    def confirm(self) -> bool:
        """Ask the guest's log about what its console shows, while a request may be under way.

        Returns:
            Whether something is wrong: the log says so too, or the guest does not answer.
        """
        if self.copy.trouble or self._collector.is_booting:
            return True
        try:
            self.reader.read(self._ask_aside(self._collector.deadline(CONFIRM_S)))
        except NoReply:
            return True
        return self._collector.trouble() is not None

    def refuse(self, deadline: GuestDeadline, for_what: str) -> None:
        """Raise the error of what the kernel found wrong under a request that was answered.

        Args:
            deadline: The request's.
            for_what: The request in words.
        """
        if not self._watch.refusing:
            return
        self._read_to_the_end()
        if self._collector.is_refused():
            raise self._collector.splat_verdict(deadline, for_what)

    def _read_to_the_end(self) -> None:
        """Read the log until a splat in it is whole, and has decided on those of the console."""
        end = time.monotonic() + LONGEST_S
        with contextlib.suppress(NoReply):
            while self._streams.now(self._is_unclear) and not self.copy.trouble:
                self.reader.read(self._ask_despite_splats(self._deadline()))
                if not self._watch.is_logging or time.monotonic() > end:
                    return
                time.sleep(AGAIN_S)

    def _is_unclear(self) -> bool:
        return bool(self._watch.refused_on_console) or self._watch.is_logging

    def read_aside(self, deadline: GuestDeadline) -> None:
        """Read what the log has by now, while a program runs. Raises NoReply.

        Args:
            deadline: For the answer.
        """
        self.reader.read(self._ask_aside(deadline))

    def look(self, deadline: GuestDeadline | None = None) -> None:
        """Ask the guest for its whole log and its taint. Raises NoReply.

        Args:
            deadline: For the answer; None for ANSWER_S of the guest's time.
        """
        self.reader.look(self._ask(deadline or self._deadline()))
        self._read_to_the_end()

    def may_look(self) -> bool:
        """Look if the guest answers; return whether it did."""
        try:
            self.look()
        except NoReply:
            return False
        return True

    # Allowing

    @contextlib.contextmanager
    def allow(self, patterns: tuple[str, ...], reason: str, *, ask: bool) -> Iterator[Allowance]:
        """Allow splats that the block provokes; see Vm.allow_splats.

        Args:
            patterns: Regular expressions.
            reason: Why the splats are no failure.
            ask: Whether the guest can be asked where its log is now.

        Yields:
            The allowance.
        """
        allowed = allowance(patterns, reason)
        if ask:
            self.may_look()
        self._streams.drain()
        allowed.places = SourceOffsets(start=self._ends())
        self._watch.allowances.append(allowed)
        try:
            yield allowed
        finally:
            self._collector.let_finish()
            if not ask or self.may_look():
                allowed.places.end = self._ends()

    def _ends(self) -> dict[TextSource, int]:
        return {
            TextSource.CONSOLE: len(self._streams.console_text),
            TextSource.LOG: len(self.copy.text),
        }

    def answer_for(self, allowances: Iterable[Allowance], *, boot: bool, refuse: bool) -> None:
        """Have splats from now on count.

        Args:
            allowances: Those that the whole test has.
            boot: Whether splats of the boot count as well.
            refuse: Whether a splat ends what is waited for.
        """
        self._watch.answer_for(allowances, refusing=refuse)
        self._collector.raised.clear()
        if boot:
            self._watch.look_from(0, 0)

    def begin_anew(self) -> None:
        """Read the log of a kernel that was entered by kexec: its records count from 0 again."""
        self.copy.begin_anew()
        self.reader.taint = 0

    # Telling

    def conclude(self, for_what: str, *, ask: bool, aside: bool = False) -> KernelvmError | None:
        """Return the error of what is wrong in the kernel, not allowed and not reported yet.

        Args:
            for_what: The moment, in words.
            ask: Whether the guest is asked a last time; that it does not answer is an error, too,
                unless an error has reported that already.
            aside: Whether its agent waits for a program that nothing ends, and answers nothing but
                requests for the log.

        Returns:
            The error; None if nothing is wrong.
        """
        raised = list(self._collector.raised)
        look = self.read_aside if aside else self.look
        error = self._concluded(for_what, look if ask else None)
        self._collector.raised[:] = raised
        return error

    def _concluded(
        self, for_what: str, look: Callable[[GuestDeadline], None] | None
    ) -> KernelvmError | None:
        if look:
            deadline = self._deadline()
            try:
                look(deadline)
            except NoReply:
                # A guest that hangs prints more splats, which show nothing new.
                if self._collector.has_explained_silence:
                    return None
                return self._collector.verdict(deadline, f"an answer at {for_what}")
        self._collector.let_finish()
        if error := self._collector.log_verdict(for_what):
            return error
        # An error about a guest's end has reported what led to it.
        if self._watch.refused_on_console and not self._collector.has_reported_end:
            return self._collector.splat_verdict(self._collector.deadline(0.0), for_what)
        return None
