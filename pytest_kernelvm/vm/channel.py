"""Requests to the agent and its replies: each executed once, however often it has to be sent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from pytest_kernelvm.arch import Arch
from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.guest.protocol import (
    HELLO_ID,
    PROTOCOL_VERSION,
    Batch,
    Reply,
    encode_frame,
    reply_id,
)
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.streams import Streams

# The agent drops a damaged request without a word; it knows a repeated one by its id.
REPEAT_S = 2.0
# What a serial port of a guest takes on a busy machine.
SLOWEST_BYTES_PER_S = 5000.0


class NoReply(Exception):
    """The agent did not answer: the time is up, or `gone` said that it never will."""


class Channel:
    """The host's end of the agent's channel.

    gone: returns True once the guest can no longer answer; called with the streams' lock held.
    numbers: system calls by name. last_id: of the requests that this agent has seen already.
    """

    def __init__(
        self,
        streams: Streams,
        arch: Arch,
        numbers: Mapping[str, int],
        gone: Callable[[], bool],
        last_id: int = 0,
    ) -> None:
        self._streams = streams
        self._byteorder = arch.endianness
        self._numbers = numbers
        self._gone = gone
        self._ids = itertools.count(last_id + 1)
        self.last_id = last_id
        self._current = 0

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait for the agent's hello; ask for it where it may have been damaged or missed.

        Raises NoReply, or HarnessError if the agent speaks another version.
        """
        while True:
            reply = self._await(lambda got: got is not None, deadline, REPEAT_S)
            if reply is not None:
                break
            self._send(Batch(), self._next_id(), deadline)
        if reply_id(reply, self._byteorder) == HELLO_ID:
            version = int.from_bytes(reply[8:12], self._byteorder)
            if version != PROTOCOL_VERSION:
                raise HarnessError(f"the agent speaks version {version}, not {PROTOCOL_VERSION}")

    def _next_id(self) -> int:
        self.last_id = next(self._ids)
        return self.last_id

    def first_frame(self, batch: Batch) -> bytes:
        """Return a batch as wire bytes that somebody else sends; `collect` awaits its reply."""
        self._current = self._next_id()
        return encode_frame(
            batch.encode(self._current, self._byteorder, self._numbers), self._byteorder
        )

    def collect(self, batch: Batch, deadline: Deadline) -> Reply:
        """Return the reply to the batch of `first_frame`, which was or will be sent.

        Raises NoReply.
        """
        payload = self._await(self._is_current, deadline, deadline.remaining_s)
        if payload is None:
            raise NoReply
        return batch.decode(payload, self._byteorder)

    def transact(self, batch: Batch, deadline: Deadline) -> Reply:
        """Have a batch of system calls made and return the reply.

        Raises NoReply.
        """
        self._current = self._next_id()
        repeat_s = self._repeat_s(batch)
        while True:
            self._send(batch, self._current, deadline)
            payload = self._await(self._is_current, deadline, repeat_s)
            if payload is not None:
                return batch.decode(payload, self._byteorder)
            repeat_s *= 2

    def cancel(self, deadline: Deadline) -> None:
        """Have the program killed that the last request waits for, and await that request's end.

        Raises NoReply.
        """
        while True:
            self._send(Batch(), self._next_id(), deadline)
            if self._await(self._is_current, deadline, REPEAT_S / 4) is not None:
                return

    def _is_current(self, payload: bytes) -> bool:
        return reply_id(payload, self._byteorder) == self._current

    def _repeat_s(self, batch: Batch) -> float:
        """A long request is still under way when a short one would have been answered."""
        return REPEAT_S + batch.data_bytes / SLOWEST_BYTES_PER_S

    def _send(self, batch: Batch, request_id: int, deadline: Deadline) -> None:
        payload = batch.encode(request_id, self._byteorder, self._numbers)
        if self._streams.send_channel(encode_frame(payload, self._byteorder), deadline):
            return
        if not deadline.passed:
            # QEMU has closed its end; whoever reads notices that a moment later.
            self._streams.wait_for(lambda: self._gone() or None, deadline)
        raise NoReply

    def _await(
        self, wanted: Callable[[bytes], bool], deadline: Deadline, patience_s: float
    ) -> bytes | None:
        """Return the wanted payload; None if patience ends before the deadline does."""

        def look() -> bytes | bool | None:
            while self._streams.payloads:
                payload = self._streams.payloads.pop(0)
                if wanted(payload):
                    return payload
            return False if self._gone() else None

        patience = Deadline(min(patience_s, deadline.remaining_s))
        found = self._streams.wait_for(look, patience)
        if found is False or (found is None and deadline.passed):
            raise NoReply
        return found if isinstance(found, bytes) else None
