"""From a wait that was in vain to the verdict: all that is known of a guest, gathered."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.channel import Channel
from pytest_kernelvm.vm.deadlines import BootDeadline, GuestDeadline, Limits, Pace
from pytest_kernelvm.vm.diagnosis import Arrival, Symptoms, diagnose
from pytest_kernelvm.vm.launch import Launch
from pytest_kernelvm.vm.qmp import Qmp
from pytest_kernelvm.vm.splats import Splat
from pytest_kernelvm.vm.watch import QUIET_S, Trouble, Watch
from pytest_kernelvm.vm.whereabouts import cpu_state, kernel_log

# A panic's last lines arrive late; nothing more comes from a machine that stays.
GRACE_S = 0.7
# QEMU closes its streams before it ends; writing a core file in between takes time.
END_S = 30.0
# QMP's event of the end is under way when the console has ended.
EVENT_S = 0.1


class About(Protocol):
    """What an error says of a guest besides what happened to it."""

    label: str
    by_hand: str

    @property
    def argv_by_hand(self) -> str:
        """QEMU's command."""


class Judge:
    """Watches one guest and says what became of it.

    about: the guest. image: its kernel. channel: its agent's. start: the offset into the console's
    text from which on splats count. ready: whether the guest's agent answered once.
    has_judged: whether there was a verdict. told_flood: whether one said that the console was cut.
    """

    def __init__(
        self,
        about: About,
        launch: Launch,
        channel: Channel,
        qmp: Qmp,
        image: Path,
        start: int,
    ) -> None:
        self.watch = Watch(launch.streams, launch.process.pid, start)
        self.ready = False
        self.has_judged = self.told_flood = False
        self._about = about
        self._launch = launch
        self._channel = channel
        self._qmp = qmp
        self._image = image
        self._started = time.monotonic()

    def begin_anew(self, image: Path) -> None:
        """Judge a guest as one that is not ready yet, as it boots another kernel."""
        self._image = image
        self.ready = False

    def boot_deadline(self, limits: Limits) -> BootDeadline:
        """Return the deadline of the boot that begins now."""
        streams = self._launch.streams
        deadline = BootDeadline(
            limits.boot_s * limits.pace.factor,
            self._launch.process.pid,
            lambda: streams.last_sign,
            _scaled(limits.boot_s, limits.pace),
        )
        self.watch.begin(deadline)
        return deadline

    def command_deadline(self, limits: Limits, timeout_s: float | None = None) -> GuestDeadline:
        """Return the deadline of a command; a timeout that a test names is taken as it is."""
        if timeout_s is not None:
            return self.deadline(timeout_s)
        limit_s = limits.command_s
        return self.deadline(limit_s * limits.pace.factor, _scaled(limit_s, limits.pace))

    def deadline(self, timeout_s: float, limit: str = "") -> GuestDeadline:
        """Return a deadline on the guest's own time. limit: how it came about."""
        deadline = GuestDeadline(timeout_s, self._launch.process.pid, limit)
        self.watch.begin(deadline)
        return deadline

    def gone(self) -> bool:
        """Whether it is no use to wait any longer; called with the streams' lock held."""
        return self.watch.look() is not None

    def trouble(self) -> Trouble | None:
        """Return what is wrong with the guest now."""
        return self._launch.streams.wait_for(self.watch.look, Deadline(0))

    def is_refused(self) -> bool:
        """Whether the kernel's console shows a whole splat that nobody allowed."""
        return self.watch.refusing and self._launch.streams.now(lambda: self.watch.is_refused)

    def refused_at(self) -> int | None:
        """Return where on the console the first splat is told that nobody allowed, else None.

        That is the end of its telling line: who waits for that line shall see it.
        """
        streams = self._launch.streams
        found = streams.now(lambda: self.watch.refused) if self.watch.refusing else ()
        if not found:
            return None
        title = found[0].title.encode()
        return streams.console_text.find(title, found[0].start) + len(title)

    def let_finish(self) -> None:
        """Wait until a splat that is being printed is whole."""
        streams = self._launch.streams
        streams.settle()
        streams.wait_for(lambda: not self.watch.is_going_on or None, Deadline(GRACE_S))

    def may_ask(self) -> bool:
        """Whether a guest that nobody complained of yet can be asked something more."""
        return not (self.has_judged or self._is_paused() or self.trouble())

    def splat_verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error of a splat that nobody allowed, or of what came of it."""
        return self._verdict(deadline, for_what, self.trouble() or Trouble.SPLAT)

    def flood_verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error of a console that said more than is kept, whatever came of the guest."""
        return self._verdict(deadline, for_what, Trouble.FLOOD)

    @property
    def is_flooded(self) -> bool:
        """Whether the console said more than is kept."""
        return self._launch.streams.said.is_cut

    def verdict(self, deadline: GuestDeadline, for_what: str) -> KernelvmError:
        """Return the error that says what became of the guest."""
        return self._verdict(deadline, for_what, self.trouble())

    def _verdict(
        self, deadline: GuestDeadline, for_what: str, trouble: Trouble | None
    ) -> KernelvmError:
        streams = self._launch.streams
        deadline.freeze()
        if trouble in (Trouble.PANIC, Trouble.HALTED, Trouble.SPLAT):
            # Behind an oops there may come a panic, and behind that QEMU's end.
            streams.wait_for(self._has_ended, Deadline(GRACE_S))
            trouble = self.trouble() or trouble
        status = self._launch.process.wait(END_S) if streams.console_ended else None
        console = self._console()
        hangs = trouble is None and status is None
        silent = hangs and not self.ready and not console.strip()
        self.has_judged = True
        self.told_flood = self.told_flood or trouble is Trouble.FLOOD
        symptoms = self._symptoms(
            trouble=trouble,
            console=console,
            status=status,
            deadline=deadline,
            for_what=for_what,
            ready=self.ready,
            cpu=cpu_state(self._qmp, self._image, deadline) if hangs else "",
            logged=kernel_log(self._qmp, self._image, self._launch.qemu_log.with_name("log_buf"))
            if silent
            else "",
        )
        self.watch.tell(symptoms.shown_splats)
        return diagnose(symptoms)

    def _console(self) -> str:
        """Return the console's text; of a long one its ends and what the error may be about."""
        splats, refused = self.watch.splats, self.watch.refused
        about = [*[splat for splat in splats if splat.fatal][:1], *refused[:1]]
        return self._launch.streams.said.told(*((each.start, each.end) for each in about))

    def found_in_log(self, splats: tuple[Splat, ...], log: str, for_what: str) -> KernelvmError:
        """Return the error of splats that are in the kernel's log and not on its console."""
        return diagnose(
            self._symptoms(
                trouble=Trouble.SPLAT,
                console=log,
                status=None,
                deadline=self.deadline(0.0),
                for_what=for_what,
                ready=True,
                splats=splats,
            )
        )

    def _symptoms(
        self,
        *,
        trouble: Trouble | None,
        console: str,
        status: int | None,
        deadline: GuestDeadline,
        for_what: str,
        ready: bool,
        cpu: str = "",
        logged: str = "",
        splats: tuple[Splat, ...] = (),
    ) -> Symptoms:
        streams = self._launch.streams
        return Symptoms(
            label=self._about.label,
            ready=ready,
            console=console,
            console_log=self._launch.console_log,
            qemu_log=self._launch.qemu_log,
            trouble=trouble,
            splats=splats or self.watch.splats,
            refused=splats or self.watch.refused,
            arrived=None if splats else self._arrived(),
            status=status,
            shutdown=self._shutdown() if status is not None else "",
            paused=self._is_paused(),
            waited_s=deadline.waited_s,
            told=deadline.told,
            for_what=for_what,
            cpu=cpu,
            kernel_log=logged,
            oddities=self._channel.oddities,
            began_anew=self._channel.began_anew,
            log_trouble=streams.log_trouble,
            console_limit_bytes=streams.said.limit_bytes,
            by_hand=self._about.by_hand,
            argv=self._about.argv_by_hand,
        )

    def _has_ended(self) -> bool | None:
        """Whether nothing more comes, after a panic; None if it may."""
        streams = self._launch.streams
        quiet_s = time.monotonic() - streams.last_sign
        return streams.console_ended or quiet_s > QUIET_S or None

    def _arrived(self) -> Arrival | None:
        """Return when the last splat came or, without one, the last text."""
        streams = self._launch.streams
        if not streams.console_times:
            return None
        splats = self.watch.splats
        at = streams.arrival_of(splats[-1].start) if splats else streams.console_times[-1][0]
        return Arrival(at_s=time.time() - time.monotonic() + at, after_s=at - self._started)

    def _shutdown(self) -> str:
        """Return QMP's reason of the end, empty where QEMU was killed or gave none."""

        def reason() -> str | None:
            for event in self._launch.streams.qmp_events:
                if event["event"] == "SHUTDOWN":
                    return str(event.get("data", {}).get("reason", ""))
            return None

        return self._launch.streams.wait_for(reason, Deadline(EVENT_S)) or ""

    def _is_paused(self) -> bool:
        names = [event["event"] for event in self._launch.streams.qmp_events]
        return [name for name in names if name in ("STOP", "RESUME")][-1:] == ["STOP"]


def _scaled(limit_s: float, pace: Pace) -> str:
    if pace.factor == 1.0:
        return f"{limit_s:g} s (this machine's pace: {pace.told})"
    return f"{limit_s * pace.factor:.3g} s ({limit_s:g} s x {pace.factor:g} for {pace.told})"
