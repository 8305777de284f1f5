"""A file system in memory that the kernel is kept off, put there by QEMU's loader device."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.qemu.argv import loader_argv

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]

IMAGE_BYTES = 1 << 20
# Below the end of 128 MiB, where memory begins at 0.
ADDRESS = 0x0700_0000
CONTENT = "kept in memory\n"
MODULES = ("phram", "mtdblock", "ext4")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if not shutil.which("mke2fs"):
        pytest.skip("apt-get install e2fsprogs")
    root = tmp_path / "root"
    (root / "nix/store").mkdir(parents=True)
    (root / "nix/store/file").write_text(CONTENT)
    file = tmp_path / "root.ext4"
    argv: list[str | Path] = [
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-b",
        "1024",
        "-d",
        root,
        file,
        f"{IMAGE_BYTES >> 10}",
    ]
    run(argv, timeout_s=60)
    return file


def bootable(cell: Cell, image: Path | None) -> Bootable:
    """Return a guest with a phram device and a kernel that is kept below it.

    QEMU's bootloader would put the initramfs at memory's end, where the kernel may not look.
    Without a device tree's node phram maps memory so that memcpy() must be able to read it at any
    address.
    """
    arch = cell.config.arch
    fixed = arch.fixed_initramfs
    if not fixed or arch.memory_address or not arch.reads_uncached:
        pytest.skip(f"{arch.name} has no fixed place for an initramfs below such a device")
    words = f"mem={ADDRESS >> 20}M phram.phram=rootfs,{ADDRESS:#x},{IMAGE_BYTES:#x}"
    made_of = cell.bootable(modules=MODULES, cmdline=f"{fixed.cmdline} {words}")
    extra = tuple(loader_argv(image, ADDRESS)) if image else ()
    boot = dataclasses.replace(made_of.boot, fixed_initramfs=True, extra=extra)
    return dataclasses.replace(made_of, boot=boot)


def test_a_file_system_outside_of_the_kernels_memory(
    cell: Cell, image: Path, tmp_path: Path
) -> None:
    with boot_guest(bootable(cell, image), tmp_path) as vm:
        vm.modprobe("-a", *MODULES)
        assert '"rootfs"' in vm.read("/proc/mtd")
        vm.mkdir("/persist")
        vm.mount("/dev/mtdblock0", "/persist", "ext4")
        assert vm.read("/persist/nix/store/file") == CONTENT
        vm.write("/persist/nix/store/file", "changed\n")
        vm.syscall("umount2", "/persist", 0)
        vm.mount("/dev/mtdblock0", "/persist", "ext4")
        assert vm.read("/persist/nix/store/file") == "changed\n"
        total_kib = int(vm.read("/proc/meminfo").split()[1])
        assert total_kib * 1024 < ADDRESS


def test_without_the_image_it_is_no_file_system(cell: Cell, tmp_path: Path) -> None:
    with boot_guest(bootable(cell, None), tmp_path) as vm:
        vm.modprobe("-a", *MODULES)
        vm.mkdir("/persist")
        with pytest.raises(OSError, match="Invalid argument"):
            vm.mount("/dev/mtdblock0", "/persist", "ext4")
