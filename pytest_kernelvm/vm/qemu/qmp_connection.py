"""The connection to QEMU's machine protocol, in the thread that drains a guest's streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from qemu.qmp import QMPClient, Runstate

from pytest_kernelvm.vm.qemu.changes import Changes
from pytest_kernelvm.vm.qemu.loop_thread import LoopThread

# We diagnose a QEMU that dies; without this each such test's report has the library's words too.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class QmpConnection:
    """A connection to QEMU's machine protocol, and the events that come on it.

    Args:
        qmp: A connected socket.
        thread: Runs the connection.
        changes: Its lock is held while `events` and `ended` change.

    Attributes:
        events: Those that came so far.
        ended: Whether no more come.
    """

    def __init__(self, qmp: socket.socket, thread: LoopThread, changes: Changes) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended = False
        self._socket = qmp
        self._thread = thread
        self._changes = changes
        self._client: QMPClient | None = None
        self._connecting: asyncio.Task[QMPClient]

    def start(self) -> None:
        """Begin to connect; called in the loop's thread."""
        self._connecting = self._thread.create_task(self._connect())
        self._thread.create_task(self._await_end())

    async def client(self) -> QMPClient:
        """Return the connected client; raises qemu.qmp's ConnectError if QEMU is gone."""
        return await asyncio.shield(self._connecting)

    async def disconnect(self) -> None:
        """Disconnect, if QEMU has not done so."""
        if self._client is not None:
            with contextlib.suppress(EOFError, Exception):
                await self._client.disconnect()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def _connect(self) -> QMPClient:
        client = QMPClient("kernelvm")
        self._client = client
        # QEMU may report why it ends, and end, while the library is still connecting, which then
        # fails; the events must be read before that.
        self._thread.create_task(self._follow_events(client))
        try:
            await client.connect(self._socket)
        except AssertionError:
            raise EOFError("QEMU ended") from None
        return client

    async def _await_end(self) -> None:
        """Note when QMP brings nothing more; events that came before it are noted by then."""
        try:
            client = await self.client()
            while client.runstate is Runstate.RUNNING:
                await client.runstate_changed()
        finally:
            with self._changes:
                self.ended = True
                self._changes.notify()

    async def _follow_events(self, client: QMPClient) -> None:
        async for event in client.events:
            with self._changes:
                self.events.append(dict(event))
                self._changes.notify()
