"""For which architecture a file was made, by its first bytes."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.arch.base import Arch

_ELF_BYTES = 20


def fits(file: Path, arch: Arch) -> bool:
    """Return whether a file was made for an architecture.

    Args:
        file: An object file, a program or a kernel's image.
        arch: The architecture. For ELF files its class, byte order and machine count (elf(5)), for
            others its `image_magic`.
    """
    magic = arch.image_magic
    size = max(_ELF_BYTES, magic.offset + len(magic.content) if magic else 0)
    with file.open("rb") as opened:
        head = opened.read(size)
    if head.startswith(b"\x7fELF"):
        head = head.ljust(_ELF_BYTES, b"\0")
        order = {1: "little", 2: "big"}.get(head[5])
        machine = int.from_bytes(head[18:20], arch.endianness)
        bits = {1: 32, 2: 64}.get(head[4])
        return (order, bits, machine) == (arch.endianness, arch.elf_class, arch.elf_machine)
    return magic is not None and head.startswith(magic.content, magic.offset)
