"""The life of a guest: who sees it start, how it ends, and that nothing of it is left."""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.errors import (
    BootHang,
    GuestPanic,
    GuestSplat,
    KernelvmError,
    LaunchFailed,
    SyscallFailed,
)
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.machine.vm import Vm
from tests.fake_guest import (
    ABI,
    BOOT,
    PANIC,
    WARNING,
    do,
    fake_bootable,
    fake_guest,
    logged,
)
from tests.fake_guest import fake_qemu as fake_qemu
from tests.fake_qemu.kernel import SYSCALLS

pytestmark = pytest.mark.usefixtures("fake_qemu")

SHORT_S = 0.5


def test_watchers_see_a_guest_before_it_is_ready(tmp_path: Path) -> None:
    """It is whole by then."""
    seen: list[tuple[Vm, float]] = []

    def launched(vm: Vm) -> None:
        seen.append((vm, vm.ready_s))
        assert not vm.control.ended
        assert vm.qmp.query("query-status")["running"]

    with boot_guest(fake_bootable(tmp_path, "wait 0.3", *BOOT), tmp_path, launched) as vm:
        assert seen == [(vm, 0.0)]
        assert vm.ready_s >= 0.3


def test_a_failed_guest_that_is_to_be_saved_stays_alive(tmp_path: Path) -> None:
    alive: list[bool] = []

    def launched(vm: Vm) -> None:
        vm.control.readiness.on_failure = lambda: alive.append(not vm.control.ended)

    bootable = fake_bootable(tmp_path, *BOOT[:2], boot_s=SHORT_S)
    with pytest.raises(BootHang), boot_guest(bootable, tmp_path, launched):
        pass
    assert alive == [True]


def test_a_guest_that_is_not_launched_leaves_no_descriptors(tmp_path: Path) -> None:
    bootable = fake_bootable(tmp_path)
    before = sorted(Path("/proc/self/fd").iterdir())
    with (
        pytest.raises(LaunchFailed, match="No such file or directory"),
        boot_guest(bootable, tmp_path / "missing"),
    ):
        pass
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_guest_ends_with_its_block(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        with vm:
            vm.ping()
        with pytest.raises(ProcessLookupError):
            os.kill(vm.pid, 0)
        assert vm.control.conclude("the test", ask=True) is None


def test_splats_in_the_log_at_the_blocks_end_are_reported(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        vm.control.answer_for(refuse=False)
        with vm:
            do(vm, *logged(WARNING))
        assert type(vm.control.conclude("the test", ask=True)) is GuestSplat


@pytest.mark.parametrize("end", ["power_off", "reboot"])
def test_the_test_may_end_the_guest(end: str, tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        getattr(vm, end)()
        assert vm.wait_end(5) == 0
        assert vm.control.conclude("the test", ask=True) is None


def test_a_kernel_that_refuses_to_end(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        do(vm, "refuse reboot 1")
        with pytest.raises(SyscallFailed, match="power off: Operation not permitted"):
            vm.power_off()
        vm.ping()


@pytest.mark.parametrize("how", ["kill", "quit"])
def test_a_guest_that_the_test_kills(how: str, tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        if how == "kill":
            vm.kill()
        else:
            vm.qmp.execute("quit")
        assert vm.wait_end(5) in (0, -signal.SIGKILL)
        assert vm.control.conclude("the test", ask=True) is None


def test_a_panicked_guest_stays_until_its_end_is_waited_for(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        vm.control.hold_panicked()
        with pytest.raises(GuestPanic):
            do(vm, *PANIC, "event SHUTDOWN guest-reset", "event STOP", "mute")
        assert not vm.control.ended
        assert vm.wait_end(5) == 0


def test_the_end_of_a_test_asks_once(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        vm.ping()
        for requests in (1, 0):
            before = vm.control.channel.last_id
            assert vm.control.conclude("the test", ask=True) is None
            assert vm.control.channel.last_id - before == requests


@dataclass(frozen=True, kw_only=True)
class OtherKernel:
    """What a guest enters by kexec."""

    directory: Path
    abi: Abi = ABI

    def bootable(self, *, cmdline: str = "", cookie: bool = True) -> Bootable:
        assert (cmdline, cookie) == ("said.by=kexec", True)
        return dataclasses.replace(fake_bootable(self.directory), abi=self.abi)


def test_another_kernel_is_entered(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with fake_guest(tmp_path) as vm:
        vm.kexec(OtherKernel(directory=other), cmdline="said.by=kexec")
        assert vm.boot.image == other / "Image"
        assert vm.read("/proc/version")
        assert "Linux version 6.12.1" in vm.console.text


def test_another_kernel_has_other_system_calls(tmp_path: Path) -> None:
    newer = dataclasses.replace(ABI, syscalls={**SYSCALLS, "newer": SYSCALLS["getpid"]})
    with fake_guest(tmp_path) as vm:
        vm.kexec(OtherKernel(directory=tmp_path, abi=newer), cmdline="said.by=kexec")
        assert vm.syscall("newer") == vm.syscall("getpid")


def test_a_kernel_that_has_no_kexec(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        do(vm, "refuse kexec_file_load 38")
        with pytest.raises(SyscallFailed, match="Function not implemented"):
            vm.kexec(OtherKernel(directory=tmp_path), cmdline="said.by=kexec")
        vm.ping()


def test_a_console_is_typed_on_and_searched(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        do(vm, "console login: ")
        assert vm.console.expect("login: ")
        with pytest.raises(KernelvmError, match=r"nothing fitting within 0\.2 s"):
            vm.console.expect("password", timeout_s=0.2)
