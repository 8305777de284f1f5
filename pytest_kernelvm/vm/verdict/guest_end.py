"""How the end of a guest is waited for, and what QEMU says of it."""

from __future__ import annotations

import functools
import re
import time

from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.klog.transcript import HALTED
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.streams import Streams
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline, work_of
from pytest_kernelvm.vm.verdict.watch import QUIET_S, Watch

# A panic may follow a splat at once; it is waited for so long, in the guest's time.
GRACE_S = 0.7
# The least of that for a guest that was silent already: it may have got no processor.
LEAST_QUIET_S = 0.1
# From a panic to QEMU's end, in the guest's time: other CPUs are given a second to stop
# (arch/arm64/kernel/smp.c, crash_smp_send_stop), and some machines fail to restart.
RESTART_S = 5.0
# A kernel that restarts so much later (panic=SECONDS) is not waited for.
LONGEST_PAUSE_S = 5
# QEMU closes its streams before it ends; writing a core file in between takes time.
END_S = 30.0
# QMP's event of the end, or QMP's own end, is under way when QEMU has ended.
EVENT_S = 5.0

# kernel/panic.c: what a kernel says last that stays, or restarts after a pause; of those that
# restart at once (panic=-1) the next thing is QEMU's end. The halt: arch/*/kernel/reset.c and such.
_STAYS = re.compile(rb"---\[ end Kernel panic|" + HALTED.pattern.encode())
_PAUSES = re.compile(rb"Rebooting in (\d{1,9}) seconds")


class GuestEnd:
    """Waits for what may come behind the first sign that a guest is at its end.

    Args:
        launch: Its QEMU.
        watch: Looks at all that comes out of the guest.
    """

    def __init__(self, launch: Launch, watch: Watch) -> None:
        self._launch = launch
        self._watch = watch

    def status(self) -> int | None:
        """Return QEMU's exit status, minus the signal that killed it; None while it runs."""
        ended = self._launch.streams.console_ended
        return self._launch.process.wait(END_S) if ended else None

    def _guest_time(self, timeout_s: float) -> GuestDeadline:
        """Return a deadline whose figures are those of now; no command's."""
        pid = self._launch.process.pid
        deadline = GuestDeadline(timeout_s, pid)
        deadline.note(work_of(pid))
        return deadline

    def await_silence(self) -> None:
        """Wait until the guest has said nothing for QUIET_S, and had a processor in the end."""
        streams = self._launch.streams
        whole = self._guest_time(GRACE_S)
        while not (streams.console_ended or whole.passed):
            seen = streams.last_output_at
            quiet_s = max(LEAST_QUIET_S, QUIET_S - (time.monotonic() - seen))
            streams.wait_for(functools.partial(_has_news, streams, seen), self._guest_time(quiet_s))
            if streams.last_output_at == seen:
                return

    def await_restart(self) -> None:
        """Wait for QEMU's end behind a panic, unless the kernel says that it stays."""
        streams = self._launch.streams
        panic = next((each.start for each in self._watch.console_splats if each.fatal), 0)

        def is_over() -> bool | None:
            # With --kernelvm-keep QEMU stops a panicked guest instead of ending.
            stays = _STAYS.search(streams.console_text, panic) or self.is_paused()
            return streams.console_ended or bool(stays) or None

        def pause_s() -> int | None:
            found = _PAUSES.search(streams.console_text, panic)
            return int(found[1]) if found else None

        streams.wait_for(lambda: is_over() or pause_s(), self._guest_time(RESTART_S))
        seconds = streams.now(pause_s)
        if seconds is not None and seconds <= LONGEST_PAUSE_S:
            streams.wait_for(is_over, self._guest_time(seconds + RESTART_S))

    def shutdown(self) -> str:
        """Give QMP's reason of the end, empty where QEMU was killed or gave none."""
        streams = self._launch.streams

        def reason() -> str | None:
            for event in streams.qmp_events:
                if event["event"] == "SHUTDOWN":
                    return str(event.get("data", {}).get("reason", ""))
            return "" if streams.qmp_ended else None

        return streams.wait_for(reason, Deadline(EVENT_S)) or ""

    def is_paused(self) -> bool:
        """Whether QMP's stop holds the guest."""
        names = [event["event"] for event in self._launch.streams.qmp_events]
        return [name for name in names if name in ("STOP", "RESUME")][-1:] == ["STOP"]


def _has_news(streams: Streams, since: float) -> bool | None:
    return streams.last_output_at != since or None
