"""The agent's protocol: batches of system calls, and the replies to them.

agent.c describes the bytes; frames.py wraps them into frames.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.errors import Evidence, GuestDied, HarnessError

PROTOCOL_VERSION = 3
MEMORY_BYTES = 64 * 1024
CHUNK_BYTES = 48 * 1024
# A read leaves room for what is new in the kernel's log.
READ_BYTES = 40 * 1024
HELLO_ID = 0

# The word on the kernel's command line that makes the console the agent's channel too.
SHARED_CONSOLE = "kernelvm.channel=console"

# Not system calls; agent.c has the same.
NR_RUN = 0xFFFF
NR_LOG = 0xFFFE
NR_TAINT = 0xFFFD
# The longest record of /dev/kmsg, and how much of the log an answer has room for.
RECORD_BYTES = 8192
LOG_BYTES = 2 * RECORD_BYTES
NOT_MADE = -0x10000

_ALWAYS = 0x01
_LOOP = 0x02
_OUT_RESULT = 0x8000
_POINTER = 1
_RESULT = 2


@dataclass(frozen=True, slots=True)
class DataPointer:
    """An address in the guest.

    Attributes:
        offset: Where it points to in the request's data.
    """

    offset: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an earlier step returned.

    Attributes:
        step: Its number, from 0.
    """

    step: int


Argument = int | DataPointer | StepResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One system call.

    Attributes:
        call: Its number or name.
        args: Its arguments, at most six.
        out: None, or which argument points at the output, and the output's length in bytes; None
            for as many bytes as the call returns.
        always: Whether it is made even if a step before it failed.
        loop: Whether it is made again, as read and write are, until all is done or nothing more
            comes.
    """

    call: str | int
    args: tuple[Argument, ...]
    out: tuple[int, int | None] | None
    always: bool
    loop: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back of a batch.

    Attributes:
        results: Of each step what it returned: below zero minus its errno, NOT_MADE if it was
            skipped.
        outputs: Of each step its output, empty where it asked for none or failed.
    """

    results: tuple[int, ...]
    outputs: tuple[bytes, ...]


@dataclass(slots=True)
class Batch:
    """System calls that are made in one go, and the data they point at.

    Steps after a failed one are skipped, unless they are made `always`.

    Attributes:
        steps: The calls, in their order.
    """

    steps: list[Step] = field(default_factory=list)
    _data: bytearray = field(default_factory=bytearray)
    _space: int = 0

    def data(self, content: bytes) -> DataPointer:
        """Add bytes, eight-byte aligned.

        Args:
            content: The bytes.

        Returns:
            Where they will be in the guest.
        """
        assert not self._space, "data comes before space"
        self._data += bytes(-len(self._data) % 8)
        self._data += content
        return DataPointer(len(self._data) - len(content))

    @classmethod
    def from_parts(cls, steps: Sequence[Step], *, content: bytes, space_bytes: int) -> Batch:
        """Return a batch of these steps, data and space.

        Args:
            steps: The calls.
            content: The data.
            space_bytes: How much memory is reserved behind the data.
        """
        return cls(list(steps), bytearray(content), space_bytes)

    def with_log(self) -> Batch | None:
        """Return this batch with a last step that reads what is new in the kernel's log.

        `without_log` takes the step's result out of the reply.

        Returns:
            The longer batch. None where there is no room for the log, or no step: that is a sign of
            life, or an end.
        """
        body = 8 + sum(8 + 4 * len(step.args) for step in self.steps)
        if not self.steps or body + len(self._data) + self._space + LOG_ROOM_BYTES > MEMORY_BYTES:
            return None
        longer = Batch(list(self.steps), self._data, self._space)
        add_log_read(longer)
        return longer

    @property
    def content(self) -> bytes:
        """The data."""
        return bytes(self._data)

    @property
    def space_bytes(self) -> int:
        """How much memory is reserved behind the data."""
        return self._space

    @property
    def data_bytes(self) -> int:
        """How much data the request brings along."""
        return len(self._data)

    def text(self, text: str | bytes) -> DataPointer:
        """Add a zero-terminated string.

        Args:
            text: A str is encoded as UTF-8, with surrogates as the raw bytes that they stand for.

        Returns:
            Where it will be in the guest.

        Raises:
            ValueError: There is a zero byte in it.
        """
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        if b"\0" in raw:
            raise ValueError(f"a zero byte in {raw!r}")
        return self.data(raw + b"\0")

    def space(self, length_bytes: int) -> DataPointer:
        """Reserve memory that a call writes to; comes after all data.

        Args:
            length_bytes: How much.

        Returns:
            Where it will be in the guest.
        """
        at = len(self._data) + self._space
        at += -at % 8
        self._space = at + length_bytes - len(self._data)
        return DataPointer(at)

    def call(
        self,
        call: str | int,
        *args: Argument,
        out: tuple[int, int | None] | None = None,
        always: bool = False,
        loop: bool = False,
    ) -> StepResult:
        """Add a step.

        Args:
            call: As of Step, like the others.
            *args: Its arguments.
            out: Where its output is, None if it has none.
            always: Whether it is made even if a step before it failed.
            loop: Whether it is made again until all is done.

        Returns:
            What stands for its result in later steps.
        """
        self.steps.append(Step(call=call, args=args, out=out, always=always, loop=loop))
        return StepResult(len(self.steps) - 1)

    def encode(
        self, request_id: int, byteorder: Literal["big", "little"], numbers: Mapping[str, int]
    ) -> bytes:
        """Return the request's payload.

        Args:
            request_id: A number that differs from that of the request before.
            byteorder: The guest's.
            numbers: Its system calls, by name.

        Raises:
            HarnessError: A name is unknown, or the batch is too large.
        """
        order = struct_order(byteorder)
        body = b"".join(_encode_step(step, order, numbers) for step in self.steps)
        start = 8 + len(body)
        start += -start % 8
        size = start + len(self._data) + self._space + 4
        if size > MEMORY_BYTES:
            raise HarnessError(f"a batch of {size} bytes does not fit into {MEMORY_BYTES}")
        head = struct.pack(f"{order}IHH", request_id, len(self.steps), start)
        return (head + body).ljust(start, b"\0") + bytes(self._data)

    def decode(self, payload: bytes, byteorder: Literal["big", "little"]) -> Reply:
        """Return the reply to this batch.

        Args:
            payload: A frame's.
            byteorder: The guest's.

        Raises:
            GuestDied: The payload is no reply to it.
        """
        order = struct_order(byteorder)
        try:
            _id, count = struct.unpack_from(f"{order}II", payload)
            results = struct.unpack_from(f"{order}{count}i", payload, 8)
        except struct.error:
            count, results = -1, ()
        if count != len(self.steps):
            raise GuestDied(
                "the agent answered nonsense",
                Evidence(
                    expected=f"the results of {len(self.steps)} system calls",
                    seen=f"{len(payload)} bytes: {payload[:48]!r}",
                ),
            )
        at = 8 + 4 * count
        outputs = []
        for step, result in zip(self.steps, results, strict=True):
            length = 0
            if step.out and result >= 0:
                length = result if step.out[1] is None else step.out[1]
            outputs.append(payload[at : at + length])
            at += length
        return Reply(results=results, outputs=tuple(outputs))


# The size of a step that reads the log, of its buffer, and of what aligns them.
LOG_ROOM_BYTES = LOG_BYTES + 64


def add_log_read(batch: Batch, mark: bytes = b"", *, anew: bool = False) -> StepResult:
    """Add to a batch a step that reads what is new in the kernel's log; it is made in any case.

    Args:
        batch: What the step is added to.
        mark: A record that is written before, so that the kernel's last one is complete; empty for
            none.
        anew: Whether the log is read from its beginning.

    Returns:
        What stands for the step's result.
    """
    written = batch.data(mark) if mark else DataPointer(0)
    args = batch.space(LOG_BYTES), LOG_BYTES, written, len(mark), int(anew)
    return batch.call(NR_LOG, *args, out=(0, None), always=True)


def without_log(reply: Reply) -> tuple[Reply, int, bytes]:
    """Part the reply to a batch of `with_log`.

    Args:
        reply: The reply of the agent.

    Returns:
        The reply to the batch itself, the result of reading the log, and what was read.
    """
    rest = Reply(results=reply.results[:-1], outputs=reply.outputs[:-1])
    return rest, reply.results[-1], reply.outputs[-1]


def _encode_step(step: Step, order: str, numbers: Mapping[str, int]) -> bytes:
    if isinstance(step.call, str):
        if step.call not in numbers:
            raise HarnessError(f"the headers of this kernel have no system call {step.call!r}")
        number = numbers[step.call]
    else:
        number = step.call
    kinds = 0
    values: list[int] = []
    for place, arg in enumerate(step.args):
        match arg:
            case DataPointer(offset):
                kinds |= _POINTER << 2 * place
                values.append(offset)
            case StepResult(earlier):
                kinds |= _RESULT << 2 * place
                values.append(earlier)
            case int():
                values.append(_signed(arg))
    out = 0
    if step.out:
        pointing, length = step.out
        out = pointing << 12 | (_OUT_RESULT if length is None else length)
    flags = (_ALWAYS if step.always else 0) | (_LOOP if step.loop else 0)
    head = struct.pack(f"{order}HBBHH", number, flags, len(values), kinds, out)
    return head + struct.pack(f"{order}{len(values)}i", *values)


def _signed(value: int) -> int:
    """Return a 32-bit value as the agent extends it: 0xfee1dead is negative to C."""
    return value - (1 << 32) if 1 << 31 <= value < 1 << 32 else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """An agent's first message.

    Attributes:
        version: Of the protocol.
        boot_id: A number that differs from boot to boot.
    """

    version: int
    boot_id: int


def decode_hello(payload: bytes, byteorder: Literal["big", "little"]) -> Hello:
    """Return what a hello says; all zero where it is cut short.

    Args:
        payload: A frame's.
        byteorder: The guest's.
    """
    version, boot_id = (int.from_bytes(payload[at : at + 4], byteorder) for at in (8, 12))
    return Hello(version=version, boot_id=boot_id)


def reply_id(payload: bytes, byteorder: Literal["big", "little"]) -> int:
    """Return the id that a reply carries.

    Args:
        payload: A frame's.
        byteorder: The guest's.
    """
    return int.from_bytes(payload[:4], byteorder)


def zero_terminated(words: Sequence[str | bytes]) -> bytes:
    """Return words one behind the other, each with a zero byte, as NR_RUN wants them."""
    raw = (w if isinstance(w, bytes) else w.encode("utf-8", "surrogateescape") for w in words)
    return b"".join(word + b"\0" for word in raw)
