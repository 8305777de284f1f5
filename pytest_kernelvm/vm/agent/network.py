"""A guest's network card, set up and used by system calls; there is no shell in the guest.

Settings go to the kernel in rtnetlink messages (include/uapi/linux/rtnetlink.h, man 7 rtnetlink),
which are the same on all architectures but for the byte order.
"""

from __future__ import annotations

import ipaddress
import os
import re
import struct
import time
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.errors import BadInput, Evidence, GuestHang, HarnessError, SyscallFailed
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.agent.icmp import echo_request, is_echo_reply
from pytest_kernelvm.vm.agent.requests import Agent
from pytest_kernelvm.vm.qemu.argv import NETDEV
from pytest_kernelvm.vm.qemu.qmp import Qmp

# include/linux/socket.h, include/uapi/linux/in.h; SOCK_RAW is 3 on mips too, unlike the others.
AF_INET, AF_NETLINK, SOCK_RAW, IPPROTO_ICMP = 2, 16, 3, 1
F_SETFL = 4
POLLIN = 1

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, if.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE = 1, 4, 0x400, 0x100
NLMSG_ERROR = 2
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
IFLA_ADDRESS, IFA_ADDRESS, IFA_LOCAL, RTA_OIF, RTA_GATEWAY = 1, 1, 2, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
IFF_UP = 1

PACKET_BYTES = 1500
# How long the agent waits for a packet at a time; it can do nothing else meanwhile.
WAIT_S = 0.2
CARRIER_S = 10.0

# What QEMU's user-mode network gives its guest (man qemu-system, -netdev user).
USER_ADDRESS, USER_GATEWAY = "10.0.2.15/24", "10.0.2.2"
_FORWARDED = re.compile(r"(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+([\d.]+)\s+(\d+)\s+([\d.]+)\s+(\d+)")


class NetworkGuest(Protocol):
    """What the network needs of a guest."""

    @property
    def label(self) -> str:
        """The guest's name in messages."""

    @property
    def qmp(self) -> Qmp:
        """QEMU's machine protocol."""

    @property
    def directory(self) -> Path:
        """Where the guest's logs go."""

    def list(self, path: str) -> tuple[str, ...]:
        """Return the names in a directory."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""

    def read(self, path: str) -> str:
        """Return a file's text."""

    def modprobe(self, *args: str) -> str:
        """Run modprobe."""


def new_mac() -> str:
    """Return an Ethernet address that no other guest has, from QEMU's locally administered ones."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


class Network:
    """`vm.network`: the network card of one guest.

    Args:
        guest: Whose card it is.
        agent: Of the guest.
        modules: The card's driver, in the order of loading.
        kind: The boot's kind of network, empty for none.
        restored: Whether the guest comes from a snapshot.

    Attributes:
        name: The interface's name in the guest; empty before `set_up`.
        mac: Its Ethernet address; empty before `set_up`.
    """

    def __init__(
        self,
        guest: NetworkGuest,
        agent: Agent,
        modules: tuple[str, ...],
        *,
        kind: str,
        restored: bool,
    ) -> None:
        self._guest = guest
        self._agent = agent
        self._order = struct_order(agent.byteorder)
        self._modules = modules
        self._kind = kind
        self._restored = restored
        self._pings = 0
        self.name = ""
        self.mac = ""
        self._address = ""

    @property
    def address(self) -> str:
        """The IPv4 address; BadInput is raised if the test asked for no network."""
        if not self._address:
            self._no_network()
        return self._address

    def _no_network(self) -> NoReturn:
        raise BadInput(
            f"{self._guest.label} has no network",
            Evidence(
                expected="a test that asks for one",
                next_step='@pytest.mark.kernelvm(network="user"), or the fixture `vms`',
            ),
        )

    @property
    def capture(self) -> Path:
        """The file with all packets, as wireshark and tcpdump read it."""
        return self._guest.directory / "network.pcap"

    def set_up(self, address: str, *, gateway: str = "") -> None:
        """Load the driver, give the card an address of its own on each layer, and start it.

        Raises HarnessError if there is no card, if it has no link, or if it was running in the
        snapshot that the guest is from, as others of that snapshot have its addresses. Raises
        BadInput if the test asked for no network.

        Args:
            address: With its prefix, `10.0.0.1/24`.
            gateway: Of the default route; empty for none.
        """
        if not self._kind:
            self._no_network()
        self._guest.qmp.query(
            "object-add",
            **{"qom-type": "filter-dump", "id": "dump", "netdev": NETDEV},
            file=str(self.capture),
        )
        self.name = self._card()
        index = int(self._guest.read(f"/sys/class/net/{self.name}/ifindex"))
        self._check_down()
        self.mac = new_mac()
        interface = ipaddress.IPv4Interface(address)
        raw = interface.ip.packed
        hardware = bytes.fromhex(self.mac.replace(":", ""))
        self._send_netlink(
            f"MAC {self.mac}",
            RTM_NEWLINK,
            self._link(index) + self._attribute(IFLA_ADDRESS, hardware),
        )
        self._send_netlink(f"{self.name} up", RTM_NEWLINK, self._link(index, up=True))
        self._send_netlink(
            f"address {address}",
            RTM_NEWADDR,
            struct.pack(f"{self._order}BBBBI", AF_INET, interface.network.prefixlen, 0, 0, index)
            + self._attribute(IFA_LOCAL, raw)
            + self._attribute(IFA_ADDRESS, raw),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        if gateway:
            self._set_route(index, gateway)
        self._await_carrier()
        self._address = str(interface.ip)

    def _set_route(self, index: int, gateway: str) -> None:
        route = (AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
        self._send_netlink(
            f"route by {gateway}",
            RTM_NEWROUTE,
            struct.pack(f"{self._order}8BI", *route)
            + self._attribute(RTA_GATEWAY, ipaddress.IPv4Address(gateway).packed)
            + self._attribute(RTA_OIF, struct.pack(f"{self._order}I", index)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )

    def _card(self) -> str:
        """Return the interface that has a device behind it, after loading its driver if need be."""
        for loading in (False, True):
            if loading:
                for module in self._modules:
                    self._guest.modprobe(module)
            for name in self._guest.list("/sys/class/net"):
                if self._guest.exists(f"/sys/class/net/{name}/device"):
                    return name
        raise HarnessError(
            f"{self._guest.label}: no network card after loading {', '.join(self._modules)}",
            Evidence(seen=f"/sys/class/net has {' '.join(self._guest.list('/sys/class/net'))}"),
        )

    def _check_down(self) -> None:
        flags = int(self._guest.read(f"/sys/class/net/{self.name}/flags"), 0)
        if self._restored and flags & IFF_UP:
            raise HarnessError(
                f"{self._guest.label}: {self.name} was running when the snapshot was made",
                Evidence(
                    expected="a card that gets its address when the guest is restored",
                    seen="one whose address all guests of this snapshot have",
                    next_step='@pytest.mark.kernelvm(fresh="boot") boots such a guest',
                ),
            )

    def _await_carrier(self) -> None:
        """Wait until packets are taken: the kernel looks at the link a moment after `up`."""
        deadline = Deadline(CARRIER_S)
        while self._guest.read(f"/sys/class/net/{self.name}/carrier").strip() != "1":
            if deadline.passed:
                raise HarnessError(f"{self._guest.label}: {self.name} has no link")

    def _link(self, index: int, *, up: bool = False) -> bytes:
        change = IFF_UP if up else 0
        return struct.pack(f"{self._order}BBHiII", 0, 0, 0, index, change, change)

    def _attribute(self, kind: int, value: bytes) -> bytes:
        head = struct.pack(f"{self._order}HH", 4 + len(value), kind)
        return head + value + bytes(-len(value) % 4)

    def _send_netlink(self, what: str, kind: int, body: bytes, flags: int = 0) -> None:
        """Send one rtnetlink message and read its acknowledgement."""
        head = (16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
        message = struct.pack(f"{self._order}IHHII", *head) + body
        batch = Batch()
        given = batch.data(message)
        answer = batch.space(256)
        socket = batch.call("socket", AF_NETLINK, SOCK_RAW, 0)
        batch.call("write", socket, given, len(message))
        batch.call("read", socket, answer, 256, out=(1, None))
        batch.call("close", socket, always=True)
        reply = self._agent.transact(batch, what=what)
        refused = [-result for result in reply.results if result < 0]
        if not refused:
            _, of_kind, error = struct.unpack_from(f"{self._order}IH10xi", reply.outputs[2])
            assert of_kind == NLMSG_ERROR
            refused = [-error] if error else []
        if refused:
            number = self._agent.abi.host_errno(refused[0])
            raise SyscallFailed(f"{what}: {os.strerror(number)}", errno=number)

    def forward(self, port: int, protocol: Literal["tcp", "udp"] = "tcp") -> int:
        """Have QEMU pass a port of this host's 127.0.0.1 on to one of the guest.

        Raises BadInput without a user-mode network.

        Args:
            port: Of the guest.
            protocol: Of the port.

        Returns:
            The host's port, a free one.

        Raises:
            HarnessError: If QEMU does not do so.
        """
        if self._kind not in ("user", "outside"):
            self._no_network()
        line = f"hostfwd_add {NETDEV} {protocol}:127.0.0.1:0-:{port}"
        self._guest.qmp.execute("human-monitor-command", command_line=line)
        shown = self._guest.qmp.monitor("info usernet")
        ports = [
            int(found[3])
            for found in _FORWARDED.finditer(shown)
            if found[1].lower() == protocol and int(found[5]) == port
        ]
        if not ports:
            raise HarnessError(f"QEMU does not forward to port {port}", Evidence(excerpt=shown))
        return ports[-1]

    def ping(self, address: str, timeout_s: float = 10.0) -> float:
        """Send ICMP echo requests until one is answered.

        Raises BadInput if the test asked for no network.

        Args:
            address: An IPv4 address.
            timeout_s: Seconds on the host's clock.

        Returns:
            The seconds that it took.

        Raises:
            GuestHang: If none is answered in time.
        """
        if not self._address:
            self._no_network()
        started = time.monotonic()
        deadline = Deadline(timeout_s)
        socket = self._ping_socket(address)
        try:
            while not deadline.passed:
                self._pings += 1
                if self._echo(socket, self._pings & 0xFFFF, address):
                    return time.monotonic() - started
        finally:
            batch = Batch()
            batch.call("close", socket)
            self._agent.transact(batch, what="close")
        raise GuestHang(
            f"{self._guest.label}: {address} does not answer pings within {timeout_s:g} s",
            Evidence(where=(str(self.capture),)),
        )

    def _ping_socket(self, address: str) -> int:
        """Return the descriptor of a raw socket that sends to and hears one address."""
        batch = Batch()
        family = struct.pack(f"{self._order}H", AF_INET)
        peer = batch.data(family + bytes(2) + ipaddress.IPv4Address(address).packed + bytes(8))
        socket = batch.call("socket", AF_INET, SOCK_RAW, IPPROTO_ICMP)
        batch.call("connect", socket, peer, 16)
        batch.call("fcntl", socket, F_SETFL, self._agent.abi.guest_open_flags(os.O_NONBLOCK))
        reply = self._agent.transact(batch, what=f"a socket for pings to {address}")
        for result in reply.results:
            if result < 0:
                number = self._agent.abi.host_errno(-result)
                raise SyscallFailed(f"ping {address}: {os.strerror(number)}", errno=number)
        return reply.results[0]

    def _echo(self, socket: int, sequence: int, address: str) -> bool:
        """Send one request; return whether its reply came before long."""
        abi = self._agent.abi
        poll = "ppoll_time64" if "ppoll_time64" in abi.syscalls else "ppoll"
        identifier = os.getpid() & 0xFFFF
        request = echo_request(identifier, sequence)
        deadline = Deadline(WAIT_S)
        sent = False
        while not sent or not deadline.passed:
            batch = Batch()
            packet = batch.data(request)
            watched = batch.data(struct.pack(f"{self._order}ihh", socket, POLLIN, 0))
            patience = batch.data(struct.pack(f"{self._order}qq", 0, int(WAIT_S * 1e9)))
            buffer = batch.space(PACKET_BYTES)
            if not sent:
                batch.call("write", socket, packet, len(request))
            batch.call(poll, watched, 1, patience, 0, 0)
            batch.call("read", socket, buffer, PACKET_BYTES, out=(1, None))
            reply = self._agent.transact(batch, what=f"ping {address}")
            if not sent and reply.results[0] < 0:
                # EHOSTUNREACH, while nobody has answered for the address yet.
                return False
            sent = True
            if is_echo_reply(reply.outputs[-1], identifier, sequence):
                return True
        return False
