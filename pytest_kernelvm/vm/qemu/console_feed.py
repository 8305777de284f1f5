"""A console's text once more, for whoever reads it from a socket."""

from __future__ import annotations

import asyncio
import socket

from pytest_kernelvm.vm.qemu.changes import Changes

# At most this much is written at once.
PIECE_BYTES = 1 << 16


class ConsoleFeed:
    """Writes a console's text into a socket, as fast as somebody reads it.

    All methods are called in the loop's thread.

    Args:
        text: The console's text; it grows while the lock of `changes` is held.
        changes: The lock.
        loop: Calls `write` when there is room again.

    Attributes:
        reader: The socket's other end.
    """

    def __init__(self, text: bytearray, changes: Changes, loop: asyncio.AbstractEventLoop) -> None:
        self.reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._text = text
        self._changes = changes
        self._loop = loop
        self._written_bytes = 0
        self._is_full = False
        self._has_ended = False

    def end(self) -> None:
        """Say that the text grows no more: its reader finds the end behind it."""
        self._has_ended = True

    def write_more(self) -> None:
        """Write what has come; mostly nobody reads, and the socket is full for good."""
        if self._has_ended or not self._is_full:
            self.write()

    def write(self) -> None:
        """Write as much as there is room for, and the rest when there is room again."""
        try:
            with self._changes:
                while self._written_bytes < len(self._text):
                    begin = self._written_bytes
                    piece = bytes(self._text[begin : begin + PIECE_BYTES])
                    self._written_bytes += self._writer.send(piece)
        except BlockingIOError:
            self._is_full = True
            self._loop.add_writer(self._writer, self.write)
            return
        except OSError:
            self._written_bytes = len(self._text)
        self._is_full = False
        self._loop.remove_writer(self._writer)
        if self._has_ended:
            self._writer.close()

    def close(self) -> None:
        """Close the socket's ends."""
        self.reader.close()
        self._writer.close()
