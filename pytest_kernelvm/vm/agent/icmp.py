"""ICMP echo requests and their replies, as bytes (RFC 792)."""

from __future__ import annotations

import struct

ECHO_REPLY, ECHO_REQUEST = 0, 8
IP_HEADER_BYTES = 20


def echo_request(identifier: int, sequence: int) -> bytes:
    """Return an ICMP echo request (RFC 792).

    Args:
        identifier: What distinguishes our requests from others'.
        sequence: The request's number.

    Returns:
        The message, without an IP header.
    """
    payload = b"kernelvm" * 4
    unsigned = struct.pack(">BBHHH", ECHO_REQUEST, 0, 0, identifier, sequence) + payload
    checksum = internet_checksum(unsigned)
    return unsigned[:2] + checksum.to_bytes(2, "big") + unsigned[4:]


def is_echo_reply(packet: bytes, identifier: int, sequence: int) -> bool:
    """Return whether an IP packet is the reply to an echo request.

    Args:
        packet: With its IP header.
        identifier: As in the request.
        sequence: As in the request.

    Returns:
        False for anything else, too short packets included.
    """
    if len(packet) < IP_HEADER_BYTES:
        return False
    message = packet[(packet[0] & 0xF) * 4 :]
    expected = bytes([ECHO_REPLY, 0]), struct.pack(">HH", identifier, sequence)
    return (message[:2], message[4:8]) == expected


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071.

    Args:
        data: Of any length; an odd one counts as if a zero byte followed.
    """
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
