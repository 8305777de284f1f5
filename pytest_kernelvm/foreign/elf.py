"""ELF files: for which machine they are, their sections and their segments.

Nothing is allocated by what a header claims. Source of all layouts: elf(5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_kernelvm.arch.base import Arch, struct_order
from pytest_kernelvm.errors import BadInput, Evidence

# By EI_CLASS: the header and a section header, whose fields have one order in both classes.
_HEADERS = {1: "16xHHIIIIIHHHHHH", 2: "16xHHIQQQIHHHHHH"}
_SECTIONS = {1: "IIIIIIIIII", 2: "IIQQQQIIQQ"}
# A program header, with the names of its fields, whose order differs.
_SEGMENTS = {
    1: ("IIIIIIII", ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")),
    2: ("IIQQQQQQ", ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")),
}
_BITS: dict[int, Literal[32, 64]] = {1: 32, 2: 64}
_ENDIANNESS: dict[int, Literal["little", "big"]] = {1: "little", 2: "big"}
_MAGIC = b"\x7fELF"
_LONGEST_HEADER_BYTES = 64
_SHT_NOBITS = 8
_PT_LOAD = 1

# Where e_entry is in the header, in both classes.
ENTRY_OFFSET = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfKind:
    """For which machine an ELF file is.

    Attributes:
        bits: By EI_CLASS.
        endianness: By EI_DATA.
        machine: e_machine, such as 8 for EM_MIPS.
    """

    bits: Literal[32, 64]
    endianness: Literal["little", "big"]
    machine: int

    @classmethod
    def of_arch(cls, arch: Arch) -> ElfKind:
        """Return the kind of an architecture's files."""
        return cls(bits=arch.elf_class, endianness=arch.endianness, machine=arch.elf_machine)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSegment:
    """A part of a program that is loaded into memory (PT_LOAD).

    Attributes:
        address: The physical one.
        content: What the file has of it.
        memory_bytes: Its size in memory; what the file does not have is zero.
    """

    address: int
    content: bytes
    memory_bytes: int


class ElfFile:
    """An ELF file of either class and byte order.

    Attributes:
        kind: For which machine it is.
        entry: The virtual address where a program begins (e_entry).
    """

    def __init__(self, data: bytes, where: str, what: str = "an ELF file") -> None:
        """Read the header.

        Raises BadInput if it is no ELF file. All methods raise it for what the header describes and
        the file does not have.

        Args:
            data: The file.
            where: Its path, for errors.
            what: What it has to be, for errors.
        """
        self._data = data
        self._where = where
        self._what = what
        if data[:4] != _MAGIC or len(data) < 16:
            raise self.damaged("an ELF file", f"it starts with {data[:4]!r}")
        self._elf_class = data[4]
        layout, endianness = _HEADERS.get(data[4]), _ENDIANNESS.get(data[5])
        if layout is None or endianness is None:
            raise self.damaged("ELF class 1 or 2, byte order 1 or 2", f"{data[4]} and {data[5]}")
        self._order = struct_order(endianness)
        header = struct.Struct(f"{self._order}{layout}")
        if len(data) < header.size:
            raise self.damaged(f"an ELF header of {header.size} bytes", f"a file of {len(data)}")
        fields = header.unpack_from(data)
        self.kind = ElfKind(bits=_BITS[data[4]], endianness=endianness, machine=fields[1])
        self.entry: int = fields[3]
        self._segments_at, self._sections_at = fields[4:6]
        self._segment_bytes, self._segment_count = fields[8:10]
        self._section_bytes, self._section_count, self._names_index = fields[10:13]

    def has_section(self, name: str) -> bool:
        """Return whether the file has a section of some name.

        Args:
            name: Such as `.modinfo`.
        """
        return any(found == name.encode() for found, _, _ in self._named_sections())

    def section(self, name: str) -> bytes | None:
        """Return the content of the first section of some name, None without one.

        Args:
            name: Such as `.modinfo`.
        """
        for found, offset, size_bytes in self._named_sections():
            if found == name.encode():
                return self._content(offset, size_bytes, "sections")
        return None

    def load_segments(self) -> Iterator[LoadSegment]:
        """Yield what a program has in memory, in the order of the file."""
        layout, names = _SEGMENTS[self._elf_class]
        for fields in self._table(
            "program", layout, self._segments_at, self._segment_bytes, self._segment_count
        ):
            field = dict(zip(names, fields, strict=True))
            if field["type"] == _PT_LOAD:
                yield LoadSegment(
                    address=field["paddr"],
                    content=self._content(field["offset"], field["filesz"], "segments"),
                    memory_bytes=field["memsz"],
                )

    def damaged(self, expected: str, seen: str) -> BadInput:
        """Return the error for a file that is not what it has to be.

        Args:
            expected: What it should have, in a few words.
            seen: What it has.
        """
        return BadInput(
            f"{self._what} is damaged, or is none",
            Evidence(expected=expected, seen=seen, where=(self._where,)),
        )

    def _table(
        self, what: str, layout: str, at: int, entry_bytes: int, count: int
    ) -> Iterator[tuple[int, ...]]:
        header = struct.Struct(f"{self._order}{layout}")
        if count and entry_bytes != header.size:
            raise self.damaged(f"{what} headers of {header.size} bytes", f"{entry_bytes}")
        if at + count * header.size > len(self._data):
            raise self.damaged(
                f"{what} headers inside the file",
                f"{count} at offset {at} of a file of {len(self._data)} bytes",
            )
        for index in range(count):
            yield header.unpack_from(self._data, at + index * header.size)

    def _sections(self) -> Iterator[tuple[int, int, int]]:
        """Yield (offset of the name, offset of the content, size) of each section."""
        for name_at, kind, _, _, offset, size_bytes, *_ in self._table(
            "section",
            _SECTIONS[self._elf_class],
            self._sections_at,
            self._section_bytes,
            self._section_count,
        ):
            yield name_at, offset, 0 if kind == _SHT_NOBITS else size_bytes

    def _named_sections(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, offset of the content, size) of each section."""
        sections = tuple(self._sections())
        if self._names_index >= len(sections):
            raise self.damaged("a section of section names", f"section {self._names_index} is none")
        _, names_at, names_bytes = sections[self._names_index]
        names = self._content(names_at, names_bytes, "sections")
        for name_at, offset, size_bytes in sections:
            yield names[name_at : names.find(b"\0", name_at)], offset, size_bytes

    def _content(self, offset: int, size_bytes: int, what: str) -> bytes:
        end = offset + size_bytes
        if end > len(self._data):
            raise self.damaged(
                f"{what} inside the file",
                f"one from {offset} to {end} in a file of {len(self._data)} bytes",
            )
        return self._data[offset:end]


def is_built_for(path: Path, arch: Arch) -> bool:
    """Return whether an object file, a program or a boot image is for an architecture.

    Args:
        path: An ELF file, or an image that is known by `Arch.image_magic`.
        arch: The architecture.

    Returns:
        False also for files that are neither.
    """
    magic = arch.image_magic
    size = max(_LONGEST_HEADER_BYTES, magic.offset + len(magic.content) if magic else 0)
    with path.open("rb") as file:
        head = file.read(size)
    if not head.startswith(_MAGIC):
        return magic is not None and head.startswith(magic.content, magic.offset)
    header = head[:_LONGEST_HEADER_BYTES].ljust(_LONGEST_HEADER_BYTES, b"\0")
    try:
        return ElfFile(header, str(path)).kind == ElfKind.of_arch(arch)
    except BadInput:
        return False
