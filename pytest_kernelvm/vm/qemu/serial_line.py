"""A serial line between this process and QEMU: two pipes.

A 16550 hands QEMU byte after byte, and each takes up a buffer of its own in a socket, so that 278
of them fill one. A pipe packs them. It matters as the kernel's console waits no more than 10 ms of
the guest's time for its port, far less of ours, and then writes over what is in its FIFO
(drivers/tty/serial/8250/8250_port.c, wait_for_lsr; hw/char/serial.c, serial_ioport_write): a
reader who does not get to run in time costs the log some of its bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.process import Deadline

READ_BYTES = 65536


class SerialEndpoint:
    """One end of a serial line. In select, poll and asyncio it stands for its `incoming`.

    Attributes:
        incoming: The descriptor to read from.
        outgoing: The descriptor to write to.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self.incoming

    def setblocking(self, blocking: bool) -> None:
        """Set whether reading and writing wait."""
        for descriptor in self.descriptors:
            os.set_blocking(descriptor, blocking)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Both descriptors."""
        return self.incoming, self.outgoing

    def read(self) -> bytes | None:
        """Return what has come; empty at the end, None if there is nothing yet."""
        try:
            return os.read(self.incoming, READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes; return how many were taken.

        Raises BlockingIOError if there is no room and it does not wait, OSError if nobody reads.

        Args:
            data: The bytes.

        Returns:
            How many were taken, which may be fewer.
        """
        return os.write(self.outgoing, data)

    def write_all(self, data: bytes, deadline: Deadline) -> bool:
        """Write bytes; return False if not all were taken by a deadline, or nobody reads.

        Args:
            data: The bytes.
            deadline: Up to when to wait for room, if writing does not wait by itself.

        Returns:
            Whether all were taken.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self.write(view) :]
            except BlockingIOError:
                if deadline.passed:
                    return False
                select.select([], [self.outgoing], [], min(0.5, deadline.remaining_s))
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close both directions."""
        for descriptor in self.descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        self.incoming = self.outgoing = -1


def serial_line(capacity_bytes: int) -> tuple[SerialEndpoint, SerialEndpoint]:
    """Return our end and the far end of a new line.

    Args:
        capacity_bytes: How much the far end may write before it waits for us.
    """
    to_us, from_them = os.pipe()
    to_them, from_us = os.pipe()
    # The number of large pipes that an unprivileged user may have is limited (pipe(7)).
    with contextlib.suppress(OSError):
        fcntl.fcntl(from_them, fcntl.F_SETPIPE_SZ, capacity_bytes)
    return SerialEndpoint(to_us, from_us), SerialEndpoint(to_them, from_them)


@contextlib.contextmanager
def named_pipes(end: SerialEndpoint, name: Path) -> Iterator[Path]:
    """Give inherited pipes the names under which QEMU's `pipe` backend opens them.

    The names are gone when the context ends.

    Args:
        end: The line's end that QEMU inherits.
        name: The line's name. Its two directions are name.in and name.out (chardev/char-pipe.c,
            qemu_chr_open_pipe()).

    Yields:
        The name.
    """
    links = name.with_name(f"{name.name}.in"), name.with_name(f"{name.name}.out")
    for link, descriptor in zip(links, end.descriptors, strict=True):
        link.symlink_to(f"/dev/fd/{descriptor}")
    try:
        yield name
    finally:
        for link in links:
            link.unlink(missing_ok=True)
