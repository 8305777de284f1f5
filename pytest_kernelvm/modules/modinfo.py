"""What a module file says of itself: the `.modinfo` section."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.foreign.elf import ElfFile
from pytest_kernelvm.modules.unpack import unpacked


def module_file(path: Path) -> ElfFile:
    """Return a module file, unpacked.

    Raises BadInput as `unpacked`, and for what is no ELF file.

    Args:
        path: A .ko, .ko.gz, .ko.xz or .ko.zst.
    """
    return module_of(unpacked(path), str(path))


def module_of(data: bytes, where: str) -> ElfFile:
    """Return a module file of some content. Raises BadInput for what is no ELF file.

    Args:
        data: The content, unpacked.
        where: Its path, for errors.
    """
    return ElfFile(data, where, "a module file")


def read_modinfo(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the fields of a module file's `.modinfo`; see `modinfo`.

    Raises BadInput as `module_file` and `modinfo`.

    Args:
        path: A .ko, .ko.gz, .ko.xz or .ko.zst.
    """
    return modinfo(module_file(path))


def modinfo(module: ElfFile) -> tuple[tuple[str, str], ...]:
    """Return the (key, value) fields of `.modinfo` in their order; a key may come several times.

    Raises BadInput for a damaged file, and for one without `.modinfo`. Source: kmod, libkmod-elf.c.

    Args:
        module: The module file.
    """
    content = module.section(".modinfo")
    if content is None:
        raise module.damaged("a .modinfo section", "none: not a kernel module")
    fields = (entry.decode(errors="replace") for entry in content.split(b"\0") if entry)
    return tuple((key, value) for key, _, value in (field.partition("=") for field in fields))
