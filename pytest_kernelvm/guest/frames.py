"""Frames: how requests and replies are sent on a line that the kernel prints on too.

agent.c describes the bytes; kernel text cannot damage them.
"""

from __future__ import annotations

import functools
import zlib
from typing import Literal

from pytest_kernelvm.guest.protocol import MEMORY_BYTES

SOH = b"\x01"
EOT = b"\x04"

# No frame of a reply is as long as this.
_MOST_WIRE_BYTES = 2 * MEMORY_BYTES
_TEXT_BYTES = bytes(range(0x80))
_FRAME_BYTES = bytes(range(0x80, 0x100))

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
    """Return a payload with its CRC as wire bytes: SOH, seven bytes in eight, EOT.

    Args:
        payload: A request, or a reply.
        byteorder: The guest's.
    """
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
    """Return the payload of a frame, None if it is damaged.

    Args:
        wire: The bytes between SOH and EOT.
        byteorder: The guest's.

    Returns:
        The payload without its CRC.
    """
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
    """Parts a byte stream into frames and the text between and within them.

    Args:
        byteorder: The guest's.

    Attributes:
        damaged: How many frames had a wrong checksum so far.
    """

    def __init__(self, byteorder: Literal["big", "little"]) -> None:
        self._byteorder = byteorder
        self._frame: bytearray | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the payloads of the frames that became complete, and the bytes that are text.

        Args:
            data: What came next on the channel; frames may begin and end anywhere in it.
        """
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
