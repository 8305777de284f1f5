"""The members of a tar archive, read from a stream one after the other; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from pytest_kernelvm.foreign.tar_headers import (
    BLOCK_BYTES,
    SPARSE_FILE,
    Damaged,
    Fields,
    Member,
    MemberKind,
    check_pieces,
    header_fields,
    member_of,
    number,
    records,
    sparse_pieces,
)

__all__ = ["Damaged", "Member", "MemberKind", "TarMembers"]

_END = bytes(BLOCK_BYTES)
# Fits into a core's own cache, so that the bytes are still there when they are written.
_BUFFER_BYTES = 128 << 10
# Of a header with long names and the like; a path has at most 4,096 bytes (limits.h, PATH_MAX).
_MOST_HEADER_BYTES = 1 << 20
_MOST_HEADERS_IN_A_ROW = 16
# Zeros behind the end: tar(1) fills records of 20 blocks, some programs more.
_MOST_BYTES_BEHIND = 1 << 20
# A file of one byte a page has no more pieces than this up to 4 GiB of a guest's memory.
_MOST_PIECES = 1 << 20

_EXTENDED_HEADER_TYPES = (b"x", b"g", b"L", b"K", b"V")
_PIECES_IN_HEADER, _PIECES_IN_BLOCK = 4, 21


class Stream(Protocol):
    """What an archive is read from: a file, a pipe, or something that decompresses."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read some bytes into a buffer; return how many, 0 at the end.

        Args:
            buffer: Its size is the most that is read.
        """


class TarMembers:
    """An iterator over the members of an archive.

    Attributes:
        extended_header_bytes: The size so far of all headers that describe other members.
    """

    def __init__(
        self, stream: Stream, before_overwrite: Callable[[], object] = lambda: None
    ) -> None:
        """Read nothing yet.

        Args:
            stream: Read from its current position; it need not be seekable.
            before_overwrite: Called before content is overwritten that `content` has returned.
        """
        self._stream = stream
        self._before_overwrite = before_overwrite
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        # Where unused bytes in the buffer begin and end; what of the member was not yet returned.
        self._at = self._end = 0
        self._remaining = self._padding = 0
        self.extended_header_bytes = 0
        self._extended_headers_in_a_row = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the members in the order of the archive. Raises Damaged if it cannot be read."""
        extended: dict[str, bytes] = {}
        while (fields := self._next_header()) is not None:
            if fields[5] in _EXTENDED_HEADER_TYPES:
                self._read_extended_header(fields, extended)
            else:
                self._extended_headers_in_a_row = 0
                member = member_of(fields, extended)
                if extended or member.kind is SPARSE_FILE:
                    member = self._checked(member, extended)
                    extended = {}
                self._remaining = member.stored_bytes
                self._padding = -self._remaining % BLOCK_BYTES
                yield member
            if self._remaining or self._padding:
                self._skip(self._remaining + self._padding)

    def content(self, most_bytes: int) -> memoryview:
        """Return some of the next bytes of the last member.

        Args:
            most_bytes: The largest number of bytes to return.

        Returns:
            The bytes, none at the end of the member. They are valid until `before_overwrite` is
            called.
        """
        if self._at == self._end and self._remaining:
            self._fill()
        begin = self._at
        size = min(most_bytes, self._remaining, self._end - begin)
        self._at += size
        self._remaining -= size
        return self._view[begin : self._at]

    @property
    def is_buffered(self) -> bool:
        """Whether the rest of the last member is in the buffer, so that `content` returns all."""
        return self._remaining <= self._end - self._at

    def read_content(self, most_bytes: int) -> bytes:
        """Return the content of the last member, cut off after a number of bytes.

        Args:
            most_bytes: Where the content is cut off.
        """
        found = bytearray()
        while len(found) < most_bytes and (data := self.content(most_bytes - len(found))):
            found += data
        return bytes(found)

    def _fill(self) -> None:
        """Read what follows all that is in the buffer. Raises Damaged at the end."""
        if not self._read_more(0):
            raise Damaged("it ends too early")

    def _read_more(self, rest: int) -> bool:
        """Read behind the last `rest` bytes of the buffer, which stay; return False at the end."""
        self._before_overwrite()
        self._view[:rest] = self._buffer[self._end - rest : self._end]
        more = self._stream.readinto(self._view[rest:]) or 0
        self._at, self._end = 0, rest + more
        return more > 0

    def _skip(self, size: int) -> None:
        while size > self._end - self._at:
            size -= self._end - self._at
            self._fill()
        self._at += size
        self._remaining = self._padding = 0

    def _has_block(self) -> bool:
        """Get a whole block into the buffer; return False if the stream has none left."""
        while (rest := self._end - self._at) < BLOCK_BYTES:
            if not self._read_more(rest):
                return False
        return True

    def _next_header(self) -> Fields | None:
        """Return the next header; None at the end, behind which only zeros may stand."""
        if self._end - self._at < BLOCK_BYTES and not self._has_block():
            if self._end:
                raise Damaged("it ends too early")
            return None
        at = self._at
        self._at += BLOCK_BYTES
        if not self._buffer[at] and self._buffer[at : self._at] == _END:
            self._check_end()
            return None
        return header_fields(self._buffer, at)

    def _check_end(self) -> None:
        behind = 0
        while self._end:
            behind += self._end - self._at
            if behind > _MOST_BYTES_BEHIND or self._buffer[self._at : self._end].strip(b"\0"):
                raise Damaged("something follows its end")
            self._read_more(0)

    def _read_extended_header(self, fields: Fields, extended: dict[str, bytes]) -> None:
        """Read a header that describes the next member (x, L, K), or the whole archive (g, V)."""
        letter = fields[5]
        size = number(fields[2], "size") if letter != b"V" else 0
        if size > _MOST_HEADER_BYTES:
            raise Damaged(f"a header of {size} bytes")
        # They do not count as members, so that without this limit they could go on for ever.
        self._extended_headers_in_a_row += 1
        if self._extended_headers_in_a_row > _MOST_HEADERS_IN_A_ROW:
            raise Damaged(f"a member with more than {_MOST_HEADERS_IN_A_ROW} headers")
        self.extended_header_bytes += size
        self._remaining, self._padding = size, -size % BLOCK_BYTES
        text = self.read_content(size)
        if letter == b"L":
            extended["path"] = text.partition(b"\0")[0]
        elif letter == b"K":
            extended["linkpath"] = text.partition(b"\0")[0]
        elif letter == b"x":
            extended.update(records(text))
        # Global headers (g) are ignored; git-archive(1) puts the commit there.

    def _checked(self, member: Member, extended: dict[str, bytes]) -> Member:
        """Return a member that has extended headers or is sparse, with its pieces."""
        if any(key.startswith("GNU.sparse.") for key in extended):
            raise Damaged("a sparse file in a format that is not read here")
        return self._sparse(member) if member.kind is SPARSE_FILE else member

    def _sparse(self, member: Member) -> Member:
        """Return an old GNU sparse file with its pieces, listed in its header and behind that."""
        block = bytes(self._view[self._at - BLOCK_BYTES : self._at])
        size = number(block[483:495], "size")
        pieces = sparse_pieces(block[386:], _PIECES_IN_HEADER)
        more = block[482]
        while more:
            if not self._has_block():
                raise Damaged("it ends too early")
            self._at += BLOCK_BYTES
            block = bytes(self._view[self._at - BLOCK_BYTES : self._at])
            pieces += sparse_pieces(block, _PIECES_IN_BLOCK)
            more = block[504]
            if len(pieces) > _MOST_PIECES:
                raise Damaged(f"a file of more than {_MOST_PIECES} pieces")
        check_pieces(tuple(pieces), member.stored_bytes, size)
        return member._replace(size_bytes=size, pieces=tuple(pieces))
