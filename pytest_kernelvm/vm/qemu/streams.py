"""All that comes out of a guest: console and QMP events, drained by a thread, and the channel.

A full pipe stalls the guest, so the thread reads as long as QEMU lives. Threads that wait are woken
at each change; they look at what they wait for and at what may have gone wrong. The agent only
answers, so the thread that asks it also reads the channel: switching between two threads twice
takes longer than the guest needs for the answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import QMPClient

from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB, ArrivalTimes, BoundedText
from pytest_kernelvm.vm.qemu.changes import Changes
from pytest_kernelvm.vm.qemu.console_feed import ConsoleFeed
from pytest_kernelvm.vm.qemu.loop_thread import LoopThread
from pytest_kernelvm.vm.qemu.qmp_connection import QmpConnection
from pytest_kernelvm.vm.qemu.serial_line import SerialEndpoint, serial_line

T = TypeVar("T")

# The most that an unprivileged process gets (pipe(7), pipe-max-size); memory is taken as it fills.
# A Malta whose kernel does nothing but print needs most of a second to fill it.
CONSOLE_BYTES = 1 << 20
CHANNEL_BYTES = 1 << 16
# Only people look at what comes on the channel and is no frame.
STRAY_BYTES = 1 << 16
# The agent does not send more frames than this without being asked.
MOST_PAYLOADS = 256
# A guest that does nothing but print is not read more often than this: its pipe holds much more.
TOGETHER_S = 0.001
# Those who wait look this often at what no stream reports: a process that a signal stopped.
LOOK_S = 0.25
# The log's last line where the console printed more than is kept.
CUT_MARK = "[kernelvm: the console said more than {limit}; the rest was not kept]"


class Streams:
    """The host's ends of a guest's streams, and the thread that drains them.

    Attributes may be read at any time; wait with `wait_for`.

    Args:
        console: The console's serial line.
        channel: The agent's serial line.
        qmp: A connected socket.
        splitter: Parts the agent's frames from text.
        log: The file that gets the console's text.
        shared: Whether the agent's frames come and go on the console.
        before: What a restored guest's console had printed, and of its pieces the times on the
            monotonic clock with the offsets.
        limit_bytes: How much of the console's text is kept, here and in the log. The rest is read,
            so that the guest goes on, and dropped.

    Attributes:
        console: The console's text, with the times when it came.
        console_ended: Whether no more of it comes.
        payloads: The agent's frames that nobody has taken yet.
        stray_channel_text: What came on the channel and was no frame.
        troubles: What coroutines of `begin` raised, in words.
        log_trouble: Why the log is incomplete; empty if it is not.
        last_output_at: When something came last, on the monotonic clock.
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
        self.console = BoundedText(limit_bytes, *before)
        self.payloads: list[bytes] = []
        self.console_ended = False
        self.stray_channel_text = bytearray()
        self.troubles: list[str] = []
        self.log_trouble = ""
        self.last_output_at = 0.0
        self._console_line = console
        self._channel_line = channel
        self._splitter = splitter
        self._shared = shared
        self._log = log.open("wb", buffering=0)
        self._write_log(self.console_text)
        self._changes = Changes()
        self._reading = threading.Lock()
        self._channel_ended = False
        self._sources = select.poll()
        self._thread = LoopThread("kernelvm-streams")
        self._feed = ConsoleFeed(self.console_text, self._changes, self._thread.loop)
        self._qmp = QmpConnection(qmp, self._thread, self._changes)

    def start(self) -> None:
        """Start draining."""
        for stream in (self._console_line, self._channel_line):
            stream.setblocking(False)
        self._sources.register(self._changes.descriptor, select.POLLIN)
        if not self._shared:
            self._sources.register(self._channel_line, select.POLLIN)
        self._thread.start(self._begin)

    def _begin(self) -> None:
        self._thread.loop.add_reader(self._console_line, self._drain_console)
        self._qmp.start()
        self._feed.write()

    @property
    def console_text(self) -> bytearray:
        """What the console said, as it came, up to the limit."""
        return self.console.raw

    @property
    def console_times(self) -> ArrivalTimes:
        """When each piece of it came."""
        return self.console.times

    @property
    def console_reader(self) -> socket.socket:
        """A socket from which the console's text can be read a second time, for pexpect."""
        return self._feed.reader

    @property
    def damaged_frames(self) -> int:
        """How many frames came with a wrong checksum."""
        return self._splitter.damaged

    @property
    def qmp_events(self) -> list[dict[str, Any]]:
        """The events that came from QEMU."""
        return self._qmp.events

    @property
    def qmp_ended(self) -> bool:
        """Whether no more events come."""
        return self._qmp.ended

    def arrival_of(self, offset: int) -> float:
        """Return when the byte of the console at an offset came, on the monotonic clock."""
        return self.console.times.arrival_of(offset)

    def wait_for(self, condition: Callable[[], T | None], deadline: Deadline) -> T | None:
        """Wait until a condition holds.

        Args:
            condition: Called with the streams' lock held: at first, at each change and every
                LOOK_S. It holds when this returns something else than None.
            deadline: Up to when.

        Returns:
            What `condition` returned; None when the time is up.
        """
        with self._changes:
            while not deadline.passed:
                found = condition()
                if found is not None:
                    return found
                self._changes.wait(min(LOOK_S, deadline.remaining_s))
        # The machine may have been too busy for us to read, or to look, until the time was up.
        self.drain()
        with self._changes:
            return condition()

    def wait_for_frames(self, condition: Callable[[], T | None], deadline: Deadline) -> T | None:
        """Wait as `wait_for` does, for something that the channel brings; only one thread may.

        Args:
            condition: As of `wait_for`.
            deadline: Up to when.

        Returns:
            What `condition` returned; None when the time is up.
        """
        while not deadline.passed:
            with self._changes:
                found = condition()
                self._changes.listen(found is None)
            if found is not None:
                return found
            for source, _events in self._sources.poll(1000 * min(LOOK_S, deadline.remaining_s)):
                if source == self._changes.descriptor:
                    self._changes.clear()
                else:
                    self._drain_channel()
        with self._changes:
            self._changes.listen(False)
        self.drain()
        self._drain_channel()
        with self._changes:
            return condition()

    def now(self, condition: Callable[[], T]) -> T:
        """Return what `condition` returns, called once with the streams' lock held."""
        with self._changes:
            return condition()

    def drain(self) -> None:
        """Return when all that the console has said by now was read."""
        self._thread.wait_for_rounds()

    def send_channel(self, data: bytes, deadline: Deadline) -> bool:
        """Write bytes to the agent up to a deadline; return whether all were taken."""
        line = self._console_line if self._shared else self._channel_line
        return line.write_all(data, deadline)

    def send_console(self, data: bytes, deadline: Deadline) -> bool:
        """Write bytes to the guest's console up to a deadline; return whether all were taken."""
        return self._console_line.write_all(data, deadline)

    def _drain_console(self) -> None:
        # On a shared console somebody may be waiting for a reply.
        if not self._shared and time.monotonic() - self.last_output_at < TOGETHER_S:
            time.sleep(TOGETHER_S)
        if self._read_console():
            self._feed_more()

    def _read_console(self) -> bool:
        """Take what the console has said; return whether there was something, or its end."""
        with self._reading:
            data = None if self.console_ended else self._console_line.read()
            if data is None:
                return False
            payloads, text = self._splitter.feed(data) if self._shared else ([], data)
            with self._changes:
                self._add_payloads(payloads)
                if not data:
                    self.console_ended = True
                else:
                    self._append_text(text)
                self.last_output_at = time.monotonic()
                self._changes.notify()
        return True

    def _add_payloads(self, payloads: list[bytes]) -> None:
        self.payloads += payloads[: MOST_PAYLOADS - len(self.payloads)]

    def _append_text(self, text: bytes) -> None:
        """Keep what the console said, up to the limit; in the log it is said where that was."""
        was_cut = self.console.is_cut
        self._write_log(self.console.append(text, time.monotonic()))
        if self.console.is_cut and not was_cut:
            limit = f"{self.console.limit_bytes / (1 << 20):g} MiB"
            self._write_log(f"\n{CUT_MARK.format(limit=limit)}\n".encode())
            self.log_trouble = self.log_trouble or f"cut at {limit}"

    def _write_log(self, text: bytes | bytearray) -> None:
        """Write to the log; where its disk is full the text is still kept here."""
        try:
            self._log.write(text)
        except OSError as error:
            self.log_trouble = error.strerror or str(error)

    def _feed_more(self) -> None:
        if self.console_ended:
            self._thread.loop.remove_reader(self._console_line)
            self._feed.end()
        self._feed.write_more()

    def _drain_channel(self) -> None:
        # What a command made the kernel print came before the command's reply.
        if self._read_console():
            self._thread.loop.call_soon_threadsafe(self._feed_more)
        if self._shared or self._channel_ended:
            return
        data = self._channel_line.read()
        if data is None:
            return
        if not data:
            # The console ends at the same time, and those who wait look at that.
            self._channel_ended = True
            self._sources.unregister(self._channel_line)
            return
        payloads, text = self._splitter.feed(data)
        with self._changes:
            self._add_payloads(payloads)
            self.stray_channel_text += text[: STRAY_BYTES - len(self.stray_channel_text)]
            self.last_output_at = time.monotonic()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine in the thread's event loop, as `LoopThread.call` does."""
        return self._thread.call(coroutine, timeout_s)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine in the thread's event loop; it ends at the latest with the guest.

        What it raises is noted in `troubles`.
        """
        self._thread.begin(coroutine, self._note_trouble)

    def _note_trouble(self, error: BaseException) -> None:
        with self._changes:
            self.troubles.append(f"{type(error).__name__}: {error}")
            self._changes.notify()

    async def qmp_client(self) -> QMPClient:
        """Return the connected QMP client; raises qemu.qmp's ConnectError if QEMU is gone."""
        return await self._qmp.client()

    def close(self) -> None:
        """Stop the thread and close everything; QEMU is gone by now."""
        self._thread.close(self._qmp.disconnect)
        for stream in (
            self._console_line,
            self._channel_line,
            self._qmp,
            self._feed,
            self._changes,
        ):
            stream.close()
        self._log.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestEndpoints:
    """The guest's ends of its streams, for QEMU to inherit.

    Attributes:
        console: The console's serial line.
        channel: The agent's serial line.
        qmp: A connected socket.
    """

    console: SerialEndpoint
    channel: SerialEndpoint
    qmp: socket.socket

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All their descriptors."""
        return (*self.console.descriptors, *self.channel.descriptors, self.qmp.fileno())

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
    """Give streams that are not started yet, and the guest's ends; all are closed at the end.

    Args:
        splitter: As Streams takes it.
        log: As Streams takes it.
        shared: As Streams takes it.
        before: As Streams takes it.
        limit_bytes: As Streams takes it.

    Yields:
        The streams and the guest's ends.
    """
    console, far_console = serial_line(CONSOLE_BYTES)
    channel, far_channel = serial_line(CHANNEL_BYTES)
    qmp, far_qmp = socket.socketpair()
    far = GuestEndpoints(console=far_console, channel=far_channel, qmp=far_qmp)
    with contextlib.closing(far), contextlib.ExitStack() as ours:
        for end in (console, channel, qmp):
            ours.enter_context(contextlib.closing(end))
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
        # The streams close them from now on.
        ours.pop_all()
        with contextlib.closing(streams):
            yield streams, far
