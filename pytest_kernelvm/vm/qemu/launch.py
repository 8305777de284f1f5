"""The QEMU process with its three streams, from launch to its certain end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.guest.protocol import FrameSplitter
from pytest_kernelvm.process import Spawned, spawn
from pytest_kernelvm.vm.qemu.argv import Boot, MemoryFile, inherited_ends, qemu_argv
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.serial_line import named
from pytest_kernelvm.vm.qemu.snapshot import Snapshot
from pytest_kernelvm.vm.qemu.streams import Streams, connected

# A guest takes two serial lines, two pairs of sockets, two logs, a state, and what asyncio and a
# child need.
DESCRIPTORS = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A started QEMU.

    console_log: the console's text; qemu_log: QEMU's own words. state_descriptor: the number under
    which QEMU finds a snapshot's state, None where it boots.
    """

    process: Spawned
    streams: Streams
    console_log: Path
    qemu_log: Path
    state_descriptor: int | None


@contextlib.contextmanager
def launch(
    boot: Boot,
    directory: Path,
    *,
    memory: MemoryFile | None = None,
    snapshot: Snapshot | None = None,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Launch]:
    """Start QEMU; leaving the context kills it and closes its streams.

    directory: where console.log and qemu.log are written. memory: the guest's, None for anonymous.
    snapshot: what QEMU is to wait for instead of booting, with its state as a descriptor.
    link: its end of the cable to another guest. console_limit_bytes: as Streams takes it.
    Raises ToolMissing if this QEMU is not installed, OSError if the host does not let us.
    """
    console_log, qemu_log = directory / "console.log", directory / "qemu.log"
    _find_room()
    with contextlib.ExitStack() as stack:
        before: tuple[bytes, list[tuple[float, int]]] = (b"", [])
        if snapshot:
            # A kept guest that was booted for itself has its memory in its state.
            memory = (
                MemoryFile(path=snapshot.memory, written=False)
                if snapshot.memory.exists()
                else None
            )
            now = time.monotonic()
            before = snapshot.console, [(now - age_s, at) for age_s, at in snapshot.console_ages_s]
        streams, far = stack.enter_context(
            connected(
                splitter=FrameSplitter(boot.arch.endianness),
                log=console_log,
                shared=boot.shared_console,
                before=before,
                limit_bytes=console_limit_bytes,
            )
        )
        inherited = [*far.console.descriptors, *far.channel.descriptors, far.qmp.fileno()]
        state_descriptor = None
        if snapshot:
            state_descriptor = stack.enter_context(snapshot.state.open("rb")).fileno()
            inherited.append(state_descriptor)
        if link:
            inherited.append(link.fileno())
        ends = inherited_ends(
            console=stack.enter_context(named(far.console, directory / "console")),
            channel=stack.enter_context(named(far.channel, directory / "channel")),
            qmp=far.qmp.fileno(),
            link=link.fileno() if link else None,
        )
        argv = qemu_argv(boot, ends, memory=memory, incoming=snapshot is not None)
        process = stack.enter_context(spawn(argv, pass_fds=inherited, output=qemu_log))
        # Our copies of its ends would keep the streams open after QEMU's death.
        far.close()
        streams.start()
        yield Launch(
            process=process,
            streams=streams,
            console_log=console_log,
            qemu_log=qemu_log,
            state_descriptor=state_descriptor,
        )


def _find_room() -> None:
    """Raise OSError if this process has no room for a guest's descriptors.

    An event loop that gets only some of what it needs leaves them open.
    """
    taken: list[int] = []
    try:
        for _descriptor in range(DESCRIPTORS):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in taken:
            os.close(descriptor)
