"""ELF files: whose machine they are for, and what of a program is loaded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.foreign.elf import ElfFile, ElfKind, LoadSegment, is_built_for

ENTRY, ADDRESS = 0x80100400, 0x100000
PT_NOTE, PT_LOAD = 4, 1


def make_program(kind: ElfKind, *, content: bytes = b"code", segments: int = 2) -> bytes:
    """Return a program with a note and a loaded segment, as elf(5) has it."""
    is_32, order = kind.bits == 32, struct_order(kind.endianness)
    header_bytes, entry_bytes, word = (52, 32, "I") if is_32 else (64, 56, "Q")
    ident = b"\x7fELF" + bytes([1 if is_32 else 2, 1 if kind.endianness == "little" else 2, 1])
    header = struct.pack(
        f"{order}16sHHI{word}{word}{word}IHHHHHH",
        *(ident, 2, kind.machine, 1, ENTRY, header_bytes, 0, 0),
        *(header_bytes, entry_bytes, segments, 0, 0, 0),
    )
    at = header_bytes + 2 * entry_bytes
    table = b""
    for segment_type in (PT_NOTE, PT_LOAD):
        places = (at, ENTRY, ADDRESS, len(content), len(content) + 8)
        if is_32:
            table += struct.pack(f"{order}8I", segment_type, *places, 5, 4)
        else:
            table += struct.pack(f"{order}IIQQQQQQ", segment_type, 5, *places, 4)
    return header + table + content


@pytest.fixture(params=ARCHES)
def kind(request: pytest.FixtureRequest) -> ElfKind:
    return ElfKind.of_arch(ARCHES[request.param])


def test_what_is_loaded(kind: ElfKind) -> None:
    program = ElfFile(make_program(kind), "program")
    assert program.kind == kind
    assert program.entry == ENTRY
    assert list(program.load_segments()) == [
        LoadSegment(address=ADDRESS, content=b"code", memory_bytes=12)
    ]


def test_segments_outside_of_the_file_are_refused(kind: ElfKind) -> None:
    whole = make_program(kind)
    with pytest.raises(BadInput) as error:
        list(ElfFile(whole[:-1], "program").load_segments())
    assert error.value.evidence.expected == "segments inside the file"
    with pytest.raises(BadInput) as error:
        list(ElfFile(make_program(kind, segments=500), "program").load_segments())
    assert error.value.evidence.expected == "program headers inside the file"


@pytest.mark.parametrize("name", ARCHES)
def test_a_file_is_built_for_its_own_architecture_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(make_program(ElfKind.of_arch(ARCHES[name])))
    assert [other for other, arch in ARCHES.items() if is_built_for(file, arch)] == [name]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x03\x01", b"#!/bin/sh\n"])
@pytest.mark.parametrize("name", ARCHES)
def test_what_is_no_elf_file_is_built_for_none(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_built_for(tmp_path / "file", ARCHES[name])
