"""Network cards: to another guest of the test, and to the host by forwarded ports."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, LinkedVms, Vm
from pytest_kernelvm.errors import BadInput, GuestHang, HarnessError
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.vm.agent.network import AF_INET, Network

pytestmark = pytest.mark.slow


def order(vm: Vm) -> str:
    return ">" if vm.boot.arch.endianness == "big" else "<"


def sockaddr(vm: Vm, port: int, address: str = "0.0.0.0") -> bytes:
    """Return a struct sockaddr_in as this guest lays it out."""
    return (
        struct.pack(f"{order(vm)}H", AF_INET)
        + struct.pack(">H", port)
        + socket.inet_aton(address)
        + bytes(8)
    )


def received(vm: Vm, descriptor: int) -> bytes:
    """Return what one read(2) gives; the guest waits for it."""
    batch = Batch()
    batch.call("read", descriptor, batch.space(256), 256, out=(1, None))
    return vm.control.transact(batch).outputs[0]


def test_two_guests_ping_each_other(vms: LinkedVms) -> None:
    a, b = vms("a", "b")
    assert (a.network.address, b.network.address) == ("10.0.0.1", "10.0.0.2")
    assert a.network.ping("10.0.0.2") > 0
    assert b.network.ping("10.0.0.1") > 0
    assert (a.label[-2:], b.label[-2:]) == ("-a", "-b")
    with pytest.raises(GuestHang, match=r"10\.0\.0\.3 does not answer pings within 1 s"):
        a.network.ping("10.0.0.3", timeout_s=1.0)


def test_they_speak_udp(vms: LinkedVms) -> None:
    a, b = vms("a", "b")
    kind = a.boot.arch.sock_dgram
    ear = b.syscall("socket", AF_INET, kind, 0)
    b.syscall("bind", ear, sockaddr(b, 7), 16)
    mouth = a.syscall("socket", AF_INET, kind, 0)
    a.syscall("connect", mouth, sockaddr(a, 7, "10.0.0.2"), 16)
    text = bytes(range(1, 200))
    a.syscall("write", mouth, text, len(text))
    assert received(b, ear) == text


@pytest.mark.kernelvm(fresh="restore")
def test_restored_guests_have_macs_of_their_own(vms: LinkedVms) -> None:
    a, b = vms("a", "b")
    for vm in (a, b):
        assert vm.snapshot is not None
        assert vm.read(f"/sys/class/net/{vm.network.name}/address").strip() == vm.network.mac
    assert a.network.mac != b.network.mac
    a.network.ping("10.0.0.2")
    neighbours = a.read("/proc/net/arp").splitlines()[1:]
    assert [(line.split()[0], line.split()[3]) for line in neighbours] == [
        ("10.0.0.2", b.network.mac)
    ]


@pytest.mark.kernelvm(fresh="boot")
def test_booted_guests_too(vms: LinkedVms) -> None:
    a, b = vms("one", "other")
    assert a.snapshot is None
    assert a.network.mac != b.network.mac
    assert a.network.ping(b.network.address) > 0


def test_all_packets_are_captured(vms: LinkedVms) -> None:
    a, b = vms("a", "b")
    a.network.ping(b.network.address)
    a.power_off()
    b.power_off()
    for vm in (a, b):
        capture = vm.network.capture.read_bytes()
        assert capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4")
        assert capture.count(b"kernelvm" * 4) >= 2


def test_a_ping_to_a_guest_that_has_ended_times_out(vms: LinkedVms) -> None:
    a, b = vms("a", "b")
    b.power_off()
    with pytest.raises(GuestHang):
        a.network.ping("10.0.0.2", timeout_s=1.0)
    assert a.read("/proc/version")


@pytest.mark.kernelvm(network="user")
def test_the_host_reaches_a_forwarded_port(vm: Vm) -> None:
    listener = vm.syscall("socket", AF_INET, vm.boot.arch.sock_stream, 0)
    vm.syscall("bind", listener, sockaddr(vm, 80), 16)
    vm.syscall("listen", listener, 1)
    port = vm.network.forward(80)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as host:
        host.sendall(b"from the host")
        peer = vm.syscall("accept4", listener, 0, 0, 0)
        assert received(vm, peer) == b"from the host"
        vm.syscall("write", peer, b"from the guest", 14)
        assert host.recv(64) == b"from the guest"


@pytest.mark.kernelvm(network="user")
def test_ports_of_one_guest_are_not_those_of_another(vm: Vm, new_vm: BootVm) -> None:
    other = new_vm()
    ports = {vm.network.forward(80), vm.network.forward(80, "udp"), other.network.forward(80)}
    assert len(ports) == 3
    assert vm.network.mac != other.network.mac


@pytest.mark.kernelvm(network="user")
def test_only_forwarded_ports_connect_to_the_host(vm: Vm) -> None:
    """QEMU's own gateway answers; a server of the host's is not reached through it."""
    assert vm.network.ping("10.0.2.2") > 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        mouth = vm.syscall("socket", AF_INET, vm.boot.arch.sock_stream, 0)
        with pytest.raises(OSError, match="connect"):
            vm.syscall("connect", mouth, sockaddr(vm, port, "10.0.2.2"), 16)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.kernelvm(network="outside")
def test_network_outside_reaches_what_the_host_reaches(vm: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        mouth = vm.syscall("socket", AF_INET, vm.boot.arch.sock_stream, 0)
        vm.syscall("connect", mouth, sockaddr(vm, server.getsockname()[1], "10.0.2.2"), 16)
        peer, _ = server.accept()
        with peer:
            vm.syscall("write", mouth, b"out", 3)
            assert peer.recv(3) == b"out"


def test_guests_have_no_network_by_default(vm: Vm) -> None:
    assert [n for n in vm.list("/sys/class/net") if vm.exists(f"/sys/class/net/{n}/device")] == []
    assert "-netdev" not in Path(f"/proc/{vm.pid}/cmdline").read_text().split("\0")
    for use in (
        lambda: vm.network.address,
        lambda: vm.network.forward(80),
        lambda: vm.network.ping("10.0.0.1"),
        lambda: vm.network.set_up("10.0.0.1/24"),
    ):
        with pytest.raises(BadInput, match="has no network"):
            use()


@pytest.mark.kernelvm(network="user", fresh="restore")
def test_a_card_that_ran_in_the_snapshot_is_refused(vm: Vm) -> None:
    """As if a builtin driver had started it before the snapshot was made."""
    again = Network(
        vm,
        vm.control,
        vm.boot.arch.network_modules,
        kind="user",
        restored=vm.snapshot is not None,
    )
    vm.qmp.query("object-del", id="dump")
    with pytest.raises(HarnessError, match="was running when the snapshot was made") as refused:
        again.set_up("10.0.2.15/24")
    assert 'fresh="boot"' in refused.value.evidence.next_step


def test_invalid_network_arguments_are_refused(vms: LinkedVms, boot_vm: BootVm) -> None:
    with pytest.raises(TypeError, match="two guests have two names"):
        vms("a", "a")
    with pytest.raises(TypeError, match="not on another network"):
        vms("a", "b", network="user")
    with pytest.raises(TypeError, match="network is one of user, outside, not 'link'"):
        boot_vm(network="link")
