"""Every image that an architecture's make can make, and a boot of a packed one."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Kernel
from pytest_kernelvm.toolchain.image_tools import IMAGE_TOOLS
from pytest_kernelvm.vm.machine.start import boot_guest

pytestmark = pytest.mark.slow


def with_images(cell: Cell, first: str) -> Cell:
    """The cell with all images, the first of which is booted; it is made from the same objects."""
    names = [
        name
        for name in cell.config.arch.images
        if name not in IMAGE_TOOLS or shutil.which(IMAGE_TOOLS[name].program)
    ]
    names.remove(first)
    kernel = dataclasses.replace(cell.config.kernel, images=(first, *names))
    return Cell(dataclasses.replace(cell.config, kernel=kernel), cell.store)


def is_elf(_kernel: Kernel, data: bytes) -> None:
    assert data.startswith(b"\x7fELF")


def is_bare(kernel: Kernel, data: bytes) -> None:
    """What objcopy takes out of vmlinux: its banner is there, its ELF head is not."""
    assert not data.startswith(b"\x7fELF")
    assert f"Linux version {kernel.release}".encode() in data


def is_packed(kernel: Kernel, data: bytes) -> None:
    assert gzip.decompress(data) == (kernel.directory / "Image").read_bytes()


def is_uboots(kernel: Kernel, data: bytes) -> None:
    """Its head has CRCs of itself and of what follows (U-Boot, include/image.h)."""
    magic, head_crc = struct.unpack_from(">II", data)
    size, crc = struct.unpack_from(">I8xI", data, 12)
    assert magic == 0x27051956
    assert zlib.crc32(data[:4] + bytes(4) + data[8:64]) == head_crc
    assert len(data) == 64 + size
    assert zlib.crc32(data[64:]) == crc
    assert f"Linux-{kernel.release}"[:32].encode() in data[:64]


LOOKS_RIGHT: dict[str, Callable[[Kernel, bytes], None]] = {
    "vmlinux": is_elf,
    "vmlinuz": is_elf,
    "vmlinux.bin": is_bare,
    "uImage": is_uboots,
    "Image": is_bare,
    "Image.gz": is_packed,
}


def test_all_images(cell: Cell, tmp_path: Path) -> None:
    packed = cell.config.arch.for_tests.compressed_image
    if not packed:
        pytest.skip(f"no compressed image is known for {cell.config.arch.name}")
    every = with_images(cell, packed)
    kernel = every.kernel
    for name in every.config.kernel.images:
        LOOKS_RIGHT[name](kernel, (kernel.directory / name).read_bytes())
    assert kernel.image.name == packed
    assert (kernel.directory / "vmlinux").read_bytes() == (
        cell.kernel.directory / "vmlinux"
    ).read_bytes()
    stripped = (kernel.directory / "vmlinux.stripped").read_bytes()
    assert stripped.startswith(b"\x7fELF")
    assert len(stripped) < (kernel.directory / "vmlinux").stat().st_size
    with boot_guest(every.bootable(modules=["nft_ct"]), tmp_path) as vm:
        assert vm.uname.release == kernel.release
        vm.modprobe("nft_ct")
        vm.power_off()
