"""A guest's way into a snapshot and out of it again, so that it is as good as freshly booted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from qemu.qmp import QMPError

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import Batch, Reply
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.klog.splats import read_splats
from pytest_kernelvm.vm.qemu.streams import Streams

AT_FDCWD = -100
CLOCK_REALTIME, CLOCK_MONOTONIC = 0, 1
TIMER_ABSTIME = 1
# The key of the kernel's generator has this size (drivers/char/random.c).
SEED_BYTES = 32
# A clock that differs more from the host's was never set, as on a machine without a clock.
SET_CLOCK_S = 86400.0
# How long the console's last lines may take after QEMU's event that the guest has ended.
LAST_WORDS_S = 0.1

_TIMESPEC = {"big": ">qq", "little": "<qq"}

IGNORE_SHARED = [{"capability": "x-ignore-shared", "state": True}]


async def load_state(streams: Streams, descriptor: int, first_frame: Callable[[], bytes]) -> None:
    """Have a waiting QEMU load a snapshot's state, and send the guest its first request.

    Args:
        streams: The guest's.
        descriptor: The state's, as QEMU inherited it.
        first_frame: Makes the request when the guest runs. One that is sent earlier is lost, and
            the time in one that is made earlier has passed.
    """
    client = await streams.qmp_client()
    with client.listener("RESUME") as resumed:
        await client.execute("migrate-set-capabilities", {"capabilities": IGNORE_SHARED})
        await client.execute("migrate-incoming", {"uri": f"fd:{descriptor}"})
        await resumed.get()
    streams.send_channel(first_frame(), Deadline(1.0))


async def save_state(streams: Streams, state: Path) -> None:
    """Have QEMU write the state of all but the memory into a file, and stop the guest for good.

    Args:
        streams: The guest's.
        state: The file.

    Raises:
        QMPError: QEMU refuses.
    """
    client = await streams.qmp_client()
    with state.open("wb") as file:
        client.send_fd_scm(file.fileno())
        await client.execute("getfd", {"fdname": "state"})
        await client.execute("migrate-set-capabilities", {"capabilities": IGNORE_SHARED})
        await client.execute("migrate", {"uri": "fd:state"})
        while True:
            found = await client.execute("query-migrate")
            assert isinstance(found, dict)
            if found["status"] == "completed":
                return
            if found["status"] in ("failed", "cancelled"):
                raise QMPError(f"migration {found['status']}: {found.get('error-desc', '')}")
            await asyncio.sleep(0.002)


async def pause_on_panic(streams: Streams) -> None:
    """Have QEMU pause, and not end, when its guest panics.

    The kernel's command line has panic=-1, so that a panic is a restart, and QEMU's -no-reboot
    makes a restart an end; with the action `pause` QEMU pauses instead. If the guest has not
    panicked, QEMU ends after all.
    """
    client = await streams.qmp_client()
    with contextlib.suppress(EOFError, OSError), client.listener("SHUTDOWN") as ends:
        await client.execute("set-action", {"shutdown": "pause"})
        await ends.get()
        await asyncio.sleep(LAST_WORDS_S)
        if not any(splat.fatal for splat in read_splats(streams.console.excerpt())):
            await client.execute("quit")


def add_refresh(
    batch: Batch, abi: Abi, byteorder: Literal["big", "little"], ahead_s: float
) -> None:
    """Add to a batch what makes a restored guest differ from all others of its snapshot.

    Its random numbers start anew from the host's: RNDADDENTROPY credits the seed, RNDRESEEDCRNG has
    all generators take a new key at once (drivers/char/random.c). Its clock is set to the host's,
    if a boot sets it at all. A timer whose time has passed makes the kernel set its clock event
    device anew: after a restore QEMU does not know when the timer of a MIPS CPU expires
    (target/mips/machine.c), and until it expires all other timers would wait.

    Args:
        batch: What the steps are added to.
        abi: The guest's numbers.
        byteorder: The guest's.
        ahead_s: By how many seconds the guest's clock was ahead of the host's.
    """
    order = struct_order(byteorder)
    seed = os.urandom(SEED_BYTES)
    entropy = batch.data(struct.pack(f"{order}ii", 8 * SEED_BYTES, SEED_BYTES) + seed)
    device = batch.text("/dev/urandom")
    now_ns = time.time_ns()
    past = batch.data(struct.pack(_TIMESPEC[byteorder], 0, 1))
    clock = batch.data(struct.pack(_TIMESPEC[byteorder], *divmod(now_ns, 10**9)))
    file = batch.call("openat", AT_FDCWD, device, abi.guest_open_flags(os.O_WRONLY), 0)
    batch.call("ioctl", file, abi.ioctls["RNDADDENTROPY"], entropy)
    batch.call("ioctl", file, abi.ioctls["RNDRESEEDCRNG"], 0)
    batch.call("close", file)
    if abs(ahead_s) < SET_CLOCK_S:
        batch.call(_with_64_bits("clock_settime", abi), CLOCK_REALTIME, clock)
    batch.call(_with_64_bits("clock_nanosleep", abi), CLOCK_MONOTONIC, TIMER_ABSTIME, past, 0)


def add_clock_query(batch: Batch, abi: Abi) -> None:
    """Add to a batch the question for the guest's clock; `clock_offset_s` reads the answer.

    Args:
        batch: What the step is added to, as its last one.
        abi: The guest's numbers.
    """
    answer = batch.space(16)
    batch.call(_with_64_bits("clock_gettime", abi), CLOCK_REALTIME, answer, out=(1, 16))


def clock_offset_s(reply: Reply, byteorder: Literal["big", "little"]) -> float:
    """Return by how many seconds the clock in a reply is ahead of the host's.

    Args:
        reply: The reply to a batch whose last step is that of `add_clock_query`.
        byteorder: The guest's.
    """
    seconds, nanoseconds = struct.unpack(_TIMESPEC[byteorder], reply.outputs[-1])
    return float(seconds + nanoseconds / 1e9 - time.time())


def _with_64_bits(call: str, abi: Abi) -> str:
    """Return the name of the call whose times have 64 bits: on 32-bit machines another one."""
    for name in (f"{call}64", f"{call}_time64"):
        if name in abi.syscalls:
            return name
    return call
