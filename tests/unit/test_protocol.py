"""Frames and batches, byte by byte."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.errors import GuestDied, HarnessError
from pytest_kernelvm.guest.frames import FrameSplitter, decode_frame, encode_frame
from pytest_kernelvm.guest.protocol import MEMORY_BYTES, NOT_MADE, Batch, zero_terminated

ORDERS = st.sampled_from(["big", "little"])
KERNEL_TEXT = st.text(alphabet=[chr(c) for c in range(32, 127)] + ["\r", "\n"], max_size=60)


@given(st.binary(max_size=300), ORDERS)
def test_frames_round_trip(payload: bytes, order: str) -> None:
    wire = encode_frame(payload, order)  # type: ignore[arg-type]
    assert wire[0] == 0x01
    assert wire[-1] == 0x04
    assert all(byte & 0x80 for byte in wire[1:-1])
    assert decode_frame(wire[1:-1], order) == payload  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(KERNEL_TEXT), st.randoms())
def test_kernel_text_anywhere_does_no_harm(
    payloads: list[bytes], texts: list[str], chance: random.Random
) -> None:
    """Text lands between any two bytes, and the stream arrives in pieces of any size."""
    wire = [bytes([b]) for p in payloads for b in encode_frame(p, "big")]
    for text in texts:
        wire.insert(chance.randint(0, len(wire)), text.encode())
    stream = b"".join(wire)
    splitter = FrameSplitter("big")
    found: list[bytes] = []
    said = bytearray()
    while stream:
        size = chance.randint(1, 50)
        got, text_bytes = splitter.feed(stream[:size])
        stream = stream[size:]
        found += got
        said += text_bytes
    assert found == payloads
    assert splitter.damaged == 0
    # Texts that were put one into another are whole in sum, not in order.
    assert sorted(said) == sorted("".join(texts).encode())


def test_damage_is_noticed_and_the_next_frame_is_found() -> None:
    good = encode_frame(b"good", "little")
    bad = bytearray(encode_frame(b"was good once", "little"))
    bad[5] ^= 0x01
    cut_off = encode_frame(b"cut off here", "little")[:6]
    splitter = FrameSplitter("little")
    assert splitter.feed(bytes(bad) + cut_off + good) == ([b"good"], b"")
    assert splitter.damaged == 2


def test_utf8_of_the_console_outside_frames_is_text() -> None:
    assert FrameSplitter("big").feed("µs".encode()) == ([], "µs".encode())


def test_batch_layout() -> None:
    batch = Batch()
    path = batch.text("/x")
    opened = batch.call("openat", -100, path, 0)
    buffer = batch.space(10)
    batch.call("read", opened, buffer, 10, out=(1, None), loop=True)
    payload = batch.encode(7, "big", {"openat": 56, "read": 63})
    request_id, count, data = struct.unpack_from(">IHH", payload)
    assert (request_id, count) == (7, 2)
    assert data % 8 == 0
    assert payload[data:] == b"/x\0"
    number, _flags, args, kinds, out = struct.unpack_from(">HBBHH", payload, 8)
    assert (number, args, kinds, out) == (56, 3, 0b000100, 0)
    number, flags, args, kinds, out = struct.unpack_from(">HBBHH", payload, 8 + 8 + 12)
    assert (number, flags, args, kinds, out) == (63, 2, 3, 0b000110, 0x9000)
    assert struct.unpack_from(">iii", payload, 8 + 8 + 12 + 8) == (0, 8, 10)


def test_reply_is_taken_apart() -> None:
    batch = Batch()
    batch.call("a")
    batch.call("b", 1, out=(0, 4))
    batch.call("c", 1, out=(0, None))
    batch.call("d", out=(0, 4))
    raw = struct.pack("<IIiiii", 1, 4, 0, 0, 3, NOT_MADE) + b"fourtre"
    reply = batch.decode(raw, "little")
    assert reply.results == (0, 0, 3, NOT_MADE)
    assert reply.outputs == (b"", b"four", b"tre", b"")


def test_a_reply_that_is_none_is_an_error() -> None:
    batch = Batch()
    batch.call("a")
    for raw in (b"", b"12345678", struct.pack("<IIii", 1, 2, 0, 0)):
        with pytest.raises(GuestDied, match="nonsense"):
            batch.decode(raw, "little")


def test_what_does_not_fit_is_an_error() -> None:
    batch = Batch()
    batch.space(MEMORY_BYTES)
    with pytest.raises(HarnessError, match="does not fit"):
        batch.encode(1, "big", {})
    batch = Batch()
    batch.call("nosuch")
    with pytest.raises(HarnessError, match="no system call 'nosuch'"):
        batch.encode(1, "big", {})
    with pytest.raises(ValueError, match="zero byte"):
        Batch().text("a\0b")


def test_zero_terminated_words() -> None:
    assert zero_terminated(["a", "ü", b"\xff", ""]) == b"a\0\xc3\xbc\0\xff\0\0"
