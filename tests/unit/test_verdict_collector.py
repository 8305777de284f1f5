"""How long the end of a guest that panicked is waited for: a process that ends as QEMU does."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import arch_named
from pytest_kernelvm.errors import GuestDied, GuestPanic, GuestSplat, KernelvmError
from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import Deadline, spawn
from pytest_kernelvm.vm.agent.channel import Channel
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.streams import connected
from pytest_kernelvm.vm.verdict.guest_end import LONGEST_PAUSE_S, RESTART_S
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector

# It stands in QEMU's place: writes to the console at given times, and says in QMP what QEMU says
# (docs/interop/qmp-spec.rst). Arguments: the descriptors of console and QMP, then steps: a number
# of seconds to wait, `c` and text for the console, `q` and a QMP event with a reason.
ENDS = r"""
import json, os, socket, sys, time

console, qmp = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}

def say(message):
    qmp.sendall(json.dumps(message).encode() + b"\r\n")

say({"QMP": {"version": version, "capabilities": []}})
qmp.recv(4096)
say({"return": {}})
for step in sys.argv[3:]:
    kind, rest = step[0], step[1:]
    if kind == "c":
        os.write(console, rest.encode() + b"\r\n")
    elif kind == "q":
        stamp = {"seconds": 1, "microseconds": 0}
        event, _, reason = rest.partition(" ")
        data = {"guest": True, "reason": reason}
        say({"event": event, "data": data, "timestamp": stamp})
    elif kind == "x":
        os.close(console)
    else:
        time.sleep(float(step))
"""
OOPS = (
    "c[    1.1] Unable to handle kernel NULL pointer dereference at virtual address 00000000",
    "c[    1.1] Call trace:",
    "c[    1.1]  lkdtm_EXCEPTION+0x4/0x8 [lkdtm]",
    "c[    1.1] ---[ end trace 0000000000000000 ]---",
)
PANIC = ("c[    1.2] Kernel panic - not syncing: Fatal exception",)
RESET = "qSHUTDOWN guest-reset"
ENDED = "QEMU: ended with status 0, SHUTDOWN guest-reset"


class Named:
    label = "guest"
    boot_command = "kernelvm boot guest"
    quoted_argv = "qemu-system-mips"


@contextlib.contextmanager
def collector_of(directory: Path, *steps: str) -> Iterator[VerdictCollector]:
    """Give the collector of a process that takes steps."""
    log, qemu_log = directory / "console.log", directory / "qemu.log"
    with connected(splitter=FrameSplitter("little"), log=log) as (streams, far):
        console, qmp = far.console.descriptors[1], far.qmp.fileno()
        argv = [sys.executable, "-c", ENDS, str(console), str(qmp), *steps]
        with spawn(argv, pass_fds=(console, qmp), output=qemu_log) as process:
            far.close()
            streams.start()
            started = Launch(
                process=process,
                streams=streams,
                console_log=log,
                qemu_log=qemu_log,
                state_descriptor=None,
            )
            channel = Channel(streams, arch_named("aarch64"), {}, lambda: False)
            collector = VerdictCollector(
                Named(),
                started,
                channel,
                Qmp(streams),
                arch_named("aarch64"),
                directory / "Image",
                start=0,
                log=LogCopy(),
                log_start=0,
            )
            collector.watch.refusing = collector.ready = True
            assert streams.wait_for(collector.watch.look, Deadline(30)), qemu_log.read_text()
            yield collector


def verdict_of(directory: Path, *steps: str) -> tuple[KernelvmError, float]:
    """Return the verdict on what takes steps, and the seconds that it took."""
    with collector_of(directory, *steps) as collector:
        started = time.monotonic()
        return collector.verdict(collector.deadline(5.0), "an answer"), time.monotonic() - started


@dataclass(frozen=True, kw_only=True)
class End:
    """steps: what the guest and QEMU do. within_s: how soon the verdict must come."""

    name: str
    steps: tuple[str, ...]
    error: type[KernelvmError]
    ended: bool
    within_s: float


ENDS_OF_GUESTS = [
    End(
        name="restarts at once",
        steps=(*OOPS, *PANIC, RESET),
        error=GuestPanic,
        ended=True,
        within_s=2.0,
    ),
    End(
        name="is silent for long before it restarts",
        steps=(*PANIC, "1.5", RESET),
        error=GuestPanic,
        ended=True,
        within_s=3.5,
    ),
    End(
        name="takes long between the event and its end",
        steps=(*PANIC, RESET, "1.5"),
        error=GuestPanic,
        ended=True,
        within_s=3.5,
    ),
    End(
        name="closes its console long before QMP tells why",
        steps=(*PANIC, "x", "1", RESET),
        error=GuestPanic,
        ended=True,
        within_s=3.0,
    ),
    End(
        name="oops, and a panic soon after it",
        steps=(*OOPS, "0.15", *PANIC, "1", RESET),
        error=GuestPanic,
        ended=True,
        within_s=3.0,
    ),
    End(
        name="restarts after a pause that it tells",
        steps=(*PANIC, "c[    1.3] Rebooting in 1 seconds..", "1.5", RESET),
        error=GuestPanic,
        ended=True,
        within_s=4.0,
    ),
    End(
        name="restarts after too long a pause",
        steps=(*PANIC, f"c[    1.3] Rebooting in {LONGEST_PAUSE_S + 1} seconds..", "60"),
        error=GuestPanic,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="stays",
        steps=(
            *PANIC,
            "c[    1.3] ---[ end Kernel panic - not syncing: Fatal exception ]---",
            "60",
        ),
        error=GuestPanic,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="fails to restart",
        steps=(*PANIC, "c[    2.3] Reboot failed -- System halted", "60"),
        error=GuestPanic,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="is kept by QEMU",
        steps=(*PANIC, "0.2", RESET, "qSTOP", "60"),
        error=GuestPanic,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="neither restarts nor says that it stays",
        steps=(*PANIC, "60"),
        error=GuestPanic,
        ended=False,
        within_s=RESTART_S + 2.0,
    ),
    End(
        name="halts",
        steps=("c[    2.3] Reboot failed -- System halted", "60"),
        error=GuestDied,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="goes on after an oops",
        steps=(*OOPS, "60"),
        error=GuestSplat,
        ended=False,
        within_s=1.0,
    ),
    End(
        name="talks on and on after an oops",
        steps=(*OOPS, *("0.1", "c[    2.3] eth0: link is up") * 200),
        error=GuestSplat,
        ended=False,
        within_s=2.0,
    ),
]


@pytest.mark.parametrize("end", ENDS_OF_GUESTS, ids=lambda end: end.name)
def test_an_end_that_is_announced_is_waited_for(end: End, tmp_path: Path) -> None:
    error, took_s = verdict_of(tmp_path, *end.steps)
    assert type(error) is end.error, str(error)
    assert (ENDED in error.evidence.facts) == end.ended, str(error)
    assert took_s <= end.within_s


def test_a_killed_qemu_gives_no_reason(tmp_path: Path) -> None:
    """QMP's end says that none will come."""
    error, took_s = verdict_of(tmp_path, "c[    1.1] up", "x", "0.3")
    assert type(error) is GuestDied
    assert "QEMU: ended with status 0" in error.evidence.facts
    assert took_s <= 2.0
