"""A second kernel, loaded by the first one and entered without QEMU's or the firmware's help."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, replace

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.vm.agent.files import AT_FDCWD, Files
from pytest_kernelvm.vm.bootpath.first_stage import (
    KernelInMemory,
    LoadedBytes,
    read_image,
    stage_entry,
    yamon_stage,
)
from pytest_kernelvm.vm.bootpath.layout import page_up
from pytest_kernelvm.vm.qemu.argv import Boot

# The guest's directory of what is to be loaded; files that are there are not sent again.
DIRECTORY = "/kexec"

# Sizes of one kexec_segment's fields (include/uapi/linux/kexec.h).
_POINTERS = {32: "I", 64: "Q"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KexecSegment:
    """A file that is loaded.

    Attributes:
        path: Where the guest has it.
        content: Its bytes.
        address: The physical address, None where the kernel decides.
        room_bytes: How much memory it gets if that is more than its content; the rest is zero.
    """

    path: str
    content: bytes
    address: int | None = None
    room_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class KexecImage:
    """All that is loaded to enter a second kernel.

    Attributes:
        segments: The files.
        entry: The physical address that is jumped to, None where the kernel decides.
        cmdline: The second kernel's command line.
    """

    segments: tuple[KexecSegment, ...]
    entry: int | None
    cmdline: str


def kexec_image(boot: Boot, device_tree: bytes = b"") -> KexecImage:
    """Return what the first kernel is given to boot a second one as QEMU would.

    Args:
        boot: What QEMU would boot.
        device_tree: What the second kernel finds in its registers; empty for none. Without one, a
            first stage of ours passes the command line where the architecture wants it in
            registers.

    Raises:
        BadInput: There is no way to pass a tree or to load a kernel, or no initramfs.
    """
    if not boot.arch.kexec_symbol:
        raise BadInput(f"kexec is not known to work on {boot.arch.name}")
    if boot.initramfs is None:
        raise BadInput("the kernel that kexec enters has no initramfs")
    initramfs = boot.initramfs.read_bytes()
    if not boot.arch.first_stage:
        if device_tree:
            raise BadInput(
                f"on {boot.arch.name} kexec makes the second kernel's tree by itself",
                Evidence(next_step="pass no device_tree"),
            )
        segments = (_segment(boot.image.read_bytes()), _segment(initramfs))
        return KexecImage(segments=segments, entry=None, cmdline=boot.cmdline)
    return _by_segments(boot, initramfs, device_tree)


def _by_segments(boot: Boot, initramfs: bytes, device_tree: bytes) -> KexecImage:
    arch, fixed = boot.arch, boot.arch.fixed_initramfs
    assert arch.first_stage is not None
    assert fixed is not None
    image = read_image(boot.image, arch)
    if image.entry == stage_entry(arch):
        raise BadInput(
            "only a first stage can enter the second kernel, which has a tree of its own",
            Evidence(next_step="kexec the plain cell, with device_tree="),
        )
    line = boot.cmdline
    if not boot.fixed_initramfs:
        where = arch.first_stage.virtual + fixed.address | 0xFFFFFFFF_00000000
        line = f"rd_start={where:#x} rd_size={len(initramfs)} {line}"
    if device_tree:
        handed = LoadedBytes(address=arch.first_stage.address, content=device_tree)
        entry = image.entry - arch.first_stage.virtual
    else:
        handed = yamon_stage(
            arch, image.entry, cmdline=line, memory_bytes=boot.machine.memory_mib << 20
        )
        entry = stage_entry(arch) - arch.first_stage.virtual
    archive = LoadedBytes(address=fixed.address, content=initramfs)
    _refuse_overlaps(image, handed, archive, boot.machine.memory_mib << 20)
    # If the command line has a fixed size, what lies behind a smaller archive must be zero.
    room = fixed.size_bytes if boot.fixed_initramfs else 0
    segments = (
        _segment(image.loaded.content, image.loaded.address),
        _segment(handed.content, handed.address),
        _segment(archive.content, archive.address, room),
    )
    return KexecImage(segments=segments, entry=entry, cmdline=line)


def _refuse_overlaps(
    image: KernelInMemory, handed: LoadedBytes, archive: LoadedBytes, memory_bytes: int
) -> None:
    ends = (handed.address, archive.address, memory_bytes)
    for each, end in zip((image.loaded, handed, archive), ends, strict=True):
        if each.end > end:
            raise BadInput(
                f"what is loaded at {each.address:#x} reaches to {each.end:#x}",
                Evidence(expected=f"no farther than {end:#x}"),
            )


def _segment(content: bytes, address: int | None = None, room_bytes: int = 0) -> KexecSegment:
    name = hashlib.sha256(content).hexdigest()[:16]
    path = f"{DIRECTORY}/{name}"
    return KexecSegment(path=path, content=content, address=address, room_bytes=room_bytes)


def with_root_of(second: Boot, first: Boot) -> Boot:
    """Return what to enter from a guest in whose memory there is a root file system already.

    The image lies where the first boot has put it.

    Args:
        second: What would be booted without a first kernel.
        first: What the guest was booted from.

    Raises:
        BadInput: The second kernel needs a root, and the guest has none.
    """
    if not second.root:
        return second
    if not first.root:
        raise BadInput(
            "the second kernel needs a root file system that is not in this guest's memory",
            Evidence(next_step="boot the first one with a root of the same kind"),
        )
    line = second.cmdline.replace(second.root_words, first.root_words)
    return replace(
        second,
        cmdline=line,
        root=first.root,
        root_address=first.root_address,
        root_words=first.root_words,
        device_tree=first.device_tree,
    )


def kexec_files(boot: Boot, device_tree: bytes = b"") -> dict[str, bytes]:
    """Return the files, by path, that a guest can be given beforehand, to spare sending them.

    Args:
        boot: What is to be entered.
        device_tree: As of `kexec_image`.
    """
    return {segment.path: segment.content for segment in kexec_image(boot, device_tree).segments}


def load(vm: Files, boot: Boot, device_tree: bytes = b"") -> None:
    """Have the guest's kernel load another one; it is entered by reboot(2).

    Raises SyscallFailed with the guest's errno, ENOSYS where the kernel lacks kexec.

    Args:
        vm: The guest.
        boot: What is to be entered.
        device_tree: As of `kexec_image`.
    """
    image = kexec_image(boot, device_tree)
    if not vm.exists(DIRECTORY):
        vm.mkdir(DIRECTORY)
    for segment in image.segments:
        if not vm.exists(segment.path) or vm.stat(segment.path, follow=True).size_bytes != len(
            segment.content
        ):
            vm.write(segment.path, segment.content)
    if image.entry is None:
        _load_files(vm, image)
    else:
        _load_segments(vm, image, image.entry, boot)


def _load_files(vm: Files, image: KexecImage) -> None:
    """kexec_file_load(2): the kernel places it all and makes the tree."""
    opened = [_open(vm, segment.path) for segment in image.segments]
    try:
        length = len(image.cmdline.encode()) + 1
        vm.syscall("kexec_file_load", *opened, length, image.cmdline, 0)
    finally:
        for descriptor in opened:
            vm.syscall("close", descriptor)


def _load_segments(vm: Files, image: KexecImage, entry: int, boot: Boot) -> None:
    """kexec_load(2), from memory that the agent gets by brk(2), as that needs few arguments."""
    sizes = [len(segment.content) for segment in image.segments]
    before = vm.syscall("brk", 0)
    start = page_up(before)
    vm.syscall("brk", start + sum(sizes))
    try:
        segments = []
        at = start
        for segment, size in zip(image.segments, sizes, strict=True):
            _read_into(vm, segment.path, at, size)
            room = page_up(max(size, segment.room_bytes))
            segments += [at, size, segment.address or 0, room]
            at += size
        order, pointer = struct_order(boot.arch.endianness), _POINTERS[boot.arch.elf_class]
        packed = struct.pack(f"{order}{len(segments)}{pointer}", *segments)
        # linux/kexec.h: KEXEC_ARCH_DEFAULT is 0.
        vm.syscall("kexec_load", entry, len(image.segments), packed, 0)
    finally:
        vm.syscall("brk", before)


def _open(vm: Files, path: str) -> int:
    return vm.syscall("openat", AT_FDCWD, path, vm.abi.guest_open_flags(os.O_RDONLY), 0)


def _read_into(vm: Files, path: str, address: int, size: int) -> None:
    opened = _open(vm, path)
    try:
        while size:
            got = vm.syscall("read", opened, address, size)
            address, size = address + got, size - got
    finally:
        vm.syscall("close", opened)
