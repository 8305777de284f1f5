"""The .modinfo of module files: both classes, both byte orders, and damaged headers."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.modinfo import modinfo, module_of, read_modinfo
from pytest_kernelvm.modules.unpack import unpacked
from pytest_kernelvm.process import run


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfKind:
    """Class and byte order of an ELF file, with the layouts of elf(5)."""

    elf_class: int
    data: int

    @property
    def order(self) -> str:
        return "<" if self.data == 1 else ">"

    def header(self, table_at: int, count: int) -> bytes:
        ident = b"\x7fELF" + bytes([self.elf_class, self.data, 1]) + bytes(9)
        word, size, entry = ("I", 52, 40) if self.elf_class == 1 else ("Q", 64, 64)
        return ident + struct.pack(
            f"{self.order}HHI{word}{word}{word}IHHHHHH",
            *(1, 62, 1, 0, 0, table_at, 0, size, 0, 0, entry, count, count - 1),
        )

    def section(self, *, name: int, kind: int, offset: int, size: int, link: int) -> bytes:
        layout = "IIIIIIIIII" if self.elf_class == 1 else "IIQQQQIIQQ"
        return struct.pack(self.order + layout, name, kind, 0, 0, offset, size, link, 0, 1, 0)

    def symbol(self, name: int) -> bytes:
        """Return an undefined global symbol."""
        if self.elf_class == 1:
            return struct.pack(f"{self.order}IIIBBH", name, 0, 0, 0x10, 0, 0)
        return struct.pack(f"{self.order}IBBHQQ", name, 0x10, 0, 0, 0, 0)


X86_64 = ElfKind(elf_class=2, data=1)


def make_module(
    kind: ElfKind, fields: Iterable[str], *, exports: str = "", imports: Iterable[str] = ()
) -> bytes:
    """Return a module file with a .modinfo, one exported symbol and some undefined ones."""
    strings, symbols = b"\0", [kind.symbol(0)]
    for symbol in imports:
        symbols.append(kind.symbol(len(strings)))
        strings += symbol.encode() + b"\0"
    contents = [
        (".modinfo", 1, "".join(f"{field}\0" for field in fields).encode()),
        ("__ksymtab_strings", 1, exports.encode() + b"\0"),
        (".strtab", 3, strings),
        (".symtab", 2, b"".join(symbols)),
        (".shstrtab", 3, b""),
    ]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in contents)
    contents[-1] = (".shstrtab", 3, names)
    offset = len(kind.header(0, 1))
    table, body = kind.section(name=0, kind=0, offset=0, size=0, link=0), b""
    for name, section_kind, content in contents:
        table += kind.section(
            name=names.index(b"\0" + name.encode() + b"\0") + 1,
            kind=section_kind,
            offset=offset + len(body),
            size=len(content),
            link=3,
        )
        body += content
    return kind.header(offset + len(body), len(contents) + 1) + body + table


KINDS = {
    "elf32-little": ElfKind(elf_class=1, data=1),
    "elf32-big": ElfKind(elf_class=1, data=2),
    "elf64-little": X86_64,
    "elf64-big": ElfKind(elf_class=2, data=2),
}
FIELDS = ["alias=fs-x", "alias=y", "depends=a,b", "parm=p: a=b", "vermagic=6.1 SMP", "bare"]
PAIRS = (
    ("alias", "fs-x"),
    ("alias", "y"),
    ("depends", "a,b"),
    ("parm", "p: a=b"),
    ("vermagic", "6.1 SMP"),
    ("bare", ""),
)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_modinfo(kind: ElfKind) -> None:
    assert modinfo(module_of(make_module(kind, FIELDS), "x.ko")) == PAIRS


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_cut_off_files(kind: ElfKind) -> None:
    module = make_module(kind, FIELDS)
    for length in range(0, len(module), 7):
        with pytest.raises(BadInput) as error:
            modinfo(module_of(module[:length], "x.ko"))
        assert error.value.evidence.where == ("x.ko",)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_wrong_bytes_give_fields_or_bad_input(kind: str, changes: list[tuple[int, int]]) -> None:
    module = bytearray(make_module(KINDS[kind], FIELDS))
    for place, value in changes:
        module[place % len(module)] = value
    # Any other exception fails the test.
    with contextlib.suppress(BadInput):
        assert isinstance(modinfo(module_of(bytes(module), "x.ko")), tuple)


def test_a_section_of_2_gigabytes_is_refused() -> None:
    module = bytearray(make_module(X86_64, FIELDS))
    table_at = struct.unpack_from("<Q", module, 40)[0]
    # sh_size of the first section behind the empty one (elf(5)).
    struct.pack_into("<Q", module, table_at + 64 + 32, 2 << 30)
    with pytest.raises(BadInput) as error:
        modinfo(module_of(bytes(module), "x.ko"))
    assert error.value.evidence.expected == "sections inside the file"
    assert str(2 << 30) in error.value.evidence.seen or "to 21474" in error.value.evidence.seen


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "an ELF file", id="empty"),
        pytest.param(b"#!/bin/sh\n" * 10, "an ELF file", id="script"),
        pytest.param(b"\x7fELF\x03\x01" + bytes(80), "ELF class 1 or 2", id="class-3"),
        pytest.param(b"\x7fELF\x02\x03" + bytes(80), "byte order 1 or 2", id="byte-order-3"),
        pytest.param(b"\x7fELF\x02\x01" + bytes(80), "section names", id="no-sections"),
    ],
)
def test_what_is_no_module(data: bytes, expected: str) -> None:
    with pytest.raises(BadInput) as error:
        modinfo(module_of(data, "x.ko"))
    assert expected in error.value.evidence.expected


def test_an_elf_file_without_modinfo() -> None:
    module = make_module(X86_64, FIELDS).replace(b".modinfo", b".comment")
    with pytest.raises(BadInput, match="is none") as error:
        modinfo(module_of(module, "x.ko"))
    assert error.value.evidence.expected == "a .modinfo section"


def test_compressed_files(tmp_path: Path) -> None:
    module = make_module(X86_64, FIELDS)
    for suffix, data in (
        ("", module),
        (".gz", gzip.compress(module)),
        (".xz", lzma.compress(module)),
        (".zst", zstd.compress(module)),
    ):
        path = tmp_path / f"x.ko{suffix}"
        path.write_bytes(data)
        assert read_modinfo(path) == PAIRS


@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [
        pytest.param("x.ko.xz", b"junk" * 9, "xz: Input format", id="no-xz"),
        pytest.param("x.ko.gz", b"junk" * 9, "gz: ", id="no-gzip"),
        pytest.param("x.ko.zst", b"junk" * 9, "zst: ", id="no-zst"),
        pytest.param("x.ko.gz", gzip.compress(b"x" * 99)[:20], "ends too early", id="cut-gzip"),
        pytest.param("x.ko.xz", lzma.compress(b"x" * 99)[:40], "ends too early", id="cut-xz"),
        pytest.param("x.ko.zst", zstd.compress(b"x" * 99)[:9], "zst: ", id="cut-zst"),
        pytest.param("x.ko", None, "No such file", id="no-file"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, data: bytes | None, seen: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadInput) as error:
        read_modinfo(path)
    assert error.value.evidence.where == (str(path),)
    assert seen in error.value.evidence.seen


def test_case34_zstd_without_a_library(tmp_path: Path) -> None:
    """A Python that has none says what to install; the file is not skipped."""
    path = tmp_path / "x.ko.zst"
    path.write_bytes(zstd.compress(make_module(X86_64, FIELDS)))
    program = (
        "import sys; sys.modules['backports'] = sys.modules['compression'] = None\n"
        "from pathlib import Path; from pytest_kernelvm.modules.modinfo import read_modinfo\n"
        "read_modinfo(Path(sys.argv[1]))"
    )
    done = run([sys.executable, "-c", program, path], timeout_s=30, check=False)
    assert "install pytest-kernelvm[zstd]" in done.stderr
    assert str(path) in done.stderr


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstd.compress)]
)
def test_a_small_file_does_not_fill_the_memory(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"x.ko{suffix}"
    path.write_bytes(pack(bytes(100_000)))
    assert unpacked(path, 100_001) == bytes(100_000)
    with pytest.raises(BadInput) as error:
        unpacked(path, 99_999)
    assert error.value.evidence.seen == "more than 99999 bytes when unpacked"
