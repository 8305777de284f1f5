"""Whose machine code a file holds, by its first bytes."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.arch.base import Arch


def fits(file: Path, arch: Arch) -> bool:
    """Whether an object file, a program or an image is one of an architecture."""
    with file.open("rb") as opened:
        head = opened.read(64).ljust(64, b"\0")
    if head.startswith(b"\x7fELF"):
        order = {1: "little", 2: "big"}.get(head[5])
        machine = int.from_bytes(head[18:20], arch.endianness)
        bits = {1: 32, 2: 64}.get(head[4])
        return (order, bits, machine) == (arch.endianness, arch.elf_class, arch.elf_machine)
    return bool(arch.image_magic) and head[56:60] == arch.image_magic
