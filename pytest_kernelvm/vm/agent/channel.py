"""Requests to the agent and its replies: each executed once, however often it has to be sent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Literal

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.guest.frames import encode_frame
from pytest_kernelvm.guest.protocol import (
    HELLO_ID,
    PROTOCOL_VERSION,
    Batch,
    Reply,
    decode_hello,
    reply_id,
)
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.qemu.streams import Streams

# The agent drops a damaged request without a word; it knows a repeated one by its id.
REPEAT_S = 2.0
# What a serial port of a guest takes on a busy machine.
SLOWEST_BYTES_PER_S = 5000.0


class NoReply(Exception):
    """The agent did not answer: the time is up, or `gone` said that it never will."""


class Channel:
    """The host's end of the agent's channel.

    Args:
        streams: Carry the frames.
        arch: Its byte order is the frames'.
        numbers: System calls by name.
        gone: Returns True once the guest can no longer answer; called with the streams' lock held.
        last_id: Of the requests that this agent has seen already.
        boot_id: What its hello said; 0 as long as that has not come.
        repeat_s: Seconds that a reply may take until the request is sent again.

    Attributes:
        numbers: System calls by name; another kernel may have others.
        last_id: Of the requests that were made.
        boot_id: What the agent's hello said.
        began_anew: Whether another boot's agent said hello.
        late: How many replies came after their time.
        repeated: How many replies came more often than they were asked for.
    """

    def __init__(
        self,
        streams: Streams,
        arch: Arch,
        numbers: Mapping[str, int],
        gone: Callable[[], bool],
        *,
        last_id: int = 0,
        boot_id: int = 0,
        repeat_s: float = REPEAT_S,
    ) -> None:
        self._streams = streams
        self._byteorder = arch.endianness
        self.numbers = numbers
        self._gone = gone
        self._ids = itertools.count(last_id + 1)
        self._current = 0
        # The request that is under way while the log is read, and its reply if that came.
        self._interrupted = 0
        self._held_reply: bytes | None = None
        self._late_replies: dict[int, int] = {}
        self.last_id = last_id
        self.boot_id = boot_id
        self._repeat_after_s = repeat_s
        self.began_anew = False
        self.late = self.repeated = 0

    @property
    def oddities(self) -> str:
        """What was odd about the frames that came, in words; empty if nothing was."""
        counts = (
            (self._streams.damaged_frames, "damaged frames"),
            (self.late, "late replies"),
            (self.repeated, "replies that nobody had asked for"),
        )
        return ", ".join(f"{count} {what}" for count, what in counts if count)

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait for the agent's hello; ask for it where it may have been damaged or missed.

        Raises NoReply if it does not come. Raises HarnessError if the agent speaks another version.

        Args:
            deadline: Of the boot.
        """
        while self._await_or_ask(_is_hello(self._byteorder), deadline) is None:
            pass

    def _await_or_ask(self, wanted: Callable[[bytes], bool], deadline: Deadline) -> bytes | None:
        """Wait for a payload of an agent that is not ready yet, for a while.

        A guest that says nothing meanwhile is asked for its hello. One that boots is left alone: a
        PL011 whose FIFO is full when its driver starts, and is filled again as fast as that empties
        it, never says that there is something to be read (drivers/tty/serial/amba-pl011.c,
        pl011_enable_interrupts()).

        Args:
            wanted: Tells the payload from others.
            deadline: Of the whole wait.

        Returns:
            The payload; None if it did not come for the time being.
        """
        said_bytes = len(self._streams.console_text)
        payload = self._await(wanted, deadline, self._repeat_after_s)
        if payload is None and len(self._streams.console_text) == said_bytes:
            self._send(Batch(), HELLO_ID, deadline)
        return payload

    def _note_hello(self, payload: bytes) -> None:
        hello = decode_hello(payload, self._byteorder)
        if hello.version != PROTOCOL_VERSION:
            raise HarnessError(f"the agent speaks version {hello.version}, not {PROTOCOL_VERSION}")
        if self.boot_id and hello.boot_id != self.boot_id:
            self.began_anew = True
            raise NoReply
        self.boot_id = hello.boot_id

    def _next_id(self) -> int:
        self.last_id = next(self._ids)
        return self.last_id

    def first_frame(self, batch: Batch) -> bytes:
        """Return a batch as wire bytes that somebody else sends; `collect` awaits its reply.

        Any thread may call this, as long as no other request is made.

        Args:
            batch: The calls.

        Returns:
            The frame.
        """
        self._current = self._next_id()
        return self._frame(batch, self._current)

    def collect(self, batch: Batch, deadline: Deadline) -> Reply:
        """Return the reply to the batch of `first_frame`, which was or will be sent.

        Args:
            batch: The calls.
            deadline: For the reply.

        Returns:
            The reply.

        Raises:
            NoReply: If it does not come.
        """
        payload = self._await(self._is_current, deadline, deadline.remaining_s)
        if payload is None:
            raise NoReply
        return batch.decode(payload, self._byteorder)

    def transact(self, batch: Batch, deadline: Deadline) -> Reply:
        """Have a batch of system calls made and return the reply.

        The request is sent again, under the same id, if the reply takes long.

        Args:
            batch: The calls.
            deadline: For the reply.

        Returns:
            The reply. NoReply is raised if none comes, GuestDied if what comes is none.
        """
        self._current = self._next_id()
        repeat_s = self._repeat_s(batch)
        while True:
            self._send(batch, self._current, deadline)
            payload = self._await(self._is_current, deadline, repeat_s)
            if payload is not None:
                return batch.decode(payload, self._byteorder)
            repeat_s *= 2

    def ask_aside(self, batch: Batch, deadline: Deadline, gone: Callable[[], bool]) -> Reply:
        """Have a batch made that only reads the log, while another request may be under way.

        The other one's reply is not lost: `resume` waits for it.

        Args:
            batch: The call.
            deadline: For the reply.
            gone: As the class has it, but for this wait.

        Returns:
            The reply. NoReply is raised if none comes.
        """
        self._interrupted, before = self._current, self._gone
        self._gone = gone
        try:
            return self.transact(batch, deadline)
        finally:
            self._current, self._gone = self._interrupted, before
            self._interrupted = 0

    def resume(self, batch: Batch, deadline: Deadline) -> Reply:
        """Go on waiting for the reply that `ask_aside` interrupted the wait for.

        The request is not sent again: the agent knows only the last one for a repeated one.

        Args:
            batch: The calls of the interrupted request.
            deadline: For the reply.

        Returns:
            The reply. NoReply is raised if none comes.
        """
        return self.collect(batch, deadline)

    def hand_over(self, batch: Batch, deadline: Deadline) -> Reply | None:
        """Have a batch made that ends this agent and lets another one begin on this channel.

        Args:
            batch: The calls; the last one enters another kernel.
            deadline: For the other agent's hello.

        Returns:
            The reply of an agent that lives on; None once another one said hello. NoReply is raised
            if neither comes.
        """
        self._current = self._next_id()
        before = self.boot_id
        self._send(batch, self._current, deadline)
        while True:
            self.boot_id = 0
            payload = self._await_or_ask(self._is_reply_or_hello, deadline)
            if payload is None:
                continue
            if self._is_current(payload):
                self.boot_id = before
                return batch.decode(payload, self._byteorder)
            if self.boot_id != before:
                self._late_replies.pop(self._current, None)
                return None

    def _is_reply_or_hello(self, payload: bytes) -> bool:
        return reply_id(payload, self._byteorder) in (self._current, HELLO_ID)

    def cancel(self, deadline: Deadline) -> None:
        """Have the program killed that the last request waits for, and await that request's end.

        Args:
            deadline: For the end. NoReply is raised if it does not come.
        """
        while True:
            self._send(Batch(), self._next_id(), deadline)
            if self._await(self._is_current, deadline, self._repeat_after_s / 4) is not None:
                return

    def _is_current(self, payload: bytes) -> bool:
        return reply_id(payload, self._byteorder) == self._current

    def _repeat_s(self, batch: Batch) -> float:
        """A long request is still under way when a short one would have been answered."""
        return self._repeat_after_s + batch.data_bytes / SLOWEST_BYTES_PER_S

    def _frame(self, batch: Batch, request_id: int) -> bytes:
        if request_id != HELLO_ID:
            self._late_replies[request_id] = self._late_replies.get(request_id, 0) + 1
        return encode_frame(
            batch.encode(request_id, self._byteorder, self.numbers), self._byteorder
        )

    def _send(self, batch: Batch, request_id: int, deadline: Deadline) -> None:
        if self._streams.send_channel(self._frame(batch, request_id), deadline):
            return
        if not deadline.passed:
            # QEMU has closed its end; the thread that reads notices that a moment later.
            self._streams.wait_for(lambda: self._gone() or None, deadline)
        raise NoReply

    def _await(
        self, wanted: Callable[[bytes], bool], deadline: Deadline, patience_s: float
    ) -> bytes | None:
        """Return the wanted payload; None if patience ends before the deadline does."""

        def look() -> bytes | bool | None:
            if self._held_reply is not None and wanted(self._held_reply):
                held, self._held_reply = self._held_reply, None
                return held
            while self._streams.payloads:
                payload = self._streams.payloads.pop(0)
                self._account(payload)
                if wanted(payload):
                    return payload
                if self._interrupted and reply_id(payload, self._byteorder) == self._interrupted:
                    self._held_reply = payload
            return False if self._gone() else None

        patience = Deadline(min(patience_s, deadline.remaining_s))
        found = self._streams.wait_for_frames(look, patience)
        if found is False or (found is None and deadline.passed):
            raise NoReply
        return found if isinstance(found, bytes) else None

    def _account(self, payload: bytes) -> None:
        """Note what a frame is beside being wanted: a hello, a late reply, one too many."""
        request_id = reply_id(payload, self._byteorder)
        if request_id == HELLO_ID:
            self._note_hello(payload)
        elif not self._late_replies.get(request_id):
            self.repeated += 1
        else:
            self.late += request_id not in (self._current, self._interrupted)
            self._late_replies[request_id] -= 1
            if not self._late_replies[request_id]:
                del self._late_replies[request_id]


def _is_hello(byteorder: Literal["big", "little"]) -> Callable[[bytes], bool]:
    return lambda payload: reply_id(payload, byteorder) == HELLO_ID
