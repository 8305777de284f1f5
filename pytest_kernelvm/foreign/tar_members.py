"""The members of a tar archive, read from a stream one after the other; nothing is written here.

Formats: POSIX ustar and pax (POSIX.1-2017, pax, `ustar Interchange Format` and `pax Header Block`),
and what GNU tar adds to them: long names and sparse files (info tar, `Tar Internals`).
"""

from __future__ import annotations

import enum
import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK_BYTES = 512
_END = bytes(_BLOCK_BYTES)
# Of names and other words about a member; a path has at most 4,096 bytes (limits.h, PATH_MAX).
_MOST_HEADER_BYTES = 1 << 20
_MOST_HEADERS_IN_A_ROW = 16
# What may lie behind the end: tar(1) fills records of 20 blocks, some programs more.
_MOST_BYTES_BEHIND = 1 << 20
# A file of one byte a page has no more pieces than this up to 4 GiB of a guest's memory.
_MOST_PIECES = 1 << 20

_WORDS = (b"x", b"g", b"L", b"K", b"V")
_CHECKSUM = slice(148, 156)
_SPARSE_IN_HEADER, _SPARSE_IN_BLOCK = 4, 21


class Damaged(Exception):
    """The archive cannot be read; the text says why."""


class Kind(enum.Enum):
    """What a member is, in words."""

    FILE = "a file"
    CONTIGUOUS_FILE = "a contiguous file"
    SPARSE_FILE = "a sparse file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    HARD_LINK = "a hard link"
    CHARACTER_DEVICE = "a character device"
    BLOCK_DEVICE = "a block device"
    FIFO = "a FIFO"
    OTHER = "a member of an unknown type"


_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.CONTIGUOUS_FILE,
    b"S": Kind.SPARSE_FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member as the archive describes it; nothing of it is checked.

    name, target (of links): as they stand there. mode: its permission bits, setuid and the like
    included. size_bytes: of the file once it is unpacked; stored_bytes: in the archive.
    modified_ns: since 1970. pieces: (offset, length) of what a sparse file has, None for all of it.
    """

    name: bytes
    kind: Kind
    mode: int
    size_bytes: int
    stored_bytes: int
    modified_ns: int
    target: bytes
    pieces: tuple[tuple[int, int], ...] | None = None


class TarMembers:
    """An iterator of the members; `content` gives the bytes of the one that came last.

    stream: read from where it stands; it need not be seekable. words_bytes: of headers so far that
    say more about other members.
    Raises Damaged.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.words_bytes = 0
        self._words_in_a_row = 0
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Give the members in the archive's order."""
        words: dict[str, bytes] = {}
        while (block := self._next_header()) is not None:
            letter = block[156:157]
            if letter in _WORDS:
                self._add_words(letter, block, words)
            else:
                self._words_in_a_row = 0
                yield self._member(block, words)
                words = {}
            self._skip()

    def content(self, most_bytes: int) -> bytes:
        """Return the next bytes of the last member, fewer than asked for only at its end."""
        data = self._exactly(min(most_bytes, self._left))
        self._left -= len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise Damaged("it ends too early")
        return data

    def _skip(self) -> None:
        while self._left:
            self.content(1 << 20)
        self._exactly(self._padding)
        self._padding = 0

    def _next_header(self) -> bytes | None:
        """Return the next header; None at the end, behind which nothing else may stand."""
        block = self._stream.read(_BLOCK_BYTES)
        if block in (b"", _END):
            behind = self._stream.read(_MOST_BYTES_BEHIND + 1)
            if behind.strip(b"\0") or len(behind) > _MOST_BYTES_BEHIND:
                raise Damaged("something follows its end")
            return None
        if len(block) != _BLOCK_BYTES:
            raise Damaged("it ends too early")
        noted = block[_CHECKSUM]
        # The checksum counts its own field as blanks.
        if _number(noted, "checksum") != sum(block) - sum(noted) + 8 * ord(" "):
            raise Damaged("a header has a wrong checksum")
        return block

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK_BYTES

    def _add_words(self, letter: bytes, block: bytes, words: dict[str, bytes]) -> None:
        """Read a member that says more about the next one, or what the archive is called."""
        size = _number(block[124:136], "size") if letter != b"V" else 0
        if size > _MOST_HEADER_BYTES:
            raise Damaged(f"a header of {size} bytes")
        # Nobody counts them as members, and they would never have to end.
        self._words_in_a_row += 1
        if self._words_in_a_row > _MOST_HEADERS_IN_A_ROW:
            raise Damaged(f"a member with more than {_MOST_HEADERS_IN_A_ROW} headers")
        self.words_bytes += size
        self._begin(size)
        text = self.content(size)
        if letter == b"L":
            words["path"] = text.partition(b"\0")[0]
        elif letter == b"K":
            words["linkpath"] = text.partition(b"\0")[0]
        elif letter == b"x":
            words.update(_records(text))
        # What a global header says holds for all members; git-archive(1) has its commit there.

    def _member(self, block: bytes, words: dict[str, bytes]) -> Member:
        if any(key.startswith("GNU.sparse.") for key in words):
            raise Damaged("a sparse file in a format that is not read here")
        letter = block[156:157]
        name = words.get("path", _name(block))
        kind = _KINDS.get(letter, Kind.OTHER)
        # The oldest format knows a directory by its name alone.
        if letter in (b"\0", b"0") and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        stored = _decimal(words["size"]) if "size" in words else _number(block[124:136], "size")
        # Of these the size says nothing about the archive (tar's own reader does the same).
        if kind in (Kind.DIRECTORY, Kind.SYMLINK, Kind.HARD_LINK):
            stored = 0
        pieces, size = None, stored
        if letter == b"S":
            pieces, size = self._sparse(block), _number(block[483:495], "size")
            _check_pieces(pieces, stored, size)
        self._begin(stored)
        return Member(
            name=name,
            kind=kind,
            mode=_number(block[100:108], "mode") & 0o7777,
            size_bytes=size,
            stored_bytes=stored,
            modified_ns=_nanoseconds(words["mtime"])
            if "mtime" in words
            else _number(block[136:148], "time") * 1_000_000_000,
            target=words.get("linkpath", block[157:257].partition(b"\0")[0]),
            pieces=pieces,
        )

    def _sparse(self, block: bytes) -> tuple[tuple[int, int], ...]:
        """Return the pieces of an old GNU sparse file."""
        pieces = _pieces(block[386:], _SPARSE_IN_HEADER)
        more = block[482]
        while more:
            block = self._exactly(_BLOCK_BYTES)
            pieces += _pieces(block, _SPARSE_IN_BLOCK)
            more = block[504]
            if len(pieces) > _MOST_PIECES:
                raise Damaged(f"a file of more than {_MOST_PIECES} pieces")
        return tuple(pieces)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # GNU's own magic has a blank there, and other things where the prefix is.
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        return prefix + b"/" + name if prefix else name
    return name


@functools.lru_cache(maxsize=1024)
def _number(field: bytes, what: str) -> int:
    """Return a number: octal digits, or with its top bit set the bytes of a large one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    try:
        return int(digits, 8) if digits.isdigit() else _absent(digits)
    except ValueError:
        raise Damaged(f"a header has a {what} that is no number: {field!r}") from None


def _absent(digits: bytes) -> int:
    if digits:
        raise ValueError
    return 0


def _decimal(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise Damaged(f"a header has a size that is no number: {text[:40]!r}")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    if not re.fullmatch(rb"-?[0-9]{1,15}(?:\.[0-9]{0,30})?", text):
        raise Damaged(f"a header has a time that is no number: {text[:40]!r}")
    whole, _dot, rest = text.partition(b".")
    return int(whole) * 1_000_000_000 + int(rest[:9].ljust(9, b"0"))


def _records(text: bytes) -> dict[str, bytes]:
    """Return the records of a pax header: `LENGTH KEY=VALUE` and a newline each."""
    found = {}
    at = 0
    while at < len(text):
        length, blank, _rest = text[at : at + 12].partition(b" ")
        if not blank or not length.isdigit() or int(length) <= len(length) + 1:
            raise Damaged("a pax header that is none")
        record, at = text[at + len(length) + 1 : at + int(length)], at + int(length)
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise Damaged("a pax header that is none")
        found[key.decode(errors="replace")] = value[:-1]
    return found


def _pieces(block: bytes, count: int) -> list[tuple[int, int]]:
    fields = struct.unpack_from("12s" * (2 * count), block)
    numbers = [_number(field, "place") for field in fields]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [(offset, length) for offset, length in pairs if length]


def _check_pieces(pieces: tuple[tuple[int, int], ...], stored: int, size: int) -> None:
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise Damaged("a sparse file whose pieces overlap")
        end = offset + length
    if end > size or sum(length for _offset, length in pieces) != stored:
        raise Damaged("a sparse file whose pieces do not fit its size")
