"""From a wait that brought nothing to the verdict: all that is known of a guest, gathered."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import GuestSplat, KernelvmError
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.agent.channel import Channel
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.verdict.allowance import TextSource, is_same_event
from pytest_kernelvm.vm.verdict.deadlines import (
    BootDeadline,
    GuestDeadline,
    TimeLimits,
)
from pytest_kernelvm.vm.verdict.diagnosis import diagnose
from pytest_kernelvm.vm.verdict.guest_end import GRACE_S, GuestEnd
from pytest_kernelvm.vm.verdict.hang_probe import cpu_state, kernel_log
from pytest_kernelvm.vm.verdict.symptoms import Arrival, Symptoms
from pytest_kernelvm.vm.verdict.watch import Trouble, Watch

# After these a guest may not answer any more: a CPU is stuck, or a task died with what it held.
STOPPING = frozenset(
    ("soft lockup", "hard lockup", "RCU stall", "hung task", "workqueue lockup", "oops", "BUG")
)


class GuestDescription(Protocol):
    """What an error says of a guest besides what happened to it."""

    @property
    def label(self) -> str:
        """Its name in messages."""

    @property
    def boot_command(self) -> str:
        """The command that boots the same guest interactively."""

    @property
    def quoted_argv(self) -> str:
        """QEMU's command."""


class VerdictCollector:
    """Watches one guest and says what became of it.

    Args:
        about: What errors say of the guest.
        launch: Its QEMU.
        channel: Its agent's.
        qmp: QEMU's machine protocol.
        arch: Its architecture.
        image: Its kernel.
        start: The offset into the console's text from which on splats count.
        log: The copy of its kernel's log.
        log_start: The offset into that copy's text likewise.

    Attributes:
        watch: Looks at all that comes out of the guest.
        ready: Whether the guest's agent answered once.
        raised: The verdicts that there were.
        reported_flood: Whether one said that the console was cut.
    """

    def __init__(
        self,
        about: GuestDescription,
        launch: Launch,
        channel: Channel,
        qmp: Qmp,
        arch: Arch,
        image: Path,
        start: int,
        log: LogCopy,
        log_start: int,
    ) -> None:
        self.watch = Watch(launch.streams, launch.process.pid, start, log, log_start)
        self._end = GuestEnd(launch, self.watch)
        self.ready = False
        self.reported_flood = False
        self.raised: list[KernelvmError] = []
        self._log = log
        self._about = about
        self._launch = launch
        self._channel = channel
        self._qmp = qmp
        self._arch = arch
        self._image = image
        self._started = time.monotonic()

    def begin_anew(self, image: Path) -> None:
        """Treat a guest as one that is not ready yet, as it boots another kernel.

        Args:
            image: That kernel.
        """
        self._image = image
        self.ready = False

    @property
    def is_booting(self) -> bool:
        """Whether its agent has not answered yet."""
        return not self.ready

    @property
    def has_reported_end(self) -> bool:
        """Whether a verdict reported that the guest cannot go on."""
        return any(not isinstance(error, GuestSplat) for error in self.raised)

    @property
    def has_explained_silence(self) -> bool:
        """Whether a verdict reported that the guest cannot go on, or what may keep it silent."""
        return self.has_reported_end or self.watch.has_reported_any(STOPPING)

    def boot_deadline(self, limits: TimeLimits) -> BootDeadline:
        """Return the deadline of the boot that begins now.

        Args:
            limits: The guest's.

        Returns:
            The deadline, on the guest's own time.
        """
        streams = self._launch.streams
        deadline = BootDeadline(
            limits.boot_s * limits.calibration.factor,
            self._launch.process.pid,
            lambda: streams.last_output_at,
            limits.calibration.scaled(limits.boot_s),
        )
        self.watch.begin(deadline)
        return deadline

    def command_deadline(self, limits: TimeLimits, timeout_s: float | None = None) -> GuestDeadline:
        """Return the deadline of a command; a timeout that a test names is taken as it is.

        Args:
            limits: The guest's.
            timeout_s: Seconds of the guest's own time; None for the limit of a command.

        Returns:
            The deadline.
        """
        if timeout_s is not None:
            return self.deadline(timeout_s)
        limit_s = limits.command_s
        return self.deadline(
            limit_s * limits.calibration.factor, limits.calibration.scaled(limit_s)
        )

    def deadline(self, timeout_s: float, limit: str = "") -> GuestDeadline:
        """Return a deadline on the guest's own time.

        Args:
            timeout_s: Seconds of that time.
            limit: In words, how they came about; empty for the number alone.

        Returns:
            The deadline.
        """
        deadline = GuestDeadline(timeout_s, self._launch.process.pid, limit)
        self.watch.begin(deadline)
        return deadline

    def gone(self) -> bool:
        """Whether it is no use to wait; called with the streams' lock held."""
        return self.watch.look() is not None

    def trouble(self) -> Trouble | None:
        """Return what is wrong with the guest now."""
        return self._launch.streams.wait_for(self.watch.look, Deadline(0))

    def is_refused(self) -> bool:
        """Whether there is a whole splat that nobody allowed."""
        return self.watch.refusing and self._launch.streams.now(lambda: self.watch.is_refused)

    def refused_at(self) -> int | None:
        """Return where on the console the first splat is that nobody allowed.

        Returns:
            The end of its title line, so that a wait for that line still succeeds; None without a
            splat.
        """
        streams = self._launch.streams
        found = streams.now(lambda: self.watch.refused_on_console) if self.watch.refusing else ()
        if not found:
            return None
        title = found[0].title.encode()
        return streams.console_text.find(title, found[0].start) + len(title)

    def let_finish(self) -> None:
        """Wait until a splat that is being printed is whole."""
        streams = self._launch.streams
        streams.drain()
        streams.wait_for(lambda: not self.watch.is_going_on or None, Deadline(GRACE_S))

    def splat_verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error of a splat that nobody allowed, or of what came of it.

        Args:
            deadline: Of what was waited for.
            for_what: That in words.

        Returns:
            The error.
        """
        return self._verdict(deadline, for_what, self.trouble() or Trouble.SPLAT)

    def log_verdict(self, for_what: str) -> KernelvmError | None:
        """Return the error of what the kernel's log shows, whatever became of the guest since.

        Args:
            for_what: The moment, in words.

        Returns:
            The error; None if the log shows nothing.
        """
        refused = self.watch.refused_in_log
        return self._found_in_log(refused, for_what) if refused else None

    def flood_verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error of a console that said more than is kept, whatever came of the guest.

        Args:
            deadline: Of what was waited for.
            for_what: That in words.

        Returns:
            The error.
        """
        return self._verdict(deadline, for_what, Trouble.FLOOD)

    @property
    def is_flooded(self) -> bool:
        """Whether the console printed more than is kept."""
        return self._launch.streams.console.is_cut

    def verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error that says what became of the guest.

        Args:
            deadline: Of what was waited for.
            for_what: That in words.

        Returns:
            The error.
        """
        return self._verdict(deadline, for_what, self.trouble())

    def _verdict(
        self, deadline: GuestDeadline, for_what: str, trouble: Trouble | None
    ) -> KernelvmError:
        deadline.freeze()
        trouble = self._await_what_follows(trouble)
        status = self._end.status()
        if trouble is Trouble.SPLAT and (logged := self.watch.refused_in_log):
            return self._found_in_log(logged, for_what)
        self.reported_flood = self.reported_flood or trouble is Trouble.FLOOD
        console = self._console()
        hangs = trouble is None and status is None
        is_silent = hangs and not self.ready and not console.strip()
        symptoms = self._symptoms(
            trouble=trouble,
            console=console,
            status=status,
            deadline=deadline,
            for_what=for_what,
            cpu=cpu_state(self._qmp, self._arch, self._image, deadline) if hangs else "",
            logged=self._log_in_memory() if is_silent else "",
        )
        self.watch.mark_reported(TextSource.CONSOLE, symptoms.shown_splats)
        return self._noted(diagnose(symptoms))

    def _await_what_follows(self, trouble: Trouble | None) -> Trouble | None:
        """Wait for what may come behind a trouble.

        That is a panic behind an oops, and QEMU's end behind that.

        Args:
            trouble: What is wrong so far.

        Returns:
            What is wrong then.
        """
        if trouble in (Trouble.HALTED, Trouble.SPLAT):
            self._end.await_silence()
            trouble = self.trouble() or trouble
        if trouble is Trouble.PANIC:
            self._end.await_restart()
        return trouble

    def _log_in_memory(self) -> str:
        """Return what the kernel logged in its memory; for one whose console stayed empty."""
        return kernel_log(self._qmp, self._image, self._launch.qemu_log.with_name("log_buf"))

    def is_paused(self) -> bool:
        """Whether QMP's stop holds the guest."""
        return self._end.is_paused()

    def _console(self) -> str:
        """Return the console's text; of a long one its ends and what the error may be about."""
        splats, refused = self.watch.console_splats, self.watch.refused_on_console
        about = [*[splat for splat in splats if splat.fatal][:1], *refused[:1]]
        return self._launch.streams.console.excerpt(*((each.start, each.end) for each in about))

    def _found_in_log(self, refused: tuple[Splat, ...], for_what: str) -> KernelvmError:
        """Return the error of splats that the kernel's log shows."""
        self.watch.mark_reported(TextSource.LOG, refused)
        shown = self._on_console(refused)
        in_log = (self.watch.console_splats, shown) if shown else (self.watch.log_splats, refused)
        symptoms = self._symptoms(
            trouble=Trouble.SPLAT,
            console=self._console() if shown else self._log.text.decode(errors="replace"),
            status=None,
            deadline=self.deadline(0.0),
            for_what=for_what,
            in_log=in_log,
        )
        self.watch.mark_reported(
            TextSource.CONSOLE if shown else TextSource.LOG, symptoms.shown_splats
        )
        return self._noted(diagnose(symptoms))

    def _on_console(self, refused: tuple[Splat, ...]) -> tuple[Splat, ...]:
        """Return splats of the log as the console shows them; nothing if it does not show all."""
        seen = self.watch.console_splats
        found = (next((s for s in seen if is_same_event(s, each)), None) for each in refused)
        shown = tuple(each for each in found if each)
        return shown if len(shown) == len(refused) else ()

    def _noted(self, error: KernelvmError) -> KernelvmError:
        self.raised.append(error)
        return error

    def _symptoms(
        self,
        *,
        trouble: Trouble | None,
        console: str,
        status: int | None,
        deadline: GuestDeadline,
        for_what: str,
        cpu: str = "",
        logged: str = "",
        in_log: tuple[tuple[Splat, ...], tuple[Splat, ...]] | None = None,
    ) -> Symptoms:
        streams = self._launch.streams
        return Symptoms(
            label=self._about.label,
            ready=self.ready,
            console=console,
            console_log=self._launch.console_log,
            qemu_log=self._launch.qemu_log,
            trouble=trouble,
            splats=in_log[0] if in_log else self.watch.console_splats,
            refused=in_log[1] if in_log else self.watch.refused_on_console,
            arrived=self._arrived(in_log[1] if in_log else ()),
            status=status,
            shutdown=self._end.shutdown() if status is not None else "",
            paused=self.is_paused(),
            waited_s=deadline.waited_s,
            description=deadline.description,
            for_what=for_what,
            cpu=cpu,
            kernel_log=logged,
            oddities=self._channel.oddities,
            began_anew=self._channel.began_anew,
            log_trouble=streams.log_trouble,
            console_limit_bytes=streams.console.limit_bytes,
            boot_command=self._about.boot_command,
            argv=self._about.quoted_argv,
        )

    def _arrived(self, logged: tuple[Splat, ...]) -> Arrival | None:
        """Return when the last splat came to the console or, without one, the last text.

        logged: those of the log that the error is about; None is returned if the console shows
        none of them.
        """
        streams = self._launch.streams
        if not streams.console_times:
            return None
        splats = self.watch.console_splats
        if logged:
            splats = tuple(
                each for each in splats if any(is_same_event(each, other) for other in logged)
            )
            if not splats:
                return None
        at = streams.arrival_of(splats[-1].start) if splats else streams.console_times[-1][0]
        return Arrival(at_s=time.time() - time.monotonic() + at, after_s=at - self._started)
