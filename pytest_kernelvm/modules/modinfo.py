"""What a module file says of itself: the `.modinfo` section."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.foreign.elf import ElfFile
from pytest_kernelvm.modules.unpack import unpacked


def module_file(path: Path) -> ElfFile:
    """Return a module file, unpacked.

    Args:
        path: A .ko, .ko.gz, .ko.xz or .ko.zst.

    Raises:
        BadInput: As `unpacked`, and for what is no ELF file.
    """
    return module_of(unpacked(path), str(path))


def module_of(data: bytes, where: str) -> ElfFile:
    """Return a module file of some content.

    Args:
        data: The content, unpacked.
        where: Its path, for errors.

    Raises:
        BadInput: For what is no ELF file.
    """
    return ElfFile(data, where, "a module file")


def read_modinfo(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the fields of a module file's `.modinfo`; see `modinfo`.

    Args:
        path: A .ko, .ko.gz, .ko.xz or .ko.zst.

    Raises:
        BadInput: As `module_file` and `modinfo`.
    """
    return modinfo(module_file(path))


def modinfo(module: ElfFile) -> tuple[tuple[str, str], ...]:
    """Return the (key, value) fields of `.modinfo` in their order; a key may come several times.

    Source: kmod, libkmod-elf.c.

    Raises:
        BadInput: For a file that points outside of itself or has no `.modinfo`.
    """
    content = module.section(".modinfo")
    if content is None:
        raise module.damaged("a .modinfo section", "none: not a kernel module")
    fields = (entry.decode(errors="replace") for entry in content.split(b"\0") if entry)
    return tuple((key, value) for key, _, value in (field.partition("=") for field in fields))
