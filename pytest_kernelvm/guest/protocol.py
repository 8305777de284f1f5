"""The agent's protocol: batches of system calls in frames that kernel text cannot damage.

agent.c describes the bytes; this is the host's end of it.
"""

from __future__ import annotations

import functools
import struct
import zlib
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

SOH = b"\x01"
EOT = b"\x04"

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

# Eight wire bytes are one with the top bits of seven payload bytes, and each of those with its own
# top bit set. All groups of a frame are one long integer, each place's bits are moved at once.
_PLACES = range(7)
_GROUP_MARKS = 0x8080808080808080
_GROUP_LOW = 0x007F7F7F7F7F7F7F


@functools.lru_cache(maxsize=64)
def _bits_of(groups: int) -> tuple[int, int, tuple[tuple[int, int, int], ...]]:
    """Return the bits of so many groups: the marks, the payload's lower seven, and by place.

    By place among the seven: the top bit as it is in the payload, as it is among the top bits, and
    how far it is from the first to the second.
    """

    def in_each(group: int) -> int:
        return int.from_bytes(group.to_bytes(8, "big") * groups, "big")

    places = (
        (in_each(1 << 55 - 8 * place), in_each(1 << 56 + place), 1 + 9 * place) for place in _PLACES
    )
    return in_each(_GROUP_MARKS), in_each(_GROUP_LOW), tuple(places)


def encode_frame(payload: bytes, byteorder: Literal["big", "little"]) -> bytes:
    """Return a payload with its CRC as wire bytes: SOH, seven bytes in eight, EOT."""
    data = payload + zlib.crc32(payload).to_bytes(4, byteorder)
    groups = -(-len(data) // 7)
    padded = data.ljust(7 * groups, b"\0")
    spread = bytearray(8 * groups)
    for place in _PLACES:
        spread[place + 1 :: 8] = padded[place::7]
    marks, _, places = _bits_of(groups)
    plain = int.from_bytes(spread, "big")
    wire = plain | marks
    for in_payload, _, distance in places:
        wire |= (plain & in_payload) << distance
    return b"".join((SOH, wire.to_bytes(8 * groups, "big")[: groups + len(data)], EOT))


def decode_frame(wire: bytes, byteorder: Literal["big", "little"]) -> bytes | None:
    """Return the payload of the bytes between SOH and EOT; None if they are damaged."""
    groups = -(-len(wire) // 8)
    length = len(wire) - groups
    if length < 4 or len(wire) % 8 == 1:
        return None
    _, low, places = _bits_of(groups)
    coded = int.from_bytes(wire.ljust(8 * groups, b"\0"), "big")
    plain = coded & low
    for _, among_tops, distance in places:
        plain |= (coded & among_tops) >> distance
    data = bytearray(plain.to_bytes(8 * groups, "big"))
    del data[::8]
    payload, crc = bytes(data[: length - 4]), data[length - 4 : length]
    return payload if zlib.crc32(payload).to_bytes(4, byteorder) == crc else None


class FrameSplitter:
    """Parts a byte stream into frames and the text in between and in the middle of them.

    damaged: how many frames had a wrong checksum so far.
    """

    def __init__(self, byteorder: Literal["big", "little"]) -> None:
        self._byteorder = byteorder
        self._frame: bytearray | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the payloads of the frames that became whole, and the bytes that are text."""
        payloads: list[bytes] = []
        text = bytearray()
        at = 0
        while at < len(data):
            if self._frame is None:
                mark = data.find(SOH, at)
                text += data[at : mark if mark >= 0 else None]
                if mark < 0:
                    break
                self._frame = bytearray()
                at = mark + 1
                continue
            end = data.find(EOT, at)
            stop = end if end >= 0 else len(data)
            # A frame that was cut off is followed by a new one without its EOT.
            again = data.rfind(SOH, at, stop)
            if again >= 0:
                self.damaged += 1
                text += data[at:again].translate(None, _FRAME_BYTES)
                self._frame = bytearray()
                at = again + 1
            inside = data[at:stop]
            self._frame += inside.translate(None, _TEXT_BYTES)
            text += inside.translate(None, _FRAME_BYTES)
            at = stop + 1
            if end >= 0 or len(self._frame) > _MOST_WIRE_BYTES:
                payload = decode_frame(bytes(self._frame), self._byteorder) if end >= 0 else None
                self._frame = None
                if payload is None:
                    self.damaged += 1
                else:
                    payloads.append(payload)
        return payloads, bytes(text)


# No reply is as long as this, coded as it is.
_MOST_WIRE_BYTES = 2 * MEMORY_BYTES
_TEXT_BYTES = bytes(range(0x80))
_FRAME_BYTES = bytes(range(0x80, 0x100))


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address in the guest: an offset into the request's data."""

    offset: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an earlier step returned."""

    step: int


Argument = int | Pointer | Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One system call: its number or name, and its arguments.

    out: None, or (which argument points at the output, its length in bytes or None for as many as
    the call returns). always: made even if a step before it failed. loop: as read and write, made
    again until all is done or nothing more comes.
    """

    call: str | int
    args: tuple[Argument, ...]
    out: tuple[int, int | None] | None
    always: bool
    loop: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back of a batch.

    results: of each step; below zero minus its errno, NOT_MADE if it was skipped.
    outputs: the bytes of each step that asked for output, empty where it failed.
    """

    results: tuple[int, ...]
    outputs: tuple[bytes, ...]


@dataclass(slots=True)
class Batch:
    """System calls that are made in one go, and the data they point at.

    Steps after a failed one are skipped, unless they are made `always`.
    """

    steps: list[Step] = field(default_factory=list)
    _data: bytearray = field(default_factory=bytearray)
    _space: int = 0

    def data(self, content: bytes) -> Pointer:
        """Add bytes, eight-byte aligned, and return where they will be."""
        assert not self._space, "data comes before space"
        self._data += bytes(-len(self._data) % 8)
        self._data += content
        return Pointer(len(self._data) - len(content))

    @classmethod
    def of(cls, steps: Sequence[Step], *, given: bytes, space_bytes: int) -> Batch:
        """Return a batch like one with these steps, data and space."""
        return cls(list(steps), bytearray(given), space_bytes)

    def with_log(self) -> Batch | None:
        """Return this batch with a last step that reads what is new in the kernel's log.

        None where there is no room for it, or no step: that is a sign of life, or an end.
        `without_log` takes the step's result out of the reply.
        """
        body = 8 + sum(8 + 4 * len(step.args) for step in self.steps)
        if not self.steps or body + len(self._data) + self._space + LOG_ROOM_BYTES > MEMORY_BYTES:
            return None
        longer = Batch(list(self.steps), self._data, self._space)
        asks_for_log(longer)
        return longer

    @property
    def given(self) -> bytes:
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

    def text(self, text: str | bytes) -> Pointer:
        """Add a zero-terminated string; str is encoded as UTF-8 with surrogates as raw bytes."""
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        if b"\0" in raw:
            raise ValueError(f"a zero byte in {raw!r}")
        return self.data(raw + b"\0")

    def space(self, length_bytes: int) -> Pointer:
        """Reserve memory that a call writes to; comes after all data."""
        at = len(self._data) + self._space
        at += -at % 8
        self._space = at + length_bytes - len(self._data)
        return Pointer(at)

    def call(
        self,
        call: str | int,
        *args: Argument,
        out: tuple[int, int | None] | None = None,
        always: bool = False,
        loop: bool = False,
    ) -> Result:
        """Add a step; return what stands for its result in later steps."""
        self.steps.append(Step(call=call, args=args, out=out, always=always, loop=loop))
        return Result(len(self.steps) - 1)

    def encode(
        self, request_id: int, byteorder: Literal["big", "little"], numbers: Mapping[str, int]
    ) -> bytes:
        """Return the request's payload.

        numbers: system calls by name, of the guest's architecture.
        Raises HarnessError for an unknown name or a batch that is too large.
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

        Raises GuestDied if the payload is not one.
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


# A step that reads the log, its buffer, and what aligns them.
LOG_ROOM_BYTES = LOG_BYTES + 64


def asks_for_log(batch: Batch, mark: bytes = b"", *, anew: bool = False) -> Result:
    """Add to a batch a step that reads what is new in the kernel's log; it is made in any case.

    mark: a record that is written before, so that the kernel's last one is whole.
    anew: whether the log is read from its beginning.
    """
    written = batch.data(mark) if mark else Pointer(0)
    args = batch.space(LOG_BYTES), LOG_BYTES, written, len(mark), int(anew)
    return batch.call(NR_LOG, *args, out=(0, None), always=True)


def without_log(reply: Reply) -> tuple[Reply, int, bytes]:
    """Part the reply to a batch of `with_log` into that to the batch, and result and log."""
    rest = Reply(results=reply.results[:-1], outputs=reply.outputs[:-1])
    return rest, reply.results[-1], reply.outputs[-1]


def _encode_step(step: Step, order: str, numbers: Mapping[str, int]) -> bytes:
    if isinstance(step.call, str):
        if step.call not in numbers:
            raise HarnessError(f"this kernel's headers know no system call {step.call!r}")
        number = numbers[step.call]
    else:
        number = step.call
    kinds = 0
    values: list[int] = []
    for place, arg in enumerate(step.args):
        match arg:
            case Pointer(offset):
                kinds |= _POINTER << 2 * place
                values.append(offset)
            case Result(earlier):
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
    """An agent's first words. boot_id: differs from boot to boot."""

    version: int
    boot_id: int


def decode_hello(payload: bytes, byteorder: Literal["big", "little"]) -> Hello:
    """Return what a hello says; all zero where it is cut short."""
    version, boot_id = (int.from_bytes(payload[at : at + 4], byteorder) for at in (8, 12))
    return Hello(version=version, boot_id=boot_id)


def reply_id(payload: bytes, byteorder: Literal["big", "little"]) -> int:
    """Return the id that a reply carries."""
    return int.from_bytes(payload[:4], byteorder)


def zero_terminated(words: Sequence[str | bytes]) -> bytes:
    """Return words one behind the other, each with a zero byte, as the agent's run wants them."""
    raw = (w if isinstance(w, bytes) else w.encode("utf-8", "surrogateescape") for w in words)
    return b"".join(word + b"\0" for word in raw)
