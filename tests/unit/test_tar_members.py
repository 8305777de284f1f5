"""Tar archives as a pipe gives them, in pieces of any size, compared with Python's reader."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.foreign.tar_members import Damaged, MemberKind, TarMembers
from pytest_kernelvm.foreign.unpacking import unpack

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class Dripping:
    """A stream of which a read returns no more than a number of bytes."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readinto(self, buffer: memoryview, /) -> int:
        return self._data.readinto(buffer[: self._most])


def archive(files: dict[str, int], form: str = "gnu") -> bytes:
    """Return an archive of files by name and size."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=FORMATS[form]) as tar:
        for name, size in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, 1_700_000_000 + size, 0o640
            tar.addfile(info, io.BytesIO(content(name, size)))
    return made.getvalue()


def content(name: str, size: int) -> bytes:
    return (name.encode() * (size // len(name) + 1))[:size]


def read(data: bytes, most: int = 1 << 20) -> list[tuple[bytes, int, int, bytes]]:
    members = TarMembers(Dripping(data, most))
    return [
        (each.name, each.mode, each.modified_ns, members.read_content(each.stored_bytes))
        for each in members
    ]


def read_by_python(data: bytes) -> list[tuple[bytes, int, int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = []
        for each in tar:
            file = tar.extractfile(each)
            assert file
            seen = each.name.encode(), each.mode, int(each.mtime) * 10**9, file.read()
            found.append(seen)
        return found


SIZES = st.one_of(
    st.integers(0, 2000), st.integers(130_000, 132_000), st.integers(260_000, 265_000)
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(SIZES, max_size=12),
    st.sampled_from([*FORMATS]),
    st.sampled_from([1000, 511, 513, 4096, 1 << 17, 1 << 20]),
)
def test_an_archive_is_read_in_pieces_of_any_size(sizes: list[int], form: str, most: int) -> None:
    files = {f"d/{number}/{'n' * (size % 90)}x": size for number, size in enumerate(sizes)}
    data = archive(files, form)
    assert read(data, most) == read_by_python(data)


def test_byte_by_byte() -> None:
    data = archive({"a": 5, "b" * 200: 600, "c": 0}, "pax")
    assert read(data, 1) == read_by_python(data)


@pytest.mark.parametrize("most", [1000, 5000, 1 << 17, 1 << 20])
def test_what_is_read_is_what_is_written(most: int, tmp_path: Path) -> None:
    """Files wait in the buffer for others, and it is not used again before they are written."""
    sizes = [0, 1, 511, 512, 513, 60_000, 131_072, 131_073, 3, 400_000, 5, 70_000, 70_000, 9]
    files = {f"{number}/{'f' * number}x": size for number, size in enumerate(sizes)}
    unpack(
        Dripping(archive(files) + bytes(1 << 19), most), tmp_path / "it", UnpackOptions(what="it")
    )
    found = {
        str(path.relative_to(tmp_path / "it")): path.read_bytes()
        for path in (tmp_path / "it").glob("*/*")
    }
    assert found == {name: content(name, size) for name, size in files.items()}


def test_unread_content_is_skipped() -> None:
    data = archive({"a": 400_000, "b": 3, "c": 300_000})
    members = TarMembers(Dripping(data, 5000))
    found = [each.name if each.name != b"b" else members.read_content(2) for each in members]
    assert found == [b"a", b"bb", b"c"]


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit of a name": (lambda data: changed(data, 3, b"\x01"), "wrong checksum"),
    "a bit of a size": (lambda data: changed(data, 130, b"1"), "wrong checksum"),
    "no checksum": (lambda data: changed(data, 148, b"abcdefgh"), "checksum that is no number"),
    "the second header": (lambda data: changed(data, 1536 + 7, b"x"), "wrong checksum"),
    "the end is missing in a file": (lambda data: data[:600], "ends too early"),
    "the end is missing in the padding": (lambda data: data[:1500], "ends too early"),
    "the end is missing in a header": (lambda data: data[:1700], "ends too early"),
    "something behind": (lambda data: data + b"x", "something follows its end"),
    "much behind": (lambda data: data + bytes(2 << 20), "something follows its end"),
}


@pytest.mark.parametrize("most", [100, 1 << 20])
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_archives_are_refused(what: str, most: int) -> None:
    damage, said = DAMAGE[what]
    with pytest.raises(Damaged, match=said):
        read(damage(archive({"first": 700, "second": 10})), most)


def test_an_archive_may_end_without_zero_blocks() -> None:
    """As tar(1) has it, with a warning."""
    data = archive({"first": 700, "second": 10})
    assert [name for name, *_ in read(data[: 1536 + 1024])] == [b"first", b"second"]
    assert read(b"") == []


def test_kinds() -> None:
    made = io.BytesIO()
    kinds = {
        tarfile.REGTYPE: MemberKind.FILE,
        tarfile.AREGTYPE: MemberKind.FILE,
        tarfile.CONTTYPE: MemberKind.CONTIGUOUS_FILE,
        tarfile.DIRTYPE: MemberKind.DIRECTORY,
        tarfile.SYMTYPE: MemberKind.SYMLINK,
        tarfile.LNKTYPE: MemberKind.HARD_LINK,
        tarfile.FIFOTYPE: MemberKind.FIFO,
        tarfile.CHRTYPE: MemberKind.CHARACTER_DEVICE,
        tarfile.BLKTYPE: MemberKind.BLOCK_DEVICE,
        b"Z": MemberKind.OTHER,
    }
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for letter in kinds:
            info = tarfile.TarInfo("x")
            info.type, info.linkname = letter, "to/it"
            tar.addfile(info)
    found = list(TarMembers(Dripping(made.getvalue(), 1 << 20)))
    assert [each.kind for each in found] == [*kinds.values()]
    links = [
        each.target for each in found if each.kind in (MemberKind.SYMLINK, MemberKind.HARD_LINK)
    ]
    assert links == [b"to/it"] * 2
