"""The QEMU process with its three streams, from launch to its certain end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import Spawned, spawn
from pytest_kernelvm.vm.qemu.argv import Backends, Boot, MemoryFile, inherited_backends, qemu_argv
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.serial_line import named_pipes
from pytest_kernelvm.vm.qemu.snapshot import Snapshot
from pytest_kernelvm.vm.qemu.streams import GuestEndpoints, Streams, connected

# A guest takes two serial lines, two pairs of sockets, two logs, a state, and what asyncio and a
# child need.
DESCRIPTORS = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A started QEMU.

    Attributes:
        process: QEMU itself.
        streams: All that comes out of the guest.
        console_log: The file with the console's text.
        qemu_log: The file with QEMU's own output.
        state_descriptor: The number under which QEMU has a snapshot's state open, None if it boots.
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

    Raises ToolMissing if this QEMU is not installed, OSError if the host has no room for it.

    Args:
        boot: What is booted, or was booted before the snapshot was made.
        directory: Where console.log and qemu.log are written.
        memory: The file with the guest's memory, unless a snapshot brings its own; None for none.
        snapshot: What QEMU waits for instead of booting.
        link: This guest's end of the cable to another guest, None if there is none.
        console_limit_bytes: How much of the console's text is kept.

    Yields:
        The started QEMU, its streams being read.
    """
    console_log, qemu_log = directory / "console.log", directory / "qemu.log"
    with (
        _streams(boot, console_log, snapshot, console_limit_bytes) as (streams, guest),
        snapshot.state.open("rb") if snapshot else contextlib.nullcontext() as state,
        _backends(guest, directory, link) as backends,
    ):
        if snapshot:
            memory = _memory_of(snapshot)
        argv = qemu_argv(boot, backends, memory=memory, incoming=snapshot is not None)
        inherited = [*guest.descriptors, *(each.fileno() for each in (state, link) if each)]
        with spawn(argv, pass_fds=inherited, output=qemu_log) as process:
            # Our copies of its ends would keep the streams open after QEMU's death.
            guest.close()
            streams.start()
            yield Launch(
                process=process,
                streams=streams,
                console_log=console_log,
                qemu_log=qemu_log,
                state_descriptor=state.fileno() if state else None,
            )


def _streams(
    boot: Boot, console_log: Path, snapshot: Snapshot | None, console_limit_bytes: int
) -> contextlib.AbstractContextManager[tuple[Streams, GuestEndpoints]]:
    _require_descriptors()
    return connected(
        splitter=FrameSplitter(boot.arch.endianness),
        log=console_log,
        shared=boot.shared_console,
        before=_console_before(snapshot) if snapshot else (b"", ()),
        limit_bytes=console_limit_bytes,
    )


def _memory_of(snapshot: Snapshot) -> MemoryFile | None:
    """Return a snapshot's memory; a guest that was saved without a file has it in its state."""
    if not snapshot.memory.exists():
        return None
    return MemoryFile(path=snapshot.memory, shared=False)


def _console_before(snapshot: Snapshot) -> tuple[bytes, list[tuple[float, int]]]:
    """Return what a snapshot's console had said, and when, as if that had just been."""
    now = time.monotonic()
    return snapshot.console, [(now - age_s, at) for age_s, at in snapshot.console_ages_s]


@contextlib.contextmanager
def _backends(
    guest: GuestEndpoints, directory: Path, link: socket.socket | None
) -> Iterator[Backends]:
    """Give the backends of the guest's ends, whose serial lines have names in a directory."""
    with (
        named_pipes(guest.console, directory / "console") as console,
        named_pipes(guest.channel, directory / "channel") as channel,
    ):
        yield inherited_backends(
            console=console,
            channel=channel,
            qmp=guest.qmp.fileno(),
            link=link.fileno() if link else None,
        )


def _require_descriptors() -> None:
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
