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
# What fits a core's own cache is still there when it is written.
_BUFFER_BYTES = 128 << 10
# Of names and other words about a member; a path has at most 4,096 bytes (limits.h, PATH_MAX).
_MOST_HEADER_BYTES = 1 << 20
_MOST_HEADERS_IN_A_ROW = 16
# What may lie behind the end: tar(1) fills records of 20 blocks, some programs more.
_MOST_BYTES_BEHIND = 1 << 20
# A file of one byte a page has no more pieces than this up to 4 GiB of a guest's memory.
_MOST_PIECES = 1 << 20

_WORDS = (b"x", b"g", b"L", b"K", b"V")
_PIECES_IN_HEADER, _PIECES_IN_BLOCK = 4, 21


class Stream(Protocol):
    """What an archive is read from: a file, a pipe, something that decompresses."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read some bytes into a buffer; return how many, 0 at the end."""


class TarMembers:
    """An iterator of the members; `content` gives the bytes of the one that came last.

    stream: read from where it stands; it need not be seekable. before_more: called before content
    that was given is overwritten. words_bytes: of headers so far that say more about other members.
    Raises Damaged.
    """

    def __init__(self, stream: Stream, before_more: Callable[[], object] = lambda: None) -> None:
        self._stream = stream
        self._before_more = before_more
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        # What is in the buffer and not used yet, and what is left of the member.
        self._at = self._end = 0
        self._left = self._padding = 0
        self.words_bytes = 0
        self._words_in_a_row = 0

    def __iter__(self) -> Iterator[Member]:
        """Give the members in the archive's order."""
        words: dict[str, bytes] = {}
        while (fields := self._next_header()) is not None:
            if fields[5] in _WORDS:
                self._add_words(fields, words)
            else:
                self._words_in_a_row = 0
                member = member_of(fields, words)
                if words or member.kind is SPARSE_FILE:
                    member = self._checked(member, words)
                    words = {}
                self._left = member.stored_bytes
                self._padding = -self._left % BLOCK_BYTES
                yield member
            if self._left or self._padding:
                self._skip(self._left + self._padding)

    def content(self, most_bytes: int) -> memoryview:
        """Return some of the next bytes of the last member, none at its end.

        They stay there until `before_more` is called.
        """
        if self._at == self._end and self._left:
            self._fill()
        begin = self._at
        size = min(most_bytes, self._left, self._end - begin)
        self._at += size
        self._left -= size
        return self._view[begin : self._at]

    @property
    def is_whole(self) -> bool:
        """Whether all that is left of the last member is there, and `content` gives it at once."""
        return self._left <= self._end - self._at

    def whole(self, most_bytes: int) -> bytes:
        """Return the content of the last member, without what is beyond a number of bytes."""
        found = bytearray()
        while len(found) < most_bytes and (data := self.content(most_bytes - len(found))):
            found += data
        return bytes(found)

    def _fill(self) -> None:
        """Read what follows all that is in the buffer. Raises Damaged at the end."""
        if not self._read_more(0):
            raise Damaged("it ends too early")

    def _read_more(self, rest: int) -> bool:
        """Read into the buffer behind the last bytes in it; return whether there was more.

        rest: how many of them stay, at the beginning.
        """
        self._before_more()
        self._view[:rest] = self._buffer[self._end - rest : self._end]
        more = self._stream.readinto(self._view[rest:]) or 0
        self._at, self._end = 0, rest + more
        return more > 0

    def _skip(self, size: int) -> None:
        while size > self._end - self._at:
            size -= self._end - self._at
            self._fill()
        self._at += size
        self._left = self._padding = 0

    def _has_block(self) -> bool:
        """Have a block at once in the buffer; return False if there is none any more."""
        while (rest := self._end - self._at) < BLOCK_BYTES:
            if not self._read_more(rest):
                return False
        return True

    def _next_header(self) -> Fields | None:
        """Return the next header; None at the end, behind which nothing else may stand."""
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

    def _add_words(self, fields: Fields, words: dict[str, bytes]) -> None:
        """Read a member that says more about the next one, or what the archive is called."""
        letter = fields[5]
        size = number(fields[2], "size") if letter != b"V" else 0
        if size > _MOST_HEADER_BYTES:
            raise Damaged(f"a header of {size} bytes")
        # Nobody counts them as members, and they would never have to end.
        self._words_in_a_row += 1
        if self._words_in_a_row > _MOST_HEADERS_IN_A_ROW:
            raise Damaged(f"a member with more than {_MOST_HEADERS_IN_A_ROW} headers")
        self.words_bytes += size
        self._left, self._padding = size, -size % BLOCK_BYTES
        text = self.whole(size)
        if letter == b"L":
            words["path"] = text.partition(b"\0")[0]
        elif letter == b"K":
            words["linkpath"] = text.partition(b"\0")[0]
        elif letter == b"x":
            words.update(records(text))
        # What a global header says holds for all members; git-archive(1) has its commit there.

    def _checked(self, member: Member, words: dict[str, bytes]) -> Member:
        """Return a member that has other headers, or pieces, as well."""
        if any(key.startswith("GNU.sparse.") for key in words):
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
