"""The headers of a tar archive and what they say; nothing is read from a file here.

Formats: POSIX ustar and pax (POSIX.1-2017, pax, `ustar Interchange Format` and `pax Header Block`),
and what GNU tar adds to them: long names and sparse files (info tar, `Tar Internals`).
The source of a kernel has 92,000 headers. For each, only a few calls are made, so that xz does not
have to wait for us.
"""

from __future__ import annotations

import enum
import functools
import re
import struct
import zlib
from typing import NamedTuple

BLOCK_BYTES = 512

# Name, mode, size, time, checksum, type, link, magic, prefix; the rest is not used here.
_unpack_from = struct.Struct("100s 8s 16x 12s 12s 8s c 100s 6s 82x 155s 12x").unpack_from
_ADLER_PRIME = 65521


class Damaged(Exception):
    """The archive cannot be read; the message says why."""


class MemberKind(enum.Enum):
    """The kinds of members, in words."""

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
    b"\0": MemberKind.FILE,
    b"0": MemberKind.FILE,
    b"7": MemberKind.CONTIGUOUS_FILE,
    b"S": MemberKind.SPARSE_FILE,
    b"1": MemberKind.HARD_LINK,
    b"2": MemberKind.SYMLINK,
    b"3": MemberKind.CHARACTER_DEVICE,
    b"4": MemberKind.BLOCK_DEVICE,
    b"5": MemberKind.DIRECTORY,
    b"6": MemberKind.FIFO,
}
# Python 3.11 takes as long for an attribute of an enum as for a call.
FILE, DIRECTORY, SYMLINK = MemberKind.FILE, MemberKind.DIRECTORY, MemberKind.SYMLINK
HARD_LINK, SPARSE_FILE, _OTHER = MemberKind.HARD_LINK, MemberKind.SPARSE_FILE, MemberKind.OTHER
_LINKS = (SYMLINK, HARD_LINK)
# The size of these is ignored, as tar itself does: nothing of them is stored.
_WITHOUT_CONTENT = (DIRECTORY, *_LINKS)


class Member(NamedTuple):
    """One member as the archive describes it; nothing of it is checked.

    Attributes:
        name: As it stands there.
        kind: What it is.
        mode: The permission bits, with setuid and the like.
        size_bytes: The size of the file once it is unpacked.
        stored_bytes: The size of its content in the archive.
        modified_ns: When it was modified, in nanoseconds since 1970.
        target: Where a link leads to, as it stands there.
        pieces: (offset, length) of each stored part of a sparse file; None if all of it is stored.
    """

    name: bytes
    kind: MemberKind
    mode: int
    size_bytes: int
    stored_bytes: int
    modified_ns: int
    target: bytes
    pieces: tuple[tuple[int, int], ...] | None = None


Fields = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]


def header_fields(buffer: bytearray, at: int) -> Fields:
    """Return the fields of a header as they stand there.

    They are name, mode, size, time, checksum, type, link, magic and prefix.

    Args:
        buffer: Holds the header.
        at: Where it begins.

    Raises:
        Damaged: For a wrong checksum.
    """
    fields: Fields = _unpack_from(buffer, at)
    noted = fields[4]
    try:
        # The checksum counts its own field as blanks.
        wanted = int(noted.strip(b"\0 "), 8) + sum(noted) - 8 * ord(" ")
    except ValueError:
        raise Damaged(f"a header has a checksum that is no number: {noted!r}") from None
    # The lower half of an Adler-32 is 1 plus the sum of all bytes, modulo a prime (RFC 1950, 9);
    # that takes a tenth of the time of sum().
    if zlib.adler32(buffer[at : at + BLOCK_BYTES]) & 0xFFFF != (wanted + 1) % _ADLER_PRIME:
        raise Damaged("a header has a wrong checksum")
    return fields


def member_of(fields: Fields, extended: dict[str, bytes]) -> Member:
    """Return the member that a header describes, a sparse one without its pieces.

    Raises Damaged for what is no number.

    Args:
        fields: Those of the header.
        extended: What extended headers before it say, by their pax keywords.
    """
    name, mode, size, modified, _checksum, letter, target, magic, prefix = fields
    kind = _KINDS.get(letter, _OTHER)
    name = name.partition(b"\0")[0]
    # GNU's own magic ends with a blank; it has other fields in the place of the prefix.
    if magic == b"ustar\0" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    if extended:
        name = extended.get("path", name)
    # The oldest format knows a directory by its name alone.
    if kind is FILE and name.endswith(b"/"):
        kind = DIRECTORY
    if kind in _WITHOUT_CONTENT:
        stored, target = 0, target.partition(b"\0")[0]
    else:
        stored, target = number(size, "size"), b""
    modified_ns = _common_number(modified, "time") * 1_000_000_000
    member = Member(
        name, kind, _common_number(mode, "mode") & 0o7777, stored, stored, modified_ns, target
    )
    return _with_extended_header(member, extended) if extended else member


def _with_extended_header(member: Member, extended: dict[str, bytes]) -> Member:
    """Return a member with what a pax or GNU header says of it, but for its name."""
    if "mtime" in extended:
        member = member._replace(modified_ns=_nanoseconds(extended["mtime"]))
    if "linkpath" in extended and member.kind in _LINKS:
        member = member._replace(target=extended["linkpath"])
    if "size" in extended and member.kind not in _WITHOUT_CONTENT:
        size = _decimal(extended["size"])
        member = member._replace(size_bytes=size, stored_bytes=size)
    return member


def number(field: bytes, what: str) -> int:
    """Return a number: octal digits or, with the top bit set, the bytes of a large one.

    Args:
        field: The bytes.
        what: What it is called in the error.

    Raises:
        Damaged: If it is no number.
    """
    digits = field.strip(b"\0 ")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            pass
    elif field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    elif not digits:
        return 0
    raise Damaged(f"a header has a {what} that is no number: {field!r}")


# An archive has few different modes and times.
_common_number = functools.lru_cache(maxsize=1024)(number)


def _decimal(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise Damaged(f"a header has a size that is no number: {text[:40]!r}")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    if not re.fullmatch(rb"-?[0-9]{1,15}(?:\.[0-9]{0,30})?", text):
        raise Damaged(f"a header has a time that is no number: {text[:40]!r}")
    whole, _dot, rest = text.partition(b".")
    return int(whole) * 1_000_000_000 + int(rest[:9].ljust(9, b"0"))


def records(text: bytes) -> dict[str, bytes]:
    """Return the records of a pax header: `LENGTH KEY=VALUE` and a newline each.

    Args:
        text: The content of the header.

    Raises:
        Damaged: If it is none.
    """
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


def sparse_pieces(block: bytes, count: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the pieces that a block lists. Raises Damaged.

    Args:
        block: Begins with the list.
        count: How many entries it has; empty ones are left out.
    """
    fields = struct.unpack_from("12s" * (2 * count), block)
    numbers = [number(field, "place") for field in fields]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [(offset, length) for offset, length in pairs if length]


def check_pieces(pieces: tuple[tuple[int, int], ...], stored: int, size: int) -> None:
    """Check that pieces lie behind each other, and are all that is stored of a file.

    Args:
        pieces: (offset, length) of each.
        stored: How many bytes are stored.
        size: The size of the file.

    Raises:
        Damaged: If they are not so.
    """
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise Damaged("a sparse file whose pieces overlap")
        end = offset + length
    if end > size or sum(length for _offset, length in pieces) != stored:
        raise Damaged("a sparse file whose pieces do not fit its size")
