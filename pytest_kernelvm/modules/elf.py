"""What a module file says of itself: the `.modinfo` section of an ELF file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.unpack import unpacked

# elf(5): the header and a section header, by EI_CLASS and EI_DATA. The fields have the same order
# in both classes.
_HEADERS = {1: "16xHHIIIIIHHHHHH", 2: "16xHHIQQQIHHHHHH"}
_SECTIONS = {1: "IIIIIIIIII", 2: "IIQQQQIIQQ"}
_BYTE_ORDERS = {1: "<", 2: ">"}
_SHT_NOBITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    name_at: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfKind:
    """For which machine an ELF file is. elf_class: 1 for 32 bits, 2 for 64. machine: e_machine."""

    elf_class: int
    little_endian: bool
    machine: int


def read_modinfo(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the fields of a module file's `.modinfo`, as `modinfo` does.

    path: a .ko, .ko.gz, .ko.xz or .ko.zst. Raises BadInput as `unpacked` and `modinfo` do.
    """
    return modinfo(unpacked(path), str(path))


def elf_kind(data: bytes, where: str) -> ElfKind:
    """Return for which machine a module is. Raises BadInput for what is no ELF file."""
    machine = _header(data, where)[1]
    return ElfKind(elf_class=data[4], little_endian=data[5] == 1, machine=machine)


def has_section(data: bytes, name: str, where: str) -> bool:
    """Whether an ELF file has a section of some name. Raises BadInput as `modinfo` does."""
    return any(found == name.encode() for found, _ in _named_sections(data, where))


def modinfo(data: bytes, where: str) -> tuple[tuple[str, str], ...]:
    """Return the (key, value) fields of `.modinfo` in their order; a key may come several times.

    data: an ELF file of either class and byte order. where: its path, for complaints.
    Raises BadInput for what is no ELF file, points outside of itself, or has no `.modinfo`.
    Nothing is allocated by what a header claims. Source: elf(5); kmod, libkmod-elf.c.
    """
    for name, section in _named_sections(data, where):
        if name == b".modinfo":
            content = _content(data, section, where)
            break
    else:
        raise _bad(where, "a .modinfo section", "none: not a kernel module")
    fields = (entry.decode(errors="replace") for entry in content.split(b"\0") if entry)
    return tuple((key, value) for key, _, value in (field.partition("=") for field in fields))


def _header(data: bytes, where: str) -> tuple[int, ...]:
    if data[:4] != b"\x7fELF" or len(data) < 16:
        raise _bad(where, "an ELF file", f"it starts with {data[:4]!r}")
    layout = _HEADERS.get(data[4]), _BYTE_ORDERS.get(data[5])
    if layout[0] is None or layout[1] is None:
        raise _bad(where, "ELF class 1 or 2, byte order 1 or 2", f"{data[4]} and {data[5]}")
    header = struct.Struct(f"{layout[1]}{layout[0]}")
    if len(data) < header.size:
        raise _bad(where, f"an ELF header of {header.size} bytes", f"a file of {len(data)}")
    return header.unpack_from(data)


def _sections(data: bytes, where: str) -> Iterator[_Section]:
    *_, table_at, _, _, _, _, entry_bytes, count, _ = _header(data, where)
    layout = struct.Struct(_BYTE_ORDERS[data[5]] + _SECTIONS[data[4]])
    if count and entry_bytes != layout.size:
        raise _bad(where, f"section headers of {layout.size} bytes", f"{entry_bytes}")
    if table_at + count * layout.size > len(data):
        raise _bad(
            where,
            "section headers inside the file",
            f"{count} at offset {table_at} of a file of {len(data)} bytes",
        )
    for index in range(count):
        name_at, kind, _, _, offset, size_bytes, *_ = layout.unpack_from(
            data, table_at + index * layout.size
        )
        empty = kind == _SHT_NOBITS
        yield _Section(name_at=name_at, offset=offset, size_bytes=0 if empty else size_bytes)


def _named_sections(data: bytes, where: str) -> Iterator[tuple[bytes, _Section]]:
    sections = tuple(_sections(data, where))
    names_index = _header(data, where)[-1]
    if names_index >= len(sections):
        raise _bad(where, "a section of section names", f"section {names_index} is none")
    names = _content(data, sections[names_index], where)
    for section in sections:
        yield names[section.name_at : names.find(b"\0", section.name_at)], section


def _content(data: bytes, section: _Section, where: str) -> bytes:
    end = section.offset + section.size_bytes
    if end > len(data):
        raise _bad(
            where,
            "sections inside the file",
            f"one from {section.offset} to {end} in a file of {len(data)} bytes",
        )
    return data[section.offset : end]


def _bad(where: str, expected: str, seen: str) -> BadInput:
    return BadInput(
        "a module file is damaged, or is none",
        Evidence(expected=expected, seen=seen, where=(where,)),
    )
