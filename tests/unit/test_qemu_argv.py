"""QEMU's command line, word by word."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import Machine
from pytest_kernelvm.vm.qemu.argv import (
    ON_TERMINAL,
    SANDBOX,
    Backends,
    Boot,
    MemoryFile,
    inherited_backends,
    qemu_argv,
)

CONSOLE, CHANNEL = Path("/run/console"), Path("/run/channel")
ENDS = inherited_backends(console=CONSOLE, channel=CHANNEL, qmp=7)
SANDBOXED = ("-sandbox", SANDBOX)
ALONE = ("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot")
CMDLINE = "console=ttyS0 panic=-1 printk.devkmsg=on liminix"


def boot(
    arch: str,
    *,
    initramfs: str | None = "/store/initramfs.cpio",
    cmdline: str = CMDLINE,
    fast_boot: bool = True,
    fixed_initramfs: bool = False,
    extra: tuple[str, ...] = (),
) -> Boot:
    row = ARCHES[arch]
    return Boot(
        arch=row,
        machine=Machine(memory_mib=128, cpu=row.cpu, fast_boot=fast_boot),
        image=Path("/store/kernels/1/vmlinux"),
        initramfs=Path(initramfs) if initramfs else None,
        cmdline=cmdline,
        fixed_initramfs=fixed_initramfs,
        extra=extra,
    )


MALTA_BEGINNING = (
    *("qemu-system-mips", "-M", "malta", "-cpu", "24Kf"),
    *SANDBOXED,
    *("-m", "128M"),
    *ALONE,
    *("-chardev", "pipe,id=console,path=/run/console", "-serial", "chardev:console"),
    *("-chardev", "pipe,id=channel,path=/run/channel", "-serial", "chardev:channel"),
    *("-chardev", "socket,id=qmp,fd=7", "-mon", "chardev=qmp,mode=control"),
    *("-kernel", "/store/kernels/1/vmlinux"),
)
MALTA_FAST = ("-icount", "shift=7", "-rtc", "clock=vm")


def test_malta() -> None:
    assert qemu_argv(boot("mips"), ENDS) == (
        *MALTA_BEGINNING,
        *("-initrd", "/store/initramfs.cpio", "-append", CMDLINE),
        *MALTA_FAST,
    )


def test_firmware_takes_the_place_of_qemus_bootloader() -> None:
    with_firmware = dataclasses.replace(
        boot("mips", fixed_initramfs=True, extra=("-device", "loader,more")),
        firmware=Path("/store/uboots/1/firmware"),
    )
    assert qemu_argv(with_firmware, ENDS) == (
        *MALTA_BEGINNING[:-2],
        *("-bios", "/store/uboots/1/firmware"),
        *("-device", "loader,file=/store/initramfs.cpio,addr=0x6000000,force-raw=on"),
        *MALTA_FAST,
        *("-device", "loader,more"),
    )


def test_malta_in_its_own_time() -> None:
    assert qemu_argv(boot("mips", fast_boot=False), ENDS) == (
        *MALTA_BEGINNING,
        *("-initrd", "/store/initramfs.cpio", "-append", CMDLINE),
    )


def test_malta_with_the_initramfs_at_its_fixed_address() -> None:
    """The address is the one that the built-in command line names, seen through KSEG0."""
    loader = "loader,file=/store/initramfs.cpio,addr=0x6000000,force-raw=on"
    assert qemu_argv(boot("mips", fixed_initramfs=True), ENDS) == (
        *MALTA_BEGINNING,
        *("-device", loader, "-append", CMDLINE),
        *MALTA_FAST,
    )
    assert "rd_start=0xffffffff86000000" in ARCHES["mips"].builtin_cmdline


def test_little_endian_malta_differs_in_qemu_alone() -> None:
    big, little = (qemu_argv(boot(arch), ENDS) for arch in ("mips", "mipsel"))
    assert little == ("qemu-system-mipsel", *big[1:])


@pytest.mark.parametrize("fixed_initramfs", [False, True])
def test_aarch64_has_no_fixed_address_and_no_fast_boot(fixed_initramfs: bool) -> None:
    argv = qemu_argv(
        boot("aarch64", fixed_initramfs=fixed_initramfs, cmdline="console=ttyAMA0"), ENDS
    )
    assert argv == (
        *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"),
        *SANDBOXED,
        *("-m", "128M"),
        *ALONE,
        *("-chardev", "pipe,id=console,path=/run/console", "-serial", "chardev:console"),
        *("-chardev", "pipe,id=channel,path=/run/channel"),
        *("-device", "virtio-serial-device"),
        *("-device", "virtserialport,chardev=channel"),
        *("-chardev", "socket,id=qmp,fd=7", "-mon", "chardev=qmp,mode=control"),
        *("-kernel", "/store/kernels/1/vmlinux"),
        *("-initrd", "/store/initramfs.cpio", "-append", "console=ttyAMA0"),
    )


def test_on_a_terminal_console_and_monitor_share_it() -> None:
    assert qemu_argv(boot("mips", fast_boot=False), ON_TERMINAL) == (
        *MALTA_BEGINNING[: MALTA_BEGINNING.index("-chardev")],
        *("-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"),
        *("-chardev", "null,id=channel", "-serial", "chardev:channel"),
        *("-mon", "chardev=console,mode=readline"),
        *("-kernel", "/store/kernels/1/vmlinux"),
        *("-initrd", "/store/initramfs.cpio", "-append", CMDLINE),
    )


def test_without_initramfs_cmdline_and_monitor() -> None:
    argv = qemu_argv(
        boot("mips", initramfs=None, cmdline="", fixed_initramfs=True, fast_boot=False),
        Backends(console="null", channel="null"),
    )
    assert argv[-2:] == ("-kernel", "/store/kernels/1/vmlinux")
    assert not {"-initrd", "-append", "-device", "-mon"} & set(argv)


def test_further_flags_come_last() -> None:
    assert qemu_argv(boot("mips", extra=("-d", "int")), ENDS)[-2:] == ("-d", "int")


def test_commas_in_paths() -> None:
    """Two stand for one where QEMU parses options; -initrd and -kernel take the path as it is."""
    path = "/store, of mine/a,b.cpio"
    fixed = qemu_argv(boot("mips", initramfs=path, fixed_initramfs=True), ENDS)
    assert fixed[fixed.index("-device") + 1] == (
        "loader,file=/store,, of mine/a,,b.cpio,addr=0x6000000,force-raw=on"
    )
    plain = qemu_argv(boot("mips", initramfs=path), ENDS)
    assert plain[plain.index("-initrd") + 1] == path


def test_without_the_sandbox() -> None:
    row = ARCHES["mips"]
    machine = Machine(memory_mib=128, cpu=row.cpu, fast_boot=True, sandbox=False)
    argv = qemu_argv(dataclasses.replace(boot("mips"), machine=machine), ENDS)
    assert "-sandbox" not in argv


@pytest.mark.parametrize(("shared", "share"), [(True, "on"), (False, "off")])
def test_memory_in_a_file(shared: bool, share: str) -> None:
    """A comma in a path is written twice."""
    memory = MemoryFile(path=Path("/store/a,b"), shared=shared)
    argv = qemu_argv(boot("mips"), ENDS, memory=memory)
    assert argv[-4:] == (
        *("-object", f"memory-backend-file,id=memory,size=128M,mem-path=/store/a,,b,share={share}"),
        *("-machine", "memory-backend=memory"),
    )


@pytest.mark.parametrize("arch", ["mips", "aarch64"])
def test_a_restored_machine_waits_and_reads_no_kernel(arch: str) -> None:
    argv = qemu_argv(boot(arch), ENDS, incoming=True)
    assert argv[-2:] == ("-incoming", "defer")
    assert not {"-kernel", "-initrd", "-append"} & {*argv}


@pytest.mark.parametrize(
    ("arch", "device"),
    [("mips", "virtio-net-pci,netdev=net0,romfile="), ("aarch64", "virtio-net-device,netdev=net0")],
)
@pytest.mark.parametrize(
    ("kind", "link", "backend"),
    [
        ("user", None, "user,id=net0,restrict=on"),
        ("outside", None, "user,id=net0"),
        ("link", 9, "socket,id=net0,fd=9"),
        ("link", None, "hubport,id=net0,hubid=0"),
    ],
)
def test_a_network_card(arch: str, device: str, kind: str, link: int | None, backend: str) -> None:
    with_card = dataclasses.replace(boot(arch), network=kind)
    argv = qemu_argv(
        with_card, inherited_backends(console=CONSOLE, channel=CHANNEL, qmp=7, link=link)
    )
    at = argv.index("-netdev")
    assert argv[at : at + 4] == ("-netdev", backend, "-device", device)
    # The agent's port is the last virtio device: so it has the first number.
    assert at < argv.index("-chardev")
    without = (*argv[:at], *argv[at + 4 :])
    assert without == qemu_argv(boot(arch), ENDS)
