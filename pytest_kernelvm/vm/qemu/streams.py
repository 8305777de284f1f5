"""All that comes out of a guest: console and QMP events, drained by a thread, and the channel.

A full pipe stalls the guest, so the thread reads as long as QEMU lives; whoever waits is woken
at each change and looks at what he waits for and at what may have gone wrong at the same time.
The agent speaks only when it is asked, so that who asks it reads the channel himself: two changes
of threads take longer than the guest does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import QMPClient, Runstate

from pytest_kernelvm.errors import LaunchFailed
from pytest_kernelvm.guest.protocol import FrameSplitter
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB, ArrivalTimes, BoundedText
from pytest_kernelvm.vm.qemu.serial_line import SerialEndpoint, serial_line

T = TypeVar("T")

# As much as an unprivileged process gets (pipe(7), pipe-max-size); memory is taken as it fills.
# A Malta whose kernel does nothing but talk fills it in most of a second.
CONSOLE_BYTES = 1 << 20
CHANNEL_BYTES = 1 << 16
# At most so much is given at once to whom reads the console a second time.
PASSED_ON_BYTES = 1 << 16
# What comes on the channel and is no frame is looked at by people only.
STRAY_BYTES = 1 << 16
# More frames that nobody has asked for yet are not the agent's.
MOST_PAYLOADS = 256
# A guest that does nothing but talk is not read more often than this: its pipe holds much more.
TOGETHER_S = 0.001
# What no stream tells, a process that a signal stopped, is looked at so often by those who wait.
LOOK_S = 0.25
# The thread that reads does nothing that takes longer, but may be kept from running.
SETTLE_S = 5.0

# The log's last line where the console said more than is kept.
CUT_MARK = "[kernelvm: the console said more than {limit}; the rest was not kept]"

# A QEMU that dies is diagnosed by us; each such test's report would show the library's words too.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Streams:
    """The host's ends of a guest's streams, and the thread that drains them.

    console, channel: serial lines. qmp: a connected socket.
    log: the file that gets the console's text.
    shared: whether the agent's frames come and go on the console.
    before: what a restored guest's console had said, and when on the monotonic clock from which
    offset on.
    limit_bytes: how much of the console's text is kept, here and in the log; the rest is read, so
    that the guest goes on, and dropped.
    Fields may be read at any time; wait with `wait_for`. log_trouble: why the log is incomplete.
    qmp_ended: whether no more events come.
    """

    def __init__(
        self,
        *,
        console: SerialEndpoint,
        channel: SerialEndpoint,
        qmp: socket.socket,
        splitter: FrameSplitter,
        log: Path,
        shared: bool,
        before: tuple[bytes, Sequence[tuple[float, int]]] = (b"", ()),
        limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
    ) -> None:
        self.said = BoundedText(limit_bytes, *before)
        self.payloads: list[bytes] = []
        self.console_ended = False
        self.qmp_events: list[dict[str, Any]] = []
        self.qmp_ended = False
        self.stray_channel_text = bytearray()
        self.troubles: list[str] = []
        self._console = console
        self._channel = channel
        self._qmp = qmp
        self._splitter = splitter
        self._shared = shared
        self.log_trouble = ""
        self.last_sign = 0.0
        self._log = log.open("wb", buffering=0)
        self._write_log(self.console_text)
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_listening = False
        self._channel_ended = False
        self._sources = select.poll()
        self._reader, self._writer = socket.socketpair()
        self._passed_on = 0
        self._writer_is_full = False
        self._client: QMPClient | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Future[Any]] = []
        self._connection: asyncio.Task[QMPClient]
        self._thread = threading.Thread(target=self._run, name="kernelvm-streams", daemon=True)

    def start(self) -> None:
        """Start draining."""
        for stream in (self._console, self._channel, self._writer):
            stream.setblocking(False)
        self._sources.register(self._bell, select.POLLIN)
        if not self._shared:
            self._sources.register(self._channel, select.POLLIN)
        self._thread.start()

    @property
    def console_text(self) -> bytearray:
        """What the console said, as it came, up to the limit."""
        return self.said.raw

    @property
    def console_times(self) -> ArrivalTimes:
        """When each piece of it came."""
        return self.said.times

    @property
    def console_reader(self) -> socket.socket:
        """A socket from which the console's text can be read a second time, for pexpect."""
        return self._reader

    @property
    def damaged_frames(self) -> int:
        """How many frames came with a wrong checksum."""
        return self._splitter.damaged

    def arrival_of(self, offset: int) -> float:
        """Return when the byte of the console at an offset came, on the monotonic clock."""
        return self.said.times.arrival_of(offset)

    def wait_for(self, condition: Callable[[], T | None], deadline: Deadline) -> T | None:
        """Return what `condition` returns as soon as that is not None; None when the time is up.

        It is called with the streams' lock held, at first, at each change and every LOOK_S.
        """
        with self._changed:
            while not deadline.passed:
                found = condition()
                if found is not None:
                    return found
                self._changed.wait(min(LOOK_S, deadline.remaining_s))
        # We may have been kept from reading, or from looking, until the time was up.
        self.settle()
        with self._changed:
            return condition()

    def wait_for_frames(self, condition: Callable[[], T | None], deadline: Deadline) -> T | None:
        """Wait as `wait_for` does, for something that the channel brings; one thread may."""
        while not deadline.passed:
            with self._changed:
                found = condition()
                self._is_listening = found is None
            if found is not None:
                return found
            for source, _events in self._sources.poll(1000 * min(LOOK_S, deadline.remaining_s)):
                if source == self._bell:
                    os.eventfd_read(self._bell)
                else:
                    self._drain_channel()
        self._is_listening = False
        self.settle()
        self._drain_channel()
        with self._changed:
            return condition()

    def _tell(self) -> None:
        """Wake whoever waits; called with the lock held."""
        self._changed.notify_all()
        if self._is_listening:
            self._is_listening = False
            os.eventfd_write(self._bell, 1)

    def now(self, condition: Callable[[], T]) -> T:
        """Return what `condition` returns, called once with the streams' lock held."""
        with self._changed:
            return condition()

    def settle(self) -> None:
        """Return when all that has come by now was read."""
        if not self._thread.is_alive():
            return
        # The first may run in a round of the loop whose readers come behind it.
        for _round in range(2):
            done = threading.Event()
            self._loop.call_soon_threadsafe(done.set)
            done.wait(SETTLE_S)

    def send_channel(self, data: bytes, deadline: Deadline) -> bool:
        """Write bytes to the agent; False if the guest takes no more, or is gone."""
        return self._send(self._console if self._shared else self._channel, data, deadline)

    def send_console(self, data: bytes, deadline: Deadline) -> bool:
        """Write bytes to the guest's console; False if it takes no more, or is gone."""
        return self._send(self._console, data, deadline)

    @staticmethod
    def _send(line: SerialEndpoint, data: bytes, deadline: Deadline) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[line.write(view) :]
            except BlockingIOError:
                if deadline.passed:
                    return False
                select.select([], [line.outgoing], [], min(0.5, deadline.remaining_s))
            except OSError:
                return False
        return True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._console, self._drain_console)
        self._connection = self._loop.create_task(self._connect())
        self._keep(self._connection)
        self._keep(self._loop.create_task(self._await_qmp_end()))
        self._pass_on()
        self._loop.run_forever()

    def _drain_console(self) -> None:
        # On a shared console somebody may be waiting for a reply.
        if not self._shared and time.monotonic() - self.last_sign < TOGETHER_S:
            time.sleep(TOGETHER_S)
        if self._read_console():
            self._pass_on_more()

    def _read_console(self) -> bool:
        """Take what the console has said; return whether there was something, or its end."""
        with self._reading:
            data = None if self.console_ended else self._console.read()
            if data is None:
                return False
            payloads, text = self._splitter.feed(data) if self._shared else ([], data)
            with self._changed:
                self._take(payloads)
                if not data:
                    self.console_ended = True
                else:
                    self._keep_text(text)
                self.last_sign = time.monotonic()
                self._tell()
        return True

    def _take(self, payloads: list[bytes]) -> None:
        self.payloads += payloads[: MOST_PAYLOADS - len(self.payloads)]

    def _keep_text(self, text: bytes) -> None:
        """Keep what the console said, up to the limit; in the log it is said where that was."""
        was_cut = self.said.is_cut
        self._write_log(self.said.append(text, time.monotonic()))
        if self.said.is_cut and not was_cut:
            limit = f"{self.said.limit_bytes / (1 << 20):g} MiB"
            self._write_log(f"\n{CUT_MARK.format(limit=limit)}\n".encode())
            self.log_trouble = self.log_trouble or f"cut at {limit}"

    def _write_log(self, text: bytes | bytearray) -> None:
        """Write to the log; where its disk is full the text is still kept here."""
        try:
            self._log.write(text)
        except OSError as error:
            self.log_trouble = error.strerror or str(error)

    def _pass_on_more(self) -> None:
        # Mostly nobody reads: then there is no room for the rest of the guest's life.
        if self.console_ended or not self._writer_is_full:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the console's text to whom reads it a second time, as fast as he takes it."""
        if self.console_ended:
            self._loop.remove_reader(self._console)
        try:
            with self._changed:
                while self._passed_on < len(self.console_text):
                    begin = self._passed_on
                    piece = bytes(self.console_text[begin : begin + PASSED_ON_BYTES])
                    self._passed_on += self._writer.send(piece)
        except BlockingIOError:
            self._writer_is_full = True
            self._loop.add_writer(self._writer, self._pass_on)
            return
        except OSError:
            self._passed_on = len(self.console_text)
        self._writer_is_full = False
        self._loop.remove_writer(self._writer)
        if self.console_ended:
            self._writer.close()

    def _drain_channel(self) -> None:
        # What a command made the kernel say came before the command's reply.
        if self._read_console():
            self._loop.call_soon_threadsafe(self._pass_on_more)
        if self._shared or self._channel_ended:
            return
        data = self._channel.read()
        if data is None:
            return
        if not data:
            # The console ends with it, which tells more.
            self._channel_ended = True
            self._sources.unregister(self._channel)
            return
        payloads, text = self._splitter.feed(data)
        with self._changed:
            self._take(payloads)
            self.stray_channel_text += text[: STRAY_BYTES - len(self.stray_channel_text)]
            self.last_sign = time.monotonic()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine in the thread's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine in the thread's event loop; it ends at the latest with the guest.

        What it raises is kept in words in `troubles`.
        """

        def start() -> None:
            task = self._loop.create_task(coroutine)
            self._keep(task)
            task.add_done_callback(self._note_trouble)

        self._loop.call_soon_threadsafe(start)

    def _note_trouble(self, done: asyncio.Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if error:
            with self._changed:
                self.troubles.append(f"{type(error).__name__}: {error}")
                self._tell()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Remember a task until the end, and have asyncio know that its exception is no news."""
        self._tasks.append(task)
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())

    async def qmp_client(self) -> QMPClient:
        """Return the connected QMP client.

        Raises qemu.qmp's ConnectError if QEMU is gone.
        """
        return await asyncio.shield(self._connection)

    async def _connect(self) -> QMPClient:
        client = QMPClient("kernelvm")
        self._client = client
        # QEMU may say why it ends, and end, before the library is done with connecting; that then
        # finds itself disconnected already.
        self._keep(asyncio.create_task(self._follow_events(client)))
        try:
            await client.connect(self._qmp)
        except AssertionError:
            raise EOFError("QEMU ended") from None
        return client

    async def _await_qmp_end(self) -> None:
        """Note when QMP brings nothing more; events that came before it are noted by then."""
        try:
            client = await self.qmp_client()
            while client.runstate is Runstate.RUNNING:
                await client.runstate_changed()
        finally:
            with self._changed:
                self.qmp_ended = True
                self._tell()

    async def _follow_events(self, client: QMPClient) -> None:
        async for event in client.events:
            with self._changed:
                self.qmp_events.append(dict(event))
                self._tell()

    def close(self) -> None:
        """Stop the thread and close everything; QEMU is gone by now."""
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self.call(self._disconnect(), 5.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        if self._thread.is_alive():
            raise LaunchFailed("the thread that drains the console does not end")
        self._loop.close()
        for stream in (self._console, self._channel, self._qmp, self._reader, self._writer):
            stream.close()
        os.close(self._bell)
        self._log.close()

    async def _disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            with contextlib.suppress(EOFError, Exception):
                await self._client.disconnect()


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestEndpoints:
    """What a guest has of its streams."""

    console: SerialEndpoint
    channel: SerialEndpoint
    qmp: socket.socket

    def close(self) -> None:
        """Close them all; a QEMU that has inherited them keeps its own."""
        for end in (self.console, self.channel, self.qmp):
            end.close()


@contextlib.contextmanager
def connected(
    *,
    splitter: FrameSplitter,
    log: Path,
    shared: bool = False,
    before: tuple[bytes, Sequence[tuple[float, int]]] = (b"", ()),
    limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[tuple[Streams, GuestEndpoints]]:
    """Give streams that are not started yet, and their far ends.

    splitter, log, shared, before, limit_bytes: as Streams takes them. All is closed at the end.
    """
    console, far_console = serial_line(CONSOLE_BYTES)
    channel, far_channel = serial_line(CHANNEL_BYTES)
    qmp, far_qmp = socket.socketpair()
    far = GuestEndpoints(console=far_console, channel=far_channel, qmp=far_qmp)
    with contextlib.closing(far):
        streams = Streams(
            console=console,
            channel=channel,
            qmp=qmp,
            splitter=splitter,
            log=log,
            shared=shared,
            before=before,
            limit_bytes=limit_bytes,
        )
        with contextlib.closing(streams):
            yield streams, far
