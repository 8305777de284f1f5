"""What is known of a guest when an answer does not come."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.klog.transcript import chain, milestone
from pytest_kernelvm.vm.verdict.watch import Trouble


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """When the host got a piece of the console's text.

    Attributes:
        at_s: Seconds since the epoch.
        after_s: Seconds since the launch.
    """

    at_s: float
    after_s: float

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at_s))
        return (
            f"host {clock}.{int(self.at_s * 1000) % 1000:03}, {self.after_s:.2f} s after the start"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptoms:
    """What is known when an answer does not come.

    Attributes:
        label: The guest's name in messages.
        ready: Whether the agent had answered before.
        console: The console's text.
        console_log: The file with that text.
        qemu_log: The file with QEMU's own words.
        trouble: What ended the wait before its time; None if nothing did.
        splats: Those since the test began.
        refused: Those of them that nobody allowed.
        arrived: When the last splat came or, without one, the last text; None if none came.
        status: QEMU's exit status; None as long as it runs.
        shutdown: QMP's reason; empty for none.
        paused: Whether QMP's stop holds the guest.
        waited_s: Seconds of the limit that passed.
        description: For how long was waited, in words.
        for_what: What did not come.
        cpu: What the guest's CPU does, in words; empty if that was not looked at.
        kernel_log: What a kernel without a console logged in its memory.
        oddities: What was wrong with frames that came, in words.
        began_anew: Whether another boot's agent said hello.
        log_trouble: Why the console's log is incomplete; empty if it is complete.
        console_limit_bytes: How much of the console's text is kept.
        boot_command: The command that boots the same guest.
        argv: QEMU's command, with the console on a terminal.
    """

    label: str
    ready: bool
    console: str
    console_log: Path
    qemu_log: Path
    trouble: Trouble | None
    splats: tuple[Splat, ...]
    refused: tuple[Splat, ...]
    arrived: Arrival | None
    status: int | None
    shutdown: str
    paused: bool
    waited_s: float
    description: str
    for_what: str
    cpu: str
    kernel_log: str
    oddities: str
    began_anew: bool
    log_trouble: str
    console_limit_bytes: int
    boot_command: str
    argv: str

    @property
    def reached(self) -> str:
        """The last milestone."""
        return "ready" if self.ready else milestone(self.console)

    @property
    def when(self) -> str:
        """Which part of the guest's life it was, in words."""
        return "while it was tested" if self.ready else f"while booting, after {self.reached}"

    @property
    def splat(self) -> Splat | None:
        """The one that the error is about: a panic, else the first that nobody allowed, or None."""
        panics = (splat for splat in self.splats if splat.fatal)
        return (*panics, *self.refused, None)[0]

    @property
    def shown_splats(self) -> tuple[Splat, ...]:
        """The splats that the error shows."""
        return chain(self.splats, self.splat) if self.splat else ()
