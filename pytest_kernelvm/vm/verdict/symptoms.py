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

    at_s: since the epoch. after_s: since the launch or the restore.
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

    ready: whether the agent had answered before. console: its whole text.
    trouble: what ended the wait before its time, None if nothing did.
    splats: since the test began, and refused: those of them that nobody allowed.
    arrived: of the last splat or, without one, of the last text; None if none came.
    status: QEMU's exit status, None as long as it runs. shutdown: QMP's reason, empty for none.
    waited_s, told: for how long, in seconds of the limit and in words. for_what: what did not come.
    cpu: what the guest's CPU does. oddities: what was wrong with frames that came.
    began_anew: another boot's agent said hello. log_trouble: why the console's log is incomplete.
    console_limit_bytes: how much of its text is kept.
    by_hand: the command that boots the same guest. argv: QEMU's, with the console on a terminal.
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
    told: str
    for_what: str
    cpu: str
    kernel_log: str
    oddities: str
    began_anew: bool
    log_trouble: str
    console_limit_bytes: int
    by_hand: str
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
