"""Packets as they are on the wire."""

from __future__ import annotations

import re
import struct

from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.vm.agent.icmp import echo_request, internet_checksum, is_echo_reply
from pytest_kernelvm.vm.agent.network import _FORWARDED, new_mac

IP_HEADER = bytes([0x45]) + bytes(19)
OPTIONS = bytes([0x46]) + bytes(23)

# What QEMU 7.2 says to `info usernet`.
USERNET = """\
Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  UDP[HOST_FORWARD]  19       127.0.0.1 46437       10.0.2.15    53     0     0
  TCP[HOST_FORWARD]  18       127.0.0.1 39391       10.0.2.15    80     0     0
"""


def test_the_checksum_of_the_standard() -> None:
    """The example of RFC 1071, section 3."""
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_the_checksum_of_a_request(identifier: int, sequence: int) -> None:
    request = echo_request(identifier, sequence)
    assert internet_checksum(request) == 0
    assert struct.unpack(">BBHHH", request[:8])[::4] == (8, sequence)


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from([IP_HEADER, OPTIONS]))
def test_its_reply_is_known(identifier: int, sequence: int, header: bytes) -> None:
    request = echo_request(identifier, sequence)
    reply = header + b"\0" + request[1:]
    assert is_echo_reply(reply, identifier, sequence)
    assert not is_echo_reply(header + request, identifier, sequence)
    assert not is_echo_reply(reply, identifier, sequence ^ 1)
    assert not is_echo_reply(reply, identifier ^ 1, sequence)


@given(st.binary(max_size=60))
def test_nonsense_is_no_reply(packet: bytes) -> None:
    assert not is_echo_reply(packet, 0xABCD, 0x1234) or b"\xab\xcd\x12\x34" in packet


def test_macs_are_local_and_differ() -> None:
    macs = {new_mac() for _ in range(100)}
    assert len(macs) > 90
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac) for mac in macs)


def test_ports_that_qemu_tells() -> None:
    found = [match.group(1, 3, 5) for match in _FORWARDED.finditer(USERNET)]
    assert found == [("UDP", "46437", "53"), ("TCP", "39391", "80")]
